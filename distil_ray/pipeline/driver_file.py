"""A temporary file on the local disk of the driver, for what a run collects until its end."""

import tempfile
from types import TracebackType
from typing import Self


class DriverFile:
    """A nameless temporary file, which ends with the context manager. Thread-safe it is not."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="distil-ray-")  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
