"""Recheck of a sample of rows, with real weights on real speech."""

import io
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distil_ray.audio.segments import extract_spans
from distil_ray.config.loader import dump_config, load_config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.evaluation.wer import bootstrap_interval
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import Run, compute_fingerprint, resolve_chunking
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.model_setup import resolve_beams
from distil_ray.pipeline.planner import make_plan
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.transcript_rows import store_tokenizer
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.readers.listing import list_recordings
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE
from distil_ray.verify.recheck import (
    LINE_EVERY_S,
    Sampling,
    count_differing_windows,
    draw_sample,
    recheck,
    show_recheck_plan,
)
from distil_ray.whisper.checkpoint import load_checkpoint_info
from tests.pipeline.conftest import pointers
from tests.support.clips import load_samples

TIMED = "decoding.timestamps=segment"  # segments are merged by time, which uses the strides
Row = dict[str, Any]


def _transcribe(folder: Path, model: Path, *overrides: str) -> None:
    """Writes the output `folder`/out of a run over `folder`/audio, without Ray."""
    settings = [f"input.uri={folder / 'audio'}", f"output.uri={folder / 'out'}", f"model.name={model}"]
    config = resolve_beams(load_config(None, [*settings, "model.dtype=float32", *overrides]))
    checkpoint = load_checkpoint_info(str(model))
    chunking = resolve_chunking(config, checkpoint.chunk_length_s, checkpoint.chunk_length_reason)
    name = compute_fingerprint(config, checkpoint.identity, chunking)
    run = Run(config, "run", name, checkpoint.identity, None, checkpoint.languages, chunking)
    run.storage.put(join(run.folder_uri, "config.yaml"), dump_config(config).encode())
    store_tokenizer(run, model)
    ledger = Ledger.read(config.output.uri, run.storage)
    listing = list_recordings(config.input, run.storage)
    plan = make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)
    transcribe = TranscribeStage(run)
    for part in decode_tasks(pointers(plan), run):
        (result,) = write_parts(transcribe(part), run).to_pylist()
        assert result["error"] is None


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, clips: Path, whisper_tiny_en: Path) -> Path:
    """A folder with `audio` and the output `out` of a run over it: short clips and one of several chunks."""
    folder = tmp_path_factory.mktemp("output")
    (folder / "audio").mkdir()
    for path in (clips / "cards-005.flac", clips / "librispeech-61.flac"):
        shutil.copy(path, folder / "audio")
        (folder / "audio" / f"{path.stem}.txt").write_text("NOBODY SAID THIS")
    soundfile.write(folder / "audio" / "sonnet.wav", load_samples("sonnet-1")[: 16 * SAMPLE_RATE], SAMPLE_RATE)
    (folder / "audio" / "nothing.wav").write_text("no audio at all")
    _transcribe(folder, whisper_tiny_en, "chunking.length_s=7")
    return folder


@pytest.fixture
def folder(output: Path, tmp_path: Path) -> Path:
    """A copy of its output that a test may change; the audio stays where it is."""
    shutil.copytree(output / "out", tmp_path / "out")
    return tmp_path


def _sampling(words: str, full_windows: bool = False) -> Sampling:
    sampling = Sampling.parse(words, seed=0, max_differing=0.0, full_windows=full_windows)
    assert sampling is not None
    return sampling


def _recheck(folder: Path, words: str, full_windows: bool = False) -> tuple[ExitCode, str]:
    console = Console(file=io.StringIO(), width=200)
    code = recheck(load_config(None, [f"output.uri={folder / 'out'}"]), _sampling(words, full_windows), console)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def _change(folder: Path, change: Callable[[Row], Row]) -> None:
    (path,) = (folder / "out/transcripts").glob("*.parquet")
    table = pq.read_table(path)
    path.write_bytes(to_parquet_bytes(pa.Table.from_pylist([change(row) for row in table.to_pylist()], table.schema)))


def test_in_float32_nothing_differs(folder: Path) -> None:
    code, words = _recheck(folder, "1.0")
    assert code == ExitCode.DONE, words
    assert "rechecked      3 rows" in words  # the failed row is not a candidate
    assert ", in windows of 4 to 6 s" in words
    assert "rows differ    0 of 3 (0.00 %)" in words
    assert "+0.00 points (95 % interval 0.00 to 0.00), 2 recordings with a reference" in words
    assert "text changes   0.00 % of the words (95 % interval 0.00 to 0.00)" in words


@pytest.mark.parametrize("in_terminal", [False, True])
def test_progress_is_printed_while_rows_are_transcribed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, in_terminal: bool
) -> None:
    monkeypatch.setattr("distil_ray.verify.recheck.LINE_EVERY_S", 0.01)
    console = Console(file=io.StringIO(), width=200, force_terminal=in_terminal, color_system=None)
    code = recheck(load_config(None, [f"output.uri={folder / 'out'}"]), _sampling("1.0"), console, ["a", "b"])
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    lines = [line for line in printed.splitlines() if line.startswith("progress ")]

    assert LINE_EVERY_S == 10
    assert bool(lines) != in_terminal
    assert all("of 3 recordings" in line for line in lines)
    assert ("0 of 3" in printed) and ("━" in printed) == in_terminal
    assert code == ExitCode.FAILED
    assert printed.rstrip().splitlines()[-1] == "verdict        2 differences (exit code 1)"


def test_full_windows_can_be_requested(folder: Path) -> None:
    _, words = _recheck(folder, "1", full_windows=True)
    assert ", in 30 s" in words


def test_a_run_of_transformers_is_compared_in_its_full_windows(folder: Path) -> None:
    """`chunking.window=auto` of such a run is full; of the native recognizer, which transcribes again, it is short."""
    settings = folder / "out/runs/run/config.yaml"
    stored = load_config(str(settings), ["model.recognizer=transformers", "decoding.beam_selection=score"])
    settings.write_text(dump_config(stored))
    _, words = _recheck(folder, "1")
    assert ", in 30 s" in words


def test_a_changed_row_is_found_and_the_verdict_is_the_last_line(folder: Path) -> None:
    def tamper(row: Row) -> Row:
        if not row["uri"].endswith("sonnet.wav"):
            return row
        row["chunks"][1]["text"] = "Something else."
        return row | {"text": row["text"].replace("beauty", "duty")}

    _change(folder, tamper)
    code, words = _recheck(folder, "1.0")
    assert code == ExitCode.FAILED
    assert "rows differ    1 of 3 (33.33 %)" in words
    assert "chunks differ  1 of 5" in words
    assert "sonnet.wav: " in words
    verdict = words.splitlines()[-1]
    assert verdict.startswith("verdict ")
    assert "33.33 % of the rechecked rows differ, more than --max-differing 0 allows (exit code 1)" in verdict


def test_overlapping_chunks_are_cut_and_merged_as_in_the_run(
    output: Path, tmp_path: Path, whisper_tiny_en: Path
) -> None:
    (tmp_path / "audio").mkdir()
    shutil.copy(output / "audio" / "sonnet.wav", tmp_path / "audio")
    _transcribe(tmp_path, whisper_tiny_en, "chunking.strategy=overlap", "chunking.length_s=8", TIMED)
    code, words = _recheck(tmp_path, "1")
    assert code == ExitCode.DONE, words
    assert "rows differ    0 of 1" in words
    assert "chunks differ  0 of 3" in words


def test_rows_whose_audio_is_missing_or_changed_are_skipped(output: Path, folder: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in (output / "audio").glob("*.flac"))
    changed = shutil.copy(output / "audio" / names[1], tmp_path)

    def move(row: Row) -> Row:
        if row["recording_id"] == names[0]:
            return row | {"uri": str(tmp_path / "gone.flac")}
        return row | {"uri": str(changed)} if row["recording_id"] == names[1] else row

    _change(folder, move)
    code, words = _recheck(folder, "1.0")
    assert code == ExitCode.DONE, words
    assert f"skipped        1 rows, such as {names[0]}: the recording no longer exists" in words
    assert f"skipped        1 rows, such as {names[1]}: the recording has changed since" in words
    assert "rechecked      1 rows" in words


def test_a_row_cannot_be_rechecked_without_the_settings_of_its_run(folder: Path) -> None:
    shutil.rmtree(folder / "out/runs")
    with pytest.raises(RunError, match="no row of the sample could be transcribed again"):
        _recheck(folder, "2")


def test_the_sample_does_not_depend_on_the_files_of_the_rows(folder: Path) -> None:
    (path,) = (folder / "out/transcripts").glob("*.parquet")
    table = pq.read_table(path)
    samples = [sampled_names(folder)]
    path.unlink()
    for number in range(table.num_rows):
        (path.parent / f"task-{9 - number}.parquet").write_bytes(to_parquet_bytes(table.slice(number, 1)))
    samples.append(sampled_names(folder))
    assert samples[0] == samples[1]
    assert len(samples[0]) == 2


def sampled_names(folder: Path) -> set[str]:
    console = Console(file=io.StringIO(), width=120)
    show_recheck_plan(load_config(None, [f"output.uri={folder / 'out'}"]), _sampling("2"), console)
    assert "recheck        2 rows" in console.file.getvalue()  # type: ignore[attr-defined]
    sample = draw_sample(str(folder / "out"), _sampling("2"), Storage())
    rows = list(sample.rows)
    assert sample.num_rows == len(rows)
    assert sample.audio_s == pytest.approx(sum(row["duration_s"] for row in rows))
    return {row["recording_id"] for row in rows}


@pytest.mark.parametrize("words", ["0", "0.0", "1.5", "-1", "all", "nan"])
def test_invalid_sample_sizes_are_errors(words: str) -> None:
    with pytest.raises(SettingsError, match=f"--recheck {words}: must be a share such as"):
        Sampling.parse(words, 0, 0.05)


@given(st.data())
def test_spans_are_extracted_from_pieces_of_any_size(data: st.DataObject) -> None:
    samples = np.arange(data.draw(st.integers(0, 300)), dtype=np.int16)
    sizes = data.draw(st.lists(st.integers(0, 40), max_size=30))
    starts = sorted(data.draw(st.lists(st.integers(0, 320), max_size=8)))
    spans = [(start, start + data.draw(st.integers(1, 60))) for start in starts]
    bounds = np.minimum(np.cumsum([0, *sizes]), len(samples))
    pieces = [*(samples[a:b] for a, b in pairwise(bounds)), samples[bounds[-1] :]]
    spans.sort(key=lambda span: span[0])
    for pcm, (start, end) in zip(extract_spans(pieces, spans), spans, strict=True):
        assert np.array_equal(pcm, samples[start:end])


def test_the_interval_of_a_difference_is_that_of_the_paired_bootstrap() -> None:
    rng = np.random.default_rng(0)
    words = rng.integers(5, 30, 60)
    before, after = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    low, high = bootstrap_interval(before - after, words, None, 4000, 0) or (0.0, 0.0)
    drawn = rng.integers(0, 60, (4000, 60))
    naive = before[drawn].sum(1) / words[drawn].sum(1) - after[drawn].sum(1) / words[drawn].sum(1)
    assert np.allclose([low, high], np.quantile(naive, [0.025, 0.975]), atol=0.003)


@pytest.mark.parametrize(
    ("before", "after", "spaceless", "number"),
    [
        (["one two", "three four"], ["one", "two three", "four"], False, 0),
        (["one two", "three four"], ["one", "two free", "four"], False, 1),
        (["one two", "three four"], ["one", "two", "four"], False, 1),
        (["one two", "three"], ["zero one two three", "four"], False, 2),
        (["one", "two three"], ["one two", ""], False, 1),
        (["one"], ["", ""], False, 1),
        (["", ""], [""], False, 0),
        (["我们去", "吗"], ["我们", "去吧"], True, 1),
        (["我们去", "吗"], ["我们", "去 吗"], True, 0),
    ],
)
def test_windows_differ_where_their_words_do_wherever_they_begin(
    before: list[str], after: list[str], spaceless: bool, number: int
) -> None:
    assert count_differing_windows(before, after, spaceless) == number
