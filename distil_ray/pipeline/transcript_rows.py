"""The results of a task's parts become its rows: status, text, scores, signs of doubt, one row a recording.

Knows the run's settings and the plan's recordings, not how the rows are stored or who asked.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from operator import mul
from pathlib import Path
from typing import Any

from distil_ray.chunking.merge import MergedTranscript, merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.errors import ErrorKind, RunError
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.run_context import Run
from distil_ray.readers.location import display_name
from distil_ray.storage.storage import join
from distil_ray.types import SAMPLE_RATE, WORD_COUNTS, Recording, Segment, Status, TokenAlignment, Word
from distil_ray.whisper.tokenizer import Tokens

# What `Tokens` are made of; not every checkpoint has the second.
TOKENIZER_FILES = ("config.json", "generation_config.json", "tokenizer.json")

Row = dict[str, Any]
Heard = tuple[Row, Row]  # a chunk and its hypothesis, as rows of CHUNK and HYPOTHESIS


class RowBuilder:
    """Makes the rows of tasks; holds what is worth keeping between them."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._scorer = Scorer(run.config.scoring)
        self._tokens = _load_tokens(run) if run.chunking.overlaps else None

    def build_rows(self, recordings: Sequence[Recording], parts: Sequence[Row]) -> tuple[list[Row], Row]:
        """(rows of TRANSCRIPT in the task's order, the counts of a COMMIT_RESULT), from all RESULT rows of the task.

        Raises `RunError` if the parts do not account for every recording and every chunk.
        """
        decoded: dict[int, Row] = {}
        heard: dict[int, list[Heard]] = defaultdict(list)
        for part in parts:
            decoded.update({entry["recording"]: entry for entry in part["decoded"]})
            for chunk, hypothesis in zip(part["chunks"], part["hypotheses"], strict=True):
                heard[chunk["recording"]].append((chunk, hypothesis))
        rows = []
        for number, recording in enumerate(recordings):
            decoded_recording = decoded.get(number)
            mine = sorted(heard[number], key=lambda pair: int(pair[0]["index"]))
            if decoded_recording is None or [chunk["index"] for chunk, _ in mine] != list(
                range(decoded_recording["num_chunks"])
            ):
                raise RunError(
                    f"{display_name(recording)}: its parts do not fit together; nothing of its task was written"
                )
            rows.append(self._row(recording, decoded_recording, mine))
        return rows, _counts(rows)

    def _row(self, recording: Recording, decoded_recording: Row, heard: Sequence[Heard]) -> Row:
        run = self._run
        language, language_prob = _language(recording, heard, run)
        duration_s = decoded_recording["num_samples"] / SAMPLE_RATE
        merged = self._merge(heard, decoded_recording["num_samples"], language)
        status, kind, error = _judge(recording, decoded_recording, heard, merged.text)
        transcribed = status != Status.FAILED
        written = "en" if run.config.decoding.task == "translate" else recording.language or language
        score = self._scorer.score(merged.text, recording.reference if transcribed else None, written)
        return {
            **asdict(recording),
            "metadata": [{"key": key, "value": value} for key, value in recording.metadata.items()],
            "status": status,
            "error_kind": kind,
            "error": error,
            "duration_s": duration_s,
            "language": language,
            "language_prob": language_prob,
            "text": merged.text if transcribed else None,
            **asdict(score),
            "chunks": [_chunk_row(chunk, hypothesis) for chunk, hypothesis in heard],
            "segments": _spans(merged.segments),
            "words": _spans(merged.words),
            **_doubts(heard, merged.text, duration_s),
            "unheard_s": _sum_of_known(h["unheard_s"] for _, h in heard),
            "quality_flags": sorted(
                {*decoded_recording["quality_flags"], *(flag for _, h in heard for flag in h["quality_flags"])}
            ),
            "model": run.model_identity,
            "fingerprint": run.fingerprint,
            "run_id": run.run_id,
            "processed_at": datetime.now(UTC),
        }

    def _merge(self, heard: Sequence[Heard], num_samples: int, language: str | None) -> MergedTranscript:
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
            )
            for chunk, hypothesis in heard
        ]
        decoding = self._run.config.decoding
        return merge_chunks(
            chunks,
            num_samples,
            "en" if decoding.task == "translate" else language,
            self._tokens,
            timestamps=decoding.timestamps != "none",
            words=decoding.timestamps == "word",
            overlaps=self._run.chunking.overlaps,
        )


def _judge(
    recording: Recording, decoded_recording: Row, heard: Sequence[Heard], text: str
) -> tuple[Status, str | None, str | None]:
    """(status, error kind, error) of a recording."""
    kind, error = decoded_recording["error_kind"], decoded_recording["error"]
    deaf = [(h["error_kind"], h["error"]) for _, h in heard if h["error"]]
    if kind == ErrorKind.NO_SAMPLES:
        return Status.EMPTY, kind, error
    if kind is not None and (not heard or kind == ErrorKind.TOO_LONG):
        return Status.FAILED, kind, error
    if deaf:
        kind, error = deaf[0]
        message = f"{display_name(recording)}: {len(deaf)} of {len(heard)} chunks could not be recognized: {error}"
        return Status.FAILED if len(deaf) == len(heard) else Status.PARTIAL, kind, message
    if kind is not None:
        return Status.PARTIAL, kind, error
    return (Status.OK if text else Status.EMPTY), None, None


def _language(recording: Recording, heard: Sequence[Heard], run: Run) -> tuple[str | None, float | None]:
    known = [hypothesis for _, hypothesis in heard if hypothesis["language"]]
    if known:
        return known[0]["language"], known[0]["language_prob"]
    return recording.language or (
        None if run.config.decoding.language == "auto" else run.config.decoding.language
    ), None


def _doubts(heard: Sequence[Heard], text: str, duration_s: float) -> Row:
    """The recording's signs of doubt from its chunks': likelihood by tokens, the worst of the others."""
    mine = [hypothesis for _, hypothesis in heard if not hypothesis["error"]]
    tokens = [len(hypothesis["tokens"] or ()) + 1 for hypothesis in mine]  # openai counts the end token
    proposed = sum(h["drafts_proposed"] for h in mine)
    logprobs = _all_known(h["avg_logprob"] for h in mine)
    return {
        "avg_logprob": sum(map(mul, logprobs, tokens)) / sum(tokens) if logprobs else None,
        "no_speech_prob": max(_all_known(h["no_speech_prob"] for h in mine), default=None),
        "compression_ratio": max(_all_known(h["compression_ratio"] for h in mine), default=None),
        "chars_per_s": len(text) / duration_s if duration_s else None,
        "acceptance_rate": sum(h["drafts_accepted"] for h in mine) / proposed if proposed else None,
    }


def _all_known(values: Iterable[float | None]) -> list[float]:
    """Returns the values, or none of them if one is None: the metric of a part would pass for that of the whole."""
    every = list(values)
    known = [value for value in every if value is not None]
    return known if len(known) == len(every) else []


def _chunk_row(chunk: Row, hypothesis: Row) -> Row:
    names = (
        *("text", "avg_logprob", "no_speech_prob", "compression_ratio", "temperature", "window_s", "unheard_s"),
        *("quality_flags", "tokens"),
    )
    start = chunk["start"]
    times = {"start_s": start / SAMPLE_RATE, "end_s": (start + chunk["num_samples"]) / SAMPLE_RATE}
    return times | {name: hypothesis[name] for name in names}


def _sum_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _timed(rows: Sequence[Row] | None, make: Any) -> Any:
    return None if rows is None else [make(**row) for row in rows]


def _spans(spans: Sequence[Any] | None) -> list[Row] | None:
    return None if spans is None else [asdict(span) for span in spans]


def _counts(rows: Sequence[Row]) -> Row:
    """What a receipt says of a committed task."""
    statuses = Counter(row["status"] for row in rows)
    kinds = Counter(row["error_kind"] for row in rows if row["status"] == Status.FAILED)
    return {
        "num_recordings": len(rows),
        **{f"num_{status}": statuses[status] for status in Status},
        "failures_by_kind": dict(kinds),
        **{name: sum(row[name] or 0 for row in rows) for name in WORD_COUNTS},
    }


def store_tokenizer(run: Run, folder: Path) -> None:
    """Puts those of `TOKENIZER_FILES` that a model folder has into the run's folder, for `Assembler`."""
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
