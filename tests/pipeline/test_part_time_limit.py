"""A recognizer that hangs is ended soon, and one that is slow is left alone."""

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config import ResourcesConfig
from distil_ray.pipeline.part_time_limit import MIN_LIMIT_S, MIN_SHARE, PartTimeLimits
from distil_ray.schema import PART_RESULT
from distil_ray.types import SAMPLE_RATE

GPU = ResourcesConfig(gpus_per_actor=1)  # 600 s and twice the audio


def _result(texts: dict[str, float]) -> pa.Table:
    """Returns a row of PART_RESULT with chunks of these texts and seconds."""
    row: dict[str, Any] = dict.fromkeys(PART_RESULT.names)
    row["chunks"] = [{"num_samples": round(seconds * SAMPLE_RATE)} for seconds in texts.values()]
    row["hypotheses"] = [{"text": text} for text in texts]
    return pa.Table.from_pylist([row], schema=PART_RESULT)


def test_a_process_that_has_recognized_nothing_has_the_limit_of_the_settings() -> None:
    assert PartTimeLimits(GPU).limit_s(600.0) == 1800.0


def test_the_slowest_part_so_far_gives_a_shorter_limit() -> None:
    limits = PartTimeLimits(GPU)
    limits.add(_result({"some words": 600.0}), 3.0)
    assert limits.limit_s(600.0) == 180.0, "20 times 3 s is less than a tenth of the limit of the settings"
    limits.add(_result({"some words": 600.0}), 30.0)
    assert limits.limit_s(600.0) == 600.0
    limits.add(_result({"some words": 600.0}), 3.0)
    assert limits.limit_s(600.0) == 600.0
    assert limits.limit_s(10.0) == 62.0


def test_silence_says_nothing_about_the_speed_and_does_not_make_speech_faster() -> None:
    limits = PartTimeLimits(GPU)
    limits.add(_result({"": 600.0}), 0.01)
    assert limits.limit_s(600.0) == 1800.0
    limits.add(_result({"": 540.0, "some words": 60.0}), 30.0)
    assert limits.limit_s(30.0) == 20 * 0.5 * 30


def test_a_process_after_one_that_was_ended_has_its_limit_doubled() -> None:
    limits = PartTimeLimits(GPU)
    assert limits.limit_s(600.0, [180.0, 360.0]) == 360.0
    assert limits.limit_s(600.0, [1800.0]) == 1800.0


@given(
    st.lists(st.tuples(st.floats(1.0, 7200.0), st.floats(0.001, 1e5)), max_size=5),
    st.floats(0.01, 7200.0),
    st.lists(st.floats(60.0, 2e4), max_size=2),
    st.floats(0.0, 50.0),
    st.floats(1.0, 2000.0),
    st.booleans(),
)
def test_no_limit_is_longer_than_the_settings_say_or_shorter_than_their_tenth(
    parts: list[tuple[float, float]],
    audio_s: float,
    earlier: list[float],
    slowdown: float,
    timeout_s: float,
    has_gpu: bool,
) -> None:
    resources = ResourcesConfig(
        gpus_per_actor=int(has_gpu), recognizer_timeout_s=timeout_s, recognizer_max_slowdown=slowdown
    )
    limits = PartTimeLimits(resources)
    for length_s, elapsed_s in parts:
        limits.add(_result({"words": length_s}), elapsed_s)
    most_s = resources.recognizer_limit_s(audio_s)
    limit_s = limits.limit_s(audio_s, earlier)
    assert limit_s <= most_s
    assert limit_s >= min(most_s, max(MIN_LIMIT_S, MIN_SHARE * most_s)) or not parts
    if not slowdown:
        assert limit_s == most_s
    # The same part again, at up to the allowed slowdown, is not ended.
    if parts and slowdown >= 1:
        slowest = max(elapsed_s / length_s for length_s, elapsed_s in parts)
        assert limit_s >= min(most_s, slowest * audio_s * (1 - 1e-3))
