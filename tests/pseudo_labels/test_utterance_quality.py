"""References of long recordings are split at the chunks of the transcript."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.pseudo_labels.utterance_quality import align_reference

WORDS = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "Mr.", "O'Neil"]), max_size=40)


@given(reference=WORDS, chunks=st.lists(WORDS, min_size=1, max_size=5))
def test_splitting_a_reference_keeps_all_words_in_order(reference: list[str], chunks: list[list[str]]) -> None:
    parts = align_reference(" ".join(reference), [" ".join(chunk) for chunk in chunks], spaceless=False)

    assert len(parts) == len(chunks)
    assert " ".join(filter(None, parts)).split() == reference


@given(WORDS.filter(len), st.data())
def test_chunks_of_a_perfect_transcript_get_their_own_words(words: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(words)))
    texts = [" ".join(words[:cut]).upper() + ",", " ".join(words[cut:]) + "."]

    assert align_reference(" ".join(words), texts, spaceless=False) == [" ".join(words[:cut]), " ".join(words[cut:])]


@pytest.mark.parametrize(
    ("texts", "parts"),
    [
        (["in the beginning", "was the word"], ["IN THE BEGINNING", "WAS THE WORD"]),
        (["in the", "was the word"], ["IN THE BEGINNING", "WAS THE WORD"]),  # a lost word stays with the one before it
        (["in the beginning", "uh was a word"], ["IN THE BEGINNING", "WAS THE WORD"]),
        (["", ""], ["IN THE BEGINNING WAS THE WORD", ""]),
    ],
)
def test_errors_stay_in_the_chunk_that_made_them(texts: list[str], parts: list[str]) -> None:
    assert align_reference("IN THE BEGINNING WAS THE WORD", texts, spaceless=False) == parts


def test_languages_without_spaces_are_aligned_by_character() -> None:
    assert align_reference("甚至出现交易停滞", ["甚至出现，", "交易几乎停滞。"], spaceless=True) == [
        "甚至出现",
        "交易停滞",
    ]


def test_words_that_differ_in_a_vowel_sign_are_different_words() -> None:
    assert align_reference("का", ["के", "का"], spaceless=False) == ["", "का"]
