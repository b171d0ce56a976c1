"""The bookkeeping of beam search beside a plain search and an exhaustive one, over a tiny vocabulary."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from rapidfuzz.distance import Levenshtein

from distil_ray.recognition.native.beam_search import BeamState, best_continuations, top_values
from distil_ray.recognition.native.branch_table import BranchTable
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.logits_rules import LogitsRules
from tests.whisper.small import VOCAB_SIZE, small_tokens

WORDS = 4  # ids, the end token included
EOT = 3  # the last one, as in Whisper, whose times follow it
LARGEST = 12  # tokens of a text

Model = Callable[[tuple[int, ...]], list[float]]  # a text to the log-probabilities of its next token


def random_model(seed: int) -> Model:
    @cache
    def logprobs(text: tuple[int, ...]) -> list[float]:
        noise = random.Random(hash((seed, text)))
        scores = [noise.gauss(0.0, 2.0) for _ in range(WORDS)]
        if len(text) > 1 and noise.random() < 0.2:
            scores[noise.randrange(WORDS)] = float("-inf")  # as the rules exclude tokens
        return torch.tensor(scores).log_softmax(dim=0).tolist()

    return logprobs


def plain_search(model: Model, num_beams: int, limit: int, penalty: float) -> tuple[int, ...]:
    """Returns the tokens of the best text of one chunk, with the end token."""
    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, limit + 1):
        found = [(score + step, (*text, token)) for score, text in running for token, step in enumerate(model(text))]
        found = sorted((each for each in found if each[0] > float("-inf")), reverse=True)[: 2 * num_beams]
        ended = [(score, text) for score, text in found[:num_beams] if text[-1] == EOT or length == limit]
        finished += [(score / length**penalty, text) for score, text in ended]
        finished = sorted(finished, reverse=True)[:num_beams]
        running = [each for each in found if each[1][-1] != EOT and length < limit][:num_beams]
        if len(finished) == num_beams and running and running[0][0] / length**penalty <= finished[-1][0]:
            break
    return finished[0][1]


def exhaustive_search(model: Model, limit: int, penalty: float) -> tuple[int, ...]:
    """Returns the same for the best of all texts."""
    best: tuple[float, tuple[int, ...]] = (float("-inf"), ())
    for length in range(1, limit + 1):
        for words in itertools.product(range(EOT), repeat=length - 1):
            for last in range(WORDS) if length == limit else (EOT,):
                text = (*words, last)
                score = sum(model(text[:at])[token] for at, token in enumerate(text)) / length**penalty
                best = max(best, (score, text))
    return best[1]


def search(
    models: Sequence[Model],
    num_beams: int,
    limits: Sequence[int],
    penalty: float,
    selection: str = "score",
    prompt: int = 3,
) -> list[DecodingResult]:
    """Returns the results of chunks that are decoded side by side, in slots that had other chunks before."""
    slots = len(models)
    rules = LogitsRules(small_tokens(), VOCAB_SIZE, False, torch.device("cpu"))
    capacity = num_beams * (prompt + LARGEST) + num_beams
    branches = BranchTable(slots, num_beams, capacity, torch.device("cpu"))
    state = BeamState(rules.new_state(slots * num_beams), branches, num_beams, penalty, LARGEST, EOT, selection)
    rows = torch.arange(slots)
    for turn in (models[::-1], models):
        state.start_rows(rows, torch.full((slots,), prompt), torch.zeros(slots), torch.tensor(limits))
        texts: list[list[tuple[int, ...]]] = [[() for _ in range(num_beams)] for _ in models]
        for _ in range(max(limits)):
            scores = [model(text) for model, beams in zip(turn, texts, strict=True) for text in beams]
            found = best_continuations(torch.tensor(scores), num_beams, 2 * num_beams)
            parents, tokens = state.append(rows, found, LARGEST, capacity)
            chosen = zip(texts, parents.tolist(), tokens.tolist(), strict=True)
            texts = [
                [(*beams[parent], token) for parent, token in zip(old, new, strict=True)] for beams, old, new in chosen
            ]
        ended, _, _ = state.poll(1)
        assert ended == [True] * slots
    return state.results(range(slots))


@pytest.mark.parametrize("num_beams", [2, 3, 5])
@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -0.5])
def test_texts_equal_those_of_a_plain_search(num_beams: int, penalty: float) -> None:
    models = [random_model(seed) for seed in range(6)]
    limits = [2 + 2 * seed for seed in range(6)]
    for model, limit, found in zip(models, limits, search(models, num_beams, limits, penalty), strict=True):
        assert (*found.tokens, *[EOT] * found.ended) == (text := plain_search(model, num_beams, limit, penalty))
        assert found.ended == (text[-1] == EOT)


def test_with_enough_beams_the_best_of_all_texts_is_found() -> None:
    models, limit = [random_model(0)], 4
    for model, found in zip(models, search(models, WORDS**limit, [limit], 1.0), strict=True):
        assert (*found.tokens, *[EOT] * found.ended) == exhaustive_search(model, limit, 1.0)


def test_the_sum_of_logprobs_is_that_after_the_rules() -> None:
    """Where a rule excludes tokens, the sum does not count the probability that they had."""
    model, limits = random_model(1), [6]
    (found,) = search([model], 2, limits, 1.0)
    written = (*found.tokens, *[EOT] * found.ended)
    steps = [torch.tensor(model(written[:at])) for at in range(len(written))]
    after = sum(float(step.log_softmax(dim=0)[token]) for step, token in zip(steps, written, strict=True))
    assert found.sum_logprob == pytest.approx(after, rel=1e-5)

    def halved(text: tuple[int, ...]) -> list[float]:
        return [step - 1.0 for step in model(text)]  # what excluded tokens leave

    (other,) = search([halved], 2, limits, 1.0)
    assert other.tokens == found.tokens
    assert other.sum_logprob == pytest.approx(found.sum_logprob, rel=1e-5)


def test_the_text_of_minimum_bayes_risk_has_the_fewest_expected_edits_of_all_finished_texts() -> None:
    """All texts are finished, so that risks follow from the probabilities of the model."""
    differs = False
    for seed in range(8):
        model, limit, num_beams = random_model(seed), 3, WORDS**3
        texts = [
            (*words, last)
            for length in range(1, limit + 1)
            for words in itertools.product(range(EOT), repeat=length - 1)
            for last in (range(WORDS) if length == limit else (EOT,))
        ]
        logprobs = [
            sum(float(torch.tensor(model(text[:at])).log_softmax(dim=0)[token]) for at, token in enumerate(text))
            for text in texts
        ]
        written = [tuple(token for token in text if token != EOT) for text in texts]
        weights = [math.exp(logprob) for logprob in logprobs]
        risks = [
            sum(weight * Levenshtein.distance(one, two) for two, weight in zip(written, weights, strict=True))
            for one in written
        ]
        (found,) = search([model], num_beams, [limit], 1.0, "minimum_bayes_risk")
        at = texts.index((*found.tokens, *[EOT] * found.ended))
        assert risks[at] == pytest.approx(min(risks), rel=1e-4)
        assert found.sum_logprob == pytest.approx(logprobs[at], rel=1e-4)
        differs |= search([model], num_beams, [limit], 1.0)[0].tokens != found.tokens
    assert differs


@pytest.mark.parametrize("selection", ["score", "minimum_bayes_risk"])
def test_a_truncated_chunk_has_the_first_tokens_of_its_best_beam(selection: str) -> None:
    rules = LogitsRules(small_tokens(), VOCAB_SIZE, False, torch.device("cpu"))
    state = BeamState(rules.new_state(4), BranchTable(2, 2, 40, torch.device("cpu")), 2, 1.0, 9, EOT, selection)
    rows = torch.arange(2)
    state.start_rows(rows, torch.tensor([1, 1]), torch.zeros(2), torch.tensor([8, 2]))
    scores = torch.tensor([[-0.1, -3.0, -4.0, -9.0]]).expand(4, -1)
    for _ in range(4):
        state.append(rows, best_continuations(scores, 2, 4), 8, 40)
    state.truncate(0, 3)
    state.truncate(1, 1)  # it had ended
    first, second = state.results([0, 1])
    assert first.tokens == (0, 0, 0) and not first.ended
    assert second.tokens == (0, 0) and not second.ended
    assert len(state.probabilities([0])[0]) == 3


def test_a_chunk_that_has_ended_may_be_longer_than_all_that_have_not() -> None:
    """The bound on tokens and entries holds for the chunks that go on: the slots behind it are still in use."""
    rules = LogitsRules(small_tokens(), VOCAB_SIZE, False, torch.device("cpu"))
    state = BeamState(rules.new_state(4), BranchTable(2, 2, 40, torch.device("cpu")), 2, 1.0, 9, EOT)
    rows, one = torch.arange(2), torch.ones(2, dtype=torch.long)
    found = best_continuations(torch.tensor([[-0.1, -3.0, -4.0, -9.0]]).expand(4, -1), 2, 4)
    state.start_rows(rows, one, torch.zeros(2), 6 * one)
    for _ in range(6):
        state.append(rows, found, 6, 40)
    before = state.results([0])
    state.start_rows(rows[1:], one[1:], torch.zeros(1), 2 * one[1:])
    for number in (1, 2):
        state.append(rows, found, number, 10)
    assert state.results([0]) == before
    assert state.results([1])[0].tokens == (0, 0)


@pytest.mark.parametrize("columns", [7, 3000, 51_865])
def test_the_largest_values_are_those_of_topk(columns: int) -> None:
    torch.manual_seed(columns)
    values = torch.randn(4, columns)
    values[1, :] = float("-inf")
    values[1, -3:] = torch.tensor([1.0, 2.0, 3.0])
    values[2] = values[2].round()  # many are equal
    best, where = top_values(values, 5)
    assert torch.equal(best, values.topk(5).values)
    assert torch.equal(values.gather(1, where), best)
    assert all(len(set(row)) == 5 for row in where.tolist())
