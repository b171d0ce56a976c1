"""The ids of `decoding.suppress_tokens`, by the tokenizers of real checkpoints."""

from pathlib import Path

import pytest

from distil_ray.whisper.suppressed_tokens import find_suppressed_ids
from distil_ray.whisper.tokenizer import Tokens


@pytest.fixture(scope="module")
def tokens(whisper_base: Path) -> Tokens:
    return Tokens.load(whisper_base)


def test_a_text_stands_for_its_tokens_with_and_without_a_space(tokens: Tokens) -> None:
    found = find_suppressed_ids(["the", " the ", "!"], tokens)
    assert {tokens.tokenizer.decode([token]) for token in found} == {"!", " !", "the", " the"}


def test_a_text_with_one_form_of_several_tokens_stands_for_the_other(tokens: Tokens) -> None:
    (found,) = find_suppressed_ids(["Kennedy"], tokens)
    assert tokens.tokenizer.decode([found]) == " Kennedy"


def test_ids_are_taken_as_they_are_and_minus_one_is_the_checkpoints_own_set(tokens: Tokens) -> None:
    assert find_suppressed_ids([7, -1, 5, 7], tokens) == (5, 7)


@pytest.mark.parametrize("item", ["ComfyUI workflow", "<|en|>", "<|0.00|>", 50257, 60000, -2])
def test_what_is_no_token_of_text_is_an_error(tokens: Tokens, item: int | str) -> None:
    with pytest.raises(ValueError, match=r"token"):
        find_suppressed_ids([item], tokens)


def test_numerals_are_all_tokens_with_digits_currencies_or_percents_and_no_others(tokens: Tokens) -> None:
    found = set(find_suppressed_ids(["numerals"], tokens))
    texts = {token: tokens.tokenizer.decode([token]) for token in range(tokens.eot)}
    by_characters = {token for token, text in texts.items() if any(letter in "0123456789%$£" for letter in text)}
    assert by_characters < found  # the tokens that WhisperX's suppress_numerals names
    assert {"€", "½", "²", "٪"} & {texts[token].strip() for token in found} == {"€", "½", "²"}
    assert not any(texts[token].strip().isalpha() for token in found)
    assert 400 < len(found) < 2_500
