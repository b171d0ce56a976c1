"""Rows of a list that are wrong: each is a recording that says so, and the rest of the list is read.

A listing loses nothing: what a row names cannot be had, and the output has a failed row for it. Only a list of which no
row at all can be read is refused, because then it is another form than it was taken for, or a setting is wrong.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distil_ray.errors import ErrorKind, InputError
from distil_ray.redaction import redact
from distil_ray.types import Recording

MAX_HELD = 1000  # rows that cannot be read at the beginning of a list, until the first that can


class RowError(InputError):
    """One row of a list is wrong. The message names the row, the column and what was found.

    Args:
        message: a sentence that begins with the place of the row.
        kind: what the failed row is called.
        is_unreadable: whether the row is none of the list's form at all, rather than a row with a wrong value.
    """

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INVALID_ROW, *, is_unreadable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_unreadable = is_unreadable


def failed_recording(name: str | None, where: str, list_uri: str, error: RowError) -> Recording:
    """Returns the recording that stands for a row that is wrong.

    Args:
        name: the id that the row gives; without one the recording is called by the row's place.
        where: the place, such as ``s3://bucket/list.jsonl line 7``.
        list_uri: the list; the recording's URI, because the row's own cannot be relied on.
        error: what is wrong.
    """
    return Recording(name or redact(where), list_uri, error_kind=error.kind, error=str(error))


def rows_to_recordings(
    rows: Iterable[tuple[str, Any]],
    make: Callable[[str, Any], Recording],
    name_of: Callable[[Any], str | None],
    list_uri: str,
) -> Iterator[Recording]:
    """Yields a recording for every row, in order.

    Args:
        rows: (place for error messages, row or the `RowError` that stands for it).
        make: the recording of a row; raises `RowError` for a row that is wrong.
        name_of: the id that a wrong row gives, None without one.
        list_uri: the list.

    Raises:
        RowError: that of the first row, if no row is readable, or none of the first `MAX_HELD`.
    """
    held: list[tuple[Recording, RowError]] = []
    is_readable = False
    for where, row in rows:
        try:
            if isinstance(row, RowError):
                raise row
            recording = make(where, row)
        except RowError as error:
            name = None if isinstance(row, RowError) else name_of(row)
            recording = failed_recording(name, where, list_uri, error)
            if error.is_unreadable and not is_readable:
                held.append((recording, error))
                if len(held) >= MAX_HELD:
                    break
                continue
        is_readable = True
        yield from (recording for recording, _ in held)
        held.clear()
        yield recording
    if held:
        raise held[0][1]
