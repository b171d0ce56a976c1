"""The labeled lines in which a job tells what it does; hours and names in words."""

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import IO, Any

from rich.console import Console

from distil_ray.redaction import own_secrets, redact

JSON_WIDTH = 10_000  # columns: lines of JSON are not folded


class JsonConsole(Console):
    """A console that writes JSON lines to `file`."""

    def __init__(self, file: IO[str] | None = None) -> None:
        super().__init__(file=file, width=JSON_WIDTH, force_terminal=False, highlight=False, color_system=None)
        self._whole_lines = threading.Lock()

    def emit(self, event: str, **facts: Any) -> None:
        """One line. Safe from several threads."""
        with self._whole_lines:
            self.file.write(json_line(event, facts))
            self.file.flush()

    def print(self, *objects: Any, **options: Any) -> None:
        """Text that is made for people, line by line."""
        with self.capture() as captured:
            super().print(*objects, **options)
        for line in captured.get().splitlines():
            if line.strip():
                self.emit("text", text=line.rstrip())


class JsonFormatter(logging.Formatter):
    """Log records as events `log`."""

    def format(self, record: logging.LogRecord) -> str:
        facts = {"level": record.levelname.lower(), "logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            facts["traceback"] = self.formatException(record.exc_info)
        return json_line("log", facts).rstrip("\n")


def json_line(event: str, facts: Mapping[str, Any]) -> str:
    """The line of an event, with its newline. No string in `facts`, however deep, keeps a credential."""
    secrets = own_secrets()

    def shown(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: shown(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [shown(one) for one in value]
        return value if value is None or isinstance(value, int | float) else redact(str(value), secrets)

    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "event": event, **shown(facts)}, ensure_ascii=False) + "\n"


LABEL_LETTERS = 14
NAMES_SHOWN = 5  # recordings or files named in a message


def log_field(label: str, text: str, console: Console) -> None:
    """A line for people, or the event `said`."""
    if isinstance(console, JsonConsole):
        console.emit("said", label=label, text=redact(text))
        return
    console.print(f"{label:<{LABEL_LETTERS}} {redact(text)}", soft_wrap=True, markup=False)


def format_duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def abbreviate(names: Sequence[str], total: int) -> str:
    """The first names of `total` ones, and a sign where there are more."""
    shown = names[:NAMES_SHOWN]
    return ", ".join(shown) + (" …" if len(shown) < total else "")
