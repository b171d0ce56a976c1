"""Brings the audio of recordings to the local disk, with prefetching.

A recording that is a whole file is fetched by itself. Recordings of one unit (`location.read_unit_key`) share a read:
members of a compressed archive, rows of a row group, segments of a file. Byte ranges of a remote file that are close to
each other, such as members of a plain tar, are read with one request (`byte_ranges`). A file on a local disk is read in
place. Of a remote WAV only the segments may be fetched (`wav_ranges`).

A file that cannot be read raises nothing: its recordings get the error in place of a file. A read that makes no
progress for a time fails its own recordings only; its thread is abandoned.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import Lock, Thread

from distil_ray.errors import ErrorKind
from distil_ray.readers import hf_datasets, parquet
from distil_ray.readers.byte_ranges import cut_range, group_ranges
from distil_ray.readers.location import byte_range_file, is_unchanged, listed_file_version, read_unit_key
from distil_ray.readers.tar_index import extract_members
from distil_ray.readers.wav_ranges import fetch_wav_ranges
from distil_ray.storage.entries import Entry
from distil_ray.storage.range_reader import ByteRange
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import ChangedError, MissingError, StorageError
from distil_ray.storage.uris import is_remote
from distil_ray.types import Recording

MAX_CACHED_ENTRIES = 1024  # archives whose version is checked only once
DEFAULT_TIMEOUT_S = 60.0  # without progress
FetchResult = Path | StorageError  # local file of a recording, or why it cannot be fetched


def prefetch_files(
    recordings: Sequence[Recording],
    uris_with_credentials: Mapping[int, str],
    folder: Path,
    storage: Storage,
    threads: int,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[FetchResult]:
    """Yields the local file of each recording, in order, while the next files are fetched.

    Args:
        recordings: The recordings; those of one unit follow one another.
        uris_with_credentials: By position in `recordings`, the URI to use where the recording's own is stored without
            its credentials.
        folder: Folder for copies, used by nobody else. A copy is removed when the next file is asked for.
        storage: Where the recordings lie.
        threads: Number of files that are fetched in parallel.
        timeout_s: Seconds without a new byte after which a file is given up. A remote file also has the time of all
            attempts of one request.
    """
    complete = [replace(one, uri=uris_with_credentials.get(row, one.uri)) for row, one in enumerate(recordings)]
    pending: deque[tuple[Future[FetchResult], _Unit]] = deque()
    remaining = _iter_units(complete, folder, _VersionChecker(storage), timeout_s)
    previous: Future[FetchResult] | None = None
    copy: Path | None = None
    try:
        while True:
            while len(pending) < threads and (item := next(remaining, None)) is not None:
                unit, is_first = item
                previous = unit.start(None if is_first else previous)
                pending.append((previous, unit))
            if not pending:
                break
            future, unit = pending.popleft()
            fetched = unit.result(future)
            if copy is not None and copy != fetched:
                copy.unlink(missing_ok=True)
            copy = fetched if isinstance(fetched, Path) and fetched.parent == folder else None
            yield fetched
    finally:  # a caller that stops early removes the folder, which no thread may use then
        wait_for([future for future, unit in pending if unit.failure is None], timeout_s)


class _VersionChecker:
    """Checks, once for each archive, that it has not changed since it was listed."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._stat = lru_cache(MAX_CACHED_ENTRIES)(storage.stat)
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)  # else all threads would ask for the first version

    def find_unchanged(self, recording: Recording) -> Entry:
        """Returns the file of a recording. Raises `StorageError` if it is gone or has changed.

        The location of a part is valid for one version of its archive. In another version there are other bytes, which
        may well decode as speech.
        """
        with self._locks[recording.uri]:
            entry = self._stat(recording.uri)
        if entry is None and recording.source_version is None:
            raise MissingError(ErrorKind.NOT_FOUND, f"{recording.uri}: no such file")
        if entry is None or (recording.source_version is not None and not is_unchanged(recording, entry)):
            raise _changed(recording, ErrorKind.NOT_FOUND if entry is None else ErrorKind.STORAGE)
        return entry

    def find_listed(self, recording: Recording) -> Entry:
        """Returns the file of a recording as it was listed, if reads of it name that version; else as above."""
        version = listed_file_version(recording)
        if version is None or not self.storage.has_conditional_reads(recording.uri):
            return self.find_unchanged(recording)
        return Entry(recording.uri, None, version)


def _changed(recording: Recording, kind: ErrorKind = ErrorKind.STORAGE) -> ChangedError:
    return ChangedError(kind, f"{recording.uri}: has changed since it was listed; the next run lists it again")


class _Unit:
    """Recordings that are read together, one after the other, each in a thread of its own.

    Attributes:
        failure: Error of a read that timed out; no later result of the unit is waited for.
    """

    def __init__(
        self, recordings: Sequence[Recording], target: Path, checker: _VersionChecker, timeout_s: float
    ) -> None:
        self.failure: StorageError | None = None
        self._uri = recordings[0].uri
        self._target = target
        self._results = _read_unit(recordings, target, checker)
        self._timeout_s: float | None = timeout_s
        if _needs_extraction(recordings[0]):
            self._timeout_s = None  # skipping to a member takes time, during which no file grows
        elif is_remote(self._uri):
            config = checker.storage.config
            self._timeout_s = timeout_s + config.max_attempts * config.timeout_s

    def start(self, previous: "Future[FetchResult] | None") -> "Future[FetchResult]":
        """Fetches the next file in a thread, after `previous`: the files of a unit are read in sequence."""
        future: Future[FetchResult] = Future()

        def read() -> None:
            try:
                if previous is not None:
                    previous.result()
                future.set_result(next(self._results))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=read, name="fetch", daemon=True).start()  # daemon: a hanging thread does not block the exit
        return future

    def result(self, future: "Future[FetchResult]") -> FetchResult:
        """Returns the result of `future`; the failure of the unit after a timeout without progress."""
        written = self._written()
        while self.failure is None:
            try:
                return future.result(self._timeout_s)
            except TimeoutError:
                if (now := self._written()) == written:
                    message = f"{self._uri}: no data for {self._timeout_s:g} s (resources.decoder_timeout_s)"
                    self.failure = StorageError(ErrorKind.STORAGE, message)
                written = now
        return self.failure

    def _written(self) -> tuple[int, int]:
        """Returns size and blocks of the copy. Only the blocks grow where holes are filled (`wav_ranges`)."""
        try:
            found = self._target.stat()
        except FileNotFoundError:  # not yet there, or no longer
            return 0, 0
        return found.st_size, found.st_blocks


def _iter_units(
    recordings: Sequence[Recording], folder: Path, checker: _VersionChecker, timeout_s: float
) -> Iterator[tuple[_Unit, bool]]:
    """Yields, for each recording, its unit and whether it is the first of the unit."""
    for first, members in _group_units(recordings):
        unit = _Unit(members, folder / f"{first:06d}", checker, timeout_s)
        for index in range(len(members)):
            yield unit, index == 0


def _group_units(recordings: Sequence[Recording]) -> Iterator[tuple[int, Sequence[Recording]]]:
    """Yields the recordings of each unit, with the position of the first."""
    numbered = enumerate(recordings)
    for _, group in groupby(numbered, key=lambda pair: read_unit_key(pair[1]) or _remote_range(pair[1]) or pair[0]):
        first, *_ = positions = [position for position, _ in group]
        members = recordings[first : first + len(positions)]
        if _remote_range(members[0]) is None:
            yield first, members
            continue
        for count, _ in group_ranges(list(map(_byte_range, members))):
            yield first, recordings[first : first + count]
            first += count


def _remote_range(recording: Recording) -> tuple[str, str | None] | None:
    """Returns the file, and its version, of a recording that is a byte range of a remote file; else None."""
    uri = byte_range_file(recording)
    return (uri, listed_file_version(recording)) if uri is not None and is_remote(uri) else None


def _byte_range(recording: Recording) -> ByteRange:
    place = recording.location
    if place is None or place.byte_start is None:
        raise ValueError(f"{recording.recording_id} is no byte range")
    return place.byte_start, place.byte_start + (place.num_bytes or 0)


def _needs_extraction(recording: Recording) -> bool:
    """Returns whether a recording is in an archive or table at no known byte range."""
    place = recording.location
    return place is not None and place.member is not None and place.byte_start is None


def _read_unit(unit: Sequence[Recording], target: Path, checker: _VersionChecker) -> Iterator[FetchResult]:
    """Yields the files of a unit in order. `target`: path of the copy; several copies get a suffix."""
    if unit[0].error is not None:
        yield from (_listing_error(recording) for recording in unit)
    elif _needs_extraction(unit[0]):
        yield from _extract(unit, target, checker)
    elif len(unit) > 1 and _remote_range(unit[0]) is not None:
        yield from _fetch_ranges(unit, target, checker)
    else:
        fetched = _fetch_wav_segments(unit, target, checker.storage) or _fetch_file(unit[0], target, checker)
        for _ in unit:
            yield fetched


def _extract(unit: Sequence[Recording], target: Path, checker: _VersionChecker) -> Iterator[FetchResult]:
    """Yields the files of members of a compressed archive, or of rows of a table."""
    uri, place = unit[0].uri, unit[0].location
    find_file = checker.find_unchanged
    if place is None or place.row_group is None:
        extract = extract_members
    elif uri.endswith(hf_datasets.ARROW_EXTENSION):
        extract = hf_datasets.extract_cells
    else:
        extract, find_file = parquet.extract_cells, checker.find_listed
    try:
        yield from extract(unit, target, find_file(unit[0]), checker.storage)
        return
    except ChangedError:
        failure: StorageError = _changed(unit[0])
    except StorageError as error:
        failure = error
    except OSError as error:  # of the local disk
        failure = StorageError(ErrorKind.STORAGE, f"{uri}: cannot be extracted to {target.parent}: {error}")
    while True:  # all remaining recordings of the unit fail with it
        yield failure


def _fetch_ranges(unit: Sequence[Recording], target: Path, checker: _VersionChecker) -> Iterator[FetchResult]:
    """Yields the files of byte ranges of a remote file, which are read at once; one by one where that fails."""
    ranges = list(map(_byte_range, unit))
    begin, end = min(start for start, _ in ranges), max(stop for _, stop in ranges)
    is_whole = True
    try:
        _copy_range(unit[0], begin, end - begin, target, checker)
    except (ChangedError, MissingError) as error:
        yield from (error for _ in unit)
        return
    except (StorageError, OSError):
        is_whole = False
    path, held = target, (0, 0)
    for number, (recording, wanted) in enumerate(zip(unit, ranges, strict=True)):
        if wanted != held:
            path, held = target.with_name(f"{target.name}-{number}"), wanted
            found: FetchResult = path
            try:
                if is_whole:
                    cut_range(target, wanted[0] - begin, wanted[1] - wanted[0], path)
                else:
                    found = _fetch_file(recording, path, checker)
            except OSError as error:
                found = _local_error(recording, path, error)
        if number == len(unit) - 1:
            target.unlink(missing_ok=True)
        yield found


def _copy_range(recording: Recording, start: int, size: int, target: Path, checker: _VersionChecker) -> None:
    """Copies a byte range of a recording's file, which must have the version that was listed."""
    storage, version = checker.storage, None
    if storage.has_conditional_reads(recording.uri):
        version = listed_file_version(recording)
    elif recording.source_version is not None:
        checker.find_unchanged(recording)
    try:
        storage.fetch_range(recording.uri, start, size, target, version)
    except ChangedError as error:
        raise _changed(recording) from error


def _fetch_wav_segments(unit: Sequence[Recording], target: Path, storage: Storage) -> Path | None:
    """Returns a file with the segments of a remote WAV; None if the whole file has to be fetched."""
    with suppress(StorageError, OSError):  # fetching the whole file then reports the error, or succeeds
        if fetch_wav_ranges(unit, target, storage):
            return target
    return None


def _listing_error(recording: Recording) -> StorageError:
    return StorageError(ErrorKind(recording.error_kind or ErrorKind.INTERNAL), recording.error or "")


def _fetch_file(recording: Recording, target: Path, checker: _VersionChecker) -> FetchResult:
    """Fetches a file or a byte range of it."""
    uri, place, storage = recording.uri, recording.location, checker.storage
    try:
        if place is not None and place.byte_start is not None:
            _copy_range(recording, place.byte_start, place.num_bytes or 0, target, checker)
            return target
        if is_remote(uri):
            storage.fetch(uri, target)
            return target
        with storage.open(uri):  # raises if it is missing, forbidden or not a regular file
            return Path(uri)
    except StorageError as error:
        return error
    except OSError as error:
        return _local_error(recording, target, error)


def _local_error(recording: Recording, target: Path, error: OSError) -> StorageError:
    return StorageError(ErrorKind.STORAGE, f"{recording.uri}: cannot be copied to {target.parent}: {error}")
