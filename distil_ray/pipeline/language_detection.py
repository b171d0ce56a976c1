"""Language of each chunk: given by the input, detected for its recording, or detected for the chunk itself.

For a recording, the probabilities of a few of its chunks are averaged. For chunks, each is detected on its own, and the
languages of a recording are those with the most seconds expected to be right, less `CHANGE_COST_S` for each change
(dynamic programming), so that a chunk of weak evidence follows its neighbors. The chunks of a part are seen, not those
of other parts: a part gives the same languages again, wherever it is repeated. Sections (`Chunker.long_form`) are cut
into stretches of a window for this, and those in one language are joined again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distil_ray.audio.pcm import loudest_stretch
from distil_ray.chunking.base import ChunkSizes, iter_chunks, make_chunker
from distil_ray.recognition.base import PCM16, LanguageProbabilities, Recognizer
from distil_ray.types import SAMPLE_RATE

# Range of the samples of a silent chunk, in steps of PCM16: digital silence and its dither (-69 dBFS). There Whisper
# invents a word ("you") that its no-speech rule accepts. Speech with a peak of -50 dBFS is eight times louder and is
# recognized well.
MAX_SILENT_RANGE = 24
# Probability of another language from which a chunk counts as being in that language. Recordings of one language gave
# at most 0.43, the two languages of one recording 0.99 each (docs/recognition.md).
OTHER_LANGUAGE_PROB = 0.9
MIN_LOUDNESS = 0.01  # of the energy of the loudest chunk (-20 dB); quieter chunks may have no speech
QUIET_SHARE = 0.25  # of the seconds of such a chunk that count as evidence
WINDOW_SAMPLES = 30 * SAMPLE_RATE  # longest stretch of a section that is detected on its own
CHANGE_COST_S = 1.5  # of a change of the language, in seconds of audio in the right language (docs/recognition.md)


@dataclass(frozen=True, slots=True)
class ChunkLanguage:
    """The language that a chunk is transcribed in.

    Attributes:
        code: Code of the language.
        prob: Its probability where it was detected: that of the chunk, or the mean over the chunks that determine the
            language of the recording. None where the language is given.
        is_contradicted: The chunk itself was detected in another language with `OTHER_LANGUAGE_PROB` or more.
    """

    code: str
    prob: float | None = None
    is_contradicted: bool = False


class LanguageDetector:
    """Determines the languages of the chunks of a part.

    Args:
        languages: Codes among which a language is detected.
        per_chunk: Detect the language of each chunk, not of each recording (``decoding.language_per=chunk``).
    """

    def __init__(self, languages: Sequence[str], *, per_chunk: bool = False) -> None:
        self._languages = tuple(languages)
        self._per_chunk = per_chunk

    def detect_passages(
        self, recognizer: Recognizer, sections: Sequence[dict[str, Any]], audio: Sequence[PCM16]
    ) -> tuple[list[dict[str, Any]], list[ChunkLanguage]]:
        """Returns the sections, cut where the language changes, and the language of each passage.

        Args:
            recognizer: The loaded recognizer.
            sections: Rows of CHUNK, of any length; see `detect`. The passages of a section share its index.
            audio: The samples of each section.
        """
        if not self._per_chunk:
            return list(sections), self.detect(recognizer, sections, audio)
        rows, stretches = [], []
        for section, pcm in zip(sections, audio, strict=True):
            for start, stretch in _cut_stretches(pcm) if section["detects_language"] else [(0, pcm)]:
                rows.append(_stretch_row(section, start, len(stretch)))
                stretches.append(stretch)
        languages = self.detect(recognizer, rows, stretches)
        passages, found = [], []
        keys = [(row["recording"], row["index"], one.code) for row, one in zip(rows, languages, strict=True)]
        for _, group in groupby(range(len(rows)), key=keys.__getitem__):
            numbers = list(group)
            lengths = [rows[number]["num_samples"] for number in numbers]
            passages.append(rows[numbers[0]] | {"num_samples": sum(lengths)})
            found.append(_join_languages([languages[number] for number in numbers], lengths))
        return passages, found

    def detect(
        self, recognizer: Recognizer, chunks: Sequence[dict[str, Any]], audio: Sequence[PCM16]
    ) -> list[ChunkLanguage]:
        """Returns the language of each chunk.

        Args:
            recognizer: The loaded recognizer.
            chunks: Rows of CHUNK, in their order. Those with ``detects_language`` are used for detection; a recording
                without a given language has at least one.
            audio: The samples of each chunk.
        """
        found = [ChunkLanguage(chunk["language"] or "") for chunk in chunks]
        used = [i for i, chunk in enumerate(chunks) if chunk["detects_language"]]
        if not used:
            return found
        heard = recognizer.detect_languages([loudest_stretch(audio[i]) for i in used])
        probabilities = restrict_languages(heard, self._languages)
        rows_of: dict[int, list[int]] = defaultdict(list)
        for row, i in enumerate(used):
            rows_of[chunks[i]["recording"]].append(row)
        for recording, rows in rows_of.items():
            own_probs, own = probabilities.probs[rows], [used[row] for row in rows]
            own_audio = [audio[i] for i in own]
            if self._per_chunk:
                detected = _detect_chunks(own_probs, own_audio, probabilities.codes)
            else:
                detected = _detect_recording(own_probs, own_audio, probabilities.codes)
                mean = ChunkLanguage(detected[0].code, detected[0].prob)
                for i, chunk in enumerate(chunks):
                    if chunk["recording"] == recording:
                        found[i] = mean
            for i, language in zip(own, detected, strict=True):
                found[i] = language
        return found


def restrict_languages(probabilities: LanguageProbabilities, languages: Sequence[str]) -> LanguageProbabilities:
    """Returns the probabilities of some of the languages, in their order, so that each row sums to 1 again."""
    if tuple(languages) == probabilities.codes:
        return probabilities
    columns = [probabilities.codes.index(code) for code in languages]
    kept = np.maximum(probabilities.probs[:, columns], np.finfo(np.float32).tiny)
    return LanguageProbabilities(tuple(languages), kept / kept.sum(axis=1, keepdims=True))


def smooth_languages(probs: NDArray[np.float32], seconds: NDArray[np.float64]) -> list[int]:
    """Returns the sequence of languages with the largest sum of expected seconds in the right language.

    Each change costs `CHANGE_COST_S`. A chunk between two of another language differs from them only if this gains
    twice as much: never below 3 s, and from 6 s on where its probability is larger by a half. The first and the last
    chunk need half as much.

    Args:
        probs: Language probabilities of consecutive chunks, shape (num_chunks, num_languages), at least one chunk.
        seconds: Length of each chunk; 0 where it says nothing about the language. Shape (num_chunks,).

    Returns:
        A column of `probs` for each chunk.
    """
    scores = seconds[:, None] * probs.astype(np.float64)
    best, origins = scores[0], []
    for row in scores[1:]:
        after_change = best.max() - CHANGE_COST_S
        origins.append(np.where(best >= after_change, np.arange(len(best)), best.argmax()))
        best = np.maximum(best, after_change) + row
    path = [int(best.argmax())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return path[::-1]


def evidence_seconds(audio: Sequence[PCM16]) -> NDArray[np.float64]:
    """Returns the seconds of each chunk that count as evidence of its language, shape (num_chunks,).

    None of a silent chunk, and `QUIET_SHARE` of one that is far quieter than the loudest.
    """
    energies = [_energy(pcm) for pcm in audio]
    quiet = max(energies) * MIN_LOUDNESS
    return np.array(
        [
            0.0 if is_silent(pcm) else len(pcm) / SAMPLE_RATE * (1.0 if energy >= quiet else QUIET_SHARE)
            for pcm, energy in zip(audio, energies, strict=True)
        ]
    )


def choose_detection_chunks(chunks: Sequence[PCM16], count: int) -> list[int]:
    """Returns the indices of the chunks from which the language of their recording is detected, in order.

    They are spread over the recording, so that a change of language is found. The chunks that are not far quieter than
    the loudest one are divided into `count` runs; the loudest chunk of each run is taken.
    """
    energies = [_energy(pcm) for pcm in chunks]
    loud = [i for i, energy in enumerate(energies) if energy >= max(energies) * MIN_LOUDNESS]
    bounds = [len(loud) * number // count for number in range(count + 1)]
    runs = [loud[begin:end] for begin, end in pairwise(bounds)]
    return [max(run, key=energies.__getitem__) for run in runs if run]


def _energy(pcm: PCM16) -> float:
    return float(np.mean(np.square(pcm, dtype=np.float32)))


def is_silent(pcm: PCM16) -> bool:
    """Returns True for a chunk (int16, shape (num_samples,)) without anything louder than dither, at any offset."""
    return int(pcm.max()) - int(pcm.min()) <= MAX_SILENT_RANGE


def without_overlap_of_languages(
    chunks: Sequence[dict[str, Any]], languages: Sequence[ChunkLanguage]
) -> list[dict[str, Any]]:
    """Returns the chunks without the audio that neighbors in different languages share.

    Two texts in different languages cannot be merged by their tokens. Each of the two chunks ends, or begins, in the
    middle of the shared audio, where its stride begins or ends. Neighbors in different parts keep their strides.
    """
    cut = [dict(chunk) for chunk in chunks]
    for (left, left_language), (right, right_language) in pairwise(zip(cut, languages, strict=True)):
        if (left["recording"], left["index"] + 1) != (right["recording"], right["index"]):
            continue
        if left_language.code != right_language.code:
            left["num_samples"] -= left["stride_right"]
            left["stride_right"] = 0
            for name in ("start", "offset"):
                right[name] += right["stride_left"]
            right["num_samples"] -= right["stride_left"]
            right["stride_left"] = 0
    return cut


def _cut_stretches(pcm: PCM16) -> list[tuple[int, PCM16]]:
    """Cuts a section at quiet points into stretches that cover it; returns the first sample and the audio of each."""
    chunker = make_chunker("quiet", ChunkSizes(WINDOW_SAMPLES, search=WINDOW_SAMPLES // 3))
    return [(chunk.start, chunk.pcm) for chunk in iter_chunks(chunker, [pcm])]


def _stretch_row(section: dict[str, Any], start: int, num_samples: int) -> dict[str, Any]:
    return section | {
        "start": section["start"] + start,
        "offset": section["offset"] + start,
        "num_samples": num_samples,
    }


def _join_languages(languages: Sequence[ChunkLanguage], lengths: Sequence[int]) -> ChunkLanguage:
    """Returns the language of stretches in the same language, with the mean of its probabilities by length."""
    if languages[0].prob is None:
        return languages[0]
    mean = float(np.average([one.prob or 0.0 for one in languages], weights=lengths))
    return ChunkLanguage(languages[0].code, mean, all(one.is_contradicted for one in languages))


def _detect_recording(probs: NDArray[np.float32], audio: Sequence[PCM16], codes: Sequence[str]) -> list[ChunkLanguage]:
    """Returns for each chunk the language with the largest mean probability over all of them."""
    mean = probs.mean(axis=0)
    best = int(mean.argmax())
    return [
        ChunkLanguage(codes[best], float(mean[best]), _is_contradicted(row, best, pcm))
        for row, pcm in zip(probs, audio, strict=True)
    ]


def _detect_chunks(probs: NDArray[np.float32], audio: Sequence[PCM16], codes: Sequence[str]) -> list[ChunkLanguage]:
    """Returns the language of each chunk, smoothed over all of them."""
    path = smooth_languages(probs, evidence_seconds(audio))
    return [
        ChunkLanguage(codes[best], float(row[best]), _is_contradicted(row, best, pcm))
        for row, best, pcm in zip(probs, path, audio, strict=True)
    ]


def _is_contradicted(probs: NDArray[np.float32], chosen: int, pcm: PCM16) -> bool:
    """Returns True if an audible chunk is in another language than the chosen one with `OTHER_LANGUAGE_PROB`."""
    best = int(probs.argmax())
    return best != chosen and float(probs[best]) >= OTHER_LANGUAGE_PROB and not is_silent(pcm)
