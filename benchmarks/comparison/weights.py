"""The checkpoint in the format of an engine, converted once and cached."""

import hashlib
from functools import partial
from pathlib import Path

from benchmarks.comparison.environments import UnavailableError, run_tool
from distil_ray.whisper.formats.writers import FORMATS, write_weights
from distil_ray.whisper.weights_cache import build_once

EXPORT_LIMIT_S = 900.0  # seconds that OpenVINO's exporter may take
DTYPES = {"ctranslate2": "float32", "openai": "float32", "ggml": "q8_0"}  # CTranslate2 quantizes when it loads
FILE = "model.bin"


def convert_checkpoint(name: str, model: Path, cache_dir: Path, python: Path) -> Path:
    """Returns the folder or file that an engine loads.

    Args:
        name: The format: hf, ctranslate2, openai, ggml or openvino.
        model: Folder in Hugging Face's format.
        cache_dir: Folder for converted weights.
        python: Interpreter of the engine's environment.

    Raises:
        UnavailableError: OpenVINO's exporter fails.
    """
    if name == "hf":
        return model
    folder = cache_dir / f"{model.name}-{_identity(model)}" / name
    if name not in DTYPES:
        return build_once(folder, lambda target: _export_openvino(model, target, python))
    build_once(folder, partial(_write, name, model))
    return folder if FORMATS[name].is_folder else folder / FILE


def _write(name: str, model: Path, target: Path) -> None:
    write_weights(model, target if FORMATS[name].is_folder else target / FILE, name, DTYPES[name])


def _identity(model: Path) -> str:
    """Returns a hash of the names, sizes and times of a checkpoint's weight files."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(model.glob("*.safetensors"))]
    return hashlib.sha256(repr((str(model), stats)).encode()).hexdigest()[:12]


def _export_openvino(model: Path, target: Path, python: Path) -> None:
    """Converts with OpenVINO's own exporter, because its format is a graph and not a file of tensors."""
    exporter = [str(python.parent / "optimum-cli"), "export", "openvino", "--model", str(model)]
    task = ["--task", "automatic-speech-recognition-with-past", "--weight-format", "int8", str(target)]
    run_tool([*exporter, *task], "openvino: the export failed", EXPORT_LIMIT_S)
    if not (target / "openvino_tokenizer.xml").exists():
        raise UnavailableError("openvino: the export gave no tokenizer")
