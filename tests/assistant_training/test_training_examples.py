"""Selection of training examples from transcripts, and stable held-out data."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.assistant_training.training_examples import TrainingData, is_held_out, read_rows, select_training_data
from distil_ray.config import AssistantConfig
from distil_ray.errors import SettingsError
from distil_ray.output.ledger import Ledger
from distil_ray.storage.storage import Storage
from tests.assistant_training.factories import MAIN, make_chunk, make_row
from tests.support.transcripts import write_transcripts

SETTINGS = AssistantConfig(min_audio_s=1, held_out_share=0.3)


def _select(output: str, settings: AssistantConfig = SETTINGS, identity: str = MAIN) -> TrainingData:
    storage = Storage()
    return select_training_data(Ledger.read(output, storage), identity, settings, None, storage)


def test_only_reliable_chunks_of_the_same_model_are_selected(tmp_path: Path) -> None:
    rows = [make_row(f"good-{number}", make_chunk(number)) for number in range(20)]
    rows += [
        make_row("other", make_chunk(90), model="sha256:other"),
        make_row("cut-off", make_chunk(91), status="partial"),
        make_row("empty", status="ok"),
        make_row("sampled", make_chunk(92, temperature=0.4)),
        make_row("doubtful", make_chunk(20), make_chunk(97, quality_flags=["repetition_loop"]), status="doubtful"),
        make_row("loop", make_chunk(93, quality_flags=["repetition_loop"])),
        make_row("early", make_chunk(96, quality_flags=["untranscribed_speech"])),
        make_row(
            "half", make_chunk(94, quality_flags=["redecoded"]), make_chunk(95, quality_flags=["max_tokens_reached"])
        ),  # the first chunk is reliable
    ]
    data = _select(write_transcripts(tmp_path, rows))

    selected = {
        found["recording_id"]
        for selection in (*data.train, *data.held_out)
        for found in read_rows(selection, Storage())
    }
    assert selected == {f"good-{number}" for number in range(20)} | {"half", "doubtful"}
    assert data.left_out == {
        "other model": 1,
        "status partial": 1,
        "no reliable chunk": 4,
    }
    assert data.train_s + data.held_out_s == pytest.approx(220)
    assert not data.token_ids & {*range(90, 94), 95, 96, 97}


def test_all_recordings_of_a_speaker_are_held_out_together(tmp_path: Path) -> None:
    rows = [
        make_row(f"{speaker}-{take}", make_chunk(1), speaker=f"s{speaker}")
        for speaker in range(25)
        for take in range(3)
    ]
    data = _select(write_transcripts(tmp_path, rows[::2], rows[1::2]))

    assert data.hold_out_by == "speaker"
    speakers = [
        {found["recording_id"].split("-")[0] for selection in selections for found in read_rows(selection, Storage())}
        for selections in (data.train, data.held_out)
    ]
    assert speakers[0] and speakers[1] and not speakers[0] & speakers[1]


NOT_HELD_OUT = range(26, 48)  # speakers of whom none is held out with share 0.1 and seed 0
TENTH = SETTINGS.model_copy(update={"held_out_share": 0.1})


def test_recordings_are_held_out_if_no_speaker_is(tmp_path: Path) -> None:
    rows = [
        make_row(f"{number}-{take}", make_chunk(1), speaker=f"s{number}") for number in NOT_HELD_OUT for take in "ab"
    ]
    output = write_transcripts(tmp_path, rows)

    data = _select(output, TENTH)
    assert data.hold_out_by == "recording" and data.held_out_s and data.train_s
    with pytest.raises(SettingsError, match="no speaker is held out"):
        _select(output, TENTH.model_copy(update={"hold_out_by": "speaker"}))


def test_training_rows_are_of_the_partition_and_held_out_rows_of_the_output(tmp_path: Path) -> None:
    partitions = {
        day: [f"s{number}" for number in numbers] for day, numbers in (("first", range(26)), ("second", NOT_HELD_OUT))
    }
    for day, speakers in partitions.items():
        rows = [make_row(f"{day}-{each}", make_chunk(1), speaker=each) for each in speakers]
        output = write_transcripts(
            tmp_path, rows, [make_row(f"{day}-other", make_chunk(2), model="other")], partition=f"date={day}"
        )
    storage, folder = Storage(), f"{tmp_path}/transcripts/date=second"

    data = select_training_data(Ledger.read(output, storage), MAIN, TENTH, "speaker", storage, folder)
    assert all(selection.uri.startswith(folder) for selection in data.train)
    assert data.train_s == 10 * len(partitions["second"]) and data.left_out == {"other model": 1}
    assert data.held_out_s == 10 * sum(
        is_held_out(make_row("any", speaker=each), "speaker", TENTH) for each in partitions["first"]
    )


@given(st.text(min_size=1), st.integers(0, 9), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_a_larger_share_holds_out_the_same_data_and_more(speaker: str, seed: int, share: float, more: float) -> None:
    less, more = sorted((share, more))
    one = make_row("any", speaker=speaker)
    few, many = (AssistantConfig(held_out_share=number, seed=seed) for number in (less, more))

    assert is_held_out(one, "speaker", many) or not is_held_out(one, "speaker", few)


@pytest.mark.parametrize(
    ("changes", "identity", "words"),
    [
        ({}, "sha256:another", "the transcripts were made by sha256:main"),
        ({"min_audio_s": 1000}, MAIN, r"assistant.min_audio_s=1000: there are only 1\d0 s of training audio"),
        ({"held_out_share": 1e-9}, MAIN, "no recording is held out"),
    ],
)
def test_insufficient_data_is_an_error(changes: dict[str, Any], identity: str, words: str, tmp_path: Path) -> None:
    output = write_transcripts(tmp_path, [make_row(f"r{number}", make_chunk(1)) for number in range(20)])

    with pytest.raises(SettingsError, match=words):
        _select(output, SETTINGS.model_copy(update=changes), identity)


def test_selection_stops_at_the_maximum_duration(tmp_path: Path) -> None:
    output = write_transcripts(
        tmp_path, *([make_row(f"{file}-{n}", make_chunk(1)) for n in range(10)] for file in range(4))
    )
    data = _select(output, SETTINGS.model_copy(update={"max_audio_s": 50.0, "held_out_s": 20.0}))

    assert 50 <= data.train_s < 60 and 0 < data.held_out_s < 30
