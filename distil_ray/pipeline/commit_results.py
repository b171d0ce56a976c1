"""Results of the commits of a run, kept until its end as the lines of its events.jsonl.

A result takes three kilobytes in memory, and a job of a million hours has millions of them. The driver writes each one
to a temporary file on its local disk, and at the end of the run the file becomes events.jsonl.
"""

import json
import shutil
from collections.abc import Iterator
from typing import Any

from distil_ray.pipeline.driver_file import DriverFile
from distil_ray.storage.storage import Storage

CommitResult = dict[str, Any]  # a row of schema.COMMIT_RESULT, with `at_s` and `actors_alive` added by the driver

MAX_ERRORS = 5  # distinct ones that are kept for messages
SMALL_BYTES = 8 * 2**20  # up to this size the file is written from memory, with one request


class CommitResults(DriverFile):
    """The results in the order of arrival.

    Attributes:
        last: The last result; None without any.
        errors: The first distinct errors of whole tasks, for messages.
    """

    def __init__(self) -> None:
        super().__init__()
        self._num = self._size = 0
        self.last: CommitResult | None = None
        self.errors: list[str] = []

    def __len__(self) -> int:
        return self._num

    def __iter__(self) -> Iterator[CommitResult]:
        self._file.seek(0)
        for _ in range(self._num):
            yield json.loads(self._file.readline())

    def add(self, result: CommitResult) -> None:
        """Adds a result."""
        line = _to_line(result | {"failures_by_kind": dict(result["failures_by_kind"] or ())})
        self._file.seek(self._size)  # behind the last whole line: a signal may have interrupted one
        self._file.write(line)
        self._size += len(line)
        self._num += 1
        self.last = result
        if result["error"] and len(self.errors) < MAX_ERRORS:
            self.errors = list(dict.fromkeys([*self.errors, f"task {result['task_id']}: {result['error']}"]))

    def write(self, uri: str, storage: Storage, *more: dict[str, Any]) -> None:
        """Writes events.jsonl: a line for each result so far, followed by `more`."""
        self._file.flush()
        self._file.seek(0)
        ending = b"".join(map(_to_line, more))
        if self._size <= SMALL_BYTES:
            storage.put(uri, self._file.read(self._size) + ending)
            return
        with storage.create(uri) as target:
            self._file.truncate(self._size)
            shutil.copyfileobj(self._file, target)
            target.write(ending)


def _to_line(event: dict[str, Any]) -> bytes:
    return (json.dumps(event) + "\n").encode()
