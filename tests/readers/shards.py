"""Archives and tables for tests, and the whole job over them without Ray and weights."""

import io
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from distil_ray.readers.fetch import prefetch_files
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import Recording
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

Rows = dict[str, dict[str, Any]]


def tar(members: Mapping[str, str | bytes], mode: str = "w", form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive with these members, in their order; `mode` as `tarfile.open` takes it."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def run_job(
    inputs: str, output: str, model: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[Rows, ExitCode]:
    """(the rows of the output by id, the exit code) after the job has run over `inputs`; its texts are checksums of
    the decoded audio."""
    run_stages_in_process(monkeypatch)
    settings = [f"input.uri={inputs}", f"output.uri={output}", f"model.name={model}", "max_failed_fraction=1"]
    code = runner.transcribe(load_config(None, [*settings, *overrides]), Console(quiet=True), EchoTranscribe)
    return rows_of(output), code


def rows_of(output: str) -> Rows:
    storage = Storage()
    files = [entry.uri for entry in storage.list_files(f"{output}/transcripts")]
    rows = [row for uri in files for row in pq.read_table(io.BytesIO(storage.read(uri))).to_pylist()]
    found = {row["recording_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


def record_shard_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Returns a counter of the bytes read from tar files from now on, by URI."""
    counts = Counter[str]()
    for name in ("open", "read_range", "fetch", "fetch_range", "read"):
        plain = getattr(Storage, name)

        def counted(self: Storage, uri: str, *args: Any, _plain: Any = plain, **named: Any) -> Any:
            if ".tar" in uri or ".tgz" in uri:
                counts[uri] += args[1] if len(args) > 1 and isinstance(args[1], int) else 1
            return _plain(self, uri, *args, **named)

        monkeypatch.setattr(Storage, name, counted)
    return counts


AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # as the Audio feature of `datasets` writes it


def audio_cells(audio: Sequence[bytes | None], paths: Sequence[str | None]) -> pa.Array:
    return pa.array([{"bytes": one, "path": path} for one, path in zip(audio, paths, strict=True)], AUDIO)


def parquet_bytes(columns: dict[str, Any], **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


def read_back(recordings: list[Recording], folder: Path) -> list[Any]:
    """Returns the bytes of each recording, or the kind of its error."""
    folder.mkdir()
    fetched = prefetch_files(recordings, {}, folder, Storage(), threads=2)
    return [one.kind if isinstance(one, StorageError) else one.read_bytes() for one in fetched]
