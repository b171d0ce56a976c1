"""Sections `labels` and `assistant`: pseudo-label data sets, and training of assistant models."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from distil_ray.config.base import Section, at_least_one


class LabelFiltersConfig(Section):
    """Filters of pseudo-labels. null disables a threshold; utterances without the value pass it."""

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
        1,
        ge=0,
        le=1000,
        description="runs of five words (of ten signs, where no spaces are written) that came before in the same"
        " utterance, at most",
    )
    max_chars_per_s: float | None = Field(25.0, gt=0, le=200, description="characters a second of audio, at most")
    min_chars_per_s: float | None = Field(None, ge=0, le=200, description="characters a second of audio, at least")
    max_no_speech_prob: float | None = Field(0.6, ge=0, le=1, description="no-speech probability, at most")
    max_unheard_s: float | None = Field(
        1.0, ge=0, le=30, description="seconds of speech after the end of the text, up to the end of its chunk, at most"
    )
    min_acceptance_rate: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the assistant's draft tokens that the teacher accepted in the recording, at least",
    )
    quality_flags: tuple[
        Literal[
            "redecoded",
            "max_tokens_reached",
            "untranscribed_speech",
            "mixed_languages",
            "repetition_loop",
            "high_compression_ratio",
            "low_logprob",
            "high_char_rate",
            "anomalous_words",
            "hallucination_phrase",
        ],
        ...,
    ] = Field(
        ("max_tokens_reached", "mixed_languages", "repetition_loop", "high_compression_ratio", "hallucination_phrase"),
        description="utterances with one of these flags (docs/recognition.md) are dropped",
    )


class LabelsConfig(Section):
    """The training data set that jobs/pseudo_label.py writes (docs/pseudo_labels.md)."""

    packing: Literal["speaker", "recording", "none"] = Field(
        "speaker",
        description="join utterances, in order, to just under 30 s: those of a speaker, of a recording, or none",
    )
    speaker_column: str = Field("speaker", min_length=1, description="key of the metadata that names the speaker")
    license_column: str | None = Field(
        None, description="key of the metadata that names the license; null: license, in either spelling"
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
        description="flac: 16 kHz mono, as recognized; original: the file's own bytes, where an example is a file",
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


class AssistantConfig(Section):
    """Training of an assistant model on own transcripts (jobs/train_assistant.py, jobs/nightly.py), and its use."""

    uri: str | None = Field(
        None,
        description="folder of trained assistants; runs take the one that its current.json names as model.assistant",
    )
    labels_uri: str | None = Field(
        None, description="pseudo-label data set (jobs/pseudo_label.py) to learn from, in place of output.uri"
    )
    layers: int = Field(2, ge=2, le=32, description="decoder layers of the student, of the main model's, evenly spaced")
    init_from: Literal["auto", "main", "current"] = Field(
        "auto",
        description="initial weights: layers of the main model (main), the current assistant (current), or the current"
        " assistant if it has as many layers and was not trained on the held-out audio (auto)",
    )
    steps: int = Field(900, ge=10, description="optimizer steps at most")
    budget_s: float | None = Field(
        None,
        gt=0,
        description="limit for training in seconds; preparing the audio has the same limit, and training then uses what"
        " was prepared; null: no limit",
    )
    batch_audio_s: float = Field(240.0, ge=1, description="seconds of audio in a batch")
    learning_rate: float = Field(4e-4, gt=0, lt=1, description="AdamW's, after a warm-up and before the cosine decay")
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the decoder's activations dropped while training")
    kl_weight: float = Field(0.8, ge=0, description="weight of the KL divergence from the main model's probabilities")
    token_weight: float = Field(0.5, ge=0, description="weight of the cross-entropy with the main model's tokens")
    encoder_states: Literal["cached", "recomputed"] = Field(
        "cached",
        description="encoder outputs: cached on the node's disk (0.2 GB per hour of audio for base, 0.5 GB for large),"
        " or recomputed in every epoch",
    )
    hold_out_by: Literal["auto", "speaker", "recording"] = Field(
        "auto",
        description="what is held out together and never trained on; auto: speakers where the transcripts name twenty"
        " or more and one of them has such a hash, else recordings",
    )
    held_out_share: float = Field(0.1, gt=0, le=0.5, description="share of them, by hash")
    held_out_s: float = Field(1800.0, gt=0, description="seconds of held-out audio used for evaluation at most")
    seed: int = Field(0, ge=0, description="of that hash, of dropout and of the order of batches")
    min_audio_s: float = Field(600.0, gt=0, description="seconds of audio below which nothing is trained")
    max_audio_s: float = Field(360_000.0, gt=0, description="seconds of audio that are taken at most")
    eval_interval_s: float = Field(
        60.0,
        gt=0,
        description="seconds between two evaluations on the held-out audio, each with a checkpoint; at least four times"
        " the duration of an evaluation",
    )
    compare_by: Literal["speed", "tokens"] = Field(
        "speed",
        description="criterion by which a new assistant replaces the current one: expected speed-up on this hardware at"
        " decoding.batch_size (speed), or tokens per forward pass of the main model (tokens)",
    )
    min_gain: float = Field(1.01, ge=1, description="factor by which the new assistant must be better by compare_by")
    workers: Literal["auto"] | int = Field(
        "auto",
        description="processes that train; auto: one a GPU where resources.gpus_per_actor > 0, as far as the CPUs go,"
        " else one",
    )
    nightly_below: float | None = Field(
        None,
        ge=0,
        le=1,
        description="jobs/nightly.py trains on a night's transcripts whose acceptance_rate is below this; null: never",
    )
    nightly_first: bool = Field(False, description="and where there is no assistant for the model yet")
    nightly_budget_s: float = Field(1800.0, gt=0, description="seconds of training at the end of a night at most")

    @field_validator("workers")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        return at_least_one(value)

    @model_validator(mode="after")
    def _something_to_learn(self) -> Self:
        if self.kl_weight == self.token_weight == 0:
            raise ValueError("assistant.kl_weight and assistant.token_weight are both 0: nothing would be learned")
        if (self.nightly_below is not None or self.nightly_first) and self.uri is None:
            raise ValueError("assistant.nightly_below and assistant.nightly_first need assistant.uri, where to keep it")
        return self
