"""The plan knows durations from headers, and corrects what it estimates by those that it has read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distil_ray.config import InputConfig
from distil_ray.readers.durations import DurationReader
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation, Recording
from tests.support.clips import load_samples


def _read(recordings: list[Recording], budget_s: float = 20.0) -> list[tuple[float, bool]]:
    with DurationReader(Storage(), budget_s) as reader:
        return [(found.seconds, found.is_known) for found in reader.read(recordings)]


def test_every_real_clip_has_its_duration_by_its_header(clips: Path) -> None:
    recordings = list(list_recordings(InputConfig(uri=(str(clips),)), Storage()))

    for recording, (seconds, is_known) in zip(recordings, _read(recordings), strict=True):
        true_s = len(load_samples(Path(recording.uri).stem)) / 16_000
        assert is_known and seconds == pytest.approx(true_s, abs=0.2), recording.recording_id


def test_headers_of_remote_wav_and_flac_need_one_small_read(clips: Path, bucket: str) -> None:
    recordings = []
    for name in ("austen-0880-8khz.wav", "cards-001.flac", "kennedy.m4a"):
        data = (clips / name).read_bytes()
        Storage().put(f"{bucket}/{name}", data)
        recordings.append(Recording(name, f"{bucket}/{name}", source_size=len(data)))

    assert [is_known for _, is_known in _read(recordings)] == [True, True, False]


def test_a_member_of_an_archive_is_read_at_its_bytes(clips: Path, tmp_path: Path) -> None:
    data = (clips / "cards-001.flac").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 512 + data)
    location = AudioLocation(member="cards-001.flac", byte_start=512, num_bytes=len(data))

    ((seconds, is_known),) = _read([Recording("a", str(tmp_path / "a.tar"), location=location)])

    assert is_known and seconds == pytest.approx(soundfile.info(clips / "cards-001.flac").duration)


def test_what_the_budget_leaves_is_estimated_with_the_ratio_of_what_was_read(tmp_path: Path) -> None:
    for number in range(4):  # stereo at 48 kHz: six times the bytes that sizes are estimated with
        soundfile.write(tmp_path / f"{number}.wav", np.zeros((48_000 * 30, 2), np.int16), 48_000)
    listed = list(list_recordings(InputConfig(uri=(str(tmp_path),)), Storage()))
    ((by_size_s, _), *_) = _read(listed, budget_s=0.0)
    assert by_size_s == pytest.approx(180, abs=1)

    with DurationReader(Storage()) as reader:
        reader.read(listed[:3])
        reader._left_s = 0.0
        (rest,) = reader.read(listed[3:])
    assert rest.seconds == pytest.approx(30, abs=0.1) and not rest.is_known


def test_what_the_input_states_is_taken_as_it_is_and_a_failed_recording_has_no_duration(clips: Path) -> None:
    stated = Recording("a", str(clips / "kennedy.m4a"), duration_s=7.0)
    segment = replace(stated, duration_s=None, location=AudioLocation(start_s=1.0, length_s=2.5))
    failed = replace(stated, duration_s=None, error="is broken", error_kind="corrupt")

    assert _read([stated, segment, failed]) == [(7.0, True), (2.5, True), (0.0, False)]
