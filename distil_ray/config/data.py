"""Sections `input`, `output` and `storage`."""

from datetime import date
from typing import Any, Literal

from pydantic import Field, field_validator

from distil_ray.config.base import Section
from distil_ray.registry import READERS


class ColumnsConfig(Section):
    """Column names of a manifest or table, where they differ from the known names."""

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
    """The recordings to transcribe."""

    uri: tuple[str, ...] = Field(
        (),
        description="folder, glob (** too), file or manifest (.jsonl, .csv, .tsv, .parquet), local or any fsspec URL; "
        "one or a list",
    )
    format: str = Field(
        "auto",
        description="format of what is at input.uri: "
        + "; ".join(f"{name}: {text}" for name, text in READERS.describe().items())
        + "; or the import path of another reader, my_package.module:reader",
    )
    shards: str = Field(
        "audio_{shard_id}.tar",
        description="NeMo's tarred manifests: the tars beside them, by number, or a range such as audio_{0..127}.tar",
    )
    columns: ColumnsConfig = ColumnsConfig()
    references: Literal["auto", "none"] = Field(
        "auto", description="auto: take references from *.trans.txt and from sidecar name.txt files beside the audio"
    )

    allow_external_paths: bool = Field(
        False,
        description="a manifest may name files outside of its own folder (and of base_dir): other buckets, any path",
    )
    base_dir: str | None = Field(
        None,
        description="folder in which relative paths of a manifest are looked for if they are not below the manifest's"
        " own folder: the root of a Kaldi or ESPnet recipe. What it holds may be named without allow_external_paths",
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

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        return READERS.check(value)

    @field_validator("base_dir")
    @classmethod
    def _a_folder(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("an empty string is no folder; null for none")
        return value

    @field_validator("uri")
    @classmethod
    def _not_blank(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if any(not uri.strip() for uri in value):
            raise ValueError("an empty string is no location")
        return value


class OutputConfig(Section):
    """Location of the transcripts."""

    uri: str = Field(
        "", description="folder of the output, local or any fsspec URL; what it holds already is not done again"
    )
    on_settings_change: Literal["fail", "keep", "redo"] = Field(
        "fail",
        description="rows made with other settings in the output: refuse to run (fail), count them as done (keep), or "
        "recognize their recordings again and replace the rows once all are written (redo)",
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


class StorageConfig(Section):
    """Access to storage. Credentials come from the environment, never from the config."""

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
