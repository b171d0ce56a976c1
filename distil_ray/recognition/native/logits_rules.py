"""Whisper's decoding rules for the logits of many rows at once, and sampling at a temperature.

The rules say which tokens are suppressed, which may not come first, and how timestamp tokens pair up. They are the same
rules, in the same order, as the logits processors of transformers and the filters of openai; a test compares them. The
log-probability of a chosen token is that of the distribution after the rules, in float32, as openai defines it, even
where a temperature chose the token. Where several tokens of a row are chosen at once, each is subject to the rules that
the tokens before it imply. Nothing waits for the device.

Sampling is reproducible: the same chunk always draws the same tokens. The noise is a hash of the seed of the row, the
number of its step, and the token, so that neither the other rows, nor their order, nor the process or the device change
it. The most likely token after adding Gumbel noise, scaled by the temperature, is a sample of the softmax at that
temperature; at temperature 0 it is the greedy choice. It costs a dozen passes over the vocabulary, for sampled batches
only. The noise has 23 bits: a token less likely than about one in eight million is never drawn.
"""

from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from distil_ray.whisper.tokenizer import Tokens

_WORD = 0xFFFFFFFF  # hashes have 32 bits, in 64-bit tensors
_GOLDEN = 0x9E3779B1  # odd, so that multiplication by it is a bijection
_BITS = 23  # of noise: so many, plus one half, are exact in float32
SEED_BITS = 32

_NEGATIVE_INFINITY = float("-inf")


@dataclass(frozen=True, slots=True)
class SamplingState:
    """Inputs of the sampling noise of each row.

    Attributes:
        temperatures: float32, shape (rows,).
        seeds: int64 of `SEED_BITS` bits, shape (rows,).
        steps: int64, shape (rows,): the number of tokens so far.
    """

    temperatures: Tensor
    seeds: Tensor
    steps: Tensor

    def perturb(self, logits: Tensor) -> Tensor:
        """Returns float32 logits, shape (rows, vocabulary), plus noise. The largest one of a row is its sample."""
        return logits + self.temperatures[:, None] * gumbel_noise(self.seeds, self.steps, logits.shape[1])


def gumbel_noise(seeds: Tensor, steps: Tensor, size: int) -> Tensor:
    """Returns standard Gumbel noise, float32, shape (rows, size), for int64 `seeds` and `steps`, shape (rows,)."""
    ids = torch.arange(size, device=seeds.device) * _GOLDEN & _WORD
    rows = _scramble(seeds ^ _scramble(steps * _GOLDEN & _WORD))
    bits = _scramble(rows[:, None] ^ ids) >> (SEED_BITS - _BITS)
    uniform = (bits + 0.5) / 2.0**_BITS  # never 0, never 1
    return -torch.log(-torch.log(uniform))


def _scramble(words: Tensor) -> Tensor:
    """Returns the finalizer of MurmurHash3, a bijection of 32-bit numbers."""
    words = (words ^ (words >> 16)) * 0x85EBCA6B & _WORD
    words = (words ^ (words >> 13)) * 0xC2B2AE35 & _WORD
    return words ^ (words >> 16)


@dataclass(frozen=True, slots=True)
class TimestampState:
    """State of the timestamp rules for each row: tensors of shape (rows,), or flattened from (rows, P).

    Attributes:
        last_is_timestamp: The last token is a timestamp; True where there is none.
        previous_is_timestamp: The token before it is one; True where there is none.
        latest: The latest timestamp token so far; one below `<|0.00|>` where there is none.
    """

    last_is_timestamp: Tensor
    previous_is_timestamp: Tensor
    latest: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns all tensors."""
        return self.last_is_timestamp, self.previous_is_timestamp, self.latest

    def select(self, rows: Tensor | slice) -> Self:
        """Returns the state of some rows, in new tensors."""
        return type(self)(*(tensor[rows] for tensor in self.tensors()))

    def assign(self, rows: Tensor, state: Self) -> None:
        """Sets the state of some rows."""
        for own, other in zip(self.tensors(), state.tensors(), strict=True):
            own[rows] = other


class LogitsRules:
    """The rules of one checkpoint, with or without timestamps."""

    def __init__(self, tokens: Tokens, vocab_size: int, timestamps: bool, device: torch.device) -> None:
        self.vocab_size = vocab_size
        suppressed = [*tokens.suppress, *([tokens.no_timestamps] if timestamps else [])]
        self._suppressed = torch.zeros(vocab_size, device=device)
        self._suppressed[suppressed] = _NEGATIVE_INFINITY
        self._suppressed_first = self._suppressed.clone()
        self._suppressed_first[list(tokens.begin_suppress)] = _NEGATIVE_INFINITY
        self._timestamps = timestamps
        self._first_timestamp = tokens.timestamp_begin
        if timestamps:
            self._suppressed_first[: self._first_timestamp] = _NEGATIVE_INFINITY
            if tokens.max_initial_timestamp is not None:
                self._suppressed_first[self._first_timestamp + tokens.max_initial_timestamp + 1 :] = _NEGATIVE_INFINITY
        self._ids: Tensor | None = None  # the ids of the logits; None: all
        self._eot, self._timestamp_begin = tokens.eot, tokens.timestamp_begin  # indices of their logits
        self._timestamp_ids = torch.arange(self._first_timestamp, vocab_size, device=device)

    def for_vocabulary(self, vocabulary: Tensor) -> Self:
        """Returns the same rules for the logits of some ids only.

        `vocabulary` is int64, ascending, and contains all ids from the end token on.
        """
        rules = copy(self)
        rules._ids = vocabulary
        rules._suppressed, rules._suppressed_first = self._suppressed[vocabulary], self._suppressed_first[vocabulary]
        rules._eot, rules._timestamp_begin = (
            int(torch.searchsorted(vocabulary, token)) for token in (self._eot, self._timestamp_begin)
        )
        return rules

    def new_state(self, rows: int) -> TimestampState:
        """Returns the state of rows without any token."""
        device = self._suppressed.device
        flags = torch.ones(2, rows, dtype=torch.bool, device=device)
        return TimestampState(flags[0], flags[1], torch.full((rows,), self._first_timestamp - 1, device=device))

    def choose_first(self, logits: Tensor, sampling: SamplingState | None = None) -> tuple[Tensor, Tensor]:
        """Returns first tokens and their log-probabilities, each of shape (rows,), from logits (rows, vocabulary).

        They are the most likely ones or, with `sampling`, samples.
        """
        return self._choose(logits + self._suppressed_first, sampling)

    def choose(
        self, logits: Tensor, state: TimestampState, sampling: SamplingState | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns next tokens and their log-probabilities, as `choose_first` does. Overwrites `logits`."""
        self._apply(logits, state)
        return self._choose(logits, sampling)

    def apply_to_text(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Returns the logits after a prompt and after each of its `tokens` with the rules applied.

        `logits` has the shape (n + 1, vocabulary); `tokens` is int64, shape (n,), with n of 1 or more.
        """
        masked = logits.clone()
        masked[0] += self._suppressed_first
        state = self.states_along(self.new_state(1), tokens[None])
        self._apply(masked[1:], state.select(slice(1, None)) if self._timestamps else state)
        return masked

    def _apply(self, logits: Tensor, state: TimestampState) -> None:
        """Sets to minus infinity the logits, shape (rows, vocabulary), of tokens that may not come next."""
        logits += self._suppressed
        if not self._timestamps:
            return
        must_pair = (
            state.last_is_timestamp & ~state.previous_is_timestamp
        )  # a segment has ended: another one begins, or the text ends
        logits[:, : self._eot].masked_fill_(must_pair[:, None], _NEGATIVE_INFINITY)
        is_pair = state.last_is_timestamp & state.previous_is_timestamp
        too_early = (
            self._timestamp_ids < (state.latest + ~must_pair)[:, None]
        )  # a segment may begin where the one before it ends
        logits[:, self._timestamp_begin :].masked_fill_(too_early | is_pair[:, None], _NEGATIVE_INFINITY)
        # Where all timestamp tokens together are more likely than any other token, the next one is a timestamp.
        is_timestamp_next = logits[:, self._timestamp_begin :].logsumexp(dim=-1) > logits[
            :, : self._timestamp_begin
        ].amax(dim=-1)
        logits[:, : self._timestamp_begin].masked_fill_(is_timestamp_next[:, None], _NEGATIVE_INFINITY)

    def next_state(self, state: TimestampState, tokens: Tensor) -> TimestampState:
        """Returns the state after `tokens`, shape (rows,); without timestamps it is `state` itself."""
        if not self._timestamps:
            return state
        is_timestamp = tokens >= self._first_timestamp
        return TimestampState(is_timestamp, state.last_is_timestamp, torch.where(is_timestamp, tokens, state.latest))

    def states_along(self, state: TimestampState, tokens: Tensor) -> TimestampState:
        """Returns the states before, between and after `tokens`, shape (rows, P).

        Their tensors have the shape (rows x (P + 1),).
        """
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
        self, state: TimestampState, rows: Tensor, states: TimestampState, indices: Tensor, tokens: Tensor
    ) -> None:
        """Sets the state of `rows` after `tokens` were chosen at `indices` of the states in `states`."""
        if self._timestamps:
            state.assign(rows, self.next_state(states.select(indices), tokens))

    def _choose(self, logits: Tensor, sampling: SamplingState | None) -> tuple[Tensor, Tensor]:
        if sampling is None:
            chosen, indices = logits.max(dim=-1)
        else:
            indices = sampling.perturb(logits).argmax(dim=-1)
            chosen = logits.gather(1, indices[:, None])[:, 0]
        return indices if self._ids is None else self._ids[indices], chosen - logits.logsumexp(dim=-1)
