"""Listings of S3 buckets by key. A key may be the prefix of other keys, and may have empty components.

A store's own listing is flat. fsspec shows it as folders, in which an object that others have as their prefix is hidden
by them, and a component without a name is lost. `fs` is s3fs's file system.
"""

from collections.abc import Iterator
from typing import Any, Protocol

from distil_ray.storage.patterns import fixed_length, key_regex


class S3(Protocol):
    """The part of s3fs that is used here."""

    def call_s3(self, method: str, **request: Any) -> dict[str, Any]:
        """Answers a request of boto3's client."""


def walk(fs: S3, path: str) -> Iterator[dict[str, Any]]:
    """Yields the objects below ``bucket/prefix`` by key, 1000 per request, independent of the number of folders."""
    bucket, _, key = path.partition("/")
    yield from _objects(fs, bucket, f"{key}/" if key else "")


def page_from(fs: S3, path: str, first: str) -> tuple[list[dict[str, Any]], bool]:
    """Returns up to 1000 objects below ``bucket/prefix`` by key, and whether they are the last. One request.

    They begin with the object whose path is `first`, where there is one; a few with the same beginning may precede it.
    """
    bucket, _, key = path.partition("/")
    start = first.partition("/")[2][:-1]  # the store lists what comes after it
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **({"StartAfter": start} if start else {})}
    page = fs.call_s3("list_objects_v2", **request)
    return list(_described(bucket, page)), not page.get("IsTruncated")


def is_folder(fs: S3, path: str) -> bool:
    """Returns True if there are objects below ``bucket/prefix``; an object of exactly that key does not count."""
    bucket, _, key = path.partition("/")
    page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
    return bool(page.get("Contents"))


def glob(fs: S3, pattern: str) -> Iterator[dict[str, Any]]:
    """Yields the objects that match ``bucket/pattern``, by key. Raises ValueError as `patterns.components` does.

    All that have the pattern's fixed beginning are listed; where only its last component has wildcards, nothing of
    the folders beside.
    """
    bucket, _, keys = pattern.partition("/")
    regex = key_regex(keys)
    prefix = keys[: fixed_length(keys)]
    delimiter = "" if "/" in keys[len(prefix) :] or "**" in keys else "/"
    for found in _objects(fs, bucket, prefix, delimiter):
        if regex.match(found["key"]):
            yield found


def _objects(fs: S3, bucket: str, prefix: str, delimiter: str = "") -> Iterator[dict[str, Any]]:
    request = {"Bucket": bucket, "Prefix": prefix, **({"Delimiter": delimiter} if delimiter else {})}
    while True:
        page = fs.call_s3("list_objects_v2", **request)
        yield from _described(bucket, page)
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _described(bucket: str, page: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """As fsspec describes files. An empty object whose key ends with a slash is a marker that some tools put in place
    of a folder."""
    for found in page.get("Contents", ()):
        key = found["Key"]
        if not key.endswith("/"):
            known = {name: found[name] for name in ("ETag", "LastModified")}
            yield {"name": f"{bucket}/{key}", "key": key, "size": found["Size"], **known}
