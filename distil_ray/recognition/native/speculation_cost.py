"""What drafting gains, from what passes cost: the cost model, and the costs of a decoder on this machine.

A chunk of n tokens is heard (keys and values of its window, the prompt's pass), then takes n passes; or, with k drafts
a pass and E tokens that come of one on average, n / E passes, each of one main pass over k + 1 columns and k steps of
the assistant, which has to hear the chunk too. The encoder, which both share, is left out. A pass costs what its
shapes cost, whatever the weights say.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.device import device_time

TRIES = 5  # of each; the least counts
CALLS = 3  # in a try
TEXT = 40  # positions of text, of which 4 are the prompt's
PROMPT = 4


@dataclass(frozen=True, slots=True)
class SpeculationCosts:
    """Seconds for all rows of a batch: to hear a window each, of a pass by columns, of a step of the assistant."""

    prefill_s: float
    step_s: dict[int, float]
    assistant_prefill_s: float
    draft_s: float


def tokens_per_step(acceptance: float, drafts: int) -> float:
    """Tokens that a pass over so many drafts is expected to give, the one behind them included.

    E = (1 - a^(k+1)) / (1 - a), where each draft is kept with the chance a if all before it were.
    """
    return float(drafts + 1) if acceptance == 1 else (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def predict_speedup(costs: SpeculationCosts, tokens_per_pass: float, drafts: int, tokens: int) -> float:
    """How many times faster a chunk of so many tokens is decoded with drafts than without."""
    plain = costs.prefill_s + tokens * costs.step_s[1]
    passes = tokens / tokens_per_pass
    cycle = costs.step_s[drafts + 1] + drafts * costs.draft_s
    return plain / (costs.prefill_s + costs.assistant_prefill_s + passes * cycle)


@torch.inference_mode()
def measure_costs(
    main: Decoder, assistant: Decoder, rows: int, positions: int, drafts: Sequence[int]
) -> SpeculationCosts:
    """The costs of a batch of so many rows in windows of so many encoder positions; a few seconds on a CPU."""
    columns = sorted({1, *(number + 1 for number in drafts)})
    prefill_s, step_s = _costs(main, rows, positions, columns)
    return measure_assistant(SpeculationCosts(prefill_s, step_s, 0.0, 0.0), assistant, rows, positions)


@torch.inference_mode()
def measure_assistant(costs: SpeculationCosts, assistant: Decoder, rows: int, positions: int) -> SpeculationCosts:
    """The costs of the same main model, measured with as many rows and positions, beside another assistant."""
    prefill_s, draft_s = _costs(assistant, rows, positions, [1])
    return replace(costs, assistant_prefill_s=prefill_s, draft_s=draft_s[1])


def _costs(decoder: Decoder, rows: int, positions: int, columns: Sequence[int]) -> tuple[float, dict[int, float]]:
    """Seconds of hearing a window each with the prompt's pass, and of a pass by columns, logits included."""
    cache, device = decoder.new_cache(rows), decoder.device
    slots = torch.arange(rows, device=device)
    width = decoder.heads * decoder.head_size
    states = torch.randn(1, positions, width, device=device, dtype=decoder.dtype)
    ids = torch.zeros(rows, PROMPT, dtype=torch.long, device=device)

    def hear() -> None:
        for slot in slots:
            decoder.write_cross_kv(states, cache, slot[None], positions)
        decoder.logits(decoder.prefill(ids, cache, slots, positions)[:, [0, -1]])

    def step(num: int) -> Callable[[], object]:
        places = (TEXT + torch.arange(num, device=device)).expand(rows, num)
        fed = torch.zeros(rows, num, dtype=torch.long, device=device)
        return lambda: (
            decoder.logits(decoder.step(fed, places, cache, TEXT + num, positions, is_ragged=False))
            .argmax(dim=-1)
            .sum()
            .item()
        )

    return _least(hear, device), {num: _least(step(num), device) for num in columns}


def _least(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    work()
    taken = []
    for _ in range(TRIES):
        began = device_time(device)
        for _ in range(CALLS):
            work()
        taken.append((device_time(device) - began) / CALLS)
    return min(taken)
