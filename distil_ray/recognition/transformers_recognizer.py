"""Reference recognizer: `generate` of transformers, greedy or with beams, in batches sorted by length.

It is as simple as possible, because the native recognizer is tested against it token for token. Each chunk is encoded
as 30 s, and a batch takes as long as its longest row. With timestamps, the rest of a chunk after its last complete
segment is decoded again, as in transformers' long-form decoding (native/chunk_decoding.py). Log-probabilities are
recorded while `generate` runs, one number per row and step; its own scores would be 51,865 floats for each.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList, WhisperFeatureExtractor

from distil_ray.recognition.base import PCM16, LanguageProbabilities, RecognizerOptions, TranscribedWindow
from distil_ray.recognition.capabilities import TRANSFORMERS
from distil_ray.recognition.native.alignment import choose_alignment_heads, last_position, num_audio_positions
from distil_ray.recognition.native.chunk_decoding import ChunkDecoding, DecodingPass, check_chunks, may_end_early
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import is_out_of_memory
from distil_ray.recognition.native.sequential import check_sections
from distil_ray.recognition.native.word_timestamps import add_words
from distil_ray.recognition.quality_flags import NO_SPEECH
from distil_ray.recognition.quality_metrics import compose_hypothesis, with_flags, with_untranscribed_speech
from distil_ray.recognition.token_controls import load_tokens
from distil_ray.recognition.transformers_long_form import generate_windows
from distil_ray.types import SAMPLE_RATE, Hypothesis, Prompt, TokenAlignment
from distil_ray.whisper.features import HOP, MAX_FRAMES, MAX_SAMPLES, SAMPLES_PER_POSITION
from distil_ray.whisper.model import EIGHT_BITS, load_model, resolve_device, resolve_dtype
from distil_ray.whisper.tokenizer import Tokens

CPU_BATCH_SIZE = 16  # chunks; larger batches are not faster because of cache misses (measured with whisper-base)
MAX_GPU_BATCH_SIZE = 256  # chunks
FULL_SCALE = 32768.0  # of int16

T = TypeVar("T")


class _Condition(NamedTuple):
    """The start of the decoder's input, which all rows of a batch share."""

    language: str
    previous: tuple[int, ...]  # ids of the previous text


class TransformersRecognizer:
    """A `Recognizer` that calls `WhisperForConditionalGeneration.generate`."""

    capabilities = TRANSFORMERS.capabilities

    def __init__(self, folder: str | Path, options: RecognizerOptions) -> None:
        if options.window != "full":
            raise ValueError(f"chunking.window={options.window} is not supported by model.recognizer=transformers")
        if options.temperatures != (0.0,):
            raise ValueError(
                f"decoding.temperatures={list(options.temperatures)} is not supported by model.recognizer=transformers;"
                " set [0.0]"
            )
        if options.long_form and options.num_beams > 1:
            raise ValueError(
                f"decoding.num_beams={options.num_beams} is not supported by model.recognizer=transformers with"
                " chunking.strategy=sequential; set 1"
            )
        if options.dtype in EIGHT_BITS:
            raise ValueError(f"model.dtype={options.dtype} is not supported by model.recognizer=transformers")
        attention, attention_reason = _attention_for_generate(options)
        self._model = load_model(
            folder, device=options.device, dtype=options.dtype, attention=attention, threads=options.threads
        )
        self._options = options
        self._tokens = load_tokens(folder, options)
        self._tokens.prompt(self._tokens.language_codes[0], options.task)  # raises for an unsupported task
        self._extractor = WhisperFeatureExtractor.from_pretrained(folder)
        _complete_generation_config(self._model.module.generation_config, self._tokens)
        _set_controls(self._model.module.generation_config, self._tokens, options)
        self._batch_size, batch_reason = _choose_batch_size(options, self._model.module, self._model.device)
        heads_warning = _complete_alignment_heads(self._model.module) if options.timestamps != "none" else None
        self.device = self._model.device_name
        self.dtype = self._model.dtype_name
        self.languages = self._tokens.language_codes
        self.warnings = (
            *self._model.warnings,
            *(reason for reason in (attention_reason, batch_reason, heads_warning) if reason),
        )

    def detect_languages(self, chunks: Sequence[PCM16]) -> LanguageProbabilities:
        """Runs one decoder step after <|startoftranscript|>, with softmax over the language tokens only."""
        check_chunks(chunks)
        if not self._tokens.is_multilingual:
            return LanguageProbabilities(("en",), np.ones((len(chunks), 1), np.float32))
        rows = self._in_batches(range(len(chunks)), lambda batch: self._language_rows([chunks[i] for i in batch]))
        probs = np.stack(rows) if rows else np.zeros((0, len(self.languages)), np.float32)
        return LanguageProbabilities(self.languages, probs)

    def transcribe(
        self,
        chunks: Sequence[PCM16],
        languages: Sequence[str],
        needed: Sequence[int] | None = None,
        prompts: Sequence[Prompt | None] | None = None,
    ) -> list[Hypothesis]:
        """Returns one hypothesis per chunk, in order. Chunks of one language and prompt share batches, longest
        first.
        """
        check_chunks(chunks)
        if len(languages) != len(chunks):
            raise ValueError(f"{len(chunks)} chunks, but {len(languages)} languages")
        for language in set(languages):
            self._tokens.require_language(language)
        needed = [len(chunk) for chunk in chunks] if needed is None else needed
        continues = self._options.timestamps != "none"
        decodings = [
            ChunkDecoding(chunk, samples, self._tokens, continues)
            for chunk, samples in zip(chunks, needed, strict=True)
        ]
        previous_texts = [self._tokens.previous_text(prompt) for prompt in prompts or [None] * len(chunks)]
        conditions = [_Condition(*each) for each in zip(languages, previous_texts, strict=True)]
        starts = dict.fromkeys(range(len(chunks)), 0)
        while starts:
            starts = self._next_starts(decodings, conditions, starts)
        return [self._compose(decoding, languages[i]) for i, decoding in enumerate(decodings)]

    def transcribe_sections(
        self, sections: Sequence[PCM16], languages: Sequence[str], prompts: Sequence[Prompt | None] | None = None
    ) -> list[list[TranscribedWindow]]:
        """Returns the windows of each section, one section after the other, by the long form of `generate`."""
        check_sections(sections)
        for language in set(languages):
            self._tokens.require_language(language)
        return [
            generate_windows(
                self._model.module,
                self._features([pcm], padding="longest", truncation=False),
                pcm,
                language,
                self._tokens.previous_text(prompt),
                self._tokens,
                self._options,
            )
            for pcm, language, prompt in zip(sections, languages, prompts or [None] * len(sections), strict=True)
        ]

    def _next_starts(
        self, decodings: Sequence[ChunkDecoding], conditions: Sequence[_Condition], starts: Mapping[int, int]
    ) -> dict[int, int]:
        """Decodes chunks from the samples in `starts`; returns the start of the next pass of those that need one."""
        following: dict[int, int] = {}
        order = sorted(starts, key=lambda i: (conditions[i], starts[i] - len(decodings[i].pcm)))
        for condition, group in groupby(order, key=conditions.__getitem__):
            rows = list(group)

            def decode(batch: Sequence[int], condition: _Condition = condition) -> list[DecodingResult]:
                chunks = [decodings[i].pcm[starts[i] :] for i in batch]
                return self._decode(chunks, condition, is_aligned=self._options.timestamps == "word")

            for i, decoded in zip(rows, self._in_batches(rows, decode), strict=True):
                start = decodings[i].add(self._pass(decodings[i].pcm[starts[i] :], starts[i], decoded, condition))
                if start is not None:
                    following[i] = start
        return following

    def _pass(self, chunk: PCM16, start: int, decoded: DecodingResult, condition: _Condition) -> DecodingPass:
        """Makes the pass that starts at sample `start` of a chunk, with the times that determine the next pass."""
        read = self._read(decoded, len(chunk))
        is_silent, num_written = NO_SPEECH in read.quality_flags, len(read.tokens)
        if self._options.timestamps == "segment" and start > 0:
            (decoded,) = self._decode([chunk], condition, is_aligned=True)
        if self._options.timestamps != "none" and may_end_early(decoded, len(chunk), self._tokens):
            decoded = replace(decoded, last_position=self._last_position(chunk, decoded.tokens, condition))
        return DecodingPass(
            start, decoded, MAX_FRAMES, is_silent=is_silent, num_written=num_written, flags=read.quality_flags
        )

    def _last_position(self, chunk: PCM16, ids: Sequence[int], condition: _Condition) -> int:
        """Returns the encoder position that the cross-attention of the last words points to."""
        prompt = self._prompt(condition)
        written = torch.tensor([[*prompt, *ids]], device=self._model.device)
        module: Any = self._model.module
        with torch.inference_mode():
            attentions = module(
                self._features([chunk]), decoder_input_ids=written, output_attentions=True, use_cache=False
            ).cross_attentions
        weights = torch.stack([attentions[layer][0, head] for layer, head in module.generation_config.alignment_heads])
        own = weights.float()[:, len(prompt) :, : num_audio_positions(len(chunk))]
        return int(last_position(own, ids, self._tokens.eot, module.config.median_filter_width))

    def _read(self, decoded: DecodingResult, num_samples: int) -> Hypothesis:
        return compose_hypothesis(decoded, num_samples, tokens=self._tokens, options=self._options)

    def _compose(self, decoding: ChunkDecoding, language: str) -> Hypothesis:
        """Makes the hypothesis of a chunk that is decoded completely."""
        decoded = decoding.result()
        written = "en" if self._options.task == "translate" else language
        hypothesis = with_flags(self._read(decoded, len(decoding.pcm)), decoding.cut_flags())
        if self._options.timestamps == "word":
            hypothesis = add_words(hypothesis, decoded.alignment, written, self._tokens, decoding.pcm)
        return with_untranscribed_speech(hypothesis, decoding.unheard_s())

    def _prompt(self, condition: _Condition) -> tuple[int, ...]:
        """Returns the ids that the decoder starts with."""
        timestamps = self._options.timestamps != "none"
        return (*condition.previous, *self._tokens.prompt(condition.language, self._options.task, timestamps))

    def _decode(self, chunks: Sequence[PCM16], condition: _Condition, is_aligned: bool = False) -> list[DecodingResult]:
        """Decodes a batch of one condition. With `is_aligned` it has one chunk, and token times are returned."""
        options, tokens = self._options, self._tokens
        prompt, num_previous = self._prompt(condition), len(condition.previous)
        module = self._model.module
        # generate adds the length of the prompt, but at most half of the positions, to the limit of new tokens.
        uncounted = max(0, len(prompt) - (tokens.max_positions // 2 - 1))
        module.generation_config.max_length = (options.max_new_tokens or tokens.max_length) + uncounted
        is_multilingual = tokens.is_multilingual  # generate rejects language and task for English-only checkpoints
        num_beams = options.num_beams
        chosen, first = _ChosenLogProbs(num_beams), _FirstLogits(num_previous)
        hook = module.proj_out.register_forward_hook(first)
        try:
            with torch.inference_mode():
                generated = module.generate(
                    self._features(chunks),
                    num_beams=num_beams,
                    do_sample=False,
                    return_timestamps=options.timestamps != "none",
                    prompt_ids=torch.tensor(condition.previous, device=self._model.device) if num_previous else None,
                    language=f"<|{condition.language}|>" if is_multilingual else None,
                    task=options.task if is_multilingual else None,
                    logits_processor=LogitsProcessorList([chosen]),
                    force_unique_generate_call=True,
                    **self._beam_arguments(),
                    **(self._alignment_arguments(chunks) if is_aligned else {}),
                )
        finally:
            hook.remove()
        no_speech = first.probabilities()[::num_beams, tokens.no_speech].tolist()
        sequences, ends = _sequences_and_ends(generated, len(prompt))
        logprobs = chosen.of_beams(sequences, generated["beam_indices"]) if num_beams > 1 else chosen.of_best_tokens()
        results = []
        for row, ids in enumerate(sequences.tolist()):
            ended = tokens.eot in ids
            length = ids.index(tokens.eot) if ended else len(ids)
            alignment = None
            if ends is not None:
                alignment = TokenAlignment(ends[row][:length], tuple(math.exp(step) for step in logprobs[row][:length]))
            sum_logprob = sum(logprobs[row][: length + 1])
            results.append(DecodingResult(tuple(ids[:length]), sum_logprob, no_speech[row], ended, alignment=alignment))
        return results

    def _beam_arguments(self) -> dict[str, Any]:
        """Returns the arguments of `generate` for beam search, none without beams. The output has `beam_indices`."""
        if self._options.num_beams == 1:
            return {}
        penalty = self._options.length_penalty
        return {"length_penalty": penalty, "early_stopping": False, "return_dict_in_generate": True}

    def _alignment_arguments(self, chunks: Sequence[PCM16]) -> dict[str, Any]:
        """Returns the arguments of `generate` for token times; the mask marks the end of each chunk's audio."""
        lengths = torch.tensor([len(chunk) for chunk in chunks])
        mask = torch.arange(0, MAX_SAMPLES, HOP) < lengths[:, None]
        return {"return_token_timestamps": True, "attention_mask": mask.long().to(self._model.device)}

    def _language_rows(self, chunks: Sequence[PCM16]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        ids = [self._tokens.languages[code] for code in self.languages]
        start = torch.full((len(chunks), 1), self._tokens.sot, device=self._model.device)
        with torch.inference_mode():
            logits = self._model.module(self._features(chunks), decoder_input_ids=start, use_cache=False).logits
        return list(logits[:, 0, ids].float().softmax(dim=-1).cpu().numpy())

    def _features(self, chunks: Sequence[PCM16], **padding: Any) -> torch.Tensor:
        """Returns log-mel features, shape (num_chunks, num_mel_bins, 3000 without `padding`).

        Each row has its own floor. `padding` are arguments of the feature extractor.
        """
        features = self._extractor(
            [chunk.astype(np.float32) / FULL_SCALE for chunk in chunks],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
            device=str(self._model.device),
            **padding,
        )["input_features"]
        return cast(torch.Tensor, features).to(self._model.device, self._model.dtype)

    def _in_batches(self, rows: Sequence[int], work: Callable[[Sequence[int]], list[T]]) -> list[T]:
        """Calls `work` on slices of `rows`. If memory runs out, the batch size is halved permanently."""
        results: list[T] = []
        while len(results) < len(rows):
            batch = rows[len(results) : len(results) + self._batch_size]
            try:
                results += work(batch)
                continue
            except (RuntimeError, MemoryError) as error:
                if len(batch) == 1 or not is_out_of_memory(error):
                    raise
            # Outside the handler, because its traceback keeps the batch's tensors alive.
            self._batch_size = len(batch) // 2
            self.warnings += (
                f"out of memory at {len(batch)} chunks: decoding.batch_size is {self._batch_size} from now",
            )
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()
        return results


def _sequences_and_ends(generated: Any, prompt_length: int) -> tuple[torch.Tensor, list[tuple[int, ...]] | None]:
    """Returns the ids after the prompt, shape (num_rows, num_tokens), and their ends in encoder positions, if given."""
    if isinstance(generated, torch.Tensor):
        return generated[:, prompt_length:], None
    if "token_timestamps" not in generated:
        return generated["sequences"][:, prompt_length:], None
    times_s = generated["token_timestamps"][:, prompt_length:].tolist()
    ends = [tuple(round(time_s * SAMPLE_RATE / SAMPLES_PER_POSITION) for time_s in row) for row in times_s]
    return generated["sequences"][:, prompt_length:], ends


class _ChosenLogProbs(LogitsProcessor):
    """The last logits processor: records the log-probabilities of the tokens that each row may be continued by."""

    def __init__(self, num_beams: int) -> None:
        self._num_best = 1 if num_beams == 1 else 2 * num_beams  # of a row that may be chosen
        # One of shape (num_rows, num_best) for each step, and (num_rows, 1).
        self._scores: list[torch.Tensor] = []
        self._tokens: list[torch.Tensor] = []
        self._normalizers: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns `scores` unchanged: float32, shape (num_rows, vocab_size), suppressed tokens at minus infinity.

        With beams they are log-probabilities before the rules.
        """
        best, tokens = scores.topk(self._num_best, dim=-1)
        self._scores.append(best)
        self._tokens.append(tokens)
        self._normalizers.append(scores.logsumexp(dim=-1, keepdim=True))
        return scores

    def of_best_tokens(self) -> list[list[float]]:
        """Returns the log-probabilities of the best token of each row, which greedy search takes, in each step."""
        steps = zip(self._scores, self._normalizers, strict=True)
        return torch.stack([(best[:, :1] - sums)[:, 0] for best, sums in steps], dim=1).tolist()

    def of_beams(self, sequences: torch.Tensor, rows: torch.Tensor) -> list[list[float]]:
        """Returns the log-probability of each token of texts after the rules, zeros behind their ends.

        Args:
            sequences: Tokens, shape (num_texts, num_tokens).
            rows: `beam_indices` of generate: the row that each token was chosen in, -1 behind the end of a text.
        """
        num_texts, num_tokens = sequences.shape[0], rows.shape[1]
        found = torch.zeros(num_texts, num_tokens)
        for step in range(num_tokens):
            for text in range(num_texts):
                row, token = int(rows[text, step]), int(sequences[text, step])
                if row >= 0:
                    (place,) = torch.nonzero(self._tokens[step][row] == token, as_tuple=True)
                    found[text, step] = self._scores[step][row, place[0]] - self._normalizers[step][row, 0]
        return found.tolist()


class _FirstLogits:
    """A forward hook on the vocabulary projection: keeps the logits at one token of the prompt, before any rule."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._logits: torch.Tensor | None = None

    def __call__(self, module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        if self._logits is None:
            self._logits = output[:, self._index].clone()

    def probabilities(self) -> torch.Tensor:
        """Returns the probabilities: float32, shape (num_rows, vocab_size)."""
        if self._logits is None:
            raise RuntimeError("generate did not project its prompt")
        return self._logits.float().softmax(dim=-1)


def _attention_for_generate(options: RecognizerOptions) -> tuple[str, str | None]:
    """Returns the attention implementation, and the reason if it is not the one that was set.

    It is eager attention in bfloat16 on a CPU, where SDPA with one query row is ten times slower in each step, and with
    timestamps, where `generate` switches to eager attention in its first call.
    """
    if options.timestamps != "none":
        return "eager", f"model.attention: eager, because decoding.timestamps={options.timestamps} reads its weights"
    device = resolve_device(options.device)
    dtype, _ = resolve_dtype(options.dtype, device)
    if options.attention == "auto" and device.type == "cpu" and dtype == torch.bfloat16:
        return "eager", "model.attention=auto: eager, because SDPA is slow for decoding in bfloat16 on CPUs"
    return options.attention, None


def _complete_generation_config(config: Any, tokens: Tokens) -> None:
    """Completes the generation configs of older checkpoints, and removes settings that conflict with the prompt."""
    config.is_multilingual = tokens.is_multilingual
    config.no_timestamps_token_id = tokens.no_timestamps
    config.forced_decoder_ids = None  # the prompt follows from language and task
    config.max_new_tokens = None  # generate warns if max_length is set too
    config.prev_sot_token_id = tokens.sot_prev
    if tokens.is_multilingual:
        config.lang_to_id = {f"<|{code}|>": token for code, token in tokens.languages.items()}
        config.task_to_id = {"transcribe": tokens.transcribe, "translate": tokens.translate}


def _set_controls(config: Any, tokens: Tokens, options: RecognizerOptions) -> None:
    """Sets what a user may control of the logits processors."""
    config.suppress_tokens = list(tokens.suppress)
    config.max_initial_timestamp_index = tokens.max_initial_timestamp
    config.repetition_penalty = options.repetition_penalty
    config.no_repeat_ngram_size = options.no_repeat_ngram_size


def _complete_alignment_heads(module: Any) -> str | None:
    """Sets default alignment heads if the checkpoint has no usable ones; returns a warning then."""
    config, generation = module.config, module.generation_config
    named = getattr(generation, "alignment_heads", None)
    heads, warning = choose_alignment_heads(named, config.decoder_layers, config.decoder_attention_heads)
    generation.alignment_heads = [list(head) for head in heads]
    return warning


def _choose_batch_size(options: RecognizerOptions, module: Any, device: torch.device) -> tuple[int, str | None]:
    """Returns the batch size: as set, else by the memory of a GPU that the weights leave free; and the reason."""
    if options.timestamps == "word":
        return 1, "decoding.batch_size: 1, because word timestamps of transformers depend on the rest of the batch"
    if options.batch_size is not None:
        return options.batch_size, None
    if device.type == "cpu":
        return max(1, CPU_BATCH_SIZE // options.num_beams), None
    config = module.config
    number_bytes = module.dtype.itemsize
    positions = config.max_source_positions + config.max_target_positions
    caches = 2 * config.decoder_layers * positions * config.d_model * number_bytes  # keys and values
    encoder = 2 * config.max_source_positions * (6 * config.d_model + config.encoder_ffn_dim) * number_bytes
    logits = 4 * 4 * config.vocab_size  # float32, and three copies in the logits processors
    free_bytes, _ = torch.cuda.mem_get_info(device)
    fitting = int(0.6 * free_bytes / (caches + encoder + logits))
    size = max(1, min(fitting, MAX_GPU_BATCH_SIZE) // options.num_beams)  # the rows of all beams
    return size, f"decoding.batch_size=auto: {size}, by {free_bytes / 2**30:.1f} GiB of free GPU memory"
