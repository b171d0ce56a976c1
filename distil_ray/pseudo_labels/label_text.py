"""Labels as distil-whisper's trainer reads them: the ids of a transcript with its prefix and end, and their text.

The trainer makes ids of the text again (`add_special_tokens=False`), and has to get the same ones. A model may spell a
word in other pieces than a tokenizer does, so a teacher's tokens are respelled first: the text stays, the ids become the
tokenizer's. `generate` gives back neither prefix nor end token; both are written here. In a label with times every text
stands between two time tokens, also where the teacher, cut off, had not come to write the second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from distil_ray.pseudo_labels.dataset_schema import STEP
from distil_ray.whisper.tokenizer import Tokens

FRAME_TOKENS = 5  # at most: <|startoftranscript|>, language, task, <|notimestamps|>, <|endoftext|>
BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder makes of half a character


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of an example: the teacher's tokens, respelled, times counted from its first sample."""

    tokens: tuple[int, ...]
    num_samples: int


@dataclass(frozen=True, slots=True)
class Label:
    """`ids` are what the trainer will read out of `text`; the first `num_prefix` of them say what kind of label it is,
    the last one ends it."""

    ids: tuple[int, ...]
    text: str
    num_prefix: int

    def prompt(self, longest: int) -> tuple[int, ...]:
        """What is said, for the prompt of the next example: at most the `longest` last ids."""
        return self.ids[self.num_prefix : -1][-longest:]


def respell(ids: Sequence[int], tokens: Tokens) -> tuple[int, ...] | None:
    """The ids that a tokenizer writes for the text between the time tokens; None where they are no whole text."""
    respelled: list[int] = []
    for is_time, run in groupby(ids, key=lambda token: token >= tokens.timestamp_begin):
        if is_time:
            respelled += run
            continue
        text = tokens.tokenizer.decode(list(run), skip_special_tokens=True)
        spelled = tokens.tokenizer.encode(text, add_special_tokens=False).ids
        if BROKEN in text or any(token >= tokens.eot for token in spelled):
            return None
        respelled += spelled
    return tuple(respelled)


def has_times(ids: Sequence[int], tokens: Tokens) -> bool:
    return any(token >= tokens.timestamp_begin for token in ids)


def num_label_tokens(ids: Sequence[int], tokens: Tokens) -> int:
    """How many ids of a label these take at most, two time tokens around each text included."""
    texts = [
        list(run) for is_time, run in groupby(ids, key=lambda token: token >= tokens.timestamp_begin) if not is_time
    ]
    return sum(len(run) + 2 for run in texts)


def write_label(stretches: Sequence[Stretch], tokens: Tokens, language: str, task: str, *, timestamps: bool) -> Label:
    """The label of an example that consists of these stretches, one after the other.

    With `timestamps` each stretch's tokens need times. Raises ValueError as `Tokens.prompt` does.
    """
    prefix = tokens.prompt(language, task, timestamps=timestamps)
    if timestamps:
        body = list(_moved(stretches, tokens))
    else:
        said = [token for stretch in stretches for token in stretch.tokens if token < tokens.timestamp_begin]
        text = tokens.tokenizer.decode(
            said, skip_special_tokens=True
        )  # the seams may be spelled otherwise than the parts
        body = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    ids = (*prefix, *body, tokens.eot)
    return Label(ids, tokens.tokenizer.decode(list(ids), skip_special_tokens=False), len(prefix))


def _moved(stretches: Sequence[Stretch], tokens: Tokens) -> Iterator[int]:
    """The tokens of all stretches on one time line, which never runs backwards nor out of a stretch.

    A time token ends the text before it and begins the text after it; text without one behind it ends with its stretch.
    """
    begin = 0  # samples
    for stretch in stretches:
        first, last = (round(place / STEP) for place in (begin, begin + stretch.num_samples))
        now, words = first, list[int]()
        for token in (*stretch.tokens, tokens.timestamp_begin + last - first):
            if token < tokens.timestamp_begin:
                words.append(token)
                continue
            then = min(max(now, first + token - tokens.timestamp_begin), last)
            if words:
                yield from (tokens.timestamp_begin + now, *words, tokens.timestamp_begin + then)
            now, words = then, []
        begin += stretch.num_samples
