"""Encoder states and target distributions of the main model, from audio and tokens.

Encoder and windows are those of a run (`recognition/native/encoder.py`, `fallback.py`), so that the student learns from
the states that it will draft from, including the subsampled silence. The main model's decoder processes the known
tokens in one pass, all positions at once, under its logits rules; the largest probabilities are kept. Their agreement
with the tokens shows whether the tokens are the main model's own.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_loop import SPEECH_MARGIN_POSITIONS
from distil_ray.recognition.native.encoder import Encoder, silence_log_weight, subsample_silence
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.features import FRAMES_PER_POSITION, HOP, SAMPLES_PER_POSITION, LogMel
from distil_ray.whisper.model import LoadedModel, load_model
from distil_ray.whisper.tokenizer import Tokens

TOP_K = 32  # probabilities that are kept of each position; they usually sum to 0.99
CPU_BATCH_SIZE, GPU_BATCH_SIZE = 4, 32  # chunks per forward pass
MIN_CHUNK_AGREEMENT = 0.5  # with the main model's predictions; a chunk with less is left out: its audio has changed


@dataclass(frozen=True, slots=True)
class Example:
    """A chunk as a training example: n tokens, followed by an end token.

    Attributes:
        states: Encoder states, float16, shape (positions, d_model): those of the window, then subsampled silence.
        window_positions: Number of states that belong to the window.
        silence_bias: Added to the attention scores of the other states.
        prompt: Ids before the tokens.
        tokens: The main model's tokens.
        top_ids: Most probable ids after the prompt and after each token, int32, shape (n + 1, TOP_K).
        top_probs: Their probabilities according to the main model, float16, same shape.
    """

    states: NDArray[np.float16]
    window_positions: int
    silence_bias: float
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    top_ids: NDArray[np.int32]
    top_probs: NDArray[np.float16]

    @property
    def audio_s(self) -> float:
        """Returns the length of the window, in seconds."""
        return self.window_positions * SAMPLES_PER_POSITION / SAMPLE_RATE


@dataclass(slots=True)
class Agreement:
    """Counts the tokens of transcripts that the main model predicts again."""

    tokens: int = 0
    same: int = 0
    chunks_left_out: int = 0

    def add(self, tokens: int, same: int) -> bool:
        """Counts a chunk of which `same` of `tokens` agree; returns whether it is used as an example."""
        self.tokens += tokens
        self.same += same
        is_used = same >= MIN_CHUNK_AGREEMENT * tokens
        self.chunks_left_out += not is_used
        return is_used

    @property
    def share(self) -> float:
        return self.same / self.tokens if self.tokens else 0.0


class Teacher:
    """The main model as the teacher of a training."""

    def __init__(self, folder: Path, options: RecognizerOptions, threads: int) -> None:
        """Loads the main model.

        Args:
            folder: Model folder.
            options: Options of the run's recognizer.
            threads: CPU threads of this process.
        """
        attention = "sdpa" if options.attention == "auto" else options.attention
        self.folder, self.options, self.threads = folder, options, threads
        self.model: LoadedModel = load_model(
            folder, device=options.device, dtype=options.dtype, attention=attention, threads=threads
        )
        self.tokens = Tokens.load(folder)
        self.encoder = Encoder(self.model.module, self.model.int8)
        if options.window == "gated":
            self.encoder.add_silence_context()
        self.decoder = Decoder(self.model.module, self.model.int8)
        self.agreement = Agreement()
        self._task = options.task
        config = self.model.module.config
        self._log_mel = LogMel(config.num_mel_bins, self.model.device)
        self._rows = CPU_BATCH_SIZE if self.model.device.type == "cpu" else GPU_BATCH_SIZE
        self._cache: KVCache = self.decoder.new_cache(self._rows)
        device = self.model.device
        self._rules = {times: LogitsRules(self.tokens, config.vocab_size, times, device) for times in (False, True)}

    def rules(self, with_timestamps: bool) -> LogitsRules:
        """Returns the logits rules of decoding with or without timestamp tokens."""
        return self._rules[with_timestamps]

    def has_timestamps(self, prompt: Sequence[int]) -> bool:
        """Returns whether a text with this prompt has timestamp tokens."""
        return prompt[-1] != self.tokens.no_timestamps

    @torch.inference_mode()
    def make_examples(self, audio_rows: Sequence[dict[str, Any]]) -> Iterator[Example]:
        """Yields an example for each row of `AUDIO_SCHEMA` (`audio.py`), except for chunks that do not agree."""
        by_length: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for audio_row in audio_rows:
            by_length[round(audio_row["window_s"] * SAMPLE_RATE / HOP)].append(audio_row)
        for num_frames, same_length in sorted(by_length.items()):
            for begin in range(0, len(same_length), self._rows):
                yield from self._make_batch_examples(same_length[begin : begin + self._rows], num_frames)

    def _make_batch_examples(self, audio_rows: Sequence[dict[str, Any]], num_frames: int) -> Iterator[Example]:
        window_positions = num_frames // FRAMES_PER_POSITION
        pcm = [np.frombuffer(audio_row["pcm"], np.int16) for audio_row in audio_rows]
        slots = torch.arange(len(audio_rows), device=self.model.device)
        states = self.encoder(self._log_mel(pcm, num_frames))
        self._cache.lay_out([states.shape[1]] * len(slots))
        self.decoder.write_windows(states, self._cache, slots, window_positions)
        prompts = [self._prompt(audio_row) for audio_row in audio_rows]
        by_prompt: dict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(prompts):
            by_prompt[len(prompt)].append(row)
        for rows in by_prompt.values():
            logits = self._logits(
                [prompts[row] + tuple(audio_rows[row]["tokens"]) for row in rows], slots[rows], states
            )
            for row, row_logits in zip(rows, logits, strict=True):
                audio_positions = min(
                    window_positions, -(-len(pcm[row]) // SAMPLES_PER_POSITION) + SPEECH_MARGIN_POSITIONS
                )
                example = self._example(
                    states[row : row + 1],
                    window_positions,
                    audio_positions,
                    prompts[row],
                    audio_rows[row]["tokens"],
                    row_logits,
                )
                if example is not None:
                    yield example

    def _prompt(self, audio_row: dict[str, Any]) -> tuple[int, ...]:
        with_timestamps = self.tokens.is_timestamp(audio_row["tokens"][0])
        return self.tokens.prompt(audio_row["language"] or "en", self._task, with_timestamps)

    def _logits(self, texts: Sequence[tuple[int, ...]], slots: Tensor, states: Tensor) -> Tensor:
        """Returns the logits after each token, float32, shape (rows, longest text, vocabulary)."""
        ids = torch.full((len(texts), max(map(len, texts))), self.tokens.eot, device=self.model.device)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
        return self.decoder.logits(self.decoder.prefill(ids, self._cache, slots, states.shape[1]))

    def _example(
        self,
        states: Tensor,
        window_positions: int,
        audio_positions: int,
        prompt: tuple[int, ...],
        tokens: Sequence[int],
        logits: Tensor,
    ) -> Example | None:
        subsampled, num_kept = subsample_silence(states, window_positions, audio_positions)
        num_silent = subsampled.shape[1] - num_kept
        positions = self.decoder.max_encoder_positions
        text = torch.tensor(tokens, device=logits.device)
        text_logits = logits[len(prompt) - 1 : len(prompt) + len(tokens)]
        best = self.rules(self.has_timestamps(prompt)).apply_to_text(text_logits, text).softmax(dim=-1).topk(TOP_K)
        if not self.agreement.add(len(tokens), int((best.indices[:-1, 0] == text).sum())):
            return None
        return Example(
            states=subsampled[0].to(torch.float16).cpu().numpy(),
            window_positions=num_kept,
            silence_bias=silence_log_weight(num_kept, num_silent, positions) if num_silent else 0.0,
            prompt=prompt,
            tokens=tuple(tokens),
            top_ids=best.indices.to(torch.int32).cpu().numpy(),
            top_probs=best.values.to(torch.float16).cpu().numpy(),
        )
