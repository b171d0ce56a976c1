"""The limits of failed recordings."""

import pytest

from distil_ray.config import Config


@pytest.mark.parametrize(
    ("num_failed", "num_total", "settings", "exceeded"),
    [
        (0, 0, {}, False),
        (0, 12, {}, False),
        (1, 12, {}, False),  # more than 5 %, but one alone is accepted
        (2, 12, {}, True),
        (2, 100, {}, False),
        (1, 1, {}, True),  # all
        (3, 3, {"max_failed_count": 9}, True),
        (1, 1, {"max_failed_fraction": 1.0}, False),
        (1, 12, {"max_failed_count": 0}, True),
    ],
)
def test_failures_are_too_many_beyond_both_limits_or_if_all_failed(
    num_failed: int, num_total: int, settings: dict[str, float], exceeded: bool
) -> None:
    config = Config.model_validate(settings)
    assert (config.too_many_failed(num_failed, num_total) is not None) == exceeded
