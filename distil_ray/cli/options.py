"""Options of commands with few settings: a frozen dataclass per command, filled from `key=value` words.

For commands whose options are not part of a run's config (export, report, compare, benchmarks). An unknown key or a
value of the wrong type is a `SettingsError` that names it.
"""

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from distil_ray.errors import SettingsError

T = TypeVar("T")

HELP_WIDTH = 100  # columns


def option(default: Any, meaning: str, *, allows_zero: bool = False) -> Any:
    """Returns a dataclass field for an option.

    Args:
        default: `MISSING` makes the option required.
        meaning: The description in ``--help``.
        allows_zero: Accept 0 for a number; other numbers have to be positive.
    """
    return field(default=default, metadata={"meaning": meaning, "allows_zero": allows_zero})


def parse_options(kind: type[T], words: Sequence[str]) -> T:
    """Returns a `kind` filled from `key=value` words; other fields keep their defaults.

    Supported types: str, bool, positive int and float (or 0, where the option allows it), and tuples of these,
    separated by commas.

    Raises:
        SettingsError: For an unknown key, a value of the wrong type, or a required option that is missing.
    """
    kinds = get_type_hints(kind)
    may_be_zero = {known.name: known.metadata.get("allows_zero", False) for known in fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for word in words:
        key, is_given, value = word.partition("=")
        if not is_given or key not in kinds:
            nearest = difflib.get_close_matches(key, kinds, 1, 0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise SettingsError(f"{word}: unknown option. Known: {', '.join(kinds)}{hint}")
        values[key] = _read(key, value, kinds[key], may_be_zero[key])
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise SettingsError(f"{' and '.join(f'{name}=…' for name in missing)} must be given")
    return kind(**values)


def describe_options(kind: type) -> Iterator[str]:
    """Yields the lines of a --help: every option with its default and meaning."""
    for known in fields(kind):
        default = "" if known.default is MISSING else _write(known.default)
        text = f"{known.name}={default}  {known.metadata['meaning']}"
        yield from textwrap.wrap(text, HELP_WIDTH, initial_indent="  ", subsequent_indent=" " * 6)


def _read(key: str, value: str, kind: Any, allows_zero: bool) -> Any:
    if kind is bool:
        if value not in ("true", "false"):
            raise SettingsError(f"{key}={value}: must be true or false")
        return value == "true"
    if kind in (int, float):
        try:
            number = kind(value)
        except ValueError as error:
            raise SettingsError(f"{key}={value}: must be a number") from error
        if not (number > 0 or (allows_zero and number == 0)):
            raise SettingsError(f"{key}={value}: must be {'0 or greater' if allows_zero else 'greater than 0'}")
        return number
    if get_origin(kind) is tuple:
        return tuple(_read(key, word, get_args(kind)[0], allows_zero) for word in value.split(",") if word)
    return value


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_write, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
