"""Speech that a recognizer leaves without text is told by everything that is made of its transcript."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from rich.console import Console

from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode
from distil_ray.output.run_context import Run
from distil_ray.pipeline import runner
from distil_ray.pseudo_labels.build import build
from distil_ray.recognition.base import PCM16
from distil_ray.recognition.quality_flags import UNTRANSCRIBED_SPEECH
from distil_ray.types import SAMPLE_RATE, Hypothesis
from distil_ray.verify.verify import verify
from tests.pseudo_labels.conftest import inline
from tests.report.test_run_page import text_of
from tests.support.fakes import EARLY_SAMPLES, UNHEARD_S, EchoRecognizer, EchoTranscribe
from tests.support.transcripts import stored_rows
from tests.support.without_ray import run_stages_in_process

__all__ = ["inline"]  # a fixture

PRINTABLE = 94  # the first ids of Whisper's tokens are single printable letters of ASCII


class SpelledRecognizer(EchoRecognizer):
    """Its tokens can be read by a tokenizer, as labels need it."""

    def _echo(self, chunk: PCM16, language: str) -> Hypothesis:
        hypothesis = super()._echo(chunk, language)
        return replace(hypothesis, tokens=tuple(token % PRINTABLE for token in hypothesis.tokens))


class SpelledTranscribe(EchoTranscribe):
    """The transcribe stage around it."""

    def __init__(self, run: Run | None = None) -> None:
        super().__init__(run)
        self._recognizer = SpelledRecognizer()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, whisper_tiny_en: Path) -> Iterator[Config]:
    """The settings of a run over two recordings; the text of one ends early."""
    folder = tmp_path_factory.mktemp("early")
    (folder / "audio").mkdir()
    for name, num_samples in (("early", EARLY_SAMPLES), ("whole", 5 * SAMPLE_RATE)):
        noise = np.random.default_rng(0).integers(-3000, 3000, num_samples).astype(np.int16)
        soundfile.write(folder / "audio" / f"{name}.wav", noise, SAMPLE_RATE)
    yield load_config(
        None,
        [
            *(f"input.uri={folder / 'audio'}", f"output.uri={folder / 'out'}", f"model.name={whisper_tiny_en}"),
            *("run_id=run", "labels.packing=recording", "labels.timestamp_share=0", "labels.validation_share=0"),
        ],
    )


@pytest.fixture(scope="module")
def printed(config: Config) -> str:
    """What its run says."""
    console = Console(file=io.StringIO(), width=200)
    with pytest.MonkeyPatch.context() as monkeypatch:
        run_stages_in_process(monkeypatch)
        assert runner.transcribe(config, console, SpelledTranscribe) == ExitCode.DONE
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_its_row_its_run_and_the_console_tell_it(config: Config, printed: str) -> None:
    told = {row["recording_id"]: (row["unheard_s"], row["quality_flags"]) for row in stored_rows(config.output.uri)}
    assert told == {"early.wav": (UNHEARD_S, [UNTRANSCRIBED_SPEECH]), "whole.wav": (0.0, [])}
    summary = json.loads(Path(config.output.uri, "runs/run/summary.json").read_text())
    assert (summary["unheard_s"], summary["num_untranscribed_speech"]) == (UNHEARD_S, 1)
    assert "4.2 s of speech after the end of transcribed text; 1 of 2 recordings have more than 1 s" in printed


def test_verify_and_the_report_name_the_recording(config: Config, printed: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert verify(config, console) == ExitCode.DONE
    words = console.file.getvalue()  # type: ignore[attr-defined]
    assert "1 of 2 rows have the flag untranscribed_speech, with 4.2 s of speech after the end of the text" in words
    assert "most of it in early.wav (4.2 s)" in words
    page = text_of(Path(config.output.uri, "runs/run/report.html"))
    assert "1 recording with untranscribed speech, 4.2 s in total" in page
    assert "early.wav 4.2 s 1 0:00" in page


def test_it_is_no_label_unless_the_filter_is_switched_off(config: Config, printed: str, inline: None) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert build(config, console) == ExitCode.DONE
    folder = Path(config.output.uri, "dataset")
    (rejected,) = pq.read_table(folder / "rejected").to_pylist()
    (example,) = pq.read_table(folder / "data").to_pylist()
    assert (rejected["id"], rejected["reasons"], rejected["unheard_s"]) == ("early.wav", ["max_unheard_s"], UNHEARD_S)
    assert (example["id"], example["unheard_s"]) == ("whole.wav", 0.0)
    assert "| `max_unheard_s` | 1 | 1 |" in (folder / "README.md").read_text()
    filters = config.labels.filters.model_copy(update={"max_unheard_s": None})
    changed = {
        "labels": config.labels.model_copy(update={"filters": filters}),
        "output": config.output.model_copy(update={"on_settings_change": "redo"}),
    }
    assert build(config.model_copy(update=changed), console) == ExitCode.DONE
    assert sorted(row["id"] for row in pq.read_table(folder / "data").to_pylist()) == ["early.wav", "whole.wav"]
