"""Log-mel features: PCM of differing lengths in, what the encoder hears out, in torch on the model's device.

Equal to `WhisperFeatureExtractor` within 1e-5, for windows of any length: a window shorter than 30 s gives the first
frames of the long one. Loudness never leaks between rows, because the floor (row maximum minus 8) is each row's own.
It knows no checkpoint but its number of mel bins (80 or 128). Frames that hold padding alone all have one value,
which is filled in and not transformed: that is most of a short clip's 30 s window. What goes to a GPU is PCM16, a third
of the features' bytes, in a copy that the host does not wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

SAMPLE_RATE = 16_000  # Hz
HOP = 160  # samples a frame: 10 ms
FFT_SIZE = 400  # samples: 25 ms, centerd on the frame
FRAMES_PER_POSITION = 2  # the encoder's second convolution has stride 2: 20 ms a position
SAMPLES_PER_POSITION = HOP * FRAMES_PER_POSITION
MAX_SAMPLES = 30 * SAMPLE_RATE
MAX_FRAMES = MAX_SAMPLES // HOP

_LOG_OF_SILENCE = -10.0  # log10 of the smallest power told apart from zero
_DYNAMIC_RANGE = 8.0  # in log10 of power: 80 dB below a row's loudest frame is its floor


@dataclass(frozen=True, slots=True)
class StagedBatch:
    """Chunks on the device, or on their way: int16 `pcm`, shape (rows, samples), for windows of `num_frames`."""

    pcm: Tensor
    num_frames: int


class LogMel:
    """Turns chunks into features; holds the window and the filters on one device."""

    def __init__(self, num_mel_bins: int, device: torch.device | str = "cpu") -> None:
        filters = mel_filter_bank(
            num_frequency_bins=1 + FFT_SIZE // 2,
            num_mel_filters=num_mel_bins,
            min_frequency=0.0,
            max_frequency=SAMPLE_RATE / 2,
            sampling_rate=SAMPLE_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self._filters = torch.from_numpy(np.ascontiguousarray(filters.T)).to(device, torch.float32)  # (bins, 201)
        self._hann = torch.hann_window(FFT_SIZE, device=device)

    def __call__(self, chunks: Sequence[NDArray[np.int16]], num_frames: int = MAX_FRAMES) -> Tensor:
        """Features of `chunks`, padded with silence to `num_frames`: float32, shape (len(chunks), bins, num_frames).

        Arguments as for `stage`.
        """
        return self.features(self.stage(chunks, num_frames))

    def features(self, staged: StagedBatch) -> Tensor:
        """Those of staged chunks."""
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
        """Samples with silence behind and the reflected edge before (and behind a full window), sent to the device.

        `chunks`: int16, shape (num_samples,), 16 kHz mono, none longer than `num_frames` x 160 samples;
        `num_frames`: 2 to 3000. Rows are long enough for every frame that touches a chunk's samples.
        """
        longest = max(len(chunk) for chunk in chunks)
        if longest > num_frames * HOP:
            raise ValueError(f"a chunk of {longest} samples does not fit into {num_frames} frames of {HOP} samples")
        edge = FFT_SIZE // 2
        frames = min(num_frames, (longest + edge - 1) // HOP + 1)
        device = self._hann.device
        size = (len(chunks), edge + (frames - 1) * HOP + edge)
        held = torch.zeros(size, dtype=torch.int16, pin_memory=device.type == "cuda")
        pcm = held.numpy()
        for row, chunk in zip(pcm, chunks, strict=True):
            inside = chunk[: len(row) - edge]
            row[edge : edge + len(inside)] = inside
        if frames == MAX_FRAMES:  # the extractor mirrors the end of its 30 s; a shorter window would go on in silence
            end = MAX_SAMPLES + edge
            tail = pcm.shape[1] - end
            pcm[:, end:] = pcm[:, end - 1 - tail : end - 1][:, ::-1]
        pcm[:, :edge] = pcm[:, edge + 1 : 2 * edge + 1][:, ::-1]
        return StagedBatch(held.to(device, non_blocking=True), num_frames)
