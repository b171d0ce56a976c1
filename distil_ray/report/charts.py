"""Plots as shapes in a square of 100 by 100, ticks beside them: what stretches is drawn, what is read is text.

The shapes become inline SVG that fills whatever room there is; ticks are placed in per cent by HTML, so that letters
keep their size on a phone. Colors are classes of the page's style, and nothing is told by color alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Tick = tuple[float, str]  # per cent along the axis from its beginning, label
Point = tuple[float, float]

NUM_BINS = 24


@dataclass(frozen=True, slots=True)
class Shape:
    """One element: `tag` and its attributes are SVG's own; `title` is what a pointer, or a screen reader, is told."""

    tag: str
    attributes: tuple[tuple[str, str], ...]
    title: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """`label` says in words what the plot shows; y ticks count from the bottom."""

    label: str
    shapes: tuple[Shape, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str = ""


def histogram(
    values: Floats, low: float, high: float, show: Callable[[float], str], name: str, x_label: str
) -> Plot | None:
    """How many recordings have which value; those beyond `low` and `high` are in the outermost bars. None without
    values."""
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
    label = f"{name}: {len(known):,} recordings, median {show(middle)}, 90 % of them up to"
    return Plot(
        f"{label} {show(float(np.quantile(known, 0.9)))}",
        tuple(bars),
        tuple((100 * (tick - low) / (high - low), show(tick)) for tick in _ticks(low, high, 4)),
        tuple((100 * tick / top, f"{tick:,.0f}") for tick in _ticks(0, top, 3) if tick == round(tick)),
        x_label,
    )


def steps(times: Floats, values: Floats, end: float, style: str, label: str, words: Callable[[float], str]) -> Plot:
    """Values that hold from their time, in seconds, until the next one's or `end`. Counts have whole ticks."""
    top = _ceiling(float(values.max()) if len(values) else 1.0)
    borders = [*times.tolist(), end]
    points: list[Point] = [(0.0, 100.0)]
    marks = []
    for index, value in enumerate(values.tolist()):
        left, right = (100 * border / end for border in borders[index : index + 2])
        height = 100 * (1 - value / top)
        points += [(left, height), (right, height)]
        about = f"{clock(borders[index])} to {clock(borders[index + 1])}: {words(value)}"
        marks.append(_rect("touch", left, 0, right - left, 100, about))
    points.append((points[-1][0], 100.0))
    area = Shape("polygon", (("class", style), ("points", _points(points))))
    ticks = tuple((100 * tick / end, clock(tick)) for tick in _time_ticks(end))
    levels = [tick for tick in _ticks(0, top, 3) if tick == round(tick) or (values != np.rint(values)).any()]
    return Plot(label, (area, *marks), ticks, tuple((100 * tick / top, _plain(tick)) for tick in levels))


def track(
    labels: Sequence[str],
    values: Sequence[float | None],
    bounds: Sequence[tuple[float | None, float | None]],
    odd: Sequence[bool],
    times: float,
    name: str,
) -> Plot | None:
    """A figure over runs, oldest first, with the lowest and highest that were allowed. None without values.

    Values that were out of line are squares, the others dots; all are shown `times` so large (100: per cent).
    """
    values, bounds = (
        [_times(value, times) for value in values],
        [(_times(a, times), _times(b, times)) for a, b in bounds],
    )
    known = [value for value in values if value is not None]
    if not known:
        return None
    limits = [limit for pair in bounds for limit in pair if limit is not None]
    low, high = _room([*known, *limits])
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
            shapes.append(_line("course", [(x, height(value)) for x, value in run]))
    for x, value, label, is_odd in zip(at, values, labels, odd, strict=True):
        if value is not None:
            words = f"{label}: {_plain(value, 2)}{', out of line' * is_odd}"
            shapes.append(_dot("odd" if is_odd else "dot", x, height(value), words))
    marks = _ticks(low, high, 4)
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0]) + 1e-9)) if len(marks) > 1 else 1
    ticks = tuple((100 - height(tick), _plain(tick, digits)) for tick in marks)
    every = max(1, math.ceil(len(labels) / 5))
    names = tuple((at[index], labels[index]) for index in range(0, len(labels), every))
    last = next(value for value in reversed(values) if value is not None)
    return Plot(f"{name}: {len(known)} runs, the last {_plain(last, 2)}", tuple(shapes), names, ticks)


def clock(seconds: float) -> str:
    """Seconds as 0:05, 12:30 or 2:03:04."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _rect(style: str, x: float, y: float, width: float, height: float, title: str) -> Shape:
    pairs = zip(("x", "y", "width", "height"), (x, y, width, height), strict=True)
    return Shape("rect", (("class", style), *((name, f"{value:.3g}") for name, value in pairs)), title)


def _line(style: str, points: Sequence[Point], title: str = "") -> Shape:
    return Shape("polyline", (("class", style), ("points", _points(points))), title)


def _dot(style: str, x: float, y: float, title: str) -> Shape:
    """A line without length: its round or square end keeps its size and shape however the square is stretched."""
    return Shape("path", (("class", style), ("d", f"M{x:.2f} {y:.2f}h0.001")), title)


def _points(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)


def _unbroken(points: Sequence[tuple[float, float | None]]) -> list[list[Point]]:
    runs: list[list[Point]] = [[]]
    for x, value in points:
        if value is None:
            runs.append([])
        else:
            runs[-1].append((x, value))
    return [run for run in runs if run]


def _room(values: Sequence[float]) -> tuple[float, float]:
    """Round numbers around all values; from zero where that costs no detail."""
    low, high = min(values), max(values)
    if 0 <= low <= high / 2:
        low = 0.0
    pad = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return (low if low == 0 else low - pad), high + pad


def _ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 4, 5, 6, 8, 10 … that is as large."""
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


def _time_ticks(end: float) -> list[float]:
    step = next((s for s in (1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 43200) if end / s <= 5), 86400)
    return [float(tick) for tick in range(0, int(end) + 1, step)]


def _plain(value: float, digits: int = 1) -> str:
    """With at most so many decimals."""
    text = f"{value:,.{digits}f}".replace("-", "−")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _times(value: float | None, times: float) -> float | None:
    return None if value is None else value * times
