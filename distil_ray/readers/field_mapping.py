"""Extracts a recording's fields from what is stored with its audio: other cells of a table row, or JSON in a shard.

The field names are those of manifests, and ``input.columns`` applies to them as it does to manifests. There are two
differences: these fields do not say where the audio is, and a wrong value, or a name that the data does not have, is
counted and the recording transcribed without it, because the audio itself is there.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distil_ray.config import ColumnsConfig
from distil_ray.readers.columns import (
    COLUMNS,
    SPEAKER,
    cell_to_id,
    cell_to_text,
    configured_columns,
    parse_seconds,
    split_fields,
)

_FIELDS = ("recording_id", "reference", "duration_s", "language", "call_id")


@dataclass(frozen=True, slots=True)
class RecordingFields:
    """The fields of one recording; None where there is no usable value."""

    recording_id: str | None
    reference: str | None
    duration_s: float | None
    language: str | None
    call_id: str | None
    metadata: dict[str, str]  # all other scalars, as text


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Maps names in the data to fields of a recording; all other names are metadata.

    Attributes:
        names: For each field, the names that it may have, in order of preference.
        speaker: Name of the field with the speaker.
        configured: The names that ``input.columns`` sets, by their settings.
    """

    names: Mapping[str, tuple[str, ...]]
    speaker: str
    configured: Mapping[str, str]

    @classmethod
    def from_config(cls, config: ColumnsConfig, recording_id: tuple[str, ...] = COLUMNS["recording_id"]) -> Self:
        """Returns the mapping for the settings.

        Args:
            config: ``input.columns``.
            recording_id: Names that may hold the id, unless ``input.columns.recording_id`` is set.
        """
        configured = configured_columns(config)
        defaults = COLUMNS | {"recording_id": recording_id}
        names = {field: (configured[field],) if field in configured else defaults[field] for field in _FIELDS}
        used = {field: name for field, name in configured.items() if field in (*_FIELDS, SPEAKER)}
        return cls(names, configured.get(SPEAKER, SPEAKER), used)

    def extract(self, row: Mapping[str, Any], ignored: Counter[str]) -> RecordingFields:
        """Returns the fields of one recording. Counts wrong values and missing configured names in `ignored`."""
        for field, name in self.configured.items():
            if name not in row:
                ignored[f"no {name}, as input.columns.{field} names it"] += 1
        _, values, metadata = split_fields(row, self.names, self.speaker)
        recording_id, reference, language = (values[field] for field in ("recording_id", "reference", "language"))
        return RecordingFields(
            recording_id=cell_to_id(recording_id),
            reference=None if reference is None else cell_to_text(reference),
            duration_s=_parse_seconds(values["duration_s"], ignored),
            language=language if isinstance(language, str) and language else None,  # a number is a class index
            call_id=cell_to_id(values["call_id"]),
            metadata=metadata,
        )


def _parse_seconds(value: Any, ignored: Counter[str]) -> float | None:
    try:
        return parse_seconds(value)
    except (TypeError, ValueError, OverflowError):
        ignored["invalid duration"] += 1
        return None
