"""`dr.transcribe`: recordings to a table in this process, or through the job where an output is given."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, overload

import pandas as pd
import pyarrow as pa
from rich.console import Console

from distil_ray.api.settings import ConfigSource, Overrides, make_config, make_local_config
from distil_ray.api.transcripts import TableFormat, check_format, convert_table
from distil_ray.config.loader import require_input_location
from distil_ray.pipeline.in_process import InProcessPipeline, WorkEstimate
from distil_ray.pipeline.progress import Progress, ProgressTracker
from distil_ray.pipeline.setup import resolve_run
from distil_ray.readers.listing import list_recordings

Inputs = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@overload
def transcribe(
    inputs: Inputs | None = None,
    *,
    model: str | None = None,
    language: str | None = None,
    words: bool = False,
    output: str | os.PathLike[str] | None = None,
    format: Literal["pandas"] = "pandas",
    progress: bool = True,
    config: ConfigSource | None = None,
    overrides: Overrides | None = None,
) -> pd.DataFrame: ...


@overload
def transcribe(
    inputs: Inputs | None = None,
    *,
    model: str | None = None,
    language: str | None = None,
    words: bool = False,
    output: str | os.PathLike[str] | None = None,
    format: Literal["arrow"],
    progress: bool = True,
    config: ConfigSource | None = None,
    overrides: Overrides | None = None,
) -> pa.Table: ...


def transcribe(
    inputs: Inputs | None = None,
    *,
    model: str | None = None,
    language: str | None = None,
    words: bool = False,
    output: str | os.PathLike[str] | None = None,
    format: TableFormat = "pandas",
    progress: bool = True,
    config: ConfigSource | None = None,
    overrides: Overrides | None = None,
) -> Any:
    """Transcribes recordings and returns a table with one row per recording.

    Without `output` everything happens in this process, without Ray, and nothing is written. With `output` the full job
    runs on Ray: it skips what the output already holds, and the table is read back from the output.

    Args:
        inputs: Whatever ``input.uri`` accepts: a file, folder, glob pattern, manifest or URI, or several of them. None:
            ``input.uri`` of the settings.
        model: ``model.name``: a name on the Hugging Face hub, a local folder, or a packaged checkpoint.
        language: ``decoding.language``: a code or name, or ``auto`` (the default) to detect it for each recording.
        words: Compute the times of words (``decoding.timestamps=word``), for the columns `segments` and `words`.
        output: ``output.uri``: folder of the transcripts.
        format: Type of the table: a pandas DataFrame or an Arrow table.
        progress: Show the progress on standard error.
        config: Settings to start from: a `Config`, a YAML file or the name of a shipped one, or nested settings.
        overrides: Settings by dotted key, such as ``{"chunking.length_s": 15}``.

    Returns:
        A table with the columns of the output (docs/output.md). In this process the rows are in the order of the input;
        with `output` they are all current rows of the output. A recording that cannot be transcribed is a row with the
        status ``failed``.

    Raises:
        SettingsError: A setting is unknown or wrong, or does not suit the model.
        InputError: The input cannot be listed, or has no recordings.
        RunError: The job failed (with `output` only).
    """
    check_format(format)
    arguments = {
        "input__uri": _as_uris(inputs),
        "model__name": model,
        "decoding__language": language,
        "decoding__timestamps": "word" if words else None,
        "output__uri": None if output is None else os.fspath(output),
    }
    settings = make_config(config, overrides, **arguments)
    if settings.output.uri:
        from distil_ray.api.job import run  # imports ray

        return run(settings, progress=progress).transcripts(format=format)
    settings = make_local_config(config, overrides, **arguments)
    require_input_location(settings)
    setup = resolve_run(settings, Console(quiet=True))
    recordings = list(list_recordings(settings.input, setup.run.storage))
    pipeline = InProcessPipeline(setup)
    with _show_progress(pipeline.estimate(recordings)) if progress else nullcontext() as shown:
        table = pipeline.transcribe(recordings, shown.add if shown else lambda _: None)
    return convert_table(table, format)


def _as_uris(inputs: Inputs | None) -> tuple[str, ...] | None:
    if inputs is None:
        return None
    single = isinstance(inputs, str | os.PathLike)
    return (os.fspath(inputs),) if single else tuple(os.fspath(one) for one in inputs)  # type: ignore[arg-type, union-attr]


def _show_progress(work: WorkEstimate) -> Progress:
    seconds = work.seconds_by_task
    tracker = ProgressTracker(work.num_recordings, sum(seconds.values()), seconds)
    return Progress(tracker, Console(stderr=True, highlight=False))
