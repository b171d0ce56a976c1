"""Comparison of the transcripts of two outputs or runs: a table in the terminal, and an HTML page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distil_ray.cli.console import JsonConsole, log_field
from distil_ray.config import Config
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.statistics import SPEAKER
from distil_ray.report.details import Piece, build_alignment_pieces, read_details
from distil_ray.report.page import percent, render, shortened, signed
from distil_ray.report.paired_rows import MIN_PAIRS, Difference, Pairs, pair, read_side
from distil_ray.report.statistics import Row
from distil_ray.report.verdict import RunVerdict
from distil_ray.schema import parse_metadata
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import normalize
from distil_ray.types import EDITS

GROUPS_SHOWN = 15  # values of a column, in the terminal
GROUPS_ON_PAGE = 60  # the same on the page
LABEL_LETTERS = 20  # characters of a value, in the terminal

Groups = dict[str, list[tuple[str, Difference]]]


@dataclass(frozen=True, slots=True)
class ChangedRecording:
    """A recording with the transcripts of both sides as alignments."""

    row_a: Row
    row_b: Row
    speaker: str
    edits_a: int
    edits_b: int
    pieces_a: Sequence[Piece]
    pieces_b: Sequence[Piece]


def compare(a: str, b: str, to: str, config: Config, console: Console) -> None:
    """Prints the difference between b and a, and writes the page.

    Args:
        a: URI of an output or of a run folder.
        b: URI of the output or run folder to compare with it.
        to: URI of the page.
        config: Sections `scoring`, `report` and `storage`.
        console: Receives the table, or the event `comparison` if it writes JSON.

    Raises:
        SettingsError: A side has no scored transcripts, or no recording is in both.
    """
    storage, scoring = Storage(config.storage), config.scoring
    pairs = pair(*(read_side(key, uri, scoring.group_by, storage) for key, uri in (("a", a), ("b", b))))
    overall = pairs.difference(None, scoring)
    groups = {name: found for name in scoring.group_by if (found := pairs.by_group(name, scoring))}
    _print(pairs, overall, groups, console)
    target = normalize(to)
    storage.put(target, _page(pairs, overall, groups, config, storage))
    log_field("report", target, console)


def _page(pairs: Pairs, overall: Difference, groups: Groups, config: Config, storage: Storage) -> bytes:
    refs = pairs.most_changed(config.report.num_worst)
    rows_a = read_details([one for one, _ in refs], pairs.a.scope, storage)
    rows_b = read_details([other for _, other in refs], pairs.b.scope, storage)
    changed = [_changed(rows_a[one], rows_b[other]) for one, other in refs if one in rows_a and other in rows_b]
    return render(
        "compare.html",
        pairs=pairs,
        verdict=_decide_verdict(overall, pairs.num_other_normalizers),
        normalizers={key: sorted(set(side.normalizers)) for key, side in (("a", pairs.a), ("b", pairs.b))},
        overall=overall,
        groups={name: values[:GROUPS_ON_PAGE] for name, values in groups.items()},
        num_groups={name: len(values) for name, values in groups.items()},
        notes=_notes(pairs),
        changed=changed,
        min_pairs=MIN_PAIRS,
    )


def _changed(row_a: Row, row_b: Row) -> ChangedRecording:
    edits_a, edits_b = (sum(row[name] or 0 for name in EDITS) for row in (row_a, row_b))
    pieces = (build_alignment_pieces(row)[0] for row in (row_a, row_b))
    return ChangedRecording(row_a, row_b, parse_metadata(row_b).get(SPEAKER, ""), edits_a, edits_b, *pieces)


def _decide_verdict(overall: Difference, num_other_normalizers: int) -> RunVerdict:
    """Returns the verdict; at most a warning if some pairs were scored by different normalizers."""
    if overall.change is None:
        counts = f"b has fewer errors in {overall.num_better:,} recordings, more in {overall.num_worse:,}"
        return RunVerdict("warn", "The references have no words", f"There is no error rate; {counts}.")
    reason = f"b − a: {signed(overall.change)} points"
    if overall.interval is not None:
        low, high = overall.interval
        reason += f" (95 % interval {signed(low)} to {signed(high)}), {overall.num_pairs:,} recordings in both"
    if num_other_normalizers:
        reason += f"; {num_other_normalizers:,} were scored by different normalizers, which can explain the difference"
    reason += "."
    points = f"{abs(100 * overall.change):.2f} points"
    match overall.significance:
        case "too_few_pairs":
            counts = f"{overall.num_pairs:,}; at least {MIN_PAIRS} are needed"
            return RunVerdict("warn", f"Too few recordings ({counts})", reason)
        case "b_better":
            return RunVerdict("warn" if num_other_normalizers else "good", f"b is better by {points}", reason)
        case "a_better":
            return RunVerdict("warn" if num_other_normalizers else "bad", f"b is worse by {points}", reason)
        case "not_significant":
            return RunVerdict("warn", "The difference is not significant", reason)


def _notes(pairs: Pairs) -> list[str]:
    a, b = pairs.a, pairs.b
    num_both = len(pairs.rows_a) + pairs.num_other_references
    unpaired = [f"{num:,} of {name}" for name, side in (("a", a), ("b", b)) if (num := len(side.ids) - num_both)]
    notes = [f"left out, because only one side has scored them: {' and '.join(unpaired)}"] if unpaired else []
    if pairs.num_other_references:
        note = f"left out, because their references differ in length: {pairs.num_other_references:,}"
        if num := pairs.num_left_out_by_normalizers:
            note += f"; {num:,} of them were scored by different normalizers"
        notes.append(note)
    if pairs.num_other_normalizers:
        by_a, by_b = (SEPARATOR.join(sorted(set(side.normalizers))) for side in (a, b))
        notes.append(
            f"scored by different normalizers, which can explain the difference:"
            f" {pairs.num_other_normalizers:,} of {len(pairs.rows_a):,} pairs (a: {by_a}; b: {by_b})"
        )
    return notes


def _print(pairs: Pairs, overall: Difference, groups: Groups, console: Console) -> None:
    """Prints the table, or the event `comparison` if the output is JSON."""
    if isinstance(console, JsonConsole):
        console.emit(
            "comparison",
            a=pairs.a.name,
            b=pairs.b.name,
            **_fields(overall),
            min_pairs=MIN_PAIRS,
            groups={name: {value: _fields(one) for value, one in values} for name, values in groups.items()},
            normalizers={key: sorted(set(side.normalizers)) for key, side in (("a", pairs.a), ("b", pairs.b))},
            notes=_notes(pairs),
        )
        return
    for name, side in (("a", pairs.a), ("b", pairs.b)):
        log_field(
            name,
            f"{side.name} ({', '.join(map(shortened, side.models))}): WER {percent(side.wer)} %,"
            f" {len(side.ids):,} recordings",
            console,
        )
    for note in _notes(pairs):
        log_field("note", note, console)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("WER of pairs", no_wrap=True)
    for title in ("pairs", "a %", "b %", "b − a", "95 % interval", "better/worse"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_row(*_cells("all", overall), style="bold")
    for name, values in groups.items():
        table.add_row(Text(f"by {name}", style="dim"))
        for value, one in values[:GROUPS_SHOWN]:
            table.add_row(*_cells(f"  {value[:LABEL_LETTERS]}", one))
        if len(values) > GROUPS_SHOWN:
            table.add_row(Text(f"  … {len(values) - GROUPS_SHOWN:,} more", style="dim"))
    console.print()
    console.print(table)
    log_field(
        "*", f"significant: the 95 % interval, computed for {MIN_PAIRS} pairs or more, does not contain 0", console
    )
    console.print()
    verdict = _decide_verdict(overall, pairs.num_other_normalizers)
    log_field("verdict", f"{verdict.headline}. {verdict.reason}", console)


def _fields(one: Difference) -> dict[str, Any]:
    """Returns the keys of a difference in the event `comparison`."""
    return {**asdict(one), "significance": one.significance}


def _cells(label: str, one: Difference) -> list[Text]:
    interval = f"{signed(one.interval[0])} to {signed(one.interval[1])}" if one.interval else ""
    change = signed(one.change) + ("*" if one.significance in ("a_better", "b_better") else " ")
    counts = f"{one.num_better:,}/{one.num_worse:,}"
    return [
        Text(text)
        for text in (label, f"{one.num_pairs:,}", percent(one.wer_a), percent(one.wer_b), change, interval, counts)
    ]
