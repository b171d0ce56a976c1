"""The stages with real weights on real speech, without Ray; weights from a bucket."""

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import Run, resolve_chunking
from distil_ray.pipeline import runner
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.model_setup import StorageFolderReader, resolve_beams
from distil_ray.pipeline.planner import make_plan
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.transcript_rows import store_tokenizer
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model_folders import CONFIG_FILES, REQUIRED_FILES
from distil_ray.whisper.student import create_student
from tests.pipeline.conftest import pointers
from tests.support.clips import load_samples
from tests.support.without_ray import run_stages_in_process


def _transcripts(audio: Path, output: Path, model: Path, *overrides: str) -> Iterator[dict[str, Any]]:
    """The rows that the three stages make of a folder, one after the other."""
    settings = [f"input.uri={audio}", f"output.uri={output}", f"model.name={model}", "decoding.language=en"]
    config = resolve_beams(load_config(None, [*settings, "model.dtype=float32", *overrides]))
    checkpoint = load_checkpoint_info(str(model))
    chunking = resolve_chunking(config, checkpoint.chunk_length_s, checkpoint.chunk_length_reason)
    run = Run(config, "test", "f" * 16, checkpoint.identity, None, checkpoint.languages, chunking)
    store_tokenizer(run, model)
    listing = list_recordings(config.input, run.storage)
    ledger = Ledger.read(str(output), run.storage)
    plan = make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)
    transcribe = TranscribeStage(run)
    for part in decode_tasks(pointers(plan), run):
        (receipt,) = write_parts(transcribe(part), run).to_pylist()
        assert receipt["error"] is None
    yield from pq.read_table(output / "transcripts").to_pylist()


def test_overlapping_chunks_give_the_text_of_transformers_pipeline(tmp_path: Path, whisper_tiny_en: Path) -> None:
    from transformers import pipeline

    (tmp_path / "audio").mkdir()
    samples = load_samples("sonnet-1")[: 32 * SAMPLE_RATE]
    soundfile.write(tmp_path / "audio" / "sonnet.wav", samples, SAMPLE_RATE)
    settings = ["chunking.strategy=overlap", "chunking.length_s=15", "plan.part_audio_s=30", "chunking.window=full"]
    settings.append("decoding.num_beams=1")
    (row,) = _transcripts(tmp_path / "audio", tmp_path / "out", whisper_tiny_en, *settings)
    assert len(row["chunks"]) == 3

    # The pipeline is given the same samples: its own decoder (ffmpeg) and resampler are not the question here.
    asr = pipeline("automatic-speech-recognition", str(whisper_tiny_en), chunk_length_s=15, batch_size=4)
    greedy = {"num_beams": 1, "do_sample": False}
    heard: Any = asr(samples.astype(np.float32) / 32768, generate_kwargs=greedy)
    assert row["text"] == heard["text"].strip()


@pytest.mark.parametrize("recognizer", ["native", "transformers"])
def test_a_checkpoint_without_a_generation_config_is_transcribed_in_overlapping_chunks(
    clips: Path, tmp_path: Path, whisper_tiny_en: Path, recognizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the whole run, which hands the tokenizer on; ids that the file would name come from the tokenizer."""
    model = tmp_path / "model"
    shutil.copytree(whisper_tiny_en, model, ignore=shutil.ignore_patterns("generation_config.json"))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "sonnet.wav", load_samples("sonnet-1")[: 12 * SAMPLE_RATE], SAMPLE_RATE)
    settings = [f"input.uri={tmp_path / 'audio'}", f"output.uri={tmp_path / 'out'}", f"model.name={model}"]
    settings += [f"model.recognizer={recognizer}", "model.dtype=float32", "chunking.strategy=overlap"]
    settings += ["chunking.length_s=8", "decoding.timestamps=segment", "resources.actors=1"]
    run_stages_in_process(monkeypatch)
    assert runner.transcribe(load_config(None, settings), Console(file=io.StringIO())) == ExitCode.DONE
    (row,) = pq.read_table(tmp_path / "out" / "transcripts").to_pylist()
    assert len(row["chunks"]) > 1 and row["status"] == "ok"
    assert "from fairest creatures we desire increase" in (row["text_normalized"] or row["text"]).lower()


@pytest.mark.parametrize("strategy", ["quiet", "vad", "overlap"])
def test_segments_and_words_tell_times_on_the_recording_s_line(
    tmp_path: Path, whisper_tiny_en: Path, strategy: str
) -> None:
    (tmp_path / "audio").mkdir()
    samples = load_samples("sonnet-1")[: 33 * SAMPLE_RATE]
    soundfile.write(tmp_path / "audio" / "sonnet.wav", samples, SAMPLE_RATE)
    settings = ["decoding.timestamps=word", f"chunking.strategy={strategy}"]
    (row,) = _transcripts(tmp_path / "audio", tmp_path / "out", whisper_tiny_en, *settings)
    for spans in (row["segments"], row["words"]):
        times = [time for span in spans for time in (span["start_s"], span["end_s"])]
        assert len(spans) >= 5
        assert times == sorted(times)
        assert 0 <= times[0] < 5
        assert 25 < times[-1] <= row["duration_s"]
    assert " ".join(segment["text"].strip() for segment in row["segments"]).split() == row["text"].split()
    assert "".join(word["text"] for word in row["words"]) == row["text"]


def test_an_assistant_changes_nothing_but_a_column(clips: Path, tmp_path: Path, whisper_tiny_en: Path) -> None:
    """The share of its drafts that the model would have chosen itself, over all chunks of a recording."""
    (tmp_path / "audio").mkdir()
    (tmp_path / "student").mkdir()
    create_student(whisper_tiny_en, tmp_path / "student", 2)
    shutil.copy(clips / "austen-0870.opus", tmp_path / "audio")
    assistant = [f"model.assistant={tmp_path / 'student'}", "decoding.speculative=on"]
    greedy = ["chunking.length_s=5", "decoding.num_beams=1"]
    (drafted,) = _transcripts(tmp_path / "audio", tmp_path / "drafted", whisper_tiny_en, *assistant, *greedy)
    (alone,) = _transcripts(tmp_path / "audio", tmp_path / "alone", whisper_tiny_en, *greedy)
    assert len(alone["chunks"]) == 2
    assert [chunk["tokens"] for chunk in drafted["chunks"]] == [chunk["tokens"] for chunk in alone["chunks"]]
    assert alone["acceptance_rate"] is None
    assert 0 <= drafted["acceptance_rate"] < 1


def test_weights_in_a_bucket_are_copied_once(
    bucket: str, tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage()
    for file in whisper_tiny_en.iterdir():
        storage.put(f"{bucket}/models/tiny/{file.name}", file.read_bytes())
    folders = StorageFolderReader(storage)
    checkpoint = load_checkpoint_info(f"{bucket}/models/tiny", None, tmp_path, folders)
    assert checkpoint.languages == ("en",)
    folder = fetch_weights(f"{bucket}/models/tiny", None, tmp_path, folders)
    copied = [file for file in whisper_tiny_en.iterdir() if file.name in (*CONFIG_FILES, "model.safetensors")]
    assert len(copied) > len(REQUIRED_FILES)
    for file in copied:
        assert (folder / file.name).read_bytes() == file.read_bytes()

    def refuse(*_: object) -> None:
        raise AssertionError("copied already")

    monkeypatch.setattr(StorageFolderReader, "copy_file", refuse)
    assert fetch_weights(f"{bucket}/models/tiny", None, tmp_path, folders) == folder
