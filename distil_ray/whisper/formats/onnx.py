"""ONNX graphs as transformers.js loads them, written by Hugging Face's exporter.

A folder holds the small files, and in ``onnx/`` the encoder and the decoder with its cache, which are
``encoder_model.onnx`` and ``decoder_model_merged.onnx`` in float32, and ``…_quantized.onnx`` with int8 matrices. The
tensors of a graph of more than 2 GB are in a file beside it, ``….onnx_data``, which config.json tells transformers.js.
The exporter (optimum-onnx) requires transformers 4, so that it runs in a Python environment of its own.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from distil_ray.whisper.companion_files import add_companion_files
from distil_ray.whisper.formats.model_files import read_json, write_json
from distil_ray.whisper.formats.tensors import FLOAT32
from distil_ray.whisper.weights_cache import WeightsError

INT8 = "int8"
GRAPHS = ("encoder_model", "decoder_model_merged")
SETTINGS = "transformers.js_config"  # its settings in config.json
TASK = "automatic-speech-recognition-with-past"
REQUIREMENT = "optimum-onnx[onnxruntime]>=0.1"
_MODULES = "import onnxruntime.quantization, optimum.exporters.onnx"
_QUANTIZE = Path(__file__).with_name("quantize_onnx.py")


def write(folder: Path, target: Path, dtypes: Sequence[str], python: str) -> None:
    """Writes a folder for transformers.js.

    Args:
        folder: A Hugging Face folder.
        target: An existing folder.
        dtypes: "float32", "int8", or both.
        python: Interpreter of an environment with `REQUIREMENT`.

    Raises:
        WeightsError: The exporter is not installed there, or fails.
    """
    isolated = [python, "-I"]  # without this process's path, and without this folder, in which there is an onnx.py
    _run([*isolated, "-c", _MODULES], _missing(python))
    (target / "onnx").mkdir()
    with tempfile.TemporaryDirectory(dir=target) as temporary:
        model, exported = Path(temporary) / "model", Path(temporary) / "exported"
        model.mkdir()
        for path in folder.iterdir():  # a copy, to which the files can be added that transformers 4 needs
            if path.is_file():
                (model / path.name).symlink_to(path.resolve())
        add_companion_files(model)
        export = [*isolated, "-m", "optimum.exporters.onnx", "--model", str(model), "--task", TASK]
        _run([*export, str(exported)], "the ONNX exporter failed")
        external: dict[str, bool] = {}
        for graph in GRAPHS:
            source, written = exported / f"{graph}.onnx", target / "onnx" / f"{graph}.onnx"
            if INT8 in dtypes:
                quantized = written.with_name(f"{graph}_quantized.onnx")
                _run([*isolated, str(_QUANTIZE), str(source), str(quantized)], "onnxruntime could not quantize")
            if FLOAT32 in dtypes:
                shutil.move(source, written)
                if (data := source.with_name(f"{source.name}_data")).exists():
                    shutil.move(data, written.with_name(data.name))
                    external[written.name] = True
        for path in sorted(model.iterdir()):
            if path.suffix in (".json", ".txt") and not path.name.endswith(".index.json"):
                shutil.copyfile(path, target / path.name)
    if external:
        config = read_json(target / "config.json") or {}
        settings = {**config.get(SETTINGS, {}), "use_external_data_format": external}
        write_json(target / "config.json", {**config, SETTINGS: settings})


def _missing(python: str) -> str:
    return (
        f"format=onnx needs the exporter of {REQUIREMENT}, which {python} cannot import. It requires transformers 4, so"
        f" install it in an environment of its own: python -m venv ENV; ENV/bin/pip install torch '{REQUIREMENT}'; and"
        " set exporter=ENV/bin/python"
    )


def _run(command: Sequence[str], failure: str) -> None:
    """Runs a program of the exporter's environment. Raises `WeightsError` with the end of its stderr."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise WeightsError(f"{failure} ({error})") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise WeightsError(f"{failure} ({lines[-1] if lines else f'exit code {done.returncode}'})")
