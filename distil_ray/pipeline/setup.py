"""Setup of a run: settings resolved and checked, ledger read, run folder prepared.

Everything here happens before Ray and the models are started, so that wrong settings are reported at once, with exit
code 2 (`SettingsError`).
"""

import json
from dataclasses import dataclass, replace

from rich.console import Console

from distil_ray.chunking.base import check_lengths, load_chunker
from distil_ray.cli.console import format_count, log_field
from distil_ray.config import Config
from distil_ray.config.loader import dump_config, require_locations
from distil_ray.errors import SettingsError
from distil_ray.output.forgotten import Forgotten
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_index import IndexUpdate
from distil_ray.output.run_context import (
    PARTS_FOLDER,
    SUCCESS_FILE,
    Run,
    compute_fingerprint,
    new_run_id,
    resolve_chunking,
)
from distil_ray.output.run_outcome import OUTCOME_FILE
from distil_ray.output.run_settings import settings_change_error
from distil_ray.pipeline.assistant_selection import select_assistant
from distil_ray.pipeline.capacity import require_local_capacity
from distil_ray.pipeline.int8_dtypes import describe_local_dtype
from distil_ray.pipeline.model_setup import ModelInfo, StorageFolderReader, resolve_beams, resolve_model
from distil_ray.pipeline.transcript_rows import store_tokenizer
from distil_ray.recognition.capabilities import NATIVE, load_capabilities
from distil_ray.recognition.memory_estimate import estimate_memory_mb
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import join, normalize
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.checkpoint import assistant_mismatch, load_checkpoint_info
from distil_ray.whisper.weights_cache import WeightsError


@dataclass(frozen=True, slots=True)
class RunSetup:
    """A run resolved from its settings alone."""

    run: Run
    model: ModelInfo  # the checkpoint: identity, languages, chunk length, folder of its config


def prepare_run(config: Config, console: Console) -> RunSetup:
    """Returns the resolved run and its checkpoint. Reads neither input nor output.

    Raises:
        SettingsError: If a setting is wrong, or the checkpoint or its assistant cannot be used.
    """
    require_locations(config)
    return resolve_run(config, console)


def resolve_run(config: Config, console: Console) -> RunSetup:
    """Returns the resolved run and its checkpoint for settings that need not name an input and an output.

    Raises:
        SettingsError: If a setting is wrong, or the checkpoint or its assistant cannot be used.
    """
    chunking = config.chunking
    check_lengths(chunking.strategy, chunking.length_s, chunking.stride_s, chunking.search_s)
    load_chunker(chunking.strategy).check_requirements()
    model = resolve_model(config)
    config = select_assistant(config, model.identity, console)
    _require_assistant(config, model)
    return RunSetup(build_run(config, model, console), model)


def check_capacity(config: Config) -> None:
    """Raises `SettingsError` if the run would start a local Ray that can never hold a recognizer and a decode task."""
    require_local_capacity(config.resources, _count_gpus)


def _count_gpus() -> int:
    from distil_ray.pipeline.ray_cluster import count_local_gpus  # imports Ray, which takes a second

    return count_local_gpus()


def build_run(config: Config, model: ModelInfo, console: Console) -> Run:
    """Returns the run of these settings with this model; logs the model and the chunking that were chosen."""
    config = resolve_beams(_read_hotwords(config))
    chunking = resolve_chunking(config, model.chunk_length_s, model.chunk_length_reason)
    log_field("model", model.identity, console, model=model.identity)
    omission = "; audio may be left out" if chunking.omits_audio else ""
    longest_s = chunking.length / SAMPLE_RATE
    log_field(
        "chunking",
        f"{chunking.strategy}, at most {longest_s:g} s ({chunking.reason}){omission}",
        console,
        **chunking.describe(),
    )
    if (num_beams := config.decoding.beam_count) > 1:
        selection = config.decoding.beam_selection
        log_field("beams", f"{num_beams}, selected by {selection}", console, num_beams=num_beams, selection=selection)
    run = Run(
        config=config,
        run_id=config.run_id or new_run_id(),
        fingerprint=compute_fingerprint(config, model.identity, chunking),
        model_identity=model.identity,
        model_revision=model.revision,
        languages=model.languages,
        detects_language=model.detects_language,
        chunking=chunking,
    )
    return reserve_memory(run, model, describe_local_dtype(config, console))


def reserve_memory(run: Run, model: ModelInfo, dtype: str) -> Run:
    """Returns the run with a number, or None, for `resources.actor_memory_mb=auto`; `dtype` is what actors compute."""
    config = run.config
    if config.resources.actor_memory_mb != "auto":
        return run
    memory_mb = None
    if (
        load_capabilities(config.model.recognizer) is NATIVE.capabilities
        and not config.resources.gpus_per_actor
        and model.config_dir is not None
    ):
        decoding = config.decoding
        memory_mb = estimate_memory_mb(
            json.loads((model.config_dir / "config.json").read_text(encoding="utf-8")),
            dtype=dtype,
            batch_size=None if decoding.batch_size == "auto" else decoding.batch_size,
            num_texts=max(decoding.beam_count, decoding.best_of),
            has_assistant=config.has_assistant and decoding.speculative != "off",
            max_new_tokens=decoding.max_new_tokens,
            part_audio_s=run.part_audio_s,
        )
    resources = config.resources.model_copy(update={"actor_memory_mb": memory_mb})
    return replace(run, config=config.model_copy(update={"resources": resources}))


def _read_hotwords(config: Config) -> Config:
    """Returns the settings with the hotwords themselves where `decoding.hotwords` names a file.

    The words, not the name of the file, are part of the fingerprint.

    Raises:
        SettingsError: The file cannot be read, or is not text in UTF-8.
    """
    location = config.decoding.hotwords
    if not isinstance(location, str):
        return config
    try:
        lines = Storage(config.storage).read(normalize(location)).decode("utf-8-sig").splitlines()
    except (StorageError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"decoding.hotwords={location}: must be a list of words, or a text file with one per line ({error})"
        ) from error
    words = tuple(word.strip() for word in lines if word.strip())
    return config.model_copy(update={"decoding": config.decoding.model_copy(update={"hotwords": words})})


def read_ledger(run: Run, update: IndexUpdate | None = None) -> Ledger:
    """Reads the ledger of the output; `update` gets what its index lacks.

    With `output.on_settings_change=keep`, rows of other settings get the keys of this run and so count as done.
    """
    keep = run.config.output.on_settings_change == "keep"
    try:
        output = normalize(run.config.output.uri)
        return Ledger.read(output, run.storage, run.fingerprint if keep else None, update)
    except StorageError as error:
        raise SettingsError(f"output.uri={run.config.output.uri}: {error}") from error


def check_output(run: Run) -> Ledger:
    """Returns the ledger. Raises `SettingsError` for rows of other settings if `output.on_settings_change=fail`."""
    ledger = read_ledger(run)
    if run.config.output.on_settings_change == "fail" and set(ledger.fingerprints) - {run.fingerprint}:
        raise settings_change_error(run, ledger)
    return ledger


def read_forgotten(run: Run, console: Console) -> Forgotten:
    """Returns the hashes of the recordings that were removed on request; warns of requests that are not finished."""
    output = normalize(run.config.output.uri)
    try:
        forgotten = Forgotten.read(output, run.storage)
    except StorageError as error:
        raise SettingsError(f"output.uri={run.config.output.uri}: {error}") from error
    if forgotten.pending:
        words = f"{format_count(len(forgotten.pending), 'request')} to forget recordings not finished"
        log_field("warning", f"{words}: run distil-ray forget {output}", console, level="warning")
    return forgotten


def clear_run_folder(run: Run) -> None:
    """Removes plan, parts, outcome and success marker of an earlier attempt with the same `run_id`."""
    for name in (SUCCESS_FILE, OUTCOME_FILE):
        run.storage.delete_file(join(run.folder_uri, name))
    for name in ("plan", PARTS_FOLDER):
        run.storage.delete(join(run.folder_uri, name))


def write_run_settings(prepared: RunSetup) -> None:
    """Writes config.yaml, and the tokenizer where commit tasks merge overlapping chunks by tokens."""
    run = prepared.run
    run.storage.put(join(run.folder_uri, "config.yaml"), dump_config(run.config).encode())
    if run.chunking.overlaps:
        store_tokenizer(run, prepared.model.require_config_dir(f"chunking.strategy={run.chunking.strategy}"))


def _require_assistant(config: Config, model: ModelInfo) -> None:
    """Raises `SettingsError` for an assistant that cannot draft for the checkpoint, before weights are fetched."""
    name = config.model.assistant
    if name is None or config.decoding.speculative == "off":
        return
    try:
        assistant = load_checkpoint_info(
            name, None, config.model.cache_dir, StorageFolderReader(Storage(config.storage))
        )
    except WeightsError as error:
        raise SettingsError(str(error).replace("model.name=", "model.assistant=")) from error
    if reason := assistant_mismatch(model.require_config_dir("model.assistant"), assistant.config_dir):
        raise SettingsError(
            f"model.assistant={name} cannot draft for {config.model.name}: {reason}. Set model.assistant to"
            " another checkpoint, or to null"
        )
