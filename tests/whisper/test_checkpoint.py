"""Checkpoint information is read from small files, wherever the checkpoint comes from, without loading the weights."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline.setup import prepare_run
from distil_ray.whisper.checkpoint import assistant_mismatch, chunk_length, load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.model_folders import RemoteFile
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.weights_cache import WeightsError
from tests.whisper.small import VOCAB_SIZE, small_config, write_small_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER_COMMIT = "fedcba9876543210fedcba9876543210fedcba98"


class CountedFolder:
    """A `FolderReader` over a local folder that plays the remote one; counts what is copied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.copied: list[str] = []

    def list_folder(self, uri: str) -> Iterable[RemoteFile]:
        for path in sorted(self.folder.iterdir()):
            yield path.name, path.stat().st_size, f"etag-{path.read_bytes()[:20]!r}"

    def stat_file(self, uri: str) -> RemoteFile | None:
        return None

    def copy_file(self, uri: str, path: Path) -> None:
        name = uri.rsplit("/", 1)[1]
        self.copied.append(name)
        path.write_bytes((self.folder / name).read_bytes())


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub cannot be reached, and its cache is an empty folder."""
    from huggingface_hub import HfApi, constants

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("name", "encoder", "decoder", "num_mel_bins", "length_s", "word"),
    [
        ("openai/whisper-large-v3", 32, 32, 128, 30.0, "original Whisper"),
        ("openai/whisper-base", 6, 6, 80, 30.0, "original Whisper"),
        ("openai/whisper-large-v3-turbo", 32, 4, 128, 30.0, "turbo"),
        ("/models/renamed", 32, 4, 128, 30.0, "turbo"),
        ("distil-whisper/distil-large-v3", 32, 2, 128, 25.0, "v3 or later"),
        ("distil-whisper/distil-large-v3.5", 32, 2, 128, 25.0, "v3 or later"),
        ("distil-whisper/distil-large-v2", 32, 2, 80, 15.0, "before v3"),
        ("distil-whisper/distil-medium.en", 24, 2, 80, 15.0, "before v3"),
        ("distil-whisper/distil-small.en", 12, 4, 80, 15.0, "before v3"),
        ("somebody/distilled", 6, 2, 80, 15.0, "before v3"),
    ],
)
def test_the_chunk_length_follows_the_checkpoint(
    name: str, encoder: int, decoder: int, num_mel_bins: int, length_s: float, word: str
) -> None:
    config = small_config(encoder_layers=encoder, decoder_layers=decoder, num_mel_bins=num_mel_bins)
    found, reason = chunk_length(name, config)
    assert found == length_s
    assert word in reason


def test_packaged_weights_are_identified_by_their_checksums(whisper_base: Path) -> None:
    checkpoint = load_checkpoint_info("packaged:whisper-base")
    assert checkpoint.identity.startswith("packaged:whisper-base@sha256:")
    assert checkpoint.is_multilingual
    assert {"en", "de", "zh"} <= set(checkpoint.languages)
    assert (checkpoint.num_mel_bins, checkpoint.vocab_size) == (80, 51865)
    assert (checkpoint.encoder_layers, checkpoint.decoder_layers) == (6, 6)
    assert checkpoint.chunk_length_s == 30.0
    assert checkpoint.size_bytes == (whisper_base / "model.safetensors").stat().st_size
    assert fetch_weights("packaged:whisper-base") == whisper_base


def test_a_local_folder_is_used_in_place_and_identified_by_its_contents(tmp_path: Path) -> None:
    folder = write_small_folder(tmp_path / "model")
    first = load_checkpoint_info(str(folder), cache_dir=tmp_path / "cache")
    assert fetch_weights(str(folder), cache_dir=tmp_path / "cache") == folder
    assert first.languages == ("en", "de")
    copy = write_small_folder(tmp_path / "copy")
    assert load_checkpoint_info(str(copy), cache_dir=tmp_path / "cache").identity == first.identity
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert load_checkpoint_info(str(folder), cache_dir=tmp_path / "cache").identity != first.identity


def test_a_folder_that_did_not_change_is_not_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    folder = write_small_folder(tmp_path / "model")
    first = load_checkpoint_info(str(folder), cache_dir=tmp_path / "cache")

    def refuse(*_: Any) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)
    assert load_checkpoint_info(str(folder), cache_dir=tmp_path / "cache").identity == first.identity
    os.utime(folder / "model.safetensors", ns=(1, 1))
    with pytest.raises(AssertionError, match="hashed again"):
        load_checkpoint_info(str(folder), cache_dir=tmp_path / "cache")


def test_a_remote_folder_is_identified_by_its_small_files_and_copied_once(tmp_path: Path) -> None:
    reader = CountedFolder(write_small_folder(tmp_path / "bucket"))
    (reader.folder / "model.fp32-00001-of-00002.safetensors").write_bytes(b"twice as large")
    uri, cache = "s3://bucket/models/small", tmp_path / "cache"
    checkpoint = load_checkpoint_info(uri, cache_dir=cache, reader=reader)
    assert "model.safetensors" not in reader.copied
    assert checkpoint.size_bytes == len(b"weights")

    reader.copied.clear()
    folder = fetch_weights(uri, cache_dir=cache, reader=reader)
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert not list(folder.glob("*fp32*"))
    count = len(reader.copied)
    assert fetch_weights(uri, cache_dir=cache, reader=reader) == folder
    assert len(reader.copied) == count

    (reader.folder / "model.safetensors").write_bytes(b"retrained")
    assert load_checkpoint_info(uri, cache_dir=cache, reader=reader).identity != checkpoint.identity
    assert (fetch_weights(uri, cache_dir=cache, reader=reader) / "model.safetensors").read_bytes() == b"retrained"


def test_a_copy_that_breaks_off_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = CountedFolder(write_small_folder(tmp_path / "bucket"))
    copy = reader.copy_file

    def break_off(uri: str, path: Path) -> None:
        if uri.endswith("tokenizer.json"):
            raise OSError("connection reset")
        copy(uri, path)

    monkeypatch.setattr(reader, "copy_file", break_off)
    with pytest.raises(OSError, match="connection reset"):
        fetch_weights("s3://bucket/small", cache_dir=tmp_path / "cache", reader=reader)
    monkeypatch.undo()
    folder = fetch_weights("s3://bucket/small", cache_dir=tmp_path / "cache", reader=reader)
    assert (folder / "tokenizer.json").exists()


def hub_cache(root: Path, commit: str, *, weights: bool = True) -> None:
    """The hub's local cache as a download of the main branch leaves it."""
    repository = root / "hub" / "models--owner--small"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    folder = write_small_folder(repository / "snapshots" / commit)
    if not weights:
        (folder / "model.safetensors").unlink()


def test_a_hub_checkpoint_in_the_cache_is_pinned_without_a_network(tmp_path: Path) -> None:
    hub_cache(tmp_path, COMMIT)
    checkpoint = load_checkpoint_info("owner/small")
    assert checkpoint.identity == f"owner/small@{COMMIT}"
    assert checkpoint.revision == COMMIT
    hub_cache(tmp_path, OTHER_COMMIT)
    assert load_checkpoint_info("owner/small").identity == f"owner/small@{OTHER_COMMIT}"
    assert fetch_weights("owner/small", checkpoint.revision).name == COMMIT


def test_the_error_without_a_network_names_the_model_and_the_remedies(tmp_path: Path) -> None:
    for work in (load_checkpoint_info, fetch_weights):
        with pytest.raises(WeightsError) as caught:
            work("distil-whisper/distil-large-v3.5", "main", tmp_path / "cache")
        message = str(caught.value)
        for word in (
            "model.name=distil-whisper/distil-large-v3.5",
            "Name or service not known",
            "local folder",
            "s3://",
            "packaged:whisper-base",
            "HF_HOME",
        ):
            assert word in message


def test_a_missing_shard_is_found_before_loading(tmp_path: Path) -> None:
    folder = write_small_folder(tmp_path / "model")
    shard = folder / "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").rename(shard)
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}'
    )
    with pytest.raises(WeightsError, match=r"lists model-00002-of-00002\.safetensors"):
        fetch_weights(str(folder))
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"the rest")
    assert fetch_weights(str(folder)) == folder


def test_a_missing_tokenizer_can_be_made_as_the_error_says(whisper_tiny_en: Path, tmp_path: Path) -> None:
    """Older fine-tuned checkpoints have vocab.json, merges.txt and lists of special tokens instead."""
    folder = write_small_folder(tmp_path / "model")
    tokenizer = json.loads((whisper_tiny_en / "tokenizer.json").read_text())
    specials = {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}
    (folder / "tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt", "config.json", "generation_config.json"):
        shutil.copyfile(whisper_tiny_en / name, folder / name)
    (folder / "added_tokens.json").write_text(json.dumps(specials))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "WhisperTokenizer"}))
    advice = r"has no tokenizer\.json.*AutoTokenizer\.from_pretrained\(SOURCE\)\.save_pretrained\(FOLDER\)"
    with pytest.raises(WeightsError, match=advice):
        load_checkpoint_info(str(folder), cache_dir=tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder)
    assert load_checkpoint_info(str(folder), cache_dir=tmp_path).languages == ("en",)
    made, published = Tokens.load(folder), Tokens.load(whisper_tiny_en)
    assert made.prompt("en") == published.prompt("en")
    assert made.prefix("He began a confused complaint.") == published.prefix("He began a confused complaint.")


@pytest.mark.parametrize(
    ("name", "word"),
    [("/no/such/folder", "no such local folder"), ("s3://bucket/model", "no storage was given")],
)
def test_an_unknown_name_is_an_error_with_a_reason(name: str, word: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=word):
        load_checkpoint_info(name, cache_dir=tmp_path)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    folder = write_small_folder(tmp_path / "model", model_type="wav2vec2")
    with pytest.raises(WeightsError, match="model_type=wav2vec2"):
        load_checkpoint_info(str(folder), cache_dir=tmp_path)


def test_a_driver_needs_neither_torch_nor_transformers() -> None:
    program = "import sys, distil_ray.whisper.checkpoint; print({'torch', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "set()\n"
    )


def renamed(folder: Path, token: str, other: str) -> None:
    """Gives a token of tokenizer.json another text."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary[other] = vocabulary.pop(token)
    file.write_text(json.dumps(content))


def test_checkpoints_of_one_kind_go_together_whatever_their_layers(tmp_path: Path) -> None:
    main = write_small_folder(tmp_path / "main", decoder_layers=6)
    assert assistant_mismatch(main, write_small_folder(tmp_path / "student", decoder_layers=2)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": VOCAB_SIZE - 1}, f"it has {VOCAB_SIZE - 1} vocabulary entries, the main model {VOCAB_SIZE}"),
        ({"num_mel_bins": 128}, "it has 128 mel bins, the main model 80"),
        ({"max_target_positions": 224}, "it has 224 text positions, the main model 448"),
    ],
)
def test_sizes_that_differ_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    main = write_small_folder(tmp_path / "main")
    assert assistant_mismatch(main, write_small_folder(tmp_path / "other", **changes)) == words


def test_the_mismatch_of_a_v2_assistant_and_a_v3_model_is_explained(tmp_path: Path) -> None:
    main = write_small_folder(tmp_path / "main", vocab_size=51866)
    words = assistant_mismatch(main, write_small_folder(tmp_path / "other", vocab_size=51865))
    assert words is not None and "one language more" in words


def test_a_token_of_another_meaning_is_named(tmp_path: Path) -> None:
    main, other = (write_small_folder(tmp_path / name) for name in ("main", "other"))
    renamed(other, "a", "%%")
    assert "its tokenizer differs: token " in (assistant_mismatch(main, other) or "")


def test_a_run_is_refused_before_any_weights_are_fetched(tmp_path: Path) -> None:
    main = write_small_folder(tmp_path / "main")
    other = write_small_folder(tmp_path / "other", num_mel_bins=128)
    settings = ["input.uri=in", "output.uri=out", f"model.name={main}", "decoding.language=en"]
    settings.append("decoding.num_beams=1")  # auto depends on the assistant
    with pytest.raises(SettingsError, match=r"model\.assistant=.*other cannot draft for .*main: it has 128 mel bins"):
        prepare_run(load_config(None, [*settings, f"model.assistant={other}"]), Console(quiet=True))
    with pytest.raises(SettingsError, match=r"model\.assistant=.*nowhere: there is no such local folder"):
        prepare_run(load_config(None, [*settings, f"model.assistant={tmp_path / 'nowhere'}"]), Console(quiet=True))
    alone = prepare_run(load_config(None, settings), Console(quiet=True))
    overrides = [*settings, f"model.assistant={other}", "decoding.speculative=off"]
    assert prepare_run(load_config(None, overrides), Console(quiet=True)).run.fingerprint == alone.run.fingerprint
