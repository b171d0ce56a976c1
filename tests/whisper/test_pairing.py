"""Whether one checkpoint can draft for another is told from their small files, with the difference."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.errors import SettingsError
from distil_ray.pipeline.setup import prepare
from distil_ray.whisper.checkpoint import assistant_mismatch
from tests.whisper.small import VOCAB_SIZE, write_small_folder


def renamed(folder: Path, token: str, other: str) -> None:
    """Gives a token of tokenizer.json another text."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary[other] = vocabulary.pop(token)
    file.write_text(json.dumps(content))


def test_checkpoints_of_one_kind_go_together_whatever_their_layers(tmp_path: Path) -> None:
    main = write_small_folder(tmp_path / "main", decoder_layers=6)
    assert assistant_mismatch(main, write_small_folder(tmp_path / "student", decoder_layers=2)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab_size": VOCAB_SIZE - 1}, f"it has {VOCAB_SIZE - 1} vocabulary entries, the main model {VOCAB_SIZE}"),
        ({"num_mel_bins": 128}, "it has 128 mel bins, the main model 80"),
        ({"max_target_positions": 224}, "it has 224 text positions, the main model 448"),
    ],
)
def test_sizes_that_differ_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    main = write_small_folder(tmp_path / "main")
    assert assistant_mismatch(main, write_small_folder(tmp_path / "other", **changes)) == words


def test_a_v2_assistant_of_a_v3_model_is_told_why(tmp_path: Path) -> None:
    main = write_small_folder(tmp_path / "main", vocab_size=51866)
    words = assistant_mismatch(main, write_small_folder(tmp_path / "other", vocab_size=51865))
    assert words is not None and words.endswith("Whisper v3 has a language more than v2")


def test_a_token_of_another_meaning_is_named(tmp_path: Path) -> None:
    main, other = (write_small_folder(tmp_path / name) for name in ("main", "other"))
    renamed(other, "a", "%%")
    assert "its tokenizer is another: token " in (assistant_mismatch(main, other) or "")


def test_a_run_is_refused_before_any_weights_are_fetched(tmp_path: Path) -> None:
    main = write_small_folder(tmp_path / "main")
    other = write_small_folder(tmp_path / "other", num_mel_bins=128)
    settings = ["input.uri=in", "output.uri=out", f"model.name={main}", "decoding.language=en"]
    with pytest.raises(SettingsError, match=r"model\.assistant=.*other cannot draft for .*main: it has 128 mel bins"):
        prepare(load_config(None, [*settings, f"model.assistant={other}"]), Console(quiet=True))
    with pytest.raises(SettingsError, match=r"model\.assistant=.*nowhere: there is no such folder"):
        prepare(load_config(None, [*settings, f"model.assistant={tmp_path / 'nowhere'}"]), Console(quiet=True))
    alone = prepare(load_config(None, settings), Console(quiet=True))
    overrides = [*settings, f"model.assistant={other}", "decoding.speculative=off"]
    assert prepare(load_config(None, overrides), Console(quiet=True)).run.fingerprint == alone.run.fingerprint
