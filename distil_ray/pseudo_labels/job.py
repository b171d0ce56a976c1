"""The pseudo-label command: transcribes the recordings, then builds the training data set.

The transcription is an ordinary run (`pipeline/runner.py`), with its resume, error handling and accounting; settings
that labels need are set here and logged. The build (`build.py`) reads the output and the audio of the recordings, and
can run alone.
"""

from dataclasses import asdict

from rich.console import Console

from distil_ray.chunking.base import load_chunker
from distil_ray.cli.console import log_field
from distil_ray.config import Config
from distil_ray.config.loader import require_locations
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.run_context import RUNS_FOLDER, new_run_id
from distil_ray.output.run_outcome import record_later_steps, write_outcome
from distil_ray.pipeline import runner
from distil_ray.pipeline.model_setup import resolve_model
from distil_ray.pipeline.plan_report import show_plan
from distil_ray.pseudo_labels.build import build
from distil_ray.pseudo_labels.dataset_schema import DATASET, MAX_SAMPLES
from distil_ray.pseudo_labels.existing_dataset import list_existing_splits
from distil_ray.pseudo_labels.splits import SplitShares, format_split_group
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join, normalize
from distil_ray.types import SAMPLE_RATE

MAX_CHUNK_S = MAX_SAMPLES / SAMPLE_RATE


def pseudo_label(config: Config, console: Console, *, labels_only: bool = False, force: bool = False) -> ExitCode:
    """Transcribes the missing recordings, then updates the data set; returns the higher of both exit codes."""
    if labels_only:  # the build checks in the transcripts what apply_label_requirements asks of a run
        return build(config, console, force=force)
    config = apply_label_requirements(config, console)
    _check_speakers(config, console)
    from distil_ray.pipeline import ray_cluster

    config = config.model_copy(update={"run_id": config.run_id or new_run_id()})
    folder = join(normalize(config.output.uri), RUNS_FOLDER, str(config.run_id))
    storage = Storage(config.storage)
    with ray_cluster.keep_cluster():
        code = runner.transcribe(config, console, force=force, is_last_step=False)
        with record_later_steps(folder, config.output.lease_s, storage):
            code = max(code, build(config, console, force=force))
    write_outcome(folder, code, "", storage)
    return code


def show_label_plan(config: Config, console: Console) -> ExitCode:
    """Prints the transcription that is left, with the settings that labels need. Writes nothing."""
    config = apply_label_requirements(config, console)
    _check_speakers(config, console)
    return show_plan(config, console)


def apply_label_requirements(config: Config, console: Console) -> Config:
    """Returns the config with the settings that labels need: timestamps, and chunks shorter than 30 s.

    Raises `SettingsError` for chunks that overlap.
    """
    require_locations(config)
    if load_chunker(config.chunking.strategy).overlaps:
        raise SettingsError(
            f"chunking.strategy={config.chunking.strategy}: its chunks overlap, so words would be in two labels."
            " Use a strategy without overlap, such as quiet"
        )
    if load_chunker(config.chunking.strategy).long_form:
        raise SettingsError(
            f"chunking.strategy={config.chunking.strategy}: its windows may have 30 s, and the trainer drops examples"
            " of that length. Use a strategy with shorter chunks, such as quiet"
        )
    decoding, chunking = config.decoding, config.chunking
    if config.labels.timestamp_share > 0 and decoding.timestamps == "none":
        decoding = decoding.model_copy(update={"timestamps": "segment"})
        log_field("note", "decoding.timestamps=segment: labels.timestamp_share needs timestamps", console)
    if _chunk_length_s(config) > MAX_CHUNK_S:
        chunking = chunking.model_copy(update={"length_s": MAX_CHUNK_S})
        log_field("note", f"chunking.length_s={MAX_CHUNK_S:g}: the trainer drops examples of 30 s", console)
    return config.model_copy(update={"decoding": decoding, "chunking": chunking})


def _chunk_length_s(config: Config) -> float:
    if not isinstance(config.chunking.length_s, str):
        return config.chunking.length_s
    return resolve_model(config).chunk_length_s


def _check_speakers(config: Config, console: Console) -> None:
    """Checks the speakers of the input before anything is transcribed.

    Raises `SettingsError` if `labels.packing=speaker` and the input has no speakers. Suggests a
    `labels.validation_share` if the configured one leaves a split empty. Only as much of the listing is read as the
    check needs.
    """
    labels = config.labels
    storage = Storage(config.storage)
    needs_speaker = labels.packing == "speaker"
    needs_splits = labels.validation_share > 0
    if not needs_speaker and not needs_splits:
        return
    shares = SplitShares(labels)
    keys: set[str] = set()
    listing = list_recordings(config.input, storage, IndexCache(config.output.uri, storage))
    for recording in listing:
        speaker = recording.metadata.get(labels.speaker_column)
        needs_speaker = needs_speaker and not speaker
        if needs_speaker:
            keys |= set(recording.metadata)
        if recording.error is None:
            shares.add(
                format_split_group(speaker, recording.uri, asdict(recording.location) if recording.location else None)
            )
        if not needs_speaker and (not needs_splits or shares.has_both):
            return
    if not shares.num_groups:
        return  # an empty listing has its own message
    if needs_speaker:
        found = f"the metadata have {', '.join(sorted(keys))}" if keys else "they have no metadata"
        raise SettingsError(
            f"labels.packing=speaker needs the speaker of each recording, and none of the input's has the column"
            f" labels.speaker_column={labels.speaker_column} ({found}). Set the column, or set"
            " labels.packing to auto, which joins utterances of one recording if there are several"
        )
    if note := shares.note(list_existing_splits(join(config.output.uri, DATASET), storage)):
        log_field("note", note, console)
