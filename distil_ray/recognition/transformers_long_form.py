"""Long-form `generate` of transformers: the reference for sequential decoding of sections.

`generate` takes a whole section and decides itself where each window begins. It returns segments. What else a window's
hypothesis needs is recorded while it runs: where each window begins, the log-probabilities of its tokens, and its
probability of no speech. With a threshold for no speech `generate` keeps the scores of every token, 0.2 MB each, until
it returns.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from distil_ray.recognition.base import PCM16, RecognizerOptions, TranscribedWindow
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.sequential import WindowReading, WindowSegment, keep_reading
from distil_ray.recognition.native.word_timestamps import add_words
from distil_ray.recognition.quality_metrics import compose_hypothesis
from distil_ray.types import SAMPLE_RATE, TokenAlignment
from distil_ray.whisper.features import FRAMES_PER_POSITION, HOP, MAX_FRAMES, SAMPLES_PER_POSITION, num_audio_frames
from distil_ray.whisper.tokenizer import Tokens

_FRAMES_PER_S = SAMPLE_RATE // HOP


def generate_windows(
    module: Any,
    features: torch.Tensor,
    pcm: PCM16,
    language: str,
    previous: Sequence[int],
    tokens: Tokens,
    options: RecognizerOptions,
) -> list[TranscribedWindow]:
    """Returns the windows of one section.

    Args:
        module: `WhisperForConditionalGeneration`.
        features: Of the whole section, shape (1, num_mel_bins, num_frames), on the device of the model.
        pcm: The section, int16, shape (num_samples,).
        language: Code of the language.
        previous: Ids of the previous text of the first window; without conditioning, of every window.
        tokens: Of the checkpoint.
        options: How to decode.
    """
    start_ids = tokens.prompt(language, options.task, timestamps=True)
    arguments = _generate_arguments(features, language, previous, len(start_ids), tokens, options)
    module.generation_config.max_length = None if "max_new_tokens" in arguments else tokens.max_length
    recorder = _WindowRecorder(len(start_ids), tokens)
    hook = module.proj_out.register_forward_hook(recorder.see_logits)
    try:
        with torch.inference_mode():
            generated = module.generate(
                features,
                num_beams=1,
                do_sample=False,
                return_timestamps=True,
                return_segments=True,
                condition_on_prev_tokens=options.condition_on_previous_text,
                logits_processor=LogitsProcessorList([recorder]),
                monitor_progress=recorder.begin_window,
                **arguments,
            )
    finally:
        hook.remove()
    ends = [*(window.start for window in recorder.windows[1:]), num_audio_frames(len(pcm))]
    found = []
    for window, end in zip(recorder.windows, ends, strict=True):
        own = [each for each in generated["segments"][0] if window.start <= _to_frames(each["start"]) < end]
        found.append(_transcribed_window(window, end, own, pcm, language, tokens, options))
    return found


def _generate_arguments(
    features: torch.Tensor,
    language: str,
    previous: Sequence[int],
    num_start_ids: int,
    tokens: Tokens,
    options: RecognizerOptions,
) -> dict[str, Any]:
    """Returns the arguments of `generate` that depend on the checkpoint, the section and the options."""
    arguments: dict[str, Any] = {}
    if tokens.is_multilingual:
        arguments |= {"language": f"<|{language}|>", "task": options.task}
    if previous:
        arguments["prompt_ids"] = torch.tensor(previous, device=features.device)
    if options.no_speech_threshold is not None:
        arguments["no_speech_threshold"] = options.no_speech_threshold
        arguments["logprob_threshold"] = options.logprob_threshold
        arguments["temperature"] = 0.0
    if options.max_new_tokens is not None:  # generate requires that they fit behind the longest prompt
        longest_prompt = tokens.max_positions // 2 + num_start_ids
        arguments["max_new_tokens"] = min(options.max_new_tokens, tokens.max_positions - longest_prompt)
    if options.timestamps == "word":
        arguments["return_token_timestamps"] = True
        arguments["attention_mask"] = torch.ones(1, features.shape[2], dtype=torch.long, device=features.device)
    return arguments


def _transcribed_window(
    window: "_Window",
    end: int,
    segments: Sequence[Mapping[str, Any]],
    pcm: PCM16,
    language: str,
    tokens: Tokens,
    options: RecognizerOptions,
) -> TranscribedWindow:
    """Returns a window with its hypothesis; `segments` of `generate` begin in it, `end` is the frame behind it."""
    num_frames = num_audio_frames(len(pcm))
    frames = min(MAX_FRAMES, num_frames - window.start)
    audio = pcm[window.start * HOP : (window.start + frames) * HOP]
    hypothesis = compose_hypothesis(window.result(tokens.eot), len(audio), tokens=tokens, options=options)
    reading = WindowReading(tuple(_segment(each, window.start) for each in segments), end - window.start)
    hypothesis = keep_reading(hypothesis, reading, tokens, frames, options.timestamps != "none")
    if options.timestamps == "word":
        written = "en" if options.task == "translate" else language
        num_samples = min((end - window.start) * HOP, len(audio))
        hypothesis = add_words(hypothesis, _alignment(segments, window), written, tokens, audio, num_samples)
    until = len(pcm) if end >= num_frames else end * HOP
    return TranscribedWindow(window.start * HOP, until - window.start * HOP, hypothesis)


class _Window:
    """Records of one window."""

    def __init__(self, start: int) -> None:
        self.start = start  # first frame in the section
        self.no_speech_prob: float | None = None
        self._chosen: list[torch.Tensor] = []  # of shape (), one per step
        self._logprobs: list[torch.Tensor] = []

    def add_step(self, scores: torch.Tensor) -> None:
        """Takes the scores of a step after all rules, shape (vocabulary,). Greedy search takes the largest one."""
        best, token = scores.max(dim=-1)
        self._chosen.append(token)
        self._logprobs.append(best - scores.logsumexp(dim=-1))

    def probabilities(self) -> list[float]:
        """Returns the probability of each token, the end token included."""
        return [math.exp(each) for each in torch.stack(self._logprobs).tolist()]

    def result(self, eot: int) -> DecodingResult:
        """Returns the tokens and their scores."""
        ids: list[int] = torch.stack(self._chosen).tolist()
        ended = ids[-1] == eot
        logprobs = torch.stack(self._logprobs).tolist()
        return DecodingResult(tuple(ids[: len(ids) - ended]), sum(logprobs), self.no_speech_prob or 0.0, ended)


class _WindowRecorder(LogitsProcessor):
    """The last logits processor, a forward hook on the vocabulary projection, and the monitor of `generate`."""

    def __init__(self, num_start_ids: int, tokens: Tokens) -> None:
        self.windows: list[_Window] = []
        self._num_start_ids = num_start_ids  # `<|startoftranscript|>` and what follows it in the prompt
        self._no_speech = tokens.no_speech

    def begin_window(self, progress: torch.Tensor) -> None:
        """Takes the first frame of the next window and the number of frames, shape (1, 2)."""
        self.windows.append(_Window(int(progress[0, 0])))

    def see_logits(self, module: torch.nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
        """Takes logits, shape (1, tokens, vocabulary). The first ones of a window are those of its prompt."""
        window = self.windows[-1]
        if window.no_speech_prob is None:
            probabilities = output[0, -self._num_start_ids].float().softmax(dim=-1)
            window.no_speech_prob = float(probabilities[self._no_speech])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Returns `scores` unchanged: float32, shape (1, vocabulary), suppressed tokens at minus infinity."""
        self.windows[-1].add_step(scores[0])
        return scores


def _to_frames(time_s: Any) -> int:
    return round(float(time_s) * _FRAMES_PER_S)


def _segment(segment: Mapping[str, Any], start: int) -> WindowSegment:
    """Returns a segment of `generate` with times from frame `start` on."""
    begin, end = (round((_to_frames(segment[name]) - start) / FRAMES_PER_POSITION) for name in ("start", "end"))
    return WindowSegment(begin, end, tuple(segment["tokens"].tolist()))


def _alignment(segments: Sequence[Mapping[str, Any]], window: _Window) -> TokenAlignment:
    """Returns the ends and the probabilities of the tokens of the segments of a window."""
    offset = window.start / FRAMES_PER_POSITION
    times_s = [time_s for each in segments for time_s in each["token_timestamps"].tolist()]
    ends = tuple(max(0, round(time_s * SAMPLE_RATE / SAMPLES_PER_POSITION - offset)) for time_s in times_s)
    return TokenAlignment(ends, tuple(window.probabilities()[: len(ends)]))
