"""Sections `input`, `output` and `storage`."""

from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator

from distil_ray.config.base import Section
from distil_ray.registry import READERS


class ColumnsConfig(Section):
    """Column names of a manifest or table. Set one if it differs from the names that are tried by default."""

    recording_id: str | None = Field(
        None, description="Column of the recording's id. null: recording_id or id, if there is one."
    )
    uri: str | None = Field(
        None, description="Column of the path or URL, or of the audio itself (Parquet). null: uri, path, file_name, …"
    )
    start_s: str | None = Field(None, description="Column of a segment's start, in seconds. null: start_s or offset.")
    duration_s: str | None = Field(
        None, description="Column of the duration, in seconds. null: duration_s or duration."
    )
    reference: str | None = Field(
        None, description="Column of the reference transcript. null: reference, text, sentence, …"
    )
    language: str | None = Field(None, description="Column of the language code. null: language, lang or locale.")
    speaker: str | None = Field(None, description="Column that is stored as the metadata key `speaker`. null: speaker.")
    call_id: str | None = Field(
        None, description="Column of the id that the recordings of one call share. null: call_id, if there is one."
    )
    rttm: str | None = Field(
        None, description="Column of the path of an RTTM file with speaker turns. null: rttm, if there is one."
    )
    prompt: str | None = Field(
        None, description="Column of a recording's prompt, in manifests. null: prompt, if there is one."
    )
    hotwords: str | None = Field(
        None,
        description="Column of a recording's hotwords, in manifests: a list, or text with commas. null: hotwords, if"
        " there is one.",
    )


class InputConfig(Section):
    """The recordings to transcribe."""

    uri: tuple[str, ...] = Field(
        (),
        description="Input: a folder, a glob (** is supported), a file or a manifest (.jsonl, .csv, .tsv, .parquet),"
        " local or any fsspec URL; one or a list.",
    )
    format: str = Field(
        "auto",
        description="Format of the input. Set it if the detected format is wrong. "
        + "; ".join(f"{name}: {text}" for name, text in READERS.describe().items())
        + "; or the import path of another reader, my_package.module:reader.",
    )
    shards: str = Field(
        "audio_{shard_id}.tar",
        description="Name pattern of the tar files of a NeMo tarred manifest, next to the manifest: {shard_id} is the"
        " shard's number; a range such as audio_{0..127}.tar is also possible.",
    )
    columns: ColumnsConfig = ColumnsConfig()
    references: Literal["auto", "none"] = Field(
        "auto",
        description="auto: read references from *.trans.txt and name.txt files next to the audio. none: do not look for"
        " them, which saves requests on large buckets.",
    )
    speakers: Literal["auto", "none"] = Field(
        "auto",
        description="auto: read speaker turns from name.rttm files next to the audio and from the column rttm of a"
        " manifest, and store the speaker of every word and segment. none: do not look for them.",
    )

    allow_external_paths: bool = Field(
        False,
        description="Allow manifests to name files outside of their own folder and of input.base_dir, such as other"
        " buckets or absolute paths.",
    )
    base_dir: str | None = Field(
        None,
        description="Second base folder for relative paths of a manifest, such as the root of a Kaldi or ESPnet recipe."
        " Files below it are allowed without input.allow_external_paths. null: the manifest's own folder only.",
    )
    channels: Literal["mix", "first", "split"] = Field(
        "mix",
        description="Use of files with several channels. mix: the mean of the channels. first: the first channel only."
        " split: each channel is a recording of its own, with the ids name#0, name#1, …; reads every file's header"
        " unless a column num_channels has the number.",
    )
    channel_names: tuple[str, ...] = Field(
        (),
        description="Names of the speakers on the channels 0, 1, … of a file, such as [agent, customer]. A name is"
        " stored as the metadata key `speaker`, for exports with group=call and for scoring.group_by. A channel"
        " without a name has no speaker.",
    )
    max_duration_s: float = Field(
        43_200.0, gt=0, description="Maximum duration of a recording, in seconds. A longer one fails with too_long."
    )

    @field_validator("uri", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        return READERS.check(value)

    @field_validator("base_dir")
    @classmethod
    def _a_folder(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("must be a folder, or null for none")
        return value

    @field_validator("channel_names")
    @classmethod
    def _distinct_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not name.strip() for name in value) or len(set(value)) < len(value):
            raise ValueError("must be distinct names that are not empty")
        return value

    @field_validator("uri")
    @classmethod
    def _not_blank(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not uri.strip() for uri in value):
            raise ValueError("must not contain an empty string")
        return value


class OutputConfig(Section):
    """Location of the transcripts."""

    uri: str = Field(
        "",
        description="Folder of the output, local or any fsspec URL. Recordings that it already contains are not"
        " transcribed again.",
    )
    on_settings_change: Literal["fail", "keep", "redo"] = Field(
        "fail",
        description="Action if the output has rows made with other settings. fail: stop with an error. keep: count"
        " these rows as done. redo: transcribe their recordings again, and replace the rows when all new ones are"
        " written.",
    )
    deleted_sources: Literal["keep", "list", "remove"] = Field(
        "keep",
        description="Action for rows of recordings that the input no longer lists. keep: count them in the summary."
        " list: also name them in deleted_sources.csv of the run's folder. remove: list them and remove their rows at"
        " the end of the run. distil-ray forget removes a recording from all files of the output.",
    )
    max_deleted_fraction: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Maximum share of the output's rows that output.deleted_sources=remove, or distil-ray forget"
        " deleted_sources=true, removes at once. More are kept: the input is then probably not the whole one.",
    )
    lease_s: float = Field(
        300.0,
        ge=3,
        description="Seconds after which the lease of a run that died on another machine expires, so that other runs"
        " may write to the output.",
    )
    partition: date | None = Field(
        None,
        description="Date of the partition to write to, transcripts/date=YYYY-MM-DD/. Rows of other partitions still"
        " count as done. distil-ray nightly sets it to the date of the run.",
    )


class StorageConfig(Section):
    """Access to storage. Credentials come from the environment, never from the config."""

    endpoint_url: str | None = Field(None, description="URL of the S3 endpoint. null: AWS_ENDPOINT_URL, otherwise AWS.")
    region: str | None = Field(None, description="S3 region. null: AWS_REGION or AWS_DEFAULT_REGION.")
    anonymous: bool = Field(False, description="Read public buckets without credentials.")
    max_attempts: int = Field(5, ge=1, le=20, description="Maximum number of attempts of a request.")
    timeout_s: float = Field(60.0, gt=0, description="Seconds without a response after which a request is retried.")
    fetch_threads: int = Field(
        4, ge=1, le=64, description="Number of recordings that a decode task fetches in advance, in parallel."
    )

    @field_validator("endpoint_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value
