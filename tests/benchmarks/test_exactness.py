"""The comparison with transformers: what it compares, what it remembers, and that it finds a fault."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks.clips import draw_sample
from benchmarks.exactness import command
from benchmarks.exactness.checks import LoadedAudio, cut_into_chunks, transcribe_shuffled
from benchmarks.exactness.command import compare_with_generate
from benchmarks.exactness.result_cache import EncoderStateCache
from benchmarks.json_lines_cache import JsonLinesCache
from benchmarks.settings import ExactnessSettings
from distil_ray.cli.options import parse_options
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.whisper.student import create_student
from tests.recognition.processors import needs_avx2
from tests.support.clips import manifest_rows


@pytest.fixture(scope="module")
def settings(whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> ExactnessSettings:
    """Two clips of 2 to 5 s, as one set: the model is loaded once more for each check of each set."""
    folder = tmp_path_factory.mktemp("exactness")
    rows = manifest_rows("cards-005", "librispeech-61")
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "column=none",
        f"models={whisper_tiny_en}",
        f"clips={folder / 'clips.jsonl'}",
        "chunk_s=15",
        "batch_sizes=2",
        "num_uncached=1",
    ]
    return parse_options(
        ExactnessSettings, [*words, f"cache_dir={folder / 'cache_dir'}", f"report={folder / 'report'}"]
    )


def compared(settings: ExactnessSettings) -> tuple[ExitCode, str]:
    out = io.StringIO()
    code = compare_with_generate(settings, Console(file=out, width=200))
    return code, out.getvalue()


@pytest.mark.slow
def test_the_native_recognizer_equals_generate_and_the_pipeline_on_every_clip(settings: ExactnessSettings) -> None:
    code, said = compared(settings)

    assert code == ExitCode.DONE
    assert "encoder states are transformers' own, bit for bit" in said
    results = json.loads((Path(settings.report) / "exactness.json").read_text())["results"]
    assert {each["check"]: each["compared"] for each in results} == {
        "times, nothing remembered": 1,
        "text, batch 2": 2,
        "times, batch 2": 2,
        "overlap 15 s": 2,
    }
    assert all(each["differences"] == [] for each in results)


@pytest.mark.slow
def test_a_token_that_is_no_tie_is_a_fault_and_results_of_transformers_are_cached(
    settings: ExactnessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared(replace(settings, checks=("tokens",)))  # fills the cache

    def mishear(*args: object, **kwargs: object) -> object:
        first, *others = transcribe_shuffled(*args, **kwargs)  # type: ignore[arg-type]
        return [replace(first, tokens=(*first.tokens[:2], 1212, *first.tokens[3:])), *others]

    monkeypatch.setattr(command, "encoders_match", lambda *_: True)  # shown above
    monkeypatch.setattr(command, "transcribe_shuffled", mishear)
    code, said = compared(replace(settings, checks=("tokens",)))

    assert code == ExitCode.FAILED
    assert "after 2 tokens" in said
    assert "'This' (a fault: margin" in said
    assert "transformers:" not in said, "the cache was not used"


@pytest.mark.slow
def test_beams_are_compared_and_another_text_is_a_fault(
    settings: ExactnessSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    beams = replace(settings, checks=("beams",), num_beams=(2,))
    code, said = compared(beams)
    assert code == ExitCode.DONE
    assert "text, 2 beams, batch 2: 0 of 2 differ" in said and "times, 2 beams, batch 2: 0 of 2 differ" in said

    def mishear(*args: object, **kwargs: object) -> object:
        first, *others = transcribe_shuffled(*args, **kwargs)  # type: ignore[arg-type]
        return [replace(first, tokens=first.tokens[:2]), *others]

    monkeypatch.setattr(command, "transcribe_shuffled", mishear)
    code, said = compared(beams)
    assert code == ExitCode.FAILED
    assert "after 2 tokens" in said and "(a fault: margin" in said


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(
        SettingsError, match=r"checks=speed: must be among tokens, beams, languages, overlap, sequential"
    ):
        compare_with_generate(parse_options(ExactnessSettings, ["checks=tokens,speed"]), Console(file=io.StringIO()))


def test_a_recording_is_cut_at_every_length_and_a_short_one_compared_once() -> None:
    long, short = (
        LoadedAudio("all", name, "en", "", np.arange(seconds * 16_000, dtype=np.int16))
        for name, seconds in (("long", 50), ("short", 9))
    )

    pieces = cut_into_chunks([long, short], (15.0, 30.0))

    assert [piece.name for piece in pieces if piece.name.startswith("short")] == ["short@0.00+9.00"]
    assert sum(len(piece.pcm) for piece in pieces) == (2 * 50 + 9) * 16_000
    assert max(len(piece.pcm) for piece in pieces) <= 30 * 16_000


def test_a_larger_sample_holds_the_smaller_one() -> None:
    assert set(draw_sample(range(100), 10)) < set(draw_sample(range(100), 30))
    assert draw_sample(range(100), 10) != list(range(10))


def test_a_line_that_was_cut_off_is_not_known_and_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "kept" / "lines.jsonl"
    JsonLinesCache(path).add("one", [1])
    with path.open("a") as file:
        file.write('\n["two", [2')
    JsonLinesCache(path).add("three", {"text": "3"})

    lines = JsonLinesCache(path)
    assert "two" not in lines
    assert (lines["one"], lines["three"]) == ([1], {"text": "3"})


def test_states_are_found_again_by_the_bits_of_their_features(tmp_path: Path) -> None:
    asked: list[int] = []

    def encode(features: torch.Tensor) -> torch.Tensor:
        asked.append(len(features))
        return features[:, :2] * 3

    features = torch.rand(3, 4, 6)
    first = EncoderStateCache(tmp_path / "states").cached(encode)(features)
    again = EncoderStateCache(tmp_path / "states").cached(encode)(features[[2, 0]])
    nearly = EncoderStateCache(tmp_path / "states").cached(encode)(features[:1] + 1e-6)

    assert torch.equal(first, features[:, :2] * 3)
    assert torch.equal(again, first[[2, 0]])
    assert not torch.equal(nearly, first[:1])
    assert asked == [1, 1, 1, 1]


@pytest.mark.slow
@needs_avx2
def test_int8_differences_are_reported_in_total_and_by_set(settings: ExactnessSettings) -> None:
    code, said = compared(replace(settings, checks=("int8",), window="gated", column="speaker"))

    assert code == ExitCode.DONE, "rounding is no fault"
    results = json.loads((Path(settings.report) / "exactness.json").read_text())["results"]
    rounded = [each for each in results if each["wer"]]
    for check in ("int8, batches of 1 and 16", "float32 and int8"):
        compared_by_set = {each["set"]: each["compared"] for each in rounded if each["check"] == check}
        assert compared_by_set.pop("all") == sum(compared_by_set.values()) == 2
        assert len(compared_by_set) > 1
    assert all(0 <= rate < 0.5 for each in rounded for rate in each["wer"])
    assert "float32 and int8" in said


def test_windows_of_another_kind_are_refused() -> None:
    with pytest.raises(SettingsError, match="window=short: must be full or gated"):
        compare_with_generate(parse_options(ExactnessSettings, ["window=short"]), Console(file=io.StringIO()))


@pytest.mark.slow
def test_drafts_change_no_token_and_need_an_assistant(
    settings: ExactnessSettings, whisper_tiny_en: Path, tmp_path: Path
) -> None:
    create_student(whisper_tiny_en, tmp_path, 2)
    checked = replace(settings, checks=("drafts",), window="gated", assistant=str(tmp_path))
    code, said = compared(checked)
    assert code == ExitCode.DONE
    assert "text with drafts, batch 2: 0 of 2 differ" in said
    assert "times with drafts, batch 2: 0 of 2 differ" in said
    with pytest.raises(SettingsError, match="checks=drafts: needs assistant="):
        compared(replace(checked, assistant=""))
