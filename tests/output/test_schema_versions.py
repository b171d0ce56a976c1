"""All readers of an output accept earlier schema versions and raise an error for later ones."""

import io
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.assistant_training.training_examples import RowSelection, read_rows
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, RunError
from distil_ray.nightly.run_records import compute_figures
from distil_ray.output.ledger import Ledger
from distil_ray.output.reader import open_transcripts
from distil_ray.pipeline import runner
from distil_ray.report.comparison import compare
from distil_ray.report.run_page import write_run_page
from distil_ray.schema import (
    ADDED_FIELDS,
    SCHEMA_VERSION,
    TRANSCRIPT,
    VERSION_KEY,
    read_schema_version,
    to_parquet_bytes,
    transcript_schema,
)
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from distil_ray.verify.recheck import Sampling, draw_sample
from distil_ray.verify.verify import verify
from tests.export.conftest import run_export
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

# Of version 1, which had no version in its files. Never to be changed: files with these fields are out there.
FIELDS_OF_VERSION_1 = {
    "": "recording_id uri source_size source_version location status error_kind error duration_s language language_prob"
    " text text_normalized reference reference_normalized num_ref_words substitutions deletions insertions wer"
    " num_ref_chars char_edits cer normalizer chunks segments words avg_logprob no_speech_prob compression_ratio"
    " chars_per_s quality_flags acceptance_rate metadata model fingerprint run_id processed_at",
    "location.": "member byte_start num_bytes row_group row start_s length_s channel",
    "chunks.": "start_s end_s text avg_logprob no_speech_prob compression_ratio temperature window_s quality_flags"
    " tokens",
    "segments.": "start_s end_s text",
    "words.": "start_s end_s text probability",
    "metadata.": "key value",
}
PRETENDED = ("acceptance_rate", "cer", "chunks.no_speech_prob")  # here taken for fields that version 1 did not have


@pytest.fixture
def _more_added(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in PRETENDED:
        monkeypatch.setitem(ADDED_FIELDS, path, SCHEMA_VERSION)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, whisper_tiny_en: Path) -> Path:
    """A folder with `audio` and the output `out` of a run over it: four recordings in four files."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "audio").mkdir()
    for number in range(4):
        _add_recording(folder, str(number), number)
    assert _run(folder, "first", whisper_tiny_en) == ExitCode.DONE
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, _more_added: None) -> Path:
    """A copy of it, with the output in version 1."""
    subprocess.run(["cp", "-a", f"{finished}/out", f"{finished}/audio", tmp_path], check=True)
    for path in _files(tmp_path):
        _make_older(path)
    return tmp_path


def _add_recording(folder: Path, name: str, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-3000, 3000, (1 + seed) * SAMPLE_RATE).astype(np.int16)
    soundfile.write(folder / "audio" / f"{name}.wav", noise, SAMPLE_RATE)
    (folder / "audio" / f"{name}.txt").write_text("some noise")


def _config(folder: Path, *overrides: str) -> Config:
    return load_config(None, [f"input.uri={folder / 'audio'}", f"output.uri={folder / 'out'}", *overrides])


def _run(folder: Path, run_id: str, model: Path) -> ExitCode:
    config = _config(folder, f"model.name={model}", f"run_id={run_id}", "plan.task_recordings=1", "resources.actors=1")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages_in_process(monkeypatch)
        return runner.transcribe(config, _console(), EchoTranscribe)


def _console() -> Console:
    return Console(file=io.StringIO(), width=200)


def _files(folder: Path) -> list[Path]:
    return sorted((folder / "out/transcripts").glob("*.parquet"))


def _make_older(path: Path) -> None:
    """Rewrites a file as version 1 wrote it: without later fields and without a version."""
    older = transcript_schema(1).remove_metadata()
    table = pq.read_table(path)
    columns = [table[one.name].cast(one.type) for one in older]
    path.write_bytes(to_parquet_bytes(pa.Table.from_arrays(columns, schema=older)))


def _make_newer(path: Path, version: str = str(SCHEMA_VERSION + 1)) -> None:
    table = pq.read_table(path)
    path.write_bytes(to_parquet_bytes(table.replace_schema_metadata({VERSION_KEY: version})))


def _verify(folder: Path) -> str:
    """Returns the output of `verify`, which must find no difference."""
    console = _console()
    code = verify(_config(folder), console)
    words = str(console.file.getvalue())  # type: ignore[attr-defined]
    assert code == ExitCode.DONE, words
    return words


def _paths(fields: Iterable[pa.Field], prefix: str = "") -> Iterator[str]:
    for one in fields:
        yield prefix + one.name
        kind = one.type.value_type if pa.types.is_list(one.type) else one.type
        if pa.types.is_struct(kind):
            yield from _paths(kind, f"{prefix}{one.name}.")


def test_every_field_belongs_to_a_version() -> None:
    first = [prefix + name for prefix, names in FIELDS_OF_VERSION_1.items() for name in names.split()]
    assert sorted(_paths(transcript_schema(1))) == sorted(first), (
        "a field was added or removed: count up SCHEMA_VERSION once a release and name the field in ADDED_FIELDS"
    )
    assert set(ADDED_FIELDS) <= set(_paths(TRANSCRIPT))
    assert all(2 <= version <= SCHEMA_VERSION for version in ADDED_FIELDS.values())
    assert transcript_schema(SCHEMA_VERSION).equals(TRANSCRIPT, check_metadata=True)


def test_the_docs_name_what_each_version_added() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/output.md").read_text()
    section = page.partition("### Schema versions")[2].partition("\n## ")[0]
    for path, version in ADDED_FIELDS.items():
        (row,) = [line for line in section.splitlines() if line.startswith(f"| {version} | ")]
        assert f"`{path}`" in row


def test_a_run_writes_its_schema_version(finished: Path) -> None:
    assert [read_schema_version(pq.read_schema(path)) for path in _files(finished)] == [SCHEMA_VERSION] * 4


def test_a_run_resumes_an_output_of_an_older_version_and_verify_finds_no_difference(
    folder: Path, whisper_tiny_en: Path
) -> None:
    _add_recording(folder, "new", 4)
    assert _run(folder, "second", whisper_tiny_en) == ExitCode.DONE
    assert sorted(read_schema_version(pq.read_schema(path)) for path in _files(folder)) == [1, 1, 1, 1, SCHEMA_VERSION]
    summary = json.loads((folder / "out/runs/second/summary.json").read_text())
    assert (summary["num_done_before"], summary["num_recognized"], summary["num_ok"]) == (4, 1, 5)
    assert "5 rows, 5 files" in _verify(folder)


def test_replacing_a_row_keeps_the_schema_version_of_the_file(folder: Path, whisper_tiny_en: Path) -> None:
    """Both rows of a file of two recordings, of which one has changed."""
    paths = _files(folder)
    tables = [pq.read_table(path) for path in paths[:2]]
    paths[0].write_bytes(to_parquet_bytes(pa.concat_tables(tables)))
    paths[1].unlink()
    changed = tables[0]["recording_id"][0].as_py()
    _add_recording(folder, changed.removesuffix(".wav"), 6)
    assert _run(folder, "second", whisper_tiny_en) == ExitCode.DONE
    kept = pq.read_table(paths[0])
    assert kept["recording_id"].to_pylist() == tables[1]["recording_id"].to_pylist()
    assert read_schema_version(kept.schema) == 1


def test_verify_reports_a_missing_column_of_the_version_of_the_file(folder: Path) -> None:
    path = _files(folder)[0]
    path.write_bytes(to_parquet_bytes(pq.read_table(path).drop_columns(["normalizer"])))
    console = _console()
    assert verify(_config(folder), console) == ExitCode.FAILED
    assert "lacks the column normalizer" in console.file.getvalue()  # type: ignore[attr-defined]


def test_report_and_comparison_read_older_transcripts(folder: Path) -> None:
    assert Path(write_run_page(str(folder / "out"), "first", _config(folder))).exists()
    console = _console()
    compare(str(folder / "out"), str(folder / "out"), str(folder / "page.html"), _config(folder), console)
    assert (folder / "page.html").exists()


@pytest.mark.parametrize(("form", "num_files"), [("srt", 4), ("txt", 4), ("jsonl", 1), ("lhotse", 1)])
def test_older_transcripts_can_be_exported(folder: Path, form: str, num_files: int) -> None:
    code, words = run_export(str(folder / "out"), str(folder / "to"), f"format={form}")
    assert code == ExitCode.DONE, words
    assert len(list((folder / "to").iterdir())) == num_files


def test_nightly_figures_recheck_and_training_read_older_transcripts(folder: Path) -> None:
    storage = Storage()
    assert compute_figures(str(folder / "out/transcripts"), storage)["num_ok"] == 4
    rows = list(draw_sample(str(folder / "out"), Sampling(None, 4, 0, 1.0, full_windows=False), storage).rows)
    assert [row["cer"] for row in rows] == [None] * 4
    assert {chunk["no_speech_prob"] for row in rows for chunk in row["chunks"]} == {None}
    (row,) = read_rows(RowSelection(str(_files(folder)[0]), (0,)), storage)
    assert row["chunks"][0]["tokens"] and row["chunks"][0]["no_speech_prob"] is None


def test_missing_fields_of_an_older_file_are_null_at_any_depth(folder: Path) -> None:
    path = _files(folder)[0]
    with open_transcripts(str(path), Storage()) as file:
        table = file.read()
    assert table.schema.equals(TRANSCRIPT)
    older = pq.read_table(path).to_pylist()
    for row, before in zip(table.to_pylist(), older, strict=True):
        assert row["acceptance_rate"] is None and row["cer"] is None
        assert {name: row[name] for name in before if name != "chunks"} == {
            name: before[name] for name in before if name != "chunks"
        }
        for chunk, other in zip(row["chunks"], before["chunks"], strict=True):
            assert "no_speech_prob" not in other
            assert {**other, **dict.fromkeys(chunk.keys() - other.keys())} == chunk


def test_single_fields_of_a_nested_column_can_be_read(folder: Path) -> None:
    columns = ["recording_id", "chunks.list.element.text", "chunks.list.element.no_speech_prob", "cer"]
    with open_transcripts(str(_files(folder)[0]), Storage()) as file:
        (batch,) = file.iter_batches(10, columns)
    (row,) = batch.to_pylist()
    assert row["cer"] is None
    assert [set(chunk) for chunk in row["chunks"]] == [{"text", "no_speech_prob"}]
    assert row["chunks"][0]["text"].startswith("en ")


def test_a_missing_column_of_the_version_of_the_file_is_an_error(folder: Path) -> None:
    path = _files(folder)[0]
    path.write_bytes(to_parquet_bytes(pq.read_table(path).drop_columns(["text"])))
    with open_transcripts(str(path), Storage()) as file:
        assert file.read(["recording_id"]).num_rows == 1
        with pytest.raises(RunError, match="has no column text"):
            file.read(["recording_id", "text"])


def test_a_later_version_is_an_error_for_every_reader(folder: Path, whisper_tiny_en: Path) -> None:
    _make_newer(_files(folder)[1])
    out, storage = str(folder / "out"), Storage()
    later = f"was written with version {SCHEMA_VERSION + 1}; .* reads versions 1 to {SCHEMA_VERSION} .* Upgrade"
    with pytest.raises(RunError, match=later):
        _run(folder, "second", whisper_tiny_en)
    with pytest.raises(RunError, match=later):
        _verify(folder)
    with pytest.raises(RunError, match=later):
        write_run_page(out, "first", _config(folder))
    with pytest.raises(RunError, match=later):
        compare(out, out, str(folder / "page.html"), _config(folder), _console())
    with pytest.raises(RunError, match=later):
        run_export(out, str(folder / "to"), "format=txt")
    with pytest.raises(RunError, match=later):
        compute_figures(f"{out}/transcripts", storage)
    with pytest.raises(RunError, match=later):
        list(draw_sample(out, Sampling(None, 4, 0, 1.0, full_windows=False), storage).rows)


@pytest.mark.parametrize("version", ["", "two", "0", "-1"])
def test_an_invalid_version_is_an_error(folder: Path, version: str) -> None:
    _make_newer(_files(folder)[0], version)
    with pytest.raises(RunError, match="has no valid schema version"):
        Ledger.read(str(folder / "out"), Storage())


def test_files_of_several_versions_can_be_read_as_one_table(folder: Path, whisper_tiny_en: Path) -> None:
    """By the ways that docs/output.md shows."""
    _add_recording(folder, "new", 4)
    _run(folder, "second", whisper_tiny_en)
    transcripts = folder / "out/transcripts"
    query = f"SELECT recording_id, cer FROM read_parquet('{transcripts}/**/*.parquet', union_by_name=true) ORDER BY 1"
    found = duckdb.execute(query).fetchall()
    assert [name for name, _ in found] == ["0.wav", "1.wav", "2.wav", "3.wav", "new.wav"]
    assert [value is None for _, value in found] == [True] * 4 + [False]
    frame = pandas.read_parquet(transcripts, schema=TRANSCRIPT).set_index("recording_id")
    assert frame["cer"].isna().sum() == 4
    table = pq.read_table(transcripts, schema=TRANSCRIPT)
    assert table.num_rows == 5
    chunks = [chunk["no_speech_prob"] for row in table["chunks"].to_pylist() for chunk in row]
    assert sum(value is None for value in chunks) == 4
