"""Export of the training data set of an output (pseudo_labels/) as tar shards.

Each split is written to its own folder below the target. Examples are read a few at a time, and a shard gets its name
when it is complete. `formats/webdataset.py` and `formats/nemo_tarred.py` define the members of a shard.
"""

import io
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.export.destinations import Target
from distil_ray.export.settings import ExportSettings
from distil_ray.export.transcript_shards import MEGABYTE, add_member
from distil_ray.output.ledger import list_data_files
from distil_ray.pseudo_labels.dataset_schema import DATA, DATASET, TRAIN, VALIDATION
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize
from distil_ray.verify.verify import require_output

BATCH_ROWS = 16  # examples in memory: eight minutes of audio at most

Row = dict[str, Any]
Member = tuple[str, bytes]  # name in the tar, content


@dataclass(slots=True)
class ShardCounts:
    """The number of examples and shards that were written, and the seconds of audio in them."""

    num_examples: int = 0
    audio_s: float = 0.0
    num_shards: int = 0


def export_dataset(
    config: Config,
    settings: ExportSettings,
    write: Callable[[Iterator[Row], Target, int], ShardCounts],
    is_own_file: Callable[[str], bool],
    console: Console,
) -> ExitCode:
    """Writes every split that has examples.

    Args:
        config: Its `output.uri` names the output.
        settings: The export's settings.
        write: Writes examples as shards of about so many bytes.
        is_own_file: Returns whether a file name belongs to an export of this format.
        console: For the lines that report what was written.

    Raises:
        SettingsError: The output has no training data set, or an earlier export must not be replaced.
    """
    storage = Storage(config.storage)
    folder = join(require_output(config), DATASET, DATA)
    shards = list(list_data_files(folder, storage))
    if not shards:
        raise SettingsError(f"of=dataset: no training data set in {folder}. Create one with distil-ray pseudo-label")
    targets = {
        split: Target(join(normalize(settings.to), split), storage, settings.overwrite) for split in (TRAIN, VALIDATION)
    }
    _remove_earlier_shards(targets.values(), is_own_file)
    for split, target in targets.items():
        mine = [uri for uri in shards if uri.rsplit("/", 1)[-1].startswith(f"{split}-")]
        if mine:
            counts = write(_examples(mine, storage), target, settings.shard_mb * MEGABYTE)
            audio = format_duration(counts.audio_s)
            what = f"{counts.num_examples:,} examples, {audio} of audio, {counts.num_shards:,} shards"
            log_field("exported", f"{what} as {settings.format} to {target.folder}", console)
    return ExitCode.DONE


def _remove_earlier_shards(targets: Collection[Target], is_own_file: Callable[[str], bool]) -> None:
    """Removes the shards of an earlier export: a shorter one, or one with fewer splits, would leave some of them.

    Raises:
        SettingsError: There are such shards, and they must not be replaced.
    """
    earlier = [(target, name) for target in targets for name in target.names() if is_own_file(name)]
    for target, name in earlier:
        if not target.overwrite:
            raise target.exists_error(name)
        target.delete(name)


def write_example_shards(
    examples: Iterator[Row],
    target: Target,
    max_bytes: int,
    name_shard: Callable[[int], str],
    members: Callable[[Row, int], list[Member]],
) -> ShardCounts:
    """Writes examples as tar shards of about `max_bytes` bytes.

    Args:
        examples: Rows of the data set.
        target: Folder of the split.
        max_bytes: Size at which a new shard is begun. A larger example gets a shard of its own.
        name_shard: Returns the file name of a shard by its number.
        members: Returns the tar members of an example, by its row and the number of its shard.
    """
    counts = ShardCounts()
    row = next(examples, None)
    while row is not None:
        with (
            target.create(name_shard(counts.num_shards)) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            while row is not None and not (tar.offset and tar.offset + len(row["audio"]["bytes"]) > max_bytes):
                for name, data in members(row, counts.num_shards):
                    add_member(tar, name, len(data), io.BytesIO(data))
                counts.num_examples += 1
                counts.audio_s += row["duration_s"]
                row = next(examples, None)
        counts.num_shards += 1
    return counts


def _examples(uris: list[str], storage: Storage) -> Iterator[Row]:
    return chain.from_iterable(_rows(uri, storage) for uri in uris)


def _rows(uri: str, storage: Storage) -> Iterator[Row]:
    with storage.open(uri) as file:
        for batch in open_parquet(file).iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()
