"""Whisper's decoding rules, applied to the logits of many rows at once, without waiting for the device.

What may never come, what may not come first, and how time tokens pair up: the same rules, in the same order, as
transformers' processors and openai's filters; a test holds them together. The log-probability of the chosen token is
that of the distribution after the rules, in float32, as openai defines it; also where a temperature chose the token.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distil_ray.recognition.sampling import Draw
from distil_ray.whisper.tokens import Tokens

_FORBIDDEN = float("-inf")


@dataclass(frozen=True, slots=True)
class TimeState:
    """What the time-token rules remember of each row; tensors of shape (rows,), changed in place.

    ``last_is_time`` and ``before_is_time`` speak of the last token and the one before it (true where there is none);
    ``latest`` is the latest time token so far, one below ``<|0.00|>`` where there was none.
    """

    last_is_time: Tensor
    before_is_time: Tensor
    latest: Tensor


class Rules:
    """The rules of one checkpoint, with or without time tokens."""

    def __init__(self, tokens: Tokens, vocab_size: int, timestamps: bool, device: torch.device) -> None:
        never = [*tokens.suppress, *([tokens.no_timestamps] if timestamps else [])]
        self._never = torch.zeros(vocab_size, device=device)
        self._never[never] = _FORBIDDEN
        self._not_first = self._never.clone()
        self._not_first[list(tokens.begin_suppress)] = _FORBIDDEN
        self._timestamps = timestamps
        self._eot, self._time = tokens.eot, tokens.timestamp_begin
        if timestamps:
            self._not_first[: self._time] = _FORBIDDEN
            if tokens.max_initial_timestamp is not None:
                self._not_first[self._time + tokens.max_initial_timestamp + 1 :] = _FORBIDDEN
        self._times = torch.arange(self._time, vocab_size, device=device)

    def new_state(self, rows: int) -> TimeState:
        """Room for the state of `rows`."""
        device = self._never.device
        flags = torch.ones(2, rows, dtype=torch.bool, device=device)
        return TimeState(flags[0], flags[1], torch.full((rows,), self._time - 1, device=device))

    def choose_first(self, logits: Tensor, draw: Draw | None = None) -> tuple[Tensor, Tensor]:
        """First tokens and their log-probabilities, each of shape (rows,), from (rows, vocabulary).

        The likeliest, or with `draw` a sample.
        """
        return _choose(logits + self._not_first, draw)

    def choose(self, logits: Tensor, state: TimeState, draw: Draw | None = None) -> tuple[Tensor, Tensor]:
        """Next tokens and their log-probabilities of the state's first rows, as above; `logits` are changed."""
        rows = len(logits)
        logits += self._never
        if not self._timestamps:
            return _choose(logits, draw)
        last_is_time, before_is_time = state.last_is_time[:rows], state.before_is_time[:rows]
        must_pair = last_is_time & ~before_is_time  # a segment has ended: the next begins, or the text ends
        logits[:, : self._eot].masked_fill_(must_pair[:, None], _FORBIDDEN)
        is_pair = last_is_time & before_is_time
        too_early = self._times < (state.latest[:rows] + ~must_pair)[:, None]  # a beginning may equal the end before it
        logits[:, self._time :].masked_fill_(too_early | is_pair[:, None], _FORBIDDEN)
        # All time tokens together likelier than the likeliest other token: a time token it is.
        any_time = logits[:, self._time :].logsumexp(dim=-1) > logits[:, : self._time].amax(dim=-1)
        logits[:, : self._time].masked_fill_(any_time[:, None], _FORBIDDEN)
        return _choose(logits, draw)

    def forget(self, state: TimeState, rows: Tensor) -> None:
        """Rows that start over."""
        state.last_is_time[rows] = True
        state.before_is_time[rows] = True
        state.latest[rows] = self._time - 1

    def remember(self, state: TimeState, tokens: Tensor, rows: Tensor) -> None:
        """Takes the tokens just chosen, shape (rows,), into the state of `rows`."""
        if self._timestamps:
            is_time = tokens >= self._time
            state.latest[rows] = torch.where(is_time, tokens, state.latest[rows])
            state.before_is_time[rows] = state.last_is_time[rows]
            state.last_is_time[rows] = is_time


def _choose(logits: Tensor, draw: Draw | None) -> tuple[Tensor, Tensor]:
    if draw is None:
        chosen, tokens = logits.max(dim=-1)
    else:
        tokens = draw.disturbed(logits).argmax(dim=-1)
        chosen = logits.gather(1, tokens[:, None])[:, 0]
    return tokens, chosen - logits.logsumexp(dim=-1)
