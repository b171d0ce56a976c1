"""The data preparation of Distil-Whisper's training script, for tests and train_student.py.

As in `run_distillation.py`, the label is tokenized as it is. If it has timestamp tokens, they are kept or, at random,
removed, and `<|notimestamps|>` is inserted at a fixed position. Also at random, the ids of `condition_on_prev` are put
before the label, after a `<|startofprev|>`. Examples of 30 s and more, and labels of more than 448 ids, are dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

MAX_LABEL = 448
MAX_SAMPLES = 480_000


@dataclass(frozen=True)
class Trainer:
    tokenizer: Any
    is_multilingual: bool

    @classmethod
    def of(cls, folder: Path, *, is_multilingual: bool) -> "Trainer":
        return cls(AutoTokenizer.from_pretrained(str(folder)), is_multilingual)

    @property
    def timestamp_position(self) -> int:
        return 3 if self.is_multilingual else 1

    @property
    def no_timestamps(self) -> int:
        return int(self.tokenizer.all_special_ids[-1])

    @property
    def start_of_prev(self) -> int:
        return int(self.tokenizer.all_special_ids[-3])

    def ids(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return found

    def labels(self, row: Mapping[str, Any], *, timestamps: bool, prompted: bool) -> list[int]:
        """Returns the ids of one example, with or without timestamps and prompt."""
        ids = self.ids(row["whisper_transcript"])
        has_timestamps = any(token > self.no_timestamps for token in ids)
        if has_timestamps and not timestamps:
            ids = [token for token in ids if token < self.no_timestamps]
            ids.insert(self.timestamp_position, self.no_timestamps)
        before = row["condition_on_prev"]
        if not prompted or before is None:
            return ids
        before = list(before)
        if has_timestamps and not timestamps:
            before = [token for token in before if token < self.no_timestamps]
        if len(before) > MAX_LABEL // 2:
            before = before[-(MAX_LABEL // 2) + 1 :]
        if len(before) + len(ids) + 1 > MAX_LABEL:
            before = before[len(ids) - MAX_LABEL + 1 :]
        return [self.start_of_prev, *before, *ids]

    def keeps(self, labels: Sequence[int], num_samples: int) -> bool:
        return 0 < len(labels) <= MAX_LABEL and 0 < num_samples < MAX_SAMPLES
