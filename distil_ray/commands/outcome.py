"""Print the outcome of a run in one line, and return its exit code.

    distil-ray outcome s3://bucket/text
    distil-ray outcome s3://bucket/text run_id=2026-11-22.1

`ray job submit` and KubeRay pass on success or failure only; this command returns the exit code
that the run itself had. Default of run_id: the run that holds the output's lease, else the run that
started last. A run that ended before it had a folder (exit code 2) is not in the output.

exit codes of this command, besides those of the run:
  1   the run failed, or it was killed
  2   the output has no such run
  75  the run has not ended
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.config import Config
from distil_ray.errors import SettingsError


def outcome(config: Config, arguments: argparse.Namespace) -> int:
    """Prints the outcome and returns the exit code of the run."""
    from distil_ray.cli.console import log_field
    from distil_ray.output.run_outcome import find_outcome, find_running
    from distil_ray.report.run_folder import find_last_run, read_run_folder
    from distil_ray.storage.storage import Storage
    from distil_ray.storage.storage_errors import StorageError
    from distil_ray.verify.verify import require_output

    output, storage = require_output(config), Storage(config.storage)
    try:
        running = find_running(output, storage)
        run_id = config.run_id or (running.run_id if running else find_last_run(output, storage))
        if running is None or running.run_id != run_id:
            read_run_folder(output, run_id, storage)  # raises for a run that the output does not have
        found = find_outcome(output, run_id, storage)
    except StorageError as error:
        raise SettingsError(f"output.uri={config.output.uri}: {error}") from error
    first_line = found.text.partition("\n")[0]
    text = f"{run_id} {found.outcome}, exit code {found.exit_code}" + (f": {first_line}" if first_line else "")
    log_field("outcome", text, open_console(arguments))
    return found.exit_code


COMMAND = Command(
    name="outcome",
    description=__doc__ or "",
    run=outcome,
    settings=("output.uri", "run_id", "storage.*"),
    paths=("output.uri",),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
