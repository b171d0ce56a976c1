"""Repetition penalty and blocked n-grams equal the logits processors of transformers, row by row."""

from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.repetition_rules import RepetitionRules
from tests.whisper.small import VOCAB_SIZE, small_tokens

CPU = torch.device("cpu")
TOKENS = small_tokens()
NUM_IDS = 8  # few, so that they repeat
PADDING = NUM_IDS - 1
IDS = st.lists(st.integers(0, PADDING - 1), max_size=14)


def rules_of(penalty: float, size: int) -> RepetitionRules:
    return RepetitionRules(penalty, size, NUM_IDS, capacity=16, padding=PADDING, device=CPU)


def expected(penalty: float, size: int, ids: list[int], logits: torch.Tensor) -> torch.Tensor:
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty)])
    if size:
        processors.append(NoRepeatNGramLogitsProcessor(size))
    scores: torch.Tensor = processors(cast(torch.LongTensor, torch.tensor([ids])), logits[None])
    return scores[0]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4),
    st.sampled_from([0.5, 1.0, 1.3]),
    st.integers(0, 4),
    st.integers(0, 2**31),
)
def test_rows_of_different_lengths_equal_the_processors(
    rows: list[tuple[list[int], list[int]]], penalty: float, size: int, seed: int
) -> None:
    """Prompts and texts of any lengths; ids of the text come one by one, to the rows that have some left."""
    rules = rules_of(penalty, size)
    rows = [([PADDING, *prompt[:5]], text[:8]) for prompt, text in rows]
    history = rules.start([prompt for prompt, _ in rows])
    for step in range(8):
        next_ids = torch.tensor([text[step] if step < len(text) else 0 for _, text in rows])
        grown = history.append(next_ids)
        goes_on = torch.tensor([step < len(text) for _, text in rows])
        history = type(history)(
            torch.where(goes_on[:, None], grown.ids, history.ids),
            torch.where(goes_on, grown.lengths, history.lengths),
        )
    logits = torch.randn(len(rows), NUM_IDS, generator=torch.Generator().manual_seed(seed))
    masked = logits.clone()
    rules.apply(masked, history)
    for row, (prompt, text) in enumerate(rows):
        theirs = expected(penalty, size, [*prompt, *text], logits[row])
        assert torch.equal(masked[row, :PADDING], theirs[:PADDING])


@settings(deadline=None, max_examples=30)
@given(st.lists(IDS, min_size=1, max_size=3), st.integers(1, 3), st.integers(0, 2**31))
def test_a_part_of_the_vocabulary_gets_what_the_whole_gets(texts: list[list[int]], size: int, seed: int) -> None:
    rules, part = rules_of(1.3, size), torch.tensor([0, 1, 3, 4, PADDING])
    history = rules.start([[PADDING, *text] for text in texts])
    logits = torch.randn(len(texts), NUM_IDS, generator=torch.Generator().manual_seed(seed))
    whole, partly = logits.clone(), logits[:, part].clone()
    rules.apply(whole, history)
    rules.for_vocabulary(part).apply(partly, history)
    assert torch.equal(partly[:, :-1], whole[:, part[:-1]])


def test_a_full_history_keeps_its_capacity() -> None:
    """Rows that have ended are given ids for a while."""
    rules = rules_of(1.3, 2)
    history = rules.start([[1, 2, 3]])
    for _ in range(20):
        history = history.append(torch.tensor([4]))
    assert history.ids.tolist() == [[1, 2, 3, *[4] * 13]]
    rules.apply(torch.zeros(1, NUM_IDS), history)


@pytest.mark.parametrize("timestamps", [False, True])
def test_states_along_drafts_are_those_of_one_token_at_a_time(timestamps: bool) -> None:
    rules = LogitsRules(TOKENS, VOCAB_SIZE, timestamps, CPU, repetition_penalty=1.5, no_repeat_ngram_size=2)
    state = rules.start([TOKENS.prompt("en"), (TOKENS.sot_prev, 9, 8, *TOKENS.prompt("de"))])
    drafts = torch.tensor([[TOKENS.timestamp_begin, 9, 8], [TOKENS.timestamp_begin, 8, 9]])
    along = rules.states_along(state, drafts)
    logits = torch.randn(8, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    together, _ = rules.choose(logits.clone(), along)
    for step in range(4):
        alone, _ = rules.choose(logits.view(2, 4, -1)[:, step].clone(), state)
        assert torch.equal(alone, together.view(2, 4)[:, step])
        if step < 3:
            state = rules.next_state(state, drafts[:, step])


def test_rows_that_start_and_move_take_their_history_along() -> None:
    rules = LogitsRules(TOKENS, VOCAB_SIZE, False, CPU, no_repeat_ngram_size=1)
    kept, slots = rules.new_state(3), torch.tensor([2, 0])
    started = rules.start([(TOKENS.sot, 10), (TOKENS.sot, 11, 12)])
    rules.start_rows(kept, slots, started, torch.tensor([20, 21]))
    kept.assign(torch.tensor([1]), kept.select(torch.tensor([2])))
    logits = torch.zeros(3, VOCAB_SIZE)
    rules.apply(logits, kept)
    blocked = [set((row == -torch.inf).nonzero()[:, 0].tolist()) - set(TOKENS.suppress) for row in logits]
    first, second = {TOKENS.sot, 10, 20}, {TOKENS.sot, 11, 12, 21}
    assert blocked == [second, first, first]
