"""A bar chart of the results as SVG, without a plotting library.

One panel per set, one bar per engine, fastest first.
"""

from collections.abc import Sequence

from benchmarks.comparison.catalog import SETS
from benchmarks.comparison.results import EngineResult
from distil_ray.report.charts import LINE_COLOR, svg_document, svg_rect, svg_text

WIDTH, LABEL, BAR, ROW, PANEL_GAP = 900, 300, 400, 24, 54  # pixels
NATIVE_COLOR, BASELINE_COLOR = LINE_COLOR, "#b9c4c9"


def draw_bar_chart(found: Sequence[EngineResult], labels: dict[str, str], native: frozenset[str], title: str) -> str:
    """Returns the chart as SVG text.

    Args:
        found: The results.
        labels: Label by engine name.
        native: Engines of this package, drawn in another color.
        title: Title of the chart.
    """
    body = [svg_text(16, 28, title, size=15)]
    y = 50
    for name in SETS:
        panel = sorted((f for f in found if f.set == name), key=lambda f: f.speed, reverse=True)
        if not panel:
            continue
        minutes = panel[0].audio_s / 60
        body.append(svg_text(16, y + 14, f"{name}: {minutes:.1f} minutes of speech; audio seconds per CPU second, WER"))
        y += 24
        for figure in panel:
            body += _row(
                figure,
                labels[figure.engine],
                panel[0].speed,
                NATIVE_COLOR if figure.engine in native else BASELINE_COLOR,
                y,
            )
            y += ROW
        y += PANEL_GAP - ROW
    return svg_document(WIDTH, y, body)


def _row(figure: EngineResult, label: str, fastest: float, color: str, y: int) -> list[str]:
    length = max(1.0, BAR * figure.speed / fastest)
    wer = "" if figure.wer is None else f", {100 * figure.wer:.2f} %"
    return [
        svg_text(LABEL - 8, y + 15, label, anchor="end"),
        svg_rect(LABEL, y + 3, length, ROW - 7, color),
        svg_text(LABEL + length + 6, y + 15, f"{figure.speed:.1f}{wer}"),
    ]
