"""With an assistant, the texts are the main model's own, however good the assistant is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import decoder, speculative
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.speculative import SpeculationTrial
from distil_ray.types import Hypothesis
from distil_ray.whisper.student import create_student
from tests.support.clips import load_samples

EXACT = RecognizerOptions(dtype="float32", batch_size=3, window="gated", speculative="on")
TRAINED = Path(__file__).resolve().parents[4] / "shared" / "weights" / "distil-base-delta" / "decoder.safetensors"

Transcribe = Callable[..., list[Hypothesis]]


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    """Five clips of English, 2 to 7 s; the shortest ends long before the longest."""
    names = ("austen-0880-8khz", "librispeech-61", "cards-005", "austen-0870", "austen-0930")
    return [load_samples(name) for name in names]


@pytest.fixture(scope="module")
def students(whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For whisper-tiny.en: two of its four layers, two random ones, all four, and two with another encoder."""
    root = tmp_path_factory.mktemp("students")
    made = {name: root / name for name in ("dropped", "random", "twin", "other_encoder")}
    for name, (kept, seed) in {
        "dropped": (2, None),
        "random": (2, 1),
        "twin": (4, None),
        "other_encoder": (2, None),
    }.items():
        made[name].mkdir()
        create_student(whisper_tiny_en, made[name], kept, seed)
    weights = load_file(made["other_encoder"] / "model.safetensors")
    weights["model.encoder.layers.1.fc1.weight"] *= 1.5
    save_file(weights, made["other_encoder"] / "model.safetensors", metadata={"format": "pt"})
    return made


def transcribe(
    folder: Path, options: RecognizerOptions, clips: list[PCM16], assistant: Path | None = None
) -> list[Hypothesis]:
    return NativeRecognizer(folder, options, assistant).transcribe(clips, ["en"] * len(clips))


@pytest.fixture(scope="module")
def plain(whisper_tiny_en: Path, clips: list[PCM16]) -> Transcribe:
    """plain(options): what the main model says alone, computed once."""
    known: dict[RecognizerOptions, list[Hypothesis]] = {}

    def cached(options: RecognizerOptions) -> list[Hypothesis]:
        if options not in known:
            known[options] = transcribe(whisper_tiny_en, options, clips)
        return known[options]

    return cached


def assert_same(drafted: list[Hypothesis], alone: list[Hypothesis]) -> None:
    for mine, its in zip(drafted, alone, strict=True):
        assert mine.tokens == its.tokens
        assert mine.quality_flags == its.quality_flags
        assert mine.segments == its.segments
        assert [(w.start_s, w.end_s, w.text) for w in mine.words or ()] == [
            (w.start_s, w.end_s, w.text) for w in its.words or ()
        ]
        assert mine.avg_logprob == pytest.approx(its.avg_logprob, abs=1e-5)
        assert mine.no_speech_prob == pytest.approx(its.no_speech_prob, abs=1e-6)


@pytest.mark.parametrize(
    ("student", "batch_size"), [("dropped", 1), ("random", 4), pytest.param("dropped", 16, marks=pytest.mark.slow)]
)
def test_texts_are_the_main_models_with_any_assistant_and_batch(
    whisper_tiny_en: Path,
    students: dict[str, Path],
    clips: list[PCM16],
    plain: Transcribe,
    student: str,
    batch_size: int,
) -> None:
    """Without timestamps for one, with words' times (hence time tokens) for all batch sizes."""
    options = replace(EXACT, timestamps="word")
    drafted = transcribe(whisper_tiny_en, replace(options, batch_size=batch_size), clips, students[student])
    assert_same(drafted, plain(options))
    assert all(hypothesis.drafts_proposed > 0 for hypothesis in drafted)
    if batch_size == 4:
        assert_same(transcribe(whisper_tiny_en, EXACT, clips, students[student]), plain(EXACT))


def test_full_windows_and_a_token_limit_in_the_middle_of_drafts(
    whisper_tiny_en: Path, students: dict[str, Path], clips: list[PCM16]
) -> None:
    options = replace(EXACT, window="full", max_new_tokens=5)
    drafted = transcribe(whisper_tiny_en, options, clips[:2], students["twin"])
    assert_same(drafted, transcribe(whisper_tiny_en, options, clips[:2]))
    assert [len(hypothesis.tokens) for hypothesis in drafted] == [5, 5]
    assert all("max_tokens_reached" in hypothesis.quality_flags for hypothesis in drafted)


def test_a_good_assistant_saves_steps_and_its_drafts_are_accepted(
    whisper_tiny_en: Path, students: dict[str, Path], clips: list[PCM16]
) -> None:
    """The main model's own layers draft: only 8 bits and the rarer words come between them."""
    alone, drafting = (
        NativeRecognizer(whisper_tiny_en, EXACT),
        NativeRecognizer(whisper_tiny_en, EXACT, students["twin"]),
    )
    some = clips[1:4]
    found = drafting.transcribe(some, ["en"] * 3)
    assert_same(found, alone.transcribe(some, ["en"] * 3))
    proposed, accepted = drafting.stats.proposed, drafting.stats.accepted
    assert accepted / proposed > 0.8
    assert drafting.stats.drafts >= proposed
    assert drafting.stats.steps * 2.5 < alone.stats.steps
    assert drafting.stats.tokens == alone.stats.tokens == sum(len(each.tokens) for each in found)


def test_an_assistant_with_its_own_encoder_uses_it(
    whisper_tiny_en: Path, students: dict[str, Path], clips: list[PCM16], plain: Transcribe
) -> None:
    drafting = NativeRecognizer(whisper_tiny_en, EXACT, students["other_encoder"])
    assert any("its own encoder" in note for note in drafting.warnings)
    assert_same(drafting.transcribe(clips[:2], ["en"] * 2), plain(EXACT)[:2])
    shared = NativeRecognizer(whisper_tiny_en, EXACT, students["dropped"])
    assert any("the encoder of the main model" in note for note in shared.warnings)


@pytest.mark.parametrize(("speedup", "decision"), [(0.9, "off"), (1.4, "on")])
def test_an_assistant_without_speedup_is_dropped_in_the_middle_of_a_batch(
    whisper_tiny_en: Path,
    students: dict[str, Path],
    clips: list[PCM16],
    plain: Transcribe,
    monkeypatch: pytest.MonkeyPatch,
    speedup: float,
    decision: str,
) -> None:
    """After six steps, with and without drafts in turn. The texts are the same."""
    monkeypatch.setattr(SpeculationTrial, "speedup", lambda trial: speedup if trial._num_steps == 6 else None)
    drafting = NativeRecognizer(whisper_tiny_en, replace(EXACT, speculative="auto"), students["random"])
    assert_same(drafting.transcribe(clips, ["en"] * 5), plain(EXACT))
    assert f"decoding.speculative=auto: {decision}" in drafting.warnings[-1]
    assert f"{speedup:.2f} times as fast" in drafting.warnings[-1]
    again = drafting.transcribe(clips[:1], ["en"])
    assert_same(again, plain(EXACT)[:1])
    assert bool(again[0].drafts_proposed) is (speedup > 1)


def test_speculative_off_loads_no_assistant(whisper_tiny_en: Path, tmp_path: Path) -> None:
    NativeRecognizer(whisper_tiny_en, replace(EXACT, speculative="off"), tmp_path / "nowhere")


def test_an_assistant_of_another_kind_is_refused_with_the_difference(whisper_tiny_en: Path, whisper_base: Path) -> None:
    with pytest.raises(ValueError, match="it has 51864 vocabulary entries, the main model 51865"):
        NativeRecognizer(whisper_base, EXACT, whisper_tiny_en)


@pytest.mark.slow
def test_the_trained_student_of_whisper_base_drafts_three_tokens_per_step(
    whisper_base: Path, clips: list[PCM16], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not TRAINED.exists():
        pytest.skip(f"no trained student at {TRAINED}")
    create_student(whisper_base, tmp_path, 2)
    weights = load_file(tmp_path / "model.safetensors") | {
        name: tensor.float() for name, tensor in load_file(TRAINED).items()
    }
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reading_states, drafting = NativeRecognizer(whisper_base, EXACT), NativeRecognizer(whisper_base, EXACT, tmp_path)
    # Without an assistant, cross-attention reads hidden states, which rounds otherwise. Drafts alone change nothing.
    monkeypatch.setattr(decoder, "can_read_states", lambda _: False)
    alone = NativeRecognizer(whisper_base, EXACT)
    drafted = drafting.transcribe(clips, ["en"] * 5)
    assert_same(drafted, alone.transcribe(clips, ["en"] * 5))
    assert [each.tokens for each in drafted] == [each.tokens for each in reading_states.transcribe(clips, ["en"] * 5)]
    assert drafting.stats.steps * 2 < alone.stats.steps
    assert drafting.stats.accepted / drafting.stats.proposed > 0.5


def test_a_trial_includes_the_prefill_of_the_assistant() -> None:
    """Steps with drafts take twice as long and give four tokens. The prefill costs half a token per chunk of ten."""
    trial = SpeculationTrial()
    trial.record_prefill(seconds=5.0, num_chunks=10)
    for _ in range(speculative.TRIAL_PAIRS + speculative.WARM_UP_PAIRS):
        for seconds, tokens in ((2.0, 4), (1.0, 1)):
            assert trial.speedup() is None
            assert trial.next_is_speculative is (tokens == 4)
            trial.record_step(seconds, tokens)
    assert trial.speedup() is None, "no chunk has ended yet"
    trial.record_chunk(10)
    assert trial.speedup() == pytest.approx(1.0 / (0.5 + 0.05))


def test_a_step_that_is_recorded_for_later_ones_does_not_count_in_a_trial() -> None:
    trial = SpeculationTrial()
    num_pairs = speculative.TRIAL_PAIRS + speculative.WARM_UP_PAIRS
    for pair in range(num_pairs + 2):
        assert trial.speedup() is None
        trial.record_step(2.0, 4)
        is_typical = pair % 3 != 1 or pair > 4
        trial.record_step(1.0 if is_typical else 100.0, 1, is_typical)
        trial.record_prefill(seconds=5.0, num_chunks=10)
        trial.record_chunk(10)
    assert trial.speedup() == pytest.approx(1.0 / (0.5 + 0.05))
