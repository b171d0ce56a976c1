"""The transcribe stage, guarded: a part that kills, hangs or breaks its recognizer costs one recording of it.

A part is recognized whole. If that raises, or has ended `resources.max_attempts` processes before, its recordings are
tried one by one, each attempt counted again (attempts.py), and what still fails is written down as failed: `worker_crash`,
`inference_timeout` or `recognizer`. Ray alone would hand a part that kills to one new actor after the other, for ever.

The count costs no time in the normal case: it is put while the part is recognized. Only a process that has not finished
a part yet waits for it, and that is what counts: a death brings a new process, which is given the same part first. A
part that kills faster than its count is put is so tried once more than the settings say. Knows nothing of Ray.
"""

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind
from distil_ray.output.run_context import Run
from distil_ray.pipeline.attempts import Attempt, Attempts, Claim, WorkerIdentity
from distil_ray.schema import CHUNK, PART_RESULT
from distil_ray.types import SAMPLE_RATE, Hypothesis

logger = logging.getLogger(__name__)

GRACE_S = 30.0  # for the reason to be written
STDERR = 2  # a worker's log file; sys.stderr need not be a file


@contextmanager
def time_limit(limit_s: float, leave_reason: Callable[[str], None]) -> Iterator[None]:
    """Ends this process with SIGKILL if the block takes longer than `limit_s` seconds. One at a time in a process."""
    timer = threading.Timer(limit_s, _end, (limit_s, leave_reason))
    timer.daemon = True
    faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=STDERR)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end(limit_s: float, leave_reason: Callable[[str], None]) -> None:
    reason = f"gave no answer within {limit_s:.0f} s and was ended"
    logger.error("the recognizer %s; what it was doing follows", reason)
    faulthandler.dump_traceback(file=STDERR)
    try:
        leave_reason(reason)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


Row = dict[str, Any]


class FaultIsolatedStage:
    """`PART` rows to `RESULT` rows through a transcriber that may die, hang or raise."""

    def __init__(self, transcriber: type, run: Run, place: WorkerIdentity) -> None:
        """`transcriber`: a class of `Transcribe`'s shape; it is made here, in the process that it may take along."""
        self._attempts = Attempts(run, place)
        self._transcribe = self._load(transcriber, run, place.worker())
        self._limits = run.config.resources
        self._counting = ThreadPoolExecutor(2, thread_name_prefix="attempts")
        self._proven = False  # whether this process has finished a part

    def _load(self, transcriber: type, run: Run, worker: str) -> Callable[[pa.Table], pa.Table]:
        """The transcriber. A process that is killed while it loads would be started again for ever: that counts too."""
        claim = self._attempts.claim(f"start-{worker}")
        if claim.used_up:
            raise RuntimeError(
                f"{len(claim.deaths)} processes in a row died while loading it ({_causes(claim.deaths)})"
            )
        try:
            made: Callable[[pa.Table], pa.Table] = transcriber(run)
        finally:
            self._attempts.release(claim)
        return made

    def __call__(self, parts: pa.Table) -> pa.Table:
        return pa.concat_tables([self._guard(parts.slice(i, 1)) for i in range(parts.num_rows)])

    def _guard(self, part: pa.Table) -> pa.Table:
        if not len(part["chunks"][0]):
            return self._transcribe(part)
        counted = self._counting.submit(self._attempts.claim, _key(part))
        if not self._proven and counted.result().used_up:
            deaths = counted.result().deaths
            return self._retry_individually(part, f"it had ended {len(deaths)} recognizers ({_causes(deaths)})")
        try:
            result = self._try(part, counted)
        except Exception as error:
            logger.exception("a part could not be recognized as one; trying recording by recording")
            return self._retry_individually(part, f"its recognizer raised {_words(error)}")
        self._proven = True
        return result

    def _try(self, part: pa.Table, counted: Future[Claim]) -> pa.Table:
        """Recognizes within the time limit; the attempt is released if this process lives to see its end."""
        audio_s = _num_samples(part) / SAMPLE_RATE
        try:
            with time_limit(self._limits.recognizer_limit_s(audio_s), lambda why: self._note(counted, why)):
                return self._transcribe(part)
        finally:
            self._counting.submit(lambda: self._attempts.release(counted.result()))

    def _note(self, counted: Future[Claim], reason: str) -> None:
        self._attempts.note(counted.result(), reason)

    def _retry_individually(self, part: pa.Table, reason: str) -> pa.Table:
        """The part's result, made of one result for each recording."""
        chunks = part["chunks"][0].as_py()
        recordings = list(dict.fromkeys(chunk["recording"] for chunk in chunks))
        rows = [self._alone(_only(part, chunks, recording)) for recording in recordings]
        name = f"part {part['part_index'][0].as_py()} of task {part['task_id'][0].as_py()}"
        note = f"{name} was recognized recording by recording, because {reason}"
        return pa.Table.from_pylist([_joined(rows, note)], schema=PART_RESULT)

    def _alone(self, part: pa.Table) -> Row:
        """One recording's result; what fails is in its hypotheses."""
        recording = part["chunks"][0][0].as_py()["recording"]
        claim = self._attempts.claim(f"{_key(part)}-recording-{recording:06d}")
        if claim.used_up:
            return _failed(part, *_verdict(claim.deaths))
        counted: Future[Claim] = Future()
        counted.set_result(claim)
        try:
            row: Row = self._try(part, counted).to_pylist()[0]
        except Exception as error:
            return _failed(part, ErrorKind.INFERENCE_ERROR, _words(error))
        return row


def _key(part: pa.Table) -> str:
    """Names a part in its run: a folder a task."""
    return f"{part['task_id'][0].as_py()}/part-{part['part_index'][0].as_py():06d}"


def _num_samples(part: pa.Table) -> int:
    return sum(chunk["num_samples"] for chunk in part["chunks"][0].as_py())


def _only(part: pa.Table, chunks: Sequence[Row], recording: int) -> pa.Table:
    """The part with one recording's chunks; they keep their offsets, and the PCM is not copied."""
    mine = [chunk for chunk in chunks if chunk["recording"] == recording]
    place = part.schema.get_field_index("chunks")
    return part.set_column(place, "chunks", pa.array([mine], pa.list_(CHUNK)))


def _joined(rows: Sequence[Row], note: str) -> Row:
    """One RESULT row of several of the same part."""
    known = [row for row in rows if row["device"]]  # that a recognizer has answered
    return {
        **rows[0],
        "chunks": [chunk for row in rows for chunk in row["chunks"]],
        "hypotheses": [hypothesis for row in rows for hypothesis in row["hypotheses"]],
        "recognize_s": sum(row["recognize_s"] for row in rows),
        **{name: known[-1][name] if known else None for name in ("device", "dtype", "actor_rss_mb")},
        "warnings": [note, *(told for row in rows for told in row["warnings"])],
    }


def _failed(part: pa.Table, kind: ErrorKind, error: str) -> Row:
    """The RESULT row of a recording that cannot be recognized."""
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


def _verdict(deaths: Sequence[Attempt]) -> tuple[ErrorKind, str]:
    """(kind, what happened and what to do) for a recording that ended every process that tried it."""
    hung = all(death.reason is not None for death in deaths)
    remedy = "raise resources.recognizer_timeout_s" if hung else "give the recognizer more memory or another device"
    message = (
        f"recognized alone it ended the recognizer's process {len(deaths)} times ({_causes(deaths)});"
        f" look at the audio, {remedy}, and try it again with retry_failed=true, or take it out of the input"
    )
    return (ErrorKind.INFERENCE_TIMEOUT if hung else ErrorKind.WORKER_CRASH), message


def _causes(deaths: Sequence[Attempt]) -> str:
    """Where and how, each once."""
    unknown = "died without a word, as when it crashes or memory runs out"
    return "; ".join(dict.fromkeys(f"on {death.host} one {death.reason or unknown}" for death in deaths))


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
