"""Settings of earlier runs, from the config.yaml in their run folders: differences to this run, channel modes.

A row names its run, and the run folder has the config. Only keys that can change a transcript are compared, as plain
YAML, so that configs of other versions of this program can be read; models are compared by identity (hash of the
weights), not by name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow.compute as pc
import yaml

from distil_ray.config import Config
from distil_ray.config.recognition import GREEDY, DecodingConfig
from distil_ray.errors import SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import RUNS_FOLDER, Run
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError
from distil_ray.storage.uris import join, normalize

GROUPS_SHOWN = 3  # fingerprints that the error message lists
CHANGING = ("input.channels", "model.recognizer", "model.dtype", "decoding.", "chunking.", "plan.part_audio_s")
NOT_CHANGING = ("decoding.batch_size", "decoding.speculative")
# Keys that matter only if the language is detected.
WITH_DETECTION = ("decoding.language_detection_chunks", "plan.part_audio_s")
ABSENT = "(not set)"


@dataclass(frozen=True, slots=True)
class SettingsGroup:
    """Rows with one fingerprint."""

    fingerprint: str
    num_rows: int
    run_id: str  # run of one of the rows
    model: str  # identity of its model


def settings_change_error(run: Run, ledger: Ledger) -> SettingsError:
    """Returns the error for an output with rows of other settings: the keys that differ, and the remedies."""
    groups = list(_settings_groups(run, ledger))
    num_rows = sum(group.num_rows for group in groups)
    lines = [
        f"output.uri={run.config.output.uri}: contains {num_rows} rows that were made with other settings"
        f" (this run's fingerprint is {run.fingerprint}):"
    ]
    for group in groups[:GROUPS_SHOWN]:
        lines.append(f"  {group.num_rows} by run {group.run_id} (fingerprint {group.fingerprint})")
        lines += [f"    {difference}" for difference in _differences(run, group)]
    lines.append(
        "Use those settings, or another output.uri, or set output.on_settings_change: redo transcribes these recordings"
        " again and replaces their rows at the end; keep counts the rows as done and does not change them."
    )
    return SettingsError("\n".join(lines))


def _settings_groups(run: Run, ledger: Ledger) -> Iterator[SettingsGroup]:
    """Yields the groups with other fingerprints than this run's, the largest first."""
    others = {name: rows for name, rows in ledger.fingerprints.items() if name != run.fingerprint}
    found: dict[str, SettingsGroup] = {}
    for uri in ledger.files:
        if len(found) == len(others):
            break
        with run.storage.open(uri) as file:
            rows = open_parquet(file).read(columns=["fingerprint", "run_id", "model"])
        for name in pc.unique(rows["fingerprint"]).to_pylist():
            if name in others and name not in found:
                row = rows.filter(pc.equal(rows["fingerprint"], name)).slice(0, 1).to_pylist()[0]
                found[name] = SettingsGroup(name, others[name], row["run_id"], row["model"])
    yield from sorted(found.values(), key=lambda group: -group.num_rows)


def _differences(run: Run, group: SettingsGroup) -> Iterator[str]:
    uri = join(normalize(run.config.output.uri), RUNS_FOLDER, group.run_id, "config.yaml")
    old_name = None
    try:
        settings = read_run_settings(uri, run.storage)
        stored = _relevant(settings)
        old_name = dict(_flatten(settings, "")).get("model.name")
    except (MissingError, ValueError):
        yield f"their config is missing or cannot be read ({uri})"
        stored = None
    current = _relevant(run.config.model_dump(mode="json"))
    if stored is not None:  # a setting that did not exist then had the effect of its default
        defaults = _relevant(Config(decoding=DecodingConfig(**GREEDY)).model_dump(mode="json"))
        stored = {key: value for key, value in defaults.items() if key in current} | stored
    changed = [
        key
        for key in sorted(current | (stored or {}))
        if stored is not None and _get(current, key) != _get(stored, key)
    ]
    if group.model != run.model_identity:
        yield _model_difference(old_name, run.config.model.name, group.model, run.model_identity)
    elif not changed and stored is not None:
        yield "no setting differs: the rows were made by a version of this program that gives other results"
    for key in changed:
        yield f"{key}: was {_get(stored or {}, key)}, is {_get(current, key)}"


def _model_difference(old_name: str | None, name: str, old_identity: str, identity: str) -> str:
    """Returns the difference of two models by the names that users have set, with the identities of their weights."""
    if old_name is None:
        return f"model: was {old_identity}, is {identity}"
    if old_name == name:
        return f"model.name={name}: its weights have changed, from {old_identity} to {identity}"
    return f"model.name: was {old_name} ({old_identity}), is {name} ({identity})"


def read_run_settings(uri: str, storage: Storage) -> Mapping[str, Any]:
    """Returns the stored config of a run as plain YAML. Raises ValueError if it is not a mapping."""
    try:
        tree = yaml.safe_load(storage.read(uri))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(tree, dict):
        raise ValueError("not a mapping")
    return tree


def _relevant(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that can change a transcript, by dotted key."""
    flat = dict(_flatten(tree, ""))
    detects = flat.get("decoding.language") == "auto"
    skipped: tuple[str, ...] = NOT_CHANGING if detects else NOT_CHANGING + WITH_DETECTION
    if flat.get("input.channels") == "mix":  # the default, which old configs do not have
        skipped += ("input.channels",)
    return {key: value for key, value in flat.items() if key.startswith(CHANGING) and key not in skipped}


def _flatten(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _get(flat: Mapping[str, Any], key: str) -> Any:
    value = flat.get(key, ABSENT)
    return "null" if value is None else value


DEFAULT_MODE = "mix"  # of configs from before the setting existed
RUNS_REMEMBERED = 4096


class ChannelModes:
    """The setting `input.channels` of the runs of an output, for code that decodes their audio again.

    Each run's config is read once. Where it is missing or cannot be read, the given default is used.

    Args:
        output_uri: Normalized URI of the output.
        default: `input.channels` of the config at hand.
        storage: Storage of the output.
    """

    def __init__(self, output_uri: str, default: str, storage: Storage) -> None:
        self._output_uri, self._default, self._storage = output_uri, default, storage
        self.of_run = lru_cache(RUNS_REMEMBERED)(self._read)

    def _read(self, run_id: str | None) -> str:
        """Returns the channel mode of a run. Raises `StorageError` if the storage does not answer."""
        if not run_id:
            return self._default
        try:
            tree = read_run_settings(join(self._output_uri, RUNS_FOLDER, run_id, "config.yaml"), self._storage)
        except (MissingError, ValueError):
            return self._default
        given = tree.get("input")
        return str(given.get("channels", DEFAULT_MODE)) if isinstance(given, dict) else self._default
