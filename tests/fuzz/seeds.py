"""Ten formats of the same second of sound, made here: what the mutations start from."""

import io
from collections.abc import Callable

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000  # Hz

Samples = NDArray[np.int16]


def make_seeds() -> dict[str, bytes]:
    """Format -> a whole, valid file: tones that swell and fade in some noise, one second."""
    time = np.arange(RATE) / RATE
    noise = np.random.default_rng(0).normal(0, 200, RATE)
    tones = sum(np.sin(2 * np.pi * hertz * time) for hertz in (180, 360, 900, 2400))
    samples = (2500 * tones * np.sin(np.pi * 3 * time) ** 2 + noise).astype(np.int16)
    return {name: make(samples) for name, make in _FORMATS.items()}


def _sndfile(container: str, subtype: str) -> Callable[[Samples], bytes]:
    def make(samples: Samples) -> bytes:
        sink = io.BytesIO()
        soundfile.write(sink, samples, RATE, format=container, subtype=subtype)
        return sink.getvalue()

    return make


def _libav(container: str, codec: str) -> Callable[[Samples], bytes]:
    def make(samples: Samples) -> bytes:
        sink = io.BytesIO()
        with av.open(sink, "w", format=container, options={"fflags": "+bitexact"}) as output:  # no random numbers
            stream = output.add_stream(codec, rate=RATE, layout="mono")
            assert isinstance(stream, av.AudioStream)
            stream.bit_rate = 32_000
            encoder = stream.codec_context
            encoder.open()  # tells its sample format and frame size
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate = RATE
            resampler = av.AudioResampler(encoder.format, "mono", RATE, encoder.frame_size or None)
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
        return sink.getvalue()

    return make


def _with_fixed_serial(data: bytes) -> bytes:
    """An Ogg file whose stream has the number 0 instead of one that was drawn; every page's checksum made anew."""
    pages = data.split(b"OggS")[1:]
    return b"".join(b"OggS" + _renumbered(page) for page in pages)


def _renumbered(page: bytes) -> bytes:
    bare = page[:10] + bytes(4) + page[14:18] + bytes(4) + page[22:]
    checksum = 0
    for byte in b"OggS" + bare:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1) ^ (0x104C1_1DB7 if checksum & 0x8000_0000 else 0)
    return bare[:18] + checksum.to_bytes(4, "little") + bare[22:]


_FORMATS: dict[str, Callable[[Samples], bytes]] = {
    "wav": _sndfile("WAV", "PCM_16"),
    "adpcm.wav": _sndfile("WAV", "IMA_ADPCM"),
    "aiff": _sndfile("AIFF", "PCM_24"),
    "flac": _sndfile("FLAC", "PCM_16"),
    "ogg": lambda samples: _with_fixed_serial(_sndfile("OGG", "VORBIS")(samples)),
    "opus": _libav("opus", "libopus"),
    "mp3": _libav("mp3", "libmp3lame"),
    "m4a": _libav("ipod", "aac"),
    "mkv": _libav("matroska", "libopus"),
    "wma": _libav("asf", "wmav2"),
}
