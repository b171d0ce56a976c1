"""Log-mel features of chunks of different lengths, computed with torch on the model's device.

The features equal those of `WhisperFeatureExtractor` within 1e-5. Windows may be shorter than 30 s: they give the first
frames of the full window. The floor (maximum minus 8) is computed for each row, so that the loudness of one row does
not affect another. Frames that contain padding only have a constant value, which is filled in without a transform; they
are most of a short clip's 30 s window. Chunks are copied to a GPU as PCM16, a third of the size of the features,
without blocking the host.

The features of long audio (`LongAudio`) are computed as a whole, as openai and transformers do for their sequential
decoding: its windows share one floor, and the frames at the edges of a window see the audio next to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.mel_filters import mel_filters

HOP = 160  # samples per frame: 10 ms
FFT_SIZE = 400  # samples: 25 ms, centered on the frame
FFT_PLANS = 16  # of cuFFT, one for each number of frames in a batch; torch's 4,096 are memory that its allocator lacks
FRAMES_PER_POSITION = 2  # the encoder's second convolution has stride 2: a position is 20 ms
SAMPLES_PER_POSITION = HOP * FRAMES_PER_POSITION
MAX_SAMPLES = 30 * SAMPLE_RATE
MAX_FRAMES = MAX_SAMPLES // HOP

_BLOCK_FRAMES = MAX_FRAMES  # of long audio that are transformed at once, which bounds the memory
_LOG_OF_SILENCE = -10.0  # log10 of the power that all lower powers are raised to
_DYNAMIC_RANGE = 8.0  # in log10 of power: 80 dB below a row's loudest frame is its floor


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """Padded chunks that are on the device, or being copied to it.

    Attributes:
        pcm: int16, shape (num_chunks, num_samples).
        num_frames: Frames of the window.
    """

    pcm: Tensor
    num_frames: int


class LogMel:
    """Computes log-mel features; holds the Hann window and the mel filters on one device.

    Args:
        num_mel_bins: 80, or 128 for large-v3 and checkpoints distilled from it.
        device: Device of the model.
    """

    def __init__(self, num_mel_bins: int, device: torch.device | str = "cpu") -> None:
        self._filters = torch.from_numpy(mel_filters(num_mel_bins)).to(device)  # (bins, 201)
        self._hann = torch.hann_window(FFT_SIZE, device=device)
        if self._hann.device.type == "cuda":
            torch.backends.cuda.cufft_plan_cache[self._hann.device].max_size = FFT_PLANS

    def __call__(self, chunks: Sequence[NDArray[np.int16]], num_frames: int = MAX_FRAMES) -> Tensor:
        """Returns the features of chunks, padded with silence: float32, shape (num_chunks, num_mel_bins, num_frames).

        Arguments as for `stage`.
        """
        return self.features(self.stage(chunks, num_frames))

    def features(self, staged: StagedBatch) -> Tensor:
        """Returns the features of staged chunks, as `__call__` does."""
        samples = staged.pcm.to(torch.float32).mul_(1.0 / 32768.0)
        spectrum = torch.stft(
            samples, FFT_SIZE, HOP, window=self._hann, center=False, return_complex=True
        )  # (rows, 201, frames)
        log_mel = (self._filters @ spectrum.abs().square_()).clamp_(min=1e-10).log10_()
        loudest = log_mel.amax(dim=(1, 2), keepdim=True)
        shape = (len(samples), self._filters.shape[0], staged.num_frames)
        features = torch.full(shape, _LOG_OF_SILENCE, device=log_mel.device)
        features[:, :, : log_mel.shape[2]] = log_mel
        return torch.maximum(features, loudest - _DYNAMIC_RANGE).add_(4.0).div_(4.0)

    def stage(self, chunks: Sequence[NDArray[np.int16]], num_frames: int = MAX_FRAMES) -> StagedBatch:
        """Pads chunks and starts copying them to the device.

        Each row begins with the reflected edge of the chunk and ends with silence (with the reflected edge at the end
        of a full window). It is long enough for every frame that contains samples of the chunk.

        Args:
            chunks: int16, shape (num_samples,), 16 kHz mono, at most `num_frames` * 160 samples each.
            num_frames: Frames of the window, 2 to 3000.

        Raises:
            ValueError: A chunk is longer than the window.
        """
        longest = max(len(chunk) for chunk in chunks)
        if longest > num_frames * HOP:
            raise ValueError(f"a chunk of {longest} samples does not fit into {num_frames} frames of {HOP} samples")
        edge = FFT_SIZE // 2
        frames = min(num_frames, (longest + edge - 1) // HOP + 1)
        device = self._hann.device
        size = (len(chunks), edge + (frames - 1) * HOP + edge)
        padded = torch.zeros(size, dtype=torch.int16, pin_memory=device.type == "cuda")
        pcm = padded.numpy()
        for row, chunk in zip(pcm, chunks, strict=True):
            inside = chunk[: len(row) - edge]
            row[edge : edge + len(inside)] = inside
        if frames == MAX_FRAMES:  # the extractor reflects the end of its 30 s; a shorter window is followed by silence
            end = MAX_SAMPLES + edge
            tail = pcm.shape[1] - end
            pcm[:, end:] = pcm[:, end - 1 - tail : end - 1][:, ::-1]
        pcm[:, :edge] = pcm[:, edge + 1 : 2 * edge + 1][:, ::-1]
        return StagedBatch(padded.to(device, non_blocking=True), num_frames)

    def long_features(self, pcm: NDArray[np.int16]) -> Tensor:
        """Returns the features of audio of any length: float32, shape (num_mel_bins, num_audio_frames(len(pcm))).

        They equal those of `WhisperFeatureExtractor` for the same samples without padding and truncation.

        Args:
            pcm: int16, shape (num_samples,), 16 kHz mono, not empty.
        """
        frames = num_audio_frames(len(pcm))
        edge = FFT_SIZE // 2
        samples = np.pad(pcm, (0, max(0, FFT_SIZE - len(pcm))))
        padded = torch.from_numpy(np.pad(samples, edge, mode="reflect")).to(self._hann.device)
        features = torch.empty(self._filters.shape[0], frames, device=self._hann.device)
        for begin in range(0, frames, _BLOCK_FRAMES):
            end = min(begin + _BLOCK_FRAMES, frames)
            block = padded[begin * HOP : (end - 1) * HOP + FFT_SIZE].to(torch.float32).mul_(1.0 / 32768.0)
            spectrum = torch.stft(block, FFT_SIZE, HOP, window=self._hann, center=False, return_complex=True)
            torch.matmul(self._filters, spectrum.abs().square_(), out=features[:, begin:end])
        features.clamp_(min=1e-10).log10_()
        return features.clamp_(min=features.max() - _DYNAMIC_RANGE).add_(4.0).div_(4.0)


def num_audio_frames(num_samples: int) -> int:
    """Returns the frames of so many samples of long audio: whole ones only, but at least one."""
    return max(1, num_samples // HOP)


class LongAudio:
    """Audio of any length, and its features from the first time they are needed on.

    Attributes:
        pcm: int16, shape (num_samples,), 16 kHz mono.
        num_frames: Frames of the audio.
    """

    def __init__(self, pcm: NDArray[np.int16]) -> None:
        self.pcm = pcm
        self.num_frames = num_audio_frames(len(pcm))
        self._features: Tensor | None = None

    def features(self, log_mel: LogMel) -> Tensor:
        """Returns the features: float32, shape (num_mel_bins, num_frames). They are computed at the first call."""
        if self._features is None:
            self._features = log_mel.long_features(self.pcm)
        return self._features

    def window(self, start: int, log_mel: LogMel) -> Tensor:
        """Returns the features of 30 s: float32, shape (num_mel_bins, MAX_FRAMES).

        Frames behind the end are zeros, as in openai's Whisper and in transformers, not the features of silence.

        Args:
            start: First frame of the window.
            log_mel: Computes the features.
        """
        inside = self.features(log_mel)[:, start : start + MAX_FRAMES]
        return torch.nn.functional.pad(inside, (0, MAX_FRAMES - inside.shape[1]))
