"""An utterance is a chunk of a transcript, in the chunk's language and with the license of its recording."""

from pathlib import Path

import pytest

from distil_ray.assistant_training.training_examples import training_chunks
from distil_ray.config import Config, LabelsConfig
from distil_ray.evaluation.normalizers import name_with_versions
from distil_ray.evaluation.wer import Scorer
from distil_ray.pseudo_labels.utterances import UtteranceBuilder
from distil_ray.whisper.tokenizer import Tokens
from tests.support.transcripts import transcript_chunk, transcript_row


def test_chunks_in_several_languages_are_utterances_in_theirs(whisper_base: Path) -> None:
    tokens, config = Tokens.load(whisper_base), Config()
    texts = {"en": "Good morning.", "de": "Guten Morgen.", None: "Hello."}
    chunks = [
        transcript_chunk(
            10.0 * i,
            10.0 * i + 5,
            text,
            language=code,
            tokens=list(tokens.tokenizer.encode(text, add_special_tokens=False).ids),
        )
        for i, (code, text) in enumerate(texts.items())
    ]
    row = transcript_row("a", duration_s=25.0, chunks=chunks, reference="good morning guten morgen hello")
    builder = UtteranceBuilder(config.labels, Scorer(config.scoring), tokens, "transcribe")
    utterances = [one.row for one in builder.build(row, "source", "mix", None)]
    assert [one["language"] for one in utterances] == ["en", "de", "en"]  # older outputs have it in the row alone
    assert [one["reference"] for one in utterances] == ["good morning", "guten morgen", "hello"]
    english, basic = name_with_versions("whisper_english"), name_with_versions("whisper_basic")
    assert [one["normalizer"] for one in utterances] == [english, basic, english]
    assert [chunk.language for chunk in training_chunks(row)] == ["en", "de", "en"]


@pytest.mark.parametrize(
    ("metadata", "column", "expected"),
    [
        ({"License": "CC0-1.0"}, None, "CC0-1.0"),
        ({"LICENCE": "CC0-1.0", "license": ""}, None, "CC0-1.0"),
        ({"licence": "other", "license": "CC0-1.0"}, None, "CC0-1.0"),
        ({"license": "CC0-1.0", "rights": "mine"}, "rights", "mine"),
        ({"license": "CC0-1.0"}, "rights", None),
        ({"licenses": "many"}, None, None),
    ],
)
def test_a_license_is_found_in_any_spelling_of_its_key(
    whisper_tiny_en: Path, metadata: dict[str, str], column: str | None, expected: str | None
) -> None:
    config = LabelsConfig(license_column=column)
    builder = UtteranceBuilder(config, Scorer(Config().scoring), Tokens.load(whisper_tiny_en), "transcribe")
    row = transcript_row("a", status="failed", metadata=metadata)
    (utterance,) = builder.build(row, "source", "mix", None)
    assert utterance.row["license"] == expected
