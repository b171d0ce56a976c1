"""Write the report page of a run again, or a history page over all runs of an output.

    distil-ray report transcripts                          # OUTPUT/runs/<run_id>/report.html
    distil-ray report s3://bucket/text run_id=2026-11-22.1
    distil-ray report s3://bucket/text history=true        # OUTPUT/history.html

Default of run_id: the run that started last. The page shows the current state of the output;
docs/report.md describes it.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.cli.options import option, parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """Options of this command."""

    history: bool = option(False, "write a page over all runs of the output instead of one run")


def report(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Writes the page and prints its location."""
    settings = parse_options(ReportSettings, arguments.own)
    from distil_ray.cli.console import log_field
    from distil_ray.nightly.history_page import load_drift, write_history
    from distil_ray.report.run_folder import find_last_run
    from distil_ray.report.run_page import write_run_page
    from distil_ray.storage.storage import Storage
    from distil_ray.verify.verify import require_output

    output, storage = require_output(config), Storage(config.storage)
    if settings.history:
        uri = write_history(output, storage)
    else:
        run_id = config.run_id or find_last_run(output, storage)
        uri = write_run_page(output, run_id, config, load_drift(run_id, output, storage))
    log_field("report", uri, open_console(arguments))
    return ExitCode.DONE


COMMAND = Command(
    name="report",
    description=__doc__ or "",
    run=report,
    settings=("output.uri", "run_id", "report.*", "scoring.group_by", "storage.*"),
    paths=("output.uri",),
    options=ReportSettings,
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
