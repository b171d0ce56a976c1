"""Flags: one word for each thing that is worth knowing of a chunk, and the signs of hallucination among them.

A flag never changes a text: it says where to look, and filters downstream choose what to believe. Each sign is the
chunk's own, a pure function of its tokens, text, scores and length. They are meant to be rare on clean speech (none of
them came up on the sets of docs/recognition.md that are clean), so what they miss is more than what they find.
"""

import unicodedata
from collections.abc import Sequence

from distil_ray.recognition.base import RecognizerOptions, Word

# What became of a chunk.
SILENT_AUDIO = "silent_audio"  # nothing in it is louder than dither: not recognized at all
NO_SPEECH = "no_speech"  # the model says that nobody speaks, and doubts its words: they were left out
REDECODED = "redecoded"  # doubtful in its short window, decoded again in the full one
MAX_TOKENS_REACHED = "max_tokens_reached"  # the token limit was reached before an end token
UNTRANSCRIBED_SPEECH = "untranscribed_speech"  # more than MAX_UNHEARD_S of speech after the end of the text
MIXED_LANGUAGES = "mixed_languages"  # the chunk is surely in another language than its recording was transcribed in
# Signs of hallucination.
REPETITION_LOOP = "repetition_loop"  # the text ends in a loop
HIGH_COMPRESSION_RATIO = (
    "high_compression_ratio"  # it compresses better than speech does (decoding.compression_ratio_threshold)
)
LOW_LOGPROB = "low_logprob"  # the model hardly believed it (decoding.logprob_threshold)
HIGH_CHAR_RATE = "high_char_rate"  # more letters than anyone says in that time
ANOMALOUS_WORDS = "anomalous_words"  # words too short, too long or too unlikely to have been spoken; needs their times
HALLUCINATION_PHRASE = "hallucination_phrase"  # nothing but what Whisper writes where nobody speaks

# That a chunk's text may not be what was said; the other flags tell what became of it.
UNRELIABLE_TEXT_FLAGS = (
    *(
        REPETITION_LOOP,
        HIGH_COMPRESSION_RATIO,
        LOW_LOGPROB,
        HIGH_CHAR_RATE,
        ANOMALOUS_WORDS,
        HALLUCINATION_PHRASE,
        MAX_TOKENS_REACHED,
        UNTRANSCRIBED_SPEECH,
    ),
    MIXED_LANGUAGES,
)

MAX_UNTRANSCRIBED_S = 1.0  # seconds; a chunk with more speech than that after the end of its text is flagged

# A loop is a run of tokens again and again, up to the chunk's last token. Its log-probability is high: only the
# repetition shows it.
LONGEST_LOOP = 40  # tokens
LOOP_TOKENS = 12  # in all, at least: "no, no, no" is speech
LONG_LOOP = 8  # tokens; twice is enough for a loop as long, shorter ones must come three times

MAX_LETTERS_PER_S = 25.0  # the fastest of 227 clips of clean read English has 16
WIDE_LETTER = 3  # letters that a Chinese, Japanese or Korean sign counts as: a syllable or a word

# Credits and farewells of subtitled videos, which Whisper was trained on and writes over silence, noise and music.
# Compared without case, blanks and punctuation, with the whole text: inside a sentence they may have been said.
_SUBTITLERS = "amaraorg"  # in credits of many languages, never in speech
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
# Said by people too: flagged only where the model itself suspects that nobody spoke.
_COURTESIES = ("you", "thank you", "thank you very much", "thanks", "bye", "bye-bye", "so", "okay")
SUSPECTED = 0.5  # no-speech probability

# openai's measure of a word that was hardly spoken: a point for an unlikely one, more the shorter or longer it is.
WORDS_JUDGED = 8  # together; odd if they have three points, or one each
ODD_POINTS = 3.0
UNLIKELY_WORD = 0.15  # probability
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
    """Flags of a text that was not left out, all but those that need words or another window to compare with."""
    found = (
        (MAX_TOKENS_REACHED, not ended),
        (REPETITION_LOOP, has_repetition_loop(tokens)),
        (HIGH_COMPRESSION_RATIO, ratio > options.compression_ratio_threshold),
        (LOW_LOGPROB, mean_logprob < options.logprob_threshold),
        (HIGH_CHAR_RATE, count_letters(text) > MAX_LETTERS_PER_S * duration_s),
        (HALLUCINATION_PHRASE, is_hallucination_phrase(text, no_speech_prob)),
    )
    return tuple(name for name, is_so in found if is_so)


def has_repetition_loop(tokens: Sequence[int]) -> bool:
    """Whether the tokens end in a loop."""
    for period in range(1, min(LONGEST_LOOP, len(tokens) // 2) + 1):
        times = max(2 if period >= LONG_LOOP else 3, -(-LOOP_TOKENS // period))
        length = times * period
        if length <= len(tokens) and tokens[-length:-period] == tokens[-length + period :]:
            return True
    return False


def count_letters(text: str) -> int:
    """Letters and digits of a text; a sign that stands for a syllable or a word counts as several."""
    return sum(WIDE_LETTER if unicodedata.east_asian_width(letter) == "W" else 1 for letter in text if letter.isalnum())


def is_hallucination_phrase(text: str, no_speech_prob: float) -> bool:
    """Whether a text is nothing but a phrase that Whisper writes where nobody speaks."""
    folded = _folded(text)
    if folded in _FOLDED_COURTESIES:
        return no_speech_prob > SUSPECTED
    return folded in _FOLDED_CREDITS or _SUBTITLERS in folded


def has_anomalous_words(words: Sequence[Word]) -> bool:
    """Whether any eight words of a text in a row (all, where they are fewer) are odd by openai's measure."""
    points = [_points(word) for word in words if _folded(word.text)]
    for begin in range(max(1, len(points) - WORDS_JUDGED + 1)):
        judged = points[begin : begin + WORDS_JUDGED]
        if judged and sum(judged) >= min(ODD_POINTS, len(judged) - ROUNDING):
            return True
    return False


def _points(word: Word) -> float:
    length_s = word.end_s - word.start_s
    too_short = max(0.0, SHORT_WORD_S - length_s) * POINTS_PER_S_SHORT
    return (word.probability < UNLIKELY_WORD) + too_short + max(0.0, length_s - LONG_WORD_S)


def _folded(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


_FOLDED_CREDITS = frozenset(map(_folded, _CREDITS))
_FOLDED_COURTESIES = frozenset(map(_folded, _COURTESIES))
