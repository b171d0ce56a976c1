"""Recognition of a part recording by recording, after the part as a whole could not be recognized.

One recording that the recognizer cannot process then costs itself only: its chunks get hypotheses with an error, and
those of the other recordings their text. `fault_isolation.py` decides when a part is retried in a job, where a
recognizer may also hang or end its process. `transcribe_part` is for a recognizer in the caller's own process, in which
only exceptions can be handled.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind
from distil_ray.schema import CHUNK, PART_RESULT
from distil_ray.types import Hypothesis

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def transcribe_part(part: pa.Table, transcribe: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Recognizes a part; after an exception of the recognizer each of its recordings by itself.

    Args:
        part: One row of PART.
        transcribe: `TranscribeStage`, or a callable with the same interface.

    Returns:
        One row of PART_RESULT. A recording that raises alone has hypotheses with the kind ``inference_error``.
    """

    def recognize_recording(own: pa.Table) -> Row:
        try:
            row: Row = transcribe(own).to_pylist()[0]
        except Exception as error:
            return failed_result(own, ErrorKind.INFERENCE_ERROR, describe_error(error))
        return row

    if not len(part["chunks"][0]):
        return transcribe(part)
    try:
        return transcribe(part)
    except Exception as error:
        logger.exception("a part could not be recognized as one; trying recording by recording")
        return retry_individually(part, f"its recognizer raised {describe_error(error)}", recognize_recording)


def retry_individually(part: pa.Table, reason: str, recognize_recording: Callable[[pa.Table], Row]) -> pa.Table:
    """Recognizes the recordings of a part one by one.

    Args:
        part: One row of PART.
        reason: Why the part was not recognized as a whole, for the warnings of the result.
        recognize_recording: Returns the row of PART_RESULT of a part with the chunks of one recording. Does not raise.

    Returns:
        One row of PART_RESULT, joined from those of the recordings.
    """
    chunks = part["chunks"][0].as_py()
    recordings = list(dict.fromkeys(chunk["recording"] for chunk in chunks))
    rows = [recognize_recording(_select_recording(part, chunks, recording)) for recording in recordings]
    name = f"part {part['part_index'][0].as_py()} of task {part['task_id'][0].as_py()}"
    note = f"{name} was recognized recording by recording, because {reason}"
    return pa.Table.from_pylist([_join_results(rows, note)], schema=PART_RESULT)


def failed_result(part: pa.Table, kind: ErrorKind, error: str) -> Row:
    """Returns the row of PART_RESULT of a recording that cannot be recognized."""
    head: Row = part.drop_columns(["pcm"]).to_pylist()[0]
    chunks = [chunk for chunk in head["chunks"] if not chunk["detection_only"]]
    nothing = asdict(
        Hypothesis(
            "",
            avg_logprob=0.0,
            no_speech_prob=0.0,
            compression_ratio=0.0,
            temperature=0.0,
            window_s=30.0,
            error=error,
            error_kind=kind,
        )
    )
    hypotheses = [nothing | {"language": chunk["language"]} for chunk in chunks]
    rest: Row = {"recognize_s": 0.0, "device": None, "dtype": None, "actor_rss_mb": None, "warnings": []}
    return head | {"chunks": chunks, "hypotheses": hypotheses} | rest


def describe_error(error: Exception) -> str:
    """Returns the type and the message of an exception."""
    return f"{type(error).__name__}: {error}"


def with_chunks(part: pa.Table, chunks: Sequence[Row]) -> pa.Table:
    """Returns the part with some of its chunks. They keep their offsets, and the PCM is not copied."""
    column = part.schema.get_field_index("chunks")
    return part.set_column(column, "chunks", pa.array([chunks], pa.list_(CHUNK)))


def _select_recording(part: pa.Table, chunks: Sequence[Row], recording: int) -> pa.Table:
    """Returns the part with the chunks of one recording."""
    return with_chunks(part, [chunk for chunk in chunks if chunk["recording"] == recording])


def _join_results(rows: Sequence[Row], note: str) -> Row:
    """Joins rows of PART_RESULT of the same part into one."""
    known = [row for row in rows if row["device"]]  # rows that come from the recognizer
    return {
        **rows[0],
        "chunks": [chunk for row in rows for chunk in row["chunks"]],
        "hypotheses": [hypothesis for row in rows for hypothesis in row["hypotheses"]],
        "recognize_s": sum(row["recognize_s"] for row in rows),
        **{name: known[-1][name] if known else None for name in ("device", "dtype", "actor_rss_mb")},
        "warnings": [note, *(warning for row in rows for warning in row["warnings"])],
    }
