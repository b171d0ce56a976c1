"""Whisper's mel filters: triangles of equal area on Slaney's mel scale, equal to those of transformers bit for bit.

The scale is linear below 1000 Hz, 3 mels for every 200 Hz, and logarithmic above, 27 mels for every factor of 6.4.
"""

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000  # Hz
NUM_FREQUENCIES = 201  # of the transform of 400 samples
_BREAK_HZ, _BREAK_MEL = 1000.0, 15.0  # where the scale becomes logarithmic
_FACTOR, _MELS_PER_FACTOR = 6.4, 27.0


def mel_filters(num_mel_bins: int) -> NDArray[np.float32]:
    """Returns the filters of frequencies from 0 to 8000 Hz, shape (num_mel_bins, 201)."""
    nyquist = SAMPLE_RATE / 2
    highest = _BREAK_MEL + np.log(nyquist / _BREAK_HZ) * (_MELS_PER_FACTOR / np.log(_FACTOR))
    edges = _to_hertz(np.linspace(0.0, highest, num_mel_bins + 2))  # of each filter: its neighbors' centers
    widths = np.diff(edges)
    distances = edges - np.linspace(0.0, nyquist, NUM_FREQUENCIES)[:, None]
    rising, falling = -distances[:, :-2] / widths[:-1], distances[:, 2:] / widths[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    filters *= 2.0 / (edges[2:] - edges[:-2])
    return np.ascontiguousarray(filters.T, np.float32)


def _to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    logarithmic = _BREAK_HZ * np.exp(np.log(_FACTOR) / _MELS_PER_FACTOR * (mels - _BREAK_MEL))
    return np.where(mels >= _BREAK_MEL, logarithmic, 200.0 * mels / 3.0)
