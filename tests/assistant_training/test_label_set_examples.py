"""Training examples from a pseudo-label data set: its labels without prompt, its audio as it is stored."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from distil_ray.assistant_training.audio import decode_training_audio, selections_to_table
from distil_ray.assistant_training.label_set_examples import label_ids, select_labeled_data
from distil_ray.config import AssistantConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pseudo_labels.dataset_schema import EXAMPLE
from distil_ray.pseudo_labels.label_text import TokenSpan, write_label
from distil_ray.storage.storage import Storage
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.tokenizer import Tokens

SECONDS = 2.0


@pytest.fixture
def tokens(whisper_base: Path) -> Tokens:
    return Tokens.load(whisper_base)


def _data_set(folder: Path, tokens: Tokens, **files: list[str]) -> str:
    """Writes a data set of two-second examples, with the texts of each split, and returns its folder."""
    (folder / "data").mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(-3000, 3000, round(SECONDS * SAMPLE_RATE)).astype(np.int16)
    sink = io.BytesIO()
    soundfile.write(sink, noise, SAMPLE_RATE, format="FLAC")
    for split, texts in files.items():
        rows = []
        for number, text in enumerate(texts):
            span = TokenSpan(tuple(tokens.tokenizer.encode(text, add_special_tokens=False).ids), len(noise))
            label = write_label([span], tokens, "en", "transcribe", timestamps=False)
            values = {"id": f"{split}-{number}", "whisper_transcript": label.text, "language": "en"}
            audio = {"bytes": sink.getvalue(), "path": "a.flac"}
            rows.append(dict.fromkeys(EXAMPLE.names) | values | {"audio": audio, "duration_s": SECONDS})
        pq.write_table(pa.Table.from_pylist(rows, schema=EXAMPLE), folder / "data" / f"{split}-0.parquet")
    return str(folder)


def test_labels_are_read_without_prompt_and_end_token(tmp_path: Path, tokens: Tokens, whisper_base: Path) -> None:
    uri = _data_set(tmp_path, tokens, train=[" good morning", " how are you"], validation=[" fine"])
    data = select_labeled_data(uri, tokens, AssistantConfig(min_audio_s=1), Storage())

    assert (data.train_s, data.held_out_s) == (2 * SECONDS, SECONDS)
    config = load_config(None, [f"assistant.labels_uri={uri}", f"model.name={whisper_base}"])
    rows = [
        row for table in decode_training_audio(selections_to_table(data.train), config) for row in table.to_pylist()
    ]
    assert [tokens.decode(row["tokens"]) for row in rows] == ["good morning", "how are you"]
    assert {len(row["pcm"]) for row in rows} == {round(SECONDS * SAMPLE_RATE) * 2}
    assert data.token_ids == {token for row in rows for token in row["tokens"]}


def test_a_data_set_that_was_labeled_again_is_another_training(tmp_path: Path, tokens: Tokens) -> None:
    """Its files have the same names and numbers of rows."""

    def fingerprint(text: str) -> str:
        uri = _data_set(tmp_path, tokens, train=[text], validation=[" fine"])
        return select_labeled_data(uri, tokens, AssistantConfig(min_audio_s=1), Storage()).fingerprint

    assert fingerprint(" good morning") != fingerprint(" good evening")


def test_timestamps_of_a_label_are_kept(tokens: Tokens) -> None:
    begin = tokens.timestamp_begin
    label = write_label([TokenSpan((begin, 2425, begin + 50), 16_000)], tokens, "de", "transcribe", timestamps=True)

    assert label_ids(label.text, tokens) == (begin, 2425, begin + 50)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "there is no data/train-….parquet"),
        ({"train": [" yes"]}, "no split is held out"),
    ],
)
def test_an_unusable_data_set_is_an_error(
    files: dict[str, list[str]], words: str, tmp_path: Path, tokens: Tokens
) -> None:
    with pytest.raises(SettingsError, match=words):
        select_labeled_data(_data_set(tmp_path, tokens, **files), tokens, AssistantConfig(min_audio_s=1), Storage())
