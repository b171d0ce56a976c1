"""The cost of the pipeline: arithmetic of two runs, the corpus they run over, the recognizer that answers at once."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.clips import decode_audio
from benchmarks.pipeline.command import RunCost, compute_format_cost
from benchmarks.pipeline.corpus import RATES, build_corpus
from benchmarks.pipeline.null_model import NullRecognizer
from benchmarks.pipeline.process_tree import TreeCost
from distil_ray.recognition.base import Recognizer


def test_the_difference_of_two_runs_is_free_of_the_start() -> None:
    small = RunCost(900.0, 15, TreeCost({"driver": 10.0, "decoder": 2.0}, 9, 0))
    large = RunCost(4500.0, 75, TreeCost({"driver": 14.0, "decoder": 10.0, "Ray": 1.0}, 12, 0))

    found = compute_format_cost("flac", small, large)

    assert found.cpu_s_per_hour["driver"] == pytest.approx(4.0)
    assert found.cpu_s_per_hour["decoder"] == pytest.approx(8.0)
    assert found.cpu_s_per_hour["Ray"] == pytest.approx(1.0)
    assert found.total_s_per_hour == pytest.approx(13.0)
    assert found.speed == pytest.approx(3600 / 13)
    assert found.cores_per_gpu == pytest.approx(1000 * 13 / 3600)
    assert found.start_cpu_s == pytest.approx(12.0 - 13.0 / 4)


@pytest.mark.parametrize("audio_format", RATES)
def test_a_corpus_has_the_length_that_was_asked_for_in_every_format(tmp_path: Path, audio_format: str) -> None:
    speech = (np.sin(np.arange(40_000) / 9) * 9000).astype(np.int16)

    audio_s = build_corpus(speech, audio_format, 2.0, 18, tmp_path / "audio")

    files = sorted((tmp_path / "audio").glob(f"*.{audio_format}"))
    assert (audio_s, len(files)) == (36.0, 18)
    assert all(path.with_suffix(".txt").read_text() for path in files)
    decoded = decode_audio(str(files[17]))
    assert len(decoded) / 16_000 == pytest.approx(2.0, abs=0.06)  # an encoder of MP3 pads
    if audio_format != "mp3":
        assert decoded.tolist() == np.resize(speech, 64_000)[32_000:].tolist()


def test_the_instant_recognizer_says_as_much_as_a_real_one() -> None:
    recognizer: Recognizer = NullRecognizer()

    (heard,) = recognizer.transcribe([np.zeros(160_000, np.int16)], ["en"])

    assert (len(heard.text.split()), len(heard.tokens)) == (25, 34)
