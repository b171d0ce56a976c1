"""Minimum Bayes risk: of several texts of a chunk, the one with the fewest errors to be expected.

The likeliest text is not the one with the fewest expected word errors: where three texts agree in a word and a fourth,
slightly likelier one has another, the word of the three is probably right. Each text gets as its risk the mean of its
edit distances to all texts, weighted by their probabilities, and the least risk wins (Goel and Byrne, "Minimum
Bayes-risk automatic speech recognition", 2000; Stolcke et al., "Explicit word error minimization in N-best list
rescoring", 1997).
"""

from collections.abc import Sequence

import numpy as np


def least_risk(texts: Sequence[Sequence[int]], logprobs: Sequence[float]) -> int:
    """Returns the index of the text with the least expected edit distance to the others.

    Args:
        texts: Tokens of the texts; at least one text. Edits of tokens are counted, so nothing depends on the language.
        logprobs: Log-probability of each text, natural logarithm. Probabilities are normalized over `texts`.

    Returns:
        The index of the text; of several with the same risk, the first.
    """
    from rapidfuzz.distance import Levenshtein  # without it, a recognizer that does not need it still runs

    scores = np.asarray(logprobs, np.float64)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    distances = np.zeros((len(texts), len(texts)))
    for i, text in enumerate(texts):
        for j in range(i):
            distances[i, j] = distances[j, i] = Levenshtein.distance(text, texts[j])
    return int(np.argmin(np.round(distances @ weights, 9)))
