"""What breaks a recognizer costs one recording; deaths are counted where they outlive a process."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from distil_ray.output.run_context import Run
from distil_ray.pipeline.attempts import MAX_NODE_LOSSES, Attempts
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.fault_isolation import FaultIsolatedStage
from distil_ray.schema import PART_RESULT
from tests.pipeline.conftest import Planned, pointers
from tests.support.fakes import CURSED_SAMPLES, EchoRecognizer, EchoTranscribe, LocalWorker, Values

FILES = {"a.wav": 1600, "b.wav": CURSED_SAMPLES, "c.wav": 3200}


@pytest.fixture
def part(planned: Callable[..., Planned]) -> tuple[Run, pa.Table]:
    """The one part of three short recordings, the second of them cursed."""
    run, plan = planned(FILES, "decoding.language=en")
    (part,) = decode_tasks(pointers(plan), run)
    return run, part


def _key(part: pa.Table) -> str:
    return f"{part['task_id'][0].as_py()}/part-000000"


def _deaths(
    key: str, times: int, reason: str | None = None, node: str = "here", limit_s: float | None = None
) -> Values:
    """What processes leave behind that die while they try `key`."""
    records = Values()
    for number in range(1, times + 1):
        record = {"node": node, "host": "host-7", "pid": number, "began_at": "then", "reason": reason}
        record |= {"limit_s": limit_s}
        records[f"{key}.{number}"] = json.dumps(record).encode()
    return records


def _errors(result: pa.Table) -> dict[int, tuple[str | None, str | None]]:
    row = result.to_pylist()[0]
    pairs = zip(row["chunks"], row["hypotheses"], strict=True)
    return {chunk["recording"]: (heard["error_kind"], heard["error"]) for chunk, heard in pairs}


def _texts(result: pa.Table) -> list[str]:
    return [heard["text"] for heard in result["hypotheses"][0].as_py()]


def test_what_the_recognizer_raises_costs_one_recording(part: tuple[Run, pa.Table]) -> None:
    run, table = part
    records = Values()
    result = FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), records)(table)
    assert result.schema == PART_RESULT
    errors = _errors(result)
    cursed = next(number for number, (kind, _) in errors.items() if kind)
    assert errors == dict.fromkeys(range(3), (None, None)) | {
        cursed: ("inference_error", "RuntimeError: this chunk is cursed")
    }
    assert sum(bool(text) for text in _texts(result)) == 2
    assert "recording by recording, because its recognizer raised RuntimeError" in result["warnings"][0].as_py()[0]
    assert records == {}


class Ended(BaseException):
    """Stands for the end of the process."""


class BrokenDevice(EchoTranscribe):
    """Recognizes nothing any more once it has met the cursed chunk, as after an illegal memory access in CUDA."""

    is_broken = False

    def __call__(self, parts: pa.Table) -> pa.Table:
        if self.is_broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        try:
            return super().__call__(parts)
        except RuntimeError:
            self.is_broken = True
            raise

    def is_device_usable(self) -> bool:
        return not self.is_broken


def test_a_recording_that_breaks_the_device_does_not_fail_those_after_it(
    part: tuple[Run, pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    left = Values()  # what a process that is killed leaves
    num_ended = 0

    def end(pid: int, number: int) -> None:
        nonlocal num_ended
        assert (pid, number) == (os.getpid(), signal.SIGKILL)
        num_ended += 1
        left.update(records)
        raise Ended

    monkeypatch.setattr(os, "kill", end)
    run, table = part
    for _ in range(10):
        records = Values(left)
        with suppress(Ended):
            result = FaultIsolatedStage(BrokenDevice, run, LocalWorker(), records)(table)  # in a new process
            break
    errors = _errors(result)
    (cursed,) = (number for number, (kind, _) in errors.items() if kind)
    assert errors[cursed][0] == "worker_crash"
    assert "could not use its device any more after RuntimeError: this chunk is cursed" in (errors[cursed][1] or "")
    assert sum(bool(text) for text in _texts(result)) == 2
    assert num_ended == 2 * run.config.resources.max_attempts  # of the part, then of the recording


def test_an_error_while_the_language_is_detected_costs_one_recording_too(planned: Callable[..., Planned]) -> None:
    class Deaf(EchoRecognizer):
        def detect_languages(self, chunks: Sequence[Any]) -> Any:
            if any(len(chunk) == CURSED_SAMPLES for chunk in chunks):
                raise ValueError("no language in this")
            return super().detect_languages(chunks)

    class DeafTranscribe(EchoTranscribe):
        def __init__(self, run: Run | None = None) -> None:
            super().__init__(run)
            self._recognizer = Deaf()

    run, plan = planned(FILES)
    (table,) = decode_tasks(pointers(plan), run)
    errors = _errors(FaultIsolatedStage(DeafTranscribe, run, LocalWorker(), Values())(table))
    assert sorted(str(kind) for kind, _ in errors.values()) == ["None", "None", "inference_error"]


def test_a_part_that_killed_twice_is_tried_recording_by_recording(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"a.wav": 1600, "b.wav": 2400}, "decoding.language=en")
    (table,) = decode_tasks(pointers(plan), run)
    whole = FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), Values())(table)
    apart = FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), _deaths(_key(table), 2))(table)
    assert _texts(apart) == _texts(whole)
    assert apart["chunks"] == whole["chunks"]
    assert "it had ended 2 recognizers (on host-7 one died without a reason" in apart["warnings"][0].as_py()[0]


@pytest.mark.parametrize(
    ("reason", "limit_s", "kind", "remedy"),
    [
        (None, None, "worker_crash", "give the recognizer more memory"),
        ("gave no answer within 640 s and was ended", 640, "inference_timeout", "raise resources.recognizer_timeout_s"),
        ("could not use its device any more after an error", None, "worker_crash", "or another device"),
    ],
)
def test_a_recording_that_killed_twice_alone_is_given_up_with_words(
    planned: Callable[..., Planned], reason: str | None, limit_s: float | None, kind: str, remedy: str
) -> None:
    run, plan = planned({"a.wav": 1600, "b.wav": 2400}, "decoding.language=en")
    (table,) = decode_tasks(pointers(plan), run)
    records = _deaths(_key(table), 2, reason, limit_s=limit_s)
    records |= _deaths(f"{_key(table)}-recording-000001", 2, reason, limit_s=limit_s)
    errors = _errors(FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), records)(table))
    assert errors[0] == (None, None)
    assert errors[1][0] == kind
    assert "ended the recognizer's process 2 times" in (errors[1][1] or "")
    assert remedy in (errors[1][1] or "")
    assert "retry_failed=true" in (errors[1][1] or "")


def test_an_attempt_on_a_lost_node_is_not_held_against_the_audio() -> None:
    records = _deaths("task/part", MAX_NODE_LOSSES, node="gone")
    attempts = Attempts(records, LocalWorker("gone"), 2)
    claim = attempts.claim("task/part")
    assert (claim.deaths, claim.used_up) == ((), False)
    claim = attempts.claim("task/part")  # the one above has not come back, and this node lives
    assert len(claim.deaths) == 1
    assert attempts.claim("task/part").used_up
    assert not Attempts(records, LocalWorker("gone"), 2).claim("another/part").deaths


def test_what_takes_node_after_node_down_is_not_excused_for_ever() -> None:
    records = _deaths("task/part", MAX_NODE_LOSSES + 2, node="gone")
    assert Attempts(records, LocalWorker("gone"), 2).claim("task/part").used_up


def test_an_attempt_that_ended_well_is_forgotten() -> None:
    records = Values()
    attempts = Attempts(records, LocalWorker(), 2)
    for _ in range(5):
        claim = attempts.claim("task/part")
        assert claim.deaths == ()
        attempts.release(claim)
    assert records == {}


def test_a_request_that_is_repeated_because_its_answer_was_lost_counts_once() -> None:
    class Repeating(Values):
        def create(self, key: str, value: bytes) -> bool:
            super().create(key, value)
            return super().create(key, bytes(bytearray(value)))  # as sent again: an equal value

    records = Repeating()
    claim = Attempts(records, LocalWorker(), 2).claim("task/part")
    assert (claim.key, claim.deaths, len(records)) == ("task/part.1", (), 1)


class Unreachable(Values):
    def create(self, key: str, value: bytes) -> bool:
        raise ConnectionError("the head node does not answer")


def test_a_store_that_does_not_answer_costs_the_count_and_not_the_work(planned: Callable[..., Planned]) -> None:
    run, plan = planned({"a.wav": 1600}, "decoding.language=en")
    (table,) = decode_tasks(pointers(plan), run)
    result = FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), Unreachable())(table)
    assert _texts(result)[0].startswith("en 1600")


def test_a_model_that_kills_while_it_loads_is_given_up(planned: Callable[..., Planned]) -> None:
    run, _ = planned({"a.wav": 1600})
    with pytest.raises(RuntimeError, match="2 processes in a row died while loading it"):
        FaultIsolatedStage(EchoTranscribe, run, LocalWorker(), _deaths("start-worker", 2))


# ---------------------------------------------------------------- time limit


SCRIPT = """
import ctypes, sys, time
from pathlib import Path
from distil_ray.pipeline import fault_isolation

fault_isolation.GRACE_S = 1.0
with fault_isolation.time_limit(30, print):
    pass
with fault_isolation.time_limit(1.0, lambda reason: Path(sys.argv[1]).write_text(reason)):
    {hang}
print("came back")
"""


def _run(hang: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(hang=hang), str(tmp_path / "reason")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_that_hangs_leaves_a_reason_and_is_killed(tmp_path: Path) -> None:
    done = _run("time.sleep(50)", tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "reason").read_text() == "gave no answer within 1 s and was ended"
    assert "line 10 in <module>" in done.stderr  # where it stood


def test_code_that_lets_no_thread_run_is_ended_all_the_same(tmp_path: Path) -> None:
    done = _run("ctypes.PyDLL(None).sleep(50)", tmp_path)
    assert done.returncode == 1
    assert not (tmp_path / "reason").exists()


@pytest.mark.parametrize("work", ["pass", "1 / 0"])
def test_what_ends_in_time_is_left_alone(tmp_path: Path, work: str) -> None:
    done = _run(f"{work}\ntime.sleep(2.5)", tmp_path)
    assert ("came back" in done.stdout) == (work == "pass")
    assert not (tmp_path / "reason").exists()
