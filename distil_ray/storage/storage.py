"""`Storage`: reads, lists and writes files on local disks, in object stores and on web servers, through fsspec.

A URI is an absolute local path or ``scheme://…``. Files are written whole: the bytes are collected in memory or in a
local file (`create`) and stored with one call, because s3fs commits what was written so far when an exception leaves an
open file. `put_if_absent` writes a file only if there is none of that name, `replace_if_unchanged` only if its content
is the expected one. Both are atomic on local disks (`atomic_files.py`) and on S3.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec

from distil_ray.config import StorageConfig
from distil_ray.errors import DistilRayError, ErrorKind, SettingsError
from distil_ray.storage import atomic_files, local_files, s3_listing, s3_objects
from distil_ray.storage.entries import Entry, ListedPage, described_entry, local_entry, object_entries
from distil_ray.storage.file_systems import open_file_system
from distil_ray.storage.http import has_ranges, retry_delay_s, translate_http_error
from distil_ray.storage.range_reader import RangeReader
from distil_ray.storage.storage_errors import (
    ChangedError,
    MissingError,
    StorageError,
    explain_error,
    is_missing,
    storage_errors,
    without_secrets,
)
from distil_ray.storage.uris import is_encoded, is_http, is_remote

COPY_BYTES = 1 << 20  # bytes copied at once by `fetch`
RANGE_BYTES = 1 << 24  # bytes that `copy_range` asks for at once, and holds
UPLOAD_BYTES = 16 << 20  # bytes of a large file that are sent to S3 at once
UPLOADS = 2  # of these in memory
END_BYTES = 64 << 10  # of a file whose size is not known; Arrow reads as much of a Parquet file first
PAGES = ("text/html", "application/xhtml+xml")  # what servers show of folders

Result = TypeVar("Result")


def _pass_over(path: str, kind: str) -> None:
    """Ignores a special file; the default of `on_special`."""


class Storage:
    """Reads and writes with the run's storage settings. Cheap to make and to pickle; connections are shared."""

    def __init__(self, config: StorageConfig | None = None) -> None:
        self.config = config or StorageConfig()

    def list_files(self, uri: str, on_special: local_files.Special = _pass_over) -> Iterator[Entry]:
        """Yields every file below a folder, streamed, so that what lies below one folder comes in one piece, by name.

        On local disks links are followed, each real folder once; one that leads nowhere is an entry without a size, and
        special files are passed to `on_special` (path, kind) instead (`local_files.py`). Nothing for a folder that
        is not there; `StorageError` for one that cannot be listed, because a listing that quietly lacked a part
        could not be accounted for (fsspec's own walk leaves out what fails below the top).
        """
        with suppress(MissingError), storage_errors("list", uri):
            if not is_remote(uri):
                yield from (local_entry(*found) for found in local_files.walk(uri, on_special))
                return
            fs, path = self._open(uri)
            if hasattr(fs, "call_s3"):
                yield from object_entries(uri, path, s3_listing.walk(fs, path))
                return
            for info in _list_folders(fs, path):
                yield described_entry(uri, info)

    def lists_by_name(self, uri: str) -> bool:
        """Returns whether `list_from` works for a store."""
        return self._is_s3(uri)

    def list_from(self, folder: str, first: str) -> ListedPage:
        """Returns up to a thousand files below a folder by name, from the file `first` on. One request.

        Only where `lists_by_name` returns True. Raises `StorageError` as `list_files`.
        """
        with storage_errors("list", folder):
            fs, path = self._open(folder)
            page = s3_listing.page_from(fs, path, self._open(first)[1])
            return ListedPage(list(object_entries(folder, path, page.objects)), page.next_token is None)

    def glob(self, pattern: str, on_special: local_files.Special = _pass_over) -> Iterator[Entry]:
        """Yields the files that match a pattern (``*``, ``**``, ``?``, ``[…]``), sorted; else as `list_files`."""
        with storage_errors("list", pattern):
            if not is_remote(pattern):
                yield from (local_entry(*found) for found in local_files.glob(pattern, on_special))
                return
            fs, path = self._open(pattern)
            if hasattr(fs, "call_s3"):
                yield from object_entries(pattern, path, s3_listing.glob(fs, path))
                return
            found = cast(dict[str, dict[str, Any]], fs.glob(path, detail=True))
            for name in sorted(found):
                if found[name].get("type") != "directory":
                    yield described_entry(pattern, found[name])

    def stat(self, uri: str) -> Entry | None:
        """Returns the file, or None if there is none of that name: also where something other than a file is
        (`special_kind`), and for a name in a store that ends with a slash, as only folders' do."""
        if uri.endswith("/") and is_remote(uri) and not is_http(uri):
            return None
        fs, path = self._open(uri)
        try:
            if hasattr(fs, "call_s3") and "/" in path:
                found = s3_objects.find_object(fs, path)
                return None if found is None else described_entry(uri, found)
            info = fs.info(path)
        except Exception as error:
            if is_missing(translate_http_error(error)):
                return None
            raise explain_error("look at", uri, error) from without_secrets(uri, error)
        return None if info["type"] in ("directory", "other") else described_entry(uri, info)

    def special_kind(self, uri: str) -> str | None:
        """Returns the kind of a local path that is neither file nor folder, such as ``FIFO``; else None."""
        return None if is_remote(uri) else local_files.special_kind(uri)

    def is_folder(self, uri: str) -> bool:
        """Returns True for a folder; for an http(s) URL, True if the server answers with an HTML page."""
        fs, path = self._open(uri)
        with storage_errors("look at", uri):
            with suppress(FileNotFoundError):
                if hasattr(fs, "call_s3") and "/" in path:
                    return s3_listing.is_folder(fs, path)
                if not is_http(uri):
                    return bool(fs.isdir(path))
                return fs.info(path).get("mimetype") in PAGES
            return False

    def read(self, uri: str) -> bytes:
        """Returns the content of a file."""
        with storage_errors("read", uri):
            if not is_remote(uri):
                with local_files.open_file(uri) as file:
                    return file.read()
            fs, path = self._open(uri)
            if hasattr(fs, "call_s3"):
                return s3_objects.read_object(fs, path)
            return cast(bytes, fs.cat_file(path))

    def open(self, uri: str) -> IO[bytes]:
        """Opens a file for reading, seekable; from a server without range requests, a copy on the local disk.

        Raises:
            StorageError: NOT_AUDIO for anything but a regular file, which is not opened.
        """
        with storage_errors("read", uri):
            if not is_remote(uri):
                return local_files.open_file(uri)
            fs, path = self._open(uri)
            if is_http(uri) and not has_ranges(fs, path):
                copy = tempfile.NamedTemporaryFile(prefix="distil-ray-")  # noqa: SIM115, the reader closes it
                self._fetch_web(uri, copy.name)
                return cast(IO[bytes], copy)
            return s3_objects.open_object(fs, path) if hasattr(fs, "call_s3") else cast(IO[bytes], fs.open(path, "rb"))

    def open_for_seeking(self, entry: Entry) -> IO[bytes]:
        """Opens a listed file of which only parts are read. See `range_reader.py`.

        Where `has_conditional_reads`, every read names the entry's version, and the size of the entry may be None: it
        comes with the first read, of the end of the file.

        Raises:
            ChangedError: The file has another version; also by reads.
            StorageError: As `open`; also by reads.
        """
        uri, size = entry.uri, entry.size
        version = entry.version if is_remote(uri) and self.has_conditional_reads(uri) else None
        if not is_remote(uri) or (size is None and version is None):
            return self.open(uri)

        def read_range(start: int, length: int) -> bytes:
            return self.read_range(uri, start, length, version)

        def copy_range(start: int, length: int, sink: IO[bytes]) -> None:
            self.copy_range(uri, start, length, sink, version)

        held, held_start = b"", 0
        if size is None:
            held, size = self._read_object(uri, lambda fs, path: s3_objects.read_end(fs, path, END_BYTES, version))
            held_start = size - len(held)
        return cast(IO[bytes], RangeReader(size, read_range, copy_range, held, held_start))

    def fetch(self, uri: str, target: str | Path) -> int:
        """Copies a file to a local path in pieces of `COPY_BYTES` and returns its size in bytes.

        A body that ends before the size the store promised is a STORAGE error, never a shorter file.
        """
        if is_http(uri):
            return self._fetch_web(uri, target)
        if is_remote(uri) and hasattr((found := self._open(uri))[0], "call_s3"):
            with storage_errors("read", uri), open(target, "wb") as sink:
                return s3_objects.copy_object(*found, sink)
        with storage_errors("read", uri), self.open(uri) as source, open(target, "wb") as sink:
            shutil.copyfileobj(source, sink, COPY_BYTES)
            size = sink.tell()
        expected = getattr(source, "size", None)
        if expected is not None and size != expected:
            raise StorageError(ErrorKind.STORAGE, f"{uri}: {size} of {expected} bytes came")
        return size

    def _fetch_web(self, uri: str, target: str | Path) -> int:
        """Fetches without range requests; starts again if the body ends early."""
        fs, path = self._open(uri)
        for attempt in range(1, self.config.max_attempts + 1):
            try:
                with storage_errors("read", uri):
                    fs.get_file(path, str(target))
                break
            except StorageError as error:
                if error.kind is not ErrorKind.STORAGE or attempt == self.config.max_attempts:
                    raise
                time.sleep(retry_delay_s(attempt))
        return Path(target).stat().st_size

    def read_range(self, uri: str, start: int, size: int, version: str | None = None) -> bytes:
        """Returns `size` bytes from `start`.

        Args:
            uri: The file.
            start: First byte.
            size: Number of bytes.
            version: Version that the file must have; only where `has_conditional_reads`.

        Raises:
            ChangedError: The file has another version.
            StorageError: STORAGE if the range ends before that.
        """
        if version is not None and size:
            found = self._read_object(uri, lambda fs, path: s3_objects.read_range(fs, path, start, size, version))
        else:
            with storage_errors("read", uri):
                found = self._read_range(uri, start, size) if size else b""
        if len(found) != size:
            raise StorageError(ErrorKind.STORAGE, f"{uri}: {len(found)} of {size} bytes from {start} came")
        return found

    def _read_range(self, uri: str, start: int, size: int) -> bytes:
        if not is_remote(uri):
            with local_files.open_file(uri) as file:
                file.seek(start)
                return file.read(size)
        fs, path = self._open(uri)
        return cast(bytes, fs.cat_file(path, start=start, end=start + size))

    def fetch_range(self, uri: str, start: int, size: int, target: str | Path, version: str | None = None) -> None:
        """Copies `size` bytes from `start` to a local path; see `copy_range`."""
        with storage_errors("read", uri), open(target, "wb") as sink:
            self.copy_range(uri, start, size, sink, version)

    def copy_range(self, uri: str, start: int, size: int, sink: IO[bytes], version: str | None = None) -> None:
        """Writes `size` bytes from `start` to the local file `sink`, piece by piece; otherwise as `read_range`.

        From S3 they come with one request.
        """
        if size and self.has_conditional_reads(uri):
            copied = self._read_object(
                uri, lambda fs, path: s3_objects.copy_object(fs, path, sink, start, size, version)
            )
            if copied != size:
                raise StorageError(ErrorKind.STORAGE, f"{uri}: {copied} of {size} bytes from {start} came")
            return
        for begin in range(start, start + size, RANGE_BYTES):
            sink.write(self.read_range(uri, begin, min(RANGE_BYTES, start + size - begin)))

    def _read_object(self, uri: str, read: Callable[[Any, str], Result]) -> Result:
        """Returns what `read` returns for an object of S3, given its file system and its path there."""
        with storage_errors("read", uri):
            try:
                return read(*self._open(uri))
            except s3_objects.ReplacedError as error:
                raise ChangedError(ErrorKind.STORAGE, f"cannot read {uri}: {error}") from error

    def has_conditional_reads(self, uri: str) -> bool:
        """Returns whether a read can name the version that the file must have, which spares a look at it before."""
        return self._is_s3(uri)

    def _is_s3(self, uri: str) -> bool:
        return is_remote(uri) and hasattr(self._open(uri)[0], "call_s3")

    def put(self, uri: str, data: bytes) -> None:
        """Writes a whole file, replacing an existing one."""
        fs, path = self._open(uri)
        with storage_errors("write", uri):
            if is_remote(uri):
                fs.pipe_file(path, data)
            else:
                atomic_files.put(path, data, replace=True)

    def put_if_absent(self, uri: str, data: bytes) -> bool:
        """Writes a file whole if there is none of that name; False if there is one, which stays as it is.

        A remote file that holds these very bytes counts as written now: the store may have done what it was asked for
        while its answer was lost, and the next try then finds its own work. Claims must differ between claimants.
        """
        return self.create_if_absent(uri, data) is not None

    def create_if_absent(self, uri: str, data: bytes) -> Entry | None:
        """As `put_if_absent`, but returns the file as a listing will show it; None if there is one already.

        The version is None where the store does not tell it in its answer.
        """
        fs, path = self._open(uri)
        version = None
        try:
            with storage_errors("write", uri):
                if hasattr(fs, "call_s3"):
                    version = s3_objects.create_object(fs, path, data)
                elif is_remote(uri):
                    fs.pipe_file(path, data, mode="create")
                else:
                    atomic_files.put(path, data, replace=False)
        except FileExistsError:
            return Entry(uri, len(data), None) if is_remote(uri) and self._holds(uri, data) else None
        return Entry(uri, len(data), version.strip('"') if version else None)

    @contextmanager
    def create(self, uri: str) -> Iterator[IO[bytes]]:
        """A local file to write to, whatever its size; it becomes `uri`, whole, when the block has ended.

        An exception inside the block leaves at `uri` what stood there.
        """
        fs, path = self._open(uri)
        try:
            if not is_remote(uri):
                with atomic_files.create(path, replace=True) as file:
                    yield file
                return
            with tempfile.NamedTemporaryFile(prefix="distil-ray-") as file:
                yield file
                file.flush()
                with storage_errors("write", uri):
                    _upload(fs, file.name, path)
        except DistilRayError:
            raise
        except OSError as error:
            raise explain_error("write", uri, error) from error

    def _holds(self, uri: str, data: bytes) -> bool:
        found = self.stat(uri)
        return found is not None and found.size == len(data) and self.read(uri) == data

    def replace_if_unchanged(self, uri: str, old: bytes, new: bytes) -> bool:
        """Writes a file whole if its content is `old`; False if it is not, or if there is no such file.

        Only local disks and S3 support the condition. On other stores a concurrent write between reading and writing is
        overwritten.
        """
        fs, path = self._open(uri)
        with storage_errors("replace", uri):
            try:
                if not is_remote(uri):
                    return atomic_files.replace_if_unchanged(path, old, new)
                swap = s3_objects.replace_object if hasattr(fs, "call_s3") else _swap_unguarded
                return swap(fs, path, old, new)
            except FileNotFoundError:
                return False

    def arrow_filesystem(self, uri: str) -> tuple[Any, str]:
        """Returns this store as a pyarrow file system, and the path of `uri` in it."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        fs, path = self._open(uri)
        return PyFileSystem(FSSpecHandler(fs)), path

    def delete(self, uri: str) -> None:
        """Removes a file or a whole folder; nothing happens if there is none."""
        fs, path = self._open(uri)
        with suppress(FileNotFoundError), storage_errors("delete", uri):
            if hasattr(fs, "call_s3") and "/" in path:
                s3_objects.delete_tree(fs, path)
            else:
                fs.rm(path, recursive=True)

    def delete_file(self, uri: str) -> None:
        """Removes a file; nothing happens if there is none. In S3 it takes one request, `delete` at least two."""
        fs, path = self._open(uri)
        with suppress(FileNotFoundError), storage_errors("delete", uri):
            if hasattr(fs, "call_s3"):
                s3_objects.delete_object(fs, path)
            else:
                fs.rm_file(path)

    def delete_files(self, uris: Sequence[str]) -> None:
        """Removes files of one bucket or disk; missing ones are ignored. In S3 one request for a thousand of them."""
        if uris and is_remote(uris[0]):
            fs, path = self._open(uris[0])
            if hasattr(fs, "call_s3"):
                bucket, _, _ = path.partition("/")
                keys = [self._open(uri)[1].partition("/")[2] for uri in uris]
                with storage_errors("delete", uris[0]):
                    s3_objects.delete_objects(fs, bucket, keys)
                return
        for uri in uris:
            self.delete_file(uri)

    def check_scheme(self, uri: str) -> None:
        """Raises `SettingsError` for a scheme that no installed package supports. Sends no request."""
        self._open(uri)

    def _open(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        scheme = uri.split("://", 1)[0] if is_remote(uri) else "file"
        try:
            fs = open_file_system(scheme, self.config, encoded=is_encoded(uri))
        except (ValueError, ImportError) as error:
            raise SettingsError(
                f"{uri}: no storage for '{scheme}://' ({error}). Install the fsspec package for it."
            ) from error
        return fs, cast(str, fs._strip_protocol(uri))


def _list_folders(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[dict[str, Any]]:
    """The files below a folder; a folder's own come before those of its folders."""
    folders = [path]
    while folders:
        folder = folders.pop()
        try:
            infos = sorted(fs.ls(folder, detail=True), key=lambda info: cast(str, info["name"]))
        except FileNotFoundError:  # never there, or gone since its parent was listed
            continue
        below = [info for info in infos if info["name"] != folder]  # a file lists itself
        folders.extend(info["name"] for info in reversed(below) if info["type"] == "directory")
        yield from (info for info in below if info["type"] != "directory")


def _upload(fs: fsspec.AbstractFileSystem, local: str, path: str) -> None:
    """A file of any size in the memory of a few pieces; s3fs's own default is ten of 50 MB."""
    pieces = {"chunksize": UPLOAD_BYTES, "max_concurrency": UPLOADS} if hasattr(fs, "call_s3") else {}
    fs.put_file(local, path, **pieces)


def _swap_unguarded(fs: fsspec.AbstractFileSystem, path: str, old: bytes, new: bytes) -> bool:
    if fs.cat_file(path) != old:
        return False
    fs.pipe_file(path, new)
    return True
