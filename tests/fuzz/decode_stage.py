"""Thousands of damaged files through the decode stage, and how they ended.

    python -m tests.fuzz.decode_stage [number of files] [seed]

The stages are the job's own (a recognizer that answers at once stands in for the model); each file has to end as one
row, within the limits that the settings give a decoder. Prints a table of formats and outcomes.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.segments import WHOLE_FILE, AudioSegment
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.config.loader import load_config
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import ChunkingPlan, Run
from distil_ray.pipeline import decode_stage
from distil_ray.pipeline.planner import make_plan
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE
from tests.fuzz.mutations import mutate
from tests.fuzz.seeds import make_seeds
from tests.support.fakes import EchoTranscribe

MEMORY_MB, TIMEOUT_S, MAX_DURATION_S = 512, 20.0, 600.0  # of a decoder; a seed lasts a second

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """`names` of the files, the rows that came of them, CPU seconds by URI, and how many processes decoded."""

    names: list[str]
    rows: list[Row]
    cpu_s: dict[str, float]
    num_processes: int
    wall_s: float


def fuzz(num_files: int, seed: int, folder: Path) -> Fuzzed:
    """Writes `num_files` damaged files below `folder` and transcribes them, stage by stage."""
    started = time.monotonic()
    (folder / "in").mkdir()
    seeds = make_seeds()
    names = []
    for number in range(num_files):
        rng = np.random.default_rng([seed, number])
        kind = list(seeds)[number % len(seeds)]
        names.append(f"{number:05d}.{kind}")
        (folder / "in" / names[-1]).write_bytes(mutate(seeds[kind], rng, list(seeds.values())))
    decoder = _MeasuredDecoder(MEMORY_MB, TIMEOUT_S, MAX_DURATION_S)
    try:
        rows = _transcribe(folder, decoder)
    finally:
        decoder.close()
    return Fuzzed(names, rows, decoder.cpu_s, decoder.num_processes, time.monotonic() - started)


class _MeasuredDecoder(SubprocessDecoder):
    """A decoder that counts what it costs."""

    def __init__(self, memory_mb: int, timeout_s: float, max_duration_s: float) -> None:
        super().__init__(memory_mb, timeout_s, max_duration_s)
        self.cpu_s: dict[str, float] = {}
        self.num_processes = 0
        self._last: object = None

    def decode_stage(self, path: str, name: str, cut: AudioSegment = WHOLE_FILE) -> Iterator[PCM16 | DecodeResult]:
        for item in super().decode(path, name, cut):
            if self._worker is not None and self._worker is not self._last:
                self._last = self._worker
                self.num_processes += 1
            if isinstance(item, DecodeResult):
                self.cpu_s[name] = item.cpu_s
            yield item


def _transcribe(folder: Path, decoder: SubprocessDecoder) -> list[Row]:
    config = load_config(None, [f"input.uri={folder / 'in'}", f"output.uri={folder / 'out'}", "decoding.language=en"])
    chunking = ChunkingPlan("quiet", 30 * SAMPLE_RATE, 0, 10 * SAMPLE_RATE, "for the test")
    run = Run(config, "fuzz", "f" * 16, "fake", None, ("en",), chunking)
    ledger = Ledger.read(config.output.uri, run.storage)
    listing = list_recordings(config.input, run.storage)
    plan = make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)
    pointers = pa.table([plan.tasks["task_id"], pa.array(range(plan.num_tasks), pa.int32())], ["task_id", "row_group"])
    transcribe = EchoTranscribe(run)
    product, decode_stage.shared_decoder = decode_stage.shared_decoder, lambda *_: decoder  # type: ignore[assignment]
    try:
        for part in decode_stage.decode_tasks(pointers, run):
            (receipt,) = write_parts(transcribe(part), run).to_pylist()
            assert receipt["error"] is None, receipt["error"]
    finally:
        decode_stage.shared_decoder = product
    rows: list[Row] = pq.read_table(folder / "out" / "transcripts").to_pylist()
    return rows


def table(fuzzed: Fuzzed) -> str:
    """Formats against outcomes, in Markdown."""
    counts = Counter((_format(row), row["error_kind"] or row["status"]) for row in fuzzed.rows)
    outcomes = [name for name, _ in Counter(row["error_kind"] or row["status"] for row in fuzzed.rows).most_common()]
    formats = list(dict.fromkeys(name.partition(".")[2] for name in fuzzed.names))
    lines = [["format", "files", *outcomes], ["---"] * (len(outcomes) + 2)]
    for name in formats:
        mine = {outcome: counts[name, outcome] for outcome in outcomes}
        lines.append([name, str(sum(mine.values())), *(str(number or "") for number in mine.values())])
    lines.append(
        ["all", str(len(fuzzed.rows)), *(str(sum(counts[f, outcome] for f in formats)) for outcome in outcomes)]
    )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _format(row: Row) -> str:
    return str(row["recording_id"]).partition(".")[2]


def main() -> int:
    words = dict(enumerate(sys.argv))
    num_files, seed = int(words.get(1, "5000")), int(words.get(2, "0"))
    with tempfile.TemporaryDirectory(prefix="distil-ray-fuzz-") as folder:
        fuzzed = fuzz(num_files, seed, Path(folder))
    print(table(fuzzed))
    slowest = max(fuzzed.cpu_s, key=lambda name: fuzzed.cpu_s[name])
    print(f"\n{len(fuzzed.names)} files (seed {seed}) gave {len(fuzzed.rows)} rows in {fuzzed.wall_s:.0f} s,")
    print(f"{fuzzed.num_processes} decoder processes, {sum(fuzzed.cpu_s.values()):.1f} CPU seconds in them; at most")
    print(f"{fuzzed.cpu_s[slowest]:.2f} for a file ({Path(slowest).name}), at most")
    print(f"{max(row['duration_s'] for row in fuzzed.rows):.1f} s of audio in one")
    return 0 if sorted(row["recording_id"] for row in fuzzed.rows) == sorted(fuzzed.names) else 1


if __name__ == "__main__":
    sys.exit(main())
