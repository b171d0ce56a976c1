"""Drafts for the decoder loop: a small model writes a few tokens of each row ahead, for the main model to verify.

The assistant has a cache of its own, slot for slot that of the main model. It hears every token that was chosen: those
that it has drafted itself as it drafts them, the rest when it next drafts; what it holds of drafts that were not
chosen is overwritten. Its tokens stand under the same rules. It may choose among a part of the vocabulary only, and in
8 bits: whatever it drafts, the texts are the main model's, and only the time depends on it.

Drafting goes on for as long as it is likely to pay, by the assistant's own probabilities on a CPU; on a GPU, where
asking for them would wait for the device, for a number of steps that the acceptance so far allows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distil_ray.recognition.native.assistant import Assistant
from distil_ray.recognition.native.logits_rules import Rules, TimeState
from distil_ray.recognition.native.silence_context import thinned
from distil_ray.recognition.native.slots import Extent
from distil_ray.recognition.native.speculative import WORTH, Speculation


class Drafter:
    """The assistant's side of a loop of so many slots."""

    def __init__(self, speculation: Speculation, assistant: Assistant, rules: Rules, slots: int, eot: int) -> None:
        """`rules`: those of the main model."""
        self._speculation = speculation
        self._decoder, self._encoder = assistant.decoder, assistant.encoder
        self._rules, self._eot = rules.over(assistant.vocabulary), eot
        self._cache = assistant.decoder.cache(slots)
        self._heard = [0] * slots  # encoder positions in each slot
        self._asks = assistant.decoder.device.type == "cpu"

    def fit(self, encoder_positions: int) -> None:
        """Room for windows of up to so many positions; what the slots hold is lost."""
        self._cache.fit(encoder_positions)

    def listen(
        self, features: Tensor, encoded: Tensor, taking: Sequence[int], slots: Tensor, own: int, spoken: int
    ) -> None:
        """Takes windows into slots: what the main model's encoder made of them, or what its own makes of `features`.

        `taking` and `slots` are the same numbers, on the host and on the device. Shapes as in `Encoder.__call__` and
        `Decoder.listen`. No chunk has audio behind the first `spoken` positions: what lies there is silence, of which
        one position in eight does, as behind a short window (silence.py).
        """
        with self._speculation.hearing(len(slots)):
            states = encoded if self._encoder is None else self._encoder(features)
            states, own = thinned(states, own, spoken)
            self._decoder.listen(states.to(self._decoder.dtype), self._cache, slots, own)
        for slot in taking:
            self._heard[slot] = states.shape[1]

    def prefill(self, prompts: Tensor, slots: Tensor, encoder_positions: int) -> None:
        """Takes the prompts, shape (rows, P), of rows that have been listened to."""
        with self._speculation.hearing(0):
            self._decoder.prefill(prompts, self._cache, slots, encoder_positions)

    def move(self, sources: Sequence[int], targets: Sequence[int], extent: Extent) -> None:
        """Copies whole rows."""
        self._cache.move(sources, targets, extent.text, extent.window)
        for source, target in zip(sources, targets, strict=True):
            self._heard[target] = self._heard[source]

    def draft(
        self, ids: Tensor, positions: Tensor, state: TimeState, live: Tensor, most: int, extent: Extent
    ) -> Tensor:
        """Drafts, shape (rows, k), of the first rows, k being at most `most`.

        `ids`, `positions`: the last ids of each row, shape (rows, P), all that the assistant has not heard among them;
        `state`: the rules' of each row; `live`: bool, the rows that are not over. On a CPU it ends where the next
        token of a live row has, on average, a chance below `WORTH` of being kept.
        """
        chance = live.float()
        window = max(self._heard[: len(ids)])
        drafts: list[Tensor] = []
        while len(drafts) < most:
            text = min(extent.text + len(drafts), self._decoder.room)
            hidden = self._decoder.step(ids, positions, self._cache, text, window, is_ragged=True)
            tokens, logprobs = self._rules.choose(self._decoder.logits(hidden[:, -1]), state)
            drafts.append(tokens)
            if self._asks:
                chance = torch.where(tokens == self._eot, 0.0, chance * logprobs.exp())
                if float(chance.sum()) < WORTH * int(live.sum()):
                    break
            state = self._rules.after(state, tokens)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
        return torch.stack(drafts, dim=1)


def num_agreed(drafts: Tensor, chosen: Tensor) -> Tensor:
    """How many drafts of each row, shape (rows, k), are what was chosen, shape (rows, k + 1), up to the first other."""
    return (drafts == chosen[:, :-1]).cumprod(dim=1).sum(dim=1)
