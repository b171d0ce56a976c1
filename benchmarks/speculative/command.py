"""The `speculative` command: each assistant compared with the main model alone, on the same clips, by batch size.

Compared are tokens (which must be equal), steps of the main model, and CPU seconds of the decoder: all of the
recognizer except log-mel and encoder, whose states are computed once and cached here. transformers' own assisted
generation is measured chunk by chunk, with its encoder's time subtracted in the same way.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import machine
from benchmarks.clips import decode_audio, prepare_clips
from benchmarks.comparison.catalog import SHORT
from benchmarks.settings import SpeculativeSettings
from benchmarks.speculative.generate import AssistedGenerator
from distil_ray.audio.pcm import PCM16
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.types import Hypothesis
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.features import LogMel, StagedBatch
from distil_ray.whisper.student import create_student
from distil_ray.whisper.weights_cache import build_once

STUDENT_LAYERS = 2
SEED = 1  # of random layers
NO_DRAFT = "none"  # no assistant
NATIVE, TRANSFORMERS = "native", "transformers"


COUNTS = ("steps", "drafts", "proposed", "accepted", "tokens")  # of DecodingStats, by which recognizers are compared


@dataclass(frozen=True, slots=True)
class DraftingResult:
    """Measurement of one recognizer at one batch size.

    Attributes:
        assistant: Name of the assistant, or `NO_DRAFT`.
        cpu_s: Lowest CPU seconds of the decoder over all rounds.
        drafts: As `proposed` and `accepted` 0 for transformers, which does not report them.
        differing: Chunks whose tokens differ from those without an assistant.
    """

    program: str
    assistant: str
    batch_size: int
    cpu_s: float
    steps: int
    drafts: int
    proposed: int
    accepted: int
    tokens: int
    differing: int  # chunks, from those without drafts
    warnings: tuple[str, ...]


class DecoderTimer:
    """CPU seconds without those of log-mel and encoder; caches encoder states."""

    def __init__(self) -> None:
        self._apart_s = 0.0
        self._states: dict[tuple[float, int], Tensor] = {}

    def seconds(self) -> float:
        return time.process_time() - self._apart_s

    @contextmanager
    def excluded(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self._apart_s += time.process_time() - began

    @contextmanager
    def running(self) -> Iterator[None]:
        """Context in which the time of every log-mel and encoder is excluded."""
        stage, log_mel, encode = LogMel.stage, LogMel.features, Encoder.__call__

        def staged(self_: LogMel, chunks: Sequence[PCM16], num_frames: int = 3000) -> StagedBatch:
            with self.excluded():
                return stage(self_, chunks, num_frames)

        def features(self_: LogMel, chunks: StagedBatch) -> Tensor:
            with self.excluded():
                return log_mel(self_, chunks)

        def states(self_: Encoder, heard: Tensor) -> Tensor:
            with self.excluded():
                key = float(self_._norm.weight.sum()), hash(heard.numpy().tobytes())
                if key not in self._states:
                    self._states[key] = encode(self_, heard)
                return self._states[key]

        # mypy counts a function on a class as one that takes `self` too
        LogMel.stage, LogMel.features = staged, features  # type: ignore[assignment,method-assign]
        Encoder.__call__ = states  # type: ignore[assignment,method-assign]
        try:
            yield
        finally:
            LogMel.stage, LogMel.features = stage, log_mel  # type: ignore[method-assign]
            Encoder.__call__ = encode  # type: ignore[method-assign]


def measure_drafting(settings: SpeculativeSettings, console: Console) -> ExitCode:
    """Prints and writes what was found; `FAILED` if a text differs."""
    if settings.speculative not in ("on", "auto"):
        raise SettingsError(f"speculative={settings.speculative}: must be on or auto")
    torch.set_num_threads(settings.threads)
    cache_dir = Path(settings.cache_dir).absolute()
    clips = prepare_clips(settings.clips, cache_dir, settings.language, {SHORT: settings.num_clips})[SHORT]
    chunks = [decode_audio(str(clip.path)) for clip in clips]
    folder = fetch_weights(settings.model)
    assistants = {name: _assistant(name, folder, cache_dir) for name in settings.assistants}
    machine_info, found = machine.describe_machine(), list[DraftingResult]()

    def on_result(drafting: DraftingResult) -> None:
        found.append(drafting)
        console.print(_in_words(drafting), soft_wrap=True, markup=False)
        _write(settings, machine_info, found)

    watch = DecoderTimer()
    with watch.running():
        for batch_size in settings.batch_sizes:
            _compare(settings, folder, assistants, chunks, batch_size, watch, on_result)
    if settings.generate:
        _generate(settings, folder, assistants, chunks, on_result)
    console.print(table(found))
    console.print(machine.format_machine(machine_info), soft_wrap=True)
    return ExitCode.FAILED if any(each.differing for each in found if each.program == NATIVE) else ExitCode.DONE


def _assistant(name: str, main: Path, cache_dir: Path) -> Path:
    """A checkpoint's folder, or that of a student made now."""
    seeds = {"dropped": None, "random": SEED}
    if name not in seeds:
        return fetch_weights(name)
    folder = cache_dir / f"{main.name}-{name}-{STUDENT_LAYERS}"
    return build_once(folder, lambda target: _make(main, target, seeds[name]))


def _make(main: Path, target: Path, seed: int | None) -> None:
    create_student(main, target, STUDENT_LAYERS, seed)


def _compare(
    settings: SpeculativeSettings,
    folder: Path,
    assistants: dict[str, Path],
    chunks: Sequence[PCM16],
    batch_size: int,
    watch: DecoderTimer,
    on_result: Callable[[DraftingResult], None],
) -> None:
    """All at one batch size, round by round in turn."""
    options = RecognizerOptions(
        dtype="float32",
        threads=settings.threads,
        batch_size=batch_size,
        timestamps=settings.timestamps,
        window=settings.window,
        speculative=settings.speculative,
    )
    recognizers = {
        name: NativeRecognizer(folder, options, helper) for name, helper in {NO_DRAFT: None, **assistants}.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in recognizers}
    texts: dict[str, list[Hypothesis]] = {}
    done: dict[str, dict[str, int]] = {}
    for number in range(settings.rounds + 1):  # the first one also encodes, and touches its memory
        for name, recognizer in recognizers.items():
            before, began = asdict(recognizer.stats), watch.seconds()
            texts[name] = recognizer.transcribe(chunks, [settings.language] * len(chunks))
            if number:
                seconds[name].append(watch.seconds() - began)
            done[name] = {key: getattr(recognizer.stats, key) - before[key] for key in COUNTS}
    for name, recognizer in recognizers.items():
        differing = sum(mine.tokens != its.tokens for mine, its in zip(texts[name], texts[NO_DRAFT], strict=True))
        warnings = tuple(warning for warning in recognizer.warnings if "speculative" in warning)
        on_result(
            DraftingResult(
                NATIVE, name, batch_size, min(seconds[name]), **done[name], differing=differing, warnings=warnings
            )
        )


def _generate(
    settings: SpeculativeSettings,
    folder: Path,
    assistants: dict[str, Path],
    chunks: Sequence[PCM16],
    on_result: Callable[[DraftingResult], None],
) -> None:
    """transformers' own, one chunk at a time, which is all that it can."""
    alone: list[list[int]] = []
    for name, helper in {NO_DRAFT: None, **assistants}.items():
        generator = AssistedGenerator(folder, helper, settings.language, settings.timestamps != "none")
        generator.transcribe(chunks[0])
        before, passes = generator.cpu_s, generator.passes
        texts = [generator.transcribe(chunk) for chunk in chunks]
        alone = alone or texts
        differing = sum(mine != its for mine, its in zip(texts, alone, strict=True))
        tokens = sum(map(len, texts))
        cpu_s, passes = generator.cpu_s - before, generator.passes - passes
        on_result(DraftingResult(TRANSFORMERS, name, 1, cpu_s, passes, 0, 0, 0, tokens, differing, ()))


def table(found: Sequence[DraftingResult]) -> Table:
    """Returns the table, one row per program, batch size and assistant, with ratios to no assistant."""
    alone = {(each.program, each.batch_size): each for each in found if each.assistant == NO_DRAFT}
    grid = Table("program", "batch", "assistant", title="Speculative decoding compared with the main model alone")
    for heading in ("steps", "times fewer", "accepted %", "decoder CPU s", "times faster", "chunks that differ"):
        grid.add_column(heading, justify="right")
    for each in found:
        base = alone[each.program, each.batch_size]
        grid.add_row(
            each.program,
            str(each.batch_size),
            each.assistant,
            str(each.steps),
            f"{base.steps / each.steps:.2f}",
            f"{100 * each.accepted / each.proposed:.0f}" if each.proposed else "",
            f"{each.cpu_s:.2f}",
            f"{base.cpu_s / each.cpu_s:.2f}",
            str(each.differing),
        )
    return grid


def _in_words(each: DraftingResult) -> str:
    cache_dir = f", {each.accepted} of {each.proposed} drafts accepted" if each.proposed else ""
    warnings = "".join(f"\n  {warning}" for warning in each.warnings)
    return (
        f"{each.program}, batch {each.batch_size}, {each.assistant} drafts: {each.steps} steps, {each.cpu_s:.2f} CPU s"
        f"{cache_dir}, {each.differing} chunks differ{warnings}"
    )


def _write(settings: SpeculativeSettings, machine_info: dict[str, object], found: Sequence[DraftingResult]) -> None:
    report = Path(settings.report)
    report.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine_info, "settings": asdict(settings), "found": [asdict(each) for each in found]}
    (report / "speculative.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
