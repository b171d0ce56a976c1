"""Another transcript of the same recordings, by id: what a second model, or other chunks, made of them.

It comes from the output of another run, which may hold all of the recordings or a sample. Its texts wait on the local
disk; in memory are 24 bytes a recording.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.errors import SettingsError
from distil_ray.output.ledger import KEY, TRANSCRIPTS, Keys, Ledger, id_keys
from distil_ray.output.ledger_rows import current_rows, read_rows
from distil_ray.storage.storage import Storage, StorageError, normalize
from distil_ray.types import Status

BATCH_ROWS = 1024
_TEXT = pa.schema([("text", pa.string())])


class SecondPass:
    """Texts by recording id; none where there is no second pass."""

    def __init__(self, ids: Keys, rows: NDArray[np.int64], reader: Any) -> None:
        self._ids, self._rows, self._reader = ids, rows, reader

    @classmethod
    @contextmanager
    def open(cls, uri: str | None, storage: Storage) -> Iterator[Self]:
        """Raises `SettingsError` where that output holds no transcripts."""
        if uri is None:
            yield cls(np.empty(0, KEY), np.empty(0, np.int64), None)
            return
        try:
            ledger = Ledger.read(normalize(uri), storage)
        except StorageError as error:
            raise SettingsError(f"labels.second_output_uri={uri}: {error}") from error
        if not ledger.num_rows:
            raise SettingsError(f"labels.second_output_uri={uri}: has no transcripts (no rows in {TRANSCRIPTS}/)")
        with tempfile.TemporaryDirectory(prefix="distil-ray-second-") as folder:
            path = Path(folder) / "texts.arrow"
            ids = _spill(ledger, path, storage)
            order = np.argsort(ids)
            with pa.memory_map(str(path)) as source:
                yield cls(ids[order], order, pa.ipc.open_file(source))

    def text(self, recording_id: str) -> str | None:
        """What the other run heard; None where it has not heard this recording."""
        key = id_keys([recording_id])[0]
        place = int(np.searchsorted(self._ids, key))
        if place == len(self._ids) or self._ids[place] != key:
            return None
        batch, row = divmod(int(self._rows[place]), BATCH_ROWS)
        text: str = self._reader.get_batch(batch)["text"][row].as_py()
        return text


def _spill(ledger: Ledger, path: Path, storage: Storage) -> Keys:
    """Writes the texts of transcripts that came about, `BATCH_ROWS` in a batch; gives the keys of their ids."""
    ids: list[str] = []
    with pa.ipc.new_file(str(path), _TEXT) as sink:
        texts: list[str] = []
        for row in read_rows(ledger, current_rows(ledger), ["recording_id", "status", "text"], storage):
            if row["status"] in (Status.OK, Status.EMPTY):
                ids.append(row["recording_id"])
                texts.append(row["text"] or "")
            if len(texts) == BATCH_ROWS:
                sink.write_batch(pa.record_batch([texts], schema=_TEXT))
                texts = []
        sink.write_batch(pa.record_batch([texts], schema=_TEXT))
    return id_keys(ids)
