"""Small values that the processes of a run share through the key-value store of the cluster's head node.

The store answers within a millisecond or two, and its values outlive the process that has stored them, though not the
cluster: what a run leaves in its output goes through `storage/` instead.
"""

from typing import Any

import ray
from ray.experimental import internal_kv

from distil_ray.output.run_context import Run
from distil_ray.pipeline.worker_state import WorkerState

ROOT = "distil_ray"  # of the keys of this project


class RunValues:
    """Values of one kind that belong to a run, by key (`attempts.KeyValueStore`). Picklable."""

    def __init__(self, run_id: str, kind: str) -> None:
        self._prefix = f"{ROOT}/{kind}/{run_id}/"

    def create(self, key: str, value: bytes) -> bool:
        """Stores a value if the key has none. Returns whether it was stored."""
        return not internal_kv._internal_kv_put(f"{self._prefix}{key}", value, overwrite=False)

    def put(self, key: str, value: bytes) -> None:
        """Stores a value, in place of an earlier one."""
        internal_kv._internal_kv_put(f"{self._prefix}{key}", value, overwrite=True)

    def get(self, key: str) -> bytes | None:
        """Returns the value of a key, None if it has none."""
        value: bytes | None = internal_kv._internal_kv_get(f"{self._prefix}{key}")
        return value

    def delete(self, key: str) -> None:
        """Deletes the value of a key. A key without value is no error."""
        internal_kv._internal_kv_del(f"{self._prefix}{key}")

    def keys(self) -> list[str]:
        """Returns all keys, sorted."""
        return sorted(key.decode().removeprefix(self._prefix) for key in self._stored_keys())

    def values(self) -> list[bytes]:
        """Returns all values, in any order."""
        keys = self._stored_keys()
        store: Any = internal_kv.internal_kv_get_gcs_client()  # type: ignore[no-untyped-call]
        if store is None:  # a connection through ray:// has no request for several keys
            found = [internal_kv._internal_kv_get(key) for key in keys]
        else:
            found = store.internal_kv_multi_get(keys, None).values() if keys else []
        return [value for value in found if value]

    def clear(self) -> None:
        """Deletes all values."""
        internal_kv._internal_kv_del(self._prefix, del_by_prefix=True)

    def _stored_keys(self) -> list[bytes]:
        return list(internal_kv._internal_kv_list(self._prefix))


class WorkerStates:
    """States of the recognizer actors of a run. Picklable."""

    def __init__(self, run_id: str) -> None:
        self._values = RunValues(run_id, "states")

    def publish(self, state: WorkerState) -> None:
        """Stores the state of this process."""
        self._values.put(ray.get_runtime_context().get_actor_id() or "driver", state.to_json().encode())

    def read(self) -> tuple[WorkerState, ...]:
        """Returns the latest state of every actor that has published one."""
        return tuple(map(WorkerState.from_json, self._values.values()))

    def clear(self) -> None:
        """Deletes all states of the run."""
        self._values.clear()


def attempt_records(run: Run) -> RunValues:
    """Returns the store of a run's attempts (`attempts.Attempts`)."""
    return RunValues(run.run_id, "attempts")
