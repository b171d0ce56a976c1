"""Factories for tests of assistant training: transcript rows, runs, and current assistants."""

from typing import Any

from distil_ray.config.loader import load_config
from distil_ray.output.run_context import Run, resolve_chunking
from distil_ray.pipeline.assistant_selection import CurrentAssistant
from distil_ray.pipeline.model_setup import resolve_beams
from tests.support.transcripts import transcript_row

MAIN = "sha256:main"


def make_current_assistant(training: str, identity: str, layers: int = 2, **held_out: Any) -> CurrentAssistant:
    return CurrentAssistant(
        training=training,
        main_model="main",
        main_identity=identity,
        trained_at="2026-11-22T00:00:00+00:00",
        held_out={"by": "recording", "share": 0.1, "seed": 0} | held_out,
        layers=layers,
        figures={},
    )


def make_run(*words: str) -> Run:
    """Returns a run of the model `MAIN` with these settings."""
    config = resolve_beams(load_config(None, list(words)))
    return Run(
        config=config,
        run_id="run",
        fingerprint="f",
        model_identity=MAIN,
        model_revision=None,
        languages=("en",),
        chunking=resolve_chunking(config, 30.0, ""),
    )


def make_chunk(*tokens: int, start_s: float = 0.0, end_s: float = 10.0, **changes: Any) -> dict[str, Any]:
    values = {"text": "words", "temperature": 0.0, "window_s": 30.0, "quality_flags": [], "tokens": list(tokens)}
    return {"start_s": start_s, "end_s": end_s} | values | changes


def make_row(name: str, *chunks: dict[str, Any], speaker: str | None = None, **changes: Any) -> dict[str, Any]:
    """Returns a transcript of the model `MAIN`."""
    metadata = {"speaker": speaker} if speaker else {}
    columns = {"text": "words", "model": MAIN, "fingerprint": "f", "chunks": list(chunks), "metadata": metadata}
    return transcript_row(name, **columns | changes)
