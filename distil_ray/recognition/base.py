"""Interface of recognizers: the `Recognizer` Protocol, its options, and language probabilities.

A recognizer receives chunks of at most 30 s and returns one `Hypothesis` for each. It knows neither recordings nor
files: the stage that calls it (pipeline/transcribe_stage.py) knows the neighbors of a chunk and the recording it
belongs to.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.capabilities import RecognizerCapabilities
from distil_ray.types import Hypothesis, Prompt

PCM16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class LanguageProbabilities:
    """Language probabilities of chunks.

    Attributes:
        codes: Language codes.
        probs: float32, shape (num_chunks, num_codes); each row sums to 1.
    """

    codes: tuple[str, ...]
    probs: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RecognizerOptions:
    """Options for loading and running a model. Names and values are those of the settings in `model` and `decoding`.

    This class is separate from `distil_ray.config`, so that recognizers run on any machine that has torch. Settings
    that a recognizer does not support (`RecognizerCapabilities`) keep their defaults.
    """

    # computing
    device: str = "cpu"  # cpu | cuda
    dtype: str = "auto"  # auto | float32 | bfloat16 | float16 | int8 | float8
    attention: str = "auto"  # auto | flash_attention_2 | sdpa | eager
    threads: int = 1  # CPU threads
    batch_size: int | None = None  # chunks decoded at once; None: chosen by the recognizer
    self_check: bool = True  # on a GPU: compare the fast methods of decoding with the plain one before the first chunk
    compile_encoder: bool = False  # on a GPU: by torch.compile
    encode_ahead: bool = False  # on a GPU: encode the next chunks beside the steps of these, on a stream of their own
    # decoding
    task: str = "transcribe"  # transcribe | translate
    timestamps: str = "none"  # none | segment | word (includes segments)
    max_new_tokens: int | None = None  # None: limited by the positions of the decoder
    window: str = "full"  # full | gated
    speculative: str = "auto"  # on | off | auto; applies with an assistant
    num_beams: int = 1  # of beam search at temperature 0; 1: greedy decoding
    length_penalty: float = 1.0  # of beam search: scores are divided by the length to this power
    beam_selection: str = "score"  # score | minimum_bayes_risk; which of the finished beams is the text
    best_of: int = 1  # samples of a chunk at temperatures above 0
    # OpenAI's temperature fallback: the next temperature is tried if the text is too repetitive or unlikely
    temperatures: tuple[float, ...] = (0.0,)  # 0 (greedy) comes first; alone: no fallback
    compression_ratio_threshold: float = 2.4
    # OpenAI's rule for silence: the text is dropped if no_speech_prob is above and avg_logprob is below the thresholds
    no_speech_threshold: float | None = 0.6  # None: never
    logprob_threshold: float = -1.0
    cut_loops: bool = False  # a repetition loop that nobody can have spoken is written once
    # what may be written
    suppress_tokens: tuple[int | str, ...] = ()  # ids, texts, "numerals"; besides those of the checkpoint
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    max_initial_timestamp_s: float | None = None  # seconds; None: the limit of the checkpoint
    prefix: str | None = None  # text that each chunk is taken to begin with; not part of the result
    hallucination_silence_threshold_s: float | None = None  # seconds; with timestamps "word"; None: nothing is dropped
    # sequential long form
    long_form: bool = False  # `LongFormRecognizer.transcribe_sections` is called; timestamps are always decoded
    condition_on_previous_text: bool = False  # the text of a window is in the prompt of the next one


def is_automatic_choice(message: str) -> bool:
    """Returns whether an entry of `Recognizer.warnings` says what was chosen for a setting of ``auto``."""
    return re.match(r"[\w.]+=auto: ", message) is not None


class Recognizer(Protocol):
    """Turns chunks of audio into text. Implement this class to add a recognizer; it need not be a Whisper.

    **Selection.** The setting ``model.recognizer`` names a recognizer: ``native``, ``transformers``, an entry point of
    the group ``distil_ray.recognizers`` in an installed package, or an import path (``my_package.module:MyClass``).
    Nothing has to be inherited. The module must be importable on the driver and on every node.

    **Construction.** One object is made per actor, with ``MyClass(model, options)``. `model` is the local folder of the
    Whisper checkpoint if the class declares ``whisper_checkpoint``, else the string ``model.name`` as it is. `options`
    are `RecognizerOptions`. If the class declares ``speculative``, a third argument is the local folder of the
    assistant or None. Raise RuntimeError for what the machine lacks and ValueError for unsupported options.

    **Capabilities.** The class attribute `capabilities` declares what the recognizer supports. The driver reads it to
    refuse unsupported settings before anything is started; it imports the module for that, so import heavy packages
    within methods, or register a `RecognizerSpec` instead of the class.

    **Contract of `transcribe`.** One hypothesis for each chunk, in the same order. The tokens of a chunk do not depend
    on the other chunks in the call: exactly in float32, up to rounding in 16 and 8 bits. The same chunk gives the same
    text again. No state is kept between calls: a part may be repeated on another actor. A call gets all chunks of a
    part, possibly hundreds; batching is up to the recognizer.

    **Hypothesis.** Only `text` is required. Fields that are None become null in the output. `segments` and `words` are
    expected where ``options.timestamps`` requests them, in seconds from the first sample of the chunk; the texts of
    `words`, joined without a separator, are `text`, and so are those of `segments`, up to the blanks between them.
    `tokens` are needed for the merging of overlapping chunks.

    **Errors.** An exception of `transcribe` fails the call. The stage then retries each recording by itself, so that
    only recordings that raise alone are marked as failed (``inference_error``). A call that exceeds
    ``resources.recognizer_timeout_s`` is ended with its process (``inference_timeout``), and a process that dies is
    replaced (``worker_crash``).

    **Progress.** A recognizer may have an attribute or property `processed_s`: the audio seconds processed since its
    creation, estimated. It is read by another thread during `transcribe`, and shows the progress of a part.

    Attributes:
        capabilities: Class attribute: which settings the recognizer supports.
        device: Where it runs, for people: "cpu" or "cuda:0 (NVIDIA H200)".
        dtype: What it computes in, for the output: "float32", "bfloat16", "float16", "int8", "int8_w7", "float8" …
        languages: Codes of the languages that it knows; ("en",) for an English-only model.
        warnings: What the user should know. An entry that begins with ``SETTING=auto:`` says what was chosen for that
            setting, and why. The tuple may grow between calls; every entry is logged once per actor.
    """

    capabilities: RecognizerCapabilities
    device: str
    dtype: str
    languages: tuple[str, ...]
    warnings: tuple[str, ...]

    def detect_languages(self, chunks: Sequence[PCM16], /) -> LanguageProbabilities:
        """Returns the language probabilities of each chunk. Called only if ``capabilities.detects_language``.

        Args:
            chunks: int16, shape (num_samples,), 16 kHz mono, 1 to 480,000 samples each.

        Returns:
            Probabilities over `languages`; for an English-only model 1 for "en".
        """
        ...

    def transcribe(
        self, chunks: Sequence[PCM16], languages: Sequence[str], required_samples: Sequence[int] | None = None, /
    ) -> list[Hypothesis]:
        """Returns one hypothesis per chunk, in order.

        Args:
            chunks: int16, shape (num_samples,), 16 kHz mono, 1 to 480,000 samples each.
            languages: A code of `languages` for each chunk.
            required_samples: For each chunk, the number of samples from its start whose speech must be transcribed. The
                rest is also in the next chunk, which overlaps. None: all samples.

        Raises:
            ValueError: A chunk is empty or too long, or a language is unknown. The content of the audio never raises.
        """
        ...


class PromptedRecognizer(Recognizer, Protocol):
    """A recognizer that declares ``prompts`` in its capabilities: `transcribe` has one more optional argument."""

    def transcribe(
        self,
        chunks: Sequence[PCM16],
        languages: Sequence[str],
        required_samples: Sequence[int] | None = None,
        prompts: Sequence[Prompt | None] | None = None,
        /,
    ) -> list[Hypothesis]:
        """Returns one hypothesis per chunk, in order, as `Recognizer.transcribe` does.

        Args:
            chunks: See `Recognizer.transcribe`.
            languages: See `Recognizer.transcribe`.
            required_samples: See `Recognizer.transcribe`.
            prompts: The prompt of each chunk. Given only where a chunk has one.
        """
        ...


@dataclass(frozen=True, slots=True)
class TranscribedWindow:
    """A stretch of a section with its text.

    Attributes:
        start: First sample in the section.
        num_samples: Samples up to the next window of the section, or to its end.
        hypothesis: Its text. Times count from the first sample of the window.
    """

    start: int
    num_samples: int
    hypothesis: Hypothesis


class LongFormRecognizer(Recognizer, Protocol):
    """A recognizer that declares ``long_form`` in its capabilities: it decodes sections, audio of any length."""

    def transcribe_sections(
        self, sections: Sequence[PCM16], languages: Sequence[str], prompts: Sequence[Prompt | None] | None = None, /
    ) -> list[list[TranscribedWindow]]:
        """Returns the windows of each section, in order. Called only with ``options.long_form``.

        Windows follow each other: every sample of a section is in one of them. A section has at least one window; a
        window that counts as silence has no text. The contract of `Recognizer.transcribe` holds for sections: the
        result for one does not depend on the others.

        Args:
            sections: int16, shape (num_samples,), 16 kHz mono, not empty.
            languages: A code of `languages` for each section.
            prompts: The prompt of each section.

        Raises:
            ValueError: A section is empty, or a language is unknown. The content of the audio never raises.
        """
        ...
