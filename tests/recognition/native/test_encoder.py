"""Silence that is encoded once replaces the silence behind a short window."""

import math
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.encoder import EncodedSilence, Encoder, num_silence_positions, silence_log_weight
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.whisper.features import LogMel
from distil_ray.whisper.model import load_model
from tests.support.clips import load_samples

POSITIONS = 60


@given(st.integers(1, POSITIONS), st.integers(0, 2**32 - 1))
def test_subsampled_silence_has_the_attention_weight_of_all_of_it(length: int, seed: int) -> None:
    """Where every silent position is alike, attention comes out as if none had been left out."""
    noise = torch.Generator().manual_seed(seed)
    keys, values, queries = torch.randn(3, 2, 4, length, 8, generator=noise)
    silent = torch.randn(2, 1, 4, 1, 8, generator=noise)
    silent_keys, silent_values = silent.expand(-1, 1, -1, POSITIONS, -1)
    whole = scaled_dot_product_attention(
        queries,
        torch.cat([keys, silent_keys[:, :, length:].expand(2, -1, -1, -1)], dim=2),
        torch.cat([values, silent_values[:, :, length:].expand(2, -1, -1, -1)], dim=2),
    )
    silence = EncodedSilence((silent_keys[:, :, ::8],), (silent_values[:, :, ::8],), torch.zeros(1, 8, 1), POSITIONS)
    rest = silence.context_after(length)
    if rest is None:
        assert POSITIONS - length < 8
        return
    thin_keys, thin_values = (
        torch.cat([own, silent[0].expand(2, -1, -1, -1)], dim=2)
        for own, silent in ((keys, rest.keys), (values, rest.values))
    )
    mask = rest.mask
    assert thin_keys.shape[2] == mask.shape[3] == length + num_silence_positions(length, POSITIONS)
    thinned = scaled_dot_product_attention(queries, thin_keys, thin_values, attn_mask=mask)
    assert torch.allclose(thinned, whole, atol=1e-5)


@given(st.integers(1, 1500))
def test_the_kept_positions_count_as_all_behind_the_window(length: int) -> None:
    kept = num_silence_positions(length, 1500)
    assert 0 <= kept <= math.ceil((1500 - length) / 8)
    if kept:
        assert math.exp(silence_log_weight(length, kept, 1500)) * kept == pytest.approx(1500 - length)


def test_silence_brings_a_short_window_nearer_to_the_full_one(whisper_base: Path) -> None:
    model = load_model(whisper_base, dtype="float32")
    pcm = load_samples("cards-003")  # 1.5 s
    short, full = (LogMel(80)([pcm], num_frames) for num_frames in (300, 3000))
    encoder = Encoder(model.module)
    whole, alone = encoder(full)[:, :75], encoder(short)[:, :75]
    encoder.add_silence_context()
    followed = encoder(short)
    assert followed.shape[1] == encoder.output_positions(300) == 150 + num_silence_positions(150, 1500)
    assert torch.equal(encoder(full)[:, :75], whole)  # a full window needs none
    assert (followed[:, :75] - whole).norm() < 0.5 * (alone - whole).norm()


def test_silence_behind_a_short_window_prevents_a_repetition_loop(corpus: Path, whisper_base: Path) -> None:
    """A clip that Whisper says again and again in a window of its length and 1 s."""
    options = RecognizerOptions(dtype="float32", window="gated")
    pcm = soundfile.read(next((corpus / "librispeech").glob("*1988-147956-0016*")), dtype="int16")[0]
    [hypothesis] = NativeRecognizer(whisper_base, options).transcribe([pcm], ["en"])
    assert hypothesis.quality_flags == ()
    assert hypothesis.window_s is not None and hypothesis.window_s < len(pcm) / 16_000 + 2


def test_other_attention_than_sdpa_is_refused_where_silence_is_needed(whisper_base: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.attention=eager .*chunking\.window=gated"):
        NativeRecognizer(whisper_base, RecognizerOptions(window="gated", attention="eager"))
