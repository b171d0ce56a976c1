"""Whether drafting pays, and how far to draft: measured while it goes on, and kept between the calls of a recognizer.

A trial times passes with and without drafts in turn, over the same rows, and adds what hearing the chunks costs the
assistant; where tokens do not come faster by it, drafting ends for good. The texts are the same either way. How many
tokens are drafted at most follows from the share that was kept of late. Knows numbers only.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoder import SPARE_POSITIONS, Decoder
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import device_time
from distil_ray.recognition.native.encoder import Encoder, subsample_silence
from distil_ray.recognition.native.logits_rules import LogitsRules, TimestampState
from distil_ray.recognition.native.scheduler import Extent
from distil_ray.whisper.checkpoint import assistant_mismatch
from distil_ray.whisper.model import LoadedModel, load_model, supports_int8
from distil_ray.whisper.tokenizer import Tokens

FREQUENT_TOKENS = 32_768  # of the vocabulary, beside all special and time tokens: 97 % of those of read English
# A frozen encoder that was stored in another number type differs by 0.4 % at most; another encoder by far more.
ENCODER_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Assistant:
    """``encoder``: None where it hears through the main model's. ``vocabulary``: the ids it drafts, in rising order."""

    decoder: Decoder
    encoder: Encoder | None
    vocabulary: Tensor
    warnings: tuple[str, ...]


def load_assistant(
    folder: str | Path, main_folder: str | Path, main: LoadedModel, tokens: Tokens, options: RecognizerOptions
) -> Assistant:
    """The assistant in a local model folder, on the main model's device, for windows as in `options`.

    Raises ValueError, which names the difference, for a checkpoint that cannot draft for this one.
    """
    if reason := assistant_mismatch(Path(main_folder), Path(folder)):
        raise ValueError(f"model.assistant={folder} cannot draft for {main_folder}: {reason}")
    is_int8 = main.device.type == "cpu" and main.attention == "sdpa" and supports_int8()
    dtype = "int8" if is_int8 else str(main.dtype).removeprefix("torch.")
    model = load_model(folder, device=main.device.type, dtype=dtype, attention=main.attention, threads=options.threads)
    vocabulary = draft_vocabulary(tokens, model.module.config.vocab_size).to(main.device)
    is_shared = shares_encoder(main.module, model.module)
    encoder = None if is_shared else Encoder(model.module, is_int8)
    if encoder is not None and options.window == "gated":
        encoder.add_silence_context()
    hears = "hears through the main model's encoder" if is_shared else "has an encoder of its own"
    layers = model.module.config.decoder_layers
    note = f"model.assistant: {layers} decoder layers in {model.dtype_name}; it {hears}"
    return Assistant(Decoder(model.module, is_int8, vocabulary), encoder, vocabulary, (note,))


def shares_encoder(main: Any, assistant: Any) -> bool:
    """Whether two Whisper modules have the same encoder, up to the rounding of what it was stored in."""
    mine, its = (dict(module.model.encoder.named_parameters()) for module in (main, assistant))
    if {name: each.shape for name, each in mine.items()} != {name: each.shape for name, each in its.items()}:
        return False
    return all(_is_close(mine[name], its[name]) for name in mine)


def _is_close(mine: Tensor, its: Tensor) -> bool:
    return bool((mine - its).norm(dtype=torch.float32) <= ENCODER_TOLERANCE * mine.norm(dtype=torch.float32))


def draft_vocabulary(tokens: Tokens, size: int) -> Tensor:
    """The ids that an assistant drafts, of a vocabulary of so many entries, in rising order."""
    return torch.cat([torch.arange(min(FREQUENT_TOKENS, tokens.eot)), torch.arange(tokens.eot, size)])


MAX_DRAFTS = SPARE_POSITIONS
# A further draft pays if it is as likely as this to be kept (docs/speculative.md). A CPU asks at every draft, by the
# assistant's own probabilities; a GPU can not, and goes by the share that was kept.
MIN_DRAFT_PROBABILITY = 0.4
MIN_LAST_DRAFT_PROBABILITY = (
    0.1  # on a CPU: of the last draft at most, by that share; an assistant may be sure and wrong
)
HISTORY_DRAFTS = 512  # judged drafts; what was before them counts ever less
INITIAL_ACCEPTANCE = 0.75  # before anything is known, as much as if 32 drafts had been judged
INITIAL_DRAFTS = 32
TRIAL_PAIRS = 16  # passes of either kind that are timed
WARM_UP_PAIRS = 2  # not timed: they also pay for memory that is touched for the first time
MIN_SPEEDUP = 1.02  # less is within the error of a trial


class SpeculationTrial:
    """Seconds and tokens of passes with drafts and without; seconds of hearing, and tokens of whole chunks."""

    def __init__(self) -> None:
        self._num_steps = 0
        self._seconds, self._tokens = [0.0, 0.0], [0, 0]  # without drafts, with them
        self._prefill_s, self._num_prefilled = 0.0, 0
        self._chunk_tokens, self._num_chunks = 0, 0

    @property
    def next_is_speculative(self) -> bool:
        """Whether the next pass is one with drafts: every other one is."""
        return self._num_steps % 2 == 0

    def record_prefill(self, seconds: float, num_chunks: int) -> None:
        """What the assistant took to hear chunks that were begun."""
        self._prefill_s += seconds
        self._num_prefilled += num_chunks

    def record_step(self, seconds: float, tokens: int) -> None:
        """What the pass took that `next_is_speculative` spoke of, and how many tokens came of it."""
        if self._num_steps >= 2 * WARM_UP_PAIRS:
            self._seconds[self.next_is_speculative] += seconds
            self._tokens[self.next_is_speculative] += tokens
        self._num_steps += 1

    def record_chunk(self, tokens: int) -> None:
        """A chunk has ended after so many tokens."""
        self._chunk_tokens += tokens
        self._num_chunks += 1

    def speedup(self) -> float | None:
        """How many times faster tokens come with drafts; None while too little is known."""
        enough = self._num_steps >= 2 * (WARM_UP_PAIRS + TRIAL_PAIRS) and self._num_chunks
        if not enough or not all(self._tokens):
            return None
        plain, drafted = (seconds / tokens for seconds, tokens in zip(self._seconds, self._tokens, strict=True))
        prefill = self._prefill_s / self._num_prefilled * self._num_chunks / self._chunk_tokens
        return plain / (drafted + prefill)


class Speculation:
    """An assistant, as long as it is of use."""

    def __init__(self, assistant: Assistant, on_trial: bool, warn: Callable[[str], None]) -> None:
        """`on_trial`: it stays only if a trial shows a gain; `note` is told the verdict."""
        self.assistant: Assistant | None = assistant
        self.trial = SpeculationTrial() if on_trial else None
        self._warn = warn
        self._device = assistant.decoder.device
        self._proposed, self._accepted = float(INITIAL_DRAFTS), INITIAL_DRAFTS * INITIAL_ACCEPTANCE

    @property
    def max_drafts(self) -> int:
        """Tokens to draft for a pass, at most."""
        share = min(max(self._accepted / self._proposed, 0.01), 0.99)
        chance = MIN_LAST_DRAFT_PROBABILITY if self._device.type == "cpu" else MIN_DRAFT_PROBABILITY
        return min(MAX_DRAFTS, max(1, math.floor(math.log(chance) / math.log(share))))

    def record_result(self, decoded: DecodingResult) -> None:
        """Takes a chunk's figures."""
        fading = max(0.0, 1.0 - decoded.proposed / HISTORY_DRAFTS)
        self._proposed = self._proposed * fading + decoded.proposed
        self._accepted = self._accepted * fading + decoded.accepted
        if self.trial is not None:
            self.trial.record_chunk(len(decoded.tokens) + 1)

    @contextmanager
    def timed_prefill(self, num_chunks: int) -> Iterator[None]:
        """Around what the assistant does to hear chunks; measured while on trial."""
        began = 0.0 if self.trial is None else device_time(self._device)
        yield
        if self.trial is not None:
            self.trial.record_prefill(device_time(self._device) - began, num_chunks)

    def decide(self) -> None:
        """Ends the trial once it has shown enough, and the assistant where it does not gain; a note says so."""
        speedup = None if self.trial is None else self.trial.speedup()
        if speedup is None:
            return
        self.trial = None
        share = 100 * self._accepted / self._proposed
        found = f"tokens come {speedup:.2f} times as fast with drafts, {share:.0f} % of which are kept"
        if speedup < MIN_SPEEDUP:
            self.assistant = None
        verdict = "off from here on" if self.assistant is None else "on"
        self._warn(f"decoding.speculative=auto: {verdict}, as {found}")


class Drafter:
    """The assistant's side of a loop of so many slots."""

    def __init__(
        self, speculation: Speculation, assistant: Assistant, rules: LogitsRules, slots: int, eot: int
    ) -> None:
        """`rules`: those of the main model."""
        self._speculation = speculation
        self._decoder, self._encoder = assistant.decoder, assistant.encoder
        self._rules, self._eot = rules.for_vocabulary(assistant.vocabulary), eot
        self._cache = assistant.decoder.new_cache(slots)
        self._encoder_lengths = [0] * slots  # encoder positions in each slot
        self._checks_probability = assistant.decoder.device.type == "cpu"

    def resize_windows(self, encoder_positions: int) -> None:
        """Room for windows of up to so many positions; what the slots hold is lost."""
        self._cache.resize_windows(encoder_positions)

    def write_cross_kv(
        self,
        features: Tensor,
        encoded: Tensor,
        slot_numbers: Sequence[int],
        slots: Tensor,
        window_positions: int,
        spoken: int,
    ) -> None:
        """Takes windows into slots: what the main model's encoder made of them, or what its own makes of `features`.

        `slot_numbers` and `slots` are the same numbers, on the host and on the device. Shapes as in `Encoder.__call__` and
        `Decoder.listen`. No chunk has audio behind the first `spoken` positions: what lies there is silence, of which
        one position in eight does, as behind a short window (silence.py).
        """
        with self._speculation.timed_prefill(len(slots)):
            states = encoded if self._encoder is None else self._encoder(features)
            states, window_positions = subsample_silence(states, window_positions, spoken)
            self._decoder.write_cross_kv(states.to(self._decoder.dtype), self._cache, slots, window_positions)
        for slot in slot_numbers:
            self._encoder_lengths[slot] = states.shape[1]

    def prefill(self, prompts: Tensor, slots: Tensor, encoder_positions: int) -> None:
        """Takes the prompts, shape (rows, P), of rows that have been listened to."""
        with self._speculation.timed_prefill(0):
            self._decoder.prefill(prompts, self._cache, slots, encoder_positions)

    def move_rows(self, sources: Sequence[int], targets: Sequence[int], extent: Extent) -> None:
        """Copies whole rows."""
        self._cache.move_rows(sources, targets, extent.text_positions, extent.encoder_positions)
        for source, target in zip(sources, targets, strict=True):
            self._encoder_lengths[target] = self._encoder_lengths[source]

    def draft(
        self, ids: Tensor, positions: Tensor, state: TimestampState, live: Tensor, max_drafts: int, extent: Extent
    ) -> Tensor:
        """Drafts, shape (rows, k), of the first rows, k being at most `most`.

        `ids`, `positions`: the last ids of each row, shape (rows, P), all that the assistant has not heard among them;
        `state`: the rules' of each row; `live`: bool, the rows that are not over. On a CPU it ends where the next
        token of a live row has, on average, a chance below `WORTH` of being kept.
        """
        chance = live.float()
        window = max(self._encoder_lengths[: len(ids)])
        drafts: list[Tensor] = []
        while len(drafts) < max_drafts:
            text = min(extent.text_positions + len(drafts), self._decoder.cache_positions)
            hidden = self._decoder.step(ids, positions, self._cache, text, window, is_ragged=True)
            tokens, logprobs = self._rules.choose(self._decoder.logits(hidden[:, -1]), state)
            drafts.append(tokens)
            if self._checks_probability:
                chance = torch.where(tokens == self._eot, 0.0, chance * logprobs.exp())
                if float(chance.sum()) < MIN_DRAFT_PROBABILITY * int(live.sum()):
                    break
            state = self._rules.next_state(state, tokens)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
        return torch.stack(drafts, dim=1)


def count_accepted(drafts: Tensor, chosen: Tensor) -> Tensor:
    """How many drafts of each row, shape (rows, k), are what was chosen, shape (rows, k + 1), up to the first other."""
    return (drafts == chosen[:, :-1]).cumprod(dim=1).sum(dim=1)
