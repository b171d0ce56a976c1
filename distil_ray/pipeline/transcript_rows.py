"""Rows of the output: the results of a task's parts become one `TranscriptRow` per recording.

A row gets its status, its text (merged from the chunks), its score against the reference and its quality metrics. The
module knows the run's settings and the planned recordings. `write_stage` stores the rows.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from itertools import groupby, pairwise
from operator import mul
from pathlib import Path
from typing import Any

from distil_ray.chunking.merge import MergedTranscript, merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.errors import ErrorKind, RunError
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.run_context import Run
from distil_ray.pipeline.speaker_assignment import assign_speakers
from distil_ray.readers.location import display_name
from distil_ray.recognition.quality_flags import is_doubtful
from distil_ray.storage.uris import join
from distil_ray.types import (
    SAMPLE_RATE,
    WORD_COUNTS,
    ChunkResult,
    LanguageShare,
    MetadataEntry,
    Recording,
    Segment,
    Status,
    TokenAlignment,
    TranscriptRow,
    Word,
)
from distil_ray.whisper.tokenizer import Tokens

# Files that `Tokens` are loaded from; not every checkpoint has the second.
TOKENIZER_FILES = ("config.json", "generation_config.json", "tokenizer.json")

Row = dict[str, Any]
RecognizedChunk = tuple[Row, Row]  # a chunk and its hypothesis: rows of CHUNK and HYPOTHESIS


class RowBuilder:
    """Builds the rows of tasks. Keeps the normalizers and, for overlapping chunks, the tokenizer between tasks.

    Args:
        run: The run.
        tokenizer_dir: Local folder of the checkpoint's tokenizer; None: its copy in the run's folder.
    """

    def __init__(self, run: Run, tokenizer_dir: Path | None = None) -> None:
        self._run = run
        self._scorer = Scorer(run.config.scoring)
        self._tokens = None
        if run.chunking.overlaps:
            self._tokens = Tokens.load(tokenizer_dir) if tokenizer_dir else _load_tokens(run)

    def build_rows(self, recordings: Sequence[Recording], parts: Sequence[Row]) -> tuple[list[Row], Row]:
        """Builds the rows of a task from all of its parts.

        Args:
            recordings: The task's recordings, in the order of the plan.
            parts: Rows of PART_RESULT; all parts of the task, in any order.

        Returns:
            Rows of TRANSCRIPT in the order of `recordings`, and the counts of a row of COMMIT_RESULT.

        Raises:
            RunError: The parts do not account for every recording and every chunk.
        """
        decoded: dict[int, Row] = {}
        recognized: dict[int, list[RecognizedChunk]] = defaultdict(list)
        dtypes: dict[int, set[str]] = defaultdict(set)
        for part in parts:
            decoded.update({entry["recording"]: entry for entry in part["decoded"]})
            for chunk, hypothesis in zip(part["chunks"], part["hypotheses"], strict=True):
                recognized[chunk["recording"]].append((chunk, hypothesis))
                if part["dtype"] is not None and hypothesis["error"] is None:
                    dtypes[chunk["recording"]].add(part["dtype"])
        rows = []
        for number, recording in enumerate(recordings):
            audio = decoded.get(number)
            chunks = sorted(recognized[number], key=lambda pair: (int(pair[0]["index"]), int(pair[0]["start"])))
            if audio is None or not _is_complete([chunk for chunk, _ in chunks], audio["num_chunks"]):
                raise RunError(
                    f"{display_name(recording)}: its parts do not fit together; nothing of its task was written"
                )
            rows.append(asdict(self._build_row(recording, audio, chunks, dtypes[number])))
        return rows, _counts(rows)

    def _build_row(
        self, recording: Recording, audio: Row, chunks: Sequence[RecognizedChunk], dtypes: Collection[str]
    ) -> TranscriptRow:
        """Builds one row.

        Args:
            recording: The recording.
            audio: Its `DecodedRecording`, as a row.
            chunks: Its chunks, in order.
            dtypes: What the recognizers of its chunks computed in.
        """
        run = self._run
        languages = _language_shares(chunks)
        language, language_prob = _language(recording, chunks, languages, run)
        duration_s = audio["num_samples"] / SAMPLE_RATE
        merged = self._merge(chunks, audio["num_samples"])
        segments, words = merged.segments, merged.words
        if recording.speaker_turns is not None:
            segments, words = assign_speakers(segments, words, recording.speaker_turns)
        status, kind, error = _status(recording, audio, chunks, merged.text, run.config.decoding.doubtful_flags)
        transcribed = status != Status.FAILED
        spoken = [one.language for one in languages] or language
        written = "en" if run.config.decoding.task == "translate" else recording.language or spoken
        score = self._scorer.score(merged.text, recording.reference if transcribed else None, written)
        flags = {*audio["quality_flags"], *(flag for _, hypothesis in chunks for flag in hypothesis["quality_flags"])}
        return TranscriptRow(
            recording_id=recording.recording_id,
            uri=recording.uri,
            source_size=recording.source_size,
            source_version=recording.source_version,
            location=recording.location,
            call_id=recording.call_id,
            status=status,
            error_kind=kind,
            error=error,
            duration_s=duration_s,
            language=language,
            language_prob=language_prob,
            languages=languages or None,
            text=merged.text if transcribed else None,
            reference=recording.reference,
            **asdict(score),
            chunks=tuple(_chunk_result(chunk, hypothesis) for chunk, hypothesis in chunks),
            segments=None if segments is None else tuple(segments),
            words=None if words is None else tuple(words),
            **_quality_metrics(chunks, merged.text, duration_s),
            unheard_s=_sum_of_known(hypothesis["unheard_s"] for _, hypothesis in chunks),
            quality_flags=tuple(sorted(flags)),
            metadata=tuple(MetadataEntry(key, value) for key, value in recording.metadata.items()),
            model=run.model_identity,
            dtype=", ".join(sorted(dtypes)) or None,
            fingerprint=run.fingerprint,
            run_id=run.run_id,
            processed_at=datetime.now(UTC),
        )

    def _merge(self, recognized: Sequence[RecognizedChunk], num_samples: int) -> MergedTranscript:
        decoding = self._run.config.decoding
        chunks = [
            ChunkHypothesis(
                start=chunk["start"],
                num_samples=chunk["num_samples"],
                stride_left=chunk["stride_left"],
                stride_right=chunk["stride_right"],
                text=hypothesis["text"],
                tokens=tuple(hypothesis["tokens"] or ()),
                segments=_timed(hypothesis["segments"], Segment),
                words=_timed(hypothesis["words"], Word),
                alignment=hypothesis["alignment"] and TokenAlignment(**hypothesis["alignment"]),
                language="en" if decoding.task == "translate" else hypothesis["language"],
            )
            for chunk, hypothesis in recognized
        ]
        return merge_chunks(
            chunks,
            num_samples,
            self._tokens,
            timestamps=decoding.timestamps != "none",
            words=decoding.timestamps == "word",
            overlaps=self._run.chunking.overlaps,
        )


def _is_complete(chunks: Sequence[Row], num_chunks: int) -> bool:
    """Returns whether every chunk of a recording is there, and none twice. The windows of a section share its index."""
    indices = [index for index, _ in groupby(chunk["index"] for chunk in chunks)]
    return indices == list(range(num_chunks)) and all(
        before["start"] < after["start"] for before, after in pairwise(chunks)
    )


def _status(
    recording: Recording,
    audio: Row,
    chunks: Sequence[RecognizedChunk],
    text: str,
    doubtful_flags: Sequence[str],
) -> tuple[Status, str | None, str | None]:
    """Returns (status, error kind, error) of a recording."""
    kind, error = audio["error_kind"], audio["error"]
    failed_chunks = [(hypothesis["error_kind"], hypothesis["error"]) for _, hypothesis in chunks if hypothesis["error"]]
    if kind == ErrorKind.NO_SAMPLES:
        return Status.EMPTY, kind, error
    if kind is not None and (not chunks or kind == ErrorKind.TOO_LONG):
        return Status.FAILED, kind, error
    if failed_chunks:
        kind, error = failed_chunks[0]
        num_failed = f"{len(failed_chunks)} of {len(chunks)}"
        message = f"{display_name(recording)}: {num_failed} chunks could not be recognized: {error}"
        return Status.FAILED if len(failed_chunks) == len(chunks) else Status.PARTIAL, kind, message
    if kind is not None:
        return Status.PARTIAL, kind, error
    if not text:
        return Status.EMPTY, None, None
    with_text = (
        (chunk["num_samples"], hypothesis["text"], hypothesis["quality_flags"])
        for chunk, hypothesis in chunks
        if hypothesis["text"]
    )
    return (Status.DOUBTFUL if is_doubtful(with_text, doubtful_flags) else Status.OK), None, None


def _language_shares(chunks: Sequence[RecognizedChunk]) -> tuple[LanguageShare, ...]:
    """Returns the languages of a recording's chunks, by falling share; none where no chunk has a language."""
    known = [pair for pair in chunks if pair[1]["language"]]
    samples: Counter[str] = Counter()
    for chunk, hypothesis in [pair for pair in known if pair[1]["text"]] or known:
        samples[hypothesis["language"]] += _num_unshared(chunk)
    total = sum(samples.values())
    return tuple(LanguageShare(code, number / total) for code, number in samples.most_common())


def _num_unshared(chunk: Row) -> int:
    """Returns the samples of a chunk that no neighbor shares; the strides of all chunks meet there."""
    return int(chunk["num_samples"] - chunk["stride_left"] - chunk["stride_right"])


def _language(
    recording: Recording, chunks: Sequence[RecognizedChunk], languages: Sequence[LanguageShare], run: Run
) -> tuple[str | None, float | None]:
    """Returns the language with the largest share, and its probability where it was detected.

    The probability is the mean over the chunks in the language, weighted by their lengths.
    """
    if languages:
        language = languages[0].language
        own = [(_num_unshared(chunk), one["language_prob"]) for chunk, one in chunks if one["language"] == language]
        if len(values := {prob for _, prob in own}) == 1:
            return language, values.pop()  # of the recording, or of its only chunk in the language; None where given
        return language, sum(length * prob for length, prob in own) / sum(length for length, _ in own)
    setting = run.config.decoding.language
    return recording.language or (None if setting == "auto" else setting), None


def _quality_metrics(chunks: Sequence[RecognizedChunk], text: str, duration_s: float) -> Row:
    """Returns the metrics of a recording: log-probability averaged over tokens, the worst chunk for the others.

    A metric is None if the recognizer does not return it for every chunk. Chunks that could not be recognized do not
    count.
    """
    recognized = [hypothesis for _, hypothesis in chunks if not hypothesis["error"]]
    num_tokens = [len(h["tokens"] or ()) + 1 for h in recognized]  # OpenAI's average counts the end token
    logprobs = _all_known(h["avg_logprob"] for h in recognized)
    proposed = sum(h["drafts_proposed"] for h in recognized)
    return {
        "avg_logprob": sum(map(mul, logprobs, num_tokens)) / sum(num_tokens) if logprobs else None,
        "no_speech_prob": max(_all_known(h["no_speech_prob"] for h in recognized), default=None),
        "compression_ratio": max(_all_known(h["compression_ratio"] for h in recognized), default=None),
        "chars_per_s": len(text) / duration_s if duration_s else None,
        "acceptance_rate": sum(h["drafts_accepted"] for h in recognized) / proposed if proposed else None,
    }


def _all_known(values: Iterable[float | None]) -> list[float]:
    """Returns the values, or none of them if one is None: a metric of some chunks is not one of the recording."""
    every = list(values)
    known = [value for value in every if value is not None]
    return known if len(known) == len(every) else []


def _chunk_result(chunk: Row, hypothesis: Row) -> ChunkResult:
    """Returns a chunk of the output; fields that its hypothesis shares with `ChunkResult` are copied."""
    shared = {one.name: hypothesis[one.name] for one in fields(ChunkResult) if one.name in hypothesis}
    start = chunk["start"]
    return ChunkResult(start_s=start / SAMPLE_RATE, end_s=(start + chunk["num_samples"]) / SAMPLE_RATE, **shared)


def _sum_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _timed(rows: Sequence[Row] | None, make: Any) -> Any:
    return None if rows is None else [make(**row) for row in rows]


def _counts(rows: Sequence[Row]) -> Row:
    """Returns the counts of a task's recordings, as columns of COMMIT_RESULT."""
    statuses = Counter(row["status"] for row in rows)
    kinds = Counter(row["error_kind"] for row in rows if row["status"] == Status.FAILED)
    return {
        "num_recordings": len(rows),
        **{f"num_{status}": statuses[status] for status in Status},
        "failures_by_kind": dict(kinds),
        **{name: sum(row[name] or 0 for row in rows) for name in WORD_COUNTS},
    }


def store_tokenizer(run: Run, folder: Path) -> None:
    """Copies the `TOKENIZER_FILES` of a model folder into the run's folder, for `RowBuilder`."""
    for name in TOKENIZER_FILES:
        if (folder / name).exists():
            run.storage.put(join(run.tokenizer_uri, name), (folder / name).read_bytes())


def _load_tokens(run: Run) -> Tokens:
    with tempfile.TemporaryDirectory(prefix="distil-ray-") as folder:
        for name in TOKENIZER_FILES:
            uri = join(run.tokenizer_uri, name)
            if run.storage.stat(uri) is not None:
                (Path(folder) / name).write_bytes(run.storage.read(uri))
        return Tokens.load(folder)
