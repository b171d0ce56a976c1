"""Whisper's decoding rules, applied to the logits of many rows at once, without waiting for the device.

What may never come, what may not come first, and how time tokens pair up: the same rules, in the same order, as
transformers' processors and openai's filters; a test holds them together. The log-probability of the chosen token is
that of the distribution after the rules, in float32, as openai defines it; also where a temperature chose the token.
Where several tokens of a row are judged at once, each stands under the rules that the ones before it have made.
"""

from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from distil_ray.whisper.tokenizer import Tokens

_WORD = 0xFFFFFFFF  # hashes have 32 bits, in tensors of 64
_GOLDEN = 0x9E3779B1  # odd, so that what is multiplied by it keeps apart
_BITS = 23  # of noise: as many, and a half, are exact in float32
SEED_BITS = 32


@dataclass(frozen=True, slots=True)
class SamplingState:
    """What the noise of each row follows from; tensors of shape (rows,).

    ``temperatures`` is float32; ``seeds`` (of `SEED_BITS` bits) and ``steps``, the number of tokens so far, are int64.
    """

    temperatures: Tensor
    seeds: Tensor
    steps: Tensor

    def perturb(self, logits: Tensor) -> Tensor:
        """float32 logits, shape (rows, vocabulary), plus noise; the largest of a row is that row's sample."""
        return logits + self.temperatures[:, None] * gumbel_noise(self.seeds, self.steps, logits.shape[1])


def gumbel_noise(seeds: Tensor, steps: Tensor, size: int) -> Tensor:
    """Standard Gumbel noise, float32, shape (rows, size), of int64 `seeds` and `steps`, shape (rows,)."""
    ids = torch.arange(size, device=seeds.device) * _GOLDEN & _WORD
    rows = _scramble(seeds ^ _scramble(steps * _GOLDEN & _WORD))
    bits = _scramble(rows[:, None] ^ ids) >> (SEED_BITS - _BITS)
    uniform = (bits + 0.5) / 2.0**_BITS  # never 0, never 1
    return -torch.log(-torch.log(uniform))


def _scramble(words: Tensor) -> Tensor:
    """MurmurHash3's last step, which maps 32 bits one to one onto 32 bits without a trace of their order."""
    words = (words ^ (words >> 16)) * 0x85EBCA6B & _WORD
    words = (words ^ (words >> 13)) * 0xC2B2AE35 & _WORD
    return words ^ (words >> 16)


_NEGATIVE_INFINITY = float("-inf")


@dataclass(frozen=True, slots=True)
class TimestampState:
    """What the time-token rules remember of each row; tensors of shape (rows,), or (rows, P) for the places of a row.

    ``last_is_timestamp`` and ``previous_is_timestamp`` speak of the last token and the one before it (true where there is none);
    ``latest`` is the latest time token so far, one below ``<|0.00|>`` where there was none.
    """

    last_is_timestamp: Tensor
    previous_is_timestamp: Tensor
    latest: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.last_is_timestamp, self.previous_is_timestamp, self.latest

    def select(self, rows: Tensor | slice) -> Self:
        """That of some rows, in tensors of its own."""
        return type(self)(*(tensor[rows] for tensor in self.tensors()))

    def assign(self, rows: Tensor, state: Self) -> None:
        """Sets that of some rows."""
        for mine, theirs in zip(self.tensors(), state.tensors(), strict=True):
            mine[rows] = theirs


class LogitsRules:
    """The rules of one checkpoint, with or without time tokens."""

    def __init__(self, tokens: Tokens, vocab_size: int, timestamps: bool, device: torch.device) -> None:
        never = [*tokens.suppress, *([tokens.no_timestamps] if timestamps else [])]
        self._never = torch.zeros(vocab_size, device=device)
        self._never[never] = _NEGATIVE_INFINITY
        self._not_first = self._never.clone()
        self._not_first[list(tokens.begin_suppress)] = _NEGATIVE_INFINITY
        self._timestamps = timestamps
        self._first_time = tokens.timestamp_begin
        if timestamps:
            self._not_first[: self._first_time] = _NEGATIVE_INFINITY
            if tokens.max_initial_timestamp is not None:
                self._not_first[self._first_time + tokens.max_initial_timestamp + 1 :] = _NEGATIVE_INFINITY
        self._ids: Tensor | None = None  # what the logits stand for; None: every id
        self._eot, self._time = tokens.eot, tokens.timestamp_begin  # where their logits stand
        self._times = torch.arange(self._first_time, vocab_size, device=device)

    def for_vocabulary(self, vocabulary: Tensor) -> Self:
        """The same rules for logits of some ids only: `vocabulary`, int64, rising, with all from the end token on."""
        part = copy(self)
        part._ids = vocabulary
        part._never, part._not_first = self._never[vocabulary], self._not_first[vocabulary]
        part._eot, part._time = (int(torch.searchsorted(vocabulary, place)) for place in (self._eot, self._time))
        return part

    def new_state(self, rows: int) -> TimestampState:
        """That of rows without any token."""
        device = self._never.device
        flags = torch.ones(2, rows, dtype=torch.bool, device=device)
        return TimestampState(flags[0], flags[1], torch.full((rows,), self._first_time - 1, device=device))

    def choose_first(self, logits: Tensor, sampling: SamplingState | None = None) -> tuple[Tensor, Tensor]:
        """First tokens and their log-probabilities, each of shape (rows,), from (rows, vocabulary).

        The likeliest, or with `draw` a sample.
        """
        return self._choose(logits + self._not_first, sampling)

    def choose(
        self, logits: Tensor, state: TimestampState, sampling: SamplingState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Next tokens and their log-probabilities, as above; `state`: of each row. `logits` are changed."""
        self._apply(logits, state)
        return self._choose(logits, sampling)

    def apply_to_text(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """The logits behind a prompt and behind each of its `tokens`, shape (n + 1, vocabulary), as the rules leave
        them. `tokens`: int64, shape (n,), n of 1 or more."""
        ruled = logits.clone()
        ruled[0] += self._not_first
        state = self.states_along(self.new_state(1), tokens[None])
        self._apply(ruled[1:], state.select(slice(1, None)) if self._timestamps else state)
        return ruled

    def _apply(self, logits: Tensor, state: TimestampState) -> None:
        """Takes from `logits`, shape (rows, vocabulary), what may not come next."""
        logits += self._never
        if not self._timestamps:
            return
        must_pair = (
            state.last_is_timestamp & ~state.previous_is_timestamp
        )  # a segment has ended: the next begins, or the text ends
        logits[:, : self._eot].masked_fill_(must_pair[:, None], _NEGATIVE_INFINITY)
        is_pair = state.last_is_timestamp & state.previous_is_timestamp
        too_early = self._times < (state.latest + ~must_pair)[:, None]  # a beginning may equal the end before it
        logits[:, self._time :].masked_fill_(too_early | is_pair[:, None], _NEGATIVE_INFINITY)
        # All time tokens together likelier than the likeliest other token: a time token it is.
        any_time = logits[:, self._time :].logsumexp(dim=-1) > logits[:, : self._time].amax(dim=-1)
        logits[:, : self._time].masked_fill_(any_time[:, None], _NEGATIVE_INFINITY)

    def next_state(self, state: TimestampState, tokens: Tensor) -> TimestampState:
        """The state once `tokens`, shape (rows,), have been chosen; `state` itself where no time tokens come."""
        if not self._timestamps:
            return state
        is_time = tokens >= self._first_time
        return TimestampState(is_time, state.last_is_timestamp, torch.where(is_time, tokens, state.latest))

    def states_along(self, state: TimestampState, tokens: Tensor) -> TimestampState:
        """The states before, between and behind `tokens`, shape (rows, P), in tensors of shape (rows x (P + 1),)."""
        if not self._timestamps:
            return state
        states = [state]
        for column in tokens.unbind(dim=1):
            states.append(self.next_state(states[-1], column))
        return TimestampState(
            *(torch.stack(same, dim=1).flatten() for same in zip(*map(TimestampState.tensors, states), strict=True))
        )

    def start_rows(self, state: TimestampState, rows: Tensor, tokens: Tensor) -> None:
        """Sets the state of `rows` that start over with their first `tokens`."""
        if self._timestamps:
            state.assign(rows, self.next_state(self.new_state(len(tokens)), tokens))

    def advance(
        self, state: TimestampState, rows: Tensor, along: TimestampState, places: Tensor, tokens: Tensor
    ) -> None:
        """Sets the state of `rows` once `tokens` have been chosen at `places` of the states in `along`."""
        if self._timestamps:
            state.assign(rows, self.next_state(along.select(places), tokens))

    def _choose(self, logits: Tensor, sampling: SamplingState | None) -> tuple[Tensor, Tensor]:
        if sampling is None:
            chosen, places = logits.max(dim=-1)
        else:
            places = sampling.perturb(logits).argmax(dim=-1)
            chosen = logits.gather(1, places[:, None])[:, 0]
        return places if self._ids is None else self._ids[places], chosen - logits.logsumexp(dim=-1)
