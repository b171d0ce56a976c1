"""A recording is cut again as in its run, where the cuts depend on its languages."""

from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile

from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.evaluation.wer import Scorer
from distil_ray.output.run_context import ChunkingPlan
from distil_ray.pipeline.in_process import InProcessPipeline
from distil_ray.pipeline.model_setup import ModelInfo
from distil_ray.pipeline.setup import RunSetup
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE
from distil_ray.verify.retranscription import RecheckMethod, transcribe_again
from tests.pipeline.conftest import plan_run
from tests.support.fakes import EchoTranscribe


def test_sections_of_several_languages_are_cut_where_the_language_changes(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(-900, 900, 100 * SAMPLE_RATE) * 3
    noise[40 * SAMPLE_RATE :] += 1  # `EchoRecognizer` hears English in multiples of three, then German
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", noise.astype(np.int16), SAMPLE_RATE, subtype="PCM_16")
    run, _ = plan_run(tmp_path / "audio", tmp_path / "out", "decoding.language_per=chunk")
    sections = ChunkingPlan("sequential", 70 * SAMPLE_RATE, 0, SAMPLE_RATE, "for the test", long_form=True)
    run = replace(run, chunking=sections)
    pipeline = InProcessPipeline(RunSetup(run, ModelInfo("fake", None, run.languages, 30.0, "")), EchoTranscribe)
    recordings = list(list_recordings(run.config.input, run.storage))
    (row,) = pipeline.transcribe(recordings, lambda result: None).to_pylist()
    codes = [chunk["language"] for chunk in row["chunks"]]
    assert sum(before != after for before, after in pairwise(codes)) == 1
    method = RecheckMethod(run, EchoTranscribe(run), RowBuilder(run), Scorer(run.config.scoring))
    resources = run.config.resources
    with closing(SubprocessDecoder(resources.decoder_memory_mb, resources.decoder_timeout_s)) as decoder:
        again = transcribe_again(row, method, decoder, run.storage)
    assert again["text"] == row["text"]
    times = [
        [(chunk["start_s"], chunk["end_s"], chunk["language"]) for chunk in each["chunks"]] for each in (row, again)
    ]
    assert times[0] == times[1]
