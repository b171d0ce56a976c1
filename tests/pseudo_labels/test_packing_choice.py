"""`labels.packing=auto`: the choice by the transcripts, and that it is kept."""

from typing import Any

import pytest

from distil_ray.config.loader import load_config
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.pseudo_labels.packing_choice import choose_packing
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.pseudo_labels.conftest import Set

pytestmark = pytest.mark.usefixtures("inline")

NO_SPEAKER: dict[str, Any] = {"metadata": {"license": "CC0"}}


def _choose(labels: Set, *words: str) -> str:
    config, storage = load_config(None, list(words)), Storage()
    ledger = Ledger.read(labels.output, storage)
    return choose_packing(ledger, config.labels, labels.dataset, "{}", storage).packing


def _two_chunks(labels: Set) -> list[dict[str, Any]]:
    return [labels.chunk(0.0, 1.0, " Good morning."), labels.chunk(1.0, 2.0, " Good evening.")]


def test_a_known_speaker_is_chosen_before_recordings(labels: Set) -> None:
    labels.transcribe(0, 1, **NO_SPEAKER, chunks=_two_chunks(labels), reference=None)
    assert _choose(labels) == "recording"
    labels.transcribe(3, task=1)
    assert _choose(labels) == "speaker"
    assert _choose(labels, "labels.speaker_column=reader") == "recording"


def test_recordings_of_one_utterance_are_not_joined(labels: Set) -> None:
    labels.transcribe(0, 1, **NO_SPEAKER)
    assert _choose(labels) == "none"


def test_transcripts_that_give_no_labels_do_not_count(labels: Set) -> None:
    labels.transcribe(0, status="failed", chunks=[])
    labels.transcribe(3, task=1, **NO_SPEAKER)
    assert _choose(labels) == "none"


def test_the_choice_is_printed_and_the_same_value_in_the_config_changes_nothing(labels: Set) -> None:
    labels.transcribe(*range(6))
    code, printed = labels.build()
    assert code == ExitCode.DONE
    assert "labels.packing=speaker: recordings have a speaker (labels.speaker_column=speaker)" in printed
    card = Storage().read(join(labels.dataset, "README.md"))
    assert b"(`labels.packing=speaker`)" in card
    before = labels.files("data")

    assert labels.build("labels.packing=speaker")[0] == ExitCode.DONE
    assert labels.files("data") == before and Storage().read(join(labels.dataset, "README.md")) == card
    with pytest.raises(SettingsError, match=r"other settings \(labels.packing\)"):
        labels.build("labels.packing=recording")


def test_a_data_set_keeps_its_packing_until_other_settings_change(labels: Set) -> None:
    labels.transcribe(*range(3), **NO_SPEAKER)
    labels.build()
    labels.transcribe(*range(3, 9), task=1)
    code, printed = labels.build()
    assert code == ExitCode.DONE
    assert "labels.packing=none: as in the existing examples" in printed
    assert all(len(example["utterance_ids"]) == 1 for example in labels.examples())

    code, printed = labels.build("labels.filters.max_chars_per_s=30", "output.on_settings_change=redo")
    assert code == ExitCode.DONE
    assert "labels.packing=speaker: " in printed
    assert max(len(example["utterance_ids"]) for example in labels.examples()) > 1
