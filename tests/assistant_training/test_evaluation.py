"""Word error rates of a student's own transcripts of held-out recordings."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distil_ray.assistant_training import evaluation
from distil_ray.assistant_training.evaluation import compute_word_errors
from distil_ray.whisper.tokenizer import Tokens
from tests.assistant_training.factories import make_run


@pytest.mark.parametrize(
    ("language", "texts", "whole", "reference", "wer"),
    [
        ("en", (" good morning", " my friend"), "good morning my friend", "good morning my friends", 0.25),
        ("zh", ("甚至出现交易", "几乎停滞"), "甚至出现交易几乎停滞", "甚至出现交易几乎停滞了", 1 / 11),
        ("en", (" good morning",), "good morning my friend", "good morning my friends", None),  # lacks a chunk
    ],
)
def test_recordings_count_if_all_of_their_chunks_are_there(
    whisper_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    language: str,
    texts: tuple[str, ...],
    whole: str,
    reference: str,
    wer: float | None,
) -> None:
    class Student:
        languages = ("en", "zh")

        def __init__(self, *_: Any) -> None: ...

        def transcribe(self, *_: Any) -> list[Any]:
            return [SimpleNamespace(text=text.strip()) for text in texts]

    monkeypatch.setattr(evaluation, "NativeRecognizer", Student)
    monkeypatch.setattr(evaluation, "make_recognizer_options", lambda run: None)
    tokenizer = Tokens.load(whisper_base).tokenizer
    rows = [
        {
            **{"recording_id": "a", "language": language, "pcm": bytes(3200)},
            **{"text": None if number else whole, "reference": None if number else reference},
            "tokens": tokenizer.encode(text, add_special_tokens=False).ids,
        }
        for number, text in enumerate(texts)
    ]

    words = compute_word_errors(whisper_base, make_run(), rows)["words"]

    assert words["wer_to_main"] == 0
    assert words["wer"] == words["main_wer"] == (None if wer is None else pytest.approx(wer))
