"""The comparison by accuracy: the choice of recordings, what is transcribed again, the scores, pairs and reports."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.accuracy import command
from benchmarks.accuracy.command import compare_accuracy
from benchmarks.accuracy.modes import DEFAULT_MODE, MODES, OWN_MODES, PROGRAMS, Mode, select_modes
from benchmarks.accuracy.recordings import prepare_recordings
from benchmarks.accuracy.report import ModelResult, rates_table, to_markdown
from benchmarks.accuracy.results import ALL, ModeResult, best_of, compare, compare_with_best_peers
from benchmarks.accuracy.transcripts import Portion, Transcript, TranscriptStore, transcribe_missing
from benchmarks.clips import Clip, ClipSets, write_wav
from benchmarks.comparison.command import make_process
from benchmarks.comparison.environments import UnavailableError
from benchmarks.comparison.interleave import EngineProcess, TranscriptionFailedError, current_python
from benchmarks.comparison.worker import SetResult
from benchmarks.settings import AccuracySettings
from distil_ray.api.settings import make_config
from distil_ray.cli.options import parse_options
from distil_ray.errors import ExitCode, SettingsError

MACHINE = {"processor": "a processor", "arithmetic": [], "cpus": 2, "memory_gib": 8, "date": "2026-01-01"}


def _corpus(folder: Path, number: int = 20) -> Path:
    """Writes a manifest of English and German recordings in two sets; every fifth has no reference."""
    lines = []
    for i in range(number):
        write_wav(folder / f"{i}.wav", np.full(1600 + i, i, np.int16))
        line: dict[str, Any] = {
            "id": f"r{i:02}",
            "uri": str(folder / f"{i}.wav"),
            "set": f"set{i % 2}",
            "speaker": f"s{i % 4}",
        }
        line |= {"language": "de" if i % 4 == 3 else "en", "reference": None if i % 5 == 4 else f"reference {i}"}
        lines.append(json.dumps(line) + "\n")
    manifest = folder / "corpus.jsonl"
    manifest.write_text("".join(lines))
    return manifest


def _ids(sets: ClipSets) -> dict[str, list[str]]:
    return {name: [clip.clip_id for clip in clips] for name, clips in sets.items()}


def test_every_engine_gets_the_same_recordings_and_a_larger_choice_holds_the_smaller(tmp_path: Path) -> None:
    manifest = str(_corpus(tmp_path))

    def choose(
        share: float, limit: int, languages: Sequence[str] = ("en", "de"), max_s: float = 60.0
    ) -> dict[str, list[str]]:
        return _ids(prepare_recordings(manifest, tmp_path, "set", (), share, limit, max_s, languages))

    whole, half, three = choose(1.0, 100), choose(0.5, 100), choose(1.0, 3)
    assert choose(1.0, 3) == three
    assert {name: len(ids) for name, ids in whole.items()} == {"set0": 8, "set1": 8}, "those with a reference"
    assert all(set(smaller[name]) < set(whole[name]) for smaller in (half, three) for name in whole)
    assert {len(ids) for ids in three.values()} == {3}
    assert all(ids == sorted(ids) for ids in whole.values())
    assert all(int(each[1:]) % 4 != 3 for ids in choose(1.0, 100, ("en",)).values() for each in ids)
    assert choose(1.0, 100, max_s=1603 / 16_000) == {"set0": ["r00", "r02"], "set1": ["r01", "r03"]}
    with pytest.raises(SettingsError, match="no recording with a reference"):
        choose(1.0, 100, ("fr",))


def _clips(folder: Path, *references: str, language: str = "en") -> list[Clip]:
    clips = []
    for i, reference in enumerate(references):
        path = folder / f"{language}{i}.wav"
        write_wav(path, np.full(16_000, i, np.int16))
        clips.append(Clip(f"{language}{i}", path, 1.0, reference, language, f"speaker{i % 3}"))
    return clips


class FakeProgram:
    """Yields the ids as texts; dies in a portion with one of `broken`."""

    def __init__(self, *broken: str, loads: bool = True) -> None:
        self.broken = broken
        self.loads = loads
        self.started: list[list[list[str]]] = []  # ids by portion, for each start

    def __call__(self, portions: Sequence[Portion]) -> Iterator[SetResult]:
        self.started.append([[clip.clip_id for clip in portion] for portion in portions])
        if not self.loads:
            raise UnavailableError("no weights")
        for number, portion in enumerate(portions):
            if any(clip.clip_id in self.broken for clip in portion):
                raise TranscriptionFailedError("exit code 1: out of luck")
            yield SetResult(str(number), [clip.clip_id for clip in portion], len(portion), 2.0 * len(portion), 1.0)


def test_only_what_is_missing_is_transcribed_in_portions_of_one_language(tmp_path: Path) -> None:
    sets = {"a": _clips(tmp_path, *"xyz"), "b": [*_clips(tmp_path, "x", language="de"), *_clips(tmp_path, *"vw")[1:]]}
    first, again = FakeProgram(), FakeProgram()
    path = tmp_path / "kept.jsonl"

    assert transcribe_missing({"a": sets["a"][:2]}, TranscriptStore(path), 2, first, print) == 2
    assert transcribe_missing(sets, TranscriptStore(path), 2, again, print) == 2
    assert transcribe_missing(sets, TranscriptStore(path), 2, again, print) == 0
    assert (first.started, again.started) == ([[["en0", "en1"]]], [[["en2"], ["de0"]]])
    assert TranscriptStore(path).get(sets["a"][1]) == Transcript("en1", 1.0, 2.0)

    write_wav(sets["a"][0].path, np.full(16_000, 77, np.int16))
    assert TranscriptStore(path).get(sets["a"][0]) is None, "other samples are another recording"


def test_a_recording_that_ends_its_program_is_stored_as_failed_and_the_others_go_on(tmp_path: Path) -> None:
    clips = _clips(tmp_path, *"vwxyz")
    store, program, told = TranscriptStore(tmp_path / "kept.jsonl"), FakeProgram("en2"), list[str]()

    transcribe_missing({"a": clips}, store, 2, program, told.append)

    assert program.started == [
        [["en0", "en1"], ["en2", "en3"], ["en4"]],
        [["en2"], ["en3"], ["en4"]],
        [["en3"], ["en4"]],
    ]
    assert [(found := store.get(clip)) and found.text for clip in clips] == ["en0", "en1", "", "en3", "en4"]
    assert told == ["en2: exit code 1: out of luck"]
    assert transcribe_missing({"a": clips}, store, 2, program, told.append) == 0

    with pytest.raises(UnavailableError, match="no weights"):
        transcribe_missing({"a": clips}, TranscriptStore(tmp_path / "b.jsonl"), 2, FakeProgram(loads=False), print)


def _result(mode: Mode, sets: ClipSets, texts: dict[str, str]) -> ModeResult:
    transcripts = {
        clip.clip_id: Transcript(texts.get(clip.clip_id, clip.reference), 0.5, 1.0)
        for clips in sets.values()
        for clip in clips
    }
    return ModeResult.of(mode, sets, transcripts)


@pytest.fixture
def sets(tmp_path: Path) -> ClipSets:
    """Twelve recordings of four words, in two sets."""
    clips = _clips(tmp_path, *(f"the cat number {name}" for name in "abcdefghijkl"))
    return {"read": clips[:8], "spoken": clips[8:]}


def _mode(name: str) -> Mode:
    return next(mode for mode in MODES if mode.engine.name == name)


DEFAULTS, FULL = _mode("distil_ray defaults"), _mode("distil_ray quiet-full")
FASTER, OPENAI = _mode("faster-whisper sequential"), _mode("openai-whisper command-line")


def test_rates_count_edits_by_set_and_together_and_a_failure_as_a_lost_text(sets: ClipSets) -> None:
    result = _result(DEFAULTS, sets, {"en0": "The cat, number B!", "en1": "the the cat number b", "en9": ""})
    result = replace(
        result,
        recordings=[
            replace(each, transcript=replace(each.transcript, error="killed" * (each.clip.clip_id == "en9")))
            for each in result.recordings
        ],
    )

    read, spoken, everything = (result.rates(name) for name in ("read", "spoken", ALL))
    assert (read.substitutions, read.deletions, read.insertions, read.num_failed) == (1, 0, 1, 0)
    assert (spoken.substitutions, spoken.deletions, spoken.insertions, spoken.num_failed) == (0, 4, 0, 1)
    assert (read.wer, spoken.wer, everything.wer) == (2 / 32, 4 / 16, 6 / 48)
    assert (everything.audio_s, everything.cpu_s, everything.num_recordings) == (12.0, 6.0, 12)
    assert everything.interval is not None
    assert everything.interval[0] <= 6 / 48 <= everything.interval[1]


def test_modes_are_paired_by_recording_with_the_best_peer_of_each_set(sets: ClipSets) -> None:
    own = _result(DEFAULTS, sets, {"en0": "the cat number"})
    faster = _result(FASTER, sets, {f"en{i}": "the cat" for i in range(8)})
    openai = _result(OPENAI, sets, {f"en{i}": "the cat number z" for i in range(4, 12)})

    differences = compare(own, faster)
    assert differences.keys() == {"read", "spoken", ALL}
    assert differences["read"].change == pytest.approx((1 - 16) / 32)
    assert (differences["read"].num_better, differences["read"].num_worse) == (8, 0)
    assert differences["read"].interval is None, "fewer than ten pairs"
    assert differences[ALL].significance == "b_better"

    best = {each.set: each for each in compare_with_best_peers(own, [faster, openai])}
    assert [best[name].peer for name in ("read", "spoken", ALL)] == [OPENAI, FASTER, OPENAI]
    assert best["read"].difference.change == pytest.approx((1 - 4) / 32)
    assert best["spoken"].difference.change == 0.0
    assert best_of([faster, own, openai]) is own


def test_tables_have_a_row_per_mode_and_name_what_was_left_out(sets: ClipSets) -> None:
    own, full = _result(DEFAULTS, sets, {"en0": "the cat number"}), _result(FULL, sets, {})
    peer = _result(FASTER, sets, {"en0": "the cat number z", "en1": "the cat"})
    found = ModelResult("a model", [own, full, peer], {"transformers pipeline": "transformers: no pip"})
    lines = to_markdown([found], AccuracySettings(), MACHINE).splitlines()

    row = next(line for line in lines if line.startswith("| distil_ray defaults |"))
    assert [cell.partition("<br>")[0].strip() for cell in row.split("|")[2:-1]] == ["3.12", "0.00", "2.08", "0", "2.0"]
    assert "<br>0/1/0" in row
    pairs = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| all |")]
    assert [(cells[1], cells[2], cells[6]) for cells in pairs] == [
        ("quiet-full", "faster-whisper sequential", "−6.25"),
        ("defaults", "faster-whisper sequential", "−4.17"),
    ]
    assert "- Left out: transformers: no pip" in lines
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(rates_table(found))
    assert "faster-whisper sequential" in console.export_text()


def test_a_run_transcribes_with_each_engine_and_a_second_one_only_compares(
    tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(*arguments: Any, **options: Any) -> EngineProcess:
        ready = make_process(*arguments, **options)
        return replace(ready, python=current_python(), module="tests.benchmarks.fake_engine")

    monkeypatch.setattr(command, "make_process", fake)
    monkeypatch.setattr(command, "find_interpreter", lambda *_: current_python())
    monkeypatch.setattr(command, "convert_checkpoint", lambda *_: tmp_path)
    words = [f"clips={_corpus(tmp_path, 4)}", f"models={whisper_tiny_en}", "modes=quiet,command-line"]
    settings = parse_options(AccuracySettings, [*words, f"cache_dir={tmp_path}", f"report={tmp_path / 'report'}"])

    def run(**changed: Any) -> str:
        out = io.StringIO()
        assert compare_accuracy(replace(settings, **changed), Console(file=out, width=200)) == ExitCode.DONE
        return out.getvalue()

    assert "distil_ray quiet: 3 recordings transcribed" in run()
    monkeypatch.setattr(command, "make_process", None)
    assert "openai-whisper command-line: 0 recordings transcribed" in run()
    assert "faster-whisper batched: nothing is stored" in run(modes=("quiet", "batched"), transcribe=False)

    texts = [json.loads(line) for line in (tmp_path / "report" / "accuracy-texts.jsonl").read_text().splitlines()]
    assert [(each["id"], each["text"]) for each in texts] == [
        ("r00", "en 1600"),
        ("r02", "en 1602"),
        ("r01", "en 1601"),
    ]
    report = json.loads((tmp_path / "report" / "accuracy.json").read_text())["models"][str(whisper_tiny_en)]
    assert report["rates"]["distil_ray quiet"]["sets"][ALL]["num_recordings"] == 3
    assert list(report["left_out"]) == ["faster-whisper batched"]


@pytest.mark.parametrize("name", OWN_MODES)
def test_the_settings_of_every_mode_of_this_package_are_known(name: str) -> None:
    make_config(None, OWN_MODES[name])


def test_modes_are_chosen_by_engine_and_by_name() -> None:
    assert DEFAULT_MODE.engine.options == {"model.dtype": "float32"}
    assert {mode.program for mode in select_modes((), ())} == set(PROGRAMS)
    assert [mode.engine.name for mode in select_modes(("openai-whisper", "distil_ray"), ("quiet", "command-line"))] == [
        "distil_ray quiet",
        "openai-whisper command-line",
    ]
    with pytest.raises(SettingsError, match="engines=kaldi: must be among distil_ray, "):
        select_modes(("kaldi",), ())
    with pytest.raises(SettingsError, match="no engine has such a mode"):
        select_modes(("openai-whisper",), ("quiet",))


@pytest.mark.parametrize(
    ("word", "reason"), [("share=1.5", "at most 1"), ("language=maybe", "given or detected"), ("again=kaldi", "again=")]
)
def test_a_wrong_setting_is_named_before_anything_is_started(word: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        compare_accuracy(parse_options(AccuracySettings, [word]), Console(file=io.StringIO()))
