"""NeMo's tarred manifests: JSON lines that name members of tar shards.

Each line has a `shard_id`. NeMo's own settings say which tars belong to a manifest; here it is ``input.shards``: a name
beside the manifest (or beside the folder ``sharded_manifests`` that it is in) with the number in it. The location of a
member comes from the shard's index (`tar_index`), so no shard is read twice to be listed. The members of a few shards
are held at once, which is enough for manifests in the order of their shards, as NeMo writes them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from distil_ray.errors import ErrorKind
from distil_ray.readers.base import InputFormat, ReadContext
from distil_ray.readers.brace_expansion import expand_braces
from distil_ray.readers.formats.manifest import parse_manifest
from distil_ray.readers.location import recording_version, relative_id
from distil_ray.readers.references import unicode_variants
from distil_ray.readers.row_errors import RowError, rows_to_recordings
from distil_ray.readers.row_files import TableHead
from distil_ray.readers.tar_index import build_index
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize, parent
from distil_ray.types import AudioLocation, Recording

SHARD_COLUMN = "shard_id"
SHARDED_FOLDER = "sharded_manifests"  # NeMo's folder of one manifest a shard; the shards lie above it
MAX_SHARDS = 16  # whose members are held at once
INDEX_COLUMNS = ("name", "byte_start", "num_bytes")  # of an index
_SEGMENT = re.compile(r"-sub\d+(?=\.\w+$|$)")  # NeMo's mark of further segments of one member


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard and the locations of its members, by name without a leading ``./``."""

    entry: Entry
    members: Mapping[str, AudioLocation]


def is_tarred_manifest(head: TableHead) -> bool:
    return {SHARD_COLUMN, "audio_filepath"} <= set(head.columns)


def read_nemo_tarred(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the lines of a tarred manifest as members of shards.

    A line becomes a failed recording if its shard has no such member or does not exist, or if it has no number.

    Raises:
        InputError: No line has a shard.
    """
    home = parent(uri)
    folder = parent(home) if home.endswith(f"/{SHARDED_FOLDER}") else home
    names = _shard_names(context.config.shards)
    base = context.config.base_dir
    folders = (folder,) if base is None else (folder, normalize(base))
    load = lru_cache(MAX_SHARDS)(lambda number: _shard_or_error(folders, names, number, uri, context))

    def member(_: str, recording: Recording) -> Recording:
        if recording.error is not None:
            return recording
        shard = load(_shard_number(recording, uri))
        if isinstance(shard, RowError):
            raise shard
        return _member(recording, relative_id(home, recording.uri), shard)

    rows = ((uri, recording) for recording in parse_manifest(uri, context) if not _is_left_out(recording, context))
    yield from rows_to_recordings(rows, member, lambda recording: recording.recording_id, uri)


def _is_left_out(recording: Recording, context: ReadContext) -> bool:
    """Returns whether NeMo has excluded a line by a negative number."""
    number = recording.metadata.get(SHARD_COLUMN, "")
    is_left_out = recording.error is None and bool(re.fullmatch(r"-\d+", number)) and int(number) < 0
    if is_left_out:
        context.ignored[f"{SHARD_COLUMN} below 0"] += 1
    return is_left_out


def _shard_number(recording: Recording, uri: str) -> int:
    number = recording.metadata.get(SHARD_COLUMN, "").removesuffix(".0")  # pandas makes floats of a column with gaps
    if not re.fullmatch(r"\d{1,9}", number):
        raise RowError(f"{uri}: {recording.recording_id}: {SHARD_COLUMN} must be a number, found {number!r}")
    return int(number)


def _member(recording: Recording, name: str, shard: _Shard) -> Recording:
    metadata = {key: value for key, value in recording.metadata.items() if key != SHARD_COLUMN}
    names = [form for one in (name, _SEGMENT.sub("", name)) for form in unicode_variants(one)]
    found = next((one for one in names if one in shard.members), name)
    uri, part = shard.entry.uri, recording.location or AudioLocation()
    if found not in shard.members:
        words = f"{uri}: has no member {name}"
        return replace(recording, uri=uri, metadata=metadata, error_kind=ErrorKind.NOT_FOUND, error=words)
    location = replace(shard.members[found], start_s=part.start_s, length_s=part.length_s)
    version = recording_version(shard.entry.version, location)
    size = location.num_bytes
    return replace(recording, uri=uri, source_size=size, source_version=version, location=location, metadata=metadata)


def _shard_names(pattern: str) -> dict[int, str] | str:
    """Returns names by number for a range (``{0..127}`` or NeMo's ``_OP_0..127_CL_``), else the pattern."""
    names = expand_braces(pattern.replace("_OP_", "{").replace("_CL_", "}"))
    if len(names) == 1:
        return names[0]
    numbers = [re.findall(r"\d+", name) for name in names]
    return {int(found[-1]): name for found, name in zip(numbers, names, strict=True) if found}


def _shard_or_error(
    folders: Sequence[str], names: dict[int, str] | str, number: int, uri: str, context: ReadContext
) -> _Shard | RowError:
    """Returns the shard, or the error of its lines. Both are cached, so that a shard is looked for once."""
    if not isinstance(names, str) and number not in names:
        words = f"{uri}: names shard {number}, and input.shards has none of that number"
        return RowError(words, ErrorKind.NOT_FOUND, is_unreadable=True)
    name = names.replace(f"{{{SHARD_COLUMN}}}", str(number)) if isinstance(names, str) else names[number]
    try:
        return _shard(folders, name, context)
    except RowError as error:
        return error


def _shard(folders: Sequence[str], file: str, context: ReadContext) -> _Shard:
    """Returns the shard of this name in the first folder that has it."""
    uri = join(folders[0], file)
    try:
        found = (context.storage.stat(join(folder, file)) for folder in folders)
        entry = next((one for one in found if one is not None), None)
        if entry is None:
            also = f" (nor in {folders[1]}, input.base_dir)" if len(folders) > 1 else ""
            words = f"{uri}: is named by a tarred manifest and not there{also}; input.shards says where shards lie"
            raise RowError(words, ErrorKind.NOT_FOUND, is_unreadable=True)
        index = context.indexes.get(entry, lambda: build_index(entry, context.storage))
    except StorageError as error:
        words = f"{uri}: is named by a tarred manifest and cannot be read: {error}"
        raise RowError(words, error.kind, is_unreadable=True) from error
    members: dict[str, AudioLocation] = {}
    for name, start, size in zip(*(index[column].to_pylist() for column in INDEX_COLUMNS), strict=True):
        location = AudioLocation(member=name, byte_start=start, num_bytes=None if start is None else size)
        members.setdefault(name.removeprefix("./"), location)  # of two of one name the first, as elsewhere
    return _Shard(entry, members)


FORMAT = InputFormat("NeMo's tarred manifest", read_nemo_tarred, priority=40, has_head=is_tarred_manifest)
