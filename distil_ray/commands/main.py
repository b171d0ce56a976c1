"""The console script `distil-ray`, which is also `python -m distil_ray`: calls one of the commands.

Imports a command's module only when the command is called.
"""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from distil_ray.errors import ExitCode

PROGRAM = "distil-ray"

# Module names are those of the commands, with underscores.
COMMANDS = {
    "transcribe": "transcribe the recordings that the output does not hold yet",
    "export": "write subtitles, text, manifests, word times or WebDataset from an output",
    "report": "write the page of a run again, or a page over all runs",
    "compare": "compare two outputs, or two runs, recording by recording",
    "verify": "check that an output is complete; transcribe a sample again",
    "forget": "remove recordings from an output and all that quotes them",
    "outcome": "print the outcome of a run and return its exit code",
    "nightly": "transcribe what is new, and compare the figures with earlier runs",
    "pseudo-label": "make a training data set from recordings",
    "train-assistant": "train a small model that drafts for the main one",
    "convert": "write a checkpoint in the format of another program",
    "create-student": "create a student from a Whisper checkpoint",
    "demo": "transcribe sample speech on this machine",
}

HELP = """usage: distil-ray COMMAND ...

Batch speech recognition with Whisper and Distil-Whisper on Ray.

  distil-ray transcribe interview.mp3 calls/ -o transcripts -l en
  distil-ray export transcripts format=srt to=subtitles

commands:
{commands}

  distil-ray COMMAND --help    usage and the settings that matter for a command
  distil-ray --version         the version
"""


def main(words: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; returns the exit code.

    Args:
        words: The command line without the name of the program; None: that of this process.
    """
    words = sys.argv[1:] if words is None else words
    first = words[0] if words else ""
    if first in ("-h", "--help"):
        print(_help(), end="")
        return ExitCode.DONE
    if first == "--version":
        from distil_ray import __version__

        print(f"{PROGRAM} {__version__}")
        return ExitCode.DONE
    if first in COMMANDS:
        return run(first, words[1:], f"{PROGRAM} {first}")
    print(f"error: {_explain(first, words)}" if words else _help(), file=sys.stderr)
    return ExitCode.BAD_SETTINGS


def run(name: str, words: Sequence[str], prog: str) -> int:
    """Runs a command and returns the exit code.

    Args:
        name: A key of `COMMANDS`.
        words: Its command line.
        prog: Name of the program in its help: "distil-ray export", "jobs/export.py".
    """
    module = import_module(f"distil_ray.commands.{name.replace('-', '_')}")
    code: int = module.main(words, prog)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS)) + 2
    return HELP.format(commands="\n".join(f"  {name:<{width}}{text}" for name, text in COMMANDS.items()))


def _explain(first: str, words: Sequence[str]) -> str:
    name = first.replace("_", "-").removeprefix("--")
    if near := difflib.get_close_matches(name, COMMANDS, 1):
        return f"{first}: no such command. Did you mean {PROGRAM} {near[0]}?"
    if first.startswith("-") or "=" in first or "/" in first or "." in first:
        return f"{first}: the command comes first, such as {PROGRAM} transcribe {' '.join(words)}"
    return f"{first}: no such command. Commands: {', '.join(COMMANDS)}"
