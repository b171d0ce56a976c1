"""The decoder process may crash, hang or run out of memory: the recording gets an error, and the next is decoded."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import soundfile

from distil_ray.audio import subprocess_decoder
from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.errors import ErrorKind
from distil_ray.types import SAMPLE_RATE

FAULTY = str(Path(__file__).with_name("faulty_decoder.py"))


@pytest.fixture
def decoder() -> Iterator[SubprocessDecoder]:
    decoder = SubprocessDecoder(memory_mb=512, timeout_s=60)
    yield decoder
    decoder.close()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[SubprocessDecoder]:
    """A decoder whose process breaks on files that begin with the name of a fault."""
    monkeypatch.setattr(subprocess_decoder, "WORKER_COMMAND", ("-P", FAULTY))
    decoder = SubprocessDecoder(memory_mb=512, timeout_s=60)
    yield decoder
    decoder.close()


@pytest.fixture
def clip(audio_formats: Path, tmp_path: Path) -> Path:
    """2.04 s of speech."""
    return Path(shutil.copy(audio_formats / "pcm-s16.wav", tmp_path / "clip.wav"))


@pytest.fixture
def hour(tmp_path: Path) -> Path:
    """An hour of quiet noise: more than fits into the pipe."""
    path = tmp_path / "hour.wav"
    second = np.random.default_rng(0).integers(-50, 50, SAMPLE_RATE).astype(np.int16)
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as file:
        for _ in range(3600):
            file.write(second)
    return path


def decode(decoder: SubprocessDecoder, path: Path, name: str = "s3://corpus/a.wav") -> tuple[PCM16, DecodeResult]:
    *pieces, result = decoder.decode(str(path), name)
    assert isinstance(result, DecodeResult)
    pcm = np.concatenate([np.zeros(0, np.int16), *[cast(PCM16, piece) for piece in pieces]])
    assert len(pcm) == result.num_samples
    return pcm, result


def child_pid(decoder: SubprocessDecoder) -> int:
    assert decoder._worker is not None
    return decoder._worker._process.pid


def fault(tmp_path: Path, word: str) -> Path:
    path = tmp_path / word.lower()
    path.write_bytes(word.encode() + b" ")
    return path


def test_the_worker_process_decodes_like_decode_file(decoder: SubprocessDecoder, audio_formats: Path) -> None:
    for name in ("pcm-s16.wav", "mp3-cbr64.mp3", "rate-96000.flac", "truncated.flac"):
        path = audio_formats / name
        *pieces, expected = decode_file(str(path))
        pcm, result = decode(decoder, path)
        assert isinstance(expected, DecodeResult)
        assert np.array_equal(pcm, np.concatenate([cast(PCM16, piece) for piece in pieces]))
        assert result.error_kind is expected.error_kind
        assert result.cpu_s > 0


def test_one_worker_process_decodes_many_files(decoder: SubprocessDecoder, clip: Path) -> None:
    decode(decoder, clip)
    first = child_pid(decoder)
    for _ in range(20):
        assert decode(decoder, clip)[1].error_kind is None
    assert child_pid(decoder) == first


NAMESPACE_PACKAGE = """
import sys, types

package = types.ModuleType("distil_ray")
package.__path__, package.__file__ = [sys.argv[1]], None
sys.modules["distil_ray"] = package
from distil_ray.audio.subprocess_decoder import SubprocessDecoder

decoder = SubprocessDecoder(memory_mb=512, timeout_s=60)
print(sum(len(piece) for piece in decoder.decode(sys.argv[2], "clip.wav") if hasattr(piece, "dtype")))
decoder.close()
"""


def test_a_folder_named_like_the_package_in_the_working_directory_does_no_harm(clip: Path) -> None:
    package = Path(subprocess_decoder.__file__).parents[1]
    words = [sys.executable, "-c", NAMESPACE_PACKAGE, str(package), str(clip)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=clip.parent)
    assert done.stdout == f"{round(2.04 * SAMPLE_RATE)}\n", done.stderr


def test_messages_name_the_recording(decoder: SubprocessDecoder, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("<html>")
    _, result = decode(decoder, tmp_path / "page", "s3://corpus/talk.mp3")
    assert result.error == "s3://corpus/talk.mp3: this is an HTML page"
    _, result = decode(decoder, tmp_path / "gone", "s3://corpus/talk.mp3")
    assert result.error_kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize(
    ("word", "kind", "words"),
    [
        ("SEGFAULT", ErrorKind.DECODE_CRASH, "free(): invalid pointer"),
        ("EXIT", ErrorKind.DECODE_CRASH, "exit code 7"),
        ("ABORT", ErrorKind.DECODE_OOM, "SIGABRT"),
        ("MEMORY", ErrorKind.DECODE_OOM, "512 MiB"),
        ("RAISE", ErrorKind.INTERNAL, "KeyError: 's20'"),
    ],
)
def test_a_file_that_breaks_the_decoder_is_named_and_the_next_one_is_decoded(
    faulty: SubprocessDecoder, clip: Path, tmp_path: Path, word: str, kind: ErrorKind, words: str
) -> None:
    for _ in range(2):
        pcm, result = decode(faulty, fault(tmp_path, word), "s3://corpus/bad.wav")
        assert result.error_kind is kind
        assert words in (result.error or "")
        assert (result.error or "").startswith("s3://corpus/bad.wav: ")
        assert len(pcm) == 0
        pcm, result = decode(faulty, clip)
        assert result.error_kind is None
        assert len(pcm) == 32_640


def test_samples_before_a_crash_are_kept(faulty: SubprocessDecoder, clip: Path) -> None:
    late = Path(f"{clip}.late")
    late.write_bytes(b"LATE ")
    pcm, result = decode(faulty, late)
    assert result.error_kind is ErrorKind.DECODE_CRASH
    assert "SIGKILL" in (result.error or "")
    assert len(pcm) == result.num_samples == 32_640


def test_a_decoder_that_hangs_is_ended(clip: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it waits for a writer that never comes
    decoder = SubprocessDecoder(memory_mb=512, timeout_s=0.5)
    decode(decoder, clip)
    pid = child_pid(decoder)
    _, result = decode(decoder, tmp_path / "pipe")
    assert result.error_kind is ErrorKind.DECODE_TIMEOUT
    assert "0.5 s" in (result.error or "")
    assert not Path(f"/proc/{pid}").exists()
    assert decode(decoder, clip)[1].error_kind is None
    decoder.close()


def test_output_of_a_library_neither_blocks_nor_corrupts_the_stream(faulty: SubprocessDecoder, clip: Path) -> None:
    noisy = Path(f"{clip}.noise")
    noisy.write_bytes(b"NOISE ")
    pcm, result = decode(faulty, noisy)
    assert result.error_kind is None
    assert np.array_equal(pcm, decode(faulty, clip)[0])


def test_an_abandoned_recording_does_not_disturb_the_next(decoder: SubprocessDecoder, clip: Path, hour: Path) -> None:
    pieces = decoder.decode(str(hour), "hour")
    next(pieces)
    pid = child_pid(decoder)
    pcm, result = decode(decoder, clip)  # while the generator is still held
    assert result.error_kind is None
    assert len(pcm) == 32_640
    assert child_pid(decoder) != pid
    del pieces
    assert decode(decoder, clip)[1].error_kind is None


def test_a_worker_process_that_dies_between_two_files_affects_neither(decoder: SubprocessDecoder, clip: Path) -> None:
    decode(decoder, clip)
    os.kill(child_pid(decoder), signal.SIGKILL)
    assert decode(decoder, clip)[1].error_kind is None


def test_the_worker_process_gets_no_credentials(
    decoder: SubprocessDecoder, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    decode(decoder, clip)
    assert b"secret" not in Path(f"/proc/{child_pid(decoder)}/environ").read_bytes()


def test_the_worker_process_ends_with_its_parent(hour: Path, tmp_path: Path) -> None:
    script = (
        "import json, os, signal, sys\n"
        "from distil_ray.audio.subprocess_decoder import SubprocessDecoder\n"
        "decoder = SubprocessDecoder(512, 60)\n"
        "next(decoder.decode(sys.argv[1], 'hour'))\n"
        "print(json.dumps(decoder._worker._process.pid), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(hour)], stdout=subprocess.PIPE, check=False)
    status = Path(f"/proc/{json.loads(done.stdout)}/status")
    deadline_s = time.monotonic() + 30
    while status.exists() and "zombie" not in status.read_text():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def test_a_worker_process_that_cannot_start_is_reported(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    monkeypatch.setattr(subprocess_decoder, "WORKER_COMMAND", ("-c", "raise SystemExit('no such library')"))
    _, result = decode(SubprocessDecoder(512, 60), clip)
    assert result.error_kind is ErrorKind.INTERNAL
    assert "no such library" in (result.error or "")


def test_an_hour_of_audio_takes_no_more_memory_than_a_clip(decoder: SubprocessDecoder, clip: Path, hour: Path) -> None:
    def peak_mb() -> int:
        status = Path(f"/proc/{child_pid(decoder)}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1024

    decode(decoder, clip)
    small = peak_mb()
    *_, result = decoder.decode(str(hour), "hour")
    assert isinstance(result, DecodeResult)
    assert result.num_samples == 3600 * SAMPLE_RATE
    assert peak_mb() < small + 16
