"""A command of `distil-ray`: its parser, its help, and its run from a command line to an exit code.

A command declares what it is (`Command`): a description with examples, the settings that matter for it, the settings
that paths without a key stand for, and the function that does its work. Everything else is the same for all commands:
`--config`, `--debug`, `--log-format`, `key=value` overrides, `--help` and `--help-all`.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from distil_ray.cli.arguments import Words, add_override, assign_paths, explain_flag, sort_words
from distil_ray.cli.command_line import ArgumentParser, error_printer, run_cli, set_up_logging
from distil_ray.cli.help import EXIT_CODES, HELP_WIDTH, full_settings_help, short_settings_help
from distil_ray.cli.options import describe_options
from distil_ray.cli.uploaded_credentials import warn_of_credentials
from distil_ray.config import Config
from distil_ray.config.loader import load_config

# Flags for the settings that most calls give, beside paths for input.uri.
SHORT_FLAGS = {
    "output.uri": ("-o", "--output", "FOLDER"),
    "model.name": ("-m", "--model", "MODEL"),
    "decoding.language": ("-l", "--language", "LANG"),
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command whose settings are those of a run.

    Attributes:
        name: Its name on the command line ("pseudo-label").
        description: Text of its help: one sentence, examples, details.
        run: Does the work and returns the exit code; called with the settings and the parsed arguments.
        settings: Settings that `--help` lists: keys, or sections with all their settings ("nightly.*").
        paths: Settings that words without a key stand for, in this order.
        options: Dataclass of options that are not settings of a run (cli/options.py).
        flags: Flags of its own, as positional and keyword arguments of `ArgumentParser.add_argument`.
        short_flags: Settings with a flag in `SHORT_FLAGS`.
        config: Shipped config that applies without `--config`.
    """

    name: str
    description: str
    run: Callable[[Config, argparse.Namespace], int]
    settings: Sequence[str]
    paths: Sequence[str] = ()
    options: type | None = None
    flags: Sequence[tuple[str, dict[str, Any]]] = ()
    short_flags: Sequence[str] = ()
    config: str | None = None

    @property
    def own_keys(self) -> list[str]:
        """Returns the keys of the command's own options."""
        return [known.name for known in fields(self.options)] if self.options else []


FORCE_FLAG = ("--force", {"action": "store_true", "help": "write although another run holds the output's lease"})


def run_command(command: Command, words: Sequence[str], prog: str) -> int:
    """Parses a command line, runs the command and returns the exit code of the process.

    Args:
        command: The command.
        words: Its command line, without the name of the program.
        prog: Name of the program in usage and help ("distil-ray export").
    """
    parser = make_parser(command, prog)
    flags = [name for action in parser._actions for name in action.option_strings]
    if (message := explain_flag(words, flags, command.own_keys)) is not None:
        parser.error(message)
    arguments = parser.parse_intermixed_args(words)  # settings may come before and after flags
    set_up_logging(arguments)
    return run_cli(
        lambda: _load_and_run(command, arguments),
        debug=arguments.debug,
        on_error=error_printer(arguments),
    )


def _load_and_run(command: Command, arguments: argparse.Namespace) -> int:
    sorted_words = sort_words(arguments.words, command.own_keys)
    assign_paths(sorted_words, command.paths, command.own_keys, command.name)
    _apply_short_flags(command, arguments, sorted_words)
    arguments.own, arguments.overrides = sorted_words.own, sorted_words.overrides
    config = load_config(arguments.config, sorted_words.overrides)
    warn_of_credentials()
    return command.run(config, arguments)


def _apply_short_flags(command: Command, arguments: argparse.Namespace, words: Words) -> None:
    for key in command.short_flags:
        if (value := getattr(arguments, key)) is not None:
            add_override(words, key, value)


def make_parser(command: Command, prog: str) -> argparse.ArgumentParser:
    """Returns the parser of a command; its help lists the settings that the command declares."""
    parser = ArgumentParser(
        prog=prog,
        description=command.description,
        formatter_class=functools.partial(argparse.RawDescriptionHelpFormatter, width=HELP_WIDTH, max_help_position=24),
        epilog=_epilog(command, short_settings_help(command.settings)),
        allow_abbrev=False,
        add_help=False,
        usage=f"{prog} {_usage_words(command)}",
    )
    parser.add_argument("words", nargs="*", metavar=_positional(command), help=_explain_positional(command))
    for key in command.short_flags:
        short, long, metavar = SHORT_FLAGS[key]
        parser.add_argument(short, long, dest=key, metavar=metavar, help=f"the same as {key}={metavar}")
    for name, options in command.flags:
        parser.add_argument(name, **options)
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=command.config,
        help="YAML file of settings, or the name of a shipped config: cpu, gpu, …"
        + (f"; default: {command.config}" if command.config else ""),
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="json: one JSON object per line instead of text, progress view and tables; default: text",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and Ray's own messages")
    parser.add_argument("-h", "--help", action="help", help="show this help")
    parser.add_argument(
        "--help-all",
        action=_HelpAll,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show the help with every setting",
        epilog=_epilog(command, full_settings_help()),
    )
    return parser


class _HelpAll(argparse.Action):
    """Prints the help with another epilog, and exits."""

    def __init__(self, option_strings: Sequence[str], dest: str, epilog: str, **options: Any) -> None:
        super().__init__(option_strings, dest, **options)
        self.epilog = epilog

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.epilog = self.epilog
        parser.print_help()
        parser.exit()


def _epilog(command: Command, settings: str) -> str:
    own = "\n".join(describe_options(command.options)) if command.options else ""
    parts = [f"options (key=default):\n{own}"] if own else []
    parts += [
        f"settings (key=default; the values are YAML):\n{settings}",
        "All settings: --help-all, docs/configuration.md",
        EXIT_CODES,
    ]
    return "\n\n".join(parts)


def _usage_words(command: Command) -> str:
    flags = [f"[{SHORT_FLAGS[key][0]} {SHORT_FLAGS[key][2]}]" for key in command.short_flags]
    return " ".join([f"[{_positional(command)} ...]", *flags, "[options]"])


def _positional(command: Command) -> str:
    names = {"input.uri": "INPUT", "output.uri": "OUTPUT"}
    return " | ".join([*(names.get(key, key.upper()) for key in command.paths), "key=value"])


def _explain_positional(command: Command) -> str:
    if not command.paths:
        return "settings that override those of the config"
    return f"paths or URIs ({', '.join(command.paths)}), and settings that override those of the config"
