"""The labeled lines in which a job tells what it does; hours and names in words."""

from collections.abc import Sequence

from rich.console import Console

from distil_ray.cli.json_console import JsonConsole
from distil_ray.redaction import redact

LABEL_LETTERS = 14
NAMES_SHOWN = 5  # recordings or files named in a message


def say(label: str, text: str, console: Console) -> None:
    """A line for people, or the event `said`."""
    if isinstance(console, JsonConsole):
        console.emit("said", label=label, text=redact(text))
        return
    console.print(f"{label:<{LABEL_LETTERS}} {redact(text)}", soft_wrap=True, markup=False)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def few(names: Sequence[str], total: int) -> str:
    """The first names of `total` ones, and a sign where there are more."""
    shown = names[:NAMES_SHOWN]
    return ", ".join(shown) + (" …" if len(shown) < total else "")
