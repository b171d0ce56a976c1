"""Decoding: the samples of every format, and the errors of files that are not or not completely decoded."""

import io
import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from distil_ray.audio.decode import decode_file
from distil_ray.audio.headers import count_missing_bytes
from distil_ray.audio.pcm import MAX_PIECE_SAMPLES, PCM16, DecodeResult
from distil_ray.errors import ErrorKind
from distil_ray.types import SAMPLE_RATE
from tests.audio.recordings import write_container
from tests.support.audio_formats import DURATION_S, EXPECTED, LOSSLESS, PADDED_S, speech

# The kinds that an `expect` of the corpus allows; None: decoded to the end.
ALLOWED: dict[str, set[ErrorKind | None]] = {
    "ok": {None},
    "error": {
        ErrorKind.EMPTY_FILE,
        ErrorKind.NOT_AUDIO,
        ErrorKind.NO_AUDIO_STREAM,
        ErrorKind.CORRUPT,
    },
    "empty": {ErrorKind.NO_SAMPLES},
    "error_or_partial": {ErrorKind.TRUNCATED, ErrorKind.CORRUPT},
    "error_or_empty": {ErrorKind.NOT_AUDIO, ErrorKind.NO_SAMPLES, ErrorKind.NON_FINITE},
    "error_or_any": {ErrorKind.NON_FINITE},
    "ok_or_empty": {None},
}
PADDED = {"ima-adpcm.wav", "aac-fragmented.mp4", "aac-adts.aac"}  # codecs that fill up their last frame, 0.13 s at most


def decode(path: Path) -> tuple[PCM16, DecodeResult]:
    *pieces, result = decode_file(str(path))
    assert isinstance(result, DecodeResult)
    arrays = [cast(PCM16, piece) for piece in pieces]
    assert all(piece.dtype == np.int16 and 0 <= len(piece) <= MAX_PIECE_SAMPLES for piece in arrays)
    pcm = np.concatenate([np.zeros(0, np.int16), *arrays])
    assert len(pcm) == result.num_samples
    return pcm, result


def manifest(corpus: Path) -> dict[str, dict[str, Any]]:
    lines = (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def similarity(decoded: PCM16, original: PCM16) -> float:
    """Correlation at the best shift, below 3 kHz: what telephone codecs keep."""
    size = len(decoded) + len(original)
    spectra = [np.fft.rfft(pcm.astype(float), size) for pcm in (decoded, original)]
    for spectrum in spectra:
        spectrum[int(3000 / SAMPLE_RATE * size) :] = 0
    norms = [np.linalg.norm(np.fft.irfft(spectrum, size)) for spectrum in spectra]
    return float(np.fft.irfft(spectra[0] * spectra[1].conj(), size).max() / (norms[0] * norms[1]))


def test_every_file_of_the_corpus_decodes_as_its_manifest_expects(corpus: Path) -> None:
    clips = manifest(corpus)
    for clip in clips.values():
        if clip["set"] == "long":
            continue
        pcm, result = decode(corpus / clip["uri"])
        expect = clip.get("expect", "ok")
        assert result.error_kind in ALLOWED[expect], (clip["uri"], result)
        assert (result.error is None) == (result.error_kind is None)
        if expect.startswith("ok"):
            tolerance_s = 0.13 if Path(clip["uri"]).name in PADDED else 0.1
            assert abs(len(pcm) / SAMPLE_RATE - clip["duration_s"]) <= tolerance_s, clip["uri"]
        elif expect == "error":
            assert len(pcm) == 0
        else:
            assert len(pcm) <= SAMPLE_RATE * (clip["duration_s"] or 0)


def test_every_odd_format_sounds_like_its_original(corpus: Path) -> None:
    clips = manifest(corpus)
    compared = 0
    for clip in clips.values():
        source = re.search(r" from (\S+)$", clip["source"] or "")
        if clip["set"] == "odd_formats" and source is not None:
            original, _ = decode(corpus / clips[source[1]]["uri"])
            decoded, _ = decode(corpus / clip["uri"])
            assert similarity(decoded, original) > 0.95, clip["uri"]
            compared += 1
    assert compared > 60


def test_every_format_decodes_as_expected_and_sounds_like_its_original(audio_formats: Path) -> None:
    for name, expected in EXPECTED.items():
        pcm, result = decode(audio_formats / name)
        if expected == "ok":
            assert result.error_kind is None, (name, result)
            assert abs(len(pcm) / SAMPLE_RATE - DURATION_S) <= PADDED_S, name
            assert similarity(pcm, speech()) > 0.9, name
        elif expected == "error":
            assert result.error_kind in (ErrorKind.EMPTY_FILE, ErrorKind.NOT_AUDIO) and len(pcm) == 0, name
        else:
            assert result.error_kind is (ErrorKind.TRUNCATED if expected == "partial" else ErrorKind.NO_SAMPLES), name


def test_a_16_bit_16_khz_mono_file_is_decoded_to_its_own_samples(tmp_path: Path) -> None:
    pcm = speech()
    pcm[:2] = -32_768, 32_767
    for name in ("a.wav", "a.flac", "a.aiff", "a.w64", "a.caf", "a.au", "a.rf64"):
        soundfile.write(tmp_path / name, pcm, SAMPLE_RATE, subtype="PCM_16")
        decoded, result = decode(tmp_path / name)
        assert np.array_equal(decoded, pcm), name
        assert result == DecodeResult(len(pcm), None, None)


def test_two_equal_channels_are_decoded_to_their_own_samples(tmp_path: Path) -> None:
    pcm = speech()
    soundfile.write(tmp_path / "a.wav", np.stack([pcm, pcm], axis=1), SAMPLE_RATE, subtype="PCM_16")
    assert np.array_equal(decode(tmp_path / "a.wav")[0], pcm)


def test_lossless_formats_that_only_libav_reads_are_decoded_exactly(audio_formats: Path) -> None:
    for name in LOSSLESS:
        assert np.array_equal(decode(audio_formats / name)[0], speech()), name


def test_the_file_name_does_not_matter(audio_formats: Path, tmp_path: Path) -> None:
    for name in ("x.raw", "x.gsm", "x.vox", "x.mp3", "x", "x.m3u8", "-"):
        shutil.copy(audio_formats / "pcm-s16.wav", tmp_path / name)
        pcm, result = decode(tmp_path / name)
        assert result.error_kind is None
        assert np.array_equal(pcm, speech())


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"", ErrorKind.EMPTY_FILE, "zero bytes"),
        (b"<!DOCTYPE html><p>404", ErrorKind.NOT_AUDIO, "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ErrorKind.NOT_AUDIO, "Git LFS"),
        (b"#EXTM3U\n#EXTINF:10,\n/etc/passwd\n", ErrorKind.NOT_AUDIO, "a playlist"),
        ("Zwölf Boxkämpfer".encode(), ErrorKind.NOT_AUDIO, "plain text"),
        (bytes(3000), ErrorKind.NOT_AUDIO, "zero bytes"),
        (b"PK\x03\x04" + bytes(range(256)), ErrorKind.NOT_AUDIO, "a ZIP archive"),
        (b"\xde\xad\xbe\xef" * 99, ErrorKind.NOT_AUDIO, "de ad be ef"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00", ErrorKind.CORRUPT, "begins like audio"),
        (b"OggS" + bytes(60), ErrorKind.CORRUPT, "begins like audio"),
    ],
)
def test_files_without_audio_are_recognized(tmp_path: Path, content: bytes, kind: ErrorKind, words: str) -> None:
    (tmp_path / "a.flac").write_bytes(content)
    pcm, result = decode(tmp_path / "a.flac")
    assert len(pcm) == 0
    assert result.error_kind is kind
    assert words in (result.error or "")


def write_speech(path: Path, **options: Any) -> None:
    """8 s of the clip, again and again."""
    pcm = np.tile(speech(), 4)[: 8 * SAMPLE_RATE]
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1, **options) as file:
        for start in range(0, len(pcm), SAMPLE_RATE):
            file.write(pcm[start : start + SAMPLE_RATE])


CUT = {
    "a.wav": {"format": "WAV"},
    "a.rf64": {"format": "RF64"},
    "a.aiff": {"format": "AIFF"},
    "a.au": {"format": "AU"},
    "a.caf": {"format": "CAF"},
    "a.w64": {"format": "W64"},
    "a.flac": {"format": "FLAC"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.ogg": {"format": "OGG", "subtype": "VORBIS"},
    "a.mp3": {"format": "MP3"},
}


@pytest.mark.parametrize("name", CUT)
def test_a_truncated_file_becomes_a_partial_recording(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_speech(path, **CUT[name])
    whole, result = decode(path)
    assert result.error_kind is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    part, result = decode(path)
    assert result.error_kind is ErrorKind.TRUNCATED, result
    assert 0.3 * len(whole) < len(part) < 0.8 * len(whole)
    if name != "a.mp3":
        assert similarity(part, whole[: len(part)]) > 0.95


@pytest.mark.parametrize("name", ["aac-faststart.m4a", "video.mkv", "audio.webm", "flac-in-ogg.oga"])
def test_a_truncated_container_becomes_a_partial_recording(audio_formats: Path, tmp_path: Path, name: str) -> None:
    whole = (audio_formats / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 6 // 10])
    pcm, result = decode(tmp_path / name)
    assert result.error_kind is ErrorKind.TRUNCATED
    assert len(pcm) > 0.3 * SAMPLE_RATE


def test_a_file_that_is_cut_in_a_packet_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.caf"
    write_container(path, "adpcm_ima_qt", speech())
    whole, _ = decode(path)
    content = path.read_bytes()
    size = len(content) * 6 // 10
    for cut in range(size, size + 34, 6):  # packets of 34 bytes
        path.write_bytes(content[:cut])
        part, result = decode(path)
        assert result.error_kind is ErrorKind.TRUNCATED, (cut, result)
        assert 0.5 * len(whole) < len(part) < 0.7 * len(whole)


@pytest.mark.parametrize("codec", ["pcm_s16le", "mp2", "libmp3lame"])
def test_an_avi_that_is_cut_is_truncated(tmp_path: Path, codec: str) -> None:
    """Without the index at its end, libav takes an AVI to be as long as what is left of it."""
    path = tmp_path / "a.avi"
    write_container(path, codec, speech(), video_s=DURATION_S)
    whole, result = decode(path)
    assert result.error_kind is None
    content = path.read_bytes()
    for tenths in (6, 9):
        path.write_bytes(content[: len(content) * tenths // 10])
        part, result = decode(path)
        assert result.error_kind is ErrorKind.TRUNCATED, (tenths, result)
        assert len(part) < len(whole)


def test_avis_of_several_parts_or_of_unknown_size_are_not_truncated() -> None:
    part = b"RIFF" + struct.pack("<I4s", 5004, b"AVI ") + bytes(5000)
    further = b"RIFF" + struct.pack("<I4s", 5004, b"AVIX") + bytes(5000)
    for content in (part, part + further, part + further + further + b"trailing bytes"):
        assert count_missing_bytes(io.BytesIO(content), len(content)) == 0
    assert count_missing_bytes(io.BytesIO(part + further[:3000]), len(part) + 3000) == len(further) - 3000
    for size in (0, 0xFFFF_FFFF):  # written to a pipe
        content = b"RIFF" + struct.pack("<I4s", size, b"AVI ") + bytes(5000)
        assert count_missing_bytes(io.BytesIO(content), len(content)) == 0


def test_damage_in_the_middle_is_skipped_and_reported(tmp_path: Path) -> None:
    for name in ("a.flac", "a.mp3"):
        path = tmp_path / name
        write_speech(path, **CUT[name])
        whole, _ = decode(path)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = np.random.default_rng(5).bytes(3000)
        path.write_bytes(content)
        pcm, result = decode(path)
        assert result.error_kind is ErrorKind.CORRUPT, (name, result)
        assert len(pcm) > 0.85 * len(whole)
        assert similarity(pcm[:40_000], whole[:40_000]) > 0.99
        assert similarity(pcm[-40_000:], whole[-40_000:]) > 0.95


def test_tags_behind_the_last_frame_of_an_mp3_are_not_damage(audio_formats: Path, tmp_path: Path) -> None:
    mp3 = (audio_formats / "mp3-vbr-no-xing.mp3").read_bytes()
    item = struct.pack("<II", 3, 0) + b"Title\0" + b"abc"
    footer = b"APETAGEX" + struct.pack("<IIII8x", 2000, len(item) + 32, 1, 0)
    for tag in (footer + item + footer, b"TAG" + b"title".ljust(125, b"\0")):
        (tmp_path / "a.mp3").write_bytes(mp3 + tag)
        pcm, result = decode(tmp_path / "a.mp3")
        assert result.error_kind is None, result
        assert abs(len(pcm) / SAMPLE_RATE - 2.04) < 0.1


def test_joined_mp3s_are_decoded_to_the_end(audio_formats: Path, tmp_path: Path) -> None:
    clip = (audio_formats / "mp3-cbr64.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(clip * 5)
    pcm, result = decode(tmp_path / "a.mp3")
    assert result.error_kind is None, result
    assert len(pcm) > 5 * 1.95 * SAMPLE_RATE


def test_sizes_that_a_pipe_left_open_are_ignored(audio_formats: Path, tmp_path: Path) -> None:
    wav = bytearray((audio_formats / "pcm-s16.wav").read_bytes())
    at = wav.index(b"data") + 4
    for size in (0, 0x7FFF_FFFF, 0x7FFF_F000, 0xFFFF_FFFF):
        wav[at : at + 4] = struct.pack("<I", size)
        (tmp_path / "a.wav").write_bytes(wav)
        pcm, result = decode(tmp_path / "a.wav")
        assert result.error_kind is None
        assert np.array_equal(pcm, speech())


def test_nan_becomes_silence_and_is_reported(tmp_path: Path) -> None:
    tone: NDArray[np.float32] = (0.5 * np.sin(np.arange(100_000) / 10)).astype(np.float32)
    tone[:60_000] = np.nan  # longer than a block
    tone[70_000] = np.inf
    soundfile.write(tmp_path / "a.wav", tone, SAMPLE_RATE, subtype="FLOAT")
    pcm, result = decode(tmp_path / "a.wav")
    assert result.error_kind is ErrorKind.NON_FINITE
    assert result.quality_flags == ("non_finite",)
    assert "60001 samples" in (result.error or "")
    assert len(pcm) == 100_000
    assert not pcm[:60_000].any()
    assert pcm[70_000] == 0
    assert pcm[60_001:60_100].any()


def test_float_samples_beyond_full_scale_are_limited_and_flagged(tmp_path: Path) -> None:
    loud = (3 * np.sin(np.arange(50_000) / 10)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", loud, SAMPLE_RATE, subtype="FLOAT")
    pcm, result = decode(tmp_path / "a.wav")
    assert (pcm.min(), pcm.max()) == (-32_768, 32_767)
    assert result.error_kind is None
    assert result.quality_flags == ("clipped",)


def test_an_impossible_sample_rate_is_refused(audio_formats: Path, tmp_path: Path) -> None:
    wav = bytearray((audio_formats / "pcm-s16.wav").read_bytes())
    at = wav.index(b"fmt ") + 12
    for rate in (0, 1, 2_000_000_000):
        wav[at : at + 4] = struct.pack("<I", rate)
        (tmp_path / "a.wav").write_bytes(wav)
        pcm, result = decode(tmp_path / "a.wav")
        assert len(pcm) == 0
        assert result.error_kind is ErrorKind.CORRUPT


def test_antiphase_stereo_keeps_its_level_and_is_flagged(audio_formats: Path) -> None:
    pcm, result = decode(audio_formats / "stereo-antiphase.wav")
    assert result.quality_flags == ("antiphase",)
    assert result.error_kind is None
    assert np.abs(pcm).max() > 1000
