"""One checkpoint in every format that an engine reads, made once from Hugging Face's folder and kept."""

import hashlib
from pathlib import Path

from benchmarks.comparison.environments import UnavailableError, run_tool
from benchmarks.formats import ctranslate2, ggml, openai
from benchmarks.formats.hugging_face import Checkpoint
from distil_ray.whisper.weights_cache import build_once

EXPORT_LIMIT_S = 900.0  # seconds that OpenVINO's exporter may take


def convert_checkpoint(name: str, model: Path, cache_dir: Path, python: Path) -> Path:
    """The folder or file that an engine of the format `name` loads; `python` is its environment's interpreter.

    Raises `UnavailableError` where a foreign exporter fails.
    """
    if name == "hf":
        return model
    folder = cache_dir / f"{model.name}-{_identity(model)}"
    checkpoint = Checkpoint(model)
    if name == "ctranslate2":
        return build_once(folder / name, lambda target: ctranslate2.write(checkpoint, target))
    if name == "openai":
        return build_once(folder / name, lambda target: openai.write(checkpoint, target / "model.pt")) / "model.pt"
    if name == "ggml":
        return build_once(folder / name, lambda target: ggml.write(checkpoint, target / "q8_0.bin")) / "q8_0.bin"
    return build_once(folder / name, lambda target: _export_openvino(model, target, python))


def _identity(model: Path) -> str:
    """Tells a changed folder of the same name: sizes and times of its weights."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(model.glob("*.safetensors"))]
    return hashlib.sha256(repr((str(model), stats)).encode()).hexdigest()[:12]


def _export_openvino(model: Path, target: Path, python: Path) -> None:
    """OpenVINO's intermediate form is a graph, not a file of tensors: its own exporter makes it."""
    exporter = [str(python.parent / "optimum-cli"), "export", "openvino", "--model", str(model)]
    task = ["--task", "automatic-speech-recognition-with-past", "--weight-format", "int8", str(target)]
    run_tool([*exporter, *task], "openvino: the export failed", EXPORT_LIMIT_S)
    if not (target / "openvino_tokenizer.xml").exists():
        raise UnavailableError("openvino: the export gave no tokenizer")
