"""What a run has come to, as a table for people: error rates, speeds, failures, and a few transcripts to look at.

Shows what summary.json holds and computes nothing. Rates are per cent here, fractions there.
"""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distil_ray.cli.json_console import JsonConsole
from distil_ray.evaluation.normalizers import SEPARATOR, in_several_versions
from distil_ray.evaluation.statistics import Example
from distil_ray.evaluation.summary import Figures, Report, worst_first
from distil_ray.recognition.quality_flags import MAX_UNTRANSCRIBED_S, MIXED_LANGUAGES, UNTRANSCRIBED_SPEECH
from distil_ray.redaction import redact

GROUPS_SHOWN = 15  # values of a group; groups.csv has them all
EXAMPLE_LETTERS = 220  # of a text; a long recording's goes on for pages
LABEL_LETTERS = 24


def print_table(report: Report, output_uri: str, console: Console) -> None:
    """Recordings, WER with its interval, groups, speeds, failures, examples, and where the output lies.

    The event `summary` where lines are JSON.
    """
    summary = report.summary
    if isinstance(console, JsonConsole):
        console.emit("summary", output_uri=output_uri, **summary)
        return
    console.print()
    console.print(_table(summary))
    for label, text in [
        ("speed", _speed(summary)),
        ("failed", _failures(summary)),
        ("untranscribed", _untranscribed(summary)),
        ("languages", _mixed_languages(summary)),
        ("normalizer", summary["normalizer"]),
        ("note", several_versions(summary["normalizer"])),
    ]:
        if text:
            _say(label, text, console)
    if report.examples:
        console.print()
        for example in report.examples:
            _show(example, console)
    console.print()
    _say("output", f"{output_uri}/transcripts", console)
    _say("run", f"{output_uri}/runs/{summary['run_id']}", console)


def _table(summary: Figures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("recordings", "minutes", "WER %", "95 % interval", "S", "D", "I", "words"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*_cells("all", summary), style="bold")
    for name, groups in summary["groups"].items():
        if not groups:
            continue
        ordered = worst_first(groups)
        table.add_row(Text(f"by {name}", style="dim"))
        for value, figures in ordered[:GROUPS_SHOWN]:
            table.add_row(*_cells(f"  {value}", figures))
        if len(ordered) > GROUPS_SHOWN:
            table.add_row(Text(f"  … {len(ordered) - GROUPS_SHOWN:,} more in groups.csv", style="dim"))
    return table


def _cells(label: str, figures: Figures) -> list[Text]:
    interval = figures["wer_ci95"]
    cells = [f"{figures['num_recordings']:,}", f"{figures['audio_s'] / 60:,.1f}", per_cent(figures["wer"])]
    cells.append(f"{per_cent(interval[0])} to {per_cent(interval[1])}" if interval else "")
    if figures["wer"] is None and not figures["insertions"]:
        cells += [""] * 4
    else:
        cells += [f"{figures[name]:,}" for name in ("substitutions", "deletions", "insertions", "num_ref_words")]
    return [Text(_shortened(label, LABEL_LETTERS)), *map(Text, cells)]


def per_cent(rate: float | None) -> str:
    """A fraction as per cent with two digits; nothing for None."""
    return "" if rate is None else f"{100 * rate:.2f}"


def several_versions(normalizers: str | None) -> str | None:
    """A sentence where a WER has rows of several versions of a normalizer; `normalizers` as in summary.json."""
    names = in_several_versions((normalizers or "").split(SEPARATOR))
    return f"several versions of {' and '.join(names)} scored the rows: they do not make one WER" if names else None


def _speed(summary: Figures) -> str:
    if summary["rtfx_job"] is None:
        return f"nothing was left to recognize; {summary['wall_s']:,.1f} s"
    words = (
        f"RTFx {summary['rtfx_job']:,.1f} ({summary['audio_recognized_s'] / 60:,.1f} min of audio in"
        f" {summary['wall_s']:,.1f} s)"
    )
    if summary["rtfx_model"] is not None:
        words += f", of one recognizer {summary['rtfx_model']:,.1f}"
    where = ", ".join(filter(None, [summary["device"], summary["dtype"]]))
    return f"{words} on {where}" if where else words


def _failures(summary: Figures) -> str:
    counts = [f"{kind} {count:,}" for kind, count in summary["failures_by_kind"].items()]
    words = f"{summary['num_failed']:,} of {summary['num_recordings']:,}" + (f": {', '.join(counts)}" if counts else "")
    others = [f"{summary[f'num_{status}']:,} {status}" for status in ("partial", "empty") if summary[f"num_{status}"]]
    return f"{words}; {', '.join(others)}" if others else words


def _untranscribed(summary: Figures) -> str:
    flagged = summary["num_untranscribed_speech"]
    if not flagged:
        return ""
    return (
        f"{summary['unheard_s']:,.1f} s of speech after the end of a text; {flagged:,} of"
        f" {summary['num_recordings']:,} recordings have more than {MAX_UNTRANSCRIBED_S:g} s of it in a chunk"
        f" (flag {UNTRANSCRIBED_SPEECH})"
    )


def _mixed_languages(summary: Figures) -> str:
    if not (flagged := summary["num_mixed_languages"]):
        return ""
    return (
        f"{flagged:,} of {summary['num_recordings']:,} recordings have more than one language and were transcribed in"
        f" one of them (flag {MIXED_LANGUAGES})"
    )


def _show(example: Example, console: Console) -> None:
    console.print(Text(f"{example.recording_id}  (WER {per_cent(example.wer)} %)", style="bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=12, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in (("reference", example.reference), ("transcript", example.text)):
        grid.add_row(f"  {label}", Text(_shortened(" ".join(text.split()), EXAMPLE_LETTERS)))
    console.print(grid)


def _say(label: str, text: str, console: Console) -> None:
    """One line, however long: a place that is broken in two cannot be copied."""
    console.print(Text.assemble((f"{label:<14} ", "dim"), redact(text)), soft_wrap=True)


def _shortened(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"
