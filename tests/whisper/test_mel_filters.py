"""The mel filters equal those of transformers, bit for bit."""

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank

from distil_ray.whisper.mel_filters import mel_filters


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_mel_filters_equal_those_of_transformers(num_mel_bins: int) -> None:
    expected = mel_filter_bank(201, num_mel_bins, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    assert np.array_equal(mel_filters(num_mel_bins), expected.T.astype(np.float32))
