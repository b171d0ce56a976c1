"""`dr.Transcriber`: a callable class for ``ray.data.Dataset.map_batches`` that adds the columns of the output to rows.

It is usable without the rest of the job, and without Ray: this module does not import it.
"""

from collections.abc import Sequence
from itertools import chain
from threading import Lock

import numpy as np
import pyarrow as pa
from rich.console import Console

from distil_ray.api.audio_batches import AudioBatch, Batch
from distil_ray.api.settings import ConfigSource, Overrides, make_local_config
from distil_ray.errors import InputError
from distil_ray.pipeline.decode_stage import fetch_recordings
from distil_ray.pipeline.in_process import InProcessPipeline
from distil_ray.pipeline.setup import resolve_run
from distil_ray.schema import TRANSCRIPT

# Output columns that have the values of the input columns with the same names, which they replace.
SAME_VALUES = frozenset({"recording_id", "uri", "reference"})
CLASH_PREFIX = "input_"  # of other input columns with the name of an output column


class Transcriber:
    """Transcribes batches of rows with one loaded model::

        ds.map_batches(dr.Transcriber, fn_constructor_kwargs={"model": "openai/whisper-large-v3"},
                       batch_size=64, batch_format="pyarrow", num_gpus=1, compute=ray.data.ActorPoolStrategy(size=4))

    The audio of a row is a column `bytes` (an encoded file), `audio` with its sampling rate (a struct of `array` and
    `sampling_rate`, or two columns), or `uri` (or `path`: a file that is read from storage). Columns such as
    `recording_id`, `language`, `reference`, `start_s` and `duration_s` have the meaning that they have in a table in
    ``input.uri``.

    A recording of any length is cut into chunks and merged, its language is detected from several of its chunks, and
    its text is scored if there is a reference. A recording that cannot be read, decoded or recognized becomes a row
    with the status ``failed``; a decoder that crashes or hangs is ended with its subprocess. A crash of the recognizer
    ends the process: Ray then repeats the batch.

    Args:
        model: ``model.name``: a name on the Hugging Face hub, a local folder, or a packaged checkpoint.
        language: ``decoding.language``: a code or name, or ``auto`` (the default) to detect it for each recording.
        words: Compute the times of words (``decoding.timestamps=word``).
        keep_columns: Input columns to keep; None: all but those that contain audio.
        config: Settings to start from: a `Config`, a YAML file or the name of a shipped one, or nested settings.
        overrides: Settings by dotted key, such as ``{"chunking.length_s": 15}``.

    Raises:
        SettingsError: A setting is unknown or wrong, or does not suit the model.
        RuntimeError: This machine lacks the device, number type or attention.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        language: str | None = None,
        words: bool = False,
        keep_columns: Sequence[str] | None = None,
        config: ConfigSource | None = None,
        overrides: Overrides | None = None,
    ) -> None:
        settings = make_local_config(
            config,
            overrides,
            model__name=model,
            decoding__language=language,
            decoding__timestamps="word" if words else None,
        )
        self._lock = Lock()  # actors with max_concurrency call from several threads
        self._keep_columns = keep_columns
        self._pipeline = InProcessPipeline(resolve_run(settings, Console(quiet=True)))

    def __call__(self, batch: Batch) -> pa.Table:
        """Transcribes a batch.

        Args:
            batch: Rows in one of Ray's batch formats (an Arrow table, a DataFrame of pandas, or arrays by column), as a
                list of rows (a dict for each), or as an object that exports Arrow data, such as a DataFrame of polars.

        Returns:
            An Arrow table, whose types do not depend on the batch: the kept input columns, then the columns of the
            output (docs/output.md), in the order of the rows. An input column with the name of an output column gets
            the prefix ``input_``, except for `recording_id`, `uri` and `reference`, which are the same.

        Raises:
            InputError: The batch is none of these, has no column with audio, or lacks one of `keep_columns`.
        """
        run = self._pipeline.run
        rows = AudioBatch.of(batch, run.config.input)
        kept = self._kept(rows)
        embedded, in_files = rows.split()
        fetched = chain(rows.iter_embedded(embedded), fetch_recordings(rows.recordings_in_files(in_files), {}, run))
        with self._lock:
            transcripts = self._pipeline.transcribe_fetched(fetched)
        order = np.argsort(np.array(embedded + in_files, np.int64))
        transcripts = transcripts.take(pa.array(order)) if len(order) else transcripts
        return pa.table({**kept, **dict(zip(transcripts.column_names, transcripts.columns, strict=True))})

    def _kept(self, rows: AudioBatch) -> dict[str, pa.ChunkedArray]:
        """Returns the input columns to keep, by their names in the result."""
        names = rows.table.column_names
        keep = [name for name in names if name not in rows.audio_columns]
        if self._keep_columns is not None:
            keep = list(self._keep_columns)
        if missing := [name for name in keep if name not in names]:
            raise InputError(f"keep_columns: the batch has no column {', '.join(missing)}; found {', '.join(names)}")
        renamed = {name: CLASH_PREFIX + name if name in TRANSCRIPT.names else name for name in keep}
        return {renamed[name]: rows.table[name] for name in keep if name not in SAME_VALUES}
