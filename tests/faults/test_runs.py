"""Whole runs on storage that misbehaves: the rows are those of an undisturbed run."""

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, RunError
from distil_ray.pipeline import runner
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from tests.faults.proxy import FaultyProxy, every_fault
from tests.support.fakes import EchoTranscribe
from tests.support.transcripts import stored_rows


@pytest.fixture
def corpus_in_a_bucket(bucket: str) -> str:
    """Nine recordings, one of them long enough for several parts, one broken."""
    storage = Storage()
    for number, seconds in enumerate([1, 2, 3, 4, 5, 6, 7, 70]):
        noise = np.random.default_rng(number).integers(-3000, 3000, seconds * SAMPLE_RATE).astype(np.int16)
        buffer = io.BytesIO()
        soundfile.write(buffer, noise, SAMPLE_RATE, format="WAV")
        storage.put(f"{bucket}/audio/{number}.wav", buffer.getvalue())
        storage.put(f"{bucket}/audio/{number}.txt", f"reference number {number}".encode())
    storage.put(f"{bucket}/audio/broken.wav", b"RIFF of nothing")
    return bucket


@pytest.fixture
def transcribe(corpus_in_a_bucket: str, whisper_tiny_en: Path, local_ray: None) -> Callable[..., tuple[ExitCode, str]]:
    """transcribe(endpoint, output, override, …): a run with the fake recognizer, its exit code and words."""

    def run(endpoint: str, output: str, *overrides: str) -> tuple[ExitCode, str]:
        config = _config(endpoint, corpus_in_a_bucket, output, str(whisper_tiny_en), *overrides)
        console = Console(file=io.StringIO(), width=200)
        code = runner.transcribe(config, console, EchoTranscribe)
        return code, console.file.getvalue()  # type: ignore[attr-defined]

    return run


def _config(endpoint: str, bucket: str, output: str, model: str, *overrides: str) -> Config:
    settings = [
        f"input.uri={bucket}/audio",
        f"output.uri={output}",
        f"model.name={model}",
        f"storage.endpoint_url={endpoint}",
        "storage.timeout_s=2",
        "resources.actors=1",
        "plan.task_audio_s=8",
        "plan.part_audio_s=30",
        "max_failed_fraction=0.5",
    ]
    return load_config(None, [*settings, *overrides])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory that a test may make smaller and larger; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def _used(folder: Path) -> int:
    return shutil.disk_usage(folder).used


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_words_and_the_next_one_goes_on(
    transcribe: Callable[..., tuple[ExitCode, str]], s3_environment: str, small_disk: Path
) -> None:
    undisturbed, disturbed = f"{small_disk}/calm", f"{small_disk}/full"
    bare = "report.write=false"  # a page that finds no room is no fault of the run
    assert transcribe(s3_environment, undisturbed, bare)[0] == ExitCode.DONE
    transcripts = sum(path.stat().st_size for path in Path(undisturbed, "transcripts").iterdir())
    too_little = 2 * _used(small_disk) - transcripts // 4  # parts of the long recording lie there too for a while
    subprocess.run(["mount", "-o", f"remount,size={too_little}", str(small_disk)], check=True)
    with pytest.raises(RunError, match="No space left on device"):
        transcribe(s3_environment, disturbed, bare)
    survivors = len(stored_rows(disturbed))
    assert 0 < survivors < 9
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    code, words = transcribe(s3_environment, disturbed, bare)
    assert code == ExitCode.DONE
    assert f"; {survivors} already done;" in words
    assert stored_rows(disturbed) == stored_rows(undisturbed)


@pytest.mark.slow
def test_a_run_through_every_fault_of_a_store_gives_the_same_rows(
    transcribe: Callable[..., tuple[ExitCode, str]], corpus_in_a_bucket: str, s3_environment: str, proxy: FaultyProxy
) -> None:
    undisturbed, disturbed = f"{corpus_in_a_bucket}/calm", f"{corpus_in_a_bucket}/rough"
    assert transcribe(s3_environment, undisturbed)[0] == ExitCode.DONE
    proxy.faults = tuple(every_fault(silence_s=2.5).values())
    proxy.rate, proxy.stale_listings = 0.1, 0.3
    with proxy.serving() as url:
        assert transcribe(url, disturbed)[0] == ExitCode.DONE
        assert transcribe(url, disturbed)[0] == ExitCode.DONE  # and nothing is done twice
    assert len(stored_rows(disturbed)) == 9
    assert stored_rows(disturbed) == stored_rows(undisturbed)
    assert proxy.done.total() > 20
