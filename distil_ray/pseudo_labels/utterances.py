"""Utterances of a transcript: one for each chunk, with tokens, its part of the reference, and metrics.

This module uses the teacher's tokenizer and the settings of the build; it does not know packing, files or other
recordings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from distil_ray.config import LabelsConfig
from distil_ray.errors import SettingsError
from distil_ray.evaluation.wer import Score, Scorer
from distil_ray.languages import is_unsegmented
from distil_ray.pseudo_labels.dataset_schema import MAX_LABEL_TOKENS, MAX_SAMPLES, METRICS, Row
from distil_ray.pseudo_labels.existing_dataset import format_utterance_source
from distil_ray.pseudo_labels.filters import ScoredUtterance, list_rejection_reasons
from distil_ray.pseudo_labels.label_text import NUM_FRAMING_TOKENS, count_label_tokens, has_timestamps, retokenize
from distil_ray.pseudo_labels.utterance_quality import align_reference, compute_edge_cer, count_repeated_ngrams
from distil_ray.schema import parse_chunk_language, parse_metadata
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import Tokens

LICENSE_NAMES = ("license", "licence")  # keys of metadata, in upper or lower case
PARTIAL_LOCATION_FIELDS = (
    "start_s",
    "length_s",
    "channel",
)  # a recording with one of these is a part of a file's audio

# The columns of the transcripts that are read.
TRANSCRIPT_COLUMNS = (
    *(
        "recording_id",
        "uri",
        "source_size",
        "source_version",
        "location",
        "status",
        "error_kind",
        "error",
        "duration_s",
    ),
    *("language", "text", "reference", "num_ref_words", "substitutions", "deletions", "insertions", "chunks"),
    *("acceptance_rate", "metadata", "model", "fingerprint", "run_id"),
)


@dataclass(frozen=True, slots=True)
class TextComparison:
    """The text that a chunk was compared with, and the score."""

    text: str
    score: Score

    @property
    def edits(self) -> int:
        score = self.score
        return (score.substitutions or 0) + (score.deletions or 0) + (score.insertions or 0)

    @property
    def wer(self) -> float:
        """The WER as a fraction; for an empty reference, 1 if the chunk has words, otherwise 0."""
        return float(self.edits > 0) if self.score.wer is None else self.score.wer

    @property
    def edge_cer(self) -> float | None:
        return compute_edge_cer(self.score.text_normalized, self.score.reference_normalized or "")


class UtteranceBuilder:
    """Builds utterances from transcripts; holds the normalizers."""

    def __init__(self, config: LabelsConfig, scorer: Scorer, tokens: Tokens, task: str) -> None:
        self._config = config
        self._scorer = scorer
        self._tokens = tokens
        self._task = task

    def build(self, row: Row, source: str, channels: str, second: str | None) -> Iterator[ScoredUtterance]:
        """Yields the utterances of a transcript; for one without any, a single rejected utterance.

        Args:
            row: A transcript with `TRANSCRIPT_COLUMNS`.
            source: Its key (`existing_dataset.source_keys`).
            channels: The `input.channels` of its run.
            second: Another transcript of the same recording, if there is one.

        Raises:
            SettingsError: The chunks overlap, so their words would be in two labels.
        """
        head = self._head(row)
        if row["status"] not in self._config.filters.statuses or not row["chunks"]:
            yield ScoredUtterance(head | _empty_row(row, source, channels), ("status",))
            return
        chunks = row["chunks"]
        if any(after["start_s"] < before["end_s"] for before, after in pairwise(chunks)):
            raise SettingsError(
                f"chunking.strategy: {row['recording_id']} was transcribed in overlapping chunks, so that words would"
                " be in two labels. Transcribe it with a strategy without overlap, such as chunking.strategy=quiet"
                " (output.on_settings_change=redo)"
            )
        pairs = zip(self._compare(row, row["reference"]), self._compare(row, second), strict=True)
        for index, (chunk, (reference, other)) in enumerate(zip(chunks, pairs, strict=True)):
            language = self._language(row, chunk)
            utterance = {
                **head,
                "language": parse_chunk_language(row, chunk),
                "source": format_utterance_source(source, index, len(chunks)),
                **_position(row, chunk, channels),
                **_chunk_metrics(chunk, is_unsegmented(language)),
                **_reference_metrics(reference, other),
                "acceptance_rate": row["acceptance_rate"],
            }
            retokenized = retokenize(chunk["tokens"] or (), self._tokens)
            utterance |= {
                "tokens": list(retokenized or ()),
                "is_timed": has_timestamps(retokenized or (), self._tokens),
            }
            yield ScoredUtterance(utterance, tuple(self._reasons(utterance, retokenized)))

    def _language(self, row: Row, chunk: Row) -> str | None:
        """Returns the language of the text of a chunk."""
        return "en" if self._task == "translate" else parse_chunk_language(row, chunk)

    def _head(self, row: Row) -> Row:
        names = ("recording_id", "uri", "source_size", "source_version", "location", "language")
        metadata = parse_metadata(row)
        license_column = self._config.license_column
        known = (metadata.get(license_column),) if license_column else _find_licenses(metadata)
        return {
            **{name: row[name] for name in names},
            "speaker": metadata.get(self._config.speaker_column),
            "license": next(filter(None, known), None),
        }

    def _compare(self, row: Row, other: str | None) -> list[TextComparison | None]:
        """Compares each chunk with its part of another text of the recording; None without such a text."""
        texts = [chunk["text"] or "" for chunk in row["chunks"]]
        if other is None:
            return [None] * len(texts)
        languages = [self._language(row, chunk) for chunk in row["chunks"]]
        parts = align_reference(other, texts, all(map(is_unsegmented, languages)))
        return [
            TextComparison(part, self._scorer.score(text, part, language))
            for text, part, language in zip(texts, parts, languages, strict=True)
        ]

    def _reasons(self, utterance: Row, retokenized: tuple[int, ...] | None) -> Iterator[str]:
        if retokenized is None:
            yield "broken_text"
        elif not utterance["text"].strip() or not retokenized:
            yield "no_text"
        if utterance["num_samples"] > MAX_SAMPLES:
            yield "too_long"
        if count_label_tokens(utterance["tokens"], self._tokens) + NUM_FRAMING_TOKENS > MAX_LABEL_TOKENS:
            yield "too_many_tokens"
        yield from list_rejection_reasons(utterance, self._config.filters)


def _find_licenses(metadata: Mapping[str, str]) -> Iterator[str]:
    """Yields the values of keys that are `LICENSE_NAMES`, in their order."""
    return (value for name in LICENSE_NAMES for key, value in metadata.items() if key.lower() == name)


def _position(row: Row, chunk: Row, channels: str) -> Row:
    """Returns the position of an utterance, in samples, and its name."""
    start, end = (round(chunk[name] * SAMPLE_RATE) for name in ("start_s", "end_s"))
    name = row["recording_id"]
    location: Mapping[str, Any] = row["location"] or {}
    is_alone = len(row["chunks"]) == 1
    return {
        "utterance_id": name if is_alone else f"{name}@{chunk['start_s']:.3f}",
        "start": start,
        "num_samples": end - start,
        "is_whole": is_alone
        and start == 0
        and end == round((row["duration_s"] or 0) * SAMPLE_RATE)
        and channels != "first"
        and all(location.get(key) is None for key in PARTIAL_LOCATION_FIELDS),
        "channels": channels,
    }


def _chunk_metrics(chunk: Row, spaceless: bool) -> Row:
    duration_s, text = chunk["end_s"] - chunk["start_s"], chunk["text"] or ""
    return {
        "text": text,
        "duration_s": duration_s,
        "repeated_5grams": count_repeated_ngrams(text, spaceless),
        "chars_per_s": len(text) / duration_s,
        **{name: chunk[name] for name in ("avg_logprob", "compression_ratio", "no_speech_prob", "unheard_s")},
        "quality_flags": chunk["quality_flags"] or [],
    }


def _reference_metrics(reference: TextComparison | None, other: TextComparison | None) -> Row:
    """Returns the metrics that need a reference or a second pass; None where there is none."""
    edges = reference or other
    return {
        "reference": reference and reference.text,
        "num_ref_words": reference and reference.score.num_ref_words,
        "edits": reference and reference.edits,
        "normalizer": edges and edges.score.normalizer,
        "wer": reference and reference.wer,
        "edge_cer": edges and edges.edge_cer,
        "disagreement": other and other.wer,
    }


def _empty_row(row: Row, source: str, channels: str) -> Row:
    """Returns the row of a recording that has no utterances."""
    return {
        **dict.fromkeys((name for name, _ in METRICS), None),
        "utterance_id": row["recording_id"],
        "source": format_utterance_source(source, 0, 1),
        "start": 0,
        "num_samples": 0,
        "is_whole": False,
        "channels": channels,
        "text": row["text"] or "",
        "reference": row["reference"],
        "duration_s": row["duration_s"] or 0.0,
        "num_ref_words": None,
        "edits": None,
        "normalizer": None,
        "tokens": [],
        "is_timed": False,
        "quality_flags": [],
    }
