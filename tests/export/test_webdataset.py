"""Shards hold the audio as it is in the source, beside its transcript, and never grow beyond their size."""

import gzip
import io
import json
import tarfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from distil_ray.config import InputConfig
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.readers.listing import list_recordings
from distil_ray.readers.location import recording_version
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE, AudioLocation
from tests.export.conftest import files_below, run_export
from tests.support.transcripts import Row, transcript_row, write_transcripts

Samples = dict[str, dict[str, bytes]]


def members(shard: bytes) -> Samples:
    """Members by key and extension, as a WebDataset's reader groups them: neighbors of one key."""
    found: Samples = {}
    last = ""
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            assert key == last or key not in found, "a sample's members are not together"
            file = tar.extractfile(member)
            assert file is not None
            found.setdefault(key, {})[extension] = file.read()
            last = key
    return found


def put_audio(root: str, name: str, size: int = 1000, **columns: object) -> Row:
    """Bytes in place of audio, which no decoder sees here, and the row of their transcript."""
    uri, storage = join(root, "in", name), Storage()
    storage.put(uri, np.random.default_rng(len(name)).bytes(size))
    entry = storage.stat(uri)
    assert entry is not None
    version = {"source_size": entry.size, "source_version": entry.version}
    return transcript_row(name, **{"uri": uri, "text": f"This is {name}.", **version, **columns})


def test_a_sample_is_audio_text_and_what_is_known(root: str) -> None:
    made = [
        put_audio(root, "84/84-1.flac", metadata={"speaker": "84"}),
        put_audio(root, "日本"),
        put_audio(root, "b.xyz"),
    ]
    write_transcripts(join(root, "out"), made)
    code, words = run_export(join(root, "out"), join(root, "to"), "format=webdataset")
    assert code == ExitCode.DONE
    assert "3 recordings, 0.5 min of audio, as webdataset: 1 file" in words
    samples = members(files_below(join(root, "to"))["shard-000000.tar"])
    assert {key: set(sample) for key, sample in samples.items()} == {
        "84/84-1%2Eflac": {"flac", "txt", "json"},
        "日本": {"audio", "txt", "json"},
        "b%2Exyz": {"audio", "txt", "json"},
    }
    first = samples["84/84-1%2Eflac"]
    assert first["flac"] == Storage().read(made[0]["uri"])
    assert first["txt"] == b"This is 84/84-1.flac."
    assert json.loads(first["json"])["recording_id"] == "84/84-1.flac"
    assert json.loads(first["json"])["speaker"] == "84"


def test_a_shard_is_ended_before_it_is_too_large(root: str) -> None:
    write_transcripts(join(root, "out"), [put_audio(root, f"{number}.wav", 300_000) for number in range(8)])
    run_export(join(root, "out"), join(root, "to"), "format=webdataset", "shard_mb=1")
    shards = files_below(join(root, "to"))
    assert sorted(shards) == [f"shard-{number:06d}.tar" for number in range(3)]
    assert [len(members(shards[name])) for name in sorted(shards)] == [3, 3, 2]
    assert all(len(shard) < 1_000_000 for shard in shards.values())


def test_a_recording_larger_than_a_shard_has_one_to_itself(tmp_path: Path) -> None:
    sizes = (10, 2_000_000, 10)
    write_transcripts(f"{tmp_path}/out", [put_audio(str(tmp_path), f"{i}.wav", size) for i, size in enumerate(sizes)])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset", "shard_mb=1")
    assert [len(members(shard)) for _, shard in sorted(files_below(f"{tmp_path}/to").items())] == [1, 1, 1]


def test_audio_that_is_gone_or_another_now_is_passed_over(root: str) -> None:
    rows = [put_audio(root, "a.wav"), put_audio(root, "gone.wav"), put_audio(root, "new.wav")]
    Storage().delete(rows[1]["uri"])
    Storage().put(rows[2]["uri"], b"something else")
    write_transcripts(join(root, "out"), rows)
    code, words = run_export(join(root, "out"), join(root, "to"), "format=webdataset")
    assert code == ExitCode.TOO_MANY_FAILED
    assert "gone.wav: its audio no longer exists" in words
    assert "new.wav: its audio has changed since it was transcribed" in words
    assert list(members(files_below(join(root, "to"))["shard-000000.tar"])) == ["a%2Ewav"]


@pytest.mark.parametrize("packing", ["tar", "tar.gz"])
def test_members_of_archives_are_exported_as_they_are(root: str, packing: str) -> None:
    made = {f"x/{number}.flac": np.random.default_rng(number).bytes(5000) for number in range(3)}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz" if packing.endswith("gz") else "w") as tar:
        for name, data in made.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    Storage().put(join(root, f"in.{packing}"), file.getvalue())
    listed = list(list_recordings(InputConfig(uri=(join(root, f"in.{packing}"),)), Storage()))
    write_transcripts(
        join(root, "out"), [transcript_row(**{**asdict(one), "duration_s": 1.0, "metadata": {}}) for one in listed]
    )
    code, words = run_export(join(root, "out"), join(root, "to"), "format=webdataset")
    assert code == ExitCode.DONE, words
    samples = members(files_below(join(root, "to"))["shard-000000.tar"])
    assert [sample["flac"] for sample in samples.values()] == list(made.values())


def test_a_part_of_a_file_is_the_sound_that_was_transcribed(root: str, tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-9000, 9000, (4 * SAMPLE_RATE, 2)).astype(np.int16)
    soundfile.write(tmp_path / "call.wav", pcm, SAMPLE_RATE, subtype="PCM_16")
    uri = join(root, "in", "call.wav")
    Storage().put(uri, (tmp_path / "call.wav").read_bytes())
    entry = Storage().stat(uri)
    assert entry is not None
    places = [{"start_s": 1.0, "length_s": 0.5, "channel": 1}, {"channel": 0}, {"start_s": 9.0, "length_s": 1.0}]
    rows = [
        transcript_row(
            f"part {number}",
            uri=uri,
            location=place,
            source_size=entry.size,
            source_version=recording_version(entry.version, AudioLocation(**place)),  # type: ignore[arg-type]
        )
        for number, place in enumerate(places)
    ]
    write_transcripts(join(root, "out"), rows)
    _, words = run_export(join(root, "out"), join(root, "to"), "format=webdataset")
    samples = members(files_below(join(root, "to"))["shard-000000.tar"])
    assert set(samples) == {"part 0", "part 1"}
    heard = [soundfile.read(io.BytesIO(samples[key]["flac"]), dtype="int16") for key in sorted(samples)]
    assert [rate for _, rate in heard] == [SAMPLE_RATE, SAMPLE_RATE]
    assert np.array_equal(heard[0][0], pcm[SAMPLE_RATE : SAMPLE_RATE + SAMPLE_RATE // 2, 1])
    assert np.array_equal(heard[1][0], pcm[:, 0])
    assert "part 2: its audio can no longer be decoded (truncated)" in words


@pytest.mark.parametrize(
    ("head", "extension"), [(b"fLaC", "flac"), (b"ID3\x03", "mp3"), (b"\0\0\0 ftypM4A ", "m4a"), (b"\0" * 16, "audio")]
)
def test_a_name_without_extension_gets_one_by_its_bytes(tmp_path: Path, head: bytes, extension: str) -> None:
    (tmp_path / "sound").write_bytes(head)
    entry = Storage().stat(str(tmp_path / "sound"))
    assert entry is not None
    known = {"uri": entry.uri, "source_size": entry.size, "source_version": entry.version}
    write_transcripts(f"{tmp_path}/out", [transcript_row("a", **known)])
    run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset")
    assert set(members(files_below(f"{tmp_path}/to")["shard-000000.tar"])["a"]) == {extension, "txt", "json"}


def test_an_export_over_an_earlier_one_leaves_none_of_its_shards(tmp_path: Path) -> None:
    rows = [put_audio(str(tmp_path), f"{number}.wav", 600_000) for number in range(3)]
    write_transcripts(f"{tmp_path}/out", rows)
    arguments = (f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset")
    run_export(*arguments, "shard_mb=1")
    assert len(files_below(f"{tmp_path}/to")) == 3
    with pytest.raises(SettingsError, match=r"the file shard-000000\.tar exists already"):
        run_export(*arguments)
    run_export(*arguments, "overwrite=true")
    assert list(files_below(f"{tmp_path}/to")) == ["shard-000000.tar"]


def test_no_shard_is_written_where_no_audio_is_left(tmp_path: Path) -> None:
    write_transcripts(f"{tmp_path}/out", [transcript_row("a", uri=f"{tmp_path}/gone.wav")])
    with pytest.raises(RunError, match=r"nothing was exported.*a: its audio no longer exists"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/to", "format=webdataset")
    assert not (tmp_path / "to").exists()


def test_of_several_channels_the_transcribed_one_is_exported(tmp_path: Path) -> None:
    rng, storage = np.random.default_rng(0), Storage()
    pcm = rng.integers(-9000, 9000, (SAMPLE_RATE, 2)).astype(np.int16)
    rows = []
    for name, sound in (("mono", pcm[:, :1]), ("call", pcm)):
        soundfile.write(tmp_path / f"{name}.wav", sound, SAMPLE_RATE)
        entry = storage.stat(str(tmp_path / f"{name}.wav"))
        assert entry is not None
        facts = {"uri": entry.uri, "source_size": entry.size, "source_version": entry.version}
        rows.append(transcript_row(name, **facts, duration_s=1.0, run_id="tonight"))
    write_transcripts(f"{tmp_path}/out", rows)
    storage.put(f"{tmp_path}/out/runs/tonight/config.yaml", b"input: {channels: first}")
    for form in ("webdataset", "lhotse", "nemo"):
        run_export(f"{tmp_path}/out", f"{tmp_path}/{form}", f"format={form}", "max_failed_fraction=0.9")

    samples = members(files_below(f"{tmp_path}/webdataset")["shard-000000.tar"])
    assert samples["mono"]["wav"] == storage.read(f"{tmp_path}/mono.wav")
    assert np.array_equal(soundfile.read(io.BytesIO(samples["call"]["flac"]), dtype="int16")[0], pcm[:, 0])
    lines = gzip.decompress(files_below(f"{tmp_path}/lhotse")["cuts.jsonl.gz"]).splitlines()
    assert {(cut["id"], cut["type"], cut["channel"]) for cut in map(json.loads, lines)} == {
        ("mono", "MonoCut", 0),
        ("call", "MonoCut", 0),
    }
    named = files_below(f"{tmp_path}/nemo")["manifest.jsonl"].splitlines()
    assert [json.loads(line)["id"] for line in named] == ["mono"]
