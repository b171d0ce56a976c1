"""What every form of corpus is read with: the store, the settings of the input, the count of what is passed over."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from distil_ray.config import InputConfig
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.path_resolution import PathResolver
from distil_ray.storage.storage import Storage
from distil_ray.types import Recording


@dataclass(frozen=True, slots=True)
class ReadContext:
    """`ignored`: what the input holds that is no recording, number by extension or reason; readers add to it.

    `forms`: what was read as what; readers count what they meet beside the location's own form. `indexes`: what
    archives hold, where it is known already. `root`: the folder that ids start from, where that is not
    the location's own: several were named by one pattern. `_named`: what lists name, by list and folder.
    """

    storage: Storage
    config: InputConfig
    ignored: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    indexes: IndexCache = field(default_factory=IndexCache)
    root: str | None = None
    _named: OrderedDict[tuple[str, str], PathResolver] = field(default_factory=OrderedDict)

    def resolver_for(self, list_uri: str, below: str = "") -> PathResolver:
        """The files that a list names, for one list always the same; `below`: the folder beside it that its paths start
        from."""
        key = list_uri, below
        if key not in self._named:
            base, outside = self.config.base_dir, self.config.allow_external_paths
            self._named[key] = PathResolver(
                list_uri, self.storage, allow_external_paths=outside, below=below, base_dir=base
            )
            if len(self._named) > MAX_RESOLVERS:
                self._named.popitem(last=False)
        return self._named[key]


MAX_RESOLVERS = 16  # of which the named files are held: one is read after the other
Reader = Callable[[str, ReadContext], Iterator[Recording]]  # the recordings at a URI
