"""Samples of a tar shard as WebDataset has them: members of one key are one recording and what is said of it.

The key is a member's path up to the first dot of its name: ``a/17.flac``, ``a/17.txt`` and ``a/17.json`` belong
together wherever in the shard they stand. Of one key in several encodings (``17.flac``, ``17.wav``) the first is the
recording. Where a name has more dots before the extension (``17.left.wav``, ``2019.03.01.wav``) each file is a
recording of its own, with the texts of its own stem, else of its key: nobody's audio is dropped for its name.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.audio_formats import extension, is_audio_name, is_utf8
from distil_ray.readers.base import Reading
from distil_ray.readers.field_mapping import FieldMapping, RecordingFields
from distil_ray.readers.location import id_below, rest_of
from distil_ray.readers.references import composed, stem
from distil_ray.readers.row_files import parse_json
from distil_ray.readers.tar_index import TEXT_EXTENSIONS, build_index, load_shard_info
from distil_ray.schema import Place, Recording
from distil_ray.storage.storage import Entry, StorageError, parent

MAX_BYTES_PER_S = 384_000  # of audio: two channels of 32 bits at 48 kHz; what is larger unpacked is not unpacked

_Row = tuple[str, int | None, int]  # name, byte_start, num_bytes


@dataclass(slots=True)
class _Members:
    """The members of a shard by what they are, in its order.

    `firsts`: by key the first of its encodings; `texts`: by stem, in the Unicode form NFC, and extension.
    """

    audio: list[_Row] = field(default_factory=list)
    firsts: dict[str, str] = field(default_factory=dict)
    texts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    used: set[tuple[str, str]] = field(default_factory=set)


def read_shard(uri: str, reading: Reading) -> Iterator[Recording]:
    """The recordings of a single shard."""
    entry = reading.storage.stat(uri)
    if entry is None:
        raise InputError(f"input.format=tar: {uri} is no file; input.format=files reads a folder, its shards too")
    yield from iter_shard_recordings([entry], reading.root or parent(uri), reading)


def iter_shard_recordings(entries: Iterable[Entry], root: str, reading: Reading) -> Iterator[Recording]:
    """The recordings of shards below `root`. One that cannot be read has one recording, which says why."""
    for entry, index in reading.indexes.get_all(entries, lambda one: build_index(one, reading.storage)):
        shard = id_below(root, entry.uri)
        if isinstance(index, StorageError):
            yield rest_of(entry, shard, index.kind, str(index))
        else:
            yield from _recordings(index, entry, shard, reading)


def _recordings(index: pa.Table, entry: Entry, shard: str, reading: Reading) -> Iterator[Recording]:
    members = _sorted_out(index, reading.ignored)
    fields = FieldMapping.from_config(reading.config.columns, recording_id=())
    for row in members.audio:
        name = row[0].removeprefix("./")
        if stem(name) == _key(name) and members.firsts[_key(name)] != name:
            reading.ignored["second encoding of a sample"] += 1
        else:
            yield _recording(row, name, members, entry, shard, fields, reading)
    for _, ending in members.texts.keys() - members.used:
        reading.ignored[ending] += 1
    damage, ignored = load_shard_info(index)
    reading.ignored.update(ignored)
    if damage is not None:
        yield rest_of(entry, shard, damage[0], f"{entry.uri}: {damage[1]}")


def _sorted_out(index: pa.Table, ignored: Counter[str]) -> _Members:
    members = _Members()
    seen: set[str] = set()
    for batch in index.to_batches(max_chunksize=4096):
        for member, start, size, content in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            name, ending = member.removeprefix("./"), extension(member)
            if any(part.startswith(".") and part not in (".", "..") for part in name.split("/")):
                ignored["hidden"] += 1
            elif name in seen:
                ignored["second member of the same name in a tar"] += 1
            elif is_audio_name(name):
                members.audio.append((member, start, size))
                if stem(name) == _key(name):
                    members.firsts.setdefault(_key(name), name)
            elif ending in TEXT_EXTENSIONS and content is not None:
                members.texts[composed(stem(name)), ending] = content
            elif ending not in TEXT_EXTENSIONS:  # counted when the index was made
                ignored[ending or "no extension"] += 1
            seen.add(name)
    return members


def _recording(
    row: _Row, name: str, members: _Members, entry: Entry, shard: str, fields: FieldMapping, reading: Reading
) -> Recording:
    member, start, size = row
    said, reference = _described(name, members, fields, reading)
    limit = round(reading.config.max_duration_s * MAX_BYTES_PER_S)
    is_too_large = start is None and size > limit
    too_large = f"{entry.uri}: {name}: unpacks to {size:,} bytes, and input.max_duration_s allows {limit:,}"
    return Recording(
        recording_id=said.recording_id or f"{shard}/{name}",  # the JSON's, if the settings name it
        uri=entry.uri,
        source_size=size,
        source_version=entry.version,
        place=Place(member=member, byte_start=start, num_bytes=None if start is None else size),
        duration_s=said.duration_s,
        language=said.language,
        reference=reference,
        metadata=said.metadata,
        error_kind=ErrorKind.TOO_LONG if is_too_large else None,
        error=too_large if is_too_large else None,
    )


def _described(
    name: str, members: _Members, fields: FieldMapping, reading: Reading
) -> tuple[RecordingFields, str | None]:
    """What the texts beside a member say, and the reference that counts: the ``.txt`` before the JSON's."""
    found: dict[str, bytes] = {}
    for ending in TEXT_EXTENSIONS:
        for owner in (composed(stem(name)), composed(_key(name))):
            if (owner, ending) in members.texts:
                members.used.add((owner, ending))
                found[ending] = members.texts[owner, ending]
                break
    said = fields.extract(_json(found.get(".json", b"{}"), reading.ignored), reading.ignored)
    text, label = (_text(found.get(ending), reading.ignored) for ending in (".txt", ".cls"))
    if label is not None:
        said.metadata["cls"] = label
    wanted = reading.config.references == "auto"
    return said, (said.reference if text is None else text) if wanted else None


def _json(content: bytes, ignored: Counter[str]) -> dict[str, Any]:
    try:
        row = parse_json(content)
        if isinstance(row, dict) and is_utf8(json.dumps(row, ensure_ascii=False)):
            return row
    except (ValueError, RecursionError):
        pass
    ignored["JSON that is no object in a tar"] += 1
    return {}


def _text(content: bytes | None, ignored: Counter[str]) -> str | None:
    if content is None:
        return None
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        ignored["reference not in UTF-8"] += 1
        return None


def _key(name: str) -> str:
    """WebDataset's: the path up to the first dot of the last name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
