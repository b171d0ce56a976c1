"""Listings of S3 buckets by key. A key may be the prefix of other keys, and may have empty components.

A store's own listing is flat. fsspec shows it as folders, in which an object that others have as their prefix is hidden
by them, and a component without a name is lost. `fs` is s3fs's file system.

botocore takes 100 microseconds for each object of a page, most of it for the time of modification. Pages are therefore
parsed here, by a handler of its event ``before-parse``, in a few microseconds each. What the handler cannot parse is
left to botocore. The next page is requested before the objects of the last one are used.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote
from xml.etree import ElementTree

from distil_ray.storage.patterns import fixed_length, key_regex

# Not "before-parse.s3.ListObjectsV2": handlers of the more general name come first, and botocore's own for S3 parses
# the whole answer to see whether it is an error.
_EVENT = "before-parse.*.*"
_LISTED = "distil_ray.listed"  # key of the objects in an answer, in place of "Contents"


class S3(Protocol):
    """The part of s3fs that is used here."""

    loop: asyncio.AbstractEventLoop

    def call_s3(self, method: str, **request: Any) -> dict[str, Any]:
        """Answers a request of boto3's client."""

    def _call_s3(self, method: str, **request: Any) -> Awaitable[dict[str, Any]]: ...

    def set_session(self) -> Awaitable[Any]:
        """Connects, where that has not been done."""

    def get_s3(self, bucket: str) -> Awaitable[Any]:
        """Returns boto3's client."""


class ListedObject(NamedTuple):
    """An object as a listing shows it.

    Attributes:
        key: In the bucket.
        size: Bytes.
        etag: Without quotes; None if the store tells none.
        modified: Seconds since the epoch; None if the store does not tell it.
    """

    key: str
    size: int
    etag: str | None
    modified: float | None


class Page(NamedTuple):
    """Objects that follow one another by key, and the token of the next page; None: it is the last one."""

    objects: list[ListedObject]
    next_token: str | None


def walk(fs: S3, path: str) -> Iterator[ListedObject]:
    """Yields the objects below ``bucket/prefix`` by key, 1000 per request, independent of the number of folders."""
    bucket, _, key = path.partition("/")
    yield from _objects(fs, bucket, f"{key}/" if key else "")


def page_from(fs: S3, path: str, first: str) -> Page:
    """Returns up to 1000 objects below ``bucket/prefix`` by key. One request.

    They begin with the object whose path is `first`, where there is one; a few with the same beginning may precede it.
    """
    bucket, _, key = path.partition("/")
    start = first.partition("/")[2][:-1]  # the store lists what comes after it
    request = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **({"StartAfter": start} if start else {})}
    return _request_page(fs, request).result()


def is_folder(fs: S3, path: str) -> bool:
    """Returns True if there are objects below ``bucket/prefix``; an object of exactly that key does not count."""
    bucket, _, key = path.partition("/")
    page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=f"{key}/", MaxKeys=1)
    return bool(page.get("Contents") or page.get(_LISTED))


def glob(fs: S3, pattern: str) -> Iterator[ListedObject]:
    """Yields the objects that match ``bucket/pattern``, by key. Raises ValueError as `patterns.components` does.

    All that have the pattern's fixed beginning are listed; where only its last component has wildcards, nothing of
    the folders beside.
    """
    bucket, _, keys = pattern.partition("/")
    regex = key_regex(keys)
    prefix = keys[: fixed_length(keys)]
    delimiter = "" if "/" in keys[len(prefix) :] or "**" in keys else "/"
    return (found for found in _objects(fs, bucket, prefix, delimiter) if regex.match(found.key))


def _objects(fs: S3, bucket: str, prefix: str, delimiter: str = "") -> Iterator[ListedObject]:
    request = {"Bucket": bucket, "Prefix": prefix, **({"Delimiter": delimiter} if delimiter else {})}
    pending: Future[Page] | None = _request_page(fs, request)
    try:
        while pending is not None:
            page = pending.result()
            following = {**request, "ContinuationToken": page.next_token}
            pending = None if page.next_token is None else _request_page(fs, following)
            yield from page.objects
    finally:
        if pending is not None:
            pending.cancel()


def _request_page(fs: S3, request: dict[str, Any]) -> "Future[Page]":
    """Requests a page in the background."""

    async def load() -> Page:
        await fs.set_session()
        client = await fs.get_s3(request["Bucket"])
        client.meta.events.register(_EVENT, _parse_objects, unique_id=_LISTED)
        answer = await fs._call_s3("list_objects_v2", **request)
        objects = answer.get(_LISTED)
        if objects is None:
            objects = [_described(found) for found in answer.get("Contents", ())]
        # An empty object whose key ends with a slash is a marker that some tools put in place of a folder.
        files = [found for found in objects if not found.key.endswith("/")]
        return Page(files, answer["NextContinuationToken"] if answer.get("IsTruncated") else None)

    return asyncio.run_coroutine_threadsafe(load(), fs.loop)


def _described(found: dict[str, Any]) -> ListedObject:
    etag, modified = found.get("ETag"), found.get("LastModified")
    return ListedObject(
        found["Key"],
        found["Size"],
        etag.strip('"') if etag else None,
        modified.timestamp() if modified is not None else None,
    )


def _parse_objects(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Takes the objects out of the answer to a listing that botocore is about to parse; see its ``before-parse``."""
    if operation_model.name != "ListObjectsV2":
        return
    with suppress(ElementTree.ParseError, ValueError, TypeError, AttributeError):
        root = ElementTree.fromstring(response_dict["body"])
        begin, brace, name = root.tag.rpartition("}")
        if response_dict["status_code"] >= 300 or name != "ListBucketResult":
            return
        namespace = begin + brace
        contents = root.findall(f"{namespace}Contents")
        is_encoded = root.findtext(f"{namespace}EncodingType") == "url"
        objects = [_parse_object(each, namespace, is_encoded) for each in contents]
        root[:] = [each for each in root if each.tag != f"{namespace}Contents"]
        response_dict["body"] = ElementTree.tostring(root)
        customized_response_dict[_LISTED] = objects


def _parse_object(element: ElementTree.Element, namespace: str, is_encoded: bool) -> ListedObject:
    key, size = element.findtext(f"{namespace}Key") or "", element.findtext(f"{namespace}Size")
    etag, modified = element.findtext(f"{namespace}ETag"), element.findtext(f"{namespace}LastModified")
    return ListedObject(
        unquote(key) if is_encoded and "%" in key else key,
        int(size or 0),
        etag.strip('"') if etag else None,
        datetime.fromisoformat(modified).timestamp() if modified else None,
    )
