"""Splits by speaker, and the message that suggests a share if a split is empty."""

import io
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from distil_ray.config import LabelsConfig
from distil_ray.config.loader import load_config
from distil_ray.pseudo_labels.dataset_schema import TRAIN, VALIDATION
from distil_ray.pseudo_labels.job import pseudo_label
from distil_ray.pseudo_labels.splits import SplitShares, assign_split, format_split_group
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from tests.pseudo_labels.conftest import Set


def _config(share: float, seed: int = 0) -> LabelsConfig:
    return LabelsConfig.model_validate({"validation_share": share, "seed": seed})


GROUPS = st.sets(st.integers(0, 10**6), min_size=1, max_size=8)


@given(GROUPS, st.floats(0, 0.999), st.integers(0, 5))
def test_the_suggested_share_fills_both_splits(speakers: set[int], share: float, seed: int) -> None:
    groups = [format_split_group(str(speaker), "clip.flac", None) for speaker in speakers]
    config = _config(share, seed)
    shares = SplitShares(config)
    for group in groups:
        shares.add(group)

    note = shares.note(())

    splits = {assign_split(group, config) for group in groups}
    assert (note is None) == (share == 0 or splits == {TRAIN, VALIDATION})
    if note is not None:
        empty = TRAIN if splits == {VALIDATION} else VALIDATION
        assert f"leaves the split {empty} empty" in note
        assert shares.note({empty}) is None  # the data set has it already
        if len(groups) == 1:
            assert "only one" in note
            return
        (suggested,) = re.findall(r"Set it to at (?:least|most) (\S+),", note)
        assert {assign_split(group, _config(float(suggested), seed)) for group in groups} == {TRAIN, VALIDATION}


def test_audio_of_one_file_or_table_cell_is_one_group() -> None:
    def cell(**place: Any) -> str:
        return format_split_group(None, "speech.parquet", place)

    assert cell(member="audio", row=1, start_s=0.0) == cell(member="audio", row=1, start_s=9.5)
    assert (
        len(
            {
                cell(row=1),
                cell(row=2),
                cell(row=1, row_group=1),
                format_split_group("ann", "speech.parquet", {"row": 1}),
            }
        )
        == 4
    )
    assert format_split_group("ann", "a.flac", None) == format_split_group("ann", "b.flac", {"channel": 1})


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("columns", [{}, {"metadata": {}}], ids=["speakers", "files"])
def test_a_build_reports_an_empty_split_and_suggests_a_share(labels: Set, columns: dict[str, Any]) -> None:
    labels.transcribe(*range(12), **columns)
    words = ("labels.packing=none", "labels.validation_share=0.0001")

    code, printed = labels.build(*words)

    (suggested,) = re.findall(r"leaves the split validation empty: .* Set it to at least (\S+), or to 0", printed)
    assert code == 0 and {name.partition("-")[0] for name in labels.files("data")} == {"train"}
    assert "There is no split `validation`" in _card(labels)
    _, again = labels.build(*words)
    assert f"at least {suggested}, or to 0" in again  # also where there is nothing new

    _, printed = labels.build(words[0], f"labels.validation_share={suggested}", "output.on_settings_change=redo")

    assert "leaves the split" not in printed
    assert {name.partition("-")[0] for name in labels.files("data")} == {"train", "validation"}
    assert "There is no split" not in _card(labels)


@pytest.mark.usefixtures("inline")
def test_an_empty_training_split_is_reported(labels: Set) -> None:
    labels.transcribe(*range(12))

    _, printed = labels.build("labels.validation_share=0.9999")

    (suggested,) = re.findall(r"leaves the split train empty: .* Set it to at most (\S+), or to 0", printed)
    _, printed = labels.build(f"labels.validation_share={suggested}", "output.on_settings_change=redo")
    assert {name.partition("-")[0] for name in labels.files("data")} == {"train", "validation"}


@pytest.mark.usefixtures("inline")
def test_new_recordings_of_one_split_cause_no_message(labels: Set) -> None:
    labels.transcribe(*range(9))
    labels.build()
    assert {name.partition("-")[0] for name in labels.files("data")} == {"train", "validation"}
    labels.transcribe(*range(9, 12), task=1)

    _, printed = labels.build()

    assert "leaves the split" not in printed


@pytest.mark.usefixtures("inline")
def test_kept_examples_stay_in_their_split(labels: Set) -> None:
    labels.transcribe(*range(12))
    labels.build("labels.validation_share=0")

    _, printed = labels.build("output.on_settings_change=keep")

    assert "there is no split but train" in printed


def test_an_unsuitable_share_is_reported_before_the_transcription(labels: Set, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "id,uri,speaker",
        *(f"{clip['id']},clips/{clip['uri'].rsplit('/', 1)[-1]},{clip['speaker']}" for clip in labels.clips),
    ]
    Storage().put(join(str(labels.root), "clips.csv"), "\n".join(lines).encode())
    console = Console(file=io.StringIO(), width=300)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("distil_ray.pipeline.runner.transcribe", stop)
    words = [f"input.uri={labels.root}/clips.csv", f"output.uri={labels.output}", labels.words[0]]
    with pytest.raises(KeyboardInterrupt):
        pseudo_label(load_config(None, [*words, "labels.validation_share=0.0001"]), console)

    assert "leaves the split validation empty" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("without", [12, 3, 0])
def test_the_card_describes_training_without_references(labels: Set, without: int) -> None:
    labels.transcribe(*range(12 - without))
    if without:
        labels.transcribe(*range(12 - without, 12), task=1, reference=None)
    labels.build("labels.packing=none")

    card = _card(labels)

    assert ("No example has a reference. Leave `--wer_threshold` out" in card) == (without == 12)
    assert ("3 of 12 examples have no reference: the training script's `--wer_threshold` drops" in card) == (
        without == 3
    )


def _card(labels: Set) -> str:
    return Storage().read(join(labels.dataset, "README.md")).decode()
