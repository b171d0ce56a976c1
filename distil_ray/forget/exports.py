"""Removal of recordings from exports, whatever their format.

A file of its own is found by its name, a line of a manifest by the id in it, a sample of a tar shard by its key and by
its JSON. A call that a recording is a part of goes as a whole: the next export writes it again from the others.
"""

import gzip
import json
import re
import tarfile
from collections.abc import Mapping
from itertools import groupby
from typing import Any
from urllib.parse import unquote

from distil_ray.export.base import Layout
from distil_ray.export.destinations import file_name, sample_key
from distil_ray.forget.request import Request
from distil_ray.registry import EXPORTERS
from distil_ray.storage.storage import Storage

MANIFESTS = (".jsonl", ".json", ".jsonl.gz")
LINES_OF_WORDS = ".ctm"
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class ExportCleaner:
    """Finds and removes the recordings of a request in folders of exports."""

    def __init__(self, request: Request, storage: Storage) -> None:
        self._request, self._storage = request, storage
        self._own_ids = request.id_set | frozenset(request.call_ids)
        formats = [EXPORTERS.load(name) for name in EXPORTERS.names()]
        extensions = {one.extension for one in formats if one.layout == Layout.FILE}
        self._own_files = {file_name(name, extension) for name in self._own_ids for extension in extensions}
        self._keys = {sample_key(name) for name in (*request.ids, *request.examples)}
        self._flat_keys = {key.replace("/", "%2F") for key in self._keys}  # as NeMo names them

    def clear(self, folder: str, *, apply: bool) -> int:
        """Returns the number of files, lines and samples with a recording below a folder; removes them with `apply`."""
        total = 0
        for entry in list(self._storage.list_files(folder)):
            name = entry.uri.removeprefix(f"{folder}/")
            if name in self._own_files:
                total += 1
                if apply:
                    self._storage.delete_file(entry.uri)
            elif name.endswith(".tar"):
                total += self._clear_shard(entry.uri, apply=apply)
            elif name.endswith((*MANIFESTS, LINES_OF_WORDS)):
                total += self._clear_lines(entry.uri, apply=apply)
        return total

    def _clear_lines(self, uri: str, *, apply: bool) -> int:
        data = self._storage.read(uri)
        is_packed = uri.endswith(".gz")
        # Not `splitlines`: texts may contain other characters that it takes for the end of a line.
        lines = _LINE.findall((gzip.decompress(data) if is_packed else data).decode())
        is_meant = self._is_meant_word if uri.endswith(LINES_OF_WORDS) else self._is_meant_line
        kept = [line for line in lines if not is_meant(line)]
        if apply and len(kept) < len(lines):
            text = "".join(kept).encode()
            self._storage.put(uri, gzip.compress(text, mtime=0) if is_packed else text)
        return len(lines) - len(kept)

    def _is_meant_word(self, line: str) -> bool:
        return unquote(line.partition(" ")[0]) in self._request.id_set

    def _is_meant_line(self, line: str) -> bool:
        try:
            record = json.loads(line)
        except ValueError:  # not a manifest
            return False
        return isinstance(record, dict) and self._is_meant(record)

    def _is_meant(self, record: Mapping[str, Any]) -> bool:
        """Returns whether a line of a manifest, or the JSON of a sample, is of one of the recordings."""
        if any(record.get(name) in self._own_ids for name in ("recording_id", "id", "call_id")):
            return True
        utterances = record.get("utterance_ids") or ()
        if any(self._request.has_utterance(name) for name in utterances):
            return True
        path = record.get("audio_filepath")
        return isinstance(path, str) and "shard_id" in record and path.rpartition(".")[0] in self._flat_keys

    def _clear_shard(self, uri: str, *, apply: bool) -> int:
        """Rewrites a shard without the samples of the recordings; deletes it if none is left."""
        with self._storage.open(uri) as source, tarfile.open(fileobj=source) as tar:
            members = tar.getmembers()
            keys = {key: list(some) for key, some in groupby(members, lambda member: _key(member.name))}
            doomed = {
                key for key, some in keys.items() if key in self._keys | self._flat_keys or self._names(some, tar)
            }
            if not doomed or not apply:
                return len(doomed)
            kept = [member for member in members if _key(member.name) not in doomed]
            if kept:
                with (
                    self._storage.create(uri) as sink,
                    tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as target,
                ):
                    for member in kept:
                        target.addfile(member, tar.extractfile(member))
        if not kept:
            self._storage.delete_file(uri)
        return len(doomed)

    def _names(self, members: list[tarfile.TarInfo], tar: tarfile.TarFile) -> bool:
        for member in members:
            if member.name.endswith(".json") and (file := tar.extractfile(member)) is not None:
                return self._is_meant_line(file.read().decode())
        return False


def _key(name: str) -> str:
    """Returns the key of a member of a shard: its path up to the first dot of the file name."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def clear_exports(request: Request, storage: Storage, *, apply: bool) -> int:
    """Removes the recordings from all folders of the request. Returns the number of files, lines and samples."""
    cleaner = ExportCleaner(request, storage)
    return sum(cleaner.clear(folder, apply=apply) for folder in request.exports)
