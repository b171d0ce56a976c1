"""Upload of a data set: the real hub client against a small local server."""

from collections.abc import Iterator

import huggingface_hub.constants
import pytest

from distil_ray.errors import ExitCode, RunError, SettingsError
from tests.pseudo_labels.conftest import Set
from tests.support.fake_hub import FakeHub, serve_hub

pytestmark = pytest.mark.usefixtures("inline")

NAME = "owner/labels"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve_hub(NAME, "datasets", {}) as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield hub


def test_an_upload_adds_new_shards_and_removes_old_ones(labels: Set, hub: FakeHub) -> None:
    labels.transcribe(*range(6))
    labels.build(f"labels.push_to_hub={NAME}")
    assert {name: data for name, data in hub.files.items() if name != "README.md"} == _shards(labels)
    assert b"task_categories" in hub.files["README.md"]
    assert hub.tokens == {"Bearer hf_test"}

    labels.transcribe(*range(4))  # two leave the output: what held them is smaller now
    code, printed = labels.build(f"labels.push_to_hub={NAME}")

    assert code == ExitCode.DONE and "pushed" in printed
    assert {name: data for name, data in hub.files.items() if name != "README.md"} == _shards(labels)


def test_files_of_something_else_in_the_repository_are_not_deleted(labels: Set, hub: FakeHub) -> None:
    others = {"README.md": b"my card", "data/train-00000-of-00001.parquet": b"my data", "data/speakers.csv": b"a"}
    hub.files = dict(others)
    labels.transcribe(*range(3))

    with pytest.raises(SettingsError, match=r"labels.push_to_hub=owner/labels: .* data/train-00000-of-00001.parquet"):
        labels.build(f"labels.push_to_hub={NAME}")

    assert hub.files == others
    del hub.files["data/train-00000-of-00001.parquet"]
    labels.build(f"labels.push_to_hub={NAME}")
    assert hub.files.keys() == {"README.md", "data/speakers.csv"} | _shards(labels).keys()


def _shards(labels: Set) -> dict[str, bytes]:
    return {f"data/{name}": data for name, data in labels.files("data").items()}


def test_a_failed_upload_keeps_the_data_set(labels: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    labels.transcribe(*range(3))
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")  # refuses connections

    with pytest.raises(RunError, match=rf"labels.push_to_hub={NAME}: the hub could not be reached.*the same command"):
        labels.build(f"labels.push_to_hub={NAME}")

    assert len(labels.utterances()) == 3
