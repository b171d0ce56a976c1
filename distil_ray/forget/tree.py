"""The outputs that a request covers: the output itself, and those in the folders of redos that have not ended."""

from dataclasses import dataclass

from distil_ray.nightly.redo import REDO_FOLDER
from distil_ray.output.run_context import RUNS_FOLDER
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join


@dataclass(frozen=True, slots=True)
class OutputTree:
    """An output and the files in its run folders.

    Attributes:
        uri: Normalized URI.
        runs: Relative paths of the files in the folder of each run.
    """

    uri: str
    runs: dict[str, frozenset[str]]

    def run_file(self, run_id: str, name: str) -> str:
        """Returns the URI of a file in the folder of a run."""
        return join(self.uri, RUNS_FOLDER, run_id, name)


def list_outputs(output_uri: str, storage: Storage) -> list[OutputTree]:
    """Returns the output, followed by those of redos in its run folders."""
    root = join(output_uri, RUNS_FOLDER)
    files: dict[str, set[str]] = {}
    for entry in storage.list_files(root):
        run_id, _, name = entry.uri.removeprefix(f"{root}/").partition("/")
        if name:
            files.setdefault(run_id, set()).add(name)
    redos = [run_id for run_id, names in files.items() if any(name.startswith(f"{REDO_FOLDER}/") for name in names)]
    tree = OutputTree(output_uri, {run_id: frozenset(names) for run_id, names in files.items()})
    nested = (list_outputs(join(root, run_id, REDO_FOLDER), storage) for run_id in redos)
    return [tree, *(one for trees in nested for one in trees)]
