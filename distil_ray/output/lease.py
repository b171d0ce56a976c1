"""The lease of an output: one writing run at a time, by a small file that expires.

    OUTPUT/_lease.json    run, host, process, start and end of the lease

The file is created only if absent and replaced only if unchanged (`storage.put_if_absent`,
`storage.replace_if_unchanged`), so that one of two runs gets it. A thread renews it every third of `output.lease_s`. A
crashed run leaves it behind, and the next run takes it over: at once if the process is known to be dead (same machine),
else when the lease has expired by the clock of the reader, which may be wrong by `CLOCK_MARGIN_S`. A run whose lease
was taken by force, or could not be renewed in time, notices at the next renewal and stops; so does one whose file is
gone, as another run may have taken it and ended since. A process that was suspended, whose timers stood still, looks
before its next change of existing files (`Lease.check`).

The lease keeps two runs from doing the same work and removing each other's files. Unique rows do not depend on it: a
task's file is created only if absent, and remaining duplicates are dropped at the end of a run (`ledger_rows.py`).
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from distil_ray.errors import ErrorKind, RunError, SettingsError
from distil_ray.storage.process_identity import Process, parse_process_label, this_process
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join

LEASE = "_lease.json"
CLOCK_MARGIN_S = 30.0  # by which two machines' clocks may differ
MAX_ATTEMPTS = 5  # at taking a lease that other runs change at the same time


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Content of the lease file."""

    run_id: str
    process: Process
    since: datetime
    until: datetime

    def encode(self) -> bytes:
        process = {"host": self.process.host, "pid": self.process.pid, "process": self.process.label}
        times = {"since": self.since.isoformat(), "until": self.until.isoformat()}
        return (json.dumps({"run_id": self.run_id, **process, **times}, indent=2) + "\n").encode()

    @classmethod
    def decode(cls, data: bytes) -> "LeaseHolder":
        """Parses a lease file. Raises ValueError or KeyError for other content."""
        fields = json.loads(data)
        process = parse_process_label(fields["process"])
        if process is None:
            raise ValueError(f"no process: {fields['process']}")
        since, until = (datetime.fromisoformat(fields[name]) for name in ("since", "until"))
        return cls(fields["run_id"], replace(process, host=fields["host"]), since, until)

    def is_expired(self, now: datetime) -> bool:
        return self.process.is_known_dead() or now > self.until + timedelta(seconds=CLOCK_MARGIN_S)

    def __str__(self) -> str:
        since = f"since {self.since:%Y-%m-%d %H:%M:%S} UTC"
        return f"run {self.run_id}, process {self.process.pid} on {self.process.host}, {since}"


class Lease:
    """A lease that this run holds, renewed by a thread.

    Attributes:
        forced_from: The run that lost the lease by force and may still be alive; None otherwise.
    """

    def __init__(
        self,
        uri: str,
        storage: Storage,
        holder: LeaseHolder,
        lease_s: float,
        forced_from: str | None,
        on_lost: Callable[[RunError], object],
    ) -> None:
        self.forced_from = forced_from
        self._uri, self._storage, self._holder, self._lease_s = uri, storage, holder, lease_s
        self._on_lost = on_lost
        self._lost: RunError | None = None
        self._lock = threading.Lock()  # of the holder, while it is renewed
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._renewal.start()

    def check(self) -> None:
        """Raises `RunError` if the lease is lost: another run may be writing. Renews a lease that has expired."""
        if datetime.now(UTC) > self._holder.until:
            self._try_to_renew()
        if self._lost is not None:
            self._ended.set()  # nobody else needs to be told
            raise self._lost

    def release(self) -> None:
        """Ends the renewal and deletes the file. Storage errors are ignored, because the lease expires anyway."""
        self._ended.set()
        self._renewal.join()
        with suppress(StorageError):
            if self._lost is None and self._storage.read(self._uri) == self._holder.encode():
                self._storage.delete_file(self._uri)

    def _keep(self) -> None:
        pause_s = self._lease_s / 3
        while not self._ended.wait(pause_s):
            pause_s = self._lease_s / 3 if self._try_to_renew() else self._lease_s / 30
            if self._lost is not None:
                self._on_lost(self._lost)
                return

    def _try_to_renew(self) -> bool:
        """Renews the lease. Returns False if that fails; it is lost if that lasts until it has expired."""
        with self._lock:
            if self._lost is not None:
                return True
            try:
                self._renew()
                return True
            except Exception as error:  # whatever it is, the lease has not been renewed
                if datetime.now(UTC) > self._holder.until:
                    self._lose(f"could not be renewed in time ({error})")
                return False

    def _renew(self) -> None:
        for _ in range(MAX_ATTEMPTS):
            fresh = replace(self._holder, until=datetime.now(UTC) + timedelta(seconds=self._lease_s))
            if self._storage.replace_if_unchanged(self._uri, self._holder.encode(), fresh.encode()):
                self._holder = fresh
                return
            try:
                found = self._storage.read(self._uri)
            except MissingError:
                self._lose("is gone: another run took it and has ended since, or the file was deleted")
                return
            mine = _decode(found)
            if mine is None or replace(mine, until=self._holder.until) != self._holder:
                self._lose(f"was taken over by {'a file that is not a lease' if mine is None else mine}")
                return
            self._holder = mine  # a renewal whose answer was lost, or stale data
        raise StorageError(ErrorKind.STORAGE, f"{self._uri} changes each time that it is read")

    def _lose(self, what: str) -> None:
        self._lost = RunError(
            f"{self._uri}: the lease of this run {what}. The run has stopped, because only one run may write to an"
            " output. Committed transcripts are kept."
        )


@contextmanager
def acquire_lease(
    output_uri: str,
    run_id: str,
    lease_s: float,
    storage: Storage,
    *,
    force: bool = False,
    on_lost: Callable[[RunError], object] = lambda _: None,
) -> Iterator[Lease]:
    """Holds the lease of an output inside a `with` statement.

    Args:
        output_uri: Normalized URI of the output.
        run_id: The run that takes the lease.
        lease_s: Seconds until the lease expires without renewal.
        storage: Storage of the output.
        force: Take the lease although another run holds it.
        on_lost: Called from the renewing thread when it notices that the lease is lost.

    Raises:
        SettingsError: If another run holds the lease, or the storage fails.
    """
    uri = join(output_uri, LEASE)
    now = datetime.now(UTC)
    mine = LeaseHolder(run_id, this_process(), now, now + timedelta(seconds=lease_s))
    try:
        forced_from = _take(uri, mine, storage, force)
    except StorageError as error:
        raise SettingsError(f"output.uri={output_uri}: {error}") from error
    lease = Lease(uri, storage, mine, lease_s, forced_from, on_lost)
    try:
        yield lease
    finally:
        lease.release()


def read_lease(output_uri: str, storage: Storage) -> LeaseHolder | None:
    """Returns the content of an output's lease; None if there is no valid one. It may have expired."""
    try:
        return _decode(storage.read(join(output_uri, LEASE)))
    except MissingError:
        return None


def _take(uri: str, mine: LeaseHolder, storage: Storage, force: bool) -> str | None:
    """Takes the lease. Returns the run that lost it by force, if any."""
    for _ in range(MAX_ATTEMPTS):
        if storage.put_if_absent(uri, mine.encode()):
            return None
        try:
            found = storage.read(uri)
        except MissingError:  # released meanwhile
            continue
        holder = _decode(found)
        over = holder is not None and holder.is_expired(datetime.now(UTC))
        if not over and not force:
            raise SettingsError(_held_message(uri, holder))
        if storage.replace_if_unchanged(uri, found, mine.encode()):
            return None if over or holder is None else holder.run_id
    raise SettingsError(f"{uri}: several runs try to take this lease at the same time. Start only one of them.")


def _held_message(uri: str, holder: LeaseHolder | None) -> str:
    if holder is None:
        return f"{uri}: not a valid lease. If no run writes to this output, delete the file or use --force."
    until = holder.until + timedelta(seconds=CLOCK_MARGIN_S)
    return (
        f"{uri}: {holder}, writes to this output. Only one run may write to it at a time. Wait until that run"
        f" has ended. If it was killed, the lease expires at {until:%H:%M:%S} UTC; --force takes it over at once."
    )


def _decode(found: bytes) -> LeaseHolder | None:
    """Returns the content of a lease file; None if it is not valid."""
    try:
        return LeaseHolder.decode(found)
    except (ValueError, KeyError, TypeError):
        return None
