"""Statistics of a data set, read from its own files, so they are correct for any builds that wrote it.

Only columns of numbers and names are read, never audio or texts.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from distil_ray.cli.console import format_duration
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.summary_table import format_percent
from distil_ray.evaluation.wer import pooled_rate
from distil_ray.output.ledger import list_data_files
from distil_ray.pseudo_labels.dataset_schema import DATA, REJECTED_FOLDER, TRAIN, VALIDATION
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

COLUMNS = ["speaker", "language", "license", "duration_s", "num_ref_words", "edits", "normalizer"]

Seconds = defaultdict[str, float]


def _none() -> Seconds:
    return defaultdict(float)


@dataclass(slots=True)
class WordErrors:
    """Edits against references, reference words, and the normalizers of the texts."""

    edits: int = 0
    words: int = 0
    normalizers: set[str] = field(default_factory=set)

    def add(self, table: pa.Table) -> None:
        known = np.array([words is not None for words in table["num_ref_words"].to_pylist()], np.bool_)
        rows = table.filter(pa.array(known))
        self.edits += sum(rows["edits"].to_pylist())
        self.words += sum(rows["num_ref_words"].to_pylist())
        scored_by = filter(None, rows["normalizer"].to_pylist())
        self.normalizers.update(name for names in scored_by for name in names.split(SEPARATOR))

    @property
    def rate(self) -> float | None:
        return pooled_rate(self.edits, self.words)


@dataclass(slots=True)
class DatasetStatistics:
    """Seconds by split, language, license; rejected seconds and utterances by reason; error rates."""

    num_examples: int = 0
    num_unreferenced: int = 0  # examples with an utterance that has no reference; their `text` is empty
    num_utterances: int = 0
    num_rejected: int = 0
    rejected_s: float = 0.0
    split_s: Seconds = field(default_factory=_none)
    split_examples: Counter[str] = field(default_factory=Counter)
    language_s: Seconds = field(default_factory=_none)
    license_s: Seconds = field(default_factory=_none)
    speakers: set[str] = field(default_factory=set)
    reasons: Counter[str] = field(default_factory=Counter)
    reason_s: Seconds = field(default_factory=_none)
    kept: WordErrors = field(default_factory=WordErrors)
    all: WordErrors = field(default_factory=WordErrors)

    @classmethod
    def read(cls, dataset_uri: str, storage: Storage) -> "DatasetStatistics":
        figures = cls()
        threads = num_request_threads(dataset_uri)
        data, rejected = (
            list(list_data_files(join(dataset_uri, folder), storage)) for folder in (DATA, REJECTED_FOLDER)
        )
        for uri, table in ordered_parallel_map(
            lambda uri: (uri, _read(uri, [*COLUMNS, "utterance_ids"], storage)), data, threads
        ):
            figures._add_examples(TRAIN if uri.rsplit("/", 1)[-1].startswith(TRAIN) else VALIDATION, table)
        for table in ordered_parallel_map(lambda uri: _read(uri, [*COLUMNS, "reasons"], storage), rejected, threads):
            figures._add_rejected(table)
        return figures

    @property
    def kept_s(self) -> float:
        return sum(self.split_s.values())

    @property
    def had_text(self) -> bool:
        """True if any utterance had text for the filters to check."""
        return bool(self.num_examples or set(self.reasons) - {"status", "no_text"})

    def lines(self) -> Iterator[str]:
        """Yields the lines that are printed at the end of a build."""
        for split in (TRAIN, VALIDATION):
            yield f"{split}: {self.split_examples[split]:,} examples, {format_duration(self.split_s[split])}"
        yield f"rejected: {self.num_rejected:,} utterances, {format_duration(self.rejected_s)}" + (
            f" ({self.reason_words()})" if self.reasons else ""
        )
        if self.all.rate is not None:
            kept = format_percent(self.kept.rate) or "-"
            yield f"WER {format_percent(self.all.rate)} % before the filters, {kept} % after"

    def reason_words(self) -> str:
        return ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common())

    def _add_examples(self, split: str, table: pa.Table) -> None:
        durations = table["duration_s"].to_pylist()
        self.num_examples += table.num_rows
        self.num_unreferenced += table["num_ref_words"].null_count
        self.split_examples[split] += table.num_rows
        self.split_s[split] += sum(durations)
        self.num_utterances += sum(len(ids) for ids in table["utterance_ids"].to_pylist())
        for totals, column in ((self.language_s, "language"), (self.license_s, "license")):
            for name, seconds in zip(table[column].to_pylist(), durations, strict=True):
                totals[name or "unknown"] += seconds
        self.speakers |= {name for name in table["speaker"].to_pylist() if name is not None}
        self.kept.add(table)
        self.all.add(table)

    def _add_rejected(self, table: pa.Table) -> None:
        self.num_rejected += table.num_rows
        for reasons, seconds in zip(table["reasons"].to_pylist(), table["duration_s"].to_pylist(), strict=True):
            self.rejected_s += seconds or 0.0
            for reason in reasons:
                self.reasons[reason] += 1
                self.reason_s[reason] += seconds or 0.0
        self.all.add(table)


def _read(uri: str, columns: list[str], storage: Storage) -> pa.Table:
    with storage.open(uri) as file:
        return open_parquet(file).read(columns=columns)
