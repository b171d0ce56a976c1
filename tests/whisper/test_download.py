"""Downloads from the hub: the real client against a small local server with the hub's API."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distil_ray.whisper.formats import openai
from distil_ray.whisper.formats.tensors import Sizes
from tests.support.fake_hub import COMMIT, FakeHub, serve_hub
from tests.whisper.formats.checkpoints import random_checkpoint, with_sizes
from tests.whisper.small import VOCAB_SIZE, write_small_folder

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
    environment["DISTIL_RAY_CACHE"] = str(home / "cache")
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


@pytest.fixture
def converted_hub(hub: FakeHub, tmp_path: Path) -> FakeHub:
    """The hub with a tiny checkpoint of openai-whisper in a folder, and as pytorch_model.bin."""
    tokenizer = hub.files["tokenizer.json"]
    checkpoint = random_checkpoint(with_sizes(vocab_size=VOCAB_SIZE))
    openai.write(checkpoint, tmp_path / "small.pt")
    torch.save(
        {name: torch.from_numpy(tensor.load()) for name, tensor in checkpoint.tensors.items()}, tmp_path / "model.bin"
    )
    sizes = {name: getattr(checkpoint.sizes, name) for name in Sizes.__slots__}
    hub.files.clear()
    hub.files |= {
        "config.json": json.dumps({"model_type": "whisper", **sizes}).encode(),
        "tokenizer.json": tokenizer,
        "pytorch_model.bin": (tmp_path / "model.bin").read_bytes(),
        "openai/small.pt": (tmp_path / "small.pt").read_bytes(),
        "openai/tokenizer.json": tokenizer,
        "README.md": b"a model card",
    }
    return hub


@pytest.mark.parametrize(
    "name", [f"{REPOSITORY}:openai/small.pt", pytest.param(REPOSITORY, marks=pytest.mark.slow, id="pytorch_model.bin")]
)
def test_weights_in_another_format_are_pinned_and_converted(name: str, converted_hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "home"
    found = run(
        converted_hub,
        home,
        f"((info := load_checkpoint_info('{name}')).identity, info.revision, info.languages, str(info.config_dir))",
    )
    identity, revision, languages, folder = ast.literal_eval(found)
    assert (identity, revision, languages) == (f"{name}@{COMMIT}", COMMIT, ("en",))
    expected = {"config.json", "pytorch_model.bin"} if name == REPOSITORY else {"small.pt"}
    assert converted_hub.downloaded == expected | {"tokenizer.json"}

    converted_hub.requests.clear()
    assert run(converted_hub, home, f"fetch_weights('{name}', '{COMMIT}')") == folder
    assert converted_hub.requests == []
    assert (Path(folder) / "model.safetensors").exists()


def test_a_file_that_the_repository_lacks_is_named(hub: FakeHub, tmp_path: Path) -> None:
    said = run(hub, tmp_path, f"fetch_weights('{REPOSITORY}:other.pt')")
    assert f"model.name={REPOSITORY}:other.pt: {REPOSITORY} has no file other.pt at main" in said
