"""The filters of labels, and the rows of rejected utterances.

A filter is a column, a direction and a threshold. A missing value (no reference, no assistant, no second pass) passes.
The reasons in `FIXED_REASONS` reject an utterance under any settings.

Rejected utterances are written as rows with every reason, a few thousand to a file. They are held on the local disk
until the plan of the other utterances is complete.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distil_ray.config import LabelFiltersConfig
from distil_ray.pseudo_labels.dataset_schema import REJECTED, Row
from distil_ray.pseudo_labels.existing_dataset import encode_rejected, rejected_uri
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE

Values = NDArray[np.float64]  # values of a column, NaN if missing
Mask = NDArray[np.bool_]

# Reasons that belong to no filter, with their descriptions.
FIXED_REASONS = {
    "status": "its recording failed, is damaged, or has no words",
    "no_text": "it has no text",
    "too_long": "it has 30 s or more, and the trainer drops it",
    "too_many_tokens": "its label does not fit into the decoder together with a prompt",
    "broken_text": "its tokens are not complete characters",
    "audio": "its audio could not be read again; the next build retries it",
}
FLAGS_FILTER = "quality_flags"


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter.

    Attributes:
        setting: Name of the threshold in `labels.filters`.
        column: Column of the metric.
        sweep: Thresholds that --sweep evaluates in addition to the configured one.
        strict: Also reject a value equal to the threshold.
    """

    setting: str
    column: str
    sweep: tuple[float, ...]
    strict: bool = False

    @property
    def is_minimum(self) -> bool:
        return self.setting.startswith("min_")

    def rejects(self, values: Values, threshold: float) -> Mask:
        """Returns which values are rejected; missing values never are."""
        if self.is_minimum:
            return values < threshold
        return values >= threshold if self.strict else values > threshold


FILTERS = (
    Filter("max_wer", "wer", (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0), strict=True),
    Filter("max_edge_cer", "edge_cer", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)),
    Filter("max_disagreement", "disagreement", (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)),
    Filter("min_avg_logprob", "avg_logprob", (-1.0, -0.8, -0.6, -0.5, -0.4, -0.3, -0.25, -0.2, -0.15, -0.1)),
    Filter("max_compression_ratio", "compression_ratio", (1.4, 1.6, 1.8, 2.0, 2.2, 2.4)),
    Filter("max_repeated_5grams", "repeated_5grams", (0, 1, 2, 5, 10)),
    Filter("max_chars_per_s", "chars_per_s", (12, 14, 16, 18, 20, 22, 25, 30)),
    Filter("min_chars_per_s", "chars_per_s", (1, 2, 4, 6, 8, 10)),
    Filter("max_no_speech_prob", "no_speech_prob", (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)),
    Filter("max_unheard_s", "unheard_s", (0, 0.2, 0.5, 1, 2, 5, 10)),
    Filter("min_acceptance_rate", "acceptance_rate", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)),
)


def iter_enabled_filters(config: LabelFiltersConfig) -> Iterator[tuple[Filter, float]]:
    """Yields the enabled filters with their thresholds."""
    for one in FILTERS:
        if (threshold := getattr(config, one.setting)) is not None:
            yield one, float(threshold)


def list_rejection_reasons(metrics: Mapping[str, Any], config: LabelFiltersConfig) -> list[str]:
    """Returns the settings of the filters that reject an utterance with these metrics."""
    reasons = [
        one.setting
        for one, threshold in iter_enabled_filters(config)
        if metrics[one.column] is not None and one.rejects(np.array([metrics[one.column]], np.float64), threshold)[0]
    ]
    return [*reasons, FLAGS_FILTER] if set(metrics["quality_flags"] or ()) & set(config.quality_flags) else reasons


@dataclass(frozen=True, slots=True)
class ScoredUtterance:
    """An utterance (row of `UTTERANCE`) and the reasons for its rejection; none if it is kept."""

    row: Row
    reasons: tuple[str, ...]


FILE_ROWS = 5000


class RejectedWriter:
    """Collects rejected utterances in local files, and writes them to the data set in `finish`."""

    def __init__(self, dataset_uri: str, settings: str, storage: Storage) -> None:
        self._dataset_uri, self._settings, self._storage = dataset_uri, settings, storage
        self._folder = tempfile.TemporaryDirectory(prefix="distil-ray-rejected-")
        self._rows: list[Row] = []
        self._num_files = 0

    def add(self, scored: ScoredUtterance) -> None:
        self._rows.append(_rejected_row(scored))
        if len(self._rows) == FILE_ROWS:
            self._spill()

    def finish(self) -> None:
        """Writes all rows; files that already exist are not written again."""
        if self._rows:
            self._spill()
        for path in sorted(Path(self._folder.name).iterdir()):
            table = pq.read_table(path)
            names = table["utterance_source"].to_pylist()
            uri = rejected_uri(self._dataset_uri, self._settings, names, "rejected")
            self._storage.put_if_absent(uri, encode_rejected(table, self._settings))
        self._folder.cleanup()

    def _spill(self) -> None:
        path = Path(self._folder.name) / f"{self._num_files:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(self._rows, schema=REJECTED), path)
        self._num_files += 1
        self._rows = []


def _rejected_row(scored: ScoredUtterance) -> Row:
    row = scored.row
    return {
        **{name: row[name] for name in REJECTED.names if name in row},
        "id": row["utterance_id"],
        "reasons": list(scored.reasons),
        "is_final": True,
        "utterance_source": row["source"],
        "start_s": row["start"] / SAMPLE_RATE,
        "transcript": row["text"],
        "text": row["reference"] or "",
    }
