"""The choice of `labels.packing=auto`: how utterances are joined, from what the transcripts contain.

An existing data set keeps its packing as long as all other settings are the same, so that new transcripts do not make a
data set of two kinds. Otherwise the transcripts decide. The settings of a data set contain the chosen value and never
`auto`: giving the same value in the config changes no example.
"""

import json
from typing import Any, NamedTuple

from distil_ray.config import LabelsConfig
from distil_ray.output.ledger import Ledger, list_data_files
from distil_ray.output.ledger_rows import current_rows, read_rows
from distil_ray.pseudo_labels.dataset_schema import DATA
from distil_ray.pseudo_labels.existing_dataset import read_dataset_file
from distil_ray.schema import parse_metadata
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join


class PackingChoice(NamedTuple):
    """A value of `labels.packing` other than `auto`, and the reason for it."""

    packing: str
    reason: str


def choose_packing(
    ledger: Ledger, labels: LabelsConfig, dataset_uri: str, settings: str, storage: Storage
) -> PackingChoice:
    """Returns the packing of the existing data set, or the one that suits the transcripts.

    Args:
        ledger: Ledger of the output.
        labels: Section `labels`.
        dataset_uri: URI of the data set, which need not exist.
        settings: Settings of the build as JSON (`LabelSource.settings`), with any packing.
        storage: Storage of the output.
    """
    if (existing := _find_existing_packing(dataset_uri, settings, storage)) is not None:
        return PackingChoice(existing, "as in the existing examples")
    return _choose_by_transcripts(ledger, labels, storage)


def _find_existing_packing(dataset_uri: str, settings: str, storage: Storage) -> str | None:
    """Returns the packing of the first file of examples whose other settings are the same; None without such a file."""
    _, wanted = _split_settings(settings)
    for uri in list_data_files(join(dataset_uri, DATA), storage):
        packing, others = _split_settings(read_dataset_file(uri, True, storage).settings)
        if others == wanted:
            return packing
    return None


def _split_settings(settings: str) -> tuple[str | None, dict[str, Any]]:
    """Returns the packing and all other settings."""
    found = json.loads(settings)
    labels = dict(found.get("labels", {}))
    packing = labels.pop("packing", None)
    return packing, found | {"labels": labels}


def _choose_by_transcripts(ledger: Ledger, labels: LabelsConfig, storage: Storage) -> PackingChoice:
    """Reads only as many transcripts as the choice needs: all metadata only if no recording has a speaker."""
    rows, column, statuses = current_rows(ledger), labels.speaker_column, labels.filters.statuses
    for row in read_rows(ledger, rows, ["recording_id", "status", "metadata"], storage):
        if row["status"] in statuses and parse_metadata(row).get(column):
            return PackingChoice("speaker", f"recordings have a speaker (labels.speaker_column={column})")
    unknown = f"no recording has a speaker (labels.speaker_column={column})"
    for row in read_rows(ledger, rows, ["recording_id", "status", "chunks"], storage):
        if row["status"] in statuses and len(row["chunks"] or ()) > 1:
            return PackingChoice("recording", f"{unknown}, and recordings have several utterances")
    return PackingChoice("none", f"{unknown}, and each recording is one utterance")
