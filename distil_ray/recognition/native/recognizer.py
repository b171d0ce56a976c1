"""The native recognizer: Hugging Face's weights and encoder layers, this project's own batched decoder loop.

In float32 and full windows it gives, token for token, what transformers' `generate` gives for the same features; in
16-bit numbers it agrees up to rounding. With `window="gated"` most chunks get a window of their own length, and the
doubtful ones a full one (gate.py); what is doubtful there too may be sampled (fallback.py). An assistant may draft for
it (drafting.py): the tokens stay the same. It knows neither recordings nor files; each chunk stands for itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.base import PCM16, Hypothesis, LanguageProbabilities, RecognizerOptions
from distil_ray.recognition.capabilities import NATIVE
from distil_ray.recognition.native import fallback
from distil_ray.recognition.native.alignment import Aligner, choose_alignment_heads
from distil_ray.recognition.native.chunk_decoding import ChunkDecoding, DecodingPass, may_end_early
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_loop import DecodingLoop
from distil_ray.recognition.native.decoding_task import (
    AlignmentLevel,
    DecodingResult,
    DecodingStats,
    DecodingTask,
    has_sampled,
)
from distil_ray.recognition.native.device import (
    check_chunks,
    choose_slots,
    is_out_of_memory,
    keep_freed_memory,
    release_memory,
)
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.fallback import needs_higher_temperature, sampling_seed
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.scheduler import TaskQueue
from distil_ray.recognition.native.speculative import Speculation, load_assistant
from distil_ray.recognition.native.word_timestamps import add_words
from distil_ray.recognition.quality_flags import NO_SPEECH, REDECODED, has_repetition_loop
from distil_ray.recognition.quality_metrics import compose_hypothesis, with_untranscribed_speech
from distil_ray.whisper.features import HOP, MAX_FRAMES, SAMPLE_RATE, LogMel
from distil_ray.whisper.model import load_model
from distil_ray.whisper.tokenizer import Tokens


@dataclass(slots=True)
class _Chunk:
    """A chunk with its language, what has been decoded of it, and its hypothesis once that is whole."""

    language: str
    decoding: ChunkDecoding
    is_redecoded: bool = False  # some of it was doubtful in its short window
    first: Hypothesis | None = None  # what the first pass says by itself
    hypothesis: Hypothesis | None = None


class NativeRecognizer:
    """A `Recognizer` (recognizer.py) on our own decoder loop."""

    capabilities = NATIVE.capabilities

    def __init__(self, folder: str | Path, options: RecognizerOptions, assistant: str | Path | None = None) -> None:
        """`assistant`: the model folder of what drafts, unless `options.speculative` is off."""
        if options.window not in ("full", "gated"):
            raise ValueError(f"chunking.window={options.window}: must be full or gated")
        attention, attention_note = _attention(options)
        model = load_model(
            folder,
            device=options.device,
            dtype=options.dtype,
            attention=attention,
            threads=options.threads,
        )
        keep_freed_memory()
        self._options = options
        self._tokens = Tokens.load(folder)
        self._encoder, self._decoder = Encoder(model.module, model.is_int8), Decoder(model.module, model.is_int8)
        if options.window == "gated":
            self._encoder.add_silence()
        config = model.module.config
        self._rules = LogitsRules(self._tokens, config.vocab_size, options.timestamps != "none", model.device)
        self._log_mel = LogMel(config.num_mel_bins, model.device)
        self.counts = DecodingStats()
        self._speculation: Speculation | None = None
        assistant_notes: tuple[str, ...] = ()
        bytes_per_slot = self._decoder.bytes_per_slot()
        if assistant is not None and options.speculative != "off":
            helper = load_assistant(assistant, folder, model, self._tokens, options)
            self._speculation = Speculation(helper, options.speculative == "auto", self._note)
            bytes_per_slot += helper.decoder.bytes_per_slot()
            assistant_notes = helper.warnings
        self._slots, slots_note = choose_slots(options.batch_size, model.device, bytes_per_slot)
        self._loop: DecodingLoop | None = None
        self._aligner, heads_note = _aligner(model.module, self._decoder, self._tokens.eot)
        heads_note = heads_note if options.timestamps == "word" else None
        self.device = model.device_name
        self.dtype = model.dtype_name
        self.languages = self._tokens.language_codes
        warnings = (
            *model.warnings,
            *assistant_notes,
            attention_note,
            self._decoder.note,
            slots_note,
            heads_note if options.timestamps == "word" else None,
        )
        self.warnings = tuple(note for note in warnings if note)

    def detect_languages(self, chunks: Sequence[PCM16]) -> LanguageProbabilities:
        """Softmax over the language tokens alone, after <|startoftranscript|>, as openai does."""
        check_chunks(chunks)
        probs = np.ones((len(chunks), len(self.languages)), np.float32)
        if self._tokens.is_multilingual:
            ids = [self._tokens.languages[code] for code in self.languages]
            tasks = [
                DecodingTask(i, chunk, (self._tokens.sot,), self._window_frames(chunk), max_tokens=1)
                for i, chunk in enumerate(chunks)
            ]

            def keep(loop: DecodingLoop) -> None:
                for index, logits in loop.first_logits([task for task in tasks if task.index not in found]):
                    found[index] = logits[ids].softmax(dim=0).cpu().numpy()

            found: dict[int, NDArray[np.float32]] = {}
            self._with_enough_memory(keep)
            for index, row in found.items():
                probs[index] = row
        return LanguageProbabilities(self.languages, probs)

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        """One hypothesis per chunk, in order; see recognizer.py."""
        check_chunks(chunks)
        if len(languages) != len(chunks):
            raise ValueError(f"{len(chunks)} chunks, but {len(languages)} languages")
        needed = [len(chunk) for chunk in chunks] if needed is None else needed
        continues = self._options.timestamps != "none"
        states = [
            _Chunk(language, ChunkDecoding(chunk, samples, self._tokens, continues))
            for chunk, language, samples in zip(chunks, languages, needed, strict=True)
        ]
        waiting = [self._task(index, chunk, languages[index]) for index, chunk in enumerate(chunks)]
        while waiting:
            # Sampled tasks are apart from the others, which an assistant may draft for.
            greedy = [task for task in waiting if not has_sampled([task])]
            now, waiting = (greedy, [task for task in waiting if has_sampled([task])]) if greedy else (waiting, [])
            self._with_enough_memory(partial(self._run, TaskQueue(now), states, waiting))
        return [_finished(state) for state in states]

    def _run(self, queue: TaskQueue, states: Sequence[_Chunk], later: list[DecodingTask], loop: DecodingLoop) -> None:
        """Decodes a queue and what follows from it: in the same run, or `later` where that has no room for it."""
        queue.restart()
        for index, decoded in loop.run(queue):
            task = queue.finish(index)
            following = self._following(states[index], task, decoded)
            if following is None:
                states[index].hypothesis = self._compose(states[index])
            elif queue.accepts(following):
                queue.add(following)
            else:
                later.append(following)

    def _following(self, state: _Chunk, task: DecodingTask, decoded: DecodingResult) -> DecodingTask | None:
        """What has to be decoded next of a chunk, after `decoded`; None: its text is whole."""
        said = self._read(decoded, task)
        if self._is_doubtful(task, decoded, said):
            state.is_redecoded = True
            return self._in_full(task)
        higher = [each for each in self._options.temperatures if each > task.temperature]
        if higher and self._needs_fallback(said):
            return self._in_full(task, higher[0])
        state.first = state.first or said
        single = DecodingPass(task.start, decoded, task.num_frames, task.temperature, NO_SPEECH in said.quality_flags)
        start = state.decoding.add(single)
        if start is None:
            return None
        return replace(self._task(task.index, state.decoding.pcm[start:], state.language), start=start)

    def _window_frames(self, pcm: PCM16) -> int:
        return fallback.window_frames(len(pcm)) if self._options.window == "gated" else MAX_FRAMES

    def _task(self, index: int, pcm: PCM16, language: str) -> DecodingTask:
        prompt = self._tokens.prompt(language, self._options.task, self._options.timestamps != "none")
        num_frames = self._window_frames(pcm)
        task = DecodingTask(index, pcm, prompt, num_frames, self._max_tokens(prompt))
        if num_frames == MAX_FRAMES:
            return task
        return replace(
            task, max_tokens=min(task.max_tokens, fallback.max_expected_tokens(len(pcm))), repeats=has_repetition_loop
        )

    def _in_full(self, task: DecodingTask, temperature: float = 0.0) -> DecodingTask:
        """The task once more, in the full window."""
        return replace(
            task,
            num_frames=MAX_FRAMES,
            max_tokens=self._max_tokens(task.prompt),
            repeats=None,
            temperature=temperature,
            seed=sampling_seed(task.pcm, temperature),
        )

    def _max_tokens(self, prompt: Sequence[int]) -> int:
        return self._tokens.max_new_tokens(len(prompt), self._options.max_new_tokens)

    def _is_doubtful(self, task: DecodingTask, decoded: DecodingResult, said: Hypothesis) -> bool:
        if task.num_frames == MAX_FRAMES or NO_SPEECH in said.quality_flags:  # the full window says so too
            return False
        return fallback.needs_full_window(decoded.tokens, said.text, said.avg_logprob, decoded.ended, len(task.pcm))

    def _needs_fallback(self, said: Hypothesis) -> bool:
        return needs_higher_temperature(said.compression_ratio, said.avg_logprob, said.no_speech_prob, self._options)

    def _read(self, decoded: DecodingResult, task: DecodingTask) -> Hypothesis:
        """What one pass says by itself."""
        return compose_hypothesis(
            decoded,
            len(task.pcm),
            tokens=self._tokens,
            options=self._options,
            window_s=task.num_frames * HOP / SAMPLE_RATE,
            temperature=task.temperature,
        )

    def _compose(self, state: _Chunk) -> Hypothesis:
        """The hypothesis of a chunk that has been decoded to its end."""
        decoded, passes = state.decoding.decoded(), state.decoding.passes
        hypothesis = state.first
        if hypothesis is None or len(passes) > 1:
            hypothesis = compose_hypothesis(
                decoded,
                len(state.decoding.pcm),
                tokens=self._tokens,
                options=self._options,
                window_s=passes[0].num_frames * HOP / SAMPLE_RATE,
                temperature=max(each.temperature for each in passes),
            )
        if self._options.timestamps == "word":
            written = "en" if self._options.task == "translate" else state.language
            hypothesis = add_words(hypothesis, decoded.alignment, written, self._tokens, state.decoding.pcm)
        hypothesis = with_untranscribed_speech(hypothesis, state.decoding.unheard_s())
        return (
            replace(hypothesis, quality_flags=(*hypothesis.quality_flags, REDECODED))
            if state.is_redecoded
            else hypothesis
        )

    def _times_of(self, task: DecodingTask, decoded: DecodingResult) -> AlignmentLevel:
        """Which times are needed: of all tokens for words, and of a rest, which may repeat the last word before it."""
        if self._options.timestamps == "word" or task.start > 0:
            return AlignmentLevel.TOKENS
        return AlignmentLevel.END if may_end_early(decoded, len(task.pcm), self._tokens) else AlignmentLevel.NONE

    def _with_enough_memory(self, work: Callable[[DecodingLoop], None]) -> None:
        """Calls `work`; where memory runs out, again with fewer slots: it goes on with what is missing then."""
        while True:
            try:
                return work(self._ready())
            except (RuntimeError, MemoryError) as error:
                if self._slots == 1 or not is_out_of_memory(error):
                    raise
            # Outside of the handler, whose traceback would keep the loop's tensors alive.
            self._loop = None
            self._slots //= 2
            self._note(f"out of memory: decoding.batch_size is {self._slots} from now")
            release_memory(self._decoder.device)

    def _ready(self) -> DecodingLoop:
        """The loop, made at first use: its cache is held between calls."""
        if self._loop is None:
            self._loop = DecodingLoop(
                self._encoder,
                self._decoder,
                self._rules,
                self._log_mel,
                self._tokens,
                slots=self._slots,
                counts=self.counts,
                note=self._note,
                aligner=self._aligner,
                times_of=self._times_of,
                speculation=self._speculation,
            )
        return self._loop

    def _note(self, note: str) -> None:
        self.warnings += (note,)


def _finished(state: _Chunk) -> Hypothesis:
    if state.hypothesis is None:
        raise RuntimeError("the decoder loop ended without a chunk's result (a bug)")
    return state.hypothesis


def _attention(options: RecognizerOptions) -> tuple[str, str | None]:
    """The attention to load a model with, and a note where the windows decided."""
    if options.window == "full" or options.attention == "sdpa":
        return options.attention, None
    if options.attention == "auto":
        return "sdpa", "model.attention=auto: sdpa, as silence behind short windows (chunking.window=gated) needs it"
    raise ValueError(f"model.attention={options.attention} does not go with chunking.window=gated; take sdpa, or full")


def _aligner(module: Any, decoder: Decoder, eot: int) -> tuple[Aligner, str | None]:
    """What finds the tokens' times, and a note where the checkpoint does not say which heads tell them."""
    config = module.config
    named = getattr(module.generation_config, "alignment_heads", None)
    heads, note = choose_alignment_heads(named, config.decoder_layers, config.decoder_attention_heads)
    return Aligner(decoder, heads, config.median_filter_width, eot), note
