"""Removal of files that crashed runs left in an output. Only the holder of the lease removes files.

- Temporary files on disks (`storage/atomic_files.py`) are removed if the process in their name is dead, or, where that
  is unknown, if they are older than `output.lease_s`.
- Run folders of other runs lose their results of parts. While the lease is held, these runs have
  ended, except one that lost its lease by force: its files are removed when they are older than `output.lease_s`.

None of these files is read as data; the removal only frees space.
"""

import time
from collections import defaultdict

from distil_ray.output.run_context import PARTS_FOLDER, RUNS_FOLDER
from distil_ray.storage.atomic_files import TEMPORARY, temporary_writer
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote, join


def remove_orphans(
    output_uri: str, run_id: str, forced_from: str | None, lease_s: float, storage: Storage
) -> str | None:
    """Removes files that other runs left behind.

    Args:
        output_uri: Normalized URI of the output.
        run_id: The holder of the lease. Its files are kept.
        forced_from: The run that lost its lease by force and may still be alive.
        lease_s: Age in seconds after which files of unknown processes are removed.
        storage: Storage of the output.

    Returns:
        A description of what was removed; None if there was nothing.
    """
    oldest = time.time() - lease_s
    num_temporary, num_files = 0, 0
    orphans: defaultdict[str, list[Entry]] = defaultdict(list)
    is_disk = not is_remote(output_uri)
    # Object stores show complete objects only: temporary files exist on disks alone.
    for entry in storage.list_files(output_uri if is_disk else join(output_uri, RUNS_FOLDER)):
        path = entry.uri.removeprefix(f"{output_uri}/").split("/")
        if path[-1].startswith(TEMPORARY):
            if _is_orphan(path[-1], entry, oldest):
                storage.delete_file(entry.uri)
                num_temporary += 1
        elif len(path) > 3 and path[0] == RUNS_FOLDER and path[1] != run_id and path[2] == PARTS_FOLDER:
            orphans[join(output_uri, *path[:3])].append(entry)
        elif len(path) == 3 and path[0] == RUNS_FOLDER and path[1] != run_id and is_disk:
            # On disks, folders remain when their files are gone.
            orphans[join(output_uri, RUNS_FOLDER, path[1], PARTS_FOLDER)].extend(())
    for folder, entries in orphans.items():
        is_forced_out = folder.split("/")[-2] == forced_from
        if not is_forced_out or all(_is_older(entry, oldest) for entry in entries):
            storage.delete(folder)
            num_files += len(entries)
    words = [f"{num_temporary:,} temporary files"] if num_temporary else []
    words += [f"{num_files:,} intermediate results of runs that did not end"] if num_files else []
    return " and ".join(words) or None


def _is_orphan(name: str, entry: Entry, oldest: float) -> bool:
    writer = temporary_writer(name)
    return (writer is not None and writer.is_known_dead()) or _is_older(entry, oldest)


def _is_older(entry: Entry, oldest: float) -> bool:
    return entry.modified is not None and entry.modified < oldest
