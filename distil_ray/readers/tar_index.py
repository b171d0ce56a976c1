"""Tar shards: what is in one, as an index of its members, and its members' bytes.

Of a plain tar the index says where each member lies, so that it is fetched by itself and work splits inside a shard. A
compressed one (gzip, bzip2, xz, zstd) is a stream: it is read from its start for its index, and again by every block
of the plan for that block's members. Short texts beside the audio are in the index. What makes recordings of it is
samples.py. A shard is never in memory whole; its index is, some 200 bytes a member and the texts.

What is damaged does not hide what is not: the index holds the good members, and one sentence for all the rest.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind
from distil_ray.readers.audio_formats import extension, is_utf8, plain_name
from distil_ray.readers.decompression import detect_compression, max_unpacked_bytes, open_decompressed
from distil_ray.readers.index_cache import attach_file_info, get_file_info
from distil_ray.readers.ordered_iteration import hand_out
from distil_ray.readers.range_reader import open_for_seeking
from distil_ray.readers.references import MAX_REFERENCE_BYTES
from distil_ray.readers.tar_headers import ArchiveStream, Damage, SkippedMember, TarMember, iter_archive
from distil_ray.schema import Recording
from distil_ray.storage.storage import Entry, Storage, StorageError

EXTENSIONS = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
TEXT_EXTENSIONS = (".txt", ".json", ".cls")  # members whose content is in the index
MAX_TEXTS_BYTES = 128 << 20  # of one shard
COPY_BYTES = 1 << 20

# `byte_start` is null in a compressed shard. `content` is null but for `TEXTS`. Notes: `damage` (null, or kind and
# sentence), `ignored` (counts).
INDEX_SCHEMA = pa.schema(
    [("name", pa.string()), ("byte_start", pa.int64()), ("num_bytes", pa.int64()), ("content", pa.binary())]
)
_BATCH = 4096  # members made a piece of the table at once


def is_tar_name(uri: str) -> bool:
    return plain_name(uri).endswith(EXTENSIONS)


def build_index(entry: Entry, storage: Storage) -> pa.Table:
    """Reads through a shard, past its large members. Raises `StorageError` if it cannot be read."""
    with _opened(entry, storage) as (source, is_plain):
        builder = _IndexBuilder(is_plain)
        for found in iter_archive(source):
            if isinstance(found, TarMember):
                builder.add(found, source)
            else:
                builder.note(found)
        return builder.finish()


def load_shard_info(index: pa.Table) -> tuple[tuple[ErrorKind, str] | None, dict[str, int]]:
    """(why some of the shard cannot be had, None if nothing is lacking; what it holds that is no file, counted)."""
    notes = get_file_info(index)
    damage = notes["damage"]
    return (ErrorKind(damage[0]), damage[1]) if damage else None, notes["ignored"]


def extract_members(unit: Sequence[Recording], target: Path, storage: Storage) -> Iterator[Path | StorageError]:
    """The members of one shard, read as a stream once; each is a file beside `target` that is the taker's.

    Raises `StorageError` for what cannot be read at all.
    """
    uri = unit[0].uri
    entry = storage.stat(uri)
    if entry is None:
        raise StorageError(ErrorKind.NOT_FOUND, f"{uri}: there is no such file")
    names = [recording.place.member if recording.place else None for recording in unit]
    with _opened(entry, storage) as (source, _):
        members = (found for found in iter_archive(source) if isinstance(found, TarMember))
        met = ((member.name, partial(_write, uri, member, source)) for member in members)
        came = 0
        for found in hand_out(names, met, target):
            yield found
            came += 1
        if came < len(names):
            raise StorageError(ErrorKind.NOT_FOUND, f"{uri}: has no member {names[came]!a}{_why(source)}")


@contextmanager
def _opened(entry: Entry, storage: Storage) -> Iterator[tuple[ArchiveStream, bool]]:
    """(the archive, whether it can be sought in)."""
    with open_for_seeking(entry, storage) as file:
        packed = detect_compression(file.read(8))
        file.seek(0)
        if packed is None:
            yield ArchiveStream(file, entry.size), True
        else:
            yield ArchiveStream(open_decompressed(file, packed), None, max_unpacked_bytes(entry.size or 0)), False


class _IndexBuilder:
    """Collects members; whole ones only."""

    def __init__(self, is_plain: bool) -> None:
        self._is_plain = is_plain
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._texts_bytes = 0
        self._damages: list[Damage] = []
        self._ignored = Counter[str]()

    def add(self, member: TarMember, source: ArchiveStream) -> None:
        """Reads or passes over the content."""
        content = None
        if self._is_kept(member):
            content = source.read(member.size)
            is_whole = len(content) == member.size
            self._texts_bytes += len(content)
        else:
            is_whole = source.skip(member.size) == member.size
        if not is_whole:  # the walk says so itself
            return
        if not is_utf8(member.name):
            self._ignored["name not in UTF-8"] += 1  # no table could hold its id
            return
        place = member.start if self._is_plain else None
        self._rows.append({"name": member.name, "byte_start": place, "num_bytes": member.size, "content": content})
        if len(self._rows) >= _BATCH:
            self._flush()

    def note(self, found: SkippedMember | Damage) -> None:
        if isinstance(found, Damage):
            self._damages.append(found)
        else:
            self._ignored[f"{found.kind} in a tar"] += 1

    def finish(self) -> pa.Table:
        self._flush()
        return attach_file_info(
            pa.Table.from_batches(self._batches, INDEX_SCHEMA), damage=self._damage(), ignored=self._ignored
        )

    def _is_kept(self, member: TarMember) -> bool:
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

    def _damage(self) -> tuple[str, str] | None:
        if not self._damages:
            return None
        first = self._damages[0]
        kinds = {damage.kind for damage in self._damages}
        kind = first.kind if len(kinds) == 1 else ErrorKind.CORRUPT
        more = f", and is damaged in {len(self._damages) - 1} more places" if len(self._damages) > 1 else ""
        return kind.value, f"{first.words} (byte {first.start:,}{more})"


def _write(uri: str, member: TarMember, source: ArchiveStream, path: Path) -> StorageError | None:
    """Writes a member's content to a file, or says that it did not come whole."""
    missing = member.size
    with open(path, "wb") as sink:
        while missing and (piece := source.read(min(missing, COPY_BYTES))):
            sink.write(piece)
            missing -= len(piece)
    if not missing:
        return None
    return StorageError(ErrorKind.TRUNCATED, f"{uri}: ends inside of {member.name!a}{_why(source)}")


def _why(source: ArchiveStream) -> str:
    return f": it {source.fault}" if source.fault else ""
