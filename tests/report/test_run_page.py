"""The page of a run tells what came of it, in whatever state the run has left its folder."""

import json
import os
import re
from base64 import b64decode
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from distil_ray.config import Config
from distil_ray.errors import SettingsError
from distil_ray.nightly.history_page import load_drift, write_history
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.report.clips import BUDGET, ClipRequest, make_clips
from distil_ray.report.run_page import write_run_page
from distil_ray.report.statistics import NUM_UNTRANSCRIBED
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE, AudioLocation, Recording
from tests.report.generated import chunk, clip_of, drawn_rows, failed, transcript, write_night, write_output
from tests.support.transcripts import Row


def text_of(path: str | Path) -> str:
    """What a page says, without its tags; blanks as one."""
    body = Path(path).read_text().partition("<main")[2].partition("<script>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", body).replace("&#39;", "'").split())


def made(folder: Path, *settings: tuple[str, Any], config: Config | None = None, run_id: str = "run") -> str:
    return text_of(write_run_page(str(folder), run_id, config or Config()))


def test_the_figures_are_those_of_the_summary(output: Path, page: Path) -> None:
    summary = json.loads((output / "runs/run/summary.json").read_text())
    text = text_of(page)

    assert f"{100 * summary['wer']:.2f} %" in text
    low, high = summary["wer_ci95"]
    assert f"95 % between {100 * low:.2f} and {100 * high:.2f}" in text
    edits = [summary[name] for name in ("substitutions", "deletions", "insertions")]
    assert "{:,} substituted, {:,} deleted, {:,} inserted".format(*edits) in text
    assert "Went well, but for 2 recordings" in text
    assert "1 of 2 recognizers were left for a while" in text


def test_words_are_aligned_and_joints_are_shown(page: Path) -> None:
    html = page.read_text()
    (article,) = re.findall(r"<article>\s*<h3>heard</h3>.*?</article>", html, re.S)

    assert '<span class="sub"><del>not</del><ins>knot</ins></span>' in article
    assert '<ins class="more">oh</ins>' in article
    assert '<del class="lost">all</del>' in article
    (sound,) = re.findall(r'data-plays="(.*?)"', article)
    assert html.count(f'data-plays="{sound}"') == 2  # among the chunks with flags too
    assert html.count("data:audio/ogg;base64,") == 1
    assert f'<template id="{sound}" data-source="data:audio/ogg;base64,' in html
    text = text_of(page)
    assert "the same words on both sides the we went to the ¦ the sea and" in text
    assert "words of the reference missing never the sea and ¦ came back" in text


def test_sound_that_cannot_be_had_is_a_word_and_none_is_fetched_when_none_is_wanted(output: Path, page: Path) -> None:
    assert "no sound: its audio no longer exists" in text_of(page)
    silent = made(output, config=Config.model_validate({"report": {"audio_mb": 0}}))
    assert "no sound in this page: report.audio_mb=0" in silent
    few = made(output, config=Config.model_validate({"report": {"audio_mb": 0.001}}))
    assert "left out: the page has its share of sound" in few
    write_run_page(str(output), "run", Config())


def test_sound_that_reads_like_a_signed_address_is_left_as_it_is_and_an_address_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = b64decode("T2dnsigkeypwdAAAAA==")
    monkeypatch.setattr("distil_ray.report.clips.encode_opus", lambda pcm: sound)
    signed = failed("b") | {
        "error": 'data-source="data:audio/ogg;base64,x https://host/b.flac?X-Amz-Signature=0badcafe'
    }
    settings = ("input", {"uri": ["s3://bucket/audio"]}), ("max_failed_fraction", 0.5)
    write_output(tmp_path, [transcript("a", "so be it", "so be", **clip_of()), signed], *settings)
    html = Path(write_run_page(str(tmp_path), "run", Config())).read_text()

    assert [b64decode(one) for one in re.findall(r'data-source="data:audio/ogg;base64,([^"]*)"', html)] == [sound]
    assert "s3://bucket/audio" in html
    assert "X-Amz-Signature=***" in html
    assert "0badcafe" not in html


@pytest.mark.parametrize("bytes_a_second", [1200, 1900, 3000])
def test_nothing_is_fetched_for_which_the_page_has_no_room(
    monkeypatch: pytest.MonkeyPatch, bytes_a_second: int
) -> None:
    fetched = []

    def sound_of(wish: ClipRequest, *_: object) -> bytes:
        fetched.append(wish)
        return bytes(bytes_a_second * wish.length // SAMPLE_RATE)

    monkeypatch.setattr("distil_ray.report.clips._encode_clip", sound_of)
    lengths = [int(SAMPLE_RATE * (20 + number % 10)) for number in range(400)]
    wishes = [ClipRequest(Recording(f"r{number}", "s3://b/r.flac"), 0, length) for number, length in enumerate(lengths)]
    clips = make_clips([*wishes, *wishes], Config())
    shown = [clip.source for clip in clips.values() if clip.source]

    assert len(clips) == len(wishes)
    assert len(fetched) <= len(shown) + 5
    assert 1_900_000 < sum(map(len, shown)) <= 2_000_000
    assert {clip.word for clip in clips.values() if not clip.source} == {BUDGET}


@pytest.mark.parametrize(
    ("location", "is_fetched"),
    [
        (AudioLocation(member="m.wav", byte_start=512, num_bytes=2 << 30), False),
        (AudioLocation(member="m.wav", byte_start=512, num_bytes=9000), True),
        (AudioLocation(member="m.wav"), False),  # of a compressed archive, which is fetched whole
    ],
)
def test_a_large_member_of_an_archive_is_not_fetched_and_a_small_one_of_a_large_archive_is(
    monkeypatch: pytest.MonkeyPatch, location: AudioLocation, is_fetched: bool
) -> None:
    monkeypatch.setattr("distil_ray.report.clips.iter_audio_problems", lambda *_: iter([None]))
    monkeypatch.setattr("distil_ray.report.clips.prefetch_files", lambda *_, **__: iter(()))
    recording = Recording("m", "s3://b/x.tar", source_size=3 << 30, source_version="1", location=location)
    (clip,) = make_clips([ClipRequest(recording, 0, SAMPLE_RATE)], Config()).values()

    assert (clip.word == "its file is too large to be fetched for a clip") == (not is_fetched)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "Nothing was listed"),
        ([failed("a"), failed("b", "not_found")], "Every recording failed No transcript came of it: not_audio 1"),
        ([transcript("a", "so be it", "so be it"), failed("b")], "Too many recordings failed"),
        ([transcript("a", None, "so be it")], "Without references there is no error rate"),
        ([transcript("a", "", "")], "Went well"),
        ([transcript("a", "今日は", "今日", num_ref_words=3, deletions=1, language="ja")], "Went well"),
    ],
)
def test_every_outcome_has_its_headline(tmp_path: Path, rows: list[Row], says: str) -> None:
    write_output(tmp_path, rows)

    assert says in made(tmp_path)


@pytest.mark.parametrize(
    ("listed", "num_failed", "allowed", "says"),
    [
        (200, 1, 0.005, "✓ Went well, but for 1 recording 1 of 200 listed recordings failed (0.5 %)"),
        (3, 1, 0.05, "✕ Too many recordings failed 1 of 3 listed recordings failed (33.3 %)"),
        (1, 1, 0.05, "✕ Every recording failed No transcript came of it: not_audio 1."),
        (1, 1, 1.0, "! Every recording failed No transcript came of it: not_audio 1."),
        (500, 0, 0.0, "✓ Went well Each of the 500 listed recordings has its row, and none failed."),
    ],
)
def test_the_headline_is_the_exit_code_s_verdict_on_what_was_listed_whatever_the_page_is_about(
    tmp_path: Path, listed: int, num_failed: int, allowed: float, says: str
) -> None:
    run = write_output(tmp_path, [*drawn_rows(10), failed("b")], ("max_failed_fraction", allowed))
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"num_recordings": listed, "num_failed": num_failed}))

    assert says in made(tmp_path)


def test_a_run_that_found_all_done_says_so(tmp_path: Path) -> None:
    write_output(tmp_path, list(drawn_rows(5)), num_done_before=5)

    assert "Nothing was left to do" in made(tmp_path)


def test_a_run_that_died_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    run = write_output(tmp_path, [transcript("a", "so be it", "so be"), transcript("b", "no", "no", run_id="other")])
    (run / "summary.json").unlink()
    (run / "_SUCCESS").unlink()
    errors = [{"task_id": f"x{number // 2}", "error": "no space left on device"} for number in range(6)]
    with (run / "events.jsonl").open("a") as events:
        events.writelines(json.dumps(error) + "\n" for error in errors)
    text = made(tmp_path)

    assert "Did not come to its end" in text
    assert "Speed (RTFx) – counted when a run ends" in text
    assert "3 tasks with errors: no space left on device" in text
    assert "33.33 %" in text


def test_listing_and_output_that_do_not_agree_are_the_headline(tmp_path: Path) -> None:
    (write_output(tmp_path, [transcript("a", "so", "so")]) / "_SUCCESS").unlink()

    assert "Listing and output do not agree" in made(tmp_path)


def test_a_page_grows_with_what_is_shown_and_not_with_the_corpus(tmp_path: Path) -> None:
    sizes = []
    for num in (800, 3200):
        write_output(tmp_path / str(num), drawn_rows(num))
        sizes.append(Path(write_run_page(str(tmp_path / str(num)), "run", Config())).stat().st_size)

    assert sizes[1] < 1.5 * sizes[0] < 250_000  # of four times as many


def test_a_long_recording_shows_the_stretches_around_its_errors(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(3000)]
    heard = [*words[:1000], "no", *words[1001:2500], *words[2501:]]
    write_output(tmp_path, [transcript("long", " ".join(words), " ".join(heard))])
    text = made(tmp_path)

    assert "… 994 right … w994 w995 w996 w997 w998 w999 w1000 no w1001" in text
    assert "w2499 w2500 w2501 w2502" in text
    assert "w500 " not in text


def test_a_long_stretch_that_is_missing_or_made_up_shows_its_ends(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(9000)]
    looped = "ha" * 5000
    rows = [
        transcript("lost", " ".join(words), ""),
        transcript("made up", "w0", " ".join(words)),
        transcript("looped", looped, "no"),
        transcript(
            "at a joint", " ".join(words), "w0 w8999", chunks=[chunk(0, 10, "w0"), chunk(10, 20, "w8999")]
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


def test_overlapping_chunks_that_agree_on_nothing_are_told(tmp_path: Path) -> None:
    chunks = [chunk(0, 15, "one two three") | {"tokens": [1, 2, 3]}, chunk(10, 25, "four") | {"tokens": [7, 8]}]
    agreeing = [chunk(0, 15, "one two three") | {"tokens": [1, 2, 3]}, chunk(10, 25, "two three") | {"tokens": [2, 3]}]
    rows = [transcript("agreed", None, "x", chunks=agreeing), transcript("blind", None, "x", chunks=chunks)]
    write_output(tmp_path, rows, ("chunking", {"strategy": "overlap"}))
    text = made(tmp_path)

    assert "1 joint of chunks: overlapping chunks that agree on nothing" in text
    assert "2 joints were looked at" in text
    assert "blind 0:00:10 overlapping chunks that agree on nothing one two three ¦ four" in text


def test_speech_without_text_is_added_up_and_the_recordings_with_most_of_it_are_shown(tmp_path: Path) -> None:
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
    text = made(tmp_path)

    assert "2 recordings with speech that has no text, 12.2 s in all look" in text
    shown = text.partition("Speech without text")[2].partition("Chunks that may not")[0]
    assert "12.2 s of speech lie between the end of a text and the end of its chunk, over all 3 recordings" in shown
    assert "2 of them have more than 1 s of it in a chunk" in shown
    first, second = shown.index("early 7.5 s 2 0:00:10 (5.2 s) began"), shown.index("some 4.2 s 1 0:00:00 so be")
    assert first < second
    assert "little" not in shown
    assert shown.count("no sound: its audio no longer exists") == 2


def test_of_many_recordings_with_speech_without_text_those_with_most_are_listed(tmp_path: Path) -> None:
    flag = [UNTRANSCRIBED_SPEECH]
    rows = [
        transcript(
            f"r{number}", None, "so", quality_flags=flag, unheard_s=s, chunks=[chunk(0, 30, "so", -0.2, flag, s)]
        )
        for number, s in ((number, 1.5 + number / 10) for number in range(NUM_UNTRANSCRIBED + 20))
    ]
    write_output(tmp_path, rows)
    html = Path(write_run_page(str(tmp_path), "run", Config())).read_text()
    (table,) = re.findall(r'<table id="unheard".*?</table>', html, re.S)
    names = re.findall(r'<th scope="row">(\w+)</th>', table)

    assert names == [f"r{number}" for number in reversed(range(20, NUM_UNTRANSCRIBED + 20))]
    assert f"the {NUM_UNTRANSCRIBED} with the most are listed" in text_of(tmp_path / "runs/run/report.html")


def test_without_such_speech_nothing_is_said_of_it(tmp_path: Path) -> None:
    write_output(
        tmp_path, [transcript("little", None, "so", unheard_s=0.5), transcript("old", None, "so", unheard_s=None)]
    )

    assert "without text" not in made(tmp_path)


def test_a_run_that_is_not_there_is_an_error_that_names_those_that_are(output: Path) -> None:
    with pytest.raises(SettingsError, match=r"run_id=rum: no such run in .* \(it has run\)"):
        write_run_page(str(output), "rum", Config())
    with pytest.raises(SettingsError, match="holds no run"):
        write_history(str(output / "transcripts"), Storage())


def test_an_output_in_a_bucket_gets_its_pages_there(tmp_path: Path, bucket: str) -> None:
    write_output(tmp_path, [transcript("a", "so be it", "so be it")])
    storage = Storage()
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        storage.put(f"{bucket}/out/{file.relative_to(tmp_path)}", file.read_bytes())

    assert write_run_page(f"{bucket}/out", "run", Config()) == f"{bucket}/out/runs/run/report.html"
    assert b"Went well" in storage.read(f"{bucket}/out/runs/run/report.html")
    assert write_history(f"{bucket}/out", storage) == f"{bucket}/out/history.html"
    assert b'href="runs/run/report.html"' in storage.read(f"{bucket}/out/history.html")


def test_the_history_names_every_night_and_the_limits(history: Path) -> None:
    html, text = history.read_text(), text_of(history)

    assert "20 Nov" in html
    assert html.count('class="limit"') == 1
    assert "17 Nov: 12, out of line" in html
    assert "2026-11-13.1 ✕ failed" in text
    assert "The last run went well" in text


def test_the_history_is_headed_by_the_last_run_however_it_ended(tmp_path: Path) -> None:
    for day in range(9, 13):
        write_night(tmp_path, date(2026, 11, day), 0.08, code=int(day == 12))
    failed_last = text_of(write_history(str(tmp_path), Storage()))
    killed = tmp_path / "runs/2026-11-13.1"
    killed.mkdir()
    (tmp_path / "runs/2026-11-12.1/config.yaml").rename(killed / "config.yaml")  # that of the 12th came to none
    os.utime(killed / "config.yaml")
    killed_last = text_of(write_history(str(tmp_path), Storage()))

    assert "✕ The last run failed 2026-11-12.1 ended" in failed_last
    assert "✕ The last run has not ended 2026-11-13.1 was killed" in killed_last
    assert re.findall(r"2026-11-\d\d\.1 [✓✕] \w+", killed_last) == [
        "2026-11-13.1 ✕ not",
        "2026-11-12.1 ✕ failed",
        *(f"2026-11-{day:02d}.1 ✓ done" for day in (11, 10, 9)),
    ]


def test_a_night_out_of_line_is_the_headline_of_its_page(tmp_path: Path) -> None:
    day = date(2026, 11, 21)
    run = write_output(tmp_path, [transcript("a", "so", "so", run_id="2026-11-21.1")], run_id="2026-11-21.1", day=day)
    write_night(tmp_path / "made", day, 0.2, odd=True)
    (tmp_path / "made/runs/2026-11-21.1/night.json").rename(run / "night.json")
    drift = load_drift(run.name, str(tmp_path), Storage())
    text = text_of(write_run_page(str(tmp_path), run.name, Config(), drift))

    assert "Out of line with the nights before WER 20.00 %, median of 5 nights 8.00 %, allowed up to 10.00 %" in text
    assert "The figures are the night's" in text
