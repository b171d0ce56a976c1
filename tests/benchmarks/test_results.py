"""The arithmetic of the tables."""

from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.clips import Clip
from benchmarks.comparison import chart
from benchmarks.comparison.catalog import BY_NAME
from benchmarks.comparison.command import table
from benchmarks.comparison.models import Parameters
from benchmarks.comparison.models import table as models_table
from benchmarks.comparison.results import ratio, summarize
from benchmarks.comparison.worker import SetResult

SETS = {"short": [Clip("a", Path("a.wav"), 6.0, "THE CAT SAT"), Clip("b", Path("b.wav"), 4.0, "FOUR")]}


def _answer(cpu_s: float, *texts: str, peak_mb: float = 100.0) -> SetResult:
    return SetResult("short", list(texts), cpu_s, cpu_s * 2, peak_mb)


ANSWERS = {
    "full": [_answer(2.0, "The cat sat.", "4"), _answer(1.0, "", ""), _answer(9.0, "", "", peak_mb=300.0)],
    "hf-float32": [_answer(10.0, "the cat sad", "")],
}


def test_speeds_are_medians_over_rounds_and_errors_those_of_the_first_round() -> None:
    full, peer = summarize(ANSWERS, SETS, "en")

    assert (full.engine, full.rounds, full.audio_s) == ("full", 3, 10.0)
    assert (full.cpu_s, full.speed, full.speed_wall) == (2.0, 5.0, 2.5)
    assert list(full.speeds) == pytest.approx([10 / 9, 10.0])
    assert full.peak_rss_mb == 300.0
    assert full.wer == 0.0  # Whisper's English normalizer knows that 4 is four
    assert (peer.substitutions, peer.deletions, peer.insertions, peer.num_ref_words) == (1, 1, 0, 4)
    assert peer.wer == 0.5


def test_a_ratio_says_how_many_times_faster_ours_is() -> None:
    found = summarize(ANSWERS, SETS, "en")

    assert ratio(found, "full", "hf-float32", "short") == pytest.approx(5.0)
    assert ratio(found, "gated", "hf-float32", "short") is None
    assert ratio(found, "full", "hf-float32", "long") is None


def test_the_table_has_a_row_an_engine() -> None:
    console = Console(width=200, record=True)
    console.print(table(summarize(ANSWERS, SETS, "en"), [BY_NAME["full"], BY_NAME["hf-float32"]]))
    lines = console.export_text().splitlines()

    row = next(line for line in lines if "transformers pipeline float32" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["1.0", "50.00", "5.0 x", "100"]


def test_the_drawing_is_well_formed_and_fastest_first() -> None:
    from xml.etree import ElementTree

    drawing = chart.draw_bar_chart(
        summarize(ANSWERS, SETS, "en"), {"full": "ours <&>", "hf-float32": "peer"}, frozenset({"full"}), "a machine"
    )
    words = [element.text or "" for element in ElementTree.fromstring(drawing).iter() if element.tag.endswith("text")]

    assert words[0] == "a machine"
    assert words.index("ours <&>") < words.index("peer")
    assert "5.0, 0.00 %" in words


def test_two_checkpoints_are_compared_by_time_and_parameters() -> None:
    results = {"main": [_answer(6.0, "the cat sat", "four")], "student": [_answer(1.5, "the cat", "four")]}
    counts = {"main": Parameters(1550, 910), "student": Parameters(756, 120)}
    console = Console(width=160, record=True)
    console.print(models_table({"main": "large", "student": "small"}, summarize(results, SETS, "en"), counts))
    text = console.export_text()

    assert "4.00 times faster" in text
    assert "48.8 % of the main model's" in text
    assert "13.2 % of the main model's" in text
    assert "25.00" in text
