"""`dr.Recognizer` on arrays."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import distil_ray as dr
from tests.api.conftest import MODEL
from tests.support.clips import load_samples


@pytest.fixture(scope="module")
def english(whisper_tiny_en: Path) -> dr.Recognizer:
    greedy = {"decoding.num_beams": 1}
    return dr.Recognizer.load(MODEL, dtype="float32", timestamps="word", device="cpu", overrides=greedy)


def test_integers_and_floats_give_the_same_text_and_times(english: dr.Recognizer) -> None:
    pcm = load_samples("austen-0880-8khz")
    whole, as_float = english.transcribe([pcm, pcm.astype(np.float64) / 32768])
    assert whole.text == as_float.text == "He was not an ill-disposed young man."
    assert whole.words
    assert (whole.language, whole.language_prob) == ("en", None)
    assert english.transcribe([]) == []
    assert (english.languages, english.dtype, english.device) == (("en",), "float32", "cpu")


def test_languages_are_detected_for_each_chunk_or_given(whisper_base: Path) -> None:
    recognizer = dr.Recognizer.load("packaged:whisper-base")
    chunks = [load_samples("spanish")[:80_000], load_samples("mandarin")]
    spanish, mandarin = recognizer.transcribe(chunks, [None, "Chinese"])
    assert (spanish.language, mandarin.language) == ("es", "zh")
    assert spanish.language_prob and spanish.language_prob > 0.9
    assert mandarin.language_prob is None
    assert recognizer.detect_languages(chunks).probs.shape == (2, len(recognizer.languages))
    with pytest.raises(ValueError, match="Klingon"):
        recognizer.transcribe(chunks, "Klingon")
    few = dr.Recognizer(recognizer._recognizer, detectable=("de", "fr"))
    assert few.detect_languages(chunks).codes == ("de", "fr")
    best = few.detect_languages(chunks[1:]).probs[0].argmax()
    assert few.transcribe(chunks[1:])[0].language == ("de", "fr")[best]
    assert few.transcribe(chunks[1:], "zh")[0].language == "zh"


def test_audio_of_any_length_is_decoded_in_windows(whisper_tiny_en: Path) -> None:
    settings = {"chunking.strategy": "sequential"}
    recognizer = dr.Recognizer.load(MODEL, dtype="float32", timestamps="segment", device="cpu", overrides=settings)
    speech = np.concatenate([load_samples("kennedy"), load_samples("austen-0930"), load_samples("librispeech-61")])
    speech = np.concatenate([speech, load_samples("kennedy")])  # 30.2 s: two windows
    (whole,) = recognizer.transcribe([speech])
    assert whole.text.startswith("And so")
    assert whole.segments
    assert len(speech) / 16_000 - 1 < whole.segments[-1].end_s <= len(speech) / 16_000
    assert " ".join(segment.text for segment in whole.segments) == whole.text
    assert recognizer.detect_languages([speech]).probs.tolist() == [[1.0]]


def test_wrong_chunks_are_refused(english: dr.Recognizer) -> None:
    for chunk, message in (
        (np.zeros((100, 2), np.int16), "shape"),
        (np.zeros(100, np.int64), "int64"),
        (np.zeros(31 * 16_000, np.int16), "samples"),
        (np.zeros(0, np.int16), "samples"),
        (load_samples("cards-001").astype(np.float32), "floats must be from -1 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            english.transcribe([chunk])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 for 1 chunks"):
        english.transcribe([load_samples("cards-001")], ["en", "en"])


def test_a_chunk_without_any_signal_is_not_recognized_as_in_the_job(english: dr.Recognizer) -> None:
    """Whisper writes words for digital silence."""
    silence = np.zeros(32_000, np.int16)
    speech = load_samples("cards-001")
    first, spoken, last = english.transcribe([silence, speech, np.full(32_000, np.nan, np.float32)])
    assert (first.text, first.segments, first.words, first.quality_flags) == ("", (), (), ("silent_audio",))
    assert last == first
    assert spoken.text == english.transcribe([speech])[0].text != ""
    everything = dr.Recognizer(english._recognizer)
    assert everything.transcribe([silence])[0].quality_flags != ("silent_audio",)


def test_threads_share_a_recognizer(english: dr.Recognizer) -> None:
    chunks = [load_samples(name) for name in ("cards-001", "austen-0880-8khz", "cards-003", "cards-005")]
    expected = [english.transcribe([chunk])[0].text for chunk in chunks]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda chunk: english.transcribe([chunk])[0].text, chunks * 2))
    assert found == expected * 2
