"""How often a part, or one recording of it, has been tried in this run: files that outlive the process that dies.

An attempt is a small file under the run's folder, put only if absent, and removed when the attempt ends alive. What is
left are deaths: whoever finds them knows how many there were, where, and for a hang why. An attempt whose node is gone
was probably the node's death and is not held against the audio, up to `EXCUSED` times.

Counted a run, never for ever: the driver deletes the folder at its end. Knows nothing of audio or recognizers.
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
from distil_ray.storage.storage import MissingError, StorageError, join

logger = logging.getLogger(__name__)

MAX_NODE_LOSSES = (
    10  # attempts of the same audio that lost nodes may have cost; beyond that it may be what takes nodes down
)


class WorkerIdentity(Protocol):
    """Where this process runs, as the cluster names it."""

    def node(self) -> str: ...

    def worker(self) -> str:
        """The actor: the same after its process has died and another goes on in its place."""
        ...

    def is_lost(self, node: str) -> bool:
        """Whether the cluster has lost that node."""
        ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who tried, and when. `reason` is written by a process that ends itself; one that is killed has no time to."""

    node: str
    host: str
    pid: int
    began_at: str
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to try once. `uri` is None where nothing could be counted, or the tries are used up."""

    uri: str | None
    attempt: Attempt
    deaths: tuple[Attempt, ...] = ()  # earlier attempts that did not come back
    used_up: bool = False


class Attempts:
    """Counts the attempts of a run; `resources.max_attempts` deaths of the same audio, then no more claims."""

    def __init__(self, run: Run, place: WorkerIdentity) -> None:
        self._folder_uri = _attempts_uri(run)
        self._allowed = run.config.resources.max_attempts
        self._storage = run.storage
        self._place = place

    def claim(self, key: str) -> Claim:
        """One more attempt of what `key` names: a number of puts that is one more than that of earlier deaths.

        A store that cannot be written costs the count, not the work: the commit will have more to say about it.
        """
        now = datetime.now(UTC).isoformat()  # to the microsecond: no two claims are the same bytes
        mine = Attempt(self._place.node(), socket.gethostname(), os.getpid(), now)
        deaths: list[Attempt] = []
        try:
            for number in count(1):
                if len(deaths) >= self._allowed:
                    return Claim(None, mine, tuple(deaths), used_up=True)
                uri = join(self._folder_uri, f"{key}.{number}.json")
                if self._storage.put_new(uri, _to_json(mine)):
                    return Claim(uri, mine, tuple(deaths))
                earlier = self._read(uri)
                if earlier and not (number <= MAX_NODE_LOSSES and self._place.is_lost(earlier.node)):
                    deaths.append(earlier)
        except StorageError as error:
            logger.warning("an attempt could not be counted: %s", error)
        return Claim(None, mine, tuple(deaths))

    def note(self, claim: Claim, reason: str) -> None:
        """Leaves a reason for those who come after this process."""
        if claim.uri is not None:
            self._storage.put(claim.uri, _to_json(replace(claim.attempt, reason=reason)))

    def release(self, claim: Claim) -> None:
        """The attempt ended alive."""
        if claim.uri is None:
            return
        try:
            self._storage.delete(claim.uri)
        except StorageError as error:
            logger.warning("an attempt that ended well still counts as a death: %s", error)

    def _read(self, uri: str) -> Attempt | None:
        """What an earlier attempt left; None if it has just ended well."""
        try:
            return Attempt(**json.loads(self._storage.read(uri)))
        except MissingError:
            return None


def _attempts_uri(run: Run) -> str:
    """The folder of a run's attempts."""
    return join(run.folder_uri, "attempts")


def list_attempts(run: Run) -> list[tuple[str, str | None]]:
    """What stands of attempts now, as (URI, version): it changes with every death. Nothing if it cannot be listed."""
    try:
        return sorted((entry.uri, entry.version) for entry in run.storage.list_files(_attempts_uri(run)))
    except StorageError:
        return []


def _to_json(attempt: Attempt) -> bytes:
    return json.dumps(asdict(attempt)).encode()
