"""Filters check one column each, and utterances without the value pass."""

from typing import get_args

import pytest

from distil_ray.config import LabelFiltersConfig
from distil_ray.config.loader import load_config
from distil_ray.pseudo_labels.dataset_schema import METRICS
from distil_ray.pseudo_labels.filters import FILTERS, list_rejection_reasons
from distil_ray.pseudo_labels.utterance_quality import compute_edge_cer, count_repeated_ngrams, pool_metrics
from distil_ray.recognition import quality_flags

GOOD = dict.fromkeys((name for name, _ in METRICS)) | {"quality_flags": [], "normalizer": "none (typography 1)"}


@pytest.mark.parametrize(
    ("column", "passes", "fails", "setting"),
    [
        ("wer", 0.0999, 0.1, "max_wer"),  # strictly below
        ("edge_cer", 0.5, 0.51, "max_edge_cer"),
        ("disagreement", 0.2, 0.21, "max_disagreement"),
        ("avg_logprob", -1.0, -1.01, "min_avg_logprob"),
        ("compression_ratio", 2.4, 2.41, "max_compression_ratio"),
        ("repeated_5grams", 1, 2, "max_repeated_5grams"),
        ("chars_per_s", 25.0, 25.1, "max_chars_per_s"),
        ("chars_per_s", 3.0, 2.9, "min_chars_per_s"),
        ("no_speech_prob", 0.6, 0.61, "max_no_speech_prob"),
        ("unheard_s", 1.0, 1.01, "max_unheard_s"),
        ("acceptance_rate", 0.5, 0.49, "min_acceptance_rate"),
    ],
)
def test_a_filter_rejects_beyond_its_threshold(column: str, passes: float, fails: float, setting: str) -> None:
    config = LabelFiltersConfig(max_edge_cer=0.5, max_disagreement=0.2, min_chars_per_s=3, min_acceptance_rate=0.5)

    assert list_rejection_reasons(GOOD, config) == []
    assert list_rejection_reasons(GOOD | {column: passes}, config) == []
    assert list_rejection_reasons(GOOD | {column: fails}, config) == [setting]
    assert list_rejection_reasons(GOOD | {column: fails}, config.model_copy(update={setting: None})) == []


def test_speech_without_text_rejects_a_label_unless_disabled() -> None:
    lacking = GOOD | {"unheard_s": 4.2, "quality_flags": [quality_flags.UNTRANSCRIBED_SPEECH]}

    assert list_rejection_reasons(lacking, LabelFiltersConfig()) == ["max_unheard_s"]
    assert list_rejection_reasons(lacking, LabelFiltersConfig(max_unheard_s=None)) == []
    assert list_rejection_reasons(
        lacking, LabelFiltersConfig(max_unheard_s=None, quality_flags=("untranscribed_speech",))
    ) == ["quality_flags"]


def test_every_threshold_of_the_settings_is_a_filter_and_every_flag_exists() -> None:
    thresholds = set(LabelFiltersConfig.model_fields) - {"quality_flags", "statuses"}
    assert thresholds == {one.setting for one in FILTERS}
    known = get_args(get_args(LabelFiltersConfig.model_fields["quality_flags"].annotation)[0])
    assert set(known) <= {
        value for name, value in vars(quality_flags).items() if name.isupper() and isinstance(value, str)
    }
    assert list_rejection_reasons(GOOD | {"quality_flags": ["redecoded", "repetition_loop"]}, LabelFiltersConfig()) == [
        "quality_flags"
    ]


@pytest.mark.parametrize(
    ("text", "spaceless", "repeated"),
    [
        ("one two three four five", False, 0),
        ("a b c d e, A b c d e. a b c d e", False, 6),
        ("你好，你好你好你好 你好你好你好", True, 3),
        ("明日は雨が降ると思います。電車が遅れると思いますので、傘を持って行くといいと思います。", True, 0),
        ("भारत में हिन्दी बोलने वालों की संख्या बहुत अधिक है और भारत में हिन्दी फिल्में भी बहुत देखी जाती हैं", False, 0),
        ("আমি আজ বাজারে গিয়েছিলাম এবং বাজারে গিয়ে মাছ কিনেছিলাম তারপর বাজারে গিয়েছিলাম আবার", False, 0),
        ("நான் சென்னையில் வசிக்கிறேன் என் அண்ணன் சென்னையில் வசிக்கிறார்", False, 0),
        ("ฉันคิดว่าดีมาก แต่ผมคิดว่าดีกว่านี้ก็มี", True, 0),
        ("मैं आज घर जा रहा हूँ, मैं आज घर जा रहा हूँ", False, 2),
        ("می\u200cخواهم بروم و می\u200cدانم که می\u200cخواهم بروم و می\u200cآیم", False, 0),
    ],
)
def test_repeated_5grams_are_counted(text: str, spaceless: bool, repeated: int) -> None:
    assert count_repeated_ngrams(text, spaceless) == repeated


def test_a_word_missing_at_an_end_has_a_high_edge_cer() -> None:
    said = "it was the best of times it was the worst of times it was the age of wisdom it was the age of foolishness"

    assert compute_edge_cer(said, said) == 0
    assert (compute_edge_cer(said.removesuffix(" foolishness"), said) or 0) > 0.4
    assert compute_edge_cer("anything", "") is None


def test_metrics_of_an_example_are_pooled_from_its_utterances() -> None:
    rows = [
        GOOD | {"duration_s": 1.0, "chars_per_s": 10.0, "num_ref_words": 9, "edits": 0, "avg_logprob": -0.1},
        GOOD
        | {"duration_s": 3.0, "chars_per_s": 2.0, "num_ref_words": 1, "edits": 1, "avg_logprob": -0.5}
        | {"unheard_s": 0.5},
    ]

    assert pool_metrics(rows) | {"quality_flags": None} == {
        **GOOD, "quality_flags": None, "duration_s": 4.0, "chars_per_s": 4.0, "num_ref_words": 10, "edits": 1,
        "wer": 0.1, "avg_logprob": -0.5, "unheard_s": 0.5,
    }  # fmt: skip
    assert pool_metrics([rows[0], rows[1] | {"num_ref_words": None, "edits": None}])["wer"] is None
    by_two = [rows[0], rows[1] | {"normalizer": "unicode (version 1, typography 1)"}]
    assert pool_metrics(by_two)["normalizer"] == "none (typography 1); unicode (version 1, typography 1)"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("labels.filters.max_wer=1.5", "labels.filters.max_wer: must be less than or equal to 1; found 1.5."),
        (
            "labels.filters.max_unheard_s=-1",
            "labels.filters.max_unheard_s: must be greater than or equal to 0; found -1.",
        ),
        ("labels.filters.min_avg_logprob=0.5", "labels.filters.min_avg_logprob: must be less than or equal to 0"),
        ("labels.filters.quality_flags=[loops]", "labels.filters.quality_flags"),
        ("labels.timestamp_share=20", "labels.timestamp_share: must be less than or equal to 1"),
        ("labels.filters.max_disagreement=0.2", "labels.filters.max_disagreement=0.2 needs labels.second_output_uri"),
        ("labels.push_to_hub=nobody", "labels.push_to_hub"),
    ],
)
def test_a_threshold_out_of_range_is_an_error(override: str, message: str) -> None:
    from distil_ray.errors import SettingsError

    with pytest.raises(SettingsError) as caught:
        load_config(None, [override])
    assert str(caught.value).startswith(message)
