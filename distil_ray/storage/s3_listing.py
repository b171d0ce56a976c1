"""Listings of S3 buckets by key. A key may be the prefix of other keys, and may have empty components.

A store's own listing is flat. fsspec shows it as folders, in which an object that others have as their prefix is hidden
by them, and a component without a name is lost. `fs` is s3fs's file system.

botocore takes 100 microseconds for each object of a page, most of it for the time of modification. Pages are therefore
parsed here, by a handler of its event ``before-parse``, in a few microseconds each. What the handler cannot parse is
left to botocore. The next page is requested before the objects of the last one are used. Of a listing of many pages,
several ranges of keys are requested at once where the names allow it (`key_ranges.py`): a store takes a tenth of a
second for a page.
"""

import asyncio
import gc
from collections import deque
from collections.abc import Awaitable, Generator, Iterator
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from http import HTTPStatus
from itertools import chain, repeat
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from distil_ray.storage.key_ranges import common_folder, folders_in_range, hash_boundaries
from distil_ray.storage.patterns import fixed_length, key_regex

PAGE_KEYS = 1000  # of a page, at most
PAGES_BEFORE_RANGES = 16
PARALLEL_RANGES = 8  # requested at once
MAX_RANGE_PAGES = 16  # of a range, held in memory

# Not "before-parse.s3.ListObjectsV2": handlers of the more general name come first, and botocore's own for S3 parses
# the whole answer to see whether it is an error.
_EVENT = "before-parse.*.*"
_LISTED = "distil_ray.listed"  # key of the objects in an answer, in place of "Contents"
# Set in the task of a request of this module: others may use the same client, and need its answers as they are.
_is_own_request: ContextVar[bool] = ContextVar("is_own_request", default=False)


class S3(Protocol):
    """The part of s3fs that is used here."""

    loop: asyncio.AbstractEventLoop

    def call_s3(self, method: str, **request: Any) -> dict[str, Any]:
        """Answers a request of boto3's client."""

    def _call_s3(self, method: str, **request: Any) -> Awaitable[dict[str, Any]]: ...

    def set_session(self) -> Awaitable[Any]:
        """Connects, where that has not been done."""

    def get_s3(self, bucket: str) -> Awaitable[Any]:
        """Returns the client of a bucket, which has botocore's events."""


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
    """Objects that follow one another by key.

    Attributes:
        objects: The objects, without the markers of folders.
        folders: ``folder/`` of keys that a delimiter has left out.
        last_key: Of an object or a marker; empty if there is none.
        next_token: Of the next page; None: this is the last one.
    """

    objects: list[ListedObject]
    folders: list[str]
    last_key: str
    next_token: str | None


Range = tuple[str, str | None]  # keys after the first one up to the second one; None: up to the end
Portion = tuple[list[ListedObject], str | None]  # objects, and the last key if there may be more


def walk(fs: S3, path: str) -> Iterator[ListedObject]:
    """Yields the objects below ``bucket/prefix`` by key, 1000 per request, independent of the number of folders.

    After `PAGES_BEFORE_RANGES` pages, ranges of the other keys are requested at once, if the names allow it.
    """
    bucket, _, key = path.partition("/")
    whole = request = {"Bucket": bucket, "Prefix": f"{key}/" if key else ""}
    patience = PAGES_BEFORE_RANGES
    while True:
        first, num_keys = "", 0
        for page in (pages := _pages(fs, request)):
            yield from page.objects
            if page.objects:
                first, num_keys = first or page.objects[0].key, num_keys + len(page.objects)
            if page.next_token is not None and num_keys >= patience * PAGE_KEYS:
                ranges = _find_ranges(fs, bucket, first, page, num_keys)
                if ranges is not None:
                    break
                first, num_keys, patience = "", 0, 2 * patience
        else:
            return
        pages.close()
        last_key = yield from _walk_ranges(fs, bucket, common_folder(first, page.last_key), ranges, page.last_key)
        request = {**whole, "StartAfter": last_key}


def _find_ranges(fs: S3, bucket: str, first: str, last: Page, num_keys: int) -> Iterator[Range] | None:
    """Returns ranges of the keys after a page in the folder of the keys so far; None where their names allow none.

    Args:
        fs: s3fs's file system.
        bucket: The bucket.
        first: First key so far.
        last: Last page so far.
        num_keys: Keys so far.
    """
    keys, folder = [found.key for found in last.objects], common_folder(first, last.last_key)
    if not keys or keys != sorted(keys):  # some stores do not list by key
        return None
    if boundaries := hash_boundaries(first, keys[-1], num_keys):
        return zip([last.last_key, *boundaries], [*boundaries, None], strict=True)
    count = folders_in_range(keys, folder)
    return None if count is None else _folder_ranges(fs, bucket, folder, last.last_key, count)


def _folder_ranges(fs: S3, bucket: str, folder: str, last_key: str, count: int) -> Iterator[Range]:
    """Yields ranges of `count` folders below `folder` each, from `last_key` on to the end of `folder`."""
    begin = last_key
    request = {"Bucket": bucket, "Prefix": folder, "Delimiter": "/", "StartAfter": last_key}
    below = (name for page in _pages(fs, request) for name in page.folders)
    for number, name in enumerate(below):
        if number and number % count == 0:
            yield begin, name
            begin = name
    yield begin, None


def _walk_ranges(
    fs: S3, bucket: str, folder: str, ranges: Iterator[Range], last_key: str
) -> Generator[ListedObject, None, str]:
    """Yields the objects of ranges of keys in `folder`, which follow one another after `last_key`.

    Returns the last key.
    """

    def load(begin: str, end: str | None) -> "Future[Portion]":
        return asyncio.run_coroutine_threadsafe(_load_range(fs, bucket, folder, begin, end), fs.loop)

    pending: deque[tuple[Future[Portion], str | None]] = deque()
    try:
        for each in chain(ranges, repeat(None, PARALLEL_RANGES)):
            if each is not None:
                pending.append((load(*each), each[1]))
                if len(pending) < PARALLEL_RANGES:
                    continue
            if not pending:
                break
            future, end = pending.popleft()
            objects, rest = future.result()
            yield from objects
            last_key = objects[-1].key if objects else last_key
            while rest is not None:  # more keys than expected: the other ranges wait, so that few objects are held
                objects, rest = load(rest, end).result()
                yield from objects
                last_key = objects[-1].key if objects else last_key
    finally:
        for future, _ in pending:
            future.cancel()
    return last_key


async def _load_range(fs: S3, bucket: str, folder: str, begin: str, end: str | None) -> Portion:
    """Returns the objects in `folder` after the key `begin` up to the key `end` (None: all), of some pages at most.

    The second value is the last key if there may be more.
    """
    objects: list[ListedObject] = []
    request = {"Bucket": bucket, "Prefix": folder, "StartAfter": begin}
    for _ in range(MAX_RANGE_PAGES):
        page = await _load_page(fs, request)
        objects += page.objects if end is None else [found for found in page.objects if found.key <= end]
        if page.next_token is None or (end is not None and page.last_key >= end):
            return objects, None
        request["ContinuationToken"] = page.next_token
        begin = page.last_key or begin
    return objects, begin


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
    return bool(page.get("Contents"))


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
    return (found for page in _pages(fs, request) for found in page.objects)


def _pages(fs: S3, request: dict[str, Any]) -> Generator[Page, None, None]:
    """Yields the pages of a listing; each is requested while the one before it is used."""
    pending: Future[Page] | None = _request_page(fs, request)
    try:
        while pending is not None:
            page = pending.result()
            following = {**request, "ContinuationToken": page.next_token}
            pending = None if page.next_token is None else _request_page(fs, following)
            yield page
    finally:
        if pending is not None:
            pending.cancel()


def _request_page(fs: S3, request: dict[str, Any]) -> "Future[Page]":
    """Requests a page in the background."""
    return asyncio.run_coroutine_threadsafe(_load_page(fs, request), fs.loop)


async def _load_page(fs: S3, request: dict[str, Any]) -> Page:
    await fs.set_session()
    client = await fs.get_s3(request["Bucket"])
    client.meta.events.register(_EVENT, _parse_objects, unique_id=_LISTED)
    _is_own_request.set(True)
    answer = await fs._call_s3("list_objects_v2", **request)
    objects = answer.get(_LISTED)
    if objects is None:
        objects = [_described(found) for found in answer.get("Contents", ())]
    folders = [found["Prefix"] for found in answer.get("CommonPrefixes", ())]
    # An empty object whose key ends with a slash is a marker that some tools put in place of a folder.
    files = [found for found in objects if not found.key.endswith("/")]
    last_key = objects[-1].key if objects else ""
    return Page(files, folders, last_key, answer["NextContinuationToken"] if answer.get("IsTruncated") else None)


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
    is_page = operation_model.name == "ListObjectsV2" and response_dict["status_code"] == HTTPStatus.OK
    if not is_page or not _is_own_request.get():
        return
    # A page has eight thousand elements, which are freed before this function ends. Python would look for cycles of
    # references a dozen times meanwhile, each time among all objects of the process, and spend more time on that.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        with suppress(ElementTree.ParseError, ValueError, TypeError):
            customized_response_dict[_LISTED], response_dict["body"] = _split_page(response_dict["body"])
    finally:
        if is_collecting:
            gc.enable()


def _split_page(body: bytes) -> tuple[list[ListedObject], bytes]:
    """Returns the objects of a page, and the page without them. Raises an error if it is not a page of a listing."""
    root = ElementTree.fromstring(body)
    begin, brace, name = root.tag.rpartition("}")
    if name != "ListBucketResult":
        raise ValueError(f"a page of a listing begins with {root.tag}")
    namespace = begin + brace
    is_encoded = root.findtext(f"{namespace}EncodingType") == "url"
    objects = [_parse_object(each, namespace, is_encoded) for each in root.findall(f"{namespace}Contents")]
    root[:] = [each for each in root if each.tag != f"{namespace}Contents"]
    return objects, ElementTree.tostring(root)


def _parse_object(element: ElementTree.Element, namespace: str, is_encoded: bool) -> ListedObject:
    key, size = element.findtext(f"{namespace}Key") or "", element.findtext(f"{namespace}Size")
    etag, modified = element.findtext(f"{namespace}ETag"), element.findtext(f"{namespace}LastModified")
    return ListedObject(
        unquote_plus(key) if is_encoded and ("%" in key or "+" in key) else key,  # S3 writes a space as "+"
        int(size or 0),
        etag.strip('"') if etag else None,
        datetime.fromisoformat(modified).timestamp() if modified else None,
    )
