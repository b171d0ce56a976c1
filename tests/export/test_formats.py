"""The export formats: each writes the files that it names, and none writes a file without the text of a recording."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distil_ray.cli.options import describe_options
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.settings import DATASET, TRANSCRIPTS, ExportSettings
from distil_ray.registry import EXPORTERS
from distil_ray.storage.storage import Storage
from tests.export.conftest import TRANSCRIPT_FORMATS, files_below, run_export
from tests.support.entry_points import added_entry_point
from tests.support.transcripts import Row, transcript_row, write_transcripts

ROOT = Path(__file__).resolve().parents[2]
FORMATS: dict[str, ExportFormat] = {name: EXPORTERS.load(name) for name in EXPORTERS.names()}
RENDERED = [name for name in TRANSCRIPT_FORMATS if FORMATS[name].layout != Layout.SHARDS]
UPPER_CASE = ExportFormat(Layout.FILE, ("*.upper",), lambda transcript: transcript.text.upper())
WORDS = [
    {"start_s": 0.0, "end_s": 0.5, "text": " Good", "probability": 0.98},
    {"start_s": 0.5, "end_s": 1.0, "text": " morning.", "probability": 0.5},
]


def spoken(folder: Path, **columns: Any) -> Row:
    """A row with everything that a format may need, of a file that is there."""
    path = folder / "in" / "a.wav"
    path.parent.mkdir(exist_ok=True)
    soundfile.write(path, np.zeros(160_000, np.int16), 16_000)
    entry = Storage().stat(str(path))
    assert entry is not None
    times = {"segments": [{"start_s": 0.0, "end_s": 1.0, "text": "Good morning."}], "words": WORDS}
    version = {"source_size": entry.size, "source_version": entry.version}
    return transcript_row("a", **{"uri": str(path), **version, **times, **columns})


def exported(folder: Path, form: str, *words: str) -> dict[str, bytes]:
    code, said = run_export(f"{folder}/out", f"{folder}/to", f"format={form}", *words)
    assert code == ExitCode.DONE, said
    return files_below(f"{folder}/to")


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_a_writer_and_is_listed_in_help_and_docs(name: str) -> None:
    assert FORMATS[name].subjects
    help_text = " ".join(line.strip() for line in describe_options(ExportSettings))
    assert f"{name} ({EXPORTERS.entries[name].description})" in help_text
    assert f"`{name}`" in (ROOT / "docs/formats.md").read_text()


def test_an_unknown_format_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"format=srtt: .*srt") as raised:
        ExportSettings("srtt", "to")
    assert all(name in str(raised.value) for name in FORMATS)


def test_a_format_of_another_module_is_named_by_its_import_path(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a")])
    assert exported(tmp_path, f"{__name__}:UPPER_CASE") == {"a.upper": b"GOOD MORNING."}


def test_a_format_of_another_package_is_named_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a")])
    with added_entry_point(EXPORTERS, "upper", f"{__name__}:UPPER_CASE", monkeypatch) as name:
        assert exported(tmp_path, name) == {"a.upper": b"GOOD MORNING."}


def test_an_import_path_to_something_else_is_an_error(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a")])
    with pytest.raises(SettingsError, match="ExportFormat"):
        exported(tmp_path, f"{__name__}:WORDS")


@pytest.mark.parametrize("name", TRANSCRIPT_FORMATS)
def test_a_format_writes_the_files_that_it_names_with_the_text_in_them(tmp_path: Path, name: str) -> None:
    write_transcripts(f"{tmp_path}/out", [spoken(tmp_path)])
    found = exported(tmp_path, name)
    assert found
    assert all(FORMATS[name].matches(file) for file in found)
    if not any(file.endswith(".gz") for file in found):
        assert all(b"Good" in data and b"morning" in data for data in found.values())


@pytest.mark.parametrize("name", RENDERED)
def test_a_recording_without_a_text_is_exported_as_that(tmp_path: Path, name: str) -> None:
    chunks = [{"start_s": 0.0, "end_s": 10.0, "text": ""}]
    write_transcripts(
        f"{tmp_path}/out", [spoken(tmp_path, text="", status="empty", segments=[], words=[], chunks=chunks)]
    )
    assert exported(tmp_path, name)


@pytest.mark.parametrize(
    ("name", "lacking"),
    [
        ("srt", {"segments": None, "words": None, "chunks": []}),
        ("vtt", {"segments": [], "words": [], "chunks": None}),
        ("srt", {"duration_s": 0.0}),
        ("tsv", {"duration_s": 0.0}),
        ("ass", {"segments": [], "words": [], "chunks": None}),
        ("vtt", {"segments": None, "words": None, "chunks": [{"start_s": 0.0, "end_s": 10.0, "text": " "}]}),
        ("ctm", {"words": []}),
        ("ctm", {"words": [{"start_s": 0.0, "end_s": 0.5, "text": " ", "probability": 1.0}]}),
    ],
)
def test_a_text_that_a_format_has_no_cue_for_is_an_error_and_no_empty_file(
    tmp_path: Path, name: str, lacking: dict[str, Any]
) -> None:
    write_transcripts(f"{tmp_path}/out", [spoken(tmp_path, **lacking)])
    with pytest.raises(RunError, match=f"format={name}: a has a text, but nothing of it would be written"):
        exported(tmp_path, name)
    assert files_below(f"{tmp_path}/to") == {}


@pytest.mark.parametrize("name", ["srt", "vtt", "tsv", "ass"])
def test_a_format_whose_columns_are_forgotten_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_transcripts(f"{tmp_path}/out", [spoken(tmp_path)])
    module = f"distil_ray.export.formats.{name}"
    monkeypatch.setattr(f"{module}.FORMAT", replace(FORMATS[name], columns=()))
    with pytest.raises(RunError, match=f"format={name}: a has a text"):
        exported(tmp_path, name)
    assert files_below(f"{tmp_path}/to") == {}


def test_no_two_formats_of_a_subject_share_a_file_name() -> None:
    for subject in (TRANSCRIPTS, DATASET):
        files = [file for one in FORMATS.values() if subject in one.subjects for file in one.files]
        assert len(set(files)) == len(files)
