"""Formats are detected, reported, and added by other packages."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from distil_ray.config import InputConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, InputError, SettingsError
from distil_ray.pipeline import runner
from distil_ray.readers.base import InputFormat
from distil_ray.readers.format_detection import load_format
from distil_ray.readers.listing import list_recordings
from distil_ray.registry import READERS
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from tests.readers.conftest import Place, ids, listed
from tests.support.entry_points import added_entry_point
from tests.support.fakes import EchoTranscribe
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

OUTSIDE = """
from distil_ray.readers.base import InputFormat
from distil_ray.storage.uris import join, parent
from distil_ray.types import Recording

NOTHING = 3

def read_playlist(uri, context):
    names = context.storage.read(uri).decode().split()
    yield from (Recording(name, join(parent(uri), name)) for name in names)

PLAYLIST = InputFormat("playlist", read_playlist, has_name=lambda uri: uri.endswith(".m3u"))
"""


@pytest.fixture
def outside_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module outside `distil_ray` that defines a reader."""
    (tmp_path / "outside_readers.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside_readers", raising=False)
    return "outside_readers"


@pytest.fixture
def entry_point(outside_package: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name under which an installed package adds its format."""
    with added_entry_point(READERS, "playlist", f"{outside_package}:PLAYLIST", monkeypatch) as name:
        yield name


@pytest.fixture
def playlist(tmp_path: Path) -> Path:
    """A list of two of the three recordings beside it, in a format of another package."""
    folder = tmp_path / "audio"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(-3000, 3000, SAMPLE_RATE).astype(np.int16)
    for name in ("a.wav", "b.wav", "c.wav"):
        soundfile.write(folder / name, noise, SAMPLE_RATE)
    (folder / "list.m3u").write_text("a.wav\nc.wav\n")
    return folder / "list.m3u"


@pytest.mark.parametrize("chosen_by", ["import path of a format", "import path of a function", "name", "detection"])
def test_a_reader_of_another_package_works_in_a_whole_job(
    playlist: Path,
    outside_package: str,
    entry_point: str,
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen_by: str,
) -> None:
    formats = {
        "import path of a format": f"{outside_package}:PLAYLIST",
        "import path of a function": f"{outside_package}:read_playlist",
        "name": entry_point,
        "detection": "auto",
    }
    run_stages_in_process(monkeypatch)
    output = playlist.parents[1] / "out"
    settings = [f"input.uri={playlist}", f"output.uri={output}", f"model.name={whisper_tiny_en}", "run_id=run"]
    config = load_config(None, [*settings, "decoding.language=en", f"input.format={formats[chosen_by]}"])

    assert runner.transcribe(config, Console(file=io.StringIO()), EchoTranscribe) == ExitCode.DONE
    assert {row["recording_id"]: row["status"] for row in stored_rows(output)} == {"a.wav": "ok", "c.wav": "ok"}


def test_a_glob_reads_the_lists_of_a_format_of_another_package(playlist: Path, entry_point: str) -> None:
    assert ids(listed(f"{playlist.parent}/*.m3u")) == ["a.wav", "c.wav"]


def test_the_error_of_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"input\.format.*kaldi.*manifest"):
        load_config(None, ["input.format=kaldy"])


def test_an_import_path_must_name_a_reader(outside_package: str) -> None:
    with pytest.raises(SettingsError, match=r"input\.format.*InputFormat"):
        load_format(f"{outside_package}:NOTHING")


@pytest.mark.parametrize("name", sorted(READERS.entries))
def test_a_format_of_this_package_is_listed_with_its_description(name: str) -> None:
    assert READERS.describe()[name]
    assert isinstance(load_format(name), InputFormat)
    assert InputConfig(format=name).format == name


def test_the_detected_formats_are_counted(place: Place) -> None:
    root = place({"a/1.wav": b"1", "b/2.wav": b"1", "m.jsonl": '{"path": "c.wav"}\n', "call 7": b"1"})
    listing = list_recordings(InputConfig(uri=(f"{root}/a", f"{root}/b", f"{root}/m.jsonl")), Storage())
    assert len(list(listing)) == 3
    assert listing.formats == {"audio files": 2, "manifest": 1}


def test_a_folder_of_two_formats_needs_input_format(place: Place) -> None:
    root = place({"wav.scp": "u1 1.wav\n", "metadata.csv": "file_name\n1.wav\n", "1.wav": b"1"})
    with pytest.raises(InputError, match=r"\(kaldi\).*\(audiofolder\).*input\.format"):
        listed(root)
    assert ids(listed(root, format="kaldi")) == ["u1"]
    assert ids(listed(root, format="audiofolder")) == ["1.wav"]
    assert ids(listed(root, format="files")) == ["1.wav"]


@pytest.mark.parametrize("name", ["corpus.zip", "talk.7z", "table.xlsx", "raw.ark", "a.srt"])
def test_the_error_of_an_unsupported_file_names_it_and_the_formats(place: Place, name: str) -> None:
    root = place({name: b"PK"})
    with pytest.raises(InputError, match=rf"{name}.*lhotse.*audio files"):
        listed(f"{root}/{name}")
