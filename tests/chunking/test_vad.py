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
from distil_ray.chunking.strategies.vad import LONGEST_PAUSE, SHORTEST_SPEECH, VadChunker, VadSettings
from distil_ray.config import VadConfig
from distil_ray.errors import SettingsError
from distil_ray.types import SAMPLE_RATE
from tests.support.clips import load_samples

LENGTH, SEARCH = 30 * SAMPLE_RATE, 10 * SAMPLE_RATE
PAUSE = round(VadSettings().min_silence_s * SAMPLE_RATE)
PADDING = round(VadSettings().speech_pad_s * SAMPLE_RATE)
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


def chunks_of(pcm: PCM16, size: int, length: int, search: int, **settings: float) -> list[Chunk]:
    def pieces() -> Iterator[Chunk]:
        chunker = make_chunker("vad", ChunkSizes(length, search=search), settings)
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


def spans(pcm: PCM16, **given: float) -> list[tuple[int, int]]:
    """Beginning and end of each chunk in frames."""
    found = chunks_of(pcm, SAMPLE_RATE, LENGTH, SEARCH, **given)
    return [(chunk.start // FRAME, (chunk.start + len(chunk.pcm)) // FRAME) for chunk in found]


@pytest.mark.usefixtures("loud_is_speech")
def test_padding_and_the_pause_that_ends_speech_can_be_set() -> None:
    pcm = recording([(100, 50), (100, 2), (20, 50), (100, 0)], 0)  # two frames of speech are a click
    assert spans(pcm, speech_pad_s=0.064) == [(98, 152), (270, 324)]
    assert spans(pcm, speech_pad_s=0.064, min_silence_s=1.0) == [(98, 152), (248, 324)]


@pytest.mark.usefixtures("loud_is_speech")
def test_a_stretch_longer_than_the_longest_is_cut_into_chunks_of_its_own() -> None:
    pcm = recording([(0, 100), (20, 600), (20, 100)], 0)  # 3.2 s, 19.2 s and 3.2 s
    assert len(spans(pcm)) == 1
    first, *cut = spans(pcm, max_speech_s=10.0)
    assert 100 < first[1] < 120, "half of the pause belongs to either chunk"
    assert len(cut) >= 2
    assert all(stop - start <= 10 * SAMPLE_RATE // FRAME + 1 for start, stop in cut[:-1])
    assert [start for start, _ in cut[1:]] == [stop for _, stop in cut[:-1]]
    assert cut[-1][1] == 840


@pytest.mark.parametrize(("threshold", "num_chunks"), [(0.3, 1), (0.5, 1), (0.7, 0)])
def test_speech_begins_at_the_threshold_and_goes_on_until_less(
    monkeypatch: pytest.MonkeyPatch, threshold: float, num_chunks: int
) -> None:
    probabilities = np.array([0.1] * 40 + [0.6] * 10 + [0.38] * 30 + [0.1] * 40, np.float32)
    monkeypatch.setattr(vad, "SileroVad", LoudIsSpeech)
    monkeypatch.setattr(LoudIsSpeech, "push", lambda _, pcm: probabilities)
    monkeypatch.setattr(LoudIsSpeech, "finish", lambda _: probabilities[:0])
    chunker = make_chunker("vad", ChunkSizes(LENGTH), {"threshold": threshold, "speech_pad_s": 0.0})
    chunks = [*chunker.push(np.zeros(len(probabilities) * FRAME, np.int16)), *chunker.finish()]
    assert [(chunk.start // FRAME, len(chunk.pcm) // FRAME) for chunk in chunks] == [(40, 40)] * num_chunks


def test_settings_and_config_have_the_same_defaults() -> None:
    assert VadSettings(**VadConfig().model_dump()) == VadSettings()


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
