"""Tables with audio in them: Parquet as Hugging Face's hub has it, and data sets saved by `datasets`."""

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import ErrorKind, ExitCode, InputError
from distil_ray.readers import hf_datasets, list_recordings
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.index_cache import IndexCache
from distil_ray.storage.storage import Storage, StorageError
from distil_ray.types import Recording
from tests.readers.conftest import CLIPS, Place, listed
from tests.readers.shards import run_job

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def cells(audio: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.Array:
    return pa.array([{"bytes": one, "path": path} for one, path in zip(audio, paths, strict=True)], AUDIO)


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def read_back(recordings: list[Recording], folder: Path) -> list[Any]:
    """The bytes of each recording, or the kind of its error."""
    folder.mkdir()
    fetched = prefetch_files(recordings, {}, folder, Storage(), threads=2)
    return [one.kind if isinstance(one, StorageError) else one.read_bytes() for one in fetched]


def test_parquet_of_the_hub_s_layout_gives_what_loose_files_give_and_a_rerun_reads_none_of_it(
    place: Place,
    tmp_path: Path,
    speech: dict[str, bytes],
    heard: dict[str, str],
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"{name}.flac" for name in speech]
    table = {
        "sound": cells(list(speech.values()), names),
        "sentence": ["one", None, "three"],
        "speaker": [7, 8, 9],
        "language": ["en"] * 3,
        "embedding": [[0.5], [0.25], [0.125]],
    }
    files = {f"hub/data/train-{number:05}-of-00002.parquet": parquet(table, row_group_size=2) for number in range(2)}
    root = place({**files, "hub/README.md": "x", "hub/data/other.parquet": parquet({"a": [1]})})
    rows, code = run_job(f"{root}/hub", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    assert len(rows) == 6
    for name, words in heard.items():
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


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_the_audio_of_any_rows_is_read_a_few_at_a_time(
    compression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    audio = [random.bytes(size) for size in (5, 6_000_000, 0, 6_000_000, 9, 6_000_000, 7, 1_000_000)]
    uri = tmp_path / "t.parquet"
    uri.write_bytes(parquet({"audio": cells(audio, [None] * 8)}, row_group_size=7, compression=compression))
    recordings = listed(str(uri))
    assert [one.recording_id for one in recordings] == [f"t.parquet#{number}" for number in range(8)]
    in_memory: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, size: int, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in plain(self, size, **options):
            in_memory.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    wanted = [recordings[number] for number in (1, 5, 3, 3, 7)]
    assert read_back(wanted, tmp_path / "files") == [audio[number] for number in (1, 5, 3, 3, 7)]
    assert max(in_memory) < 14_000_000


def test_of_a_remote_table_only_what_describes_the_rows_is_read_to_list_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    audio = [random.bytes(300_000) for _ in range(40)]
    table = {"audio": cells(audio, [f"{n}.wav" for n in range(40)]), "text": ["words"] * 40}
    Storage().put(f"{bucket}/t.parquet", parquet(table, row_group_size=20))
    sizes: list[int] = []
    plain = Storage.read_range

    def counted(self: Storage, uri: str, start: int, size: int) -> bytes:
        sizes.append(size)
        return plain(self, uri, start, size)

    monkeypatch.setattr(Storage, "read_range", counted)
    assert len(listed(f"{bucket}/t.parquet")) == 40
    assert sum(sizes) < 500_000  # of twelve million


def test_rows_are_called_by_what_tells_them_apart(tmp_path: Path) -> None:
    def named(**columns: Any) -> list[str]:
        (tmp_path / "t.parquet").write_bytes(parquet({"audio": cells([b"a", b"b"], ["x.wav", "y.wav"]), **columns}))
        return [one.recording_id for one in listed(str(tmp_path / "t.parquet"))]

    assert named() == ["t.parquet/x.wav", "t.parquet/y.wav"]
    assert named(id=["p", "q"]) == ["p", "q"]
    assert named(id=["p", "p"]) == ["t.parquet/x.wav", "t.parquet/y.wav"]
    assert named(id=[0, 1]) == ["t.parquet/x.wav", "t.parquet/y.wav"]  # a number of every file
    (tmp_path / "t.parquet").write_bytes(parquet({"audio": cells([b"a", b"b"], ["x", "x"]), "key": [3, 4]}))
    assert [one.recording_id for one in listed(str(tmp_path / "t.parquet"))] == ["t.parquet#0", "t.parquet#1"]
    mapped = listed(str(tmp_path / "t.parquet"), columns={"recording_id": "key"})
    assert [one.recording_id for one in mapped] == ["3", "4"]


def test_rows_whose_audio_lies_in_files_name_them_and_rows_without_any_fail(
    place: Place, speech: dict[str, bytes], tmp_path: Path
) -> None:
    one, two, _ = speech.values()
    mixed = {"audio": cells([None, two, None, None], ["a/1.flac", "2.flac", None, "gone.flac"])}
    files: dict[str, str | bytes] = {"t.parquet": parquet(mixed), "a/1.flac": one}
    root = place({**files, "paths.parquet": parquet({"audio": cells([None], ["a/1.flac"])})})
    found = {one.recording_id: one for one in listed(f"{root}/t.parquet")}
    order = [found[name] for name in sorted(found)]
    assert read_back(order, tmp_path / "files") == [one, two, ErrorKind.EMPTY_FILE, ErrorKind.NOT_FOUND]
    (by_path,) = listed(f"{root}/paths.parquet")
    assert by_path.uri == f"{root}/a/1.flac"
    assert by_path.source_size == len(one)
    outside = place({"x/out.parquet": parquet({"audio": cells([None], ["../a/1.flac"])})})
    with pytest.raises(InputError, match="lies outside"):
        listed(f"{outside}/x/out.parquet")


def test_a_plain_binary_column_is_audio_where_nothing_names_files_or_the_settings_say_so(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(parquet({"wav": pa.array([b"abc"], pa.large_binary()), "text": ["t"]}))
    (found,) = listed(str(path))
    assert read_back([found], tmp_path / "files") == [b"abc"]
    path.write_bytes(parquet({"wav": [b"abc"], "vector": [b"v"], "text": ["t"]}))
    with pytest.raises(InputError, match="needs the column uri"):
        listed(str(path))
    (found,) = listed(str(path), columns={"uri": "wav"})
    assert found.location is not None
    assert found.location.member == "wav"
    features = {"face": {"_type": "Image"}, "voice": {"bytes": {"_type": "Value"}}}
    table = pa.table({"face": cells([b"f"], ["f.png"]), "voice": cells([b"v"], ["v.wav"])})
    noted = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    pq.write_table(table.replace_schema_metadata(noted), path)
    assert [one.recording_id for one in listed(str(path))] == ["t.parquet/v.wav"]
    path.write_bytes(parquet({"left": cells([b"l"], ["l"]), "right": cells([b"r"], ["r"])}))
    with pytest.raises(
        InputError, match=r"t\.parquet: several columns contain audio: left, right.*input\.columns\.uri"
    ):
        listed(str(path))
    with pytest.raises(InputError, match=r"has no audio column.*found left, right"):
        listed(str(path), format="parquet", columns={"uri": "none"})


def test_a_damaged_table_gives_the_rows_that_can_be_read_and_one_failed_row(tmp_path: Path) -> None:
    audio = [bytes([number]) * 4000 for number in range(4)]
    table = {"audio": cells(audio, ["0", "1", "2", "3"]), "text": ["a" * 300, "b", "c", "d" * 300]}
    whole = parquet(table, row_group_size=2, compression="none", use_dictionary=False)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.parquet").write_bytes(whole[:-900])
    about = pq.ParquetFile(io.BytesIO(whole)).metadata.row_group(1).column(2)
    start = about.data_page_offset
    (tmp_path / "in" / "hole.parquet").write_bytes(whole[:start] + b"\xff" * 60 + whole[start + 60 :])
    found = {one.recording_id: one for one in listed(str(tmp_path / "in"))}
    assert sorted(found) == ["cut.parquet#rest", "hole.parquet#rest", "hole.parquet/0", "hole.parquet/1"]
    assert found["cut.parquet#rest"].error_kind == found["hole.parquet#rest"].error_kind == ErrorKind.CORRUPT
    assert "cut.parquet: cannot be read as Parquet" in (found["cut.parquet#rest"].error or "")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, speech: dict[str, bytes]) -> Path:
    """A DatasetDict with an Audio column, saved by `datasets`: a split in two files, and a selection of its rows."""
    import datasets

    names = [f"{name}.flac" for name in speech]
    table = pa.table({"audio": cells(list(speech.values()), names), "transcription": ["one", "two", "three"]})
    features = datasets.Features({"audio": datasets.Audio(), "transcription": datasets.Value("string")})
    split = datasets.Dataset(datasets.table.InMemoryTable(table), datasets.DatasetInfo(features=features))
    folder = tmp_path_factory.mktemp("saved")
    splits = datasets.DatasetDict({"train": split, "test": split.select([2, 0])})
    splits.save_to_disk(folder, num_shards={"train": 2, "test": 1})
    return folder


@pytest.fixture
def saved(place: Place, dataset: Path) -> str:
    """The data set on the disk or in a bucket."""
    return place({f"saved/{path.relative_to(dataset)}": path.read_bytes() for path in dataset.rglob("*.*")}) + "/saved"


def test_data_sets_saved_to_disk_give_their_recordings_and_are_read_once(
    saved: str, speech: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    indexes = IndexCache(f"{saved}-out", storage, writable=True)
    config = InputConfig(uri=(saved,))
    recordings = list(list_recordings(config, storage, indexes))
    assert sorted(one.recording_id for one in recordings) == sorted(
        [
            f"test/data-00000-of-00001.arrow/{CLIPS[2]}.flac",
            f"test/data-00000-of-00001.arrow/{CLIPS[0]}.flac",
            f"train/data-00000-of-00002.arrow/{CLIPS[1]}.flac",
            f"train/data-00000-of-00002.arrow/{CLIPS[0]}.flac",
            f"train/data-00001-of-00002.arrow/{CLIPS[2]}.flac",
        ]
    )
    by_name = [speech[one.recording_id.rsplit("/", 1)[-1].removesuffix(".flac")] for one in recordings]
    assert [one.source_size for one in recordings] == [len(audio) for audio in by_name]
    assert read_back(recordings, tmp_path / "files") == by_name
    assert {one.reference for one in recordings} == {"one", "two", "three"}
    monkeypatch.setattr(hf_datasets, "build_index", None)
    assert list(list_recordings(config, storage, indexes)) == recordings


def test_a_selection_that_was_saved_with_a_data_set_counts(tmp_path: Path, dataset: Path) -> None:
    shutil.copytree(dataset, tmp_path / "saved")
    folder = tmp_path / "saved" / "train"
    with pa.OSFile(str(folder / "indices.arrow"), "wb") as sink:
        table = pa.table({"indices": pa.array([2, 1, 2], pa.uint64())})
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    state = json.loads((folder / "state.json").read_text())
    state["_indices_data_files"] = [{"filename": "indices.arrow"}]
    (folder / "state.json").write_text(json.dumps(state))
    assert [one.reference for one in listed(str(folder))] == ["two", "three"]
    state["_data_files"].append({"filename": "lost.arrow"})
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(InputError, match=r"state\.json: names lost\.arrow"):
        listed(str(folder))


def test_an_arrow_file_that_is_damaged_is_one_failed_row(tmp_path: Path, dataset: Path) -> None:
    shutil.copytree(dataset, tmp_path / "saved")
    file = tmp_path / "saved" / "test" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "saved" / "train" / "data-00001-of-00002.arrow").write_bytes(b"")
    lost = [one for one in listed(str(tmp_path / "saved")) if one.error]
    assert [one.recording_id for one in lost] == [
        "test/data-00000-of-00001.arrow#rest",
        "train/data-00001-of-00002.arrow#rest",
    ]
