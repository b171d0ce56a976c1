"""Tables of the comparison, in the terminal and as Markdown, and its JSON report."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.accuracy.modes import DEFAULT_MODE
from benchmarks.accuracy.results import ALL, Comparison, ModeResult, Rates, best_of, compare_with_best_peers
from benchmarks.comparison.catalog import REQUIREMENTS
from benchmarks.machine import format_machine
from benchmarks.settings import AccuracySettings
from distil_ray.report.page import percent, signed

RATES_NOTE = "WER in % (95 % interval; substitutions/deletions/insertions)"
SPEED_NOTE = "audio seconds per CPU second"
COMPARISON_COLUMNS = (
    "set",
    "distil_ray",
    "peer",
    "recordings",
    "WER %",
    "peer's",
    "difference",
    "95 % interval",
    "+/−",
)


@dataclass(frozen=True, slots=True)
class ModelResult:
    """All modes with one checkpoint.

    Attributes:
        model: Name of the checkpoint.
        results: Results in the order of the modes.
        left_out: Reason by mode, for those that could not run.
    """

    model: str
    results: Sequence[ModeResult]
    left_out: Mapping[str, str]

    def comparisons(self) -> dict[str, list[Comparison]]:
        """Returns the comparisons with the best peers, of the best mode of this package and of its default mode."""
        own = [result for result in self.results if result.mode.is_own]
        peers = [result for result in self.results if not result.mode.is_own]
        if not own or not peers:
            return {}
        found = {"best mode": compare_with_best_peers(best_of(own), peers)}
        for result in own:
            if result.mode is DEFAULT_MODE:
                found["default mode"] = compare_with_best_peers(result, peers)
        return found


def rates_table(found: ModelResult) -> Table:
    """Returns the table of a checkpoint for the terminal: a row per mode, a column per set."""
    rows = _rate_rows(found.results, "\n")
    table = Table(title=f"{found.model}: {RATES_NOTE}; {SPEED_NOTE}", show_lines=True)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading == rows[0][0] else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def comparison_table(title: str, comparisons: Sequence[Comparison]) -> Table:
    """Returns the table of paired differences for the terminal."""
    table = Table(title=title)
    for heading in COMPARISON_COLUMNS:
        table.add_column(heading, justify="left" if heading in COMPARISON_COLUMNS[:3] else "right")
    for row in _comparison_rows(comparisons):
        table.add_row(*row)
    return table


def to_markdown(models: Sequence[ModelResult], settings: AccuracySettings, machine: Mapping[str, Any]) -> str:
    """Returns the tables of all checkpoints as Markdown."""
    lines = [f"{format_machine(dict(machine))}; {settings.threads} threads; language {settings.language}.", ""]
    for found in models:
        lines += [f"## {found.model}", "", f"{RATES_NOTE}; {SPEED_NOTE}.", ""]
        lines += _markdown_table(_rate_rows(found.results, "<br>"), num_left=1)
        for title, comparisons in found.comparisons().items():
            lines += [f"### {_title(title)}", ""]
            lines += _markdown_table([COMPARISON_COLUMNS, *_comparison_rows(comparisons)], num_left=3)
        lines += [f"- Left out: {reason}" for reason in found.left_out.values()]
    return "\n".join(lines).rstrip() + "\n"


def write_reports(
    folder: Path, models: Sequence[ModelResult], settings: AccuracySettings, machine: Mapping[str, Any]
) -> None:
    """Writes accuracy.json, accuracy.md and accuracy-texts.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine,
        "settings": asdict(settings),
        "requirements": REQUIREMENTS,
        "models": {found.model: _to_json(found) for found in models},
    }
    (folder / "accuracy.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "accuracy.md").write_text(to_markdown(models, settings, machine), encoding="utf-8")
    with (folder / "accuracy-texts.jsonl").open("w", encoding="utf-8") as file:
        for found in models:
            for result in found.results:
                for each in result.recordings:
                    line = {
                        "model": found.model,
                        "mode": result.mode.engine.name,
                        "set": each.set,
                        "id": each.clip.clip_id,
                        "wer": each.score.wer,
                        "edits": each.edits,
                        "error": each.transcript.error,
                        "text": each.transcript.text,
                        "reference": each.clip.reference,
                    }
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def comparison_title(kind: str, model: str) -> str:
    return f"{model}: {_title(kind)}"


def _title(kind: str) -> str:
    return f"{kind} of distil_ray and the best peer on each set; the difference is negative where distil_ray is better"


def _to_json(found: ModelResult) -> dict[str, Any]:
    return {
        "rates": {
            result.mode.engine.name: {
                "options": result.mode.engine.options,
                "sets": {name: _rates_to_json(result.rates(name)) for name in result.sets},
            }
            for result in found.results
        },
        "normalizers": sorted({each.score.normalizer for result in found.results for each in result.recordings}),
        "comparisons": {
            kind: [
                {
                    "set": each.set,
                    "own": each.own.engine.name,
                    "peer": each.peer.engine.name,
                    **asdict(each.difference),
                    "significance": each.difference.significance,
                }
                for each in comparisons
            ]
            for kind, comparisons in found.comparisons().items()
        },
        "left_out": dict(found.left_out),
    }


def _rates_to_json(rates: Rates) -> dict[str, Any]:
    return asdict(rates) | {"wer": rates.wer}


def _rate_rows(results: Sequence[ModeResult], newline: str) -> list[list[str]]:
    """Returns the heading and a row of cells per mode."""
    sets = results[0].sets
    counts = {name: results[0].rates(name) for name in sets}
    heading = [f"{name}{newline}{counts[name].num_recordings}, {counts[name].num_ref_words:,} words" for name in sets]
    rows = [["", *heading, "failed", "speed"]]
    for result in results:
        everything = result.rates(ALL)
        speed = f"{everything.audio_s / everything.cpu_s:.1f}" if everything.cpu_s else ""
        cells = [_rate_cell(result.rates(name), newline) for name in sets]
        rows.append([result.mode.engine.label, *cells, str(everything.num_failed), speed])
    return rows


def _rate_cell(rates: Rates, newline: str) -> str:
    lines = [percent(rates.wer)]
    if rates.interval:
        lines.append(f"({percent(rates.interval[0])}–{percent(rates.interval[1])})")
    lines.append(f"{rates.substitutions}/{rates.deletions}/{rates.insertions}")
    return newline.join(lines)


def _comparison_rows(comparisons: Sequence[Comparison]) -> list[list[str]]:
    rows = []
    for each in comparisons:
        one = each.difference
        interval = f"{signed(one.interval[0])} to {signed(one.interval[1])}" if one.interval else ""
        rows.append(
            [
                each.set,
                each.own.name,
                each.peer.engine.label,
                f"{one.num_pairs:,}",
                percent(one.wer_b),
                percent(one.wer_a),
                signed(one.change) + ("*" if one.significance in ("a_better", "b_better") else ""),
                interval,
                f"{one.num_better}/{one.num_worse}",
            ]
        )
    return rows


def _markdown_table(rows: Sequence[Sequence[str]], num_left: int) -> list[str]:
    ruler = ["---" if column < num_left else "---:" for column in range(len(rows[0]))]
    return [f"| {' | '.join(row)} |" for row in (rows[0], ruler, *rows[1:])] + [""]
