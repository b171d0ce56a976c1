"""A cost model of speculative decoding, and its costs measured on this machine.

It serves the training of assistants and the benchmarks. A chunk of n tokens has a prefill (the keys and values of its
window, and its prompt), then n steps. With k drafts per step and E tokens that come of one on average it has n / E
steps, each of one step of the main model over k + 1 columns and k steps of the assistant, which has its own prefill,
too. The encoder, which both share, is left out. The cost of a step depends on its shapes, not on the values of the
weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.device import device_time

TRIES = 5  # measurements, of which the least counts
CALLS = 3  # in a measurement
TEXT = 40  # decoder positions, of which 4 are the prompt
PROMPT = 4


@dataclass(frozen=True, slots=True)
class SpeculationCosts:
    """Seconds for all rows of a batch."""

    prefill_s: float  # of the main model
    step_s: dict[int, float]  # of the main model, by columns (ids per row)
    assistant_prefill_s: float
    draft_s: float  # a step of the assistant


def tokens_per_step(acceptance: float, drafts: int) -> float:
    """Returns the tokens that a step with so many drafts gives on average, the one behind them included.

    E = (1 - a^(k+1)) / (1 - a), where a is the probability that a draft is accepted if all before it were.
    """
    return float(drafts + 1) if acceptance == 1 else (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def predict_speedup(costs: SpeculationCosts, tokens_per_step: float, drafts: int, tokens: int) -> float:
    """Returns how many times faster a chunk of so many tokens is decoded with drafts than without."""
    plain = costs.prefill_s + tokens * costs.step_s[1]
    steps = tokens / tokens_per_step
    cycle = costs.step_s[drafts + 1] + drafts * costs.draft_s
    return plain / (costs.prefill_s + costs.assistant_prefill_s + steps * cycle)


@torch.inference_mode()
def measure_costs(
    main: Decoder, assistant: Decoder, rows: int, positions: int, drafts: Sequence[int]
) -> SpeculationCosts:
    """Measures a batch of `rows` rows in windows of `positions` encoder positions; a few seconds on a CPU."""
    columns = sorted({1, *(number + 1 for number in drafts)})
    prefill_s, step_s = _measure_decoder(main, rows, positions, columns)
    return measure_assistant(SpeculationCosts(prefill_s, step_s, 0.0, 0.0), assistant, rows, positions)


@torch.inference_mode()
def measure_assistant(costs: SpeculationCosts, assistant: Decoder, rows: int, positions: int) -> SpeculationCosts:
    """Returns the costs of the same main model, for as many rows and positions, with another assistant."""
    prefill_s, draft_s = _measure_decoder(assistant, rows, positions, [1])
    return replace(costs, assistant_prefill_s=prefill_s, draft_s=draft_s[1])


def _measure_decoder(
    decoder: Decoder, rows: int, positions: int, columns: Sequence[int]
) -> tuple[float, dict[int, float]]:
    """Returns the seconds of the prefill, and of a step by its columns, logits included."""
    cache, device = decoder.new_cache(rows), decoder.device
    cache.lay_out([positions] * rows)
    slots = torch.arange(rows, device=device)
    width = decoder.heads * decoder.head_size
    states = torch.randn(1, positions, width, device=device, dtype=decoder.dtype)
    ids = torch.zeros(rows, PROMPT, dtype=torch.long, device=device)

    def prefill() -> None:
        for slot in slots:
            decoder.write_windows(states, cache, slot[None], positions)
        decoder.logits(decoder.prefill(ids, cache, slots, positions)[:, [0, -1]])

    def step(num: int) -> Callable[[], object]:
        positions_of_ids = (TEXT + torch.arange(num, device=device)).expand(rows, num)
        ids_of_step = torch.zeros(rows, num, dtype=torch.long, device=device)
        return lambda: (
            decoder.logits(decoder.step(ids_of_step, positions_of_ids, cache, TEXT + num, positions, is_ragged=False))
            .argmax(dim=-1)
            .sum()
            .item()
        )

    return _measure_call(prefill, device), {num: _measure_call(step(num), device) for num in columns}


def _measure_call(work: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of one call, the least of several measurements."""
    work()
    seconds = []
    for _ in range(TRIES):
        began = device_time(device)
        for _ in range(CALLS):
            work()
        seconds.append((device_time(device) - began) / CALLS)
    return min(seconds)
