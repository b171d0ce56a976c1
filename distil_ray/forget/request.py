"""A request to forget recordings: who they are and where their traces are, until nothing of them is left.

    OUTPUT/forgotten/<request>.pending.json    the request, stored before anything is removed and deleted at its end

The record that stays names nobody: see `output/forgotten.py`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from distil_ray.output.forgotten import (
    FORGOTTEN_FOLDER,
    PENDING,
    RECORD,
    Hash,
    damaged_request,
    padded_id_keys,
    write_hashes,
)
from distil_ray.output.ledger import Keys, id_keys
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

_START = re.compile(r"@\d+\.\d{3}\Z")  # behind the id of a recording, in that of an utterance


@dataclass(frozen=True)
class Request:
    """A request with everything that its steps need to know.

    Attributes:
        request_id: Name of its files; sorts by time.
        requested_at: ISO 8601, UTC.
        ids: Ids of the recordings.
        uris: URIs of the files that hold one of them and no other recording.
        sources: `source_key` of each recording, hexadecimal, and the id of the recording; "" if no row has it.
        label_sources: Source keys of their rows in a data set (`existing_dataset.source_keys`).
        examples: Ids of the examples of the data set that they are in.
        call_ids: Ids of the calls that they are a part of.
        members: Archive members that they are.
        is_in_table: One of them is a row of a table.
        groups: Names and values of their metadata.
        exports: Folders of exports.
        rows_by_fingerprint: Their rows in the transcripts.
        removed: What there is to remove, by place.
    """

    request_id: str
    requested_at: str
    ids: Sequence[str]
    uris: Sequence[str]
    sources: Mapping[str, str]
    label_sources: Sequence[str] = ()
    examples: Sequence[str] = ()
    call_ids: Sequence[str] = ()
    members: Sequence[str] = ()
    is_in_table: bool = False
    groups: Sequence[Sequence[str]] = ()
    exports: Sequence[str] = ()
    rows_by_fingerprint: Mapping[str, int] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def id_set(self) -> frozenset[str]:
        """The ids, for look-ups."""
        return frozenset(self.ids)

    @cached_property
    def id_keys(self) -> Keys:
        """`ledger.id_keys` of the ids, sorted."""
        return np.sort(id_keys(self.ids))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Ids and URIs by which messages and pages name the recordings, the longest first."""
        return tuple(sorted({*self.ids, *self.uris} - {""}, key=lambda name: (-len(name), name)))

    def has_utterance(self, utterance_id: str) -> bool:
        """Returns whether an utterance of a data set is of one of the recordings."""
        return utterance_id in self.id_set or _START.sub("", utterance_id) in self.id_set

    def store(self, output_uri: str, storage: Storage) -> None:
        """Stores the request, so that a later call can finish it."""
        storage.put(_uri(output_uri, self.request_id, PENDING), json.dumps(asdict(self)).encode())

    def store_hashes(self, output_uri: str, storage: Storage) -> None:
        """Stores what keeps runs from transcribing the recordings again."""
        owners = padded_id_keys(self.sources.values())
        sources = [
            Hash("source", bytes.fromhex(key), owner if recording_id else None)
            for (key, recording_id), owner in zip(self.sources.items(), owners, strict=True)
        ]
        ids = [Hash("id", key, None) for key in padded_id_keys(self.ids)]
        write_hashes(_uri(output_uri, self.request_id, ".parquet"), [*ids, *sources], storage)

    def finish(self, record: Mapping[str, Any], output_uri: str, storage: Storage) -> None:
        """Stores the record, then deletes the request."""
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        storage.put(_uri(output_uri, self.request_id, RECORD), text.encode())
        storage.delete_file(_uri(output_uri, self.request_id, PENDING))


def read_request(request_id: str, output_uri: str, storage: Storage) -> Request:
    """Returns a stored request. Raises `RunError` if it is damaged."""
    uri = _uri(output_uri, request_id, PENDING)
    try:
        return Request(**json.loads(storage.read(uri)))
    except (ValueError, TypeError) as error:
        raise damaged_request(uri, error) from error


def _uri(output_uri: str, request_id: str, ending: str) -> str:
    return join(output_uri, FORGOTTEN_FOLDER, f"{request_id}{ending}")
