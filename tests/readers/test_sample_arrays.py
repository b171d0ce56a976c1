"""Tables of decoded samples: each cell becomes a WAV file with the same audio."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray

from distil_ray.errors import ErrorKind
from distil_ray.readers.channels import split_channels
from distil_ray.readers.fetch import prefetch_files
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import Recording
from tests.readers.conftest import listed

Samples = NDArray[np.float64]
RATE = 22_050


def tone(number: int) -> Samples:
    """Returns a tone of a little over 0.25 s, shape (num_samples,)."""
    return np.asarray(0.5 * np.sin(np.arange(RATE // 4 + 100 * number) * 0.01 * (number + 1)))


TONES = [tone(number) for number in range(5)]


def structs(arrays: list[Any], kind: pa.DataType, **more: Any) -> dict[str, Any]:
    fields = {"array": arrays, "sampling_rate": [RATE] * len(arrays)} | more
    rows = [dict(zip(fields, cells, strict=True)) for cells in zip(*fields.values(), strict=True)]
    types = [("array", kind), ("sampling_rate", pa.int64()), *((name, pa.string()) for name in more)]
    return {"audio": pa.array(rows, pa.struct(types))}


def two_columns(name: str, arrays: list[Any], kind: pa.DataType, rate: str = "sampling_rate") -> dict[str, Any]:
    return {name: pa.array(arrays, kind), rate: [RATE] * len(arrays)}


def integers(dtype: str) -> list[Any]:
    return [np.round(one * 32767).astype(dtype).tolist() for one in TONES]


def stereo(axis: int) -> list[Any]:
    return [np.stack([one, -one], axis).tolist() for one in TONES]


def tensors() -> dict[str, Any]:
    """As Ray Data stores arrays of different shapes."""
    arrays = [one.reshape(1, -1).astype(np.float32) for one in TONES]
    kind = pa.struct([("data", pa.large_list(pa.float32())), ("shape", pa.list_(pa.int64()))])
    rows = [{"data": one.ravel(), "shape": list(one.shape)} for one in arrays]
    return {"amplitude": pa.array(rows, kind), "sample_rate": [RATE] * len(arrays)}


TABLES: dict[str, Callable[[], dict[str, Any]]] = {
    "datasets' struct": lambda: structs(TONES, pa.list_(pa.float64()), path=[f"{n}.mp3" for n in range(5)]),
    "a struct of single floats": lambda: structs(TONES, pa.large_list(pa.float32())),
    "a column beside its rate": lambda: two_columns("array", TONES, pa.list_(pa.float64())),
    "16-bit integers": lambda: two_columns("waveform", integers("int16"), pa.list_(pa.int16()), "sample_rate"),
    "64-bit integers of 16-bit values": lambda: structs(integers("int64"), pa.list_(pa.int64())),
    "floats of 16-bit values": lambda: structs(integers("float32"), pa.list_(pa.float32())),
    "channel by channel": lambda: structs(stereo(0), pa.list_(pa.list_(pa.float32()))),
    "sample by sample": lambda: two_columns("samples", stereo(1), pa.list_(pa.list_(pa.float64()))),
    "tensors": tensors,
}


def files_of(recordings: list[Recording], folder: Path) -> list[Any]:
    """Returns (samples, rate) of each recording's file, or the kind of its error."""
    folder.mkdir()
    fetched = prefetch_files(recordings, {}, folder, Storage(), threads=2)
    return [one.kind if isinstance(one, StorageError) else soundfile.read(one, always_2d=True) for one in fetched]


def save_arrow(folder: Path, table: pa.Table, batch_rows: int) -> None:
    """Writes a folder as `datasets.save_to_disk` does."""
    folder.mkdir()
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as out,
    ):
        out.write_table(table, max_chunksize=batch_rows)
    (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
    (folder / "dataset_info.json").write_text("{}")


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
@pytest.mark.parametrize("name", TABLES)
def test_samples_become_wav_files_with_the_same_audio(tmp_path: Path, name: str, file_format: str) -> None:
    table = pa.table(TABLES[name]() | {"text": [f"words {number}" for number in range(5)]})
    if file_format == "parquet":
        pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
        uri = tmp_path / "t.parquet"
    else:
        save_arrow(tmp_path / "saved", table, 2)
        uri = tmp_path / "saved"
    recordings = listed(str(uri))
    assert [one.reference for one in recordings] == [f"words {number}" for number in range(5)]
    assert [(one.location.row_group, one.location.row) for one in recordings if one.location] == [
        *((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    ]
    wanted = [recordings[number] for number in (3, 0, 4, 1)]
    for (samples, rate), number in zip(files_of(wanted, tmp_path / "files"), (3, 0, 4, 1), strict=True):
        assert rate == RATE
        assert np.allclose(samples[:, 0], TONES[number], atol=1e-4)
        assert samples.shape == (len(TONES[number]), 2 if "by" in name else 1)
        assert np.allclose(samples[:, -1], -samples[:, 0] if "by" in name else samples[:, 0], atol=1e-6)


def test_samples_written_by_pandas_are_read(tmp_path: Path) -> None:
    cells = [{"array": one, "sampling_rate": RATE, "path": None} for one in TONES]
    pandas.DataFrame({"audio": cells, "speaker": [1.0, NAN, 2.0, 3.0, NAN]}).to_parquet(tmp_path / "t.parquet")
    recordings = listed(str(tmp_path / "t.parquet"))
    assert [one.metadata for one in recordings] == [{"speaker": "1.0"}, {}, {"speaker": "2.0"}, {"speaker": "3.0"}, {}]
    found = files_of(recordings, tmp_path / "files")
    assert all(np.allclose(samples[:, 0], one, atol=1e-6) for (samples, _), one in zip(found, TONES, strict=True))


NAN = float("nan")


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_a_cell_without_usable_audio_fails_alone(tmp_path: Path, file_format: str) -> None:
    kind = pa.struct([("array", pa.list_(pa.float32())), ("sampling_rate", pa.float64()), ("path", pa.string())])
    rows = [
        {"array": [0.5] * 100, "sampling_rate": 16000.0},
        {"array": [0.5] * 100, "sampling_rate": 0.0},
        {"array": [0.5] * 100, "sampling_rate": NAN},
        {"array": None, "sampling_rate": 8000.0},
        {"array": None, "sampling_rate": None, "path": "else.wav"},
        None,
        {"array": [0.5, None, NAN], "sampling_rate": 8000.0},
        {"array": [0.25] * 10, "sampling_rate": 8000.0},
    ]
    table = pa.table({"audio": pa.array(rows, kind)})
    if file_format == "parquet":
        pq.write_table(table, tmp_path / "t.parquet")
    else:
        save_arrow(tmp_path / "saved", table, 100)
    soundfile.write((tmp_path if file_format == "parquet" else tmp_path / "saved") / "else.wav", TONES[0], RATE)
    recordings = listed(str(tmp_path / ("t.parquet" if file_format == "parquet" else "saved")))
    recordings.sort(key=lambda one: one.recording_id)  # rows that refer to files come last
    found = files_of(recordings, tmp_path / "files")
    kinds = {number: one for number, one in enumerate(found) if not isinstance(one, tuple)}
    assert kinds == {1: ErrorKind.NOT_AUDIO, 2: ErrorKind.NOT_AUDIO, 3: ErrorKind.EMPTY_FILE, 5: ErrorKind.EMPTY_FILE}
    assert [len(found[number][0]) for number in (0, 4, 6, 7)] == [100, len(TONES[0]), 3, 10]
    assert np.isnan(found[6][0][1:]).all()  # the decoder sets them to zero, and says so


def test_a_list_of_numbers_is_not_audio_if_there_is_a_path_column(tmp_path: Path) -> None:
    columns = {"path": ["a.wav"], "sampling_rate": [16000], "embedding": [[0.5, 0.25]]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    (found,) = listed(str(tmp_path / "t.parquet"))
    assert (found.uri, found.location) == (str(tmp_path / "a.wav"), None)
    named = {"embedding": [[0.5] * 20], "sampling_rate": [8000]}
    pq.write_table(pa.table(named), tmp_path / "u.parquet")
    (found,) = listed(str(tmp_path / "u.parquet"), columns={"uri": "embedding"})
    assert [len(one[0]) for one in files_of([found], tmp_path / "files")] == [20]


def test_each_channel_of_samples_is_a_recording(tmp_path: Path) -> None:
    pq.write_table(pa.table(structs(stereo(0), pa.list_(pa.list_(pa.float32())))), tmp_path / "t.parquet")
    names = [one.recording_id for one in split_channels(listed(str(tmp_path / "t.parquet")), Storage())]
    assert names == [f"t.parquet#{row}#{channel}" for row in range(5) for channel in range(2)]


def test_long_cells_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [np.full(1_500_000, 0.01 * number, np.float32) for number in range(6)]
    pq.write_table(pa.table(structs(arrays, pa.list_(pa.float32()))), tmp_path / "t.parquet", use_dictionary=False)
    recordings = listed(str(tmp_path / "t.parquet"))
    in_memory: list[int] = []
    plain = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, size: int, **options: Any) -> Iterator[pa.RecordBatch]:
        for batch in plain(self, size, **options):
            in_memory.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    means = [round(float(one[0].mean()), 3) for one in files_of(recordings, tmp_path / "files")]
    assert means == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05]
    assert max(in_memory) < 8_000_000


def test_tensors_of_a_fixed_shape_keep_their_channels(tmp_path: Path) -> None:
    """As Ray Data stores arrays of equal shapes, read where its types are not known."""
    noted = {"ARROW:extension:name": "ray.data.arrow_tensor_v2", "ARROW:extension:metadata": "[2, 1000]"}
    field = pa.field("amplitude", pa.large_list(pa.float32()), metadata=noted)
    channels = np.stack([TONES[0][:1000], -TONES[1][:1000]])
    schema = pa.schema([field, ("sample_rate", pa.int64())])
    table = pa.table({"amplitude": [channels.ravel().tolist()], "sample_rate": [RATE]}, schema=schema)
    pq.write_table(table, tmp_path / "t.parquet")
    ((samples, rate),) = files_of(listed(str(tmp_path / "t.parquet")), tmp_path / "files")
    assert rate == RATE
    assert np.allclose(samples, channels.T, atol=1e-6)
