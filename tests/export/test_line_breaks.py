"""Line breaks: no word is lost, lines are as few and as even as they can be, and scripts without blanks are broken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.export.line_breaks import CueWord, break_lines, line_text, split_words, text_width


def words_of(text: str) -> list[CueWord]:
    return [CueWord(100 * number, 100 * number + 100, word) for number, word in enumerate(split_words(text))]


def lines_of(text: str, max_width: int, label_width: int = 0) -> list[str]:
    return [line_text(line) for line in break_lines(words_of(text), max_width, label_width)]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_splitting_loses_nothing(text: str) -> None:
    assert "".join(split_words(text)) == " ".join(text.split())


@given(st.lists(st.text("abc.,日本っ。", min_size=1, max_size=9), min_size=1, max_size=12), st.integers(1, 30))
def test_lines_keep_the_width_and_are_as_few_as_possible(texts: list[str], max_width: int) -> None:
    words = words_of(" ".join(texts))
    lines = break_lines(words, max_width)
    assert [word for line in lines for word in line] == words
    assert all(text_width(line_text(line)) <= max_width or len(line) == 1 for line in lines)
    filled: list[list[CueWord]] = []  # as much as fits into each line, one after the other
    for word in words:
        if filled and text_width(line_text([*filled[-1], word])) <= max_width:
            filled[-1].append(word)
        else:
            filled.append([word])
    assert len(lines) == len(filled)


def test_two_lines_are_even_and_prefer_the_end_of_a_clause() -> None:
    assert lines_of("the quick brown fox jumps over the lazy dog again", 42) == [
        "the quick brown fox jumps",
        "over the lazy dog again",
    ]
    assert lines_of("if the fox is quick, then it jumps over the lazy dog", 42) == [
        "if the fox is quick,",
        "then it jumps over the lazy dog",
    ]


def test_a_word_that_is_too_long_has_a_line_for_itself_and_a_label_takes_room() -> None:
    assert lines_of("a Donaudampfschifffahrtsgesellschaft b", 10) == ["a", "Donaudampfschifffahrtsgesellschaft", "b"]
    assert lines_of("one two", 7) == ["one two"]
    assert lines_of("one two", 7, label_width=3) == ["one", "two"]
    assert lines_of("one two", 0) == ["one two"]


@pytest.mark.parametrize(
    ("text", "max_width", "lines"),
    [
        ("甚至出现交易几乎停止的情况", 14, ["甚至出现交易", "几乎停止的情况"]),  # two columns per character
        ("外れの電柱に、電球が止まっていた。", 20, ["外れの電柱に、", "電球が止まっていた。"]),
        ("ちょっと", 4, ["ちょっ", "と"]),
        ("「はい」「いいえ」", 10, ["「はい」", "「いいえ」"]),
        ("한국어는 빈칸이 있다", 10, ["한국어는", "빈칸이", "있다"]),
        ("ภาษาไทย", 4, ["ภาษา", "ไทย"]),
    ],
)
def test_scripts_without_blanks_are_broken_between_characters(text: str, max_width: int, lines: list[str]) -> None:
    assert lines_of(text, max_width) == lines
