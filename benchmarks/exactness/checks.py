"""Our recognizer beside transformers' own `generate`, token for token: what is compared, and why two tokens differ.

Recordings are cut as the job cuts them (`quiet`) and come to the recognizer in shuffled order, so that each chunk has
other neighbors in every batch. Where two texts part, transformers' own logits at that place say whether it was a tie
that rounding in float32 decided, or a fault. Silence is not emptied here, and windows are full: these are decisions
of ours that `generate` does not take.
"""

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.clips import decode, recordings_of
from benchmarks.exactness.generate_results import Reference
from benchmarks.exactness.result_cache import States
from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import Chunk, ChunkSizes, make_chunker
from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.errors import SettingsError
from distil_ray.recognition.base import Recognizer, RecognizerOptions
from distil_ray.recognition.capabilities import load_recognizer
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.types import SAMPLE_RATE, Hypothesis, Recording
from distil_ray.whisper.features import LogMel
from distil_ray.whisper.model import load_model
from distil_ray.whisper.tokenizer import Tokens

T = TypeVar("T")

SEED = 0  # of every order and choice
SEARCH_FRACTION = 3  # `quiet` looks for a pause in the last third, as chunking.search_s: auto does
STRIDE_FRACTION = 6  # `overlap` shares a sixth with each neighbor, as transformers' pipeline does
# Two right ways to compute the same logits in float32 part by less: sums of 512 products of either sign are rounded in
# another order. A margin below it can fall either way.
TIE = 1e-3  # in logits


@dataclass(frozen=True, slots=True)
class Speech:
    """A recording in memory: 16 kHz mono. ``set`` tells the parts of a corpus apart; ``reference`` may be empty."""

    set: str
    name: str
    language: str
    reference: str
    pcm: PCM16


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two texts part: after `at` tokens they go on with `theirs` and `ours`.

    ``margin``: by how much transformers' logits prefer theirs, between the two tokens, or between all time tokens
    together and the likeliest other one where only one of the two is a time. None: whole texts or languages differ.
    """

    name: str
    at: int
    theirs: str
    ours: str
    margin: float | None

    @property
    def is_tie(self) -> bool:
        return self.margin is not None and abs(self.margin) < TIE


def load_speech(
    source: str, folder: Path, column: str, sets: Sequence[str], share: float, languages: Sequence[str]
) -> dict[str, list[Speech]]:
    """Recordings that can be decoded, by set: a share of each of `sets` (empty: of all), in one of `languages`.

    A recording whose source names no language counts as English. Raises `SettingsError` if there is none.
    """
    listed: dict[str, list[Recording]] = {}
    for recording in recordings_of(source, folder):
        name = recording.metadata.get(column, "all")
        if (not sets or name in sets) and (recording.language or "en") in languages:
            listed.setdefault(name, []).append(recording)
    found: dict[str, list[Speech]] = {}
    for name, recordings in listed.items():
        for each in sample(recordings, math.ceil(share * len(recordings))):
            if len(pcm := decode(each.uri)):
                speech = Speech(name, each.recording_id, each.language or "en", each.reference or "", pcm)
                found.setdefault(name, []).append(speech)
    if not found:
        raise SettingsError(f"clips={source} sets={','.join(sets)}: no recording that can be decoded and recognized")
    return found


def cut(speech: Sequence[Speech], lengths_s: Sequence[float]) -> list[Speech]:
    """The chunks of all recordings at every length, each once: a recording shorter than all lengths gives one."""
    pieces: dict[tuple[str, int, int], Speech] = {}
    for each in speech:
        for length_s in lengths_s:
            for chunk in chunks_of(each.pcm, "quiet", length_s):
                name = f"{each.name}@{chunk.start / SAMPLE_RATE:.2f}+{len(chunk.pcm) / SAMPLE_RATE:.2f}"
                whole = each.reference if len(chunk.pcm) == len(each.pcm) else ""
                piece = Speech(each.set, name, each.language, whole, chunk.pcm)
                pieces.setdefault((each.name, chunk.start, len(chunk.pcm)), piece)
    return list(pieces.values())


def sample(items: Sequence[T], number: int) -> list[T]:
    """`number` of them at most, shuffled by the seed; more of them are the same ones and others."""
    return random.Random(SEED).sample(items, len(items))[:number]


def hear(
    folder: Path,
    options: RecognizerOptions,
    pieces: Sequence[Speech],
    assistant: Path | None = None,
    single_pass: bool = False,
) -> list[Hypothesis]:
    """What the native recognizer makes of chunks that come to it in shuffled order.

    `single_pass`: what a text with times leaves of its chunk is not decoded, as in one call of `generate` with one
    window.
    """
    order = sample(range(len(pieces)), len(pieces))
    shuffled = [pieces[i] for i in order]
    recognizer = native(folder, options, assistant)
    needed = [0] * len(shuffled) if single_pass else None
    heard = recognizer.transcribe([each.pcm for each in shuffled], [each.language for each in shuffled], needed)
    return [hypothesis for _, hypothesis in sorted(zip(order, heard, strict=True), key=lambda pair: pair[0])]


def native(folder: Path, options: RecognizerOptions, assistant: Path | None = None) -> Recognizer:
    return load_recognizer("native", folder, options, assistant)


def merged_texts(folder: Path, options: RecognizerOptions, speech: Sequence[Speech], length_s: float) -> list[str]:
    """Texts of whole recordings, from overlapping chunks of the native recognizer and the job's merge."""
    cuts = [chunks_of(each.pcm, "overlap", length_s) for each in speech]
    pieces = [
        Speech(each.set, "", each.language, "", c.pcm) for each, mine in zip(speech, cuts, strict=True) for c in mine
    ]
    heard = iter(hear(folder, options, pieces))
    tokens = Tokens.load(folder)
    texts = []
    for each, chunks in zip(speech, cuts, strict=True):
        mine = [
            ChunkHypothesis(c.start, len(c.pcm), c.stride_left, c.stride_right, hypothesis.text, hypothesis.tokens)
            for c, hypothesis in zip(chunks, heard, strict=False)
        ]
        texts.append(merge_chunks(mine, len(each.pcm), each.language, tokens, timestamps=False, overlaps=True).text)
    return texts


def explain(
    reference: Reference, tokens: Tokens, piece: Speech, timestamps: bool, theirs: Sequence[int], ours: Sequence[int]
) -> Difference | None:
    """Where two token sequences of one chunk part, and by what margin; None where they are equal."""
    if tuple(theirs) == tuple(ours):
        return None
    at = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    mine, other = (ids[at] if at < len(ids) else tokens.eot for ids in (ours, theirs))
    logits = reference.logits(piece.pcm, [*tokens.prompt(piece.language, timestamps=timestamps), *theirs[:at]])
    begin = tokens.timestamp_begin
    if (mine >= begin) == (other >= begin):
        margin = float(logits[other] - logits[mine])
    else:
        of_time = float(logits[begin:].logsumexp(dim=0) - logits[:begin].max())
        margin = of_time if other >= begin else -of_time
    theirs_next, ours_next = (tokens.tokenizer.id_to_token(token) for token in (other, mine))
    return Difference(piece.name, at, theirs_next or str(other), ours_next or str(mine), margin)


def encoders_agree(folder: Path, reference: Reference, pieces: Sequence[Speech]) -> bool:
    """Whether our log-mel and encoder give, bit for bit, the states of transformers' own, for every one of `pieces`."""
    module = load_model(folder, dtype="float32", attention="sdpa", threads=torch.get_num_threads()).module
    log_mel, encode = LogMel(module.config.num_mel_bins), Encoder(module)
    return all(torch.equal(encode(log_mel([each.pcm]))[0], reference.encode(each.pcm)) for each in pieces)


@contextmanager
def remembering(states: States) -> Iterator[None]:
    """Our encoder takes its states from the disk where they are there, which `encoders_agree` must allow."""
    compute = Encoder.__call__

    def recall(self: Encoder, features: Tensor) -> Tensor:
        return states.remembering(lambda rows: compute(self, rows))(features)

    Encoder.__call__ = recall  # type: ignore[method-assign]
    try:
        yield
    finally:
        Encoder.__call__ = compute  # type: ignore[method-assign]


def chunks_of(pcm: PCM16, strategy: str, length_s: float) -> list[Chunk]:
    """A recording cut into chunks of `length_s` seconds at most, as a run does it by default."""
    length = round(length_s * SAMPLE_RATE)
    chunker = make_chunker(strategy, ChunkSizes(length, round(length / STRIDE_FRACTION), length // SEARCH_FRACTION))
    return [*chunker.push(pcm), *chunker.finish()]
