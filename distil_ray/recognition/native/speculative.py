"""Whether drafting pays, and how far to draft: measured while it goes on, and kept between the calls of a recognizer.

A trial times passes with and without drafts in turn, over the same rows, and adds what hearing the chunks costs the
assistant; where tokens do not come faster by it, drafting ends for good. The texts are the same either way. How many
tokens are drafted at most follows from the share that was kept of late. Knows numbers only.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distil_ray.recognition.native.assistant import Assistant
from distil_ray.recognition.native.decoder import SPARE_POSITIONS
from distil_ray.recognition.native.decoding_task import Decoded
from distil_ray.recognition.native.memory import clock

MOST_DRAFTS = SPARE_POSITIONS
# A further draft pays if it is as likely as this to be kept (docs/speculative.md). A CPU asks at every draft, by the
# assistant's own probabilities; a GPU can not, and goes by the share that was kept.
WORTH = 0.4
LEAST_CHANCE = 0.1  # on a CPU: of the last draft at most, by that share; an assistant may be sure and wrong
MEMORY = 512  # judged drafts; what was before them counts ever less
FIRST_SHARE = 0.75  # before anything is known, as much as if 32 drafts had been judged
FIRST_JUDGED = 32
TRIAL_PAIRS = 16  # passes of either kind that are timed
WARM_UP_PAIRS = 2  # not timed: they also pay for memory that is touched for the first time
MIN_GAIN = 1.02  # less is within the error of a trial


class Trial:
    """Seconds and tokens of passes with drafts and without; seconds of hearing, and tokens of whole chunks."""

    def __init__(self) -> None:
        self._num_passes = 0
        self._seconds, self._tokens = [0.0, 0.0], [0, 0]  # without drafts, with them
        self._hearing_s, self._num_heard = 0.0, 0
        self._chunk_tokens, self._num_chunks = 0, 0

    @property
    def drafts_next(self) -> bool:
        """Whether the next pass is one with drafts: every other one is."""
        return self._num_passes % 2 == 0

    def heard(self, seconds: float, num_chunks: int) -> None:
        """What the assistant took to hear chunks that were begun."""
        self._hearing_s += seconds
        self._num_heard += num_chunks

    def passed(self, seconds: float, tokens: int) -> None:
        """What the pass took that `drafts_next` spoke of, and how many tokens came of it."""
        if self._num_passes >= 2 * WARM_UP_PAIRS:
            self._seconds[self.drafts_next] += seconds
            self._tokens[self.drafts_next] += tokens
        self._num_passes += 1

    def finished(self, tokens: int) -> None:
        """A chunk has ended after so many tokens."""
        self._chunk_tokens += tokens
        self._num_chunks += 1

    def gain(self) -> float | None:
        """How many times faster tokens come with drafts; None while too little is known."""
        enough = self._num_passes >= 2 * (WARM_UP_PAIRS + TRIAL_PAIRS) and self._num_chunks
        if not enough or not all(self._tokens):
            return None
        plain, drafted = (seconds / tokens for seconds, tokens in zip(self._seconds, self._tokens, strict=True))
        hearing = self._hearing_s / self._num_heard * self._num_chunks / self._chunk_tokens
        return plain / (drafted + hearing)


class Speculation:
    """An assistant, as long as it is of use."""

    def __init__(self, assistant: Assistant, on_trial: bool, note: Callable[[str], None]) -> None:
        """`on_trial`: it stays only if a trial shows a gain; `note` is told the verdict."""
        self.assistant: Assistant | None = assistant
        self.trial = Trial() if on_trial else None
        self._note = note
        self._device = assistant.decoder.device
        self._judged, self._kept = float(FIRST_JUDGED), FIRST_JUDGED * FIRST_SHARE

    @property
    def most(self) -> int:
        """Tokens to draft for a pass, at most."""
        share = min(max(self._kept / self._judged, 0.01), 0.99)
        chance = LEAST_CHANCE if self._device.type == "cpu" else WORTH
        return min(MOST_DRAFTS, max(1, math.floor(math.log(chance) / math.log(share))))

    def finished(self, decoded: Decoded) -> None:
        """Takes a chunk's figures."""
        fading = max(0.0, 1.0 - decoded.judged / MEMORY)
        self._judged = self._judged * fading + decoded.judged
        self._kept = self._kept * fading + decoded.kept
        if self.trial is not None:
            self.trial.finished(len(decoded.tokens) + 1)

    @contextmanager
    def hearing(self, num_chunks: int) -> Iterator[None]:
        """Around what the assistant does to hear chunks; measured while on trial."""
        began = 0.0 if self.trial is None else clock(self._device)
        yield
        if self.trial is not None:
            self.trial.heard(clock(self._device) - began, num_chunks)

    def decide(self) -> None:
        """Ends the trial once it has shown enough, and the assistant where it does not gain; a note says so."""
        gain = None if self.trial is None else self.trial.gain()
        if gain is None:
            return
        self.trial = None
        share = 100 * self._kept / self._judged
        found = f"tokens come {gain:.2f} times as fast with drafts, {share:.0f} % of which are kept"
        if gain < MIN_GAIN:
            self.assistant = None
        verdict = "off from here on" if self.assistant is None else "on"
        self._note(f"decoding.speculative=auto: {verdict}, as {found}")
