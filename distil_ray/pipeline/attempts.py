"""Counts the attempts to recognize a part, or one recording of it, in files that outlive a process that dies.

An attempt is a small file in the run's folder. It is stored only if absent, and deleted when the attempt ends with the
process alive. The files that remain are deaths: they show how many there were, on which node, and for a hang the
reason. An attempt whose node is gone was probably the node's death, and does not count against the audio, up to
`MAX_NODE_LOSSES` times.

The count belongs to one attempt of a run: the driver deletes the folder at its end. The module knows neither audio nor
recognizers.
"""

import json
import logging
import os
import socket
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Protocol

from distil_ray.output.run_context import Run
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join

logger = logging.getLogger(__name__)

MAX_NODE_LOSSES = 10  # ignored attempts of the same audio on lost nodes; beyond that the audio may be the cause


class WorkerIdentity(Protocol):
    """Identity of this process in the cluster."""

    def node(self) -> str: ...

    def worker(self) -> str:
        """Returns the actor's id. It stays the same when the actor's process dies and is restarted."""
        ...

    def is_lost(self, node: str) -> bool:
        """Returns True if the cluster has lost that node."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: where and when.

    `reason`, and the time limit that it has reached, are set by a process that ends itself, not by one that is killed.
    """

    node: str
    host: str
    pid: int
    began_at: str
    reason: str | None = None
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Permission for one attempt. `uri` is None if it could not be counted or all attempts are used up."""

    uri: str | None
    attempt: Attempt
    deaths: tuple[Attempt, ...] = ()  # earlier attempts whose process died
    used_up: bool = False


class Attempts:
    """Counts the attempts of a run. After `resources.max_attempts` deaths of the same audio no attempt is granted."""

    def __init__(self, run: Run, identity: WorkerIdentity) -> None:
        self._folder_uri = _attempts_uri(run)
        self._allowed = run.config.resources.max_attempts
        self._storage = run.storage
        self._identity = identity

    def claim(self, key: str) -> Claim:
        """Claims one more attempt of the audio that `key` names. It stores one file more than there are deaths.

        If the storage cannot be written, the attempt is granted without being counted; the write stage will report the
        storage.
        """
        now = datetime.now(UTC).isoformat()  # to the microsecond: no two claims are the same bytes
        mine = Attempt(self._identity.node(), socket.gethostname(), os.getpid(), now)
        deaths: list[Attempt] = []
        try:
            for number in count(1):
                if len(deaths) >= self._allowed:
                    return Claim(None, mine, tuple(deaths), used_up=True)
                uri = join(self._folder_uri, f"{key}.{number}.json")
                if self._storage.put_if_absent(uri, _to_json(mine)):
                    return Claim(uri, mine, tuple(deaths))
                earlier = self._read(uri)
                if earlier and not (number <= MAX_NODE_LOSSES and self._identity.is_lost(earlier.node)):
                    deaths.append(earlier)
        except StorageError as error:
            logger.warning("an attempt could not be counted: %s", error)
        return Claim(None, mine, tuple(deaths))

    def record_reason(self, claim: Claim, reason: str, limit_s: float) -> None:
        """Stores why this process ends, and its time limit, for the processes after it."""
        if claim.uri is not None:
            self._storage.put(claim.uri, _to_json(replace(claim.attempt, reason=reason, limit_s=limit_s)))

    def release(self, claim: Claim) -> None:
        """Deletes the attempt: it ended with the process alive."""
        if claim.uri is None:
            return
        try:
            self._storage.delete_file(claim.uri)
        except StorageError as error:
            logger.warning("an attempt that ended well still counts as a death: %s", error)

    def _read(self, uri: str) -> Attempt | None:
        """Returns an earlier attempt; None if it has just been released."""
        try:
            return Attempt(**json.loads(self._storage.read(uri)))
        except MissingError:
            return None


def _attempts_uri(run: Run) -> str:
    """Returns the folder of a run's attempts."""
    return join(run.folder_uri, "attempts")


def list_attempts(run: Run) -> list[tuple[str, str | None]]:
    """Returns the present attempts as (URI, version), which change with every death. Empty if they cannot be listed."""
    try:
        return sorted((entry.uri, entry.version) for entry in run.storage.list_files(_attempts_uri(run)))
    except StorageError:
        return []


def _to_json(attempt: Attempt) -> bytes:
    return json.dumps(asdict(attempt)).encode()
