"""The context of a run: its settings, the locations of its files, and the fingerprint of its settings.

    OUTPUT/transcripts/[date=YYYY-MM-DD/]task-<hash>.parquet     one row per recording
    OUTPUT/runs/<run_id>/config.yaml  plan/  parts/  summary.json  groups.csv  failed.csv  events.jsonl
                         report.html  _SUCCESS

The driver makes one `Run`. It is frozen and is pickled to every stage, so that no stage reads the environment, the
clock or the command line.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from distil_ray.chunking.base import Chunker, ChunkSizes, load_chunker
from distil_ray.config import Config, Section
from distil_ray.config.recognition import GREEDY
from distil_ray.errors import SettingsError
from distil_ray.languages import select_languages
from distil_ray.recognition.capabilities import load_capabilities
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize
from distil_ray.types import SAMPLE_RATE

RUNS_FOLDER = "runs"  # below the output: one folder per run
SUCCESS_FILE = "_SUCCESS"  # in a run's folder: every listed recording has its row
DELETED_SOURCES_FILE = "deleted_sources.csv"  # in a run's folder: rows whose recordings are no longer listed
PARTS_FOLDER = "parts"  # in a run's folder: results of parts until their task is complete; deleted at the end

# Part of the fingerprint. Increase it whenever the code changes transcripts for the same settings.
RECOGNITION_VERSION = 11

# Decoding settings in every fingerprint. Do not add new ones here: that would change the fingerprints of all outputs.
_ALWAYS_HASHED = frozenset(
    {
        "language",
        "task",
        "timestamps",
        "max_new_tokens",
        "language_detection_chunks",
        "no_speech_threshold",
        "logprob_threshold",
        "compression_ratio_threshold",
        "temperatures",
    }
)

# The windows of a section are decoded one after the other, so that only different sections fill a batch.
PART_SECTIONS = 16
MAX_LONG_FORM_PART_S = 7200.0  # 230 MB of PCM; the largest `plan.part_audio_s`

PARTITION_PREFIX = "date="  # followed by the date: folder of a partition, as pandas, DuckDB and others read it


@dataclass(frozen=True, slots=True)
class ChunkingPlan:
    """The cutting of recordings into chunks: the chunking settings with every ``auto`` resolved.

    Attributes:
        strategy: Value of `chunking.strategy`.
        length: Longest chunk, in samples.
        stride: Audio shared with each neighbor, in samples; 0 where the strategy has no stride.
        search: Region in which the cut is searched, in samples; 0 where the strategy does not search.
        reason: Why this length, for the log.
        overlaps: Chunks share audio, so that their transcripts are merged by tokens (`Chunker.overlaps`).
        omits_audio: Some audio may be in no chunk (`Chunker.omits_audio`).
        long_form: Chunks are sections with several windows (`Chunker.long_form`).
        settings: Name and value of the strategy's own settings that differ from their defaults (`Chunker.create`).
    """

    strategy: str
    length: int
    stride: int
    search: int
    reason: str
    overlaps: bool = False
    omits_audio: bool = False
    long_form: bool = False
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def sizes(self) -> ChunkSizes:
        """Returns the lengths that the chunker is constructed with."""
        return ChunkSizes(self.length, self.stride, self.search)

    def describe(self) -> dict[str, Any]:
        """Returns the plan for summary.json, in seconds. Lengths that are 0 are left out."""
        lengths = {"length_s": self.length, "stride_s": self.stride, "search_s": self.search}
        return {
            "strategy": self.strategy,
            **{name: samples / SAMPLE_RATE for name, samples in lengths.items() if samples},
            "overlaps": self.overlaps,
            "omits_audio": self.omits_audio,
            **({"settings": dict(self.settings)} if self.settings else {}),
            "long_form": self.long_form,
            "reason": self.reason,
        }

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> Self:
        """Returns the plan that `describe` has written into a summary.

        Raises:
            KeyError: A key is missing.
        """
        samples = {name: round(description.get(f"{name}_s", 0.0) * SAMPLE_RATE) for name in ("stride", "search")}
        length = round(description["length_s"] * SAMPLE_RATE)
        flags = {name: description.get(name, False) for name in ("overlaps", "omits_audio", "long_form")}
        settings = tuple(description.get("settings", {}).items())
        return cls(description["strategy"], length, **samples, reason=description["reason"], **flags, settings=settings)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a stage needs; pickled to every task."""

    config: Config
    run_id: str
    fingerprint: str
    model_identity: str  # the checkpoint, pinned to a hash of its weights
    model_revision: str | None  # commit of the model hub that actors download; None for other weights
    languages: tuple[str, ...]  # codes that the model supports; ("en",) if it is English-only
    chunking: ChunkingPlan
    detects_language: bool = True  # if False, each recording needs a language, unless the model has only one

    @property
    def storage(self) -> Storage:
        return Storage(self.config.storage)

    @property
    def detectable_languages(self) -> tuple[str, ...]:
        """Returns the codes among which a language is detected: all of the model, or `decoding.languages`."""
        return select_languages(self.config.decoding.languages, self.languages)

    @property
    def transcripts_uri(self) -> str:
        return join(normalize(self.config.output.uri), "transcripts")

    @property
    def partition_uri(self) -> str:
        """Returns the folder of this run's transcripts: that of all transcripts, or one of its partitions."""
        day = self.config.output.partition
        return join(self.transcripts_uri, f"{PARTITION_PREFIX}{day.isoformat()}") if day else self.transcripts_uri

    @property
    def folder_uri(self) -> str:
        """Returns the run's own folder."""
        return join(normalize(self.config.output.uri), RUNS_FOLDER, self.run_id)

    @property
    def plan_uri(self) -> str:
        return join(self.folder_uri, "plan")

    @property
    def tokenizer_uri(self) -> str:
        """URI of a copy of the tokenizer. The write stage uses it to merge overlapping chunks by tokens."""
        return join(self.folder_uri, "tokenizer")

    @property
    def part_audio_s(self) -> float:
        """Longest part in seconds: `plan.part_audio_s`; with sections, enough of them for a full batch."""
        least = min(PART_SECTIONS * self.chunking.length / SAMPLE_RATE, MAX_LONG_FORM_PART_S)
        return max(self.config.plan.part_audio_s, least) if self.chunking.long_form else self.config.plan.part_audio_s

    def task_uri(self, task_id: str) -> str:
        return join(self.partition_uri, f"task-{task_id}.parquet")

    def parts_uri(self, task_id: str) -> str:
        """Returns the folder in which the results of a task's parts are stored until all are there."""
        return join(self.folder_uri, PARTS_FOLDER, task_id)


def new_run_id() -> str:
    """Returns a run id from date and time (UTC) to the millisecond. Ids sort by age."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}{now.microsecond // 1000:03d}Z"


def parse_start(run_id: str) -> datetime | None:
    """Returns the time in an id of `new_run_id`; None for other ids."""
    try:
        return datetime.strptime(run_id, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def resolve_chunking(config: Config, checkpoint_length_s: float, checkpoint_reason: str) -> ChunkingPlan:
    """Resolves the ``auto`` lengths of the chunking settings.

    Args:
        config: Settings of the run.
        checkpoint_length_s: Chunk length in seconds that suits the checkpoint (whisper/checkpoint.py).
        checkpoint_reason: Why that length suits it, for the log.

    Raises:
        SettingsError: The strategy cannot be loaded, settings of another strategy are set, or stride or search region
            are too long for the chunks.
    """
    chunking = config.chunking
    chunker = load_chunker(chunking.strategy)
    if not isinstance(chunking.length_s, str):
        length_s, reason = float(chunking.length_s), "chunking.length_s is set"
    elif chunker.default_length_s is not None:
        length_s, reason = chunker.default_length_s, f"default of chunking.strategy={chunking.strategy}"
    else:
        length_s, reason = checkpoint_length_s, checkpoint_reason
    for name, longest_s in (("stride_s", length_s / 2), ("search_s", length_s)):
        if not isinstance(value := getattr(chunking, name), str) and value >= longest_s:
            raise SettingsError(
                f"chunking.{name}={value:g}: must be less than {longest_s:g}, as chunks have {length_s:g} s ({reason})"
            )
    return ChunkingPlan(
        strategy=chunking.strategy,
        length=round(length_s * SAMPLE_RATE),
        stride=_num_samples(chunking.stride_s, chunker.stride_fraction, length_s),
        search=_num_samples(chunking.search_s, chunker.search_fraction, length_s),
        reason=reason,
        overlaps=chunker.overlaps,
        omits_audio=chunker.omits_audio,
        long_form=chunker.long_form,
        settings=_strategy_settings(config, chunker),
    )


def _strategy_settings(config: Config, chunker: type[Chunker]) -> tuple[tuple[str, Any], ...]:
    """Returns name and value of the settings of a strategy that differ from their defaults.

    Raises:
        SettingsError: The section of another strategy is not left at its defaults.
    """
    chunking = config.chunking
    sections = {name: value for name, value in chunking if isinstance(value, Section)}
    changed = {name: section.model_dump(exclude_defaults=True) for name, section in sections.items()}
    for name, values in changed.items():
        if values and name != chunker.settings_name:
            found = ", ".join(f"chunking.{name}.{key}={value}" for key, value in values.items())
            raise SettingsError(
                f"{found}: not used by chunking.strategy={chunking.strategy}. Set chunking.strategy to {name}, or leave"
                " it out"
            )
    return tuple(changed.get(chunker.settings_name or "", {}).items())


def _num_samples(setting: str | float, fraction: float | None, length_s: float) -> int:
    """Returns the samples of a stride or search region; 0 if the strategy has none (`fraction` is None)."""
    if fraction is None:
        return 0
    return round((length_s * fraction if isinstance(setting, str) else setting) * SAMPLE_RATE)


def resolve_window(config: Config) -> str:
    """Returns `chunking.window` with ``auto`` resolved: gated where strategy, recognizer and attention support it."""
    if config.chunking.window != "auto":
        return config.chunking.window
    if load_chunker(config.chunking.strategy).long_form:
        return "full"
    can = load_capabilities(config.model.recognizer).gated_windows and config.model.attention in ("auto", "sdpa")
    return "gated" if can else "full"


def compute_fingerprint(config: Config, model_identity: str, chunking: ChunkingPlan) -> str:
    """Returns a hash of every setting that can change a transcript; 16 hex digits.

    Not included: batch size, assistant, threads, device, number of actors (a transcript does not depend on them
    beyond the rounding of 16-bit arithmetic), the flags that make a row doubtful, and everything about scoring, storage
    and planning. A decoding setting that is not in `_ALWAYS_HASHED` is included only where it differs from its default
    (for beams: from greedy decoding), so that a new setting does not change the fingerprints of existing outputs.
    """
    settings = config.decoding.model_dump(exclude={"batch_size", "speculative", "doubtful_flags"})
    defaults = type(config.decoding)(**GREEDY).model_dump()
    decoding = {name: value for name, value in settings.items() if name in _ALWAYS_HASHED or value != defaults[name]}
    if config.decoding.language != "auto":
        decoding.pop("language_detection_chunks")
    hashed = {
        "version": RECOGNITION_VERSION,
        "model": model_identity,
        "recognizer": config.model.recognizer,
        "dtype": config.model.dtype,
        "decoding": decoding,
        "chunking": [chunking.strategy, chunking.length, chunking.stride, chunking.search, resolve_window(config)],
        # the language of a recording is detected from chunks of its first part
        "part_audio_s": config.plan.part_audio_s if config.decoding.language == "auto" else None,
    }
    if chunking.settings:
        hashed["chunking_settings"] = dict(chunking.settings)
    if config.input.channels != "mix":  # the default is not hashed, so that it changes no fingerprint
        hashed["channels"] = config.input.channels
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()[:16]
