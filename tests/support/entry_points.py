"""Entry points of packages that are not installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points

import pytest

from distil_ray import registry
from distil_ray.registry import Registry


@contextmanager
def added_entry_point(table: Registry, name: str, target: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Adds an entry to a table, as an installed package would; yields its name.

    Args:
        table: Table of `distil_ray.registry`.
        name: Name of the entry.
        target: Import path, ``package.module:name``.
        monkeypatch: Undoes the change at the end of the test.
    """
    point = EntryPoint(name, target, table.group)
    monkeypatch.setattr(
        registry, "entry_points", lambda group: [point] if group == table.group else entry_points(group=group)
    )
    table.__dict__.pop("entries", None)
    try:
        yield name
    finally:
        table.__dict__.pop("entries", None)
