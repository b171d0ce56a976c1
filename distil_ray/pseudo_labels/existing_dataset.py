"""The contents of an existing data set, which is its own ledger.

An utterance is settled if it is in an example or, finally, among the rejected rows. Its source key identifies the
recording, the version of its file and the settings that transcribed it. A replaced transcript has another key, so the
rows of the old one are removed; the same holds for a recording that failed and succeeded when retried. Everything that
is missing, for any reason, is planned by the next build, so a deleted file comes back. Only one small column of each
file is read, never audio.
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
from distil_ray.schema import open_parquet, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

AUDIO_MISSING = "audio"  # file name prefix: utterances whose audio could not be read; the next build retries them
HEX = np.dtype(f"S{2 * KEY_BYTES}")
SourceKeys = NDArray[np.bytes_]  # of `HEX`


def source_keys(ledger: Ledger, rows: Rows) -> SourceKeys:
    """Returns hexadecimal keys of some of a ledger's rows, shape (num_rows,).

    A recording that `retry_failed` retries keeps its ledger key, so the key of a row that is not final is hashed with
    its grade.
    """
    graded = zip(ledger.keys[rows].tolist(), ledger.grades[rows].tolist(), strict=True)
    return np.array([_word(key.ljust(KEY_BYTES, b"\0"), grade) for key, grade in graded], HEX)


def _word(key: bytes, grade: int) -> str:
    if grade == FINAL:
        return key.hex()
    return hashlib.blake2b(key + bytes([grade]), digest_size=KEY_BYTES).hexdigest()


def format_utterance_source(source: str, index: int, count: int) -> str:
    """Returns the id of an utterance: its source key, the index of its chunk and the number of chunks."""
    return f"{source}-{index}-{count}"


@dataclass(frozen=True, slots=True)
class DatasetFile:
    """A Parquet file of the data set.

    `settings`: those that made it, as JSON; ``{}`` if the file does not state them, as after a rewrite by another
    program. `names`: the utterances of each row, without those that are to be retried, which are `unread`. `is_older`:
    a file of examples that lacks columns which were added later.
    """

    uri: str
    settings: str
    names: tuple[tuple[str, ...], ...]
    is_data: bool
    is_older: bool
    unread: tuple[str, ...] = ()

    @property
    def sources(self) -> SourceKeys:
        return np.array([name.partition("-")[0] for row in self.names for name in row], HEX)


@dataclass(frozen=True, slots=True)
class ExistingDataset:
    """The files of a data set. `settled`: the complete source keys, sorted; `begun`: the chunks of the others."""

    files: tuple[DatasetFile, ...]
    settled: SourceKeys
    begun: dict[str, frozenset[int]]

    @classmethod
    def read(cls, dataset_uri: str, storage: Storage, excluded: Collection[str] = ()) -> "ExistingDataset":
        """Reads all files except those in `excluded` (URIs). Raises `RunError` for a file that cannot be read."""
        uris = [(join(dataset_uri, DATA), True), (join(dataset_uri, REJECTED_FOLDER), False)]
        found = [(uri, is_data) for folder, is_data in uris for uri in list_data_files(folder, storage)]
        found = [one for one in found if one[0] not in excluded]
        files = tuple(
            ordered_parallel_map(lambda one: read_dataset_file(*one, storage), found, num_request_threads(dataset_uri))
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

    @property
    def unread(self) -> frozenset[str]:
        """The utterances of examples whose audio could not be read."""
        return frozenset(chain.from_iterable(one.unread for one in self.files))

    def wants(self, name: str) -> bool:
        """True if an utterance of a source that is not settled is missing."""
        source, index, _ = name.split("-")
        return int(index) not in self.begun.get(source, ())


def remove_stale_rows(existing: ExistingDataset, current_sources: SourceKeys, storage: Storage) -> int:
    """Removes the rows whose source is no longer current, and returns their number.

    The other utterances of a removed example are missing then, and are planned again.
    """
    dropped = 0
    current = np.sort(current_sources)
    for one in existing.files:
        rows = np.repeat(np.arange(len(one.names)), [len(row) for row in one.names])
        goes = np.isin(np.arange(len(one.names)), rows[~isin_sorted(one.sources, current)])
        if goes.any():
            _rewrite(one.uri, ~goes, storage)
            dropped += int(goes.sum())
    return dropped


def list_existing_splits(dataset_uri: str, storage: Storage) -> set[str]:
    """Returns the splits of which the data set has a file, by the names of the files."""
    return {split_from_file_name(uri) for uri in list_data_files(join(dataset_uri, DATA), storage)}


def split_from_file_name(uri: str) -> str:
    """Returns the split of a file of examples, by its name."""
    return uri.rsplit("/", 1)[-1].partition("-")[0]


def add_missing_columns(existing: ExistingDataset, storage: Storage) -> int:
    """Adds to older files of examples the columns that they lack, with nulls; returns the number of these files.

    All examples of a data set have the same columns: `datasets` refuses files that differ.
    """
    older = [one.uri for one in existing.files if one.is_older]
    for uri in older:
        _add_columns(uri, storage)
    return len(older)


def compute_digest(settings: str, names: str) -> str:
    """Returns the hash in a file name: of the settings that made the file, and of the utterances in it.

    Files made with other settings may exist beside those that replace them.
    """
    return hashlib.blake2b(f"{settings}\n{names}".encode(), digest_size=12).hexdigest()


def rejected_uri(dataset_uri: str, settings: str, names: Iterable[str], kind: str) -> str:
    """Returns the URI of a file of rejected utterances; its name is a hash of their names."""
    digest = compute_digest(settings, " ".join(sorted(names)))
    return join(dataset_uri, REJECTED_FOLDER, f"{kind}-{digest}.parquet")


def is_audio_missing_file(uri: str) -> bool:
    return uri.rsplit("/", 1)[-1].startswith(f"{AUDIO_MISSING}-")


def encode_rejected(table: pa.Table, settings: str) -> bytes:
    return to_parquet_bytes(table.replace_schema_metadata({SETTINGS_KEY: settings}))


def read_dataset_file(uri: str, is_data: bool, storage: Storage) -> DatasetFile:
    """Reads the utterance names of a file of examples, of a plan, or of rejected utterances. Raises `RunError`."""
    column = "utterance_sources" if is_data else "utterance_source"
    try:
        with storage.open(uri) as file:
            parquet = open_parquet(file)
            rows = parquet.read([column] if is_data else [column, "is_final"]).to_pylist()
            settings = (parquet.schema_arrow.metadata or {}).get(SETTINGS_KEY, b"{}").decode()
            is_older = is_data and not set(EXAMPLE.names) <= set(parquet.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{uri}: cannot be read as a part of the data set ({reason}). Delete it: the next build restores its rows"
        ) from error
    names = (tuple(row[column]) if is_data else (row[column],) if row["is_final"] else () for row in rows)
    unread = () if is_data else (row[column] for row in rows if not row["is_final"])
    return DatasetFile(uri, settings, tuple(names), is_data, is_older, tuple(unread))


def _rewrite(uri: str, stays: NDArray[np.bool_], storage: Storage) -> None:
    """Rewrites a file without some of its rows, one row group in memory at a time; deletes it if none is left."""
    if not stays.any():
        storage.delete(uri)
        return
    with storage.open(uri) as source, storage.create(uri) as sink:
        parquet = open_parquet(source)
        with pq.ParquetWriter(sink, parquet.schema_arrow, compression="zstd", write_page_checksum=True) as writer:
            begin = 0
            for number in range(parquet.num_row_groups):
                group = parquet.read_row_group(number)
                mine = group.filter(pa.array(stays[begin : begin + group.num_rows]))
                if mine.num_rows:
                    writer.write_table(mine)
                begin += group.num_rows


def _add_columns(uri: str, storage: Storage) -> None:
    """Rewrites a file of examples with all columns of `EXAMPLE`, one row group in memory at a time."""
    with storage.open(uri) as source, storage.create(uri) as sink:
        parquet = open_parquet(source)
        schema = EXAMPLE.with_metadata(parquet.schema_arrow.metadata)
        with pq.ParquetWriter(sink, schema, compression="zstd", write_page_checksum=True) as writer:
            for number in range(parquet.num_row_groups):
                group = parquet.read_row_group(number)
                for column in schema:
                    if column.name not in group.column_names:
                        group = group.append_column(column, pa.nulls(group.num_rows, column.type))
                writer.write_table(group.select(schema.names))
