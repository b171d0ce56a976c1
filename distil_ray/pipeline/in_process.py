"""The stages of a run one after the other in this process: no Ray, no plan, no output.

The stages are those of the job, so the rows are too. The parts of a long recording stay in memory, without their audio,
until the last one is recognized. Decoding runs in the decoder subprocess: a file that crashes its decoder fails alone.
The recognizer runs in the calling process: an exception of it costs one recording, but a crash ends the caller.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from distil_ray.output.run_context import Run
from distil_ray.pipeline.decode_stage import decode_recordings, fetch_recordings
from distil_ray.pipeline.individual_retry import transcribe_part
from distil_ray.pipeline.planner import plan_in_memory, redact_recordings
from distil_ray.pipeline.setup import RunSetup
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.pipeline.write_stage import describe_part
from distil_ray.readers.fetch import FetchResult
from distil_ray.redaction import has_secret
from distil_ray.schema import COMMIT_RESULT, TRANSCRIPT
from distil_ray.types import Recording

logger = logging.getLogger(__name__)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkEstimate:
    """Work that a transcription begins with: recordings, and seconds of audio by task id, as estimated."""

    num_recordings: int
    seconds_by_task: dict[str, float]


class InProcessPipeline:
    """Decodes, transcribes and scores recordings with one loaded recognizer. Not thread-safe.

    Args:
        setup: The resolved run. Its locations of input and output are not used.
        transcriber: Replacement for the transcribe stage, for tests and measurements.

    Raises:
        WeightsError: The weights cannot be downloaded or read.
        RuntimeError: This machine lacks the device, number type or attention of the settings.
    """

    def __init__(self, setup: RunSetup, transcriber: Callable[[Run], Any] = TranscribeStage) -> None:
        self.run = setup.run
        self._transcribe: Callable[[pa.Table], pa.Table] = transcriber(setup.run)
        self._row_builder = RowBuilder(setup.run, setup.model.config_dir)
        self._logged: set[str] = set()

    def estimate(self, recordings: Sequence[Recording]) -> WorkEstimate:
        """Returns the work of `transcribe` for these recordings."""
        tasks = plan_in_memory(recordings, self.run.fingerprint, self.run.config.plan)
        return WorkEstimate(len(recordings), {str(i): task.estimated_s for i, task in enumerate(tasks)})

    def transcribe(self, recordings: Sequence[Recording], on_part: Callable[[Row], None] = lambda _: None) -> pa.Table:
        """Transcribes listed recordings.

        Args:
            recordings: The recordings. Their files are fetched through the storage of the run.
            on_part: Called with a row of COMMIT_RESULT after each part.

        Returns:
            A table with the schema TRANSCRIPT, in the order of `recordings`.
        """
        rows: list[Row | None] = [None] * len(recordings)
        for number, task in enumerate(plan_in_memory(recordings, self.run.fingerprint, self.run.config.plan)):
            complete = [recordings[position] for position in task.positions]
            secret_uris = {i: one.uri for i, one in enumerate(complete) if has_secret(one.uri)}
            redacted = redact_recordings(complete)
            fetched = fetch_recordings(redacted, secret_uris, self.run)
            built = self._transcribe_task(str(number), redacted, fetched, on_part)
            for position, row in zip(task.positions, built, strict=True):
                rows[position] = row
        return pa.Table.from_pylist(rows, schema=TRANSCRIPT)

    def transcribe_fetched(self, fetched: Iterable[tuple[Recording, FetchResult]]) -> pa.Table:
        """Transcribes recordings whose files are on the local disk already.

        Args:
            fetched: Each recording with its file, or the reason why it has none. A file is needed only until the next
                pair is taken.

        Returns:
            A table with the schema TRANSCRIPT, in the same order.
        """
        recordings: list[Recording] = []

        def note_recordings() -> Iterator[tuple[Recording, FetchResult]]:
            for recording, file in fetched:
                (redacted,) = redact_recordings([recording])
                recordings.append(redacted)
                yield redacted, file

        rows = self._transcribe_task("0", recordings, note_recordings(), lambda _: None)
        return pa.Table.from_pylist(rows, schema=TRANSCRIPT)

    def _transcribe_task(
        self,
        task_id: str,
        recordings: Sequence[Recording],
        fetched: Iterable[tuple[Recording, FetchResult]],
        on_part: Callable[[Row], None],
    ) -> list[Row]:
        """Returns the rows of one task. `recordings` is complete when `fetched` has ended."""
        parts: list[Row] = []
        rows: list[Row] = []
        for part in decode_recordings(fetched, self.run, task_id):
            result = transcribe_part(part, self._transcribe)
            parts += result.to_pylist()
            described = describe_part(result)
            self._log_warnings(described["warnings"])
            if parts[-1]["is_last"]:
                rows, counts = self._row_builder.build_rows(recordings, parts)
                described |= counts | {"committed": True}
            on_part(dict.fromkeys(COMMIT_RESULT.names) | described)
        return rows

    def _log_warnings(self, messages: Sequence[str]) -> None:
        for message in messages:
            if message not in self._logged:
                self._logged.add(message)
                logger.info(message)
