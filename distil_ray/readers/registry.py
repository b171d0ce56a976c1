"""Which form of corpus a location has: one table of all forms, by a file's name, then by its content; a folder by
what lies in it.

A form is a module with a reader; here is how it is known and what it is called. ``input.format`` overrules the table.
What is guessed is told (`Listing.forms`), because a wrong guess would otherwise look like an odd corpus.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from distil_ray.errors import InputError
from distil_ray.readers.audio_files import AudioFileLister
from distil_ray.readers.audio_formats import extension, is_audio_name, is_manifest_name
from distil_ray.readers.base import ReadContext, Reader
from distil_ray.readers.containers import PARQUET_AUDIO, TAR_SHARDS, ContainerReader, is_audio_table, read_audio_table
from distil_ray.readers.corpora import (
    is_common_voice_folder,
    is_common_voice_head,
    is_ljspeech_folder,
    is_ljspeech_head,
    is_vctk_folder,
    read_common_voice,
    read_ljspeech,
    read_vctk,
)
from distil_ray.readers.kaldi import WAV_SCP, read_kaldi
from distil_ray.readers.lhotse import is_cut_manifest, is_recording_manifest, read_lhotse
from distil_ray.readers.manifest import read_manifest
from distil_ray.readers.nemo import is_tarred_manifest, read_nemo_tarred
from distil_ray.readers.row_files import TableHead, read_head
from distil_ray.readers.tar_index import is_tar_name
from distil_ray.readers.webdataset import read_shard
from distil_ray.storage.storage import Storage, join
from distil_ray.types import Recording

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of an audiofolder, in the order looked for

# What is no recording and no list of any, by its extension; a name that says nothing may well be audio.
NOT_READ = {
    **dict.fromkeys((".zip", ".rar", ".7z"), "archives other than tar: unpack it, or pack it as tar"),
    **dict.fromkeys((".lz4", ".lzma", ".br", ".z"), "packed otherwise than with gzip, bzip2, xz or zstd"),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".npy", ".npz", ".h5", ".hdf5", ".ark"), "stored arrays"),
    **dict.fromkeys((".xlsx", ".xls", ".ods", ".docx", ".pdf"), "office files: save the table as CSV"),
    **dict.fromkeys((".yaml", ".yml", ".xml", ".html", ".htm", ".srt", ".vtt", ".textgrid", ".ctm"), "such texts"),
}


def _never(*_: object) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class InputFormat:
    """A form of corpus.

    `name`: its value of ``input.format``; `title`: for people. `has_name` knows its files by their URI alone, `has_head`
    a table by its beginning, `has_folder` a folder by what lies in it.
    """

    name: str
    title: str
    read: Reader
    has_name: Callable[[str], bool] = _never
    has_head: Callable[[TableHead], bool] = _never
    has_folder: Callable[[str, Storage], bool] = _never


def _read_files(uri: str, context: ReadContext) -> Iterator[Recording]:
    files = files_of(context)
    entry = context.storage.stat(uri)
    yield from files.folder(uri, context.root) if entry is None else files.single(entry, context.root)


def files_of(context: ReadContext) -> AudioFileLister:
    """Audio files, and the files between them that hold recordings."""
    wanted = context.config.references == "auto"
    return AudioFileLister(context.storage, context.ignored, wanted, split=ContainerReader(context).split)


def _read_audiofolder(uri: str, context: ReadContext) -> Iterator[Recording]:
    yield from read_manifest(_metadata_of(uri, context.storage) or uri, context)


def _metadata_of(folder: str, storage: Storage) -> str | None:
    """The table of an audiofolder, if the folder is one."""
    for name in METADATA:
        uri = join(folder, name)
        if storage.stat(uri) is not None and "file_name" in read_head(uri, storage).columns:
            return uri
    return None


AUDIO_TABLE = InputFormat("parquet", PARQUET_AUDIO, read_audio_table)
FILES = InputFormat("files", "audio files", _read_files)
MANIFEST = InputFormat("manifest", "manifest", read_manifest)

FORMATS = (
    InputFormat("tar", TAR_SHARDS, read_shard, has_name=is_tar_name),
    AUDIO_TABLE,
    InputFormat(
        "kaldi",
        "Kaldi data directory",
        read_kaldi,
        has_name=lambda uri: uri.endswith(f"/{WAV_SCP}"),
        has_folder=lambda uri, storage: storage.stat(join(uri, WAV_SCP)) is not None,
    ),
    InputFormat("nemo_tarred", "NeMo's tarred manifest", read_nemo_tarred, has_head=is_tarred_manifest),
    InputFormat(
        "lhotse",
        "lhotse manifest",
        read_lhotse,
        has_head=lambda head: is_cut_manifest(head) or is_recording_manifest(head),
    ),
    InputFormat(
        "common_voice",
        "Common Voice table",
        read_common_voice,
        has_head=is_common_voice_head,
        has_folder=is_common_voice_folder,
    ),
    InputFormat("ljspeech", "LJSpeech", read_ljspeech, has_head=is_ljspeech_head, has_folder=is_ljspeech_folder),
    InputFormat("vctk", "VCTK", read_vctk, has_folder=is_vctk_folder),
    InputFormat(
        "audiofolder",
        "audiofolder",
        _read_audiofolder,
        has_head=lambda head: "file_name" in head.columns,
        has_folder=lambda uri, storage: _metadata_of(uri, storage) is not None,
    ),
    MANIFEST,
    FILES,
)


def form_of_file(uri: str, context: ReadContext) -> InputFormat:
    """Raises `InputError` for a file that no form reads."""
    if forced := _forced(context):
        return forced
    for format in FORMATS:
        if format.has_name(uri):
            return format
    if is_audio_table(uri, context):
        return AUDIO_TABLE
    if is_manifest_name(uri):
        head = read_head(uri, context.storage)
        return next((format for format in FORMATS if format.has_head(head)), MANIFEST)
    if extension(uri) in NOT_READ and not is_audio_name(uri):
        raise InputError(f"input.uri={uri}: {extension(uri)} is not read ({NOT_READ[extension(uri)]}). {_supported()}")
    return FILES


def form_of_folder(uri: str, context: ReadContext) -> InputFormat:
    """Raises `InputError` for a folder that looks like several forms."""
    if forced := _forced(context):
        return forced
    found = [format for format in FORMATS if format.has_folder(uri, context.storage)]
    if len(found) > 1:
        titles = ", ".join(f"{format.title} ({format.name})" for format in found)
        raise InputError(f"input.uri={uri}: looks like several forms: {titles}. Say which with input.format")
    return found[0] if found else FILES


def is_list_name(uri: str) -> bool:
    """Whether a name, or a glob's pattern, means lists of recordings and not recordings."""
    return is_manifest_name(uri) or any(format.has_name(uri) for format in FORMATS)


def _forced(context: ReadContext) -> InputFormat | None:
    return next((format for format in FORMATS if format.name == context.config.format), None)


def _supported() -> str:
    titles = ", ".join(f"{format.title} ({format.name})" for format in FORMATS)
    return f"What is read: {titles}. input.format says which where the name does not"
