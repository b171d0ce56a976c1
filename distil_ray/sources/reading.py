"""What every form of corpus is read with: the store, the settings of the input, the count of what is passed over."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from distil_ray.config import InputConfig
from distil_ray.schema import Recording
from distil_ray.sources.indexes import Indexes
from distil_ray.sources.named_files import NamedFiles
from distil_ray.storage import Storage


@dataclass(frozen=True, slots=True)
class Reading:
    """`ignored`: what the input holds that is no recording, number by extension or reason; readers add to it.

    `forms`: what was read as what; readers count what they meet beside the location's own form. `indexes`: what
    archives hold, where it is known already. `root`: the folder that ids start from, where that is not
    the location's own: several were named by one pattern.
    """

    storage: Storage
    config: InputConfig
    ignored: Counter[str] = field(default_factory=Counter)
    forms: Counter[str] = field(default_factory=Counter)
    indexes: Indexes = field(default_factory=Indexes)
    root: str | None = None

    def named_by(self, list_uri: str, below: str = "") -> NamedFiles:
        """The files that a list names; `below`: the folder beside it that its paths start from."""
        return NamedFiles(list_uri, self.storage, allow_outside=self.config.allow_outside, below=below)


Reader = Callable[[str, Reading], Iterator[Recording]]  # the recordings at a URI
