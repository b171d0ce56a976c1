"""What a recognizer is: the Protocol that every one of them keeps, its input and its result.

A recognizer gets chunks of at most 30 s and gives one `Hypothesis` for each, in the same order. It sees neither
recordings nor files: who the neighbors of a chunk are, and which recording votes on which language, is decided above
it (stages/transcribe.py). A property that every recognizer owes: a chunk's tokens do not depend on what else is in
its batch (exactly in float32; in 16 and 8 bits up to rounding).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.capabilities import RecognizerCapabilities

PCM16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Span:
    """Text between two times, in seconds from the first sample of its chunk, or of its recording once merged."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Word(Span):
    """A word with its times and the probability of its tokens."""

    probability: float


@dataclass(frozen=True, slots=True)
class Alignment:
    """When each token of a chunk was spoken, and how sure it was; one entry a token, time tokens among them.

    ``ends``: encoder positions (20 ms) from the chunk's first sample, never falling; a token begins where the one
    before it ends, the first at 0. ``probabilities``: of the tokens as chosen, after the decoding rules.
    ``word_starts`` and ``word_ends`` are what the times of words are made of, in samples from the chunk's first one: a
    word lasts from the start of its first token to the end of its last. Empty until recognition/words.py fills them.
    """

    ends: tuple[int, ...]
    probabilities: tuple[float, ...]
    word_starts: tuple[int, ...] = ()
    word_ends: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What was heard in one chunk, with every sign of doubt.

    ``tokens`` are the ids after the prompt, timestamp tokens among them, without the end token. ``avg_logprob`` is
    openai's: the sum of the tokens' log-probabilities, end token included, over their number plus one.
    ``no_speech_prob`` is the probability of ``<|nospeech|>`` (``<|nocaptions|>``) at the start-of-transcript position.
    ``compression_ratio`` is bytes of text over its zlib-compressed bytes. ``window_s`` is what the encoder was given.
    ``segments`` are None unless timestamps were asked for, ``words`` and ``alignment`` unless those of words were; the
    words' texts, joined without anything between them, are ``text``. Of the tokens that an assistant drafted for the
    chunk the model looked at ``drafts_proposed``, and ``drafts_accepted`` of them were its own choice. ``unheard_s`` is the
    duration of the speech, in seconds, between the end of the text in the chunk and the end of the chunk (of what the
    next chunk does not cover, where they overlap): 0.0 where there is none, None where it is unknown. ``error`` says
    why a chunk could not be recognized; its text is then empty.
    """

    text: str
    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float = 0.0
    window_s: float = 30.0
    segments: tuple[Span, ...] | None = None
    words: tuple[Word, ...] | None = None
    alignment: Alignment | None = None
    quality_flags: tuple[str, ...] = ()
    drafts_proposed: int = 0
    drafts_accepted: int = 0
    unheard_s: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LanguageProbabilities:
    """Language probabilities: ``probs`` is float32, shape (num_chunks, len(codes)), each row sums to 1."""

    codes: tuple[str, ...]
    probs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RecognizerOptions:
    """How to load and run a checkpoint. The values are those of the config's `model` and `decoding`, by the same words.

    Kept apart from distil_ray.config so that this folder and `whisper/` run on any machine that has torch.
    """

    # computing
    device: str = "cpu"  # cpu | cuda
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16 | int8 (CPU, native)
    attention: str = "auto"  # auto | flash_attention_2 | sdpa | eager
    threads: int = 1  # CPU threads
    batch_size: int | None = None  # chunks at once; None: chosen by the recognizer
    # decoding
    task: str = "transcribe"  # transcribe | translate
    timestamps: str = "none"  # none | segment | word (segments too)
    max_new_tokens: int | None = None  # None: what the decoder has room for
    window: str = "full"  # full | gated
    speculative: str = "auto"  # on | off | auto; where there is an assistant
    # openai's fallback: each temperature is tried where the text of the one before it is too repetitive or unlikely
    temperatures: tuple[float, ...] = (0.0,)  # 0 (greedy) first; alone: no fallback
    compression_ratio_threshold: float = 2.4
    # silence: text is emptied where no_speech_prob is above and avg_logprob below (openai's rule); None: never
    no_speech_threshold: float | None = 0.6
    logprob_threshold: float = -1.0


class Recognizer(Protocol):
    """Loaded once per actor; called once per part."""

    capabilities: RecognizerCapabilities  # class attribute: what settings it supports; read on the driver
    device: str  # "cpu", or "cuda:0 (NVIDIA H200)": where it runs, for people
    dtype: str  # "float32", "bfloat16", "float16", "int8"
    languages: tuple[str, ...]  # codes the checkpoint knows; ("en",) where it is English-only
    warnings: tuple[str, ...]  # decisions made automatically, each with its reason, to be logged once

    def detect_languages(self, chunks: Sequence[PCM16]) -> LanguageProbabilities:
        """Probabilities of each language for each chunk.

        `chunks`: int16, shape (num_samples,), 16 kHz mono, at most 480,000 samples each. English-only checkpoints
        answer "en" with probability 1.
        """
        ...

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], needed: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        """One hypothesis per chunk, in order.

        `chunks` as in `detect_languages`; `languages`: a code of `self.languages` for each. `needed`: of each chunk,
        how many samples from its first one on must have their words, where the next chunk begins before this one ends;
        None: all of them. Raises ValueError for a chunk that is too long or empty and for an unknown language; never
        for what the audio sounds like.
        """
        ...
