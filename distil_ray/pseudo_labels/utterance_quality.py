"""Quality metrics of an utterance as a label: agreement with a reference or a second pass, and others.

Metrics that a transcript already has (log-probability, compression ratio, no-speech probability) are taken from it.

The reference of a long recording is split where its transcript was chunked: the words of the transcript are aligned
with the words of the reference (characters in languages without spaces), ignoring case and punctuation, with the fewest
edits. Every reference word then belongs to the chunk of the word aligned with it; a word that the transcript lacks
belongs to the chunk of the word before it.
"""

import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from distil_ray.errors import SettingsError
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.typography import unify_typography
from distil_ray.evaluation.wer import split_units
from distil_ray.output.ledger import KEY, TRANSCRIPTS, Keys, Ledger, id_keys
from distil_ray.output.ledger_rows import current_rows, read_rows
from distil_ray.pseudo_labels.dataset_schema import Row
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.storage.uris import normalize
from distil_ray.types import Status

EDGE_CHARACTERS = 20  # at each end of a text
NGRAM = 5
SPACELESS_NGRAM = 10  # characters, about five words; shorter sequences repeat in normal speech
JOINERS = "\u200c\u200d"  # zero-width joiners, which are within words


def count_repeated_ngrams(text: str, spaceless: bool) -> int:
    """Returns the number of repeated 5-grams of words (10-grams of characters in languages without spaces).

    Case and punctuation are ignored. The Distil-Whisper paper counts hallucinations by repeated 5-grams.
    """
    letters = (char if is_word_character(char) else " " for char in text.casefold() if char not in JOINERS)
    found, size = split_units("".join(letters), spaceless), SPACELESS_NGRAM if spaceless else NGRAM
    grams = [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
    return len(grams) - len(set(grams))


def is_word_character(sign: str) -> bool:
    """True for letters, digits and combining marks: vowels of many scripts are marks."""
    return sign.isalnum() or unicodedata.category(sign).startswith("M")


def compute_edge_cer(text: str, reference: str) -> float | None:
    """Returns the character error rate of the first or of the last characters, whichever is higher; None without text.

    Both texts are normalized. The edges of the reference are compared with equally long edges of the text.
    """
    if not reference:
        return None
    size = min(EDGE_CHARACTERS, len(reference))
    edges = ((reference[:size], text[:size]), (reference[-size:], text[-size:]))
    return min(1.0, max(Levenshtein.distance(*pair) for pair in edges) / size)


def pool_metrics(rows: Sequence[Row]) -> Row:
    """Returns the metrics of an example from its utterances: rates from sums, of the others the worst value."""
    words, edits = (_sum(row[name] for row in rows) for name in ("num_ref_words", "edits"))
    if any(row["num_ref_words"] is None for row in rows):
        words = edits = None
    worst = {
        "edge_cer": max,
        "disagreement": max,
        "avg_logprob": min,
        "compression_ratio": max,
        "repeated_5grams": max,
        "no_speech_prob": max,
        "unheard_s": max,
        "acceptance_rate": min,
    }
    duration_s = sum(row["duration_s"] for row in rows)
    letters = sum(row["chars_per_s"] * row["duration_s"] for row in rows)
    return {
        "duration_s": duration_s,
        "num_ref_words": words,
        "edits": edits,
        "normalizer": SEPARATOR.join(sorted(set(_known(rows, "normalizer")))) or None,
        "wer": edits / words if words and edits is not None else None,
        "chars_per_s": letters / duration_s,
        "quality_flags": sorted({flag for row in rows for flag in row["quality_flags"]}),
        **{name: choose(known) if (known := _known(rows, name)) else None for name, choose in worst.items()},
    }


def _known(rows: Sequence[Row], name: str) -> list[Any]:
    return [row[name] for row in rows if row[name] is not None]


def _sum(values: Any) -> int | None:
    return sum(value or 0 for value in values)


def align_reference(reference: str, texts: Sequence[str], spaceless: bool) -> list[str]:
    """Returns the part of the reference for each chunk's text, in order; joined they are all of its words."""
    if len(texts) == 1:
        return [reference]
    words = [(word, chunk) for chunk, text in enumerate(texts) for word in split_units(text, spaceless)]
    reference_words = split_units(reference, spaceless)
    opcodes = Levenshtein.opcodes([_plain(word) for word, _ in words], [_plain(word) for word in reference_words])
    owners = [0] * len(reference_words)
    for block in opcodes:
        for index in range(block.dest_start, block.dest_end):
            aligned = min(block.src_start + index - block.dest_start, block.src_end - 1)
            owners[index] = words[max(aligned, 0)][1] if words else 0
    parts: list[list[str]] = [[] for _ in texts]
    for word, owner in zip(reference_words, owners, strict=True):
        parts[owner].append(word)
    return [("" if spaceless else " ").join(part) for part in parts]


def _plain(word: str) -> str:
    return "".join(letter for letter in unify_typography(word).casefold() if is_word_character(letter)) or word


BATCH_ROWS = 1024
_TEXT = pa.schema([("text", pa.string())])


class SecondPass:
    """Texts of another run by recording id; empty without `labels.second_output_uri`."""

    def __init__(self, ids: Keys, rows: NDArray[np.int64], reader: Any) -> None:
        self._ids, self._rows, self._reader = ids, rows, reader

    @classmethod
    @contextmanager
    def open(cls, uri: str | None, storage: Storage) -> Iterator[Self]:
        """Opens the other run's output. Raises `SettingsError` if it has no transcripts."""
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
        """Returns the text of the other run; None if it has not transcribed this recording."""
        key = id_keys([recording_id])[0]
        index = int(np.searchsorted(self._ids, key))
        if index == len(self._ids) or self._ids[index] != key:
            return None
        batch, row = divmod(int(self._rows[index]), BATCH_ROWS)
        text: str = self._reader.get_batch(batch)["text"][row].as_py()
        return text


def _spill(ledger: Ledger, path: Path, storage: Storage) -> Keys:
    """Writes the texts of successful transcripts, `BATCH_ROWS` in a batch; returns the keys of their ids."""
    ids: list[str] = []
    with pa.ipc.new_file(str(path), _TEXT) as sink:
        texts: list[str] = []
        for row in read_rows(ledger, current_rows(ledger), ["recording_id", "status", "text"], storage):
            if row["status"] in (Status.OK, Status.DOUBTFUL, Status.EMPTY):
                ids.append(row["recording_id"])
                texts.append(row["text"] or "")
            if len(texts) == BATCH_ROWS:
                sink.write_batch(pa.record_batch([texts], schema=_TEXT))
                texts = []
        sink.write_batch(pa.record_batch([texts], schema=_TEXT))
    return id_keys(ids)
