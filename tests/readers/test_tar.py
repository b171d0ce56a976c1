"""Tar shards through the whole job: the same words as from loose files, and no gigabyte read twice."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distil_ray import schema
from distil_ray.config.loader import load_config
from distil_ray.errors import ErrorKind, ExitCode, InputError
from distil_ray.pipeline import runner
from distil_ray.readers import decompression, list_recordings
from distil_ray.readers.fetch import prefetch_files
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.location import likely_duration_s
from distil_ray.readers.range_reader import MAX_GAP_BYTES
from distil_ray.schema import Recording
from distil_ray.storage.storage import Storage, StorageError, is_remote, join
from distil_ray.verify.verify import verify
from tests.readers.conftest import CLIPS, Place, ids, listed
from tests.readers.shards import Rows, run_job, tar
from tests.readers.test_tar_headers import PACKERS


@pytest.fixture
def samples(speech: dict[str, bytes]) -> dict[str, str | bytes]:
    """The clips as WebDataset has them."""
    members: dict[str, str | bytes] = {}
    for number, (name, audio) in enumerate(speech.items()):
        members[f"clean/{name}.flac"] = audio
        members[f"clean/{name}.txt"] = f"words of {number}\n"
        said = {"text": "not these", "speaker": number, "duration": 2.0, "language": "en", "mood": {"calm": True}}
        members[f"clean/{name}.json"] = json.dumps(said)
        members[f"clean/{name}.cls"] = str(number)
    return members


def texts(rows: Rows) -> dict[str, str]:
    """What was heard, by the clip's name."""
    return {
        name.rsplit("/", 1)[-1].removesuffix(".flac"): row["text"]
        for name, row in rows.items()
        if row["status"] == "ok"
    }


def shard_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts from now on what is read of tar files, in bytes by URI."""
    counts = Counter[str]()
    for name in ("open", "read_range", "fetch", "fetch_range", "read"):
        plain = getattr(Storage, name)

        def counted(self: Storage, uri: str, *args: Any, _plain: Any = plain, **named: Any) -> Any:
            if ".tar" in uri or ".tgz" in uri:
                counts[uri] += args[1] if len(args) > 1 and isinstance(args[1], int) else 1
            return _plain(self, uri, *args, **named)

        monkeypatch.setattr(Storage, name, counted)
    return counts


def test_shards_of_every_packing_give_what_loose_files_give_and_a_rerun_does_not_look_into_them(
    place: Place,
    tmp_path: Path,
    heard: dict[str, str],
    samples: dict[str, str | bytes],
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shards = {f"shards/{name}.tar": pack(tar(samples)) for name, pack in {"plain": bytes, **PACKERS}.items()}
    root = place({})
    if is_remote(root):  # the same code but for ranges, and slower
        shards = {name: shards[name] for name in ("shards/plain.tar", "shards/gzip.tar")}
    place(dict(shards))
    output = str(tmp_path / "out")
    rows, code = run_job(f"{root}/shards", output, whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    assert len(rows) == len(shards) * len(heard)
    for shard in shards:
        name = shard.removeprefix("shards/")
        of_shard = {key: row for key, row in rows.items() if key.startswith(f"{name}/")}
        assert texts(of_shard) == heard
        row = of_shard[f"{name}/clean/{CLIPS[1]}.flac"]
        assert (row["reference"], row["language"]) == ("words of 1", "en")
        metadata = {cell["key"]: cell["value"] for cell in row["metadata"]}
        assert metadata == {"speaker": "1", "cls": "1", "mood": '{"calm": true}'}
        assert row["place"]["member"] == f"clean/{CLIPS[1]}.flac"
        assert (row["place"]["byte_start"] is not None) == (name == "plain.tar")
    read = shard_reads(monkeypatch)
    again, _ = run_job(f"{root}/shards", output, whisper_tiny_en, monkeypatch)
    assert again == rows
    assert not read
    assert verify(load_config(None, [f"input.uri={root}/shards", f"output.uri={output}"]), Console(quiet=True)) == 0


def test_a_damaged_shard_gives_its_good_members_and_one_failed_row(
    tmp_path: Path, samples: dict[str, str | bytes], whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tar(samples)
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        second = archive.getmember(f"clean/{CLIPS[1]}.flac").offset_data
        third = archive.getmember(f"clean/{CLIPS[2]}.flac").offset_data
    packed = gzip.compress(whole)
    damaged = {
        "cut.tar": whole[: third + 9000],
        "hole.tar": whole[: second - 512] + b"z" * 4096 + whole[second - 512 + 4096 :],
        "wiped.tar": whole[: second - 512] + bytes(4096) + whole[second - 512 + 4096 :],
        "crc.tar.gz": packed[:-8] + bytes(8),
        "cut.tar.gz": packed[: len(packed) * 2 // 3],
        "page.tar": b"<html>not found</html>" * 99,
        "nothing.tar": b"",
    }
    root = tmp_path
    for name, data in damaged.items():
        Storage().put(f"{root}/in/{name}", data)
    rows, code = run_job(f"{root}/in", f"{root}/out", whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    good = {name: sum(key.startswith(f"{name}/") for key in rows) for name in damaged}
    expected = {"cut.tar": 2, "hole.tar": 2, "wiped.tar": 2, "crc.tar.gz": 3, "cut.tar.gz": 2}
    assert good == {**dict.fromkeys(damaged, 0), **expected}
    failed = {key: row for key, row in rows.items() if row["status"] == "failed"}
    assert sorted(failed) == sorted(f"{name}#rest" for name in damaged)
    assert {row["status"] for key, row in rows.items() if key not in failed} == {"ok"}
    kinds = {key.removesuffix("#rest"): row["error_kind"] for key, row in failed.items()}
    assert kinds == {
        **dict.fromkeys(damaged, ErrorKind.CORRUPT),
        "cut.tar": ErrorKind.TRUNCATED,
        "nothing.tar": ErrorKind.EMPTY_FILE,
    }
    assert f"ends inside of 'clean/{CLIPS[2]}.flac', which has 9,000 of" in failed["cut.tar#rest"]["error"]
    assert "CRC" in failed["crc.tar.gz#rest"]["error"]
    assert f"{root}/in/page.tar: is no tar archive" in failed["page.tar#rest"]["error"]
    again, _ = run_job(f"{root}/in", f"{root}/out", whisper_tiny_en, monkeypatch)
    assert again == rows


def test_what_belongs_together_is_told_by_the_key_and_no_audio_is_dropped_for_its_name(place: Place) -> None:
    root = place(
        {
            "s.tar": tar(
                {
                    "./a.txt": "a's words",
                    "./a.flac": "1",
                    "a.wav": "2",
                    "b/2019.03.01.wav": "3",
                    "b/2019.03.02.wav": "4",
                    "b/2019.03.02.txt": "of the second",
                    "b/2019.json": '{"text": "of both", "duration": "soon"}',
                    "c.mp3": "5",
                    "c.mp3.bak": "x",
                    "c.json": "[]",
                    "d.opus": "6",
                    "d.txt": b"\xff",
                    "d.flac": "7",
                    "._d.opus": "8",
                    "../../etc/e.wav": "9",
                    "/f.wav": "10",
                }
            )
        }
    )
    listing = list_recordings(load_config(None, [f"input.uri={root}/s.tar"]).input, Storage())
    found = {one.recording_id.removeprefix("s.tar/"): one.reference for one in listing}
    assert found == {
        "a.flac": "a's words",
        "b/2019.03.01.wav": "of both",
        "b/2019.03.02.wav": "of the second",
        "c.mp3": None,
        "d.opus": None,
        "../../etc/e.wav": None,
        "/f.wav": None,
    }
    assert listing.ignored.counts == {
        "second encoding of a sample": 2,
        ".bak": 1,
        "JSON that is no object in a tar": 1,
        "reference not in UTF-8": 1,
        "hidden": 1,
        "duration that is none": 2,
    }


def test_a_name_is_only_a_name_and_links_are_not_followed(
    tmp_path: Path, speech: dict[str, bytes], whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    audio = next(iter(speech.values()))
    target = tmp_path / "target.flac"
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, kind in (
            ("link.flac", tarfile.SYMTYPE),
            ("hard.flac", tarfile.LNKTYPE),
            ("dev.flac", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, str(target)
            archive.addfile(info)
        for name in ("../escaped.flac", str(target)):
            info = tarfile.TarInfo(name)
            info.size = len(audio)
            archive.addfile(info, io.BytesIO(audio))
    for name, data in {"s.tar": sink.getvalue(), "s.tgz": gzip.compress(sink.getvalue())}.items():
        (tmp_path / "in" / "deep").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "deep" / name).write_bytes(data)
    before = {str(path) for path in tmp_path.rglob("*")}
    rows, _ = run_job(str(tmp_path / "in"), str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert sorted(rows) == sorted(
        f"deep/s.{end}/{name}" for end in ("tar", "tgz") for name in ("../escaped.flac", str(target))
    )
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {str(path) for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")} == before


def test_braces_name_the_shards_of_a_range_and_one_that_is_missing_is_an_error(place: Place) -> None:
    root = place({f"{part}/s-{number:03}.tar": tar({"a.wav": "a"}) for part in ("x", "y") for number in (8, 9, 10)})
    found = ids(listed(f"{root}/{{x,y}}/s-{{008..010}}.tar"))
    assert found == sorted(f"{part}/s-{number:03}.tar/a.wav" for part in ("x", "y") for number in (8, 9, 10))
    with pytest.raises(InputError, match=r"/y/s-011\.tar: there is no such file"):
        listed(f"{root}/y/s-{{008..012}}.tar")
    with pytest.raises(InputError, match="more than 100,000 names"):
        listed(f"{root}/s-{{0..999}}-{{0..999}}.tar")
    with pytest.raises(InputError, match=r"\{a\}"):
        listed(f"{root}/{{a}}.tar")


def test_shards_lie_beside_audio_in_folders_and_globs(place: Place) -> None:
    shard = tar({"a.wav": "a"})
    root = place({"b.wav": "b", "x/s.tar": shard, "x/c.wav": "c", "x/.t.tar": shard, "x/m.zip": "z"})
    assert ids(listed(root)) == ["b.wav", "x/c.wav", "x/s.tar/a.wav"]
    assert ids(listed(f"{root}/*/*")) == ["x/c.wav", "x/m.zip", "x/s.tar/a.wav"]
    assert ids(listed(f"{root}/**/*.tar")) == ["x/s.tar/a.wav"]
    assert ids(listed(f"{root}/x/s.tar")) == ["s.tar/a.wav"]


def test_an_index_is_kept_belongs_to_a_version_and_can_be_deleted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples: dict[str, str | bytes] = {f"{number}.wav": bytes(number) for number in range(3)}
    root = place({"in/s.tar": tar(samples)})
    storage = Storage()
    config = load_config(None, [f"input.uri={root}/in"]).input
    read = shard_reads(monkeypatch)

    def look(*, writable: bool) -> bool:
        """Whether the shard was looked into."""
        read.clear()
        assert len(list(list_recordings(config, storage, IndexCache(f"{root}/out", storage, writable=writable)))) == 3
        return bool(read)

    def kept() -> list[str]:
        return [entry.uri for entry in storage.list_files(f"{root}/out")]

    assert look(writable=False)
    assert kept() == []  # who only looks writes nothing
    assert look(writable=True)
    (index,) = kept()
    assert not look(writable=True)
    assert not look(writable=False)
    assert len(listed(root)) == 3  # an output below the input has no recordings
    storage.put(index, storage.read(index)[:-100])
    assert look(writable=True)
    assert not look(writable=False)
    storage.delete(join(f"{root}/out", "indexes"))
    assert look(writable=True)
    storage.put(f"{root}/in/s.tar", tar({**samples, "more.txt": "x"}))
    assert look(writable=True)
    assert len(kept()) == 2


def test_a_shard_that_is_another_when_its_members_are_fetched_gives_none_of_them(
    place: Place, tmp_path: Path, samples: dict[str, str | bytes]
) -> None:
    root = place({"s.tar": tar(samples), "t.tgz": tar(samples, "w:gz")})
    recordings = listed(root)
    place({"s.tar": tar(dict(reversed(samples.items()))), "t.tgz": tar({}, "w:gz")})
    fetched = list(prefetch_files(recordings, {}, tmp_path, Storage(), threads=2))
    assert [one.kind for one in fetched if isinstance(one, StorageError)] == [ErrorKind.STORAGE] * 6
    assert "is not what was listed" in str(fetched[0])


def test_members_of_a_packed_shard_come_in_any_order_and_several_times_from_one_reading(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Storage().put(f"{bucket}/s.tgz", tar({name: name * 5 for name in "abcdef"}, "w:gz"))
    names = [*"dbbfd", "nowhere", "e"]
    wanted = [Recording(name, f"{bucket}/s.tgz", place=schema.Place(member=name)) for name in names]
    read = shard_reads(monkeypatch)
    (tmp_path / "here").mkdir()
    came: list[Any] = []
    for one in prefetch_files(wanted, {}, tmp_path / "here", Storage(), threads=3):
        came.append(one.kind if isinstance(one, StorageError) else one.read_text())
    assert came == ["ddddd", "bbbbb", "bbbbb", "fffff", "ddddd", ErrorKind.NOT_FOUND, ErrorKind.NOT_FOUND]
    assert len(list((tmp_path / "here").iterdir())) <= 1
    assert sum(read.values()) < 20_000  # once


def test_of_large_members_only_the_headers_are_read_and_small_ones_are_streamed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = {f"{number}.wav": bytes(MAX_GAP_BYTES + 5) for number in range(6)}
    small = {f"{number}.wav": bytes(9_000) for number in range(600)}
    for name, members in {"large.tar": large, "small.tar": small}.items():
        Storage().put(f"{bucket}/{name}", tar(members))
    requests = Counter[str]()
    sizes = Counter[str]()
    plain = Storage.read_range

    def counted(self: Storage, uri: str, start: int, size: int) -> bytes:
        requests[uri[-9:]] += 1
        sizes[uri[-9:]] += size
        return plain(self, uri, start, size)

    monkeypatch.setattr(Storage, "read_range", counted)
    assert len(listed(f"{bucket}/*.tar")) == 606
    assert sizes["large.tar"] < 1 << 20
    assert requests["small.tar"] < 5


def test_a_member_that_unpacks_to_more_than_a_recording_may_last_is_not_unpacked(place: Place) -> None:
    root = place({"s.tgz": tar({"a.wav": bytes(800_000), "b.wav": bytes(700_000)}, "w:gz")})
    first, second = listed(f"{root}/s.tgz", max_duration_s=2.0)
    assert first.error_kind == ErrorKind.TOO_LONG
    assert first.error is not None
    assert "input.max_duration_s allows 768,000" in first.error
    assert second.error is None


def test_a_shard_that_unpacks_to_far_more_than_it_holds_is_not_read_to_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decompression, "BELIEVED_BYTES", 1 << 20)
    monkeypatch.setattr(decompression, "MAX_RATIO", 10)
    root = place({"s.tgz": tar({"a.wav": bytes(9_000), "b.wav": bytes(5_000_000), "c.wav": b"c"}, "w:gz")})
    first, rest = listed(root)
    assert first.recording_id == "s.tgz/a.wav"
    assert "unpacks to more than 1,048,576 bytes" in (rest.error or "")


def test_a_member_s_length_is_guessed_by_its_own_name_and_size(place: Place) -> None:
    root = place({"s.tar": tar({"a.opus": bytes(6_000), "b.wav": bytes(64_000)})})
    assert [likely_duration_s(one) for one in listed(root)] == [2.0, 2.0]


def test_a_shard_that_may_not_be_read_is_one_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.tar").write_bytes(tar({"a.wav": "a"}))

    def refused(self: Storage, uri: str) -> Any:
        raise StorageError(ErrorKind.FORBIDDEN, f"cannot read {uri}: access denied")

    monkeypatch.setattr(Storage, "open", refused)
    (lost,) = listed(str(tmp_path))
    assert (lost.recording_id, lost.error_kind) == ("s.tar#rest", ErrorKind.FORBIDDEN)


def test_the_plan_writes_no_index(
    tmp_path: Path, samples: dict[str, str | bytes], whisper_tiny_en: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.tar").write_bytes(tar(samples))
    settings = [f"input.uri={tmp_path}", f"output.uri={tmp_path / 'out'}", f"model.name={whisper_tiny_en}"]
    assert runner.show_plan(load_config(None, settings), Console(width=200)) == ExitCode.DONE
    assert "3 recordings" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_nan_in_the_json_of_a_sample_is_null(tmp_path: Path) -> None:
    said = '{"text": NaN, "language": NaN, "speaker": NaN, "duration": NaN, "id": NaN, "snr": Infinity, "mood": "nan"}'
    (tmp_path / "s.tar").write_bytes(tar({"a.wav": b"1", "a.json": said}))
    (found,) = listed(str(tmp_path / "s.tar"))
    assert (found.recording_id, found.reference, found.language, found.duration_s) == ("s.tar/a.wav", None, None, None)
    assert found.metadata == {"mood": "nan"}
