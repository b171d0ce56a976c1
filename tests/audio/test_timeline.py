"""Samples are placed by the container's time stamps; jitter moves nothing, and impossible stamps are not followed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from distil_ray.audio.segments import AudioSegment
from distil_ray.audio.timeline import MAX_SILENCE_S, Timeline
from distil_ray.errors import ErrorKind
from tests.audio.recordings import S, assert_found_at, decode, noise, write_container

RECORDING = noise(12)
CONTAINERS: dict[str, tuple[str, int, str | None]] = {
    "aac.mp4": ("aac", 16_000, None),
    "alac.m4a": ("alac", 16_000, "mp4"),
    "mp3.mkv": ("libmp3lame", 44_100, None),
    "opus.webm": ("libopus", 48_000, None),
    "flac.mkv": ("flac", 16_000, None),
    "aac.ts": ("aac", 44_100, "mpegts"),
    "mp3.flv": ("libmp3lame", 44_100, None),
    "wma.wma": ("wmav2", 44_100, "asf"),
}
Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def write(name: str, stamp: Callable[[float], float], video_s: float = 0.0) -> Path:
        codec, rate, form = CONTAINERS[name]
        write_container(tmp_path / name, codec, RECORDING, stamp, rate=rate, video_s=video_s, form=form)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_gap_in_the_time_stamps_is_silence(made: Made, name: str) -> None:
    path = made(name, lambda seconds: seconds + (7.3 if seconds >= 5 else 0))
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert abs(len(pcm) / S - 19.3) < 0.1
    assert_found_at(1.0, RECORDING[S : 4 * S], pcm)
    assert_found_at(13.3, RECORDING[6 * S : 11 * S], pcm)
    assert np.abs(pcm[int(5.3 * S) : int(12.1 * S)]).max() < 100
    for start, length in ((6.0, 2.0), (9.0, 5.0), (13.5, 3.0), (16.0, 2.0)):
        part, result = decode(path, AudioSegment(int(start * S), int(length * S)))
        assert result.error_kind is None, result
        expected = pcm[int(start * S) : int((start + length) * S)]
        assert len(part) == len(expected)
        assert np.abs(part.astype(int) - expected).max() < 700, start  # AAC fills faint bands with other noise


@pytest.mark.parametrize("name", ["aac.mp4", "mp3.mkv", "flac.mkv", "aac.ts"])
def test_audio_that_begins_and_ends_before_the_video_keeps_its_position(made: Made, name: str) -> None:
    path = made(name, lambda seconds: seconds + 5, video_s=20)
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert abs(len(pcm) / S - 20) < 0.1
    assert_found_at(6.0, RECORDING[S : 11 * S], pcm)
    for start, length, frames_inside in ((5.0, 3.0, 0.0), (9.0, 2.0, 4.0)):
        part, result = decode(path, AudioSegment(int(start * S), int(length * S)))
        assert (result.error_kind, len(part)) == (None, length * S)
        assert_found_at(0.5, RECORDING[int((frames_inside + 0.5) * S) : int((frames_inside + 1.5) * S)], part)
    part, result = decode(path, AudioSegment(18 * S, S))  # behind the sound, before the end of the pictures
    assert (result.error_kind, len(part)) == (None, S)
    assert not part.any()


@pytest.mark.parametrize(
    ("name", "begins_s"), [("aac.mp4", 5.0), ("opus.webm", 5.0), ("aac.ts", 0.0), ("mp3.flv", 0.0)]
)
def test_late_audio_alone_begins_at_the_containers_zero_if_it_has_one(made: Made, name: str, begins_s: float) -> None:
    pcm, result = decode(made(name, lambda seconds: seconds + 5))
    assert result.error_kind is None, result
    assert_found_at(begins_s + 1, RECORDING[S:], pcm)


def test_a_first_time_stamp_of_days_counts_as_zero(made: Made) -> None:
    for name in ("mp3.mkv", "opus.webm"):
        pcm, result = decode(made(name, lambda seconds: seconds + 90_000))
        assert result.error_kind is None, result
        assert_found_at(1.0, RECORDING[S:], pcm)


@pytest.mark.parametrize("name", ["mp3.mkv", "opus.webm", "mp3.flv"])
def test_jitter_of_time_stamps_moves_nothing(made: Made, name: str) -> None:
    steady, _ = decode(made(name, lambda seconds: seconds))
    jittery, result = decode(made(name, lambda seconds: seconds + 0.01 * np.sin(40 * seconds)))
    assert result.error_kind is None
    assert np.array_equal(steady, jittery)


@pytest.mark.parametrize("name", ["mp3.mkv", "opus.webm", "mp3.flv"])
def test_a_time_stamp_of_days_is_not_followed(made: Made, name: str) -> None:
    steady, _ = decode(made(name, lambda seconds: seconds))
    pcm, result = decode(made(name, lambda seconds: seconds + (864_000 if seconds >= 6 else 0)))
    assert result.error_kind is ErrorKind.CORRUPT
    assert "which was not followed" in (result.error or "")
    assert np.array_equal(pcm, steady)


def test_one_wrong_stamp_between_right_ones_moves_nothing() -> None:
    line = Timeline(0.001, 0.0)
    for number in range(100):
        stamp = 20 * number + (5000 if number == 50 else -700 if number == 60 else 0)
        assert line.silence_before(stamp, 48_000, 960, 20 * number + 20) == 0
        line.advance(960)
    assert line.take_warning() == ""


def test_overlaps_shorten_the_next_gap_and_steps_back_begin_a_new_count() -> None:
    line = Timeline(1 / 1000, 0.0)
    line.silence_before(0, 1000, 5000)
    line.advance(5000)
    assert line.silence_before(4500, 1000, 1000) == 0
    line.advance(1000)
    assert line.silence_before(8500, 1000, 500) == 2500
    line.advance(2500 + 500)
    assert line.silence_before(1000, 1000, 500, 1500) == 0
    assert "run back" in line.take_warning()
    line.advance(500)
    assert line.silence_before(1500, 1000, 500) == 0
    assert line.position == 9500


def test_silence_is_bounded_over_all_gaps() -> None:
    line = Timeline(1.0, 0.0)
    total = 0
    for number in range(1, 50):
        silence = line.silence_before(number * 3600, 8000, 80)
        line.advance(silence + 80)
        total += silence
    assert total <= MAX_SILENCE_S * 8000
    assert line.take_warning()


def test_a_change_of_rate_keeps_the_time() -> None:
    line = Timeline(0.001, 0.0)
    line.silence_before(0, 16_000, 1600)
    line.advance(16_000)
    assert line.silence_before(1000, 48_000, 4800) == 0
    assert line.seconds == pytest.approx(1.0)
    assert line.silence_before(3000, 48_000, 4800) == 2 * 48_000


def test_a_complete_file_whose_video_begins_later_is_complete(tmp_path: Path) -> None:
    """FFmpeg adds that start to the duration of ASF containers."""
    path = tmp_path / "late.asf"
    write_container(path, "wmav2", RECORDING, rate=44_100, video_s=6.0, video_start_s=5.0, form="asf")
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert abs(len(pcm) - len(RECORDING)) < 0.1 * S
