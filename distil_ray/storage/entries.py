"""Files as a listing shows them: `Entry`, made of what fsspec, S3 and local disks tell."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from distil_ray.storage.s3_listing import ListedObject
from distil_ray.storage.uris import is_remote


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as a listing shows it. `version` is the store's etag, else the modification time.

    `modified`: seconds since the epoch by the store's clock, where it tells.
    """

    uri: str
    size: int | None
    version: str | None
    modified: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ListedPage:
    """Files of a folder that follow one another by name; `is_last`: there are none after them."""

    entries: list[Entry]
    is_last: bool


def object_entries(asked: str, path: str, objects: Iterable[ListedObject]) -> Iterator[Entry]:
    """Yields objects of S3 as files; `path`: ``bucket/...``."""
    root = f"{asked.split('://', 1)[0]}://{path.partition('/')[0]}/"
    for key, size, etag, modified in objects:
        yield Entry(root + key, size, etag, modified)


def described_entry(asked: str, info: dict[str, Any]) -> Entry:
    """Returns a file as fsspec describes it; `asked`: the URI that was listed."""
    name = cast(str, info["name"])
    uri = f"{asked.split('://', 1)[0]}://{name}" if is_remote(asked) and "://" not in name else name
    version = info.get("ETag") or info.get("etag") or info.get("blob_id")  # the last: the hub's
    modified = (
        info.get("mtime")
        or info.get("LastModified")
        or info.get("Last-Modified")
        or info.get("last_modified")
        or info.get("updated")
    )
    if version is None:
        version = str(modified) if modified is not None else None
    seconds = modified.timestamp() if isinstance(modified, datetime) else modified
    return Entry(
        uri,
        info.get("size"),
        version.strip('"') if version else None,
        float(seconds) if isinstance(seconds, (int, float)) else None,
    )


def local_entry(path: str, found: os.stat_result | None) -> Entry:
    """Returns a file on a local disk; `found`: None if it cannot be read."""
    if found is None:
        return Entry(path, None, None)
    return Entry(path, found.st_size, str(found.st_mtime), found.st_mtime)
