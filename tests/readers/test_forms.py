"""A location finds its form, the run says which, and what no form reads is refused."""

from typing import get_args

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import InputError
from distil_ray.readers import list_recordings
from distil_ray.readers.registry import FORMATS
from distil_ray.storage.storage import Storage
from tests.readers.conftest import Place, listed


def test_every_form_can_be_forced_by_its_name() -> None:
    choices = get_args(InputConfig.model_fields["form"].annotation)
    assert sorted(choices) == sorted(["auto", *(form.name for form in FORMATS)])


def test_what_was_guessed_is_told(place: Place) -> None:
    root = place({"a/1.wav": b"1", "b/2.wav": b"1", "m.jsonl": '{"path": "c.wav"}\n', "call 7": b"1"})
    listing = list_recordings(InputConfig(uri=(f"{root}/a", f"{root}/b", f"{root}/m.jsonl")), Storage())
    assert len(list(listing)) == 3
    assert listing.formats == {"audio files": 2, "manifest": 1}


def test_a_folder_that_looks_like_two_forms_asks_which_and_takes_the_answer(place: Place) -> None:
    root = place({"wav.scp": "u1 1.wav\n", "metadata.csv": "file_name\n1.wav\n", "1.wav": b"1"})
    message = r"looks like several forms: Kaldi data directory \(kaldi\), audiofolder \(audiofolder\).*input\.format"
    with pytest.raises(InputError, match=message):
        listed(root)
    assert [one.recording_id for one in listed(root, format="kaldi")] == ["u1"]
    assert [one.recording_id for one in listed(root, format="audiofolder")] == ["1.wav"]
    assert [one.recording_id for one in listed(root, format="files")] == ["1.wav"]


@pytest.mark.parametrize("name", ["corpus.zip", "talk.7z", "table.xlsx", "raw.ark", "a.srt"])
def test_what_no_form_reads_says_what_was_found_and_what_is_read(place: Place, name: str) -> None:
    root = place({name: b"PK"})
    with pytest.raises(InputError, match=rf"{name}: \.\w+ is not read .*What is read: .*lhotse.*audio files"):
        listed(f"{root}/{name}")
