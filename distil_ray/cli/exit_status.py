"""How every job ends: what it raises becomes a message and an exit code; tracebacks are for `--debug`.

What a person can act on (errors.py) is said as it is. Anything else is a fault of this program, and its one line says
where it was raised, so that it can be reported without running everything again.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from distil_ray.cli.signals import Stopped, listen
from distil_ray.errors import DistilRayError, ExitCode
from distil_ray.redaction import redact

Teller = Callable[[str, str, int], None]  # event (error, stopped), text, exit code

PACKAGE = Path(__file__).resolve().parent
WORDS_SHOWN = 300  # letters of an unexpected error


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the command line, instead of how it is used."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; --help lists what there is", file=sys.stderr)
        sys.exit(ExitCode.BAD_SETTINGS)


def tell_people(event: str, text: str, exit_code: int) -> None:
    """The last words on standard error."""
    if event == "stopped":
        print("\n" * sys.stderr.isatty() + text, file=sys.stderr)  # the terminal has just written ^C
        return
    for line in text.splitlines():
        print(f"error: {line}", file=sys.stderr)


def carry_out(work: Callable[[], int], *, debug: bool, tell: Teller = tell_people) -> int:
    """Does the work and gives the exit code. From here on SIGTERM and Ctrl-C are exceptions (stopping.py)."""
    listen()
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
