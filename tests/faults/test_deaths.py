"""Processes that die, hang or cannot start, on a real Ray: the rows are those of an undisturbed run."""

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray
import soundfile
from rich.console import Console

from distil_ray.audio import subprocess_decoder
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, RunError
from distil_ray.output.run_context import Run
from distil_ray.pipeline import decode_stage, graph_execution, ray_graph, ray_monitor, runner
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.types import SAMPLE_RATE
from tests.audio.test_subprocess_decoder import FAULTY
from tests.support.fakes import CURSED_SAMPLES, DEADLY_SAMPLES, HANGING_SAMPLES, EchoTranscribe, FaultyTranscribe
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

GOOD = {f"{number}.wav": SAMPLE_RATE * (number + 1) // 4 for number in range(5)}
Rows = dict[str, dict[str, Any]]
Transcribed = tuple[ExitCode, str, Rows]


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Five recordings of a second and less."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, samples in GOOD.items():
        _write(folder / name, samples)
    return folder


def _write(path: Path, samples: int) -> None:
    noise = np.random.default_rng(samples).integers(-3000, 3000, samples).astype(np.int16)
    soundfile.write(path, noise, SAMPLE_RATE)


def _config(audio: Path, output: str, model: Path, *overrides: str) -> Config:
    settings = [f"input.uri={audio}", f"output.uri={audio.parent / output}", f"model.name={model}", "run_id=run"]
    settings += ["resources.actors=1", "decoding.language=en", "max_failed_fraction=1"]
    return load_config(None, [*settings, *overrides])


def _run(config: Config, transcriber: type) -> Transcribed:
    console = Console(file=io.StringIO(), width=500)
    code = runner.transcribe(config, console, transcriber)
    rows = stored_rows(config.output.uri)
    assert len({row["recording_id"] for row in rows}) == len(rows)
    return code, console.file.getvalue(), {row["recording_id"]: row for row in rows}  # type: ignore[attr-defined]


@pytest.fixture
def undisturbed(audio: Path, whisper_tiny_en: Path) -> Callable[..., Rows]:
    """undisturbed(override, …): the rows of a run of the same settings that nothing happens to."""

    def run(*overrides: str) -> Rows:
        with pytest.MonkeyPatch.context() as patch:
            run_stages_in_process(patch)
            return _run(_config(audio, "undisturbed", whisper_tiny_en, *overrides), EchoTranscribe)[2]

    return run


def _kill_when_told(path: Path) -> threading.Thread:
    """Kills, once, the process whose number appears in a file."""

    def wait_and_kill() -> None:
        deadline_s = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline_s:
            time.sleep(0.05)
        os.kill(int(path.read_text()), signal.SIGKILL)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def _wait_to_be_killed(path: Path) -> None:
    """The first process to come here waits for its end; those after it pass."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(str(os.getpid()))
        temporary.rename(path)
        time.sleep(120)


def test_recordings_that_kill_hang_or_break_the_recognizer_cost_themselves_alone(
    local_ray: None, audio: Path, whisper_tiny_en: Path, undisturbed: Callable[..., Rows]
) -> None:
    expected = undisturbed()
    bad = {"deadly.wav": DEADLY_SAMPLES, "hanging.wav": HANGING_SAMPLES, "cursed.wav": CURSED_SAMPLES}
    for name, samples in bad.items():
        _write(audio / name, samples)
    limits = ("resources.recognizer_timeout_s=3", "resources.recognizer_timeout_factor=0")
    code, words, rows = _run(_config(audio, "out", whisper_tiny_en, *limits), FaultyTranscribe)
    assert code == ExitCode.DONE
    assert {name: rows.pop(name)["error_kind"] for name in bad} == {
        "deadly.wav": "worker_crash",
        "hanging.wav": "inference_timeout",
        "cursed.wav": "inference_error",
    }
    assert rows == expected
    assert "was recognized recording by recording, because it had ended 2 recognizers" in words
    folder = audio.parent / "out" / "runs" / "run"
    assert (folder / "_SUCCESS").exists()
    assert "ended the recognizer's process 2 times" in (folder / "failed.csv").read_text()


class MortalTranscribe(EchoTranscribe):
    """Waits at its first part to be killed."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._path = Path(run.config.output.uri).parent / "recognizer"

    def __call__(self, parts: pa.Table) -> pa.Table:
        _wait_to_be_killed(self._path)
        return super().__call__(parts)


def test_a_recognizer_that_is_killed_loses_and_doubles_nothing(
    local_ray: None, audio: Path, whisper_tiny_en: Path, undisturbed: Callable[..., Rows]
) -> None:
    killer = _kill_when_told(audio.parent / "recognizer")
    code, words, rows = _run(_config(audio, "out", whisper_tiny_en, "plan.task_audio_s=1"), MortalTranscribe)
    killer.join()
    assert code == ExitCode.DONE
    assert rows == undisturbed("plan.task_audio_s=1")
    assert "recording by recording" not in words


def _decode_and_die(tasks: pa.Table, run: Run, path: Path, is_retry: Callable[[], bool]) -> Iterator[pa.Table]:
    with path.with_suffix(".retries").open("a") as file:
        file.write(f"{is_retry()} ")
    for part in decode_tasks(tasks, run, is_retry):
        yield part
        _wait_to_be_killed(path)


def test_a_decode_worker_that_is_killed_loses_and_doubles_nothing(
    local_ray: None,
    audio: Path,
    whisper_tiny_en: Path,
    undisturbed: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _write(audio / "long.wav", 100 * SAMPLE_RATE)  # several parts: it dies when some are on their way
    expected = undisturbed("plan.part_audio_s=30")
    path = audio.parent / "decoder"
    killer = _kill_when_told(path)
    monkeypatch.setattr(ray_graph, "decode_tasks", partial(_decode_and_die, path=path))
    code, _, rows = _run(_config(audio, "out", whisper_tiny_en, "plan.part_audio_s=30"), EchoTranscribe)
    killer.join()
    assert code == ExitCode.DONE
    assert rows == expected
    assert path.with_suffix(".retries").read_text() == "False True "


def _decode_with_faults(tasks: pa.Table, run: Run, **options: Any) -> Iterator[pa.Table]:
    """Decodes in a child that does what a file's first word says, and leaves no such child to others."""
    usual = subprocess_decoder.WORKER_COMMAND
    vars(subprocess_decoder)["WORKER_COMMAND"] = ("-P", FAULTY)
    decode_stage.shared_decoder.cache_clear()
    try:
        yield from decode_tasks(tasks, run, **options)
    finally:
        vars(subprocess_decoder)["WORKER_COMMAND"] = usual
        decode_stage.shared_decoder.cache_clear()


def test_decoders_that_crash_hang_or_eat_memory_in_a_task_cost_their_recordings(
    local_ray: None,
    audio: Path,
    whisper_tiny_en: Path,
    undisturbed: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = undisturbed()
    kinds = {"SEGFAULT": "decode_crash", "ABORT": "decode_oom", "MEMORY": "decode_oom"}
    kinds |= {"HANG": "decode_timeout"}
    for word in kinds:
        (audio / f"{word}.wav").write_text(f"{word} ")
    limits = ("resources.decoder_timeout_s=5", "resources.decoder_memory_mb=512")
    monkeypatch.setattr(ray_graph, "decode_tasks", _decode_with_faults)
    code, _, rows = _run(_config(audio, "out", whisper_tiny_en, *limits), EchoTranscribe)
    assert code == ExitCode.DONE
    assert {word: rows.pop(f"{word}.wav")["error_kind"] for word in kinds} == kinds
    assert rows == expected


def _decode_late(tasks: pa.Table, run: Run, path: Path, **options: Any) -> Iterator[pa.Table]:
    deadline_s = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    yield from decode_tasks(tasks, run, **options)


def _end_for_good(path: Path) -> None:
    """Ends the idle recognizer in a way that Ray does not restart, and then lets the decoders go on."""
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s:
        running = ray_monitor.ExecutionObserver.executor
        stages = list(running._topology) if running is not None else []
        actors = [
            actor for stage in stages if hasattr(stage, "_actor_pool") for actor in stage._actor_pool._running_actors
        ]
        if actors:
            ray.kill(actors[0], no_restart=True)
            break
        time.sleep(0.05)
    time.sleep(1)
    path.touch()


def test_a_recognizer_that_is_dead_for_good_is_replaced(
    local_ray: None,
    audio: Path,
    whisper_tiny_en: Path,
    undisturbed: Callable[..., Rows],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = undisturbed()
    path = audio.parent / "go-on"
    killer = threading.Thread(target=_end_for_good, args=(path,))
    killer.start()
    monkeypatch.setattr(ray_graph, "decode_tasks", partial(_decode_late, path=path))
    code, _, rows = _run(_config(audio, "out", whisper_tiny_en), EchoTranscribe)
    killer.join()
    assert code == ExitCode.DONE
    assert rows == expected


class UnloadableTranscribe(EchoTranscribe):
    def __init__(self, run: Run) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_model_that_cannot_be_loaded_is_reported_in_a_sentence(
    local_ray: None, audio: Path, whisper_tiny_en: Path
) -> None:
    with pytest.raises(RunError) as caught:
        _run(_config(audio, "out", whisper_tiny_en), UnloadableTranscribe)
    assert str(caught.value).startswith(f"a recognizer could not be started with model.name={whisper_tiny_en} on node ")
    assert "CUDA out of memory. Tried to allocate 20.00 GiB" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_that_no_node_can_hold_says_so_and_is_given_up(
    local_ray: None, audio: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_execution, "POLL_INTERVAL_S", 0.5)
    hopeless = ("resources.gpus_per_actor=1", "resources.autoscaling=true", "resources.stall_timeout_s=4")
    with pytest.raises(
        RunError, match=r"resources\.stall_timeout_s=4.* No recognizer is alive: .*resources\.gpus_per_actor"
    ) as caught:
        _run(_config(audio, "out", whisper_tiny_en, *hopeless), EchoTranscribe)
    assert "0 of 1 recognizers alive, 1 starting or waiting for resources" in str(caught.value)
    assert "Ray on 1 node: 4 CPUs, 0 GPUs" in str(caught.value)
