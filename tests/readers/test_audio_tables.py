"""Tables with audio: the audio column, the ids of rows, and audio in other files."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_ray.errors import ErrorKind, ExitCode, InputError
from distil_ray.storage.storage import Storage
from tests.readers.conftest import Place, listed
from tests.readers.shards import audio_cells, parquet_bytes, read_back, run_job


def test_hub_parquet_gives_the_texts_of_loose_files_and_a_rerun_does_not_read_it(
    place: Place,
    tmp_path: Path,
    speech: dict[str, bytes],
    loose_texts: dict[str, str],
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"{name}.flac" for name in speech]
    table = {
        "sound": audio_cells(list(speech.values()), names),
        "sentence": ["one", None, "three"],
        "speaker": [7, 8, 9],
        "language": ["en"] * 3,
        "embedding": [[0.5], [0.25], [0.125]],
    }
    files = {
        f"hub/data/train-{number:05}-of-00002.parquet": parquet_bytes(table, row_group_size=2) for number in range(2)
    }
    root = place({**files, "hub/README.md": "x", "hub/data/other.parquet": parquet_bytes({"a": [1]})})
    rows, code = run_job(f"{root}/hub", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    assert len(rows) == 6
    for name, words in loose_texts.items():
        row = rows[f"data/train-00000-of-00002.parquet/{name}.flac"]
        assert row["text"] == words
        assert row["location"]["member"] == "sound"
    row = rows[f"data/train-00001-of-00002.parquet/{names[2]}"]
    assert (row["reference"], row["location"]["row_group"], row["location"]["row"]) == ("three", 1, 0)
    assert row["metadata"] == [{"key": "speaker", "value": "9"}]
    read = Counter[str]()
    for method in ("open", "read_range", "fetch_range"):
        plain = getattr(Storage, method)

        def counted(self: Storage, uri: str, *args: Any, _plain: Any = plain) -> Any:
            read.update([uri] if uri.endswith(".parquet") and "/hub/" in uri else [])
            return _plain(self, uri, *args)

        monkeypatch.setattr(Storage, method, counted)
    again, _ = run_job(f"{root}/hub", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert again == rows
    assert not read


def test_row_ids_are_the_id_column_else_the_path_else_the_number(tmp_path: Path) -> None:
    def named(**columns: Any) -> list[str]:
        (tmp_path / "t.parquet").write_bytes(
            parquet_bytes({"audio": audio_cells([b"a", b"b"], ["x.wav", "y.wav"]), **columns})
        )
        return [one.recording_id for one in listed(str(tmp_path / "t.parquet"))]

    assert named() == ["t.parquet/x.wav", "t.parquet/y.wav"]
    assert named(id=["p", "q"]) == ["p", "q"]
    assert named(id=["p", "p"]) == ["t.parquet/x.wav", "t.parquet/y.wav"]
    assert named(id=[0, 1]) == ["t.parquet/x.wav", "t.parquet/y.wav"]  # a number of every file
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"audio": audio_cells([b"a", b"b"], ["x", "x"]), "key": [3, 4]}))
    assert [one.recording_id for one in listed(str(tmp_path / "t.parquet"))] == ["t.parquet#0", "t.parquet#1"]
    mapped = listed(str(tmp_path / "t.parquet"), columns={"recording_id": "key"})
    assert [one.recording_id for one in mapped] == ["3", "4"]


def test_rows_may_refer_to_files_and_rows_without_audio_fail(
    place: Place, speech: dict[str, bytes], tmp_path: Path
) -> None:
    one, two, _ = speech.values()
    mixed = {"audio": audio_cells([None, two, None, None], ["a/1.flac", "2.flac", None, "gone.flac"])}
    files: dict[str, str | bytes] = {"t.parquet": parquet_bytes(mixed), "a/1.flac": one}
    root = place({**files, "paths.parquet": parquet_bytes({"audio": audio_cells([None], ["a/1.flac"])})})
    found = {one.recording_id: one for one in listed(f"{root}/t.parquet")}
    order = [found[name] for name in sorted(found)]
    assert read_back(order, tmp_path / "files") == [one, two, ErrorKind.EMPTY_FILE, ErrorKind.NOT_FOUND]
    (by_path,) = listed(f"{root}/paths.parquet")
    assert by_path.uri == f"{root}/a/1.flac"
    assert by_path.source_size == len(one)
    outside = place({"x/out.parquet": parquet_bytes({"audio": audio_cells([None], ["../a/1.flac"])})})
    with pytest.raises(InputError, match="lies outside"):
        listed(f"{outside}/x/out.parquet")


def test_the_audio_column_is_detected_or_set(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet_bytes({"wav": pa.array([b"abc"], pa.large_binary()), "text": ["t"]}))
    (found,) = listed(str(path))
    assert read_back([found], tmp_path / "files") == [b"abc"]
    path.write_bytes(parquet_bytes({"wav": [b"abc"], "vector": [b"v"], "text": ["t"]}))
    with pytest.raises(InputError, match="needs the column uri"):
        listed(str(path))
    (found,) = listed(str(path), columns={"uri": "wav"})
    assert found.location is not None
    assert found.location.member == "wav"
    features = {"face": {"_type": "Image"}, "voice": {"bytes": {"_type": "Value"}}}
    table = pa.table({"face": audio_cells([b"f"], ["f.png"]), "voice": audio_cells([b"v"], ["v.wav"])})
    noted = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(noted), path)
    assert [one.recording_id for one in listed(str(path))] == ["t.parquet/v.wav"]
    path.write_bytes(parquet_bytes({"left": audio_cells([b"l"], ["l"]), "right": audio_cells([b"r"], ["r"])}))
    with pytest.raises(
        InputError, match=r"t\.parquet: several columns contain audio: left, right.*input\.columns\.uri"
    ):
        listed(str(path))
    with pytest.raises(InputError, match=r"has no audio column.*found left, right"):
        listed(str(path), format="parquet", columns={"uri": "none"})
