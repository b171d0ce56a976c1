"""Sections (`chunking.strategy=sequential`) through the stages: the row has their windows, in order, none lost."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from distil_ray.errors import RunError
from distil_ray.output.run_context import PART_SECTIONS, ChunkingPlan, Run
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.in_process import InProcessPipeline
from distil_ray.pipeline.model_setup import ModelInfo
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.setup import RunSetup
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE
from tests.pipeline.conftest import pointers
from tests.support.fakes import CURSED_SAMPLES, EchoRecognizer, EchoTranscribe

SECTIONS = ChunkingPlan("sequential", 4 * SAMPLE_RATE, 0, SAMPLE_RATE, "for the test", long_form=True)
SAMPLES = 95 * SAMPLE_RATE + 17


def _run(planned: Callable[..., tuple[Run, Plan]], *overrides: str) -> tuple[Run, Plan]:
    run, plan = planned({"a.wav": SAMPLES, "b.wav": CURSED_SAMPLES}, "plan.part_audio_s=30", *overrides)
    return replace(run, chunking=SECTIONS), plan


def test_rows_have_the_windows_of_all_sections_in_order(planned: Callable[..., tuple[Run, Plan]]) -> None:
    run, _ = _run(planned)
    pipeline = InProcessPipeline(RunSetup(run, ModelInfo("fake", None, run.languages, 30.0, "")), EchoTranscribe)
    results: list[dict[str, Any]] = []
    long, short = pipeline.transcribe(list(list_recordings(run.config.input, run.storage)), results.append).to_pylist()
    assert run.part_audio_s == PART_SECTIONS * 4.0
    assert len(results) == 2
    chunks = long["chunks"]
    assert (chunks[0]["start_s"], chunks[-1]["end_s"]) == (0.0, SAMPLES / SAMPLE_RATE)
    assert all(before["end_s"] == after["start_s"] for before, after in pairwise(chunks))
    assert len(chunks) >= 95
    assert long["text"] == " ".join(chunk["text"] for chunk in chunks)
    assert long["status"] == short["status"] == "ok"
    assert sum(result["audio_s"] for result in results) == pytest.approx((SAMPLES + CURSED_SAMPLES) / SAMPLE_RATE)


def test_a_part_gives_the_same_on_another_actor_and_parts_may_come_in_any_order(
    planned: Callable[..., tuple[Run, Plan]],
) -> None:
    run, plan = _run(planned)
    parts = list(decode_tasks(pointers(plan), run))
    first, again = ([EchoTranscribe(run)(part).to_pylist()[0] for part in parts] for _ in range(2))
    recordings = list(list_recordings(run.config.input, run.storage))
    builder = RowBuilder(run)
    rows, _ = builder.build_rows(recordings, first)
    others, _ = builder.build_rows(recordings, again[::-1])
    assert [row["text"] for row in rows] == [row["text"] for row in others]
    voters = [chunk for chunk in parts[1]["chunks"][0].as_py() if chunk["detection_only"]]
    assert voters
    for lost in (first[:1], [first[0], first[0], *first[1:]]):
        with pytest.raises(RunError, match="do not fit together"):
            builder.build_rows(recordings, lost)


def test_windows_that_do_not_cover_their_section_are_an_error(planned: Callable[..., tuple[Run, Plan]]) -> None:
    class Forgetful(EchoRecognizer):
        def transcribe_sections(self, *arguments: Any) -> Any:
            return [windows[1:] for windows in super().transcribe_sections(*arguments)]

    run, plan = _run(planned, "decoding.language=en")
    stage: TranscribeStage = EchoTranscribe(run)
    stage._recognizer = Forgetful()
    part = next(iter(decode_tasks(pointers(plan), run)))
    with pytest.raises(RuntimeError, match="do not cover a section"):
        stage(part)
