"""Segments of a remote WAV: only their bytes are fetched, and their audio is that of the whole file."""

import io
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pytest
import soundfile

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16
from distil_ray.audio.segments import AudioSegment
from distil_ray.config import StorageConfig
from distil_ray.readers.channels import audio_segment_for
from distil_ray.readers.fetch import prefetch_files
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation, Recording

MINUTES = 3


def wav(rate: int, channels: int, subtype: str, kind: str = "WAV") -> bytes:
    noise = np.random.default_rng(rate).normal(0, 0.1, (MINUTES * 60 * rate, channels))
    written = io.BytesIO()
    soundfile.write(written, noise, rate, subtype=subtype, format=kind)
    return written.getvalue()


def segments(uri: str, size: int, *spans: tuple[float, float]) -> list[Recording]:
    return [
        Recording(str(start), uri, size, location=AudioLocation(start_s=start, length_s=length))
        for start, length in spans
    ]


def decode(path: Path, cut: AudioSegment) -> Any:
    *pieces, outcome = decode_file(str(path), segment=cut)
    return np.concatenate(cast(list[PCM16], pieces)), outcome


@pytest.fixture
def fetched_bytes(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the bytes that are fetched of each file."""
    counts = Counter[str]()
    fetch, read_range = Storage.fetch, Storage.read_range

    def fetched(self: Storage, uri: str, target: str | Path) -> int:
        size = fetch(self, uri, target)
        counts[uri] += size
        return size

    def read(self: Storage, uri: str, start: int, size: int) -> bytes:
        counts[uri] += size
        return read_range(self, uri, start, size)

    monkeypatch.setattr(Storage, "fetch", fetched)
    monkeypatch.setattr(Storage, "read_range", read)
    return counts


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "kind"),
    [
        (16_000, 1, "PCM_16", "WAV"),
        (44_100, 2, "PCM_24", "WAVEX"),
        (8_000, 1, "ULAW", "WAV"),
        (8_000, 2, "FLOAT", "RF64"),
    ],
)
def test_only_the_segments_of_a_remote_wav_are_fetched(
    bucket: str, tmp_path: Path, fetched_bytes: Counter[str], rate: int, channels: int, subtype: str, kind: str
) -> None:
    content = wav(rate, channels, subtype, kind)
    (tmp_path / "whole").write_bytes(content)
    Storage().put(f"{bucket}/a.wav", content)
    wanted = segments(f"{bucket}/a.wav", len(content), (100.3, 2.0), (0.2, 1.5), (101.9, 3.0), (MINUTES * 60 - 1, 1.0))
    (tmp_path / "parts").mkdir()
    for recording, path in zip(wanted, prefetch_files(wanted, {}, tmp_path / "parts", Storage(), 2), strict=True):
        assert isinstance(path, Path)
        pcm, outcome = decode(path, audio_segment_for(recording, "mix"))
        whole, _ = decode(tmp_path / "whole", audio_segment_for(recording, "mix"))
        assert outcome.error_kind is None
        assert np.array_equal(pcm, whole)
    assert fetched_bytes[f"{bucket}/a.wav"] < 0.2 * len(content)


def test_a_file_is_fetched_whole_for_large_segments_and_other_formats(
    bucket: str, tmp_path: Path, fetched_bytes: Counter[str]
) -> None:
    plain = wav(8_000, 1, "PCM_16")
    files = {
        "most.wav": (plain, (0.0, 100.0)),
        "open.wav": (plain, (170.0, None)),
        "adpcm.wav": (wav(8_000, 1, "IMA_ADPCM"), (60.0, 1.0)),
        "a.flac": (wav(8_000, 1, "PCM_16", "FLAC"), (60.0, 1.0)),
        "not.wav": (b"RIFF" + bytes(300_000), (60.0, 1.0)),
    }
    for name, (content, (start_s, length_s)) in files.items():
        uri = f"{bucket}/{name}"
        Storage().put(uri, content)
        recording = Recording(name, uri, len(content), location=AudioLocation(start_s=start_s, length_s=length_s))
        (path,) = prefetch_files([recording], {}, tmp_path, Storage(), 1)
        assert isinstance(path, Path)
        assert path.read_bytes() == content
        assert fetched_bytes[uri] >= len(content)


def test_segments_that_arrive_slowly_make_progress(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The local file has its full size from the beginning: progress is what has been written into it."""

    def copy_slowly(self: Storage, uri: str, start: int, size: int, sink: IO[bytes], *_: object) -> None:
        data = self.read_range(uri, start, size)
        for begin in range(0, size, size // 10):
            time.sleep(0.3)
            sink.write(data[begin : begin + size // 10])

    uri, data = f"{bucket}/slow.wav", wav(16_000, 1, "PCM_16")
    storage = Storage(StorageConfig(max_attempts=1, timeout_s=1))
    storage.put(uri, data)
    monkeypatch.setattr(Storage, "copy_range", copy_slowly)
    planned = segments(uri, len(data), (60.0, 30.0))
    (local,) = prefetch_files(planned, {}, tmp_path, storage, threads=1, timeout_s=0.5)
    assert local == tmp_path / "000000"
