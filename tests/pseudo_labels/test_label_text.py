"""Labels: the training script gets the same ids from their text, with the teacher's timestamps."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distil_ray.pseudo_labels.dataset_schema import SAMPLES_PER_TIMESTAMP
from distil_ray.pseudo_labels.label_text import Label, TokenSpan, count_label_tokens, retokenize, write_label
from distil_ray.whisper.tokenizer import Tokens
from tests.pseudo_labels.trainer import Trainer

TEXTS = (" Hello, world.", " It's 5% of 12,000.", " naïve café", "日本語です", " Straße", " …", " a  b", " don't", " x")


@pytest.fixture(scope="module", params=[True, False], ids=["multilingual", "english-only"])
def teacher(request: pytest.FixtureRequest) -> tuple[Tokens, Trainer]:
    name = "whisper_base" if request.param else "whisper_tiny_en"
    folder: Path = request.getfixturevalue(name)
    return Tokens.load(folder), Trainer.of(folder, is_multilingual=request.param)


def _ids(tokens: Tokens, text: str) -> list[int]:
    found: list[int] = tokens.tokenizer.encode(text, add_special_tokens=False).ids
    return found


def _label(tokens: Tokens, *stretches: TokenSpan, timestamps: bool) -> Label:
    return write_label(stretches, tokens, "en", "transcribe", timestamps=timestamps)


def test_the_text_of_a_label_has_the_documented_format(teacher: tuple[Tokens, Trainer]) -> None:
    tokens, trainer = teacher
    zero = tokens.timestamp_begin
    said = TokenSpan(
        (zero, *_ids(tokens, " text"), zero + 256, zero + 256, *_ids(tokens, " more"), zero + 470), 160_000
    )
    kind = "<|startoftranscript|>" + ("<|en|><|transcribe|>" if trainer.is_multilingual else "")

    timed, plain = (_label(tokens, said, timestamps=timestamps) for timestamps in (True, False))

    assert timed.text == f"{kind}<|0.00|> text<|5.12|><|5.12|> more<|9.40|><|endoftext|>"
    assert plain.text == f"{kind}<|notimestamps|> text more<|endoftext|>"
    assert trainer.ids(timed.text) == list(timed.ids)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_trainer_reads_the_same_ids_and_timestamps_increase(
    teacher: tuple[Tokens, Trainer], data: st.DataObject
) -> None:
    tokens, trainer = teacher
    zero = tokens.timestamp_begin
    token = st.one_of(
        st.sampled_from(TEXTS).map(lambda text: _ids(tokens, text)),
        st.integers(0, 1500).map(lambda time: [zero + time]),
    )
    parts = st.lists(token, min_size=1, max_size=12).map(lambda some: [one for ids in some for one in ids])
    stretches = [
        TokenSpan(retokenize(ids, tokens) or (), samples)
        for ids, samples in data.draw(st.lists(st.tuples(parts, st.integers(1600, 100_000)), min_size=1, max_size=4))
    ]
    seconds = sum(one.num_samples for one in stretches) / 16_000

    timed, plain = (_label(tokens, *stretches, timestamps=timestamps) for timestamps in (True, False))

    for label in (timed, plain):
        assert trainer.ids(label.text) == list(label.ids)
        assert label.ids.count(tokens.eot) == 1 and label.ids[-1] == tokens.eot
    times = [(token - zero) / 50 for token in timed.ids if token >= zero]
    assert times == sorted(times)
    assert all(0 <= time <= seconds + 0.01 for time in times)
    assert len(timed.ids) <= 5 + sum(count_label_tokens(one.tokens, tokens) for one in stretches)
    assert tokens.decode(timed.ids) == tokens.decode(plain.ids)


def test_the_trainer_puts_notimestamps_in_the_right_position(teacher: tuple[Tokens, Trainer]) -> None:
    """It uses a fixed position, which requires the prefix of the label."""
    tokens, trainer = teacher
    zero = tokens.timestamp_begin
    said = TokenSpan((zero, *_ids(tokens, " Good morning."), zero + 50), 16_000)
    timed, plain = (_label(tokens, said, timestamps=timestamps) for timestamps in (True, False))

    row = {"whisper_transcript": timed.text, "condition_on_prev": None}

    assert trainer.labels(row, timestamps=False, prompted=False) == list(plain.ids)


def test_unusual_tokens_are_retokenized_and_incomplete_characters_rejected(teacher: tuple[Tokens, Trainer]) -> None:
    tokens, _ = teacher
    pieces = [token for letter in " morning" for token in _ids(tokens, letter)]
    half = _ids(tokens, "日")[:1] if len(_ids(tokens, "日")) > 1 else _ids(tokens, "𠮷")[:1]

    assert retokenize(pieces, tokens) == tuple(_ids(tokens, " morning"))
    assert retokenize([*_ids(tokens, " a"), *half], tokens) is None


def test_text_without_a_final_timestamp_ends_with_its_span(teacher: tuple[Tokens, Trainer]) -> None:
    tokens, _ = teacher
    zero = tokens.timestamp_begin
    first = TokenSpan(
        (zero, *_ids(tokens, " one"), zero + 20, zero + 20, *_ids(tokens, " two")), 100 * SAMPLES_PER_TIMESTAMP
    )
    beyond = TokenSpan((zero, *_ids(tokens, " three"), zero + 1400), 50 * SAMPLES_PER_TIMESTAMP)

    label = _label(tokens, first, beyond, timestamps=True)

    times = [token - zero for token in label.ids if token >= zero]
    assert times == [0, 20, 20, 100, 100, 150]
    assert label.prompt(3) == label.ids[-4:-1]
