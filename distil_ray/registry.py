"""Tables of what can be named in a setting: input formats, recognizers, chunkers and export formats.

An entry is a name, a line of description and an import path. Entries come from three places:

* modules of this package. Each module of a table's package is an entry under the module's name; its description is the
  first line of its docstring, so that ``--help`` lists it without importing it;
* entry points of installed packages, in the table's group (``distil_ray.chunkers``, for example);
* an import path in the setting itself, ``my_package.module:name``, which needs no entry.

The tables hold import paths only. Nothing is imported before `Registry.load`.
"""

import ast
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from distil_ray.errors import SettingsError

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class Entry:
    """A name with its description; `target` is an import path, ``package.module:name``."""

    name: str
    description: str
    target: str


class Registry:
    """The values that a setting accepts.

    Args:
        kind: What an entry is, in the singular, for messages: "chunker".
        group: Entry point group in which other packages add entries.
        setting: Key of the setting that names an entry, for messages: "chunking.strategy".
        package: Package of which every public module is an entry, under the module's name.
        attribute: Name that such a module defines for it, the same in each.
        builtin: Further entries by name, as (import path, description).
        extra: Values of the setting that are no entries ("auto"), by name with their description.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        setting: str,
        package: str | None = None,
        attribute: str = "",
        builtin: Mapping[str, tuple[str, str]] | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.group = group
        self.setting = setting
        self.extra = dict(extra or {})
        self._package = package
        self._attribute = attribute
        self._builtin = dict(builtin or {})

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """All entries by name, those of this package first. An entry point does not replace one of them."""
        found = {name: Entry(name, text, target) for name, (target, text) in self._builtin.items()}
        if self._package is not None:
            for name, path in _public_modules(self._package):
                target = f"{self._package}.{name}:{self._attribute}"
                found[name] = Entry(name, _first_line(path), target)
        for point in entry_points(group=self.group):
            package = point.dist.name if point.dist is not None else point.module
            found.setdefault(point.name, Entry(point.name, f"from the package {package}", point.value))
        return found

    def names(self) -> list[str]:
        """Returns the names that the setting accepts, beside import paths."""
        return [*self.extra, *self.entries]

    def describe(self) -> dict[str, str]:
        """Returns the description of each accepted name, in the order of `names`."""
        return self.extra | {name: entry.description for name, entry in self.entries.items()}

    def check(self, name: str) -> str:
        """Returns `name` if the setting accepts it. Imports nothing.

        Raises:
            ValueError: `name` is neither an entry nor an import path; the message lists the entries.
        """
        if name in self.extra or name in self.entries or _IMPORT_PATH.fullmatch(name):
            return name
        nearest = difflib.get_close_matches(name, self.names(), n=1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        raise ValueError(
            f"no {self.kind} is called {name!r}.{hint} Known: {', '.join(self.names())}, or an import path such as"
            " my_package.module:name"
        )

    def load(self, name: str) -> Any:
        """Imports what `name` stands for and returns it.

        Args:
            name: An entry's name, or an import path ``package.module:name``.

        Raises:
            SettingsError: The name is unknown, its module cannot be imported, or the module does not define it.
        """
        try:
            self.check(name)
        except ValueError as error:
            raise SettingsError(f"{self.setting}={name}: {error}") from error
        target = self.entries[name].target if name in self.entries else name
        module, _, attribute = target.partition(":")
        try:
            return getattr(import_module(module), attribute)
        except ImportError as error:
            raise SettingsError(
                f"{self.setting}={name}: cannot import {module} ({error}). The package has to be installed on every"
                " node, or to travel with the job (runtime_env.working_dir or py_modules)"
            ) from error
        except AttributeError as error:
            raise SettingsError(f"{self.setting}={name}: the module {module} defines no {attribute}") from error


def _public_modules(package: str) -> list[tuple[str, Path]]:
    """Returns name and file of the public modules of a package, in alphabetical order. Imports no module of it."""
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(package)
    folders = list(spec.submodule_search_locations)
    found = [(one.name, Path(folder) / f"{one.name}.py") for folder in folders for one in iter_modules([folder])]
    return sorted((name, path) for name, path in found if not name.startswith("_") and path.is_file())


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].rstrip(".")


CHUNKERS = Registry(
    "chunker", "distil_ray.chunkers", "chunking.strategy", package="distil_ray.chunking.strategies", attribute="CHUNKER"
)
EXPORTERS = Registry(
    "export format", "distil_ray.exporters", "format", package="distil_ray.export.formats", attribute="FORMAT"
)
READERS = Registry(
    "input format",
    "distil_ray.readers",
    "input.format",
    package="distil_ray.readers.formats",
    attribute="FORMAT",
    extra={"auto": "detected by name and content, and printed when the run begins"},
)
RECOGNIZERS = Registry(
    "recognizer",
    "distil_ray.recognizers",
    "model.recognizer",
    builtin={
        "native": (
            "distil_ray.recognition.capabilities:NATIVE",
            "this project's batched decoding loop; supports every setting",
        ),
        "transformers": (
            "distil_ray.recognition.capabilities:TRANSFORMERS",
            "generate of transformers; the reference in tests",
        ),
    },
)
