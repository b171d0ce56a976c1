"""The summary: counts of the rows of listed recordings, its files, and its table."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import jiwer
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from distil_ray.config import ScoringConfig
from distil_ray.evaluation.normalizers import name_with_versions
from distil_ray.evaluation.summary import RunInfo, RunSummary, StageTotals, sort_by_wer, summarize, write_run_files
from distil_ray.evaluation.summary_table import print_summary
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.ledger import Keys, list_data_files, recording_keys
from distil_ray.recognition.quality_flags import MIXED_LANGUAGES, UNTRANSCRIBED_SPEECH
from distil_ray.schema import COMMIT_RESULT, TRANSCRIPT
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.support.transcripts import transcript_row

FINGERPRINT = "0123456789abcdef"
SCORING = ScoringConfig(group_by=("speaker", "language"), bootstrap_samples=200)
STARTED = datetime(2026, 11, 22, 6, 0, tzinfo=UTC)

Row = dict[str, Any]

# (id, speaker, language, reference, text)
HEARD = [
    ("a1", "anna", "en", "the cat sat on the mat", "The cat sat on the mat."),
    ("a2", "anna", "en", "ten green bottles", "Ten green bottle."),
    ("b1", "ben", "en", "hello there my old friend", "Hello my old friend, friend."),
    ("b2", "ben", "de", "guten morgen", "Guten Morgen!"),
    ("c1", None, "en", "", "Thank you."),
    ("d1", None, "en", None, "No reference here."),
]


def row(recording_id: str, speaker: str | None, language: str, reference: str | None, text: str, **rest: Any) -> Row:
    score = Scorer(SCORING).score(text, reference, language)
    columns: Row = asdict(score) | {
        "uri": f"s3://speech/{recording_id}.flac",
        "source_size": 1000,
        "source_version": "etag",
        "duration_s": 6.0,
        "language": language,
        "reference": reference,
        "text": text,
        "chunks": None,
        "metadata": {} if speaker is None else {"speaker": speaker},
        "fingerprint": FINGERPRINT,
        "processed_at": None,
    }
    return transcript_row(recording_id, **columns | rest)


def failed(recording_id: str, kind: str) -> Row:
    error = f's3://speech/{recording_id}.flac: no decoder, "none", accepts it'
    nothing = dict.fromkeys(("text", "text_normalized", "reference"))
    return (
        row(recording_id, "anna", "en", None, "", status="failed", error_kind=kind, error=error, duration_s=0.0)
        | nothing
    )


ROWS = [
    *(row(*heard) for heard in HEARD),
    failed("f1", "not_audio"),
    failed("f2", "not_audio"),
    failed("f3", "not_found"),
]


def keys_of(rows: Sequence[Row]) -> Keys:
    columns = ([item[name] for item in rows] for name in ("recording_id", "source_size", "source_version"))
    ids, sizes, versions = columns
    return recording_keys(ids, sizes, versions, repeat(FINGERPRINT))


def store(output: str, rows: Sequence[Row], name: str = "task-1") -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=TRANSCRIPT), sink)
    Storage().put(join(output, "transcripts", f"{name}.parquet"), sink.getvalue())


def receipt(**rest: Any) -> Row:
    return dict.fromkeys(COMMIT_RESULT.names) | rest


def files(output: str) -> list[str]:
    return list(list_data_files(f"{output}/transcripts", Storage()))


def facts(listed: Sequence[Row], **rest: Any) -> RunInfo:
    work = StageTotals.of(
        [
            receipt(audio_s=20.0, decode_s=1.0, recognize_s=5.0, device="cpu", dtype="bfloat16", actor_rss_mb=900.0),
            receipt(audio_s=16.0, commit_s=0.5, recognize_s=4.0, device="cpu", dtype="bfloat16", actor_rss_mb=1100.0),
        ]
    )
    known = RunInfo(
        run_id="night-1",
        fingerprint=FINGERPRINT,
        model="packaged:whisper-base@abc",
        chunking={"strategy": "quiet", "length_s": 30.0},
        listed_keys=keys_of(listed),
        num_done_before=0,
        work=work,
        started_at=STARTED,
        finished_at=STARTED + timedelta(seconds=12),
        wall_s=12.0,
    )
    return replace(known, **rest)


@pytest.fixture
def report(tmp_path: Path) -> RunSummary:
    store(str(tmp_path), ROWS[:5], "task-1")
    store(str(tmp_path), ROWS[5:], "task-2")
    return summarize(files(str(tmp_path)), Storage(), facts(ROWS), SCORING)


def test_the_stored_rows_are_counted(report: RunSummary) -> None:
    summary = report.summary
    expected = {"num_recordings": 9, "num_ok": 6, "num_failed": 3, "num_empty": 0, "num_partial": 0, "num_scored": 5}
    assert {name: summary[name] for name in expected} == expected
    assert summary["failures_by_kind"] == {"not_audio": 2, "not_found": 1}
    assert summary["audio_s"] == 36.0


def test_the_error_rate_is_the_sum_of_edits_over_the_sum_of_words(report: RunSummary) -> None:
    summary = report.summary
    scored = [item for item in ROWS if item["reference_normalized"]]
    alignment = jiwer.process_words(
        [item["reference_normalized"] for item in scored], [item["text_normalized"] for item in scored]
    )
    assert summary["num_ref_words"] == 16
    assert (summary["substitutions"], summary["deletions"]) == (alignment.substitutions, alignment.deletions)
    assert summary["insertions"] == alignment.insertions + 2  # two words invented on silence
    assert summary["wer"] == (alignment.substitutions + alignment.deletions + alignment.insertions + 2) / 16
    low, high = summary["wer_ci95"]
    assert low <= summary["wer"] <= high
    assert summary["normalizer"] == f"{name_with_versions('whisper_basic')}; {name_with_versions('whisper_english')}"


def test_groups_add_up_to_the_whole(report: RunSummary) -> None:
    summary = report.summary
    assert set(summary["groups"]["speaker"]) == {"anna", "ben", "(unknown)"}
    assert set(summary["groups"]["language"]) == {"de", "en"}
    for groups in summary["groups"].values():
        for name in ("num_recordings", "audio_s", "num_ref_words", "substitutions", "deletions", "insertions"):
            assert sum(figures[name] for figures in groups.values()) == summary[name]
    assert summary["groups"]["speaker"]["(unknown)"]["wer"] is None
    assert summary["groups"]["language"]["de"] == {
        **{
            "num_recordings": 1,
            "audio_s": 6.0,
            "num_ref_words": 2,
            "substitutions": 0,
            "deletions": 0,
            "insertions": 0,
        },
        **{"wer": 0.0, "wer_ci95": None, "cer": 0.0, "normalizer": name_with_versions("whisper_basic")},
    }


def test_speed_is_that_of_this_run_only(report: RunSummary) -> None:
    summary = report.summary
    assert (summary["rtfx_job"], summary["rtfx_model"], summary["actor_rss_mb"]) == (3.0, 4.0, 1100.0)
    assert (summary["device"], summary["dtype"]) == ("cpu", "bfloat16")
    assert summary["finished_at"] == "2026-11-22T06:00:12+00:00"
    assert summary["versions"]["transformers"] is not None


def test_rows_of_other_settings_and_of_recordings_not_listed_do_not_count(tmp_path: Path) -> None:
    other = row("a1", "anna", "en", "one two", "wrong words here", fingerprint="fedcba9876543210")
    newer = row("a1", "anna", "en", "one two", "wrong words here", source_version="newer")
    store(str(tmp_path), [other, *ROWS[:2], newer, ROWS[2]])
    summary = summarize(files(str(tmp_path)), Storage(), facts(ROWS[:2]), SCORING).summary
    assert summary["num_recordings"] == 2
    assert summary["num_ref_words"] == 9


def test_a_second_run_reports_the_same_rates_and_no_speed(tmp_path: Path, report: RunSummary) -> None:
    again = summarize(
        files(str(tmp_path)), Storage(), facts(ROWS, num_done_before=9, work=StageTotals.of([])), SCORING
    ).summary
    assert (again["num_recognized"], again["rtfx_job"], again["rtfx_model"], again["device"]) == (0, None, None, None)
    for name in ("num_recordings", "wer", "wer_ci95", "cer", "groups", "failures_by_kind"):
        assert again[name] == report.summary[name]


def test_without_references_rates_are_null(tmp_path: Path) -> None:
    rows = [row("a", None, "en", None, "One."), row("b", None, "en", None, "Two.")]
    store(str(tmp_path), rows)
    report = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING)
    summary = report.summary
    assert (summary["wer"], summary["wer_ci95"], summary["cer"], summary["normalizer"]) == (None, None, None, None)
    assert summary["groups"]["speaker"] == {}
    assert not report.examples


def test_a_run_without_rows_has_a_summary(tmp_path: Path) -> None:
    assert summarize(files(str(tmp_path)), Storage(), facts(ROWS), SCORING).summary["num_recordings"] == 0
    store(str(tmp_path), [item | {"fingerprint": "fedcba9876543210"} for item in ROWS])
    summary = summarize(files(str(tmp_path)), Storage(), facts(ROWS), SCORING).summary
    assert (summary["num_recordings"], summary["audio_s"], summary["wer"]) == (0, 0.0, None)


def test_the_interval_resamples_speakers_if_they_are_known(tmp_path: Path) -> None:
    # Every recording of a speaker is alike: over recordings the interval is narrow, over speakers it is wide.
    texts = {"anna": "one two three four", "ben": "one two three five", "eva": "six seven eight nine"}
    rows = [
        row(f"{name}{i}", name, "en", "one two three four", text) for name, text in texts.items() for i in range(60)
    ]
    store(str(tmp_path), rows)
    by_speaker = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING).summary["wer_ci95"]
    unknown = [item | {"metadata": []} for item in rows]
    store(str(tmp_path), unknown)
    by_recording = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING).summary["wer_ci95"]
    assert by_speaker[1] - by_speaker[0] > 3 * (by_recording[1] - by_recording[0])


def test_examples_are_ordered_by_error_rate(report: RunSummary) -> None:
    assert [example.recording_id for example in report.examples][-1] == "b1"
    assert [example.wer for example in report.examples] == sorted(example.wer for example in report.examples)
    assert report.examples[-1].text == "Hello my old friend, friend."


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_summary_groups_and_failed_recordings_are_written_to_the_run_folder(tmp_path: Path, report: RunSummary) -> None:
    write_run_files(report, str(tmp_path / "runs" / "night-1"), Storage())
    folder = tmp_path / "runs" / "night-1"
    assert json.loads((folder / "summary.json").read_text(encoding="utf-8")) == report.summary
    groups = read_csv(folder / "groups.csv")
    assert [(line["group_by"], line["value"]) for line in groups[:3]] == [
        ("speaker", "ben"),
        ("speaker", "anna"),
        ("speaker", "(unknown)"),
    ]
    assert float(groups[0]["wer"]) == report.summary["groups"]["speaker"]["ben"]["wer"]
    assert {line["value"]: line["normalizer"] for line in groups} == {
        "ben": f"{name_with_versions('whisper_basic')}; {name_with_versions('whisper_english')}",
        "anna": name_with_versions("whisper_english"),
        "(unknown)": name_with_versions("whisper_english"),
        "de": name_with_versions("whisper_basic"),
        "en": name_with_versions("whisper_english"),
    }
    failed_recordings = read_csv(folder / "failed.csv")
    assert [line["recording_id"] for line in failed_recordings] == ["f1", "f2", "f3"]
    assert failed_recordings[0]["error"] == ROWS[6]["error"]


def test_the_summary_is_the_same_on_object_storage(bucket: str, report: RunSummary) -> None:
    for number, item in enumerate(ROWS):
        store(bucket, [item], f"task-{number}")
    remote = summarize(files(bucket), Storage(), facts(ROWS), SCORING)
    assert remote.summary == report.summary
    assert sorted(remote.failed_recordings.splitlines()) == sorted(report.failed_recordings.splitlines())


def shown(report: RunSummary, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_summary(report, "s3://bucket/out", console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_rates_speed_failures_examples_and_locations(report: RunSummary) -> None:
    text = shown(report)
    summary = report.summary
    assert f"{100 * summary['wer']:.2f}" in text
    assert "RTFx 3.0 (0.6 min of audio in 12.0 s); per recognizer 4.0 on cpu, bfloat16" in text
    assert "3 of 9: not_audio 2, not_found 1" in text
    assert "Hello my old friend, friend." in text
    assert "hello there my old friend" in text
    assert "s3://bucket/out/transcripts" in text
    assert "s3://bucket/out/runs/night-1" in text


def test_untranscribed_speech_is_summed_and_printed(tmp_path: Path) -> None:
    rows = [
        row("a", None, "en", None, "One.", unheard_s=4.25, quality_flags=[UNTRANSCRIBED_SPEECH]),
        row("b", None, "en", None, "Two.", unheard_s=0.5, quality_flags=[]),
        row("c", None, "en", None, "Three.", unheard_s=0.0),
        row("d", None, "en", None, "Four."),
    ]
    store(str(tmp_path), rows)
    report = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING)
    assert (report.summary["unheard_s"], report.summary["num_untranscribed_speech"]) == (4.75, 1)
    line = "4.8 s of speech after the end of transcribed text; 1 of 4 recordings have more than 1 s of it in a chunk"
    assert line in shown(report)


def test_a_column_to_group_by_that_no_recording_has_is_printed(tmp_path: Path) -> None:
    rows = [row("a", None, "en", "one", "One.")]
    store(str(tmp_path), rows)
    scoring = ScoringConfig(group_by=("speaker", "acent", "language"))
    text = shown(summarize(files(str(tmp_path)), Storage(), facts(rows), scoring))
    assert "no groups      no recording has a value for acent (scoring.group_by)" in text


def test_recordings_of_several_languages_are_counted_and_printed(tmp_path: Path) -> None:
    rows = [
        row(name, None, "en", None, "One.", quality_flags=[MIXED_LANGUAGES] * (name == "b")) for name in ("a", "b", "c")
    ]
    store(str(tmp_path), rows)
    report = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING)
    assert report.summary["num_mixed_languages"] == 1
    assert "languages      1 of 3 recordings have more than one language and were transcribed in one" in shown(report)


@pytest.mark.parametrize(("seconds", "total"), [(0.0, 0.0), (None, None)])
def test_without_untranscribed_speech_there_is_no_line(
    tmp_path: Path, seconds: float | None, total: float | None
) -> None:
    rows = [row(name, None, "en", None, "One.", unheard_s=seconds) for name in ("a", "b")]
    store(str(tmp_path), rows)
    report = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING)
    assert (report.summary["unheard_s"], report.summary["num_untranscribed_speech"]) == (total, 0)
    assert "untranscribed" not in shown(report)


def test_the_table_fits_eighty_columns_and_paths_are_not_wrapped(report: RunSummary) -> None:
    lines = shown(report, width=80).splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith(("speed", "normalizer", "output", "run")))
    assert "output         s3://bucket/out/transcripts" in [line.rstrip() for line in lines]


def test_a_rate_over_two_versions_of_a_normalizer_gives_a_warning(tmp_path: Path, report: RunSummary) -> None:
    assert "warning" not in shown(report)
    rows = [*ROWS[:3], ROWS[3] | {"normalizer": "whisper_basic (whisper-normalizer 0.1.15)"}]
    rows += [row("e1", "ben", "en", "one", "One.", normalizer="whisper_english (whisper-normalizer 0.1.15)")]
    store(str(tmp_path), rows)
    mixed = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING)

    assert "several versions of whisper_english" in shown(mixed)
    assert "whisper_basic (whisper-normalizer 0.1.15)" in mixed.summary["groups"]["language"]["de"]["normalizer"]


def test_the_worst_groups_are_shown_and_the_others_counted(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(40)]
    rows = [row(f"r{i:02}", f"s{i:02}", "en", " ".join(words), " ".join(words[i:])) for i in range(30)]
    store(str(tmp_path), rows)
    report = summarize(files(str(tmp_path)), Storage(), facts(rows), SCORING)
    assert [value for value, _ in sort_by_wer(report.summary["groups"]["speaker"])][:2] == ["s29", "s28"]
    text = shown(report)
    assert text.index("s29") < text.index("s28") < text.index("s15")
    assert "s14" not in text.split("speed")[0]
    assert "… 15 more in groups.csv" in text


@pytest.mark.parametrize("english_only", [False, True])
def test_doubtful_recordings_are_counted_and_an_english_only_model_is_named(tmp_path: Path, english_only: bool) -> None:
    rows = [row("a", None, "en", None, "One."), row("b", None, "en", None, "Fu ta.", status="doubtful")]
    store(str(tmp_path), rows)
    report = summarize(files(str(tmp_path)), Storage(), facts(rows, english_only=english_only), SCORING)
    assert (report.summary["num_ok"], report.summary["num_doubtful"]) == (1, 1)
    printed = shown(report)
    assert "1 of 2 recordings may not be what was spoken" in printed
    assert ("English-only" in printed) == english_only


@pytest.mark.parametrize(
    ("drafts", "expected"),
    [
        ((400, 100, 20.0), "25 % of 400 drafted tokens accepted (tiny)"),
        ((40, 10, 2.0), "it drafted for 0.0 of 0.3 min of audio and was then switched off"),
        ((0, 0, 0.0), "tiny drafted nothing"),
    ],
)
def test_the_work_of_an_assistant_is_one_line(tmp_path: Path, drafts: tuple[int, int, float], expected: str) -> None:
    names = ("drafts_proposed", "drafts_accepted", "drafted_audio_s")
    work = StageTotals.of([receipt(audio_s=20.0, **dict(zip(names, drafts, strict=True)))])
    store(str(tmp_path), ROWS)
    report = summarize(files(str(tmp_path)), Storage(), facts(ROWS, work=work, assistant="tiny"), SCORING)
    assert report.summary["assistant"]["audio_s"] == drafts[2]
    assert expected in shown(report)


def test_without_an_assistant_there_is_no_line_of_it(report: RunSummary) -> None:
    assert report.summary["assistant"] is None
    assert "assistant" not in shown(report)
