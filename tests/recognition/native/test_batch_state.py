"""A row that takes several tokens at once ends up as if they had come one by one."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.recognition.native.batch_state import PROMPT_TAIL, BatchState
from distil_ray.recognition.native.logits_rules import LogitsRules, SamplingState
from distil_ray.recognition.native.prompt_batches import prompt_end
from distil_ray.recognition.native.speculative import count_accepted
from tests.whisper.small import VOCAB_SIZE, small_tokens

CPU = torch.device("cpu")
TOKENS = small_tokens()
SEEDS = st.integers(0, 2**32 - 1)


def rows_of(prompt: list[int], limits: list[int]) -> tuple[LogitsRules, BatchState, torch.Tensor]:
    """Rows that have their first token, the time 0."""
    rules = LogitsRules(TOKENS, VOCAB_SIZE, timestamps=True, device=CPU)
    slots = torch.arange(len(limits))
    rows = BatchState(rules.new_state(len(limits)), len(limits), 64, TOKENS.eot, CPU)
    draw = SamplingState(torch.zeros(len(limits)), slots, slots)
    ends = torch.tensor([prompt_end(prompt, PROMPT_TAIL)] * len(limits))
    lengths = torch.full_like(slots, len(prompt))
    rows.start_rows(slots, lengths, ends, torch.zeros(len(limits)), torch.tensor(limits), draw)
    first = torch.full_like(slots, TOKENS.timestamp_begin)
    rules.start_rows(rows.rules, slots, rules.start([prompt] * len(limits)), first)
    rows.append(slots, first[:, None], torch.full((len(limits), 1), -1.0))
    return rules, rows, slots


@settings(deadline=None, max_examples=60)
@given(SEEDS, st.integers(1, 5), st.integers(1, 4))
def test_accepted_drafts_change_a_row_as_if_they_had_come_one_by_one(seed: int, num_drafts: int, num_rows: int) -> None:
    """Against a made-up main model, whose next token depends on all before it; drafts guess it two times of three."""
    numbers = torch.Generator().manual_seed(seed)
    limits = torch.randint(1, 12, (num_rows,), generator=numbers).tolist()
    kinds = [7, 8, 9, TOKENS.eot, TOKENS.timestamp_begin + 50]

    def chosen_after(texts: list[list[int]]) -> list[int]:
        return [kinds[hash((seed, row, *text)) % len(kinds)] for row, text in enumerate(texts)]

    rules, together, slots = rows_of([1, 2], limits)
    _, single, _ = rows_of([1, 2], limits)
    for _ in range(6):
        texts = together.tokens_by_row(slots.tolist())
        columns, guesses = [chosen_after(texts)], []
        for _ in range(num_drafts):
            is_right = torch.rand(num_rows, generator=numbers) < 0.67
            guess = [token if right else 7 for token, right in zip(columns[-1], is_right.tolist(), strict=True)]
            guesses.append(guess)
            texts = [[*text, token] for text, token in zip(texts, guess, strict=True)]
            columns.append(chosen_after(texts))
        drafts, chosen = torch.tensor(guesses).T, torch.tensor(columns).T
        agreed = count_accepted(drafts, chosen)
        along = rules.states_along(together.rules.select(slots), drafts)
        places = slots * chosen.shape[1] + agreed
        rules.advance(together.rules, slots, along, places, chosen.flatten()[places])
        together.append(slots, chosen, -chosen.float(), agreed)
    while not single.ended.all():
        tokens = torch.tensor(chosen_after(single.tokens_by_row(slots.tolist())))
        rules.advance(single.rules, slots, single.rules.select(slots), slots, tokens)
        single.append(slots, tokens[:, None], -tokens[:, None].float())
    for slot in [slot for slot in slots.tolist() if together.ended[slot]]:
        mine, its = together.results([slot])[0], single.results([slot])[0]
        assert (mine.tokens, mine.sum_logprob, mine.ended) == (its.tokens, its.sum_logprob, its.ended)
        assert 0 <= mine.accepted <= mine.proposed <= len(mine.tokens) + 1
    for slot in [slot for slot in slots.tolist() if not together.ended[slot]]:
        text = together.tokens_by_row([slot])[0]
        assert tuple(text) == single.results([slot])[0].tokens[: len(text)]


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.booleans())
def test_rules_for_a_part_of_the_vocabulary_choose_as_if_the_rest_were_suppressed(seed: int, timed: bool) -> None:
    numbers = torch.Generator().manual_seed(seed)
    rules = LogitsRules(TOKENS, VOCAB_SIZE, timed, CPU)
    part = torch.cat([torch.arange(40), torch.arange(TOKENS.eot, VOCAB_SIZE)])
    state = rules.next_state(rules.new_state(3), torch.tensor([TOKENS.timestamp_begin + 3, 9, TOKENS.timestamp_begin]))
    logits = torch.randn(3, VOCAB_SIZE, generator=numbers)
    rest = torch.ones(VOCAB_SIZE, dtype=torch.bool)
    rest[part] = False
    whole = rules.choose(logits.masked_fill(rest, float("-inf")), state)
    partly = rules.for_vocabulary(part).choose(logits[:, part], state)
    assert torch.equal(partly[0], whole[0])
    assert torch.allclose(partly[1], whole[1], atol=1e-5)


def test_the_last_ids_of_a_short_text_reach_into_its_prompt_and_no_further() -> None:
    for prompt, expected in (([5], [5, 5]), ([4, 5, 6], [5, 6])):
        _, rows, slots = rows_of(prompt, [9])
        ids, places = rows.last_ids(slots, 3)
        assert ids.tolist() == [[*expected, TOKENS.timestamp_begin]]
        assert places.tolist() == [[max(0, len(prompt) + index) for index in (-2, -1, 0)]]
