"""A chunking strategy is found by name, by entry point or by import path; lengths that leave nothing are refused."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from distil_ray.chunking.base import Chunker, ChunkSizes, check_lengths, load_chunker
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.pipeline import runner
from distil_ray.registry import CHUNKERS
from distil_ray.types import SAMPLE_RATE
from tests.support.entry_points import added_entry_point
from tests.support.fakes import EchoTranscribe
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

OUTSIDE = '''
from distil_ray.chunking.base import Chunk, Chunker, SampleQueue
from distil_ray.chunking.strategies.overlap import OverlapChunker
from distil_ray.errors import SettingsError


class EveryTwoSeconds(Chunker):
    """Chunks of exactly `length` samples; what is left at the end is dropped."""

    omits_audio = True
    default_length_s = 2.0

    def __init__(self, sizes):
        super().__init__(sizes)
        self.queue = SampleQueue()
        self.count = 0

    def push(self, pcm):
        self.queue.push(pcm)
        while self.queue.size >= self.sizes.length:
            yield Chunk(self.count, self.queue.start, self.queue.peek(self.sizes.length), 0, 0)
            self.queue.drop(self.sizes.length)
            self.count += 1

    def finish(self):
        yield from ()


class ShortWindows(OverlapChunker):
    default_length_s = 3.0


class Unavailable(EveryTwoSeconds):
    @classmethod
    def check_requirements(cls):
        raise SettingsError("the model of this chunker is missing")


NOTHING = 5
'''


@pytest.fixture
def outside_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module outside `distil_ray` that defines chunkers."""
    (tmp_path / "outside_chunkers.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "outside_chunkers", raising=False)
    return "outside_chunkers"


@pytest.fixture
def entry_point(outside_package: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name under which an installed package adds its chunker."""
    with added_entry_point(CHUNKERS, "fixed", f"{outside_package}:EveryTwoSeconds", monkeypatch) as name:
        yield name


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A recording of 7.5 s and one of 1 s."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name, seconds in (("long", 7.5), ("short", 1.0)):
        noise = np.random.default_rng(0).integers(-3000, 3000, round(seconds * SAMPLE_RATE)).astype(np.int16)
        soundfile.write(folder / f"{name}.wav", noise, SAMPLE_RATE)
    return folder


def _transcribe(audio: Path, model: Path, strategy: str) -> tuple[dict[str, list[tuple[float, float]]], dict[str, Any]]:
    """Runs a whole job; returns the times of each recording's chunks, and how the summary describes chunking."""
    output = audio.parent / "out"
    settings = [f"input.uri={audio}", f"output.uri={output}", f"model.name={model}", "run_id=run"]
    config = load_config(None, [*settings, "decoding.language=en", f"chunking.strategy={strategy}"])
    assert runner.transcribe(config, Console(file=io.StringIO(), width=200), EchoTranscribe) == ExitCode.DONE
    rows = stored_rows(output)
    chunks = {row["recording_id"]: [(c["start_s"], c["end_s"]) for c in row["chunks"]] for row in rows}
    summary = json.loads((output / "runs" / "run" / "summary.json").read_text())
    return chunks, summary["chunking"]


@pytest.mark.parametrize("named_by", ["import path", "entry point"])
def test_a_chunker_of_another_package_serves_a_whole_job(
    audio: Path,
    whisper_tiny_en: Path,
    outside_package: str,
    entry_point: str,
    monkeypatch: pytest.MonkeyPatch,
    named_by: str,
) -> None:
    strategy = entry_point if named_by == "entry point" else f"{outside_package}:EveryTwoSeconds"
    run_stages_in_process(monkeypatch)
    chunks, summary = _transcribe(audio, whisper_tiny_en, strategy)
    assert chunks == {"long.wav": [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)], "short.wav": []}
    assert (summary["strategy"], summary["length_s"], summary["omits_audio"]) == (strategy, 2.0, True)
    assert "search_s" not in summary


def test_overlapping_chunks_of_another_package_are_merged_by_their_tokens(
    audio: Path, whisper_tiny_en: Path, outside_package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stages_in_process(monkeypatch)
    chunks, summary = _transcribe(audio, whisper_tiny_en, f"{outside_package}:ShortWindows")
    assert chunks["long.wav"] == [(0.0, 3.0), (2.0, 5.0), (4.0, 7.0), (6.0, 7.5)]
    assert (summary["overlaps"], summary["stride_s"]) == (True, 0.5)
    assert (audio.parent / "out" / "runs" / "run" / "tokenizer" / "tokenizer.json").exists()


def test_a_chunker_that_lacks_something_ends_the_run_before_it_starts(
    audio: Path, whisper_tiny_en: Path, outside_package: str
) -> None:
    settings = [f"input.uri={audio}", f"output.uri={audio.parent / 'out'}", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*settings, f"chunking.strategy={outside_package}:Unavailable"])
    with pytest.raises(SettingsError, match="model of this chunker"):
        runner.transcribe(config, Console(file=io.StringIO()), EchoTranscribe)
    assert not (audio.parent / "out").exists()


def test_an_unknown_strategy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match=r"chunking\.strategy.*quiet.*vad"):
        load_config(None, ["chunking.strategy=quite"])
    with pytest.raises(SettingsError, match=r"chunking\.strategy"):
        load_chunker("quite")


def test_what_an_import_path_names_must_be_a_chunker(outside_package: str) -> None:
    with pytest.raises(SettingsError, match="Chunker"):
        load_chunker(f"{outside_package}:NOTHING")


@pytest.mark.parametrize(
    ("strategy", "length_s", "longest_s"),
    [("quiet", 31.0, 30), ("sequential", 3601.0, 3600), ("sequential", 0.5, 3600)],
)
def test_a_length_must_be_in_the_range_of_its_strategy(strategy: str, length_s: float, longest_s: int) -> None:
    message = f"chunking.length_s: must be between 1 and {longest_s} seconds with chunking.strategy={strategy}"
    with pytest.raises(SettingsError, match=message):
        check_lengths(strategy, length_s)
    for accepted in ("auto", 1.0, float(longest_s)):
        check_lengths(strategy, accepted)


@pytest.mark.parametrize(
    ("strategy", "unused", "used"),
    [
        ("sequential", "stride_s", "search_s"),
        ("quiet", "stride_s", "search_s"),
        ("vad", "stride_s", "search_s"),
        ("overlap", "search_s", "stride_s"),
    ],
)
def test_a_length_that_a_strategy_does_not_use_ends_the_run_before_it_starts(
    audio: Path, whisper_tiny_en: Path, strategy: str, unused: str, used: str
) -> None:
    settings = [f"input.uri={audio}", f"output.uri={audio.parent / 'out'}", f"model.name={whisper_tiny_en}"]
    config = load_config(None, [*settings, f"chunking.strategy={strategy}", f"chunking.{unused}=2"])
    with pytest.raises(SettingsError, match=rf"chunking\.{unused}=2\.0: not used by chunking\.strategy={strategy}"):
        runner.transcribe(config, Console(file=io.StringIO()), EchoTranscribe)
    check_lengths(strategy, "auto", **{used: 2.0})


@pytest.mark.parametrize("strategy", ["overlap", "quiet", "sequential", "vad"])
def test_a_strategy_of_this_package_is_listed_with_its_description(strategy: str) -> None:
    assert CHUNKERS.describe()[strategy]
    assert issubclass(load_chunker(strategy), Chunker)


@pytest.mark.parametrize(("length", "stride", "search"), [(0, 0, 0), (10, 5, 0), (10, 0, 10), (10, -1, 0)])
def test_lengths_that_leave_nothing_are_refused(length: int, stride: int, search: int) -> None:
    with pytest.raises(ValueError, match=r"samples"):
        ChunkSizes(length, stride, search)
