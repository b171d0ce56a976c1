"""Datasets saved by `datasets` with `save_to_disk`."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import InputError
from distil_ray.readers import hf_datasets
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from tests.readers.conftest import CLIPS, Place, listed
from tests.readers.shards import audio_cells, read_back


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, speech: dict[str, bytes]) -> Path:
    """A DatasetDict with an Audio column, saved by `datasets`: a split in two files, and a selection of its rows."""
    import datasets

    names = [f"{name}.flac" for name in speech]
    table = pa.table({"audio": audio_cells(list(speech.values()), names), "transcription": ["one", "two", "three"]})
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


def test_a_saved_dataset_is_listed_and_its_index_is_reused(
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


def test_only_the_selected_rows_of_a_saved_dataset_are_recordings(tmp_path: Path, dataset: Path) -> None:
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


def test_a_damaged_arrow_file_is_one_failed_row(tmp_path: Path, dataset: Path) -> None:
    shutil.copytree(dataset, tmp_path / "saved")
    file = tmp_path / "saved" / "test" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "saved" / "train" / "data-00001-of-00002.arrow").write_bytes(b"")
    lost = [one for one in listed(str(tmp_path / "saved")) if one.error]
    assert [one.recording_id for one in lost] == [
        "test/data-00000-of-00001.arrow#rest",
        "train/data-00001-of-00002.arrow#rest",
    ]
