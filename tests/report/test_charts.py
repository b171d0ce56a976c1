"""Plots of the pages: ticks have as many decimals as they need."""

import pytest

from distil_ray.report.charts import plot_series


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.0], ["0", "0.25", "0.5", "0.75", "1"]),
        ([0.0, 12.0], ["0", "5", "10"]),
        ([0.0, 0.02], ["0", "0.01", "0.02"]),
    ],
)
def test_ticks_are_not_rounded(values: list[float], expected: list[str]) -> None:
    plot = plot_series(["a", "b"], values, [(None, None)] * 2, [False] * 2, 1, "Failed, percent")
    assert plot is not None
    assert [label for _, label in plot.y_ticks] == expected


def test_many_points_have_small_dots() -> None:
    def styles(count: int) -> set[str]:
        labels, values = [str(number) for number in range(count)], [float(number) for number in range(count)]
        plot = plot_series(labels, values, [(None, None)] * count, [False] * (count - 1) + [True], 1, "WER")
        assert plot is not None
        return {dict(shape.attributes)["class"] for shape in plot.shapes if shape.tag == "path"}

    assert styles(30) == {"dot", "drifted"}
    assert styles(365) == {"dot small", "drifted"}
