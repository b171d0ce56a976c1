"""Folders, globs and single files become recordings."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.config import InputConfig, StorageConfig
from distil_ray.errors import InputError
from distil_ray.readers import audio_files, listing
from distil_ray.readers.audio_files import glob_root, group_by_folder
from distil_ray.readers.audio_formats import estimate_duration_s
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from tests.readers.conftest import Place, ids, listed

CHAPTER: dict[str, str | bytes] = {
    "84/121123/84-121123-0000.flac": b"one",
    "84/121123/84-121123-0001.flac": b"three",
    "84/121123/84-121123.trans.txt": "84-121123-0000 GO ON\n84-121123-0001 HE SAID\n\n",
}


def test_a_folder_gives_its_audio_by_extension_with_paths_as_ids(place: Place) -> None:
    root = place(
        {"a.wav": b"12", "b/c.FLAC": b"1", "b/d/e.mp4": b"1", "notes.md": "x", "_SUCCESS": "", "b/x.json": "{}"}
    )
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    recordings = list(listing)
    assert ids(recordings) == ["a.wav", "b/c.FLAC", "b/d/e.mp4"]
    assert listing.ignored.counts == {".md": 1, ".json": 1, "no extension": 1}
    first = next(one for one in recordings if one.recording_id == "a.wav")
    assert (first.uri, first.source_size) == (f"{root}/a.wav", 2)
    assert first.source_version
    assert first.reference is None


def test_a_file_without_an_extension_is_listed_if_its_content_is_audio(place: Place, audio_formats: Path) -> None:
    odd = audio_formats
    some = (
        "pcm-s16.wav",
        "mp3-cbr64.mp3",
        "aac-adts.aac",
        "aac.m4a",
        "tta.tta",
        "core.caf",
        "video.ts",
        "opus-16k.opus",
    )
    audio_files: dict[str, str | bytes] = {name.replace(".", "-"): (odd / name).read_bytes() for name in some}
    others: dict[str, str | bytes] = {
        "README": "words",
        "segments": "a b 0 1\n",
        "_SUCCESS": "",
        "notes": "é".encode("utf-16"),
    }
    root = place(audio_files | others | {"a.bin": (odd / "pcm-s16.wav").read_bytes()})
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    assert ids(list(listing)) == sorted(audio_files)
    assert listing.ignored.counts == {"no extension": 4, ".bin": 1}


def test_a_manifest_in_a_subfolder_is_skipped_with_a_hint(place: Place) -> None:
    root = place({"train/metadata.csv": "file_name,text\na.wav,go\n", "train/a.wav": b"1", "train/other.csv": "x\n"})
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    assert ids(list(listing)) == ["train/a.wav"]
    words = "metadata.csv (to read it, name its own folder in input.uri)"
    assert listing.ignored.counts == {words: 1, ".csv": 1}
    assert [one.reference for one in listed(f"{root}/train")] == ["go"]


def test_hidden_files_and_folders_are_not_listed(place: Place) -> None:
    root = place({"a.wav": b"1", "._a.wav": b"1", ".trash/b.wav": b"1", "c/.tmp-x.wav": b"1"})
    assert ids(listed(root)) == ["a.wav"]


def test_a_hidden_folder_is_listed_if_it_is_the_input(place: Place) -> None:
    root = place({".cache/a.wav": b"1"})
    assert ids(listed(f"{root}/.cache")) == ["a.wav"]


def test_a_glob_lists_matching_files(place: Place) -> None:
    root = place(
        {"x/en/a.wav": b"1", "x/en/deep/b.wav": b"1", "x/de/c.raw": b"1", "x/de/c.txt": "drei", "x/m.csv": "uri\n"}
    )
    assert ids(listed(f"{root}/x/en/*.wav")) == ["a.wav"]
    assert ids(listed(f"{root}/x/**/*.wav")) == ["en/a.wav", "en/deep/b.wav"]
    everything = listed(f"{root}/x/**")
    assert ids(everything) == ["de/c.raw", "en/a.wav", "en/deep/b.wav"]
    assert [one.reference for one in everything if one.recording_id == "de/c.raw"] == ["drei"]


def test_a_single_file_is_listed_with_any_name(place: Place) -> None:
    root = place({"call 7": b"RIFF", "other.wav": b"1"})
    (recording,) = listed(f"{root}/call 7")
    assert (recording.recording_id, recording.uri, recording.source_size) == ("call 7", f"{root}/call 7", 4)


def test_a_name_with_glob_characters_is_found(place: Place) -> None:
    root = place({"talks [2024]/a.wav": b"1", "talks [2024]/a.txt": "words", "talks 2/b.wav": b"1"})
    assert ids(listed(f"{root}/talks [2024]")) == ["a.wav"]
    assert listed(f"{root}/talks [[]2024]/*.wav")[0].reference == "words"


def test_a_whole_bucket_is_a_folder(bucket: str, storage: Storage) -> None:
    storage.put(f"{bucket}/a.wav", b"1")
    storage.put(f"{bucket}/b/c.wav", b"1")
    assert ids(listed(f"{bucket}/")) == ["a.wav", "b/c.wav"]
    assert ids(listed(f"{bucket}/*.wav")) == ["a.wav"]


def test_a_name_that_is_not_utf8_is_skipped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"1")
    (tmp_path / os.fsdecode(b"gr\xfcn.wav")).write_bytes(b"1")
    listing = list_recordings(InputConfig(uri=(str(tmp_path),)), Storage())
    assert ids(list(listing)) == ["a.wav"]
    assert listing.ignored.counts == {"name not in UTF-8": 1}


def test_several_inputs_are_one_listing(place: Place) -> None:
    root = place({"a/1.wav": b"1", "b/2.wav": b"1", "c/3.wav": b"1"})
    assert ids(listed([f"{root}/a", f"{root}/b/*.wav", f"{root}/c/3.wav"])) == ["1.wav", "2.wav", "3.wav"]


def test_a_duplicate_id_is_an_error_that_names_both_files(place: Place) -> None:
    root = place({"a/1.wav": b"1", "b/1.wav": b"1"})
    with pytest.raises(InputError, match=r"duplicate id '1\.wav': .*/a/1\.wav and .*/b/1\.wav"):
        listed([f"{root}/a", f"{root}/b"])


def test_two_ids_with_one_hash_are_no_duplicates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"1")
    monkeypatch.setattr(listing, "hash_id", lambda recording_id: 7)
    assert ids(listed(str(tmp_path))) == ["a.wav", "b.wav"]


def test_librispeech_folders_give_references_and_speakers(place: Place) -> None:
    for recordings in (listed(place(CHAPTER)), listed(f"{place(CHAPTER)}/**/*.flac")):
        assert [(one.reference, one.metadata) for one in recordings] == [
            ("GO ON", {"speaker": "84"}),
            ("HE SAID", {"speaker": "84"}),
        ]


def test_a_single_file_finds_its_reference_too(place: Place) -> None:
    root = place(CHAPTER | {"x.wav": b"1", "x.txt": " two words\n"})
    (chapter,) = listed(f"{root}/84/121123/84-121123-0001.flac")
    assert (chapter.reference, chapter.metadata) == ("HE SAID", {"speaker": "84"})
    assert listed(f"{root}/x.wav")[0].reference == "two words"


def test_sidecar_files_give_references_and_are_not_counted_as_skipped(place: Place) -> None:
    root = place({"a.wav": b"1", "a.txt": "\ufeffHello\n", "b.wav": b"1", "c.wav": b"1", "c.txt": "", "d.txt": "x"})
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    assert {one.recording_id: one.reference for one in listing} == {"a.wav": "Hello", "b.wav": None, "c.wav": ""}
    assert listing.ignored.counts == {".txt": 1}


def test_an_unusable_reference_file_is_skipped(place: Place) -> None:
    root = place({"a.wav": b"1", "a.txt": "grün".encode("latin-1"), "b.wav": b"1", "b.txt": b"x" * 1_000_001})
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    assert [one.reference for one in listing] == [None, None]
    assert listing.ignored.counts == {"reference not in UTF-8": 1, "reference over 1 MB": 1}


def test_references_can_be_disabled(place: Place) -> None:
    assert {one.reference for one in listed(place(CHAPTER), references="none")} == {None}


def test_the_error_of_an_input_without_audio_lists_what_was_found(place: Place) -> None:
    root = place({"a.txt": "x", "b.txt": "x", "c.md": "x"})
    with pytest.raises(InputError, match=r"3 files, none of them audio: \.txt 2, \.md 1"):
        listed(root)
    with pytest.raises(InputError, match=r"1 file, none of them audio: \.txt 1"):
        listed(f"{root}/a.txt")
    with pytest.raises(InputError, match="there are no recordings"):
        listed(f"{root}/*.wav")


def test_the_error_of_a_missing_folder_names_the_nearest_existing_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"input\.uri={tmp_path}/a/b/c.*nearest that exists is {tmp_path}$"):
        listed(f"{tmp_path}/a/b/c")


def test_a_missing_bucket_is_an_input_error(s3_environment: str) -> None:
    for uri in ("s3://no-such-bucket", "s3://no-such-bucket/a/*.wav", "s3://no-such-bucket/a.wav"):
        with pytest.raises(InputError, match="s3://no-such-bucket"):
            listed(uri)


def test_a_store_without_a_response_is_an_input_error(s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    listing = list_recordings(InputConfig(uri=("s3://bucket/a",)), Storage(StorageConfig(max_attempts=1)))
    with pytest.raises(InputError, match=r"input\.uri=s3://bucket/a"):
        list(listing)


def test_real_audio_files_with_unusual_names_are_listed(audio_formats: Path) -> None:
    names = {path.name for path in audio_formats.iterdir()}
    assert "no_extension" in names
    assert set(ids(listed(str(audio_formats)))) == names


def test_files_of_a_folder_stay_together() -> None:
    uris = ["/r/a/1", "/r/a/b/2", "/r/a/b/c/3", "/r/a/c", "/r/ab/4", "/r/z"]
    groups = [[entry.uri for entry in group] for group in group_by_folder(Entry(uri, 0, None) for uri in uris)]
    assert sorted(groups) == [["/r/a/1", "/r/a/c"], ["/r/a/b/2"], ["/r/a/b/c/3"], ["/r/ab/4"], ["/r/z"]]


@given(st.lists(st.integers(0, 200), min_size=1, max_size=60, unique=True), st.integers(1, 9), st.booleans())
def test_batches_of_a_large_folder_keep_files_and_their_texts_together(
    numbers: list[int], most: int, chapters: bool
) -> None:
    names = [f"{n % 3}-{n % 7}-{n:04d}" if chapters else f"{n}" for n in numbers]
    texts = {f"{name.rpartition('-')[0]}.trans.txt" if chapters else f"{name}.txt" for name in names}
    audio_files = sorted({f"{name}.flac" for name in names} | texts)
    portions = list(group_by_folder((Entry(f"/r/{name}", 0, None) for name in audio_files), most))
    assert [entry.uri.removeprefix("/r/") for portion in portions for entry in portion] == audio_files
    for portion in portions:
        found = {entry.uri.removeprefix("/r/") for entry in portion}
        spoken = {name.rpartition("-")[0] if chapters else name.removesuffix(".flac") for name in found}
        assert {text for text in texts if text.partition(".")[0] in spoken} <= found
    longest = max(sum(f"{name}.flac".startswith(text.partition(".")[0]) for name in names) for text in texts)
    assert all(len(portion) <= most + longest + 1 for portion in portions)


def test_a_large_folder_is_listed_in_batches_with_its_references(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_files, "MAX_HELD", 3)
    numbers = range(9)
    sidecars: dict[str, str | bytes] = {f"{n}.txt": f"words {n}" for n in numbers}
    root = place({f"{n}.wav": b"1" for n in numbers} | sidecars | {"deep/x.wav": b"1"})
    recordings = {one.recording_id: one.reference for one in listed(root)}
    assert recordings == {f"{n}.wav": f"words {n}" for n in numbers} | {"deep/x.wav": None}


@pytest.mark.parametrize(
    ("pattern", "root"),
    [("/a/b/*.wav", "/a/b"), ("/a/b*/c/*.wav", "/a"), ("s3://b/**", "s3://b"), ("s3://b/x?/[ab].wav", "s3://b")],
)
def test_a_globs_root_is_the_folder_of_its_fixed_part(pattern: str, root: str) -> None:
    assert glob_root(pattern) == root


def test_durations_are_estimated_by_size_and_name() -> None:
    assert estimate_duration_s("s3://b/a.wav", 320_000) == 10
    assert estimate_duration_s("/a.FLAC", 160_000) == 10
    assert estimate_duration_s("/unknown", None) == 0
