"""Removal of recordings from a training data set: their examples, and their texts in the prompts of others.

An example goes as a whole, also where it has utterances of other recordings: these are planned again by the next build.
The prompt of an example is the text of its speaker's example before, so the examples of a speaker lose their prompts.
"""

from collections.abc import Iterator

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
    dataset = join(tree.uri, DATASET)

    def read(uri: str) -> list[tuple[str, str]]:
        columns = ["id", "utterance_ids", "utterance_sources"]
        if f"/{REJECTED_FOLDER}/" in uri:
            columns = ["id", "id", "utterance_source"]
        with storage.open(uri) as file:
            table = open_parquet(file).read(list(dict.fromkeys(columns)))
        found = []
        for example, utterances, sources in zip(*(table[name].to_pylist() for name in columns), strict=True):
            pairs = zip(utterances, sources, strict=True) if isinstance(utterances, list) else [(utterances, sources)]
            found += [(example, one.partition("-")[0]) for name, one in pairs if request.has_utterance(name)]
        return found

    uris = [uri for folder in (DATA, REJECTED_FOLDER) for uri in list_data_files(join(dataset, folder), storage)]
    for some in ordered_parallel_map(read, uris, num_request_threads(dataset)):
        yield from some


def _clear_prompts(doomed: set[bytes], dataset: str, storage: Storage) -> None:
    """Removes the prompts of the speakers of doomed examples. Done before these go, so that it can be repeated."""
    columns = ["speaker", "utterance_sources", PROMPT]

    def read(uri: str) -> tuple[str, pa.Table]:
        with storage.open(uri) as file:
            return uri, open_parquet(file).read(columns)

    uris = list(list_data_files(join(dataset, DATA), storage))
    tables = list(ordered_parallel_map(read, uris, num_request_threads(dataset)))
    speakers = {
        speaker
        for _, table in tables
        for speaker, names in zip(table["speaker"].to_pylist(), table["utterance_sources"].to_pylist(), strict=True)
        if speaker is not None and any(name.partition("-")[0].encode() in doomed for name in names)
    }
    for uri, table in tables:
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
