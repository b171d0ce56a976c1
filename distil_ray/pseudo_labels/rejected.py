"""Utterances that are no labels, with every reason against each: kept as rows, a few thousand to a file.

They wait on the local disk until the plan of the rest is whole.
"""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.pseudo_labels.dataset_schema import REJECTED, Row
from distil_ray.pseudo_labels.existing_dataset import rejected_bytes, rejected_uri
from distil_ray.pseudo_labels.utterances import Judged
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE

FILE_ROWS = 5000


class Rejected:
    """Gathers rejected utterances, and writes them when asked to."""

    def __init__(self, dataset_uri: str, settings: str, storage: Storage) -> None:
        self._dataset_uri, self._settings, self._storage = dataset_uri, settings, storage
        self._folder = tempfile.TemporaryDirectory(prefix="distil-ray-rejected-")
        self._rows: list[Row] = []
        self._num_files = 0

    def add(self, judged: Judged) -> None:
        self._rows.append(_row(judged))
        if len(self._rows) == FILE_ROWS:
            self._spill()

    def finish(self) -> None:
        """Writes them all; nothing that stands there already is written twice."""
        if self._rows:
            self._spill()
        for path in sorted(Path(self._folder.name).iterdir()):
            table = pq.read_table(path)
            names = table["utterance_source"].to_pylist()
            uri = rejected_uri(self._dataset_uri, self._settings, names, "rejected")
            self._storage.put_if_absent(uri, rejected_bytes(table, self._settings))
        self._folder.cleanup()

    def _spill(self) -> None:
        path = Path(self._folder.name) / f"{self._num_files:06d}.parquet"
        pq.write_table(pa.Table.from_pylist(self._rows, schema=REJECTED), path)
        self._num_files += 1
        self._rows = []


def _row(judged: Judged) -> Row:
    row = judged.row
    return {
        **{name: row[name] for name in REJECTED.names if name in row},
        "id": row["utterance_id"],
        "reasons": list(judged.reasons),
        "is_final": True,
        "utterance_source": row["source"],
        "start_s": row["start"] / SAMPLE_RATE,
        "transcript": row["text"],
        "text": row["reference"] or "",
    }
