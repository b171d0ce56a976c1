"""Symbolic links are followed, each real folder once; special files are counted and not opened."""

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import ErrorKind, ExitCode, InputError
from distil_ray.readers.formats.vctk import VCTK_AUDIO
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from tests.readers.conftest import ids, listed
from tests.readers.shards import run_job, tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """in/a.wav, and beside the folder x/b.wav with its text and x/deep/c.wav."""
    for name in ("in/a.wav", "x/b.wav", "x/deep/c.wav"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"RIFF")
    (tmp_path / "x" / "b.txt").write_text("words of b")
    return tmp_path / "in"


@pytest.mark.parametrize("name", ["more", "more.v2", "more.wav"])
def test_a_linked_folder_is_followed_in_every_input_format(folder: Path, name: str) -> None:
    (folder / name).symlink_to("../x")
    expected = ["a.wav", f"{name}/b.wav", f"{name}/deep/c.wav"]
    for recordings in (listed(str(folder)), listed(f"{folder}/**"), listed(f"{folder}/**/*.wav")):
        assert ids(recordings) == sorted(expected)
        assert [one.reference for one in recordings if one.reference] == ["words of b"]
    assert ids(listed(f"{folder}/*/*.wav")) == [f"{name}/b.wav"]
    assert ids(listed(f"{folder}/{name}/*.wav")) == ["b.wav"]
    assert ids(listed(f"{folder}/{name}")) == ["b.wav", "deep/c.wav"]
    assert ids(listed(f"{folder}/{name}/b.wav")) == ["b.wav"]


def test_a_cycle_of_links_is_followed_once(folder: Path) -> None:
    (folder / "loop").symlink_to(".")
    (folder / "up").symlink_to("..")
    (folder.parent / "x" / "back").symlink_to(folder)
    expected = ["a.wav", "up/x/b.wav", "up/x/deep/c.wav"]
    for uri in (str(folder), f"{folder}/**", f"{folder}/**/*.wav"):
        assert ids(listed(uri)) == expected
    assert ids(listed(f"{folder}/loop/loop/*.wav")) == ["a.wav"]


def test_a_folder_with_several_links_is_listed_once(folder: Path) -> None:
    (folder / "own").mkdir()
    (folder / "own" / "d.wav").write_bytes(b"RIFF")
    (folder / "an_own").symlink_to("own")
    (folder / "m.2").symlink_to("../x")
    (folder / "m").symlink_to("../x")
    for uri in (str(folder), f"{folder}/**/*.wav"):
        assert ids(listed(uri)) == ["a.wav", "m/b.wav", "m/deep/c.wav", "own/d.wav"]
    assert ids(listed(f"{folder}/*/*.wav")) == ["m/b.wav", "own/d.wav"]
    assert ids(listed(f"{folder}/an*/*.wav")) == ["an_own/d.wav"]


def test_a_folder_below_two_links_is_listed_once(folder: Path) -> None:
    (folder / "a_part").symlink_to("../x/deep")
    (folder / "b_whole").symlink_to("../x")
    for uri in (str(folder), f"{folder}/**/*.wav"):
        assert ids(listed(uri)) == ["a.wav", "a_part/c.wav", "b_whole/b.wav"]


def test_a_link_into_a_hidden_folder_is_followed(folder: Path) -> None:
    shutil.move(folder.parent / "x", folder / ".store")
    (folder / "more").symlink_to(".store")
    assert ids(listed(str(folder))) == ["a.wav", "more/b.wav", "more/deep/c.wav"]


def test_an_input_that_is_a_link_lists_its_target(folder: Path) -> None:
    (folder.parent / "link").symlink_to("in")
    for uri in (f"{folder.parent}/link", f"{folder.parent}/link/*.wav", f"{folder.parent}/li*/*.wav"):
        assert [Path(one.uri).name for one in listed(uri)] == ["a.wav"]


def test_the_version_of_a_linked_file_is_that_of_its_target(folder: Path) -> None:
    (folder / "b.wav").symlink_to("../x/b.wav")
    os.utime(folder / "b.wav", (1, 1), follow_symlinks=False)
    link = next(one for one in listed(str(folder)) if one.recording_id == "b.wav")
    entry = Storage().stat(link.uri)
    assert entry
    assert (link.source_size, link.source_version) == (4, entry.version)


def test_links_of_corpora_and_of_shards_are_followed(folder: Path) -> None:
    shared = folder.parent / "x"
    (folder / "shards").symlink_to("../x")
    (shared / "s.tar").write_bytes(tar({"k.wav": b"RIFF", "k.txt": "in a shard"}))
    assert [one.reference for one in listed(str(folder)) if one.recording_id == "shards/s.tar/k.wav"] == ["in a shard"]

    speech = folder.parent / "lj"
    speech.mkdir()
    (speech / "metadata.csv").write_text("b|words|words of it\n")
    (speech / "wavs").symlink_to("../x")
    assert [(one.recording_id, one.source_size) for one in listed(str(speech))] == [("b", 4)]

    voices = folder.parent / "cv"
    voices.mkdir()
    (voices / "train.tsv").write_text("client_id\tpath\tsentence\nspeaker\tb.wav\twords\n")
    (voices / "clips").symlink_to("../x")
    assert [(one.recording_id, one.source_size) for one in listed(f"{voices}/train.tsv")] == [("b.wav", 4)]

    vctk = folder.parent / "vctk"
    (vctk / "txt").mkdir(parents=True)
    (vctk / VCTK_AUDIO[0]).symlink_to("../x")
    assert "b.wav" in "".join(ids(listed(str(vctk))))


def test_links_do_not_extend_the_allowed_paths_of_a_manifest(folder: Path) -> None:
    (folder / "more").symlink_to("../x")
    (folder / "m.jsonl").write_text(json.dumps({"uri": "more/b.wav"}))
    with pytest.raises(InputError, match=r"'more/b\.wav' lies outside of .* set input\.allow_external_paths=true"):
        listed(f"{folder}/m.jsonl")
    for settings in ({"allow_external_paths": True}, {"base_dir": str(folder.parent)}):
        assert [one.source_size for one in listed(f"{folder}/m.jsonl", **settings)] == [4]


def test_a_broken_link_is_a_failed_recording_or_counted(folder: Path) -> None:
    for name in ("gone.wav", "gone", "notes.md"):
        (folder / name).symlink_to("nowhere")
    (folder / "self.wav").symlink_to("self.wav")
    listing = list_recordings(InputConfig(uri=(str(folder),)), Storage())
    assert ids(list(listing)) == ["a.wav", "gone.wav", "self.wav"]
    assert listing.ignored.counts == {"broken link gone": 1, "broken link notes.md": 1}


@pytest.fixture
def special(folder: Path) -> Path:
    """The folder with FIFOs of all names, a socket and a link to a device: whoever opens a FIFO does not come back."""
    for name in ("x.wav", "nameless", "a.txt", "m.jsonl", "s.tar", "t.parquet"):
        os.mkfifo(folder / name)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket.wav"))
    (folder / "zero.wav").symlink_to("/dev/zero")
    return folder


def test_a_special_file_is_counted_and_not_opened(special: Path) -> None:
    for uri in (str(special), f"{special}/*"):
        listing = list_recordings(InputConfig(uri=(uri,)), Storage())
        assert ids(list(listing)) == ["a.wav"]
        counts = listing.ignored.counts
        assert (counts["socket socket.wav"], counts["character device zero.wav"]) == (1, 1)
        assert sum(number for key, number in counts.items() if key.startswith("FIFO")) == 6
        assert {"FIFO a.txt", "FIFO m.jsonl", "FIFO nameless", "FIFO, others"} <= set(counts)


@pytest.mark.parametrize("name", ["x.wav", "m.jsonl", "s.tar", "t.parquet", "*.jsonl", "*.parquet", "*.tar", "x*"])
def test_an_input_that_is_a_special_file_is_an_error(special: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"1 file, none of them audio: FIFO"):
        listed(f"{special}/{name}")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "wav.scp", "train.tsv"])
def test_a_fifo_named_like_the_table_of_a_corpus_is_ignored(folder: Path, name: str) -> None:
    os.mkfifo(folder / name)
    assert ids(listed(str(folder))) == ["a.wav"]


def test_a_manifest_row_that_names_a_fifo_fails(special: Path) -> None:
    lines = [{"uri": name} for name in ("x.wav", "socket.wav", "a.wav")]
    (special.parent / "in" / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for channels in ("mix", "split"):  # to split, headers are looked at
        first, second, third = listed(f"{special}/list.jsonl", channels=channels)
        assert (first.error_kind, second.error_kind, third.error) == (ErrorKind.NOT_AUDIO, ErrorKind.NOT_AUDIO, None)
        assert first.error
        assert first.error.endswith("in/x.wav: is a FIFO, not a regular file; it was not read")


def test_storage_never_reads_a_fifo(special: Path) -> None:
    storage, uri = Storage(), f"{special}/x.wav"
    assert storage.stat(uri) is None
    assert storage.special_kind(uri) == "FIFO"
    for read in (storage.read, storage.open, lambda one: storage.read_range(one, 0, 4)):
        with pytest.raises(StorageError, match=r"x\.wav: is a FIFO, not a regular file") as caught:
            read(uri)
        assert caught.value.kind is ErrorKind.NOT_AUDIO


@pytest.mark.usefixtures("local_ray")
def test_a_run_over_links_and_special_files_accounts_for_each(
    tmp_path: Path,
    speech: dict[str, bytes],
    loose_texts: dict[str, str],
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "x").mkdir()
    first, second, _ = speech
    (tmp_path / "in" / "a.flac").write_bytes(speech[first])
    (tmp_path / "x" / "b.flac").write_bytes(speech[second])
    (tmp_path / "in" / "more").symlink_to("../x")
    (tmp_path / "in" / "loop").symlink_to(".")
    (tmp_path / "in" / "gone.wav").symlink_to("nowhere")
    os.mkfifo(tmp_path / "in" / "x.wav")
    rows, code = run_job(str(tmp_path / "in"), str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert code is ExitCode.DONE
    assert {name: row["text"] for name, row in rows.items()} == {
        "a.flac": loose_texts[first],
        "more/b.flac": loose_texts[second],
        "gone.wav": None,
    }
    assert (rows["gone.wav"]["status"], rows["gone.wav"]["error_kind"]) == ("failed", "not_found")
