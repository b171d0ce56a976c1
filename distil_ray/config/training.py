"""Sections `labels` and `assistant`: pseudo-label data sets, and training of assistant models."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from distil_ray.config.base import Section, UnreliableTextFlag, at_least_one


class LabelFiltersConfig(Section):
    """Filters of pseudo-labels. null disables a filter; an utterance without the value passes it."""

    max_wer: float | None = Field(
        0.1, gt=0, le=1, description="The word error rate against the reference must be lower than this, as a fraction."
    )
    max_edge_cer: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Maximum character error rate of the first and of the last 20 characters, against the reference or"
        " otherwise the second transcript. Detects words that were cut off at an end.",
    )
    max_disagreement: float | None = Field(
        None, gt=0, le=1, description="Maximum word error rate against the transcript of labels.second_output_uri."
    )
    min_avg_logprob: float | None = Field(-1.0, le=0, description="Minimum mean log-probability per token.")
    max_compression_ratio: float | None = Field(
        2.4, ge=1, le=100, description="Maximum compression ratio: bytes of text / compressed bytes."
    )
    max_repeated_5grams: int | None = Field(
        1,
        ge=0,
        le=1000,
        description="Maximum number of sequences of five words (ten characters in languages without spaces) that"
        " occurred before in the same utterance.",
    )
    max_chars_per_s: float | None = Field(
        25.0, gt=0, le=200, description="Maximum number of characters per second of audio."
    )
    min_chars_per_s: float | None = Field(
        None, ge=0, le=200, description="Minimum number of characters per second of audio."
    )
    max_no_speech_prob: float | None = Field(0.6, ge=0, le=1, description="Maximum no-speech probability.")
    max_unheard_s: float | None = Field(
        1.0, ge=0, le=30, description="Maximum seconds of speech between the end of the text and the end of its chunk."
    )
    min_acceptance_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Minimum share of the assistant's draft tokens that the teacher accepted in the recording.",
    )
    statuses: tuple[Literal["ok", "doubtful"], ...] = Field(
        ("ok", "doubtful"),
        min_length=1,
        description="Statuses of the recordings that labels are made from. [ok] rejects all utterances of doubtful"
        " recordings.",
    )
    quality_flags: tuple[UnreliableTextFlag, ...] = Field(
        ("max_tokens_reached", "mixed_languages", "repetition_loop", "high_compression_ratio", "hallucination_phrase"),
        description="Utterances with one of these flags are rejected (docs/recognition.md).",
    )


class LabelsConfig(Section):
    """The training data set that distil-ray pseudo-label writes (docs/pseudo_labels.md)."""

    packing: Literal["auto", "speaker", "recording", "none"] = Field(
        "auto",
        description="Join utterances of one speaker or of one recording, in order, to examples of just under 30 s."
        " none: each utterance is an example. auto: speaker if recordings have a speaker, otherwise recording if a"
        " recording has several utterances, otherwise none; an existing data set keeps its packing.",
    )
    speaker_column: str = Field("speaker", min_length=1, description="Metadata key of the speaker.")
    license_column: str | None = Field(None, description="Metadata key of the license. null: license, in any spelling.")
    timestamp_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of the examples whose label has timestamps. Distil-Whisper's training script keeps the"
        " timestamps of its timestamp_probability of them.",
    )
    audio_format: Literal["flac", "original"] = Field(
        "flac",
        description="Audio of the examples. flac: 16 kHz mono, as it was recognized. original: the bytes of the file"
        " if the example is a whole file, otherwise FLAC.",
    )
    shard_audio_s: float = Field(
        7200.0, ge=30, le=360_000, description="Maximum seconds of audio in a shard (FLAC: about 17 kB per second)."
    )
    validation_share: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="Share of the speakers (of the files where speakers are unknown) in the split `validation`.",
    )
    seed: int = Field(0, ge=0, description="Random seed of the split and of the choice of examples with timestamps.")
    second_output_uri: str | None = Field(
        None,
        description="Output of another run over the same recordings or some of them, with another model or other"
        " chunks. The word error rate between the two transcripts is the column `disagreement`.",
    )
    push_to_hub: str | None = Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="Data set on the Hugging Face hub (owner/name) to upload a finished build to. Needs HF_TOKEN.",
    )
    push_private: bool = Field(True, description="Make the data set private if the upload creates it.")
    filters: LabelFiltersConfig = LabelFiltersConfig()

    @model_validator(mode="after")
    def _second_output_is_set(self) -> Self:
        if self.filters.max_disagreement is not None and self.second_output_uri is None:
            raise ValueError(
                f"labels.filters.max_disagreement={self.filters.max_disagreement:g} needs labels.second_output_uri, the"
                " output of a second run over the same recordings. Set that, or set max_disagreement to null"
            )
        return self


class AssistantConfig(Section):
    """Training of an assistant model on transcripts (distil-ray train-assistant, nightly), and its use in runs."""

    uri: str | None = Field(
        None,
        description="Folder of trained assistants. Runs use the one named in its current.json as model.assistant.",
    )
    labels_uri: str | None = Field(
        None,
        description="Pseudo-label data set (distil-ray pseudo-label) to train on, instead of the transcripts in"
        " output.uri.",
    )
    layers: int = Field(
        2,
        ge=2,
        le=32,
        description="Number of decoder layers of the student, taken from the main model at even spacing.",
    )
    init_from: Literal["auto", "main", "current"] = Field(
        "auto",
        description="Initial weights. main: layers of the main model. current: the current assistant. auto: the current"
        " assistant if it has the same number of layers and was not trained on the held-out audio, otherwise main.",
    )
    steps: int = Field(900, ge=10, description="Maximum number of optimizer steps.")
    budget_s: float | None = Field(
        None,
        gt=0,
        description="Time limit for training, in seconds. Preparing the audio has the same limit; training then uses"
        " the audio that was prepared. null: no limit.",
    )
    batch_audio_s: float = Field(240.0, ge=1, description="Seconds of audio in a batch, per training process.")
    learning_rate: float = Field(
        4e-4, gt=0, lt=1, description="Peak learning rate of AdamW, between warm-up and cosine decay."
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout probability of the decoder.")
    kl_weight: float = Field(
        0.8, ge=0, description="Weight of the KL divergence from the main model's token probabilities."
    )
    token_weight: float = Field(0.5, ge=0, description="Weight of the cross-entropy with the main model's tokens.")
    encoder_states: Literal["cached", "recomputed"] = Field(
        "cached",
        description="Encoder outputs. cached: stored on the node's disk (0.2 GB per hour of audio for base, 0.5 GB for"
        " large). recomputed: computed again in every epoch, for a single training process.",
    )
    hold_out_by: Literal["auto", "speaker", "recording"] = Field(
        "auto",
        description="Unit of held-out data, which is never trained on. auto: speaker if the transcripts name at least"
        " twenty speakers and at least one of them is held out, otherwise recording.",
    )
    held_out_share: float = Field(
        0.1, gt=0, le=0.5, description="Share of the speakers or recordings that are held out, chosen by a hash."
    )
    held_out_s: float = Field(1800.0, gt=0, description="Maximum seconds of held-out audio used for evaluation.")
    seed: int = Field(0, ge=0, description="Random seed of the held-out hash, of dropout and of the order of batches.")
    min_audio_s: float = Field(
        600.0, gt=0, description="Minimum seconds of training audio. With less, training stops with an error."
    )
    max_audio_s: float = Field(360_000.0, gt=0, description="Maximum seconds of training audio.")
    eval_interval_s: float = Field(
        60.0,
        gt=0,
        description="Minimum seconds between evaluations on the held-out audio; each also saves a checkpoint. The"
        " interval is extended to four times the duration of an evaluation.",
    )
    compare_by: Literal["speed", "tokens"] = Field(
        "speed",
        description="Metric by which a new assistant is compared with the current one. speed: expected speedup on this"
        " hardware at decoding.batch_size. tokens: tokens per forward pass of the main model.",
    )
    min_gain: float = Field(
        1.01,
        ge=1,
        description="Factor by which a new assistant must be better in compare_by to replace the current one.",
    )
    workers: Literal["auto"] | int = Field(
        "auto",
        description="Number of training processes. auto: one per GPU if resources.gpus_per_actor > 0, as far as there"
        " are CPUs for them, otherwise one.",
    )
    nightly_below: float | None = Field(
        None,
        ge=0,
        le=1,
        description="distil-ray nightly trains on the transcripts of a run if its acceptance_rate is below this."
        " null: never.",
    )
    nightly_first: bool = Field(
        False, description="distil-ray nightly also trains if there is no assistant for the model yet."
    )
    nightly_budget_s: float = Field(
        1800.0, gt=0, description="Time limit for training after a nightly run, in seconds."
    )

    @field_validator("workers")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return at_least_one(value)

    @model_validator(mode="after")
    def _loss_and_folder_are_set(self) -> Self:
        if self.kl_weight == self.token_weight == 0:
            raise ValueError("assistant.kl_weight and assistant.token_weight are both 0; at least one must be positive")
        if (self.nightly_below is not None or self.nightly_first) and self.uri is None:
            raise ValueError(
                "assistant.nightly_below and assistant.nightly_first need assistant.uri, the folder of"
                " trained assistants"
            )
        return self
