"""What every threshold of every filter would keep, so that one can choose: a table, sweep.csv and sweep.svg.

Each filter is looked at by itself, over all utterances that have words. Where there are references a filter is judged
as a detector too, of utterances with a word error rate above 10 %: its precision is the share of such among those that
it rejects (and that have a reference), its recall the share of such that it rejects.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config, LabelFiltersConfig
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.summary_table import format_percent
from distil_ray.output.ledger_rows import current_rows
from distil_ray.pseudo_labels.build import Source
from distil_ray.pseudo_labels.filters import FILTERS, Filter, Mask, Values
from distil_ray.pseudo_labels.sweep_plot import draw
from distil_ray.storage.uris import join

BAD_WER = 0.1
HEAD = ("threshold", "kept", "share %", "WER % of it", "rejected", "precision %", "recall %")
UNJUDGED = {"status", "no_text"}  # nothing of such an utterance could be kept
COLUMNS = (*dict.fromkeys(one.column for one in FILTERS), "duration_s", "edits", "num_ref_words")


@dataclass(frozen=True, slots=True)
class Measured:
    """Of all utterances one column each, shape (num_utterances,), NaN where there is no value.

    `normalizers`: what scored those with a reference, by name and version.
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
        """Pooled, of those that have a reference."""
        chosen = mask & self.has_reference
        words = self.columns["num_ref_words"][chosen].sum()
        return float(self.columns["edits"][chosen].sum() / words) if words else None


@dataclass(frozen=True, slots=True)
class Point:
    """What one threshold of one filter keeps. `hours_share` of the audio; rates are fractions, None where unknown.
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


def sweep(config: Config, console: Console) -> ExitCode:
    """Judges every utterance of the output; prints the table and writes it and its plot into the data set's folder."""
    source = Source.open(config)
    measured = _measure(source)
    points = list(points_of(measured, config.labels.filters))
    everything = np.ones(len(measured.duration_s), np.bool_)
    log_field("utterances", f"{len(everything):,}, {format_duration(float(measured.duration_s.sum()))}", console)
    if (rate := measured.wer(everything)) is not None:
        log_field(
            "WER", f"{format_percent(rate)} % of all that have a reference ({measured.has_reference.sum():,})", console
        )
        log_field("normalizer", SEPARATOR.join(sorted(measured.normalizers)), console)
    _print(points, console)
    storage = source.storage
    storage.put(join(source.dataset_uri, "sweep.csv"), as_csv(points).encode())
    storage.put(join(source.dataset_uri, "sweep.svg"), draw(points).encode())
    log_field("output", f"{source.dataset_uri}: sweep.csv, sweep.svg", console)
    return ExitCode.DONE


def points_of(measured: Measured, config: LabelFiltersConfig) -> Iterator[Point]:
    """Every threshold of every filter that there are values for, the configured ones among them."""
    for one in FILTERS:
        values = measured.columns[one.column]
        if np.isnan(values).all():
            continue
        configured = getattr(config, one.setting)
        thresholds = {*map(float, one.sweep), *(() if configured is None else (float(configured),))}
        for threshold in sorted(thresholds, reverse=not one.is_minimum):
            yield _point(one, threshold, configured is not None and threshold == configured, values, measured)


def as_csv(points: Sequence[Point]) -> str:
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [field.name for field in fields(Point)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(point) for point in points)
    return sink.getvalue()


def _point(one: Filter, threshold: float, is_configured: bool, values: Values, measured: Measured) -> Point:
    out: NDArray[np.bool_] = one.rejects(values, threshold)
    bad, judged = measured.is_bad, out & measured.has_reference
    found = int((out & bad).sum())
    kept_s, all_s = measured.duration_s[~out].sum(), measured.duration_s.sum()
    return Point(
        filter=one.setting,
        threshold=threshold,
        is_configured=is_configured,
        hours_kept=float(kept_s / 3600),
        hours_share=float(kept_s / all_s),
        num_rejected=int(out.sum()),
        wer_kept=measured.wer(~out),
        precision=found / int(judged.sum()) if judged.any() else None,
        recall=found / int(bad.sum()) if bad.any() else None,
        known=float((~np.isnan(values)).mean()),
    )


def _measure(source: Source) -> Measured:
    ledger = source.read_ledger()
    columns: dict[str, list[float]] = {name: [] for name in COLUMNS}
    normalizers = set[str]()
    for one in source.judged(ledger, current_rows(ledger)):
        if not UNJUDGED & set(one.reasons):
            if one.row["num_ref_words"] is not None:
                normalizers.add(one.row["normalizer"])
            for name, column in columns.items():
                column.append(float("nan") if one.row[name] is None else float(one.row[name]))
    if not columns["duration_s"]:
        raise SettingsError(f"output.uri={source.config.output.uri}: none of its transcripts has words to judge")
    arrays = {name: np.array(column, np.float64) for name, column in columns.items()}
    return Measured(arrays, frozenset(normalizers))


def _print(points: Sequence[Point], console: Console) -> None:
    """Lines of one width: a table of rich's would be squeezed where no terminal tells its own."""
    lines = [f"{'filter':<24}" + "".join(f"{name:>13}" for name in HEAD)]
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
    lines.append("* as configured. Precision and recall: of utterances with a WER above 10 %")
    console.print("", *lines, "", sep="\n", soft_wrap=True, markup=False)
