"""What a data set holds already: it is its own ledger, as the transcripts are theirs.

An utterance is settled if it stands in an example or, for good, among the rejected. Its source names the recording in
one version of its file and of the settings that transcribed it, so a transcript that has been replaced is another
source, and what the old one gave is dropped; so is one that failed and, tried again, did not. What is missing, for
whatever reason, is planned by the next build: a file that somebody deletes comes back. Read is one small column of
every file, never audio.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distil_ray.errors import RunError
from distil_ray.output.ledger import FINAL, KEY_BYTES, Ledger, isin_sorted, list_data_files
from distil_ray.output.ledger_rows import Rows
from distil_ray.pseudo_labels.dataset_schema import DATA, EXAMPLE, REJECTED_FOLDER, SETTINGS_KEY
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

UNHEARD = "audio"  # begins the names of files with what the next build tries again
HEX = np.dtype(f"S{2 * KEY_BYTES}")
Sources = NDArray[np.bytes_]  # of `HEX`


def sources_of(ledger: Ledger, rows: Rows) -> Sources:
    """The keys of some of a ledger's rows as words, shape (num_rows,).

    What `retry_failed` does again keeps its key when it turns out well, so a row that is not settled has another word.
    """
    graded = zip(ledger.keys[rows].tolist(), ledger.grades[rows].tolist(), strict=True)
    return np.array([_word(key.ljust(KEY_BYTES, b"\0"), grade) for key, grade in graded], HEX)


def _word(key: bytes, grade: int) -> str:
    if grade == FINAL:
        return key.hex()
    return hashlib.blake2b(key + bytes([grade]), digest_size=KEY_BYTES).hexdigest()


def name_of(source: str, index: int, count: int) -> str:
    """An utterance in one word: its source, the number of its chunk, and how many chunks there are."""
    return f"{source}-{index}-{count}"


@dataclass(frozen=True, slots=True)
class HeldFile:
    """`names`: of each row the utterances that it holds, those to be tried again left out. `is_older`: a file of
    examples that lacks columns which were added since it was made."""

    uri: str
    settings: str
    names: tuple[tuple[str, ...], ...]
    is_data: bool
    is_older: bool

    @property
    def sources(self) -> Sources:
        return np.array([name.partition("-")[0] for row in self.names for name in row], HEX)


@dataclass(frozen=True, slots=True)
class Held:
    """`settled`: the sources that are done with, sorted; `begun`: of others the chunks that are there."""

    files: tuple[HeldFile, ...]
    settled: Sources
    begun: dict[str, frozenset[int]]

    @classmethod
    def read(cls, dataset_uri: str, storage: Storage, passed_over: Collection[str] = ()) -> "Held":
        """All but some files, given by their URIs. Raises `RunError` for a file that cannot be read."""
        uris = [(join(dataset_uri, DATA), True), (join(dataset_uri, REJECTED_FOLDER), False)]
        found = [(uri, is_data) for folder, is_data in uris for uri in list_data_files(folder, storage)]
        found = [one for one in found if one[0] not in passed_over]
        files = tuple(
            ordered_parallel_map(lambda one: read_held(*one, storage), found, num_request_threads(dataset_uri))
        )
        begun: dict[str, set[int]] = {}
        settled: list[str] = []
        for name in chain.from_iterable(chain.from_iterable(one.names) for one in files):
            source, index, count = name.split("-")
            indices = begun.setdefault(source, set())
            indices.add(int(index))
            if len(indices) == int(count):
                settled.append(source)
                del begun[source]
        return cls(files, np.unique(np.array(settled, HEX)), {key: frozenset(some) for key, some in begun.items()})

    @property
    def num_examples(self) -> int:
        return sum(len(one.names) for one in self.files if one.is_data)

    def wants(self, name: str) -> bool:
        """Whether an utterance of a source that is not settled is missing."""
        source, index, _ = name.split("-")
        return int(index) not in self.begun.get(source, ())


def drop_stale(held: Held, standing: Sources, storage: Storage) -> int:
    """Takes out of the data set what comes from sources that do not stand any more; gives how many rows.

    What else an example held is missing then, and is planned again.
    """
    dropped = 0
    current = np.sort(standing)
    for one in held.files:
        rows = np.repeat(np.arange(len(one.names)), [len(row) for row in one.names])
        goes = np.isin(np.arange(len(one.names)), rows[~isin_sorted(one.sources, current)])
        if goes.any():
            _rewrite(one.uri, ~goes, storage)
            dropped += int(goes.sum())
    return dropped


def splits_held(dataset_uri: str, storage: Storage) -> set[str]:
    """The splits of which the data set has a file, by the files' names."""
    return {split_named(uri) for uri in list_data_files(join(dataset_uri, DATA), storage)}


def split_named(uri: str) -> str:
    """The split of a file of examples, by its name."""
    return uri.rsplit("/", 1)[-1].partition("-")[0]


def complete_columns(held: Held, storage: Storage) -> int:
    """Adds to older files of examples the columns that they lack, with nulls; returns the number of these files.

    All examples of a data set have the same columns: `datasets` refuses files that differ.
    """
    older = [one.uri for one in held.files if one.is_older]
    for uri in older:
        _complete(uri, storage)
    return len(older)


def digest_of(settings: str, names: str) -> str:
    """The hash in the names of a data set's files: of the settings that make one, and of the utterances in it.

    Files of other settings may stand beside those that take their place.
    """
    return hashlib.blake2b(f"{settings}\n{names}".encode(), digest_size=12).hexdigest()


def rejected_uri(dataset_uri: str, settings: str, names: Iterable[str], kind: str) -> str:
    """A file of rejected utterances, named after them."""
    digest = digest_of(settings, " ".join(sorted(names)))
    return join(dataset_uri, REJECTED_FOLDER, f"{kind}-{digest}.parquet")


def is_unheard(uri: str) -> bool:
    return uri.rsplit("/", 1)[-1].startswith(f"{UNHEARD}-")


def rejected_bytes(table: pa.Table, settings: str) -> bytes:
    return to_parquet_bytes(table.replace_schema_metadata({SETTINGS_KEY: settings}))


def read_held(uri: str, is_data: bool, storage: Storage) -> HeldFile:
    """What a file of examples (or of a plan of such), or one of rejected utterances, holds. Raises `RunError`."""
    column = "utterance_sources" if is_data else "utterance_source"
    try:
        with storage.open(uri) as file:
            parquet = pq.ParquetFile(file)
            rows = parquet.read(columns=[column] if is_data else [column, "is_final"]).to_pylist()
            settings = (parquet.schema_arrow.metadata or {}).get(SETTINGS_KEY, b"").decode()
            is_older = is_data and not set(EXAMPLE.names) <= set(parquet.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{uri}: cannot be read as a part of the data set ({reason}). Delete it: the next build makes what it held"
        ) from error
    names = (tuple(row[column]) if is_data else (row[column],) if row["is_final"] else () for row in rows)
    return HeldFile(uri, settings, tuple(names), is_data, is_older)


def _rewrite(uri: str, stays: NDArray[np.bool_], storage: Storage) -> None:
    """A file without some of its rows, in one piece; one row group at a time in memory. Deleted if nothing is left."""
    if not stays.any():
        storage.delete(uri)
        return
    with storage.open(uri) as source, storage.create(uri) as sink:
        parquet = pq.ParquetFile(source)
        with pq.ParquetWriter(sink, parquet.schema_arrow, compression="zstd", write_page_checksum=True) as writer:
            begin = 0
            for number in range(parquet.num_row_groups):
                group = parquet.read_row_group(number)
                mine = group.filter(pa.array(stays[begin : begin + group.num_rows]))
                if mine.num_rows:
                    writer.write_table(mine)
                begin += group.num_rows


def _complete(uri: str, storage: Storage) -> None:
    """Writes a file of examples anew with all columns of `EXAMPLE`; one row group at a time in memory."""
    with storage.open(uri) as source, storage.create(uri) as sink:
        parquet = pq.ParquetFile(source)
        schema = EXAMPLE.with_metadata(parquet.schema_arrow.metadata)
        with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
            for number in range(parquet.num_row_groups):
                group = parquet.read_row_group(number)
                for column in schema:
                    if column.name not in group.column_names:
                        group = group.append_column(column, pa.nulls(group.num_rows, column.type))
                writer.write_table(group.select(schema.names))
