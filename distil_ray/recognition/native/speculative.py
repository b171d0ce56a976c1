"""Speculative decoding: an assistant drafts a few tokens of each row, and the main model verifies them.

Whatever the assistant drafts, the texts are the main model's; only the time depends on it. So the assistant may compute
more cheaply: in 8 bits where the processor has products for them, and with a part of the vocabulary. (The projection to
all 51,865 tokens would be half of a step. Tokens are numbered in the order in which the tokenizer learned them, so the
first ones are the frequent ones.) An assistant with the main model's encoder (Distil-Whisper keeps its teacher's,
frozen) uses that one, and its own copy is not kept. Any other encodes for itself, from the same features.

The assistant has its own cache, with the slots of the main model's. It reads every token that was chosen: those that it
drafted itself while it drafts them, the others when it next drafts. What its cache holds of rejected drafts is
overwritten. Its tokens are subject to the same rules.

Drafting continues for as long as it is likely to pay: on a CPU by the assistant's own probabilities; on a GPU, where
reading those would wait for the device, for a number of drafts that follows from the acceptance so far. With
`decoding.speculative=auto` a trial times steps with and without drafts in turn, over the same rows, and adds the cost
of the assistant's prefill. Where tokens do not come faster, drafting ends for good.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoder import SPARE_POSITIONS, Decoder
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import device_time
from distil_ray.recognition.native.encoder import Encoder, subsample_silence
from distil_ray.recognition.native.logits_rules import LogitsRules, RuleState
from distil_ray.recognition.native.scheduler import Extent
from distil_ray.whisper.checkpoint import assistant_mismatch
from distil_ray.whisper.model import LoadedModel, open_model
from distil_ray.whisper.processor import has_int8_products
from distil_ray.whisper.tokenizer import Tokens

FREQUENT_TOKENS = 32_768  # drafted besides all special and timestamp tokens: 97 % of the tokens of read English
# The same encoder in another number type differs by 0.4 % at most, a different encoder by far more.
ENCODER_TOLERANCE = 0.01

MAX_DRAFTS = SPARE_POSITIONS
# A further draft pays if it is accepted with at least this probability (docs/speculative.md). On a CPU the assistant's
# own probabilities decide after every draft; on a GPU the share of drafts that were accepted decides beforehand.
MIN_DRAFT_PROBABILITY = 0.4
# On a CPU, that of the last possible draft, by the share accepted so far: an assistant may be confident and wrong.
MIN_LAST_DRAFT_PROBABILITY = 0.1
HISTORY_DRAFTS = 512  # verified drafts that the acceptance is averaged over; older ones fade out
INITIAL_ACCEPTANCE = 0.75  # at first, with the weight of `INITIAL_DRAFTS` drafts
INITIAL_DRAFTS = 32
TRIAL_PAIRS = 16  # steps of either kind that are timed
WARM_UP_PAIRS = 2  # not counted: they also pay for memory that is touched for the first time
MIN_SPEEDUP = 1.02  # a smaller one is within the error of a trial


@dataclass(frozen=True, slots=True)
class Assistant:
    """A loaded assistant.

    Attributes:
        decoder: Gives logits of `vocabulary` only.
        encoder: None where it uses the main model's.
        vocabulary: The ids that it drafts, ascending.
        warnings: Decisions made while loading.
    """

    decoder: Decoder
    encoder: Encoder | None
    vocabulary: Tensor
    warnings: tuple[str, ...]


def load_assistant(
    folder: str | Path, main_folder: str | Path, main: LoadedModel, tokens: Tokens, options: RecognizerOptions
) -> Assistant:
    """Loads the assistant in a local model folder to the device of the main model.

    Args:
        folder: Of the assistant.
        main_folder: Of the main model.
        main: The loaded main model.
        tokens: Special tokens of both.
        options: Those of the main model.

    Raises:
        ValueError: The checkpoint cannot draft for the main model; the message names the difference.
    """
    if reason := assistant_mismatch(Path(main_folder), Path(folder)):
        raise ValueError(f"model.assistant={folder} cannot draft for {main_folder}: {reason}")
    is_int8 = main.device.type == "cpu" and main.attention == "sdpa" and has_int8_products()
    dtype = "int8" if is_int8 else str(main.dtype).removeprefix("torch.")
    model = open_model(folder, device=main.device.type, dtype=dtype, attention=main.attention, threads=options.threads)
    vocabulary = draft_vocabulary(tokens, model.module.config.vocab_size).to(main.device)
    is_shared = shares_encoder(main.module, model.module)
    encoder = None if is_shared else Encoder(model.module, model.int8)
    if encoder is not None and options.window == "gated":
        encoder.add_silence_context()
    encoder_used = "the encoder of the main model" if is_shared else "its own encoder"
    layers = model.module.config.decoder_layers
    warning = f"model.assistant: {layers} decoder layers in {model.dtype_name}, with {encoder_used}"
    return Assistant(Decoder(model.module, model.int8, vocabulary), encoder, vocabulary, (warning,))


def shares_encoder(main: Any, assistant: Any) -> bool:
    """Returns whether two Whisper modules have the same encoder, up to the rounding of their stored number types."""
    encoders = (module.model.encoder.named_parameters() for module in (main, assistant))
    for mine, theirs in zip_longest(*encoders):
        if mine is None or theirs is None or (mine[0], mine[1].shape) != (theirs[0], theirs[1].shape):
            return False
        if not _is_close(mine[1], theirs[1]):
            return False
    return True


def _is_close(weight: Tensor, other: Tensor) -> bool:
    return bool((weight - other).norm(dtype=torch.float32) <= ENCODER_TOLERANCE * weight.norm(dtype=torch.float32))


def draft_vocabulary(tokens: Tokens, size: int) -> Tensor:
    """Returns the ids that an assistant drafts, of a vocabulary of `size` entries, ascending."""
    return torch.cat([torch.arange(min(FREQUENT_TOKENS, tokens.eot)), torch.arange(tokens.eot, size)])


class SpeculationTrial:
    """Times steps with and without drafts, the prefill of the assistant, and counts tokens of steps and chunks."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._num_counted = [0, 0]  # without drafts, with them; also below
        self._seconds, self._tokens = [0.0, 0.0], [0, 0]
        self._prefill_s, self._num_prefilled = 0.0, 0
        self._chunk_tokens, self._num_chunks = 0, 0

    @property
    def next_is_speculative(self) -> bool:
        """The next step has drafts: every other one has."""
        return self._num_steps % 2 == 0

    def record_prefill(self, seconds: float, num_chunks: int) -> None:
        """Records the seconds that the assistant took to encode and prefill new chunks."""
        self._prefill_s += seconds
        self._num_prefilled += num_chunks

    def record_step(self, seconds: float, tokens: int, is_typical: bool = True) -> None:
        """Records the seconds and the new tokens of the step that `next_is_speculative` announced.

        A step that is not typical, as it was recorded for later ones, does not count.
        """
        if is_typical:
            kind = self.next_is_speculative
            self._num_counted[kind] += 1
            if self._num_counted[kind] > WARM_UP_PAIRS:
                self._seconds[kind] += seconds
                self._tokens[kind] += tokens
        self._num_steps += 1

    def record_chunk(self, tokens: int) -> None:
        """Records the tokens of a finished chunk."""
        self._chunk_tokens += tokens
        self._num_chunks += 1

    def speedup(self) -> float | None:
        """Returns how many times faster tokens come with drafts, or None while too little is known."""
        is_enough = min(self._num_counted) >= WARM_UP_PAIRS + TRIAL_PAIRS and self._num_chunks
        if not is_enough or not all(self._tokens):
            return None
        plain, drafted = (seconds / tokens for seconds, tokens in zip(self._seconds, self._tokens, strict=True))
        prefill = self._prefill_s / self._num_prefilled * self._num_chunks / self._chunk_tokens
        return plain / (drafted + prefill)


class Speculation:
    """The assistant of a recognizer for as long as it pays, and how many tokens it drafts.

    It is kept between the calls of a recognizer.
    """

    def __init__(self, assistant: Assistant, on_trial: bool, warn: Callable[[str], None]) -> None:
        """Starts with an assistant.

        Args:
            assistant: The loaded assistant.
            on_trial: The assistant is dropped unless a trial shows a speed-up.
            warn: Called with the result of the trial.
        """
        self.assistant: Assistant | None = assistant
        self.trial = SpeculationTrial() if on_trial else None
        self._warn = warn
        self._device = assistant.decoder.device
        self._proposed, self._accepted = float(INITIAL_DRAFTS), INITIAL_DRAFTS * INITIAL_ACCEPTANCE

    @property
    def max_drafts(self) -> int:
        """The largest number of drafts per row in the next step."""
        share = min(max(self._accepted / self._proposed, 0.01), 0.99)
        probability = MIN_LAST_DRAFT_PROBABILITY if self._device.type == "cpu" else MIN_DRAFT_PROBABILITY
        return min(MAX_DRAFTS, max(1, math.floor(math.log(probability) / math.log(share))))

    def record_result(self, decoded: DecodingResult) -> None:
        """Updates the acceptance and the trial with a finished chunk."""
        fading = max(0.0, 1.0 - decoded.proposed / HISTORY_DRAFTS)
        self._proposed = self._proposed * fading + decoded.proposed
        self._accepted = self._accepted * fading + decoded.accepted
        if self.trial is not None:
            self.trial.record_chunk(len(decoded.tokens) + 1)

    @contextmanager
    def timed_prefill(self, num_chunks: int) -> Iterator[None]:
        """Times what the assistant does within this context for new chunks, during a trial."""
        began = 0.0 if self.trial is None else device_time(self._device)
        yield
        if self.trial is not None:
            self.trial.record_prefill(device_time(self._device) - began, num_chunks)

    def decide(self) -> None:
        """Ends the trial once it has a result, drops the assistant if it does not pay, and warns."""
        speedup = None if self.trial is None else self.trial.speedup()
        if speedup is None:
            return
        self.trial = None
        share = 100 * self._accepted / self._proposed
        result = f"tokens come {speedup:.2f} times as fast with drafts, {share:.0f} % of which are accepted"
        if speedup < MIN_SPEEDUP:
            self.assistant = None
        decision = "off" if self.assistant is None else "on"
        self._warn(f"decoding.speculative=auto: {decision} from now on, as {result}")


class Drafter:
    """Runs the assistant of a decoding loop, slot for slot beside the main model."""

    def __init__(
        self, speculation: Speculation, assistant: Assistant, rules: LogitsRules, slots: int, eot: int
    ) -> None:
        """Allocates the assistant's cache. `rules` are those of the main model."""
        self._speculation = speculation
        self._decoder, self._encoder = assistant.decoder, assistant.encoder
        self._rules, self._eot = rules.for_vocabulary(assistant.vocabulary), eot
        self._cache = assistant.decoder.new_cache(slots)
        self._encoder_lengths = [0] * slots  # encoder positions in each slot
        self._checks_probability = assistant.decoder.device.type == "cpu"

    def lay_out(self, encoder_positions: Sequence[int]) -> None:
        """Prepares the cache for windows with at most these numbers of positions. What it held is lost."""
        self._cache.lay_out(encoder_positions)

    def write_windows(
        self,
        features: Tensor,
        encoded: Tensor,
        slot_numbers: Sequence[int],
        slots: Tensor,
        window_positions: int,
        speech_positions: int,
    ) -> None:
        """Writes windows into slots.

        Args:
            features: Log-mel features, as in `Encoder.__call__`, for an assistant with its own encoder.
            encoded: Hidden states of the main model's encoder, as in `Decoder.write_windows`, for any other.
            slot_numbers: The slots, on the host.
            slots: The same numbers on the device.
            window_positions: Encoder positions of the window.
            speech_positions: No chunk has audio behind so many. What follows is silence and is subsampled, as behind a
                short window (encoder.py).
        """
        with self._speculation.timed_prefill(len(slots)):
            states = encoded if self._encoder is None else self._encoder(features)
            states, window_positions = subsample_silence(states, window_positions, speech_positions)
            self._decoder.write_windows(states.to(self._decoder.dtype), self._cache, slots, window_positions)
        for slot in slot_numbers:
            self._encoder_lengths[slot] = states.shape[1]

    def prefill(self, prompts: Tensor, slots: Tensor, encoder_positions: int) -> None:
        """Runs the prompts, shape (rows, P), of rows whose windows were written."""
        with self._speculation.timed_prefill(0):
            self._decoder.prefill(prompts, self._cache, slots, encoder_positions)

    def move_rows(self, sources: Sequence[int], targets: Sequence[int], extent: Extent) -> None:
        """Copies whole rows from the slots `sources` to the slots `targets`."""
        self._cache.move_rows(sources, targets, extent.text_positions, extent.encoder_positions)
        for source, target in zip(sources, targets, strict=True):
            self._encoder_lengths[target] = self._encoder_lengths[source]

    def draft(
        self, ids: Tensor, positions: Tensor, state: RuleState, live: Tensor, max_drafts: int, extent: Extent
    ) -> Tensor:
        """Drafts tokens of the first rows.

        Args:
            ids: The last ids of each row, shape (rows, P), which include all that the assistant has not read.
            positions: Of these ids.
            state: Of the rules, for each row.
            live: bool, shape (rows,): the rows that have not ended.
            max_drafts: At most so many per row.
            extent: Of the rows.

        Returns:
            Drafts, shape (rows, k). On a CPU k is below `max_drafts` where the next draft of a live row would be
                accepted, on average, with a probability below `MIN_DRAFT_PROBABILITY`.
        """
        probability = live.float()
        window = max(self._encoder_lengths[: len(ids)])
        drafts: list[Tensor] = []
        while len(drafts) < max_drafts:
            text_positions = min(extent.text_positions + len(drafts), self._decoder.cache_positions)
            hidden = self._decoder.step(ids, positions, self._cache, text_positions, window, is_ragged=True)
            tokens, logprobs = self._rules.choose(self._decoder.logits(hidden[:, -1]), state)
            drafts.append(tokens)
            if self._checks_probability:
                probability = torch.where(tokens == self._eot, 0.0, probability * logprobs.exp())
                if float(probability.sum()) < MIN_DRAFT_PROBABILITY * int(live.sum()):
                    break
            state = self._rules.next_state(state, tokens)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
        return torch.stack(drafts, dim=1)


def count_accepted(drafts: Tensor, chosen: Tensor) -> Tensor:
    """Returns how many drafts of each row equal the chosen tokens, up to the first that does not.

    `drafts` has the shape (rows, k), `chosen` (rows, k + 1).
    """
    return (drafts == chosen[:, :-1]).cumprod(dim=1).sum(dim=1)
