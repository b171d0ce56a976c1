"""A segment equals that part of the whole file; errors elsewhere in the file do not count."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.pyav_backend import PyAVBackend
from distil_ray.audio.seek import Seeker
from distil_ray.audio.segments import WHOLE_FILE, AudioSegment, SegmentExtractor
from distil_ray.audio.soundfile_backend import SoundfileBackend
from distil_ray.errors import ErrorKind
from distil_ray.types import SAMPLE_RATE
from tests.audio.test_decode import similarity
from tests.support.clips import load_samples

AudioFile = Callable[[str], Path]

S = SAMPLE_RATE
LENGTH_S = 24

# name: how soundfile writes it (rate, channels, subtype), or libav (codec, rate, channels); steps of 16 bits by which a
# sample of a cut may differ, and how many of a thousand may.
FORMATS: dict[str, tuple[tuple[Any, ...], int, float]] = {
    "16k.wav": ((16_000, 1, "PCM_16"), 0, 0),
    "16k-stereo.flac": ((16_000, 2, "PCM_16"), 0, 0),
    "16k.ogg": ((16_000, 1, "VORBIS"), 0, 0),
    "16k-ima.wav": ((16_000, 1, "IMA_ADPCM"), 0, 0),
    "8k-gsm.wav": ((8_000, 1, "GSM610"), 1, 5),
    "8k-ulaw.au": ((8_000, 1, "ULAW"), 1, 5),
    "44k-stereo.wav": ((44_100, 2, "PCM_16"), 1, 5),
    "48k.flac": ((48_000, 1, "PCM_24"), 1, 5),
    "16k.opus": ((16_000, 1, "OPUS"), 64, 1000),  # its decoder remembers for longer: below -50 dBFS
    "44k.mp3": (("libmp3lame", 44_100, 1), 1, 5),
    "48k.mp3": (("libmp3lame", 48_000, 1), 1, 5),
    "44k.mka": (("libmp3lame", 44_100, 1), 1, 5),
    "48k.webm": (("libopus", 48_000, 1), 2, 8),  # Opus forgets a second later, but for the last bit
    "44k.wma": (("wmav2", 44_100, 1), 1, 5),
    "16k.m4a": (("alac", 16_000, 1), 0, 0),
}


@pytest.fixture(scope="session")
def recording() -> PCM16:
    """24 s of several speakers, 16 kHz mono."""
    names = ("librispeech-61", "cards-001", "cards-003", "cards-005")
    return np.resize(np.concatenate([load_samples(name) for name in names]), LENGTH_S * S)


def at_rate(recording: PCM16, rate: int) -> PCM16:
    import soxr

    return cast(PCM16, soxr.resample(recording, S, rate))


def write(path: Path, recording: PCM16, how: tuple[Any, ...]) -> Path:
    if isinstance(how[0], str):
        write_with_libav(path, recording, *how)
        return path
    rate, channels, subtype = how
    samples = at_rate(recording, rate)
    if channels == 2:
        samples = np.stack([samples, samples[::-1] // 2], axis=1)
    soundfile.write(path, samples, rate, subtype=subtype, format="OGG" if path.suffix == ".opus" else None)
    return path


def write_with_libav(path: Path, recording: PCM16, codec: str, rate: int, channels: int) -> None:
    with av.open(str(path), "w") as container:
        stream = cast(Any, container.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo"))
        stream.bit_rate = 64_000
        resampler = av.AudioResampler(format=stream.format.name, layout=stream.layout, rate=rate)
        for start in range(0, len(recording), S):
            frame = av.AudioFrame.from_ndarray(recording[None, start : start + S], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = S, start, Fraction(1, S)
            for resampled in resampler.resample(frame):
                container.mux(stream.encode(resampled))
        for resampled in resampler.resample(None):
            container.mux(stream.encode(resampled))
        container.mux(stream.encode(None))


def decode(path: Path, segment: AudioSegment = WHOLE_FILE, max_duration_s: float = 1e9) -> tuple[PCM16, DecodeResult]:
    *pieces, result = decode_file(str(path), max_duration_s, segment)
    assert isinstance(result, DecodeResult)
    pcm = np.concatenate([np.zeros(0, np.int16), *[cast(PCM16, piece) for piece in pieces]])
    assert len(pcm) == result.num_samples
    return pcm, result


@pytest.fixture(scope="session")
def audio(recording: PCM16, tmp_path_factory: pytest.TempPathFactory) -> AudioFile:
    """audio(name): the recording as a file in one of `FORMATS`. Do not change it."""
    folder = tmp_path_factory.mktemp("audio")

    def made(name: str) -> Path:
        path = folder / name
        return path if path.exists() else write(path, recording, FORMATS[name][0])

    return made


@pytest.mark.parametrize("name", FORMATS)
def test_a_segment_equals_that_part_of_the_whole_file(audio: AudioFile, name: str) -> None:
    _, steps, per_mille = FORMATS[name]
    path = audio(name)
    whole, result = decode(path)
    assert result.error_kind is None
    for start, length in ((0, S), (2 * S + 17, S // 2), (9 * S + 1, 3 * S), (21 * S + 7, 2 * S), (17 * S, None)):
        pcm, result = decode(path, AudioSegment(start, length))
        expected = whole[start:] if length is None else whole[start : start + length]
        assert result.error_kind is None, result
        assert len(pcm) == len(expected)
        apart = np.abs(pcm.astype(int) - expected)
        assert apart.max() <= steps, (start, apart.max())
        assert np.count_nonzero(apart) <= per_mille / 1000 * len(pcm), start


@given(
    st.integers(0, 500_000), st.integers(1, 500_000), st.sampled_from([7350, 16_000, 22_050, 44_100, 48_000, 96_000])
)
@settings(deadline=None, max_examples=200)
def test_skipped_frames_lie_before_the_segment_and_end_on_a_whole_sample(start: int, length: int, rate: int) -> None:
    extractor = SegmentExtractor(AudioSegment(start, length))
    frames = extractor.skip(rate)
    assert frames * SAMPLE_RATE % rate == 0
    assert extractor.position == frames * SAMPLE_RATE // rate <= start
    stream = np.arange(extractor.position, 1_100_000, dtype=np.float32)
    pieces = [extractor.take(piece) for piece in np.array_split(stream, 13)]
    assert np.array_equal(np.concatenate(pieces), np.arange(start, start + length, dtype=np.float32))


@pytest.mark.parametrize("name", ["44k.mp3", "48k.webm", "16k.m4a"])
def test_audio_far_before_a_segment_is_not_decoded(
    audio: AudioFile, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = audio(name)
    decoded = []
    plain = PyAVBackend._decode

    def counted(self: PyAVBackend, packet: Any) -> Any:
        frames = plain(self, packet)
        decoded.extend(frames)
        return frames

    monkeypatch.setattr(PyAVBackend, "_decode", counted)
    read = []
    can_skip = Seeker.can_skip

    def noted(self: Seeker, packet: Any) -> bool:
        read.append(packet)
        return can_skip(self, packet)

    monkeypatch.setattr(Seeker, "can_skip", noted)
    decode(path, AudioSegment(20 * S, S // 10))
    position_s = sum(frame.samples / frame.sample_rate for frame in decoded)
    assert position_s < 5
    assert (len(read) < 40) == (name != "48k.webm"), "formats with exact times are sought in"


def test_a_stream_of_irregular_packets_is_decoded_from_its_start(audio: AudioFile, tmp_path: Path) -> None:
    """Two streams in one file: what is behind the seam is found to a frame (26 ms), or it is said why it is not."""
    first, second = audio("44k.mp3").read_bytes(), audio("48k.mp3").read_bytes()
    (tmp_path / "a.mp3").write_bytes(first + second)
    pcm, result = decode(tmp_path / "a.mp3", AudioSegment(30 * S, 2 * S))
    assert (result.error_kind, len(pcm)) == (ErrorKind.CORRUPT, 0)
    assert "its rate changes from 44100 to 48000 Hz before the segment" in (result.error or "")
    (tmp_path / "b.mp3").write_bytes(first + first)
    whole, _ = decode(tmp_path / "b.mp3")
    pcm, result = decode(tmp_path / "b.mp3", AudioSegment(30 * S, 2 * S))
    assert result.error_kind is None, result
    frame = S * 1152 // 44_100
    assert similarity(pcm[frame:-frame], whole[30 * S : 32 * S]) > 0.98


@pytest.mark.parametrize("name", ["16k.wav", "44k.mp3", "48k.flac", "16k.opus", "48k.webm", "16k.ogg"])
def test_a_segment_beyond_the_end_is_reported_with_both_times(audio: AudioFile, name: str) -> None:
    path = audio(name)
    whole, _ = decode(path)
    pcm, result = decode(path, AudioSegment(20 * S, 10 * S))
    assert result.error_kind is ErrorKind.TRUNCATED
    assert "the segment should end at 30.00 s, the file ends at 24.0" in (result.error or "")
    assert len(pcm) == len(whole) - 20 * S
    for length in (S, None):
        pcm, result = decode(path, AudioSegment(100 * S, length))
        assert result.error_kind is ErrorKind.TRUNCATED
        assert "the segment begins at 100.00 s, the file ends at 24.0" in (result.error or "")
        assert len(pcm) == 0
    _, result = decode(path, AudioSegment(20 * S, len(whole) - 20 * S + S // 20))
    assert result.error_kind is None, "lists round their times"


def test_damage_outside_of_a_segment_does_not_count(audio: AudioFile, tmp_path: Path) -> None:
    for name in ("48k.flac", "44k.mp3"):
        path = tmp_path / name
        whole, _ = decode(audio(name))
        content = bytearray(audio(name).read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = np.random.default_rng(5).bytes(3000)
        path.write_bytes(content)
        assert decode(path)[1].error_kind is ErrorKind.CORRUPT
        for start in (2 * S, 8 * S, 14 * S, 18 * S):  # the damage lies from 12 s on, or a little later
            pcm, result = decode(path, AudioSegment(start, 3 * S))
            assert result.error_kind is None, (name, result)
            assert len(pcm) == 3 * S
            if name == "48k.flac" or start < 10 * S:  # an MP3 does not number its frames: what is lost is not counted
                assert np.abs(pcm.astype(int) - whole[start : start + 3 * S]).max() <= 1, name
        assert decode(path, AudioSegment(8 * S, 8 * S))[1].error_kind is ErrorKind.CORRUPT


def test_damage_that_had_to_be_decoded_does_not_count_either(
    audio: AudioFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytearray(audio("44k.mp3").read_bytes())
    content[4000:7000] = np.random.default_rng(5).bytes(3000)  # at 0.5 s
    (tmp_path / "a.mp3").write_bytes(content)
    assert decode(tmp_path / "a.mp3", AudioSegment(0, 2 * S))[1].error_kind is ErrorKind.CORRUPT
    pcm, result = decode(tmp_path / "a.mp3", AudioSegment(2 * S, 2 * S))
    assert (result.error_kind, len(pcm)) == (None, 2 * S)
    content = bytearray(audio("48k.flac").read_bytes())
    content[4000:7000] = np.random.default_rng(5).bytes(3000)
    (tmp_path / "a.flac").write_bytes(content)
    monkeypatch.setattr(SoundfileBackend, "_seek", lambda *_: False)
    pcm, result = decode(tmp_path / "a.flac", AudioSegment(12 * S, 2 * S))
    assert (result.error_kind, len(pcm)) == (None, 2 * S)


@pytest.mark.parametrize("name", ["44k.mp4", "44k.mka"])
def test_a_segment_behind_a_gap_in_the_time_stamps_equals_that_part_of_the_whole(
    audio: AudioFile, tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with av.open(str(audio("44k.mp3"))) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.size and packet.pts is not None:
                packet.pts += 0 if packet.pts * packet.time_base < 10 else round(0.51 / packet.time_base)
                packet.dts, packet.stream = packet.pts, stream
                container.mux(packet)
    whole, _ = decode(path)
    assert abs(len(whole) / S - LENGTH_S - 0.51) < 0.1
    pcm, result = decode(path, AudioSegment(18 * S, 2 * S))
    assert result.error_kind is None, result
    assert np.abs(pcm.astype(int) - whole[18 * S : 20 * S]).max() <= 1


def test_a_truncated_file_still_has_its_complete_segments(audio: AudioFile, tmp_path: Path) -> None:
    for name in ("16k.wav", "48k.flac", "16k.opus", "48k.webm"):
        whole = audio(name).read_bytes()
        path = tmp_path / name
        path.write_bytes(whole[: len(whole) * 6 // 10])
        assert decode(path)[1].error_kind is ErrorKind.TRUNCATED
        assert decode(path, AudioSegment(5 * S, 2 * S))[1].error_kind is None, name
        pcm, result = decode(path, AudioSegment(22 * S, S))
        assert (result.error_kind, len(pcm)) == (ErrorKind.TRUNCATED, 0)
        assert "the segment begins at 22.00 s" in (result.error or "")


def test_non_finite_samples_count_only_in_the_segment(tmp_path: Path) -> None:
    tone = (0.5 * np.sin(np.arange(20 * S) / 10)).astype(np.float32)
    tone[3 * S : 4 * S] = np.nan
    tone[12 * S] = np.inf
    soundfile.write(tmp_path / "a.wav", tone, S, subtype="FLOAT")
    assert decode(tmp_path / "a.wav", AudioSegment(5 * S, 5 * S))[1].error_kind is None
    _, result = decode(tmp_path / "a.wav", AudioSegment(11 * S, 2 * S))
    assert result.error_kind is ErrorKind.NON_FINITE
    assert "1 samples" in (result.error or "")


def test_the_duration_limit_applies_to_the_segment(audio: AudioFile) -> None:
    path = audio("16k.wav")
    assert decode(path, AudioSegment(15 * S, 5 * S), max_duration_s=10)[1].error_kind is None
    assert decode(path, AudioSegment(15 * S), max_duration_s=10)[1].error_kind is None
    pcm, result = decode(path, AudioSegment(3 * S, 15 * S), max_duration_s=10)
    assert (result.error_kind, len(pcm)) == (ErrorKind.TOO_LONG, 0)
    assert "the segment lasts 15 s; input.max_duration_s allows 10" in (result.error or "")


def test_a_single_channel_is_decoded_exactly(recording: PCM16, tmp_path: Path) -> None:
    right = recording[::-1] // 2
    soundfile.write(tmp_path / "a.wav", np.stack([recording, right], axis=1), S, subtype="PCM_16")
    assert np.array_equal(decode(tmp_path / "a.wav", AudioSegment(channel=0))[0], recording)
    assert np.array_equal(decode(tmp_path / "a.wav", AudioSegment(S, 2 * S, channel=1))[0], right[S : 3 * S])


@pytest.mark.parametrize("channels", [1, 2])
def test_a_missing_channel_is_reported(recording: PCM16, tmp_path: Path, channels: int) -> None:
    soundfile.write(tmp_path / "a.wav", np.stack([recording] * channels, axis=1), S, subtype="PCM_16")
    pcm, result = decode(tmp_path / "a.wav", AudioSegment(channel=2))
    assert (result.error_kind, len(pcm)) == (ErrorKind.NO_CHANNEL, 0)
    assert f"channel 2 is requested (counted from 0), and it has {channels}" in (result.error or "")


def test_a_segment_without_length_is_empty(audio: AudioFile) -> None:
    assert decode(audio("16k.wav"), AudioSegment(S, 0))[1].error_kind is ErrorKind.NO_SAMPLES
