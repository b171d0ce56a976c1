"""Console output of jobs: labeled lines for people, or JSON lines for programs (`--log-format json`).

Jobs print to a `rich` console through `log_field`. A `JsonConsole` instead writes one JSON object per line: `time`
(UTC, ISO 8601), `level`, `event`, and the keys of the event, which docs/output.md lists. Figures are passed to
`log_field` as fields, so that programs need not read the text. Code that knows the difference emits events with
`JsonConsole.emit`; everything else that is printed becomes the event `text`. Credentials are removed from both kinds of
output.
"""

import json
import logging
import re
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import IO, Any

from rich.console import Console

from distil_ray.redaction import environment_secrets, redact

JSON_WIDTH = 10_000  # columns: JSON lines are never wrapped


class JsonConsole(Console):
    """Console that writes JSON lines to `file` (default: standard output)."""

    def __init__(self, file: IO[str] | None = None) -> None:
        super().__init__(file=file, width=JSON_WIDTH, force_terminal=False, highlight=False, color_system=None)
        self._line_lock = threading.Lock()

    def emit(self, event: str, level: str = "info", **fields: Any) -> None:
        """Writes one event. Thread-safe."""
        with self._line_lock:
            self.file.write(json_line(event, fields, level))
            self.file.flush()

    def print(self, *objects: Any, **options: Any) -> None:
        """Writes printed text as events `text`, one per line."""
        with self.capture() as captured:
            super().print(*objects, **options)
        for line in captured.get().splitlines():
            if line.strip():
                self.emit("text", text=line.rstrip())


class JsonFormatter(logging.Formatter):
    """Formats log records as events `log`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json_line("log", fields, record.levelname.lower()).rstrip("\n")


def json_line(event: str, fields: Mapping[str, Any], level: str = "info") -> str:
    """Returns the JSON line of an event, newline included. Credentials are removed from all strings in `fields`.

    Args:
        event: Name of the event.
        fields: Its keys.
        level: debug, info, warning, error or critical.
    """
    secrets = environment_secrets()

    def redacted(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: redacted(one) for key, one in value.items()}
        if isinstance(value, list | tuple):
            return [redacted(one) for one in value]
        return value if value is None or isinstance(value, int | float) else redact(str(value), secrets)

    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "level": level, "event": event, **redacted(fields)}, ensure_ascii=False) + "\n"


LABEL_WIDTH = 14
NAMES_SHOWN = 5  # recordings or files named in a message


def log_field(label: str, text: str, console: Console, *, level: str = "info", **fields: Any) -> None:
    """Prints a labeled line, or emits an event.

    Args:
        label: Label of the line; the event is called like it, with underscores.
        text: Text of the line; the key `text` of the event.
        console: Destination.
        level: Level of the event: info, warning or error.
        fields: Further keys of the event: the figures in the text, as numbers.
    """
    if isinstance(console, JsonConsole):
        console.emit(re.sub(r"\W+", "_", label.lower()), level, **fields, text=text)
        return
    console.print(f"{label:<{LABEL_WIDTH}} {redact(text)}", soft_wrap=True, markup=False)


def format_duration(seconds: float) -> str:
    """Returns an amount of audio or time in hours or minutes: "1.3 h", "12.0 min"."""
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def format_elapsed(seconds: float) -> str:
    """Returns a time as h:mm:ss: "0:01:30"."""
    return str(timedelta(seconds=round(seconds)))


def format_count(number: int, noun: str) -> str:
    """Returns a number with its noun: "1 file", "2,000 files"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def abbreviate(names: Sequence[str], total: int) -> str:
    """Returns the first `NAMES_SHOWN` names, followed by "…" if there are more; `total` is the number of all names."""
    shown = names[:NAMES_SHOWN]
    return ", ".join(shown) + (" …" if len(shown) < total else "")
