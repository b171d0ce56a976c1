"""WebDataset samples in tar shards: the same texts as from loose files, keys, and sidecar texts."""

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ErrorKind, ExitCode, InputError
from distil_ray.readers.listing import list_recordings
from distil_ray.readers.location import estimate_recording_duration_s
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote
from distil_ray.verify.verify import verify
from tests.readers.conftest import CLIPS, Place, ids, listed
from tests.readers.shards import Rows, record_shard_reads, run_job, tar
from tests.readers.test_tar_headers import PACKERS


def texts(rows: Rows) -> dict[str, str]:
    """Returns the texts by clip name."""
    return {
        name.rsplit("/", 1)[-1].removesuffix(".flac"): row["text"]
        for name, row in rows.items()
        if row["status"] == "ok"
    }


def test_shards_of_every_compression_give_the_texts_of_loose_files_and_a_rerun_does_not_read_them(
    place: Place,
    tmp_path: Path,
    loose_texts: dict[str, str],
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
    assert len(rows) == len(shards) * len(loose_texts)
    for shard in shards:
        name = shard.removeprefix("shards/")
        of_shard = {key: row for key, row in rows.items() if key.startswith(f"{name}/")}
        assert texts(of_shard) == loose_texts
        row = of_shard[f"{name}/clean/{CLIPS[1]}.flac"]
        assert (row["reference"], row["language"]) == ("words of 1", "en")
        metadata = {cell["key"]: cell["value"] for cell in row["metadata"]}
        assert metadata == {"speaker": "1", "cls": "1", "mood": '{"calm": true}'}
        assert row["location"]["member"] == f"clean/{CLIPS[1]}.flac"
        assert (row["location"]["byte_start"] is not None) == (name == "plain.tar")
    read = record_shard_reads(monkeypatch)
    again, _ = run_job(f"{root}/shards", output, whisper_tiny_en, monkeypatch)
    assert again == rows
    assert not read
    assert verify(load_config(None, [f"input.uri={root}/shards", f"output.uri={output}"]), Console(quiet=True)) == 0


def test_members_are_grouped_by_key_and_all_audio_is_listed(place: Place) -> None:
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
        "invalid duration": 2,
    }


def test_a_configured_name_that_the_data_does_not_have_is_counted(place: Place) -> None:
    """Else a run without any reference would look like one without mistakes."""
    root = place({"s.tar": tar({"a.wav": "1", "a.json": '{"words": "x"}', "b.wav": "2", "b.json": '{"text": "y"}'})})
    settings = [f"input.uri={root}/s.tar", "input.columns.reference=words", "input.columns.uri=clip"]
    listing = list_recordings(load_config(None, settings).input, Storage())
    assert [one.reference for one in listing] == ["x", None]
    assert listing.ignored.counts == {"no words, as input.columns.reference names it": 1}


def test_member_names_are_never_used_as_paths_and_links_are_not_followed(
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


def test_braces_expand_to_a_range_of_shards_and_a_missing_one_is_an_error(place: Place) -> None:
    root = place({f"{part}/s-{number:03}.tar": tar({"a.wav": "a"}) for part in ("x", "y") for number in (8, 9, 10)})
    found = ids(listed(f"{root}/{{x,y}}/s-{{008..010}}.tar"))
    assert found == sorted(f"{part}/s-{number:03}.tar/a.wav" for part in ("x", "y") for number in (8, 9, 10))
    with pytest.raises(InputError, match=r"/y/s-011\.tar: there is no such file"):
        listed(f"{root}/y/s-{{008..012}}.tar")
    with pytest.raises(InputError, match="more than 100,000 names"):
        listed(f"{root}/s-{{0..999}}-{{0..999}}.tar")
    with pytest.raises(InputError, match=r"\{a\}"):
        listed(f"{root}/{{a}}.tar")


def test_folders_and_globs_may_contain_shards_and_audio(place: Place) -> None:
    shard = tar({"a.wav": "a"})
    root = place({"b.wav": "b", "x/s.tar": shard, "x/c.wav": "c", "x/.t.tar": shard, "x/m.zip": "z"})
    assert ids(listed(root)) == ["b.wav", "x/c.wav", "x/s.tar/a.wav"]
    assert ids(listed(f"{root}/*/*")) == ["x/c.wav", "x/m.zip", "x/s.tar/a.wav"]
    assert ids(listed(f"{root}/**/*.tar")) == ["x/s.tar/a.wav"]
    assert ids(listed(f"{root}/x/s.tar")) == ["s.tar/a.wav"]


def test_a_compressed_member_over_the_maximum_duration_is_not_unpacked(place: Place) -> None:
    root = place({"s.tgz": tar({"a.wav": bytes(800_000), "b.wav": bytes(700_000)}, "w:gz")})
    first, second = listed(f"{root}/s.tgz", max_duration_s=2.0)
    assert first.error_kind == ErrorKind.TOO_LONG
    assert first.error is not None
    assert "input.max_duration_s allows 768,000" in first.error
    assert second.error is None


def test_the_duration_of_a_member_is_estimated_by_its_name_and_size(place: Place) -> None:
    root = place({"s.tar": tar({"a.opus": bytes(6_000), "b.wav": bytes(64_000)})})
    assert [estimate_recording_duration_s(one) for one in listed(root)] == [2.0, 2.0]


def test_a_shard_without_read_permission_is_one_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.tar").write_bytes(tar({"a.wav": "a"}))

    def refused(self: Storage, uri: str) -> Any:
        raise StorageError(ErrorKind.FORBIDDEN, f"cannot read {uri}: access denied")

    monkeypatch.setattr(Storage, "open", refused)
    (lost,) = listed(str(tmp_path))
    assert (lost.recording_id, lost.error_kind) == ("s.tar#rest", ErrorKind.FORBIDDEN)


def test_nan_in_the_json_of_a_sample_is_null(tmp_path: Path) -> None:
    said = '{"text": NaN, "language": NaN, "speaker": NaN, "duration": NaN, "id": NaN, "snr": Infinity, "mood": "nan"}'
    (tmp_path / "s.tar").write_bytes(tar({"a.wav": b"1", "a.json": said}))
    (found,) = listed(str(tmp_path / "s.tar"))
    assert (found.recording_id, found.reference, found.language, found.duration_s) == ("s.tar/a.wav", None, None, None)
    assert found.metadata == {"mood": "nan"}
