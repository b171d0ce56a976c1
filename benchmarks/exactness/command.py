"""The `exactness` command: compares the native recognizer with transformers' `generate`.

The checks of each checkpoint are: `tokens` (with and without timestamps, in batches of several sizes), `beams` (the
same with beam search), `languages` (the detected language, and the tokens that follow from it), `overlap` (whole
recordings through the job's merge and through transformers' pipeline), `sequential` (whole recordings through the long
form of both), `bfloat16` and `int8` (the effect of rounding to 16 or 8 bits), and `drafts` (texts with and without an
assistant). The report is rewritten after each result, so that a killed run keeps its results.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import machine
from benchmarks.clips import draw_sample
from benchmarks.exactness.checks import (
    Difference,
    LoadedAudio,
    cached_encoder,
    cut_into_chunks,
    encoders_match,
    explain_beam_difference,
    explain_difference,
    load_audio,
    load_native,
    merged_texts,
    transcribe_sections,
    transcribe_shuffled,
)
from benchmarks.exactness.generate_results import DETECTED, GenerateReference, GenerateResult
from benchmarks.exactness.report import CheckResult, format_result, table, write_report
from benchmarks.settings import ExactnessSettings
from distil_ray.config import ScoringConfig
from distil_ray.errors import ExitCode, SettingsError
from distil_ray.evaluation.wer import Scorer, pooled_rate
from distil_ray.recognition.base import RecognizerOptions
from distil_ray.types import Hypothesis
from distil_ray.whisper.checkpoint import load_checkpoint_info
from distil_ray.whisper.download import fetch_weights
from distil_ray.whisper.tokenizer import Tokens

ROUNDED = ("bfloat16", "int8")
DRAFTS = "drafts"
CHECKS = ("tokens", "beams", "languages", "overlap", "sequential", *ROUNDED, DRAFTS)
ROUNDED_BATCHES = (1, 16)  # batch sizes between which rounding may differ
TIMES = {"none": "text", "segment": "times"}  # the setting decoding.timestamps, in the report's words


def compare_with_generate(settings: ExactnessSettings, console: Console) -> ExitCode:
    """Prints the results and writes exactness.json.

    Returns:
        `ExitCode.FAILED` if a difference in float32 is more than a tie.

    Raises:
        SettingsError: A setting is invalid.
    """
    if unknown := [name for name in settings.checks if name not in CHECKS]:
        raise SettingsError(f"checks={unknown[0]}: must be among {', '.join(CHECKS)}")
    if DRAFTS in settings.checks and not settings.assistant:
        raise SettingsError("checks=drafts: needs assistant=..., the checkpoint that drafts")
    if settings.window not in ("full", "gated"):
        raise SettingsError(f"window={settings.window}: must be full or gated")
    for name in ("share", "small_share"):
        if getattr(settings, name) > 1:
            raise SettingsError(f"{name}={getattr(settings, name):g}: must be 1 or less")
    torch.set_num_threads(settings.threads)
    results: list[CheckResult] = []

    def on_result(result: CheckResult) -> None:
        results.append(result)
        write_report(settings, results)
        console.print(format_result(result), soft_wrap=True, markup=False)

    for model in settings.models:
        _Comparison(model, settings, console).run(on_result)
    console.print(table(results))
    console.print(machine.format_machine(machine.describe_machine()), soft_wrap=True)
    return ExitCode.FAILED if any(result.num_faults for result in results) else ExitCode.DONE


class _Comparison:
    """All checks of one checkpoint over all sets."""

    def __init__(self, model: str, settings: ExactnessSettings, console: Console) -> None:
        checkpoint = load_checkpoint_info(model)
        self._model = model
        self._settings = settings
        self._console = console
        self._folder = fetch_weights(model)
        self._tokens = Tokens.load(self._folder)
        self._reference = GenerateReference(self._folder, checkpoint.identity, Path(settings.cache_dir) / "exactness")
        self._options = RecognizerOptions(
            dtype="float32",
            threads=settings.threads,
            batch_size=max(settings.batch_sizes),
            window="full",
            temperatures=(0.0,),
            no_speech_threshold=None,  # the rule for silence is ours, not generate's: it would empty texts
        )
        cache_dir = Path(settings.cache_dir).absolute()
        self._sets = load_audio(
            settings.clips, cache_dir, settings.column, settings.sets, settings.share, checkpoint.languages
        )

    def run(self, on_result: Callable[[CheckResult], None]) -> None:
        everything = cut_into_chunks([each for mine in self._sets.values() for each in mine], self._settings.chunk_s)
        few = draw_sample(everything, self._settings.num_uncached)
        can_cache = encoders_match(self._folder, self._reference, few)
        self._print_message(
            f"{self._model}: encoder states {'are' if can_cache else 'are NOT'} transformers' own, bit for bit"
        )
        on_result(self._prove(few))
        with cached_encoder(self._reference.states) if can_cache else nullcontext():
            for name, mine in self._sets.items():
                pieces = cut_into_chunks(mine, self._settings.chunk_s)
                if {"tokens", "languages"} & set(self._settings.checks):
                    heard = self._run_generate(pieces)
                if "tokens" in self._settings.checks:
                    self._compare_tokens(name, pieces, heard, on_result)
                if "beams" in self._settings.checks:
                    self._compare_beams(name, pieces, on_result)
                if "languages" in self._settings.checks and self._tokens.is_multilingual:
                    self._compare_languages(name, pieces, heard, on_result)
                if "overlap" in self._settings.checks:
                    on_result(self._compare_texts(name, mine))
                if "sequential" in self._settings.checks:
                    self._compare_long_forms(name, mine, on_result)
        for dtype in ROUNDED:
            if dtype in self._settings.checks:
                self._round(everything, dtype, on_result)
        if DRAFTS in self._settings.checks:
            self._compare_drafts(everything, fetch_weights(self._settings.assistant), on_result)

    def _prove(self, few: Sequence[LoadedAudio]) -> CheckResult:
        """Compares a few chunks without any cache on either side."""
        fresh = [self._reference.generate_uncached([each.pcm], each.language)[0] for each in few]
        if fresh != self._run_generate(few):
            raise RuntimeError(
                f"{self._model}: cached results in cache_dir={self._settings.cache_dir} differ from what"
                " generate returns now"
            )
        native = transcribe_shuffled(self._folder, replace(self._options, timestamps="segment"), few, single_pass=True)
        return self._result("all", "times, nothing remembered", few, [each.timed for each in fresh], native, True)

    def _compare_tokens(
        self,
        name: str,
        pieces: Sequence[LoadedAudio],
        heard: Sequence[GenerateResult],
        on_result: Callable[[CheckResult], None],
    ) -> None:
        for timestamps, word in TIMES.items():
            for batch_size in self._settings.batch_sizes:
                chosen = self._chosen(len(pieces), batch_size)
                options = replace(self._options, timestamps=timestamps, batch_size=batch_size)
                native = transcribe_shuffled(self._folder, options, [pieces[i] for i in chosen], single_pass=True)
                reference = [heard[i].timed if timestamps == "segment" else heard[i].plain for i in chosen]
                check = f"{word}, batch {batch_size}"
                on_result(
                    self._result(name, check, [pieces[i] for i in chosen], reference, native, timestamps == "segment")
                )

    def _compare_beams(
        self, name: str, pieces: Sequence[LoadedAudio], on_result: Callable[[CheckResult], None]
    ) -> None:
        for num_beams in self._settings.num_beams:
            for timestamps, word in TIMES.items():
                timed = timestamps == "segment"
                pcm, languages = [each.pcm for each in pieces], [each.language for each in pieces]
                reference = self._reference.transcribe_beams(pcm, languages, num_beams, timed, self._progress)
                options = replace(self._options, timestamps=timestamps, num_beams=num_beams)
                for batch_size in self._settings.batch_sizes:
                    chosen = self._chosen(len(pieces), batch_size)
                    mine = [pieces[i] for i in chosen]
                    native = transcribe_shuffled(
                        self._folder, replace(options, batch_size=batch_size), mine, single_pass=True
                    )
                    explained = (
                        explain_beam_difference(self._reference, self._tokens, piece, timed, reference[i], found.tokens)
                        for i, piece, found in zip(chosen, mine, native, strict=True)
                    )
                    check = f"{word}, {num_beams} beams, batch {batch_size}"
                    differences = tuple(each for each in explained if each)
                    on_result(CheckResult(self._model, name, check, len(mine), differences))

    def _compare_languages(
        self,
        name: str,
        pieces: Sequence[LoadedAudio],
        heard: Sequence[GenerateResult],
        on_result: Callable[[CheckResult], None],
    ) -> None:
        """Compares detected languages; then the tokens of chunks whose detected language is not the given one."""
        detected = load_native(self._folder, self._options).detect_languages([each.pcm for each in pieces])
        native = [detected.codes[place] for place in detected.probs.argmax(axis=1)]
        differences = tuple(
            Difference(piece.name, 0, reference.detected, mine, None)
            for piece, reference, mine in zip(pieces, heard, native, strict=True)
            if reference.detected != mine
        )
        on_result(CheckResult(self._model, name, "language", len(pieces), differences))
        other = [
            replace(piece, language=mine) for piece, mine in zip(pieces, native, strict=True) if piece.language != mine
        ]
        if other:
            reference = self._reference.transcribe(
                [each.pcm for each in other], [DETECTED] * len(other), self._progress
            )
            for timestamps, word in TIMES.items():
                mine = transcribe_shuffled(
                    self._folder, replace(self._options, timestamps=timestamps), other, single_pass=True
                )
                tokens = [each.timed if timestamps == "segment" else each.plain for each in reference]
                on_result(self._result(name, f"{word}, detected", other, tokens, mine, timestamps == "segment"))

    def _compare_texts(self, name: str, speech: Sequence[LoadedAudio]) -> CheckResult:
        length_s = self._settings.overlap_s
        native = merged_texts(self._folder, self._options, speech, length_s)
        reference = self._reference.texts(
            [each.pcm for each in speech], [each.language for each in speech], length_s, self._progress
        )
        differences = tuple(
            Difference(each.name, 0, other, mine, None)
            for each, other, mine in zip(speech, reference, native, strict=True)
            if other != mine
        )
        return CheckResult(self._model, name, f"overlap {length_s:g} s", len(speech), differences)

    def _compare_long_forms(
        self, name: str, speech: Sequence[LoadedAudio], on_result: Callable[[CheckResult], None]
    ) -> None:
        """Compares the tokens of whole recordings, with and without conditioning on the text before."""
        for is_conditioned in (False, True):
            options = replace(self._options, long_form=True, condition_on_previous_text=is_conditioned)
            reference = self._reference.long_form(
                [each.pcm for each in speech], [each.language for each in speech], is_conditioned, self._progress
            )
            for batch_size in self._settings.batch_sizes:
                native = transcribe_sections(self._folder, replace(options, batch_size=batch_size), speech)
                differences = tuple(
                    _first_difference(each.name, self._tokens, other, mine)
                    for each, other, mine in zip(speech, reference, native, strict=True)
                    if other != mine
                )
                conditioned = "conditioned" if is_conditioned else "sequential"
                on_result(
                    CheckResult(self._model, name, f"{conditioned}, batch {batch_size}", len(speech), differences)
                )

    def _round(self, pieces: Sequence[LoadedAudio], dtype: str, on_result: Callable[[CheckResult], None]) -> None:
        """Compares `dtype` at two batch sizes and with float32, over all recordings with a reference and per set."""
        chosen = draw_sample([each for each in pieces if each.reference], self._settings.num_rounded)
        options = replace(self._options, window=self._settings.window)
        exact = transcribe_shuffled(self._folder, options, chosen)
        alone, together = (
            transcribe_shuffled(self._folder, replace(options, dtype=dtype, batch_size=size), chosen)
            for size in ROUNDED_BATCHES
        )
        batches = "{}, batches of {} and {}".format(dtype, *ROUNDED_BATCHES)
        for first, second, check in ((alone, together, batches), (exact, together, f"float32 and {dtype}")):
            for name in dict.fromkeys(("all", *sorted({each.set for each in chosen}))):
                heard = [each for each in zip(chosen, first, second, strict=True) if name in ("all", each[0].set)]
                on_result(_rounding(self._model, name, check, heard))

    def _compare_drafts(
        self, pieces: Sequence[LoadedAudio], assistant: Path, on_result: Callable[[CheckResult], None]
    ) -> None:
        """Compares decoding with and without an assistant.

        A difference is a fault in float32, and is counted elsewhere.
        """
        for timestamps, word in TIMES.items():
            options = replace(self._options, window=self._settings.window, timestamps=timestamps, speculative="on")
            plain = transcribe_shuffled(self._folder, options, pieces)
            for batch_size in self._settings.batch_sizes:
                chosen = self._chosen(len(pieces), batch_size)
                mine = [pieces[i] for i in chosen]
                drafted = transcribe_shuffled(self._folder, replace(options, batch_size=batch_size), mine, assistant)
                heard = zip(mine, (plain[i] for i in chosen), drafted, strict=True)
                check = f"{word} with drafts, batch {batch_size}"
                on_result(CheckResult(self._model, "all", check, len(mine), _differences(list(heard))))
        few = draw_sample([each for each in pieces if each.reference], self._settings.num_rounded)
        for dtype in ROUNDED:
            if dtype in self._settings.checks:
                options = replace(self._options, window=self._settings.window, dtype=dtype, speculative="on")
                alone, drafted = (
                    transcribe_shuffled(self._folder, options, few, helper) for helper in (None, assistant)
                )
                heard = zip(few, alone, drafted, strict=True)
                on_result(_rounding(self._model, "all", f"{dtype} with drafts", list(heard)))

    def _chosen(self, number: int, batch_size: int) -> list[int]:
        """Returns the indices of the chunks for a batch size: all of them for the largest."""
        share = 1.0 if batch_size == max(self._settings.batch_sizes) else self._settings.small_share
        return draw_sample(range(number), math.ceil(share * number))

    def _run_generate(self, pieces: Sequence[LoadedAudio]) -> list[GenerateResult]:
        return self._reference.transcribe(
            [each.pcm for each in pieces], [each.language for each in pieces], self._progress
        )

    def _result(
        self,
        name: str,
        check: str,
        pieces: Sequence[LoadedAudio],
        reference: Sequence[tuple[int, ...]],
        native: Sequence[Hypothesis],
        timestamps: bool,
    ) -> CheckResult:
        explained = (
            explain_difference(self._reference, self._tokens, piece, timestamps, other, mine.tokens)
            for piece, other, mine in zip(pieces, reference, native, strict=True)
        )
        return CheckResult(self._model, name, check, len(pieces), tuple(each for each in explained if each))

    def _progress(self, number: int) -> None:
        self._print_message(f"transformers: {number} more done")

    def _print_message(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


def _rounding(
    model: str, name: str, check: str, heard: Sequence[tuple[LoadedAudio, Hypothesis, Hypothesis]]
) -> CheckResult:
    pieces, first, second = zip(*heard, strict=True)
    return CheckResult(model, name, check, len(heard), _differences(heard), (_wer(first, pieces), _wer(second, pieces)))


def _first_difference(name: str, tokens: Tokens, reference: Sequence[int], native: Sequence[int]) -> Difference:
    pairs = zip(reference, native, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(reference), len(native)))
    expected, actual = (tokens.tokenizer.id_to_token(ids[at]) if at < len(ids) else "" for ids in (reference, native))
    return Difference(name, at, expected or "", actual or "", None)


def _differences(heard: Sequence[tuple[LoadedAudio, Hypothesis, Hypothesis]]) -> tuple[Difference, ...]:
    return tuple(
        Difference(piece.name, 0, one.text, other.text, None)
        for piece, one, other in heard
        if one.tokens != other.tokens
    )


def _wer(heard: Sequence[Hypothesis], pieces: Sequence[LoadedAudio]) -> float:
    scorer = Scorer(ScoringConfig(normalizer="auto"))
    scores = [scorer.score(h.text, piece.reference, piece.language) for h, piece in zip(heard, pieces, strict=True)]
    edits = sum((s.substitutions or 0) + (s.deletions or 0) + (s.insertions or 0) for s in scores)
    return pooled_rate(edits, sum(score.num_ref_words or 0 for score in scores)) or 0.0
