"""The ids behind ``decoding.suppress_tokens``: ids, texts and the word ``numerals``, by a checkpoint's tokenizer."""

import unicodedata
from collections.abc import Sequence

from distil_ray.whisper.tokenizer import Tokens

NUMERALS = "numerals"
CHECKPOINT_TOKENS = -1  # openai's sign for the default set; here that set is always suppressed

_NUMERAL_CATEGORIES = frozenset(("Nd", "No", "Sc"))  # Unicode: decimal digits, other digits (½, ²), currency symbols
_PERCENT_SIGNS = frozenset("%‰")


def find_suppressed_ids(items: Sequence[int | str], tokens: Tokens) -> tuple[int, ...]:
    """Returns the ids that `items` name, ascending.

    A text stands for the tokens that are this text, or a space and this text; ``numerals`` for all tokens that contain
    a digit, a currency symbol or a percent sign.

    Raises:
        ValueError: An id is not that of a text token, or a text is no single token.
    """
    found: set[int] = set()
    for item in items:
        if item == NUMERALS:
            found |= _numeral_ids(tokens)
        elif isinstance(item, str):
            found |= _text_ids(item, tokens)
        elif item != CHECKPOINT_TOKENS:
            if item < 0 or not tokens.is_text(item):
                raise ValueError(f"{item}: must be the id of a text token of the checkpoint, 0 to {tokens.eot - 1}")
            found.add(item)
    return tuple(sorted(found))


def _numeral_ids(tokens: Tokens) -> set[int]:
    ids = [*range(tokens.eot), *tokens.added_text]
    texts = tokens.tokenizer.decode_batch([[token] for token in ids])
    return {token for token, text in zip(ids, texts, strict=True) if any(map(_is_numeral, text))}


def _is_numeral(letter: str) -> bool:
    return unicodedata.category(letter) in _NUMERAL_CATEGORIES or letter in _PERCENT_SIGNS


def _text_ids(text: str, tokens: Tokens) -> set[int]:
    forms = [tokens.tokenizer.encode(form, add_special_tokens=False).ids for form in (text.strip(), f" {text.strip()}")]
    ids = {form[0] for form in forms if len(form) == 1 and tokens.is_text(form[0])}
    if not ids:
        raise ValueError(
            f"'{text}' is no single token of the checkpoint, but {len(forms[1])}, each of which other words contain."
            " Leave it out, or give the ids of the tokens to suppress"
        )
    return ids
