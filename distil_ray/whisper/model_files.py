"""The JSON files that stand beside the weights in a Hugging Face folder, for weights that came without them.

Everything is derived from the tensors' shapes, the tokenizer and CTranslate2's own config.json; the values are those
that OpenAI's checkpoints were published with. The tokenizer.json of 2022 that still circulates lacks its first merge
and the time tokens: both are put back. The order of keys is part of the files' checksums (packaged.py).

This project reads tokenizer.json alone. Published folders hold its content a second time, as vocab.json and merges.txt,
which transformers 4's `WhisperTokenizer` and `AutoProcessor` need, and normalizer.json, which distil-whisper's trainer
needs; `add_companion_files` writes what a folder lacks of them.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from distil_ray.whisper.english_spelling import english_spelling
from distil_ray.whisper.tokenizer import MAX_POSITIONS, MULTILINGUAL_VOCAB_SIZE, SECONDS_PER_TIMESTAMP
from distil_ray.whisper.weights_cache import WeightsError

NUM_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>
NUM_BYTES = 256  # the first ids of the vocabulary are single bytes; merges make the ones after them
MAX_INITIAL_TIMESTAMP = 50  # 1 s in steps of 20 ms
PROCESSOR = "processor_config.json"

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


def write_json(path: Path, content: Json, *, indent: int | None = 2) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=indent) + "\n", encoding="utf-8")


def add_companion_files(folder: Path) -> None:
    """Writes what transformers 4 and distil-whisper's trainer read of a model folder and this one lacks.

    `folder` holds config.json and tokenizer.json. What transformers 5 has saved is brought into the form that both
    versions read: its processor_config.json becomes preprocessor_config.json, and tokenizer_config.json is written
    anew. Files that are there stay otherwise as they are. Each appears in one piece, so that several processes may do
    this at once. Raises OSError for a folder that cannot be written to.
    """
    for name, content in _COMPANIONS.items():
        if not (folder / name).exists():
            _put(folder / name, content(folder))
    if "added_tokens_decoder" not in _read(folder, "tokenizer_config.json"):
        _put(folder / "tokenizer_config.json", _line(tokenizer_config(_read(folder, "tokenizer.json"))))
    (folder / PROCESSOR).unlink(missing_ok=True)


def _merges(folder: Path) -> str:
    merges = _read(folder, "tokenizer.json")["model"]["merges"]
    pairs = (merge if isinstance(merge, str) else " ".join(merge) for merge in merges)
    return "".join(f"{line}\n" for line in ("#version: 0.2", *pairs))


def _preprocessor(folder: Path) -> str:
    saved = _read(folder, PROCESSOR).get("feature_extractor")
    features = saved or FEATURE_EXTRACTOR | {"feature_size": _read(folder, "config.json")["num_mel_bins"]}
    return json.dumps({"processor_class": "WhisperProcessor", **features}, indent=2) + "\n"


_COMPANIONS: Mapping[str, Callable[[Path], str]] = {
    "vocab.json": lambda folder: _line(_read(folder, "tokenizer.json")["model"]["vocab"]),
    "merges.txt": _merges,
    "normalizer.json": lambda _: json.dumps(english_spelling(), indent=2) + "\n",
    "preprocessor_config.json": _preprocessor,
}


def _read(folder: Path, name: str) -> Json:
    """A JSON file of the folder; empty where there is none."""
    path = folder / name
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _line(content: Json) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


def _put(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def complete_tokenizer(tokenizer: Json) -> Json:
    """tokenizer.json with its first merge and all time tokens; what is there already stays as it is."""
    model = tokenizer["model"]
    by_id = {token: text for text, token in model["vocab"].items()}
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    first_merged = by_id[NUM_BYTES]
    if "".join(merges[0]) != first_merged:
        merges.insert(0, [first_merged[0], first_merged[1:]])
    if any("".join(merge) != by_id[NUM_BYTES + index] for index, merge in enumerate(merges)):
        raise WeightsError("tokenizer.json: merges and vocabulary do not belong together")
    known = {token["content"] for token in tokenizer["added_tokens"]}
    begin = special_tokens(tokenizer)["<|notimestamps|>"] + 1
    texts = [f"<|{index * SECONDS_PER_TIMESTAMP:.2f}|>" for index in range(NUM_TIMESTAMPS)]
    times = [_time_token(begin + index, text) for index, text in enumerate(texts) if text not in known]
    return {
        **tokenizer,
        "added_tokens": [*tokenizer["added_tokens"], *times],
        "model": {**model, "merges": merges},
    }


def special_tokens(tokenizer: Json) -> dict[str, int]:
    """Ids of the special tokens by their text."""
    return {token["content"]: token["id"] for token in tokenizer["added_tokens"] if token["special"]}


def _time_token(token: int, text: str) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"id": token, "content": text, **flags}


def tokenizer_config(tokenizer: Json) -> Json:
    """tokenizer_config.json for a complete tokenizer."""
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
    """config.json: sizes from the tensors' shapes, heads by side."""
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
    """generation_config.json: the rules of decoding that CTranslate2's config.json lists, and the prompt's ids."""
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
    # As published: transformers detects the language of a call that names none, and the task is transcription. A prompt
    # without a task token makes the model repeat one word to the limit.
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
