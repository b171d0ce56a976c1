"""Sampling draws the right tokens in the right proportions, and the same ones on every run."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.recognition.native.logits_rules import LogitsRules, SamplingState, gumbel_noise
from tests.whisper.small import VOCAB_SIZE, small_tokens

DRAWS = 20_000
SEEDS = st.integers(0, 2**32 - 1)


def draw(temperatures: list[float], seeds: list[int], steps: list[int]) -> SamplingState:
    return SamplingState(torch.tensor(temperatures), torch.tensor(seeds), torch.tensor(steps))


def assert_drawn_as(shares: torch.Tensor, chosen: torch.Tensor) -> None:
    """Each token's share within five standard deviations of what chance allows."""
    for token, share in enumerate(shares.tolist()):
        spread = math.sqrt(share * (1 - share) / len(chosen))
        assert abs((chosen == token).float().mean().item() - share) <= 5 * spread


def test_tokens_are_drawn_from_the_softmax_at_their_temperature() -> None:
    """Over many seeds at one step, and over many steps of one seed."""
    logits = torch.tensor([2.0, 1.0, 0.0, -3.0, -math.inf])
    rows = logits.expand(DRAWS, -1)
    for temperature in (0.4, 1.0):
        shares = (logits / temperature).softmax(dim=0)
        temperatures = [temperature] * DRAWS
        for seeds, steps in ((list(range(DRAWS)), [3] * DRAWS), ([77] * DRAWS, list(range(DRAWS)))):
            chosen = draw(temperatures, seeds, steps).perturb(rows).argmax(dim=1)
            assert_drawn_as(shares, chosen)


@given(st.lists(SEEDS, min_size=1, max_size=4), st.integers(0, 447))
def test_temperature_zero_is_greedy_and_noise_is_finite(seeds: list[int], step: int) -> None:
    logits = torch.randn(len(seeds), 500, generator=torch.Generator().manual_seed(step))
    steps = [step] * len(seeds)
    assert torch.equal(draw([0.0] * len(seeds), seeds, steps).perturb(logits), logits)
    assert gumbel_noise(torch.tensor(seeds), torch.tensor(steps), 500).isfinite().all()


@given(SEEDS, SEEDS, st.integers(0, 447), st.integers(0, 447))
def test_the_noise_of_a_row_does_not_depend_on_others(seed: int, other: int, step: int, other_step: int) -> None:
    together = gumbel_noise(torch.tensor([other, seed]), torch.tensor([other_step, step]), 300)
    alone = gumbel_noise(torch.tensor([seed]), torch.tensor([step]), 300)
    assert torch.equal(together[1], alone[0])
    if (seed, step) != (other, other_step):
        assert not torch.equal(together[0], together[1])


@settings(max_examples=20)
@given(st.lists(SEEDS, min_size=1, max_size=4), st.booleans())
def test_sampled_tokens_obey_the_rules_and_have_their_log_probability(seeds: list[int], timed: bool) -> None:
    """At temperature 1 noise often prefers what the rules forbid; the log-probability knows no temperature."""
    tokens = small_tokens()
    rules = LogitsRules(tokens, VOCAB_SIZE, timed, torch.device("cpu"))
    logits = torch.randn(len(seeds), VOCAB_SIZE, generator=torch.Generator().manual_seed(seeds[0]))
    size = len(seeds)
    chosen, logprobs = rules.choose_first(
        logits, rules.start([tokens.prompt("en")] * size), draw([1.0] * size, seeds, [0] * size)
    )
    allowed = torch.arange(VOCAB_SIZE) >= tokens.timestamp_begin if timed else torch.ones(VOCAB_SIZE, dtype=torch.bool)
    allowed[[*tokens.suppress, *tokens.begin_suppress]] = False
    assert allowed[chosen].all()
    expected = logits.masked_fill(~allowed, -math.inf).log_softmax(dim=1).gather(1, chosen[:, None])[:, 0]
    assert torch.allclose(logprobs, expected, atol=1e-5)
