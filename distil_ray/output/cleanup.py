"""What dead runs have left in an output, swept by whoever holds the lease.

Temporary files on disks (disk.py) go if the process in their name is dead, or, where that cannot be told, if they
are older than a lease. The folders of other runs keep what explains them and lose what only their attempt needed: with
the lease held their runs are over, but for one that was forced out, whose files go when they are older than a lease.
None of these files is ever read as data; sweeping only gives back their space.
"""

import time
from collections import defaultdict

from distil_ray.output.run_context import RUNS_FOLDER, TEMP_DIRS
from distil_ray.storage.atomic_files import TEMPORARY, temporary_writer
from distil_ray.storage.storage import Entry, Storage, is_remote, join


def remove_orphans(
    output_uri: str, run_id: str, forced_from: str | None, lease_s: float, storage: Storage
) -> str | None:
    """Removes what is left of other runs than `run_id`; one line about it, None if there was nothing."""
    oldest = time.time() - lease_s
    num_temporary, num_files = 0, 0
    leftovers: defaultdict[str, list[Entry]] = defaultdict(list)
    is_disk = not is_remote(output_uri)
    # Stores show an object when it is whole: temporary files are there on disks alone.
    for entry in storage.list_files(output_uri if is_disk else join(output_uri, RUNS_FOLDER)):
        place = entry.uri.removeprefix(f"{output_uri}/").split("/")
        if place[-1].startswith(TEMPORARY):
            if _is_orphan(place[-1], entry, oldest):
                storage.delete(entry.uri)
                num_temporary += 1
        elif len(place) > 3 and place[0] == RUNS_FOLDER and place[1] != run_id and place[2] in TEMP_DIRS:
            leftovers[join(output_uri, *place[:3])].append(entry)
        elif len(place) == 3 and place[0] == RUNS_FOLDER and place[1] != run_id and is_disk:
            for name in TEMP_DIRS:  # folders outlive their files there
                leftovers[join(output_uri, RUNS_FOLDER, place[1], name)].extend(())
    for folder, entries in leftovers.items():
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
