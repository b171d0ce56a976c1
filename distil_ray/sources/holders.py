"""Files of a folder that hold recordings inside them: which they are, and what is in them.

A folder may have them beside loose audio, at any depth; here they are told apart. What a file holds is the business of
its form: samples.py for tar shards.
"""

from collections.abc import Iterator, Sequence

from distil_ray.schema import Recording
from distil_ray.sources.reading import Reading
from distil_ray.sources.samples import shard_recordings
from distil_ray.sources.tar import is_tar_name
from distil_ray.storage import Entry

SHARDS = "tar shards"


class Holders:
    """Reads the holders among the files of a folder."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def split(self, entries: Sequence[Entry], root: str) -> tuple[Iterator[Recording], list[Entry]]:
        """(the recordings inside of some of a folder's files, the other files); `root`: the folder ids start from."""
        shards = [entry for entry in entries if is_tar_name(entry.uri)]
        others = [entry for entry in entries if not is_tar_name(entry.uri)]
        return (self._recordings(shards, root) if shards else iter(())), others

    def _recordings(self, shards: list[Entry], root: str) -> Iterator[Recording]:
        self._reading.forms[SHARDS] += len(shards)
        yield from shard_recordings(shards, root, self._reading)
