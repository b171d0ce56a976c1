"""Quality flags of a chunk, and the detection of hallucinations.

A flag marks text that should be checked, and filters downstream decide. Each flag is a pure function of the chunk's
tokens, text, scores and length. The flags are meant to be rare on clean speech (none occurred
on the clean sets of docs/recognition.md): they miss more hallucinations than they find.
"""

import unicodedata
from collections.abc import Collection, Iterable, Sequence

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.types import Word

# Processing of a chunk.
SILENT_AUDIO = "silent_audio"  # nothing is louder than dither; the chunk was not recognized
NO_SPEECH = "no_speech"  # the model predicts no speech and its text is unlikely; the text was dropped
REDECODED = "redecoded"  # unreliable in its short window; decoded again in the full window
MAX_TOKENS_REACHED = "max_tokens_reached"  # the token limit was reached before the end token
UNTRANSCRIBED_SPEECH = "untranscribed_speech"  # more than MAX_UNHEARD_S of speech after the end of the text
HALLUCINATION_DROPPED = "hallucination_dropped"  # anomalous words between silences were dropped
MIXED_LANGUAGES = "mixed_languages"  # detected with high probability: another language than the recording's
# Indications of hallucination.
REPETITION_LOOP = "repetition_loop"  # the text ends in a loop
HIGH_COMPRESSION_RATIO = "high_compression_ratio"  # above decoding.compression_ratio_threshold
LOW_LOGPROB = "low_logprob"  # mean log-probability below decoding.logprob_threshold
HIGH_CHAR_RATE = "high_char_rate"  # more letters per second than anyone speaks
ANOMALOUS_WORDS = "anomalous_words"  # words too short, too long or too unlikely; needs word timestamps
HALLUCINATION_PHRASE = "hallucination_phrase"  # only a phrase that Whisper writes where nobody speaks

# Flags that say that the text may be wrong. The others describe how the chunk was processed.
UNRELIABLE_TEXT_FLAGS = (
    REPETITION_LOOP,
    HIGH_COMPRESSION_RATIO,
    LOW_LOGPROB,
    HIGH_CHAR_RATE,
    ANOMALOUS_WORDS,
    HALLUCINATION_PHRASE,
    MAX_TOKENS_REACHED,
    UNTRANSCRIBED_SPEECH,
    MIXED_LANGUAGES,
)

# Share of the audio with text, or of the text, that flagged chunks must have for the recording to be doubtful. One
# flagged chunk makes a recording of up to ten chunks doubtful, but not one of an hour, whose other chunks are sound.
MIN_DOUBTFUL_SHARE = 0.1

MAX_UNTRANSCRIBED_S = 1.0  # seconds of speech after the end of a text; with more, the chunk is flagged

# A repetition loop is a sequence of tokens that repeats up to the chunk's last token. Its log-probability is high, so
# that only the repetition reveals it.
MAX_LOOP_PERIOD = 40  # tokens
MIN_LOOP_TOKENS = 12  # over all repetitions: "no, no, no" is speech
MAX_TOKENS_AFTER_LOOP = 8  # where the text has more letters than anyone could say
LONG_LOOP_PERIOD = 8  # tokens; a period of this length counts from two repetitions on, a shorter one from three

MAX_LETTERS_PER_S = 25.0  # the fastest of 227 clips of clean read English has 16
WIDE_LETTER = 3  # letters that a Chinese, Japanese or Korean character counts as: it is a syllable or a word

# Credits and closing phrases of subtitled videos, which Whisper was trained on and writes for silence, noise and music.
# They are compared with the whole text, without case, spaces and punctuation: within a sentence they may be speech.
_SUBTITLE_CREDIT = "amaraorg"  # in credits of many languages, never in speech
_CREDITS = (
    "thank you for watching",
    "thank you very much for watching",
    "thank you so much for watching",
    "thanks for watching",
    "thanks for watching and I'll see you in the next video",
    "please subscribe to my channel",
    "please like and subscribe",
    "don't forget to like and subscribe",
    "see you in the next video",
    "Untertitelung des ZDF 2020",
    "Untertitel im Auftrag des ZDF für funk 2017",
    "Vielen Dank fürs Zuschauen",
    "Sous-titrage Société Radio-Canada",
    "Sous-titrage ST' 501",
    "Merci d'avoir regardé cette vidéo",
    "Gracias por ver el video",
    "¡Suscríbete al canal!",
    "Obrigado por assistir",
    "Sottotitoli e revisione a cura di QTSS",
    "Продолжение следует",
    "Субтитры сделал DimaTorzok",
    "Спасибо за просмотр",
    "ご視聴ありがとうございました",
    "請不吝點贊訂閱轉發打賞支持明鏡與點點欄目",
    "请不吝点赞订阅转发打赏支持明镜与点点栏目",
    "谢谢观看",
    "시청해주셔서 감사합니다",
    "Altyazı M.K.",
    "ترجمة نانسي قنقر",
    "اشتركوا في القناة",
)
# Phrases of ordinary speech too: flagged only where the model suspects that nobody spoke.
_ORDINARY_PHRASES = ("you", "thank you", "thank you very much", "thanks", "bye", "bye-bye", "so", "okay")
SUSPECTED_NO_SPEECH_PROB = 0.5

# OpenAI's anomaly score of words: a point for an unlikely word, more for one that is too short or too long.
ANOMALY_WINDOW = 8  # words; anomalous if they have three points, or one each
ANOMALY_POINTS = 3.0
UNLIKELY_WORD_PROB = 0.15
SHORT_WORD_S = 0.133
POINTS_PER_S_SHORT = 15.0  # below SHORT_WORD_S
LONG_WORD_S = 2.0
ROUNDING = 0.01


def text_flags(
    tokens: Sequence[int],
    text: str,
    *,
    ended: bool,
    mean_logprob: float,
    ratio: float,
    no_speech_prob: float,
    duration_s: float,
    options: RecognizerOptions,
) -> tuple[str, ...]:
    """Returns the flags of a text that follow from the text itself.

    Flags that need word timestamps or another window (`ANOMALOUS_WORDS`, `REDECODED`) are added elsewhere.

    Args:
        tokens: Ids after the prompt, without the end token and timestamps: repetitions have different times.
        text: Their text.
        ended: The end token was reached.
        mean_logprob: Mean log-probability of the tokens.
        ratio: Compression ratio of the text.
        no_speech_prob: No-speech probability of the chunk.
        duration_s: Length of the chunk in seconds.
        options: Thresholds.
    """
    is_unspeakable = count_letters(text) > MAX_LETTERS_PER_S * duration_s
    has_loop = has_repetition_loop(tokens) or (is_unspeakable and find_unspeakable_loop(tokens) is not None)
    found = (
        (MAX_TOKENS_REACHED, not ended),
        (REPETITION_LOOP, has_loop),
        (HIGH_COMPRESSION_RATIO, ratio > options.compression_ratio_threshold),
        (LOW_LOGPROB, mean_logprob < options.logprob_threshold),
        (HIGH_CHAR_RATE, is_unspeakable),
        (HALLUCINATION_PHRASE, is_hallucination_phrase(text, no_speech_prob)),
    )
    return tuple(flag for flag, applies in found if applies)


def is_doubtful(chunks: Iterable[tuple[float, str, Collection[str]]], doubtful_flags: Collection[str]) -> bool:
    """Returns True if a recording's text may not be what was spoken.

    Flagged chunks count by their audio and by their text: half a second at the end of a recording can have a repetition
    loop that is longer than all of the text before.

    Args:
        chunks: Length, text and flags of each chunk that has text. Any unit of length.
        doubtful_flags: Setting ``decoding.doubtful_flags``.
    """
    every, flagged = list[tuple[float, int]](), list[tuple[float, int]]()
    for length, text, flags in chunks:
        every.append((length, len(text)))
        if any(flag in doubtful_flags for flag in flags):
            flagged.append(every[-1])
    shares = zip(zip(*flagged, strict=True), zip(*every, strict=True), strict=False)
    return any(sum(some) >= MIN_DOUBTFUL_SHARE * sum(total) for some, total in shares)


def has_repetition_loop(tokens: Sequence[int]) -> bool:
    """Returns True if the tokens, without timestamps, end in a repetition loop."""
    return _loop_period(tokens) > 0


def cut_repetition_loop(tokens: Sequence[int]) -> Sequence[int]:
    """Returns the tokens, without timestamps, with what is repeated at their end written once.

    A loop may skip or repeat a part of itself once. What comes before that is then a loop, too, and is cut instead.
    """
    kept, begin = tokens, len(tokens)
    while period := _loop_period(tokens[:begin]):
        begin -= period
        while begin and tokens[begin - 1] == tokens[begin - 1 + period]:
            begin -= 1
        kept = tokens[: begin + period]
    return kept


def find_unspeakable_loop(tokens: Sequence[int]) -> int | None:
    """Returns the number of first tokens that end in a repetition loop, followed by a few others; None without one.

    For a text with more letters than anyone could say: what follows the loop is then as unreliable as the loop.
    """
    lengths = range(len(tokens), max(0, len(tokens) - MAX_TOKENS_AFTER_LOOP) - 1, -1)
    return next((length for length in lengths if has_repetition_loop(tokens[:length])), None)


def _loop_period(tokens: Sequence[int]) -> int:
    """Returns the length of what is repeated at the end of the tokens; 0 if they do not end in a repetition loop."""
    for period in range(1, min(MAX_LOOP_PERIOD, len(tokens) // 2) + 1):
        times = max(2 if period >= LONG_LOOP_PERIOD else 3, -(-MIN_LOOP_TOKENS // period))
        length = times * period
        if length <= len(tokens) and tokens[-length:-period] == tokens[-length + period :]:
            return period
    return 0


def count_letters(text: str) -> int:
    """Counts letters and digits; a character that is a syllable or a word counts as `WIDE_LETTER`."""
    return sum(WIDE_LETTER if unicodedata.east_asian_width(letter) == "W" else 1 for letter in text if letter.isalnum())


def is_hallucination_phrase(text: str, no_speech_prob: float) -> bool:
    """Returns True if the text is nothing but a phrase that Whisper writes where nobody speaks."""
    folded = _folded(text)
    if folded in _FOLDED_ORDINARY_PHRASES:
        return no_speech_prob > SUSPECTED_NO_SPEECH_PROB
    return folded in _FOLDED_CREDITS or _SUBTITLE_CREDIT in folded


def has_anomalous_words(words: Sequence[Word]) -> bool:
    """Returns True if any `ANOMALY_WINDOW` consecutive words (or all, if fewer) are anomalous by OpenAI's score.

    Punctuation alone is no word.
    """
    points = [_anomaly_points(word) for word in words if _folded(word.text)]
    windows = (points[begin : begin + ANOMALY_WINDOW] for begin in range(max(1, len(points) - ANOMALY_WINDOW + 1)))
    return any(window and _is_anomalous(window) for window in windows)


def are_anomalous(words: Sequence[Word]) -> bool:
    """Returns True if the first `ANOMALY_WINDOW` of the words of a segment are anomalous by OpenAI's score.

    Punctuation alone is no word. A segment of nothing else is anomalous, one without any is not.
    """
    points = [_anomaly_points(word) for word in words if _folded(word.text)]
    return bool(words) and _is_anomalous(points[:ANOMALY_WINDOW])


def _is_anomalous(points: Sequence[float]) -> bool:
    return sum(points) >= min(ANOMALY_POINTS, len(points) - ROUNDING)


def _anomaly_points(word: Word) -> float:
    length_s = word.end_s - word.start_s
    too_short = max(0.0, SHORT_WORD_S - length_s) * POINTS_PER_S_SHORT
    is_unlikely = word.probability is not None and word.probability < UNLIKELY_WORD_PROB
    return is_unlikely + too_short + max(0.0, length_s - LONG_WORD_S)


def _folded(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


_FOLDED_CREDITS = frozenset(map(_folded, _CREDITS))
_FOLDED_ORDINARY_PHRASES = frozenset(map(_folded, _ORDINARY_PHRASES))
