"""An output of the job over recordings of tests/data, made without Ray."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import distil_ray as dr
from tests.support.clips import manifest_rows
from tests.support.without_ray import run_stages_in_process

# The same arithmetic in every process, several parts of a recording of 53 s, and a manifest of files elsewhere.
SETTINGS = {"model.dtype": "float32", "resources.cpus_per_actor": 1, "plan.part_audio_s": 30}
SETTINGS |= {"input.allow_external_paths": True, "decoding.num_beams": 1}
RECORDINGS = ("sonnet-1", "cards-001", "austen-0880-8khz", "librispeech-61", "two-speakers-stereo", "spanish")
MODEL = "packaged:whisper-tiny.en"


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of `RECORDINGS`."""
    path = tmp_path_factory.mktemp("manifest") / "manifest.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in manifest_rows(*RECORDINGS)))
    return path


@pytest.fixture(scope="session")
def job(manifest: Path, whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dr.RunResult]:
    """A run over them, with the times of words. One recording fails, because the model is English-only."""
    settings: dict[str, object] = {"input.uri": str(manifest), "output.uri": str(tmp_path_factory.mktemp("job"))}
    settings |= {"model.name": MODEL, "decoding.timestamps": "word", "resources.actors": 1}
    with pytest.MonkeyPatch.context() as patch:
        run_stages_in_process(patch)
        result = dr.run(overrides=settings | SETTINGS | {"max_failed_fraction": 1}, progress=False)
    yield result
