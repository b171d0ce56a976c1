"""Training examples from a pseudo-label data set, in place of the transcripts of an output.

    DATASET/data/train-*.parquet  validation-*.parquet      columns: audio, whisper_transcript, language

The validation split of the data set is held out. Labels are read as a trainer reads them: the ids of the text without
prompt and end token. A label may join several utterances that the main model transcribed separately. Labels that it
considers unlikely when they are joined are left out (`teacher.py`).
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distil_ray.assistant_training.training_examples import RowSelection, TrainingData, require_enough
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.config import AssistantConfig, Config
from distil_ray.errors import SettingsError
from distil_ray.languages import language_code
from distil_ray.output.run_context import resolve_window
from distil_ray.pipeline.decode_stage import get_decoder
from distil_ray.recognition.native.fallback import window_frames
from distil_ray.schema import open_parquet
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.features import HOP, MAX_FRAMES
from distil_ray.whisper.tokenizer import Tokens

DATA = "data"  # folder of the files, in a data set
SPLITS = ("train", "validation")
COLUMNS = ("id", "audio", "whisper_transcript", "language")
BATCH_ROWS = 16  # examples in memory at once

Row = dict[str, Any]


def select_labeled_data(uri: str, tokens: Tokens, settings: AssistantConfig, storage: Storage) -> TrainingData:
    """Selects files of a pseudo-label data set, until there is enough audio.

    Args:
        uri: Folder of the data set.
        tokens: Tokenizer of the main model.
        settings: Settings of the training.
        storage: Storage of the data set.

    Raises:
        SettingsError: There is no data set, too little audio, or no held-out audio.
    """
    data = TrainingData(hold_out_by="split")
    try:
        files = sorted(storage.list_files(join(normalize(uri), DATA)), key=lambda entry: entry.uri)
        for split in SPLITS:
            for file in (one for one in files if one.uri.rsplit("/", 1)[-1].startswith(f"{split}-")):
                _add_file(data, file, split, tokens, settings, storage)
    except StorageError as error:
        raise SettingsError(f"assistant.labels_uri={uri}: {error}") from error
    if not data.train:
        raise SettingsError(
            f"assistant.labels_uri={uri}: there is no {DATA}/{SPLITS[0]}-….parquet. Set it to the folder `dataset`"
            " that `distil-ray pseudo-label` writes"
        )
    require_enough(data, "", settings)
    return data


def _add_file(
    data: TrainingData, file: Entry, split: str, tokens: Tokens, settings: AssistantConfig, storage: Storage
) -> None:
    is_train = split == SPLITS[0]
    if (data.train_s >= settings.max_audio_s) if is_train else (data.held_out_s >= settings.held_out_s):
        return
    with storage.open(file.uri) as source:
        table = open_parquet(source).read(["whisper_transcript", "duration_s"])
    seconds = sum(table["duration_s"].to_pylist())
    selection = RowSelection(file.uri, tuple(range(table.num_rows)))
    data.versions.append(f"{file.size} {file.version}")
    if is_train:
        data.train.append(selection)
        data.train_s += seconds
        for text in table["whisper_transcript"].to_pylist():
            data.token_ids.update(label_ids(text, tokens))
    else:
        data.held_out.append(selection)
        data.held_out_s += seconds


def label_ids(text: str, tokens: Tokens) -> tuple[int, ...]:
    """Returns the ids of a label, without those of its prompt and its end token."""
    ids: Sequence[int] = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    return tuple(token for token in ids if tokens.is_text(token) or tokens.is_timestamp(token))


def load_labeled_audio(selection: RowSelection, tokens: Tokens, config: Config, storage: Storage) -> Iterator[Row]:
    """Yields the examples of one file of a data set as rows of `AUDIO_SCHEMA` (`audio.py`), in order."""
    with storage.open(selection.uri) as file, tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
        for batch in open_parquet(file).iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            for row in batch.to_pylist():
                pcm = _decode(row, Path(folder) / "example", config)
                ids = label_ids(row["whisper_transcript"], tokens)
                if ids and len(pcm):
                    yield {
                        **{"recording_id": row["id"], "language": language_code(row["language"])},
                        **{"text": None, "reference": None},
                        **{"tokens": list(ids), "window_s": _window_s(len(pcm), config), "pcm": pcm.tobytes()},
                    }


def _decode(row: Row, path: Path, config: Config) -> PCM16:
    path.write_bytes(row["audio"]["bytes"])
    pieces = [one for one in get_decoder(config).decode(str(path), row["id"]) if not isinstance(one, DecodeResult)]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int16)


def _window_s(num_samples: int, config: Config) -> float:
    """Returns the window length, in seconds, that a run would use for so many samples."""
    frames = window_frames(num_samples) if resolve_window(config) == "gated" else MAX_FRAMES
    return frames * HOP / SAMPLE_RATE
