"""The index of a tar shard, and the extraction of its members.

For a plain tar the index says where each member lies: a member is then fetched by a range request, and the members of
one shard can be spread over tasks. A compressed shard (gzip, bzip2, xz, zstd) is a stream: it is read from its start
for the index, and again by every task for that task's members.

Short text files beside the audio are stored in the index. `webdataset` makes recordings of it. A shard is never in
memory as a whole; its index is (some 200 bytes a member, plus the texts).

Damage does not hide good members: the index holds all good members, and one message for everything else.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind
from distil_ray.readers.archive_stream import ArchiveStream, open_archive
from distil_ray.readers.audio_formats import extension, is_utf8, plain_name
from distil_ray.readers.index_cache import attach_file_info, get_file_info
from distil_ray.readers.ordered_iteration import iter_in_order
from distil_ray.readers.references import MAX_REFERENCE_BYTES
from distil_ray.readers.tar_headers import Damage, SkippedMember, TarMember, iter_archive
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import Recording

EXTENSIONS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
TEXT_EXTENSIONS = (".txt", ".json", ".cls")  # members whose content is stored in the index
MAX_TEXTS_BYTES = 128 << 20  # of one shard
COPY_BYTES = 1 << 20

# `byte_start` is null in a compressed shard; `content` is null except for `TEXT_EXTENSIONS`. The file info holds
# `damage` (null, or [kind, message]) and `ignored` (counts by reason).
INDEX_SCHEMA = pa.schema(
    [("name", pa.string()), ("byte_start", pa.int64()), ("num_bytes", pa.int64()), ("content", pa.binary())]
)
_BATCH_ROWS = 4096  # rows collected before they become an Arrow batch


def is_tar_name(uri: str) -> bool:
    return plain_name(uri).endswith(EXTENSIONS)


def build_index(entry: Entry, storage: Storage) -> pa.Table:
    """Reads through a shard, skipping large members, and returns its index (`INDEX_SCHEMA`).

    Raises:
        StorageError: The shard cannot be read at all.
    """
    with open_archive(entry, storage) as stream:
        builder = _IndexBuilder(stream.is_seekable)
        for found in iter_archive(stream):
            if isinstance(found, TarMember):
                builder.add(found, stream)
            else:
                builder.note(found)
        return builder.finish()


def load_shard_info(index: pa.Table) -> tuple[tuple[ErrorKind, str] | None, dict[str, int]]:
    """Returns what an index says about its shard as a whole.

    Returns:
        The damage (error kind, message), None if there is none; and the numbers of ignored members by reason.
    """
    info = get_file_info(index)
    damage = info["damage"]
    return (ErrorKind(damage[0]), damage[1]) if damage else None, info["ignored"]


def extract_members(
    unit: Sequence[Recording], target: Path, file: Entry, storage: Storage
) -> Iterator[Path | StorageError]:
    """Extracts members of one shard, which is read as a stream once.

    Args:
        unit: Recordings that are members of one shard, in any order; a member may occur several times.
        target: Path whose name, with a suffix, the extracted files get. The caller removes them.
        file: The shard.
        storage: Where it lies.

    Yields:
        For each recording its file, or why it cannot be extracted.

    Raises:
        StorageError: The shard cannot be read, or lacks a member.
    """
    uri = unit[0].uri
    names = [recording.location.member if recording.location else None for recording in unit]
    with open_archive(file, storage) as stream:
        members = (found for found in iter_archive(stream) if isinstance(found, TarMember))
        writers = ((member.name, partial(_write_member, uri, member, stream)) for member in members)
        num_found = 0
        for result in iter_in_order(names, writers, target):
            yield result
            num_found += 1
        if num_found < len(names):
            message = f"{uri}: has no member {names[num_found]!a}{_format_fault(stream)}"
            raise StorageError(ErrorKind.NOT_FOUND, message)


class _IndexBuilder:
    """Collects the complete members of a shard."""

    def __init__(self, is_seekable: bool) -> None:
        self._is_seekable = is_seekable
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._texts_bytes = 0
        self._damages: list[Damage] = []
        self._ignored = Counter[str]()

    def add(self, member: TarMember, stream: ArchiveStream) -> None:
        """Adds a member; reads or skips its content."""
        content = None
        if self._is_stored_text(member):
            content = stream.read(member.size)
            is_complete = len(content) == member.size
            self._texts_bytes += len(content)
        else:
            is_complete = stream.skip(member.size) == member.size
        if not is_complete:  # `iter_archive` reports the damage
            return
        if not is_utf8(member.name):
            self._ignored["name not in UTF-8"] += 1  # Arrow and Parquet could not hold its id
            return
        byte_start = member.start if self._is_seekable else None
        self._rows.append({"name": member.name, "byte_start": byte_start, "num_bytes": member.size, "content": content})
        if len(self._rows) >= _BATCH_ROWS:
            self._flush()

    def note(self, found: SkippedMember | Damage) -> None:
        """Records damage or a skipped member."""
        if isinstance(found, Damage):
            self._damages.append(found)
        else:
            self._ignored[f"{found.kind} in a tar"] += 1

    def finish(self) -> pa.Table:
        self._flush()
        table = pa.Table.from_batches(self._batches, INDEX_SCHEMA)
        return attach_file_info(table, damage=self._summarize_damage(), ignored=self._ignored)

    def _is_stored_text(self, member: TarMember) -> bool:
        if extension(member.name) not in TEXT_EXTENSIONS:
            return False
        if member.size > MAX_REFERENCE_BYTES:
            self._ignored["text over 1 MB in a tar"] += 1
            return False
        if self._texts_bytes + member.size > MAX_TEXTS_BYTES:
            self._ignored["text beyond 128 MiB in a tar"] += 1
            return False
        return True

    def _flush(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, INDEX_SCHEMA))
        self._rows = []

    def _summarize_damage(self) -> tuple[str, str] | None:
        if not self._damages:
            return None
        first = self._damages[0]
        kinds = {damage.kind for damage in self._damages}
        kind = first.kind if len(kinds) == 1 else ErrorKind.CORRUPT
        more = f", and is damaged in {len(self._damages) - 1} more places" if len(self._damages) > 1 else ""
        return kind.value, f"{first.message} (byte {first.start:,}{more})"


def _write_member(uri: str, member: TarMember, stream: ArchiveStream, path: Path) -> StorageError | None:
    """Writes the content of a member to a file; returns an error if the content is incomplete."""
    missing = member.size
    with open(path, "wb") as sink:
        while missing and (piece := stream.read(min(missing, COPY_BYTES))):
            sink.write(piece)
            missing -= len(piece)
    if not missing:
        return None
    return StorageError(ErrorKind.TRUNCATED, f"{uri}: ends inside of {member.name!a}{_format_fault(stream)}")


def _format_fault(stream: ArchiveStream) -> str:
    return f": it {stream.fault}" if stream.fault else ""
