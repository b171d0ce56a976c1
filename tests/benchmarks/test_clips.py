"""Which recordings of a source become which set."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.clips import prepare_clips, write_wav
from benchmarks.comparison.worker import read_wav
from distil_ray.errors import SettingsError


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    folder = tmp_path / "speech"
    for name, seconds in (("scrap", 1), ("one", 4), ("two", 5), ("three", 6), ("middling", 40), ("talk", 50)):
        write_wav(folder / f"{name}.wav", np.full(seconds * 16_000, seconds, np.int16))
        (folder / f"{name}.txt").write_text(f"this is {name}")
    write_wav(folder / "unknown.wav", np.zeros(80_000, np.int16))
    return folder


def test_short_and_long_recordings_with_references_are_taken_and_nothing_else(speech: Path, tmp_path: Path) -> None:
    sets = prepare_clips(str(speech), tmp_path / "kept", "en", {"short": 10, "long": 10}, long_s=60.0)

    assert sorted(clip.reference for clip in sets["short"]) == ["this is one", "this is three", "this is two"]
    assert [(clip.reference, clip.audio_s) for clip in sets["long"]] == [("this is talk", 50.0)]
    assert set(read_wav(sets["long"][0].path)) == {50}


def test_a_limit_takes_the_same_recordings_every_time(speech: Path, tmp_path: Path) -> None:
    first, again = (prepare_clips(str(speech), tmp_path / name, "en", {"short": 2}) for name in ("a", "b"))

    assert first.keys() == {"short"}
    assert [clip.clip_id for clip in first["short"]] == [clip.clip_id for clip in again["short"]]
    assert len(first["short"]) == 2


def test_a_source_without_anything_that_fits_is_said(speech: Path, tmp_path: Path) -> None:
    for path in speech.glob("*.txt"):
        path.unlink()

    with pytest.raises(SettingsError, match="no recording in en with a reference"):
        prepare_clips(str(speech), tmp_path / "kept", "en", {"short": 2})
