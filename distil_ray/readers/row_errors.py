"""Errors in rows of lists: a bad row becomes a failed recording, and the rest of the list is read.

No row is lost: the output has a failed row for each bad one. A list without any readable row is refused, because then
it has another format than was detected, or a setting is wrong.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from distil_ray.errors import ErrorKind, InputError
from distil_ray.redaction import redact
from distil_ray.types import Recording

MAX_HELD = 1000  # rows that cannot be read at the beginning of a list, until the first that can


class RowError(InputError):
    """One row of a list is wrong. The message names the row, the column and the value.

    Args:
        message: A sentence that begins with the location of the row.
        kind: Error kind of the failed recording.
        is_unreadable: The row does not have the format of the list at all; otherwise one of its values is wrong.
    """

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INVALID_ROW, *, is_unreadable: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.is_unreadable = is_unreadable


def failed_recording(name: str | None, where: str, list_uri: str, error: RowError) -> Recording:
    """Returns the failed recording for a bad row.

    Args:
        name: Id that the row gives; None: the location of the row is the id.
        where: Location of the row, such as ``s3://bucket/list.jsonl line 7``.
        list_uri: The list. It is the URI of the recording, because the row's own URI is not reliable.
        error: What is wrong.
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
        rows: (location for messages, row or the `RowError` in its place).
        make: Returns the recording of a row; raises `RowError` for a bad row.
        name_of: Returns the id of a bad row; None if it has none.
        list_uri: The list.

    Raises:
        RowError: The error of the first row, if no row is readable or none of the first `MAX_HELD`.
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
