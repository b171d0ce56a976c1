"""All audio of a file is decoded, whatever its header says; what follows is not taken for audio."""

import os
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from distil_ray.audio.ogg import MAX_PAGE, find_sections
from distil_ray.audio.pcm import PCM16
from distil_ray.audio.segments import AudioSegment
from distil_ray.errors import ErrorKind
from tests.audio.recordings import S, assert_found_at, at_rate, decode, encoded, noise, write_container

A, B = noise(3, seed=1), noise(2, seed=2)
TAG = b"TAG" + b"title".ljust(125, b"\0")
ID3 = b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)

JOINED: Mapping[str, tuple[bytes, bytes]] = {
    "opus, opus of two channels": (encoded(A, "OGG", "OPUS"), encoded(B, "OGG", "OPUS", 48_000, 2)),
    "vorbis, vorbis of another rate": (encoded(A, "OGG", "VORBIS"), encoded(B, "OGG", "VORBIS", 44_100, 2)),
    "vorbis, opus": (encoded(A, "OGG", "VORBIS"), encoded(B, "OGG", "OPUS")),
    "opus, wav": (encoded(A, "OGG", "OPUS"), encoded(B, "WAV")),
    "flac, flac of another rate": (encoded(A, "FLAC"), encoded(B, "FLAC", "PCM_24", 48_000, 2)),
    "flac, tag, flac": (encoded(A, "FLAC") + ID3, encoded(B, "FLAC")),
    "tag, flac, flac": (ID3 + encoded(A, "FLAC"), encoded(B, "FLAC")),
    "flac, wav": (encoded(A, "FLAC"), encoded(B, "WAV")),
    "wav, wav of another coding": (encoded(A, "WAV"), encoded(B, "WAV", "ULAW", 8_000)),
    "wav, flac": (encoded(A, "WAV"), encoded(B, "FLAC")),
    "aiff, aiff": (encoded(A, "AIFF"), encoded(B, "AIFF")),
    "caf, caf": (encoded(A, "CAF"), encoded(B, "CAF")),
    "w64, w64": (encoded(A, "W64"), encoded(B, "W64")),
    "au, au": (encoded(A, "AU"), encoded(B, "AU")),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_streams_are_all_decoded(tmp_path: Path, name: str) -> None:
    path = tmp_path / "joined"
    path.write_bytes(b"".join(JOINED[name]))
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert abs(len(pcm) / S - 5) < 0.1
    assert_found_at(0, A, pcm)
    assert_found_at(3, B, pcm)
    part, result = decode(path, AudioSegment(int(3.5 * S), S))
    assert result.error_kind is None
    assert np.array_equal(part, pcm[int(3.5 * S) : int(4.5 * S)])


@pytest.mark.parametrize(
    ("name", "codec", "rate", "form"),
    [
        ("a.m4a", "aac", 16_000, "mp4"),
        ("a.webm", "libopus", 48_000, None),
        ("a.mkv", "libmp3lame", 44_100, None),
        ("a.wma", "wmav2", 44_100, "asf"),
        ("a.flv", "libmp3lame", 44_100, None),
        ("a.tta", "tta", 16_000, None),
        ("a.aac", "aac", 16_000, "adts"),
        ("a.mp3", "libmp3lame", 16_000, None),
    ],
)
def test_joined_containers_that_only_libav_reads_are_all_decoded(
    tmp_path: Path, name: str, codec: str, rate: int, form: str | None
) -> None:
    path = tmp_path / name
    write_container(path, codec, A, rate=rate, form=form)
    first = path.read_bytes()
    write_container(path, codec, B, rate=rate, form=form)
    path.write_bytes(first + path.read_bytes())
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert abs(len(pcm) / S - 5) < 0.3
    assert_found_at(0.5, A[S // 2 :], pcm, 0.1)
    assert_found_at(3, B, pcm, 0.3)


@pytest.mark.parametrize("tail", [TAG, ID3, bytes(3000), bytes(range(256)) * 2])
@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "AIFF"])
def test_bytes_behind_the_audio_are_neither_audio_nor_damage(tmp_path: Path, form: str, tail: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(A, form))
    alone, _ = decode(path)
    path.write_bytes(encoded(A, form) + tail)
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert np.array_equal(pcm, alone)


def test_chunks_behind_the_samples_are_not_audio(tmp_path: Path) -> None:
    chunks = b"".join(name + struct.pack("<I", 3000) + bytes(range(250)) * 12 for name in (b"LIST", b"id3 ", b"_PMX"))
    path = tmp_path / "a.wav"
    path.write_bytes(encoded(A, "WAV") + chunks)
    pcm, result = decode(path)
    assert result.error_kind is None
    assert np.array_equal(pcm, A)
    path.write_bytes(encoded(A, "WAV") + chunks + encoded(B, "WAV"))
    assert np.array_equal(decode(path)[0], np.concatenate([A, B]))


def _with(content: bytes, *fields: tuple[int, str, int]) -> bytes:
    changed = bytearray(content)
    for at, form, value in fields:
        struct.pack_into(form, changed, at, value)
    return bytes(changed)


def _sizes(length: int) -> dict[str, bytes]:
    """A recording in each container, whose sizes are those of `length` bytes of samples, or stand for not known."""
    wav, rf64, aiff, caf, au, w64 = (encoded(A, form) for form in ("WAV", "RF64", "AIFF", "CAF", "AU", "W64"))
    sizes = rf64.index(b"ds64") + 8
    large = length if length < 0xFFFF_FFFF else 0
    return {
        "wav": _with(wav, (4, "<I", min(length + 36, 0xFFFF_FFFF)), (wav.index(b"data") + 4, "<I", length)),
        "rf64": _with(rf64, (sizes, "<Q", large), (sizes + 8, "<Q", large), (sizes + 16, "<Q", large // 2)),
        "aiff": _with(
            aiff,
            (4, ">I", length),
            (aiff.index(b"COMM") + 10, ">I", length // 2),
            (aiff.index(b"SSND") + 4, ">I", min(length + 8, 0xFFFF_FFFF)),
        ),
        "caf": _with(caf, (caf.index(b"data") + 4, ">q", -1 if large == 0 else length + 4)),
        "au": _with(au, (8, ">I", length)),
        "w64": _with(w64, (16, "<q", -1), (w64.index(b"data\xf3") + 16, "<q", large + 24 if large else (1 << 63) - 1)),
    }


@pytest.mark.parametrize("length", [0, 0xFFFF_FFFF, 20_000])
@pytest.mark.parametrize("form", ["wav", "rf64", "aiff", "caf", "au", "w64"])
def test_sizes_left_open_or_too_small_are_corrected(tmp_path: Path, form: str, length: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(_sizes(length)[form])
    pcm, result = decode(path)
    assert result.error_kind is None, result
    assert np.array_equal(pcm, A)
    part, result = decode(path, AudioSegment(2 * S, S))
    assert result.error_kind is None
    assert np.array_equal(part, A[2 * S :])


@pytest.mark.parametrize("total", [0, S])
def test_a_flac_is_decoded_beyond_the_length_in_its_header(tmp_path: Path, total: int) -> None:
    content = bytearray(encoded(A, "FLAC"))
    bits = int.from_bytes(content[18:26], "big") >> 36 << 36 | total
    content[18:26] = bits.to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(content)
    pcm, result = decode(tmp_path / "a.flac")
    assert result.error_kind is None, result
    assert np.array_equal(pcm, A)


@pytest.mark.parametrize("tail", [b"", b"LIST\x04\0\0\0INFO"])
def test_a_wav_over_4_gib_whose_sizes_have_wrapped_is_read_to_its_end(tmp_path: Path, tail: bytes) -> None:
    """The samples before the last seconds are a hole in the file, which takes no room."""
    rate = 96_000
    speech = np.stack([at_rate(A, rate)] * 2, axis=1).astype("<i2").tobytes()
    length = (1 << 32) + 40_000_000
    facts = struct.pack("<IHHIIHH", 16, 1, 2, rate, 4 * rate, 4, 16)
    header = b"RIFF" + struct.pack("<I", (length + 36) % (1 << 32)) + b"WAVEfmt " + facts
    header += b"data" + struct.pack("<I", length % (1 << 32))
    path = tmp_path / "a.wav"
    with path.open("wb") as file:
        file.write(header)
        file.seek(len(header) + length - len(speech))
        file.write(speech + tail)
    end = length // 4 * S // rate
    pcm, result = decode(path, AudioSegment(end - 4 * S, 4 * S))
    assert result.error_kind is None, result
    assert_found_at(1.0, A, pcm)
    os.truncate(path, 0)


def test_an_estimated_duration_is_not_taken_for_the_length(tmp_path: Path) -> None:
    class Pipe:
        def __init__(self, path: Path) -> None:
            self.file = path.open("wb")

        def write(self, data: bytes) -> int:
            return self.file.write(data)

    for name, codec, rate, form in (
        ("a.wma", "wmav2", 44_100, "asf"),
        ("a.mkv", "libmp3lame", 44_100, "matroska"),
        ("a.webm", "libopus", 48_000, "webm"),
    ):
        path = tmp_path / name
        pipe = Pipe(path)
        write_container(pipe, codec, A, rate=rate, form=form)
        pipe.file.close()
        pcm, result = decode(path)
        assert result.error_kind is None, (name, result)
        assert_found_at(0.5, A[S // 2 : int(2.9 * S)], pcm, 0.1)


def _pages(content: bytes) -> list[bytes]:
    pages = []
    while content:
        segments = content[26]
        size = 27 + segments + sum(content[27 : 27 + segments])
        pages.append(content[:size])
        content = content[size:]
    return pages


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
@pytest.mark.parametrize("fault", ["lost", "flipped", "garbage"])
def test_a_gap_in_an_ogg_file_is_silence_and_is_reported(tmp_path: Path, subtype: str, fault: str) -> None:
    recording: PCM16 = noise(12, seed=3)
    pages = _pages(encoded(recording, "OGG", subtype))
    middle = len(pages) // 2
    begin_s, end_s = 4.0, 8.5  # the page and its neighbors lie there
    if fault == "lost":
        del pages[middle]
    elif fault == "flipped":
        pages[middle] = pages[middle][:100] + bytes([pages[middle][100] ^ 255]) + pages[middle][101:]
    else:
        pages[middle] = np.random.default_rng(0).bytes(MAX_PAGE // 3)
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(pages))
    pcm, result = decode(path)
    assert result.error_kind is ErrorKind.CORRUPT, result
    assert "are not in it" in (result.error or "")
    assert len(pcm) == 12 * S
    assert_found_at(0, recording[: int(begin_s * S)], pcm)
    assert_found_at(end_s, recording[int(end_s * S) :], pcm)
    part, result = decode(path, AudioSegment(10 * S, S))
    assert result.error_kind is None, "the hole is elsewhere"
    assert np.array_equal(part, pcm[10 * S : 11 * S])


def test_a_complete_ogg_file_is_one_section(tmp_path: Path) -> None:
    for subtype in ("OPUS", "VORBIS"):
        path = tmp_path / "a.ogg"
        path.write_bytes(encoded(A, "OGG", subtype))
        with path.open("rb", buffering=0) as file:
            sections, end = find_sections(file, path.stat().st_size)
        assert [(part.start, part.end, part.damage) for part in sections] == [(0, end, "")]


def _sphere(coding: bytes, width: int, order: bytes, samples: bytes, before: bytes = b"") -> bytes:
    header = b"NIST_1A\n   1024\nsample_count -i %d\nsample_n_bytes -i %d\nchannel_count -i 1\n" % (
        len(before + samples) // width,
        width,
    )
    header += b"sample_byte_format -s%d %s\n" % (len(order), order) if order else b""
    header += b"sample_coding -s%d %s\nsample_rate -i 8000\nend_head\n" % (len(coding), coding)
    return header.ljust(1024, b" ") + before + samples


def test_sphere_files_whose_first_samples_look_like_text_are_decoded(tmp_path: Path) -> None:
    eight = at_rate(A, 8_000)
    ulaw = encoded(A, "WAV", "ULAW", 8_000)
    ulaw = ulaw[ulaw.index(b"data") + 8 :]
    files = {
        "ulaw": _sphere(b"ulaw", 1, b"", ulaw, b"\x7f" * 8000),
        "pcm01": _sphere(b"pcm", 2, b"01", eight.astype("<i2").tobytes(), b"  " * 8000),
        "pcm10": _sphere(b"pcm", 2, b"10", eight.astype(">i2").tobytes(), b"  " * 8000),
    }
    for name, content in files.items():
        (tmp_path / "a.sph").write_bytes(content)
        pcm, result = decode(tmp_path / "a.sph")
        assert result.error_kind is None, (name, result)
        assert_found_at(1.0, A, pcm)
    (tmp_path / "a.sph").write_bytes(_sphere(b"pcm,embedded-shorten-v2.00", 2, b"01", b"ajkg\x02" + bytes(5000)))
    pcm, result = decode(tmp_path / "a.sph")
    assert (result.error_kind, len(pcm)) == (ErrorKind.CORRUPT, 0)


def test_an_ogg_file_without_a_complete_page_is_corrupt(tmp_path: Path) -> None:
    pages = _pages(encoded(A, "OGG", "VORBIS"))
    (tmp_path / "a.ogg").write_bytes(b"".join(page[:22] + b"\1\2\3\4" + page[26:] for page in pages))
    pcm, result = decode(tmp_path / "a.ogg")
    assert (result.error_kind, len(pcm)) == (ErrorKind.CORRUPT, 0)
