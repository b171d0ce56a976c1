"""Runs the native recognizer on the chunks of the comparison, and explains tokens that differ from transformers'.

Recordings are cut as the job cuts them (`quiet`) and passed to the recognizer in shuffled order, so that each chunk has
other neighbors in every batch. Where two texts differ, transformers' own logits at that token show if it was a tie
decided by rounding in float32, or a fault. The silence rule is off and windows are full, because `generate` has neither
a silence rule of this kind nor short windows.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from benchmarks.clips import decode_audio, draw_sample, list_sets
from benchmarks.exactness.generate_results import GenerateReference
from benchmarks.exactness.result_cache import EncoderStateCache
from distil_ray.audio.pcm import PCM16
from distil_ray.chunking.base import Chunk, ChunkSizes, make_chunker
from distil_ray.chunking.merge import merge_chunks
from distil_ray.chunking.overlap_merge import ChunkHypothesis
from distil_ray.errors import SettingsError
from distil_ray.recognition.base import LongFormRecognizer, Recognizer, RecognizerOptions
from distil_ray.recognition.capabilities import load_recognizer
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.types import SAMPLE_RATE, Hypothesis
from distil_ray.whisper.features import LogMel
from distil_ray.whisper.model import load_model
from distil_ray.whisper.tokenizer import Tokens

SEARCH_FRACTION = 3  # `quiet` looks for a pause in the last third, as chunking.search_s: auto does
STRIDE_FRACTION = 6  # `overlap` shares a sixth with each neighbor, as transformers' pipeline does
# Two right ways to compute the same logits in float32 part by less: sums of 512 products of either sign are rounded in
# another order. A margin below it can fall either way.
TIE = 1e-3  # in logits


@dataclass(frozen=True, slots=True)
class LoadedAudio:
    """A recording or chunk in memory, 16 kHz mono.

    Attributes:
        set: Name of the part of the corpus.
        name: Id of the recording, or of the chunk.
        language: Language code.
        reference: Reference text; may be empty.
        pcm: int16 samples.
    """

    set: str
    name: str
    language: str
    reference: str
    pcm: PCM16


@dataclass(frozen=True, slots=True)
class Difference:
    """The first difference of two texts: after `at` tokens they go on with `reference` and `native`.

    Attributes:
        margin: By how much transformers' logits prefer the reference token to the native one. If only one of the two
        is a
            timestamp token: between all timestamp tokens together and the likeliest other token. With beams: between
            the scores of the whole texts. None if whole texts or languages differ.
    """

    name: str
    at: int
    reference: str
    native: str
    margin: float | None

    @property
    def is_tie(self) -> bool:
        return self.margin is not None and abs(self.margin) < TIE


def load_audio(
    source: str, folder: Path, column: str, sets: Sequence[str], share: float, languages: Sequence[str]
) -> dict[str, list[LoadedAudio]]:
    """Loads recordings, by set. A recording without a language counts as English.

    Args:
        source: Folder, glob or manifest; empty for the demo's samples.
        folder: Folder for the demo's samples.
        column: Metadata column that names the set.
        sets: Sets to load; empty for all.
        share: Share of each set.
        languages: Languages to load.

    Raises:
        SettingsError: No recording can be decoded.
    """
    found: dict[str, list[LoadedAudio]] = {}
    for name, recordings in list_sets(source, folder, column, sets, share, languages).items():
        for each in recordings:
            if len(pcm := decode_audio(each.uri)):
                speech = LoadedAudio(name, each.recording_id, each.language or "en", each.reference or "", pcm)
                found.setdefault(name, []).append(speech)
    if not found:
        raise SettingsError(f"clips={source} sets={','.join(sets)}: no recording that can be decoded and recognized")
    return found


def cut_into_chunks(speech: Sequence[LoadedAudio], lengths_s: Sequence[float]) -> list[LoadedAudio]:
    """Returns the chunks of all recordings at every length, each once.

    A recording shorter than all lengths is one chunk.
    """
    pieces: dict[tuple[str, int, int], LoadedAudio] = {}
    for each in speech:
        for length_s in lengths_s:
            for chunk in split_audio(each.pcm, "quiet", length_s):
                name = f"{each.name}@{chunk.start / SAMPLE_RATE:.2f}+{len(chunk.pcm) / SAMPLE_RATE:.2f}"
                whole = each.reference if len(chunk.pcm) == len(each.pcm) else ""
                piece = LoadedAudio(each.set, name, each.language, whole, chunk.pcm)
                pieces.setdefault((each.name, chunk.start, len(chunk.pcm)), piece)
    return list(pieces.values())


def transcribe_shuffled(
    folder: Path,
    options: RecognizerOptions,
    pieces: Sequence[LoadedAudio],
    assistant: Path | None = None,
    single_pass: bool = False,
) -> list[Hypothesis]:
    """Returns the hypotheses of the native recognizer for chunks that are passed to it in shuffled order.

    Args:
        folder: Checkpoint. options: Options of the recognizer. pieces: The chunks. assistant: Assistant checkpoint,
        if any. single_pass: If True, audio after the last timestamp of a text is not decoded, as in one call of
        `generate` with one
            window.
    """
    order = draw_sample(range(len(pieces)), len(pieces))
    shuffled = [pieces[i] for i in order]
    recognizer = load_native(folder, options, assistant)
    needed = [0] * len(shuffled) if single_pass else None
    hypotheses = recognizer.transcribe([each.pcm for each in shuffled], [each.language for each in shuffled], needed)
    return [hypothesis for _, hypothesis in sorted(zip(order, hypotheses, strict=True), key=lambda pair: pair[0])]


def transcribe_sections(
    folder: Path, options: RecognizerOptions, speech: Sequence[LoadedAudio]
) -> list[tuple[int, ...]]:
    """Returns the tokens of whole recordings, each as one section, that the native recognizer decodes side by side."""
    recognizer = cast(LongFormRecognizer, load_native(folder, options))
    found = recognizer.transcribe_sections([each.pcm for each in speech], [each.language for each in speech])
    return [tuple(token for window in windows for token in window.hypothesis.tokens) for windows in found]


def load_native(folder: Path, options: RecognizerOptions, assistant: Path | None = None) -> Recognizer:
    return load_recognizer("native", folder, options, assistant)


def merged_texts(folder: Path, options: RecognizerOptions, speech: Sequence[LoadedAudio], length_s: float) -> list[str]:
    """Returns texts of whole recordings, from overlapping chunks of the native recognizer and the job's merge."""
    cuts = [split_audio(each.pcm, "overlap", length_s) for each in speech]
    pieces = [
        LoadedAudio(each.set, "", each.language, "", c.pcm)
        for each, mine in zip(speech, cuts, strict=True)
        for c in mine
    ]
    hypotheses = iter(transcribe_shuffled(folder, options, pieces))
    tokens = Tokens.load(folder)
    texts = []
    for each, chunks in zip(speech, cuts, strict=True):
        mine = [
            ChunkHypothesis(
                c.start,
                len(c.pcm),
                c.stride_left,
                c.stride_right,
                hypothesis.text,
                hypothesis.tokens,
                language=each.language,
            )
            for c, hypothesis in zip(chunks, hypotheses, strict=False)
        ]
        texts.append(merge_chunks(mine, len(each.pcm), tokens, timestamps=False, overlaps=True).text)
    return texts


def explain_difference(
    generate: GenerateReference,
    tokens: Tokens,
    piece: LoadedAudio,
    timestamps: bool,
    reference: Sequence[int],
    native: Sequence[int],
) -> Difference | None:
    """Returns where two token sequences of one chunk first differ, and by what margin; None where they are equal.

    Args:
        generate: The model of transformers, which computes the logits at the differing token.
        tokens: The checkpoint's tokens.
        piece: The chunk.
        timestamps: True if the sequences contain timestamp tokens.
        reference: Tokens of transformers' `generate`, without prompt and end token.
        native: Tokens of the native recognizer, likewise.
    """
    if tuple(reference) == tuple(native):
        return None
    pairs = zip(reference, native, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(reference), len(native)))
    actual, expected = (ids[at] if at < len(ids) else tokens.eot for ids in (native, reference))
    logits = generate.logits(piece.pcm, [*tokens.prompt(piece.language, timestamps=timestamps), *reference[:at]])
    begin = tokens.timestamp_begin
    if (actual >= begin) == (expected >= begin):
        margin = float(logits[expected] - logits[actual])
    else:
        timestamp_margin = float(logits[begin:].logsumexp(dim=0) - logits[:begin].max())
        margin = timestamp_margin if expected >= begin else -timestamp_margin
    reference_token, native_token = (tokens.tokenizer.id_to_token(token) for token in (expected, actual))
    return Difference(piece.name, at, reference_token or str(expected), native_token or str(actual), margin)


def explain_beam_difference(
    generate: GenerateReference,
    tokens: Tokens,
    piece: LoadedAudio,
    timestamps: bool,
    reference: Sequence[int],
    native: Sequence[int],
) -> Difference | None:
    """Returns where the texts of two beam searches first differ; None where they are equal.

    The arguments are those of `explain_difference`. The margin is that of the scores of the whole texts: a beam search
    may also lose a text to a tie on the way.
    """
    if tuple(reference) == tuple(native):
        return None
    at = next((i for i, pair in enumerate(zip(reference, native, strict=False)) if len(set(pair)) > 1), None)
    at = min(len(reference), len(native)) if at is None else at
    prompt = tokens.prompt(piece.language, timestamps=timestamps)
    scores = [generate.log_probability(piece.pcm, prompt, [*ids, tokens.eot]) for ids in (reference, native)]
    expected, actual = (tokens.tokenizer.id_to_token([*ids, tokens.eot][at]) or "" for ids in (reference, native))
    return Difference(piece.name, at, expected, actual, scores[0] - scores[1])


def encoders_match(folder: Path, reference: GenerateReference, pieces: Sequence[LoadedAudio]) -> bool:
    """Returns True if the native log-mel and encoder give transformers' states, bit for bit, for all of `pieces`."""
    module = load_model(folder, dtype="float32", attention="sdpa", threads=torch.get_num_threads()).module
    log_mel, encode = LogMel(module.config.num_mel_bins), Encoder(module)
    return all(torch.equal(encode(log_mel([each.pcm]))[0], reference.encode(each.pcm)) for each in pieces)


@contextmanager
def cached_encoder(states: EncoderStateCache) -> Iterator[None]:
    """Makes the native encoder read cached states; allowed only if `encoders_match`."""
    compute = Encoder.__call__

    def recall(self: Encoder, features: Tensor) -> Tensor:
        return states.cached(lambda rows: compute(self, rows))(features)

    Encoder.__call__ = recall  # type: ignore[method-assign]
    try:
        yield
    finally:
        Encoder.__call__ = compute  # type: ignore[method-assign]


def split_audio(pcm: PCM16, strategy: str, length_s: float) -> list[Chunk]:
    """Returns chunks of at most `length_s` seconds, cut as a run does by default."""
    length = round(length_s * SAMPLE_RATE)
    chunker = make_chunker(strategy, ChunkSizes(length, round(length / STRIDE_FRACTION), length // SEARCH_FRACTION))
    return [*chunker.push(pcm), *chunker.finish()]
