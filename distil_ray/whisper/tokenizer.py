"""Whisper's tokens: prompts, forbidden ids, and the way back from ids to text.

Made from a model folder's JSON files with the `tokenizers` library alone: a driver may use it without torch. It knows
the rules as tables (which ids may never come, which may not come first, where the time tokens begin); applying them to
logits is the decoder's work. Text comes out exactly as transformers' tokenizer writes it, which a test holds it to.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

SECONDS_PER_TIMESTAMP = 0.02  # s between two time tokens: one encoder position, two frames of 10 ms
WINDOW_S = 30.0  # s of audio that the encoder hears, and the last time token
MAX_POSITIONS = 448  # positions of the decoder, prompt included, where a config does not say
MULTILINGUAL_VOCAB_SIZE = 51865  # smallest vocabulary of a multilingual checkpoint; English-only ones have 51864

_TIMESTAMP_TEXT = re.compile(r"<\|\d+\.\d+\|>")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Special ids and rules of one checkpoint.

    ``languages`` maps a code to its id, empty for an English-only checkpoint. ``suppress`` ids may never be chosen,
    ``begin_suppress`` ids not as the first token after the prompt. ``max_initial_timestamp`` is the largest time that
    the first time token may have, counted in time tokens (None: no limit).
    """

    is_multilingual: bool
    languages: Mapping[str, int]
    sot: int  # <|startoftranscript|>
    eot: int  # <|endoftext|>, also the padding
    transcribe: int
    translate: int
    no_speech: int  # <|nospeech|> or <|nocaptions|>
    no_timestamps: int  # <|notimestamps|>
    timestamp_begin: int  # <|0.00|>
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    max_initial_timestamp: int | None
    max_positions: int  # of the decoder, prompt included
    max_length: int  # generation's own limit, before the prompt is added
    tokenizer: Tokenizer

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """From config.json, generation_config.json (if there is one) and tokenizer.json of a model folder."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        generation_file = folder / "generation_config.json"
        generation = json.loads(generation_file.read_text(encoding="utf-8")) if generation_file.exists() else {}
        return cls.from_configs(config, generation, Tokenizer.from_file(str(folder / "tokenizer.json")))

    @classmethod
    def from_configs(cls, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Self:
        """From parsed files; what the generation config lacks is taken from the config, as transformers does."""
        settings = {**config, **{key: value for key, value in generation.items() if value is not None}}
        is_multilingual = settings.get("is_multilingual", config["vocab_size"] >= MULTILINGUAL_VOCAB_SIZE)
        sot, translate = _id_of(tokenizer, "<|startoftranscript|>"), _id_of(tokenizer, "<|translate|>")
        no_timestamps = _id_of(tokenizer, "<|notimestamps|>")
        languages = settings.get("lang_to_id") or {
            tokenizer.id_to_token(token): token for token in range(sot + 1, translate)
        }
        return cls(
            is_multilingual=is_multilingual,
            languages={name.strip("<|>"): token for name, token in languages.items()} if is_multilingual else {},
            sot=sot,
            eot=_id_of(tokenizer, "<|endoftext|>"),
            transcribe=_id_of(tokenizer, "<|transcribe|>"),
            translate=translate,
            no_speech=_id_of(tokenizer, "<|nospeech|>", "<|nocaptions|>"),
            no_timestamps=no_timestamps,
            timestamp_begin=no_timestamps + 1,
            suppress=tuple(settings.get("suppress_tokens") or ()),
            begin_suppress=tuple(settings.get("begin_suppress_tokens") or ()),
            max_initial_timestamp=settings.get("max_initial_timestamp_index"),
            max_positions=settings.get("max_target_positions", MAX_POSITIONS),
            max_length=generation.get("max_length") or MAX_POSITIONS,
            tokenizer=tokenizer,
        )

    @property
    def language_codes(self) -> tuple[str, ...]:
        """Codes in the order of their ids; ("en",) where the checkpoint is English-only."""
        return tuple(sorted(self.languages, key=self.languages.__getitem__)) or ("en",)

    def require_language(self, language: str) -> None:
        """Raises ValueError for a code that the checkpoint does not know."""
        if language not in self.language_codes:
            known = "it is English-only" if not self.is_multilingual else "it knows " + ", ".join(self.language_codes)
            raise ValueError(f"language '{language}' is unknown to this checkpoint: {known}")

    def prompt(self, language: str, task: str = "transcribe", timestamps: bool = False) -> tuple[int, ...]:
        """The ids that a transcript begins with.

        English-only checkpoints were trained without language and task tokens and get none. Raises ValueError for an
        unknown language or task, and for a translation by an English-only checkpoint.
        """
        self.require_language(language)
        if task not in ("transcribe", "translate"):
            raise ValueError(f"task '{task}' is unknown: transcribe or translate")
        if task == "translate" and not self.is_multilingual:
            raise ValueError("an English-only checkpoint cannot translate")
        ids = [self.sot]
        if self.is_multilingual:
            ids += [self.languages[language], self.translate if task == "translate" else self.transcribe]
        if not timestamps:
            ids.append(self.no_timestamps)
        return tuple(ids)

    def max_new_tokens(self, prompt_length: int, asked: int | None = None) -> int:
        """Tokens that may follow a prompt, end token included: `asked`, as far as the decoder has room for it."""
        room = self.max_positions - prompt_length
        return min(self.max_length if asked is None else asked, room)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, without special and time tokens, stripped."""
        return _TIMESTAMP_TEXT.sub("", self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def segments(self, ids: Sequence[int], duration_s: float = WINDOW_S) -> list[tuple[float, float, str]]:
        """(start, end, text) of what stands between time tokens, seconds from the chunk's first sample.

        A time token ends the text before it and begins the text after it; of two in a row the second is the beginning.
        Text after the last time token ends with the chunk (`duration_s`), which no time exceeds. Segments without
        text are left out.
        """
        found: list[tuple[float, float, str]] = []
        start_s = 0.0
        words: list[int] = []
        for token in (*ids, None):
            if token is not None and token < self.timestamp_begin:
                words.append(token)
                continue
            end_s = duration_s if token is None else (token - self.timestamp_begin) * SECONDS_PER_TIMESTAMP
            end_s = max(start_s, min(end_s, duration_s))
            if text := self.decode(words):
                found.append((start_s, end_s, text))
            start_s, words = end_s, []
        return found


def _id_of(tokenizer: Tokenizer, *names: str) -> int:
    for name in names:
        token = tokenizer.token_to_id(name)
        if token is not None:
            return int(token)
    raise ValueError(f"tokenizer.json has no token {' or '.join(names)}: it is not Whisper's")
