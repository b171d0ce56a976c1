"""What drafting would gain with checkpoints that are not here: from the costs of passes of their shapes.

A decoder's pass costs what its shapes cost, whatever its weights say: random ones do. The model: a chunk of n tokens is
heard (keys and values of its window, the prompt's pass), then takes n passes, or with k drafts a pass, each kept with
the chance a if all before it were, n / E passes, E = (1 - a^(k+1)) / (1 - a), each of one main pass over k + 1 columns
and k steps of the assistant, which has to hear the chunk too. The encoder, which both share, is left out.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperConfig, WhisperForConditionalGeneration

from distil_ray.bench import machine
from distil_ray.bench.settings import PassesSettings
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.recognition.assistant import FREQUENT_TOKENS
from distil_ray.recognition.decoder import Decoder
from distil_ray.recognition.room import clock
from distil_ray.whisper.model import has_int8_products

TRIES = 5  # of each; the least counts
CALLS = 3  # in a try
TEXT = 40  # positions of text, of which 4 are the prompt's
PROMPT = 4
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds for all rows of a batch: to hear a window each, of a pass by columns, of a step of the assistant."""

    hearing_s: float
    pass_s: dict[int, float]
    assistant_hearing_s: float
    draft_s: float


@dataclass(frozen=True, slots=True)
class Predicted:
    """The best number of drafts at one batch size, what it gains over none, and the costs behind it."""

    batch_size: int
    drafts: int
    tokens_per_pass: float
    times_faster: float
    costs: Costs


def kept_per_pass(acceptance: float, drafts: int) -> float:
    """Tokens that a pass over so many drafts is expected to give, the one behind them included."""
    return float(drafts + 1) if acceptance == 1 else (1 - acceptance ** (drafts + 1)) / (1 - acceptance)


def predict(costs: Costs, acceptance: float, drafts: int, tokens: int) -> float:
    """How many times faster a chunk of so many tokens is decoded with drafts than without."""
    plain = costs.hearing_s + tokens * costs.pass_s[1]
    passes = tokens / kept_per_pass(acceptance, drafts)
    cycle = costs.pass_s[drafts + 1] + drafts * costs.draft_s
    return plain / (costs.hearing_s + costs.assistant_hearing_s + passes * cycle)


def measure_passes(settings: PassesSettings, console: Console) -> ExitCode:
    """Prints and writes what was measured and what follows from it."""
    if settings.acceptance > 1 or settings.dtype not in DTYPES:
        raise SettingsError(
            f"acceptance={settings.acceptance:g} dtype={settings.dtype}: at most 1; {', '.join(DTYPES)}"
        )
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device=cuda: there is no GPU that torch can use here")
    torch.set_num_threads(settings.threads)
    conditions, found = machine.describe(), []
    for predicted in _predictions(settings):
        found.append(predicted)
        console.print(
            f"batch {predicted.batch_size}: {predicted.drafts} drafts, {predicted.tokens_per_pass:.2f} tokens a pass,"
            f" {predicted.times_faster:.2f} times faster"
        )
    console.print(table(settings, found))
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    content = {"machine": conditions, "settings": asdict(settings), "found": [asdict(each) for each in found]}
    (report / "passes.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return ExitCode.DONE


def table(settings: PassesSettings, found: Sequence[Predicted]) -> Table:
    """A row a batch size, in milliseconds."""
    columns = sorted({1, *(drafts + 1 for drafts in settings.drafts)})
    grid = Table("rows", title=f"Milliseconds, and what follows with {100 * settings.acceptance:.0f} % of drafts kept")
    for heading in (
        "hearing",
        *(f"pass of {n}" for n in columns),
        "assistant hears",
        "drafts",
        "best k",
        "times faster",
    ):
        grid.add_column(heading, justify="right")
    for each in found:
        costs = each.costs
        passes = (costs.pass_s[n] for n in columns)
        seconds = (costs.hearing_s, *passes, costs.assistant_hearing_s, costs.draft_s)
        words = (f"{1000 * one:.2f}" for one in seconds)
        grid.add_row(str(each.batch_size), *words, str(each.drafts), f"{each.times_faster:.2f}")
    return grid


@torch.inference_mode()
def _predictions(settings: PassesSettings) -> Iterator[Predicted]:
    on_cpu = settings.device == "cpu"
    part = torch.arange(min(FREQUENT_TOKENS, settings.vocabulary), device=settings.device)
    main = _decoder(settings, settings.layers)
    assistant = _decoder(settings, settings.drafting_layers, on_cpu and has_int8_products(), part)
    for batch_size in settings.batch_sizes:
        columns = sorted({1, *(drafts + 1 for drafts in settings.drafts)})
        hearing_s, pass_s = _costs(main, batch_size, settings.positions, columns)
        assistant_hearing_s, draft_s = _costs(assistant, batch_size, settings.positions, [1])
        costs = Costs(hearing_s, pass_s, assistant_hearing_s, draft_s[1])
        gains = {k: predict(costs, settings.acceptance, k, settings.tokens) for k in settings.drafts}
        best = max(gains, key=gains.__getitem__)
        yield Predicted(batch_size, best, kept_per_pass(settings.acceptance, best), gains[best], costs)


def _decoder(
    settings: PassesSettings, layers: int, is_int8: bool = False, vocabulary: torch.Tensor | None = None
) -> Decoder:
    """Random weights of the right shapes; of the encoder as little as the class allows."""
    config = WhisperConfig(
        vocab_size=settings.vocabulary,
        d_model=settings.d_model,
        decoder_layers=layers,
        decoder_attention_heads=settings.heads,
        decoder_ffn_dim=4 * settings.d_model,
        encoder_layers=0,
        encoder_attention_heads=settings.heads,
        max_source_positions=max(1500, settings.positions),
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    with torch.device(settings.device):
        module: Any = WhisperForConditionalGeneration(config)
    module.to(dtype=DTYPES[settings.dtype])
    return Decoder(module, is_int8, vocabulary)


def _costs(decoder: Decoder, rows: int, positions: int, columns: Sequence[int]) -> tuple[float, dict[int, float]]:
    """Seconds of hearing a window each with the prompt's pass, and of a pass by columns, logits included."""
    cache, device = decoder.cache(rows), decoder.device
    slots = torch.arange(rows, device=device)
    width = decoder.heads * decoder.head_size
    states = torch.randn(1, positions, width, device=device, dtype=decoder.dtype)
    ids = torch.zeros(rows, PROMPT, dtype=torch.long, device=device)

    def hear() -> None:
        for slot in slots:
            decoder.listen(states, cache, slot[None], positions)
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
        began = clock(device)
        for _ in range(CALLS):
            work()
        taken.append((clock(device) - began) / CALLS)
    return min(taken)
