"""The recordings that a request names: by id, URI, call, pattern, or because their source is no longer listed.

Names are compared with the rows of the transcripts and of the plans of all runs, so that a recording is found that has
no row any more, or never had one. Where all names are ids of rows, the ledger leads to the files that hold them;
otherwise the names of all rows are read.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from distil_ray.config import Config
from distil_ray.errors import SettingsError
from distil_ray.forget.request import Request
from distil_ray.forget.settings import ForgetSettings
from distil_ray.forget.tree import OutputTree
from distil_ray.output.forgotten import source_key
from distil_ray.output.ledger import Keys, Ledger, id_keys, isin_sorted
from distil_ray.output.ledger_rows import rows_outside, unlisted_rows
from distil_ray.output.reader import open_transcripts
from distil_ray.pseudo_labels.existing_dataset import source_keys
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.readers.location import unread_file
from distil_ray.readers.ordered_iteration import num_request_threads, ordered_parallel_map
from distil_ray.redaction import redact
from distil_ray.schema import open_parquet
from distil_ray.storage.patterns import has_magic, key_regex
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import is_absolute, normalize

_NAMES = ["recording_id", "uri", "call_id"]
_PLANNED = [*_NAMES, "location"]
_ROW = [*_PLANNED, "metadata", "fingerprint"]

Choose = Callable[[str, str, str | None], bool]  # (id, URI, call id) of a row


class Names:
    """The names of a request, compared with ids, URIs and call ids, as of a file whose channels are recordings.

    Args:
        patterns: Names that may have wildcards, or end with a slash.
        literals: Names without.

    Attributes:
        exact: The names without wildcards, by each text that they match.
        matched: The names that have matched.

    Raises:
        SettingsError: A pattern is malformed.
    """

    def __init__(self, patterns: Iterable[str], literals: Iterable[str] = ()) -> None:
        self.exact: dict[str, str] = {}
        self.matched: set[str] = set()
        self._patterns: dict[str, list[re.Pattern[str]]] = {}
        plain = []
        for name in patterns:
            if has_magic(name) or name.endswith("/"):
                self._patterns[name] = _regexes(name)
            else:
                plain.append(name)
        for name in (*plain, *literals):
            self.exact |= dict.fromkeys((name, redact(normalize(name))), name)

    def __call__(self, recording_id: str, uri: str, call_id: str | None) -> bool:
        """Returns whether a row is meant; remembers by which names."""
        texts = [recording_id, uri, *([] if call_id is None else [call_id])]
        found = {self.exact[text] for text in texts if text in self.exact}
        for name, regexes in self._patterns.items():
            if any(regex.match(text) for regex in regexes for text in texts):
                found.add(name)
        self.matched |= found
        return bool(found)

    @property
    def has_patterns(self) -> bool:
        return bool(self._patterns)

    @property
    def unmatched(self) -> list[str]:
        """The names that have not matched, sorted."""
        return sorted({*self.exact.values(), *self._patterns} - self.matched)


def _regexes(name: str) -> list[re.Pattern[str]]:
    """Returns the regular expressions of a pattern as it is, and as an absolute path."""
    ending = "/" if name.endswith("/") else ""
    try:
        return [key_regex(f"{one}**" if ending else one) for one in (name, normalize(name) + ending)]
    except ValueError as error:
        raise SettingsError(f"recordings={name}: {error}") from error


def read_names(settings: ForgetSettings, storage: Storage) -> Names:
    """Returns the names that the settings give. Raises `SettingsError` for a file that cannot be read."""
    lines: list[str] = []
    if settings.file:
        try:
            lines = storage.read(normalize(settings.file)).decode("utf-8-sig").splitlines()
        except (StorageError, UnicodeDecodeError) as error:
            raise SettingsError(f"file={settings.file}: must be a text file in UTF-8 ({error})") from error
    return Names(settings.recordings, filter(None, lines))


@dataclass(slots=True)
class _Found:
    """Facts about the recordings that were found, from their rows."""

    ids: set[str] = field(default_factory=set)
    uris: set[str] = field(default_factory=set)
    sources: dict[bytes, str] = field(default_factory=dict)
    label_sources: set[bytes] = field(default_factory=set)
    call_ids: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    is_in_table: bool = False
    groups: set[tuple[str, str]] = field(default_factory=set)
    fingerprints: Counter[str] = field(default_factory=Counter)

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row of transcripts or of a plan."""
        location = row["location"]
        self.ids.add(row["recording_id"])
        self.sources[source_key(row["uri"], location)] = row["recording_id"]
        if not location or all(value is None for value in location.values()):
            self.uris.add(row["uri"])  # else the file has other recordings too
        if location and location["row"] is not None:
            self.is_in_table = True
        elif location and location["member"]:
            self.members.add(location["member"])
        if row["call_id"]:
            self.call_ids.add(row["call_id"])

    def add_transcript(self, row: Mapping[str, Any]) -> None:
        """Adds a row of the transcripts, which tells more than one of a plan."""
        self.add(row)
        self.fingerprints[row["fingerprint"]] += 1
        self.groups.update((one["key"], one["value"]) for one in row["metadata"] or () if one["value"])


def select_recordings(
    config: Config, settings: ForgetSettings, trees: list[OutputTree], storage: Storage
) -> tuple[Request, list[str]]:
    """Returns the request for the recordings that the settings name, and the names that no recording has.

    Raises:
        SettingsError: Nothing is named; a file of names cannot be read; with `deleted_sources`, more rows would go
            than `output.max_deleted_fraction` allows.
    """
    names = read_names(settings, storage)
    if not settings.deleted_sources and not names.exact and not names.has_patterns:
        raise SettingsError(
            "no recording is named. Set recordings=, file= or deleted_sources=true; for example recordings=call-17.wav"
        )
    ledgers = [Ledger.read(tree.uri, storage) for tree in trees]
    gone = _unlisted_ids(config, ledgers[0], storage) if settings.deleted_sources else None
    choose: Choose = names if gone is None else lambda recording_id, *_: _is_in(recording_id, gone)
    found = _Found()
    for tree, ledger in zip(trees, ledgers, strict=True):
        _find_rows(ledger, _candidate_files(ledger, names, gone), choose, found, storage)
        _find_planned(tree, choose, found, storage)
        rows = np.flatnonzero(isin_sorted(ledger.ids, np.sort(id_keys(sorted(found.ids)))))
        found.label_sources.update(source_keys(ledger, rows).tolist())
    unmatched = names.unmatched
    exact = set(unmatched) & set(names.exact.values())
    now = datetime.now(UTC)
    request = Request(
        request_id=f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z",
        requested_at=now.isoformat(timespec="seconds"),
        ids=sorted(found.ids | {name for name in exact if not is_absolute(name)}),
        uris=sorted(found.uris),
        sources={
            key.hex(): found.sources.get(key, "")
            for key in sorted(found.sources.keys() | {source_key(redact(normalize(one)), None) for one in exact})
        },
        label_sources=sorted(key.decode() for key in found.label_sources),
        call_ids=sorted(found.call_ids),
        members=sorted(found.members),
        is_in_table=found.is_in_table,
        groups=sorted(found.groups),
        exports=[normalize(folder) for folder in settings.exports],
        rows_by_fingerprint=dict(sorted(found.fingerprints.items())),
    )
    return request, unmatched


def _is_in(recording_id: str, ids: Keys) -> bool:
    return bool(isin_sorted(id_keys([recording_id]), ids)[0])


def _unlisted_ids(config: Config, ledger: Ledger, storage: Storage) -> Keys:
    """Returns the sorted `id_keys` of the rows whose recordings `input.uri` does not list."""
    if not config.input.uri:
        raise SettingsError("deleted_sources=true: needs input.uri, the whole input of this output")
    listing = list_recordings(config.input, storage, IndexCache(config.output.uri, storage))
    listed: list[str] = []
    unread_files: set[str] = set()
    for one in listing:
        listed.append(one.recording_id)
        if (file := unread_file(one)) is not None:
            unread_files.add(file)
    rows = rows_outside(ledger, unlisted_rows(ledger, id_keys(listed)), unread_files, storage)
    share, limit = len(rows) / max(ledger.num_rows, 1), config.output.max_deleted_fraction
    if share > limit:
        raise SettingsError(
            f"deleted_sources=true: input.uri does not list the recordings of {len(rows):,} of {ledger.num_rows:,}"
            f" rows, more than output.max_deleted_fraction={limit:g} allows. Check that input.uri is the whole input of"
            " this output, or set output.max_deleted_fraction=1"
        )
    return np.unique(ledger.ids[rows])


def _candidate_files(ledger: Ledger, names: Names, gone: Keys | None) -> list[int]:
    """Returns the numbers of the files that may hold chosen rows: few where the ledger knows their ids."""
    if gone is None:
        gone = np.sort(id_keys(sorted(set(names.exact.values()))))
        if names.has_patterns or not isin_sorted(gone, np.unique(ledger.ids)).all():
            return list(range(len(ledger.files)))
    return [int(number) for number in np.unique(ledger.file[isin_sorted(ledger.ids, gone)])]


def _find_rows(ledger: Ledger, numbers: list[int], choose: Choose, found: _Found, storage: Storage) -> None:
    """Adds the chosen rows of these files of transcripts."""

    def read(number: int) -> list[dict[str, Any]]:
        with open_transcripts(ledger.files[number], storage) as file:
            chosen = _chosen(file.read(_NAMES), choose)
            return file.read(_ROW).take(chosen).to_pylist() if len(chosen) else []

    threads = num_request_threads(ledger.files[0]) if numbers else 1
    for rows in ordered_parallel_map(read, numbers, threads):
        for row in rows:
            found.add_transcript(row)


def _find_planned(tree: OutputTree, choose: Choose, found: _Found, storage: Storage) -> None:
    """Adds the chosen recordings of the plans of all runs."""

    def read(uri: str) -> list[dict[str, Any]]:
        with storage.open(uri) as source:
            table = open_parquet(source).read([*_PLANNED])
        return list(table.take(_chosen(table, choose)).to_pylist())

    for rows in ordered_parallel_map(read, list_plans(tree), num_request_threads(tree.uri)):
        for row in rows:
            found.add(row)


def list_plans(tree: OutputTree) -> Iterator[str]:
    """Yields the URIs of the files of all plans."""
    for run_id, files in tree.runs.items():
        for name in sorted(files):
            if name.startswith("plan/") and name.endswith(".parquet"):
                yield tree.run_file(run_id, name)


def _chosen(table: pa.Table, choose: Choose) -> pa.Array:
    rows = zip(*(table[name].to_pylist() for name in _NAMES), strict=True)
    return pa.array([number for number, row in enumerate(rows) if choose(*row)], pa.int64())
