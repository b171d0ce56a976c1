"""Kaldi's data directories become recordings; their commands are refused."""

from pathlib import Path

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import InputError
from distil_ray.schema import Place as Part
from distil_ray.sources import list_recordings
from distil_ray.storage import Storage
from tests.sources.conftest import Place, listed

WHOLE: dict[str, str | bytes] = {
    "wav.scp": "u1 audio/a.wav\nu2 audio/b c.wav\nu3 audio/gone.wav\n",
    "text": "u1 GO ON\nu2\n",
    "utt2spk": "u1 s1\nu2 s2\nu3 s2\n",
    "spk2gender": "s1 f\n",
    "utt2lang": "u1 English\n",
    "utt2dur": "u1 2.5\n",
    "audio/a.wav": b"12345",
    "audio/b c.wav": b"1",
}


def test_every_line_of_wav_scp_is_a_recording_with_what_the_other_lists_tell(place: Place) -> None:
    root = place(WHOLE)
    for uri in (root, f"{root}/wav.scp"):
        first, second, third = listed(uri)
        assert (first.recording_id, first.uri, first.source_size) == ("u1", f"{root}/audio/a.wav", 5)
        assert (first.reference, first.language, first.duration_s) == ("GO ON", "en", 2.5)
        assert first.metadata == {"speaker": "s1", "gender": "f"}
        assert (second.uri, second.reference, second.metadata) == (f"{root}/audio/b c.wav", "", {"speaker": "s2"})
        assert (third.source_size, third.reference) == (None, None)


def test_segments_are_parts_of_their_recordings(place: Place) -> None:
    lists = {"wav.scp": "r audio/a.wav\n", "segments": "u1 r 0.5 2.0\nu2 r 2.0 -1\n", "text": "u1 GO\nu2 ON\n"}
    root = place({"audio/a.wav": b"12345", **lists})
    first, second = listed(root)
    assert (first.place, first.duration_s, first.reference) == (Part(start_s=0.5, length_s=1.5), 1.5, "GO")
    assert (second.place, second.duration_s, second.reference) == (Part(start_s=2.0), None, "ON")
    assert first.uri == second.uri == f"{root}/audio/a.wav"
    assert first.source_version != second.source_version


def test_texts_of_no_recording_are_counted(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("b x.wav\n")
    (tmp_path / "text").write_text("a ONE\nb TWO\nc THREE\n")
    listing = list_recordings(InputConfig(uri=(str(tmp_path),)), Storage())
    assert [one.reference for one in listing] == ["TWO"]
    assert listing.ignored.counts == {"text without a recording": 2}
    assert listing.forms == {"Kaldi data directory": 1}


def test_a_command_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (tmp_path / "wav.scp").write_text(f"u1 touch {witness} |\n")
    with pytest.raises(InputError, match=r"wav\.scp line 1: 'touch .*' is a command, and lists are never run here"):
        listed(str(tmp_path), allow_outside=True)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"wav.scp": "u1 /etc/passwd\n"}, r"wav\.scp line 1: .* lies outside of .* set input\.allow_outside=true"),
        ({"wav.scp": "u1 raw.ark:17\n"}, "line 1: 'raw.ark:17' is no audio file"),
        ({"wav.scp": "u2 a.wav\nu1 b.wav\n"}, "line 2: 'u1' stands behind 'u2'. Kaldi wants its lists sorted"),
        ({"wav.scp": "u1 a.wav\nu1 b.wav\n"}, "line 2: 'u1' stands behind 'u1'"),
        ({"wav.scp": "u1 a.wav\n", "text": "u2 x\nu1 y\n"}, r"text line 2: 'u1' stands behind 'u2'"),
        ({"wav.scp": "r a.wav\n", "segments": "u1 q 0 1\n"}, r"segments line 1: wav\.scp has no recording 'q'"),
        ({"wav.scp": "r a.wav\n", "segments": "u1 r 3 1\n"}, "segments line 1: expected utterance, recording"),
        ({"wav.scp": "r a.wav\n", "segments": "u1 r nan 1\n"}, "segments line 1: expected utterance, recording"),
        ({"wav.scp": "r a.wav\n", "segments": "u1 r\n"}, "segments line 1: expected utterance, recording"),
        ({"wav.scp": "u1 a.wav\n", "utt2dur": "u1 long\n"}, "utt2dur of 'u1': duration must be seconds, found 'long'"),
    ],
)
def test_what_cannot_be_listed_is_an_error_with_its_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        listed(str(tmp_path))
