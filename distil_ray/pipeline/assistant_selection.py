"""The trained assistant in use: one small file in the folder of assistants, replaced as a whole.

    ASSISTANTS/current.json              the assistant in use, its figures, and the previous one
    ASSISTANTS/students/<training>/      a model folder per training, with training.json, training.svg and, if it
                                         came into use, current.json of that time; never deleted
    ASSISTANTS/trainings/<training>/     checkpoints of a training; deleted at its end

A run reads the file once, at its start. The assistant changes the speed and no text, so it is not part of the
fingerprint.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from distil_ray.cli.console import log_field
from distil_ray.config import Config
from distil_ray.errors import SettingsError
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError, StorageError
from distil_ray.storage.uris import join, normalize

CURRENT = "current.json"
STUDENTS, TRAININGS = "students", "trainings"


@dataclass(frozen=True, slots=True)
class CurrentAssistant:
    """Content of current.json."""

    training: str  # name of the training, and of the folder below students/
    main_model: str  # model.name of the main model
    main_identity: str  # its identity, a hash of the weights: the assistant drafts for no other
    trained_at: str
    held_out: dict[str, Any]  # recordings that were not trained on
    layers: int
    figures: dict[str, Any]
    before: str | None = None

    def folder(self, uri: str) -> str:
        """Returns the model folder below the folder of assistants."""
        return student_uri(uri, self.training)

    def encode(self) -> bytes:
        return (json.dumps(asdict(self), indent=2, allow_nan=False) + "\n").encode()


def student_uri(uri: str, training: str) -> str:
    return join(normalize(uri), STUDENTS, training)


def record_uri(uri: str, training: str) -> str:
    """Returns the URI of `current.json` as it was when this student came into use; missing if it never did."""
    return join(student_uri(uri, training), CURRENT)


def training_uri(uri: str, training: str) -> str:
    return join(normalize(uri), TRAININGS, training)


def read_current_assistant(uri: str, storage: Storage) -> CurrentAssistant | None:
    """Returns the assistant in use in a folder of assistants; None if there is none yet.

    Raises:
        SettingsError: If the file cannot be read or parsed.
    """
    file = join(normalize(uri), CURRENT)
    try:
        return CurrentAssistant(**json.loads(storage.read(file)))
    except MissingError:
        return None
    except StorageError as error:
        raise SettingsError(f"assistant.uri={uri}: {error}") from error
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"assistant.uri={uri}: {file} is not a valid record of the assistant in use ({error}). Restore it or delete"
            " it; students are kept"
        ) from error


def replace_current_assistant(
    uri: str, current: CurrentAssistant, found: CurrentAssistant | None, storage: Storage
) -> bool:
    """Replaces the file as a whole. Returns False, without effect, if it is no longer what was `found`."""
    file = join(normalize(uri), CURRENT)
    if found is None:
        return storage.put_if_absent(file, current.encode())
    content = storage.read(file)
    return CurrentAssistant(**json.loads(content)) == found and storage.replace_if_unchanged(
        file, content, current.encode()
    )


def select_assistant(config: Config, main_identity: str, console: Console) -> Config:
    """Returns the settings with `model.assistant` set to the assistant in use at `assistant.uri`.

    Without one, or if it was trained for another checkpoint, `model.assistant` is unchanged.

    Raises:
        SettingsError: If `decoding.speculative` is on and there is no assistant.
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
            f"decoding.speculative=on, but there is no assistant: {why}. Train one (distil-ray train-assistant), set"
            " model.assistant, or use decoding.speculative=auto"
        )
    else:
        log_field("assistant", f"none, as {why}", console)
    return config


def _with_assistant(config: Config, folder: str) -> Config:
    return config.model_copy(update={"model": config.model.model_copy(update={"assistant": folder})})
