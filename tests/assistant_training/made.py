"""What the tests of trainings are made of: outputs of rows that were made up, and an assistant in use."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.config.loader import load_config
from distil_ray.output.run_context import Run, resolve_chunking
from distil_ray.pipeline.assistant_selection import CurrentAssistant
from distil_ray.schema import TRANSCRIPT

MAIN = "sha256:main"


def current_of(training: str, identity: str, layers: int = 2, **held_out: Any) -> CurrentAssistant:
    return CurrentAssistant(
        training=training,
        main_model="main",
        main_identity=identity,
        trained_at="2026-11-22T00:00:00+00:00",
        held_out={"by": "recording", "share": 0.1, "seed": 0} | held_out,
        layers=layers,
        figures={},
    )


def run_of(*words: str) -> Run:
    """A run of the model `MAIN` with these settings."""
    config = load_config(None, list(words))
    return Run(
        config=config,
        run_id="run",
        fingerprint="f",
        model_identity=MAIN,
        model_revision=None,
        languages=("en",),
        chunking=resolve_chunking(config, 30.0, ""),
    )


def chunk(*tokens: int, start_s: float = 0.0, end_s: float = 10.0, **changes: Any) -> dict[str, Any]:
    told = {"text": "words", "temperature": 0.0, "window_s": 30.0, "quality_flags": [], "tokens": list(tokens)}
    return {"start_s": start_s, "end_s": end_s} | told | changes


def row(name: str, *chunks: dict[str, Any], speaker: str | None = None, **changes: Any) -> dict[str, Any]:
    """A row of a transcript, of the model `MAIN`."""
    metadata = [{"key": "speaker", "value": speaker}] if speaker else []
    told = {"recording_id": name, "uri": f"/audio/{name}", "status": "ok", "language": "en", "text": "words"}
    known = {"model": MAIN, "fingerprint": "f", "metadata": metadata, "chunks": list(chunks)}
    return dict.fromkeys(TRANSCRIPT.names) | told | known | changes


def write_output(folder: Path, *files: list[dict[str, Any]], partition: str = "") -> str:
    """An output with a data file of each list of rows, or files more in a partition of it."""
    (place := folder / "transcripts" / partition).mkdir(parents=True)
    for number, rows in enumerate(files):
        table = pa.Table.from_pylist(rows, schema=TRANSCRIPT)
        pq.write_table(table, place / f"task-{number}.parquet")
    return str(folder)
