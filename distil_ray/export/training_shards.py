"""The training data set of an output (labels/) in the forms that other trainers stream: WebDataset, NeMo's tarred sets.

    TO/train/shard-000000.tar …     webdataset: <key>.flac, <key>.txt (the words), <key>.json (columns but the audio)
    TO/train/audio_0.tar …  tarred_audio_manifest.json     nemo_tarred: audio alone, a line of the manifest an example

One folder a split. Examples are read a few at a time, and a shard gets its name when it is whole.
"""

import io
import json
import tarfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.export.destinations import Target, sample_key
from distil_ray.export.records import as_line
from distil_ray.export.registry import DATASET as OF_DATASET
from distil_ray.export.registry import find_format
from distil_ray.export.settings import ExportSettings
from distil_ray.export.webdataset import MEGABYTE, add_member, shard_name
from distil_ray.output.ledger import list_data_files
from distil_ray.pseudo_labels.dataset_schema import DATA, DATASET, TRAIN, VALIDATION
from distil_ray.readers.audio_formats import extension
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize
from distil_ray.verify.verify import require_output

BATCH_ROWS = 16  # examples in memory: eight minutes of audio at most
MANIFEST = "tarred_audio_manifest.json"

Row = dict[str, Any]
Member = tuple[str, bytes]  # name in the tar, content


@dataclass(slots=True)
class Written:
    num_examples: int = 0
    audio_s: float = 0.0
    num_shards: int = 0


Writer = Callable[[Iterator[Row], Target, int], Written]  # of examples, to shards of so many bytes


def export_dataset(config: Config, settings: ExportSettings, console: Console) -> ExitCode:
    """Writes every split that has examples. Raises `SettingsError` where there is no data set."""
    storage = Storage(config.storage)
    folder = join(require_output(config), DATASET, DATA)
    shards = list(list_data_files(folder, storage))
    if not shards:
        raise SettingsError(f"of=dataset: there is no data set in {folder}; jobs/pseudo_label.py makes one")
    form = find_format(settings.format, OF_DATASET)
    write: Writer = form.load_writer()
    targets = {
        split: Target(join(normalize(settings.to), split), storage, settings.overwrite) for split in (TRAIN, VALIDATION)
    }
    _make_room(targets.values(), form.writes)
    for split, target in targets.items():
        mine = [uri for uri in shards if uri.rsplit("/", 1)[-1].startswith(f"{split}-")]
        if mine:
            written = write(_examples(mine, storage), target, settings.shard_mb * MEGABYTE)
            what = f"{written.num_examples:,} examples, {format_duration(written.audio_s)} of audio, {written.num_shards:,} shards"
            log_field("exported", f"{what} as {settings.format} to {target.folder}", console)
    return ExitCode.DONE


def write_webdataset(examples: Iterator[Row], target: Target, limit: int) -> Written:
    def members(row: Row, _: int) -> list[Member]:
        key = sample_key(row["id"])
        facts = {name: cell for name, cell in row.items() if name != "audio"}
        return [
            (f"{key}{extension(row['audio']['path'])}", row["audio"]["bytes"]),
            (f"{key}.txt", row["transcript"].encode()),
            (f"{key}.json", as_line(facts).encode()),
        ]

    return _write(examples, target, limit, shard_name, members)


def write_tarred(examples: Iterator[Row], target: Target, limit: int) -> Written:
    manifest = io.BytesIO()

    def members(row: Row, shard: int) -> list[Member]:
        # NeMo names an utterance by its file without folders
        name = sample_key(row["id"]).replace("/", "%2F") + extension(row["audio"]["path"])
        line = {"audio_filepath": name, "duration": row["duration_s"], "text": row["transcript"]}
        line |= {"lang": row["language"], "speaker": row["speaker"], "shard_id": shard}
        manifest.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
        return [(name, row["audio"]["bytes"])]

    written = _write(examples, target, limit, "audio_{}.tar".format, members)
    target.put(MANIFEST, manifest.getvalue())
    return written


def _make_room(targets: Collection[Target], is_taken: Callable[[str], bool]) -> None:
    """Raises `SettingsError` where an earlier export stands that may not be replaced; else removes it, because a
    shorter one, or one without one of the splits, would leave shards of it behind."""
    earlier = [(target, name) for target in targets for name in target.names() if is_taken(name)]
    for target, name in earlier:
        if not target.overwrite:
            raise target.taken(name)
        target.delete(name)


def _write(
    examples: Iterator[Row],
    target: Target,
    limit: int,
    name_of: Callable[[int], str],
    members: Callable[[Row, int], list[Member]],
) -> Written:
    """Tar shards of about `limit` bytes."""
    written = Written()
    row = next(examples, None)
    while row is not None:
        with (
            target.create(name_of(written.num_shards)) as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            while row is not None and not (tar.offset and tar.offset + len(row["audio"]["bytes"]) > limit):
                for name, data in members(row, written.num_shards):
                    add_member(tar, name, len(data), io.BytesIO(data))
                written.num_examples += 1
                written.audio_s += row["duration_s"]
                row = next(examples, None)
        written.num_shards += 1
    return written


def _examples(uris: list[str], storage: Storage) -> Iterator[Row]:
    return chain.from_iterable(_rows(uri, storage) for uri in uris)


def _rows(uri: str, storage: Storage) -> Iterator[Row]:
    with storage.open(uri) as file:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            yield from batch.to_pylist()
