"""Write a checkpoint in the format of another program.

    distil-ray convert -m students/large-v3-2 -o ggml-student.bin format=ggml dtype=q5_0
    distil-ray convert -m packaged:whisper-base -o s3://bucket/base format=ctranslate2

The checkpoint is anything that model.name accepts, students and assistants of this project too. An
existing target is never replaced. docs/models.md describes the formats.
"""

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.cli.options import option, parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import is_remote, join, normalize

LAST = "config.json"  # of a folder: readers need it, and so see none that is not complete


@dataclass(frozen=True, slots=True)
class ConvertSettings:
    """Options of this command."""

    format: str = option(
        MISSING,
        "hf (transformers), openai (openai-whisper), ggml (whisper.cpp), ctranslate2 (faster-whisper), or onnx"
        " (transformers.js). openai and ggml are files, the others are folders",
    )
    dtype: str = option(
        "auto",
        "number type of the matrices: float32 or float16; q8_0, q5_0, q5_1, q4_0 or q4_1 for ggml; int8 or int8_float16"
        " for ctranslate2; float32 or int8 for onnx. auto: that of the checkpoint; for ggml, float16; for onnx, both",
    )
    exporter: str = option(
        "",
        "Python interpreter of an environment with optimum-onnx, which format=onnx needs; default: this environment",
    )


def convert(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Writes the checkpoint and prints its location."""
    settings = parse_options(ConvertSettings, arguments.own)
    from distil_ray.cli.console import log_field
    from distil_ray.whisper.formats.writers import FORMATS
    from distil_ray.whisper.weights_cache import WeightsError

    if settings.format not in FORMATS:
        raise SettingsError(f"format={settings.format}: must be among {', '.join(FORMATS)}")
    if not config.output.uri:
        raise SettingsError("output.uri is not set. Name the file or folder to write, local or remote.")
    uri, storage = normalize(config.output.uri), Storage(config.storage)
    if storage.stat(uri) is not None or next(storage.list_files(uri), None) is not None or Path(uri).exists():
        raise SettingsError(f"output.uri={config.output.uri}: is there already; name another, or remove it")
    try:
        dtype = _write(config, settings, uri, storage)
    except WeightsError as error:
        raise SettingsError(str(error)) from error
    except OSError as error:
        raise SettingsError(f"output.uri={config.output.uri}: cannot be written ({error.strerror or error})") from error
    log_field(settings.format, f"{uri} ({dtype}, for {FORMATS[settings.format].program})", open_console(arguments))
    return ExitCode.DONE


def _write(config: Config, settings: ConvertSettings, uri: str, storage: Storage) -> str:
    """Writes the checkpoint under a temporary name, then to `uri`; returns the dtype."""
    import sys

    from distil_ray.pipeline.model_setup import StorageFolderReader
    from distil_ray.whisper.download import fetch_weights
    from distil_ray.whisper.formats.writers import FORMATS, write_weights

    model = config.model
    parent = None if is_remote(uri) else Path(uri).parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = fetch_weights(model.name, model.revision, model.cache_dir, StorageFolderReader(storage))
    with tempfile.TemporaryDirectory(prefix=".distil-ray-", dir=parent) as temporary:
        written = Path(temporary) / "weights"
        if FORMATS[settings.format].is_folder:
            written.mkdir()
        dtype = write_weights(folder, written, settings.format, settings.dtype, settings.exporter or sys.executable)
        if parent is not None:
            written.rename(uri)
        else:
            _upload(written, uri, storage)
    return dtype


def _upload(written: Path, uri: str, storage: Storage) -> None:
    if written.is_file():
        _upload_file(written, uri, storage)
        return
    files = sorted((path for path in written.rglob("*") if path.is_file()), key=lambda path: path.name == LAST)
    for path in files:
        _upload_file(path, join(uri, path.relative_to(written).as_posix()), storage)


def _upload_file(path: Path, uri: str, storage: Storage) -> None:
    with storage.create(uri) as sink, open(path, "rb") as source:
        shutil.copyfileobj(source, sink)


COMMAND = Command(
    name="convert",
    description=__doc__ or "",
    run=convert,
    settings=("model.name", "model.revision", "model.cache_dir", "output.uri", "storage.*"),
    options=ConvertSettings,
    short_flags=("output.uri", "model.name"),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
