"""Fault isolation around the transcribe stage: a part that kills, hangs or breaks its recognizer costs one recording.

A part is recognized as a whole. If that raises an exception, or if the part has ended `resources.max_attempts`
processes before, its recordings are retried individually. Each attempt is counted (attempts.py), and a recording that
still fails gets the error kind `worker_crash`, `inference_timeout` or `inference_error`. Without this, Ray would give a
part that kills its process to one new actor after the other, without end.

A recognizer that hangs in native code cannot be ended by an exception, so `time_limit` ends the whole process. It has
two timers. A thread records a reason, prints the stack of every thread and kills the process. If the hanging code holds
the interpreter's lock, so that no thread runs, Python's own timer, which needs no lock, ends the process `GRACE_S`
later without a reason.

After some errors of CUDA every later call of the process fails, whatever the audio. The process is then ended too
(`_end_if_broken`), which counts as an attempt of its part, and Ray starts another one.

The module does not import Ray.
"""

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind
from distil_ray.output.run_context import Run
from distil_ray.pipeline.attempts import Attempt, Attempts, Claim, KeyValueStore, WorkerIdentity
from distil_ray.pipeline.individual_retry import describe_error, failed_result, retry_individually, with_chunks
from distil_ray.pipeline.part_time_limit import PartTimeLimits
from distil_ray.pipeline.worker_state import StatePublisher, WorkerState
from distil_ray.types import SAMPLE_RATE

logger = logging.getLogger(__name__)

GRACE_S = 30.0  # seconds in which the reason is stored
STDERR = 2  # the worker's log file; sys.stderr may not be a file


@contextmanager
def time_limit(limit_s: float, leave_reason: Callable[[str], None]) -> Iterator[None]:
    """Ends this process with SIGKILL if the body takes longer than `limit_s` seconds.

    At most one time limit may be active in a process. `leave_reason` stores the reason before the process ends.
    """
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
    logger.error("the recognizer %s; its stacks follow", reason)
    faulthandler.dump_traceback(file=STDERR)
    try:
        leave_reason(reason)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)


Row = dict[str, Any]


class FaultIsolatedStage:
    """Turns rows of PART into rows of PART_RESULT with a stage that may die, hang or raise."""

    def __init__(
        self,
        transcriber: type,
        run: Run,
        identity: WorkerIdentity,
        records: KeyValueStore,
        publish: Callable[[WorkerState], None] = lambda _: None,
    ) -> None:
        """Loads the recognizer in this process.

        Args:
            transcriber: `TranscribeStage`, or a callable class with the same interface.
            run: The run.
            identity: Identity of this process in the cluster.
            records: Where the attempts of the run are counted.
            publish: Stores the state of this process for the driver's progress display.
        """
        self._state = StatePublisher(publish)
        self._attempts = Attempts(records, identity, run.config.resources.max_attempts)
        self._transcribe = self._load(transcriber, run, identity.worker())
        self._limits = PartTimeLimits(run.config.resources)
        self._state.set_ready()

    def _load(self, transcriber: type, run: Run, worker: str) -> Callable[[pa.Table], pa.Table]:
        """Loads the transcriber. Attempts are counted here too: Ray restarts a process that dies while loading."""
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
        return pa.concat_tables([self._isolate(parts.slice(i, 1)) for i in range(parts.num_rows)])

    def _isolate(self, part: pa.Table) -> pa.Table:
        if part["already_committed"][0].as_py():
            part = with_chunks(part, [])
        if not len(part["chunks"][0]):
            return self._transcribe(part)
        claim = self._attempts.claim(_key(part))
        if claim.used_up:
            return retry_individually(
                part,
                f"it had ended {len(claim.deaths)} recognizers ({_causes(claim.deaths)})",
                partial(self._recognize_recording, part_deaths=claim.deaths),
            )
        try:
            return self._recognize(part, claim)
        except Exception as error:
            logger.exception("a part could not be recognized as one; trying recording by recording")
            return retry_individually(part, f"its recognizer raised {describe_error(error)}", self._recognize_recording)

    def _recognize(self, part: pa.Table, claim: Claim, part_deaths: Sequence[Attempt] = ()) -> pa.Table:
        """Recognizes a part, or one recording of it, in limited time. Releases the attempt, unless the process dies.

        `part_deaths`: earlier attempts at the whole part.
        """
        audio_s = _num_samples(part) / SAMPLE_RATE
        deaths = (*claim.deaths, *part_deaths)
        limit_s = self._limits.limit_s(audio_s, [death.limit_s for death in deaths if death.limit_s is not None])
        before_s = self._processed_s()
        self._state.set_transcribing(
            part["task_id"][0].as_py(), part["part_index"][0].as_py(), audio_s, lambda: self._processed_s() - before_s
        )
        started_s = time.monotonic()
        try:
            with time_limit(limit_s, lambda why: self._attempts.record_reason(claim, why, limit_s)):
                result = self._transcribe(part)
            self._limits.add(result, time.monotonic() - started_s)
            return result
        except Exception as error:
            self._end_if_broken(claim, error)
            raise
        finally:
            self._state.set_ready()
            self._attempts.release(claim)

    def _end_if_broken(self, claim: Claim, error: Exception) -> None:
        """Ends this process with SIGKILL if its device does not work any more. The attempt is not released."""
        is_usable = getattr(self._transcribe, "is_device_usable", None)
        if is_usable is None or is_usable():
            return
        logger.exception("the device of the recognizer does not work any more; its process ends")
        try:
            self._attempts.record_reason(claim, f"could not use its device any more after {describe_error(error)}")
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def _processed_s(self) -> float:
        return float(getattr(self._transcribe, "processed_s", 0.0))

    def _recognize_recording(self, part: pa.Table, part_deaths: Sequence[Attempt] = ()) -> Row:
        """Returns the result of one recording. A failure is in its hypotheses.

        `part_deaths`: earlier attempts at the whole part.
        """
        recording = part["chunks"][0][0].as_py()["recording"]
        claim = self._attempts.claim(f"{_key(part)}-recording-{recording:06d}")
        if claim.used_up:
            return failed_result(part, *_explain_deaths(claim.deaths))
        try:
            row: Row = self._recognize(part, claim, part_deaths).to_pylist()[0]
        except Exception as error:
            return failed_result(part, ErrorKind.INFERENCE_ERROR, describe_error(error))
        return row


def _key(part: pa.Table) -> str:
    """Returns the name of a part in its run."""
    return f"{part['task_id'][0].as_py()}/part-{part['part_index'][0].as_py():06d}"


def _num_samples(part: pa.Table) -> int:
    return sum(chunk["num_samples"] for chunk in part["chunks"][0].as_py())


def _explain_deaths(deaths: Sequence[Attempt]) -> tuple[ErrorKind, str]:
    """Returns (error kind, message) for a recording that ended every process that tried it."""
    hung = all(death.limit_s is not None for death in deaths)
    remedy = "raise resources.recognizer_timeout_s" if hung else "give the recognizer more memory or another device"
    message = (
        f"recognized individually, it ended the recognizer's process {len(deaths)} times ({_causes(deaths)});"
        f" look at the audio, {remedy}, and try it again with retry_failed=true, or take it out of the input"
    )
    return (ErrorKind.INFERENCE_TIMEOUT if hung else ErrorKind.WORKER_CRASH), message


def _causes(deaths: Sequence[Attempt]) -> str:
    """Returns on which hosts and how the processes ended, each once."""
    unknown = "died without a reason, as after a crash or when memory runs out"
    return "; ".join(dict.fromkeys(f"on {death.host} one {death.reason or unknown}" for death in deaths))
