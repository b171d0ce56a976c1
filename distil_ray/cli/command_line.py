"""What every job's command line shares: the settings, help made from them, the form of what it tells.

Imports neither torch nor ray nor Arrow: `--help` answers at once.
"""

import argparse
import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from distil_ray.cli.signals import Stopped, handle_signals
from distil_ray.config import Config
from distil_ray.config.loader import describe_settings, load_config
from distil_ray.errors import DistilRayError, ExitCode
from distil_ray.redaction import redact

ErrorPrinter = Callable[[str, str, int], None]  # event (error, stopped), text, exit code

PACKAGE = Path(__file__).resolve().parents[1]
WORDS_SHOWN = 300  # letters of an unexpected error


class ArgumentParser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line, instead of how it is used."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; --help lists what there is", file=sys.stderr)
        sys.exit(ExitCode.BAD_SETTINGS)


def print_error(event: str, text: str, exit_code: int) -> None:
    """The last words on standard error."""
    if event == "stopped":
        print("\n" * sys.stderr.isatty() + text, file=sys.stderr)  # the terminal has just written ^C
        return
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)


def run_cli(work: Callable[[], int], *, debug: bool, tell: ErrorPrinter = print_error) -> int:
    """Does the work and gives the exit code. From here on SIGTERM and Ctrl-C are exceptions (stopping.py)."""
    handle_signals()
    try:
        return int(work())
    except DistilRayError as error:
        if debug:
            raise
        tell("error", str(error), error.exit_code)
        return int(error.exit_code)
    except Stopped as stopped:
        tell("stopped", f"{stopped}: what was committed stays; the same command goes on from there", stopped.exit_code)
        sys.stdout.flush()
        sys.stderr.flush()
        # The books are closed by now; Ray's threads would take seconds more, which `ray job stop` does not give.
        os._exit(stopped.exit_code)
    except Exception as error:
        if debug:
            raise
        tell("error", _unexpected(error), ExitCode.FAILED)
        return int(ExitCode.FAILED)


def _unexpected(error: Exception) -> str:
    words = " ".join(str(error).split())[:WORDS_SHOWN]
    frames = traceback.extract_tb(error.__traceback__)
    own = next((one for one in reversed(frames) if Path(one.filename).is_relative_to(PACKAGE)), frames[-1])
    where = f"{os.path.relpath(own.filename, PACKAGE.parent)}:{own.lineno}"
    return redact(f"{type(error).__name__}: {words} (unexpected, at {where}; --debug shows the way there)")


if TYPE_CHECKING:
    from rich.console import Console

Command = Callable[[Config, argparse.Namespace], ExitCode]

HELP_WIDTH = 100  # columns
LOG_WIDTH = 120  # columns of a table where there is no terminal: rich's 80 cut its last ones off

EXIT_CODES = """exit codes:
  0  done
  1  the run failed, or listing and output do not agree (the message lists the difference)
  2  a setting or the input is wrong; nothing was started
  3  done, but more recordings failed than max_failed_fraction allows
  4  done, but a figure of the night is out of line with the nights before (jobs/nightly.py)
  130, 143  stopped by Ctrl-C, by SIGTERM (ray job stop); the same command goes on"""


def settings_parser(description: str) -> argparse.ArgumentParser:
    """A parser with --config, --debug and overrides; its help lists every setting with its default."""
    parser = ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings (key=default):\n{_settings_help()}\n\n{EXIT_CODES}",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; shipped ones lie in configs/")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and Ray's own messages")
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: one JSON object a line instead of words, a view and tables (docs/output.md); default: text",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings laid over the file, values in YAML")
    return parser


def run_command(parser: argparse.ArgumentParser, job: Command, own: Collection[str] = ()) -> int:
    """Parses the command line, runs the job, gives the exit code (endings.py).

    `own`: keys that are the job's own and no settings of a run; it finds their `key=value` words in `arguments.own`.
    """
    arguments = parser.parse_intermixed_args()  # settings may stand before and after flags
    arguments.own = [word for word in arguments.overrides if word.partition("=")[0] in own]
    arguments.overrides = [word for word in arguments.overrides if word not in arguments.own]
    _set_up_logging(arguments)
    return run_cli(
        lambda: job(load_config(arguments.config, arguments.overrides), arguments),
        debug=arguments.debug,
        tell=_print_json_error if arguments.log_format == "json" else print_error,
    )


def open_console(arguments: argparse.Namespace) -> "Console":
    """Where a job tells what it does: standard output, in words or as JSON lines."""
    if arguments.log_format == "json":
        from distil_ray.cli.console import JsonConsole

        return JsonConsole()
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the moment: a live view (progress.py) puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _set_up_logging(arguments: argparse.Namespace) -> None:
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if arguments.log_format == "json":
        from distil_ray.cli.console import JsonFormatter

        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("distil_ray").setLevel(logging.DEBUG if arguments.debug else logging.INFO)


def _print_json_error(event: str, text: str, exit_code: int) -> None:
    from distil_ray.cli.console import json_line

    sys.stderr.write(json_line(event, {"text": text, "exit_code": int(exit_code)}))


def _settings_help() -> str:
    lines = []
    section = ""
    for key, words, default, description in describe_settings():
        name = key.partition(".")[0] if "." in key else ""
        if name != section:
            section = name
            lines.append("")
        lines.append(f"  {key}={default}")
        lines += textwrap.wrap(
            f"{description} [{words}]", HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return "\n".join(lines)
