"""The transformers recognizer, the reference of the native one, on real weights and real speech."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, pipeline
from whisper_normalizer.english import EnglishTextNormalizer

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.capabilities import load_recognizer
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.quality_flags import NO_SPEECH
from distil_ray.recognition.quality_metrics import compression_ratio
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import Hypothesis
from distil_ray.whisper.tokenizer import Tokens
from tests.support.clips import load_manifest, load_samples

ENGLISH = ("austen-0880-8khz", "librispeech-61", "austen-0930", "austen-0870")
SWEDISH, SPANISH, CHINESE = "swedish", "spanish", "mandarin"
CPU32 = RecognizerOptions(dtype="float32")


@dataclass(frozen=True)
class Clip:
    pcm: PCM16
    reference: str
    language: str


def load_clips(*names: str) -> list[Clip]:
    lines = load_manifest()
    return [Clip(load_samples(name), lines[name]["reference"], lines[name]["language"]) for name in names]


@pytest.fixture(scope="module")
def tiny(whisper_tiny_en: Path) -> TransformersRecognizer:
    return TransformersRecognizer(whisper_tiny_en, CPU32)


@pytest.fixture(scope="module")
def base(whisper_base: Path) -> TransformersRecognizer:
    return TransformersRecognizer(whisper_base, CPU32)


@pytest.fixture(scope="module")
def english() -> list[Clip]:
    return load_clips(*ENGLISH)


@pytest.fixture(scope="module")
def heard(tiny: TransformersRecognizer, english: list[Clip]) -> list[Hypothesis]:
    """The English clips, recognized in one batch."""
    return tiny.transcribe(pcm_of(english), ["en"] * len(english))


def pcm_of(clips: Sequence[Clip]) -> list[PCM16]:
    return [clip.pcm for clip in clips]


def test_read_english_is_recognized(english: list[Clip], heard: list[Hypothesis]) -> None:
    normalize = EnglishTextNormalizer()
    for clip, hypothesis in zip(english, heard, strict=True):
        said, written = set(normalize(clip.reference).split()), set(normalize(hypothesis.text).split())
        assert len(said & written) >= 0.7 * len(said), (clip.reference, hypothesis.text)
        assert hypothesis.avg_logprob is not None and -1 < hypothesis.avg_logprob < 0
        assert hypothesis.no_speech_prob is not None and 0 < hypothesis.no_speech_prob < 0.5
        assert hypothesis.window_s == 30.0


def test_neither_batch_nor_order_changes_a_token(
    tiny: TransformersRecognizer, english: list[Clip], heard: list[Hypothesis]
) -> None:
    alone = [tiny.transcribe([clip.pcm], ["en"])[0] for clip in english[::-1]][::-1]
    assert [hypothesis.tokens for hypothesis in heard] == [hypothesis.tokens for hypothesis in alone]
    for sign in ("avg_logprob", "no_speech_prob"):
        batched, single = ([getattr(hypothesis, sign) for hypothesis in group] for group in (heard, alone))
        assert batched == pytest.approx(single, abs=1e-4)


def test_quality_metrics_equal_those_of_openai(
    english: list[Clip], heard: list[Hypothesis], whisper_tiny_en: Path
) -> None:
    """Teacher-forced by hand: the prompt's first position gives no-speech, the others the tokens' probabilities."""
    clip, hypothesis = english[0], heard[0]
    tokens = Tokens.load(whisper_tiny_en)
    prompt = tokens.prompt("en")
    model: Any = WhisperForConditionalGeneration.from_pretrained(whisper_tiny_en, dtype=torch.float32)
    features = WhisperFeatureExtractor.from_pretrained(whisper_tiny_en)(
        clip.pcm.astype(np.float32) / 32768, sampling_rate=16_000, return_tensors="pt"
    )["input_features"]
    chosen = torch.tensor([*hypothesis.tokens, tokens.eot])
    with torch.no_grad():
        logits = model(features, decoder_input_ids=torch.tensor([[*prompt, *hypothesis.tokens]])).logits[0]
    no_speech_prob = logits[0].softmax(-1)[tokens.no_speech].item()
    steps = logits[len(prompt) - 1 :].clone()
    steps[:, list(tokens.suppress)] = -torch.inf
    steps[0, list(tokens.begin_suppress)] = -torch.inf
    logprobs = steps.log_softmax(-1).gather(1, chosen[:, None])
    assert torch.equal(steps.argmax(-1), chosen)
    assert hypothesis.avg_logprob == pytest.approx(logprobs.mean().item(), abs=1e-4)
    assert hypothesis.no_speech_prob == pytest.approx(no_speech_prob, abs=1e-4)
    assert hypothesis.compression_ratio == compression_ratio(hypothesis.text)


@pytest.mark.slow
def test_two_languages_share_a_call_and_their_texts_are_those_of_transformers_pipeline(
    base: TransformersRecognizer, whisper_base: Path
) -> None:
    recognize: Any = pipeline("automatic-speech-recognition", model=str(whisper_base), dtype=torch.float32)
    spoken = load_clips(SWEDISH, ENGLISH[0])
    ours = base.transcribe(pcm_of(spoken), [clip.language for clip in spoken])
    for clip, hypothesis in zip(spoken, ours, strict=True):
        theirs = recognize(
            clip.pcm.astype(np.float32) / 32768,
            generate_kwargs={"num_beams": 1, "language": clip.language, "task": "transcribe"},
        )
        assert hypothesis.text == theirs["text"].strip()


@pytest.mark.slow
def test_spoken_languages_are_detected(base: TransformersRecognizer) -> None:
    spoken = load_clips(SWEDISH, SPANISH, CHINESE)
    detected = base.detect_languages(pcm_of(spoken))
    assert [detected.codes[best] for best in detected.probs.argmax(axis=1)] == [clip.language for clip in spoken]
    assert detected.probs.dtype == np.float32
    np.testing.assert_allclose(detected.probs.sum(axis=1), 1, atol=1e-5)
    assert detected.codes == base.languages


def test_an_english_only_checkpoint_refuses_other_languages(tiny: TransformersRecognizer) -> None:
    silence = np.zeros(16_000, np.int16)
    with pytest.raises(ValueError, match="'de' is unknown to this checkpoint"):
        tiny.transcribe([silence], ["de"])
    languages = tiny.detect_languages([silence, silence])
    assert languages.codes == ("en",)
    assert languages.probs.tolist() == [[1.0], [1.0]]


def test_an_english_only_checkpoint_refuses_to_translate(whisper_tiny_en: Path) -> None:
    with pytest.raises(ValueError, match="cannot translate"):
        TransformersRecognizer(whisper_tiny_en, replace(CPU32, task="translate"))


def test_phrases_get_times_within_the_chunk(whisper_tiny_en: Path, english: list[Clip]) -> None:
    recognizer = TransformersRecognizer(whisper_tiny_en, replace(CPU32, timestamps="segment"))
    clip = english[3]
    (hypothesis,) = recognizer.transcribe([clip.pcm], ["en"])
    assert hypothesis.segments
    assert " ".join(span.text for span in hypothesis.segments) == hypothesis.text
    assert 0 <= hypothesis.segments[0].start_s < hypothesis.segments[-1].end_s <= len(clip.pcm) / 16_000


def test_a_limit_of_tokens_ends_the_text(whisper_tiny_en: Path, english: list[Clip], heard: list[Hypothesis]) -> None:
    recognizer = TransformersRecognizer(whisper_tiny_en, replace(CPU32, max_new_tokens=3))
    (hypothesis,) = recognizer.transcribe([english[1].pcm], ["en"])
    assert hypothesis.tokens == heard[1].tokens[:3]


def test_a_silent_chunk_gives_no_text_where_the_model_doubts_its_words(whisper_tiny_en: Path) -> None:
    recognizer = TransformersRecognizer(whisper_tiny_en, replace(CPU32, no_speech_threshold=0.0, logprob_threshold=0.0))
    (hypothesis,) = recognizer.transcribe([np.zeros(16_000, np.int16)], ["en"])
    assert (hypothesis.text, hypothesis.tokens, hypothesis.quality_flags) == ("", (), (NO_SPEECH,))
    assert hypothesis.avg_logprob is not None and hypothesis.no_speech_prob is not None
    assert hypothesis.avg_logprob < 0 < hypothesis.no_speech_prob


def test_chunks_that_cannot_be_are_refused(tiny: TransformersRecognizer) -> None:
    with pytest.raises(ValueError, match="480001 samples"):
        tiny.transcribe([np.zeros(480_001, np.int16)], ["en"])
    with pytest.raises(ValueError, match="0 samples"):
        tiny.transcribe([np.zeros(0, np.int16)], ["en"])
    with pytest.raises(ValueError, match="must be int16"):
        tiny.transcribe([np.zeros(100, np.float32)], ["en"])
    with pytest.raises(ValueError, match="1 chunks, but 2 languages"):
        tiny.transcribe([np.zeros(100, np.int16)], ["en", "en"])
    assert tiny.transcribe([], []) == []


def test_out_of_memory_halves_the_batch_and_remembers(
    whisper_tiny_en: Path, heard: list[Hypothesis], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = TransformersRecognizer(whisper_tiny_en, CPU32)
    sizes: list[int] = []

    def decode_at_most_two(chunks: Sequence[PCM16], language: str, is_aligned: bool) -> list[DecodingResult]:
        sizes.append(len(chunks))
        if len(chunks) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        said = [heard[len(chunk) - 1] for chunk in chunks]
        return [
            DecodingResult(each.tokens, (each.avg_logprob or 0.0) * (len(each.tokens) + 1), 0.0, ended=True)
            for each in said
        ]

    monkeypatch.setattr(recognizer, "_decode", decode_at_most_two)
    chunks = [np.zeros(length, np.int16) for length in (1, 2, 3, 4)]
    assert [each.text for each in recognizer.transcribe(chunks, ["en"] * 4)] == [each.text for each in heard]
    assert sizes == [4, 2, 2]
    recognizer.transcribe(chunks, ["en"] * 4)
    assert sizes == [4, 2, 2, 2, 2]
    assert "out of memory at 4 chunks" in recognizer.warnings[-1]


def test_other_faults_are_not_taken_for_a_lack_of_memory(
    whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = TransformersRecognizer(whisper_tiny_en, CPU32)

    def fail(chunks: Sequence[PCM16], language: str, is_aligned: bool) -> Any:
        raise RuntimeError("device-side assert")

    monkeypatch.setattr(recognizer, "_decode", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        recognizer.transcribe([np.zeros(100, np.int16)] * 2, ["en", "en"])


def test_short_windows_are_left_to_the_native_recognizer(whisper_tiny_en: Path) -> None:
    with pytest.raises(ValueError, match=r"chunking\.window=gated"):
        load_recognizer("transformers", whisper_tiny_en, replace(CPU32, window="gated"))


def test_a_recognizer_reports_device_and_dtype(whisper_tiny_en: Path) -> None:
    recognizer = load_recognizer("transformers", whisper_tiny_en, RecognizerOptions())
    assert recognizer.device == "cpu"
    assert recognizer.dtype in {"float32", "bfloat16"}
    assert any(note.startswith("model.dtype=auto") for note in recognizer.warnings)
    assert any(note.startswith("model.attention=auto") for note in recognizer.warnings)
