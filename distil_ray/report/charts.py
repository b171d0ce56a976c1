"""SVG charts: plots for the HTML pages, and the elements of SVG files.

A `Plot` of a page is a set of shapes in a square of 100 by 100 that is stretched to the available size. Tick labels are
HTML, positioned in percent, so that the text keeps its size on a small screen. Colors are classes of the page's style
sheet, and no information is given by color alone.

SVG files (`svg_document` and the other `svg_…` functions) have a fixed size in pixels and contain their own colors.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from distil_ray.cli.console import format_elapsed

Floats = NDArray[np.float64]
Tick = tuple[float, str]  # (percent of the axis from its start, label)
Point = tuple[float, float]

MAX_LARGE_DOTS = 90  # points of a series; the dots of more would cover each other
NUM_BINS = 24
TEXT_COLOR, LINE_COLOR, GRID_COLOR = "#222222", "#1f6f8b", "#d8dfe2"  # of SVG files


@dataclass(frozen=True, slots=True)
class Shape:
    """An SVG element with its attributes; `title` is its tooltip, also read by screen readers."""

    tag: str
    attributes: tuple[tuple[str, str], ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of a page. `label` is its description for screen readers; y ticks are counted from the bottom."""

    label: str
    shapes: tuple[Shape, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str = ""


def plot_histogram(
    values: Floats, low: float, high: float, show: Callable[[float], str], name: str, x_label: str
) -> Plot | None:
    """Returns a histogram of one value per recording, or None if all values are NaN.

    Values outside `low` and `high` are counted in the outermost bars. `show` formats a value.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    counts, edges = np.histogram(np.clip(known, low, high), NUM_BINS, (low, high))
    top = _ceiling(float(counts.max()))
    width = 100 / NUM_BINS
    bars = []
    for index, num in enumerate(counts.tolist()):
        if num:
            words = f"{show(edges[index])} to {show(edges[index + 1])}: {num:,}"
            height = max(100 * num / top, 0.8)
            bars.append(_rect("bar", index * width + 0.25, 100 - height, width - 0.5, height, words))
    middle = float(np.median(known))
    at = 100 * (min(max(middle, low), high) - low) / (high - low)
    bars.append(_line("median", [(at, 0), (at, 100)], f"median {show(middle)}"))
    label = f"{name}: {len(known):,} recordings, median {show(middle)}, 90th percentile"
    return Plot(
        f"{label} {show(float(np.quantile(known, 0.9)))}",
        tuple(bars),
        tuple((100 * (tick - low) / (high - low), show(tick)) for tick in _ticks(low, high, 4)),
        tuple((100 * tick / top, f"{tick:,.0f}") for tick in _ticks(0, top, 3) if tick == round(tick)),
        x_label,
    )


def plot_steps(
    times: Floats, values: Floats, end: float, style: str, label: str, words: Callable[[float], str]
) -> Plot:
    """Returns a step plot: each value applies from its time, in seconds, to the next time or `end`.

    Whole numbers get whole ticks. `words` formats a value for its tooltip.
    """
    top = _ceiling(float(values.max()) if len(values) else 1.0)
    borders = [*times.tolist(), end]
    points: list[Point] = [(0.0, 100.0)]
    marks = []
    for index, value in enumerate(values.tolist()):
        left, right = (100 * border / end for border in borders[index : index + 2])
        height = 100 * (1 - value / top)
        points += [(left, height), (right, height)]
        about = f"{format_elapsed(borders[index])} to {format_elapsed(borders[index + 1])}: {words(value)}"
        marks.append(_rect("hover", left, 0, right - left, 100, about))
    points.append((points[-1][0], 100.0))
    area = Shape("polygon", (("class", style), ("points", _points(points))))
    ticks = tuple((100 * tick / end, format_elapsed(tick)) for tick in _time_ticks(end))
    levels = [tick for tick in _ticks(0, top, 3) if tick == round(tick) or (values != np.rint(values)).any()]
    return Plot(label, (area, *marks), ticks, tuple((100 * tick / top, _plain(tick)) for tick in levels))


def plot_series(
    labels: Sequence[str],
    values: Sequence[float | None],
    bounds: Sequence[tuple[float | None, float | None]],
    has_drifted: Sequence[bool],
    factor: float,
    name: str,
    unit: str = "runs",
) -> Plot | None:
    """Returns a line plot of a metric over runs, oldest first, or None if there are no values.

    Args:
        labels: Label of each run on the x axis.
        values: Value of each run; None if it has none.
        bounds: Lower and upper limit of each run; None for no limit.
        has_drifted: True for values outside their limits, which are drawn as squares; others are drawn as dots.
        factor: Factor for values and bounds; 100 converts fractions to percent.
        name: Name of the metric.
        unit: What the x axis lists, in plural.
    """
    values, bounds = (
        [_scaled(value, factor) for value in values],
        [(_scaled(a, factor), _scaled(b, factor)) for a, b in bounds],
    )
    known = [value for value in values if value is not None]
    if not known:
        return None
    limits = [limit for pair in bounds for limit in pair if limit is not None]
    low, high = _axis_range([*known, *limits])
    at = [100 * (index + 0.5) / len(labels) for index in range(len(labels))]

    def height(value: float) -> float:
        return 100 - 100 * (value - low) / (high - low)

    shapes: list[Shape] = []
    for side in (0, 1):
        for run in _unbroken([(x, pair[side]) for x, pair in zip(at, bounds, strict=True)]):
            half = 50 / len(labels)
            level = [point for x, limit in run for point in ((x - half, height(limit)), (x + half, height(limit)))]
            shapes.append(_line("limit", level))
    for run in _unbroken(list(zip(at, values, strict=True))):
        if len(run) > 1:
            shapes.append(_line("series", [(x, height(value)) for x, value in run]))
    for x, value, label, drifted in zip(at, values, labels, has_drifted, strict=True):
        if value is not None:
            words = f"{label}: {_plain(value, 2)}{', outside the limits' * drifted}"
            plain = "dot" if len(labels) <= MAX_LARGE_DOTS else "dot small"
            shapes.append(_dot("drifted" if drifted else plain, x, height(value), words))
    marks = _ticks(low, high, 4)
    digits = _num_decimals(marks[1] - marks[0]) if len(marks) > 1 else 1
    ticks = tuple((100 - height(tick), _plain(tick, digits)) for tick in marks)
    every = max(1, math.ceil(len(labels) / 5))
    names = tuple((at[index], labels[index]) for index in range(0, len(labels), every))
    last = next(value for value in reversed(values) if value is not None)
    return Plot(f"{name}: {len(known)} {unit}, last value {_plain(last, 2)}", tuple(shapes), names, ticks)


def svg_document(width: float, height: float, elements: Sequence[str]) -> str:
    """Returns the text of an SVG file with a white background; sizes in pixels."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, svg_rect(0, 0, width, height, "#ffffff"), *elements, "</svg>", ""])


def svg_text(x: float, y: float, text: str, size: int = 12, anchor: str = "start") -> str:
    """Returns a line of text, escaped. `anchor`: ``start``, ``middle`` or ``end``."""
    style = f'font-size="{size}" text-anchor="{anchor}" fill="{TEXT_COLOR}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def svg_rect(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{color}"/>'


def svg_grid_line(left: float, right: float, y: float) -> str:
    """Returns a horizontal grid line."""
    return f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="{GRID_COLOR}"/>'


def svg_line(points: Sequence[Point]) -> str:
    """Returns a line through points."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{LINE_COLOR}" stroke-width="1.5" points="{path}"/>'


def svg_circle(x: float, y: float, is_filled: bool) -> str:
    fill = LINE_COLOR if is_filled else "#ffffff"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke="{LINE_COLOR}" fill="{fill}"/>'


def _rect(style: str, x: float, y: float, width: float, height: float, title: str) -> Shape:
    pairs = zip(("x", "y", "width", "height"), (x, y, width, height), strict=True)
    return Shape("rect", (("class", style), *((name, f"{value:.3g}") for name, value in pairs)), title)


def _line(style: str, points: Sequence[Point], title: str = "") -> Shape:
    return Shape("polyline", (("class", style), ("points", _points(points))), title)


def _dot(style: str, x: float, y: float, title: str) -> Shape:
    """Returns a line of length zero: its round or square cap keeps its size and shape when the plot is stretched."""
    return Shape("path", (("class", style), ("d", f"M{x:.2f} {y:.2f}h0.001")), title)


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[Point]]:
    """Returns the sequences of points without a gap (None)."""
    runs: list[list[Point]] = [[]]
    for x, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Returns the ends of an axis: the range of the values with a margin; from zero if the values are far apart."""
    low, high = min(values), max(values)
    if 0 <= low <= high / 2:
        low = 0.0
    pad = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - pad), high + pad


def _ceiling(value: float) -> float:
    """Returns the smallest of 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, times a power of ten, that is not below `value`."""
    if value <= 0:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(value))
    return next(scale * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if scale * step >= value * (1 - 1e-9))


def _ticks(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * unit for unit in (1, 2, 2.5, 5, 10) if scale * unit >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _num_decimals(step: float) -> int:
    """Returns the number of decimals that distinguish ticks: 2 for a step of 0.25."""
    return next((digits for digits in range(9) if abs(step * 10**digits - round(step * 10**digits)) < 1e-6), 9)


def _time_ticks(end: float) -> list[float]:
    step = next((s for s in (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 43200) if end / s <= 5), 86400)
    return [float(tick) for tick in range(0, int(end) + 1, step)]


def _plain(value: float, digits: int = 1) -> str:
    """Returns a number with at most `digits` decimals."""
    text = f"{value:,.{digits}f}".replace("-", "−")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
