"""Recordings that were removed from an output on request, as hashes: runs do not transcribe them again.

    OUTPUT/forgotten/<request>.parquet         hashes of the ids and of the sources of the recordings
    OUTPUT/forgotten/<request>.json            the record: when, how many rows, from where; no id, URI or text
    OUTPUT/forgotten/<request>.pending.json    ids and URIs, while the request is not finished

A listed recording is forgotten if its id, or its URI with its place in the file, has one of the hashes, whatever the
version of its audio. The hash of a source comes with that of its recording's id, so that both can be allowed again. A
hash does not give the id back, but whoever can guess an id can compare it.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.errors import RunError
from distil_ray.output.ledger import KEY, KEY_BYTES, Keys, id_keys, isin_sorted
from distil_ray.redaction import environment_secrets, redact
from distil_ray.schema import open_parquet, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError
from distil_ray.storage.uris import join
from distil_ray.types import Recording

FORGOTTEN_FOLDER = "forgotten"  # below the output
PENDING = ".pending.json"
RECORD = ".json"
BATCH_ROWS = 16_384  # recordings taken from a listing at once

# "recording" of a source: the hash of the id that has it; null if no row had it, and in files of earlier versions.
_HASHES = pa.schema([("kind", pa.string()), ("hash", pa.binary(KEY_BYTES)), ("recording", pa.binary(KEY_BYTES))])
_PLACE = ("member", "row_group", "row", "start_s", "length_s", "channel")  # fields of a location that name a recording


def source_key(uri: str, location: Mapping[str, Any] | None) -> bytes:
    """Returns the hash of a recording's source.

    Args:
        uri: URI of the file, without credentials.
        location: Fields of its `AudioLocation`; None for a whole file. Where the bytes of a member lie does not count.
    """
    place = tuple((location or {}).get(name) for name in _PLACE)
    return hashlib.blake2b(ascii((uri, place)).encode(), digest_size=KEY_BYTES).digest()


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The hashes of an output.

    Attributes:
        ids: `id_keys` of the recordings, sorted.
        sources: Their `source_key`, sorted.
        pending: Names of the requests that are not finished.
    """

    ids: Keys
    sources: Keys
    pending: tuple[str, ...]

    @classmethod
    def read(cls, output_uri: str, storage: Storage) -> "Forgotten":
        """Returns the hashes of all requests, those included that ended before they had stored their hashes.

        Raises:
            RunError: A file is damaged: its recordings would come back.
        """
        uris = [entry.uri for entry in storage.list_files(join(output_uri, FORGOTTEN_FOLDER))]
        hashes: dict[str, list[bytes]] = {"id": [], "source": []}
        for uri in uris:
            if uri.endswith(".parquet"):
                for each in _read_hashes(uri, storage):
                    hashes[each.kind].append(each.value)
            elif uri.endswith(PENDING):
                pending_ids, pending_sources = _read_pending(uri, storage)
                hashes["id"] += pending_ids
                hashes["source"] += pending_sources
        ids, sources = (np.sort(np.array(values, KEY)) for values in hashes.values())
        pending = (uri.rsplit("/", 1)[-1].removesuffix(PENDING) for uri in uris if uri.endswith(PENDING))
        return cls(ids, sources, tuple(pending))

    def mask(self, recordings: Sequence[Recording]) -> NDArray[np.bool_]:
        """Returns which of the listed recordings are forgotten, shape (len(recordings),)."""
        if not len(self.ids) and not len(self.sources):
            return np.zeros(len(recordings), np.bool_)
        secrets = environment_secrets()
        places = (None if one.location is None else asdict(one.location) for one in recordings)
        uris = (redact(one.uri, secrets) for one in recordings)
        sources = [source_key(uri, place) for uri, place in zip(uris, places, strict=True)]
        known = isin_sorted(np.array(sources, KEY), self.sources)
        return known | isin_sorted(id_keys([one.recording_id for one in recordings]), self.ids)


class Remembered:
    """A listing without the forgotten recordings, a stream. `num_forgotten` counts those that were left out."""

    def __init__(self, listing: Iterable[Recording], forgotten: Forgotten) -> None:
        self.num_forgotten = 0
        self._listing, self._forgotten = listing, forgotten

    def __iter__(self) -> Iterator[Recording]:
        stream = iter(self._listing)
        while batch := list(islice(stream, BATCH_ROWS)):
            gone = self._forgotten.mask(batch)
            self.num_forgotten += int(gone.sum())
            yield from (one for one, is_gone in zip(batch, gone.tolist(), strict=True) if not is_gone)


class Hash(NamedTuple):
    """A hash in a file: `kind` is "id" or "source"; `recording` is the hash of the id that a source belongs to."""

    kind: str
    value: bytes
    recording: bytes | None


def padded_id_keys(ids: Iterable[str]) -> list[bytes]:
    """Returns `id_keys` of the ids as bytes of equal length, in order: numpy drops zeros at the end."""
    return [bytes(key).ljust(KEY_BYTES, b"\0") for key in id_keys(list(ids)).tolist()]


def write_hashes(uri: str, hashes: Sequence[Hash], storage: Storage) -> None:
    """Writes a file of hashes, or deletes it if there are none."""
    if hashes:
        columns = zip(*hashes, strict=True)
        storage.put(uri, to_parquet_bytes(pa.table([list(column) for column in columns], schema=_HASHES)))
    else:
        storage.delete_file(uri)


def allow_again(names: Collection[str] | None, output_uri: str, storage: Storage) -> tuple[int, int]:
    """Removes hashes, so that their recordings are transcribed again.

    Args:
        names: Ids and URIs without credentials of recordings; None: all that were forgotten.
        output_uri: The output.
        storage: Storage of the output.

    Returns:
        The numbers of ids and of sources.
    """
    ids = set(padded_id_keys(names or ()))
    sources = {source_key(name, None) for name in names or ()}
    removed = Counter[str]()
    for entry in list(storage.list_files(join(output_uri, FORGOTTEN_FOLDER))):
        if not entry.uri.endswith(".parquet"):
            continue
        found = _read_hashes(entry.uri, storage)
        # Whoever names a recording by its id or by its URI means both: each of them alone would keep it away.
        own = ids | ({each.recording for each in found if each.value in sources} - {None})
        allowed = [
            names is None
            or (each.value in own if each.kind == "id" else each.value in sources or each.recording in own)
            for each in found
        ]
        if any(allowed):
            removed.update(each.kind for each, is_allowed in zip(found, allowed, strict=True) if is_allowed)
            write_hashes(entry.uri, [each for each, gone in zip(found, allowed, strict=True) if not gone], storage)
    return removed["id"], removed["source"]


def rows_forgotten_since(moment: datetime, output_uri: str, storage: Storage) -> Counter[str]:
    """Returns the number of rows that requests after `moment` have removed, by fingerprint."""
    total = Counter[str]()
    for entry in storage.list_files(join(output_uri, FORGOTTEN_FOLDER)):
        if entry.uri.endswith(RECORD):
            record = json.loads(storage.read(entry.uri))
            if datetime.fromisoformat(record["requested_at"]) >= moment:
                total.update(record["rows_by_fingerprint"])
    return total


def _read_hashes(uri: str, storage: Storage) -> list[Hash]:
    try:
        table = open_parquet(io.BytesIO(storage.read(uri))).read()
    except (pa.ArrowException, OSError) as error:
        raise RunError(
            f"{uri}: cannot be read as Parquet ({' '.join(str(error).split())[:300]}). Its recordings would be"
            " transcribed again: restore it, or delete it if they may be"
        ) from error
    columns = [table[name].to_pylist() if name in table.column_names else [None] * len(table) for name in _HASHES.names]
    return [Hash(*row) for row in zip(*columns, strict=True)]


def damaged_request(uri: str, error: Exception) -> RunError:
    """Returns the error for a stored request that cannot be read."""
    return RunError(f"{uri}: is damaged ({error}). Delete it, and name the recordings of that request again")


def _read_pending(uri: str, storage: Storage) -> tuple[list[bytes], list[bytes]]:
    """Returns the hashes of the ids and of the sources of a request that is not finished."""
    try:
        request = json.loads(storage.read(uri))
        return padded_id_keys(request["ids"]), [bytes.fromhex(key) for key in request["sources"]]
    except MissingError:  # finished since it was listed
        return [], []
    except (ValueError, TypeError, KeyError) as error:
        raise damaged_request(uri, error) from error
