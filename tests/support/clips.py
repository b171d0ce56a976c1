"""The speech in tests/data: recordings with references, and the utterances in them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from distil_ray.audio.decode import decode_file
from distil_ray.types import SAMPLE_RATE

CLIPS = Path(__file__).resolve().parents[1] / "data"


@dataclass(frozen=True, slots=True)
class Utterance:
    """A phrase of one speaker as samples at 16 kHz, with its reference.

    `start_s` and `end_s` are its measured edges in the recording `clip`; a clip without segments is one utterance.
    """

    id: str
    clip: str
    speaker: str
    license: str
    reference: str
    start_s: float
    end_s: float
    samples: NDArray[np.int16]

    def write(self, path: Path) -> Path:
        """Writes it as an audio file whose format follows from the suffix, and returns the path."""
        soundfile.write(path, self.samples, SAMPLE_RATE)
        return path


def load_manifest() -> dict[str, dict[str, Any]]:
    """Returns the lines of manifest.jsonl by id."""
    return {line["id"]: line for line in _lines("manifest.jsonl")}


def manifest_rows(*ids: str) -> list[dict[str, Any]]:
    """Returns lines of a manifest of these recordings that may stand in any folder."""
    lines = load_manifest()
    return [lines[name] | {"set": "clips", "uri": str(CLIPS / lines[name]["uri"])} for name in ids]


def load_segments() -> dict[str, list[tuple[float, float, str]]]:
    """Returns (start, end, text) of every phrase, by recording, times in seconds."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for line in _lines("segments.jsonl"):
        found.setdefault(line["id"], []).append((line["start_s"], line["end_s"], line["text"]))
    return found


@cache
def load_samples(clip: str) -> NDArray[np.int16]:
    """Returns a recording's samples at 16 kHz, as the product decodes it."""
    path = CLIPS / load_manifest()[clip]["uri"]
    samples = np.concatenate([part for part in decode_file(str(path)) if isinstance(part, np.ndarray)])
    samples.setflags(write=False)
    return samples


@cache
def english_utterances() -> tuple[Utterance, ...]:
    """Returns all English utterances with one speaker, those of a speaker after each other."""
    segments = load_segments()
    return tuple(
        utterance
        for row in load_manifest().values()
        if row["language"] == "en" and row["speaker"] is not None
        for utterance in _utterances(row, segments.get(row["id"]))
    )


def _utterances(row: dict[str, Any], segments: list[tuple[float, float, str]] | None) -> list[Utterance]:
    samples = load_samples(row["id"])
    whole = [(0.0, len(samples) / SAMPLE_RATE, row["reference"])]
    found = []
    for number, (start_s, end_s, text) in enumerate(segments or whole):
        name = f"{row['id']}-{number:02d}" if segments else row["id"]
        part = samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
        found.append(Utterance(name, row["id"], row["speaker"], row["license"], text, start_s, end_s, part))
    return found


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (CLIPS / name).read_text(encoding="utf-8").splitlines()]
