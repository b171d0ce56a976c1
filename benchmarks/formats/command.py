"""The `formats` command: writes a checkpoint in every format, reads it back, and runs it in the programs."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from benchmarks import machine
from benchmarks.accuracy.recordings import prepare_recordings
from benchmarks.clips import Clip
from benchmarks.comparison.environments import UnavailableError, ensure_environment, is_installed, last_line, run_tool
from benchmarks.comparison.interleave import ROOT, EngineProcess, current_python, run_engine
from benchmarks.comparison.worker import Job, SetResult
from benchmarks.formats.catalog import ENVIRONMENTS, NODE, NODE_PACKAGE, ONNX, PROGRAMS, REFERENCE, RUNS, File, Run
from benchmarks.settings import FormatsSettings
from distil_ray.config import ScoringConfig
from distil_ray.errors import ExitCode, RunError, SettingsError
from distil_ray.evaluation.wer import Scorer, pooled_rate
from distil_ray.whisper.checkpoint import CheckpointInfo, load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.formats.writers import FORMATS, write_weights
from distil_ray.whisper.weights_cache import WeightsError, build_once

SET = "clips"
FILE = "model.bin"
READ_FORMATS = tuple(name for name in FORMATS if name != "onnx")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Scores:
    """Texts of the clips, compared with the references and with another result.

    Attributes:
        wer: Word error rate.
        num_ref_words: Words of the references.
        num_same: Number of clips with the same tokens, or the same text where there are no tokens.
    """

    wer: float | None
    num_ref_words: int
    num_same: int


@dataclass(frozen=True, slots=True)
class Reading:
    """A file, read by this package.

    Attributes:
        file: The file.
        size_mb: Its size, 10^6 bytes.
        read_as: dtype of the tensors that were read.
        conversion_cpu_s: CPU seconds of the conversion; None where the file is read in place.
        conversion_mb: Private memory of the conversion, MiB; None likewise.
        peak_mb: Peak memory of recognition, MiB.
        speed: Audio seconds per CPU second.
        scores: Compared with what is read from Hugging Face's float32.
    """

    file: File
    size_mb: float
    read_as: str
    conversion_cpu_s: float | None
    conversion_mb: float | None
    peak_mb: float
    speed: float
    scores: Scores


def measure_formats(settings: FormatsSettings, console: Console) -> ExitCode:
    """Prints the tables and writes formats.json.

    Raises:
        SettingsError: A program is unknown, or no recording fits.
        RunError: transformers, which the programs are compared with, could not run.
    """
    if unknown := [name for name in settings.programs if name not in PROGRAMS]:
        raise SettingsError(f"programs={unknown[0]}: must be among {', '.join(PROGRAMS)}")

    def on_message(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    machine_info = machine.describe_machine()
    bench = _Bench(settings, on_message)
    on_message(f"{len(bench.clips)} recordings, {sum(clip.audio_s for clip in bench.clips) / 60:.1f} minutes")
    readings = list(bench.readings()) if settings.read else []
    runs = dict(bench.runs()) if settings.run else {}
    for table in (readings_table(readings), runs_table(runs, len(bench.clips))):
        if table.row_count:
            console.print(table)
    on_message(machine.format_machine(machine_info))
    content = {
        "machine": machine_info,
        "settings": asdict(settings),
        "clips": [clip.clip_id for clip in bench.clips],
        "readings": [asdict(reading) for reading in readings],
        "runs": [asdict(run) | {"result": asdict(scores)} for run, scores in runs.items()],
        "left_out": bench.left_out,
    }
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    (report / "formats.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return ExitCode.DONE


class _Bench:
    """The checkpoint, the clips, and the files and environments that are made once."""

    def __init__(self, settings: FormatsSettings, on_message: Say) -> None:
        self.left_out: dict[str, str] = {}
        self._settings, self._on_message = settings, on_message
        self._info: CheckpointInfo = load_checkpoint_info(settings.model)
        self._folder = fetch_weights(settings.model)
        self._cache = Path(settings.cache_dir).absolute()
        identity = hashlib.sha256(self._info.identity.encode()).hexdigest()[:12]
        self._files = self._cache / "formats" / f"{Path(settings.model.rpartition(':')[2]).name}-{identity}"
        languages = (settings.language,)
        chosen = prepare_recordings(
            settings.clips, self._cache, settings.column, settings.sets, 1.0, settings.num_clips, 30.0, languages
        )
        self.clips: list[Clip] = [clip for clips in chosen.values() for clip in clips]
        self._tokenizer = Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        told = (f"<|{settings.language}|>", "<|transcribe|>") if len(self._info.languages) > 1 else ()
        special = ("<|startoftranscript|>", *told, "<|notimestamps|>", "<|endoftext|>")
        *self._prompt, self._end = [self._tokenizer.token_to_id(text) for text in special]
        self._scorer = Scorer(ScoringConfig(normalizer="auto"))

    def readings(self) -> Iterator[Reading]:
        """Reads every file that this package reads."""
        first: list[str] | None = None
        for file in [File(name, dtype) for name in READ_FORMATS for dtype in FORMATS[name].dtypes]:
            path = self._write(file)
            with tempfile.TemporaryDirectory(dir=self._files) as cache:  # of converted weights
                cost = None if file.format == "hf" else conversion_cost(file, path, cache)
                result = self._recognize(file, path, cache)
                folder = fetch_weights(str(path), cache_dir=cache)
                read_as = json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"]
            first = first or result.texts
            reading = Reading(
                file=file,
                size_mb=_bytes_of(path, FORMATS[file.format].is_folder) / 1e6,
                read_as=read_as,
                conversion_cpu_s=cost["cpu_s"] if cost else None,
                conversion_mb=cost["private_mb"] if cost else None,
                peak_mb=result.peak_rss_mb,
                speed=sum(clip.audio_s for clip in self.clips) / result.cpu_s,
                scores=self._score(result.texts, result.texts, first),
            )
            self._on_message(f"{file}: {reading.scores.num_same} texts as from float32, {reading.speed:.1f} times")
            yield reading

    def runs(self) -> Iterator[tuple[Run, Scores]]:
        """Runs the programs; transformers first, which the others are compared with."""
        reference: list[Any] = []
        chosen = [
            run for run in RUNS if run.program in (REFERENCE, *self._settings.programs) or not self._settings.programs
        ]
        for run in chosen:
            try:
                result = self._run(run)
            except (UnavailableError, WeightsError) as error:
                self.left_out[f"{run.label}, {run.file}"] = str(error)
                self._on_message(f"left out: {run.label}, {run.file}: {error}")
                if run.program == REFERENCE:
                    raise RunError(f"{REFERENCE} could not run: {error}") from error
                continue
            found = [self._own_tokens(json.loads(text)) for text in result.texts]
            reference = reference or found
            expected = [
                each if isinstance(mine, list) else self._text(each)
                for mine, each in zip(found, reference, strict=True)
            ]
            scores = self._score([self._text(each) for each in found], found, expected)
            self._on_message(f"{run.label}, {run.file}: {scores.num_same} of {len(found)} the same")
            yield run, scores

    def _write(self, file: File) -> Path:
        """Returns a file or folder, written once."""
        output = FORMATS[file.format]
        exporter = str(self._environment(ONNX)) if file.format == "onnx" else sys.executable

        def write(target: Path) -> None:
            write_weights(
                self._folder, target if output.is_folder else target / FILE, file.format, file.dtype, exporter
            )

        folder = build_once(self._files / file.format / file.dtype, write)
        return folder if output.is_folder else folder / FILE

    def _recognize(self, file: File, path: Path, cache: str) -> SetResult:
        """Recognizes the clips with a file that is converted in the cache, in a process of its own."""
        options = {
            "model.dtype": "float32",
            "model.cache_dir": cache,
            "decoding.max_new_tokens": self._settings.max_tokens,
        }
        process = EngineProcess(str(file), current_python(), "benchmarks.engines.native", self._job(path, options))
        (result,) = run_engine(process)
        return result

    def _run(self, run: Run) -> SetResult:
        features = self._files / "features"
        features.mkdir(parents=True, exist_ok=True)
        python = self._environment(ONNX if run.environment == NODE else run.environment)
        options = run.options | {
            "program": run.program,
            "dtype": run.file.dtype,
            "max_tokens": self._settings.max_tokens,
            "features": str(features),
        }
        if run.environment == NODE:
            options["package"] = str(self._node_package())
        job = self._job(self._write(run.file), options)
        (result,) = run_engine(EngineProcess(run.label, python, "benchmarks.formats.tokens", job))
        return result

    def _job(self, path: Path, options: Mapping[str, Any]) -> Job:
        return Job(
            model=str(path),
            threads=self._settings.threads,
            is_multilingual=len(self._info.languages) > 1,
            chunk_s=30.0,
            options=dict(options),
            warm_up="",
            sets={SET: [str(clip.path) for clip in self.clips]},
            languages={SET: self._settings.language},
        )

    def _environment(self, name: str) -> Path:
        folder, requirements = self._cache / "environments", ENVIRONMENTS[name]
        if not is_installed(name, requirements, folder):
            self._require_install(" ".join(requirements))
        return ensure_environment(name, requirements, folder)

    def _node_package(self) -> Path:
        """Returns the folder in which npm has installed transformers.js."""
        folder = self._cache / "environments" / NODE
        stamp = folder / "INSTALLED"
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != NODE_PACKAGE:
            self._require_install(NODE_PACKAGE)
            folder.mkdir(parents=True, exist_ok=True)
            # Without scripts, which download libraries for GPUs.
            install = ["npm", "install", "--prefix", str(folder), "--ignore-scripts", NODE_PACKAGE]
            run_tool(install, f"npm could not install {NODE_PACKAGE}")
            stamp.write_text(NODE_PACKAGE, encoding="utf-8")
        return folder

    def _require_install(self, what: str) -> None:
        if not self._settings.install:
            raise UnavailableError(f"{what}: not installed, and install=false")
        self._on_message(f"installing {what}")

    def _own_tokens(self, found: list[int] | str) -> list[int] | str:
        """Returns the tokens without prompt, end token and what is behind the maximum number."""
        if isinstance(found, str):
            return found.strip()
        if found[: len(self._prompt)] == self._prompt:
            found = found[len(self._prompt) :]
        return list(takewhile(lambda token: token != self._end, found))[: self._settings.max_tokens]

    def _text(self, found: list[int] | str) -> str:
        return (found if isinstance(found, str) else str(self._tokenizer.decode(found))).strip()

    def _score(self, texts: Sequence[str], found: Sequence[Any], expected: Sequence[Any]) -> Scores:
        language = self._settings.language
        scores = [
            self._scorer.score(text, clip.reference, language) for text, clip in zip(texts, self.clips, strict=True)
        ]
        num_ref_words = sum(score.num_ref_words or 0 for score in scores)
        edits = sum((score.substitutions or 0) + (score.deletions or 0) + (score.insertions or 0) for score in scores)
        num_same = sum(mine == other for mine, other in zip(found, expected, strict=True))
        return Scores(pooled_rate(edits, num_ref_words), num_ref_words, num_same)


def conversion_cost(file: File, path: Path, cache: str) -> dict[str, float]:
    """Converts a file in an empty cache, in a process of its own; returns its cost."""
    command = [sys.executable, "-m", "benchmarks.formats.conversion_cost", str(path), cache]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RunError(f"{file}: {last_line(done.stderr)}")
    cost: dict[str, float] = json.loads(done.stdout)
    return cost


def _bytes_of(path: Path, is_folder: bool) -> int:
    files = [file for file in path.iterdir() if file.suffix in (".safetensors", ".bin")] if is_folder else [path]
    return sum(file.stat().st_size for file in files)


def readings_table(readings: Sequence[Reading]) -> Table:
    """Returns the table of what this package reads."""
    columns = (
        "file",
        "MB",
        "read as",
        "conversion, CPU s",
        "private MB",
        "peak MB",
        "WER %",
        "same text",
        "audio s per CPU s",
    )
    table = Table(*columns, title="read by model.name, recognized in float32")
    for reading in readings:
        scores = reading.scores
        conversion = (
            ("", "")
            if reading.conversion_cpu_s is None or reading.conversion_mb is None
            else (f"{reading.conversion_cpu_s:.1f}", f"{reading.conversion_mb:.0f}")
        )
        wer = "" if scores.wer is None else f"{100 * scores.wer:.2f}"
        figures = (f"{reading.peak_mb:.0f}", wer, str(scores.num_same), f"{reading.speed:.1f}")
        table.add_row(str(reading.file), f"{reading.size_mb:.0f}", reading.read_as, *conversion, *figures)
    return table


def runs_table(runs: Mapping[Run, Scores], num_clips: int) -> Table:
    """Returns the table of the programs."""
    table = Table("program", "file", f"the same as {REFERENCE}, of {num_clips}", "WER %", title="run in other programs")
    for run, scores in runs.items():
        table.add_row(
            run.label, str(run.file), str(scores.num_same), "" if scores.wer is None else f"{100 * scores.wer:.2f}"
        )
    return table
