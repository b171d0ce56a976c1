"""Fixtures of the tests of readers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distil_ray.config import InputConfig
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Recording
from tests.readers.shards import run_job

CLIPS = ("cards-001", "cards-003", "librispeech-61")

Place = Callable[[dict[str, str | bytes]], str]


@pytest.fixture
def storage() -> Storage:
    return Storage()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, storage: Storage) -> Place:
    """Returns a function that writes files into a folder, on disk or in a bucket, and returns the folder."""
    root = str(tmp_path / "in") if request.param == "local" else str(request.getfixturevalue("bucket")) + "/in"

    def put(files: dict[str, str | bytes]) -> str:
        for name, content in files.items():
            storage.put(join(root, name), content.encode() if isinstance(content, str) else content)
        return root

    return put


def listed(uri: str | list[str], **settings: Any) -> list[Recording]:
    """Returns all recordings of `input.uri`."""
    return list(list_recordings(InputConfig(uri=uri, **settings), Storage()))


def ids(recordings: list[Recording]) -> list[str]:
    return sorted(recording.recording_id for recording in recordings)


@pytest.fixture(scope="session")
def speech(clips: Path) -> dict[str, bytes]:
    """A few real clips as FLAC, by name."""
    return {name: (clips / f"{name}.flac").read_bytes() for name in CLIPS}


@pytest.fixture(scope="session")
def loose_texts(
    speech: dict[str, bytes], whisper_tiny_en: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The texts of the clips as audio files (checksums of the decoded audio), by name."""
    folder = tmp_path_factory.mktemp("loose")
    for name, audio in speech.items():
        (folder / f"{name}.flac").write_bytes(audio)
    with pytest.MonkeyPatch.context() as patch:
        rows, _ = run_job(str(folder), str(tmp_path_factory.mktemp("out")), whisper_tiny_en, patch)
    return {name.removesuffix(".flac"): row["text"] for name, row in rows.items()}


@pytest.fixture
def samples(speech: dict[str, bytes]) -> dict[str, str | bytes]:
    """The clips as the members of a WebDataset shard: audio, text, JSON and class of each."""
    members: dict[str, str | bytes] = {}
    for number, (name, audio) in enumerate(speech.items()):
        members[f"clean/{name}.flac"] = audio
        members[f"clean/{name}.txt"] = f"words of {number}\n"
        said = {"text": "not these", "speaker": number, "duration": 2.0, "language": "en", "mood": {"calm": True}}
        members[f"clean/{name}.json"] = json.dumps(said)
        members[f"clean/{name}.cls"] = str(number)
    return members
