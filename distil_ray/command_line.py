"""What every job's command line shares: the settings, help made from them, errors as messages, exit codes.

Imports neither torch nor ray nor Arrow: `--help` answers at once.
"""

import argparse
import logging
import os
import sys
import textwrap
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TextIO

from distil_ray.config import Config
from distil_ray.errors import DistilRayError, ExitCode
from distil_ray.settings import describe_settings, load_config
from distil_ray.stopping import Stopped, listen

if TYPE_CHECKING:
    from rich.console import Console

Job = Callable[[Config, argparse.Namespace], ExitCode]

HELP_WIDTH = 100  # columns

EXIT_CODES = """exit codes:
  0  done
  1  the run failed, or listing and output do not agree (the message lists the difference)
  2  a setting or the input is wrong; nothing was started
  3  done, but more recordings failed than max_failed_fraction allows
  4  done, but a figure of the night is out of line with the nights before (jobs/nightly.py)
  130, 143  stopped by Ctrl-C, by SIGTERM (ray job stop); the same command goes on"""


def settings_parser(description: str) -> argparse.ArgumentParser:
    """A parser with --config, --debug and overrides; its help lists every setting with its default."""
    parser = argparse.ArgumentParser(
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


def run_job(parser: argparse.ArgumentParser, job: Job, own: Collection[str] = ()) -> int:
    """Parses the command line, runs the job, gives the exit code. Errors that a person can act on are one message.

    `own`: keys that are the job's own and no settings of a run; it finds their `key=value` words in `arguments.own`.
    From here on SIGTERM and Ctrl-C are exceptions (stopping.py).
    """
    listen()
    arguments = parser.parse_intermixed_args()  # settings may stand before and after flags
    arguments.own = [word for word in arguments.overrides if word.partition("=")[0] in own]
    arguments.overrides = [word for word in arguments.overrides if word not in arguments.own]
    _set_up_logging(arguments)
    try:
        return int(job(load_config(arguments.config, arguments.overrides), arguments))
    except DistilRayError as error:
        if arguments.debug:
            raise
        _say_error(error, arguments)
        return int(error.exit_code)
    except Stopped as stopped:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # the terminal has just written ^C
        words = f"{stopped}: what was committed stays; the same command goes on from there"
        _say_last("stopped", words, stopped.exit_code, arguments)
        sys.stdout.flush()
        sys.stderr.flush()
        # The books are closed by now; Ray's threads would take seconds more, which `ray job stop` does not give.
        os._exit(stopped.exit_code)


def open_console(arguments: argparse.Namespace) -> "Console":
    """Where a job tells what it does: standard output, in words or as JSON lines."""
    if arguments.log_format == "json":
        from distil_ray.json_lines import JsonConsole

        return JsonConsole()
    from rich.console import Console

    return Console(highlight=False)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the moment: a live view (progress.py) puts itself in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _set_up_logging(arguments: argparse.Namespace) -> None:
    handler = _StandardError()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    if arguments.log_format == "json":
        from distil_ray.json_lines import JsonFormatter

        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("distil_ray").setLevel(logging.DEBUG if arguments.debug else logging.INFO)


def _say_error(error: DistilRayError, arguments: argparse.Namespace) -> None:
    if arguments.log_format == "json":
        _say_last("error", str(error), error.exit_code, arguments)
        return
    for line in str(error).splitlines():
        print(f"error: {line}", file=sys.stderr)


def _say_last(event: str, text: str, exit_code: int, arguments: argparse.Namespace) -> None:
    if arguments.log_format == "json":
        from distil_ray.json_lines import json_line

        sys.stderr.write(json_line(event, {"text": text, "exit_code": int(exit_code)}))
    else:
        print(text, file=sys.stderr)


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
