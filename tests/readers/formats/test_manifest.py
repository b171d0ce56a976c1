"""Manifests become recordings, or an error that names file and line."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.location import format_audio_range, is_unchanged, recording_version
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import AudioLocation as Part
from distil_ray.types import Prompt, Recording
from tests.readers.conftest import Place, listed

AUDIO: dict[str, str | bytes] = {"audio/a.wav": b"12345", "b.wav": b"1"}


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(**columns: list[Any]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_a_jsonl_manifest_gives_every_field(place: Place) -> None:
    row = {
        "id": "one",
        "uri": "audio/a.wav",
        "reference": "Some words",
        "duration_s": 2.5,
        "language": "en",
        "speaker": "s1",
        "age": 33,
        "tags": ["x", {"y": "ä"}],
        "accent": None,
    }
    root = place(AUDIO | {"m.jsonl": lines(row)})
    (recording,) = listed(f"{root}/m.jsonl")
    assert recording == Recording(
        recording_id="one",
        uri=f"{root}/audio/a.wav",
        source_size=5,
        source_version=recording.source_version,
        duration_s=2.5,
        language="en",
        reference="Some words",
        metadata={"speaker": "s1", "age": "33", "tags": '["x", {"y": "ä"}]'},
    )
    assert recording.source_version


def test_all_known_column_names_are_accepted(place: Place) -> None:
    root = place(
        AUDIO | {"m.ndjson": lines({"recording_id": 7, "audio_filepath": "./b.wav", "text": "hm", "duration": "1.5"})}
    )
    (recording,) = listed(f"{root}/m.ndjson")
    assert (recording.recording_id, recording.uri) == ("7", f"{root}/b.wav")
    assert (recording.reference, recording.duration_s, recording.metadata) == ("hm", 1.5, {})


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_prompts_and_hotwords_belong_to_a_recording_and_its_version(place: Place, name: str) -> None:
    def read(prompt: str, hotwords: str) -> Recording:
        row = {"uri": "b.wav", "prompt": prompt, "hotwords": hotwords}
        table = lines(row) if name == "m.jsonl" else f'uri,prompt,hotwords\nb.wav,{prompt},"{hotwords}"\n'
        root = place(AUDIO | {name: table})
        (recording,) = listed(f"{root}/{name}")
        entry = Storage().stat(recording.uri)
        assert entry is not None
        assert is_unchanged(recording, entry)
        return recording

    plain, prompted, listed_words = read("", ""), read(" Dr. Ng ", ""), read("", "ComfyUI, LoRA,")
    assert [each.prompt for each in (plain, prompted, listed_words)] == [
        None,
        Prompt("Dr. Ng"),
        Prompt("", ("ComfyUI", "LoRA")),
    ]
    assert len({each.source_version for each in (plain, prompted, listed_words)}) == 3
    assert not plain.metadata and not prompted.metadata


def test_hotwords_may_be_a_list_and_nothing_else(place: Place) -> None:
    cells = (["ä, b", " "], 7, '["Foo", "Bar, Baz"]', "['Foo', 'Bar, Baz']", "[Foo, Bar]")
    rows = [{"id": str(i), "uri": "b.wav", "hotwords": cell} for i, cell in enumerate(cells)]
    found = listed(f"{place(AUDIO | {'m.jsonl': lines(*rows)})}/m.jsonl")
    assert found[0].prompt == Prompt("", ("ä, b",))
    assert found[1].error is not None
    assert "hotwords must be a list of texts" in found[1].error
    # In a CSV file a list is text: as JSON, or as pandas writes it.
    assert [each.prompt for each in found[2:4]] == [Prompt("", ("Foo", "Bar, Baz"))] * 2
    assert found[4].error is not None and "hotwords must be a list of texts" in found[4].error


def test_a_missing_reference_differs_from_an_empty_one(place: Place) -> None:
    rows: list[dict[str, Any]] = [{"id": "null", "reference": None}, {"id": "empty", "reference": ""}, {"id": "none"}]
    root = place(AUDIO | {"m.jsonl": lines(*({"uri": "b.wav"} | row for row in rows))})
    assert [one.reference for one in listed(f"{root}/m.jsonl")] == [None, "", None]
    table = parquet(id=["null", "empty"], uri=["b.wav", "b.wav"], reference=[None, ""])
    assert [one.reference for one in listed(place({"m.parquet": table}) + "/m.parquet")] == [None, ""]


def test_recordings_without_a_name_of_their_speaker_are_not_those_of_one_speaker(place: Place) -> None:
    speakers: list[dict[str, Any]] = [{"speaker": ""}, {"speaker": None}, {}, {"speaker": "7"}]
    root = place(AUDIO | {"m.jsonl": lines(*({"id": f"{n}", "uri": "b.wav"} | row for n, row in enumerate(speakers)))})
    assert [one.metadata for one in listed(f"{root}/m.jsonl")] == [{}, {}, {}, {"speaker": "7"}]
    table = parquet(uri=["b.wav", "a.wav"], id=["1", "2"], voice=["", "7"])
    root = place({"m.parquet": table})
    found = listed(f"{root}/m.parquet", columns={"speaker": "voice"})
    assert [one.metadata for one in found] == [{}, {"speaker": "7"}]


def test_csv_and_tsv_are_read_with_empty_cells_as_null(place: Place) -> None:
    table = 'id,path,text,duration,city\n1,audio/a.wav,"two\nlines, ""quoted""",2,\n\n2,b.wav,,,Bonn\n'
    root = place(AUDIO | {"m.csv": "\ufeff" + table, "m.tsv": 'path\ttext\nb.wav\the said "no\n'})
    first, second = listed(f"{root}/m.csv")
    assert (first.reference, first.duration_s, first.metadata) == ('two\nlines, "quoted"', 2.0, {})
    assert (second.reference, second.duration_s, second.metadata) == (None, None, {"city": "Bonn"})
    (third,) = listed(f"{root}/m.tsv")
    assert (third.recording_id, third.reference) == ("b.wav", 'he said "no')


def test_a_nemo_manifest_gives_segments_where_it_has_offsets(place: Place) -> None:
    rows: list[dict[str, Any]] = [
        {"audio_filepath": "audio/a.wav", "duration": 2.5, "text": "go on", "lang": "English"},
        {"audio_filepath": "audio/a.wav", "offset": 1.25, "duration": 0.5, "text": "go", "source_lang": "de"},
        {"audio_filepath": "audio/a.wav", "offset": 3600.123456, "duration": None, "id": "tail"},
    ]
    root = place(AUDIO | {"train_manifest.json": lines(*rows)})
    whole, part, tail = listed(f"{root}/train_manifest.json")
    assert (whole.recording_id, whole.location, whole.duration_s, whole.language) == ("audio/a.wav", None, 2.5, "en")
    assert (part.recording_id, part.location) == ("audio/a.wav@1.25+0.5", Part(start_s=1.25, length_s=0.5))
    assert (part.duration_s, part.reference, part.language, part.metadata) == (0.5, "go", "de", {})
    assert (tail.recording_id, tail.location, tail.duration_s) == ("tail", Part(start_s=3600.123456), None)
    assert part.source_version == f"{whole.source_version}@1.25+0.5"
    assert tail.source_version == f"{whole.source_version}@3600.123456"


def test_a_file_of_many_segments_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    stat = Storage.stat

    def counted(storage: Storage, uri: str) -> Entry | None:
        looked.append(uri)
        return stat(storage, uri)

    monkeypatch.setattr(Storage, "stat", counted)
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / "m.jsonl").write_text(lines(*({"path": "a.wav", "offset": n, "duration": 1} for n in range(50))))
    assert len(listed(str(tmp_path / "m.jsonl"))) == 50
    assert looked.count(str(tmp_path / "a.wav")) == 1


def test_a_location_written_by_an_export_is_read(tmp_path: Path) -> None:
    place = {"member": "x/1.flac", "byte_start": 512, "num_bytes": 99, "start_s": 1, "channel": 0}
    (tmp_path / "m.jsonl").write_text(
        lines({"id": "a", "uri": "s.tar", "location": place}, {"uri": "b", "location": None})
    )
    first, second = listed(str(tmp_path / "m.jsonl"))
    assert first.location == Part(member="x/1.flac", byte_start=512, num_bytes=99, start_s=1.0, channel=0)
    assert second.location is None


def test_input_columns_sets_the_names_of_columns(place: Place) -> None:
    columns = {"uri": "wav", "reference": "words", "speaker": "who", "recording_id": "nr", "language": "tongue"}
    row = {"nr": 1, "wav": "b.wav", "words": "hm", "who": "s1", "tongue": "sv", "text": "other", "path": "p"}
    texts: dict[str, str | bytes] = {
        "m.jsonl": lines(row),
        "m.csv": f"{','.join(row)}\n{','.join(map(str, row.values()))}\n",
        "m.parquet": parquet(**{name: [cell] for name, cell in row.items()}),
    }
    root = place(AUDIO | texts)
    for name in texts:
        (found,) = listed(f"{root}/{name}", columns=columns)
        assert (found.recording_id, found.uri, found.reference) == ("1", f"{root}/b.wav", "hm")
        assert (found.language, found.metadata) == ("sv", {"speaker": "s1", "text": "other", "path": "p"})


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.parquet"])
def test_a_column_named_in_the_settings_must_exist(tmp_path: Path, name: str) -> None:
    contents = {"m.jsonl": lines({"uri": "a"}).encode(), "m.csv": b"uri\na\n", "m.parquet": parquet(uri=["a"])}
    (tmp_path / name).write_bytes(contents[name])
    with pytest.raises(InputError, match=rf"{name}: has no column input\.columns\.reference=words; found 'uri'"):
        listed(str(tmp_path / name), columns={"reference": "words"})


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_csv_with_another_delimiter_is_read(tmp_path: Path, delimiter: str) -> None:
    rows = [["path", "text", "note"], ["a.wav", "well, yes", '"x"']]
    (tmp_path / "m.csv").write_text("".join(delimiter.join(row) + "\n" for row in rows))
    (found,) = listed(str(tmp_path / "m.csv"))
    note = '"x"' if delimiter == "\t" else "x"
    assert (found.recording_id, found.reference, found.metadata) == ("a.wav", "well, yes", {"note": note})


@given(st.floats(0, 1e6), st.floats(0, 1e5))
def test_a_segment_keeps_its_times_and_differs_in_its_version(start: float, length: float) -> None:
    cut = format_audio_range(Part(start_s=start, length_s=length))
    said_start, said_length = map(float, cut.removeprefix("@").split("+"))
    assert abs(said_start - start) <= 1e-6 and abs(said_length - length) <= 1e-6
    assert (
        recording_version("etag", Part(start_s=start, length_s=length))
        == f"etag{cut}"
        != recording_version("etag", None)
    )


@pytest.mark.parametrize("name", ["m.jsonl.gz", "m.csv.gz"])
def test_gzipped_manifests_are_read(place: Place, name: str) -> None:
    text = lines({"uri": "b.wav"}) if "json" in name else "uri\nb.wav\n"
    root = place(AUDIO | {name: gzip.compress(text.encode())})
    assert [one.source_size for one in listed(f"{root}/{name}")] == [1]


def test_a_parquet_manifest_keeps_its_columns_but_not_its_bytes(place: Place) -> None:
    table = parquet(id=[1, 2], path=["b.wav", "audio/a.wav"], image=[b"x", b"y"], score=[0.5, None], ok=[True, False])
    first, second = listed(place(AUDIO | {"m.parquet": table}) + "/m.parquet")
    assert (first.recording_id, first.metadata) == ("1", {"score": "0.5", "ok": "true"})
    assert (second.source_size, second.metadata) == (5, {"ok": "false"})


def test_a_missing_file_is_listed_without_size_and_version(place: Place) -> None:
    root = place(AUDIO | {"m.jsonl": lines({"uri": "b.wav"}, {"uri": "gone.wav"}, {"uri": "audio/a.wav"})})
    recordings = listed(f"{root}/m.jsonl")
    assert [one.source_size for one in recordings] == [1, None, 5]
    assert recordings[1].source_version is None


def test_a_file_without_read_permission_fails_as_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def guarded(storage: Storage, uri: str) -> Entry | None:
        if uri.endswith("secret.wav"):
            raise StorageError(ErrorKind.FORBIDDEN, f"cannot look at {uri}: access denied")
        return stat(storage, uri)

    stat = Storage.stat
    monkeypatch.setattr(Storage, "stat", guarded)
    (tmp_path / "m.jsonl").write_text(lines({"uri": "secret.wav"}, {"uri": "m.jsonl"}))
    assert [one.source_size is None for one in listed(str(tmp_path / "m.jsonl"))] == [True, False]


def test_paths_are_relative_to_the_manifest_unless_they_are_absolute(place: Place, tmp_path: Path) -> None:
    (tmp_path / "c.wav").write_bytes(b"123")
    rows = [{"uri": "../b.wav"}, {"uri": str(tmp_path / "c.wav")}, {"uri": f"file://{tmp_path}/c.wav"}]
    root = place(AUDIO | {"lists/m.jsonl": lines(*rows)})
    recordings = listed(f"{root}/lists/m.jsonl", allow_external_paths=True)
    assert [one.uri for one in recordings] == [f"{root}/b.wav", f"{tmp_path}/c.wav", f"{tmp_path}/c.wav"]
    assert [one.source_size for one in recordings] == [1, 3, 3]


def test_a_glob_over_manifests_reads_them_all(place: Place) -> None:
    root = place(AUDIO | {"1.jsonl": lines({"uri": "b.wav"}), "2.jsonl": lines({"uri": "audio/a.wav"})})
    assert [one.recording_id for one in listed(f"{root}/*.jsonl")] == ["b.wav", "audio/a.wav"]


def test_a_manifest_beside_audio_is_not_read_with_its_folder(place: Place) -> None:
    root = place(AUDIO | {"m.jsonl": lines({"uri": "b.wav", "id": "x"})})
    assert sorted(one.recording_id for one in listed(root)) == ["audio/a.wav", "b.wav"]
    assert sorted(one.recording_id for one in listed(f"{root}/**")) == ["audio/a.wav", "b.wav"]


def test_an_id_twice_in_a_manifest_names_both_files(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(lines({"id": "x", "uri": "a.wav"}, {"id": "x", "uri": "b.wav"}))
    with pytest.raises(InputError, match=r"duplicate id 'x': .*/a\.wav and .*/b\.wav"):
        listed(str(tmp_path / "m.jsonl"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "m.jsonl",
            "These are words\n" * 3,
            r"m\.jsonl line 1: expected one JSON object a line, found 'These are words'",
        ),
        (
            "m.jsonl",
            '{"id": "a", "file": "b"}\n',
            r"line 1: needs uri \(or path, audio_filepath, file_name; .*\); found 'id', 'file'",
        ),
        ("m.json", '[{"uri": "a"},\n{"uri": "b"}]\n', r"line 1: expected one JSON object a line.*jq -c '\.\[\]'"),
        ("m.jsonl", '{"uri": "ä"}\n'.encode("latin-1"), "not readable as a manifest in UTF-8"),
        ("m.jsonl", "\n", "there are no recordings"),
        ("m.csv", "id,file\n1,a.wav\n", r"needs the column uri \(or path, audio_filepath, .*\); found 'id', 'file'"),
        ("m.csv", 'id,uri\n1,"a.wav\n', r"m\.csv line 2: unexpected end of data"),
        ("m.csv", "id,uri\n1,a.wav,x\n", "line 2: has 3 cells, the header 2"),
        ("m.csv", 'id,"uri\n1,a.wav\n', r"m\.csv line 1: unexpected end of data"),
        ("m.csv", "id,ü\n1,a.wav\n".encode("latin-1"), "line 1: not readable as a manifest in UTF-8: 'id,.*udcfc'"),
        ("m.csv.gz", b"no gzip", "not readable as a manifest"),
        ("m.csv.gz", gzip.compress(b"uri\n" + b"a\n" * 99, mtime=0)[:-12], "not readable as a manifest"),
        ("m.parquet", "no parquet", r"m\.parquet: not readable as Parquet"),
        ("m.parquet", parquet(id=[1]), "needs the column uri .*; found 'id'"),
    ],
)
def test_the_error_of_an_invalid_manifest_names_line_and_reason(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError, match=message):
        listed(str(tmp_path / name))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": "x", "uri": 3}', "uri must be a path or URL, found 3"),
        ('{"id": "x", "path": null}', "path must be a path or URL, found None"),
        ('{"id": "x", "path": NaN}', "path must be a path or URL, found None"),
        ('{"id": "x", "uri": "a\\u0000b"}', r"uri 'a\x00b' holds a NUL character"),
        ('{"id": "x", "uri": "a", "duration": "long"}', "duration must be seconds, found 'long'"),
        ('{"id": "x", "uri": "a", "duration": [1]}', "duration must be seconds, found [1]"),
        ('{"id": "x", "uri": "a", "duration_s": -1}', "duration_s must be seconds, found -1"),
        ('{"id": "x", "uri": "a", "duration_s": 1e99}', "duration_s must be seconds, found 1e+99"),
        ('{"id": "x", "uri": "a", "duration_s": 1' + "0" * 400 + "}", "duration_s must be seconds, found 1000"),
        ('{"id": "x", "uri": "a", "offset": -1}', "offset must be seconds, found -1"),
        ('{"id": "x", "uri": "a", "offset": "abc"}', "offset must be seconds, found 'abc'"),
        ('{"id": "x", "uri": "a", "offset": -0.001, "duration": 2}', "offset must be seconds, found -0.001"),
        ('{"id": "x", "uri": "a", "location": {"from": 1}}', "location must be an object of member, "),
        ('{"id": "x", "uri": "a", "location": {"start_s": -1}}', "a number out of range"),
        ('{"id": "x", "uri": "a", "location": {"row": "x"}}', "location cannot be "),
        ('{"id": "x", "uri": "a", "location": {"channel": 3000000000}}', "a number out of range"),
        ('{"uri": "\\ud800"}', "holds half a character"),
        ('{"file": "a"}', "needs uri (or path, audio_filepath, file_name; "),
        ('["a"]', """expected a JSON object, found '["a"]'"""),
        ('{"uri": "a"', "expected one JSON object a line, found "),
        ('{"uri": "\udce4"}', "not readable as a manifest in UTF-8: "),
    ],
)
def test_an_invalid_row_is_a_failed_recording(tmp_path: Path, row: str, words: str) -> None:
    good = [json.dumps({"uri": f"{name}.wav"}) for name in "abc"]
    manifest = tmp_path / "m.jsonl"
    for place in (0, 1, 3):  # the first and the last row too
        lines = [*good[:place], row, *good[place:]]
        manifest.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
        found = listed(str(manifest))
        assert [one.uri for one in found if one.error is None] == [str(tmp_path / f"{name}.wav") for name in "abc"]
        wrong = found[place]
        assert wrong.error_kind == ErrorKind.INVALID_ROW
        assert wrong.error is not None and wrong.error.startswith(f"{manifest} line {place + 1}: ")
        assert words in wrong.error
        assert wrong.recording_id == ("x" if '"x"' in row else f"{manifest} line {place + 1}")


@pytest.mark.parametrize("uri", ["nowhere://x/y.wav", "x" * 300 + ".wav", "s3://bucket/" + "x" * 1200])
def test_a_row_with_an_impossible_uri_fails_alone(tmp_path: Path, bucket: str, uri: str) -> None:
    (tmp_path / "m.jsonl").write_text(lines({"uri": "a.wav"}, {"id": "x", "uri": uri}, {"uri": f"{bucket}/b.wav"}))
    a, x, b = listed(str(tmp_path / "m.jsonl"), allow_external_paths=True)
    assert (a.error, b.error) == (None, None)
    assert (x.recording_id, x.error_kind) == ("x", ErrorKind.INVALID_ROW)
    assert "m.jsonl line 2: uri '" in str(x.error) and "names no file (" in str(x.error)
    (tmp_path / "m.jsonl").write_text(lines({"uri": "nowhere://x/y.wav"}))
    with pytest.raises(InputError, match="Install the fsspec package for it"):
        listed(str(tmp_path / "m.jsonl"), allow_external_paths=True)


def test_unreadable_csv_rows_do_not_affect_the_others(tmp_path: Path) -> None:
    rows = [
        '1,a.wav,"two\nlines"',
        "2,b.wav,x,more",
        "3,c.wav",
        '4,"d.wav,x',
        '5,e.wav,"a ""word""',
        "6,f.wav,-3s",
        "7,,x",
    ]
    table = "\n".join(["id,path,text", *rows, "8,g.wav,nan", "9,h.wav,\udce4", "10,i.wav,ok"])
    (tmp_path / "m.csv").write_bytes(table.encode(errors="surrogateescape"))
    found = {one.recording_id: one for one in listed(str(tmp_path / "m.csv"))}
    assert {name: one.reference for name, one in found.items() if one.error is None} == {
        **{"1": "two\nlines", "6": "-3s", "8": "nan", "10": "ok"},
    }
    wrong = sorted((one.error or "").removeprefix(f"{tmp_path}/m.csv ") for one in found.values() if one.error)
    assert [words.partition(":")[0] for words in wrong] == ["line 11", "line 4", "line 5", "line 6", "line 7", "line 9"]


def test_each_wrong_segment_of_a_table_is_a_failed_row(tmp_path: Path) -> None:
    offsets = ["0", "-1e-9", "1.5", "-2", "abc", "", "NaN", "1e12", "none"]
    rows = [f"{number},a.wav,{offset},1" for number, offset in enumerate(offsets)]
    (tmp_path / "m.csv").write_text("\n".join(["id,path,offset,duration", *rows, "9,a.wav,1,-1"]))
    found = listed(str(tmp_path / "m.csv"))
    starts = [one.location.start_s if one.location else None for one in found]
    assert starts == [0.0, 0.0, 1.5, None, None, None, None, None, None, None]
    assert [one.recording_id for one in found if one.error] == ["3", "4", "7", "9"]
    assert found[1].source_version is None or "-" not in found[1].source_version.partition("@")[2]


NAN = float("nan")


def test_nan_is_null_in_json_lines_and_the_text_nan_is_text(tmp_path: Path) -> None:
    fields = ["id", "text", "language", "speaker", "duration", "offset", "channel", "snr"]
    missing = "".join(f', "{name}": NaN' for name in fields)
    infinite = "".join(
        f', "{name}": {value}' for name, value in zip(fields, ["Infinity", "-Infinity"] * 4, strict=True)
    )
    words = json.dumps({"uri": "c.wav", "text": "nan", "speaker": "NaN", "nested": {"x": 1}})
    (tmp_path / "m.jsonl").write_text(f'{{"uri": "a.wav"{missing}}}\n{{"uri": "b.wav"{infinite}}}\n{words}\n')
    a, b, c = listed(str(tmp_path / "m.jsonl"))
    for one, name in ((a, "a.wav"), (b, "b.wav")):
        assert one == Recording(recording_id=name, uri=str(tmp_path / name))
    assert (c.reference, c.metadata) == ("nan", {"speaker": "NaN", "nested": '{"x": 1}'})


def test_nan_is_null_in_parquet(tmp_path: Path) -> None:
    columns = {
        name: pa.array([NAN, NAN]) for name in ("id", "text", "language", "speaker", "offset", "duration", "snr")
    }
    nested = pa.array([{"x": NAN}, {"x": 1.0}])
    pq.write_table(pa.table({"uri": ["a.wav", "b.wav"], **columns, "nested": nested}), tmp_path / "m.parquet")
    a, b = listed(str(tmp_path / "m.parquet"))
    assert a == Recording(recording_id="a.wav", uri=str(tmp_path / "a.wav"), metadata={"nested": '{"x": null}'})
    assert b.recording_id == "b.wav"


def test_an_out_of_range_parquet_value_fails_its_row_alone(tmp_path: Path) -> None:
    binary = pa.array([b"fine", b"\xff\xfe", b"good"], pa.binary())
    text = pa.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2])
    pq.write_table(pa.table({"uri": ["a", "b", "c"], "text": text}), tmp_path / "m.parquet")
    found = listed(str(tmp_path / "m.parquet"))
    assert [(one.reference, one.error_kind) for one in found] == [("fine", None), (None, "invalid_row"), ("good", None)]
    assert "m.parquet row 2: cannot be read" in str(found[1].error)


def test_the_manifest_of_real_speech_lists_every_line(clips: Path) -> None:
    rows = [json.loads(line) for line in (clips / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    recordings = listed(str(clips / "manifest.jsonl"))
    assert len(recordings) == len(rows) == 17
    for recording, row in zip(recordings, rows, strict=True):
        assert recording.recording_id == row["id"]
        assert recording.reference == row.get("reference")
        assert recording.duration_s == row["duration_s"]
        assert recording.source_size == (clips / row["uri"]).stat().st_size
        assert recording.metadata.get("speaker") == row["speaker"]
        assert recording.metadata["license"] == row["license"]
