"""Tokens become words as in transformers, and no letter is lost on the way."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperTokenizer
from transformers.models.whisper.tokenization_whisper import _combine_tokens_into_words

from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.word_boundaries import split_words

# Parts of letters, blanks alone, quotes and brackets among ordinary words.
ODD_IDS = [220, 290, 188, 447, 13, 11, 1, 6, 357, 366, 8, 464, 995, 29636, 46695, 1543]


@pytest.fixture(scope="module")
def tokens(whisper_base: Path) -> Tokens:
    return Tokens.load(whisper_base)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(ODD_IDS), st.integers(0, 51864)), max_size=30),
    st.sampled_from(["en", "ja", None]),
)
def test_words_joined_are_the_text_to_the_letter(tokens: Tokens, ids: list[int], language: str | None) -> None:
    words = split_words(ids, language, tokens)
    assert "".join(word.text for word in words) == tokens.decode(ids)
    places = [place for word in words for place in word.places]
    assert places == sorted(places)
    assert all(word.text.strip() for word in words)
    assert all(set(word.spoken) <= set(word.places) for word in words)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        (" Well, (he said) no...", ["Well", "he", "said", "no"]),
        (" «¿Qué?» 50% of $5 & more", ["Qué", "", "50", "%", "of", "$5", "&", "more"]),
        (" a well-known word; - and", ["a", "well", "known", "word", "", "and"]),
    ],
)
def test_punctuation_is_not_spoken_but_signs_that_are_read_are(tokens: Tokens, text: str, spoken: list[str]) -> None:
    ids = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    words = split_words(ids, "en", tokens)
    assert [tokens.decode([ids[place] for place in word.spoken]) for word in words] == spoken


def test_sentences_of_seven_languages_have_the_words_of_transformers(
    corpus: Path, tokens: Tokens, whisper_base: Path
) -> None:
    tokenizer = WhisperTokenizer.from_pretrained(whisper_base)
    names = {"ja": "japanese", "zh": "chinese"}
    seen = set()
    for line in map(json.loads, (corpus / "manifest.jsonl").read_text(encoding="utf-8").splitlines()):
        if line["set"] not in ("multilingual", "ljspeech"):
            continue
        ids = tokens.tokenizer.encode(" " + line["reference"], add_special_tokens=False).ids
        texts, _, places = _combine_tokens_into_words(tokenizer, ids, names.get(line["language"], "english"))
        words = split_words(ids, line["language"], tokens)
        # Only ours take the blank before the first word away, and hand blanks that stand alone to a word.
        if all(text.strip() for text in texts):
            assert [word.places for word in words] == [tuple(group) for group in places]
            assert [word.text for word in words] == [texts[0].lstrip(), *texts[1:]]
            seen.add(line["language"])
    assert seen == {"de", "en", "es", "fr", "ja", "pt", "zh"}


def test_no_word_reaches_over_a_time_token(tokens: Tokens) -> None:
    hello, world = (tokens.tokenizer.encode(text, add_special_tokens=False).ids for text in (" hello", "world"))
    joined, apart = [*hello, *world], [*hello, tokens.timestamp_begin + 50, *world]
    assert [word.text for word in split_words(joined, "en", tokens)] == ["helloworld"]
    assert [word.text for word in split_words(apart, "en", tokens)] == ["hello", "world"]
