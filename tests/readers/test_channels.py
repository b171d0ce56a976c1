"""Channels of a file as separate recordings, for all kinds of containers."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import soundfile

from distil_ray.audio.segments import AudioSegment
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.config import InputConfig
from distil_ray.readers.channels import HEAD_BYTES, audio_segment_for
from distil_ray.readers.location import is_unchanged
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation, Recording
from tests.readers.conftest import Place as Folder
from tests.readers.conftest import listed

RATE = 8_000


def call(channels: int, seconds: float = 1.0, **how: str) -> bytes:
    noise = np.random.default_rng(channels).normal(0, 0.1, (int(seconds * RATE), channels))
    written = io.BytesIO()
    soundfile.write(written, noise, RATE, **({"format": "WAV"} | how))
    return written.getvalue()


def names(recordings: list[Recording]) -> list[str]:
    return [recording.recording_id for recording in recordings]


def test_each_channel_of_a_file_becomes_a_recording(place: Folder) -> None:
    root = place(
        {
            "a.wav": call(2),
            "a.txt": "what both said",
            "b.flac": call(1, format="FLAC"),
            "b.txt": "alone",
            "c.opus": call(2, 40.0, format="OGG", subtype="OPUS"),  # longer than its head
            "d.wav": b"no audio",
        }
    )
    recordings = listed(root, channels="split")
    assert names(recordings) == ["a.wav#0", "a.wav#1", "b.flac", "c.opus#0", "c.opus#1", "d.wav"]
    assert [one.location and one.location.channel for one in recordings] == [0, 1, None, 0, 1, None]
    assert [one.reference for one in recordings] == [None, None, "alone", None, None, None]
    assert len({one.source_version for one in recordings[:2]}) == 2
    entry = Storage().stat(f"{root}/a.wav")
    assert entry is not None
    assert all(is_unchanged(one, entry) for one in recordings[:2])
    assert names(listed(root)) == names(listed(root, channels="first")) == ["a.wav", "b.flac", "c.opus", "d.wav"]


def test_the_channels_of_a_file_are_a_call_with_the_names_of_the_setting(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "uri": "a.wav", "speaker": "both of them", "topic": "bill"},
        {"id": "b", "uri": "b.wav", "speaker": "alone"},
        {"id": "c", "uri": "c.wav"},
        {"id": "d", "uri": "a.wav", "call_id": "42", "location": {"channel": 1}},
    ]
    for name, channels in (("a", 2), ("b", 1), ("c", 3)):
        (tmp_path / f"{name}.wav").write_bytes(call(channels))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = listed(f"{tmp_path}/m.jsonl", channels="split", channel_names=["agent", "customer"])
    assert [(one.recording_id, one.call_id, one.metadata.get("speaker")) for one in found] == [
        ("a#0", "a", "agent"),
        ("a#1", "a", "customer"),
        ("b", None, "alone"),
        ("c#0", "c", "agent"),
        ("c#1", "c", "customer"),
        ("c#2", "c", None),
        ("d", "42", "customer"),
    ]
    assert found[0].metadata["topic"] == found[1].metadata["topic"] == "bill"


@pytest.mark.parametrize("names", [["agent", "agent"], ["agent", " "]])
def test_names_of_channels_are_distinct_and_not_empty(names: list[str]) -> None:
    with pytest.raises(ValueError, match="channel_names"):
        InputConfig(channel_names=names)


def test_a_header_at_the_files_end_is_found(bucket: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, (1, 60 * 2 * 48_000), np.int16)
    with av.open(str(tmp_path / "a.m4a"), "w", format="mp4") as container:
        stream = cast(Any, container.add_stream("pcm_s16be", rate=48_000, layout="stereo", format="s16"))
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="stereo")
        frame.sample_rate = 48_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    content = (tmp_path / "a.m4a").read_bytes()
    assert content.index(b"moov") > HEAD_BYTES
    Storage().put(f"{bucket}/a.m4a", content)
    assert names(listed(bucket, channels="split")) == ["a.m4a#0", "a.m4a#1"]


def test_a_known_number_of_channels_needs_no_read(place: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        {"id": "a", "uri": "a.wav", "num_channels": 2},
        {"id": "b", "uri": "b.wav", "channels": "1"},
        {"id": "c", "uri": "a.wav", "location": {"channel": 1}},
    ]
    manifest = "".join(json.dumps(line) + "\n" for line in lines)
    root = place({"a.wav": call(2), "b.wav": call(2), "m.jsonl": manifest})
    monkeypatch.setattr(SubprocessDecoder, "probe", lambda *_: pytest.fail("looked"))
    assert names(listed(f"{root}/m.jsonl", channels="split")) == ["a#0", "a#1", "b", "c"]


def test_the_header_of_a_file_is_read_once_for_all_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [{"audio_filepath": "a.wav", "offset": n, "duration": 1.0, "id": f"s{n}"} for n in range(3)]
    (tmp_path / "a.wav").write_bytes(call(2, 4.0))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    looks = []
    look = SubprocessDecoder.probe

    def counted(self: SubprocessDecoder, path: str) -> object:
        looks.append(path)
        return look(self, path)

    monkeypatch.setattr(SubprocessDecoder, "probe", counted)
    recordings = listed(f"{tmp_path}/m.jsonl", channels="split")
    assert names(recordings) == ["s0#0", "s0#1", "s1#0", "s1#1", "s2#0", "s2#1"]
    assert recordings[3].location == AudioLocation(start_s=1.0, length_s=1.0, channel=1)
    assert len(looks) == 1


@pytest.mark.parametrize("packing", ["", "gz"])
def test_channels_of_shard_members_are_split(tmp_path: Path, packing: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=cast(Any, f"w:{packing}")) as shard:
        for name, content in (("a.wav", call(2)), ("b.wav", call(1)), ("c.wav", call(3))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    (tmp_path / ("s.tar" + (packing and f".{packing}"))).write_bytes(packed.getvalue())
    recordings = listed(str(tmp_path), channels="split")
    ends = [name.rsplit("/", 1)[1] for name in names(recordings)]
    assert ends == ["a.wav#0", "a.wav#1", "b.wav", "c.wav#0", "c.wav#1", "c.wav#2"]
    assert all(one.location is not None and one.location.member is not None for one in recordings)


def test_a_location_is_cut_at_whole_samples() -> None:
    segment = Recording("s", "/a.wav", location=AudioLocation(start_s=1.00001, length_s=0.5))
    assert audio_segment_for(segment, "mix") == AudioSegment(16_000, 8_000, None)
    assert audio_segment_for(segment, "first") == AudioSegment(16_000, 8_000, 0)
    assert audio_segment_for(Recording("s", "/a.wav", location=AudioLocation(channel=1)), "first") == AudioSegment(
        channel=1
    )
    assert audio_segment_for(Recording("s", "/a.wav"), "split") == AudioSegment()
