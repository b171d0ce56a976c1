"""What is known of an utterance as a label: how it agrees with a reference, and signs of doubt that need none.

Pure functions of texts and numbers. Those that a transcript has already (log-probability, compression ratio, no-speech
probability) are taken from there.
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

EDGE_LETTERS = 20  # at each end of a text
GRAM = 5
SPACELESS_GRAM = 10  # signs, which are about five words: five are one or two, and come again in ordinary speech
JOINERS = "\u200c\u200d"  # shape the letters beside them, within a word


def repeated_grams(text: str, spaceless: bool) -> int:
    """Runs of five words (of ten signs, where no spaces are written) that came before in the text, without case and
    punctuation. The paper of Distil-Whisper counts hallucinations by them."""
    letters = (sign if is_of_word(sign) else " " for sign in text.casefold() if sign not in JOINERS)
    found, size = split_units("".join(letters), spaceless), SPACELESS_GRAM if spaceless else GRAM
    grams = [tuple(found[start : start + size]) for start in range(len(found) - size + 1)]
    return len(grams) - len(set(grams))


def is_of_word(sign: str) -> bool:
    """Whether a sign is a letter, a digit, or what combines with one: vowels of many scripts are no letters."""
    return sign.isalnum() or unicodedata.category(sign).startswith("M")


def edge_cer(heard: str, said: str) -> float | None:
    """Character error rate of the first and of the last letters, whichever is higher; None where nothing was said.

    Both texts normalized. The edge of what was said is compared with the stretch of like length of what was heard.
    """
    if not said:
        return None
    size = min(EDGE_LETTERS, len(said))
    edges = ((said[:size], heard[:size]), (said[-size:], heard[-size:]))
    return min(1.0, max(Levenshtein.distance(*pair) for pair in edges) / size)


def pooled(rows: Sequence[Row]) -> Row:
    """The metrics of an example out of its utterances': rates from sums, of the others the worst."""
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


def split_reference(reference: str, texts: Sequence[str], spaceless: bool) -> list[str]:
    """The part of the reference that belongs to each chunk's text, in order; joined again they are all of its words."""
    if len(texts) == 1:
        return [reference]
    heard = [(word, chunk) for chunk, text in enumerate(texts) for word in split_units(text, spaceless)]
    said = split_units(reference, spaceless)
    opcodes = Levenshtein.opcodes([_plain(word) for word, _ in heard], [_plain(word) for word in said])
    owners = [0] * len(said)
    for block in opcodes:
        for place in range(block.dest_start, block.dest_end):
            beside = min(block.src_start + place - block.dest_start, block.src_end - 1)
            owners[place] = heard[max(beside, 0)][1] if heard else 0
    parts: list[list[str]] = [[] for _ in texts]
    for word, owner in zip(said, owners, strict=True):
        parts[owner].append(word)
    return [("" if spaceless else " ").join(part) for part in parts]


def _plain(word: str) -> str:
    return "".join(letter for letter in unify_typography(word).casefold() if is_of_word(letter)) or word


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
