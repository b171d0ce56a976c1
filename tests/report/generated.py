"""Generated outputs: rows, run folders, nightly runs. Words are random and contain errors of all kinds."""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.config import Config
from distil_ray.config.loader import dump_config
from distil_ray.evaluation.summary import RunInfo, StageTotals, summarize, write_run_files
from distil_ray.evaluation.wer import align
from distil_ray.output.ledger import list_data_files, recording_keys
from distil_ray.schema import COMMIT_RESULT, PLAN, TRANSCRIPT
from distil_ray.storage.storage import Storage
from tests.support.clips import CLIPS
from tests.support.transcripts import Row, transcript_chunk, transcript_row

FINGERPRINT = "0123456789abcdef"
STARTED = datetime(2026, 11, 22, 4, 0, tzinfo=UTC)
VOCABULARY = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "ru", "sa", "to") for b in ("", "n", "r", "st", "l", "ma")]
ROWS_A_FILE = 2000
CLIP = CLIPS / "cards-003.flac"


def transcript(recording_id: str, reference: str | None, hypothesis: str, **more: Any) -> Row:
    """Returns a row with one chunk of 10 s; its edit counts are those of its texts."""
    kinds = [] if reference is None else align(reference, hypothesis, spaceless=False)
    sums = {
        name: sum(max(len(one.reference), len(one.hypothesis)) for one in kinds if one.kind == name)
        for name in ("substitute", "delete", "insert")
    }
    words = None if reference is None else len(reference.split())
    edits = None if reference is None else sum(sums.values())
    columns: Row = {
        "uri": f"/nowhere/{recording_id}.flac",
        "source_size": 1000,
        "source_version": "1",
        "text": hypothesis,
        "text_normalized": hypothesis,
        "reference": reference,
        "reference_normalized": reference,
        "num_ref_words": words,
        "substitutions": None if words is None else sums["substitute"],
        "deletions": None if words is None else sums["delete"],
        "insertions": None if words is None else sums["insert"],
        "wer": edits / words if words and edits is not None else None,
        "num_ref_chars": words,
        "char_edits": edits,
        "normalizer": "none",
        "chunks": [chunk(0.0, 10.0, hypothesis)],
        "avg_logprob": -0.2,
        "chars_per_s": len(hypothesis) / 10,
        "unheard_s": 0.0,
        "quality_flags": [],
        "model": "model",
        "fingerprint": FINGERPRINT,
        "run_id": "run",
        "processed_at": STARTED,
    }
    return transcript_row(recording_id, **columns | more)


def chunk(
    start_s: float,
    end_s: float,
    text: str,
    avg_logprob: float = -0.2,
    quality_flags: Sequence[str] = (),
    unheard_s: float = 0.0,
) -> Row:
    columns = {"avg_logprob": avg_logprob, "unheard_s": unheard_s, "quality_flags": list(quality_flags)}
    return transcript_chunk(start_s, end_s, text, **columns)


def clip_source() -> Row:
    """Returns the source columns of a row whose audio exists."""
    entry = Storage().stat(str(CLIP))
    assert entry is not None
    return {"uri": entry.uri, "source_size": entry.size, "source_version": entry.version, "duration_s": 1.54}


def failed(recording_id: str, kind: str = "not_audio", **more: Any) -> Row:
    error = f"/nowhere/{recording_id}.flac: this is <b>plain</b> text"
    nothing = {"chunks": None, "avg_logprob": None, "chars_per_s": None, "duration_s": None, "text": None}
    return transcript(recording_id, None, "", status="failed", error_kind=kind, error=error, **{**nothing, **more})


def drawn_rows(num: int, seed: int = 0, error_rate: float = 0.1, run_id: str = "run") -> Iterator[Row]:
    """Yields rows of 20 speakers: one in a hundred failed, one in fifty with a flag; all others have references."""
    words_rng, rng = np.random.default_rng(seed), np.random.default_rng(seed + 1)  # the same words at every error rate
    for number in range(num):
        name, speaker = f"rec-{number:06d}", [{"key": "speaker", "value": f"speaker-{number % 20}"}]
        if number % 100 == 99:
            yield failed(
                name, ("not_audio", "truncated", "storage")[number // 100 % 3], metadata=speaker, run_id=run_id
            )
            continue
        num_words = int(words_rng.integers(3, 30))
        reference = [VOCABULARY[index] for index in words_rng.integers(len(VOCABULARY), size=num_words)]
        words = []
        for word in reference:
            draw = rng.random() / error_rate
            words += [word] if draw > 1 else ([VOCABULARY[int(rng.integers(42))]] if draw > 0.3 else [word, word])
            if draw < 0.1:
                words.pop()
        text, logprob = " ".join(words), -float(rng.gamma(2, 0.12))
        flags = ["repetition_loop"] if number % 50 == 7 else []
        duration_s = len(reference) * 0.4
        yield transcript(
            name, " ".join(reference), text, metadata=speaker, run_id=run_id, duration_s=duration_s,
            quality_flags=flags, avg_logprob=logprob, chars_per_s=len(text) / duration_s,
            chunks=[chunk(0, duration_s, text, logprob, flags)],
        )  # fmt: skip


def write_output(
    folder: Path, rows: Iterator[Row] | Sequence[Row], *overrides: tuple[str, Any], run_id: str = "run",
    day: date | None = None, num_done_before: int = 0,
) -> Path:  # fmt: skip
    """Writes an output with one run that wrote all rows; returns the run folder."""
    storage, out = Storage(), str(folder)
    config = Config.model_validate({"output": {"uri": out, "partition": day}, **dict(overrides)})
    where = folder / "transcripts" / (f"date={day.isoformat()}" if day else "")
    where.mkdir(parents=True, exist_ok=True)
    ids: list[str] = []
    sources: list[tuple[int, str]] = []
    batch: list[Row] = []
    for number, row in enumerate(rows):
        ids.append(row["recording_id"])
        sources.append((row["source_size"], row["source_version"]))
        batch.append(row)
        if len(batch) == ROWS_A_FILE:
            _put(where / f"task-{run_id}-{number:08d}.parquet", batch)
            batch = []
    if batch:
        _put(where / f"task-{run_id}-last.parquet", batch)
    run = folder / "runs" / run_id
    (run / "plan").mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(config))
    nothing = dict.fromkeys(PLAN.names)
    planned = [nothing | {"task_id": "b", "estimated_s": 10.0, "recording_id": name} for name in ids[:1000]]
    pq.write_table(pa.Table.from_pylist(planned, schema=PLAN), run / "plan" / "tasks-00000.parquet")
    results = [_result(number, len(ids)) for number in range(40 if ids else 0)]
    (run / "events.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))
    keys = recording_keys(ids, (size for size, _ in sources), (version for _, version in sources), repeat(FINGERPRINT))
    facts = RunInfo(
        run_id=run_id, fingerprint=FINGERPRINT, model="packaged:whisper-base@abc",
        chunking={"strategy": "quiet", "length_s": 30.0, "reason": "chunking.length_s is set"}, listed_keys=keys,
        num_done_before=num_done_before, work=StageTotals.of(results), started_at=STARTED,
        finished_at=STARTED + timedelta(seconds=400), wall_s=400.0,
    )  # fmt: skip
    files = list(list_data_files(str(where), storage))
    write_run_files(summarize(files, storage, facts, config.scoring), str(run), storage)
    (run / "_SUCCESS").touch()
    return run


def _put(path: Path, rows: Sequence[Row]) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=TRANSCRIPT), sink)
    path.write_bytes(sink.getvalue())


def _result(number: int, num_recordings: int) -> Row:
    """Returns one of forty results, ten seconds apart; one of two recognizers is missing for some time."""
    made = {
        "task_id": f"b{number}", "committed": True, "already_committed": False, "num_recordings": num_recordings // 40,
        "failures_by_kind": {}, "audio_s": 100.0 + number, "decode_s": 1.0, "recognize_s": 9.0, "commit_s": 0.1,
        "device": "cpu", "dtype": "float32", "actor_rss_mb": 900.0, "at_s": 10.0 * (number + 1),
        "actors_alive": 1 if 15 <= number < 22 else 2,
    }  # fmt: skip
    return dict.fromkeys(COMMIT_RESULT.names) | made


def write_nightly_run(
    folder: Path, day: date, wer: float, drifted: bool = False, attempt: int = 1, code: int = 0
) -> None:
    """Writes the run folder of a nightly run with its nightly_run.json."""
    from distil_ray.nightly.drift import Verdict

    run = folder / "runs" / f"{day.isoformat()}.{attempt}"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(dump_config(Config()))
    failed_run = code == 1
    verdict = Verdict("wer", wer, 0.08, 5, None, 0.1, drifted, None)
    figures = {
        "num_recordings": 300, "audio_s": 5400.0 + 60 * day.day, "num_failed": 2, "num_empty": 1, "wer": wer,
        "empty_fraction": 0.01, "failed_fraction": 0.02, "chars_per_s": 14.0, "avg_logprob": -0.2,
        "rtfx": 20.0 + day.day % 3,
    }  # fmt: skip
    report = {
        "date": day.isoformat(), "run_id": run.name, "output": str(folder), "exit_code": 4 if drifted else code,
        "outcome": "drift" if drifted else "failed" if failed_run else "done", "text": f"{run.name} ended",
        "num_recognized": 300, "figures": {} if failed_run else figures,
        "drift": [] if failed_run else [asdict(verdict)],
        "finished_at": datetime(day.year, day.month, day.day, 5, tzinfo=UTC).isoformat(),
    }  # fmt: skip
    (run / "nightly_run.json").write_text(json.dumps(report))
