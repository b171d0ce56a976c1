"""The interface of input formats: `InputFormat`, and `ReadContext`, which every reader is called with."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from distil_ray.config import InputConfig
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.readers.row_files import TableHead
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.types import Recording

MAX_RESOLVERS = 16  # held at once; lists are read one after the other


@dataclass(frozen=True, slots=True)
class ReadContext:
    """State that readers share while one entry of ``input.uri`` is listed.

    Attributes:
        storage: The only way to read files.
        config: The section ``input`` of the settings.
        ignored: What is at the input and is not a recording: number by file extension or reason. Readers add to it.
        formats: Number of locations by title of the format they were read as. Readers add the containers they find.
        indexes: Indexes of archives and tables that are known from earlier runs.
        root: Folder that ids are relative to, where it is not the location itself: one pattern named several locations.
    """

    storage: Storage
    config: InputConfig
    ignored: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    indexes: IndexCache = field(default_factory=IndexCache)
    root: str | None = None
    _resolvers: OrderedDict[tuple[str, str], PathResolver] = field(default_factory=OrderedDict)

    def resolver_for(self, list_uri: str, below: str = "") -> PathResolver:
        """Returns the resolver of the paths in a list, the same object for the same list.

        Args:
            list_uri: The list.
            below: Folder beside the list that its paths are relative to; empty: the list's own folder.
        """
        key = list_uri, below
        if key not in self._resolvers:
            self._resolvers[key] = PathResolver(
                list_uri,
                self.storage,
                allow_external_paths=self.config.allow_external_paths,
                below=below,
                base_dir=self.config.base_dir,
            )
            if len(self._resolvers) > MAX_RESOLVERS:
                self._resolvers.popitem(last=False)
        return self._resolvers[key]


Reader = Callable[[str, ReadContext], Iterator[Recording]]  # (URI, context)
FilesReader = Callable[[Iterable[Entry], str, ReadContext], Iterator[Recording]]  # (files, root of the ids, context)


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class InputFormat:
    """An input format: an entry of `distil_ray.registry.READERS`, under the name that ``input.format`` has for it.

    The predicates are for ``input.format=auto``; a format that has none is read only if the setting names it.

    Attributes:
        title: Name for messages, such as "Kaldi data directory".
        read: Yields the recordings at a URI. What cannot be read becomes a `Recording` with an error; `InputError` is
            for a location of which nothing can be read.
        priority: Formats with a higher priority are tried first.
        has_name: Whether a file is of this format, by its URI alone.
        has_content: Whether a file is, by its content.
        has_head: Whether a table is, by its columns and first row.
        has_folder: Whether a folder is, by the files in it. More than one such format is an error.
        read_files: Yields the recordings of several files, for formats that read some in parallel. Files of such a
            format are containers of audio: a folder or glob may mix them with audio files.
    """

    title: str
    read: Reader
    priority: int = 0
    has_name: Callable[[str], bool] = _never
    has_content: Callable[[str, ReadContext], bool] = _never
    has_head: Callable[[TableHead], bool] = _never
    has_folder: Callable[[str, Storage], bool] = _never
    read_files: FilesReader | None = None
