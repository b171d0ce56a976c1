"""How far words are from the edges of utterances: what is compared with what, and our words on real speech."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console

from benchmarks.comparison.command import make_process
from benchmarks.comparison.interleave import EngineProcess, current_python
from benchmarks.settings import TimesSettings
from benchmarks.word_times import command
from benchmarks.word_times.alignments import (
    LISTED,
    SPEECH,
    Recording,
    load_recordings,
    measure_errors,
    pool_errors,
    speech_edges,
    summarize_errors,
)
from benchmarks.word_times.command import ALIGNED, measure_times
from distil_ray.cli.options import parse_options
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.types import Segment
from tests.support.clips import english_utterances

RATE = 16_000
PAUSE_S = 0.6


def test_first_and_last_words_that_were_recognized_are_compared_with_the_edges_of_their_utterance() -> None:
    listed = [(0.0, 2.0), (3.0, 5.0), (6.0, 7.0)]
    recording = Recording("a", np.zeros(RATE, np.int16), ("IT'S ONE", "TWO THREE", "FOUR"), {LISTED: listed})
    words = [
        (0.5, 0.9, "It's"),
        (1.0, 2.25, " one,"),
        (2.9, 4.0, " too"),
        (4.0, 4.5, " three."),
        (6.5, 6.75, " —four!"),
    ]
    found = measure_errors(recording, [Segment(*word) for word in words])
    assert found.starts == {LISTED: [0.5, 0.5]}, "two was not recognized"
    assert found.ends == {LISTED: [0.25, -0.5, -0.25]}
    twice = pool_errors([found, found])
    assert twice.ends == {LISTED: [0.25, -0.5, -0.25] * 2}
    mine = summarize_errors(twice.ends[LISTED])
    assert mine is not None
    assert (mine.mean_s, mine.median_s, mine.bias_s, mine.far, mine.number) == pytest.approx(
        (1 / 3, 0.25, -1 / 6, 1 / 3, 6)
    )
    assert summarize_errors([]) is None


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, np.int16), RATE)
    with pytest.raises(SettingsError, match="no recording with its utterances"):
        load_recordings(str(tmp_path), tmp_path, ())
    (tmp_path / "a.segments.jsonl").write_text('{"start": 0, "text": "one"}\n')
    with pytest.raises(SettingsError, match=r"a\.segments\.jsonl: a line is not"):
        load_recordings(str(tmp_path), tmp_path, ())
    with pytest.raises(SettingsError, match="strategies=vad: must be among quiet, overlap"):
        measure_times(
            parse_options(TimesSettings, [f"recordings={tmp_path}", "strategies=vad"]), Console(file=io.StringIO())
        )


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two sentences, each framed by silence of its own, and a silent recording without utterances."""
    folder = tmp_path_factory.mktemp("joined")
    parts, rows = [], []
    at = 0.0
    utterances = {utterance.id: utterance for utterance in english_utterances()}
    for name in ("sonnet-1-05", "kennedy-03"):
        pcm = utterances[name].samples
        quiet = np.random.default_rng(1).normal(0, 3, round(PAUSE_S * RATE)).astype(np.int16)
        parts += [quiet, pcm, quiet]
        length_s = len(pcm) / RATE + 2 * PAUSE_S
        rows.append({"start": at, "end": at + length_s, "text": utterances[name].reference})
        at += length_s
    soundfile.write(folder / "two.flac", np.concatenate(parts), RATE)
    soundfile.write(folder / "none.flac", np.zeros(RATE, np.int16), RATE)
    (folder / "two.segments.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_our_words_are_nearer_to_the_speech_than_they_were_aligned(
    joined: Path, whisper_tiny_en: Path, tmp_path: Path
) -> None:
    pytest.importorskip("silero_vad")
    words = [f"recordings={joined}", f"models={whisper_tiny_en}", "windows=gated", "strategies=quiet,overlap"]
    out = io.StringIO()
    settings = parse_options(TimesSettings, [*words, f"cache_dir={tmp_path}", f"report={tmp_path}"])
    assert measure_times(settings, Console(file=out, width=200)) == ExitCode.DONE
    assert "edges of the speech within" in out.getvalue()
    figures = json.loads((tmp_path / "times.json").read_text())["figures"]
    found = {(each["words_by"], each["truth"], each["edge"]): each for each in figures if each["recording"] == "two"}
    given, overlapping = (f"native gated {strategy}" for strategy in ("quiet", "overlap"))
    for edge in ("starts", "ends"):
        ours, aligned = found[given, SPEECH, edge], found[given + ALIGNED, SPEECH, edge]
        assert ours["number"] == aligned["number"] == found[overlapping, SPEECH, edge]["number"] == 2
        assert ours["mean_s"] < 0.15
        assert ours["mean_s"] < aligned["mean_s"]
        assert found[overlapping, SPEECH, edge]["mean_s"] < 0.15
        assert found[given, LISTED, edge]["mean_s"] > PAUSE_S - 0.15, "silence belongs to the listed utterance"


def test_words_of_another_program_are_read_from_its_worker(
    joined: Path, tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("silero_vad")

    def fake(*arguments: Any, **options: Any) -> EngineProcess:
        ready = make_process(*arguments, **options)
        return replace(ready, python=current_python(), module="tests.benchmarks.fake_engine")

    monkeypatch.setattr(command, "make_process", fake)
    monkeypatch.setattr(command, "find_interpreter", lambda *_: current_python())
    monkeypatch.setattr(command, "convert_checkpoint", lambda *_: tmp_path)
    words = [f"recordings={joined}", f"models={whisper_tiny_en}", "windows=", "baselines=fw-float32"]
    settings = parse_options(TimesSettings, [*words, f"cache_dir={tmp_path}", f"report={tmp_path}"])
    assert measure_times(settings, Console(file=io.StringIO())) == ExitCode.DONE
    figures = json.loads((tmp_path / "times.json").read_text())["figures"]
    listed = {(each["words_by"], each["edge"]): each for each in figures if each["truth"] == LISTED}
    assert {name for name, _ in listed} == {"fw-float32"}
    assert (listed["fw-float32", "starts"]["mean_s"], listed["fw-float32", "starts"]["number"]) == (0.25, 1)
    assert listed["fw-float32", "ends"]["mean_s"] == pytest.approx(0, abs=0.01)


def test_speech_within_an_utterance_is_found_where_there_is_any(joined: Path) -> None:
    pytest.importorskip("silero_vad")
    (recording,) = load_recordings(str(joined), joined, ("two",))
    assert recording.name == "two"
    for (start, end), (begin, stop) in zip(recording.edges[LISTED], recording.edges[SPEECH], strict=True):
        assert (begin - start, end - stop) == pytest.approx((PAUSE_S, PAUSE_S), abs=0.4)
    assert speech_edges(np.zeros(2 * RATE, np.int16), (0.5, 1.5)) == (0.5, 1.5)
