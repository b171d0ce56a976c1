"""Counts the attempts to recognize a part, or one recording of it, in records that outlive a process that dies.

A record is stored before an attempt, only if it is absent, and deleted when the attempt ends with the process alive.
The records that remain are deaths: they show how many there were, on which node, and for a hang the reason. An attempt
whose node is gone was probably the node's death, and does not count against the audio, up to `MAX_NODE_LOSSES` times.

The count is needed as long as Ray repeats parts, so the records live in the cluster (`ray_key_value.py`) and cost the
store of the output no requests. The module knows neither Ray, audio nor recognizers.
"""

import json
import logging
import os
import socket
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import count
from typing import Protocol

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


class KeyValueStore(Protocol):
    """Store of the records, outside of the processes that may die."""

    def create(self, key: str, value: bytes) -> bool:
        """Stores a value if the key has none. Returns whether it was stored."""
        ...

    def put(self, key: str, value: bytes) -> None: ...

    def get(self, key: str) -> bytes | None: ...

    def delete(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: where and when.

    `reason`, and the time limit if that was reached, are set by a process that ends itself, not by one that is killed.
    """

    node: str
    host: str
    pid: int
    began_at: str
    reason: str | None = None
    limit_s: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """Permission for one attempt. `key` is that of its record; None if there is none, or all attempts are used up."""

    key: str | None
    attempt: Attempt
    deaths: tuple[Attempt, ...] = ()  # earlier attempts whose process died
    used_up: bool = False


class Attempts:
    """Counts attempts. After `max_attempts` deaths of the same audio no attempt is granted."""

    def __init__(self, records: KeyValueStore, identity: WorkerIdentity, max_attempts: int) -> None:
        """Takes the records of a run.

        Args:
            records: The records.
            identity: Identity of this process in the cluster.
            max_attempts: `resources.max_attempts`.
        """
        self._records = records
        self._identity = identity
        self._allowed = max_attempts

    def claim(self, name: str) -> Claim:
        """Claims one more attempt of the audio that `name` names. It stores one record more than there are deaths.

        If the store does not answer, the attempt is granted without being counted: a cluster without its head node has
        other troubles.
        """
        now = datetime.now(UTC).isoformat()  # to the microsecond: no two claims have the same record
        mine = Attempt(self._identity.node(), socket.gethostname(), os.getpid(), now)
        deaths: list[Attempt] = []
        try:
            for number in count(1):
                if len(deaths) >= self._allowed:
                    return Claim(None, mine, tuple(deaths), used_up=True)
                key = f"{name}.{number}"
                if self._records.create(key, _to_json(mine)):
                    return Claim(key, mine, tuple(deaths))
                earlier = self._read(key)
                if earlier == mine:  # stored by a request that was repeated because its answer was lost
                    return Claim(key, mine, tuple(deaths))
                if earlier and not (number <= MAX_NODE_LOSSES and self._identity.is_lost(earlier.node)):
                    deaths.append(earlier)
        except Exception as error:  # of Ray, which has many kinds
            logger.warning("an attempt could not be counted: %s", error)
        return Claim(None, mine, tuple(deaths))

    def record_reason(self, claim: Claim, reason: str, limit_s: float | None = None) -> None:
        """Stores why this process ends, and the time limit that it has reached, for the processes after it."""
        if claim.key is not None:
            self._records.put(claim.key, _to_json(replace(claim.attempt, reason=reason, limit_s=limit_s)))

    def release(self, claim: Claim) -> None:
        """Deletes the record: the attempt ended with the process alive."""
        if claim.key is None:
            return
        try:
            self._records.delete(claim.key)
        except Exception as error:
            logger.warning("an attempt that ended well still counts as a death: %s", error)

    def _read(self, key: str) -> Attempt | None:
        """Returns an earlier attempt; None if it has just been released."""
        record = self._records.get(key)
        return None if record is None else Attempt(**json.loads(record))


def _to_json(attempt: Attempt) -> bytes:
    return json.dumps(asdict(attempt)).encode()
