"""An output of nightly runs over a folder and an archive, with all that quotes its recordings, and the command."""

import contextlib
import gzip
import io
import re
import tarfile
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.cli.options import parse_options
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.forget import job
from distil_ray.forget.settings import ForgetSettings
from distil_ray.nightly import nightly_run
from distil_ray.storage.storage import Storage
from tests.support.fakes import EchoTranscribe
from tests.support.without_ray import run_stages_in_process

FIRST = date(2026, 11, 20)
OWN = ("recordings=", "file=", "deleted_sources=", "exports=", "allow=")

Run = Callable[..., str]


def forget(output: str, *words: str, plan_only: bool = False) -> tuple[ExitCode, str]:
    """(exit code, what was printed) of the command."""
    own = [word for word in words if word.startswith(OWN)]
    config = load_config(None, [f"output.uri={output}", *(word for word in words if word not in own)])
    console = Console(file=io.StringIO(), width=200)
    code = job.forget(config, parse_options(ForgetSettings, own), console, plan_only=plan_only)
    return code, console.file.getvalue()  # type: ignore[attr-defined]


def record(folder: Path, *names: str, seed: int = 0) -> None:
    """Writes recordings of noise with a reference."""
    folder.mkdir(exist_ok=True)
    for name in names:
        noise = np.random.default_rng([seed, *name.encode()]).integers(-3000, 3000, 3000 + len(name))
        soundfile.write(folder / f"{name}.wav", noise.astype(np.int16), 16_000)
        (folder / f"{name}.txt").write_text(f"said in {name}")


def archive(folder: Path, name: str, *members: str) -> None:
    """Packs recordings of the folder into a shard, and removes them."""
    with tarfile.open(folder / name, "w") as tar:
        for member in members:
            for path in (folder / f"{member}.wav", folder / f"{member}.txt"):
                tar.add(path, path.name)
                path.unlink()


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder for outputs, once on the disk and once in a bucket."""
    return str(tmp_path / "outputs") if request.param == "local" else str(request.getfixturevalue("bucket"))


@pytest.fixture
def run_on(root: str, tmp_path: Path, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """run_on(today, override, …): a nightly run over ``audio`` into ``ROOT/out``; returns what it printed."""
    run_stages_in_process(monkeypatch)
    common = [f"input.uri={tmp_path}/audio", f"output.uri={root}/out", f"model.name={whisper_tiny_en}"]
    common += ["resources.actors=1", "nightly.min_recordings=1", "scoring.group_by=[speaker]"]

    def run(today: date, *overrides: str, redo: date | None = None, transcriber: type = EchoTranscribe) -> str:
        monkeypatch.setattr(nightly_run, "_utc_now", lambda: datetime.combine(today, time(12), UTC))
        console, errors = Console(file=io.StringIO(), width=200), io.StringIO()
        with contextlib.redirect_stderr(errors):
            nightly_run.run_nightly(load_config(None, [*common, *overrides]), console, transcriber, redo=redo)
        return errors.getvalue() + str(console.file.getvalue())  # type: ignore[attr-defined]

    return run


def contents(folder: str) -> Iterator[tuple[str, str]]:
    """Yields every file below a folder as text: Parquet as its values and metadata, archives unpacked."""
    storage = Storage()
    for entry in storage.list_files(folder):
        data = storage.read(entry.uri)
        name = entry.uri.removeprefix(f"{folder}/")
        if name.endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data), partitioning=None)
            binary = [one.name for one in table.schema if pa.types.is_binary(one.type)]
            yield name, f"{table.drop_columns(binary).to_pylist()} {table.schema.metadata}"
        elif name.endswith(".tar"):
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                texts = [f"{one.name} {tar.extractfile(one).read()!r}" for one in tar.getmembers()]  # type: ignore[union-attr]
            yield name, " ".join(texts)
        else:
            yield name, (gzip.decompress(data) if name.endswith(".gz") else data).decode(errors="replace")


def quoting(folder: str, *words: str) -> list[str]:
    """The files below a folder whose name or content has one of the words."""
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in words))
    return [name for name, text in contents(folder) if pattern.search(name) or pattern.search(text)]
