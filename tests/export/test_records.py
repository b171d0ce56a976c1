"""What is exported as a manifest is read back as it was, by the reader of the job itself."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distil_ray.config import ColumnsConfig, InputConfig
from distil_ray.errors import ExitCode
from distil_ray.export.records import READER_COLUMNS
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, AudioLocation, Recording
from tests.export.conftest import run_export
from tests.support.transcripts import Row, transcript_row, write_transcripts

NASTY = [
    *(
        '"',
        "'",
        "\\",
        "\\n",
        "\n",
        "\r\n",
        "\t",
        "\x00",
        "\u2028",
        "\x85",
        "\ufeff",
        "🙂",
        "אב",
        "NaN",
        "null",
        "{}",
        ",",
    ),
    *("", " ", " a ", "-->", "<b>", "%", "a" * 3000, "s3://k:secret@host/x"),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(NASTY)
SECONDS = st.floats(0.001, 40_000)
SPANS = st.lists(st.fixed_dictionaries({"start_s": SECONDS, "end_s": SECONDS, "text": TEXTS}), max_size=3)
PLACES = st.none() | st.builds(
    lambda start_s, length_s: {"start_s": start_s, "length_s": length_s}, SECONDS, st.none() | SECONDS
)
KEYS = (
    st.sampled_from(sorted(READER_COLUMNS))
    | st.sampled_from(["speaker", "wer", "quality_flags", "segments", "metadata_text"])
    | TEXTS
)
ROWS = st.lists(
    st.tuples(
        TEXTS.filter(bool),
        st.fixed_dictionaries(
            {
                "text": TEXTS,
                "duration_s": SECONDS,
                "language": st.sampled_from(["en", "zh", None]),
                "reference": st.none() | TEXTS,
                "segments": st.none() | SPANS,
                "location": PLACES,
                "metadata": st.dictionaries(KEYS, TEXTS, max_size=3).filter(lambda keys: keys.get("speaker") != ""),
            }
        ),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda pair: pair[0],
)


def there_and_back(rows: list[Row], form: str, name: str, **columns: str) -> dict[str, Recording]:
    """The recordings that the job lists, by id, given what an export wrote; `columns` are input.columns."""
    with tempfile.TemporaryDirectory() as folder:
        write_transcripts(f"{folder}/out", rows)
        code, _ = run_export(f"{folder}/out", f"{folder}/to", f"format={form}", "max_failed_fraction=1")
        assert code == ExitCode.DONE
        config = InputConfig(uri=(f"{folder}/to/{name}",), allow_external_paths=True, columns=ColumnsConfig(**columns))
        return {recording.recording_id: recording for recording in list_recordings(config, Storage())}


@settings(max_examples=12, deadline=None)
@given(ROWS)
def test_jsonl_comes_back_with_ids_times_texts_and_metadata(made: list[tuple[str, dict[str, Any]]]) -> None:
    back = there_and_back(
        [transcript_row(name, uri="/audio/some.flac", **columns) for name, columns in made],
        "jsonl",
        "transcripts.jsonl",
    )
    assert set(back) == {name for name, _ in made}
    for name, columns in made:
        found = back[name]
        assert found.uri == "/audio/some.flac"
        assert (found.reference, found.duration_s, found.language) == (
            columns["text"], columns["duration_s"], columns["language"],
        )  # fmt: skip
        assert found.location == (columns["location"] and AudioLocation(**columns["location"]))
        assert json.loads(found.metadata.get("segments", "null")) == columns["segments"]
        assert found.metadata.get("source_reference") == columns["reference"]
        for key, value in columns["metadata"].items():
            assert value in [cell for known, cell in found.metadata.items() if known.endswith(key)]


@settings(max_examples=12, deadline=None)
@given(ROWS)
def test_a_nemo_manifest_comes_back_with_ids_times_and_texts(made: list[tuple[str, dict[str, Any]]]) -> None:
    back = there_and_back(
        [transcript_row(name, uri="/audio/some.flac", **columns) for name, columns in made], "nemo", "manifest.jsonl"
    )
    assert set(back) == {name for name, _ in made}
    for name, columns in made:
        found, location = back[name], columns["location"]
        assert (found.reference, found.duration_s, found.language) == (
            columns["text"], columns["duration_s"], columns["language"],
        )  # fmt: skip
        segment = location and AudioLocation(start_s=location["start_s"], length_s=columns["duration_s"])
        assert found.location == segment


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four seconds of silence as columns of a row: where they are, size and version."""
    path = tmp_path_factory.mktemp("sound") / "some.wav"
    soundfile.write(path, np.zeros(4 * SAMPLE_RATE), SAMPLE_RATE)
    entry = Storage().stat(str(path))
    assert entry is not None
    return {"uri": entry.uri, "source_size": entry.size, "source_version": entry.version}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_cuts_come_back_with_ids_times_and_texts(sound: dict[str, Any], made: list[tuple[str, dict[str, Any]]]) -> None:
    rows = [transcript_row(name, **{**columns, **sound, "location": None, "duration_s": 4.0}) for name, columns in made]
    parts = [{"start_s": 0.0, "length_s": 1.5}, {"start_s": 2.25, "length_s": 1.75}]
    rows += [transcript_row(f"part {part}", **sound, location=part, duration_s=part["length_s"]) for part in parts]
    back = there_and_back(rows, "lhotse", "cuts.jsonl.gz")
    assert set(back) == {one["recording_id"] for one in rows}
    for one in rows:
        found, location = back[one["recording_id"]], one["location"] and AudioLocation(**one["location"])
        assert (found.uri, found.duration_s, found.location) == (one["uri"], one["duration_s"], location)
        assert (found.reference, found.language) == (one["text"].strip(), one["language"])
        assert found.metadata == {entry["key"]: entry["value"] for entry in one["metadata"]}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS)
def test_shards_come_back_with_ids_times_and_texts(
    sound: dict[str, Any], made: list[tuple[str, dict[str, Any]]]
) -> None:
    rows = [transcript_row(name, **{**columns, **sound, "location": None}) for name, columns in made]
    back = there_and_back(rows, "webdataset", "shard-000000.tar", recording_id="recording_id")
    assert set(back) == {name for name, _ in made}
    for name, columns in made:
        found = back[name]
        assert (found.reference, found.duration_s, found.language) == (
            columns["text"].strip("\ufeff").strip(), columns["duration_s"], columns["language"],
        )  # fmt: skip
        assert json.loads(found.metadata.get("segments", "null")) == columns["segments"]


def test_a_json_line_contains_the_seconds_of_untranscribed_speech(tmp_path: Path) -> None:
    flags = ["untranscribed_speech"]
    write_transcripts(
        f"{tmp_path}/out",
        [
            transcript_row("early", unheard_s=4.2, quality_flags=flags, metadata={"unheard_s": "theirs"}),
            transcript_row("unknown"),
        ],
    )
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=jsonl")
    early, unknown = (json.loads(line) for line in (tmp_path / "to/transcripts.jsonl").read_text().splitlines())
    assert (early["unheard_s"], early["quality_flags"], early["metadata_unheard_s"]) == (4.2, flags, "theirs")
    assert "unheard_s" not in unknown
    run_export(f"{tmp_path}/out", f"{tmp_path}/chosen", "format=txt", "where=quality_flags:untranscribed_speech")
    assert [path.name for path in (tmp_path / "chosen").iterdir()] == ["early.txt"]


def test_a_nemo_line_says_what_nemo_reads(tmp_path: Path) -> None:
    rows = [
        transcript_row("a", metadata={"speaker": "7"}),
        transcript_row("b", duration_s=2.5, location={"start_s": 4.0, "length_s": 2.5}),
        transcript_row("empty", text="", status="empty", duration_s=0.0),
        transcript_row("member", location={"member": "x/1.flac"}),
        transcript_row("right", location={"channel": 1}),
    ]
    write_transcripts(f"{tmp_path}/out", rows)
    code, words = run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=nemo")
    lines = [json.loads(line) for line in (tmp_path / "to/manifest.jsonl").read_text().splitlines()]
    common = {"text": "Good morning.", "lang": "en"}
    assert lines == [
        {"audio_filepath": "/audio/a.flac", "duration": 10.0, **common, "id": "a", "speaker": "7"},
        {"audio_filepath": "/audio/b.flac", "offset": 4.0, "duration": 2.5, **common, "id": "b"},
    ]
    assert code == ExitCode.TOO_MANY_FAILED
    for reason in ("empty: has no audio", "member: in an archive", "right: "):
        assert reason in words


def test_a_file_of_nothing_is_not_written(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("member", location={"member": "x/1.flac"})])
    with pytest.raises(Exception, match="nothing was exported"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=nemo")
    assert not list((tmp_path / "to").iterdir())
