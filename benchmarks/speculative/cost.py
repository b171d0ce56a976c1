"""The `passes` command: predicted speed-up of speculative decoding, from the cost of decoder steps of a given shape.

The cost of a step depends on shapes and not on weights, so random weights are measured
(recognition/native/speculation_cost.py has the model). If a draft is accepted with probability a, given that all before
it were, a step with k drafts gives E = (1 - a^(k+1)) / (1 - a) tokens.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import WhisperConfig, WhisperForConditionalGeneration

from benchmarks import machine
from benchmarks.settings import PassesSettings
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.speculation_cost import (
    SpeculationCosts,
    measure_costs,
    predict_speedup,
    tokens_per_step,
)
from distil_ray.recognition.native.speculative import FREQUENT_TOKENS
from distil_ray.whisper.processor import EIGHT_BITS, Int8Products, has_int8_products

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The best number of drafts at one batch size, its predicted speed-up, and the measured costs."""

    batch_size: int
    drafts: int
    tokens_per_pass: float
    times_faster: float
    costs: SpeculationCosts


def measure_passes(settings: PassesSettings, console: Console) -> ExitCode:
    """Prints the table and writes passes.json.

    Raises:
        SettingsError: A setting is invalid, or there is no GPU for device=cuda.
    """
    if settings.acceptance > 1 or settings.dtype not in DTYPES:
        raise SettingsError(
            f"acceptance={settings.acceptance:g} dtype={settings.dtype}: at most 1; {', '.join(DTYPES)}"
        )
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device=cuda: there is no GPU that torch can use here")
    torch.set_num_threads(settings.threads)
    machine_info, found = machine.describe_machine(), []
    for predicted in _predictions(settings):
        found.append(predicted)
        console.print(
            f"batch {predicted.batch_size}: {predicted.drafts} drafts, {predicted.tokens_per_pass:.2f} tokens per step,"
            f" {predicted.times_faster:.2f} times faster"
        )
    console.print(table(settings, found))
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine_info, "settings": asdict(settings), "found": [asdict(each) for each in found]}
    (report / "passes.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return ExitCode.DONE


def table(settings: PassesSettings, found: Sequence[Prediction]) -> Table:
    """Returns the table, one row per batch size, in milliseconds."""
    columns = sorted({1, *(drafts + 1 for drafts in settings.drafts)})
    grid = Table(
        "rows",
        title=f"Milliseconds, and the predicted speed-up if {100 * settings.acceptance:.0f} % of drafts are accepted",
    )
    for heading in (
        "prefill",
        *(f"step of {n}" for n in columns),
        "assistant prefill",
        "drafts",
        "best k",
        "times faster",
    ):
        grid.add_column(heading, justify="right")
    for each in found:
        costs = each.costs
        passes = (costs.step_s[n] for n in columns)
        seconds = (costs.prefill_s, *passes, costs.assistant_prefill_s, costs.draft_s)
        words = (f"{1000 * one:.2f}" for one in seconds)
        grid.add_row(str(each.batch_size), *words, str(each.drafts), f"{each.times_faster:.2f}")
    return grid


@torch.inference_mode()
def _predictions(settings: PassesSettings) -> Iterator[Prediction]:
    on_cpu = settings.device == "cpu"
    part = torch.arange(min(FREQUENT_TOKENS, settings.vocabulary), device=settings.device)
    main = _decoder(settings, settings.layers)
    assistant = _decoder(
        settings, settings.drafting_layers, EIGHT_BITS if on_cpu and has_int8_products() else None, part
    )
    for batch_size in settings.batch_sizes:
        costs = measure_costs(main, assistant, batch_size, settings.positions, settings.drafts)
        gains = {
            k: predict_speedup(costs, tokens_per_step(settings.acceptance, k), k, settings.tokens)
            for k in settings.drafts
        }
        best = max(gains, key=gains.__getitem__)
        yield Prediction(batch_size, best, tokens_per_step(settings.acceptance, best), gains[best], costs)


def _decoder(
    settings: PassesSettings, layers: int, int8: Int8Products | None = None, vocabulary: torch.Tensor | None = None
) -> Decoder:
    """Returns a decoder of the right shape with random weights; the encoder is as small as the class allows."""
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
    return Decoder(module, int8, vocabulary)
