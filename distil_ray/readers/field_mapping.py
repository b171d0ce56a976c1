"""What comes with the audio itself: the cells beside it in a table, the JSON beside it in a shard.

The names are those of manifests, and ``input.columns`` counts here as it does there. Other than a manifest's, these
fields do not say where the audio is; and what they say amiss is passed over and counted, because the audio is there.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distil_ray.config import ColumnsConfig
from distil_ray.readers.manifest import COLUMNS, SPEAKER, as_name, as_seconds, as_text, named_columns, sorted_out

_USED = ("recording_id", "reference", "duration_s", "language")


@dataclass(frozen=True, slots=True)
class RecordingFields:
    """What is said of one recording. `recording_id` is None where no field that may hold one does."""

    recording_id: str | None
    reference: str | None
    duration_s: float | None
    language: str | None
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Which fields mean what, by their names; all others are metadata."""

    names: Mapping[str, tuple[str, ...]]
    speaker: str

    @classmethod
    def from_config(cls, config: ColumnsConfig, recording_id: tuple[str, ...] = COLUMNS["recording_id"]) -> Self:
        """`recording_id`: the fields that may hold one, where the settings name none."""
        asked = named_columns(config)
        usual = COLUMNS | {"recording_id": recording_id}
        names = {field: (asked[field],) if field in asked else usual[field] for field in _USED}
        return cls(names, asked.get(SPEAKER, SPEAKER))

    def extract(self, row: Mapping[str, Any], ignored: Counter[str]) -> RecordingFields:
        _, value, metadata = sorted_out(row, self.names, self.speaker)
        name, reference, language = (value[field] for field in ("recording_id", "reference", "language"))
        return RecordingFields(
            recording_id=as_name(name),
            reference=None if reference is None else as_text(reference),
            duration_s=_seconds(value["duration_s"], ignored),
            language=language if isinstance(language, str) and language else None,  # a number is a class of some list
            metadata=metadata,
        )


def _seconds(value: Any, ignored: Counter[str]) -> float | None:
    try:
        return as_seconds(value)
    except (TypeError, ValueError, OverflowError):
        ignored["duration that is none"] += 1
        return None
