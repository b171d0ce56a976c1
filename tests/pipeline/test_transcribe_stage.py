"""One hypothesis a chunk, in order, with the prompt of its recording; silence is not recognized."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distil_ray.pipeline.language_detection import is_silent
from distil_ray.pipeline.transcribe_stage import UNSUPPORTED_PROMPT
from distil_ray.recognition.quality_flags import SILENT_AUDIO
from distil_ray.schema import PART, PART_RESULT
from distil_ray.types import Hypothesis, Prompt
from tests.support.fakes import EchoRecognizer, EchoTranscribe

_FIRST_SAMPLE = {"en": 3, "de": 1, "fr": 2}  # what `EchoRecognizer` detects


def _chunk(recording: int, index: int, **more: Any) -> dict[str, Any]:
    head = {"recording": recording, "index": index, "start": 0, "offset": 0, "num_samples": 100}
    return (
        head
        | {"stride_left": 0, "stride_right": 0, "language": None, "detects_language": True, "detection_only": False}
        | more
    )


def _audio(language: str, length: int = 100) -> np.ndarray[Any, np.dtype[np.int16]]:
    pcm = np.zeros(length, np.int16)
    pcm[0] = _FIRST_SAMPLE[language]
    return pcm


def test_a_recognizer_that_loses_a_chunk_is_noticed() -> None:
    class Forgetful(EchoRecognizer):
        def transcribe(self, chunks: Any, languages: Any, needed: Any = None) -> list[Hypothesis]:
            return super().transcribe(chunks, languages, needed)[1:]

    stage = EchoTranscribe()
    stage._recognizer = Forgetful()
    loud = np.arange(100, dtype=np.int16)
    with pytest.raises(RuntimeError, match="1 hypotheses for 2 chunks"):
        stage._recognize([loud, loud], ["en"] * 2, [100] * 2, [None] * 2)


def test_a_part_gives_a_hypothesis_for_each_chunk_but_not_for_probes() -> None:
    pcm = np.concatenate([_audio("de"), _audio("en"), _audio("en", 60)])
    pcm[[50, 150, 250]] = 1000
    chunks = [_chunk(4, 2, detection_only=True), _chunk(4, 7, offset=100, detects_language=False)]
    chunks.append(_chunk(5, 0, offset=200, num_samples=60))
    head = {"task_id": "b", "row_group": 0, "part_index": 3, "is_last": True, "already_committed": False}
    row = head | {"decoded": [], "decode_s": 0.0, "chunks": chunks, "pcm": pcm.tobytes()}
    table = EchoTranscribe()(pa.Table.from_pylist([row], schema=PART))
    assert table.schema == PART_RESULT
    assert [chunk["index"] for chunk in table["chunks"][0].as_py()] == [7, 0]
    heard = table["hypotheses"][0].as_py()
    assert [(h["language"], h["text"].split()[:2]) for h in heard] == [("de", ["de", "100"]), ("en", ["en", "60"])]


def test_digital_silence_is_not_recognized() -> None:
    dither = np.random.default_rng(0).integers(-10, 11, 100).astype(np.int16)
    whisper = dither.copy()
    whisper[50] = 90  # a voice at -51 dBFS
    offset = (dither + 12_000).astype(np.int16)
    assert [is_silent(pcm) for pcm in (np.zeros(5, np.int16), dither, offset, whisper)] == [True] * 3 + [False]
    heard = EchoTranscribe()._recognize([dither, whisper, offset], ["en"] * 3, [100] * 3, [None] * 3)
    assert [bool(window.hypothesis.text) for (window,) in heard] == [False, True, False]
    assert heard[0][0].hypothesis.quality_flags == (SILENT_AUDIO,)


def _prompts_given(recognizer: Any, *prompts: Prompt | None, general: Prompt | None = None) -> tuple[Any, list[str]]:
    """Returns the prompts that the recognizer got for chunks of recordings with `prompts`, and the warnings."""
    stage, given = EchoTranscribe(), list[Any]()
    stage._recognizer, stage._prompt = recognizer(given), general
    pcm = np.arange(100 * len(prompts), dtype=np.int16)
    chunks = [
        _chunk(i, 0, offset=100 * i, language="en", detects_language=False, prompt=prompt and asdict(prompt))
        for i, prompt in enumerate(prompts)
    ]
    head = {"task_id": "b", "row_group": 0, "part_index": 0, "is_last": True, "already_committed": False}
    row = head | {"decoded": [], "decode_s": 0.0, "chunks": chunks, "pcm": pcm.tobytes()}
    tables = [stage(pa.Table.from_pylist([row], schema=PART)) for _ in range(2)]
    return given[0], [warning for table in tables for warning in table["warnings"][0].as_py()]


def test_a_recording_has_its_own_prompt_or_that_of_the_settings() -> None:
    class Prompted(EchoRecognizer):
        capabilities = replace(EchoRecognizer.capabilities, prompts=True)

        def __init__(self, given: list[Any]) -> None:
            self._given = given

        def transcribe(self, chunks: Any, languages: Any, needed: Any = None, prompts: Any = None) -> list[Hypothesis]:
            self._given.append(prompts)
            return super().transcribe(chunks, languages, needed)

    own = Prompt("Dr. Ng", ("b", "a"))
    assert _prompts_given(Prompted, None, None) == (None, [])
    assert _prompts_given(Prompted, None, own) == ([None, own], [])
    general = Prompt("Chapter 5.", ("a", "c"))
    combined = [general, Prompt("Dr. Ng", ("b", "a", "c")), Prompt("Chapter 5.", ("d", "a", "c"))]
    assert _prompts_given(Prompted, None, own, Prompt("", ("d",)), general=general) == (combined, [])


def test_a_recognizer_without_prompts_ignores_those_of_the_input_and_says_so_once() -> None:
    class Plain(EchoRecognizer):
        def __init__(self, given: list[Any]) -> None:
            self._given = given

        def transcribe(self, chunks: Any, languages: Any, *others: Any) -> list[Hypothesis]:
            self._given.append(others)
            return super().transcribe(chunks, languages)

    (given, warnings) = _prompts_given(Plain, Prompt("Dr. Ng"), None)
    assert len(given) == 1  # the samples needed, no prompts
    assert warnings == [UNSUPPORTED_PROMPT]
