"""`dr.run`: the whole job on Ray, as the command ``distil-ray transcribe`` runs it."""

import json
from dataclasses import dataclass
from typing import Any, Literal, overload

import pandas as pd
import pyarrow as pa
from rich.console import Console

from distil_ray.api.settings import ConfigSource, Overrides, make_config
from distil_ray.api.transcripts import TableFormat, read_transcripts
from distil_ray.config import Config
from distil_ray.config.loader import require_locations
from distil_ray.errors import ExitCode
from distil_ray.output.run_context import RUNS_FOLDER, new_run_id
from distil_ray.pipeline import runner
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize


@dataclass(frozen=True, slots=True)
class RunResult:
    """Result of a run that ended with a complete output.

    Attributes:
        run_id: Name of the run and of its folder.
        output_uri: The folder of the output.
        exit_code: `ExitCode.DONE`, or `TOO_MANY_FAILED` if more recordings failed than ``max_failed_fraction`` allows.
        summary: Content of summary.json (docs/output.md).
        config: The settings.
    """

    run_id: str
    output_uri: str
    exit_code: ExitCode
    summary: dict[str, Any]
    config: Config

    @property
    def num_recordings(self) -> int:
        """Returns the number of listed recordings, those of earlier runs included."""
        return int(self.summary["num_recordings"])

    @property
    def num_failed(self) -> int:
        """Returns the number of failed recordings."""
        return int(self.summary["num_failed"])

    @property
    def wer(self) -> float | None:
        """Returns the word error rate over all recordings with a reference, as a fraction; None without references."""
        wer: float | None = self.summary["wer"]
        return wer

    @property
    def folder_uri(self) -> str:
        """Returns the run's folder, with report.html, summary.json and failed.csv."""
        return join(self.output_uri, RUNS_FOLDER, self.run_id)

    @overload
    def transcripts(self, *, format: Literal["pandas"] = "pandas") -> pd.DataFrame: ...

    @overload
    def transcripts(self, *, format: Literal["arrow"]) -> pa.Table: ...

    @overload
    def transcripts(self, *, format: TableFormat) -> Any: ...

    def transcripts(self, *, format: TableFormat = "pandas") -> Any:
        """Returns the current rows of the output, those of earlier runs included: see `read_transcripts`."""
        return read_transcripts(self.output_uri, format=format, config=self.config)

    def __repr__(self) -> str:
        wer = "" if self.wer is None else f", WER {100 * self.wer:.2f} %"
        counts = f"{self.num_recordings:,} recordings, {self.num_failed:,} failed{wer}"
        return f"RunResult({self.run_id}: {counts}, {self.exit_code.name}, {self.output_uri})"


def run(config: ConfigSource | None = None, overrides: Overrides | None = None, *, progress: bool = True) -> RunResult:
    """Transcribes the recordings that the output does not hold yet, on Ray.

    A Ray that this process is connected to is used and stays connected; otherwise the cluster of
    ``resources.ray_address``, or a local Ray that ends with the run.

    Args:
        config: Settings to start from: a `Config`, a YAML file or the name of a shipped one, or nested settings.
        overrides: Settings by dotted key, such as ``{"input.uri": "calls/", "output.uri": "transcripts/"}``.
        progress: Show the progress and the summary on standard error.

    Returns:
        The result. Failed recordings are rows of the output; they do not raise.

    Raises:
        SettingsError: A setting or the input is wrong; nothing was started.
        RunError: The run failed, or the output is not complete. The next run with the same settings continues it.
    """
    settings = make_config(config, overrides)
    require_locations(settings)
    run_id = settings.run_id or new_run_id()
    output_uri = normalize(settings.output.uri)  # absolute: workers of a running Ray have another working directory
    output = settings.output.model_copy(update={"uri": output_uri})
    settings = settings.model_copy(update={"run_id": run_id, "output": output})
    console = Console(stderr=True, highlight=False, quiet=not progress)
    exit_code = runner.transcribe(settings, console)
    summary = Storage(settings.storage).read(join(output_uri, RUNS_FOLDER, run_id, "summary.json"))
    return RunResult(run_id, output_uri, exit_code, json.loads(summary), settings)
