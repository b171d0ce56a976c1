"""What every job's command line shares: the settings, help made from them, the form of what it tells.

Imports neither torch nor ray nor Arrow: `--help` answers at once.
"""

import argparse
import logging
import sys
import textwrap
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TextIO

from distil_ray.cli.exit_status import Parser, carry_out, tell_people
from distil_ray.config import Config
from distil_ray.config.loader import describe_settings, load_config
from distil_ray.errors import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

Job = Callable[[Config, argparse.Namespace], ExitCode]

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
    parser = Parser(
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
    """Parses the command line, runs the job, gives the exit code (endings.py).

    `own`: keys that are the job's own and no settings of a run; it finds their `key=value` words in `arguments.own`.
    """
    arguments = parser.parse_intermixed_args()  # settings may stand before and after flags
    arguments.own = [word for word in arguments.overrides if word.partition("=")[0] in own]
    arguments.overrides = [word for word in arguments.overrides if word not in arguments.own]
    _set_up_logging(arguments)
    return carry_out(
        lambda: job(load_config(arguments.config, arguments.overrides), arguments),
        debug=arguments.debug,
        tell=_tell_programs if arguments.log_format == "json" else tell_people,
    )


def open_console(arguments: argparse.Namespace) -> "Console":
    """Where a job tells what it does: standard output, in words or as JSON lines."""
    if arguments.log_format == "json":
        from distil_ray.cli.json_console import JsonConsole

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
        from distil_ray.cli.json_console import JsonFormatter

        handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.DEBUG if arguments.debug else logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)
    logging.getLogger("distil_ray").setLevel(logging.DEBUG if arguments.debug else logging.INFO)


def _tell_programs(event: str, text: str, exit_code: int) -> None:
    from distil_ray.cli.json_console import json_line

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
