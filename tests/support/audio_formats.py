"""Two seconds of speech in forty formats and encodings, and damaged files, written at test time.

Each file holds the first `DURATION_S` of tests/data/librispeech-61.flac. `EXPECTED` says how decoding of a file ends.
"""

import shutil
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import soundfile
from numpy.typing import NDArray

from distil_ray.types import SAMPLE_RATE
from tests.support.clips import load_samples

DURATION_S = 2.04

# name: (sample rate, subtype of soundfile)
SOUNDFILE = {
    "pcm-u8.wav": (16_000, "PCM_U8"), "pcm-s16.wav": (16_000, "PCM_16"), "pcm-s24.wav": (16_000, "PCM_24"),
    "pcm-s32.wav": (16_000, "PCM_32"), "pcm-f32.wav": (16_000, "FLOAT"), "pcm-f64.wav": (16_000, "DOUBLE"),
    "mulaw-8k.wav": (8_000, "ULAW"), "alaw-8k.wav": (8_000, "ALAW"), "ima-adpcm.wav": (16_000, "IMA_ADPCM"),
    "gsm-8k.wav": (8_000, "GSM610"), "rate-7350.wav": (7_350, "PCM_16"), "rate-44100.wav": (44_100, "PCM_16"),
    "rate-96000.flac": (96_000, "PCM_16"), "big-endian.aiff": (16_000, "PCM_16"), "sun.au": (16_000, "PCM_16"),
    "core.caf": (16_000, "PCM_16"), "wave64.w64": (16_000, "PCM_16"), "rf64.rf64": (16_000, "PCM_16"),
    "flac-24bit.flac": (16_000, "PCM_24"), "vorbis.ogg": (16_000, "VORBIS"), "mp3-8k.mp3": (8_000, "MPEG_LAYER_III"),
}  # fmt: skip

# name: (codec, sample rate, codec of the video beside it, format, options of the container)
LIBAV: dict[str, tuple[str, int, str | None, str | None, dict[str, str]]] = {
    "opus-16k.opus": ("libopus", 16_000, None, "ogg", {}),
    "flac-in-ogg.oga": ("flac", 16_000, None, "ogg", {}),
    "mp3-cbr64.mp3": ("libmp3lame", 16_000, None, None, {}),
    "mp3-vbr-no-xing.mp3": ("libmp3lame", 16_000, None, None, {"write_xing": "0", "id3v2_version": "0"}),
    "aac.m4a": ("aac", 16_000, None, "ipod", {}),
    "aac-faststart.m4a": ("aac", 16_000, None, "ipod", {"movflags": "faststart"}),
    "aac-fragmented.mp4": ("aac", 16_000, None, None, {"movflags": "frag_keyframe+empty_moov"}),
    "aac-adts.aac": ("aac", 16_000, None, "adts", {}),
    "alac.m4a": ("alac", 16_000, None, "ipod", {}),
    "wma2.wma": ("wmav2", 16_000, None, "asf", {}),
    "wavpack.wv": ("wavpack", 16_000, None, None, {}),
    "tta.tta": ("tta", 16_000, None, None, {}),
    "audio.webm": ("libopus", 48_000, None, None, {}),
    "video.mkv": ("libmp3lame", 16_000, "mpeg4", None, {}),
    "video.mp4": ("aac", 16_000, "mpeg4", None, {}),
    "video.mov": ("pcm_s16le", 16_000, "mjpeg", None, {}),
    "video.avi": ("libmp3lame", 16_000, "mpeg4", None, {}),
    "video.ts": ("aac", 16_000, "mpeg2video", "mpegts", {}),
}
LOSSLESS = ("alac.m4a", "wavpack.wv", "tta.tta", "flac-in-ogg.oga", "video.mov")  # only libav reads these
COPIES = {  # names that do not tell the format
    "really-mp3.wav": "mp3-cbr64.mp3", "really-wav.flac": "pcm-s16.wav", "really-m4a.mp3": "aac.m4a",
    "no_extension": "flac-24bit.flac", "UPPER.OPUS": "opus-16k.opus", "ümläut & 100% #1.ogg": "vorbis.ogg",
}  # fmt: skip
STEREO = {"stereo-antiphase.wav": -1, "stereo-left-only.wav": 0}  # the right channel as a multiple of the left one
DAMAGED = {"truncated.flac": "partial", "empty.wav": "error", "page.mp3": "error", "only-header.wav": "no samples"}

EXPECTED = dict.fromkeys([*SOUNDFILE, *LIBAV, *COPIES, *STEREO], "ok") | DAMAGED
PADDED_S = 0.13  # codecs fill up their last frame: the most by which a file is longer than `DURATION_S`


def speech() -> NDArray[np.int16]:
    """Returns the samples that every file holds, at 16 kHz."""
    return load_samples("librispeech-61")[: round(DURATION_S * SAMPLE_RATE)].copy()


def write_encodings(folder: Path) -> Path:
    """Writes all files into a new folder and returns it."""
    folder.mkdir()
    samples = speech()
    for name, (rate, subtype) in SOUNDFILE.items():
        resampled = _resample(samples, rate)
        is_float = subtype in ("FLOAT", "DOUBLE")
        soundfile.write(folder / name, resampled / 32_768 if is_float else resampled, rate, subtype=subtype)
    for name, recipe in LIBAV.items():
        _write_with_libav(folder / name, samples, *recipe)
    for name, original in COPIES.items():
        shutil.copyfile(folder / original, folder / name)
    for name, factor in STEREO.items():
        soundfile.write(folder / name, np.stack([samples, samples * factor], axis=1), SAMPLE_RATE, subtype="PCM_16")
    soundfile.write(folder / "whole.flac", np.tile(samples, 2), SAMPLE_RATE)
    whole = (folder / "whole.flac").read_bytes()
    (folder / "whole.flac").unlink()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) * 6 // 10])
    (folder / "empty.wav").touch()
    (folder / "page.mp3").write_text("<!DOCTYPE html><title>404</title>")
    header = bytearray((folder / "pcm-s16.wav").read_bytes()[:44])
    header[4:8], header[40:44] = struct.pack("<I", 36), struct.pack("<I", 0)
    (folder / "only-header.wav").write_bytes(header)
    return folder


def _resample(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    import soxr

    return samples if rate == SAMPLE_RATE else cast(NDArray[np.int16], soxr.resample(samples, SAMPLE_RATE, rate))


def _write_with_libav(
    path: Path, samples: NDArray[np.int16], codec: str, rate: int, video: str | None, form: str | None,
    options: dict[str, str],
) -> None:  # fmt: skip
    with av.open(str(path), "w", format=form, options=options) as container:
        audio = cast(Any, container.add_stream(codec, rate=rate, layout="mono"))
        audio.bit_rate = 64_000
        formats = [each.name for each in av.Codec(codec, "w").audio_formats or ()]
        audio.format = next((name for name in formats if name.startswith("s16")), audio.format.name)
        pictures = cast(Any, container.add_stream(video, rate=25)) if video else None
        if pictures:
            pictures.width, pictures.height = 96, 64
            pictures.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            for number in range(round(DURATION_S * 25)):
                picture = av.VideoFrame.from_ndarray(np.zeros((96, 96), np.uint8), format="yuv420p")
                picture.pts, picture.time_base = number, Fraction(1, 25)
                container.mux(pictures.encode(picture.reformat(format=pictures.pix_fmt)))
            container.mux(pictures.encode(None))
        resampler = av.AudioResampler(format=audio.format.name, layout="mono", rate=rate)
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        fifo = av.AudioFifo()
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            fifo.write(resampled)
        size = audio.codec_context.frame_size or 1024
        while (piece := fifo.read(size)) or (piece := fifo.read(size, partial=True)):
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
