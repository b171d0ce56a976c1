"""From the setting `model.recognizer` to a recogniser; torch is imported only when one is made."""

from pathlib import Path
from typing import Literal

from distil_ray.recognition.recognizer import Recognizer, RecognizerOptions


def load_recognizer(
    kind: Literal["native", "transformers"], folder: str | Path, options: RecognizerOptions
) -> Recognizer:
    """A recogniser with the weights of a local model folder.

    Raises RuntimeError for a device, number type or attention that this machine cannot do, ValueError for options that
    this kind of recogniser does not have.
    """
    if kind == "native":
        from distil_ray.recognition.native import NativeRecognizer

        return NativeRecognizer(Path(folder), options)
    from distil_ray.recognition.reference import TransformersRecognizer

    return TransformersRecognizer(folder, options)
