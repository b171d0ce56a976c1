"""Weights in other formats become model folders, wherever they lie, once per node."""

import json
import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.formats import ctranslate2, ggml, openai
from distil_ray.whisper.formats.hugging_face import read_folder, save_tensors
from distil_ray.whisper.formats.tensors import Checkpoint, Sizes
from distil_ray.whisper.formats.vocabulary import text_tokens
from distil_ray.whisper.model_folders import RemoteFile
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.formats.checkpoints import random_checkpoint, with_sizes
from tests.whisper.small import VOCAB_SIZE, small_tokenizer

SIZES = with_sizes(vocab_size=VOCAB_SIZE, max_source_positions=1500, max_target_positions=448)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A tiny checkpoint with a tokenizer of its own."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    small_tokenizer().save(str(path))
    return replace(random_checkpoint(SIZES, "float16"), tokenizer=json.loads(path.read_text()))


def write_openai(checkpoint: Checkpoint, folder: Path) -> Path:
    openai.write(checkpoint, folder / "small.pt", "float16")
    return folder / "small.pt"


def write_ggml(checkpoint: Checkpoint, folder: Path) -> Path:
    ggml.write(checkpoint, folder / "ggml-small.bin", "float16")
    return folder / "ggml-small.bin"


def write_ctranslate2(checkpoint: Checkpoint, folder: Path) -> Path:
    ctranslate2.write(checkpoint, folder, "float16")
    return folder


def write_pytorch(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes two shards and their index, as transformers does, with the tied output projection."""
    state = {name: torch.from_numpy(tensor.load()) for name, tensor in checkpoint.tensors.items()}
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    names = sorted(state)
    shards = {f"pytorch_model-0000{part + 1}-of-00002.bin": names[part::2] for part in range(2)}
    for shard, held in shards.items():
        torch.save({name: state[name] for name in held}, folder / shard)
    index = {"weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = {"model_type": "whisper", **{name: getattr(checkpoint.sizes, name) for name in Sizes.__slots__}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


Write = Callable[[Checkpoint, Path], Path]
WRITERS = (write_openai, write_ggml, write_ctranslate2, write_pytorch)


def put(write: Write, checkpoint: Checkpoint, folder: Path) -> Path:
    folder.mkdir()
    path = write(checkpoint, folder)
    (folder / "tokenizer.json").write_text(json.dumps(checkpoint.tokenizer))
    return path


class LocalBucket:
    """A `FolderReader` over a local folder that plays s3://bucket; counts what is copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copied: list[str] = []

    def _local(self, uri: str) -> Path:
        return self.folder / uri.removeprefix("s3://bucket/")

    def list_folder(self, uri: str) -> Iterable[RemoteFile]:
        folder = self._local(uri)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            yield path.name, path.stat().st_size, str(path.stat().st_mtime_ns)

    def stat_file(self, uri: str) -> RemoteFile | None:
        path = self._local(uri)
        return (path.name, path.stat().st_size, str(path.stat().st_mtime_ns)) if path.is_file() else None

    def copy_file(self, uri: str, path: Path) -> None:
        self.copied.append(self._local(uri).name)
        path.write_bytes(self._local(uri).read_bytes())


def assert_converted(folder: Path, checkpoint: Checkpoint) -> None:
    found = load_file(folder / "model.safetensors")
    assert found.keys() == checkpoint.tensors.keys()
    for name, tensor in checkpoint.tensors.items():
        assert found[name].tobytes() == tensor.load().tobytes(), name
    assert read_folder(folder).sizes == checkpoint.sizes
    assert Tokens.load(folder).timestamp_begin == VOCAB_SIZE - 1501
    assert not (folder / ".source").exists()


@pytest.mark.parametrize("write", WRITERS)
def test_a_local_checkpoint_is_converted_once(write: Write, checkpoint: Checkpoint, tmp_path: Path) -> None:
    name, cache = str(put(write, checkpoint, tmp_path / "model")), tmp_path / "cache"
    info = load_checkpoint_info(name, cache_dir=cache)
    folder = fetch_weights(name, cache_dir=cache)

    assert info.config_dir == folder
    assert_converted(folder, checkpoint)
    assert (info.vocab_size, info.decoder_layers, info.languages) == (VOCAB_SIZE, 1, ("en",))
    assert info.size_bytes == (folder / "model.safetensors").stat().st_size
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_weights(name, cache_dir=cache) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written

    changed = replace(checkpoint, tensors={**checkpoint.tensors})
    tensor = changed.tensors["model.decoder.layer_norm.bias"]
    changed.tensors["model.decoder.layer_norm.bias"] = replace(tensor, load=lambda: np.zeros(32, np.float16))  # type: ignore[index]
    write(changed, tmp_path / "model")
    assert load_checkpoint_info(name, cache_dir=cache).identity != info.identity
    assert_converted(fetch_weights(name, cache_dir=cache), changed)


@pytest.mark.parametrize("write", WRITERS)
def test_a_checkpoint_in_a_bucket_is_copied_and_converted_once(
    write: Write, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "bucket").mkdir()
    path = put(write, checkpoint, tmp_path / "bucket" / "models")
    reader, cache = LocalBucket(tmp_path / "bucket"), tmp_path / "cache"
    (path if path.is_dir() else path.parent).joinpath("README.md").write_text("a model card")
    name = f"s3://bucket/{path.relative_to(tmp_path / 'bucket')}"

    info = load_checkpoint_info(name, cache_dir=cache, reader=reader)
    assert_converted(fetch_weights(name, cache_dir=cache, reader=reader), checkpoint)

    assert info.identity.startswith("remote:")
    assert sorted(reader.copied) == sorted(set(reader.copied) - {"README.md"})
    with pytest.raises(WeightsError, match="there is no such file, and the folder does not exist"):
        fetch_weights("s3://bucket/models/other.pt", cache_dir=cache, reader=reader)


def test_a_config_of_the_same_sizes_beside_a_file_is_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = put(write_openai, checkpoint, tmp_path / "model")
    sizes = {name: getattr(SIZES, name) for name in Sizes.__slots__}
    generation = {"suppress_tokens": [7], "begin_suppress_tokens": [8], "alignment_heads": [[0, 1]], "max_length": 99}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(generation))
    for config, expected in (
        ({**sizes, "model_type": "whisper", "dropout": 0.5}, generation),
        ({**sizes, "model_type": "whisper", "decoder_layers": 2}, None),  # that of another model
    ):
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        folder = fetch_weights(str(path), cache_dir=tmp_path / "cache")
        found = json.loads((folder / "generation_config.json").read_text())
        assert (found == generation) == (expected is not None)
        assert json.loads((folder / "config.json").read_text())["decoder_layers"] == 1


def test_the_rules_of_ctranslate2_are_kept(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rules = {"suppress_tokens": [1, 5], "begin_suppress_tokens": [6], "alignment_heads": [[0, 1]]}
    path = put(write_ctranslate2, replace(checkpoint, generation=rules), tmp_path / "model")
    folder = fetch_weights(str(path), cache_dir=tmp_path / "cache")
    assert json.loads((folder / "generation_config.json").read_text()).items() >= rules.items()

    (path / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0]]}))  # a teacher's
    folder = fetch_weights(str(path), cache_dir=tmp_path / "cache")
    assert json.loads((folder / "generation_config.json").read_text())["alignment_heads"] == [[1, 0]]


@pytest.mark.parametrize("rules", [{"alignment_heads": [[1]]}, {"suppress_ids": [VOCAB_SIZE]}, {"suppress_ids": "all"}])
def test_rules_that_are_none_are_refused(rules: dict[str, Any], checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = put(write_ctranslate2, checkpoint, tmp_path / "model")
    (path / "config.json").write_text(json.dumps(rules))
    with pytest.raises(WeightsError, match="states suppressed tokens or alignment heads that are none"):
        fetch_weights(str(path), cache_dir=tmp_path / "cache")


def test_an_english_ggml_file_needs_nothing_beside_it(whisper_tiny_en: Path, tmp_path: Path) -> None:
    sizes = with_sizes(vocab_size=51864, max_source_positions=1500, max_target_positions=448)
    published = json.loads((whisper_tiny_en / "tokenizer.json").read_text())
    words = text_tokens("tiny.en", published, 51864)
    ggml.write(random_checkpoint(sizes, vocabulary=words), tmp_path / "ggml.bin", "q4_0")

    folder = fetch_weights(str(tmp_path / "ggml.bin"), cache_dir=tmp_path / "cache")

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["model"] == published["model"]
    differing = [
        (mine["content"], its["content"])
        for mine, its in zip(tokenizer["added_tokens"], published["added_tokens"], strict=True)
        if mine != its
    ]
    assert differing == [("<|he|>", "<|iw|>")]  # the published file has the old code of Hebrew
    found, expected = (json.loads((each / "generation_config.json").read_text()) for each in (folder, whisper_tiny_en))
    del expected["alignment_heads"]  # those of tiny.en's sizes
    assert found == expected


class Executed:
    """An object whose pickle makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def damage_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Executed(path.with_name("executed")), protocol=2))


def damage_size(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def damage_magic(path: Path) -> None:
    path.write_bytes(b"GGUF" + path.read_bytes())


def damage_tokenizer(path: Path) -> None:
    tokenizer = json.loads((path.parent / "tokenizer.json").read_text())
    tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "content": "<|more|>", "id": VOCAB_SIZE})
    (path.parent / "tokenizer.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize(
    ("write", "damage", "words"),
    [
        (write_openai, damage_pickle, "cannot be loaded .*nothing of it was executed"),
        (write_openai, damage_size, "cannot be loaded"),
        (write_ggml, damage_size, "ends after .* it is not complete"),
        (write_ggml, damage_magic, "its format is not known; readable are openai-whisper"),
        (write_openai, damage_tokenizer, "it is the tokenizer of another model"),
    ],
)
def test_damaged_weights_are_refused_and_leave_nothing_in_the_cache(
    write: Write, damage: Callable[[Path], None], words: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = put(write, checkpoint, tmp_path / "model")
    damage(path)
    for work in (load_checkpoint_info, fetch_weights):
        with pytest.raises(WeightsError, match=f"model.name={path}: .*{words}"):
            work(str(path), cache_dir=tmp_path / "cache")
    assert [entry for entry in (tmp_path / "cache" / "converted").iterdir() if entry.is_dir()] == []
    assert not (tmp_path / "model" / "executed").exists()


@pytest.mark.parametrize(("is_other", "is_untied"), [(True, True), (True, False), (False, True)])
def test_an_output_projection_of_its_own_is_not_dropped(
    checkpoint: Checkpoint, tmp_path: Path, is_other: bool, is_untied: bool
) -> None:
    """Only transformers' safetensors can hold one. transformers 5 uses it, whatever the config says."""
    path = put(write_pytorch, checkpoint, tmp_path / "model")
    for shard in path.glob("pytorch_model-*.bin"):
        state = torch.load(shard)
        if is_other and "proj_out.weight" in state:
            state["proj_out.weight"] = state["proj_out.weight"] + 1
        torch.save(state, shard)
    config = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": not is_untied}
    (path / "config.json").write_text(json.dumps(config))
    if is_other:
        with pytest.raises(WeightsError, match=r"output projection .* is not the embedding of tokens"):
            fetch_weights(str(path), cache_dir=tmp_path / "cache")
    else:
        folder = fetch_weights(str(path), cache_dir=tmp_path / "cache")
        assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"]
        assert "proj_out.weight" not in load_file(folder / "model.safetensors")


def test_a_shard_that_wants_to_execute_something_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = put(write_pytorch, checkpoint, tmp_path / "model")
    torch.save({"a": Executed(tmp_path / "executed")}, path / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(WeightsError, match="nothing of it was executed"):
        fetch_weights(str(path), cache_dir=tmp_path / "cache")
    assert not (tmp_path / "executed").exists()


def test_weights_of_other_sizes_than_the_config_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = put(write_pytorch, checkpoint, tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"d_model": 64}))
    with pytest.raises(WeightsError, match=r"has the shape .*; its sizes require"):
        fetch_weights(str(path), cache_dir=tmp_path / "cache")


def test_a_missing_file_is_not_looked_up_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"model\.name=models/large\.pt: there is no such local folder or file"):
        fetch_weights("models/large.pt", cache_dir=tmp_path / "cache")


def test_a_safetensors_file_is_named_by_its_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_tensors(checkpoint.tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="Of safetensors, name the folder"):
        fetch_weights(str(tmp_path / "model.safetensors"), cache_dir=tmp_path / "cache")
