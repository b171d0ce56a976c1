"""The threshold sweep: the audio that every threshold of every filter would keep, as a table, sweep.csv and sweep.svg.

Each filter is evaluated alone, over all utterances with text. With references, a filter is also evaluated as a detector
of utterances with a word error rate above 10 %: precision is the fraction of such utterances among those that it
rejects (and that have a reference), recall the fraction of such utterances that it rejects.

The chart has a panel for each filter: hours kept against their WER; without references, against the fraction of audio
rejected. The configured threshold is the filled point.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config, LabelFiltersConfig
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.summary_table import format_percent
from distil_ray.output.ledger_rows import current_rows
from distil_ray.pseudo_labels.build import LabelSource
from distil_ray.pseudo_labels.filters import FILTERS, Filter, Mask, Values
from distil_ray.report.charts import svg_circle, svg_document, svg_grid_line, svg_line, svg_text
from distil_ray.storage.uris import join

BAD_WER = 0.1
TABLE_HEADER = ("threshold", "kept", "share %", "WER % of it", "rejected", "precision %", "recall %")
PANEL_WIDTH, PANEL_HEIGHT, PANEL_MARGIN = 380, 250, 52  # pixels of a panel, and of what surrounds its plot
PANEL_COLUMNS = 2
REASONS_WITHOUT_TEXT = {"status", "no_text"}  # utterances without text are left out
METRIC_COLUMNS = (*dict.fromkeys(one.column for one in FILTERS), "duration_s", "edits", "num_ref_words")


@dataclass(frozen=True, slots=True)
class UtteranceMetrics:
    """Columns of all utterances, shape (num_utterances,), NaN for missing values.

    `normalizers`: names and versions of the normalizers of utterances with a reference.
    """

    columns: dict[str, Values]
    normalizers: frozenset[str]

    @property
    def duration_s(self) -> Values:
        return self.columns["duration_s"]

    @property
    def has_reference(self) -> Mask:
        return ~np.isnan(self.columns["num_ref_words"])

    @property
    def is_bad(self) -> Mask:
        return self.columns["wer"] > BAD_WER

    def wer(self, mask: Mask) -> float | None:
        """Returns the pooled WER of those that have a reference, as a fraction."""
        chosen = mask & self.has_reference
        words = self.columns["num_ref_words"][chosen].sum()
        return float(self.columns["edits"][chosen].sum() / words) if words else None


@dataclass(frozen=True, slots=True)
class ThresholdResult:
    """The effect of one threshold of one filter. `hours_share` of the audio; rates are fractions, None where unknown.
    `known`: share of the utterances that the filter has a value for."""

    filter: str
    threshold: float
    is_configured: bool
    hours_kept: float
    hours_share: float
    num_rejected: int
    wer_kept: float | None
    precision: float | None
    recall: float | None
    known: float


def sweep_thresholds(config: Config, console: Console) -> ExitCode:
    """Scores every utterance of the output; prints the table, and writes it and the chart to the data set's folder."""
    source = LabelSource.open(config)
    measured = _measure(source)
    points = list(evaluate_thresholds(measured, config.labels.filters))
    everything = np.ones(len(measured.duration_s), np.bool_)
    log_field("utterances", f"{len(everything):,}, {format_duration(float(measured.duration_s.sum()))}", console)
    if (rate := measured.wer(everything)) is not None:
        log_field(
            "WER", f"{format_percent(rate)} % of all that have a reference ({measured.has_reference.sum():,})", console
        )
        log_field("normalizer", SEPARATOR.join(sorted(measured.normalizers)), console)
    _print(points, console)
    storage = source.storage
    storage.put(join(source.dataset_uri, "sweep.csv"), format_csv(points).encode())
    storage.put(join(source.dataset_uri, "sweep.svg"), draw_sweep(points).encode())
    log_field("output", f"{source.dataset_uri}: sweep.csv, sweep.svg", console)
    return ExitCode.DONE


def evaluate_thresholds(measured: UtteranceMetrics, config: LabelFiltersConfig) -> Iterator[ThresholdResult]:
    """Yields every threshold of every filter that has values, the configured ones included."""
    for one in FILTERS:
        values = measured.columns[one.column]
        if np.isnan(values).all():
            continue
        configured = getattr(config, one.setting)
        thresholds = {*map(float, one.sweep), *(() if configured is None else (float(configured),))}
        for threshold in sorted(thresholds, reverse=not one.is_minimum):
            yield _point(one, threshold, configured is not None and threshold == configured, values, measured)


def format_csv(points: Sequence[ThresholdResult]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [field.name for field in fields(ThresholdResult)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return sink.getvalue()


def _point(
    one: Filter, threshold: float, is_configured: bool, values: Values, measured: UtteranceMetrics
) -> ThresholdResult:
    out: NDArray[np.bool_] = one.rejects(values, threshold)
    bad, scored = measured.is_bad, out & measured.has_reference
    found = int((out & bad).sum())
    kept_s, all_s = measured.duration_s[~out].sum(), measured.duration_s.sum()
    return ThresholdResult(
        filter=one.setting,
        threshold=threshold,
        is_configured=is_configured,
        hours_kept=float(kept_s / 3600),
        hours_share=float(kept_s / all_s),
        num_rejected=int(out.sum()),
        wer_kept=measured.wer(~out),
        precision=found / int(scored.sum()) if scored.any() else None,
        recall=found / int(bad.sum()) if bad.any() else None,
        known=float((~np.isnan(values)).mean()),
    )


def _measure(source: LabelSource) -> UtteranceMetrics:
    ledger = source.read_ledger()
    columns: dict[str, list[float]] = {name: [] for name in METRIC_COLUMNS}
    normalizers = set[str]()
    for one in source.score_utterances(ledger, current_rows(ledger)):
        if not REASONS_WITHOUT_TEXT & set(one.reasons):
            if one.row["num_ref_words"] is not None:
                normalizers.add(one.row["normalizer"])
            for name, column in columns.items():
                column.append(float("nan") if one.row[name] is None else float(one.row[name]))
    if not columns["duration_s"]:
        raise SettingsError(f"output.uri={source.config.output.uri}: none of its transcripts has text to score")
    arrays = {name: np.array(column, np.float64) for name, column in columns.items()}
    return UtteranceMetrics(arrays, frozenset(normalizers))


def _print(points: Sequence[ThresholdResult], console: Console) -> None:
    """Prints lines of fixed width: a table of rich would be squeezed if the terminal width is unknown."""
    lines = [f"{'filter':<24}" + "".join(f"{name:>13}" for name in TABLE_HEADER)]
    before = ""
    for point in points:
        cells = (
            f"{point.threshold:g}{'*' if point.is_configured else ' '}",
            format_duration(3600 * point.hours_kept),
            f"{100 * point.hours_share:.1f}",
            format_percent(point.wer_kept),
            f"{point.num_rejected:,}",
            format_percent(point.precision),
            format_percent(point.recall),
        )
        lines.append(f"{point.filter if point.filter != before else '':<24}" + "".join(f"{cell:>13}" for cell in cells))
        before = point.filter
    lines.append("* configured threshold. Precision and recall are for utterances with a WER above 10 %")
    console.print("", *lines, "", sep="\n", soft_wrap=True, markup=False)


def draw_sweep(points: Sequence[ThresholdResult]) -> str:
    """Returns the chart as the text of an SVG file."""
    panels = [list(some) for _, some in groupby(points, key=lambda point: point.filter)]
    has_wer = any(point.wer_kept is not None for point in points)
    highest = max((_vertical_value(point, has_wer) for point in points), default=0.0) or 1.0
    all_hours = max((point.hours_kept / point.hours_share for point in points if point.hours_share), default=0.0)
    rows = -(-len(panels) // PANEL_COLUMNS)
    width, height = PANEL_COLUMNS * PANEL_WIDTH, rows * PANEL_HEIGHT + 30
    axis = "WER of what is kept, %" if has_wer else "share of the audio rejected, %"
    body = [
        svg_text(16, 22, f"Hours kept (x axis) and {axis} (y axis) by threshold; filled: configured threshold", size=13)
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, PANEL_COLUMNS)
        body += _draw_panel(panel, column * PANEL_WIDTH, 30 + row * PANEL_HEIGHT, all_hours, highest, has_wer)
    return svg_document(width, height, body)


def _vertical_value(point: ThresholdResult, has_wer: bool) -> float:
    return (point.wer_kept or 0.0) if has_wer else 1 - point.hours_share


def _draw_panel(
    panel: Sequence[ThresholdResult], left: float, top: float, all_hours: float, highest: float, has_wer: bool
) -> list[str]:
    x0, y0 = left + PANEL_MARGIN, top + PANEL_HEIGHT - PANEL_MARGIN
    across, up = PANEL_WIDTH - 2 * PANEL_MARGIN, PANEL_HEIGHT - 2 * PANEL_MARGIN
    positions = [(x0 + across * p.hours_share, y0 - up * _vertical_value(p, has_wer) / highest) for p in panel]
    drawn = [
        svg_text(x0, top + PANEL_MARGIN - 14, panel[0].filter, size=13),
        *(svg_grid_line(x0, x0 + across, y0 - up * share) for share in (0.0, 0.5, 1.0)),
        *(
            svg_text(x0 + across * share, y0 + 16, f"{all_hours * share:.3g} h", size=11, anchor="middle")
            for share in (0.0, 0.5, 1.0)
        ),
        *(
            svg_text(x0 - 6, y0 - up * s + 4, f"{100 * highest * s:.3g}", size=11, anchor="end")
            for s in (0.0, 0.5, 1.0)
        ),
        svg_line(positions),
    ]
    for point, (x, y) in zip(panel, positions, strict=True):
        drawn.append(svg_circle(x, y, point.is_configured))
        drawn.append(svg_text(x - 6, y - 6, f"{point.threshold:g}", size=9, anchor="end"))
    return drawn
