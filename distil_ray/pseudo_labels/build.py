"""The build of a training data set from the transcripts of an output.

    transcripts ──> utterances ──> filters ──> plan ──> shards ──────> card
     rows not yet    chunks with   rejected    packed,   CPU tasks      statistics of
     in the data     tokens and    rows with   labels    one file each, the files that
     set             metrics       reasons     written   put if absent  exist now
    [driver, streamed]                         [Parquet] [any node]     [driver]

The data set is its own ledger (`existing_dataset.py`): an interrupted build is finished first, new transcripts become
new examples in new shards, and examples of replaced transcripts are removed. Nothing is transcribed here.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console

from distil_ray.cli import signals
from distil_ray.cli.console import format_duration, log_field
from distil_ray.config import Config, LabelsConfig
from distil_ray.config.loader import require_output_location
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.lease import acquire_lease
from distil_ray.output.ledger import TRANSCRIPTS, Ledger, isin_sorted, list_data_files
from distil_ray.output.ledger_rows import Rows, current_rows, read_rows
from distil_ray.output.run_context import new_run_id
from distil_ray.output.run_settings import ChannelModes
from distil_ray.pipeline.model_setup import resolve_model
from distil_ray.pseudo_labels.dataset_card import write_card
from distil_ray.pseudo_labels.dataset_schema import DATA, DATASET, PLAN, Row
from distil_ray.pseudo_labels.existing_dataset import (
    DatasetFile,
    ExistingDataset,
    add_missing_columns,
    is_audio_missing_file,
    read_dataset_file,
    remove_stale_rows,
    source_keys,
    split_from_file_name,
)
from distil_ray.pseudo_labels.filters import RejectedWriter, ScoredUtterance
from distil_ray.pseudo_labels.hub import upload_to_hub
from distil_ray.pseudo_labels.packing import plan_shards
from distil_ray.pseudo_labels.packing_choice import choose_packing
from distil_ray.pseudo_labels.shards import ShardContext, ShardResult, make_shard
from distil_ray.pseudo_labels.splits import SplitShares, format_split_group
from distil_ray.pseudo_labels.statistics import DatasetStatistics
from distil_ray.pseudo_labels.utterance_quality import SecondPass
from distil_ray.pseudo_labels.utterances import TRANSCRIPT_COLUMNS, UtteranceBuilder
from distil_ray.schema import parse_metadata, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize
from distil_ray.whisper.tokenizer import Tokens


@dataclass(slots=True)
class UtteranceCounts:
    """Numbers of utterances of a build, and the duration of their audio."""

    num_kept: int = 0
    kept_s: float = 0.0
    num_rejected: int = 0
    rejected_s: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)
    num_timed: int = 0  # with timestamp tokens
    num_spoken_by: int = 0  # with a speaker

    @property
    def had_text(self) -> bool:
        """True if any utterance had text for the filters to check."""
        return bool(self.num_kept or set(self.reasons) - {"status", "no_text"})

    def add(self, scored: ScoredUtterance) -> None:
        if not scored.reasons:
            self.num_kept += 1
            self.kept_s += scored.row["duration_s"]
            self.num_timed += scored.row["is_timed"]
            self.num_spoken_by += scored.row["speaker"] is not None
            return
        self.num_rejected += 1
        self.rejected_s += scored.row["duration_s"]
        self.reasons.update(scored.reasons)

    def print(self, console: Console) -> None:
        log_field("kept", f"{self.num_kept:,} utterances, {format_duration(self.kept_s)}", console)
        if self.num_rejected:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.reasons.most_common())
            log_field(
                "rejected", f"{self.num_rejected:,} utterances, {format_duration(self.rejected_s)}: {reasons}", console
            )


@dataclass(frozen=True, slots=True)
class BuildResult:
    """The result of a build. `num_existing` counts the examples that the data set had, without those that this build
    is to replace, and with those of an interrupted build that this one finished."""

    num_existing: int
    made: list[ShardResult]
    counts: UtteranceCounts
    config: Config

    @property
    def num_lost(self) -> int:
        return sum(one.num_lost for one in self.made)

    @property
    def num_total(self) -> int:
        return self.num_existing + sum(one.num_examples + one.num_lost for one in self.made)

    @property
    def lost_too_many(self) -> str | None:
        """Returns the limit that is exceeded (`Config.too_many_failed`), or None."""
        return self.config.too_many_failed(self.num_lost, self.num_total) if self.num_lost else None


def report_result(
    figures: DatasetStatistics, outcome: BuildResult, is_current: bool, config: Config, console: Console
) -> ExitCode:
    """Prints the result of a build and returns its exit code.

    `is_current`: all of the data set was made with these settings, or output.on_settings_change=keep.

    Raises:
        SettingsError: No transcript has any text.
    """
    lost, total = outcome.num_lost, outcome.num_total
    if lost:
        why = next(one.why for one in outcome.made if one.why)
        log_field("without audio", f"{lost:,} of {total:,} examples, retried by the next build: {why}", console)
    if not (figures.num_examples and is_current) and not lost:
        if not outcome.counts.had_text and not figures.had_text:
            raise SettingsError(f"output.uri={config.output.uri}: none of its transcripts has text to make labels from")
        hint = "--sweep shows what each threshold would keep; labels.filters sets them"
        log_field("nothing kept", f"the filters reject every utterance ({figures.reason_words()}). {hint}", console)
        return ExitCode.TOO_MANY_FAILED
    if exceeded := outcome.lost_too_many:
        log_field("too many", f"{lost:,} of {total:,} examples lack their audio, {exceeded}", console)
        return ExitCode.TOO_MANY_FAILED
    return ExitCode.DONE


LABELS_VERSION = 4  # increases when the code writes different examples for the same settings
PLAN_COMPLETE = "_COMPLETE"  # marker file in the plan's folder: the plan is complete
# Settings that change no example and may differ between builds, such as `shard_audio_s`.
SETTINGS_NOT_IN_EXAMPLES = {"shard_audio_s", "push_to_hub", "push_private"}


@dataclass(frozen=True, slots=True)
class LabelSource:
    """The transcripts that a data set is made from, with the settings and the tokenizer.

    `requires_speaker`: `labels.packing=speaker` was given, so that transcripts without any speaker are an error.
    """

    config: Config
    output: str
    tokens: Tokens
    model: str
    storage: Storage
    requires_speaker: bool = False

    @classmethod
    def open(cls, config: Config) -> "LabelSource":
        """Resolves the model and the output. Raises `SettingsError` for settings that cannot give a data set."""
        storage = Storage(config.storage)
        require_output_location(config)
        model = resolve_model(config)
        tokens = Tokens.load(model.require_config_dir("pseudo-labeling"))
        requires_speaker = config.labels.packing == "speaker"
        return cls(config, normalize(config.output.uri), tokens, model.identity, storage, requires_speaker)

    @property
    def dataset_uri(self) -> str:
        return join(self.output, DATASET)

    @property
    def settings(self) -> str:
        """The settings that determine the examples, as JSON, for the metadata of the files."""
        labels = self.config.labels.model_dump(mode="json", exclude=SETTINGS_NOT_IN_EXAMPLES)
        facts = {"version": LABELS_VERSION, "model": self.model, "task": self.config.decoding.task, "labels": labels}
        return json.dumps(facts | {"normalizer": self.config.scoring.normalizer}, sort_keys=True)

    def read_ledger(self) -> Ledger:
        """Reads the output's ledger. Raises `SettingsError` for an output without transcripts."""
        try:
            ledger = Ledger.read(self.output, self.storage)
        except StorageError as error:
            raise SettingsError(f"output.uri={self.config.output.uri}: {error}") from error
        if not ledger.num_rows:
            raise SettingsError(
                f"output.uri={self.config.output.uri}: has no transcripts (no rows in {TRANSCRIPTS}/) to label with."
                " Run without --labels-only and --sweep to transcribe first"
            )
        return ledger

    def score_utterances(self, ledger: Ledger, rows: Rows) -> Iterator[ScoredUtterance]:
        """Yields the utterances of some of the ledger's rows, with metrics and reasons for rejection."""
        config = self.config
        builder = UtteranceBuilder(config.labels, Scorer(config.scoring), self.tokens, config.decoding.task)
        channel_modes = ChannelModes(self.output, config.input.channels, self.storage)
        with SecondPass.open(config.labels.second_output_uri, self.storage) as second:
            ordered = rows[np.lexsort((ledger.row[rows], ledger.file[rows]))]
            sources = iter(source_keys(ledger, ordered).tolist())
            for row in read_rows(ledger, rows, list(TRANSCRIPT_COLUMNS), self.storage):
                if row["model"] != self.model:
                    raise SettingsError(
                        f"model.name={config.model.name}: the transcripts in {self.output} were made by {row['model']},"
                        f" this is {self.model}, whose tokens may differ. Set it to the model that made them"
                    )
                channels = channel_modes.of_run(row["run_id"])
                yield from builder.build(row, next(sources).decode(), channels, second.text(row["recording_id"]))


def build(config: Config, console: Console, *, force: bool = False) -> ExitCode:
    """Updates the data set of an output to its transcripts.

    Returns:
        Exit code 3 if the filters keep nothing, or if the audio of more examples than `max_failed_fraction` allows
        cannot be read; otherwise 0.
    """
    source = LabelSource.open(config)
    run_id, lease_s = f"labels-{new_run_id()}", config.output.lease_s
    with acquire_lease(
        source.output, run_id, lease_s, source.storage, force=force, on_lost=signals.raise_in_main_thread
    ) as lease:
        ledger = source.read_ledger()
        source = _resolve_packing(source, ledger, console)
        work = ShardContext(source.config, source.dataset_uri, join(source.output, *PLAN), source.settings)
        replaced = _to_be_replaced(source)
        kept = ExistingDataset.read(source.dataset_uri, source.storage, [one.uri for one in replaced])
        if completed := add_missing_columns(kept, source.storage):
            log_field(
                "updated", f"{completed:,} files of an earlier version, adding the columns that they lacked", console
            )
        _finish_earlier(work, console)
        num_existing, counts = _plan(source, ledger, work, replaced, console)
        _warn_about_empty_split(source, ledger, work, replaced, console)
        lease.check()
        outcome = BuildResult(num_existing, _make_shards(work, console), counts, config)
        is_current = _replace(replaced, source, outcome, console)
        if is_current:
            figures = write_card(source.dataset_uri, source.settings, source.storage)
        else:
            figures = DatasetStatistics.read(source.dataset_uri, source.storage)
    for line in figures.lines():
        log_field("data set", line, console)
    log_field("output", source.dataset_uri, console)
    code = report_result(figures, outcome, is_current, config, console)
    if config.labels.push_to_hub is not None and figures.num_examples and is_current:
        upload_to_hub(source.dataset_uri, config.labels, source.storage, console)
    return code


def _resolve_packing(source: LabelSource, ledger: Ledger, console: Console) -> LabelSource:
    """Returns the source with the packing that `labels.packing=auto` stands for, and prints the choice."""
    labels = source.config.labels
    if labels.packing != "auto":
        return source
    choice = choose_packing(ledger, labels, source.dataset_uri, source.settings, source.storage)
    text = f"labels.packing={choice.packing}: {choice.reason}"
    log_field("packing", text, console, packing=choice.packing, reason=choice.reason)
    chosen = labels.model_copy(update={"packing": choice.packing})
    return replace(source, config=source.config.model_copy(update={"labels": chosen}))


def _to_be_replaced(source: LabelSource) -> list[DatasetFile]:
    """Returns the files made with other settings that are to be replaced, by `output.on_settings_change`.

    Raises:
        SettingsError: There are such files and the setting is `fail`.
    """
    choice = source.config.output.on_settings_change
    existing = ExistingDataset.read(source.dataset_uri, source.storage)
    others = [one for one in existing.files if one.settings != source.settings]
    if choice == "keep":
        return []
    if choice == "fail" and any(one.is_data for one in others):
        before, now = json.loads(others[0].settings), json.loads(source.settings)
        differing = ", ".join(sorted(_differing(before, now))) or "the version of this program"
        if not before:
            differing = f"{others[0].uri} does not state them"
        raise SettingsError(
            f"{source.dataset_uri}: its examples were made with other settings ({differing}). Set"
            " output.on_settings_change to redo (make all examples again) or keep (keep them and add new ones), or"
            " use the settings that made them"
        )
    return others


def _replace(replaced: list[DatasetFile], source: LabelSource, outcome: BuildResult, console: Console) -> bool:
    """Deletes the files made with other settings, once new examples exist.

    Returns False if the files stay: this build made no examples, or the audio of too many cannot be read.
    """
    if not replaced:
        return True
    rows = f"{sum(len(one.names) for one in replaced):,} rows made with other settings"
    own = ExistingDataset.read(source.dataset_uri, source.storage, [one.uri for one in replaced])
    if any(one.is_data for one in replaced) and (outcome.lost_too_many or not own.num_examples):
        log_field("not replaced", f"{rows} are kept until a build has made new examples", console)
        return False
    for one in replaced:
        source.storage.delete(one.uri)
    log_field("replaced", rows, console)
    return True


def _differing(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Returns the dotted names of the settings that differ."""
    old, new = _flat(before), _flat(now)
    return (key for key in {*old, *new} if old.get(key) != new.get(key))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _finish_earlier(work: ShardContext, console: Console) -> None:
    """Writes the shards that an interrupted build has planned; an incomplete plan is deleted."""
    storage, marker = work.storage, join(work.plan_uri, PLAN_COMPLETE)
    if storage.stat(marker) is not None and storage.read(marker).decode() == work.settings:
        log_field("resumed", "an earlier build was interrupted; its shards are finished first", console)
        _make_shards(work, console)
    else:
        storage.delete(work.plan_uri)


def _plan(
    source: LabelSource, ledger: Ledger, work: ShardContext, replaced: list[DatasetFile], console: Console
) -> tuple[int, UtteranceCounts]:
    """Plans the examples that the data set lacks, ignoring the files in `replaced`; writes the rejected utterances.

    Returns the number of examples that it has, and the counts of the utterances that it lacked.
    """
    storage, labels = source.storage, source.config.labels
    rows = current_rows(ledger)
    sources = source_keys(ledger, rows)
    replaced_uris = [one.uri for one in replaced]
    existing = ExistingDataset.read(source.dataset_uri, storage, replaced_uris)
    if dropped := remove_stale_rows(existing, sources, storage):
        log_field("removed", f"{dropped:,} rows of replaced transcripts", console)
        existing = ExistingDataset.read(source.dataset_uri, storage, replaced_uris)
    todo = rows[~isin_sorted(sources, existing.settled)]
    log_field("transcripts", f"{len(rows):,}, {len(todo):,} of them not in the data set yet", console)
    counts, rejected = UtteranceCounts(), RejectedWriter(work.dataset_uri, work.settings, storage)
    missing = (one for one in source.score_utterances(ledger, todo) if existing.wants(one.row["source"]))
    requires_speaker = source.requires_speaker and not existing.num_examples
    kept = _filter_utterances(missing, counts, rejected, labels, requires_speaker=requires_speaker)
    task = source.config.decoding.task
    shards = plan_shards(kept, labels, source.tokens, task, work.settings, alone=existing.unread)
    for shard in shards:
        storage.put(join(work.plan_uri, shard.name), to_parquet_bytes(shard.rows))
    storage.put(join(work.plan_uri, PLAN_COMPLETE), work.settings.encode())
    rejected.finish()
    for one in existing.files:
        if is_audio_missing_file(one.uri):  # all of it has been planned again
            storage.delete(one.uri)
    counts.print(console)
    return existing.num_examples, counts


def _warn_about_empty_split(
    source: LabelSource, ledger: Ledger, work: ShardContext, replaced: list[DatasetFile], console: Console
) -> None:
    """Warns about an empty split before the shards are written: `load_dataset` fails for a missing split."""
    storage, labels = source.storage, source.config.labels
    replaced_uris = {one.uri for one in replaced}
    existing = [uri for uri in list_data_files(join(work.dataset_uri, DATA), storage) if uri not in replaced_uris]
    files = [*list_data_files(work.plan_uri, storage), *existing]
    splits = {split_from_file_name(uri) for uri in files}
    if labels.validation_share == 0 or len(splits) != 1:
        return
    kept = np.unique(np.concatenate([read_dataset_file(uri, True, storage).sources for uri in files]))
    rows = current_rows(ledger)
    rows = rows[isin_sorted(source_keys(ledger, rows), kept)]
    shares = SplitShares(labels)
    for row in read_rows(ledger, rows, ["recording_id", "uri", "location", "metadata"], storage):
        shares.add(format_split_group(parse_metadata(row).get(labels.speaker_column), row["uri"], row["location"]))
    kept_so = "examples of other settings, kept by output.on_settings_change=keep, stay in their split"
    log_field("note", shares.note(splits) or f"there is no split but {min(splits)}: {kept_so}", console)


def _filter_utterances(
    scored: Iterator[ScoredUtterance],
    counts: UtteranceCounts,
    rejected: RejectedWriter,
    labels: LabelsConfig,
    *,
    requires_speaker: bool,
) -> Iterator[Row]:
    """Yields the rows that pass the filters; the others go to `rejected`.

    Raises:
        SettingsError: No row has the speaker or the timestamps that the settings need. Raised at the end of the rows,
            before anything is written.
    """
    for one in scored:
        counts.add(one)
        if one.reasons:
            rejected.add(one)
        else:
            yield one.row
    if counts.num_kept and requires_speaker and not counts.num_spoken_by:
        raise SettingsError(
            f"labels.packing=speaker needs the speaker of each recording, and no transcript has the metadata"
            f" labels.speaker_column={labels.speaker_column}. Set the column, or set labels.packing to auto, which"
            " joins utterances of one recording if there are several"
        )
    if counts.num_kept and labels.timestamp_share > 0 and not counts.num_timed:
        raise SettingsError(
            f"labels.timestamp_share={labels.timestamp_share:g}: the transcripts have no timestamp tokens."
            " Transcribe with decoding.timestamps=segment (and output.on_settings_change=redo), or set it to 0"
        )


def _make_shards(work: ShardContext, console: Console) -> list[ShardResult]:
    """Writes the shards of the plan on the cluster, then deletes the plan."""
    storage = work.storage
    names = [uri.rsplit("/", 1)[-1] for uri in list_data_files(work.plan_uri, storage)]
    made: list[ShardResult] = []
    if names:
        from distil_ray.pipeline import ray_cluster

        resources = work.config.resources
        with ray_cluster.connect_cluster(resources) as words:
            signals.restore_handlers()
            log_field("on", words, console)
            with closing(
                ray_cluster.map_on_cluster(partial(make_shard, work=work), names, resources.decode_cpus)
            ) as tasks:
                for one in tasks:
                    made.append(one)
                    audio_s = sum(other.audio_s for other in made)
                    log_field(
                        "shards", f"{len(made):,} of {len(names):,}, {format_duration(audio_s)} of audio", console
                    )
    storage.delete(work.plan_uri)
    return made
