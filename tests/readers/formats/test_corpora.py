"""LJSpeech, Common Voice, VCTK and audiofolders."""

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import InputError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from tests.readers.conftest import Place, ids, listed

LJSPEECH = 'LJ001-0001|Printing, in the "only sense"|Printing, in the "only sense"\nLJ001-0002|in 1455|in fourteen\n'


def test_ljspeech_gives_the_normalized_text_of_every_line(place: Place) -> None:
    root = place({"metadata.csv": LJSPEECH, "wavs/LJ001-0001.wav": b"1", "wavs/LJ001-0002.wav": b"12"})
    for uri in (root, f"{root}/metadata.csv"):
        first, second = listed(uri)
        assert (first.recording_id, first.uri) == ("LJ001-0001", f"{root}/wavs/LJ001-0001.wav")
        assert (first.reference, second.reference) == ('Printing, in the "only sense"', "in fourteen")
        assert (first.source_size, second.source_size) == (1, 2)


def test_ljspeech_without_a_normalized_text_uses_the_first(place: Place) -> None:
    root = place({"metadata.csv": "a-1|one\na-2|two|\n", "wavs/a-1.wav": b"1", "wavs/a-2.wav": b"1"})
    assert [one.reference for one in listed(root)] == ["one", "two"]
    root = place({"metadata.csv": b"a-1|one\nno bars\na-3|caf\xe9|\na-4|two\n"})
    found = listed(root)
    assert [one.reference for one in found] == ["one", None, None, "two"]
    words = [
        f"{root}/metadata.csv line {number}: expected ID|text|normalized text in UTF-8, found " for number in (2, 3)
    ]
    assert [one.error for one in found[1:3]] == [f"{words[0]}'no bars'", f"{words[1]}'a-3|caf\\\\udce9|'"]


COMMON_VOICE: dict[str, str | bytes] = {
    "train.tsv": "client_id\tpath\tsentence\tup_votes\tgender\tlocale\n"
    'c0ffee\tcommon_voice_sv_1.mp3\tHan sa "nej\t2\tfemale\tsv-SE\n'
    "decade\tcommon_voice_sv_2.mp3\t\t0\t\tsv-SE\n",
    "dev.tsv": "client_id\tpath\tsentence\n",
    "clips/common_voice_sv_1.mp3": b"123",
    "clips/common_voice_sv_2.mp3": b"1",
}


def test_a_common_voice_table_names_clips_speakers_and_languages(place: Place) -> None:
    root = place(COMMON_VOICE)
    listing = list_recordings(InputConfig(uri=(f"{root}/train.tsv",)), Storage())
    first, second = listing
    assert (first.uri, first.source_size) == (f"{root}/clips/common_voice_sv_1.mp3", 3)
    assert (first.reference, first.language) == ('Han sa "nej', "sv")
    assert first.metadata == {"speaker": "c0ffee", "up_votes": "2", "gender": "female"}
    assert (second.reference, second.metadata["speaker"]) == (None, "decade")
    assert listing.formats == {"Common Voice table": 1}


def test_a_common_voice_folder_is_an_error_that_lists_its_tables(place: Place) -> None:
    with pytest.raises(InputError, match=r"folder of Common Voice.* Name one of its tables: train\.tsv, dev\.tsv"):
        listed(place(COMMON_VOICE))


VCTK: dict[str, str | bytes] = {
    "wav48_silence_trimmed/p225/p225_001_mic1.flac": b"1",
    "wav48_silence_trimmed/p225/p225_001_mic2.flac": b"12",
    "wav48_silence_trimmed/s5/s5_002_mic1.flac": b"1",
    "txt/p225/p225_001.txt": "Please call Stella.\n",
    "speaker-info.txt": "ID  AGE  GENDER  ACCENTS  REGION\np225  23  F    English    Southern  England\n",
}


def test_vctk_gives_both_microphones_the_text_and_the_speaker(place: Place) -> None:
    root = place(VCTK)
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    first, second, third = sorted(listing, key=lambda one: one.recording_id)
    assert first.recording_id == "wav48_silence_trimmed/p225/p225_001_mic1.flac"
    assert first.reference == second.reference == "Please call Stella."
    known = {"speaker": "p225", "age": "23", "gender": "F", "accent": "English"}
    assert (first.metadata, second.metadata) == (known | {"microphone": "mic1"}, known | {"microphone": "mic2"})
    assert (third.reference, third.metadata) == (None, {"speaker": "s5", "microphone": "mic1"})
    assert (listing.formats, listing.ignored.counts) == ({"VCTK": 1}, {})


def test_the_older_vctk_layout_is_read(place: Place) -> None:
    table = "ID  AGE  GENDER  ACCENTS\n225  23  F    English\n"
    files: dict[str, str | bytes] = {
        "wav48/p225/p225_001.wav": b"1",
        "txt/p225/p225_001.txt": "Please call",
        "speaker-info.txt": table,
    }
    (only,) = listed(place(files))
    assert (only.recording_id, only.reference) == ("wav48/p225/p225_001.wav", "Please call")
    assert only.metadata == {"speaker": "p225", "age": "23", "gender": "F", "accent": "English"}


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("metadata.jsonl", '{"file_name": "x/1.flac", "transcription": "go on", "mood": "calm"}\n'),
        ("metadata.csv", "file_name,transcription,mood\nx/1.flac,go on,calm\n"),
    ],
)
def test_a_folder_with_metadata_is_an_audiofolder(place: Place, name: str, table: str) -> None:
    root = place({name: table, "x/1.flac": b"1", "x/unnamed.flac": b"1"})
    listing = list_recordings(InputConfig(uri=(root,)), Storage())
    (only,) = listing
    assert (only.recording_id, only.uri) == ("x/1.flac", f"{root}/x/1.flac")
    assert (only.reference, only.metadata) == ("go on", {"mood": "calm"})
    assert listing.formats == {"audiofolder": 1}


def test_a_table_that_names_no_files_does_not_make_an_audiofolder(place: Place) -> None:
    assert ids(listed(place({"metadata.csv": "id,words\n1,x\n", "a.wav": b"1"}))) == ["a.wav"]
