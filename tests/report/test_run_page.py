"""The page of a run, for complete, incomplete and damaged run folders, and the history page."""

import json
import os
import re
import signal
from base64 import b64decode
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import pytest

from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.nightly.history_page import load_drift, write_history
from distil_ray.output.run_outcome import write_outcome
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.report.audio_clips import OVER_BUDGET, ClipRequest, make_clips
from distil_ray.report.run_page import write_run_page
from distil_ray.report.statistics import NUM_UNTRANSCRIBED
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, AudioLocation, Recording
from tests.report.generated import chunk, clip_source, drawn_rows, failed, transcript, write_nightly_run, write_output
from tests.support.transcripts import Row


def text_of(path: str | Path) -> str:
    """Returns the text of a page without tags, with single spaces."""
    body = Path(path).read_text().partition("<main")[2].partition("<script>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split())


def page_text(folder: Path, config: Config | None = None) -> str:
    return text_of(write_run_page(str(folder), "run", config or Config()))


def test_the_page_has_the_figures_of_the_summary(output: Path, page: Path) -> None:
    summary = json.loads((output / "runs/run/summary.json").read_text())
    text = text_of(page)

    assert f"{100 * summary['wer']:.2f} %" in text
    low, high = summary["wer_ci95"]
    assert f"95 % interval {100 * low:.2f} to {100 * high:.2f}" in text
    edits = [summary[name] for name in ("substitutions", "deletions", "insertions")]
    assert "{:,} substituted, {:,} deleted, {:,} inserted".format(*edits) in text
    assert "Complete, 2 recordings failed" in text
    assert "1 of 2 recognizers were alive for some time" in text


def test_alignments_clips_and_boundary_problems_are_shown(page: Path) -> None:
    html = page.read_text()
    (article,) = re.findall(r"<article>\s*<h3>substituted</h3>.*?</article>", html, re.S)

    assert '<span class="sub"><del>not</del><ins>knot</ins></span>' in article
    assert '<ins class="more">oh</ins>' in article
    assert '<del class="lost">all</del>' in article
    (clip,) = re.findall(r'data-plays="(.*?)"', article)
    assert html.count(f'data-plays="{clip}"') == 2  # it is also one of the flagged chunks
    assert html.count("data:audio/ogg;base64,") == 1
    assert f'<template id="{clip}" data-source="data:audio/ogg;base64,' in html
    text = text_of(page)
    assert "the same words on both sides the we went to the ¦ the sea and" in text
    assert "words of the reference missing never the sea and ¦ came back" in text


def test_missing_audio_is_replaced_by_the_reason(output: Path, page: Path) -> None:
    assert "no audio: its audio no longer exists" in text_of(page)
    silent = page_text(output, Config.model_validate({"report": {"audio_mb": 0}}))
    assert "no audio: disabled by report.audio_mb=0" in silent
    few = page_text(output, Config.model_validate({"report": {"audio_mb": 0.001}}))
    assert OVER_BUDGET in few
    write_run_page(str(output), "run", Config())


class _OpenTags(HTMLParser):
    """The tags that are open, and those that were closed in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br", "hr", "img", "input", "path", "line", "rect", "circle"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in ("path", "line", "rect", "circle"):
            self.wrong.append(tag)


def test_redacted_names_leave_the_page_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of signed URLs, whose value ends where the next tag begins, and of secrets that are written otherwise in HTML."""
    monkeypatch.setenv("SOME_API_KEY", "secret<&'with\"marks")
    signed = "https://host/calls/{}.wav?X-Amz-Date=1&X-Amz-Signature={}"
    rows = [
        transcript(signed.format(1, "a1b2c3"), "so be it", "so be"),
        failed(signed.format(2, "d4e5f6"), "not_found"),
    ]
    rows.append(transcript("c", "it is secret<&'with\"marks now", "it is"))
    write_output(tmp_path, rows)
    page = Path(write_run_page(str(tmp_path), "run", Config())).read_text()
    tags = _OpenTags()
    tags.feed(page)
    assert (tags.open, tags.wrong) == ([], [])
    assert "a1b2c3" not in page and "d4e5f6" not in page and "with&#34;marks" not in page and "secret&lt;" not in page
    assert "calls/2.wav?X-Amz-Date=1&amp;X-Amz-Signature=***</" in page


def test_signed_urls_are_redacted_and_audio_data_that_resembles_them_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = b64decode("T2dnsigkeypwdAAAAA==")
    monkeypatch.setattr("distil_ray.report.audio_clips.encode_opus", lambda pcm: audio)
    signed = failed("b") | {
        "error": 'data-source="data:audio/ogg;base64,x https://host/b.flac?X-Amz-Signature=0badcafe'
    }
    settings = ("input", {"uri": ["s3://bucket/audio"]}), ("max_failed_fraction", 0.5)
    write_output(tmp_path, [transcript("a", "so be it", "so be", **clip_source()), signed], *settings)
    html = Path(write_run_page(str(tmp_path), "run", Config())).read_text()

    assert [b64decode(one) for one in re.findall(r'data-source="data:audio/ogg;base64,([^"]*)"', html)] == [audio]
    assert "s3://bucket/audio" in html
    assert "X-Amz-Signature=***" in html
    assert "0badcafe" not in html


def test_references_without_words_are_not_called_missing(tmp_path: Path) -> None:
    """Noise and music, in which a model should hear nothing."""
    write_output(tmp_path, [transcript("noise", "", "thank you for watching"), transcript("music", "", "")])
    text = page_text(tmp_path)
    assert "There are no references" not in text
    assert "Inserted words 4 The references of 2 recordings have no words" in text
    assert "Worst recordings 1 of 2 recordings: those with the most errors" in text


@pytest.mark.parametrize("bytes_per_second", [1200, 1900, 3000])
def test_no_audio_is_fetched_beyond_the_budget(monkeypatch: pytest.MonkeyPatch, bytes_per_second: int) -> None:
    fetched = []

    def encode(request: ClipRequest, *_: object) -> bytes:
        fetched.append(request)
        return bytes(bytes_per_second * request.length // SAMPLE_RATE)

    monkeypatch.setattr("distil_ray.report.audio_clips._encode_clip", encode)
    lengths = [int(SAMPLE_RATE * (20 + number % 10)) for number in range(400)]
    requests = [
        ClipRequest(Recording(f"r{number}", "s3://b/r.flac"), 0, length) for number, length in enumerate(lengths)
    ]
    clips = make_clips([*requests, *requests], Config())
    shown = [clip.source for clip in clips.values() if clip.source]

    assert len(clips) == len(requests)
    assert len(fetched) <= len(shown) + 5
    assert 1_900_000 < sum(map(len, shown)) <= 2_000_000
    assert {clip.reason for clip in clips.values() if not clip.source} == {OVER_BUDGET}


@pytest.mark.parametrize(
    ("location", "is_fetched"),
    [
        (AudioLocation(member="m.wav", byte_start=512, num_bytes=2 << 30), False),
        (AudioLocation(member="m.wav", byte_start=512, num_bytes=9000), True),
        (AudioLocation(member="m.wav"), False),  # compressed archives are fetched as a whole
    ],
)
def test_only_small_members_of_remote_archives_are_fetched(
    monkeypatch: pytest.MonkeyPatch, location: AudioLocation, is_fetched: bool
) -> None:
    monkeypatch.setattr("distil_ray.report.audio_clips.iter_audio_problems", lambda *_: iter([None]))
    monkeypatch.setattr("distil_ray.report.audio_clips.prefetch_files", lambda *_, **__: iter(()))
    recording = Recording("m", "s3://b/x.tar", source_size=3 << 30, source_version="1", location=location)
    (clip,) = make_clips([ClipRequest(recording, 0, SAMPLE_RATE)], Config()).values()

    assert (clip.reason == "the file is too large to be fetched for a clip") == (not is_fetched)


@pytest.mark.parametrize(
    ("rows", "headline"),
    [
        ([], "No recordings were listed"),
        ([failed("a"), failed("b", "not_found")], "All recordings failed Failures by kind: not_audio 1"),
        ([transcript("a", "so be it", "so be it"), failed("b")], "! Complete, 1 recording failed"),
        ([transcript("a", "so be it", "so be it"), failed("b"), failed("c")], "Too many recordings failed"),
        ([transcript("a", None, "so be it")], "There are no references, so there is no error rate"),
        ([transcript("a", "", "")], "Succeeded"),
        ([transcript("a", "今日は", "今日", num_ref_words=3, deletions=1, language="ja")], "Succeeded"),
    ],
)
def test_each_outcome_has_a_headline(tmp_path: Path, rows: list[Row], headline: str) -> None:
    write_output(tmp_path, rows)

    assert headline in page_text(tmp_path)


@pytest.mark.parametrize(
    ("listed", "num_failed", "allowed", "headline"),
    [
        (200, 1, 0.005, "! Complete, 1 recording failed 1 of 200 listed recordings failed (0.5 %)"),
        (3, 1, 0.05, "! Complete, 1 recording failed 1 of 3 listed recordings failed (33.3 %)"),
        (3, 2, 0.05, "✕ Too many recordings failed 2 of 3 listed recordings failed (66.7 %)"),
        (1, 1, 0.05, "✕ All recordings failed Failures by kind: not_audio 1."),
        (1, 1, 1.0, "! All recordings failed Failures by kind: not_audio 1."),
        (500, 0, 0.0, "✓ Succeeded All 500 listed recordings have a row, and none failed."),
    ],
)
def test_the_headline_counts_the_listed_recordings_as_the_exit_code_does(
    tmp_path: Path, listed: int, num_failed: int, allowed: float, headline: str
) -> None:
    run = write_output(tmp_path, [*drawn_rows(10), failed("b")], ("max_failed_fraction", allowed))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"num_recordings": listed, "num_failed": num_failed}))

    assert headline in page_text(tmp_path)


def test_a_run_without_new_recordings_has_its_own_headline(tmp_path: Path) -> None:
    write_output(tmp_path, list(drawn_rows(5)), num_done_before=5)

    assert "Nothing to do" in page_text(tmp_path)


def test_a_run_that_did_not_finish_shows_its_rows_and_errors(tmp_path: Path) -> None:
    run = write_output(tmp_path, [transcript("a", "so be it", "so be"), transcript("b", "no", "no", run_id="other")])
    (run / "summary.json").unlink()
    (run / "_SUCCESS").unlink()
    errors = [{"task_id": f"x{number // 2}", "error": "no space left on device"} for number in range(6)]
    with (run / "events.jsonl").open("a") as events:
        events.writelines(json.dumps(error) + "\n" for error in errors)
    text = page_text(tmp_path)

    assert "The run did not finish" in text
    assert "Speed (RTFx) – unknown, because the run did not finish" in text
    assert "3 tasks with errors: no space left on device" in text
    assert "33.33 %" in text


def test_messages_of_the_recognizers_are_listed_once(tmp_path: Path) -> None:
    run = write_output(tmp_path, [transcript("a", "so be it", "so be")])
    assert "Messages of the recognizers" not in page_text(tmp_path)
    messages = ["decoder attention: plain products, as the kernel failed", "CUDA graphs: off"]
    with (run / "events.jsonl").open("a") as events:
        events.writelines(json.dumps({"task_id": "x", "warnings": messages[:count]}) + "\n" for count in (1, 2, 2))
    text = page_text(tmp_path)
    assert all(text.count(message) == 1 for message in messages)


def test_a_difference_between_listing_and_output_is_the_headline(tmp_path: Path) -> None:
    (write_output(tmp_path, [transcript("a", "so", "so")]) / "_SUCCESS").unlink()

    assert "Listing and output do not agree" in page_text(tmp_path)


def test_the_size_of_a_page_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    sizes = []
    for num in (800, 3200):
        write_output(tmp_path / str(num), drawn_rows(num))
        sizes.append(Path(write_run_page(str(tmp_path / str(num)), "run", Config())).stat().st_size)

    assert sizes[1] < 1.5 * sizes[0] < 250_000  # for four times as many recordings


def test_only_the_text_around_errors_is_shown_of_a_long_recording(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(3000)]
    heard = [*words[:1000], "no", *words[1001:2500], *words[2501:]]
    write_output(tmp_path, [transcript("long", " ".join(words), " ".join(heard))])
    text = page_text(tmp_path)

    assert "… 994 correct … w994 w995 w996 w997 w998 w999 w1000 no w1001" in text
    assert "w2499 w2500 w2501 w2502" in text
    assert "w500 " not in text


def test_long_deletions_and_insertions_are_abbreviated(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(9000)]
    looped = "ha" * 5000
    rows = [
        transcript("lost", " ".join(words), ""),
        transcript("inserted", "w0", " ".join(words)),
        transcript("looped", looped, "no"),
        transcript(
            "at a boundary", " ".join(words), "w0 w8999", chunks=[chunk(0, 10, "w0"), chunk(10, 20, "w8999")]
        ),
    ]  # fmt: skip
    write_output(tmp_path, rows)
    html = Path(write_run_page(str(tmp_path), "run", Config())).read_text()
    text = text_of(tmp_path / "runs/run/report.html")

    assert "w4 w5 … 8,988 deleted … w8994 w8995 w8996 w8997 w8998 w8999" in text
    assert "w0 w1 w2 w3 w4 w5 w6 … 8,987 inserted … w8994" in text
    assert "words of the reference missing w1 w2" in text
    assert "w500 " not in text
    assert "ha" * 100 not in html
    assert len(html) < 100_000


def test_overlapping_chunks_without_a_common_token_are_reported(tmp_path: Path) -> None:
    chunks = [chunk(0, 15, "one two three") | {"tokens": [1, 2, 3]}, chunk(10, 25, "four") | {"tokens": [7, 8]}]
    agreeing = [chunk(0, 15, "one two three") | {"tokens": [1, 2, 3]}, chunk(10, 25, "two three") | {"tokens": [2, 3]}]
    rows = [transcript("agreed", None, "x", chunks=agreeing), transcript("unmatched", None, "x", chunks=chunks)]
    write_output(tmp_path, rows, ("chunking", {"strategy": "overlap"}))
    text = page_text(tmp_path)

    assert "1 chunk boundary: overlapping chunks without a common token" in text
    assert "2 chunk boundaries were checked" in text
    assert "unmatched 0:00:10 overlapping chunks without a common token one two three ¦ four" in text


def test_untranscribed_speech_is_summed_and_the_recordings_with_the_most_are_listed(tmp_path: Path) -> None:
    flag = [UNTRANSCRIBED_SPEECH]
    early = [
        chunk(0, 10, "so it", unheard_s=0.25),
        chunk(10, 20, "began", quality_flags=flag, unheard_s=5.25),
        chunk(20, 30, "again", quality_flags=flag, unheard_s=2.0),
    ]
    rows = [
        transcript("little", None, "so", unheard_s=0.5),
        transcript(
            "some", None, "so be", quality_flags=flag, unheard_s=4.2, chunks=[chunk(0, 10, "so be", -0.2, flag, 4.2)]
        ),
        transcript(
            "early", None, "so it began again", quality_flags=flag, unheard_s=7.5, duration_s=30.0, chunks=early
        ),
    ]
    write_output(tmp_path, rows)
    text = page_text(tmp_path)

    assert "2 recordings with untranscribed speech, 12.2 s in total details" in text
    shown = text.partition("Untranscribed speech")[2].partition("Chunks with unreliable")[0]
    assert "The 3 recordings contain 12.2 s of speech between the end of a text" in shown
    assert "2 of them have more than 1 s of it in one chunk" in shown
    first, second = shown.index("early 7.5 s 2 0:00:10 (5.2 s) began"), shown.index("some 4.2 s 1 0:00:00 so be")
    assert first < second
    assert "little" not in shown
    assert shown.count("no audio: its audio no longer exists") == 2


def test_the_list_of_recordings_with_untranscribed_speech_is_limited_to_those_with_the_most(tmp_path: Path) -> None:
    flag = [UNTRANSCRIBED_SPEECH]
    rows = [
        transcript(
            f"r{number}", None, "so", quality_flags=flag, unheard_s=s, chunks=[chunk(0, 30, "so", -0.2, flag, s)]
        )
        for number, s in ((number, 1.5 + number / 10) for number in range(NUM_UNTRANSCRIBED + 20))
    ]
    write_output(tmp_path, rows)
    html = Path(write_run_page(str(tmp_path), "run", Config())).read_text()
    (table,) = re.findall(r'<table id="untranscribed-table".*?</table>', html, re.S)
    names = re.findall(r'<th scope="row">(\w+)</th>', table)

    assert names == [f"r{number}" for number in reversed(range(20, NUM_UNTRANSCRIBED + 20))]
    assert f"the {NUM_UNTRANSCRIBED} with the most are listed" in text_of(tmp_path / "runs/run/report.html")


def test_a_page_without_untranscribed_speech_has_no_such_section(tmp_path: Path) -> None:
    write_output(
        tmp_path, [transcript("little", None, "so", unheard_s=0.5), transcript("old", None, "so", unheard_s=None)]
    )

    assert "Untranscribed" not in page_text(tmp_path)


def test_an_unknown_run_is_an_error_that_names_the_existing_ones(output: Path) -> None:
    with pytest.raises(SettingsError, match=r"run_id=rum: no such run in .* \(found: run\)"):
        write_run_page(str(output), "rum", Config())
    with pytest.raises(SettingsError, match="contains no run"):
        write_history(str(output / "transcripts"), Storage())


def test_pages_are_written_to_object_stores(tmp_path: Path, bucket: str) -> None:
    write_output(tmp_path, [transcript("a", "so be it", "so be it")])
    storage = Storage()
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        storage.put(f"{bucket}/out/{file.relative_to(tmp_path)}", file.read_bytes())

    assert write_run_page(f"{bucket}/out", "run", Config()) == f"{bucket}/out/runs/run/report.html"
    assert b"Succeeded" in storage.read(f"{bucket}/out/runs/run/report.html")
    assert write_history(f"{bucket}/out", storage) == f"{bucket}/out/history.html"
    assert b'href="runs/run/report.html"' in storage.read(f"{bucket}/out/history.html")


def test_the_history_shows_all_nightly_runs_and_their_limits(history: Path) -> None:
    html, text = history.read_text(), text_of(history)

    assert "20 Nov" in html
    assert html.count('class="limit"') == 1
    assert "17 Nov: 12, outside the limits" in html
    assert "2026-11-13.1 ✕ failed" in text
    assert "The last run succeeded" in text


def test_the_headline_of_the_history_is_the_outcome_of_the_last_run(tmp_path: Path) -> None:
    for day in range(9, 13):
        write_nightly_run(tmp_path, date(2026, 11, day), 0.08, code=int(day == 12))
    failed_last = text_of(write_history(str(tmp_path), Storage()))
    killed = tmp_path / "runs/2026-11-13.1"
    killed.mkdir()
    (tmp_path / "runs/2026-11-12.1/config.yaml").rename(
        killed / "config.yaml"
    )  # the run of the 12th failed before it had one
    os.utime(killed / "config.yaml")
    killed_last = text_of(write_history(str(tmp_path), Storage()))

    assert "✕ The last run failed 2026-11-12.1 ended" in failed_last
    assert "✕ The last run has not finished 2026-11-13.1 was killed" in killed_last
    assert re.findall(r"2026-11-\d\d\.1 [✓✕] \w+", killed_last) == [
        "2026-11-13.1 ✕ not",
        "2026-11-12.1 ✕ failed",
        *(f"2026-11-{day:02d}.1 ✓ done" for day in (11, 10, 9)),
    ]


@pytest.mark.parametrize(
    ("code", "outcome", "headline"),
    [
        (ExitCode.DONE, "✓ done", "✓ The last run succeeded"),
        (ExitCode.FAILED, "✕ failed", "✕ The last run failed"),
        (ExitCode.TOO_MANY_FAILED, "✕ too many failed", "✕ The last run failed"),
        (128 + signal.SIGTERM, "✕ not finished", "✕ The last run has not finished"),
        (ExitCode.RUNNING, "✕ not finished", "✕ The last run has not finished"),
    ],
)
def test_the_history_shows_the_outcome_of_a_run_that_is_not_nightly(
    tmp_path: Path, code: int, outcome: str, headline: str
) -> None:
    run = write_output(tmp_path, [transcript("a", "so be it", "so be it")])  # with its summary
    write_outcome(str(run), code, "", Storage())
    text = text_of(write_history(str(tmp_path), Storage()))
    assert headline in text
    assert f"run {outcome}" in text


def test_drift_is_the_headline_of_the_page_of_a_nightly_run(tmp_path: Path) -> None:
    day = date(2026, 11, 21)
    run = write_output(tmp_path, [transcript("a", "so", "so", run_id="2026-11-21.1")], run_id="2026-11-21.1", day=day)
    write_nightly_run(tmp_path / "made", day, 0.2, drifted=True)
    (tmp_path / "made/runs/2026-11-21.1/nightly_run.json").rename(run / "nightly_run.json")
    drift = load_drift(run.name, str(tmp_path), Storage())
    text = text_of(write_run_page(str(tmp_path), run.name, Config(), drift))

    assert "Drift from earlier nightly runs WER 20.00 %, median of 5 nightly runs 8.00 %, allowed up to 10.00 %" in text
    assert "The figures are those of the partition 2026-11-21" in text
