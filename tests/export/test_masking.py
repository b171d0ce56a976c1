"""Numbers, addresses and names are masked as they are written and as they are spoken; nothing of them is left."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.export.masking import MASKS, Kind, TextMasker, mask_pieces

NAMES = ["Ann Lee", "José", "O'Neil", "Łukasz", "王小明", "number", "Straße"]
MASKER = TextMasker(tuple(Kind), NAMES)
PIECES = st.sampled_from(
    [
        *("four", "two", "double", "oh", "and", "hundred", "one", "the", "look", "at", "dot", "com", "example", "john"),
        *("4", "42", "+49", "12.50", "²", "٤٢", "-", ".", ",", "@", "_", "a@b.de", "Ann", "Lee", "JOSÉ", "Jose\u0301"),
        *("O'Neil", "王小明", "我是王小明", "[number]", "[name]", "[", "]", "number", "email", "\u00e9", "łukasz"),
    ]
)
TEXTS = st.lists(st.tuples(PIECES, st.sampled_from([" ", "", ", ", "\n"])), max_size=14).map(
    lambda pairs: "".join(piece + gap for piece, gap in pairs)
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Call 0800-123 456 now.", "Call [number] now."),
        ("It is $12.50, or 5%.", "It is $[number], or [number]%."),
        ("Room B12, 21st floor", "Room B[number], [number]st floor"),
        ("the card is four two, four two. Thanks", "the card is [number]. Thanks"),
        ("double four and oh seven", "[number]"),
        ("Oh, one moment", "Oh, one moment"),
        ("one of the two", "one of the two"),
        ("oh oh seven", "[number]"),
        ("twenty-five people", "[number] people"),
        ("4 double 2 nine", "[number]"),
        ("٤٢ or ½ or x²", "[number] or [number] or x[number]"),
    ],
)
def test_numbers(text: str, masked: str) -> None:
    assert TextMasker([Kind.NUMBER]).mask(text) == masked


def test_the_shortest_sequence_of_number_words_is_a_setting() -> None:
    text = "forty two, then 7"
    assert TextMasker([Kind.NUMBER], min_number_words=3).mask(text) == "forty two, then [number]"
    assert TextMasker([Kind.NUMBER], min_number_words=1).mask("five people") == "[number] people"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to john.smith+x@example.co.uk.", "Write to [email]."),
        ("john dot smith at example dot com, please", "[email], please"),
        ("It is J. O. H. N. at g mail dot com", "It is [email]"),
        ("john four two at my-company.com!", "[email]!"),
        ("j underscore smith at sign example dot co dot uk", "[email]"),
        ("We stayed at home. Come in.", "We stayed at home. Come in."),
        ("at 5.30 at night", "at 5.30 at night"),
    ],
)
def test_addresses(text: str, masked: str) -> None:
    assert TextMasker([Kind.EMAIL]).mask(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("ANN LEE's and Ann-Lee", "[name]'s and [name]"),
        ("Joanne Leeds, Annlee", "Joanne Leeds, Annlee"),
        ("José and jose\u0301 but not Jose", "[name] and [name] but not Jose"),
        ("Mr. O’Neil, ŁUKASZ", "Mr. [name], [name]"),
        ("我是王小明。", "我是[name]。"),
        ("Strasse", "[name]"),
    ],
)
def test_names(text: str, masked: str) -> None:
    assert TextMasker([Kind.NAME], NAMES).mask(text) == masked


@pytest.mark.parametrize("text", ["x." * 20_000, "x" * 100_000, "王" * 100_000, "one " * 20_000, "at x " * 10_000])
def test_a_long_repetition_is_searched_in_bounded_time(text: str) -> None:
    """In quadratic time each of them would take minutes."""
    assert (TextMasker(tuple(Kind)).mask(text) == text) == ("one" not in text)


def test_what_overlaps_is_masked_once() -> None:
    assert MASKER.mask("Ann Lee four two at example dot com") == "[email]"
    assert [span.kind for span in MASKER.find("ann42@example.com")] == [Kind.EMAIL]


@given(TEXTS)
def test_nothing_is_left_and_masking_twice_changes_nothing(text: str) -> None:
    masked = MASKER.mask(text)
    assert MASKER.find(masked) == []
    assert MASKER.mask(masked) == masked
    assert not any(sign.isdecimal() for sign in masked)
    spans = MASKER.find(text)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    bounds = zip([0, *(span.end for span in spans)], [*(span.start for span in spans), None], strict=True)
    kept = [text[before:after] for before, after in bounds]
    masks = [*(MASKS[span.kind] for span in spans), ""]
    assert masked == "".join(part + mask for part, mask in zip(kept, masks, strict=True))


@given(st.lists(TEXTS, max_size=6), st.sampled_from(["", " "]))
def test_pieces_are_masked_like_their_text(pieces: list[str], separator: str) -> None:
    text = separator.join(pieces)
    masked = mask_pieces(pieces, MASKER.find(text), separator)
    assert len(masked) == len(pieces)
    assert separator.join(masked).split() == MASKER.mask(text).split() or any(
        separator and span.start < edge < span.end for span in MASKER.find(text) for edge in _edges(pieces, separator)
    )
    assert not any(sign.isdecimal() for piece in masked for sign in piece)


def _edges(pieces: list[str], separator: str) -> list[int]:
    edges, position = [], 0
    for piece in pieces:
        position += len(piece)
        edges.append(position)
        position += len(separator)
    return edges
