"""The worker process of a program: greedy tokens without timestamps, one recording after another.

Every program gets the same rules: the language, no timestamps, Whisper's suppressed tokens, no fallback to sampling and
no rule for silence. The text of a result is the JSON list of its tokens; of whisper.cpp, whose Python package returns
no tokens, its text as a JSON string. transformers stores the features that it computes, and programs that take features
read them, unless the option `own_features` is set.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.comparison.worker import PCM16, SAMPLE_RATE, Job, Transcriber, run_worker, to_float32

WINDOW = 30 * SAMPLE_RATE  # samples
MAX_PROMPT = 4  # tokens
SCRIPT = Path(__file__).with_name("transformers_js.mjs")

Features = NDArray[np.float32]  # (1, mel bins, 3000)
Decode = Callable[[PCM16, str | None], Sequence[int] | str]  # of one recording in a language


def load(job: Job) -> Transcriber:
    program = job.options["program"]
    if program == "transformers.js":
        return lambda recordings, language: [json.dumps(each) for each in _run_node(job, recordings, language)]
    decode = LOADERS[program](job)
    return lambda recordings, language: [json.dumps(decode(pcm, language)) for pcm in recordings]


def _feature_file(job: Job, pcm: PCM16) -> Path:
    return Path(job.options["features"]) / f"{hashlib.sha256(pcm.tobytes()).hexdigest()[:16]}.npy"


def _stored_features(job: Job, pcm: PCM16) -> Features:
    features: Features = np.load(_feature_file(job, pcm))
    return features


def _load_transformers(job: Job) -> Decode:
    import torch
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    torch.set_num_threads(job.threads)
    model: Any = WhisperForConditionalGeneration.from_pretrained(job.model, dtype=torch.float32)
    return _generate(job, model, WhisperFeatureExtractor.from_pretrained(job.model))


def _load_onnxruntime(job: Job) -> Decode:
    import onnxruntime  # type: ignore[import-untyped]
    from optimum.onnxruntime import ORTModelForSpeechSeq2Seq  # type: ignore[import-not-found]

    session_options = onnxruntime.SessionOptions()
    session_options.intra_op_num_threads = job.threads
    suffix = "_quantized.onnx" if job.options["dtype"] == "int8" else ".onnx"
    with tempfile.TemporaryDirectory() as folder:  # with the names that it finds by itself
        for path in Path(job.model).glob("*.json"):
            (Path(folder) / path.name).symlink_to(path)
        for graph in ("encoder_model", "decoder_model_merged"):
            (Path(folder) / f"{graph}.onnx").symlink_to(Path(job.model) / "onnx" / (graph + suffix))
        model = ORTModelForSpeechSeq2Seq.from_pretrained(folder, session_options=session_options)
    return _generate(job, model)


def _generate(job: Job, model: Any, extractor: Any = None) -> Decode:
    """Returns `generate` of transformers' model class; with an extractor, features are computed and stored."""
    import torch

    greedy: dict[str, Any] = {"num_beams": 1, "do_sample": False, "max_new_tokens": job.options["max_tokens"]}

    def decode(pcm: PCM16, language: str | None) -> list[int]:
        if extractor is not None:
            found = extractor(to_float32(pcm), sampling_rate=SAMPLE_RATE, return_tensors="np").input_features
            np.save(_feature_file(job, pcm), found)
        features = torch.from_numpy(_stored_features(job, pcm))
        told = {"language": language, "task": "transcribe"} if job.is_multilingual else {}
        with torch.inference_mode():
            ids: list[int] = model.generate(features, **greedy, **told)[0].tolist()
        return ids

    return decode


def _load_openai(job: Job) -> Decode:
    import torch
    import whisper  # type: ignore[import-not-found]

    torch.set_num_threads(job.threads)
    model = whisper.load_model(job.model, device="cpu")

    def decode(pcm: PCM16, language: str | None) -> list[int]:
        if job.options.get("own_features"):
            features = whisper.log_mel_spectrogram(whisper.pad_or_trim(to_float32(pcm)), model.dims.n_mels)
        else:
            features = torch.from_numpy(_stored_features(job, pcm))[0]
        options = whisper.DecodingOptions(
            language=language, without_timestamps=True, fp16=False, sample_len=job.options["max_tokens"]
        )
        tokens: list[int] = whisper.decode(model, features, options).tokens
        return tokens

    return decode


def _load_ctranslate2(job: Job) -> Decode:
    import ctranslate2  # type: ignore[import-not-found]

    model = ctranslate2.models.Whisper(job.model, compute_type=job.options["dtype"], intra_threads=job.threads)
    content = json.loads((Path(job.model) / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in content["added_tokens"]}

    def decode(pcm: PCM16, language: str | None) -> list[int]:
        told = (f"<|{language}|>", "<|transcribe|>") if job.is_multilingual else ()
        prompt = [ids[text] for text in ("<|startoftranscript|>", *told, "<|notimestamps|>")]
        features = ctranslate2.StorageView.from_array(_stored_features(job, pcm))
        most = 2 * job.options["max_tokens"]  # it allows half of it to a text
        (result,) = model.generate(features, [prompt], beam_size=1, max_length=most)
        tokens: list[int] = result.sequences_ids[0]
        return tokens

    return decode


def _load_faster_whisper(job: Job) -> Decode:
    from faster_whisper import WhisperModel  # type: ignore[import-not-found]

    model = WhisperModel(job.model, device="cpu", compute_type=job.options["dtype"], cpu_threads=job.threads)
    rules: dict[str, Any] = {"beam_size": 1, "temperature": 0.0, "condition_on_previous_text": False}
    thresholds = dict.fromkeys(("no_speech_threshold", "log_prob_threshold", "compression_ratio_threshold"))

    def decode(pcm: PCM16, language: str | None) -> list[int]:
        most = 2 * job.options["max_tokens"] - MAX_PROMPT  # CTranslate2 allows half of it, and the prompt, to a text
        options = rules | thresholds | {"max_new_tokens": most, "without_timestamps": True}
        segments, _ = model.transcribe(to_float32(pcm), language=language, **options)
        return [token for segment in segments for token in segment.tokens]

    return decode


def _load_whisper_cpp(job: Job) -> Decode:
    from pywhispercpp.model import Model  # type: ignore[import-not-found]

    model = Model(
        job.model,
        params_sampling_strategy=0,  # greedy
        n_threads=job.threads,
        greedy={"best_of": 1},
        temperature_inc=0.0,  # no fallback
        no_context=True,
        no_timestamps=True,
        single_segment=True,
        suppress_nst=True,  # the suppressed tokens
        no_speech_thold=1.0,
        max_tokens=job.options["max_tokens"] - 1,  # it stops behind the next one
        print_progress=False,
        print_realtime=False,
        print_timestamps=False,
    )

    def decode(pcm: PCM16, language: str | None) -> str:
        return "".join(segment.text for segment in model.transcribe(to_float32(pcm), language=language))

    return decode


LOADERS: Mapping[str, Callable[[Job], Decode]] = {
    "transformers": _load_transformers,
    "openai-whisper": _load_openai,
    "CTranslate2": _load_ctranslate2,
    "faster-whisper": _load_faster_whisper,
    "whisper.cpp": _load_whisper_cpp,
    "onnxruntime": _load_onnxruntime,
}


def _run_node(job: Job, recordings: Sequence[PCM16], language: str | None) -> list[list[int]]:
    """Returns what transformers.js gives, which node runs. It gets float32 samples in files."""
    folder = Path(job.options["features"])
    paths = []
    for pcm in recordings:
        paths.append(str(_feature_file(job, pcm).with_suffix(".f32")))
        to_float32(pcm).tofile(paths[-1])
    asked = {
        "model": job.model,
        "dtype": {"float32": "fp32", "int8": "q8"}[job.options["dtype"]],
        "language": language if job.is_multilingual else None,
        "max_tokens": job.options["max_tokens"],
        "threads": job.threads,
        "paths": paths,
        "result": str(folder / f"node-{os.getpid()}.json"),  # not stdout, to which libraries print
    }
    command = ["node", str(SCRIPT), job.options["package"]]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"node: {done.stderr.strip()[-500:]}")
    tokens: list[list[int]] = json.loads(Path(asked["result"]).read_text(encoding="utf-8"))
    return tokens


if __name__ == "__main__":
    run_worker(load)
