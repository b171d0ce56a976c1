"""Tokenizers made of text tokens are those that OpenAI's checkpoints were published with."""

import json
from pathlib import Path
from typing import Any

import pytest

from distil_ray.whisper.formats.model_files import complete_tokenizer, special_tokens
from distil_ray.whisper.formats.vocabulary import (
    LANGUAGES,
    check_tokenizer,
    make_tokenizer,
    merges,
    require_text_tokens,
    special_texts,
    suppressed_tokens,
    text_tokens,
)
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.weights_cache import WeightsError


def read(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / name).read_text()))


def test_the_text_tokens_determine_the_published_tokenizer_and_its_suppressed_tokens(whisper_base: Path) -> None:
    published, generation = read(whisper_base, "tokenizer.json"), read(whisper_base, "generation_config.json")
    words = text_tokens("base", published, 51865)

    made = make_tokenizer("base", words, 51865)

    assert made == published
    suppressed, first = suppressed_tokens(made)
    assert suppressed == generation["suppress_tokens"]
    assert first == generation["begin_suppress_tokens"]


def test_the_vocabulary_of_large_v3_has_one_language_more() -> None:
    v2, v3 = ({text: 50257 + index for index, text in enumerate(special_texts(size))} for size in (51865, 51866))
    assert v3["<|yue|>"] == v2["<|translate|>"] == 50358
    assert (v3["<|translate|>"], v3["<|nospeech|>"], v3["<|notimestamps|>"]) == (50359, 50363, 50364)
    assert 50364 + 1 + 1501 == 51866


def test_the_english_vocabulary_differs_and_suppresses_other_tokens(whisper_tiny_en: Path) -> None:
    published, generation = read(whisper_tiny_en, "tokenizer.json"), read(whisper_tiny_en, "generation_config.json")
    words = text_tokens("tiny.en", published, 51864)
    pairs = [["".join(merge)] if isinstance(merge, str) else merge for merge in published["model"]["merges"]]

    assert len(words) == 50256
    assert sum(1 for word in words if len(word) > 1) == len(pairs)
    suppressed, first = suppressed_tokens(published)
    assert (suppressed, first) == (generation["suppress_tokens"], generation["begin_suppress_tokens"])


def test_merges_are_found_by_their_ranks() -> None:
    words = [b"a", b"b", b"c", b"ab", b"bc", b"abc", b"cc", b"abcc"]
    assert list(merges("small", words)) == [(b"a", b"b"), (b"b", b"c"), (b"ab", b"c"), (b"c", b"c"), (b"abc", b"c")]


def test_a_token_that_no_merge_makes_is_refused() -> None:
    with pytest.raises(WeightsError, match=r"token 2 .* is no merge of two tokens before it"):
        list(merges("small", [b"a", b"b", b"abab"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([b"a"] * 10, "has 50256 text tokens; found 10"),
        ([b"ab"] * 50256, "the first 256 tokens must be single bytes"),
        ([bytes([index % 256]) for index in range(50256)], "the first 256 tokens must be single bytes"),
        ([bytes([index % 256]) for index in range(50300)], "has 50256 text tokens; found 50300"),
    ],
)
def test_a_vocabulary_that_is_not_whispers_is_refused(words: list[bytes], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        require_text_tokens("ggml.bin", words, 51864)


def test_a_vocabulary_of_an_unknown_size_needs_a_tokenizer() -> None:
    with pytest.raises(WeightsError, match=r"has 51968 vocabulary entries.*tokenizer\.json of the model beside"):
        require_text_tokens("ggml.bin", [], 51968)


def test_the_end_token_may_be_listed_as_a_text() -> None:
    words = [bytes([index]) for index in range(256)] + [index.to_bytes(3, "big") for index in range(50000)]
    assert len(require_text_tokens("ggml.bin", [*words, b"<|endoftext|>"], 51864)) == 50256


def test_the_tokenizer_of_another_model_is_refused(whisper_tiny_en: Path) -> None:
    tokenizer = read(whisper_tiny_en, "tokenizer.json")
    check_tokenizer("tiny.en", tokenizer, 51864)
    with pytest.raises(WeightsError, match=r"has 51864 tokens, but the weights have 51865 vocabulary entries"):
        check_tokenizer("base.bin", tokenizer, 51865)
    with pytest.raises(WeightsError, match="no Whisper tokenizer"):
        check_tokenizer("base.bin", {"model": {"vocab": {}}, "added_tokens": []}, 51865)


def test_languages_are_in_the_order_of_their_ids(whisper_base: Path) -> None:
    assert Tokens.load(whisper_base).language_codes == LANGUAGES[:99]


def test_the_converted_tokenizer_has_all_timestamp_tokens(whisper_base: Path) -> None:
    tokens = Tokens.load(whisper_base)
    assert tokens.tokenizer.id_to_token(tokens.timestamp_begin) == "<|0.00|>"
    assert tokens.tokenizer.id_to_token(tokens.timestamp_begin + 1500) == "<|30.00|>"


def test_an_old_tokenizer_is_completed_with_its_first_merge_and_timestamp_tokens(whisper_base: Path) -> None:
    whole = read(whisper_base, "tokenizer.json")
    old = {**whole, "model": {**whole["model"], "merges": whole["model"]["merges"][1:]}}
    old["added_tokens"] = [token for token in whole["added_tokens"] if token["special"]]
    assert complete_tokenizer(old) == whole
    assert complete_tokenizer(whole) == whole
    assert special_tokens(whole)["<|endoftext|>"] == 50257
