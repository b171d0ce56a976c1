"""Removal of recordings from a training data set: their examples, and their texts in the prompts of others.

An example goes as a whole, also where it has utterances of other recordings: these are planned again by the next build.
The prompt of an example is the text of its speaker's example before, so the examples of a speaker lose their prompts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.forget.request import Request
from distil_ray.forget.tree import OutputTree
from distil_ray.output.ledger import list_data_files
from distil_ray.pseudo_labels.dataset_schema import DATA, DATASET, PLAN, REJECTED_FOLDER
from distil_ray.pseudo_labels.existing_dataset import HEX, ExistingDataset, remove_stale_rows
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

PROMPT = "condition_on_prev"
# Folder of a data set -> the columns with the names of a row's utterances, and with their sources.
COLUMNS = {DATA: ("utterance_ids", "utterance_sources"), REJECTED_FOLDER: ("id", "utterance_source")}


def clear_labels(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Removes examples and rejected utterances. Other utterances of these examples are planned by the next build."""
    dataset = join(tree.uri, DATASET)
    existing = ExistingDataset.read(dataset, storage)
    if not existing.files:
        return 0
    sources = (source for _, source in find_examples(request, tree, storage))
    doomed = np.unique(np.array([*request.label_sources, *sources], HEX))
    if apply:
        _clear_prompts(set(doomed.tolist()), dataset, storage)
        every = np.unique(np.concatenate([one.sources for one in existing.files]))
        storage.delete(join(tree.uri, *PLAN))  # a build that was interrupted is planned again
        return remove_stale_rows(existing, np.setdiff1d(every, doomed), storage)
    held = set(doomed.tolist())
    return sum(
        any(name.partition("-")[0].encode() in held for name in row) for one in existing.files for row in one.names
    )


def find_examples(request: Request, tree: OutputTree, storage: Storage) -> Iterator[tuple[str, str]]:
    """Yields example and source of the utterances in a data set that are of the recordings, of whatever version."""
    for folder, (name_column, source_column) in COLUMNS.items():
        columns = ["id", name_column, source_column]
        for _, table in _iter_tables(join(tree.uri, DATASET, folder), columns, storage):
            for example, names, sources in zip(*(table[column].to_pylist() for column in columns), strict=True):
                pairs = zip(_listed(names), _listed(sources), strict=True)
                yield from (
                    (example, source.partition("-")[0]) for name, source in pairs if request.has_utterance(name)
                )


def _iter_tables(folder: str, columns: Sequence[str], storage: Storage) -> Iterator[tuple[str, pa.Table]]:
    """Yields the URI of each file of a folder, and some of its columns."""

    def read(uri: str) -> tuple[str, pa.Table]:
        with storage.open(uri) as file:
            return uri, open_parquet(file).read(list(dict.fromkeys(columns)))

    return ordered_parallel_map(read, list_data_files(folder, storage), num_request_threads(folder))


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _clear_prompts(doomed: set[bytes], dataset: str, storage: Storage) -> None:
    """Removes the prompts of the speakers of doomed rows. Done before these go, so that it can be repeated.

    Rejected utterances count, too: a prompt may be an earlier transcript of the recording.
    """
    speakers = {
        speaker
        for folder, (_, source_column) in COLUMNS.items()
        for _, table in _iter_tables(join(dataset, folder), ["speaker", source_column], storage)
        for speaker, sources in zip(table["speaker"].to_pylist(), table[source_column].to_pylist(), strict=True)
        if speaker is not None and any(source.partition("-")[0].encode() in doomed for source in _listed(sources))
    }
    for uri, table in list(_iter_tables(join(dataset, DATA), ["speaker", PROMPT], storage)):
        pairs = zip(table["speaker"].to_pylist(), table[PROMPT].is_valid().to_pylist(), strict=True)
        if any(has_prompt and speaker in speakers for speaker, has_prompt in pairs):
            _without_prompts(uri, speakers, storage)


def _without_prompts(uri: str, speakers: set[str], storage: Storage) -> None:
    """Rewrites a file without the prompts of these speakers, one row group in memory at a time."""
    with storage.open(uri) as source, storage.create(uri) as sink:
        parquet = open_parquet(source)
        with pq.ParquetWriter(sink, parquet.schema_arrow, compression="zstd", write_page_checksum=True) as writer:
            for number in range(parquet.num_row_groups):
                group = parquet.read_row_group(number)
                rows = zip(group["speaker"].to_pylist(), group[PROMPT].to_pylist(), strict=True)
                kept = [None if speaker in speakers else prompt for speaker, prompt in rows]
                position = group.column_names.index(PROMPT)
                column = pa.array(kept, group.schema.field(PROMPT).type)
                writer.write_table(group.set_column(position, group.schema.field(PROMPT), column))
