"""Recordings vote on their language; chunks are detected on their own and smoothed; languages may be restricted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile

import distil_ray as dr
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.language_detection import (
    ChunkLanguage,
    LanguageDetector,
    evidence_seconds,
    restrict_languages,
    smooth_languages,
    without_overlap_of_languages,
)
from distil_ray.pipeline.planner import parse_recordings, read_task
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.recognition.base import LanguageProbabilities
from distil_ray.recognition.quality_flags import MIXED_LANGUAGES
from distil_ray.schema import PART
from distil_ray.types import SAMPLE_RATE
from tests.pipeline.conftest import Planned, plan_run, pointers
from tests.support.clips import load_samples
from tests.support.fakes import LANGUAGES, EchoRecognizer, EchoTranscribe

S = SAMPLE_RATE
Samples = np.ndarray[Any, np.dtype[np.int16]]


class Scripted(EchoRecognizer):
    """Detects the languages by the second sample of a chunk, which is the row of the probabilities."""

    def __init__(self, probs: Sequence[Sequence[float]]) -> None:
        self._probs = probs

    def detect_languages(self, chunks: Any) -> LanguageProbabilities:
        return LanguageProbabilities(LANGUAGES, np.array([self._probs[int(pcm[1])] for pcm in chunks], np.float32))


def _audio(row: int, seconds: float = 1.0, level: int = 900) -> Samples:
    pcm = np.full(round(seconds * S), level, np.int16)
    pcm[:2] = 0, row
    return pcm


def _chunk(recording: int, index: int, **more: Any) -> dict[str, Any]:
    head = {"recording": recording, "index": index, "start": 0, "offset": 0, "num_samples": 100, "prompt": None}
    rest = {"stride_left": 0, "stride_right": 0, "language": None, "detects_language": True, "detection_only": False}
    return head | rest | more


def _codes(found: Sequence[ChunkLanguage]) -> list[str]:
    return [one.code for one in found]


def test_the_chunks_of_a_recording_vote_together_and_given_languages_stay() -> None:
    probs = [[0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]
    chunks = [_chunk(0, 0), _chunk(1, 0), _chunk(0, 1), _chunk(0, 2), _chunk(1, 1, detects_language=False)]
    chunks.append(_chunk(2, 0, language="en", detects_language=False))
    audio = [_audio(row) for row in (0, 1, 2, 0, 0, 0)]
    found = LanguageDetector(LANGUAGES).detect(Scripted(probs), chunks, audio)
    assert _codes(found) == ["de", "fr", "de", "de", "fr", "en"]
    assert [one.prob for one in found] == [
        *(pytest.approx(prob) for prob in (1.7 / 3, 0.8, 1.7 / 3, 1.7 / 3, 0.8)),
        None,
    ]


def test_a_voter_that_is_sure_of_another_language_is_flagged() -> None:
    sure_of_en, sure_of_de = [0.95, 0.03, 0.02], [0.01, 0.97, 0.02]
    probs = [sure_of_en, sure_of_de, sure_of_en, sure_of_de, [0.3, 0.1, 0.6], [0.1, 0.85, 0.05]]
    audio = [_audio(row, level=0 if row == 2 else 900) for row in range(6)]
    chunks = [_chunk(0, index, offset=S * index, num_samples=S) for index in range(6)]
    found = LanguageDetector(LANGUAGES).detect(Scripted(probs), chunks, audio)
    assert set(_codes(found)) == {"de"}
    assert [one.is_contradicted for one in found] == [True] + [False] * 5  # 2 has no signal, 4 is not sure

    chunks[1]["detection_only"] = True
    stage = EchoTranscribe()
    stage._recognizer = Scripted(probs)
    head = {"task_id": "b", "row_group": 0, "part_index": 1, "is_last": True, "already_committed": False}
    row = head | {"decoded": [], "decode_s": 0.0, "chunks": chunks, "pcm": np.concatenate(audio).tobytes()}
    heard = stage(pa.Table.from_pylist([row], schema=PART))["hypotheses"][0].as_py()
    assert [MIXED_LANGUAGES in one["quality_flags"] for one in heard] == [True, False, False, False, False]
    assert {one["language"] for one in heard} == {"de"}


@pytest.mark.parametrize(
    ("of_en", "seconds", "expected"),
    [
        ([0.9, 0.3, 0.9], [30, 7, 30], "en en en"),  # 2.8 s are gained, two changes cost 3 s
        ([0.9, 0.3, 0.9], [30, 8, 30], "en de en"),
        ([0.9, 0.0, 0.9], [30, 2, 30], "en en en"),  # too short, however sure
        ([0.9, 0.0, 0.9], [30, 4, 30], "en de en"),
        ([0.9, 0.3, 0.3, 0.9], [30, 4, 4, 30], "en de de en"),
        ([0.9, 0.9, 0.2], [30, 30, 2], "en en en"),
        ([0.9, 0.9, 0.1], [30, 30, 2], "en en de"),  # at an end there is one change
        ([0.4, 0.9, 0.9], [7, 30, 30], "en en en"),
        ([0.1, 0.1, 0.9, 0.9], [30, 30, 30, 30], "de de en en"),
        ([0.4], [1], "de"),
    ],
)
def test_a_change_of_the_language_has_to_gain_seconds(of_en: list[float], seconds: list[int], expected: str) -> None:
    probs = np.array([[en, 1 - en] for en in of_en], np.float32)
    found = smooth_languages(probs, np.array(seconds, np.float64))
    assert " ".join(["en", "de"][column] for column in found) == expected


def test_quiet_and_silent_chunks_are_weak_evidence() -> None:
    audio = [_audio(0, 10, level=8000), _audio(0, 10, level=400), _audio(0, 10, level=0)]
    assert evidence_seconds(audio).tolist() == [10.0, 2.5, 0.0]


def test_each_chunk_is_detected_and_a_weak_one_follows_its_neighbors() -> None:
    probs = [[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.3, 0.5, 0.2], [0.02, 0.03, 0.95]]
    rows, seconds = [0, 2, 0, 1, 1, 3, 1], [20, 10, 20, 20, 20, 3, 20]
    chunks = [_chunk(0, index) for index in range(7)] + [
        _chunk(1, 0),
        _chunk(1, 1, language="fr", detects_language=False),
    ]
    audio = [_audio(row, length) for row, length in zip([*rows, 2, 0], [*seconds, 10, 10], strict=True)]
    found = LanguageDetector(LANGUAGES, per_chunk=True).detect(Scripted(probs), chunks, audio)
    assert _codes(found) == ["en", "en", "en", "de", "de", "de", "de", "de", "fr"]
    assert found[1].prob == pytest.approx(0.3)
    assert [one.is_contradicted for one in found] == [False] * 5 + [True] + [False] * 3


def test_sections_are_cut_where_the_language_changes() -> None:
    noise = np.random.default_rng(0).integers(-900, 900, 130 * S) * 3
    noise[40 * S :] += 1  # `EchoRecognizer` hears English in multiples of three, then German
    pcm = noise.astype(np.int16)
    given = _chunk(1, 0, offset=len(pcm), num_samples=90 * S, language="fr", detects_language=False)
    sections = [_chunk(0, 4, start=7, num_samples=len(pcm)), given]
    audio = [pcm, pcm[: 90 * S]]
    detector = LanguageDetector(LANGUAGES, per_chunk=True)
    passages, languages = detector.detect_passages(EchoRecognizer(), sections, audio)
    assert _codes(languages) == ["en", "de", "fr"]
    english, german, french = passages
    assert (english["start"], english["offset"], english["index"], german["index"]) == (7, 0, 4, 4)
    assert abs(english["num_samples"] - 40 * S) <= 30 * S
    assert german["start"] == 7 + english["num_samples"]
    assert german["offset"] == english["num_samples"]
    assert english["num_samples"] + german["num_samples"] == len(pcm)
    assert languages[1].prob == pytest.approx(0.8)
    assert french == given
    whole, _ = LanguageDetector(LANGUAGES).detect_passages(EchoRecognizer(), sections, audio)
    assert whole == sections


def test_probabilities_are_restricted_to_languages_and_sum_to_one_again() -> None:
    every = LanguageProbabilities(LANGUAGES, np.array([[0.6, 0.3, 0.1], [1.0, 0.0, 0.0]], np.float32))
    assert restrict_languages(every, LANGUAGES) is every
    two = restrict_languages(every, ("de", "fr"))
    assert two.codes == ("de", "fr")
    assert two.probs == pytest.approx(np.array([[0.75, 0.25], [0.5, 0.5]]))
    assert two.probs.dtype == np.float32
    chunks = [_chunk(0, 0)]
    (found,) = LanguageDetector(("de", "fr")).detect(Scripted(every.probs.tolist()), chunks, [_audio(0)])
    assert found.code == "de"
    assert found.prob == pytest.approx(0.75)


def test_chunks_in_different_languages_share_no_audio() -> None:
    length, stride = 100, 15
    chunks = [
        _chunk(0, index, start=70 * index, offset=100 * index, stride_left=stride if index else 0, stride_right=stride)
        for index in range(4)
    ] + [_chunk(1, 0)]
    cut = without_overlap_of_languages(chunks, [ChunkLanguage(code) for code in ("en", "en", "de", "de", "en")])
    spans = [(one["start"], one["num_samples"], one["stride_left"], one["stride_right"]) for one in cut]
    assert spans[:2] == [(0, length, 0, stride), (70, 85, stride, 0)]
    assert spans[2:4] == [(155, 85, 0, stride), (210, length, stride, stride)]
    assert cut[2]["offset"] == 215
    assert cut[4] == chunks[4]
    assert chunks[1]["num_samples"] == length


def _two_languages(folder: Path) -> None:
    """Writes 40 s of noise in which `EchoRecognizer` hears English, then German: its samples are 0, then 1 modulo 3."""
    noise = np.random.default_rng(0).integers(-900, 900, 40 * S) * 3
    noise[20 * S :] += 1
    soundfile.write(folder / "talk.wav", noise.astype(np.int16), S, subtype="PCM_16")


def _row(run_plan: Planned) -> dict[str, Any]:
    run, plan = run_plan
    stage = EchoTranscribe(run)
    parts = [row for part in decode_tasks(pointers(plan), run) for row in stage(part).to_pylist()]
    (row,), _ = RowBuilder(run).build_rows(parse_recordings(read_task(run.plan_uri, 0, run.storage)), parts)
    return row


@pytest.mark.parametrize("part_audio_s", [30, 600])
def test_a_row_has_its_languages_and_their_shares(tmp_path: Path, part_audio_s: int) -> None:
    _two_languages(tmp_path)
    settings = ["decoding.language_per=chunk", f"plan.part_audio_s={part_audio_s}"]
    row = _row(plan_run(tmp_path / "talk.wav", tmp_path / "out", *settings))
    by_language = {code: [c for c in row["chunks"] if c["language"] == code] for code in ("en", "de")}
    lengths = {code: sum(c["end_s"] - c["start_s"] for c in chunks) for code, chunks in by_language.items()}
    assert sum(lengths.values()) == 40
    shares = {one["language"]: one["share"] for one in row["languages"]}
    assert shares == {code: pytest.approx(length / 40) for code, length in lengths.items()}
    assert row["language"] == max(lengths, key=lambda code: lengths[code])
    assert row["language_prob"] == pytest.approx(0.8)
    assert all(c["text"].startswith(code) for code, chunks in by_language.items() for c in chunks)

    whole = _row(plan_run(tmp_path / "talk.wav", tmp_path / "whole", f"plan.part_audio_s={part_audio_s}"))
    assert list(whole["languages"]) == [{"language": whole["language"], "share": 1.0}]
    given = _row(plan_run(tmp_path / "talk.wav", tmp_path / "given", "decoding.languages=[French]"))
    assert (list(given["languages"]), given["language_prob"]) == ([{"language": "fr", "share": 1.0}], None)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["quiet", "overlap"])
def test_passages_of_a_real_recording_are_transcribed_in_their_languages(
    whisper_base: Path, tmp_path: Path, strategy: str
) -> None:
    samples = [load_samples(name) for name in ("spanish", "kennedy", "kennedy", "spanish")]
    soundfile.write(tmp_path / "a.wav", np.concatenate(samples), S)
    lengths = {"chunking.length_s": 12, **({"chunking.stride_s": 2} if strategy == "overlap" else {})}
    settings = {"decoding.language_per": "chunk", "chunking.strategy": strategy, "model.dtype": "float32"}
    table = dr.transcribe(
        tmp_path / "a.wav",
        model="packaged:whisper-base",
        words=True,
        overrides=settings | lengths,
        progress=False,
        format="arrow",
    )
    (row,) = table.to_pylist()
    languages = [one["language"] for one in row["chunks"]]
    assert (languages[0], languages[-1], set(languages)) == ("es", "es", {"es", "en"})
    assert "ask what you can do for your country" in row["text"].replace(",", "").lower()
    assert {one["language"] for one in row["languages"]} == {"en", "es"}
    assert sum(one["share"] for one in row["languages"]) == pytest.approx(1)
    assert "".join(word["text"] for word in row["words"]) == row["text"]
    times = [time for word in row["words"] for time in (word["start_s"], word["end_s"])]
    assert times == sorted(times)
