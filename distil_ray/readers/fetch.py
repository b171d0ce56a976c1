"""The bytes of recordings, brought to this node's disk: one after the other, the next ones meanwhile.

A recording that stands alone is a file, or a range of one, and is fetched by itself. Of a unit (places.py) what is
shared is read once. A file on a local disk stays where it is. Nothing is raised for what is missing or forbidden: the
recording's place in the row is taken by the reason. Of a remote WAV a few segments are fetched alone (wav_parts.py).
A read that gives nothing for a time fails its recordings alone: its thread is left to itself.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from threading import Thread

from distil_ray.errors import ErrorKind
from distil_ray.readers import hf_datasets, parquet
from distil_ray.readers.location import is_unchanged, read_unit_key
from distil_ray.readers.tar_index import extract_members
from distil_ray.readers.wav_ranges import fetch_wav_ranges
from distil_ray.storage.storage import Storage, StorageError, is_remote
from distil_ray.types import Recording

MAX_CACHED_ENTRIES = 1024  # archives of a task that are looked at once
DEFAULT_TIMEOUT_S = 60.0  # without a byte of a recording, unless the caller says otherwise
FetchResult = Path | StorageError  # a recording's file on this node's disk, or why it could not be had


def prefetch_files(
    recordings: Sequence[Recording],
    uris_with_credentials: Mapping[int, str],
    folder: Path,
    storage: Storage,
    threads: int,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> Iterator[FetchResult]:
    """The file of each recording, in order; the next `threads` are fetched meanwhile.

    `whole_uris`: by row, the URIs of those whose own is written without its credentials. What is copied lies in
    `folder`, which nobody else uses, and is removed when the recordings behind it are asked for. `timeout_s`: seconds
    without a byte after which a file is given up; a remote one has the time of all tries of a request beside it.
    """
    whole = [replace(one, uri=uris_with_credentials.get(row, one.uri)) for row, one in enumerate(recordings)]
    waiting: deque[tuple[Future[FetchResult], _Unit]] = deque()
    todo = _in_units(whole, folder, _Store(storage), timeout_s)
    before: Future[FetchResult] | None = None
    held: Path | None = None
    try:
        while True:
            while len(waiting) < threads and (found := next(todo, None)) is not None:
                unit, is_first = found
                before = unit.start(None if is_first else before)
                waiting.append((before, unit))
            if not waiting:
                break
            future, unit = waiting.popleft()
            fetched = unit.result(future)
            if held is not None and held != fetched:
                held.unlink(missing_ok=True)
            held = fetched if isinstance(fetched, Path) and fetched.parent == folder else None
            yield fetched
    finally:  # a caller that gives up removes the folder
        wait_for([future for future, unit in waiting if unit.failure is None], timeout_s)


class _Store:
    """The storage, and what of the archives there has been looked at already."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._look = lru_cache(MAX_CACHED_ENTRIES)(storage.stat)

    def require_unchanged(self, recording: Recording) -> None:
        """A part's place is that of one version of its archive: in another there lies something else, which may well
        sound like speech. Raises `StorageError`."""
        if recording.source_version is None:
            return
        entry = self._look(recording.uri)
        if entry is None or not is_unchanged(recording, entry):
            kind = ErrorKind.NOT_FOUND if entry is None else ErrorKind.STORAGE
            raise StorageError(kind, f"{recording.uri}: is not what was listed any more; the next run lists it anew")


class _Unit:
    """Recordings that are read together, one after the other, each in a thread. `failure`: why no more is waited
    for."""

    def __init__(self, recordings: Sequence[Recording], target: Path, store: _Store, timeout_s: float) -> None:
        self.failure: StorageError | None = None
        self._uri = recordings[0].uri
        self._target = target
        self._reader = _read(recordings, target, store)
        self._limit_s: float | None = timeout_s
        if _is_packed(recordings[0]):
            self._limit_s = None  # what lies before a member is read too, and leaves no trace
        elif is_remote(self._uri):
            self._limit_s = timeout_s + store.storage.config.max_attempts * store.storage.config.timeout_s

    def start(self, before: "Future[FetchResult] | None") -> "Future[FetchResult]":
        """Reads the next file, once the one `before` it has come: readers are not for several threads."""
        future: Future[FetchResult] = Future()

        def read() -> None:
            try:
                if before is not None:
                    before.result()
                future.set_result(next(self._reader))
            except BaseException as error:
                future.set_exception(error)

        Thread(target=read, name="fetch", daemon=True).start()  # a thread that hangs does not hold the process
        return future

    def result(self, future: "Future[FetchResult]") -> FetchResult:
        """What was read; or the failure, if for too long nothing came."""
        size = self._bytes_here()
        while self.failure is None:
            try:
                return future.result(self._limit_s)
            except TimeoutError:
                if (now := self._bytes_here()) == size:
                    words = (
                        f"{self._uri}: reading it gave nothing for {self._limit_s:g} s (resources.decoder_timeout_s)"
                    )
                    self.failure = StorageError(ErrorKind.STORAGE, words)
                size = now
        return self.failure

    def _bytes_here(self) -> int:
        return self._target.stat().st_size if self._target.exists() else 0


def _in_units(
    recordings: Sequence[Recording], folder: Path, store: _Store, timeout_s: float
) -> Iterator[tuple[_Unit, bool]]:
    """For each recording the unit whose next file is its own, and whether it is the unit's first."""
    numbered = enumerate(recordings)
    for _, members in groupby(numbered, key=lambda pair: read_unit_key(pair[1]) or pair[0]):
        together = list(members)
        target = folder / f"{together[0][0]:06d}"
        unit = _Unit([recording for _, recording in together], target, store, timeout_s)
        for index in range(len(together)):
            yield unit, index == 0


def _is_packed(recording: Recording) -> bool:
    """Whether it is a member of a compressed archive or a cell of a table."""
    place = recording.location
    return place is not None and place.member is not None and place.byte_start is None


def _read(unit: Sequence[Recording], target: Path, store: _Store) -> Iterator[FetchResult]:
    """The files of a unit's recordings, in order; `target` is where they may be put, with a suffix or without."""
    if unit[0].error is not None:
        yield from (_known_to_be_lost(recording) for recording in unit)
    elif _is_packed(unit[0]):
        yield from _parts(unit, target, store)
    else:
        fetched = _some_of_a_wav(unit, target, store.storage) or _file(unit[0], target, store)
        for _ in unit:
            yield fetched


def _parts(unit: Sequence[Recording], target: Path, store: _Store) -> Iterator[FetchResult]:
    """Members of a compressed archive, or cells of a table, one after the other as they are read."""
    try:
        store.require_unchanged(unit[0])
        is_row = unit[0].location is not None and unit[0].location.row_group is not None
        of_table = (
            hf_datasets.extract_cells if unit[0].uri.endswith(hf_datasets.ARROW_EXTENSION) else parquet.extract_cells
        )
        yield from (of_table if is_row else extract_members)(unit, target, store.storage)
        return
    except StorageError as error:
        failed = error
    except OSError as error:  # this node's own disk
        failed = StorageError(ErrorKind.STORAGE, f"{unit[0].uri}: cannot be unpacked to {target.parent}: {error}")
    while True:  # for those of the unit that did not come
        yield failed


def _some_of_a_wav(unit: Sequence[Recording], target: Path, storage: Storage) -> Path | None:
    """A file with as much of a remote WAV as its segments need, if that can be had."""
    with suppress(StorageError, OSError):  # fetching all of it will say what is wrong, or get past it
        if fetch_wav_ranges(unit, target, storage):
            return target
    return None


def _known_to_be_lost(recording: Recording) -> StorageError:
    return StorageError(ErrorKind(recording.error_kind or ErrorKind.INTERNAL), recording.error or "")


def _file(recording: Recording, target: Path, store: _Store) -> FetchResult:
    """A file, or a range of it."""
    uri, place, storage = recording.uri, recording.location, store.storage
    try:
        if place is not None and place.byte_start is not None:
            store.require_unchanged(recording)
            storage.fetch_range(uri, place.byte_start, place.num_bytes or 0, target)
            return target
        if is_remote(uri):
            storage.fetch(uri, target)
            return target
        with storage.open(uri):  # says now, in the store's words, that it is missing, forbidden or no regular file
            return Path(uri)
    except StorageError as error:
        return error
    except OSError as error:  # this node's own disk
        return StorageError(ErrorKind.STORAGE, f"{uri}: cannot be copied to {target.parent}: {error}")
