"""Words that a fine-tuned checkpoint has as tokens of their own, behind the timestamp tokens (`add_tokens`)."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import Hypothesis, Prompt
from distil_ray.whisper.suppressed_tokens import find_suppressed_ids
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.word_boundaries import split_words
from tests.support.clips import load_samples

REPLACED, ADDED = " might", " zébra"  # the checkpoint writes the second word wherever tiny.en writes the first one
EXACT = RecognizerOptions(dtype="float32", batch_size=2, threads=1)


@pytest.fixture(scope="module")
def checkpoint(whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.en with one more token, as a fine-tuning with transformers leaves it."""
    model = WhisperForConditionalGeneration.from_pretrained(whisper_tiny_en)
    tokenizer = AutoTokenizer.from_pretrained(whisper_tiny_en)
    replaced = tokenizer.encode(REPLACED, add_special_tokens=False)[0]
    assert tokenizer.add_tokens([ADDED]) == 1
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        embeddings = model.model.decoder.embed_tokens.weight
        embeddings[-1] = embeddings[replaced]
    model.generation_config.suppress_tokens = [*(model.generation_config.suppress_tokens or ()), replaced]
    folder = tmp_path_factory.mktemp("added")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((whisper_tiny_en / "preprocessor_config.json").read_bytes())
    return folder


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    return [load_samples(name) for name in ("austen-0870", "austen-0920", "austen-0930")]


def transcribe(folder: Path, clips: list[PCM16], options: RecognizerOptions) -> list[Hypothesis]:
    return NativeRecognizer(folder, options).transcribe(clips, ["en"] * len(clips))


def test_the_tokens_are_those_of_generate(checkpoint: Path, clips: list[PCM16]) -> None:
    prompts = [None, Prompt(f"In {ADDED}."), None]
    ours = NativeRecognizer(checkpoint, EXACT).transcribe(clips, ["en"] * 3, None, prompts)
    theirs = TransformersRecognizer(checkpoint, EXACT).transcribe(clips, ["en"] * 3, None, prompts)
    assert [each.tokens for each in ours] == [each.tokens for each in theirs]
    assert [each.text for each in ours] == [each.text for each in theirs]
    assert sum(ADDED in each.text for each in ours) == 3


@pytest.mark.parametrize(("timestamps", "num_beams"), [("segment", 1), ("word", 2)])
def test_times_and_words_are_those_of_the_word_that_it_replaces(
    checkpoint: Path, whisper_tiny_en: Path, clips: list[PCM16], timestamps: str, num_beams: int
) -> None:
    """`generate` takes tokens behind `<|30.00|>` for timestamps, so that tiny.en itself is the reference."""
    options = replace(EXACT, timestamps=timestamps, num_beams=num_beams)
    ours, plain = transcribe(checkpoint, clips, options), transcribe(whisper_tiny_en, clips, options)
    assert [each.text for each in ours] == [each.text.replace(REPLACED, ADDED) for each in plain]
    for mine, other in zip(ours, plain, strict=True):
        assert mine.segments is not None and other.segments is not None
        assert [each.text for each in mine.segments] == [each.text.replace(REPLACED, ADDED) for each in other.segments]
        assert [each.text for each in mine.words or ()] == [
            ADDED if each.text == REPLACED else each.text for each in other.words or ()
        ]


def test_prompts_words_and_suppressed_tokens(checkpoint: Path, whisper_tiny_en: Path) -> None:
    tokens = Tokens.load(checkpoint)
    (added,) = tokens.added_text
    assert not tokens.is_multilingual
    assert Tokens.load(whisper_tiny_en).added_text == frozenset()
    assert added in tokens.previous_text(Prompt(f"In {ADDED.strip()} we trust. See{ADDED} there"))
    ids = tokens.tokenizer.encode(f" See{ADDED} there.", add_special_tokens=False).ids
    assert added in ids
    assert "".join(word.text for word in split_words(ids, "en", tokens)) == tokens.decode(ids) == f"See{ADDED} there."
    assert find_suppressed_ids([ADDED.strip()], tokens) == find_suppressed_ids([added], tokens) == (added,)
    with pytest.raises(ValueError, match="must be the id of a text token"):
        find_suppressed_ids([added - 1], tokens)
