"""The benchmark of formats: what is compared, what is left out, and its tables."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.clips import write_wav
from benchmarks.comparison.environments import UnavailableError
from benchmarks.comparison.interleave import EngineProcess, current_python
from benchmarks.comparison.worker import SetResult
from benchmarks.formats import command
from benchmarks.formats.catalog import ENVIRONMENTS, NODE, ONNX, PROGRAMS, REFERENCE, RUNS
from benchmarks.formats.command import measure_formats
from benchmarks.formats.conversion_cost import main as measure_conversion
from benchmarks.formats.tokens import LOADERS
from benchmarks.settings import FormatsSettings
from distil_ray.errors import SettingsError
from distil_ray.whisper.formats.hugging_face import write_folder
from distil_ray.whisper.formats.writers import FORMATS, write_weights
from tests.whisper.formats.checkpoints import random_checkpoint, with_sizes
from tests.whisper.small import NUM_BYTES, VOCAB_SIZE, small_tokenizer

END, START, NO_TIMESTAMPS = NUM_BYTES, NUM_BYTES + 1, NUM_BYTES + 9  # tokens


@pytest.fixture
def settings(tmp_path: Path) -> FormatsSettings:
    """Settings for a small checkpoint and two clips, of which the references are "ab" and "cd"."""
    small_tokenizer().save(str(tmp_path / "tokenizer.json"))
    companions = {"tokenizer.json": json.loads((tmp_path / "tokenizer.json").read_text())}
    sizes = with_sizes(vocab_size=VOCAB_SIZE, max_source_positions=1500, max_target_positions=448)
    (tmp_path / "small").mkdir()
    write_folder(random_checkpoint(sizes), tmp_path / "small", companions=companions)
    lines = []
    for name, text in (("a", "ab"), ("b", "cd")):
        write_wav(tmp_path / f"{name}.wav", np.full(1600, ord(name), np.int16))
        line = {"id": name, "uri": str(tmp_path / f"{name}.wav"), "language": "en", "reference": text}
        lines.append(json.dumps(line) + "\n")
    (tmp_path / "clips.jsonl").write_text("".join(lines))
    return FormatsSettings(
        model=str(tmp_path / "small"),
        clips=str(tmp_path / "clips.jsonl"),
        cache_dir=str(tmp_path / "cache"),
        report=str(tmp_path / "report"),
        max_tokens=3,
    )


def test_prompt_and_end_do_not_count_and_what_cannot_be_written_is_left_out(
    settings: FormatsSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = small_tokenizer().encode("ab").ids, small_tokenizer().encode("cd").ids
    given: dict[str, list[Any]] = {
        "transformers": [first, second],
        "CTranslate2": [[START, NO_TIMESTAMPS, *first, END, 7], [*second, END]],
        "faster-whisper, its own log-mel": [first, second[:1]],
        "hf float32": ["ab", "cd"],
        "ctranslate2 int8": ["ab", "xy"],
    }

    def run_engine(process: EngineProcess) -> Iterator[SetResult]:
        texts = given.get(process.name, ["ab", "cd"])
        found = [str(text) if process.module.endswith("native") else json.dumps(text) for text in texts]
        yield SetResult("clips", found, 1.0, 1.0, 100.0)

    def ensure_environment(name: str, *_: object) -> Path:
        if name == ONNX:
            raise UnavailableError("not here")
        return current_python()

    monkeypatch.setattr(command, "run_engine", run_engine)
    monkeypatch.setattr(command, "is_installed", lambda *_: True)
    monkeypatch.setattr(command, "ensure_environment", ensure_environment)
    monkeypatch.setattr(command, "conversion_cost", lambda *_: {"cpu_s": 1.5, "private_mb": 2.0})
    monkeypatch.setattr(command, "READ_FORMATS", ("hf", "ctranslate2"))
    output = io.StringIO()

    measure_formats(settings, Console(file=output, width=200))

    report = json.loads((tmp_path / "report" / "formats.json").read_text())
    runs = {(run["program"], run["file"]["dtype"]): run["result"] for run in report["runs"]}
    assert set(runs) == {
        ("transformers", "float32"),
        ("CTranslate2", "float32"),
        ("CTranslate2", "int8"),
        ("faster-whisper", "float32"),
        ("faster-whisper", "int8"),
    }
    assert runs["CTranslate2", "float32"] == {"wer": 0.0, "num_ref_words": 2, "num_same": 2}
    assert (runs["faster-whisper", "int8"]["num_same"], runs["faster-whisper", "int8"]["wer"]) == (1, 0.5)
    assert {name.split(",")[0] for name in report["left_out"]} == set(PROGRAMS) - {program for program, _ in runs}
    assert "vocabulary entries" in report["left_out"]["openai-whisper, openai float32"]
    readings = {(each["file"]["format"], each["file"]["dtype"]): each for each in report["readings"]}
    assert len(readings) == len(FORMATS["hf"].dtypes) + len(FORMATS["ctranslate2"].dtypes)
    assert readings["hf", "float32"]["conversion_cpu_s"] is None
    int8 = readings["ctranslate2", "int8"]
    assert (int8["read_as"], int8["conversion_cpu_s"], int8["scores"]["num_same"]) == ("float32", 1.5, 1)
    assert readings["ctranslate2", "float16"]["read_as"] == "float16"
    assert "ctranslate2 int8" in output.getvalue()


def test_an_unknown_program_is_refused(settings: FormatsSettings) -> None:
    with pytest.raises(SettingsError, match=r"programs=kaldi: must be among transformers, openai-whisper"):
        measure_formats(FormatsSettings(model=settings.model, programs=("kaldi",)), Console(file=io.StringIO()))


def test_every_run_has_a_worker_an_environment_and_a_file() -> None:
    assert RUNS[0].program == REFERENCE
    for run in RUNS:
        assert run.environment in {NODE, *ENVIRONMENTS}
        assert run.file.dtype in FORMATS[run.file.format].dtypes
        assert run.program in LOADERS or run.environment == NODE


def test_a_conversion_is_measured(
    settings: FormatsSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "written").mkdir()
    write_weights(Path(settings.model), tmp_path / "written", "ctranslate2", "int8")
    measure_conversion(str(tmp_path / "written"), str(tmp_path / "cache"))
    cost = json.loads(capsys.readouterr().out)
    assert cost["cpu_s"] > 0 and cost["private_mb"] >= 0
    assert list((tmp_path / "cache" / "converted").iterdir())
