"""Rows that other settings have made: which settings these were, in the words of the config.

The rows name their run, and the run's folder has its config. Compared are the keys that can change a transcript, as
they were written, so that a config of another version of this program can be read too; the weights are compared by
what they are, not by their name. Called where a run is about to be refused, so it may look for a while.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from distil_ray.errors import SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import RUNS_FOLDER, Run
from distil_ray.storage.storage import MissingError, Storage, join, normalize

KINDS_SHOWN = 3  # of other settings
CHANGING = ("input.channels", "model.recognizer", "model.dtype", "decoding.", "chunking.", "plan.part_audio_s")
NOT_CHANGING = ("decoding.batch_size", "decoding.speculative")
WITH_DETECTION = (
    "decoding.language_detection_chunks",
    "plan.part_audio_s",
)  # these only where the language is detected
ABSENT = "(not set)"


@dataclass(frozen=True, slots=True)
class SettingsGroup:
    """Rows of one fingerprint: how many, and the run and model of one of them."""

    fingerprint: str
    num_rows: int
    run_id: str
    model: str


def settings_change_error(run: Run, ledger: Ledger) -> SettingsError:
    """The error for an output that holds rows of other settings: which keys differ, and what can be done."""
    kinds = list(_settings_groups(run, ledger))
    num_rows = sum(kind.num_rows for kind in kinds)
    lines = [
        f"output.uri={run.config.output.uri}: holds {num_rows} rows that were made with other settings"
        f" (this run's fingerprint is {run.fingerprint}):"
    ]
    for kind in kinds[:KINDS_SHOWN]:
        lines.append(f"  {kind.num_rows} by run {kind.run_id} (fingerprint {kind.fingerprint})")
        lines += [f"    {difference}" for difference in _differences(run, kind)]
    lines.append(
        "Take these settings, or another output.uri, or say what is meant: output.on_settings_change=redo recognizes"
        " those recordings again and replaces their rows once all are there; keep lets them stand and count as done."
    )
    return SettingsError("\n".join(lines))


def _settings_groups(run: Run, ledger: Ledger) -> Iterator[SettingsGroup]:
    """The fingerprints beside this run's, the most frequent first."""
    others = {name: rows for name, rows in ledger.fingerprints.items() if name != run.fingerprint}
    found: dict[str, SettingsGroup] = {}
    for uri in ledger.files:
        if len(found) == len(others):
            break
        with run.storage.open(uri) as file:
            rows = pq.ParquetFile(file).read(columns=["fingerprint", "run_id", "model"])
        for name in pc.unique(rows["fingerprint"]).to_pylist():
            if name in others and name not in found:
                row = rows.filter(pc.equal(rows["fingerprint"], name)).slice(0, 1).to_pylist()[0]
                found[name] = SettingsGroup(name, others[name], row["run_id"], row["model"])
    yield from sorted(found.values(), key=lambda kind: -kind.num_rows)


def _differences(run: Run, kind: SettingsGroup) -> Iterator[str]:
    uri = join(normalize(run.config.output.uri), RUNS_FOLDER, kind.run_id, "config.yaml")
    try:
        theirs = _relevant(read_run_settings(uri, run.storage))
    except (MissingError, ValueError):
        yield f"their config is not there any more, or cannot be read ({uri})"
        theirs = None
    mine = _relevant(run.config.model_dump(mode="json"))
    changed = [
        key for key in sorted(mine | (theirs or {})) if theirs is not None and _get(mine, key) != _get(theirs, key)
    ]
    if kind.model != run.model_identity:
        yield f"model: was {kind.model}, is {run.model_identity}"
    elif not changed and theirs is not None:
        yield "no key differs: they were made by another version of this program, which recognizes otherwise"
    for key in changed:
        yield f"{key}: was {_get(theirs or {}, key)}, is {_get(mine, key)}"


def read_run_settings(uri: str, storage: Storage) -> Mapping[str, Any]:
    """A run's stored config as it was written, by whichever version. Raises ValueError for what is none."""
    try:
        tree = yaml.safe_load(storage.read(uri))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    if not isinstance(tree, dict):
        raise ValueError("no keys and values")
    return tree


def _relevant(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys that can change a transcript."""
    flat = dict(_flatten(tree, ""))
    detects = flat.get("decoding.language") == "auto"
    skipped: tuple[str, ...] = NOT_CHANGING if detects else NOT_CHANGING + WITH_DETECTION
    if flat.get("input.channels") == "mix":  # as in a config from before there was a choice
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


DEFAULT_MODE = "mix"  # what was done before there was a choice
RUNS_REMEMBERED = 4096


class ChannelModes:
    """`input.channels` of the runs of an output, each read once."""

    def __init__(self, output_uri: str, otherwise: str, storage: Storage) -> None:
        self._output_uri, self._otherwise, self._storage = output_uri, otherwise, storage
        self.of_run = lru_cache(RUNS_REMEMBERED)(self._read)

    def _read(self, run_id: str | None) -> str:
        """Raises `StorageError` where the store does not answer."""
        if not run_id:
            return self._otherwise
        try:
            tree = read_run_settings(join(self._output_uri, RUNS_FOLDER, run_id, "config.yaml"), self._storage)
        except (MissingError, ValueError):
            return self._otherwise
        given = tree.get("input")
        return str(given.get("channels", DEFAULT_MODE)) if isinstance(given, dict) else self._otherwise
