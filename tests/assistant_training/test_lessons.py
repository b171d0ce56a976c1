"""What transcripts teach: only what the main model was sure of; held out is the same for ever."""

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
from tests.assistant_training.made import MAIN, chunk, row
from tests.support.transcripts import write_transcripts

SETTINGS = AssistantConfig(min_audio_s=1, held_out_share=0.3)


def _lessons(output: str, settings: AssistantConfig = SETTINGS, identity: str = MAIN) -> TrainingData:
    storage = Storage()
    return select_training_data(Ledger.read(output, storage), identity, settings, None, storage)


def test_only_what_the_main_model_was_sure_of_is_learned(tmp_path: Path) -> None:
    rows = [row(f"good-{number}", chunk(number)) for number in range(20)]
    rows += [
        row("other", chunk(90), model="sha256:other"),
        row("cut-off", chunk(91), status="partial"),
        row("nothing-heard", status="ok"),
        row("sampled", chunk(92, temperature=0.4)),
        row("loop", chunk(93, quality_flags=["repetition_loop"])),
        row("early", chunk(96, quality_flags=["untranscribed_speech"])),
        row(
            "half", chunk(94, quality_flags=["redecoded"]), chunk(95, quality_flags=["max_tokens_reached"])
        ),  # the first half of it is good
    ]
    data = _lessons(write_transcripts(tmp_path, rows))

    taken = {
        found["recording_id"]
        for selection in (*data.train, *data.held_out)
        for found in read_rows(selection, Storage())
    }
    assert taken == {f"good-{number}" for number in range(20)} | {"half"}
    assert data.left_out == {
        "of another model": 1,
        "status partial": 1,
        "nothing in it that the model was sure of": 4,
    }
    assert data.train_s + data.held_out_s == pytest.approx(210)
    assert not data.token_ids & {*range(90, 94), 95, 96}


def test_speakers_are_held_out_whole_where_enough_are_known(tmp_path: Path) -> None:
    rows = [row(f"{speaker}-{take}", chunk(1), speaker=f"s{speaker}") for speaker in range(25) for take in range(3)]
    data = _lessons(write_transcripts(tmp_path, rows[::2], rows[1::2]))

    assert data.hold_out_by == "speaker"
    speakers = [
        {found["recording_id"].split("-")[0] for selection in selections for found in read_rows(selection, Storage())}
        for selections in (data.train, data.held_out)
    ]
    assert speakers[0] and speakers[1] and not speakers[0] & speakers[1]


NOBODY = range(26, 48)  # speakers of whom none is held out at a tenth by seed 0
TENTH = SETTINGS.model_copy(update={"held_out_share": 0.1})


def test_recordings_are_held_out_where_no_speaker_happens_to_be(tmp_path: Path) -> None:
    rows = [row(f"{number}-{take}", chunk(1), speaker=f"s{number}") for number in NOBODY for take in "ab"]
    output = write_transcripts(tmp_path, rows)

    data = _lessons(output, TENTH)
    assert data.hold_out_by == "recording" and data.held_out_s and data.train_s
    with pytest.raises(SettingsError, match="by speaker nothing of the transcripts is held out"):
        _lessons(output, TENTH.model_copy(update={"hold_out_by": "speaker"}))


def test_a_partition_is_learned_from_and_asked_about_the_whole_output(tmp_path: Path) -> None:
    nights = {day: [f"s{number}" for number in numbers] for day, numbers in (("first", range(26)), ("second", NOBODY))}
    for day, speakers in nights.items():
        rows = [row(f"{day}-{each}", chunk(1), speaker=each) for each in speakers]
        output = write_transcripts(
            tmp_path, rows, [row(f"{day}-other", chunk(2), model="other")], partition=f"date={day}"
        )
    storage, tonight = Storage(), f"{tmp_path}/transcripts/date=second"

    data = select_training_data(Ledger.read(output, storage), MAIN, TENTH, "speaker", storage, tonight)
    assert all(selection.uri.startswith(tonight) for selection in data.train)
    assert data.train_s == 10 * len(nights["second"]) and data.left_out == {"of another model": 1}
    assert data.held_out_s == 10 * sum(
        is_held_out(row("any", speaker=each), "speaker", TENTH) for each in nights["first"]
    )


@given(st.text(min_size=1), st.integers(0, 9), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_what_is_held_out_stays_so_when_more_is(speaker: str, seed: int, share: float, more: float) -> None:
    less, more = sorted((share, more))
    one = row("any", speaker=speaker)
    few, many = (AssistantConfig(held_out_share=number, seed=seed) for number in (less, more))

    assert is_held_out(one, "speaker", many) or not is_held_out(one, "speaker", few)


@pytest.mark.parametrize(
    ("changes", "identity", "words"),
    [
        ({}, "sha256:another", "the transcripts are another model's: sha256:main"),
        ({"min_audio_s": 1000}, MAIN, r"assistant.min_audio_s=1000: the transcripts have 1\d0 s of audio"),
        ({"held_out_share": 1e-9}, MAIN, "by recording nothing of the transcripts is held out"),
    ],
)
def test_too_little_to_learn_from_is_told(changes: dict[str, Any], identity: str, words: str, tmp_path: Path) -> None:
    output = write_transcripts(tmp_path, [row(f"r{number}", chunk(1)) for number in range(20)])

    with pytest.raises(SettingsError, match=words):
        _lessons(output, SETTINGS.model_copy(update=changes), identity)


def test_audio_beyond_the_most_is_not_taken(tmp_path: Path) -> None:
    output = write_transcripts(tmp_path, *([row(f"{file}-{n}", chunk(1)) for n in range(10)] for file in range(4)))
    data = _lessons(output, SETTINGS.model_copy(update={"max_audio_s": 50.0, "held_out_s": 20.0}))

    assert 50 <= data.train_s < 60 and 20 <= data.held_out_s < 30
