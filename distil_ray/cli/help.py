"""Help texts of commands: the settings that matter for a command, all settings, and the exit codes.

`--help` of a command shows the settings that the command declares, one line each. `--help-all` shows every setting with
its whole description.
"""

import textwrap
from collections.abc import Iterator, Sequence

from distil_ray.config.loader import describe_settings

HELP_WIDTH = 100  # columns
INDENT = " " * 6

EXIT_CODES = """exit codes:
  0  done
  1  the run failed, or listing and output do not agree (the message lists the differences)
  2  a setting or the input is wrong; nothing was started
  3  done, but more recordings failed than max_failed_fraction and max_failed_count allow
  4  done, but a figure of the nightly run is outside the limits of the drift check
  130, 143  stopped by Ctrl-C, by SIGTERM (ray job stop); re-run the same command to resume"""


def select_settings(patterns: Sequence[str]) -> list[str]:
    """Returns the keys of the settings that `patterns` name, in the order of the patterns.

    Args:
        patterns: Keys ("input.uri"), or sections with all their settings ("nightly.*").

    Raises:
        KeyError: A pattern names no setting.
    """
    keys = [key for key, *_ in describe_settings()]
    selected: list[str] = []
    for pattern in patterns:
        found = [key for key in keys if key == pattern or (pattern.endswith(".*") and key.startswith(pattern[:-1]))]
        if not found:
            raise KeyError(pattern)
        selected += found
    return selected


def short_settings_help(patterns: Sequence[str]) -> str:
    """Returns key, default and the beginning of the description of the settings that `patterns` name."""
    described = {key: (default, text) for key, _, default, text in describe_settings()}
    lines = []
    for key in select_settings(patterns):
        default, text = described[key]
        lines.append("  " + textwrap.shorten(f"{key}={default}", HELP_WIDTH - 2, placeholder=" …"))
        lines.append(INDENT + textwrap.shorten(text, HELP_WIDTH - len(INDENT), placeholder=" …"))
    return "\n".join(lines)


def full_settings_help() -> str:
    """Returns every setting with its default, its whole description and the values that it takes."""
    return "\n".join(_settings_lines())


def _settings_lines() -> Iterator[str]:
    section = ""
    for key, words, default, description in describe_settings():
        name = key.partition(".")[0] if "." in key else ""
        if name != section:
            section = name
            yield ""
        yield f"  {key}={default}"
        yield from textwrap.wrap(
            f"{description} [{words}]", HELP_WIDTH, initial_indent=INDENT, subsequent_indent=INDENT
        )
