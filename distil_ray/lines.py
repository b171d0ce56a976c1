"""The labelled lines in which a job tells what it does, and hours in words."""

from rich.console import Console

from distil_ray.redaction import redact

LABEL_LETTERS = 14


def say(label: str, text: str, console: Console) -> None:
    console.print(f"{label:<{LABEL_LETTERS}} {redact(text)}", soft_wrap=True, markup=False)


def hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"
