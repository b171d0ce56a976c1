"""By which of their files' channels the rows of an output were heard: for whoever decodes their audio once more.

The rows name their run, and its folder has its config. Where that is gone, or cannot be read, the choice of the config
at hand is taken.
"""

from functools import lru_cache

from distil_ray.output.run_context import RUNS
from distil_ray.output.settings_diff import read_settings
from distil_ray.storage.storage import MissingError, Storage, join

BEFORE = "mix"  # what was done before there was a choice
RUNS_REMEMBERED = 4096


class HeardChannels:
    """`input.channels` of the runs of an output, each read once."""

    def __init__(self, output_uri: str, otherwise: str, storage: Storage) -> None:
        self._output_uri, self._otherwise, self._storage = output_uri, otherwise, storage
        self.of_run = lru_cache(RUNS_REMEMBERED)(self._read)

    def _read(self, run_id: str | None) -> str:
        """Raises `StorageError` where the store does not answer."""
        if not run_id:
            return self._otherwise
        try:
            tree = read_settings(join(self._output_uri, RUNS, run_id, "config.yaml"), self._storage)
        except (MissingError, ValueError):
            return self._otherwise
        given = tree.get("input")
        return str(given.get("channels", BEFORE)) if isinstance(given, dict) else self._otherwise
