"""Removal of recordings from the folders of runs: plans, lists, messages, groups of the summary, pages.

Every function returns the number of places that name the recordings, and changes the files with `apply`. Figures that
are sums over recordings stay as they were: they are those of the run.
"""

import csv
import html
import io
import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from distil_ray.config import Config
from distil_ray.forget.request import Request
from distil_ray.forget.selection import list_plans
from distil_ray.forget.tree import OutputTree
from distil_ray.nightly.history_page import HISTORY, load_drift, write_history
from distil_ray.nightly.run_records import REPORT
from distil_ray.output.ledger import TRANSCRIPTS, list_data_files
from distil_ray.output.run_context import DELETED_SOURCES_FILE
from distil_ray.output.run_outcome import OUTCOME_FILE
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.report.run_folder import CONFIG, EVENTS, SUMMARY
from distil_ray.report.run_page import PAGE, write_run_page
from distil_ray.schema import PLAN, open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize

logger = logging.getLogger(__name__)

REPLACEMENT = "[forgotten]"  # in place of a name in a message
LISTS = ("failed.csv", DELETED_SOURCES_FILE)
GROUPS = "groups.csv"
MESSAGES = frozenset({"error", "warnings", "report_error", "text", "reason", "verdict"})  # keys whose values quote
MAX_NAMES = 1000  # that a page is searched for; of more, every page counts as naming one


def clear_plans(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Removes the recordings from the plans of all runs. Returns the number of planned recordings."""

    def clear(uri: str) -> int:
        with storage.open(uri) as source:
            parquet = open_parquet(source)
            groups = [parquet.read_row_group(number) for number in range(parquet.num_row_groups)]
        kept = [group.filter(pc.invert(_is_forgotten(group["recording_id"], request))) for group in groups]
        removed: int = sum(group.num_rows for group in groups) - sum(group.num_rows for group in kept)
        if removed and apply:
            _write_plan(uri, [group for group in kept if group.num_rows], storage)
        return removed

    return sum(ordered_parallel_map(clear, list_plans(tree), num_request_threads(tree.uri)))


def _is_forgotten(ids: pa.ChunkedArray, request: Request) -> pa.ChunkedArray:
    return pc.is_in(ids, value_set=pa.array(request.ids, pa.string()))


def _write_plan(uri: str, groups: list[pa.Table], storage: Storage) -> None:
    if not groups:
        storage.delete_file(uri)
        return
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, PLAN, compression="zstd", write_statistics=False, use_dictionary=False) as writer:
        for group in groups:
            writer.write_table(group.cast(PLAN), row_group_size=group.num_rows)
    storage.put(uri, bytes(sink.getvalue()))


def clear_lists(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Removes the recordings from the CSV files that list recordings. Returns the number of lines."""

    def clear(data: bytes) -> tuple[bytes, int]:
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        kept = [row for row in rows if not row or row[0] not in request.id_set]
        return _to_csv(kept), len(rows) - len(kept)

    return _rewrite_all(_existing(tree, LISTS), clear, storage, apply=apply)


def clear_messages(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Replaces the names of the recordings in messages, and as inputs in stored settings. Returns the messages."""

    def clear_lines(data: bytes) -> tuple[bytes, int]:
        lines = data.decode().splitlines(keepends=True)
        found = [(line, 0) if _mentions(line, request) is None else _clear_json(line, request) for line in lines]
        return "".join(line for line, _ in found).encode(), sum(count for _, count in found)

    def clear_document(data: bytes) -> tuple[bytes, int]:
        content, count = _without_names(json.loads(data), request)
        return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(), count

    def clear_config(data: bytes) -> tuple[bytes, int]:
        settings = yaml.safe_load(data)
        uris = settings.get("input", {}).get("uri", ())
        found = [uri for uri in uris if uri in request.names or normalize(uri) in request.names]
        if not found:
            return data, 0
        settings["input"]["uri"] = [REPLACEMENT if uri in found else uri for uri in uris]
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).encode(), len(found)

    total = _rewrite_all(_existing(tree, (EVENTS,)), clear_lines, storage, apply=apply)
    total += _rewrite_all(_existing(tree, (OUTCOME_FILE, REPORT)), clear_document, storage, apply=apply)
    return total + _rewrite_all(_existing(tree, (CONFIG,)), clear_config, storage, apply=apply)


def _mentions(text: str, request: Request) -> str | None:
    return next((name for name in request.names if name in text), None)


def _clear_json(line: str, request: Request) -> tuple[str, int]:
    content, count = _without_names(json.loads(line), request)
    return (json.dumps(content) + "\n", count) if count else (line, 0)


def _without_names(value: Any, request: Request, is_message: bool = False) -> tuple[Any, int]:
    """Returns a JSON value with the names in its messages replaced, and the number of these messages."""
    if isinstance(value, Mapping):
        parts = {key: _without_names(one, request, is_message or key in MESSAGES) for key, one in value.items()}
        return {key: one for key, (one, _) in parts.items()}, sum(count for _, count in parts.values())
    if isinstance(value, list):
        found = [_without_names(one, request, is_message) for one in value]
        return [one for one, _ in found], sum(count for _, count in found)
    if not is_message or not isinstance(value, str):
        return value, 0
    text = value
    for name in request.names:
        if name in text:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", REPLACEMENT, text)
    return text, int(text != value)


def clear_groups(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Removes the groups of summaries that only the recordings were in, such as their speakers. Returns the groups."""
    candidates = {(name, value) for name, value in request.groups}
    if not candidates:
        return 0
    held = _values_of_others(request, {name for name, _ in candidates}, tree.uri, storage)
    unheld = candidates - held

    def clear_summary(data: bytes) -> tuple[bytes, int]:
        summary = json.loads(data)
        groups = summary.get("groups") or {}
        found = [(name, value) for name, value in unheld if value in groups.get(name, ())]
        for name, value in found:
            del groups[name][value]
        return (json.dumps(summary, indent=2, ensure_ascii=False) + "\n").encode(), len(found)

    def clear_table(data: bytes) -> tuple[bytes, int]:
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        kept = [row for row in rows if tuple(row[:2]) not in unheld]
        return _to_csv(kept), 0  # counted in the summary

    total = _rewrite_all(_existing(tree, (SUMMARY,)), clear_summary, storage, apply=apply) if unheld else 0
    if unheld and apply:
        _rewrite_all(_existing(tree, (GROUPS,)), clear_table, storage, apply=True, always=True)
    return total


def _values_of_others(
    request: Request, names: Collection[str], output_uri: str, storage: Storage
) -> set[tuple[str, str]]:
    """Returns the metadata with these names that other recordings have."""

    def read(uri: str) -> set[tuple[str, str]]:
        with storage.open(uri) as source:
            table = open_parquet(source).read(["recording_id", "metadata"])
        rows = table.filter(pc.invert(_is_forgotten(table["recording_id"], request)))["metadata"].to_pylist()
        return {(one["key"], one["value"]) for row in rows for one in row or () if one["key"] in names}

    uris = list_data_files(join(output_uri, TRANSCRIPTS), storage)
    found: set[tuple[str, str]] = set()
    for values in ordered_parallel_map(read, uris, num_request_threads(output_uri)):
        found |= values
    return found


def clear_pages(request: Request, tree: OutputTree, config: Config, storage: Storage, *, apply: bool) -> int:
    """Writes the pages that name the recordings again. A page that cannot be written, or still names one, is deleted.

    Returns the number of pages.
    """
    total = 0
    for run_id in sorted(tree.runs):
        uri = tree.run_file(run_id, PAGE)
        if PAGE in tree.runs[run_id] and _page_names(uri, request, storage):
            total += 1
            if apply:

                def write(run_id: str = run_id) -> str:
                    return write_run_page(tree.uri, run_id, config, load_drift(run_id, tree.uri, storage))

                _write_again(uri, write, request, storage)
    history = join(tree.uri, HISTORY)
    if storage.stat(history) is not None and _page_names(history, request, storage):
        total += 1
        if apply:
            _write_again(history, lambda: write_history(tree.uri, storage), request, storage)
    return total


def _write_again(uri: str, write: Callable[[], str], request: Request, storage: Storage) -> None:
    try:
        write()
    except Exception as error:  # whatever the reason: a page that names the recordings must not stay
        logger.warning("%s: could not be written again and was deleted (%s)", uri, " ".join(str(error).split()))
        storage.delete_file(uri)
        return
    if len(request.names) <= MAX_NAMES and _page_names(uri, request, storage):
        logger.warning("%s: still named a recording and was deleted; distil-ray report writes it again", uri)
        storage.delete_file(uri)


def _page_names(uri: str, request: Request, storage: Storage) -> bool:
    if len(request.names) > MAX_NAMES:
        return True
    page = html.unescape(storage.read(uri).decode())
    return any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", page) for name in request.names if name in page)


def _existing(tree: OutputTree, names: Collection[str]) -> Iterator[str]:
    for run_id, files in tree.runs.items():
        yield from (tree.run_file(run_id, name) for name in names if name in files)


def _rewrite_all(
    uris: Iterator[str],
    clear: Callable[[bytes], tuple[bytes, int]],
    storage: Storage,
    *,
    apply: bool,
    always: bool = False,
) -> int:
    """Applies `clear` to files; it returns the new content and a count. Damaged files are left as they are."""

    def rewrite(uri: str) -> int:
        data = storage.read(uri)
        count = 0
        with suppress(ValueError, yaml.YAMLError, AttributeError):
            new, count = clear(data)
            if apply and (count or always) and new != data:
                storage.put(uri, new)
        return count

    every = list(uris)
    return sum(ordered_parallel_map(rewrite, every, num_request_threads(every[0]) if every else 1))


def _to_csv(rows: list[list[str]]) -> bytes:
    sink = io.StringIO(newline="")
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue().encode()
