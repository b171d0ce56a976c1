"""whisper.cpp's files (``ggml-base.bin``): one file with sizes, mel filters, vocabulary and tensors.

Little endian, 32-bit integers: a magic number, the sizes, the mel filters, the vocabulary (text tokens as raw bytes;
whisper.cpp knows special tokens by their position), then every tensor with its dimensions reversed, until the file
ends. As in files of whisper.cpp's own tools, matrices have the type of the file, vectors and positional embeddings are
float32, convolution kernels float16 (float32 in a float32 file), and biases of convolutions are columns.
"""

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from distil_ray.whisper.formats.ggml_blocks import BLOCK, QUANTIZED, BlockType, dequantize, quantize
from distil_ray.whisper.formats.openai import from_openai_names, rename
from distil_ray.whisper.formats.tensors import DIMENSIONS, FLOAT16, FLOAT32, Array, Checkpoint, Sizes, Tensor, map_file
from distil_ray.whisper.formats.vocabulary import NUM_TEXT_TOKENS, require_text_tokens
from distil_ray.whisper.mel_filters import mel_filters
from distil_ray.whisper.weights_cache import WeightsError

MAGIC = struct.pack("<I", 0x67676D6C)
CODES = {FLOAT32: 0, FLOAT16: 1}  # ggml's numbers of tensor types, and of files of one type
BY_CODE = {kind.code: (name, kind) for name, kind in QUANTIZED.items()}
QUANTIZATION_VERSION = 2  # of the layout of blocks; stands in the file type, times 1000
VERSION_FACTOR = 1000
MEL_SHAPE_BYTES = 1 << 24  # most bytes of mel filters that a header may state
FREQUENCIES = 201  # of the mel filters: half of 400 samples, and one
MAX_DIMS = 4  # of a ggml tensor
COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")


class _Reader:
    """The bytes of a file, and the current position in them."""

    def __init__(self, path: Path) -> None:
        self.source = path.name
        self.data = map_file(path)
        self.position = 0

    def take(self, size: int) -> int:
        """Returns the position of the next `size` bytes and moves behind them."""
        start = self.position
        if size < 0 or start + size > len(self.data):
            raise WeightsError(
                f"{self.source}: ends after {len(self.data)} bytes, but its header states more; it is not complete"
            )
        self.position += size
        return start

    def integers(self, count: int) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}i", self.data, self.take(4 * count))

    def text(self, size: int) -> bytes:
        start = self.take(size)
        return self.data[start : start + size]


def read(path: Path) -> Checkpoint:
    """Reads a file of whisper.cpp. The tensors are mapped into memory, and dequantized when they are loaded.

    Matrices of float16 files stay float16; so do their float32 vectors, if every number in them is a float16 number.
    Dequantized tensors are float32, which holds scale times integer exactly.

    Raises:
        WeightsError: It is none, is damaged or not complete, or has tensors of another type than `BY_CODE`.
    """
    reader = _Reader(path)
    source = reader.source
    if reader.text(len(MAGIC)) != MAGIC:
        raise WeightsError(f"{source}: is no file of whisper.cpp")
    *dimensions, file_type = reader.integers(len(DIMENSIONS) + 1)
    version, main_type = divmod(file_type, VERSION_FACTOR)
    if main_type not in CODES.values() and version != QUANTIZATION_VERSION:
        raise WeightsError(
            f"{source}: its blocks have version {version}; must be {QUANTIZATION_VERSION}. Quantize the model again"
            " with a current whisper.cpp"
        )
    sizes = Sizes.from_dimensions(source, dict(zip(DIMENSIONS, dimensions, strict=True)))
    rows, columns = reader.integers(2)
    if rows != sizes.num_mel_bins or columns != FREQUENCIES:
        raise WeightsError(f"{source}: mel filters of {rows} x {columns}; its sizes require {sizes.num_mel_bins} x 201")
    reader.take(4 * rows * columns)
    (num_words,) = reader.integers(1)
    if not 0 <= num_words <= sizes.vocab_size:
        raise WeightsError(f"{source}: {num_words} words in a vocabulary of {sizes.vocab_size}")
    words = [reader.text(*reader.integers(1)) for _ in range(num_words)]
    tensors = dict(_read_tensors(reader, narrows=main_type == CODES[FLOAT16]))
    is_known = sizes.vocab_size in NUM_TEXT_TOKENS
    vocabulary = require_text_tokens(source, words, sizes.vocab_size) if is_known else None
    return Checkpoint(source, sizes, from_openai_names(source, sizes, tensors), vocabulary)


def _read_tensors(reader: _Reader, narrows: bool) -> Iterator[tuple[str, Tensor]]:
    while reader.position < len(reader.data):
        num_dims, name_size, code = reader.integers(3)
        if not 1 <= num_dims <= MAX_DIMS:
            raise WeightsError(f"{reader.source}: a tensor has {num_dims} dimensions; the file is damaged")
        shape = tuple(reversed(reader.integers(num_dims)))
        name = reader.text(name_size).decode("utf-8", "replace")
        if name in COLUMNS and shape[-1:] == (1,):
            shape = shape[:-1]
        yield name, _read_tensor(reader, name, shape, code, narrows)


def _read_tensor(reader: _Reader, name: str, shape: tuple[int, ...], code: int, narrows: bool) -> Tensor:
    if any(size <= 0 for size in shape):
        raise WeightsError(f"{reader.source}: {name} has the shape {shape}; the file is damaged")
    count = 1
    for size in shape:  # Python's integers, which do not overflow
        count *= size
    if code in BY_CODE:
        kind = BY_CODE[code][1]
        if shape[-1] % BLOCK:
            raise WeightsError(f"{reader.source}: {name} has rows of {shape[-1]} numbers, which are no whole blocks")
        size = count // BLOCK * kind.num_bytes
        start = reader.take(size)
        data = np.frombuffer(reader.data, np.uint8, size, start)
        return Tensor(shape, FLOAT32, partial(dequantize, data, shape, kind))
    dtype = {number: name for name, number in CODES.items()}.get(code)
    if dtype is None:
        known = ", ".join([*CODES, *QUANTIZED])
        raise WeightsError(f"{reader.source}: {name} has the tensor type {code} of ggml; supported are {known}")
    start = reader.take(count * np.dtype(dtype).itemsize)
    array: Array = np.frombuffer(reader.data, dtype, count, start).reshape(shape)
    return Tensor.of(_narrowed(array) if narrows and dtype == FLOAT32 else array)


def _narrowed(array: Array) -> Array:
    """Returns the numbers as float16 if that changes none of them."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float16)
    return narrow if np.array_equal(narrow.astype(np.float32), array) else array


def write(checkpoint: Checkpoint, path: Path, dtype: str = FLOAT16) -> None:
    """Writes a checkpoint for whisper.cpp.

    Args:
        checkpoint: The checkpoint, with the vocabulary of its text tokens.
        path: The file.
        dtype: Type of the matrices: float32, float16, or one of `QUANTIZED`.

    Raises:
        WeightsError: The rows of a matrix are no whole blocks.
    """
    kind = QUANTIZED.get(dtype)
    file_type = CODES[dtype] if kind is None else kind.file_type + VERSION_FACTOR * QUANTIZATION_VERSION
    sizes = checkpoint.sizes
    if kind is not None and sizes.d_model % BLOCK:
        raise WeightsError(f"dtype={dtype}: rows of {sizes.d_model} numbers are no whole blocks of {BLOCK}")
    with open(path, "wb") as file:
        file.write(MAGIC)
        _write_integers(file, *sizes.dimensions.values(), file_type)
        filters = mel_filters(sizes.num_mel_bins)
        _write_integers(file, *filters.shape)
        file.write(filters.tobytes())
        words = checkpoint.vocabulary or ()
        _write_integers(file, len(words))
        for word in words:
            _write_integers(file, len(word))
            file.write(word)
        for name, tensor in checkpoint.tensors.items():
            _write_tensor(file, rename(name), tensor.load(), dtype, kind)


def _write_integers(file: BinaryIO, *values: int) -> None:
    file.write(struct.pack(f"<{len(values)}i", *values))


def _write_tensor(file: BinaryIO, name: str, array: Array, dtype: str, kind: BlockType | None) -> None:
    if name in COLUMNS:
        array = array.reshape(-1, 1)
    is_matrix = array.ndim == 2 and not name.endswith("positional_embedding") and name not in COLUMNS
    data: NDArray[np.generic]
    if is_matrix and kind is not None:
        code, data = kind.code, quantize(array, kind)
    else:
        written = FLOAT32 if dtype == FLOAT32 or not (is_matrix or array.ndim == 3) else FLOAT16
        code, data = CODES[written], np.ascontiguousarray(array, written)
    encoded = name.encode()
    _write_integers(file, array.ndim, len(encoded), code, *reversed(array.shape))
    file.write(encoded)
    file.write(data.tobytes())
