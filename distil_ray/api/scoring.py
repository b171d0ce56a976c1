"""`dr.score`: word error rate of transcripts against references, with an interval and a table."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from distil_ray.config import ScoringConfig
from distil_ray.config.evaluation import NormalizerChoice
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.wer import Score, Scorer, bootstrap_interval, pooled_rate
from distil_ray.languages import language_code, require_language
from distil_ray.types import EDITS

Interval = tuple[float, float]  # low, high, as fractions


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Pooled error rates of transcripts, as `score` returns them. Rates are fractions.

    Words are characters in languages that write no spaces between words.

    Attributes:
        wer: Edits per word of the references; None if the references have no words.
        interval: 95 % bootstrap interval of `wer`; None for fewer than two pairs (or speakers).
        cer: Edits per character of the references.
        substitutions: Words that were replaced.
        deletions: Words of the references that are missing.
        insertions: Words that are in the transcripts only.
        num_ref_words: Words of the references.
        num_pairs: Number of transcripts.
        normalizer: Name and version of what normalized the texts.
        table: One row per group if `by` was given, else one row per pair, in order.
    """

    wer: float | None
    interval: Interval | None
    cer: float | None
    substitutions: int
    deletions: int
    insertions: int
    num_ref_words: int
    num_pairs: int
    normalizer: str
    table: pd.DataFrame

    def __repr__(self) -> str:
        if self.wer is None:
            return f"ErrorRates(no words in {self.num_pairs:,} references)"
        interval = "" if self.interval is None else " ({:.2f} to {:.2f})".format(*(100 * one for one in self.interval))
        edits = f"S {self.substitutions:,}, D {self.deletions:,}, I {self.insertions:,}"
        return f"ErrorRates(WER {100 * self.wer:.2f} %{interval}; {edits}; {self.num_ref_words:,} words)"


def score(
    hypotheses: Sequence[str],
    references: Sequence[str],
    language: str | Sequence[str | None] | None = "en",
    *,
    by: Sequence[Hashable] | None = None,
    speakers: Sequence[Hashable] | None = None,
    normalizer: NormalizerChoice = "auto",
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> ErrorRates:
    """Compares transcripts with references, as the job does.

    Args:
        hypotheses: The transcripts.
        references: The reference of each transcript. An empty reference means that nothing is said.
        language: The language of all texts, or of each pair: a code or a name. It selects the normalizer, and the unit:
            words, or characters in languages that write no spaces between words. None: unknown. Here as in `by` and
            `speakers`, the missing values of pandas (NaN, NA) are None.
        by: The group of each pair: `ErrorRates.table` then has the rates of each group.
        speakers: The speaker of each pair. What one person says is not independent: the bootstrap then resamples
            speakers instead of pairs.
        normalizer: ``scoring.normalizer``.
        bootstrap_samples: Number of bootstrap samples for the interval.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: The arguments have different lengths, a text is none, as that of a recording that failed, or the
            one language of all texts is no language.
    """
    num_pairs = len(hypotheses)
    if isinstance(language, str):
        require_language(language)
    languages = [language] * num_pairs if language is None or isinstance(language, str) else _with_none(language)
    by, speakers = (None if labels is None else _with_none(labels) for labels in (by, speakers))
    _require_length(num_pairs, references=references, language=languages, by=by, speakers=speakers)
    _require_texts(hypotheses=hypotheses, references=references)
    scorer = Scorer(ScoringConfig(normalizer=normalizer, bootstrap_samples=bootstrap_samples, seed=seed))
    scores = [
        scorer.score(hypothesis, reference, language_code(code))
        for hypothesis, reference, code in zip(hypotheses, references, languages, strict=True)
    ]
    counts = _Counts(scores, None if speakers is None else _numbers(speakers), bootstrap_samples, seed)
    everything = counts.rates(np.arange(num_pairs))
    normalizers = SEPARATOR.join(sorted({one.normalizer for one in scores}))
    table = _pair_table(scores) if by is None else _group_table(counts, by)
    return ErrorRates(**everything, normalizer=normalizers, table=table)


def _require_texts(**columns: Sequence[object]) -> None:
    for name, values in columns.items():
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(
                    f"{name}: must be texts, found {value!r} at {index}. Leave the pair out, or give an empty text"
                )


class _Counts:
    """Edits and words of each pair, and the pooled rates of some of them."""

    def __init__(
        self, scores: Sequence[Score], speakers: NDArray[np.int64] | None, bootstrap_samples: int, seed: int
    ) -> None:
        names = (*EDITS, "num_ref_words", "num_ref_chars", "char_edits")
        self._counts = {name: np.array([getattr(one, name) for one in scores], np.int64) for name in names}
        self._speakers = speakers
        self._bootstrap = bootstrap_samples, seed

    def rates(self, chosen: NDArray[np.int64]) -> dict[str, Any]:
        """Returns the fields of `ErrorRates` for the pairs with the indices `chosen`."""
        own = {name: column[chosen] for name, column in self._counts.items()}
        sums = {name: int(column.sum()) for name, column in own.items()}
        edits = sum((own[name] for name in EDITS), np.zeros(len(chosen), np.int64))
        speakers = None if self._speakers is None else self._speakers[chosen]
        return {
            "wer": pooled_rate(int(edits.sum()), sums["num_ref_words"]),
            "interval": bootstrap_interval(edits, own["num_ref_words"], speakers, *self._bootstrap),
            "cer": pooled_rate(sums["char_edits"], sums["num_ref_chars"]),
            **{name: sums[name] for name in (*EDITS, "num_ref_words")},
            "num_pairs": len(chosen),
        }


def _pair_table(scores: Sequence[Score]) -> pd.DataFrame:
    columns = [name for name in Score.__dataclass_fields__ if name != "normalizer"]
    return pd.DataFrame([asdict(one) for one in scores], columns=columns)


def _group_table(counts: _Counts, by: Sequence[Hashable]) -> pd.DataFrame:
    """Returns the rates of each group, in the order of their first pair; the interval in two columns."""
    groups: dict[Hashable, list[int]] = {}
    for position, group in enumerate(by):
        groups.setdefault(group, []).append(position)
    rows = []
    for group, positions in groups.items():
        rates = counts.rates(np.array(positions, np.int64))
        low, high = rates.pop("interval") or (None, None)
        rows.append({"group": group, "num_pairs": rates.pop("num_pairs"), **rates, "wer_low": low, "wer_high": high})
    return pd.DataFrame(rows)


def _with_none(labels: Iterable[Any]) -> list[Any]:
    """Returns labels with None for the missing values of pandas."""
    return [None if pd.api.types.is_scalar(label) and pd.isna(label) else label for label in labels]


def _numbers(labels: Sequence[Hashable]) -> NDArray[np.int64]:
    """Returns a number for each label, equal for equal labels; -1 for None."""
    known: dict[Hashable, int] = {}
    return np.array([-1 if one is None else known.setdefault(one, len(known)) for one in labels], np.int64)


def _require_length(num_pairs: int, **arguments: Sequence[object] | None) -> None:
    for name, values in arguments.items():
        if values is not None and len(values) != num_pairs:
            raise ValueError(f"{name}: has {len(values)} entries for {num_pairs} hypotheses")
