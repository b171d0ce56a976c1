"""`vad` chunking: speech is kept where it is on the recording's time line, the rest is left out."""

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import Chunk, ChunkSizes, make_chunker
from distil_ray.chunking.silero_vad import FRAME, Probabilities, find_silero_model
from distil_ray.chunking.strategies import vad
from distil_ray.chunking.strategies.vad import LONGEST_PAUSE, PADDING, PAUSE, SHORTEST_SPEECH, VadChunker
from distil_ray.errors import SettingsError
from distil_ray.types import SAMPLE_RATE
from tests.support.clips import load_samples

LENGTH, SEARCH = 30 * SAMPLE_RATE, 10 * SAMPLE_RATE
Stretches = list[tuple[int, int]]  # frames of silence, frames of speech


class LoudIsSpeech:
    """Stands in for the model: a frame is speech if its first sample is not zero. Answers in blocks of eight frames."""

    def __init__(self) -> None:
        self._waiting = np.zeros(0, np.int16)

    def push(self, pcm: PCM16) -> Probabilities:
        self._waiting = np.concatenate((self._waiting, pcm))
        size = len(self._waiting) // (8 * FRAME) * 8 * FRAME
        complete, self._waiting = self._waiting[:size], self._waiting[size:]
        return _loud(complete)

    def finish(self) -> Probabilities:
        return _loud(self._waiting)


def _loud(pcm: PCM16) -> Probabilities:
    frames: Probabilities = (pcm[::FRAME] != 0).astype(np.float32)
    return frames


@pytest.fixture
def loud_is_speech(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vad, "SileroVad", LoudIsSpeech)


def recording(stretches: Stretches, tail: int) -> PCM16:
    """Silence and noise by frames; `tail` samples of noise more or less at the end."""
    loud = np.concatenate([np.repeat([0, 1], pair) for pair in stretches] or [np.zeros(0, int)])
    samples = np.random.default_rng(len(loud)).integers(1, 9000, len(loud) * FRAME) * np.repeat(loud, FRAME)
    pcm: PCM16 = samples[: max(0, len(samples) - tail)].astype(np.int16)
    return pcm


def chunks_of(pcm: PCM16, size: int, length: int, search: int) -> list[Chunk]:
    def pieces() -> Iterator[Chunk]:
        chunker = make_chunker("vad", ChunkSizes(length, search=search))
        for start in range(0, len(pcm), size):
            yield from chunker.push(pcm[start : start + size])
        yield from chunker.finish()

    return list(pieces())


def stretches_of(pcm: PCM16) -> list[tuple[int, int]]:
    """Samples from the first to the last frame of what is one stretch of speech: longer than a click."""
    frames = np.flatnonzero(pcm[::FRAME])
    silent = (np.diff(frames) - 1) * FRAME  # samples between neighboring frames of speech
    groups = np.split(frames, np.flatnonzero(silent >= PAUSE) + 1) if len(frames) else []
    spans = [(int(group[0]) * FRAME, min(int(group[-1] + 1) * FRAME, len(pcm))) for group in groups]
    return [(start, stop) for start, stop in spans if stop - start >= SHORTEST_SPEECH]


@pytest.mark.usefixtures("loud_is_speech")
@given(
    st.lists(st.tuples(st.integers(0, 120), st.one_of(st.integers(0, 12), st.integers(0, 300))), max_size=8),
    st.integers(0, FRAME - 1),
    st.integers(300, 40_000),
    st.sampled_from([(3 * SAMPLE_RATE, SAMPLE_RATE), (LENGTH, SEARCH), (SAMPLE_RATE, 0)]),
)
@example([(3, 20), (30, 20)], 7, 1, (SAMPLE_RATE, 0))  # sample by sample
@example([(0, 1), (9, 3)], 0, 5_000, (3 * SAMPLE_RATE, SAMPLE_RATE))  # a click within a pause of a word
@settings(deadline=None, max_examples=60)
def test_all_speech_is_in_chunks_and_long_silence_in_none(
    stretches: Stretches, tail: int, size: int, segment: tuple[int, int]
) -> None:
    pcm = recording(stretches, tail)
    chunks = chunks_of(pcm, size, *segment)
    covered = np.zeros(len(pcm), bool)
    position = 0
    for index, chunk in enumerate(chunks):
        assert chunk.index == index
        assert position <= chunk.start
        position = chunk.start + len(chunk.pcm)
        assert 0 < len(chunk.pcm) <= segment[0]
        assert np.array_equal(chunk.pcm, pcm[chunk.start : position])
        assert (chunk.stride_left, chunk.stride_right) == (0, 0)
        covered[chunk.start : position] = True
    spoken = stretches_of(pcm)
    for start, stop in spoken:
        assert covered[start:stop].all()
    for (_, stop), (start, _) in zip([(0, 0), *spoken], [*spoken, (len(pcm) + LONGEST_PAUSE, 0)], strict=True):
        if start - stop > LONGEST_PAUSE + FRAME:
            assert not covered[stop + PADDING : start - PADDING].any()
    again = chunks_of(pcm, 7919, *segment)
    assert [(chunk.start, len(chunk.pcm)) for chunk in again] == [(chunk.start, len(chunk.pcm)) for chunk in chunks]


@pytest.mark.usefixtures("loud_is_speech")
def test_speech_that_does_not_fit_goes_into_the_next_chunk_whole() -> None:
    pcm = recording([(0, 625), (20, 625), (20, 250)], 0)  # 20 s, 20 s and 8 s, two thirds of a second between
    first, second = chunks_of(pcm, SAMPLE_RATE, LENGTH, SEARCH)
    pauses = [(625 * FRAME, 645 * FRAME), (1270 * FRAME, 1290 * FRAME)]
    assert pauses[0][0] <= len(first.pcm) <= second.start <= pauses[0][1]
    assert second.start + len(second.pcm) == len(pcm)


@pytest.mark.usefixtures("loud_is_speech")
@pytest.mark.parametrize("is_speech", [False, True])
def test_a_recording_of_hours_takes_the_memory_of_two_chunks(is_speech: bool) -> None:
    chunker = VadChunker(ChunkSizes(LENGTH, search=SEARCH))
    piece = np.full(10 * SAMPLE_RATE, 5 if is_speech else 0, np.int16)
    held = 0
    for _ in range(360):
        for chunk in chunker.push(piece):
            assert len(chunk.pcm) <= LENGTH
        held = max(held, chunker._queue.size)
    assert held <= 2 * LENGTH


def spoken(pcm: NDArray[np.int16]) -> list[Chunk]:
    return chunks_of(pcm, 100_000, LENGTH, SEARCH)


def tones(*frequencies: float, seconds: float) -> NDArray[np.float64]:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    mixed: NDArray[np.float64] = np.zeros(len(times))
    for frequency in frequencies:
        mixed += np.sin(2 * np.pi * frequency * times)
    return mixed / len(frequencies)


def no_speech(name: str) -> NDArray[np.int16]:
    rng = np.random.default_rng(3)
    if name == "white noise":
        audio = rng.normal(0, 0.1, 8 * SAMPLE_RATE)
    elif name == "chords":
        chords = [(523.3, 659.3, 784.0), (587.3, 740.0, 880.0)]
        audio = np.concatenate([tones(*chord, seconds=2) for chord in chords * 3]) * 0.4
    elif name == "clicks":
        audio = np.zeros(6 * SAMPLE_RATE)
        audio[:: SAMPLE_RATE // 2] = 0.9
    else:  # a ringback tone: 2 s on, 3 s off
        audio = np.concatenate([tones(440, 480, seconds=2) * 0.5, np.zeros(3 * SAMPLE_RATE)] * 2)
    return (audio * 32_767).clip(-32_768, 32_767).astype(np.int16)


@pytest.mark.parametrize("name", ["white noise", "chords", "clicks", "ringback"])
def test_noise_music_and_tones_are_no_speech(name: str) -> None:
    assert spoken(no_speech(name)) == []


def test_speech_keeps_its_position_after_forty_seconds_of_silence() -> None:
    silence = np.zeros(40 * SAMPLE_RATE, np.int16)
    (chunk,) = spoken(np.concatenate([silence, load_samples("librispeech-61")]))
    assert 39.5 < chunk.start / SAMPLE_RATE < 41
    assert 4 < len(chunk.pcm) / SAMPLE_RATE < 6


def test_faint_speech_is_found() -> None:
    pcm = load_samples("austen-0870")
    (chunk,) = spoken((pcm * (10 ** (-50 / 20) * 32_767 / np.abs(pcm).max())).astype(np.int16))  # peak at -50 dBFS
    assert len(chunk.pcm) / SAMPLE_RATE > 6


def test_speech_does_not_depend_on_the_pieces_of_audio() -> None:
    pcm = load_samples("sonnet-1")
    spans = [[(c.start, len(c.pcm)) for c in chunks_of(pcm, size, LENGTH, SEARCH)] for size in (1000, len(pcm))]
    assert spans[0] == spans[1]
    assert len(spans[0]) >= 2


@pytest.mark.parametrize("missing", ["onnxruntime", "silero_vad"])
def test_a_missing_package_is_reported_with_its_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(SettingsError, match=r"chunking\.strategy=vad.*distil-ray\[vad\]"):
        find_silero_model()
