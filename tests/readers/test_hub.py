"""Data sets on Hugging Face's hub, by hf:// URLs: the real client against a small server on loopback."""

from collections.abc import Iterator
from hashlib import sha1
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import HfFileSystem

from distil_ray.errors import ExitCode
from distil_ray.storage import file_systems
from tests.readers.conftest import CLIPS, listed
from tests.readers.shards import audio_cells, parquet_bytes, run_job, tar
from tests.support.fake_hub import FakeHub, serve_hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub("owner/speech", "datasets", {}) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)  # what HF_ENDPOINT says in a new process
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub
    HfFileSystem.clear_instance_cache()
    file_systems._file_system.cache_clear()


def test_a_data_set_on_the_hub_gives_its_recordings(
    hub: FakeHub,
    speech: dict[str, bytes],
    loose_texts: dict[str, str],
    tmp_path: Path,
    whisper_tiny_en: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    audio = list(speech.values())
    table = {"audio": audio_cells(audio, [f"{name}.flac" for name in CLIPS]), "text": ["one", "two", "three"]}
    hub.files["README.md"] = b"# Speech"
    hub.files["data/train-00000-of-00001.parquet"] = parquet_bytes(table)
    hub.files["shards/s.tar"] = tar({f"{CLIPS[0]}.flac": audio[0], f"{CLIPS[0]}.txt": "one"})
    hub.files["loose/a.flac"] = audio[0]
    rows, code = run_job("hf://datasets/owner/speech", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert code == ExitCode.DONE
    first = f"{CLIPS[0]}.flac"
    same = ["loose/a.flac", f"shards/s.tar/{first}", f"data/train-00000-of-00001.parquet/{first}"]
    assert {rows[name]["text"] for name in same} == {loose_texts[CLIPS[0]]}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(rows) == 5
    assert rows["loose/a.flac"]["source_version"] == sha1(audio[0]).hexdigest()
    hub.read_sizes.clear()
    again, _ = run_job("hf://datasets/owner/speech", str(tmp_path / "out"), whisper_tiny_en, monkeypatch)
    assert again == rows
    assert hub.read_sizes == []
    assert len(listed("hf://datasets/owner/speech/data/*.parquet")) == 3
