"""Transcribes a sample of an output's rows again (`retranscription.py`) and compares the transcripts.

A seeded hash of the ids selects the sample, so that it does not depend on the order of files. Differences come from
number types, batches, short windows and other machines, or from changes to the output. The interval of the difference
in WER is that of a paired bootstrap. Progress is shown as for a run (`pipeline/progress.py`).
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console

from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.cli.console import format_count, format_duration, log_field
from distil_ray.config import Config, ScoringConfig
from distil_ray.errors import ErrorKind, ExitCode, RunError, SettingsError
from distil_ray.evaluation.normalizers import SEPARATOR
from distil_ray.evaluation.summary_table import format_percent
from distil_ray.evaluation.wer import Score, align, bootstrap_interval, pooled_rate, split_units
from distil_ray.languages import is_unsegmented
from distil_ray.output.ledger import TRANSCRIPTS, list_data_files
from distil_ray.output.reader import open_transcripts
from distil_ray.pipeline.progress import Progress, ProgressTracker, RunPhase
from distil_ray.schema import COMMIT_RESULT, parse_languages
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Status
from distil_ray.verify.retranscription import MethodLoader, NotComparableError, RecheckMethod, transcribe_again
from distil_ray.verify.verify import print_verdict, require_output

BATCH_ROWS = 256  # rows of Parquet read at once
EXAMPLES = 5  # differing rows that are printed
EXAMPLE_LETTERS = 80  # characters printed around the first difference
LINE_EVERY_S = 10.0  # seconds between progress lines without a terminal

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Options of a recheck.

    Attributes:
        share: Share of the rows to transcribe again; None if `count` is set.
        count: Number of rows; None if `share` is set.
        seed: Seed of the sample.
        max_differing: Share of the rechecked rows that may differ.
        full_windows: Use windows of 30 s even if the run used short ones; their effect is then measured too.
    """

    share: float | None
    count: int | None
    seed: int
    max_differing: float
    full_windows: bool

    @classmethod
    def parse(cls, words: str | None, seed: int, max_differing: float, *, full_windows: bool = False) -> Self | None:
        """Parses the command line: ``0.01`` is a share of the rows, ``50`` a number. Returns None for None.

        Raises:
            SettingsError: A value is out of range.
        """
        if not 0 <= max_differing <= 1:
            raise SettingsError(f"--max-differing {max_differing:g}: must be a share between 0 and 1")
        if words is None:
            return None
        try:
            share, count = (None, int(words)) if words.isdecimal() else (float(words), None)
        except ValueError:
            share, count = None, 0
        if count == 0 or (share is not None and not 0 < share <= 1):
            raise SettingsError(f"--recheck {words}: must be a share such as 0.01, or a number of rows such as 50")
        return cls(share, count, seed, max_differing, full_windows)


@dataclass(frozen=True, slots=True)
class TranscriptPair:
    """A stored transcript and the new one.

    Attributes:
        name: Recording id.
        before: Stored text.
        after: New text.
        windows_s: Encoder window of each chunk of the new transcript, in seconds.
        differing_chunks: Number of chunks whose texts differ; of sections, of windows that have a difference.
        differs: The text, a chunk or the duration differs.
        edits_before: Edits of the stored text against the reference; None without one.
        edits_after: The same of the new text.
        num_ref_words: Words of the reference; None without one.
        between: (edits, words) of the new text against the stored one.
        normalizer: Normalizer of all counts here.
    """

    name: str
    before: str
    after: str
    windows_s: tuple[float, ...]
    differing_chunks: int
    differs: bool
    edits_before: int | None
    edits_after: int | None
    num_ref_words: int | None
    between: tuple[int, int]
    normalizer: str


@dataclass(slots=True)
class RecheckResult:
    """All pairs, and the ids of rows that could not be compared, by reason."""

    pairs: list[TranscriptPair] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def share_differing(self) -> float:
        return sum(pair.differs for pair in self.pairs) / len(self.pairs) if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows to transcribe again.

    Attributes:
        num_rows: Number of rows.
        audio_s: Seconds of audio in them.
        rows: The rows, in the order of the files. Read while it is iterated.
    """

    num_rows: int
    audio_s: float
    rows: Iterator[Row]


def recheck(config: Config, sampling: Sampling, console: Console, differences: Sequence[str] = ()) -> ExitCode:
    """Transcribes a sample of the rows of `output.uri` again, prints the differences, and the verdict last.

    Args:
        config: `resources` and `storage` are used; model, decoding and chunking are those of each row's run.
        sampling: Options of the recheck.
        console: Receives progress and results.
        differences: Differences that `verify.find_differences` has found, for the verdict.

    Raises:
        RunError: No row of the sample could be transcribed again.
    """
    output = require_output(config)
    storage = Storage(config.storage)
    sample = draw_sample(output, sampling, storage)
    result = RecheckResult()
    tracker = ProgressTracker(sample.num_rows, sample.audio_s, phase=RunPhase.TRANSCRIBING)
    with Progress(tracker, console, LINE_EVERY_S, last_line=False) as progress:
        for row, pair in _transcribe_sample(sample, config, sampling, output, storage, result):
            progress.add(_progress_result(row, pair))
    _print(result, sampling, config.scoring, console)
    if not result.pairs:
        raise RunError("--recheck: no row of the sample could be transcribed again")
    problem = None
    if result.share_differing > sampling.max_differing:
        percent = format_percent(result.share_differing)
        problem = (
            f"{percent} % of the rechecked rows differ, more than --max-differing {sampling.max_differing:g} allows"
        )
    return print_verdict(differences, console, problem)


def show_recheck_plan(config: Config, sampling: Sampling, console: Console) -> ExitCode:
    """Prints the size of the sample that `recheck` would transcribe again. Starts no model."""
    sample = draw_sample(require_output(config), sampling, Storage(config.storage))
    log_field(
        "recheck",
        f"{format_count(sample.num_rows, 'row')}, {format_duration(sample.audio_s)} of audio",
        console,
        num_rows=sample.num_rows,
        audio_s=sample.audio_s,
    )
    return ExitCode.DONE


def _transcribe_sample(
    sample: Sample, config: Config, sampling: Sampling, output: str, storage: Storage, result: RecheckResult
) -> Iterator[tuple[Row, TranscriptPair | None]]:
    """Fills `result`. Yields each row once it is done, with its pair, or None if it could not be compared."""
    methods = MethodLoader(config, output, storage, full_windows=sampling.full_windows)
    resources = config.resources
    with closing(SubprocessDecoder(resources.decoder_memory_mb, resources.decoder_timeout_s)) as decoder:
        for row in sample.rows:
            try:
                method = methods.of(row)
                after = transcribe_again(row, method, decoder, storage)
            except NotComparableError as error:
                result.skipped.setdefault(str(error), []).append(row["recording_id"])
                yield row, None
                continue
            result.pairs.append(_compare(row, after, method))
            yield row, result.pairs[-1]


def _progress_result(row: Row, pair: TranscriptPair | None) -> Row:
    """Returns the row as a result of the commit stage, for `ProgressTracker.add`."""
    scores = {"num_ref_words": pair.num_ref_words, "substitutions": pair.edits_after} if pair else {}
    done = {"task_id": row["recording_id"], "committed": True, "num_recordings": 1, "audio_s": row["duration_s"]}
    return dict.fromkeys(COMMIT_RESULT.names) | done | scores


def draw_sample(output: str, sampling: Sampling, storage: Storage) -> Sample:
    """Selects the rows of the sample. Rows without recognized audio are not candidates.

    Raises:
        SettingsError: There are no candidates.
        RunError: A file cannot be read.
    """
    folder = join(output, TRANSCRIPTS)
    hashes, durations = [np.empty(0, np.uint64)], [np.empty(0)]
    for rows in _read(folder, ["recording_id", "status", "error_kind", "duration_s"], storage):
        hashes.append(_hashes(rows, sampling.seed))
        durations.append(rows["duration_s"].fill_null(0.0).to_numpy(zero_copy_only=False))
    every = np.concatenate(hashes)
    candidates = np.sort(every[every != _NOT_A_CANDIDATE])
    if not len(candidates):
        raise SettingsError(f"--recheck: {folder} has no row with recognized audio")
    wanted = sampling.count or math.ceil((sampling.share or 0.0) * len(candidates))
    highest = candidates[min(wanted, len(candidates)) - 1]
    chosen = every <= highest
    audio_s = float(np.concatenate(durations)[chosen].sum())
    return Sample(int(chosen.sum()), audio_s, _read_sample(folder, sampling.seed, highest, storage))


def _read_sample(folder: str, seed: int, highest: np.uint64, storage: Storage) -> Iterator[Row]:
    for rows in _read(folder, None, storage):
        yield from rows.filter(pa.array(_hashes(rows, seed) <= highest)).to_pylist()


_NOT_A_CANDIDATE = np.uint64(2**64 - 1)


def _hashes(rows: pa.RecordBatch, seed: int) -> NDArray[np.uint64]:
    """Returns a hash of each row, shape (num_rows,); `_NOT_A_CANDIDATE` for rows that cannot be sampled."""
    names, statuses, kinds = (rows[name].to_pylist() for name in ("recording_id", "status", "error_kind"))
    return np.array(
        [
            _NOT_A_CANDIDATE
            if status == Status.FAILED or kind == ErrorKind.NO_SAMPLES
            else int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()) & (2**64 - 2)
            for name, status, kind in zip(names, statuses, kinds, strict=True)
        ],
        np.uint64,
    )


def _read(folder: str, columns: list[str] | None, storage: Storage) -> Iterator[pa.RecordBatch]:
    for uri in list_data_files(folder, storage):
        try:
            with open_transcripts(uri, storage) as file:
                yield from file.iter_batches(BATCH_ROWS, columns)
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{uri}: cannot be read as Parquet ({' '.join(str(error).split())[:300]})") from error


def _compare(row: Row, after: Row, method: RecheckMethod) -> TranscriptPair:
    translates = method.run.config.decoding.task == "translate"
    languages = ["en"] if translates else [one.language for one in parse_languages(row)]
    score = partial(method.scorer.score, language=languages or None)
    before_text, after_text = row["text"] or "", after["text"] or ""
    old, new = ([chunk["text"] or "" for chunk in each["chunks"]] for each in (row, after))
    if method.run.chunking.long_form:
        differing = count_differing_windows(old, new, any(map(is_unsegmented, languages)))
    else:
        differing = sum(one != other for one, other in zip(old, new, strict=True))
    between = score(before_text, after_text)
    reference = row["reference"]
    before, again = (None if reference is None else score(text, reference) for text in (before_text, after_text))
    return TranscriptPair(
        name=row["recording_id"],
        before=before_text,
        after=after_text,
        windows_s=tuple(chunk["window_s"] for chunk in after["chunks"] if chunk["window_s"] is not None),
        differing_chunks=differing,
        differs=bool(differing) or before_text != after_text or row["duration_s"] != after["duration_s"],
        edits_before=None if before is None else _edits(before),
        edits_after=None if again is None else _edits(again),
        num_ref_words=None if before is None else before.num_ref_words,
        between=(_edits(between), between.num_ref_words or 0),
        normalizer=(again or between).normalizer,
    )


def count_differing_windows(before: Sequence[str], after: Sequence[str], spaceless: bool) -> int:
    """Returns in how many windows of `after` the text differs from `before`, wherever the windows begin and end.

    A window begins where the model's timestamps end the one before: a single other timestamp moves all that follow in a
    section, so that windows of the same number hold other words even where the text is the same.

    Args:
        before: Text of each window.
        after: The same of another transcript of the same audio.
        spaceless: Compare characters, not words.
    """
    owners = [window for window, text in enumerate(after) for _ in split_units(text, spaceless)]
    found, position = set[int](), 0
    for span in align(" ".join(before), " ".join(after), spaceless):
        num_units = len(span.hypothesis)
        if span.kind != "equal":  # deleted words belong to the window of the word behind them, or to the last one
            found.update(owners[position : position + max(num_units, 1)] or owners[-1:] or [0])
        position += num_units
    return len(found)


def _edits(score: Score) -> int:
    return (score.substitutions or 0) + (score.deletions or 0) + (score.insertions or 0)


def _windows(pairs: Sequence[TranscriptPair]) -> str:
    every = [window_s for pair in pairs for window_s in pair.windows_s]
    if not every:
        return ""
    return (
        f", in windows of {min(every):g} to {max(every):g} s" if min(every) < max(every) else f", in {min(every):g} s"
    )


def _print(result: RecheckResult, sampling: Sampling, scoring: ScoringConfig, console: Console) -> None:
    pairs = result.pairs
    log_field(
        "rechecked", f"{len(pairs)} rows (seed {sampling.seed}): float32, chunk by chunk{_windows(pairs)}", console
    )
    for reason, names in result.skipped.items():
        log_field("skipped", f"{len(names)} rows, such as {names[0]}: {reason}", console)
    if not pairs:
        return
    chunks, differing = sum(len(pair.windows_s) for pair in pairs), sum(pair.differing_chunks for pair in pairs)
    rows = sum(pair.differs for pair in pairs)
    log_field("rows differ", f"{rows} of {len(pairs)} ({format_percent(result.share_differing)} %)", console)
    log_field("chunks differ", f"{differing} of {chunks} ({format_percent(differing / max(chunks, 1))} %)", console)
    if words := _wer_words([pair for pair in pairs if pair.num_ref_words is not None], scoring):
        log_field("WER", words, console)
    log_field("normalizer", SEPARATOR.join(sorted({pair.normalizer for pair in pairs})), console)
    edits, total = (np.array([pair.between[i] for pair in pairs], np.int64) for i in (0, 1))
    rate = pooled_rate(int(edits.sum()), int(total.sum()))
    log_field("text changes", f"{format_percent(rate)} % of the words{_interval(edits, total, scoring)}", console)
    for pair in [pair for pair in pairs if pair.differs][:EXAMPLES]:
        before, after = _around_difference(pair.before, pair.after)
        log_field("differs", f"{pair.name}: stored {before!r}, rechecked {after!r}", console)


def _wer_words(pairs: Sequence[TranscriptPair], scoring: ScoringConfig) -> str:
    """Returns a line with the pooled WER of both transcripts, their difference and its interval."""
    words = np.array([pair.num_ref_words for pair in pairs], np.int64)
    if not words.sum():
        return ""
    before, after = (np.array([getattr(pair, name) for pair in pairs]) for name in ("edits_before", "edits_after"))
    rates = [pooled_rate(int(edits.sum()), int(words.sum())) for edits in (before, after)]
    difference = 100 * float((before - after).sum()) / int(words.sum())
    return (
        f"{format_percent(rates[0])} % stored, {format_percent(rates[1])} % rechecked: {difference:+.2f} points"
        f"{_interval(before - after, words, scoring)}, {len(pairs)} recordings with a reference"
    )


def _interval(edits: NDArray[np.int64], words: NDArray[np.int64], scoring: ScoringConfig) -> str:
    """Returns the interval in percentage points, by resampling recordings."""
    interval = bootstrap_interval(edits, words, None, scoring.bootstrap_samples, scoring.seed)
    return f" (95 % interval {100 * interval[0]:.2f} to {100 * interval[1]:.2f})" if interval else ""


def _around_difference(before: str, after: str) -> tuple[str, str]:
    """Returns excerpts of both texts around their first difference."""
    same = next(
        (i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    start = max(0, same - EXAMPLE_LETTERS // 4)
    return before[start : start + EXAMPLE_LETTERS], after[start : start + EXAMPLE_LETTERS]
