"""Recordings of tar shards in WebDataset's layout: members with the same key are one sample.

The key is the path of a member up to the first dot of its file name: ``a/17.flac``, ``a/17.txt`` and ``a/17.json``
belong together, wherever in the shard they are. If a sample has its audio in several encodings (``17.flac``,
``17.wav``), the first is the recording.

If a file name has more dots before its extension (``17.left.wav``, ``2019.03.01.wav``), each audio file is a recording
of its own. It takes the texts with its own stem, else those with its key. No audio is dropped because of its name.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from distil_ray.errors import ErrorKind, InputError
from distil_ray.readers.audio_formats import extension, is_audio_name, is_utf8
from distil_ray.readers.base import ReadContext
from distil_ray.readers.field_mapping import FieldMapping, RecordingFields
from distil_ray.readers.location import failed_remainder, relative_id
from distil_ray.readers.references import stem, to_nfc
from distil_ray.readers.row_files import parse_json
from distil_ray.readers.tar_index import TEXT_EXTENSIONS, build_index, load_shard_info
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import parent
from distil_ray.types import AudioLocation, Recording

# Two channels of 32 bits at 48 kHz. A compressed member that is larger than `input.max_duration_s` of this is refused.
MAX_BYTES_PER_S = 384_000

_Member = tuple[str, int | None, int]  # name, byte_start, num_bytes


@dataclass(slots=True)
class _Members:
    """The members of a shard, by what they are.

    Attributes:
        audio: Audio members, in the order of the shard.
        first_encodings: By key, the name of the first audio member.
        texts: Content of text members, by stem (in the Unicode form NFC) and extension.
        used_texts: Keys of `texts` that belong to a recording.
    """

    audio: list[_Member] = field(default_factory=list)
    first_encodings: dict[str, str] = field(default_factory=dict)
    texts: dict[tuple[str, str], bytes] = field(default_factory=dict)
    used_texts: set[tuple[str, str]] = field(default_factory=set)


def read_shard(uri: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of a single shard."""
    entry = context.storage.stat(uri)
    if entry is None:
        raise InputError(f"input.format=tar: {uri} is not a file; input.format=files reads a folder with its shards")
    yield from iter_shard_recordings([entry], context.root or parent(uri), context)


def iter_shard_recordings(entries: Iterable[Entry], root: str, context: ReadContext) -> Iterator[Recording]:
    """Yields the recordings of shards, with ids relative to `root`.

    A shard that cannot be read becomes one recording with an error.
    """
    for entry, index in context.indexes.get_all(entries, lambda one: build_index(one, context.storage)):
        shard = relative_id(root, entry.uri)
        if isinstance(index, StorageError):
            yield failed_remainder(entry, shard, index.kind, str(index))
        else:
            yield from _iter_recordings(index, entry, shard, context)


def _iter_recordings(index: pa.Table, entry: Entry, shard: str, context: ReadContext) -> Iterator[Recording]:
    members = _sort_members(index, context.ignored)
    mapping = FieldMapping.from_config(context.config.columns, recording_id=())
    for member in members.audio:
        name = member[0].removeprefix("./")
        if stem(name) == _key(name) and members.first_encodings[_key(name)] != name:
            context.ignored["second encoding of a sample"] += 1
        else:
            yield _to_recording(member, name, members, entry, shard, mapping, context)
    for _, ending in members.texts.keys() - members.used_texts:
        context.ignored[ending] += 1
    damage, ignored = load_shard_info(index)
    context.ignored.update(ignored)
    if damage is not None:
        yield failed_remainder(entry, shard, damage[0], f"{entry.uri}: {damage[1]}")


def _sort_members(index: pa.Table, ignored: Counter[str]) -> _Members:
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
                    members.first_encodings.setdefault(_key(name), name)
            elif ending in TEXT_EXTENSIONS and content is not None:
                members.texts[to_nfc(stem(name)), ending] = content
            elif ending not in TEXT_EXTENSIONS:  # others were counted when the index was built
                ignored[ending or "no extension"] += 1
            seen.add(name)
    return members


def _to_recording(
    member: _Member,
    name: str,
    members: _Members,
    entry: Entry,
    shard: str,
    mapping: FieldMapping,
    context: ReadContext,
) -> Recording:
    member_name, start, size = member
    fields, reference = _read_texts(name, members, mapping, context)
    limit = round(context.config.max_duration_s * MAX_BYTES_PER_S)
    is_too_large = start is None and size > limit
    too_large = f"{entry.uri}: {name}: unpacks to {size:,} bytes, and input.max_duration_s allows {limit:,}"
    return Recording(
        recording_id=fields.recording_id or f"{shard}/{name}",  # from JSON only if the settings name a field
        uri=entry.uri,
        source_size=size,
        source_version=entry.version,
        location=AudioLocation(member=member_name, byte_start=start, num_bytes=None if start is None else size),
        duration_s=fields.duration_s,
        language=fields.language,
        call_id=fields.call_id,
        reference=reference,
        metadata=fields.metadata,
        error_kind=ErrorKind.TOO_LONG if is_too_large else None,
        error=too_large if is_too_large else None,
    )


def _read_texts(
    name: str, members: _Members, mapping: FieldMapping, context: ReadContext
) -> tuple[RecordingFields, str | None]:
    """Returns the fields from the texts beside a member, and its reference: that of ``.txt``, else that of JSON."""
    found: dict[str, bytes] = {}
    for ending in TEXT_EXTENSIONS:
        for owner in (to_nfc(stem(name)), to_nfc(_key(name))):
            if (owner, ending) in members.texts:
                members.used_texts.add((owner, ending))
                found[ending] = members.texts[owner, ending]
                break
    fields = mapping.extract(_decode_json(found.get(".json", b"{}"), context.ignored), context.ignored)
    text, label = (_decode_text(found.get(ending), context.ignored) for ending in (".txt", ".cls"))
    if label is not None:
        fields.metadata["cls"] = label
    is_wanted = context.config.references == "auto"
    return fields, (fields.reference if text is None else text) if is_wanted else None


def _decode_json(content: bytes, ignored: Counter[str]) -> dict[str, Any]:
    try:
        row = parse_json(content)
        if isinstance(row, dict) and is_utf8(json.dumps(row, ensure_ascii=False)):
            return row
    except (ValueError, RecursionError):
        pass
    ignored["JSON that is no object in a tar"] += 1
    return {}


def _decode_text(content: bytes | None, ignored: Counter[str]) -> str | None:
    if content is None:
        return None
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        ignored["reference not in UTF-8"] += 1
        return None


def _key(name: str) -> str:
    """Returns WebDataset's key of a member: its path up to the first dot of the file name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]
