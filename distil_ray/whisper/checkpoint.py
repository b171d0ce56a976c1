"""Checkpoint information for the driver: identity, languages and chunk length, before any weights are loaded.

Only small files are read (config, generation config, tokenizer); neither torch nor transformers is imported, except to
convert weights of other formats. The identity is part of the run's fingerprint: it changes when the weights change,
whatever their name is.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from distil_ray.whisper.download import locate
from distil_ray.whisper.model_folders import FolderReader
from distil_ray.whisper.tokenizer import MAX_POSITIONS, Tokens
from distil_ray.whisper.weights_cache import WeightsError

V3_MEL_BINS = 128  # of large-v3 and checkpoints distilled from it; others have 80
TURBO_DECODER_LAYERS = 4  # large-v3-turbo, which was fine-tuned on windows of 30 s
TURBO_ENCODER_LAYERS = 32


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """A checkpoint as its small files describe it.

    Attributes:
        revision: Commit on the hub; None elsewhere. Actors download this commit, even if the branch has moved since.
        identity: Changes when the weights or the tokenizer change.
        config_dir: Local folder of the small files (`CONFIG_FILES`).
        chunk_length_s: Length of the chunks that the checkpoint was trained for, in seconds.
        chunk_length_reason: How that length was determined, for the log.
        size_bytes: Size of the weight files; None where the sizes are unknown.
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


def load_checkpoint_info(
    name: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    reader: FolderReader | None = None,
) -> CheckpointInfo:
    """Returns what `name` refers to now. Downloads small files only, except of weights that have to be converted.

    Args:
        name: Anything that `download.locate` finds.
        revision: Branch, tag or commit on the hub; None is the main branch.
        cache_dir: See `weights_cache.cache_root`.
        reader: Reads ``scheme://`` names.

    Raises:
        WeightsError: There is no such Whisper checkpoint; the message names what was tried and what to do.
    """
    location = locate(name, revision, cache_dir, reader)
    folder = location.small_files()
    config = _read_config(name, folder)
    tokens = Tokens.load(folder)
    length_s, reason = chunk_length(name, config)
    return CheckpointInfo(
        name=name,
        revision=location.revision,
        identity=location.identity(),
        config_dir=folder,
        is_multilingual=tokens.is_multilingual,
        languages=tokens.language_codes,
        num_mel_bins=config["num_mel_bins"],
        vocab_size=config["vocab_size"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        chunk_length_s=length_s,
        chunk_length_reason=reason,
        size_bytes=location.size_bytes(),
    )


def chunk_length(name: str, config: Mapping[str, Any]) -> tuple[float, str]:
    """Returns the chunk length in seconds that suits a checkpoint, and the reason.

    Determined by the layers and the mel bins in config.json. Distil-Whisper v2 was trained on short clips: its word
    error rate on TED-LIUM is 4.2 with chunks of 15 s and 7.4 with 30 s. Its v3 family was trained on 25 s, Whisper
    itself on 30 s.
    """
    encoder, decoder = config["encoder_layers"], config["decoder_layers"]
    if decoder >= encoder:
        return 30.0, f"as many decoder layers as encoder layers ({decoder}): an original Whisper, trained on 30 s"
    layers = f"{decoder} of {encoder} decoder layers"
    if "turbo" in name.lower() or (decoder == TURBO_DECODER_LAYERS and encoder == TURBO_ENCODER_LAYERS):
        return 30.0, f"{layers}: Whisper turbo, trained on 30 s"
    if config["num_mel_bins"] == V3_MEL_BINS:
        return 25.0, f"{layers}, {V3_MEL_BINS} mel bins as large-v3: Distil-Whisper v3 or later, trained on 25 s"
    return 15.0, f"{layers}: Distil-Whisper before v3, most accurate with 15 s"


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "whisper":
        raise WeightsError(
            f"model.name={name}: config.json has model_type={config.get('model_type')}; it must be whisper"
        )
    return config


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
    """Returns the reason why one checkpoint cannot draft for another, with both values; None if it can.

    Drafts are token ids, so that each id must mean the same to both. Windows, mel bins and text positions must be
    equal, because the assistant decodes in step with the main model and from the same features. Layers and widths may
    differ.

    Args:
        main: Model folder of the main checkpoint, or a folder of its small files.
        assistant: The same of the checkpoint that drafts.
    """
    sizes, other_sizes = _sizes(main), _sizes(assistant)
    for name, label in _EQUAL_SIZES.items():
        expected, found = sizes[name], other_sizes[name]
        if expected != found:
            is_v2_and_v3 = name == "vocab_size" and {expected, found} == _V2_V3_VOCAB_SIZES
            reason = "; Whisper v3 has one language more than v2" if is_v2_and_v3 else ""
            return f"it has {found} {label}, the main model {expected}{reason}"
    tokens, other_tokens = Tokens.load(main), Tokens.load(assistant)
    for name in _EQUAL_TOKENS:
        if (expected := getattr(tokens, name)) != (found := getattr(other_tokens, name)):
            return f"its special tokens differ: {name} is {found}, not {expected}"
    for token in chain(range(tokens.eot), sorted(tokens.added_text | other_tokens.added_text)):
        text, other_text = (each.tokenizer.id_to_token(token) for each in (tokens, other_tokens))
        if text != other_text:
            return f"its tokenizer differs: token {token} is {other_text!r}, not {text!r}"
    return None


def _sizes(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**_DEFAULT_SIZES, **config}
