"""Scores are those of jiwer for any typography, and intervals contain the true rate as often as stated."""

import subprocess
import sys
import unicodedata

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.config import ScoringConfig
from distil_ray.evaluation.normalizers import name_with_versions, normalize
from distil_ray.evaluation.wer import Score, Scorer, bootstrap_interval, pooled_rate
from tests.evaluation.openai_normalizers import openai_english
from tests.support.clips import load_manifest

SCORER = Scorer(ScoringConfig())


def counts(score: Score) -> tuple[int | None, ...]:
    return score.num_ref_words, score.substitutions, score.deletions, score.insertions


def test_english_is_scored_as_whisper_and_jiwer_score_it() -> None:
    text, reference = (
        "Mr. Quilter's the apostle of 20 middle classes.",
        "MISTER QUILTER IS THE APOSTLE OF TWENTY CLASSES",
    )
    score = SCORER.score(text, reference, "en")
    expected = jiwer.process_words(openai_english(reference), openai_english(text))
    assert counts(score) == (8, expected.substitutions, expected.deletions, expected.insertions) == (8, 0, 0, 1)
    assert score.wer == expected.wer
    assert score.cer == jiwer.cer(openai_english(reference), openai_english(text))
    assert score.normalizer == name_with_versions("whisper_english")


def test_the_normalizer_follows_the_language_or_the_setting() -> None:
    used = {code: SCORER.score("a", "a", code).normalizer for code in ("en", "en-GB", "de", None, "hi")}
    assert used == {
        "en": name_with_versions("whisper_english"),
        "en-GB": name_with_versions("whisper_english"),
        "de": name_with_versions("whisper_basic"),
        None: name_with_versions("whisper_basic"),
        "hi": name_with_versions("unicode"),
    }
    several = {
        codes: SCORER.score("a", "a", codes.split()).normalizer for codes in ("en", "de fr", "en de", "en hi tr")
    }
    assert several == {
        "en": name_with_versions("whisper_english"),
        "de fr": name_with_versions("whisper_basic"),
        "en de": name_with_versions("whisper_basic"),
        "en hi tr": name_with_versions("unicode"),
    }
    assert SCORER.score("你好 hello", "你好 hallo", ["en", "zh"]).num_ref_words == 7  # characters
    chosen = Scorer(ScoringConfig(normalizer="none")).score("Twenty  men", "Twenty men", "en")
    assert (chosen.normalizer, chosen.text_normalized, chosen.wer) == (name_with_versions("none"), "Twenty men", 0.0)


@pytest.mark.parametrize(
    ("reference", "text", "language"),
    [
        ("I’M MISTER CHRISTOPHER FROM LONDON", "I'm Mr. Christopher from London.", "en"),
        ("YOU DON’T MEAN THAT YOU THOUGHT ME SO SILLY", "You don't mean that you thought me so silly?", "en"),
        ("Go\u200bod morn\u00ading, friends…", "Good morning, friends...", "en"),
        ("It cost\u00a0twenty\u2011five dollars — “no more”", "It cost twenty-five dollars - no more.", "en"),
        ("Don`t", "Don't", "en"),
        ("cafe\u0301 de\u0301ja\u0300", "café déjà", "fr"),
        ("п\u02bcять", "п'ять", "uk"),
        ("ＡＢＣ ﬁne", "ABC fine", "de"),
    ],
)
def test_a_correct_text_has_no_errors_for_any_typography_of_its_reference(
    reference: str, text: str, language: str
) -> None:
    for choice in ("auto", "whisper_basic", "unicode"):
        config = ScoringConfig.model_validate({"normalizer": choice})
        score = Scorer(config).score(text, reference, language)
        if choice == "auto" or "MISTER" not in reference:  # the others know no titles
            assert (score.wer, score.cer) == (0.0, 0.0), choice


@pytest.mark.parametrize(
    ("language", "reference", "text", "num_units", "num_edits"),
    [
        ("ja", "今日は、いい天気です。", "今日はいい天気ですね", 9, 1),
        ("zh", "我们 明天 见", "我们明天去", 5, 1),
        ("zh-CN", "我们明天见", "我们明天见。", 5, 0),
        ("yue", "你好", "", 2, 2),
        ("ko", "오늘은 날씨가 좋다", "오늘은 날씨 좋다", 3, 1),
    ],
)
def test_unsegmented_languages_are_scored_by_characters(
    language: str, reference: str, text: str, num_units: int, num_edits: int
) -> None:
    score = SCORER.score(text, reference, language)
    assert score.num_ref_words == num_units
    assert (score.substitutions or 0) + (score.deletions or 0) + (score.insertions or 0) == num_edits
    if language != "ko":
        assert (score.num_ref_chars, score.char_edits, score.cer) == (num_units, num_edits, score.wer)


@pytest.mark.parametrize("choice", ["none", "auto", "unicode"])
def test_a_combining_mark_is_counted_with_its_letter(choice: str) -> None:
    score = Scorer(ScoringConfig.model_validate({"normalizer": choice})).score("ที่นี่", "ที่นี้", "th")
    assert counts(score) == (2, 1, 0, 0)


def test_without_a_reference_there_is_no_score_but_a_normalized_text() -> None:
    score = SCORER.score("Hello, World!", None, "en")
    assert score.text_normalized == "hello world"
    assert score.reference_normalized is None
    assert {score.num_ref_words, score.wer, score.cer, score.substitutions, score.char_edits} == {None}
    assert score.normalizer.startswith("whisper_english ")


@pytest.mark.parametrize("reference", ["", "(laughter)", "!?", " \n", "...", "…", "$ %", "\u200b"])
def test_words_against_an_empty_reference_are_insertions_without_a_rate(reference: str) -> None:
    score = SCORER.score("Thank you for watching.", reference, "en")
    assert counts(score) == (0, 0, 0, 4)
    assert score.wer is None
    assert score.cer is None
    assert score.char_edits == len("thank you for watching")


def test_an_empty_transcript_deletes_every_word() -> None:
    score = SCORER.score("", "Some little words", "en")
    assert counts(score) == (3, 0, 3, 0)
    assert (score.wer, score.cer, score.char_edits) == (1.0, 1.0, 17)


def test_an_empty_transcript_of_an_empty_reference_has_no_errors_and_no_rate() -> None:
    score = SCORER.score("", "", "en")
    assert counts(score) == (0, 0, 0, 0)
    assert (score.wer, score.cer, score.char_edits) == (None, None, 0)


def test_a_text_on_which_the_english_normalizer_fails_is_scored_by_whisper_basic() -> None:
    digits = "1" * 5000
    with pytest.raises(ValueError, match="fraction"):
        normalize("whisper_english", digits)
    score = SCORER.score(f"Call {digits}", "Call now", "en")
    assert counts(score) == (2, 1, 0, 0)
    assert score.normalizer.startswith("whisper_basic ")


words = st.lists(st.sampled_from(["ten", "two", "uh", "hat", "cat", "can't", "colour", "(x)", "."]), max_size=12).map(
    " ".join
)


@settings(max_examples=200, deadline=None)
@given(words, words, st.sampled_from(["en", "de", "ja"]))
def test_counts_agree_with_jiwer_and_with_each_other(text: str, reference: str, language: str) -> None:
    score = SCORER.score(text, reference, language)
    ref, hyp = score.reference_normalized or "", score.text_normalized
    assert score.num_ref_words is not None
    if language == "ja":
        ref, hyp = (" ".join(normalized.replace(" ", "")) for normalized in (ref, hyp))
    expected = jiwer.process_words(ref, hyp)
    assert counts(score)[1:] == (expected.substitutions, expected.deletions, expected.insertions)
    assert score.num_ref_words == expected.hits + expected.substitutions + expected.deletions
    if language == "ja":
        ref, hyp = ref.replace(" ", ""), hyp.replace(" ", "")
    chars = jiwer.process_characters(ref, hyp)
    assert score.char_edits == chars.substitutions + chars.deletions + chars.insertions
    assert SCORER.score(reference, reference, language).char_edits == 0


def test_a_reference_has_no_errors_against_itself() -> None:
    references = [(row["reference"], row["language"]) for row in load_manifest().values() if row.get("reference")]
    assert len(references) > 14
    for reference, language in references:
        score = SCORER.score(reference, reference, language)
        assert (score.wer, score.cer) == (0.0, 0.0), reference
        typeset = SCORER.score(reference, unicodedata.normalize("NFD", reference.replace("'", "’")), language)
        assert (typeset.wer, typeset.cer) == (0.0, 0.0), reference


HEAVY = ["jiwer", "rapidfuzz", "torch", "transformers", "whisper_normalizer"]


@pytest.mark.parametrize(
    ("use", "loaded"),
    [
        ("", "[]"),
        ("distil_ray.evaluation.normalizers.normalize('whisper_english', 'a')", "['whisper_normalizer']"),
    ],
)
def test_normalizers_and_jiwer_are_imported_on_first_use_torch_and_transformers_never(use: str, loaded: str) -> None:
    code = f"import sys, distil_ray.evaluation.wer\n{use}\nprint([name for name in {HEAVY} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == loaded


# ---------------------------------------------------------------- pooled rates and their intervals


def test_a_pooled_rate_is_edits_over_words() -> None:
    assert pooled_rate(3, 12) == 0.25
    assert pooled_rate(3, 0) is None


def simulate(rng: np.random.Generator, num: int, most_words: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Recordings of 1 to `most_words` words whose error rates differ from each other; the truth is a WER of 10 %."""
    words = rng.integers(1, most_words + 1, num)
    rates = rng.beta(1.0, 9.0, num)
    return rng.binomial(words, rates).astype(np.int64), words.astype(np.int64)


@pytest.mark.parametrize(("num", "most_words"), [(60, 40), (1500, 8)])
def test_95_percent_intervals_contain_the_true_rate_about_that_often(num: int, most_words: int) -> None:
    rng = np.random.default_rng(7)
    held = 0
    for seed in range(200):
        interval = bootstrap_interval(*simulate(rng, num, most_words), None, 300, seed)
        assert interval is not None
        held += interval[0] <= 0.1 <= interval[1]
    assert 0.90 <= held / 200 <= 0.99


def test_drawing_equal_recordings_together_gives_the_same_interval() -> None:
    errors, words = simulate(np.random.default_rng(1), 9000)
    together = bootstrap_interval(errors, words, None, 4000, 0)
    each = bootstrap_interval(errors * 1_000_000 + np.arange(9000), words * 1_000_000, None, 4000, 0)  # all distinct
    assert together is not None
    assert each is not None
    assert np.allclose(together, each, atol=0.0006)


def test_all_recordings_of_a_speaker_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    rates = rng.beta(1.0, 9.0, 30)
    speakers = np.repeat(np.arange(30), 40)
    words = np.full(1200, 20, np.int64)
    errors = rng.binomial(words, rates[speakers]).astype(np.int64)
    alone = bootstrap_interval(errors, words, None, 1000, 0)
    by_speaker = bootstrap_interval(errors, words, speakers, 1000, 0)
    pooled = bootstrap_interval(errors.reshape(30, 40).sum(1), words.reshape(30, 40).sum(1), None, 1000, 0)
    assert alone is not None
    assert by_speaker == pooled
    assert by_speaker is not None
    assert by_speaker[1] - by_speaker[0] > 2 * (alone[1] - alone[0])


def test_recordings_of_unknown_speakers_are_separate_units() -> None:
    errors, words = simulate(np.random.default_rng(5), 50)
    assert bootstrap_interval(errors, words, np.full(50, -1), 500, 2) == bootstrap_interval(errors, words, None, 500, 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 60), st.integers(2, 9))
def test_intervals_depend_only_on_rates_and_seed(seed: int, num: int, factor: int) -> None:
    errors, words = simulate(np.random.default_rng(seed), num)
    interval = bootstrap_interval(errors, words, None, 200, seed)
    assert interval == bootstrap_interval(errors, words, None, 200, seed)
    assert interval is not None
    assert 0 <= interval[0] <= interval[1]
    scaled = bootstrap_interval(errors * factor, words * factor, None, 200, seed)
    assert scaled is not None
    assert np.allclose(scaled, interval)


def test_there_is_no_interval_for_one_recording_or_no_words() -> None:
    one, none = np.array([1]), np.array([0, 0])
    assert bootstrap_interval(one, one * 5, None, 100, 0) is None
    assert bootstrap_interval(none, none, None, 100, 0) is None
    assert bootstrap_interval(np.array([1, 2]), np.array([5, 5]), np.array([4, 4]), 100, 0) is None


def test_insertions_of_recordings_without_words_are_counted() -> None:
    interval = bootstrap_interval(np.array([4, 0, 1]), np.array([0, 30, 30]), None, 1000, 0)
    assert interval is not None
    assert np.isfinite(interval).all()
    assert interval[1] > 1 / 30
