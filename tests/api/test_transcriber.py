"""`dr.Transcriber` on batches as Ray Data passes them; one test in Ray Data itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
import soundfile

import distil_ray as dr
from distil_ray.schema import TRANSCRIPT
from tests.api.conftest import MODEL
from tests.support.clips import CLIPS, load_manifest

AUSTEN = "austen-0880-8khz.wav"
TEXT = "He was not an ill-disposed young man."


@pytest.fixture(scope="module")
def transcriber(whisper_tiny_en: Path) -> dr.Transcriber:
    return dr.Transcriber(MODEL, overrides={"model.dtype": "float32", "decoding.num_beams": 1})


def _objects(*cells: Any) -> np.ndarray[Any, np.dtype[np.object_]]:
    array = np.empty(len(cells), object)
    array[:] = cells
    return array


def _samples() -> tuple[np.ndarray[Any, np.dtype[np.float32]], int]:
    samples, rate = soundfile.read(CLIPS / AUSTEN, dtype="float32")
    return samples, rate


def test_encoded_audio_files_and_damage_in_one_batch(transcriber: dr.Transcriber) -> None:
    kennedy = (CLIPS / "kennedy.m4a").read_bytes()
    audio = [{"bytes": kennedy, "path": "kennedy.m4a"}, {"bytes": b"RIFF", "path": None}]
    audio += [{"bytes": None, "path": str(CLIPS / AUSTEN)}, {"bytes": None, "path": "/nowhere.wav"}, None]
    table = transcriber(pa.table({"audio": audio, "n": range(5)}))
    assert table.column_names == ["n", *TRANSCRIPT.names]
    assert table["status"].to_pylist() == ["ok", "failed", "ok", "failed", "failed"]
    assert table["error_kind"].to_pylist() == [None, "not_audio", None, "not_found", "empty_file"]
    assert table["uri"].to_pylist()[::2] == ["kennedy.m4a", str(CLIPS / AUSTEN), "row 4"]
    assert table["text"][2].as_py() == TEXT
    assert "what your country can do" in table["text"][0].as_py()


@pytest.mark.parametrize("layout", ["struct", "columns", "two channels", "int16"])
def test_samples_of_any_rate_and_type(transcriber: dr.Transcriber, layout: str) -> None:
    samples, rate = _samples()
    batch: dict[str, Any] = {"audio": _objects(samples), "sampling_rate": np.array([rate])}
    if layout == "struct":
        batch = {"audio": _objects({"array": samples, "sampling_rate": rate, "path": None})}
    elif layout == "two channels":
        batch["audio"] = np.stack([samples, samples])[None]
    elif layout == "int16":
        batch["audio"] = _objects((samples * 32767).astype(np.int16))
    table = transcriber(batch)
    assert table["text"].to_pylist() == [TEXT]
    assert table["duration_s"][0].as_py() == pytest.approx(load_manifest()["austen-0880-8khz"]["duration_s"], abs=0.01)
    assert table.column_names == TRANSCRIPT.names


def test_columns_describe_the_recordings_and_others_pass_through(transcriber: dr.Transcriber) -> None:
    frame = pd.DataFrame(
        {
            "uri": [str(CLIPS / "kennedy.m4a"), str(CLIPS / "swedish.opus")],
            "offset": [2.0, 0.0],
            "duration": [5.0, 3.0],
            "language": ["English", "sv"],
            "text": ["ask not what your country can do for", None],
            "split": ["train", "test"],
        }
    )
    table = transcriber(frame)
    kept = ["offset", "duration", "input_language", "input_text", "split"]
    assert table.column_names == [*kept, *TRANSCRIPT.names]
    first, second = table.to_pylist()
    assert (first["duration_s"], first["wer"], first["language"]) == (5.0, 0.0, "en")
    assert first["recording_id"] == f"{CLIPS}/kennedy.m4a@2+5"
    assert (second["status"], second["error_kind"]) == ("failed", "unsupported_language")
    assert (second["split"], second["input_language"]) == ("test", "sv")


def test_lists_of_rows_and_frames_that_hold_arrow_data_are_batches(transcriber: dr.Transcriber) -> None:
    path = str(CLIPS / AUSTEN)
    rows: list[dict[str, Any]] = [
        {"uri": path, "bytes": None, "n": 1},
        {"uri": None, "bytes": (CLIPS / AUSTEN).read_bytes()},
    ]
    for batch in (rows, tuple(rows), polars.DataFrame(rows), pa.RecordBatch.from_pylist(rows)):
        table = transcriber(batch)
        assert table["text"].to_pylist() == [TEXT, TEXT]
        assert table["uri"][0].as_py() == path
    assert transcriber(rows)["n"].to_pylist() == [1, None]
    assert transcriber([{"path": CLIPS / AUSTEN}])["text"].to_pylist() == [TEXT]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (AUSTEN, "a batch must be an Arrow table, .* list of rows .* found str"),
        ([AUSTEN], "a batch must be .* found list"),
        (None, "a batch must be .* found NoneType"),
        ({"uri": AUSTEN}, "column uri: must have a value for each row, found one str"),
        ({"bytes": b"RIFF", "n": 1}, "column bytes: must have a value for each row, found one bytes"),
        ({"uri": [AUSTEN], "n": [1, 2]}, "as many values as there are rows, found uri 1, n 2"),
        ([], "a row needs its audio"),
    ],
)
def test_what_is_no_batch_is_an_error_that_says_what_is(transcriber: dr.Transcriber, batch: Any, reason: str) -> None:
    with pytest.raises(dr.InputError, match=reason):
        transcriber(batch)


def test_the_columns_to_keep_are_chosen(whisper_tiny_en: Path) -> None:
    transcriber = dr.Transcriber(MODEL, keep_columns=["bytes", "n"], overrides={"input.columns.uri": "bytes"})
    table = transcriber({"bytes": _objects((CLIPS / "cards-001.flac").read_bytes()), "n": np.array([1]), "m": [2]})
    assert table.column_names[:3] == ["bytes", "n", "recording_id"]
    assert "m" not in table.column_names
    with pytest.raises(dr.InputError, match="keep_columns"):
        transcriber({"bytes": _objects(b"")})


def test_what_the_recognizer_raises_costs_one_row(transcriber: dr.Transcriber, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = transcriber._pipeline._transcribe
    transcribe = stage._recognizer.transcribe  # type: ignore[attr-defined]

    def fail_on_long_audio(chunks: Any, *arguments: Any) -> Any:
        if any(len(chunk) > 160_000 for chunk in chunks):
            raise RuntimeError("out of memory")
        return transcribe(chunks, *arguments)

    monkeypatch.setattr(stage._recognizer, "transcribe", fail_on_long_audio)  # type: ignore[attr-defined]
    table = transcriber({"uri": np.array([str(CLIPS / "kennedy.m4a"), str(CLIPS / AUSTEN)])})
    assert table["error_kind"].to_pylist() == ["inference_error", None]
    assert table["text"].to_pylist() == [None, TEXT]


def test_a_batch_without_audio_is_refused_and_an_empty_one_is_not(transcriber: dr.Transcriber) -> None:
    with pytest.raises(dr.InputError, match="a row needs its audio"):
        transcriber({"name": np.array(["a"])})
    empty = transcriber(pa.table({"uri": pa.array([], pa.string()), "n": pa.array([], pa.int64())}))
    assert (empty.num_rows, empty.column_names) == (0, ["n", *TRANSCRIPT.names])


@pytest.mark.slow
def test_ray_data_reads_transcribes_and_writes(local_ray: None, tmp_path: Path) -> None:
    import ray

    names = ["cards-001.flac", "cards-003.flac", "kennedy.m4a"]
    files = ray.data.read_binary_files([str(CLIPS / name) for name in names], include_paths=True)
    rows = files.map_batches(
        dr.Transcriber,
        fn_constructor_kwargs={"model": MODEL, "words": True},
        batch_size=2,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    rows.write_parquet(str(tmp_path))
    table = pd.read_parquet(tmp_path).sort_values("path")
    assert [path.rsplit("/", 1)[-1] for path in table["path"]] == names
    assert list(table["status"]) == ["ok"] * 3
    assert table["words"].iloc[2][0]["text"].strip() == "And"
