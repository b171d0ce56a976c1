"""The table that is printed at the end of a run: error rates, speed, failures and a few transcripts.

Prints the content of summary.json and computes nothing. Rates are in percent here and fractions there.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from distil_ray.cli.console import JsonConsole
from distil_ray.evaluation.normalizers import SEPARATOR, names_in_several_versions
from distil_ray.evaluation.statistics import SPEAKER, Example
from distil_ray.evaluation.summary import Figures, RunSummary, sort_by_wer
from distil_ray.recognition.quality_flags import MAX_UNTRANSCRIBED_S, MIXED_LANGUAGES, UNTRANSCRIBED_SPEECH
from distil_ray.redaction import redact

GROUPS_SHOWN = 15  # rows per grouping; groups.csv has all of them
EXAMPLE_LETTERS = 220  # characters of an example that are printed
LABEL_LETTERS = 24
MIN_DRAFTED_SHARE = 0.5  # of the audio; below it, drafting was switched off (chunks without speech have no drafts)


def print_summary(report: RunSummary, output_uri: str, console: Console) -> None:
    """Prints recordings, WER with its interval, groups, speed, failures, examples and the location of the output.

    Emits the event `summary` instead if the console writes JSON.
    """
    summary = report.summary
    if isinstance(console, JsonConsole):
        console.emit("summary", output_uri=output_uri, **summary)
        return
    console.print()
    console.print(_table(summary))
    for label, text in [
        ("no groups", _groups_without_values(summary)),
        ("speed", _speed(summary)),
        ("failed", _failures(summary)),
        ("doubtful", doubtful_text_warning(summary, english_only=summary["english_only"])),
        ("assistant", _drafting(summary)),
        ("untranscribed", _untranscribed(summary)),
        ("languages", _mixed_languages(summary)),
        ("deleted", deleted_sources_note(summary)),
        ("normalizer", summary["normalizer"]),
        ("warning", mixed_versions_warning(summary["normalizer"])),
    ]:
        if text:
            _print_field(label, text, console)
    if report.examples:
        console.print()
        for example in report.examples:
            _print_example(example, console)
    console.print()
    _print_field("output", f"{output_uri}/transcripts", console)
    _print_field("run", f"{output_uri}/runs/{summary['run_id']}", console)


def _table(summary: Figures) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for name in ("recordings", "minutes", "WER %", "95 % interval", "S", "D", "I", "words"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_row(*_cells("all", summary), style="bold")
    for name, groups in summary["groups"].items():
        if not groups:
            continue
        ordered = sort_by_wer(groups)
        table.add_row(Text(f"by {name}", style="dim"))
        for value, figures in ordered[:GROUPS_SHOWN]:
            table.add_row(*_cells(f"  {value}", figures))
        if len(ordered) > GROUPS_SHOWN:
            table.add_row(Text(f"  … {len(ordered) - GROUPS_SHOWN:,} more in groups.csv", style="dim"))
    return table


def _cells(label: str, figures: Figures) -> list[Text]:
    interval = figures["wer_ci95"]
    cells = [f"{figures['num_recordings']:,}", f"{figures['audio_s'] / 60:,.1f}", format_percent(figures["wer"])]
    cells.append(f"{format_percent(interval[0])} to {format_percent(interval[1])}" if interval else "")
    if figures["wer"] is None and not figures["insertions"]:
        cells += [""] * 4
    else:
        cells += [f"{figures[name]:,}" for name in ("substitutions", "deletions", "insertions", "num_ref_words")]
    return [Text(_truncate(label, LABEL_LETTERS)), *map(Text, cells)]


def format_percent(rate: float | None) -> str:
    """Returns a fraction in percent with two decimals; an empty string for None."""
    return "" if rate is None else f"{100 * rate:.2f}"


def mixed_versions_warning(normalizers: str | None) -> str | None:
    """Returns a warning if rows were scored by several versions of a normalizer; `normalizers` as in summary.json."""
    names = names_in_several_versions((normalizers or "").split(SEPARATOR))
    return (
        f"rows were scored by several versions of {' and '.join(names)}; their WERs are not comparable"
        if names
        else None
    )


def _groups_without_values(summary: Figures) -> str | None:
    """Returns the columns of ``scoring.group_by`` that no recording has; not the speaker, which is the default."""
    names = [name for name, groups in summary["groups"].items() if not groups and name != SPEAKER]
    return f"no recording has a value for {' or '.join(names)} (scoring.group_by)" if names else None


def _speed(summary: Figures) -> str:
    if summary["rtfx_job"] is None:
        return f"nothing to transcribe; {summary['wall_s']:,.1f} s"
    words = (
        f"RTFx {summary['rtfx_job']:,.1f} ({summary['audio_recognized_s'] / 60:,.1f} min of audio in"
        f" {summary['wall_s']:,.1f} s)"
    )
    if summary["rtfx_model"] is not None:
        words += f"; per recognizer {summary['rtfx_model']:,.1f}"
    where = ", ".join(filter(None, [summary["device"], summary["dtype"]]))
    return f"{words} on {where}" if where else words


def _failures(summary: Figures) -> str:
    counts = [f"{kind} {count:,}" for kind, count in summary["failures_by_kind"].items()]
    words = f"{summary['num_failed']:,} of {summary['num_recordings']:,}" + (f": {', '.join(counts)}" if counts else "")
    named = (status for status in ("doubtful", "partial", "empty") if summary[f"num_{status}"])
    others = [f"{summary[f'num_{status}']:,} {status}" for status in named]
    return f"{words}; {', '.join(others)}" if others else words


def doubtful_text_warning(figures: Mapping[str, Any], *, english_only: bool = False) -> str:
    """Returns a warning about recordings whose status is `doubtful`; an empty string if there are none."""
    if not (doubtful := figures.get("num_doubtful")):
        return ""
    warning = (
        f"the text of {doubtful:,} of {figures['num_recordings']:,} recordings may not be what was spoken"
        " (status doubtful; quality_flags say why)"
    )
    if not english_only:
        return warning
    return f"{warning}. The model is English-only: if they are in another language, choose a multilingual model.name"


def deleted_sources_note(figures: Mapping[str, Any]) -> str:
    """Returns the number of recordings with rows that the input no longer lists; an empty string if there are none."""
    if not (deleted := figures.get("num_deleted_sources")):
        return ""
    return f"{deleted:,} more recordings had rows and are not listed by the input (output.deleted_sources)"


def _drafting(summary: Figures) -> str:
    """Returns the share of the assistant's tokens that was accepted, and where drafting was switched off."""
    drafting = summary["assistant"]
    if drafting is None or not summary["audio_recognized_s"]:
        return ""
    if not drafting["drafts_proposed"]:
        return f"{drafting['model']} drafted nothing"
    total_s = summary["audio_recognized_s"]
    text = (
        f"{100 * drafting['acceptance_rate']:.0f} % of {drafting['drafts_proposed']:,} drafted tokens accepted"
        f" ({drafting['model']})"
    )
    if drafting["audio_s"] > MIN_DRAFTED_SHARE * total_s:
        return text
    share = f"{drafting['audio_s'] / 60:,.1f} of {total_s / 60:,.1f} min"
    return f"{text}; it drafted for {share} of audio and was then switched off"


def _untranscribed(summary: Figures) -> str:
    flagged = summary["num_untranscribed_speech"]
    if not flagged:
        return ""
    return (
        f"{summary['unheard_s']:,.1f} s of speech after the end of transcribed text; {flagged:,} of"
        f" {summary['num_recordings']:,} recordings have more than {MAX_UNTRANSCRIBED_S:g} s of it in a chunk"
        f" (flag {UNTRANSCRIBED_SPEECH})"
    )


def _mixed_languages(summary: Figures) -> str:
    if not (flagged := summary["num_mixed_languages"]):
        return ""
    return (
        f"{flagged:,} of {summary['num_recordings']:,} recordings have more than one language and were transcribed in"
        f" one of them (flag {MIXED_LANGUAGES}; decoding.language_per=chunk transcribes each passage in its own)"
    )


def _print_example(example: Example, console: Console) -> None:
    console.print(Text(f"{example.recording_id}  (WER {format_percent(example.wer)} %)", style="bold"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=12, no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for label, text in (("reference", example.reference), ("transcript", example.text)):
        grid.add_row(f"  {label}", Text(_truncate(" ".join(text.split()), EXAMPLE_LETTERS)))
    console.print(grid)


def _print_field(label: str, text: str, console: Console) -> None:
    """Prints one line without wrapping, so that a path can be copied."""
    console.print(Text.assemble((f"{label:<14} ", "dim"), redact(text)), soft_wrap=True)


def _truncate(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "…"
