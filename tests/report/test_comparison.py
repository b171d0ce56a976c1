"""Comparison of two runs: pairs, differences, intervals, messages."""

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distil_ray.cli.console import JsonConsole
from distil_ray.config import Config, ScoringConfig
from distil_ray.errors import SettingsError
from distil_ray.report.comparison import compare
from distil_ray.report.paired_rows import Difference, Pairs, pair, read_side
from distil_ray.storage.storage import Storage
from tests.report.generated import STARTED, drawn_rows, transcript, write_output
from tests.support.transcripts import Row

SCORING = ScoringConfig(group_by=("speaker",), bootstrap_samples=300)


def pairs_of(a: Path, b: Path) -> Pairs:
    return pair(*(read_side(key, str(place), SCORING.group_by, Storage()) for key, place in (("a", a), ("b", b))))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same 300 recordings with few and with many errors."""
    folder = tmp_path_factory.mktemp("two")
    for name, rate in (("good", 0.1), ("bad", 0.2)):
        write_output(folder / name, list(drawn_rows(300, error_rate=rate, seed=3)))
    return folder / "good", folder / "bad"


def test_the_difference_is_that_of_the_pooled_rates_and_changes_sign_with_the_sides(two: tuple[Path, Path]) -> None:
    good, bad = two
    here, there = (pairs_of(*sides).difference(None, SCORING) for sides in ((good, bad), (bad, good)))

    assert here.num_pairs == there.num_pairs == 297
    assert here.wer_a is not None and here.wer_b is not None and here.change is not None and here.interval is not None
    assert here.change == pytest.approx(here.wer_b - here.wer_a)
    assert here.change == -(there.change or 0)
    assert here.interval[0] < here.change < here.interval[1]
    assert (here.significance, there.significance) == ("a_better", "b_better")
    assert (here.num_better, here.num_worse) == (there.num_worse, there.num_better)


def test_speakers_and_groups_that_one_side_knows_count_for_both(two: tuple[Path, Path], tmp_path: Path) -> None:
    good, bad = two
    unnamed = [row | {"metadata": []} for row in drawn_rows(300, error_rate=0.2, seed=3)]
    write_output(tmp_path / "unnamed", unnamed)
    expected, here = pairs_of(good, bad), pairs_of(good, tmp_path / "unnamed")
    there = pairs_of(tmp_path / "unnamed", good)
    assert here.difference(None, SCORING) == expected.difference(None, SCORING)
    assert here.by_group("speaker", SCORING) == expected.by_group("speaker", SCORING)
    assert {name for name, _ in there.by_group("speaker", SCORING)} == {f"speaker-{number}" for number in range(20)}


def test_an_output_does_not_differ_from_itself(two: tuple[Path, Path]) -> None:
    pairs = pairs_of(two[0], two[0])

    assert pairs.difference(None, SCORING).interval == (0.0, 0.0)
    assert pairs.difference(None, SCORING).significance == "not_significant"
    assert pairs.most_changed(10) == []


def test_groups_add_up_to_the_whole(two: tuple[Path, Path]) -> None:
    pairs = pairs_of(*two)
    groups = pairs.by_group("speaker", SCORING)

    assert sum(one.num_pairs for _, one in groups) == 297
    changes = [abs(one.change or 0) for _, one in groups]
    assert changes == sorted(changes, reverse=True)


def scored(recording_id: str, text: str, **more: object) -> Row:
    return transcript(recording_id, "so be it then", text, **more)


def test_too_few_recordings_give_no_interval_and_no_significance(tmp_path: Path) -> None:
    write_output(tmp_path / "a", [scored(str(number), "so be it then") for number in range(9)])
    write_output(tmp_path / "b", [scored(str(number), "no") for number in range(9)])
    sides, page = (str(tmp_path / "a"), str(tmp_path / "b")), tmp_path / "c.html"
    out, lines = io.StringIO(), io.StringIO()
    compare(*sides, str(page), Config(), Console(file=out, width=120))
    compare(*sides, str(page), Config(), JsonConsole(lines))

    message = "Too few recordings (9; at least 10 are needed)"
    assert message in out.getvalue()
    assert f"<h1>{message}</h1>" in page.read_text()
    assert "interval +" not in page.read_text()
    (event,) = (line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "comparison")
    assert (event["significance"], event["interval"]) == ("too_few_pairs", None)
    assert (event["num_pairs"], event["min_pairs"], event["change"]) == (9, 10, 1.0)


def test_references_without_words_have_no_significance(tmp_path: Path) -> None:
    for name, text in (("a", "thank you"), ("b", "")):
        write_output(tmp_path / name, [transcript(f"noise-{number}", "", text) for number in range(20)])
    console = Console(file=io.StringIO(), width=200)
    compare(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "page.html"), Config(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The references have no words. There is no error rate; b has fewer errors in 20 recordings" in printed
    assert "not significant" not in printed


def test_the_newest_row_of_a_recording_counts_and_unpaired_recordings_are_counted(tmp_path: Path) -> None:
    later = STARTED.replace(hour=9)
    rows = [
        scored("r", "so be it then", processed_at=later),
        scored("r", "no", processed_at=STARTED),
        scored("alone", "x"),
    ]
    write_output(tmp_path / "a", rows)
    write_output(tmp_path / "b", [scored("r", "so be it"), transcript("other", "a b", "a b")])
    pairs = pairs_of(tmp_path / "a", tmp_path / "b")
    out = io.StringIO()
    compare(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c.html"), Config(), Console(file=out, width=120))

    assert pairs.difference(None, SCORING).wer_a == 0
    assert pairs.difference(None, SCORING).wer_b == 0.25
    assert "only one side has scored them: 1 of a and 1 of b" in " ".join(out.getvalue().split())


def test_pairs_scored_by_different_normalizers_are_counted_in_all_outputs(tmp_path: Path) -> None:
    earlier, now = "whisper_english (whisper-normalizer 0.1.15)", "whisper_english (transformers 5.23.0, typography 1)"
    names = [f"r{number}" for number in range(12)]
    rows_a = [scored(name, "no", normalizer=earlier) for name in names]
    rows_b = [scored(name, "so be it then", normalizer=now if name != "r0" else earlier) for name in names]
    rows_a += [transcript("longer", "do not go", "do not go", normalizer=earlier)]
    rows_b += [transcript("longer", "don't go", "don't go", normalizer=now)]
    write_output(tmp_path / "a", rows_a)
    write_output(tmp_path / "b", rows_b)
    pairs = pairs_of(tmp_path / "a", tmp_path / "b")
    sides, page = (str(tmp_path / "a"), str(tmp_path / "b")), tmp_path / "c.html"
    out, lines = io.StringIO(), io.StringIO()
    compare(*sides, str(page), Config(), Console(file=out, width=120))
    compare(*sides, str(page), Config(), JsonConsole(lines))

    assert (pairs.num_other_normalizers, pairs.num_other_references, pairs.num_left_out_by_normalizers) == (11, 1, 1)
    printed = " ".join(out.getvalue().split())
    assert "11 of 12 pairs (a: " in printed
    assert "differ in length: 1; 1 of them were scored by different normalizers" in printed
    assert "11 were scored by different normalizers" in printed.split("verdict")[1]
    assert page.read_text().count(earlier) >= 2
    (event,) = (line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "comparison")
    assert event["normalizers"] == {"a": [earlier], "b": [now, earlier]}
    assert len(event["notes"]) == 2


def test_pairs_scored_by_the_same_normalizer_are_not_counted(two: tuple[Path, Path]) -> None:
    assert pairs_of(*two).num_other_normalizers == 0


def test_json_lines_contain_no_credentials_at_any_depth() -> None:
    out = io.StringIO()
    a = "https://me:hunter2secret@host/out"
    JsonConsole(out).emit("comparison", a=a, deep={"b": [a, 1, None]}, path=Path("out"))

    (line,) = map(json.loads, out.getvalue().splitlines())
    assert (line["a"], line["path"]) == ("https://***@host/out", "out")
    assert line["deep"] == {"b": ["https://***@host/out", 1, None]}


def test_a_run_of_an_output_can_be_a_side(two: tuple[Path, Path]) -> None:
    assert len(pairs_of(two[0] / "runs/run", two[1]).rows_a) == 297


def test_an_output_below_a_folder_named_runs_is_an_output(two: tuple[Path, Path], tmp_path: Path) -> None:
    write_output(tmp_path / "runs/base", list(drawn_rows(10, seed=3)))

    assert len(pairs_of(tmp_path / "runs/base", two[1]).rows_a) == 10


def test_a_group_has_the_figures_of_its_own_pairs_and_each_pair_is_read_once(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(*two)
    sizes: list[int] = []
    difference = Pairs.difference

    def counted(self: Pairs, chosen: Any, scoring: ScoringConfig) -> Difference:
        sizes.append(len(chosen))
        return difference(self, chosen, scoring)

    monkeypatch.setattr(Pairs, "difference", counted)
    groups = dict(pairs.by_group("speaker", SCORING))
    speakers = [pairs.b.labels["speaker"][row] for row in pairs.rows_b]

    assert sum(sizes) == len(pairs.rows_b)  # each pair once, for any number of groups
    assert {name: one.num_pairs for name, one in groups.items()} == Counter(speakers)
    mine = [number for number, name in enumerate(speakers) if name == "speaker-3"]
    assert groups["speaker-3"].num_words == pairs.b.words[pairs.rows_b[mine]].sum()


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ("nowhere", r"b=.*nowhere: no transcripts found"),
        ("good/runs/rum", r"run_id=rum: no such run in .*good \(found: run\)"),
        ("silent", r"b=.*silent: no recording has a reference"),
        ("other", r"no recording with a reference is in both \(a has 297, b has 1\)"),
    ],
)
def test_sides_that_cannot_be_compared_are_named_with_their_setting(
    two: tuple[Path, Path], b: str, message: str
) -> None:
    folder = two[0].parent
    if b == "silent":
        write_output(folder / b, [transcript("rec-000000", None, "so")])
    if b == "other":
        write_output(folder / b, [scored("other", "so be it then")])

    with pytest.raises(SettingsError, match=message):
        pairs_of(two[0], folder / b)
