"""The format of weights, found by their content, and their conversion to a Hugging Face folder."""

from pathlib import Path

from distil_ray.whisper.formats import ctranslate2, ggml, openai, torch_files
from distil_ray.whisper.formats.hugging_face import COMPANIONS, FetchVocabulary, save_tensors, write_folder
from distil_ray.whisper.formats.model_files import read_json, write_json
from distil_ray.whisper.formats.tensors import Checkpoint, check_tensors, tied_config
from distil_ray.whisper.model_folders import WEIGHTS
from distil_ray.whisper.weights_cache import WeightsError

HEAD_BYTES = 64
_READABLE = "openai-whisper (.pt), whisper.cpp (ggml-*.bin), CTranslate2 and PyTorch (pytorch_model.bin)"


def convert_to_hugging_face(source: Path, folder: Path, fetch_vocabulary: FetchVocabulary) -> None:
    """Writes a Hugging Face folder from weights in another format.

    Args:
        source: A file, beside which companions may lie; or a folder of CTranslate2, or with pytorch_model.bin.
        folder: An existing, empty folder.
        fetch_vocabulary: See `write_folder`.

    Raises:
        WeightsError: The format is not known, or the weights are damaged or not Whisper's.
    """
    parent = source if source.is_dir() else source.parent
    if source.is_dir() and not (source / ctranslate2.WEIGHTS).exists():
        _convert_pytorch(source, folder)
        return
    companions = {name: content for name in COMPANIONS if (content := read_json(parent / name)) is not None}
    write_folder(_read(source), folder, fetch_vocabulary, companions)


def _read(source: Path) -> Checkpoint:
    file = source / ctranslate2.WEIGHTS if source.is_dir() else source
    with open(file, "rb") as opened:
        head = opened.read(HEAD_BYTES)
    if head.startswith(ggml.MAGIC):
        return ggml.read(file)
    if head.startswith(ctranslate2.HEAD):
        return ctranslate2.read(file)
    if torch_files.is_torch_file(head):
        return openai.read(file)
    raise WeightsError(
        f"{file.name}: its format is not known; readable are {_READABLE}. Of safetensors, name the folder"
    )


def _convert_pytorch(source: Path, folder: Path) -> None:
    """Writes the weights as safetensors and copies the other files, which are those of a Hugging Face folder."""
    config = read_json(source / "config.json") or {}
    try:
        checkpoint = torch_files.read_pytorch(source, config)
    except KeyError as error:
        raise WeightsError(f"config.json: has no {error.args[0]}; it must be that of a Whisper model") from error
    check_tensors(checkpoint.source, checkpoint.sizes, checkpoint.tensors)
    save_tensors(checkpoint.tensors, folder / WEIGHTS)
    for path in sorted(source.iterdir()):
        if path.suffix in (".json", ".txt") and path.name != torch_files.INDEX:
            (folder / path.name).write_bytes(path.read_bytes())
    if (tied := tied_config(config)) != config:
        write_json(folder / "config.json", tied)
