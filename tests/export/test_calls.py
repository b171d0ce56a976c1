"""group=call: the channels of a file, or the speakers of a mono recording, as one conversation."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pysubs2
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.pipeline import runner
from distil_ray.types import SAMPLE_RATE
from tests.export.conftest import files_below, run_export
from tests.support.clips import load_samples
from tests.support.transcripts import Row, stored_rows, transcript_row, write_transcripts
from tests.support.without_ray import run_stages_in_process

AGENT, CUSTOMER = "austen-0870", "librispeech-61"
CUSTOMER_START_S = 5.0  # the agent talks until 7.1


def segment(start_s: float, end_s: float, text: str, speaker: str | None = None) -> Row:
    return {"start_s": start_s, "end_s": end_s, "text": text, "speaker": speaker}


def channel(
    number: int, *segments: Row, call_id: str = "call.wav", speaker: str | None = None, **columns: object
) -> Row:
    """A row of one channel of a file."""
    metadata = {} if speaker is None else {"speaker": speaker}
    text = " ".join(one["text"] for one in segments)
    own = {"call_id": call_id, "segments": list(segments), "location": {"channel": number}, "text": text}
    return transcript_row(f"{call_id}#{number}", **{"metadata": metadata, **own, **columns})


MADE = [
    channel(1, segment(2.5, 3.0, "Yes & no."), segment(9.0, 9.5, "Bye."), speaker="customer"),
    channel(0, segment(0.0, 4.0, "Good morning."), segment(4.2, 6.0, "How are you?"), speaker="agent"),
    transcript_row(
        "mono.wav", segments=[segment(0.0, 1.0, "One.", "a"), segment(1.0, 2.0, "Two.", "b")], text="One. Two."
    ),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, whisper_tiny_en: Path) -> Path:
    """An output of tiny.en with word times: a stereo call, and its speakers one after the other with an RTTM file."""
    folder = tmp_path_factory.mktemp("calls")
    (folder / "audio").mkdir()
    agent, customer = load_samples(AGENT), load_samples(CUSTOMER)
    start = round(CUSTOMER_START_S * SAMPLE_RATE)
    stereo = np.zeros((start + len(customer), 2), np.int16)
    stereo[: len(agent), 0] = agent
    stereo[start:, 1] = customer
    soundfile.write(folder / "audio/call.wav", stereo, SAMPLE_RATE)
    soundfile.write(folder / "audio/mono.wav", np.concatenate([agent, customer]), SAMPLE_RATE)
    ends = len(agent) / SAMPLE_RATE, len(customer) / SAMPLE_RATE
    (folder / "audio/mono.rttm").write_text(
        f"SPEAKER mono 1 0.0 {ends[0]:.3f} <NA> <NA> reader <NA> <NA>\n"
        f"SPEAKER mono 1 {ends[0]:.3f} {ends[1]:.3f} <NA> <NA> narrator <NA> <NA>\n"
    )
    config = load_config(
        None,
        [
            *(f"input.uri={folder}/audio", f"output.uri={folder}/out", f"model.name={whisper_tiny_en}"),
            *("input.channels=split", "input.channel_names=[agent,customer]", "decoding.timestamps=word"),
            *("decoding.language=en", "model.dtype=float32", "scoring.group_by=[speaker]", "resources.actors=1"),
        ],
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages_in_process(monkeypatch)
        assert runner.transcribe(config, Console(file=io.StringIO())) == ExitCode.DONE
    return folder


def test_the_rows_of_a_call_have_its_id_and_their_speakers(real: Path) -> None:
    left, right, mono = stored_rows(real / "out")
    assert [left["recording_id"], left["call_id"], left["metadata"]] == [
        "call.wav#0", "call.wav", [{"key": "speaker", "value": "agent"}],
    ]  # fmt: skip
    assert (right["call_id"], mono["call_id"]) == ("call.wav", None)
    assert {word["speaker"] for word in left["words"]} == {None}
    speakers = [word["speaker"] for word in mono["words"]]
    assert list(dict.fromkeys(speakers)) == ["reader", "narrator"]
    wizard = next(word for word in mono["words"] if "wizard" in word["text"].lower())
    assert wizard["speaker"] == "narrator"
    assert mono["segments"][0]["speaker"] == "reader"
    (run,) = (real / "out/runs").iterdir()
    assert set(json.loads((run / "summary.json").read_text())["groups"]["speaker"]) >= {"agent", "customer"}


def test_a_stereo_file_becomes_turns_that_may_overlap(real: Path) -> None:
    code, printed = run_export(f"{real}/out", f"{real}/jsonl", "format=jsonl", "group=call")
    assert code == ExitCode.DONE
    assert "exported       3 recordings" in printed
    calls = {line["call_id"]: line for line in map(json.loads, (real / "jsonl/calls.jsonl").read_text().splitlines())}
    assert set(calls) == {"call.wav", "mono.wav"}
    turns = calls["call.wav"]["turns"]
    assert calls["call.wav"]["speakers"] == ["agent", "customer"]
    assert [one["speaker"] for one in calls["call.wav"]["recordings"]] == ["agent", "customer"]
    assert all(before["start_s"] <= after["start_s"] for before, after in pairwise(turns))
    first_of_customer = next(turn for turn in turns if turn["speaker"] == "customer")
    assert first_of_customer["start_s"] == pytest.approx(CUSTOMER_START_S, abs=0.5)
    assert max(turn["end_s"] for turn in turns if turn["speaker"] == "agent") > first_of_customer["start_s"]
    for row in stored_rows(real / "out")[:2]:
        own = [word for turn in turns if turn["recording_id"] == row["recording_id"] for word in turn["words"]]
        assert "".join(word["text"] for word in own).strip() == row["text"]
    assert [turn["speaker"] for turn in calls["mono.wav"]["turns"]] == ["reader", "narrator"]


def test_text_and_subtitles_of_a_call_name_the_speakers(real: Path) -> None:
    for form in ("txt", "srt", "vtt", "tsv", "ass"):
        run_export(f"{real}/out", f"{real}/{form}", f"format={form}", "group=call")
        assert set(files_below(f"{real}/{form}")) == {f"call.wav.{form}", f"mono.wav.{form}"}
    lines = (real / "txt/mono.wav.txt").read_text().splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["reader", "narrator"]
    texts = {row["recording_id"]: row["text"] for row in stored_rows(real / "out")}
    assert " ".join(line.partition(": ")[2] for line in lines) == texts["mono.wav"]
    cues = [block.splitlines() for block in (real / "vtt/call.wav.vtt").read_text().split("\n\n")[1:]]
    said = [" ".join(cue[1:]).removeprefix("<v customer>") for cue in cues if cue[1].startswith("<v customer>")]
    assert " ".join(said) == texts["call.wav#1"]
    events = pysubs2.load(f"{real}/ass/call.wav.ass")
    assert {event.name for event in events} == {"agent", "customer"}
    spoken = " ".join(event.plaintext for event in events if event.name == "customer")
    assert spoken.split() == texts["call.wav#1"].split()


def test_turns_of_segments_are_written_in_every_format(tmp_path: Path) -> None:
    write_transcripts(tmp_path / "out", MADE[:1], MADE[1:])
    for form in ("txt", "srt", "vtt", "tsv", "ass"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", f"format={form}", "group=call")
    found = {name: data.decode() for name, data in files_below(f"{tmp_path}/to").items()}
    assert found["call.wav.txt"] == "agent: Good morning.\ncustomer: Yes & no.\nagent: How are you?\ncustomer: Bye.\n"
    assert found["mono.wav.txt"] == "a: One.\nb: Two.\n"
    assert found["call.wav.srt"].startswith(
        "1\n00:00:00,000 --> 00:00:04,000\nagent: Good morning.\n\n"
        "2\n00:00:02,500 --> 00:00:03,333\ncustomer: Yes & no.\n"
    )
    assert "00:00:02.500 --> 00:00:03.333\n<v customer>Yes &amp; no.\n" in found["call.wav.vtt"]
    assert "\n2500\t3333\tcustomer: Yes & no.\n" in found["call.wav.tsv"]
    assert "Dialogue: 0,0:00:02.50,0:00:03.33,Default,customer,0,0,0,,Yes & no.\n" in found["call.wav.ass"]


def test_adjacent_segments_of_a_speaker_are_one_turn_up_to_a_pause(tmp_path: Path) -> None:
    rows = [channel(0, segment(0.0, 1.0, "One."), segment(2.0, 3.0, "two."), segment(6.0, 7.0, "Three."), speaker="a")]
    write_transcripts(tmp_path / "out", rows)
    for pause, text in (("2", "a: One. two.\na: Three.\n"), ("0.5", "a: One.\na: two.\na: Three.\n")):
        run_export(f"{tmp_path}/out", f"{tmp_path}/{pause}", "format=txt", "group=call", f"turn_pause_s={pause}")
        assert (tmp_path / pause / "call.wav.txt").read_text() == text


def test_speakers_without_a_name_are_channels(tmp_path: Path) -> None:
    same = [channel(n, segment(n, n + 1.0, "So."), call_id="same", speaker="7") for n in range(2)]
    more = [
        channel(n, segment(n, n + 1.0, "So."), call_id="more", speaker=name) for n, name in enumerate(["a", "b", None])
    ]
    write_transcripts(
        tmp_path / "out", [*same, *more, transcript_row("x", segments=[segment(0.0, 1.0, "So.")], text="So.")]
    )
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", "group=call")
    found = {name: data.decode() for name, data in files_below(f"{tmp_path}/to").items()}
    assert found["same.txt"] == "channel 0: So.\nchannel 1: So.\n"
    assert found["more.txt"] == "a: So.\nb: So.\nchannel 2: So.\n"
    assert found["x.txt"] == "So.\n"


def test_a_call_without_one_of_its_channels_says_so(tmp_path: Path) -> None:
    failed = channel(1, status="failed", speaker="customer") | {"text": None, "segments": None}
    write_transcripts(tmp_path / "out", [MADE[1]], [failed])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=jsonl", "group=call")
    (call,) = map(json.loads, (tmp_path / "to/calls.jsonl").read_text().splitlines())
    assert call["num_recordings_left_out"] == 1
    assert [one["recording_id"] for one in call["recordings"]] == ["call.wav#0"]


def test_segments_of_one_file_are_placed_by_their_start(tmp_path: Path) -> None:
    parts = [
        transcript_row(
            f"p{start}",
            call_id="c",
            location={"start_s": start, "length_s": 5.0},
            segments=[segment(1.0, 2.0, "So.")],
            text="So.",
        )
        for start in (30.0, 10.0)
    ]
    write_transcripts(tmp_path / "out", parts)
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=jsonl", "group=call")
    (call,) = map(json.loads, (tmp_path / "to/calls.jsonl").read_text().splitlines())
    assert [(turn["start_s"], turn["speaker"]) for turn in call["turns"]] == [(1.0, "p10.0"), (21.0, "p30.0")]
    assert call["duration_s"] == 30.0


def test_turns_have_the_whole_text_or_the_call_is_skipped(tmp_path: Path) -> None:
    words = [segment(0.2 * n, 0.2 * n + 0.1, f" {text}") for n, text in enumerate(["Good", "morning."])]
    one, both = [segment(0.0, 0.3, "Good")], [segment(0.0, 0.3, "Good morning.")]
    rows = [
        transcript_row("segments", segments=both, words=words[:1]),
        transcript_row("words", segments=one, words=words),
        transcript_row("neither", segments=one, words=words[:1]),
    ]
    write_transcripts(tmp_path / "out", rows)
    settings = ["group=call", "max_failed_fraction=0.5"]
    _, printed = run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", *settings)
    assert "skipped        1 recording, for example neither: its words, segments or chunks lack a part" in printed
    found = files_below(f"{tmp_path}/to")
    assert found == {"segments.txt": b"Good morning.\n", "words.txt": b"Good morning.\n"}


def test_a_transcript_without_times_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    write_transcripts(tmp_path / "out", [transcript_row("a")])
    with pytest.raises(SettingsError, match=r"a has no times.*decoding\.timestamps=segment"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", "group=call")
    write_transcripts(tmp_path / "out", [transcript_row("a", segments=[segment(0.0, 1.0, " ")])])
    with pytest.raises(RunError, match="a has a text"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=txt", "group=call")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["format=ctm", "group=call"], r"format=ctm: does not support group=call; ass, jsonl, srt, tsv, txt, vtt do"),
        (["format=txt", "group=speaker"], "must be recording or call"),
        (["format=webdataset", "group=call", "of=dataset"], "of=dataset"),
    ],
)
def test_a_group_that_cannot_be_written_is_an_error(tmp_path: Path, words: list[str], reason: str) -> None:
    write_transcripts(tmp_path / "out", MADE)
    with pytest.raises(SettingsError, match=reason):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", *words)
