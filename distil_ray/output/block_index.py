"""An index of the files of transcripts: something derived from each of many files, in few files.

    OUTPUT/<folder>/<hash>.parquet    one row per file of transcripts: its path, size and version, and what was derived

The output stays the truth. An entry of an index counts only for a file that is listed with the same size and version
(the etag, or the modification time), and spares reading that file. What the index lacks, or has of another version, is
read itself. An index file that is damaged, of a later version or gone is passed over. So the folder may be deleted at
any time; later runs write it again.

An index file is named after its content and stored only if absent. Runs add files at their end, while they hold the
lease. What a run adds is merged with files that are not much larger, so that few are left. The new file names those
that it replaces; readers pass over these, and a later run removes them `GRACE_S` after.

`ledger_index.py` keeps the ledger's columns in one, `evaluation/statistics_index.py` the columns of the summary.
"""

import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distil_ray.schema import open_parquet, to_parquet_bytes
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_remote, join

logger = logging.getLogger(__name__)

MIN_BLOCKS = 8  # files not in the index from which a run adds them; to read fewer costs no more than to write an index
MERGE_FACTOR = 4  # an index file is merged with smaller ones that have more than this part of its rows in all
GRACE_S = 24 * 3600.0  # until a replaced index file is removed: readers may have listed it
RACY_S = 2.0  # a local file that was modified so recently may change again within one tick of the file system's clock

_IDENTITY = [("path", pa.string()), ("size", pa.int64()), ("version", pa.string())]  # path: below transcripts/
_INFO_KEY = b"distil_ray.ledger_index"

Identities = dict[tuple[str, int | None, str | None], int]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class BlockIndex:
    """A kind of index.

    Attributes:
        folder: Its folder below the output.
        version: Increases when the meaning of a column changes.
        derived: What is derived from each file: names and types of columns.
        count_rows: Returns the rows of transcripts of each entry of a table, shape (len(table),).
        max_rows: Rows of transcripts in an index file; more only in one block.
    """

    folder: str
    version: int
    derived: tuple[tuple[str, pa.DataType], ...]
    count_rows: Callable[[pa.Table], Rows]
    max_rows: int

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*_IDENTITY, *self.derived])

    def read(self, entries: Sequence[Entry], output_uri: str, storage: Storage) -> Iterator[tuple[pa.Table, Rows]]:
        """Yields entries of the index for listed files in their current version, each file once.

        Tables have the columns of `schema`; the second array has the number of the file of each row in `entries`.
        """
        if not entries:
            return
        try:
            files, _ = self._load_current(output_uri, storage)
        except StorageError as error:
            logger.warning("%s/ could not be read: %s", self.folder, error)
            return
        missing = _identities(entries, output_uri)
        for file in files:
            numbers = _take(file.table, missing)
            found = np.flatnonzero(numbers >= 0)
            if len(found):
                yield file.table.take(pa.array(found)), numbers[found]

    def match(
        self, tables: Iterable[pa.Table], entries: Sequence[Entry], is_left: NDArray[np.bool_], output_uri: str
    ) -> Iterator[tuple[pa.Table, Rows]]:
        """Yields, like `read`, the entries in `tables` for listed files in their current version.

        Args:
            tables: Entries; columns beside those of `schema` are ignored.
            entries: The listed files.
            is_left: Which of them are wanted, shape (len(entries),).
            output_uri: Normalized URI of the output.
        """
        missing = {key: number for key, number in _identities(entries, output_uri).items() if is_left[number]}
        for table in tables:
            numbers = _take(table, missing)
            found = np.flatnonzero(numbers >= 0)
            if len(found):
                yield table.select(self.schema.names).take(pa.array(found)), numbers[found]

    def add(self, added: pa.Table, entries: Sequence[Entry], output_uri: str, storage: Storage) -> None:
        """Adds entries (a table of `schema`); merges small index files and removes replaced ones.

        Only for the holder of the lease. Errors of the storage are logged: an index only saves time.
        """
        try:
            self._add(added, entries, output_uri, storage)
        except StorageError as error:
            logger.warning("%s/ could not be written: %s", self.folder, error)

    def drop(self, find: Callable[[pa.Table], NDArray[np.bool_]], output_uri: str, storage: Storage) -> int:
        """Removes entries by their rows, of outdated index files too. Only for the holder of the lease.

        Args:
            find: Tells for each row of the entries of a table, one entry after the other, whether its entry goes.
            output_uri: The output.
            storage: Storage of the output.

        Returns:
            The number of entries.
        """
        dropped = 0
        for file in self.load_all(output_uri, storage):
            numbers = np.arange(file.table.num_rows)
            parents = np.repeat(numbers, self.count_rows(file.table))
            chosen = pa.array(np.isin(numbers, parents[find(file.table)]))
            if count := int(pc.sum(chosen).as_py() or 0):
                dropped += count
                kept = file.table.filter(pc.invert(chosen))
                if kept.num_rows:
                    self._put(kept, {**file.replaces, file.name: time.time()}, output_uri, storage)
                storage.delete_file(file.entry.uri)
        return dropped

    def load_all(self, output_uri: str, storage: Storage) -> list["IndexFile"]:
        """Returns the valid index files, also replaced ones, by name."""
        listed = storage.list_files(join(output_uri, self.folder))
        return [file for entry in listed if (file := self._load(entry, storage)) is not None]

    def _load_current(self, output_uri: str, storage: Storage) -> tuple[list["IndexFile"], set[str]]:
        """Returns the valid index files that no other one replaces, and the names of all listed files.

        The newest are read first, so that most of the replaced ones are not read at all.
        """
        listed = list(storage.list_files(join(output_uri, self.folder)))
        files: list[IndexFile] = []
        replaced: set[str] = set()
        for entry in sorted(listed, key=lambda entry: entry.modified or 0.0, reverse=True):
            if _name(entry) not in replaced and (file := self._load(entry, storage)) is not None:
                files.append(file)
                replaced |= file.replaces.keys()
        return [file for file in files if file.name not in replaced], set(map(_name, listed))

    def _load(self, entry: Entry, storage: Storage) -> "IndexFile | None":
        """Returns an index file; None if it is no complete index of this version. Its name proves its content."""
        try:
            data = storage.read(entry.uri)
            if _name(entry) != content_name(data):
                return None
            table = open_parquet(io.BytesIO(data)).read()
            info = json.loads((table.schema.metadata or {}).get(_INFO_KEY, b"{}"))
            if info.get("version") != self.version or not table.schema.equals(self.schema, check_metadata=False):
                return None
            return IndexFile(entry, table, dict(info["replaces"]))
        except (StorageError, pa.ArrowException, OSError, ValueError):
            return None

    def _add(self, added: pa.Table, entries: Sequence[Entry], output_uri: str, storage: Storage) -> None:
        stored, names = self._load_current(output_uri, storage)
        now = time.time()
        for file in stored:
            for name, since in file.replaces.items():
                if name in names and since < now - GRACE_S:
                    storage.delete_file(join(output_uri, self.folder, name))
                    names.remove(name)
        merged = self._choose_merged(stored, int(self.count_rows(added).sum()))
        missing = _identities(entries, output_uri)
        _take(added, missing)
        current = [file.table.filter(pa.array(_take(file.table, missing) >= 0)) for file in merged]
        replaces = {name: since for file in merged for name, since in file.replaces.items() if name in names}
        replaces |= {file.name: now for file in merged}
        parts = list(self._split(pa.concat_tables([added, *current])))
        for number, part in enumerate(parts, 1):
            # Named in the last part only: a run that ends before it has replaced nothing.
            self._put(part, replaces if number == len(parts) else {}, output_uri, storage)

    def _choose_merged(self, stored: Sequence["IndexFile"], num_rows: int) -> list["IndexFile"]:
        """Returns the files that are merged with `num_rows` new rows.

        Of those that are left each is more than `MERGE_FACTOR` times as large as the next smaller one, up to half of
        `max_rows`. Their number grows with the logarithm of that.
        """
        sizes = sorted(((int(self.count_rows(file.table).sum()), file) for file in stored), key=lambda pair: pair[0])
        merged = []
        for size, file in sizes:
            if size >= self.max_rows // 2 or size > MERGE_FACTOR * num_rows:
                break
            merged.append(file)
            num_rows += size
        return merged

    def _split(self, table: pa.Table) -> Iterator[pa.Table]:
        """Yields parts of at most `max_rows` rows of transcripts, or of one file of transcripts."""
        ends = np.cumsum(self.count_rows(table))
        begin, before = 0, 0
        while begin < table.num_rows:
            end = max(int(np.searchsorted(ends, before + self.max_rows, side="right")), begin + 1)
            yield table.slice(begin, end - begin)
            begin, before = end, int(ends[end - 1])

    def _put(self, table: pa.Table, replaces: Mapping[str, float], output_uri: str, storage: Storage) -> None:
        info = json.dumps({"version": self.version, "replaces": replaces}, sort_keys=True).encode()
        data = to_parquet_bytes(table.replace_schema_metadata({_INFO_KEY: info}))
        storage.put_if_absent(join(output_uri, self.folder, content_name(data)), data)


@dataclass(frozen=True, slots=True)
class IndexFile:
    """A valid index file, and since when (seconds since the epoch) it replaces which others, by name."""

    entry: Entry
    table: pa.Table
    replaces: Mapping[str, float]

    @property
    def name(self) -> str:
        return _name(self.entry)


def _name(entry: Entry) -> str:
    return entry.uri.rsplit("/", 1)[-1]


def identity(entry: Entry, output_uri: str) -> dict[str, str | int | None]:
    """Returns the first columns of the entry of a file."""
    path = entry.uri.removeprefix(_prefix(output_uri))
    return {"path": path, "size": entry.size, "version": entry.version}


def may_index(entry: Entry) -> bool:
    """Returns whether a listed file may be added to an index now: it has a version that would change with it."""
    newest = time.time() - RACY_S
    return entry.version is not None and (is_remote(entry.uri) or (entry.modified or newest) < newest)


def content_name(data: bytes) -> str:
    """Returns the name of an index file, which proves its content."""
    return f"{hashlib.blake2b(data, digest_size=16).hexdigest()}.parquet"


def _identities(entries: Sequence[Entry], output_uri: str) -> Identities:
    """Returns the numbers of the files by what has to be equal; not of those without a version."""
    prefix = _prefix(output_uri)
    return {
        (entry.uri.removeprefix(prefix), entry.size, entry.version): number
        for number, entry in enumerate(entries)
        if entry.version is not None
    }


def _prefix(output_uri: str) -> str:
    return join(output_uri, "transcripts", "")  # ledger.TRANSCRIPTS; that module imports this one


def _take(table: pa.Table, missing: Identities) -> Rows:
    """Returns the number of the file of each row of an index, -1 for none; removes the found ones from `missing`."""
    identities = zip(*(table[name].to_pylist() for name, _ in _IDENTITY), strict=True)
    return np.array([missing.pop(found, -1) for found in identities], np.int64)
