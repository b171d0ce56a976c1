"""Which of the trained assistants is in use: one small file that is replaced whole.

    ASSISTANTS/current.json                   the one in use, its figures, and the one before it
    ASSISTANTS/students/<training>/           a model folder each, with training.json and training.svg; never deleted;
                                              and current.json as it was when this one came into use
    ASSISTANTS/trainings/<training>/          checkpoints of a training; deleted when it has ended

A run reads the file once, when it begins, and keeps what it found. Which assistant drafts changes no text, so that rows
of runs with one and another count as the same.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from distil_ray.cli.console import log_field
from distil_ray.config import Config
from distil_ray.errors import SettingsError
from distil_ray.storage.storage import MissingError, Storage, StorageError, join, normalize

CURRENT = "current.json"
STUDENTS, TRAININGS = "students", "trainings"


@dataclass(frozen=True, slots=True)
class CurrentAssistant:
    """The assistant in use. ``training`` names its folder below ``students/``; ``main_identity`` is the checkpoint that
    it was trained for, to its very weights; ``held_out`` says what it has never seen; ``before`` names the training of
    the one that it replaced."""

    training: str
    main_model: str
    main_identity: str
    trained_at: str
    held_out: dict[str, Any]
    layers: int
    figures: dict[str, Any]
    before: str | None = None

    def folder(self, uri: str) -> str:
        """The model folder below the folder of assistants."""
        return student_uri(uri, self.training)

    def encode(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, allow_nan=False) + "\n").encode()


def student_uri(uri: str, training: str) -> str:
    return join(normalize(uri), STUDENTS, training)


def record_uri(uri: str, training: str) -> str:
    """What `current.json` said when this one came into use; not there if it never was."""
    return join(student_uri(uri, training), CURRENT)


def training_uri(uri: str, training: str) -> str:
    return join(normalize(uri), TRAININGS, training)


def read_current_assistant(uri: str, storage: Storage) -> CurrentAssistant | None:
    """What is in use at a folder of assistants; None where there is none yet. Raises `SettingsError`."""
    file = join(normalize(uri), CURRENT)
    try:
        return CurrentAssistant(**json.loads(storage.read(file)))
    except MissingError:
        return None
    except StorageError as error:
        raise SettingsError(f"assistant.uri={uri}: {error}") from error
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"assistant.uri={uri}: {file} does not tell which assistant is in use ({error}). Restore it, or delete it:"
            " no student is lost by that"
        ) from error


def replace_current_assistant(
    uri: str, current: CurrentAssistant, found: CurrentAssistant | None, storage: Storage
) -> bool:
    """Replaces the file in one piece; False if it is not what was `found` any more, and stays as it is."""
    file = join(normalize(uri), CURRENT)
    if found is None:
        return storage.put_new(file, current.encode())
    content = storage.read(file)
    return CurrentAssistant(**json.loads(content)) == found and storage.swap(file, content, current.encode())


def select_assistant(config: Config, main_identity: str, console: Console) -> Config:
    """The settings with `model.assistant` as `assistant.uri` has it now.

    Where there is none yet, or it drafts for another checkpoint, `model.assistant` stays what it is. Raises
    `SettingsError` if then nothing drafts although `decoding.speculative` is on.
    """
    uri = config.assistant.uri
    if uri is None or config.decoding.speculative == "off":
        return config
    current = read_current_assistant(uri, Storage(config.storage))
    if current is not None and current.main_identity == main_identity:
        log_field("assistant", f"{current.training}, trained at {current.trained_at}", console)
        return _with_assistant(config, current.folder(uri))
    why = f"there is none at assistant.uri={uri} yet"
    if current is not None:
        why = f"the one in use at assistant.uri={uri} was trained for {current.main_model} ({current.main_identity})"
    if config.model.assistant is not None:
        log_field("assistant", f"model.assistant, as {why}", console)
    elif config.decoding.speculative == "on":
        raise SettingsError(
            f"decoding.speculative=on, but nothing drafts: {why}. Train one (jobs/train_assistant.py), give"
            " model.assistant, or take auto"
        )
    else:
        log_field("assistant", f"none, as {why}", console)
    return config


def _with_assistant(config: Config, folder: str) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"assistant": folder})})
