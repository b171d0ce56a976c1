"""The samples of a chunk: independent of each other, and the most likely one is the result."""

import torch

from distil_ray.recognition.native.best_of import SampleState
from distil_ray.recognition.native.branch_table import BranchTable
from distil_ray.recognition.native.logits_rules import LogitsRules
from tests.whisper.small import VOCAB_SIZE, small_tokens

EOT = 0


def new_state(slots: int, samples: int, limit: int) -> SampleState:
    rules = LogitsRules(small_tokens(), VOCAB_SIZE, False, torch.device("cpu"))
    branches = BranchTable(slots, samples, 64, torch.device("cpu"))
    state = SampleState(rules.new_state(slots * samples), branches, samples, 9, EOT)
    numbers = [torch.full((slots,), number) for number in (2, limit, 5)]
    state.start_rows(
        torch.arange(slots), numbers[0], torch.full((slots,), 0.25), numbers[1], numbers[2], torch.ones(slots)
    )
    return state


def append(state: SampleState, tokens: list[list[int]], logprobs: list[list[float]]) -> None:
    state.append(torch.arange(len(tokens)), torch.tensor(tokens), torch.tensor(logprobs), 64)


def test_the_sample_with_the_highest_mean_is_the_result() -> None:
    state = new_state(2, 2, 3)
    append(state, [[7, 8], [EOT, 5]], [[-1.0, -0.5], [-0.5, -3.0]])
    append(state, [[EOT, 8], [9, 6]], [[-1.0, -0.5], [-9.0, -3.0]])
    assert state.poll(1)[0] == [False, False]
    append(state, [[9, EOT], [9, 7]], [[-9.0, -1.0], [-9.0, -3.0]])
    ended, counts, _ = state.poll(1)
    assert ended == [True, True] and counts == [2, 3]
    first, second = state.results([0, 1])
    assert (first.tokens, first.sum_logprob, first.ended) == ((8, 8), -2.0, True)  # a mean of -1 against -2
    assert (second.tokens, second.sum_logprob, second.no_speech_prob) == ((), -0.5, 0.25)
    assert [len(each) for each in state.probabilities([0, 1])] == [2, 0]


def test_samples_have_seeds_of_their_own_and_the_first_one_that_of_the_chunk() -> None:
    sampling = new_state(2, 4, 3).sampling_state(torch.arange(2))
    seeds = sampling.seeds.view(2, 4)
    assert seeds[:, 0].tolist() == [5, 5]
    assert torch.equal(seeds[0], seeds[1])
    assert len(set(seeds[0].tolist())) == 4
    assert int(seeds.max()) < 2**32


def test_truncated_samples_lose_the_rest() -> None:
    state = new_state(1, 2, 8)
    for logprob in (-1.0, -2.0, -3.0):
        append(state, [[7, 8]], [[logprob, 2 * logprob]])
    state.truncate(0, 2)
    (found,) = state.results([0])
    assert (found.tokens, found.sum_logprob, found.ended) == ((7, 7), -3.0, False)
    assert state.poll(1)[0] == [True]
