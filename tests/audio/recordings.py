"""Audio and files for the tests of decoding, made at test time."""

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import soundfile

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.segments import WHOLE_FILE, AudioSegment
from distil_ray.types import SAMPLE_RATE

S = SAMPLE_RATE


def noise(seconds: float, seed: int = 0) -> PCM16:
    """Noise below 2 kHz whose loudness goes up and down, so that a place in it is found by correlation."""
    count = round(seconds * S)
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum[int(2000 / S * count) :] = 0
    audio = np.fft.irfft(spectrum, count)
    loudness = np.interp(
        np.arange(count),
        np.arange(0, count + S, S // 5),
        rng.uniform(0.2, 1, count // (S // 5) + 6)[: len(np.arange(0, count + S, S // 5))],
    )
    return cast(PCM16, (6000 * loudness * audio / np.abs(audio).max() * 2).clip(-32768, 32767).astype(np.int16))


def at_rate(pcm: PCM16, rate: int) -> PCM16:
    import soxr

    return pcm if rate == S else cast(PCM16, soxr.resample(pcm, S, rate))


def encoded(pcm: PCM16, form: str, subtype: str | None = None, rate: int = S, channels: int = 1) -> bytes:
    """A file as soundfile writes it."""
    samples = at_rate(pcm, rate)
    sink = io.BytesIO()
    data = samples if channels == 1 else np.stack([samples] * channels, axis=1)
    soundfile.write(sink, data, rate, format=form, subtype=subtype)
    return sink.getvalue()


def write_container(
    path: Any,
    codec: str,
    pcm: PCM16,
    stamp: Callable[[float], float] = lambda seconds: seconds,
    *,
    rate: int = S,
    video_s: float = 0.0,
    video_start_s: float = 0.0,
    form: str | None = None,
) -> None:
    """A container whose audio packets have the time stamps that `stamp` makes of their own, beside `video_s` seconds
    of video from `video_start_s` on. `path` may be an object that can only be written to, like a pipe."""
    with av.open(str(path) if isinstance(path, Path) else path, "w", format=form) as container:
        video = container.add_stream("mpeg4", rate=10) if video_s else None
        stream = cast(Any, container.add_stream(codec, rate=rate, layout="mono"))
        if codec != "flac":
            stream.bit_rate = 64_000
        frames = _video_packets(video, video_s) if video else ()
        packets = [(video_start_s + float(p.pts * p.time_base), p, video) for p in frames]
        for packet in _audio_packets(stream, at_rate(pcm, rate), rate):
            packets.append((stamp(float(packet.pts * packet.time_base)), packet, stream))
        for seconds, packet, of in sorted(packets, key=lambda entry: entry[0]):
            packet.pts = packet.dts = round(seconds / packet.time_base)
            packet.stream = of
            container.mux(packet)


def _video_packets(stream: Any, seconds: float) -> Any:
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    for number in range(round(seconds * 10)):
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), format="yuv420p")
        frame.pts, frame.time_base = number, Fraction(1, 10)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _audio_packets(stream: Any, samples: PCM16, rate: int) -> Any:
    resampler = av.AudioResampler(format=stream.format.name, layout="mono", rate=rate)
    for start in range(0, len(samples), rate):
        frame = av.AudioFrame.from_ndarray(samples[None, start : start + rate], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        for resampled in resampler.resample(frame):
            yield from stream.encode(resampled)
    for resampled in resampler.resample(None):
        yield from stream.encode(resampled)
    yield from stream.encode(None)


def decode(path: Path, segment: AudioSegment = WHOLE_FILE, max_duration_s: float = 1e9) -> tuple[PCM16, DecodeResult]:
    *pieces, result = decode_file(str(path), max_duration_s, segment)
    assert isinstance(result, DecodeResult)
    pcm = np.concatenate([np.zeros(0, np.int16), *[cast(PCM16, piece) for piece in pieces]])
    assert len(pcm) == result.num_samples
    return pcm, result


def find_audio(audio: PCM16, recording: PCM16) -> tuple[float, float]:
    """Returns the second at which `audio` is found in `recording`, and the correlation there."""
    size = len(audio) + len(recording)
    spectra = [np.fft.rfft(pcm.astype(float), size) for pcm in (recording, audio)]
    found = np.fft.irfft(spectra[0] * spectra[1].conj(), size)
    at = int(found.argmax())
    there = recording[at : at + len(audio)].astype(float)
    norms = np.linalg.norm(there) * np.linalg.norm(audio[: len(there)].astype(float))
    return at / S, float(found[at] / norms) if norms else 0.0


def assert_found_at(seconds: float, audio: PCM16, recording: PCM16, tolerance_s: float = 0.06) -> None:
    at, similarity = find_audio(audio, recording)
    assert abs(at - seconds) <= tolerance_s, (at, similarity)
    assert similarity > 0.9, (at, similarity)
