"""The native recognizer: Hugging Face's weights and encoder layers with this project's own batched decoding loop.

In float32 and full windows it gives, token for token, what transformers' `generate` gives for the same features; in
16-bit number types it agrees up to rounding. With `window="gated"` most chunks get a short window; those with a
doubtful result get the full one, and then possibly sampling (fallback.py). With an assistant, drafting makes it faster
and leaves the tokens unchanged (speculative.py). It knows neither recordings nor files; each chunk stands for itself.

`transcribe` turns chunks into `DecodingTask`s, runs them through a `DecodingLoop`, and decides after each result
whether the chunk needs a further task. `transcribe_sections` does the same for sections of any length, whose windows
follow each other (sequential.py): those of different sections share the batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distil_ray.recognition.base import PCM16, LanguageProbabilities, RecognizerOptions, TranscribedWindow
from distil_ray.recognition.capabilities import NATIVE
from distil_ray.recognition.native import fallback
from distil_ray.recognition.native.alignment import create_aligner
from distil_ray.recognition.native.chunk_decoding import ChunkDecoding, DecodingPass, check_chunks, may_end_early
from distil_ray.recognition.native.cuda_graphs import recorder_factory
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_task import (
    AlignmentLevel,
    DecodingResult,
    DecodingStats,
    DecodingTask,
    has_sampled,
)
from distil_ray.recognition.native.device import (
    choose_slots,
    keep_freed_memory,
    prepare_memory,
)
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.fallback import needs_higher_temperature, sampling_seed
from distil_ray.recognition.native.fast_methods import FastMethods
from distil_ray.recognition.native.float8 import create_layers
from distil_ray.recognition.native.group_encoding import create_side_stream
from distil_ray.recognition.native.huge_pages import HugePagePolicy
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.loop_pool import LoopPool
from distil_ray.recognition.native.scheduler import TaskQueue
from distil_ray.recognition.native.sequential import SectionDecoder
from distil_ray.recognition.native.slot_loop import LoopParts, SlotLoop
from distil_ray.recognition.native.speculative import Speculation, load_assistant
from distil_ray.recognition.native.word_timestamps import add_words, drop_hallucinations
from distil_ray.recognition.quality_flags import NO_SPEECH, REDECODED, has_repetition_loop
from distil_ray.recognition.quality_metrics import compose_hypothesis, with_flags, with_untranscribed_speech
from distil_ray.recognition.token_controls import load_tokens
from distil_ray.types import SAMPLE_RATE, Hypothesis, Prompt
from distil_ray.whisper.features import HOP, MAX_FRAMES, LogMel
from distil_ray.whisper.model import open_model
from distil_ray.whisper.tokenizer import Tokens

ENCODER_SHARE = 0.5  # of the time of a chunk on a CPU, for `NativeRecognizer.processed_s`
TOKENS_PER_S = 3.5  # of audio, typical of read and spontaneous English


@dataclass(slots=True)
class _ChunkState:
    """The language and the prompt of a chunk, its decoding so far, and its hypothesis once it is complete."""

    language: str
    previous: tuple[int, ...]  # ids of the previous text in its prompt
    decoding: ChunkDecoding
    is_redecoded: bool = False  # a short window was decoded again in the full one
    first: Hypothesis | None = None  # of the first pass alone
    hypothesis: Hypothesis | None = None


class NativeRecognizer:
    """A `Recognizer` (recognition/base.py) with a batched decoding loop.

    Weights, caches and recorded CUDA graphs are freed as soon as the last reference to a recognizer is dropped: nothing
    in it refers back to it.

    Attributes:
        stats: Totals of steps, tokens and drafts since creation.
    """

    capabilities = NATIVE.capabilities

    def __init__(self, folder: str | Path, options: RecognizerOptions, assistant: str | Path | None = None) -> None:
        """Loads the weights.

        Args:
            folder: Local model folder.
            options: How to load and to decode.
            assistant: Model folder of the assistant. Not loaded if `options.speculative` is "off".

        Raises:
            ValueError: Options that exclude each other, or an assistant that cannot draft for this checkpoint.
            RuntimeError: A device, number type or attention that this machine does not have.
        """
        if options.window not in ("full", "gated"):
            raise ValueError(f"chunking.window={options.window}: must be full or gated")
        assistant = None if options.speculative == "off" else assistant
        if assistant is not None and options.num_beams > 1:
            raise ValueError(f"decoding.num_beams={options.num_beams}: an assistant drafts for greedy decoding only")
        attention, attention_warning = _choose_attention(options)
        prepare_memory()
        model = open_model(
            folder, device=options.device, dtype=options.dtype, attention=attention, threads=options.threads
        )
        self._options = options
        self._tokens = load_tokens(folder, options)
        self._prefix = self._tokens.prefix(options.prefix, options.timestamps != "none")
        self._decodes_timestamps = options.timestamps != "none" or options.long_form
        self.stats = DecodingStats()
        # The loops and the speculation append to this list: a method of `self` would close a reference cycle.
        self._new_warnings: list[str] = []
        num_texts = max(options.num_beams, options.best_of)
        float8 = create_layers(model.device) if model.is_float8 else None
        self._encoder = Encoder(model.module, model.int8, float8)
        is_single = num_texts == 1 and assistant is None  # one query per row in each step
        self._decoder = Decoder(
            model.module, model.int8, float8=float8, reads_states=is_single, has_many_rows=not is_single
        )
        if options.window == "gated":
            self._encoder.add_silence_context()
            self._decoder.add_silence(self._encoder.silence)
        keep_freed_memory()
        parts, heads_warning = self._create_parts(model.module, model.device)
        self._speculation: Speculation | None = None
        assistant_warnings, bytes_per_slot = tuple[str, ...](), self._decoder.bytes_per_slot(num_texts)
        if assistant is not None:
            helper = load_assistant(assistant, folder, model, self._tokens, options)
            self._speculation = Speculation(helper, options.speculative == "auto", self._new_warnings.append)
            bytes_per_slot += helper.decoder.bytes_per_slot()
            assistant_warnings = helper.warnings
        slots, slots_warning = choose_slots(options.batch_size, model.device, bytes_per_slot)
        self._methods = FastMethods(
            self._decoder,
            self._encoder,
            recorder_factory(model.device),
            create_side_stream(model.device) if options.encode_ahead else None,
            float8,
            options.compile_encoder,
        )
        method_warnings = self._choose_methods(parts, slots)
        parts = replace(parts, side_stream=self._methods.side_stream)
        warn, new_recorder = self._new_warnings.append, self._methods.new_recorder
        self._loops = LoopPool(parts, options, slots, new_recorder, self._speculation, warn)
        self._huge_pages = HugePagePolicy(torch.get_num_threads()) if model.device.type == "cpu" else None
        self.device = model.device_name
        self.dtype = model.dtype_name if self._methods.has_float8 or not model.is_float8 else "bfloat16"
        self.languages = self._tokens.language_codes
        warnings = (
            *model.warnings,
            *assistant_warnings,
            attention_warning,
            *method_warnings,
            slots_warning,
            heads_warning,
        )
        self.warnings = tuple(warning for warning in warnings if warning)

    def _create_parts(self, module: Any, device: torch.device) -> tuple[LoopParts, str | None]:
        """Returns what the loops work with, and a warning if the times of words may be wrong."""
        options, tokens = self._options, self._tokens
        rules = LogitsRules(
            tokens,
            module.config.vocab_size,
            self._decodes_timestamps,
            device,
            repetition_penalty=options.repetition_penalty,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
        )
        has_words = options.timestamps == "word"
        aligner, warning = create_aligner(module, self._decoder, tokens.eot)
        parts = LoopParts(
            self._encoder,
            self._decoder,
            rules,
            LogMel(module.config.num_mel_bins, device),
            tokens,
            self.stats,
            aligner,
            partial(_required_alignment, has_words, tokens),
        )
        return parts, warning if has_words else None

    @property
    def processed_s(self) -> float:
        """Audio seconds processed since creation, estimated from the work of the encoder and the decoder."""
        encoded_s = self.stats.encoded_s
        return ENCODER_SHARE * encoded_s + (1 - ENCODER_SHARE) * min(encoded_s, self.stats.row_tokens / TOKENS_PER_S)

    def detect_languages(self, chunks: Sequence[PCM16]) -> LanguageProbabilities:
        """Returns the softmax over the language tokens alone, after `<|startoftranscript|>`, as openai does."""
        check_chunks(chunks)
        probs = np.ones((len(chunks), len(self.languages)), np.float32)
        if self._tokens.is_multilingual:
            ids = [self._tokens.languages[code] for code in self.languages]
            tasks = [
                DecodingTask(i, chunk, (self._tokens.sot,), self._window_frames(chunk), max_tokens=1)
                for i, chunk in enumerate(chunks)
            ]

            def detect(loop: SlotLoop) -> None:
                for index, logits in loop.first_logits([task for task in tasks if task.index not in found]):
                    found[index] = logits[ids].softmax(dim=0).cpu().numpy()

            found: dict[int, NDArray[np.float32]] = {}
            self._run(detect)
            for index, row in found.items():
                probs[index] = row
        return LanguageProbabilities(self.languages, probs)

    def transcribe(
        self,
        chunks: Sequence[PCM16],
        languages: Sequence[str],
        needed: Sequence[int] | None = None,
        prompts: Sequence[Prompt | None] | None = None,
    ) -> list[Hypothesis]:
        """Returns one hypothesis per chunk, in order; see `Recognizer.transcribe`."""
        check_chunks(chunks)
        if len(languages) != len(chunks):
            raise ValueError(f"{len(chunks)} chunks, but {len(languages)} languages")
        needed = [len(chunk) for chunk in chunks] if needed is None else needed
        continues = self._decodes_timestamps
        previous_texts = [
            self._tokens.previous_text(prompt, len(self._prefix)) for prompt in prompts or [None] * len(chunks)
        ]
        states = [
            _ChunkState(language, previous, ChunkDecoding(chunk, samples, self._tokens, continues))
            for chunk, language, samples, previous in zip(chunks, languages, needed, previous_texts, strict=True)
        ]
        tasks = [self._task(index, state) for index, state in enumerate(states)]
        self._decode(tasks, lambda task, decoded: self._next_task(states[task.index], task, decoded))
        return [_complete_hypothesis(state) for state in states]

    def transcribe_sections(
        self, sections: Sequence[PCM16], languages: Sequence[str], prompts: Sequence[Prompt | None] | None = None
    ) -> list[list[TranscribedWindow]]:
        """Returns the windows of each section; see `LongFormRecognizer.transcribe_sections`."""
        decoder = SectionDecoder(self._tokens, self._options)
        decodings = decoder.start(sections, languages, prompts)

        def next_task(task: DecodingTask, decoded: DecodingResult) -> DecodingTask | None:
            hypothesis = self._compose_pass(decoded, task)
            warmer = self._at_higher_temperature(task, hypothesis)
            return warmer or decoder.next_task(decodings[task.index], task, decoded, hypothesis)

        self._decode([decoder.task(index, decoding) for index, decoding in enumerate(decodings)], next_task)
        return [decoding.windows for decoding in decodings]

    def _decode(
        self,
        tasks: Sequence[DecodingTask],
        next_task: Callable[[DecodingTask, DecodingResult], DecodingTask | None],
    ) -> None:
        """Decodes tasks of different chunks or sections, and those that follow them.

        `next_task` takes a task and its result, and returns the task that its chunk or section needs next, if any.
        """

        def after_task(task: DecodingTask, decoded: DecodingResult) -> DecodingTask | None:
            if self._huge_pages is not None:
                self._huge_pages.after_chunk()
            return next_task(task, decoded)

        pending = list(tasks)
        while pending:
            # Sampled tasks run apart from greedy ones, for which an assistant may draft.
            greedy = [task for task in pending if not has_sampled([task])]
            now, pending = (greedy, [task for task in pending if has_sampled([task])]) if greedy else (pending, [])
            self._run(partial(_run_tasks, TaskQueue(now), after_task, pending), is_sampled=not greedy)

    def _run(self, work: Callable[[SlotLoop], None], is_sampled: bool = False) -> None:
        """Calls `work` with a loop (`LoopPool.run`), and takes over what the loops warn of."""
        try:
            self._loops.run(work, is_sampled)
        finally:
            self.warnings += tuple(self._new_warnings)
            self._new_warnings.clear()

    def _next_task(self, state: _ChunkState, task: DecodingTask, decoded: DecodingResult) -> DecodingTask | None:
        """Returns the task that a chunk needs after `decoded`, or None once its text is complete."""
        hypothesis = self._compose_pass(decoded, task)
        if self._needs_full_window(task, decoded, hypothesis):
            state.is_redecoded = True
            return self._in_full_window(task)
        if (warmer := self._at_higher_temperature(task, hypothesis)) is not None:
            return warmer
        state.first = state.first or hypothesis
        is_silent = NO_SPEECH in hypothesis.quality_flags
        num_written, flags = len(hypothesis.tokens), hypothesis.quality_flags
        single = DecodingPass(
            task.start, decoded, task.num_frames, task.temperature, is_silent, num_written=num_written, flags=flags
        )
        start = state.decoding.add(single)
        if start is None:
            state.hypothesis = self._compose_chunk(state)
            return None
        return self._task(task.index, state, start)

    def _at_higher_temperature(self, task: DecodingTask, hypothesis: Hypothesis) -> DecodingTask | None:
        """Returns the task at its next temperature, or None if its text passes or the temperatures end."""
        higher = [each for each in self._options.temperatures if each > task.temperature]
        return self._in_full_window(task, higher[0]) if higher and self._needs_higher_temperature(hypothesis) else None

    def _window_frames(self, pcm: PCM16) -> int:
        return fallback.window_frames(len(pcm)) if self._options.window == "gated" else MAX_FRAMES

    def _task(self, index: int, state: _ChunkState, start: int = 0) -> DecodingTask:
        """Returns the task for a chunk from sample `start` on."""
        pcm = state.decoding.pcm[start:]
        start_ids = self._tokens.prompt(state.language, self._options.task, self._decodes_timestamps)
        prefix = self._prefix if start == 0 else ()
        prompt = (*state.previous, *start_ids, *prefix)
        num_frames = self._window_frames(pcm)
        num_previous = len(state.previous)
        task = DecodingTask(
            index,
            pcm,
            prompt,
            num_frames,
            self._max_tokens(prompt),
            start=start,
            num_previous=num_previous,
            num_begun=len(prefix) if self._options.timestamps != "none" else 0,
        )
        if num_frames == MAX_FRAMES:
            return task
        return replace(
            task,
            max_tokens=min(task.max_tokens, fallback.max_expected_tokens(len(pcm))),
            is_repetitive=lambda tokens: has_repetition_loop(self._tokens.text_ids(tokens)),
        )

    def _in_full_window(self, task: DecodingTask, temperature: float = 0.0) -> DecodingTask:
        """Returns the same task in the full window, at `temperature`."""
        return replace(
            task,
            num_frames=MAX_FRAMES,
            max_tokens=self._max_tokens(task.prompt),
            is_repetitive=None,
            temperature=temperature,
            seed=sampling_seed(task.pcm, temperature),
        )

    def _max_tokens(self, prompt: Sequence[int]) -> int:
        return self._tokens.max_new_tokens(len(prompt), self._options.max_new_tokens)

    def _needs_full_window(self, task: DecodingTask, decoded: DecodingResult, hypothesis: Hypothesis) -> bool:
        if task.num_frames == MAX_FRAMES or NO_SPEECH in hypothesis.quality_flags:  # the full window agrees on silence
            return False
        assert hypothesis.avg_logprob is not None  # of a Whisper
        words = self._tokens.text_ids(decoded.tokens)
        return fallback.needs_full_window(words, hypothesis.text, hypothesis.avg_logprob, decoded.ended, len(task.pcm))

    def _needs_higher_temperature(self, hypothesis: Hypothesis) -> bool:
        ratio, logprob, no_speech_prob = (
            hypothesis.compression_ratio,
            hypothesis.avg_logprob,
            hypothesis.no_speech_prob,
        )
        assert ratio is not None and logprob is not None and no_speech_prob is not None  # of a Whisper
        return needs_higher_temperature(ratio, logprob, no_speech_prob, self._options)

    def _compose_pass(self, decoded: DecodingResult, task: DecodingTask) -> Hypothesis:
        """Returns the hypothesis of one pass alone."""
        return compose_hypothesis(
            decoded,
            len(task.pcm),
            tokens=self._tokens,
            options=self._options,
            window_s=task.num_frames * HOP / SAMPLE_RATE,
            temperature=task.temperature,
        )

    def _compose_chunk(self, state: _ChunkState) -> Hypothesis:
        """Returns the hypothesis of a chunk that is decoded to its end."""
        decoded, passes = state.decoding.result(), state.decoding.passes
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
            hypothesis = with_flags(hypothesis, state.decoding.cut_flags())
        if self._options.timestamps == "word":
            text_language = "en" if self._options.task == "translate" else state.language
            pcm, threshold_s = state.decoding.pcm, self._options.hallucination_silence_threshold_s
            hypothesis = add_words(hypothesis, decoded.alignment, text_language, self._tokens, pcm)
            if threshold_s is not None:
                hypothesis = drop_hallucinations(hypothesis, text_language, self._tokens, pcm, threshold_s)
        hypothesis = with_untranscribed_speech(hypothesis, state.decoding.unheard_s())
        return (
            replace(hypothesis, quality_flags=(*hypothesis.quality_flags, REDECODED))
            if state.is_redecoded
            else hypothesis
        )

    def _choose_methods(self, parts: LoopParts, slots: int) -> tuple[str | None, ...]:
        """Uses the fast methods: those that pass the self-check, or all of them. Returns messages about them."""
        methods, messages = self._methods, tuple[str, ...]()
        if self._options.self_check:
            messages = methods.check(parts, self._window_frames, slots)
        else:
            methods.use_all()
        assistant = None if self._speculation is None else self._speculation.assistant
        if assistant is not None and not self._decoder.reads_by_length:
            assistant.decoder.single_query_attention = None
        return (*(messages or (self._decoder.warning,)), methods.compile_message)


def _run_tasks(
    queue: TaskQueue,
    next_task: Callable[[DecodingTask, DecodingResult], DecodingTask | None],
    later: list[DecodingTask],
    loop: SlotLoop,
) -> None:
    """Decodes the tasks in `queue`.

    A task that `next_task` returns joins the queue where the queue accepts it, and else is appended to `later`.
    """
    queue.restart()
    for index, decoded in loop.run(queue):
        following = next_task(queue.finish(index), decoded)
        if following is None:
            continue
        if queue.accepts(following):
            queue.add(following)
        else:
            later.append(following)


def _complete_hypothesis(state: _ChunkState) -> Hypothesis:
    if state.hypothesis is None:
        raise RuntimeError("internal error (bug): the decoding loop ended without the result of a chunk")
    return state.hypothesis


def _choose_attention(options: RecognizerOptions) -> tuple[str, str | None]:
    """Returns the attention to load a model with, and a message where short windows decided it.

    Raises:
        ValueError: `options.attention` does not work with short windows.
    """
    if options.window == "full" or options.attention == "sdpa":
        return options.attention, None
    if options.attention == "auto":
        return (
            "sdpa",
            "model.attention=auto: sdpa, which chunking.window=gated needs for the silence behind short windows",
        )
    raise ValueError(
        f"model.attention={options.attention} does not work with chunking.window=gated: "
        "set model.attention=sdpa or chunking.window=full"
    )


def _required_alignment(has_words: bool, tokens: Tokens, task: DecodingTask, decoded: DecodingResult) -> AlignmentLevel:
    """Returns how much of a text is aligned.

    Every token is aligned for word timestamps, and in a further pass over a chunk, which may repeat the last word of
    the pass before it. The timestamps of a window of a section are enough to continue.
    """
    if has_words or (task.start > 0 and task.section is None):
        return AlignmentLevel.TOKENS
    if task.section is not None:
        return AlignmentLevel.NONE
    return AlignmentLevel.END if may_end_early(decoded, len(task.pcm), tokens) else AlignmentLevel.NONE
