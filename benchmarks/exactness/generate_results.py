"""Results of transformers itself for chunks and whole recordings: `generate`, greedy or with beams, and the pipeline.

This is the reference for the native recognizer, independent of this project's code: Hugging Face's model class, its own
rules and its own feature extractor, in float32. Results are cached on disk by a hash of the samples. With timestamps,
every chunk is one pass (`force_unique_generate_call`), and the native recognizer is compared without the further passes
over the audio after the last timestamp.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.exactness.result_cache import EncoderStateCache
from benchmarks.json_lines_cache import JsonLinesCache
from distil_ray.recognition.base import PCM16
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import Tokens

BATCH = 16  # chunks that transformers gets at once
DETECTED = ""  # stands for a language that is not given
FULL_SCALE = 32768.0  # of int16
GREEDY: dict[str, Any] = {"num_beams": 1, "do_sample": False}

Say = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class GenerateResult:
    """Result of `generate` for one chunk, without prompt and end token.

    Attributes:
        plain: Tokens without timestamps.
        timed: Tokens with timestamps.
        detected: Code of the detected language.
    """

    plain: tuple[int, ...]
    timed: tuple[int, ...]
    detected: str


class GenerateReference:
    """transformers with one local checkpoint; the model is loaded when it is first needed."""

    def __init__(self, folder: Path, identity: str, cache_dir: Path) -> None:
        versions = (transformers.__version__, torch.__version__)
        digest = hashlib.sha256(repr((identity, versions)).encode()).hexdigest()[:12]
        cache_dir = cache_dir / f"{folder.name}-{digest}"
        self.states = EncoderStateCache(cache_dir / "states")
        self._folder = folder
        self._tokens = Tokens.load(folder)
        self._chunks, self._recordings = (
            JsonLinesCache(cache_dir / "chunks.jsonl"),
            JsonLinesCache(cache_dir / "recordings.jsonl"),
        )
        self._long_forms = JsonLinesCache(cache_dir / "long_forms.jsonl")
        self._beams = JsonLinesCache(cache_dir / "beams.jsonl")
        self._loaded: _Loaded | None = None

    def transcribe(self, chunks: Sequence[PCM16], languages: Sequence[str], on_message: Say) -> list[GenerateResult]:
        """Returns the results for `chunks` (int16, 16 kHz mono, at most 30 s), from the cache where possible.

        Args:
            chunks: The chunks.
            languages: Language of each chunk, or `DETECTED`.
            on_message: Called with the number of newly computed chunks, after every batch.
        """
        keys = [f"{language}:{_digest(pcm)}" for pcm, language in zip(chunks, languages, strict=True)]
        for language, batch in _batches(keys, self._chunks, chunks, languages):
            heard = self._generate_both([chunks[i] for i in batch], language)
            for i, each in zip(batch, heard, strict=True):
                self._chunks.add(keys[i], asdict(each))
            on_message(len(batch))
        found = [self._chunks[key] for key in keys]
        return [GenerateResult(tuple(each["plain"]), tuple(each["timed"]), each["detected"]) for each in found]

    def generate_uncached(self, chunks: Sequence[PCM16], language: str) -> list[GenerateResult]:
        """Returns the results of `chunks`, computed without reading or writing the cache."""
        self._load().encoder.is_caching = False
        try:
            return self._generate_both(chunks, language)
        finally:
            self._load().encoder.is_caching = True

    def transcribe_beams(
        self, chunks: Sequence[PCM16], languages: Sequence[str], num_beams: int, timestamps: bool, on_message: Say
    ) -> list[tuple[int, ...]]:
        """Returns the tokens of a beam search, without prompt and end token, from the cache where possible."""
        kind = f"{num_beams}:{'times' if timestamps else 'text'}"
        keys = [f"{language}:{kind}:{_digest(pcm)}" for pcm, language in zip(chunks, languages, strict=True)]
        for language, batch in _batches(keys, self._beams, chunks, languages, max(1, BATCH // num_beams)):
            with torch.inference_mode():
                features = self._features([chunks[i] for i in batch])
                found = self._generate(features, language, timestamps, num_beams)
            for i, tokens in zip(batch, found, strict=True):
                self._beams.add(keys[i], tokens)
            on_message(len(batch))
        return [tuple(self._beams[key]) for key in keys]

    def texts(
        self, recordings: Sequence[PCM16], languages: Sequence[str], chunk_s: float, on_message: Say
    ) -> list[str]:
        """Returns the texts of the pipeline for whole recordings, in overlapping chunks of `chunk_s` seconds."""
        keys = [f"{language}:{chunk_s:g}:{_digest(pcm)}" for pcm, language in zip(recordings, languages, strict=True)]
        for language, batch in _batches(keys, self._recordings, recordings, languages):
            for i, text in zip(batch, self._pipeline([recordings[i] for i in batch], language, chunk_s), strict=True):
                self._recordings.add(keys[i], text)
            on_message(len(batch))
        return [self._recordings[key] for key in keys]

    def long_form(
        self, recordings: Sequence[PCM16], languages: Sequence[str], is_conditioned: bool, on_message: Say
    ) -> list[tuple[int, ...]]:
        """Returns the tokens of the long form for whole recordings, each by itself: those of all segments."""
        keys = [
            f"{language}:{is_conditioned}:{_digest(pcm)}" for pcm, language in zip(recordings, languages, strict=True)
        ]
        for key, pcm, language in zip(keys, recordings, languages, strict=True):
            if key not in self._long_forms:
                self._long_forms.add(key, self._generate_long(pcm, language, is_conditioned))
                on_message(1)
        return [tuple(self._long_forms[key]) for key in keys]

    @torch.inference_mode()
    def encode(self, chunk: PCM16) -> Tensor:
        """Returns transformers' encoder states of one chunk, not cached, shape (positions, d_model)."""
        return self._load().encoder.compute(self._features([chunk]))[0]

    @torch.inference_mode()
    def logits(self, chunk: PCM16, ids: Sequence[int]) -> Tensor:
        """Returns float32 logits before any rule, shape (vocabulary,), after `ids`, which begin with the prompt."""
        module = self._load().module
        logits = module(self._features([chunk]), decoder_input_ids=torch.tensor([list(ids)]), use_cache=False).logits
        return logits[0, -1]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def log_probability(self, chunk: PCM16, prompt: Sequence[int], text: Sequence[int]) -> float:
        """Returns the mean log-probability of the tokens of a text before any rule: the score of a beam search."""
        ids = torch.tensor([[*prompt, *text]])
        logits = self._load().module(self._features([chunk]), decoder_input_ids=ids, use_cache=False).logits[0]
        logprobs = logits[len(prompt) - 1 : -1].log_softmax(dim=-1).gather(1, torch.tensor(text)[:, None])
        return float(logprobs.mean())

    @torch.inference_mode()
    def _generate_both(self, chunks: Sequence[PCM16], language: str) -> list[GenerateResult]:
        features = self._features(chunks)
        plain, timed = (self._generate(features, language, timestamps) for timestamps in (False, True))
        detected = ["en"] * len(chunks)
        if self._tokens.is_multilingual:
            codes = {token: code for code, token in self._tokens.languages.items()}
            detected = [codes[token] for token in self._load().module.detect_language(features).tolist()]
        return [GenerateResult(*each) for each in zip(plain, timed, detected, strict=True)]

    def _generate(self, features: Tensor, language: str, timestamps: bool, num_beams: int = 1) -> list[tuple[int, ...]]:
        sequences = self._load().module.generate(
            features,
            **(GREEDY | {"num_beams": num_beams}),
            **self._spoken(language),
            return_timestamps=timestamps,
            force_unique_generate_call=True,
        )
        prompt = self._tokens.prompt(self._tokens.language_codes[0], timestamps=timestamps)
        rows = sequences[:, len(prompt) :].tolist()
        return [tuple(row[: row.index(self._tokens.eot)] if self._tokens.eot in row else row) for row in rows]

    @torch.inference_mode()
    def _generate_long(self, pcm: PCM16, language: str, is_conditioned: bool) -> list[int]:
        loaded = self._load()
        extracted: Any = loaded.extractor(
            _samples(pcm), sampling_rate=SAMPLE_RATE, return_tensors="pt", padding="longest", truncation=False
        )
        loaded.encoder.is_caching = False  # every window is encoded once
        try:
            generated = loaded.module.generate(
                extracted["input_features"],
                **GREEDY,
                **self._spoken(language),
                return_timestamps=True,
                return_segments=True,
                condition_on_prev_tokens=is_conditioned,
            )
        finally:
            loaded.encoder.is_caching = True
        return [token for segment in generated["segments"][0] for token in segment["tokens"].tolist()]

    def _pipeline(self, recordings: Sequence[PCM16], language: str, chunk_s: float) -> list[str]:
        loaded = self._load()
        asr: Any = transformers.pipeline(
            "automatic-speech-recognition",
            model=loaded.module,
            tokenizer=transformers.AutoTokenizer.from_pretrained(self._folder),
            feature_extractor=loaded.extractor,
            chunk_length_s=chunk_s,
            batch_size=BATCH,
        )
        heard = asr([_samples(pcm) for pcm in recordings], generate_kwargs=GREEDY | self._spoken(language))
        return [each["text"].strip() for each in heard]

    def _spoken(self, language: str) -> dict[str, str]:
        """Returns the language options of `generate`; English-only checkpoints accept none."""
        if not self._tokens.is_multilingual:
            return {}
        return {"task": "transcribe"} | ({} if language == DETECTED else {"language": language})

    def _features(self, chunks: Sequence[PCM16]) -> Tensor:
        samples = [_samples(chunk) for chunk in chunks]
        extracted: Any = self._load().extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt")
        return extracted["input_features"]  # type: ignore[no-any-return]

    def _load(self) -> "_Loaded":
        if self._loaded is None:
            self._loaded = _Loaded(self._folder, self.states)
        return self._loaded


class _Loaded:
    """The model in float32, with a caching encoder."""

    def __init__(self, folder: Path, states: EncoderStateCache) -> None:
        module: Any = transformers.WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )
        self.module = module
        self.module.generation_config.forced_decoder_ids = None  # the prompt comes from language and task
        self.module.generation_config.prev_sot_token_id = Tokens.load(folder).sot_prev
        self.extractor = transformers.WhisperFeatureExtractor.from_pretrained(folder)
        self.encoder = _Encoder(self.module.model.encoder.forward, states)
        self.module.model.encoder.forward = self.encoder


class _Encoder:
    """Replaces the forward method of transformers' encoder."""

    def __init__(self, forward: Callable[[Tensor], BaseModelOutput], states: EncoderStateCache) -> None:
        self._forward = forward
        self._recall = states.cached(self.compute)
        self.is_caching = True

    def compute(self, features: Tensor) -> Tensor:
        states = self._forward(features).last_hidden_state
        if states is None:
            raise RuntimeError("transformers' encoder gave no states")
        return states

    def __call__(self, input_features: Tensor, **_: Any) -> BaseModelOutput:
        encode = self._recall if self.is_caching else self.compute
        return BaseModelOutput(last_hidden_state=encode(input_features))


def _batches(
    keys: Sequence[str],
    known: JsonLinesCache,
    audio: Sequence[PCM16],
    languages: Sequence[str],
    size: int = BATCH,
) -> Iterator[tuple[str, list[int]]]:
    """Yields (language, indices) of missing results.

    Each once, one language per batch, similar lengths together, shortest first.
    """
    missing = [i for i in {key: i for i, key in enumerate(keys)}.values() if keys[i] not in known]
    missing.sort(key=lambda i: (languages[i], len(audio[i])))
    for language, group in groupby(missing, key=lambda i: languages[i]):
        places = list(group)
        for begin in range(0, len(places), size):
            yield language, places[begin : begin + size]


def _samples(pcm: PCM16) -> np.ndarray[Any, np.dtype[np.float32]]:
    return pcm.astype(np.float32) / FULL_SCALE


def _digest(pcm: PCM16) -> str:
    return hashlib.sha256(pcm.tobytes()).hexdigest()[:32]
