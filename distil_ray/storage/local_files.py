"""Listing, glob patterns and opening of regular files on local disks; follows links, visits each real folder once.

A link to a folder is entered unless the walk comes to its target anyway, by the target's own path or by an earlier
link. So links that lead back up end, and the paths do not change when a link to a known folder is added. A link into a
hidden folder (`.name`) is entered, because hidden folders are often passed over.

Only regular files are listed. Special files (FIFO, socket, device) are passed to `on_special` and are never opened,
because opening a FIFO may block forever.
"""

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from distil_ray.storage.patterns import RECURSIVE, component_regex, components, has_magic

Special = Callable[[str, str], None]  # given the path and the kind of what is neither file nor folder
Found = tuple[str, os.stat_result | None]  # a file; None for a link that leads nowhere, or where it cannot be looked at

_KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


class SpecialFileError(Exception):
    """A path to be read is no regular file."""


def special_kind_of_mode(mode: int) -> str | None:
    """Returns the kind of a special file by its `st_mode`; None for a regular file or a folder."""
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    return _KINDS.get(stat.S_IFMT(mode), "special file")


def special_kind(path: str) -> str | None:
    """`kind_of` what a path leads to; None if there is nothing."""
    try:
        return special_kind_of_mode(Path(path).stat().st_mode)
    except (OSError, ValueError):
        return None


def open_file(path: str) -> IO[bytes]:
    """A regular file to read from. Raises `SpecialFileError`, at once, for what is none; OSError as `open` does."""
    if (kind := special_kind(path)) is None:
        file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115, the caller closes it
        if (kind := special_kind_of_mode(os.fstat(file.fileno()).st_mode)) is None:
            return file
        file.close()  # has taken the file's place since it was looked at
    raise SpecialFileError(f"is a {kind}, not a regular file; it was not read")


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def walk(folder: str, on_special: Special) -> Iterator[Found]:
    """Yields every file below a folder, by name; a folder's own files come before those of its folders.

    Names that differ in nothing but their Unicode form (NFC, NFD) stand side by side. Nothing for a folder that is not
    there. Raises OSError for one that cannot be listed.
    """
    for below in _folders(folder):
        for entry in below.files:
            yield from _file(entry, on_special)


def glob(pattern: str, on_special: Special) -> list[Found]:
    """The files that match an absolute path with wildcards, by path; of a file that is met by several links one.

    Raises ValueError as `patterns.components` does, OSError as `walk` does.
    """
    parts = components(pattern)
    fixed = next((number for number, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
    start = _Folder("/".join(parts[:fixed]) or "/")
    return sorted(_once(dict(_matches(start, parts[fixed:], on_special))).items())


@dataclass(slots=True)
class _Folder:
    """A folder as one walk comes to it, read when it is first asked for. `real`: its path without links."""

    path: str
    real: str = ""
    _entries: tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]] | None = None

    @property
    def files(self) -> list[os.DirEntry[str]]:
        """Entries that are no folders, by name."""
        return self._read()[0]

    @property
    def folders(self) -> list[os.DirEntry[str]]:
        """Folders and links to folders, by name."""
        return self._read()[1]

    def _read(self) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        if self._entries is None:
            files: list[os.DirEntry[str]] = []
            folders: list[os.DirEntry[str]] = []
            try:
                with os.scandir(self.path) as found:
                    for entry in found:
                        (folders if _is_folder(entry) else files).append(entry)
            except (FileNotFoundError, NotADirectoryError):  # never there, or gone since its parent was listed
                pass
            self._entries = sorted(files, key=_by_name), sorted(folders, key=_by_name)
        return self._entries


class _Roots:
    """The folders that one walk has begun at: its own, and the targets of the links that it follows."""

    def __init__(self, root: str) -> None:
        self._roots = {root}

    def enters(self, folder: _Folder, is_link: bool) -> bool:
        """Returns True if a folder is to be entered; sets `folder.real` of a link."""
        if not is_link:
            return folder.real not in self._roots
        folder.real = os.path.realpath(folder.path)
        if self._covers(folder.real):
            return False
        self._roots.add(folder.real)
        return True

    def _covers(self, real: str) -> bool:
        """Returns True if a folder is below one of the roots and not inside a hidden folder there."""
        while real not in self._roots:
            above, _, name = real.rpartition("/")
            if not name or name.startswith("."):
                return False
            real = above or "/"
        return True


def _folders(path: str) -> Iterator[_Folder]:
    """A folder and all below it, each before those inside of it."""
    root = _Folder(path, os.path.realpath(path))
    roots = _Roots(root.real)
    todo = [root]
    while todo:
        folder = todo.pop()
        yield folder
        below = []
        for entry in folder.folders:
            found = _Folder(entry.path, f"{folder.real.rstrip('/')}/{entry.name}")
            if roots.enters(found, entry.is_symlink()):
                below.append(found)
        todo.extend(reversed(below))


def _matches(folder: _Folder, parts: list[str], on_special: Special) -> Iterator[Found]:
    """The files below a folder that match the rest of a pattern."""
    part, rest = parts[0], parts[1:]
    if part == RECURSIVE:
        for below in _folders(folder.path):
            yield from _matches(below, rest or ["*"], on_special)
        return
    if not has_magic(part):
        yield from _named(f"{folder.path.rstrip('/')}/{part}", rest, on_special)
        return
    matches = component_regex(part).match
    for entry in folder.folders if rest else folder.files:
        if matches(entry.name):
            yield from _matches(_Folder(entry.path), rest, on_special) if rest else _file(entry, on_special)


def _named(path: str, rest: list[str], on_special: Special) -> Iterator[Found]:
    """The same for a component without wildcards."""
    if rest:
        yield from _matches(_Folder(path), rest, on_special)
    elif (kind := special_kind(path)) is not None:
        on_special(path, kind)
    elif Path(path).is_file():
        yield path, Path(path).stat()


def _once(found: dict[str, os.stat_result | None]) -> dict[str, os.stat_result | None]:
    """Of the paths that lead to one name in one real folder, that without links, else the first."""
    reals = {folder: os.path.realpath(folder) for folder in {os.path.dirname(path) for path in found}}
    chosen: dict[tuple[str, str], str] = {}
    for path in sorted(found, key=lambda path: path.split("/")):  # as `walk` comes to them
        folder, name = os.path.split(path)
        if reals[folder] == folder or (reals[folder], name) not in chosen:
            chosen[reals[folder], name] = path
    return {path: found[path] for path in chosen.values()}


def _file(entry: os.DirEntry[str], on_special: Special) -> Iterator[Found]:
    try:
        found = entry.stat()
    except OSError:
        if entry.is_symlink():
            yield entry.path, None
        return  # gone since its folder was listed
    if (kind := special_kind_of_mode(found.st_mode)) is None:
        yield entry.path, found
    else:
        on_special(entry.path, kind)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _by_name(entry: os.DirEntry[str]) -> tuple[str, str]:
    name = entry.name
    return name if name.isascii() else unicodedata.normalize("NFC", name), name
