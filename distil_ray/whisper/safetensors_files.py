"""Tensors in safetensors files, read one by one into memory of their own.

Mapping a file instead would keep every page that was ever read in the resident memory of the process, beside the copies
that are arranged for a computation.
"""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.whisper.model_folders import list_safetensors
from distil_ray.whisper.weights_cache import WeightsError

MAX_HEADER_BYTES = 100 * 2**20  # the limit of the format
MAX_KEPT_ROWS = 8192  # of `StoredRows`; texts of one language use a few thousand tokens
MIN_KEPT_ROWS = 256  # allocated at first
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """Place of a tensor: the file, the first byte in it, and the form of the numbers."""

    path: Path
    begin: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * prod(self.shape[1:])


class StoredTensors:
    """The tensors of a model folder by their names. Nothing but the headers is read before it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Reads the headers of model.safetensors, or of the files that the index lists.

        Raises:
            WeightsError: A file is missing or damaged.
        """
        self._folder = folder
        self._entries: dict[str, _Entry] = {}
        for path in list_safetensors(folder):
            self._entries |= _read_header(path)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def read(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """Returns a tensor on the CPU.

        Args:
            name: Its name.
            dtype: Of the result.
            shape: That it must have.

        Raises:
            WeightsError: It is missing, or has another shape.
        """
        entry = self._find(name, shape)
        stored = torch.empty(entry.shape, dtype=entry.dtype)
        with open(entry.path, "rb", buffering=0) as file:
            _read_into(file, entry.begin, _bytes_of(stored))
        return stored.to(dtype)

    def rows(self, name: str, dtype: torch.dtype, shape: tuple[int, int]) -> "StoredRows":
        """Returns the rows of a matrix, for tables of which few rows are used. Arguments as for `read`."""
        return StoredRows(self._find(name, shape), dtype)

    def _find(self, name: str, shape: tuple[int, ...]) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise WeightsError(f"{self._folder}: the weights lack the tensor {name}")
        if entry.shape != shape:
            raise WeightsError(f"{self._folder}: {name} has the shape {entry.shape}; config.json requires {shape}")
        return entry


class StoredRows:
    """Rows of a matrix in a file, each read at its first use and kept; all are forgotten when there are too many."""

    def __init__(self, entry: _Entry, dtype: torch.dtype) -> None:
        self._file = open(entry.path, "rb", buffering=0)  # noqa: SIM115 - closed with this object
        self._entry = entry
        self._places = torch.full((entry.shape[0],), -1)  # of each row in `_kept`
        self._kept = torch.empty(MIN_KEPT_ROWS, entry.shape[1], dtype=dtype)
        self._num_kept = 0

    def __getitem__(self, ids: Tensor) -> Tensor:
        """Returns rows, shape (*ids.shape, columns), on the CPU. `ids` are int64."""
        places = self._places[ids]
        if bool((places < 0).any()):
            with torch.inference_mode(mode=False):  # else later calls outside of it could not write to these tensors
                self._read_missing(ids)
            places = self._places[ids]
        return self._kept[places]

    def _read_missing(self, ids: Tensor) -> None:
        wanted = ids.unique()  # type: ignore[no-untyped-call]
        missing = wanted[self._places[wanted] < 0]
        if self._num_kept + len(missing) > max(MAX_KEPT_ROWS, len(wanted)):
            self._places.fill_(-1)
            self._num_kept, missing = 0, wanted
        needed = self._num_kept + len(missing)
        if needed > len(self._kept):
            grown = self._kept.new_empty(max(needed, min(2 * len(self._kept), MAX_KEPT_ROWS)), self._kept.shape[1])
            grown[: self._num_kept] = self._kept[: self._num_kept]
            self._kept = grown
        read = torch.empty(len(missing), self._entry.shape[1], dtype=self._entry.dtype)
        for row, number in zip(_bytes_of(read).reshape(len(missing), -1), missing.tolist(), strict=True):
            _read_into(self._file, self._entry.begin + number * self._entry.row_bytes, row)
        self._kept[self._num_kept : needed] = read
        self._places[missing] = torch.arange(self._num_kept, needed)
        self._num_kept = needed


def _read_header(path: Path) -> dict[str, _Entry]:
    """Returns the tensors of a file. Raises `WeightsError` where its header is not one of safetensors."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header: dict[str, Any] = json.loads(file.read(length))
        begin = 8 + length
        return {name: _entry(path, begin, size, each) for name, each in header.items() if name != "__metadata__"}
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise WeightsError(f"{path}: is damaged, or no safetensors file ({error!r})") from error


def _entry(path: Path, begin: int, size: int, stated: Mapping[str, Any]) -> _Entry:
    first, end = stated["data_offsets"]
    entry = _Entry(path, begin + first, DTYPES[stated["dtype"]], tuple(map(int, stated["shape"])))
    if end - first != entry.dtype.itemsize * prod(entry.shape) or first < 0 or begin + end > size:
        raise ValueError(f"a tensor from byte {first} to {end}")
    return entry


def _bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """Returns the memory of a contiguous tensor."""
    return tensor.view(torch.uint8).numpy()


def _read_into(file: BinaryIO, begin: int, target: NDArray[np.uint8]) -> None:
    """Fills contiguous memory with the bytes of a file from `begin` on."""
    left = memoryview(target.data).cast("B")
    file.seek(begin)
    while left:
        num = file.readinto(left)  # type: ignore[attr-defined]  # of an unbuffered file
        if not num:
            raise WeightsError(f"{file.name}: ends in the middle of a tensor")
        left = left[num:]
