"""Which utterances, one after the other, become one example. Pure arithmetic: knows neither texts nor audio."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(
    num_samples: Sequence[int], num_tokens: Sequence[int], groups: Sequence[str], max_samples: int, max_tokens: int
) -> NDArray[np.int64]:
    """Where each example begins among the utterances, and behind them their end; shape (num_examples + 1,).

    Utterances stay in their order. An example takes the next one while it is of the same group and both sums stay at
    their limits or below; one that is over a limit by itself is an example of its own.
    """
    starts = []
    samples = tokens = 0
    group: str | None = None
    for number, (more_samples, more_tokens, its_group) in enumerate(zip(num_samples, num_tokens, groups, strict=True)):
        fits = samples + more_samples <= max_samples and tokens + more_tokens <= max_tokens
        if its_group != group or not fits:
            starts.append(number)
            samples = tokens = 0
            group = its_group
        samples += more_samples
        tokens += more_tokens
    return np.array([*starts, len(num_samples)], np.int64)
