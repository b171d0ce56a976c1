"""The split of an utterance, and the suggestion of a share that fills an empty split.

All utterances of a speaker belong to one split; without a known speaker, all of one file or of one cell of a table.
Each such group has a number in [0, 1) that depends on its name and the seed only. Groups below
`labels.validation_share` are the split `validation`, so a group stays in its split when recordings are added.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from distil_ray.config import LabelsConfig
from distil_ray.pseudo_labels.dataset_schema import TRAIN, VALIDATION


def hash_to_unit_interval(seed: int, purpose: str, name: str) -> float:
    """Returns a hash of a name in [0, 1): the same in every run, different for another seed or purpose."""
    digest = hashlib.blake2b(f"{seed} {purpose} {name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def format_file_key(uri: str, location: Mapping[str, Any] | None) -> str:
    """Returns the name of a file, of an archive's member or of a table's cell, used if the speaker is unknown."""
    parts = [(location or {}).get(name) for name in ("member", "row_group", "row")]
    return "\0".join(str(part) for part in (uri, *parts))


def format_split_group(speaker: str | None, uri: str, location: Mapping[str, Any] | None) -> str:
    """Returns the name of the group that stays in one split: the speaker, else the file."""
    return f"speaker\0{speaker}" if speaker else f"file\0{format_file_key(uri, location)}"


def compute_split_share(group: str, config: LabelsConfig) -> float:
    """Returns the number of a group, in [0, 1)."""
    return hash_to_unit_interval(config.seed, "split", group)


def assign_split(group: str, config: LabelsConfig) -> str:
    return VALIDATION if compute_split_share(group, config) < config.validation_share else TRAIN


@dataclass(slots=True)
class SplitShares:
    """The number of groups (counted each time they are added), and the least and greatest of their numbers."""

    config: LabelsConfig
    num_groups: int = 0
    least: float = 1.0
    greatest: float = 0.0

    def add(self, group: str) -> None:
        share = compute_split_share(group, self.config)
        self.num_groups += 1
        self.least, self.greatest = min(self.least, share), max(self.greatest, share)

    @property
    def has_both(self) -> bool:
        return self.least < self.config.validation_share <= self.greatest

    def note(self, existing: Collection[str]) -> str | None:
        """Returns a message about an empty split, with a `labels.validation_share` that fills both.

        Returns None if no split is empty, or if `existing`, the splits of the data set so far, has the empty one.
        """
        share = self.config.validation_share
        if not self.num_groups or share == 0 or self.has_both:
            return None
        empty = VALIDATION if self.least >= share else TRAIN
        if empty in existing:
            return None
        found = (
            f"labels.validation_share={share:g} leaves the split {empty} empty: no speaker (where speakers are unknown,"
            " no file) belongs to it"
        )
        if self.least == self.greatest:
            return f"{found}, because there is only one. Set it to 0 to put everything into the split {TRAIN}"
        bound = "at least" if empty == VALIDATION else "at most"
        return f"{found}. Set it to {bound} {self._filling_share(empty)!r}, or to 0 for a data set without {VALIDATION}"

    def _filling_share(self, empty: str) -> float:
        """Returns the share nearest to the configured one that fills both splits, rounded as far as possible."""
        nearest, rounding = (self.least, ROUND_CEILING) if empty == VALIDATION else (self.greatest, ROUND_FLOOR)
        for digits in range(2, 17):
            share = float(Decimal(nearest).quantize(Decimal(1).scaleb(-digits), rounding=rounding))
            if self.least < share <= self.greatest:
                return share
        return self.greatest
