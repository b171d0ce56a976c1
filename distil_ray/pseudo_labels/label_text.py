"""Label texts in the form that distil-whisper's trainer reads: token ids with prefix and end token, and their text.

The trainer tokenizes the text again (`add_special_tokens=False`) and has to get the same ids. A model may generate a
text in other tokens than a tokenizer encodes it in, so the teacher's tokens are retokenized first: the text stays, the
ids become the tokenizer's. `generate` returns neither prefix nor end token; both are added here. In a label with
timestamps every text is between two timestamp tokens, even if the teacher was cut off before the second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from distil_ray.pseudo_labels.dataset_schema import SAMPLES_PER_TIMESTAMP
from distil_ray.whisper.tokenizer import Tokens

NUM_FRAMING_TOKENS = 5  # at most: <|startoftranscript|>, language, task, <|notimestamps|>, <|endoftext|>
BROKEN = "\N{REPLACEMENT CHARACTER}"  # decoded from an incomplete character


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """An utterance of an example: retokenized tokens, with timestamps relative to its first sample."""

    tokens: tuple[int, ...]
    num_samples: int


@dataclass(frozen=True, slots=True)
class Label:
    """A label. `ids` are the trainer's tokens of `text`: `num_prefix` ids of the prefix first, the end token last."""

    ids: tuple[int, ...]
    text: str
    num_prefix: int

    def prompt(self, longest: int) -> tuple[int, ...]:
        """Returns the ids without prefix and end token, for the next example's prompt: at most the last `longest`."""
        return self.ids[self.num_prefix : -1][-longest:]


def retokenize(ids: Sequence[int], tokens: Tokens) -> tuple[int, ...] | None:
    """Returns the tokenizer's ids for the text between the timestamp tokens; None for incomplete characters."""
    retokenized: list[int] = []
    for is_time, run in groupby(ids, key=tokens.is_timestamp):
        if is_time:
            retokenized += run
            continue
        text = tokens.tokenizer.decode(list(run), skip_special_tokens=True)
        text_ids = tokens.tokenizer.encode(text, add_special_tokens=False).ids
        if BROKEN in text or not all(map(tokens.is_text, text_ids)):
            return None
        retokenized += text_ids
    return tuple(retokenized)


def has_timestamps(ids: Sequence[int], tokens: Tokens) -> bool:
    return any(map(tokens.is_timestamp, ids))


def count_label_tokens(ids: Sequence[int], tokens: Tokens) -> int:
    """Returns the maximum number of label ids for these tokens, with two timestamp tokens around each text."""
    texts = [list(run) for is_time, run in groupby(ids, key=tokens.is_timestamp) if not is_time]
    return sum(len(run) + 2 for run in texts)


def write_label(spans: Sequence[TokenSpan], tokens: Tokens, language: str, task: str, *, timestamps: bool) -> Label:
    """Returns the label of an example that consists of these spans, one after the other.

    With `timestamps` the tokens of each span need timestamps. Raises ValueError as `Tokens.prompt` does.
    """
    prefix = tokens.prompt(language, task, timestamps=timestamps)
    if timestamps:
        body = list(_shift_timestamps(spans, tokens))
    else:
        text_tokens = [token for span in spans for token in tokens.text_ids(span.tokens)]
        text = tokens.tokenizer.decode(text_tokens, skip_special_tokens=True)
        # encoded again, because tokens at the boundaries may differ from those of the spans
        body = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    ids = (*prefix, *body, tokens.eot)
    return Label(ids, tokens.tokenizer.decode(list(ids), skip_special_tokens=False), len(prefix))


def _shift_timestamps(spans: Sequence[TokenSpan], tokens: Tokens) -> Iterator[int]:
    """Yields the tokens of all spans with timestamps from the start of the example.

    Timestamps never decrease and never leave their span. A timestamp token ends the text before it and begins the text
    after it; text without a later timestamp token ends with its span.
    """
    begin = 0  # samples
    for span in spans:
        first, last = (round(position / SAMPLES_PER_TIMESTAMP) for position in (begin, begin + span.num_samples))
        now, words = first, list[int]()
        for token in (*span.tokens, tokens.timestamp_begin + last - first):
            if not tokens.is_timestamp(token):
                words.append(token)
                continue
            then = min(max(now, first + token - tokens.timestamp_begin), last)
            if words:
                yield from (tokens.timestamp_begin + now, *words, tokens.timestamp_begin + then)
            now, words = then, []
        begin += span.num_samples
