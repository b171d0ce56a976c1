"""Which split an utterance goes to, and which share would fill a split that stays empty.

What one speaker said belongs to one split; where no speaker is known, what lies in one file, or in one cell of a table.
Each such group has a number in [0, 1) that is made of its name alone; the groups below `labels.validation_share` are
the split `validation`, so a group stays where it is whatever comes later.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from distil_ray.config import LabelsConfig
from distil_ray.pseudo_labels.dataset_schema import TRAIN, VALIDATION


def share_of(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that belongs to a name: the same in every run, for every other seed or purpose another."""
    digest = hashlib.blake2b(f"{seed} {purpose} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def file_of(uri: str, place: Mapping[str, Any] | None) -> str:
    """What was most likely said by the same people: the name of a file, of an archive's member or of a table's cell."""
    parts = [(place or {}).get(name) for name in ("member", "row_group", "row")]
    return "\0".join(str(part) for part in (uri, *parts))


def group_of(speaker: str | None, uri: str, place: Mapping[str, Any] | None) -> str:
    """The name of what stays together in one split."""
    return f"speaker\0{speaker}" if speaker else f"file\0{file_of(uri, place)}"


def split_share(group: str, config: LabelsConfig) -> float:
    """The number of a group, in [0, 1)."""
    return share_of(config.seed, "split", group)


def split_of(group: str, config: LabelsConfig) -> str:
    return VALIDATION if split_share(group, config) < config.validation_share else TRAIN


@dataclass(slots=True)
class Shares:
    """How many groups there are, each counted as often as it is added; the least and the greatest of their numbers."""

    config: LabelsConfig
    num_groups: int = 0
    least: float = 1.0
    greatest: float = 0.0

    def add(self, group: str) -> None:
        share = split_share(group, self.config)
        self.num_groups += 1
        self.least, self.greatest = min(self.least, share), max(self.greatest, share)

    @property
    def has_both(self) -> bool:
        return self.least < self.config.validation_share <= self.greatest

    def note(self, held: Collection[str]) -> str | None:
        """Tells of a split that stays empty, and which `labels.validation_share` fills both.

        `held`: the splits that the data set has already. None if no split is empty that was asked for.
        """
        share = self.config.validation_share
        if not self.num_groups or share == 0 or self.has_both:
            return None
        empty = VALIDATION if self.least >= share else TRAIN
        if empty in held:
            return None
        found = (
            f"labels.validation_share={share:g} leaves the split {empty} empty: no speaker (where speakers are unknown,"
            " no file) belongs to it"
        )
        if self.least == self.greatest:
            return f"{found}, for there is only one. With 0 all of it is the split {TRAIN}"
        bound = "at least" if empty == VALIDATION else "at most"
        return f"{found}. Take {bound} {self._filling_share(empty)!r}, or 0 for a data set without {VALIDATION}"

    def _filling_share(self, empty: str) -> float:
        """The share nearest to the one asked for that fills both splits, rounded as far as that allows."""
        nearest, rounding = (self.least, ROUND_CEILING) if empty == VALIDATION else (self.greatest, ROUND_FLOOR)
        for digits in range(2, 17):
            share = float(Decimal(nearest).quantize(Decimal(1).scaleb(-digits), rounding=rounding))
            if self.least < share <= self.greatest:
                return share
        return self.greatest
