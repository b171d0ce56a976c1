"""From the setting `model.recognizer` to a recognizer; torch is imported only when one is made."""

from pathlib import Path
from typing import Literal

from distil_ray.recognition.base import Recognizer, RecognizerOptions


def load_recognizer(
    kind: Literal["native", "transformers"],
    folder: str | Path,
    options: RecognizerOptions,
    assistant: str | Path | None = None,
) -> Recognizer:
    """A recognizer with the weights of a local model folder; `assistant`: the folder of what drafts for a native one.

    Raises RuntimeError for a device, number type or attention that this machine cannot do, ValueError for options that
    this kind of recognizer does not have and for an assistant that does not fit.
    """
    if kind == "native":
        from distil_ray.recognition.native.recognizer import NativeRecognizer

        return NativeRecognizer(Path(folder), options, assistant)
    from distil_ray.recognition.transformers_recognizer import TransformersRecognizer

    return TransformersRecognizer(folder, options)
