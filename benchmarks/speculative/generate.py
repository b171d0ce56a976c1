"""transformers' own assisted generation, one chunk at a time.

A student that shares the main model's encoder is loaded as a bare decoder, as transformers' documentation advises, so
that it uses the encoder states of the main model. CPU seconds are those of `generate` without the encoder; passes are
calls of the main decoder, the prefill included.
"""

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.modeling_outputs import BaseModelOutput

from distil_ray.audio.pcm import PCM16
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import Tokens

FULL_SCALE = 32768.0  # of int16


class AssistedGenerator:
    """A main model in float32 and its assistant, if any."""

    def __init__(self, folder: Path, assistant: Path | None, language: str, timestamps: bool) -> None:
        # Otherwise every call warns about the missing encoder of a bare decoder.
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        model.generation_config.forced_decoder_ids = None  # the prompt comes from language and task
        self._model = model
        self._extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
        tokens = Tokens.load(folder)
        spoken = {"language": language, "task": "transcribe"} if tokens.is_multilingual else {}
        self._options: dict[str, Any] = {
            **spoken,
            "num_beams": 1,
            "do_sample": False,
            "return_timestamps": timestamps,
            "force_unique_generate_call": True,  # the bare sequence, prompt and end token included
        }
        if assistant is not None:
            bare = transformers.WhisperForCausalLM.from_pretrained(assistant, dtype=torch.float32)
            self._options["assistant_model"] = bare
        self._begin = len(tokens.prompt(language, timestamps=timestamps))
        self._eot = tokens.eot
        self.cpu_s = 0.0
        self.passes = 0
        model.model.decoder.register_forward_hook(self._count)

    @torch.inference_mode()
    def transcribe(self, chunk: PCM16) -> list[int]:
        """Returns the tokens of a chunk of at most 30 s, without prompt and end token."""
        samples = chunk.astype("float32") / FULL_SCALE
        features = self._extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")["input_features"]
        states = BaseModelOutput(last_hidden_state=self._model.model.encoder(features).last_hidden_state)
        began = time.process_time()
        ids = self._model.generate(encoder_outputs=states, **self._options)[0].tolist()
        self.cpu_s += time.process_time() - began
        return [token for token in ids[self._begin :] if token != self._eot]

    def _count(self, *_: object) -> None:
        self.passes += 1
