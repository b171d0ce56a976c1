"""Batch speech recognition with Whisper and Distil-Whisper on Ray.

    import distil_ray as dr

    table = dr.transcribe(["a.mp3", "b.wav"], model="openai/whisper-large-v3")

Importing the package loads neither torch nor Ray nor Arrow. Each of its names is loaded on first use, so that the help
of a job, a decoder subprocess and a write task on a CPU node start quickly. docs/python.md describes the names.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distil_ray.api.job import RunResult, run
    from distil_ray.api.recognizer import Recognizer
    from distil_ray.api.scoring import ErrorRates, score
    from distil_ray.api.settings import load_config
    from distil_ray.api.transcribe import transcribe
    from distil_ray.api.transcriber import Transcriber
    from distil_ray.api.transcripts import read_transcripts
    from distil_ray.config import Config
    from distil_ray.errors import DistilRayError, InputError, RunError, SettingsError

try:
    __version__ = version("distil-ray")
except PackageNotFoundError:  # a checkout that was copied, not installed (a job's working_dir)
    __version__ = "0+checkout"

__all__ = [
    "Config",
    "DistilRayError",
    "ErrorRates",
    "InputError",
    "Recognizer",
    "RunError",
    "RunResult",
    "SettingsError",
    "Transcriber",
    "__version__",
    "load_config",
    "read_transcripts",
    "run",
    "score",
    "transcribe",
]

_MODULES = {
    "Config": "distil_ray.config",
    "DistilRayError": "distil_ray.errors",
    "ErrorRates": "distil_ray.api.scoring",
    "InputError": "distil_ray.errors",
    "Recognizer": "distil_ray.api.recognizer",
    "RunError": "distil_ray.errors",
    "RunResult": "distil_ray.api.job",
    "SettingsError": "distil_ray.errors",
    "Transcriber": "distil_ray.api.transcriber",
    "load_config": "distil_ray.api.settings",
    "read_transcripts": "distil_ray.api.transcripts",
    "run": "distil_ray.api.job",
    "score": "distil_ray.api.scoring",
    "transcribe": "distil_ray.api.transcribe",
}


def __getattr__(name: str) -> Any:
    """Imports a public name on its first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
