"""Computes for each 32 ms of a recording how likely it is speech, with Silero VAD through onnxruntime.

The model file is found beside the installed package `silero-vad`. The package itself is never imported, because it
would load torch, which decoding does not need. Frames go through the model in blocks of one length from the recording's
first sample on, so that probabilities do not depend on the pieces in which the audio arrives; the model's state is kept
between blocks. Each process loads one model and runs it on one thread: 10 CPU seconds per hour of audio on a busy Xeon
at 2.5 GHz.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16
from distil_ray.errors import SettingsError

FRAME = 512  # samples of one probability: 32 ms
CONTEXT = 64  # samples before a frame that are part of its input
BLOCK_FRAMES = 256  # frames per call: 8 s; more is not faster
TARGET_PEAK = 0.05  # of full scale; quieter blocks are amplified to it
MAX_GAIN = 16.0
MODEL_FILE = Path("data", "silero_vad_16k_sequence.onnx")
STATE_SHAPE = (1, 1, 128)  # of the hidden and of the cell state of the model's recurrent layer

Probabilities = NDArray[np.float32]


def find_silero_model() -> Path:
    """Returns the model file.

    Raises:
        SettingsError: A package is missing or too old; the message names the extra that installs it.
    """
    for package in ("onnxruntime", "silero_vad"):
        if importlib.util.find_spec(package) is None:
            raise SettingsError(_missing(f"the package {package.replace('_', '-')} is not installed"))
    spec = importlib.util.find_spec("silero_vad")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        if (path := Path(folder) / MODEL_FILE).exists():
            return path
    raise SettingsError(_missing(f"the installed silero-vad has no {MODEL_FILE}: it is older than 6.2.3"))


def _missing(found: str) -> str:
    return f"chunking.strategy=vad: {found}. Install the extra: pip install 'distil-ray[vad]'. Or take quiet"


class SileroVad:
    """Computes the speech probabilities of one recording while it streams in."""

    def __init__(self) -> None:
        self._session = _session()
        self._hidden = np.zeros(STATE_SHAPE, np.float32)
        self._cell = np.zeros(STATE_SHAPE, np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._waiting = np.zeros(0, np.int16)

    def push(self, pcm: PCM16) -> Probabilities:
        """Takes the next samples (int16, 16 kHz) and returns the probabilities of all frames of full blocks."""
        self._waiting = np.concatenate((self._waiting, pcm))
        block = BLOCK_FRAMES * FRAME
        probabilities = [
            self._run(self._waiting[at : at + block]) for at in range(0, len(self._waiting) - block + 1, block)
        ]
        self._waiting = self._waiting[len(probabilities) * block :]
        return np.concatenate(probabilities) if probabilities else np.zeros(0, np.float32)

    def finish(self) -> Probabilities:
        """Returns the probabilities of the remaining frames. The last frame is padded with silence."""
        rest = np.pad(self._waiting, (0, -len(self._waiting) % FRAME))
        self._waiting = self._waiting[:0]
        return self._run(rest) if len(rest) else np.zeros(0, np.float32)

    def _run(self, pcm: PCM16) -> Probabilities:
        samples = pcm.astype(np.float32) / 32768.0
        peak = float(np.abs(samples).max())
        if 0.0 < peak < TARGET_PEAK:  # the model misses half of speech at -50 dBFS, which Whisper recognizes well
            samples *= min(MAX_GAIN, TARGET_PEAK / peak)
        frames = samples.reshape(-1, FRAME)
        context = np.concatenate((self._context[None], frames[:-1, -CONTEXT:]))
        self._context = frames[-1, -CONTEXT:]
        inputs = np.concatenate((context, frames), axis=1)
        given = {"input": inputs, "h": self._hidden, "c": self._cell}
        speech, self._hidden, self._cell = self._session.run(("speech_probs", "hn", "cn"), given)
        return np.asarray(speech, np.float32).reshape(-1)


@lru_cache(maxsize=1)
def _session() -> Any:
    """Returns the loaded model, one for each process."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(find_silero_model()), options, providers=["CPUExecutionProvider"])
