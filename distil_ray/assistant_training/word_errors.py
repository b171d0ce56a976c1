"""A student as a recognizer: its words beside the main model's, and both beside the references."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.wer import Score, Scorer, pooled_rate
from distil_ray.output.run_context import Run
from distil_ray.pipeline.transcribe_stage import make_recognizer_options
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.types import EDITS, SAMPLE_RATE
from distil_ray.whisper.tokenizer import Tokens

MOST_S = 600.0  # seconds of held-out audio that a student transcribes

Row = dict[str, Any]


def compare_words(folder: Path, run: Run, sounds: Sequence[Row]) -> Row:
    """Rates of the student in a model folder over rows of `SOUND`, the first `MOST_S` seconds of them.

    ``wer_to_main``: of its words to the main model's. ``wer`` and ``main_wer``: of both to the references, of the
    recordings that have one and whose chunks are all here; None without any. ``normalizer``: name and version of what
    both were normalized by.
    """
    some = _first(sounds)
    recognizer = NativeRecognizer(folder, make_recognizer_options(run))
    pcm = [np.frombuffer(row["pcm"], np.int16) for row in some]
    languages = [row["language"] or recognizer.languages[0] for row in some]
    heard = [each.text for each in recognizer.transcribe(pcm, languages)]
    tokens, scorer = Tokens.load(folder), Scorer(run.config.scoring)
    written = ["en" if run.config.decoding.task == "translate" else language for language in languages]
    said = [tokens.decode(row["tokens"]) for row in some]
    to_main = [scorer.score(mine, its, code) for mine, its, code in zip(heard, said, written, strict=True)]
    recordings = _whole_recordings(some, said, heard)
    return {
        "words": {
            "audio_s": round(sum(map(len, pcm)) / SAMPLE_RATE, 1),
            "wer_to_main": _rate(to_main),
            "wer": _rate(scorer.score(mine, reference, code) for mine, _, reference, code in recordings),
            "main_wer": _rate(scorer.score(its, reference, code) for _, its, reference, code in recordings),
            "normalizer": SEPARATOR.join(sorted({score.normalizer for score in to_main})) or None,
        }
    }


def _first(sounds: Sequence[Row]) -> list[Row]:
    chosen: list[Row] = []
    seconds = 0.0
    for row in sounds:
        if chosen and seconds >= MOST_S:
            break
        chosen.append(row)
        seconds += len(row["pcm"]) / 2 / SAMPLE_RATE
    return chosen


def _whole_recordings(
    rows: Sequence[Row], said: Sequence[str], heard: Sequence[str]
) -> list[tuple[str, str, str, str | None]]:
    """(student's text, main model's, reference, language) of those whose chunks make up the whole text."""
    chunks: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        chunks[row["recording_id"]].append(number)
    found = []
    for numbers in chunks.values():
        first = rows[numbers[0]]
        mine, its = (" ".join(texts[number] for number in numbers) for texts in (heard, said))
        if first["reference"] is not None and its.split() == (first["text"] or "").split():
            found.append((mine, its, first["reference"], first["language"]))
    return found


def _rate(scores: Iterable[Score]) -> float | None:
    counted = [score for score in scores if score.num_ref_words is not None]
    edits = sum(getattr(score, name) or 0 for score in counted for name in EDITS)
    return pooled_rate(edits, sum(score.num_ref_words or 0 for score in counted))
