"""Conversion of CTranslate2 weights to a Hugging Face model folder.

`convert_ctranslate2` writes the weights (float32) and the JSON files that stand beside them. The JSON files are derived
from the shapes of the tensors, the tokenizer and CTranslate2's config.json; their values are those that OpenAI's
checkpoints were published with. The tokenizer.json of 2022 that is still in use lacks its first merge and the timestamp
tokens; both are added. The order of keys is part of the files' checksums (pypi_weights.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from distil_ray.whisper.ctranslate2 import attention_heads, read_variables, to_hugging_face
from distil_ray.whisper.tokenizer import MAX_POSITIONS, MULTILINGUAL_VOCAB_SIZE, SECONDS_PER_TIMESTAMP
from distil_ray.whisper.weights_cache import WeightsError

NUM_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>
NUM_BYTES = 256  # the first ids of the vocabulary are single bytes; the ids after them are made by merges
MAX_INITIAL_TIMESTAMP = 50  # 1 s in steps of 20 ms

FEATURE_EXTRACTOR = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "processor_class": "WhisperProcessor",
    "feature_size": 80,
    "sampling_rate": 16000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "return_attention_mask": False,
}

Json = dict[str, Any]


def convert_ctranslate2(weights: bytes, config: Json, tokenizer: Json, folder: Path) -> None:
    """Writes a Hugging Face folder (float32) from CTranslate2's model.bin, config.json and tokenizer.json."""
    variables = read_variables(weights)
    tensors = {
        name: np.ascontiguousarray(tensor, np.float32) for name, tensor in sorted(to_hugging_face(variables).items())
    }
    tokenizer = complete_tokenizer(tokenizer)
    specials = special_tokens(tokenizer)
    described = model_config(tensors, attention_heads(variables), specials)
    generation = generation_config(config, described["vocab_size"], specials)
    features = {**FEATURE_EXTRACTOR, "feature_size": described["num_mel_bins"]}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(
        0o644
    )  # safetensors creates it with 0600, which excludes other users of the node
    write_json(folder / "config.json", described)
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "preprocessor_config.json", features)
    write_json(folder / "tokenizer.json", tokenizer, indent=None)
    write_json(folder / "tokenizer_config.json", tokenizer_config(tokenizer), indent=None)


def write_json(path: Path, content: Json, *, indent: int | None = 2) -> None:
    """Writes a JSON file as Hugging Face formats it."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def complete_tokenizer(tokenizer: Json) -> Json:
    """Returns a tokenizer.json with its first merge and all timestamp tokens; existing entries are kept.

    Raises:
        WeightsError: Merges and vocabulary do not match.
    """
    model = tokenizer["model"]
    by_id = {token: text for text, token in model["vocab"].items()}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    first_merged = by_id[NUM_BYTES]
    if "".join(merges[0]) != first_merged:
        merges.insert(0, [first_merged[0], first_merged[1:]])
    if any("".join(merge) != by_id[NUM_BYTES + index] for index, merge in enumerate(merges)):
        raise WeightsError("tokenizer.json: merges and vocabulary do not match")
    known = {token["content"] for token in tokenizer["added_tokens"]}
    begin = special_tokens(tokenizer)["<|notimestamps|>"] + 1
    texts = [f"<|{index * SECONDS_PER_TIMESTAMP:.2f}|>" for index in range(NUM_TIMESTAMPS)]
    times = [_timestamp_token(begin + index, text) for index, text in enumerate(texts) if text not in known]
    return {
        **tokenizer,
        "added_tokens": [*tokenizer["added_tokens"], *times],
        "model": {**model, "merges": merges},
    }


def special_tokens(tokenizer: Json) -> dict[str, int]:
    """Returns the ids of the special tokens by their text."""
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}


def _timestamp_token(token: int, text: str) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": token, "content": text, **flags}


def tokenizer_config(tokenizer: Json) -> Json:
    """Returns the tokenizer_config.json of a complete tokenizer.json."""
    end = "<|endoftext|>"
    fields = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    specials = special_tokens(tokenizer)
    return {
        "tokenizer_class": "WhisperTokenizer",
        "processor_class": "WhisperProcessor",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "return_attention_mask": False,
        "model_max_length": 1024,
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
        "unk_token": end,
        "additional_special_tokens": sorted(specials, key=specials.__getitem__),
        "added_tokens_decoder": {
            str(token["id"]): {field: token[field] for field in fields} for token in tokenizer["added_tokens"]
        },
    }


def model_config(
    tensors: Mapping[str, NDArray[np.floating]], heads: Mapping[str, int], specials: dict[str, int]
) -> Json:
    """Returns a config.json.

    Args:
        tensors: The state dict, whose shapes give the sizes.
        heads: Number of attention heads of "encoder" and "decoder".
        specials: Ids of the special tokens.
    """
    vocab_size, d_model = tensors["model.decoder.embed_tokens.weight"].shape
    layers = {side: _num_layers(tensors, side) for side in ("encoder", "decoder")}
    dropouts = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "d_model": d_model,
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "num_hidden_layers": layers["encoder"],
        "encoder_attention_heads": heads["encoder"],
        "decoder_attention_heads": heads["decoder"],
        "encoder_ffn_dim": tensors["model.encoder.layers.0.fc1.weight"].shape[0],
        "decoder_ffn_dim": tensors["model.decoder.layers.0.fc1.weight"].shape[0],
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": tensors["model.encoder.embed_positions.weight"].shape[0],
        "max_target_positions": tensors["model.decoder.embed_positions.weight"].shape[0],
        "vocab_size": vocab_size,
        **dict.fromkeys(dropouts, 0.0),
        "init_std": 0.02,
        "scale_embedding": False,
        "use_cache": True,
        "tie_word_embeddings": True,
        **_start_and_end(vocab_size, specials),
        "dtype": "float32",
    }


def generation_config(ctranslate2: Json, vocab_size: int, specials: dict[str, int]) -> Json:
    """Returns a generation_config.json: the decoding rules of CTranslate2's config.json, and the ids of the prompt."""
    is_multilingual = vocab_size >= MULTILINGUAL_VOCAB_SIZE
    no_timestamps = specials["<|notimestamps|>"]
    config = {
        **_start_and_end(vocab_size, specials),
        "begin_suppress_tokens": ctranslate2["suppress_ids_begin"],
        "suppress_tokens": ctranslate2["suppress_ids"],
        "alignment_heads": ctranslate2["alignment_heads"],
        "is_multilingual": is_multilingual,
        "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP,
        "max_length": MAX_POSITIONS,
        "no_timestamps_token_id": no_timestamps,
        "prev_sot_token_id": specials["<|startofprev|>"],
        "return_timestamps": False,
    }
    if not is_multilingual:
        return {**config, "forced_decoder_ids": [[1, no_timestamps]]}
    # As published: transformers detects the language if a call names none, and the task is transcription. With a prompt
    # without a task token the model repeats one word up to the token limit.
    languages = set(ctranslate2["lang_ids"])
    return {
        **config,
        "forced_decoder_ids": [[1, None], [2, specials["<|transcribe|>"]]],
        "lang_to_id": {text: token for text, token in specials.items() if token in languages},
        "task_to_id": {task: specials[f"<|{task}|>"] for task in ("transcribe", "translate")},
    }


def _start_and_end(vocab_size: int, specials: dict[str, int]) -> dict[str, int]:
    end, start = specials["<|endoftext|>"], specials["<|startoftranscript|>"]
    begin = end if vocab_size >= MULTILINGUAL_VOCAB_SIZE else start  # 50257 for both kinds, as published
    return {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


def _num_layers(tensors: Mapping[str, NDArray[np.floating]], side: str) -> int:
    prefix = f"model.{side}.layers."
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix))
