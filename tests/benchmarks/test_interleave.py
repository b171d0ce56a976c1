"""Workers and the race, with a tiny engine in a real process."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.clips import write_wav
from benchmarks.comparison.environments import UnavailableError
from benchmarks.comparison.interleave import (
    EngineProcess,
    TranscriptionFailedError,
    current_python,
    run_engine,
    run_interleaved,
)
from benchmarks.comparison.worker import Job, SetResult, read_wav


def _runner(folder: Path, name: str = "fake", **options: object) -> EngineProcess:
    paths = []
    for number, samples in enumerate((100, 2000, 30_000)):
        path = folder / f"{number}.wav"
        write_wav(path, np.arange(samples).astype(np.int16))
        paths.append(str(path))
    job = Job(
        "no model",
        1,
        True,
        30.0,
        options,
        paths[0],
        {"short": paths[:2], "long": paths[2:]},
        {"short": "en", "long": "en"},
    )
    return EngineProcess(name, current_python(), "tests.benchmarks.fake_engine", job)


def test_a_worker_answers_for_every_set_in_order_though_its_libraries_print(tmp_path: Path) -> None:
    results = list(run_engine(_runner(tmp_path)))

    assert [(answer.set, answer.texts) for answer in results] == [
        ("short", ["en 100", "en 2000"]),
        ("long", ["en 30000"]),
    ]
    assert all(answer.cpu_s >= 0 and answer.wall_s >= 0 for answer in results)
    assert all(5 < answer.peak_rss_mb < 500 for answer in results)


def test_a_worker_that_dies_is_reported_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"fake: exit code 1: RuntimeError: no such weights"):
        list(run_engine(_runner(tmp_path, dies_with="no such weights")))


def test_a_worker_that_forgets_a_recording_is_not_believed(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="gave 1 texts for short where 2"):
        list(run_engine(_runner(tmp_path, texts=1)))


def test_what_was_done_before_a_failure_is_not_lost(tmp_path: Path) -> None:
    results: list[SetResult] = []

    with pytest.raises(TranscriptionFailedError, match="fake: exit code 1: RuntimeError: too long"):
        for result in run_engine(_runner(tmp_path, dies_late_with="too long")):
            results.append(result)
    assert [result.set for result in results] == ["short"]


def test_a_worker_that_hangs_is_killed(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"fake: killed; it had used its 0\.5 s"):
        list(run_engine(_runner(tmp_path, takes_s=600), limit_s=0.5))


def test_an_interpreter_that_is_not_there_is_said(tmp_path: Path) -> None:
    missing = EngineProcess("fake", tmp_path / "bin" / "python", "tests.benchmarks.fake_engine", _runner(tmp_path).job)

    with pytest.raises(UnavailableError, match=r"fake: .*No such file"):
        list(run_engine(missing))


def test_engines_take_turns_and_one_that_fails_is_left_out_with_its_reason(tmp_path: Path) -> None:
    told: list[str] = []
    broken = _runner(tmp_path, "broken", dies_with="out of luck")

    outcome = run_interleaved([_runner(tmp_path, "one"), broken, _runner(tmp_path, "two")], 2, told.append)

    assert {name: len(results) for name, results in outcome.results.items()} == {"one": 4, "two": 4}
    assert outcome.left_out == {"broken": "broken: exit code 1: RuntimeError: out of luck"}
    assert [line.partition(":")[0] for line in told] == [
        "round 1 of 2, one",
        "left out",
        "round 1 of 2, two",
        "round 2 of 2, two",
        "round 2 of 2, one",
    ]


def test_only_16_khz_mono_pcm16_is_taken(tmp_path: Path) -> None:
    pcm = np.array([1, -2, 3], np.int16)
    write_wav(tmp_path / "a.wav", pcm)

    assert read_wav(tmp_path / "a.wav").tolist() == [1, -2, 3]

    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = (8000).to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(content)
    with pytest.raises(ValueError, match="not 16 kHz mono"):
        read_wav(tmp_path / "b.wav")
