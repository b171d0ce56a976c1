"""Fixtures: an output over real clips with synthetic transcripts, and the data set made from it."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.output.ledger import list_data_files
from distil_ray.pipeline import model_setup, ray_cluster
from distil_ray.pseudo_labels.build import build
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.tokenizer import Tokens
from tests.support.clips import english_utterances
from tests.support.transcripts import transcript_row, write_transcripts

TEACHER = "packaged:whisper-tiny.en"

Row = dict[str, Any]


@dataclass
class Set:
    """`root` contains the clips and the output. `words` are settings of every build."""

    root: Path
    clips: list[Row]
    tokens: Tokens
    output: str
    words: tuple[str, ...] = (f"model.name={TEACHER}", "labels.validation_share=0.5")
    rows: list[Row] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        return join(self.output, "dataset")

    def transcribe(self, *numbers: int, task: int = 0, **columns: Any) -> None:
        """Adds transcripts of some clips to the output as one task: perfect ones, changed by `columns`."""
        made = [self.row(self.clips[number], **columns) for number in numbers]
        self.rows += made
        storage = Storage()
        write_transcripts(str(self.root / f"task-{task}"), made)
        data = storage.read(str(self.root / f"task-{task}" / "transcripts" / "task-0.parquet"))
        storage.put(join(self.output, "transcripts", f"task-{task}.parquet"), data)

    def row(self, clip: Row, **columns: Any) -> Row:
        path = self.root / "clips" / Path(clip["uri"]).name
        entry = Storage().stat(str(path))
        assert entry is not None
        text = columns.pop("text", f" {clip['reference'].capitalize()}.").strip()
        duration_s = soundfile.info(path).frames / 16_000
        return transcript_row(
            clip["id"],
            uri=str(path),
            source_size=entry.size,
            source_version=entry.version,
            duration_s=duration_s,
            text=text,
            reference=columns.pop("reference", clip["reference"]),
            metadata=columns.pop("metadata", {"speaker": clip["speaker"], "license": clip["license"]}),
            chunks=columns.pop("chunks", [self.chunk(0.0, duration_s, f" {text}")]),
            model=_identity(),
            **columns,
        )

    def chunk(self, start_s: float, end_s: float, text: str, **columns: Any) -> Row:
        zero = self.tokens.timestamp_begin
        said = self.tokens.tokenizer.encode(text, add_special_tokens=False).ids
        doubts = {
            "avg_logprob": -0.2,
            "no_speech_prob": 0.01,
            "compression_ratio": 1.2,
            "unheard_s": 0.0,
            "quality_flags": [],
        }
        times = {"start_s": start_s, "end_s": end_s, "tokens": [zero, *said, zero + int(50 * (end_s - start_s))]}
        return times | {"text": text.strip()} | doubts | columns

    def build(self, *words: str) -> tuple[ExitCode, str]:
        """Runs a build and returns its exit code and the console output."""
        console = Console(file=io.StringIO(), width=300)
        code = build(load_config(None, [f"output.uri={self.output}", *self.words, *words]), console)
        return code, console.file.getvalue()  # type: ignore[attr-defined]

    def files(self, folder: str) -> dict[str, bytes]:
        storage = Storage()
        return {
            uri.rsplit("/", 1)[-1]: storage.read(uri) for uri in list_data_files(join(self.dataset, folder), storage)
        }

    def examples(self) -> list[Row]:
        return _rows(self.files("data"))

    def rejected(self) -> list[Row]:
        return _rows(self.files("rejected"))

    def utterances(self) -> list[str]:
        """Returns the utterances in the data set, in examples or rejected."""
        kept = [name for example in self.examples() for name in example["utterance_ids"]]
        return sorted([*kept, *(row["id"] for row in self.rejected())])


_inspected, _loaded = cache(load_checkpoint_info), cache(Tokens.load)


def _identity() -> str:
    return _inspected(TEACHER).identity


def _rows(files: dict[str, bytes]) -> list[Row]:
    rows: list[Row] = []
    for name in sorted(files):
        rows += pq.read_table(io.BytesIO(files[name])).to_pylist()
    return rows


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the tasks of a build in this process, and loads the teacher once."""

    def run_here(work: Any, names: list[str], cpus: float) -> Iterator[Any]:
        yield from map(work, names)

    monkeypatch.setattr(model_setup, "load_checkpoint_info", lambda name, *_: _inspected(name))
    monkeypatch.setattr(Tokens, "load", _loaded)
    monkeypatch.setattr(ray_cluster, "connect_cluster", lambda resources: _Cluster())
    monkeypatch.setattr(ray_cluster, "map_on_cluster", run_here)


class _Cluster:
    def __enter__(self) -> str:
        return "this process"

    def __exit__(self, *problem: object) -> None:
        pass


SPEAKERS = {
    "austen": ("austen-0880-8khz", "austen-0890", "austen-0930"),
    "sonnet": ("sonnet-1-03", "sonnet-1-05", "sonnet-1-07"),
    "cards": ("cards-001", "cards-003", "cards-005"),
    "kennedy": ("kennedy-00", "kennedy-02", "kennedy-03"),
}


def write_clips(folder: Path) -> list[Row]:
    """Writes three FLAC files of each of four speakers, and returns their manifest rows, speaker by speaker."""
    utterances = {utterance.id: utterance for utterance in english_utterances()}
    chosen = [utterances[name] for names in SPEAKERS.values() for name in names]
    return [
        {
            "id": one.id,
            "uri": str(one.write(folder / f"{one.id}.flac")),
            "reference": re.sub(r"[,.:]", "", one.reference),
            "speaker": one.speaker,
            "license": one.license,
            "language": "en",
        }
        for one in chosen
    ]


@pytest.fixture
def labels(whisper_tiny_en: Path, tmp_path: Path) -> Set:
    """Returns short clips of four speakers in files that a test may change; nothing is transcribed yet."""
    (tmp_path / "clips").mkdir()
    clips = write_clips(tmp_path / "clips")
    return Set(tmp_path, clips, _loaded(whisper_tiny_en), str(tmp_path / "output"))
