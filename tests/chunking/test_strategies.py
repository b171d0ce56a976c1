"""Chunking: every sample is in exactly one kept range, and `overlap` is transformers' own."""

from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import QUIET_SPAN, Chunk, ChunkSizes, make_chunker
from distil_ray.types import SAMPLE_RATE

Spans = list[tuple[int, int, int, int]]


def chunks_of(pcm: PCM16, pieces: list[int], strategy: str, length: int, stride: int, search: int) -> list[Chunk]:
    """The chunks of a recording pushed in pieces of these sizes, and the rest at once."""
    chunker = make_chunker(strategy, ChunkSizes(length, stride, search))
    chunks: list[Chunk] = []
    position = 0
    for size in [*pieces, len(pcm)]:
        chunks += chunker.push(pcm[position : position + size])
        position += size
    return chunks + list(chunker.finish())


def noise(num_samples: int, seed: int) -> PCM16:
    """Noise of a loudness that wanders, with silences in it."""
    generator = np.random.default_rng(seed)
    loudness = np.repeat(generator.choice([0, 1, 30, 3000, 32000], num_samples // 50 + 1), 50)[:num_samples]
    pcm: PCM16 = (generator.uniform(-1, 1, num_samples) * loudness).astype(np.int16)
    return pcm


def kept(chunk: Chunk) -> tuple[int, int]:
    return chunk.start + chunk.stride_left, chunk.start + len(chunk.pcm) - chunk.stride_right


@st.composite
def settings_and_audio(draw: st.DrawFn) -> tuple[PCM16, list[int], str, int, int, int]:
    length = draw(st.integers(1, 4000))
    stride = draw(st.integers(0, (length - 1) // 2))
    search = draw(st.integers(0, length - 1))
    pcm = noise(draw(st.integers(0, 12_000)), draw(st.integers(0, 99)))
    pieces = draw(st.lists(st.integers(0, 5000), max_size=8))
    return pcm, pieces, draw(st.sampled_from(["quiet", "overlap", "sequential"])), length, stride, search


@given(settings_and_audio())
@settings(deadline=None, max_examples=150)
def test_every_sample_is_in_exactly_one_kept_range(case: tuple[PCM16, list[int], str, int, int, int]) -> None:
    pcm, pieces, strategy, length, stride, search = case
    chunks = chunks_of(pcm, pieces, strategy, length, stride, search)
    position = 0
    for index, chunk in enumerate(chunks):
        begin, end = kept(chunk)
        assert chunk.index == index
        assert begin == position
        assert begin < end
        assert 0 < len(chunk.pcm) <= length
        assert np.array_equal(chunk.pcm, pcm[chunk.start : chunk.start + len(chunk.pcm)])
        position = end
    assert position == len(pcm)


@given(settings_and_audio())
@settings(deadline=None, max_examples=100)
def test_chunks_do_not_depend_on_the_pieces_of_audio(
    case: tuple[PCM16, list[int], str, int, int, int],
) -> None:
    pcm, pieces, strategy, length, stride, search = case
    portioned = chunks_of(pcm, pieces, strategy, length, stride, search)
    whole = chunks_of(pcm, [], strategy, length, stride, search)
    assert [(c.start, len(c.pcm), c.stride_left, c.stride_right) for c in portioned] == [
        (c.start, len(c.pcm), c.stride_left, c.stride_right) for c in whole
    ]


class _Extractor:
    """A feature extractor that passes samples through."""

    sampling_rate = SAMPLE_RATE

    def __call__(self, chunk: NDArray[np.int16], **_: Any) -> dict[str, Any]:
        return {"samples": chunk}


def transformers_spans(pcm: PCM16, length: int, stride: int) -> Spans:
    from transformers.pipelines.automatic_speech_recognition import chunk_iter

    spans, start = [], 0
    for item in cast(Any, chunk_iter)(pcm, _Extractor(), length, stride, stride):
        assert np.array_equal(item["samples"], pcm[start : start + item["stride"][0]])
        spans.append((start, *item["stride"]))
        start += length - 2 * stride
    return spans


def test_overlap_gives_the_spans_and_strides_of_transformers() -> None:
    for length, stride in ((30, 5), (7, 3), (12, 0), (240_000, 40_000)):
        step = length - 2 * stride
        totals = {*range(3 * length)} if length < 100 else set()
        totals |= {k * step + extra for k in range(4) for extra in (0, 1, length - 1, length, length + 1)}
        for total in sorted(totals):
            pcm = noise(total, total % 100)
            ours = chunks_of(pcm, [length // 2, 3 * length], "overlap", length, stride, 0)
            spans = [(c.start, len(c.pcm), c.stride_left, c.stride_right) for c in ours]
            assert spans == transformers_spans(pcm, length, stride), (length, stride, total)


def lengths_of(pcm: PCM16, length: int, search: int) -> list[int]:
    return [len(chunk.pcm) for chunk in chunks_of(pcm, [], "quiet", length, 0, search)]


def test_quiet_leaves_a_recording_that_fits_into_one_chunk_whole() -> None:
    assert lengths_of(noise(480_000, 1), 480_000, 160_000) == [480_000]


def test_quiet_leaves_no_short_rest_of_a_recording_that_is_a_little_too_long() -> None:
    for extra in (1, 100, 16_000, 119_999):
        lengths = lengths_of(noise(480_000 + extra, extra), 480_000, 160_000)
        assert len(lengths) == 2
        assert min(lengths) >= 480_000 // 4


def test_quiet_cuts_in_the_middle_of_the_only_pause() -> None:
    speech = np.random.default_rng(0).integers(-8000, 8000, 700_000).astype(np.int16)
    speech[400_000:402_000] = 0
    first, *_ = chunks_of(speech, [], "quiet", 480_000, 0, 160_000)
    assert 400_000 + QUIET_SPAN // 2 <= len(first.pcm) <= 402_000 - QUIET_SPAN // 2


def test_quiet_takes_the_latest_of_equally_quiet_places() -> None:
    silence = np.zeros(1_000_000, np.int16)
    first, *_ = chunks_of(silence, [], "quiet", 480_000, 0, 160_000)
    assert len(first.pcm) == 480_000


@pytest.mark.parametrize("offset", [0, 16_000, -32_768])
def test_quiet_is_not_misled_by_a_constant_offset(offset: int) -> None:
    speech = np.random.default_rng(0).integers(-500, 500, 700_000)
    speech[350_000:353_000] //= 50
    shifted = np.clip(speech + offset, -32_768, 32_767).astype(np.int16)
    if offset == -32_768:
        shifted[350_000:353_000] = -32_768  # full scale: squares and their sums stay exact
    first, *_ = chunks_of(shifted, [], "quiet", 480_000, 0, 160_000)
    assert 350_000 < len(first.pcm) < 353_000


def test_long_zeros_are_chunks_of_their_own_for_pieces_of_any_size() -> None:
    speech = np.random.default_rng(0).integers(1, 999, 100 * SAMPLE_RATE).astype(np.int16)
    speech[3 * SAMPLE_RATE : 4 * SAMPLE_RATE] = 0  # a pause
    speech[5 * SAMPLE_RATE : 15 * SAMPLE_RATE] = 0
    speech[-3 * SAMPLE_RATE :] = 0
    cuts = []
    for portion in (777, SAMPLE_RATE, 10 * SAMPLE_RATE):
        chunker = make_chunker("quiet", ChunkSizes(30 * SAMPLE_RATE, search=5 * SAMPLE_RATE))
        chunks = [chunk for at in range(0, len(speech), portion) for chunk in chunker.push(speech[at : at + portion])]
        chunks += chunker.finish()
        assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
        assert np.array_equal(np.concatenate([chunk.pcm for chunk in chunks]), speech)
        cuts.append([chunk.start for chunk in chunks])
    assert cuts[0] == cuts[1] == cuts[2]
    assert {0, 5 * SAMPLE_RATE, 15 * SAMPLE_RATE, 97 * SAMPLE_RATE} <= set(cuts[0])
    assert 3 * SAMPLE_RATE not in cuts[0]
