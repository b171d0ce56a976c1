"""The native recogniser: Hugging Face's weights and encoder layers, this project's own batched decoder loop.

In float32 and full windows it gives, token for token, what transformers' `generate` gives for the same features; in
16-bit numbers it agrees up to rounding. With `window="gated"` most chunks get a window of their own length, and the
doubtful ones a full one (gate.py). It knows neither recordings nor files; each chunk stands for itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from distil_ray.recognition import gate
from distil_ray.recognition.decoder import Decoder
from distil_ray.recognition.encoder import Encoder
from distil_ray.recognition.greedy import Decoded, GreedyLoop, Task
from distil_ray.recognition.quality import avg_logprob, compose_hypothesis
from distil_ray.recognition.recognizer import PCM16, Hypothesis, Languages, RecognizerOptions
from distil_ray.recognition.room import check_chunks, choose_slots, is_out_of_memory, release_memory
from distil_ray.recognition.rules import Rules
from distil_ray.whisper.features import HOP, MAX_FRAMES, SAMPLE_RATE, LogMel
from distil_ray.whisper.model import load_model
from distil_ray.whisper.tokens import Tokens

T = TypeVar("T")


class NativeRecognizer:
    """A `Recognizer` (recognizer.py) on our own decoder loop."""

    def __init__(self, folder: str | Path, options: RecognizerOptions) -> None:
        if options.window not in ("full", "gated"):
            raise ValueError(f"chunking.window={options.window}: must be full or gated")
        model = load_model(
            folder,
            device=options.device,
            dtype=options.dtype,
            attention=options.attention,
            threads=options.threads,
        )
        self._options = options
        self._tokens = Tokens.load(folder)
        self._encoder, self._decoder = Encoder(model.module), Decoder(model.module)
        config = model.module.config
        self._rules = Rules(self._tokens, config.vocab_size, options.timestamps == "segment", model.device)
        self._log_mel = LogMel(config.num_mel_bins, model.device)
        self._slots, slots_note = choose_slots(options.batch_size, self._decoder)
        self._loop: GreedyLoop | None = None
        self.device = model.device_name
        self.dtype = model.dtype_name
        self.languages = self._tokens.language_codes
        self.notes = (*model.notes, *([slots_note] if slots_note else []))

    def detect_languages(self, chunks: Sequence[PCM16]) -> Languages:
        """Softmax over the language tokens alone, after <|startoftranscript|>, as openai does; in full windows."""
        check_chunks(chunks)
        probs = np.ones((len(chunks), len(self.languages)), np.float32)
        if self._tokens.is_multilingual:
            ids = [self._tokens.languages[code] for code in self.languages]
            tasks = [Task(i, chunk, (self._tokens.sot,), MAX_FRAMES, 1) for i, chunk in enumerate(chunks)]
            for index, logits in self._complete(tasks, GreedyLoop.first_logits).items():
                probs[index] = logits[ids].softmax(dim=0).cpu().numpy()
        return Languages(self.languages, probs)

    def transcribe(self, chunks: Sequence[PCM16], languages: Sequence[str]) -> list[Hypothesis]:
        """One hypothesis per chunk, in order; see recognizer.py."""
        check_chunks(chunks)
        if len(languages) != len(chunks):
            raise ValueError(f"{len(chunks)} chunks, but {len(languages)} languages")
        is_gated = self._options.window == "gated"
        tasks = [self._task(i, chunk, languages[i], is_gated) for i, chunk in enumerate(chunks)]
        results = self._complete(tasks, GreedyLoop.run)
        again = [
            self._task(i, chunks[i], languages[i], is_gated=False)
            for i, task in enumerate(tasks)
            if task.num_frames < MAX_FRAMES and self._is_doubtful(results[i], len(chunks[i]))
        ]
        results |= self._complete(again, GreedyLoop.run)
        frames = [task.num_frames for task in tasks]
        for task in again:
            frames[task.index] = task.num_frames
        redone = {task.index for task in again}
        return [self._hypothesis(results[i], len(chunks[i]), frames[i], i in redone) for i in range(len(chunks))]

    def _task(self, index: int, pcm: PCM16, language: str, is_gated: bool) -> Task:
        prompt = self._tokens.prompt(language, self._options.task, self._options.timestamps == "segment")
        max_tokens = self._tokens.max_new_tokens(len(prompt), self._options.max_new_tokens)
        num_frames = gate.window_frames(len(pcm)) if is_gated else MAX_FRAMES
        if num_frames == MAX_FRAMES:
            return Task(index, pcm, prompt, num_frames, max_tokens)
        return Task(index, pcm, prompt, num_frames, min(max_tokens, gate.token_limit(len(pcm))), gate.repeats)

    def _is_doubtful(self, decoded: Decoded, num_samples: int) -> bool:
        text = self._tokens.decode(decoded.tokens)
        mean = avg_logprob(decoded.sum_logprob, len(decoded.tokens))
        return gate.is_doubtful(decoded.tokens, text, mean, decoded.ended, num_samples)

    def _hypothesis(self, decoded: Decoded, num_samples: int, num_frames: int, is_redone: bool) -> Hypothesis:
        hypothesis = compose_hypothesis(
            decoded.tokens,
            decoded.sum_logprob,
            decoded.no_speech_prob,
            num_samples,
            tokens=self._tokens,
            options=self._options,
            window_s=num_frames * HOP / SAMPLE_RATE,
        )
        signs = gate.signs(hypothesis.tokens, decoded.ended, is_redone)
        return replace(hypothesis, flags=hypothesis.flags + signs)

    def _complete(
        self, tasks: Sequence[Task], work: Callable[[GreedyLoop, Sequence[Task]], Iterator[tuple[int, T]]]
    ) -> dict[int, T]:
        """Results of `work` by the tasks' indices; where memory runs out, fewer slots go on with what is missing."""
        results: dict[int, T] = {}
        while rest := [task for task in tasks if task.index not in results]:
            try:
                for index, result in work(self._ready(), rest):
                    results[index] = result  # one by one: what is done stays done
            except (RuntimeError, MemoryError) as error:
                if self._slots == 1 or not is_out_of_memory(error):
                    raise
            else:
                break
            # Outside of the handler, whose traceback would keep the loop's tensors alive.
            self._loop = None
            self._slots //= 2
            self.notes += (f"out of memory: decoding.batch_size is {self._slots} from now",)
            release_memory(self._decoder.device)
        return results

    def _ready(self) -> GreedyLoop:
        """The loop, made at first use: its cache is held between calls."""
        if self._loop is None:
            self._loop = GreedyLoop(self._encoder, self._decoder, self._rules, self._log_mel, self._tokens, self._slots)
        return self._loop
