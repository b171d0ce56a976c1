"""Capabilities of recognizers, and loading of the recognizer that ``model.recognizer`` names.

A driver reads the capabilities to check the settings of a run before it starts anything. This module therefore imports
neither numpy nor torch. The built-in recognizers are described here; only `load_recognizer` imports their modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from distil_ray.errors import SettingsError
from distil_ray.registry import RECOGNIZERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from distil_ray.recognition.base import Recognizer, RecognizerOptions

WHISPER_CHUNK_S = 30.0  # seconds; the longest chunk that any recognizer gets


@dataclass(frozen=True, slots=True)
class RecognizerCapabilities:
    """Needs and abilities of a recognizer. The defaults describe one that returns text and nothing else.

    Attributes:
        whisper_checkpoint: The recognizer runs a Whisper checkpoint. ``model.name`` is then resolved and downloaded,
            the recognizer gets the local model folder, and identity, languages and chunk length come from the
            checkpoint. Otherwise ``model.name`` is passed to the recognizer as it is, and the fields below count.
        languages: Codes of the languages that it transcribes (Whisper's codes where Whisper has one).
        version: Version of the model and its code. It is part of the fingerprint of a run: change it whenever the
            transcripts change.
        chunk_length_s: Preferred length of a chunk in seconds; used where ``chunking.length_s`` is auto.
        max_chunk_s: Longest chunk that it accepts, in seconds, at most 30.
        detects_language: `Recognizer.detect_languages` works. Otherwise each recording needs a language, unless there
            is only one.
        translates: It supports ``decoding.task=translate``.
        timestamps: Values of ``decoding.timestamps`` that it supports.
        returns_tokens: `Hypothesis.tokens` are Whisper's tokens, by which overlapping chunks can be merged.
        temperature_fallback: It supports more than one of ``decoding.temperatures``.
        beam_search: It follows ``decoding.num_beams`` and ``decoding.length_penalty``.
        beam_selection: It follows ``decoding.beam_selection``.
        long_form_beam_search: It does so with ``chunking.strategy=sequential`` too.
        best_of: It follows ``decoding.best_of``.
        speculative: It accepts ``model.assistant`` (as a third argument of its class).
        gated_windows: It supports ``chunking.window=gated``.
        dtypes: Values of ``model.dtype`` that it supports.
        attention: Values of ``model.attention`` that it supports.
        long_form: It is a `LongFormRecognizer`, which decodes audio of any length (``chunking.strategy=sequential``).
        prompts: It is a `PromptedRecognizer`, which gets a prompt with each chunk (``decoding.prompt``,
            ``decoding.hotwords``, and the prompts of the input).
        batch_size: It follows ``decoding.batch_size``.
        max_new_tokens: It follows ``decoding.max_new_tokens``.
        token_controls: It follows ``decoding.suppress_tokens``, ``repetition_penalty``, ``no_repeat_ngram_size`` and
            ``max_initial_timestamp_s``.
        prefix: It follows ``decoding.prefix``.
        drops_hallucinations: It follows ``decoding.hallucination_silence_threshold_s``.
        compile_encoder: It follows ``model.compile_encoder``.
        encode_ahead: It follows ``model.encode_ahead``.
        gpu: It can run on a GPU.
    """

    whisper_checkpoint: bool = False
    languages: tuple[str, ...] = ("en",)
    version: str = ""
    chunk_length_s: float = WHISPER_CHUNK_S
    max_chunk_s: float = WHISPER_CHUNK_S
    detects_language: bool = False
    translates: bool = False
    timestamps: tuple[str, ...] = ("none",)
    returns_tokens: bool = False
    temperature_fallback: bool = False
    beam_search: bool = False
    beam_selection: bool = False
    long_form_beam_search: bool = False
    best_of: bool = False
    speculative: bool = False
    gated_windows: bool = False
    dtypes: tuple[str, ...] = ("auto", "float32")
    attention: tuple[str, ...] = ("auto",)
    long_form: bool = False
    prompts: bool = False
    batch_size: bool = False
    max_new_tokens: bool = False
    token_controls: bool = False
    prefix: bool = False
    drops_hallucinations: bool = False
    compile_encoder: bool = False
    encode_ahead: bool = False
    gpu: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.chunk_length_s <= self.max_chunk_s <= WHISPER_CHUNK_S:
            raise ValueError(
                f"chunk_length_s={self.chunk_length_s} and max_chunk_s={self.max_chunk_s}: must be above 0, in this"
                f" order, and {WHISPER_CHUNK_S:g} at most"
            )
        if not self.whisper_checkpoint and not self.languages:
            raise ValueError("languages: a recognizer without a Whisper checkpoint has to name its languages")


@dataclass(frozen=True, slots=True)
class RecognizerSpec:
    """A recognizer that is registered without being imported: its capabilities, and the import path of its class.

    An entry of the registry may be such a record instead of the class, so that a driver does not import the class.
    """

    target: str  # package.module:Class
    capabilities: RecognizerCapabilities


NATIVE = RecognizerSpec(
    "distil_ray.recognition.native.recognizer:NativeRecognizer",
    RecognizerCapabilities(
        whisper_checkpoint=True,
        detects_language=True,
        translates=True,
        timestamps=("none", "segment", "word"),
        returns_tokens=True,
        long_form=True,
        prompts=True,
        temperature_fallback=True,
        beam_search=True,
        beam_selection=True,
        long_form_beam_search=True,
        best_of=True,
        speculative=True,
        gated_windows=True,
        dtypes=("auto", "float32", "bfloat16", "float16", "int8", "float8"),
        attention=("auto", "flash_attention_2", "sdpa", "eager"),
        batch_size=True,
        max_new_tokens=True,
        token_controls=True,
        prefix=True,
        drops_hallucinations=True,
        compile_encoder=True,
        encode_ahead=True,
    ),
)
TRANSFORMERS = RecognizerSpec(
    "distil_ray.recognition.transformers_recognizer:TransformersRecognizer",
    RecognizerCapabilities(
        whisper_checkpoint=True,
        detects_language=True,
        translates=True,
        timestamps=("none", "segment", "word"),
        returns_tokens=True,
        long_form=True,
        prompts=True,
        beam_search=True,
        dtypes=("auto", "float32", "bfloat16", "float16"),
        attention=("auto", "flash_attention_2", "sdpa", "eager"),
        batch_size=True,
        max_new_tokens=True,
        token_controls=True,
    ),
)


def load_capabilities(name: str) -> RecognizerCapabilities:
    """Returns the capabilities of the recognizer that ``model.recognizer`` names.

    Imports the module of a recognizer that is registered as a class, and of none that is a `RecognizerSpec`.

    Raises:
        SettingsError: The name is unknown, its module cannot be imported, or it declares no capabilities.
    """
    found = getattr(RECOGNIZERS.load(name), "capabilities", None)
    if not isinstance(found, RecognizerCapabilities):
        raise SettingsError(
            f"{RECOGNIZERS.setting}={name}: has no attribute `capabilities` of the class RecognizerCapabilities"
            " (distil_ray.recognition.capabilities)"
        )
    return found


def recognizers_with(is_capable: Callable[[RecognizerCapabilities], bool]) -> list[str]:
    """Returns the names of the registered recognizers with a capability; those that cannot be imported are left out."""
    found = []
    for name in RECOGNIZERS.names():
        try:
            capabilities = load_capabilities(name)
        except SettingsError:
            continue
        if is_capable(capabilities):
            found.append(name)
    return found


def load_recognizer(
    name: str, model: str | Path, options: RecognizerOptions, assistant: str | Path | None = None
) -> Recognizer:
    """Makes the recognizer that ``model.recognizer`` names.

    Args:
        name: A name of the registry, or an import path ``package.module:Class``.
        model: The local folder of the Whisper checkpoint, or ``model.name`` where the recognizer uses none.
        options: How to load and run the model.
        assistant: The local folder of the checkpoint that drafts, for recognizers with speculative decoding.

    Raises:
        SettingsError: There is no such recognizer.
        RuntimeError: This machine lacks the device, number type or attention.
        ValueError: The recognizer does not support an option, or the assistant does not fit.
    """
    speculative = load_capabilities(name).speculative
    entry = RECOGNIZERS.load(name)
    if isinstance(entry, RecognizerSpec):
        module, _, attribute = entry.target.partition(":")
        entry = getattr(import_module(module), attribute)
    make = cast("Callable[..., Any]", entry)
    made: Recognizer = make(model, options, assistant) if speculative else make(model, options)
    return made
