"""What is known of each row while it is decoded: its tokens, their log-probability, whether it has ended.

All of it lives on the device, so that a step needs no word from the host. A row that has ended may be stepped on for
a while; it then changes nothing here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distil_ray.recognition.rules import TimeState
from distil_ray.recognition.sampling import Draw


class Rows:
    """Tensors of shape (slots,), `tokens` of shape (slots, room); the slots in use are the first ones."""

    def __init__(self, times: TimeState, slots: int, room: int, eot: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.times = times
        self.tokens = zeros(slots, room)
        self._logprobs = zeros(slots, room, dtype=torch.float32)
        self.last = zeros(slots)  # what is fed next
        self.count = zeros(slots)  # tokens so far, without the end token
        self.limit = zeros(slots)
        self._temperature = zeros(slots, dtype=torch.float32)
        self._seed = zeros(slots)
        self.ended = torch.ones(slots, dtype=torch.bool, device=device)  # by the end token, a limit or repetition
        self._closed = zeros(slots, dtype=torch.bool)  # by the end token
        self._sum_logprob = zeros(slots, dtype=torch.float64)
        self._no_speech_prob = zeros(slots, dtype=torch.float32)
        self._eot = eot

    def begin(
        self, slots: Tensor, tokens: Tensor, logprobs: Tensor, no_speech_prob: Tensor, limit: Tensor, draw: Draw
    ) -> None:
        """Rows `slots` start over with their first tokens; all arguments of shape (rows,)."""
        self._temperature[slots] = draw.temperatures
        self._seed[slots] = draw.seeds
        self.count[slots] = 0
        self.limit[slots] = limit
        self.ended[slots] = False
        self._closed[slots] = False
        self._sum_logprob[slots] = 0.0
        self._no_speech_prob[slots] = no_speech_prob
        self.append(tokens, logprobs, slots)

    def draw(self, rows: Tensor) -> Draw:
        """What the next tokens of `rows` are drawn by."""
        return Draw(self._temperature[rows], self._seed[rows], self.count[rows])

    def append(self, tokens: Tensor, logprobs: Tensor, rows: Tensor) -> None:
        """Takes the tokens just chosen for `rows`; all arguments of shape (rows,)."""
        live = ~self.ended[rows]
        is_end = live & (tokens == self._eot)
        count = self.count[rows]
        grows = live & ~is_end
        place = torch.where(grows, count, -1)  # the last one is never part of a text
        self.tokens[rows, place] = tokens
        self._logprobs[rows, place] = logprobs
        self.last[rows] = torch.where(live, tokens, self.last[rows])
        self.count[rows] = count + grows
        self._sum_logprob[rows] += torch.where(live, logprobs, 0.0)
        self._closed[rows] |= is_end
        self.ended[rows] |= is_end | (self.count[rows] >= self.limit[rows])

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies whole rows."""
        times = (self.times.last_is_time, self.times.before_is_time, self.times.latest)
        own = (self.tokens, self.last, self.count, self.limit, self._temperature, self._seed, self.ended, self._closed)
        for tensor in (*times, *own, self._logprobs, self._sum_logprob, self._no_speech_prob):
            for source, target in zip(sources, targets, strict=True):
                tensor[target] = tensor[source]

    def texts(self, slots: Sequence[int]) -> list[list[int]]:
        """The tokens of some rows so far."""
        where = torch.tensor(slots, device=self.count.device)
        counts = self.count[where].tolist()
        tokens = self.tokens[where, : max(counts)].tolist()
        return [row[:count] for row, count in zip(tokens, counts, strict=True)]

    def probabilities(self, slots: Sequence[int]) -> list[list[float]]:
        """The probability of each of these tokens."""
        where = torch.tensor(slots, device=self.count.device)
        counts = self.count[where].tolist()
        probabilities = self._logprobs[where, : max(counts)].exp().tolist()
        return [row[:count] for row, count in zip(probabilities, counts, strict=True)]

    def outcomes(self, slots: Sequence[int]) -> list[tuple[float, float, bool]]:
        """Sum of log-probabilities, probability of no speech, and whether the end token came, of some rows."""
        where = torch.tensor(slots, device=self.count.device)
        signs = (self._sum_logprob[where], self._no_speech_prob[where], self._closed[where])
        return list(zip(*(sign.tolist() for sign in signs), strict=True))
