"""Kaldi data directories; commands in wav.scp are errors."""

from pathlib import Path

import pytest

from distil_ray.config import InputConfig
from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation as Part
from tests.readers.conftest import Place, listed

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


def test_every_line_of_wav_scp_is_a_recording(place: Place) -> None:
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
    assert (first.location, first.duration_s, first.reference) == (Part(start_s=0.5, length_s=1.5), 1.5, "GO")
    assert (second.location, second.duration_s, second.reference) == (Part(start_s=2.0), None, "ON")
    assert first.uri == second.uri == f"{root}/audio/a.wav"
    assert first.source_version != second.source_version


def test_texts_without_a_recording_are_counted(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("b x.wav\n")
    (tmp_path / "text").write_text("a ONE\nb TWO\nc THREE\n")
    listing = list_recordings(InputConfig(uri=(str(tmp_path),)), Storage())
    assert [one.reference for one in listing] == ["TWO"]
    assert listing.ignored.counts == {"text without a recording": 2}
    assert listing.formats == {"Kaldi data directory": 1}


def test_a_command_is_refused_and_not_run(tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (tmp_path / "wav.scp").write_text(f"u1 touch {witness} |\n")
    with pytest.raises(InputError, match=r"wav\.scp line 1: 'touch .*' is a command"):
        listed(str(tmp_path), allow_external_paths=True)
    assert not witness.exists()


def test_paths_may_be_relative_to_base_dir(place: Place) -> None:
    lists = {"wav.scp": "u1 downloads/a.wav\nu2 b.wav\nu3 c.wav\n", "text": "u1 GO\nu2 ON\nu3 NOW\n"}
    recipe: dict[str, str | bytes] = {f"dump/raw/test/{name}": text for name, text in lists.items()}
    root = place(recipe | {"downloads/a.wav": b"12", "dump/raw/test/b.wav": b"123", "b.wav": b"1", "c.wav": b"1234"})
    folder = f"{root}/dump/raw/test"
    first, second, third = listed(folder, base_dir=root)
    assert (first.uri, first.source_size, first.reference) == (f"{root}/downloads/a.wav", 2, "GO")
    assert (second.uri, second.source_size) == (f"{folder}/b.wav", 3)  # the list's own folder comes first
    assert (third.uri, third.source_size) == (f"{root}/c.wav", 4)
    assert Storage().read(first.uri) == b"12"


def test_the_error_of_a_missing_path_names_the_searched_folders(place: Place) -> None:
    root = place({"data/wav.scp": "u1 wavs/gone.wav\n", "other/x.wav": b"1"})
    (alone,) = listed(f"{root}/data")
    assert (alone.uri, alone.source_size, alone.error) == (f"{root}/data/wavs/gone.wav", None, None)
    (both,) = listed(f"{root}/data", base_dir=f"{root}/other/")
    message = "'wavs/gone.wav': there is no such file; it was looked for in"
    assert (both.uri, both.error_kind) == (f"{root}/data/wavs/gone.wav", ErrorKind.NOT_FOUND)
    assert both.error == f"{message} {root}/data and in {root}/other (input.base_dir)"


def test_absolute_paths_and_urls_are_not_searched_in_base_dir(tmp_path: Path) -> None:
    for name in ("base/in/a.wav", "base/a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "in").mkdir()
    for path in (f"{tmp_path}/in/a.wav", f"file://{tmp_path}/in/a.wav"):
        (tmp_path / "in" / "wav.scp").write_text(f"u1 {path}\n")
        (recording,) = listed(f"{tmp_path}/in", base_dir=f"{tmp_path}/base")
        assert (recording.uri, recording.source_size) == (f"{tmp_path}/in/a.wav", None)


def test_base_dir_does_not_allow_paths_outside_of_it(tmp_path: Path) -> None:
    (tmp_path / "recipe" / "data").mkdir(parents=True)
    (tmp_path / "secret.wav").write_bytes(b"1")
    for path in ("../secret.wav", f"{tmp_path}/secret.wav", "../../secret.wav"):
        (tmp_path / "recipe" / "data" / "wav.scp").write_text(f"u1 {path}\n")
        if path == "../secret.wav":  # below the recipe, seen from the list
            assert listed(f"{tmp_path}/recipe/data", base_dir=f"{tmp_path}/recipe")[0].source_size is None
            continue
        with pytest.raises(InputError, match=rf"lies outside of {tmp_path}/recipe/data and {tmp_path}/recipe\. If"):
            listed(f"{tmp_path}/recipe/data", base_dir=f"{tmp_path}/recipe")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"wav.scp": "u1 /etc/passwd\n"},
            r"wav\.scp line 1: .* lies outside of .* set input\.allow_external_paths=true",
        ),
        ({"wav.scp": "u1 raw.ark:17\n"}, "line 1: 'raw.ark:17' is not an audio file"),
        ({"wav.scp": "u2 a.wav\nu1 b.wav\n"}, "line 2: 'u1' comes after 'u2'"),
        ({"wav.scp": "u1 a.wav\nu1 b.wav\n"}, "line 2: 'u1' comes after 'u1'"),
        ({"wav.scp": "u1 a.wav\n", "text": "u2 x\nu1 y\n"}, r"text line 2: 'u1' comes after 'u2'"),
    ],
)
def test_what_cannot_be_listed_is_an_error_with_its_line(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        listed(str(tmp_path))


@pytest.mark.parametrize(
    ("segment", "words"),
    [
        ("q 0 1", "wav.scp has no recording 'q'"),
        (
            "r 3 1",
            "expected utterance, recording, start and end in seconds, and perhaps a channel from 0; found 'r 3 1'",
        ),
        ("r nan 1", "(from nan s to 1 s)"),
        ("r 0 nan", "(from 0 s to nan s)"),
        ("r -1 2", "out of range"),
        ("r 0 -2", "(from 0 s to -2 s)"),
        ("r 0 0", "(from 0 s to 0 s)"),
        ("r", "found 'r'"),
        ("r abc 1", "'abc'"),
        ("r 0 1 A", "channel 'A'"),
        ("r 0 1 -1", "channel '-1'"),
        ("r 0 1 9999999999", "channel '9999999999'"),
        ("r 0 1 0 0", "1 columns too many"),
    ],
)
def test_an_invalid_segment_fails_alone(tmp_path: Path, segment: str, words: str) -> None:
    (tmp_path / "wav.scp").write_text("r a.wav\n")
    (tmp_path / "segments").write_text(f"u0 r 0 1\nu1 {segment}\nu2 r -1e-9 2\n")
    (tmp_path / "text").write_text("u0 A\nu1 B\nu2 C\n")
    before, wrong, behind = listed(str(tmp_path))
    assert (wrong.recording_id, wrong.error_kind) == ("u1", ErrorKind.INVALID_ROW)
    assert str(wrong.error).startswith(f"{tmp_path}/segments line 2: ") and words in str(wrong.error)
    assert (before.error, before.reference) == (None, "A")
    assert (behind.error, behind.reference, behind.location) == (None, "C", Part(start_s=0.0, length_s=2.0))


@pytest.mark.parametrize(
    ("line", "files", "words"),
    [
        ("b.wav", {"utt2dur": "u1 2\nu2 long\n"}, "utt2dur of 'u2': duration must be seconds, found 'long'"),
        ("b.wav", {"utt2dur": "u2 -3\n"}, "duration must be seconds, found '-3'"),
        ("b.wav", {"text": "u2 \udce4\n"}, "text of 'u2' is not UTF-8"),
        ("\udce4.wav", {}, "is not UTF-8"),
        ("sox b.wav -t wav - |", {}, "is a command"),
        ("raw.ark:17", {}, "'raw.ark:17' is not an audio file"),
    ],
)
def test_an_invalid_recording_fails_alone(tmp_path: Path, line: str, files: dict[str, str], words: str) -> None:
    for name, text in {"wav.scp": f"u1 a.wav\nu2 {line}\nu3 c.wav\n", **files}.items():
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    found = listed(str(tmp_path))
    assert [one.error_kind for one in found] == [None, ErrorKind.INVALID_ROW, None]
    assert found[1].recording_id == "u2" and words in str(found[1].error)


def test_the_fifth_column_of_segments_is_the_channel(place: Place) -> None:
    lists = {"wav.scp": "r audio/a.wav\n", "segments": "u1 r 0.5 2.0 0\nu2 r 2.0 -1 1\nu3 r 2.0 -1\n"}
    root = place({"audio/a.wav": b"12345", "reco2file_and_channel": "r r A\n", **lists})
    found = listed(root)
    assert [one.location for one in found] == [
        *(Part(start_s=0.5, length_s=1.5, channel=0), Part(start_s=2.0, channel=1), Part(start_s=2.0))
    ]
    assert len({one.source_version for one in found}) == 3
    assert [one.location for one in listed(root, channels="split")] == [one.location for one in found]


@pytest.mark.parametrize("sides", ["AB", "12"])
def test_recordings_that_share_a_file_are_its_channels(tmp_path: Path, sides: str) -> None:
    (tmp_path / "wav.scp").write_text("c-a c.wav\nc-b c.wav\nd d.wav\ne-a e.wav\n")
    mapping = f"c-a c {sides[0]}\nc-b c {sides[1]}\nd d {sides[0]}\ne-a e {sides[1]}\n"
    (tmp_path / "reco2file_and_channel").write_text(mapping)
    assert [one.location for one in listed(str(tmp_path))] == [Part(channel=0), Part(channel=1), None, None]
    (tmp_path / "segments").write_text("u1 c-b 0 1\nu2 c-b 0 1 0\nu3 d 0 1\n")
    channels = [one.location.channel if one.location else None for one in listed(str(tmp_path))]
    assert channels == [1, 0, None]
