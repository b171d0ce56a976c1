"""The comparison of two runs: a table in the terminal, and an HTML page in the style of report.html."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distil_ray.cli.console import JsonConsole, log_field
from distil_ray.config import Config
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.statistics import SPEAKER
from distil_ray.report.details import Piece, build_alignment_pieces, read_details
from distil_ray.report.page import per_cent, render, shortened, signed
from distil_ray.report.paired_rows import Difference, Pairs, pair, read_side
from distil_ray.report.statistics import Row
from distil_ray.report.verdict import RunVerdict
from distil_ray.schema import parse_metadata
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import normalize
from distil_ray.types import EDITS

GROUPS_SHOWN = 15  # values of a column in the terminal
GROUPS_ON_PAGE = 60
LABEL_LETTERS = 20  # of a value in the terminal

Groups = dict[str, list[tuple[str, Difference]]]


@dataclass(frozen=True, slots=True)
class Changed:
    """A recording with the transcripts of both sides."""

    row_a: Row
    row_b: Row
    speaker: str
    edits_a: int
    edits_b: int
    pieces_a: Sequence[Piece]
    pieces_b: Sequence[Piece]


def compare(a: str, b: str, to: str, config: Config, console: Console) -> None:
    """Prints the difference between b and a, and writes the page to `to`.

    Raises:
        SettingsError: a side has no scored transcripts, or no recording is in both.
    """
    storage, scoring = Storage(config.storage), config.scoring
    pairs = pair(*(read_side(key, place, scoring.group_by, storage) for key, place in (("a", a), ("b", b))))
    overall = pairs.difference(None, scoring)
    groups = {name: found for name in scoring.group_by if (found := pairs.by_group(name, scoring))}
    _print(pairs, overall, groups, console)
    target = normalize(to)
    storage.put(target, _page(pairs, overall, groups, config, storage))
    log_field("report", target, console)


def _page(pairs: Pairs, overall: Difference, groups: Groups, config: Config, storage: Storage) -> bytes:
    spots = pairs.most_changed(config.report.num_worst)
    rows_a = read_details([one for one, _ in spots], pairs.a.scope, storage)
    rows_b = read_details([other for _, other in spots], pairs.b.scope, storage)
    changed = [_changed(rows_a[one], rows_b[other]) for one, other in spots if one in rows_a and other in rows_b]
    return render(
        "compare.html",
        pairs=pairs,
        judgment=_judge(overall, pairs.num_other_normalizers),
        normalizers={key: sorted(set(side.normalizers)) for key, side in (("a", pairs.a), ("b", pairs.b))},
        overall=overall,
        groups={name: values[:GROUPS_ON_PAGE] for name, values in groups.items()},
        num_groups={name: len(values) for name, values in groups.items()},
        notes=_notes(pairs),
        changed=changed,
    )


def _changed(row_a: Row, row_b: Row) -> Changed:
    edits_a, edits_b = (sum(row[name] or 0 for name in EDITS) for row in (row_a, row_b))
    pieces = (build_alignment_pieces(row)[0] for row in (row_a, row_b))
    return Changed(row_a, row_b, parse_metadata(row_b).get(SPEAKER, ""), edits_a, edits_b, *pieces)


def _judge(overall: Difference, num_other_normalizers: int) -> RunVerdict:
    """Returns the verdict; only a warning if some pairs were scored by different normalizers."""
    interval = overall.interval
    words = f"over {overall.num_pairs:,} recordings in both"
    if interval is not None:
        words = f"95 % of resamplings lie between {signed(interval[0])} and {signed(interval[1])} points, {words}"
    points = f"{abs(100 * (overall.change or 0)):.2f} points"
    if num_other_normalizers:
        words += (
            f"; {num_other_normalizers:,} were scored by different normalizers, which may make all of the difference"
        )
    if overall.verdict == "b":
        return RunVerdict("warn" if num_other_normalizers else "good", f"b is better by {points}", f"{words}.")
    if overall.verdict == "a":
        return RunVerdict("warn" if num_other_normalizers else "bad", f"b is worse by {points}", f"{words}.")
    return RunVerdict("warn", "The two cannot be told apart", f"b less a: {signed(overall.change)} points; {words}.")


def _notes(pairs: Pairs) -> list[str]:
    a, b = pairs.a, pairs.b
    num_both = len(pairs.rows_a) + pairs.num_other_references
    alone = [f"{num:,} of {name}" for name, side in (("a", a), ("b", b)) if (num := len(side.ids) - num_both)]
    notes = [f"left out, because only one side has them scored: {' and '.join(alone)}"] if alone else []
    if pairs.num_other_references:
        words = f"left out, because their references differ in length: {pairs.num_other_references:,}"
        if num := pairs.num_left_out_by_normalizers:
            words += f"; {num:,} of them were scored by different normalizers"
        notes.append(words)
    if pairs.num_other_normalizers:
        by = " and ".join(SEPARATOR.join(sorted(set(side.normalizers))) for side in (a, b))
        notes.append(
            f"scored by different normalizers, a part or all of the difference may be theirs:"
            f" {pairs.num_other_normalizers:,} of {len(pairs.rows_a):,} pairs; a and b by {by}"
        )
    return notes


def _print(pairs: Pairs, overall: Difference, groups: Groups, console: Console) -> None:
    """Prints the table, or the event `comparison` if the output is JSON."""
    if isinstance(console, JsonConsole):
        told = {name: {value: asdict(one) for value, one in values} for name, values in groups.items()}
        normalizers = {key: sorted(set(side.normalizers)) for key, side in (("a", pairs.a), ("b", pairs.b))}
        told_of = {"normalizers": normalizers, "notes": _notes(pairs)}
        console.emit("comparison", a=pairs.a.name, b=pairs.b.name, **asdict(overall), groups=told, **told_of)
        return
    for name, side in (("a", pairs.a), ("b", pairs.b)):
        log_field(
            name,
            f"{side.name} ({', '.join(map(shortened, side.models))}): WER {per_cent(side.wer)} % of {len(side.ids):,}",
            console,
        )
    for note in _notes(pairs):
        log_field("note", note, console)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("WER, in both", no_wrap=True)
    for title in ("pairs", "a %", "b %", "b - a", "95 % interval", "better/worse"):
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
    log_field("*", "the interval, of ten pairs and more, speaks for one side", console)
    console.print()
    judgment = _judge(overall, pairs.num_other_normalizers)
    log_field("verdict", f"{judgment.headline}: {judgment.because}", console)


def _cells(label: str, one: Difference) -> list[Text]:
    interval = f"{signed(one.interval[0])} to {signed(one.interval[1])}" if one.interval else ""
    change = signed(one.change) + ("*" if one.verdict else " ")
    counts = f"{one.num_better:,}/{one.num_worse:,}"
    return [
        Text(text)
        for text in (label, f"{one.num_pairs:,}", per_cent(one.wer_a), per_cent(one.wer_b), change, interval, counts)
    ]
