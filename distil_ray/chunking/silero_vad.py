"""How likely each 32 ms of a recording are to be speech: Silero's VAD, as its package brings it, through onnxruntime.

The model's file is found beside the installed package `silero-vad`, which itself is never imported: it would load
torch, which decoding has no use for. Frames go through the model in blocks of one length from the recording's first
sample on, so that their probabilities do not depend on how the audio was portioned; between the blocks it keeps what
it remembers. One model a process, one thread; 10 CPU seconds an hour of audio on a busy Xeon at 2.5 GHz.
"""

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import PCM16
from distil_ray.errors import SettingsError

FRAME = 512  # samples: 32 ms, what the model judges at once
CONTEXT = 64  # samples before a frame that it hears too
BLOCK_FRAMES = 256  # 8 s; more is no faster
FAINT_PEAK = 0.05  # of full scale; blocks that stay below are raised to it
LARGEST_GAIN = 16.0
MODEL_FILE = Path("data", "silero_vad_16k_sequence.onnx")
MEMORY_SHAPE = (1, 1, 128)  # of the model's recurrent layer, twice

Probabilities = NDArray[np.float32]


def find_silero_model() -> Path:
    """The model's file. Raises `SettingsError`, which names the extra, where a package is missing or too old."""
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
    return f"chunking.strategy=vad: {found}. Install the extra: pip install 'distil-ray[vad]'. Or take quiet."


class SileroVad:
    """Judges one recording as it streams in; a new one is made for the next."""

    def __init__(self) -> None:
        self._session = _session()
        self._hidden = np.zeros(MEMORY_SHAPE, np.float32)
        self._cell = np.zeros(MEMORY_SHAPE, np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._waiting = np.zeros(0, np.int16)

    def push(self, pcm: PCM16) -> Probabilities:
        """Takes the next samples; gives the probabilities of the frames of all blocks that are full by now."""
        self._waiting = np.concatenate((self._waiting, pcm))
        block = BLOCK_FRAMES * FRAME
        judged = [self._judge(self._waiting[at : at + block]) for at in range(0, len(self._waiting) - block + 1, block)]
        self._waiting = self._waiting[len(judged) * block :]
        return np.concatenate(judged) if judged else np.zeros(0, np.float32)

    def finish(self) -> Probabilities:
        """The recording ended: those of the rest; its last frame is filled up with silence."""
        rest = np.pad(self._waiting, (0, -len(self._waiting) % FRAME))
        self._waiting = self._waiting[:0]
        return self._judge(rest) if len(rest) else np.zeros(0, np.float32)

    def _judge(self, pcm: PCM16) -> Probabilities:
        samples = pcm.astype(np.float32) / 32768.0
        peak = float(np.abs(samples).max())
        if 0.0 < peak < FAINT_PEAK:  # the model misses half of speech at -50 dBFS, which Whisper hears well
            samples *= min(LARGEST_GAIN, FAINT_PEAK / peak)
        frames = samples.reshape(-1, FRAME)
        context = np.concatenate((self._context[None], frames[:-1, -CONTEXT:]))
        self._context = frames[-1, -CONTEXT:]
        heard = np.concatenate((context, frames), axis=1)
        given = {"input": heard, "h": self._hidden, "c": self._cell}
        speech, self._hidden, self._cell = self._session.run(("speech_probs", "hn", "cn"), given)
        return np.asarray(speech, np.float32).reshape(-1)


@lru_cache(maxsize=1)
def _session() -> Any:
    """The loaded model, one a process."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(find_silero_model()), options, providers=["CPUExecutionProvider"])
