"""Running a command: logging, console, exceptions turned into messages and exit codes.

Errors that a user can act on (`errors.DistilRayError`) are printed as one line. Any other exception is a bug; its line
names the line of code, so that it can be reported without running everything again. Tracebacks are shown with
`--debug`.

Imports neither torch nor ray nor Arrow, so that `--help` answers at once.
"""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from distil_ray.cli.signals import Stopped, handle_signals
from distil_ray.errors import DistilRayError, ExitCode
from distil_ray.redaction import redact

ErrorPrinter = Callable[[str, str, int], None]  # event (error, stopped), text, exit code

PACKAGE = Path(__file__).resolve().parents[1]
WORDS_SHOWN = 300  # characters of an unexpected error


class ArgumentParser(argparse.ArgumentParser):
    """Parser that prints one line for a wrong command line, instead of the usage."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; --help lists the options", file=sys.stderr)
        sys.exit(ExitCode.BAD_SETTINGS)


def print_error(event: str, text: str, exit_code: int) -> None:
    """Prints the last message of a job to standard error."""
    if event == "stopped":
        print("\n" * sys.stderr.isatty() + text, file=sys.stderr)  # the terminal has just written ^C
        return
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)


def run_cli(work: Callable[[], int], *, debug: bool, on_error: ErrorPrinter = print_error) -> int:
    """Runs `work` and returns the exit code of the process.

    SIGTERM and Ctrl-C raise `Stopped` from here on (signals.py).

    Args:
        work: Returns an exit code.
        debug: Let exceptions through, for their tracebacks.
        on_error: Called with the event (`error` or `stopped`), its message and the exit code.
    """
    handle_signals()
    try:
        return int(work())
    except DistilRayError as error:
        if debug:
            raise
        on_error("error", str(error), error.exit_code)
        return int(error.exit_code)
    except Stopped as stopped:
        on_error(
            "stopped",
            f"{stopped}. Committed transcripts are kept. Re-run the same command to resume.",
            stopped.exit_code,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        # Everything is written by now. Ray's threads would take seconds more, which `ray job stop` does not grant.
        os._exit(stopped.exit_code)
    except Exception as error:
        if debug:
            raise
        on_error("error", describe_error(error), ExitCode.FAILED)
        return int(ExitCode.FAILED)


def describe_error(error: Exception) -> str:
    """Returns the message of an error that ends a job. An unexpected one is described as a bug, with its location."""
    if isinstance(error, DistilRayError):
        return str(error)
    words = " ".join(str(error).split())[:WORDS_SHOWN]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return redact(f"the disk is full: {words}. Free some space, or set TMPDIR to a folder on another disk.")
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((one for one in reversed(frames) if Path(one.filename).is_relative_to(PACKAGE)), frames[-1])
    where = f"{os.path.relpath(frame.filename, PACKAGE.parent)}:{frame.lineno}"
    return redact(f"{type(error).__name__}: {words} (internal error at {where}: a bug; --debug shows the traceback)")


if TYPE_CHECKING:
    from rich.console import Console

LOG_WIDTH = 120  # columns of a table without a terminal: rich's default of 80 cuts off the last ones


def open_console(arguments: argparse.Namespace) -> "Console":
    """Returns the console for standard output: labeled lines and tables, or JSON lines."""
    if arguments.log_format == "json":
        from distil_ray.cli.console import JsonConsole

        return JsonConsole()
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live view (progress.py) replaces."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _RedactingFormatter(logging.Formatter):
    """Hides credentials in records of any logger, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def set_up_logging(arguments: argparse.Namespace) -> None:
    """Sends log records and warnings to standard error, in the format that `--log-format` asks for."""
    handler = _StandardError()
    handler.setFormatter(_RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if arguments.log_format == "json":
        from distil_ray.cli.console import JsonFormatter

        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("distil_ray").setLevel(logging.DEBUG if arguments.debug else logging.INFO)


def print_json_error(event: str, text: str, exit_code: int) -> None:
    """Writes the last message of a job to standard error as a JSON line."""
    from distil_ray.cli.console import json_line

    level = "warning" if event == "stopped" else "error"
    sys.stderr.write(json_line(event, {"text": text, "exit_code": int(exit_code)}, level))


def error_printer(arguments: argparse.Namespace) -> ErrorPrinter:
    """Returns the function that prints the last message of a job in the format that `--log-format` asks for."""
    return print_json_error if arguments.log_format == "json" else print_error
