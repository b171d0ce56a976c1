"""Downloads from the hub: the real client against a small local server with the hub's API."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_hub import COMMIT, FakeHub, serve_hub
from tests.whisper.small import write_small_folder

REPOSITORY = "owner/small"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    files = {path.name: path.read_bytes() for path in write_small_folder(tmp_path / "served").iterdir()}
    files |= {"model.fp32-00001-of-00002.safetensors": b"twice as large", "README.md": b"a model card"}
    with serve_hub(REPOSITORY, "models", files) as hub:
        yield hub


def run(hub: FakeHub, home: Path, expression: str) -> str:
    """Returns what an expression over `load_checkpoint_info` and `fetch_weights` prints in a fresh process.

    A fresh process, because huggingface_hub reads its endpoint when it is imported.
    """
    program = (
        "from distil_ray.whisper.checkpoint import load_checkpoint_info\n"
        "from distil_ray.whisper.download import fetch_weights\n"
        "from distil_ray.whisper.weights_cache import WeightsError\n"
        f"try: print({expression})\nexcept WeightsError as error: print(error)"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_branch_is_pinned_and_only_what_is_needed_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = run(
        hub,
        home,
        f"((info := load_checkpoint_info('{REPOSITORY}', 'main')).identity,"
        " info.revision, info.size_bytes, info.languages)",
    )
    assert found == str((f"{REPOSITORY}@{COMMIT}", COMMIT, len(b"weights"), ("en", "de")))
    assert hub.downloaded == {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"}

    folder = Path(run(hub, home, f"fetch_weights('{REPOSITORY}', '{COMMIT}')"))
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not {"README.md", "model.fp32-00001-of-00002.safetensors"} & hub.downloaded

    hub.requests.clear()
    assert run(hub, home, f"fetch_weights('{REPOSITORY}', '{COMMIT}')") == str(folder)
    assert hub.requests == []


def test_errors_distinguish_a_missing_revision_from_a_missing_model(hub: FakeHub, tmp_path: Path) -> None:
    assert "has no such branch, tag or commit" in run(hub, tmp_path, f"load_checkpoint_info('{REPOSITORY}', 'v9')")
    assert "the hub has no such model" in run(hub, tmp_path, "load_checkpoint_info('owner/unknown')")


def test_pickled_weights_are_refused_before_anything_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.files["pytorch_model.bin"] = hub.files.pop("model.safetensors")
    del hub.files["model.fp32-00001-of-00002.safetensors"]
    assert "only safetensors are loaded" in run(hub, tmp_path, f"fetch_weights('{REPOSITORY}')")
    assert hub.downloaded == set()
