"""The `times` command: errors of word timestamps of this package's recognizers and of other programs.

The native words are those of a whole recording, cut, recognized and merged as in a run. "as aligned" are the same words
by transformers' rule: from the alignment of their tokens alone, punctuation included.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.clips import Clip, write_wav
from benchmarks.comparison.catalog import LONG, select
from benchmarks.comparison.command import find_interpreter, make_process
from benchmarks.comparison.environments import UnavailableError
from benchmarks.comparison.interleave import run_engine
from benchmarks.comparison.weights import convert_checkpoint
from benchmarks.exactness.checks import split_audio
from benchmarks.settings import TimesSettings
from benchmarks.word_times.alignments import (
    FAR_S,
    TRUTHS,
    Errors,
    Recording,
    load_recordings,
    measure_errors,
    pool_errors,
    summarize_errors,
)
from distil_ray.chunking.base import Chunk, load_chunker
from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.recognition.base import Recognizer, RecognizerOptions
from distil_ray.recognition.capabilities import load_capabilities, load_recognizer
from distil_ray.registry import RECOGNIZERS
from distil_ray.types import SAMPLE_RATE, Hypothesis, Segment, Word
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.features import SAMPLES_PER_POSITION
from distil_ray.whisper.tokenizer import Tokens
from distil_ray.whisper.word_boundaries import split_words

ALIGNED = ", as aligned"
STRATEGIES = ("quiet", "overlap")
ENGINES_WITH_WORDS = ("fw-float32", "fw-int8", "openai-float32")  # engines whose workers can tell words
ALL = "all"  # recordings together

Words = list[Segment]
Found = dict[tuple[str, str], dict[str, Errors]]  # (model, system) -> recording -> errors


def measure_times(settings: TimesSettings, console: Console) -> ExitCode:
    """Prints a table for each ground truth and writes times.json.

    Raises:
        SettingsError: A setting is invalid, or there is no recording.
    """
    for name, known in (
        ("recognizers", RECOGNIZERS.names()),
        ("strategies", STRATEGIES),
        ("baselines", ENGINES_WITH_WORDS),
    ):
        if unknown := [value for value in getattr(settings, name) if value not in known]:
            raise SettingsError(f"{name}={unknown[0]}: must be among {', '.join(known)}")
    cache_dir = Path(settings.cache_dir).absolute()
    recordings = load_recordings(settings.recordings, cache_dir, settings.names)
    found: Found = {}

    def on_message(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    for model in settings.models:
        for system, words in _transcripts(model, settings, recordings, on_message):
            by_name = {each.name: measure_errors(each, mine) for each, mine in zip(recordings, words, strict=True)}
            found[model, system] = by_name | ({ALL: pool_errors(list(by_name.values()))} if len(by_name) > 1 else {})
            on_message(f"{model}, {system}: done")
    for truth in TRUTHS:
        console.print(table(found, truth))
    on_message(machine.format_machine(machine.describe_machine()))
    _write(Path(settings.report), settings, found)
    return ExitCode.DONE


def _transcripts(
    model: str, settings: TimesSettings, recordings: Sequence[Recording], on_message: Callable[[str], None]
) -> Iterator[tuple[str, list[Words]]]:
    """Yields (label, words of each recording) for the recognizers, and for the other programs that can run here."""
    for name, window in product(settings.recognizers, settings.windows):
        if window == "gated" and not load_capabilities(name).gated_windows:
            continue
        options = RecognizerOptions(dtype="float32", threads=settings.threads, window=window, timestamps="word")
        recognizer = load_recognizer(name, fetch_weights(model), options)
        for strategy in settings.strategies:
            both = [
                _native_words(recognizer, Tokens.load(fetch_weights(model)), strategy, settings, each)
                for each in recordings
            ]
            label = f"{name} {window} {strategy}"
            yield label, [given for given, _ in both]
            if not load_chunker(strategy).overlaps:
                yield label + ALIGNED, [aligned for _, aligned in both]
    for baseline in settings.baselines:
        try:
            yield baseline, _baseline_words(model, baseline, settings, recordings, on_message)
        except UnavailableError as error:
            on_message(f"left out: {error}")


def _native_words(
    recognizer: Recognizer, tokens: Tokens, strategy: str, settings: TimesSettings, recording: Recording
) -> tuple[Words, Words]:
    """Returns the words of a recording as in a run, and as aligned (for chunks that do not overlap)."""
    chunks = split_audio(recording.pcm, strategy, settings.chunk_s)
    hypotheses = recognizer.transcribe([chunk.pcm for chunk in chunks], [settings.language] * len(chunks))
    parts = [_part(chunk, hypothesis, settings.language) for chunk, hypothesis in zip(chunks, hypotheses, strict=True)]
    merged = merge_chunks(
        parts,
        len(recording.pcm),
        tokens,
        timestamps=True,
        words=True,
        overlaps=load_chunker(strategy).overlaps,
    )
    aligned = [
        word
        for chunk, hypothesis in zip(chunks, hypotheses, strict=True)
        for word in _as_aligned(chunk, hypothesis, settings.language, tokens)
    ]
    return [_text(word) for word in merged.words or ()], aligned


def _part(chunk: Chunk, hypothesis: Hypothesis, language: str) -> ChunkHypothesis:
    return ChunkHypothesis(
        start=chunk.start,
        num_samples=len(chunk.pcm),
        stride_left=chunk.stride_left,
        stride_right=chunk.stride_right,
        text=hypothesis.text,
        tokens=hypothesis.tokens,
        segments=hypothesis.segments or (),
        words=hypothesis.words or (),
        alignment=hypothesis.alignment,
        language=language,
    )


def _text(word: Word) -> Segment:
    return Segment(word.start_s, word.end_s, word.text)


def _as_aligned(chunk: Chunk, hypothesis: Hypothesis, language: str, tokens: Tokens) -> Iterator[Segment]:
    """Yields words by transformers' rule: from the end of the token before the first one to the end of the last one."""
    if hypothesis.alignment is None:
        return
    ends_s = [(chunk.start + end * SAMPLES_PER_POSITION) / SAMPLE_RATE for end in hypothesis.alignment.ends]
    for group in split_words(hypothesis.tokens, language, tokens):
        first, last = group.indices[0], group.indices[-1]
        yield Segment(ends_s[first - 1] if first else chunk.start / SAMPLE_RATE, ends_s[last], group.text)


def _baseline_words(
    model: str, name: str, settings: TimesSettings, recordings: Sequence[Recording], on_message: Callable[[str], None]
) -> list[Words]:
    """Returns the words of another program, from its own environment and process.

    Raises:
        UnavailableError: The program cannot run.
    """
    cache_dir = Path(settings.cache_dir).absolute()
    (engine,) = select([name])
    python = find_interpreter(engine, cache_dir / "environments", settings.install, on_message)
    weights = convert_checkpoint(engine.program.weights, fetch_weights(model), cache_dir / "weights", python)
    clips = []
    for each in recordings:
        path = cache_dir / "clips" / f"{each.name}.wav"
        write_wav(path, each.pcm)
        clips.append(Clip(each.name, path, len(each.pcm) / SAMPLE_RATE, " ".join(each.texts)))
    ready = make_process(
        engine,
        python,
        weights,
        load_checkpoint_info(model),
        {LONG: clips},
        {LONG: settings.language},
        settings.threads,
        warm_up=False,
    )
    job = replace(ready.job, options=ready.job.options | {"words": True})
    (result,) = run_engine(replace(ready, job=job))
    return [[Segment(*word) for word in json.loads(text)] for text in result.texts]


def table(found: Found, truth: str) -> Table:
    """Returns the table, one row per model, system and recording: errors of starts and ends."""
    grid = Table(title=f"{TRUTHS[truth]}; seconds: mean and median absolute error, signed mean")
    for heading in ("checkpoint", "words by", "recording"):
        grid.add_column(heading)
    for edge in ("starts", "ends"):
        for heading in (edge, "median", "signed", f"> {FAR_S:g} s", "of"):
            grid.add_column(heading, justify="right")
    for (model, system), by_name in found.items():
        for name, each in by_name.items():
            cells = [cell for seconds in (each.starts[truth], each.ends[truth]) for cell in _cells(seconds)]
            grid.add_row(model.removeprefix("packaged:"), system, name, *cells)
    return grid


def _cells(seconds: Sequence[float]) -> list[str]:
    if (mine := summarize_errors(seconds)) is None:
        return ["", "", "", "", "0"]
    return [
        f"{mine.mean_s:.3f}",
        f"{mine.median_s:.3f}",
        f"{mine.bias_s:+.3f}",
        f"{100 * mine.far:.0f} %",
        str(mine.number),
    ]


def _write(report: Path, settings: TimesSettings, found: Found) -> None:
    figures = [
        {
            "model": model,
            "words_by": system,
            "recording": name,
            "truth": truth,
            "edge": edge,
            **(asdict(mine) if (mine := summarize_errors(getattr(each, edge)[truth])) else {"number": 0}),
        }
        for (model, system), by_name in found.items()
        for name, each in by_name.items()
        for truth in TRUTHS
        for edge in ("starts", "ends")
    ]
    content = {"machine": machine.describe_machine(), "settings": asdict(settings), "figures": figures}
    report.mkdir(parents=True, exist_ok=True)
    (report / "times.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
