"""`dr.Recognizer` on arrays."""

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
    ):
        with pytest.raises(ValueError, match=message):
            english.transcribe([chunk])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="2 for 1 chunks"):
        english.transcribe([load_samples("cards-001")], ["en", "en"])
