"""Pseudo-labels from recordings: the transcription, and the training data set that is made of it.

The first half is a run like any other (driver.py), with its resume, faults and accounting; what labels need of it is
set here, and said. The second half (build.py) reads the output and the recordings' audio, and can be done alone.
"""

from dataclasses import asdict

from rich.console import Console

from distil_ray.chunking.base import load_chunker
from distil_ray.cli.console import log_field
from distil_ray.config import Config
from distil_ray.config.loader import require_locations
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.pipeline import runner
from distil_ray.pipeline.model_setup import resolve_model
from distil_ray.pseudo_labels.build import build
from distil_ray.pseudo_labels.dataset_schema import DATASET, MAX_SAMPLES
from distil_ray.pseudo_labels.existing_dataset import splits_held
from distil_ray.pseudo_labels.splits import Shares, group_of
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import SAMPLE_RATE

MAX_CHUNK_S = MAX_SAMPLES / SAMPLE_RATE


def pseudo_label(config: Config, console: Console, *, labels_only: bool = False, force: bool = False) -> ExitCode:
    """Transcribes what the output lacks, then brings its data set up to date; the worse of both outcomes."""
    if labels_only:  # what as_labels_need asks of a transcription the build sees in the transcripts
        return build(config, console, force=force)
    config = as_labels_need(config, console)
    _look_at_speakers(config, console)
    from distil_ray.pipeline import ray_cluster

    with ray_cluster.keep_cluster():
        code = runner.transcribe(config, console, force=force)
        return max(code, build(config, console, force=force))


def as_labels_need(config: Config, console: Console) -> Config:
    """The config with what labels cannot do without: times, and chunks that are shorter than 30 s.

    Raises `SettingsError` for chunks that overlap.
    """
    require_locations(config)
    if load_chunker(config.chunking.strategy).overlaps:
        raise SettingsError(
            f"chunking.strategy={config.chunking.strategy}: its chunks overlap, so that words would be in two labels."
            " Take a strategy without overlap, such as quiet"
        )
    decoding, chunking = config.decoding, config.chunking
    if config.labels.timestamp_share > 0 and decoding.timestamps == "none":
        decoding = decoding.model_copy(update={"timestamps": "segment"})
        log_field("note", "decoding.timestamps=segment: labels.timestamp_share asks for times", console)
    if _chunk_length_s(config) > MAX_CHUNK_S:
        chunking = chunking.model_copy(update={"length_s": MAX_CHUNK_S})
        log_field("note", f"chunking.length_s={MAX_CHUNK_S:g}: the trainer drops examples of 30 s", console)
    return config.model_copy(update={"decoding": decoding, "chunking": chunking})


def _chunk_length_s(config: Config) -> float:
    if not isinstance(config.chunking.length_s, str):
        return config.chunking.length_s
    return resolve_model(config).chunk_length_s


def _look_at_speakers(config: Config, console: Console) -> None:
    """Looks at the input's speakers before anything is transcribed.

    Raises `SettingsError` if utterances are to be packed by speaker and the input names none; tells which
    `labels.validation_share` would do if this one leaves a split empty. The listing is read as far as is needed to
    know.
    """
    labels = config.labels
    storage = Storage(config.storage)
    needs_speaker = labels.packing == "speaker"
    needs_splits = labels.validation_share > 0
    if not needs_speaker and not needs_splits:
        return
    shares = Shares(labels)
    keys: set[str] = set()
    listing = list_recordings(config.input, storage, IndexCache(config.output.uri, storage))
    for recording in listing:
        speaker = recording.metadata.get(labels.speaker_column)
        needs_speaker = needs_speaker and not speaker
        if needs_speaker:
            keys |= set(recording.metadata)
        if recording.error is None:
            shares.add(group_of(speaker, recording.uri, asdict(recording.location) if recording.location else None))
        if not needs_speaker and (not needs_splits or shares.has_both):
            return
    if not shares.num_groups:
        return  # an empty listing has its own message
    if needs_speaker:
        found = f"the metadata have {', '.join(sorted(keys))}" if keys else "they have no metadata"
        raise SettingsError(
            f"labels.packing=speaker needs the speaker of each recording, and none of the input's has the column"
            f" labels.speaker_column={labels.speaker_column} ({found}). Name the column, or take"
            " labels.packing=recording (joins utterances of one recording) or none"
        )
    if note := shares.note(splits_held(join(config.output.uri, DATASET), storage)):
        log_field("note", note, console)
