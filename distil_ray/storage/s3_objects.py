"""Objects of S3 read, looked at, replaced and deleted with as few requests as possible.

fsspec asks for an object's size before it reads it, lists the keys below it where there is none, and looks at what it
deletes; each costs a request. `fs` is s3fs's file system, paths are ``bucket/key``.

A read that needs several requests names the version of the first one in the others (``If-Match``), so that a file which
is replaced meanwhile is an error and not a mixture.
"""

import asyncio
import io
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Protocol, TypeVar, cast

from fsspec.asyn import sync

from distil_ray.storage import s3_listing
from distil_ray.storage.range_reader import RangeReader

FIRST_BYTES = 1 << 20  # that `open_object` reads; a file of transcripts or of a plan is smaller
COPY_BYTES = 1 << 20  # copied at once by `copy_object`
BUFFER_BYTES = 64 << 10  # of a reader of lines
DELETED_AT_ONCE = 1000  # keys of a request; S3 allows no more
MAX_WAIT_S = 15.0
# Error codes of S3. s3fs makes `FileExistsError` of the first one only if the answer names the condition. That of AWS
# does, that of MinIO does not. The second one asks to try again: another write of the same key was under way.
PRECONDITION_FAILED, CONFLICT = "PreconditionFailed", "ConditionalRequestConflict"
CONFLICT_TRIES = 5
CONFLICT_WAIT_S = 0.2  # after the first try; twice as long after each other one

Result = TypeVar("Result")


class ReplacedError(OSError):
    """An object does not have the etag that was asked for."""


class S3(s3_listing.S3, Protocol):
    """The part of s3fs that is used here."""

    loop: asyncio.AbstractEventLoop
    retries: int

    def _call_s3(self, method: str, **request: Any) -> Awaitable[dict[str, Any]]: ...

    def pipe_file(self, path: str, data: bytes, mode: str) -> dict[str, Any] | None:
        """Writes an object; `mode` "create" only if there is none."""


@dataclass(frozen=True, slots=True)
class _Range:
    """Bytes of an object, its whole size, and its etag."""

    data: bytes
    size: int
    etag: str


def find_object(fs: S3, path: str) -> dict[str, Any] | None:
    """Returns an object as fsspec describes files; None if there is none of exactly that key. One HEAD."""
    bucket, _, key = path.partition("/")
    try:
        found = fs.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return None
    known = {name: found.get(name) for name in ("ETag", "LastModified")}
    return {"name": path, "type": "file", "size": found["ContentLength"], **known}


def read_object(fs: S3, path: str) -> bytes:
    """Returns the content of an object. One GET."""
    return _get(fs, path).data


def read_range(fs: S3, path: str, start: int, size: int, version: str | None) -> bytes:
    """Returns a range of an object of this version (its etag without quotes; None: any). One GET."""
    return _get(fs, path, start, size, _quoted(version)).data


def read_end(fs: S3, path: str, size: int, version: str | None) -> tuple[bytes, int]:
    """Returns the last `size` bytes of an object of this version, or all that it has, and its size. One GET."""
    found = _get(fs, path, -size, None, _quoted(version))
    return found.data, found.size


def open_object(fs: S3, path: str) -> IO[bytes]:
    """Opens an object for reading, seekable. One GET for an object of at most `FIRST_BYTES`."""
    first = _get(fs, path, 0, FIRST_BYTES)
    if len(first.data) >= first.size:
        return io.BytesIO(first.data)

    def read_range(start: int, size: int) -> bytes:
        found = _get(fs, path, start, size, first.etag).data
        if len(found) != size:
            raise OSError(f"{len(found)} of {size} bytes from {start} came")
        return found

    raw = RangeReader(first.size, read_range, held=first.data)
    return cast(IO[bytes], io.BufferedReader(raw, BUFFER_BYTES))


def copy_object(
    fs: S3, path: str, sink: IO[bytes], start: int = 0, size: int | None = None, version: str | None = None
) -> int:
    """Writes an object, or a range of it, to a file and returns the number of bytes. One GET, whatever the size.

    A body that breaks off is continued where it ended.

    Args:
        fs: s3fs's file system.
        path: The object.
        sink: The file; gets the bytes at its position.
        start: First byte.
        size: Number of bytes; None for all that follow. At the end of the object there may be fewer.
        version: Version that the object must have, its etag without quotes; None: any.
    """
    begin, etag = sink.tell(), _quoted(version)

    async def copy() -> None:
        nonlocal etag
        done = sink.tell() - begin
        request = {"IfMatch": etag} if etag else {}
        if start or done or size is not None:
            request["Range"] = f"bytes={start + done}-{'' if size is None else start + size - 1}"
        answer = await _request(fs, path, request)
        etag = answer["ETag"]
        body, left = answer["Body"], answer["ContentLength"]
        try:
            while data := await body.read(COPY_BYTES):
                sink.write(data)
                left -= len(data)
        finally:
            body.close()
        if left:
            raise OSError(f"the body ended {left} bytes too early")

    _with_retries(fs, copy)
    return sink.tell() - begin


def create_object(fs: S3, path: str, data: bytes) -> str | None:
    """Writes an object if there is none of that key. Returns its etag; None if it was sent in pieces.

    Raises:
        FileExistsError: There is one.
        OSError: It could not be written.
    """
    try:
        answer = _without_conflict(lambda: fs.pipe_file(path, data, mode="create"))
    except OSError as error:
        if _has_code(error, PRECONDITION_FAILED):
            raise FileExistsError(path) from error
        raise
    return answer.get("ETag") if isinstance(answer, dict) else None


def replace_object(fs: S3, path: str, old: bytes, new: bytes) -> bool:
    """Writes an object if its content is `old`, by a PUT on the condition of its etag; False if it is another.

    A PUT that fails is looked at again: its answer may have been lost.

    Raises:
        FileNotFoundError: There is no such object.
        OSError: The content is still `old`.
    """
    bucket, _, key = path.partition("/")
    found = _get(fs, path)
    if found.data != old:
        return False
    try:
        _without_conflict(lambda: fs.call_s3("put_object", Bucket=bucket, Key=key, Body=new, IfMatch=found.etag))
    except OSError:  # s3fs has no better word for "412 Precondition Failed"
        now = read_object(fs, path)
        if now == old:
            raise
        return now == new
    return True


def _without_conflict(write: Callable[[], Result]) -> Result:
    """Returns the result of a conditional write, which is repeated while others write the same key."""
    wait_s = CONFLICT_WAIT_S
    for _ in range(CONFLICT_TRIES - 1):
        try:
            return write()
        except OSError as error:
            if not _has_code(error, CONFLICT):
                raise
        time.sleep(wait_s)
        wait_s *= 2
    return write()


def _has_code(error: OSError, code: str) -> bool:
    """Returns whether an error of s3fs has this error code of S3."""
    return code in str(error.__cause__)


def delete_object(fs: S3, path: str) -> None:
    """Deletes an object; nothing happens if there is none. One DELETE."""
    bucket, _, key = path.partition("/")
    fs.call_s3("delete_object", Bucket=bucket, Key=key)


def delete_tree(fs: S3, path: str) -> None:
    """Deletes an object and all below ``path/``. One LIST and one DELETE for each thousand of them."""
    bucket, _, key = path.partition("/")
    below = [found.key for found in s3_listing.walk(fs, path)]
    if not below:
        delete_object(fs, path)
        return
    delete_objects(fs, bucket, [key, *below])


def delete_objects(fs: S3, bucket: str, names: Sequence[str]) -> None:
    """Deletes objects of a bucket by their keys; missing ones are ignored. One DELETE for each thousand."""
    keys = [{"Key": one} for one in names]
    for first in range(0, len(keys), DELETED_AT_ONCE):
        chosen = {"Objects": keys[first : first + DELETED_AT_ONCE], "Quiet": True}
        if errors := fs.call_s3("delete_objects", Bucket=bucket, Delete=chosen).get("Errors"):
            raise OSError(f"{len(errors)} objects are left, such as {errors[0]['Key']}: {errors[0].get('Message')}")


def _get(fs: S3, path: str, start: int = 0, size: int | None = None, etag: str = "") -> _Range:
    """Returns a range of an object; without `size` all of it, or its last `-start` bytes.

    A range beyond the end is empty.
    """
    last = "" if size is None else f"-{start + size - 1}"
    request = {"Range": f"bytes={start}{last}"} if start or last else {}
    if etag:
        request["IfMatch"] = etag

    async def get() -> _Range:
        answer = await _request(fs, path, request)
        try:
            data = await answer["Body"].read()
        finally:
            answer["Body"].close()
        whole = answer.get("ContentRange", "").rpartition("/")[2] or answer["ContentLength"]
        return _Range(data, int(whole), answer["ETag"])

    try:
        return _with_retries(fs, get)
    except OSError as error:
        if size is not None and not start and "InvalidRange" in str(error.__cause__):  # an empty object has no range
            return _Range(b"", 0, "")
        raise


def _quoted(version: str | None) -> str:
    """Returns the etag of a version as S3 writes it; empty for None."""
    return f'"{version}"' if version else ""


async def _request(fs: S3, path: str, request: dict[str, str]) -> dict[str, Any]:
    bucket, _, key = path.partition("/")
    try:
        return await fs._call_s3("get_object", Bucket=bucket, Key=key, **request)
    except OSError as error:
        if _has_code(error, PRECONDITION_FAILED):  # the etag does not match
            raise ReplacedError("the object was replaced while it was read") from error
        raise


def _with_retries(fs: S3, work: Callable[[], Awaitable[Result]]) -> Result:
    """Runs `work` on the loop of the file system; again if a body breaks off. s3fs repeats requests itself."""
    from s3fs.core import S3_RETRYABLE_ERRORS  # type: ignore[import-untyped]

    async def run() -> Result:
        for attempt in range(1, fs.retries):
            try:
                return await work()
            except S3_RETRYABLE_ERRORS:
                await asyncio.sleep(min(1.7**attempt * 0.1, MAX_WAIT_S))
        return await work()

    return cast(Result, sync(fs.loop, run))
