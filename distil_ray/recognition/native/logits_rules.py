"""Whisper's decoding rules for the logits of many rows at once, and sampling at a temperature.

The rules say which tokens are suppressed, which may not come first, and how timestamp tokens pair up. They are the same
rules, in the same order, as the logits processors of transformers and the filters of openai; a test compares them.
Repetition is penalized first, if it is (repetition_rules.py). The
log-probability of a chosen token is that of the distribution after the rules, in float32, as openai defines it, even
where a temperature chose the token. Where several tokens of a row are chosen at once, each is subject to the rules that
the tokens before it imply. Nothing waits for the device.

Sampling is reproducible: the same chunk always draws the same tokens. The noise is a hash of the seed of the row, the
number of its step, and the token, so that neither the other rows, nor their order, nor the process or the device change
it. The most likely token after adding Gumbel noise, scaled by the temperature, is a sample of the softmax at that
temperature; at temperature 0 it is the greedy choice. It costs a dozen passes over the vocabulary, for sampled batches
only. The noise has 23 bits: a token less likely than about one in eight million is never drawn.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.repetition_rules import RepetitionRules, TokenHistory
from distil_ray.whisper.tokenizer import NUM_TIMESTAMPS, Tokens

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
class RuleState:
    """State of the rules for each row: tensors of shape (rows,), or flattened from (rows, P).

    Attributes:
        last_is_timestamp: The last token is a timestamp; True where there is none.
        previous_is_timestamp: The token before it is one; True where there is none.
        latest: The latest timestamp token so far; one below `<|0.00|>` where there is none.
        history: All ids of the rows; None where repetition is not penalized.
    """

    last_is_timestamp: Tensor
    previous_is_timestamp: Tensor
    latest: Tensor
    history: TokenHistory | None = None

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns all tensors. Their first dimension is that of the rows."""
        timestamps = (self.last_is_timestamp, self.previous_is_timestamp, self.latest)
        return timestamps if self.history is None else (*timestamps, self.history.ids, self.history.lengths)

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> Self:
        """Returns the state of such tensors."""
        last, previous, latest, *history = tensors
        return cls(last, previous, latest, TokenHistory(*history) if history else None)

    def select(self, rows: Tensor | slice) -> Self:
        """Returns the state of some rows, in new tensors. A row may be selected more than once."""
        return self.from_tensors([tensor[rows] for tensor in self.tensors()])

    def assign(self, rows: Tensor, state: Self) -> None:
        """Sets the state of some rows."""
        for own, other in zip(self.tensors(), state.tensors(), strict=True):
            own[rows] = other


class LogitsRules:
    """The rules of one checkpoint, with or without timestamps.

    The logits of first tokens are masked by `apply_first` with the state that `start` returns, those of all further
    tokens by `apply`. `next_state` returns the state after a token. `choose_first` and `choose` mask and choose.
    """

    def __init__(
        self,
        tokens: Tokens,
        vocab_size: int,
        timestamps: bool,
        device: torch.device,
        *,
        repetition_penalty: float = 1.0,
        no_repeat_ngram_size: int = 0,
    ) -> None:
        """Creates the rules.

        Args:
            tokens: Special and suppressed tokens of the checkpoint.
            vocab_size: Number of ids, those of timestamps included.
            timestamps: The text has timestamp tokens.
            device: Of the logits.
            repetition_penalty: See `RepetitionRules`.
            no_repeat_ngram_size: See `RepetitionRules`.
        """
        self.vocab_size = vocab_size
        suppressed = [*tokens.suppress, *([tokens.no_timestamps] if timestamps else [])]
        self._suppressed = torch.zeros(vocab_size, device=device)
        self._suppressed[suppressed] = _NEGATIVE_INFINITY
        self._suppressed_first = self._suppressed.clone()
        self._suppressed_first[list(tokens.begin_suppress)] = _NEGATIVE_INFINITY
        self._timestamps = timestamps
        self._is_timestamp, self._first_timestamp = tokens.is_timestamp, tokens.timestamp_begin
        self._end_of_timestamps = min(self._first_timestamp + NUM_TIMESTAMPS, vocab_size)
        self._has_added_tokens = self._end_of_timestamps < vocab_size
        if timestamps:
            self._suppressed_first[: self._first_timestamp] = _NEGATIVE_INFINITY
            self._suppressed_first[self._end_of_timestamps :] = _NEGATIVE_INFINITY
            if tokens.max_initial_timestamp is not None:
                self._suppressed_first[self._first_timestamp + tokens.max_initial_timestamp + 1 :] = _NEGATIVE_INFINITY
        self._ids: Tensor | None = None  # the ids of the logits; None: all
        # Indices of their logits; those of added tokens are behind the timestamps.
        self._eot = tokens.eot
        self._timestamp_begin, self._timestamp_end = self._first_timestamp, self._end_of_timestamps
        self._timestamp_ids = torch.arange(self._first_timestamp, self._end_of_timestamps, device=device)
        self._repetition: RepetitionRules | None = None
        if repetition_penalty != 1.0 or no_repeat_ngram_size:
            capacity = tokens.max_positions + 1
            self._repetition = RepetitionRules(
                repetition_penalty, no_repeat_ngram_size, vocab_size, capacity, tokens.sot, device
            )

    def for_vocabulary(self, vocabulary: Tensor) -> Self:
        """Returns the same rules for the logits of some ids only.

        `vocabulary` is int64, ascending, and contains all ids from the end token on.
        """
        rules = copy(self)
        rules._ids = vocabulary
        rules._suppressed, rules._suppressed_first = self._suppressed[vocabulary], self._suppressed_first[vocabulary]
        rules._eot, rules._timestamp_begin, rules._timestamp_end = (
            int(torch.searchsorted(vocabulary, token))
            for token in (self._eot, self._timestamp_begin, self._timestamp_end)
        )
        rules._repetition = None if self._repetition is None else self._repetition.for_vocabulary(vocabulary)
        return rules

    def new_state(self, rows: int) -> RuleState:
        """Returns the state of rows without any token and without a prompt."""
        return self._new_state(rows, None if self._repetition is None else self._repetition.new_history(rows))

    def start(self, prompts: Sequence[Sequence[int]], num_begun: Sequence[int] = ()) -> RuleState:
        """Returns the state of rows after their prompts, before their first token.

        Args:
            prompts: Ids of each row.
            num_begun: How many of the last ids of each prompt are the beginning of its text; (): none.
        """
        history = None if self._repetition is None else self._repetition.start(prompts)
        state = self._new_state(len(prompts), history)
        if not any(num_begun):
            return state
        begun = [prompt[len(prompt) - num :] for prompt, num in zip(prompts, num_begun, strict=True)]
        numbers = copy_async([self._timestamps_of(text) for text in begun], state.latest.device)
        last, previous, latest = numbers.unbind(dim=1)
        return RuleState(last.bool(), previous.bool(), latest, history)

    def _timestamps_of(self, text: Sequence[int]) -> tuple[int, int, int]:
        """Returns the numbers of `RuleState` for one text."""
        is_timestamp = [True, True, *map(self._is_timestamp, text)]
        latest = max(filter(self._is_timestamp, text), default=self._first_timestamp - 1)
        return is_timestamp[-1], is_timestamp[-2], latest

    def _new_state(self, rows: int, history: TokenHistory | None) -> RuleState:
        device = self._suppressed.device
        flags = torch.ones(2, rows, dtype=torch.bool, device=device)
        return RuleState(flags[0], flags[1], torch.full((rows,), self._first_timestamp - 1, device=device), history)

    def choose_first(
        self,
        logits: Tensor,
        state: RuleState,
        sampling: SamplingState | None = None,
        has_begun: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns first tokens and their log-probabilities, each of shape (rows,), from logits (rows, vocabulary).

        They are the most likely ones or, with `sampling`, samples.
        """
        return self._choose(self.apply_first(logits, state, has_begun), sampling)

    def choose(self, logits: Tensor, state: RuleState, sampling: SamplingState | None = None) -> tuple[Tensor, Tensor]:
        """Returns next tokens and their log-probabilities, as `choose_first` does. Overwrites `logits`."""
        self.apply(logits, state)
        return self._choose(logits, sampling)

    def apply_to_text(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Returns the logits after a prompt and after each of its `tokens` with the rules applied.

        `logits` has the shape (n + 1, vocabulary); `tokens` is int64, shape (n,), with n of 1 or more.
        """
        before = self.new_state(1)
        first = self.apply_first(logits[:1], before)
        others = logits[1:].clone()
        along = self.states_along(before, tokens[None])
        self.apply(others, along.select(slice(1, None)) if self._has_states else along)
        return torch.cat([first, others])

    def apply_first(self, logits: Tensor, state: RuleState, has_begun: Tensor | None = None) -> Tensor:
        """Returns the logits of first tokens, shape (rows, vocabulary), with all rules applied.

        Tokens that may not come first get minus infinity.

        Args:
            logits: After the prompts.
            state: That of `start`.
            has_begun: bool, shape (rows,): rows whose prompts contain the beginning of their texts, so that the rules
                of further tokens apply. None: no row.
        """
        masked = logits + self._suppressed_first
        if self._repetition is not None and state.history is not None:
            self._repetition.apply(masked, state.history)
        if has_begun is None:
            return masked
        further = logits.clone()
        self.apply(further, state)
        return torch.where(has_begun[:, None], further, masked)

    def apply(self, logits: Tensor, state: RuleState) -> None:
        """Applies all rules to the logits of next tokens, shape (rows, vocabulary), in place.

        Tokens that may not come next get minus infinity.
        """
        logits += self._suppressed
        if self._repetition is not None and state.history is not None:
            self._repetition.apply(logits, state.history)
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
        timestamps, before = logits[:, self._timestamp_begin : self._timestamp_end], logits[:, : self._timestamp_begin]
        timestamps.masked_fill_(too_early | is_pair[:, None], _NEGATIVE_INFINITY)
        best = before.amax(dim=-1)
        added = logits[:, self._timestamp_end :]
        if self._has_added_tokens:
            added.masked_fill_(must_pair[:, None], _NEGATIVE_INFINITY)
            best = torch.maximum(best, added.amax(dim=-1))
        # Where all timestamp tokens together are more likely than any other token, the next one is a timestamp.
        is_timestamp_next = timestamps.logsumexp(dim=-1) > best
        before.masked_fill_(is_timestamp_next[:, None], _NEGATIVE_INFINITY)
        if self._has_added_tokens:
            added.masked_fill_(is_timestamp_next[:, None], _NEGATIVE_INFINITY)

    @property
    def _has_states(self) -> bool:
        """The rules depend on the tokens so far."""
        return self._timestamps or self._repetition is not None

    def next_state(self, state: RuleState, tokens: Tensor) -> RuleState:
        """Returns the state after `tokens`, shape (rows,); `state` itself where no rule depends on them."""
        if not self._has_states:
            return state
        is_timestamp = tokens >= self._first_timestamp
        if self._has_added_tokens:
            is_timestamp &= tokens < self._end_of_timestamps
        latest = torch.where(is_timestamp, tokens, state.latest)
        history = None if state.history is None else state.history.append(tokens)
        return RuleState(is_timestamp, state.last_is_timestamp, latest, history)

    def states_along(self, state: RuleState, tokens: Tensor) -> RuleState:
        """Returns the states before, between and after `tokens`, shape (rows, P).

        The first dimension of their tensors is rows x (P + 1). Where no rule depends on tokens it is `state` itself.
        """
        if not self._has_states:
            return state
        states = [state]
        for column in tokens.unbind(dim=1):
            states.append(self.next_state(states[-1], column))
        return RuleState.from_tensors(
            [torch.stack(same, dim=1).flatten(0, 1) for same in zip(*(each.tensors() for each in states), strict=True)]
        )

    def start_rows(self, state: RuleState, rows: Tensor, started: RuleState, tokens: Tensor) -> None:
        """Sets the state of `rows` that start over: `started`, followed by their first `tokens`."""
        if self._has_states:
            state.assign(rows, self.next_state(started, tokens))

    def advance(self, state: RuleState, rows: Tensor, states: RuleState, indices: Tensor, tokens: Tensor) -> None:
        """Sets the state of `rows` after `tokens` were chosen at `indices` of the states in `states`."""
        if self._has_states:
            state.assign(rows, self.next_state(states.select(indices), tokens))

    def _choose(self, logits: Tensor, sampling: SamplingState | None) -> tuple[Tensor, Tensor]:
        if sampling is None:
            chosen, indices = logits.max(dim=-1)
        else:
            indices = sampling.perturb(logits).argmax(dim=-1)
            chosen = logits.gather(1, indices[:, None])[:, 0]
        return indices if self._ids is None else self._ids[indices], chosen - logits.logsumexp(dim=-1)
