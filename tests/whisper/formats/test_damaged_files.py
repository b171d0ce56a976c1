"""Files that end early or have a changed byte are refused by every reader, or read with other numbers."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distil_ray.whisper.formats import ctranslate2, ggml, openai
from distil_ray.whisper.formats.tensors import Checkpoint, check_tensors
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import random_checkpoint

Read = Callable[[Path], Checkpoint]
READERS: dict[str, Read] = {"openai": openai.read, "ggml": ggml.read, "ctranslate2": ctranslate2.read}
END = {"content": "<|endoftext|>", "id": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    checkpoint = random_checkpoint(vocabulary=(b"a", b"bc", b""))
    openai.write(checkpoint, folder / "small.pt")
    ggml.write(checkpoint, folder / "ggml-small.bin", "q5_1")
    tokenizer = {"model": {"vocab": {}}, "added_tokens": [END]}
    ctranslate2.write(replace(checkpoint, tokenizer=tokenizer), folder, "int8")
    return {"openai": folder / "small.pt", "ggml": folder / "ggml-small.bin", "ctranslate2": folder / "model.bin"}


def read_all(read: Read, path: Path, data: bytes) -> None:
    """Reads every number of a file with these bytes."""
    path.write_bytes(data)
    found = read(path)
    check_tensors(path.name, found.sizes, found.tensors)
    for tensor in found.tensors.values():
        tensor.load()


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 0.9999))
def test_a_file_that_ends_early_is_refused(name: str, files: dict[str, Path], share: float) -> None:
    whole = files[name].read_bytes()
    with pytest.raises(WeightsError):
        read_all(READERS[name], files[name].with_name("cut.bin"), whole[: int(share * len(whole))])


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(share=st.floats(0, 0.9999), position=st.integers(0, 2000), byte=st.integers(0, 255), from_start=st.booleans())
def test_a_changed_byte_is_refused_or_does_no_harm(
    name: str, files: dict[str, Path], share: float, position: int, byte: int, from_start: bool
) -> None:
    data = bytearray(files[name].read_bytes())
    data[position if from_start else int(share * len(data))] = byte
    with suppress(WeightsError):
        read_all(READERS[name], files[name].with_name("changed.bin"), bytes(data))
