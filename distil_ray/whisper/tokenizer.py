"""Whisper's tokens: special ids, prompts, suppressed ids, and decoding of ids to text and segments.

Loaded from the JSON files of a model folder with the `tokenizers` library, so that a driver can use it without torch.
The decoding rules are stored as tables (suppressed ids, ids that may not come first, the first timestamp token); the
decoder applies them to logits. Decoded text equals that of transformers' tokenizer.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from distil_ray.types import Prompt

SECONDS_PER_TIMESTAMP = 0.02  # s between two timestamp tokens: one encoder position, two frames of 10 ms
WINDOW_S = 30.0  # s; the encoder's full window, and the time of the last timestamp token
NUM_TIMESTAMPS = round(WINDOW_S / SECONDS_PER_TIMESTAMP) + 1  # timestamp tokens, of 0 s and of 30 s included
MAX_POSITIONS = 448  # decoder positions, prompt included, where a config does not state them
SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
NUM_START_TOKENS = 4  # in `Tokens.prompt`, at most
MULTILINGUAL_VOCAB_SIZE = 51865  # smallest vocabulary of a multilingual checkpoint, without added tokens

_TIMESTAMP_TEXT = re.compile(r"<\|\d+\.\d+\|>")


@dataclass(frozen=True, slots=True)
class Tokens:
    """Special tokens and decoding rules of a checkpoint.

    Attributes:
        is_multilingual: False for English-only checkpoints, whose prompts have neither language nor task.
        languages: Ids of the language tokens by code; empty for an English-only checkpoint.
        suppress: Ids that may never be chosen.
        begin_suppress: Ids that may not be the first token after the prompt.
        max_initial_timestamp: Largest time that the first timestamp token may have, counted in timestamp tokens;
            None is no limit.
        max_positions: Positions of the decoder, prompt included.
        max_length: Maximum number of generated tokens by the generation config, prompt not included.
        tokenizer: Tokenizer of the `tokenizers` library.
        added_text: Ids of text that a fine-tuned checkpoint has behind the timestamp tokens (`add_tokens`).
    """

    is_multilingual: bool
    languages: Mapping[str, int]
    sot: int  # <|startoftranscript|>
    sot_prev: int  # <|startofprev|>
    eot: int  # <|endoftext|>, also the padding
    transcribe: int
    translate: int
    no_speech: int  # <|nospeech|> or <|nocaptions|>
    no_timestamps: int  # <|notimestamps|>
    timestamp_begin: int  # <|0.00|>
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    max_initial_timestamp: int | None
    max_positions: int
    max_length: int
    tokenizer: Tokenizer = field(repr=False)
    added_text: frozenset[int] = frozenset()

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Loads config.json, generation_config.json (if present) and tokenizer.json of a model folder."""
        folder = Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        generation_file = folder / "generation_config.json"
        generation = json.loads(generation_file.read_text(encoding="utf-8")) if generation_file.exists() else {}
        return cls.from_configs(config, generation, parse_tokenizer((folder / "tokenizer.json").read_text("utf-8")))

    @classmethod
    def from_configs(cls, config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Tokenizer) -> Self:
        """Makes the tokens from parsed files.

        Without a generation config the decoding rules are those of the config, as in transformers.

        Raises:
            ValueError: The tokenizer lacks one of Whisper's special tokens.
        """
        rules = generation or config
        no_timestamps = _find_id(tokenizer, "<|notimestamps|>")
        is_multilingual = rules.get("is_multilingual")
        if is_multilingual is None:
            is_multilingual = no_timestamps + 1 + NUM_TIMESTAMPS >= MULTILINGUAL_VOCAB_SIZE
        sot, translate = _find_id(tokenizer, "<|startoftranscript|>"), _find_id(tokenizer, "<|translate|>")
        languages = rules.get("lang_to_id") or {
            tokenizer.id_to_token(token): token for token in range(sot + 1, translate)
        }
        return cls(
            is_multilingual=is_multilingual,
            languages={name.strip("<|>"): token for name, token in languages.items()} if is_multilingual else {},
            sot=sot,
            sot_prev=_find_id(tokenizer, "<|startofprev|>"),
            eot=_find_id(tokenizer, "<|endoftext|>"),
            transcribe=_find_id(tokenizer, "<|transcribe|>"),
            translate=translate,
            no_speech=_find_id(tokenizer, "<|nospeech|>", "<|nocaptions|>"),
            no_timestamps=no_timestamps,
            timestamp_begin=no_timestamps + 1,
            suppress=tuple(rules.get("suppress_tokens") or ()),
            begin_suppress=tuple(rules.get("begin_suppress_tokens") or ()),
            max_initial_timestamp=rules.get("max_initial_timestamp_index"),
            max_positions=config.get("max_target_positions", MAX_POSITIONS),
            max_length=generation.get("max_length") or MAX_POSITIONS,
            tokenizer=tokenizer,
            added_text=_find_added_text(tokenizer, no_timestamps + NUM_TIMESTAMPS),
        )

    @property
    def language_codes(self) -> tuple[str, ...]:
        """Codes in the order of their ids; ("en",) for an English-only checkpoint."""
        return tuple(sorted(self.languages, key=self.languages.__getitem__)) or ("en",)

    def is_text(self, token: int) -> bool:
        """Returns whether a token is text: neither a timestamp nor another special token."""
        return token < self.eot or token in self.added_text

    def is_timestamp(self, token: int) -> bool:
        return 0 <= token - self.timestamp_begin < NUM_TIMESTAMPS

    def require_language(self, language: str) -> None:
        """Raises ValueError if the checkpoint does not know the language code."""
        if language not in self.language_codes:
            known = ", ".join(self.language_codes) if self.is_multilingual else "English only"
            raise ValueError(f"language '{language}' is unknown to this checkpoint; it supports {known}")

    def prompt(self, language: str, task: str = "transcribe", timestamps: bool = False) -> tuple[int, ...]:
        """Returns the ids of the decoder's prompt.

        English-only checkpoints were trained without language and task tokens and get none.

        Args:
            language: Code of the spoken language.
            task: transcribe or translate.
            timestamps: The model is to predict timestamp tokens.

        Raises:
            ValueError: The language or task is unknown, or an English-only checkpoint is to translate.
        """
        self.require_language(language)
        if task not in ("transcribe", "translate"):
            raise ValueError(f"task '{task}' is unknown; it must be transcribe or translate")
        if task == "translate" and not self.is_multilingual:
            raise ValueError("an English-only checkpoint cannot translate")
        ids = [self.sot]
        if self.is_multilingual:
            ids += [self.languages[language], self.translate if task == "translate" else self.transcribe]
        if not timestamps:
            ids.append(self.no_timestamps)
        return tuple(ids)

    def prefix(self, text: str | None, timestamps: bool = False) -> tuple[int, ...]:
        """Returns the ids of the text that a chunk is taken to begin with, which stand behind `prompt()`.

        The text has at most half of the decoder's positions, minus one: the last tokens count. With timestamps it
        begins at time 0, as in faster-whisper.
        """
        ids = self._encode(text or "")[-(self.max_positions // 2 - 1) :]
        return (*([self.timestamp_begin] if timestamps and ids else []), *ids)

    def previous_text(self, prompt: Prompt | None, num_prefix: int = 0, decoded: Sequence[int] = ()) -> tuple[int, ...]:
        """Returns the ids that stand before `prompt()`: `<|startofprev|>`, the hotwords, and the text of a prompt.

        Hotwords are joined by commas and end with a full stop: the model continues a sentence that has not ended, and
        then leaves out words of the audio that it has already seen. As in openai's Whisper the text has at most half of
        the decoder's positions, minus one: the first of them go to the hotwords, the others to the last tokens of
        `Prompt.text` and `decoded`. Special tokens in the text are ignored. Without any text the result is empty.

        Args:
            prompt: Of the recording.
            num_prefix: Tokens of a prefix. Before it the text may be shorter, so that a fourth of the positions is left
                for the chunk.
            decoded: Ids of the audio before (`decoding.condition_on_previous_text`), timestamps included.
        """
        if prompt is None and not decoded:
            return ()
        prompt = prompt or Prompt("", ())
        left = self.max_positions - self.max_positions // 4 - num_prefix - 1 - NUM_START_TOKENS
        most = min(self.max_positions // 2 - 1, left)
        hotwords = self._encode_hotwords(prompt.hotwords, most)
        text = [*self._encode(prompt.text), *decoded]
        ids = [*hotwords, *text[max(0, len(text) - (most - len(hotwords))) :]]
        return (self.sot_prev, *ids) if ids else ()

    def _encode_hotwords(self, words: Sequence[str], most: int) -> list[int]:
        """Returns the first ids of a list of hotwords and those of a full stop, together at most `most`."""
        text = ", ".join(word.strip() for word in words if word.strip())
        ids = self._encode(text)
        end = (
            [] if not ids or text.endswith(SENTENCE_ENDS) else self.tokenizer.encode(".", add_special_tokens=False).ids
        )
        return [*ids[: most - len(end)], *end]

    def _encode(self, text: str) -> list[int]:
        """Returns the ids of a text after a blank, without special and timestamp tokens."""
        if not text.strip():
            return []
        ids = self.tokenizer.encode(f" {text.strip()}", add_special_tokens=False).ids
        return [token for token in ids if self.is_text(token)]

    def max_new_tokens(self, prompt_length: int, requested: int | None = None) -> int:
        """Returns how many tokens may follow a prompt, end token included: `requested`, limited by the positions."""
        return min(self.max_length if requested is None else requested, self.max_positions - prompt_length)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the stripped text of ids, without special and timestamp tokens."""
        return _TIMESTAMP_TEXT.sub("", self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def text_ids(self, ids: Sequence[int]) -> list[int]:
        """Returns the ids that are no timestamp tokens."""
        return [token for token in ids if not self.is_timestamp(token)]

    def truncate(self, ids: Sequence[int], num: int) -> Sequence[int]:
        """Returns ids up to the `num`-th that is no timestamp token, and the timestamp behind it if there is one."""
        ends = [at + 1 for at, token in enumerate(ids) if not self.is_timestamp(token)]
        if num >= len(ends):
            return ids
        end = ends[num - 1] if num else 0
        return ids[: end + self.is_timestamp(ids[end])]

    def segments(self, ids: Sequence[int], duration_s: float = WINDOW_S) -> list[tuple[float, float, str]]:
        """Returns (start, end, text) of each segment, in seconds from the chunk's first sample.

        A timestamp token ends the text before it and begins the text after it; of two in a row, the second begins the
        text. Text after the last timestamp token ends with the chunk. No time exceeds the chunk's `duration_s`, and
        segments without text are left out.
        """
        found: list[tuple[float, float, str]] = []
        start_s = 0.0
        text_ids: list[int] = []
        for token in (*ids, None):
            if token is not None and not self.is_timestamp(token):
                text_ids.append(token)
                continue
            end_s = duration_s if token is None else (token - self.timestamp_begin) * SECONDS_PER_TIMESTAMP
            end_s = max(start_s, min(end_s, duration_s))
            if text := self.decode(text_ids):
                found.append((start_s, end_s, text))
            start_s, text_ids = end_s, []
        return found


def parse_tokenizer(content: str) -> Tokenizer:
    """Returns the tokenizer of a tokenizer.json, which encodes every text as it is.

    The file of a fine-tuned checkpoint may keep how its training padded and cut the labels.
    """
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _find_added_text(tokenizer: Tokenizer, last_timestamp: int) -> frozenset[int]:
    added = tokenizer.get_added_tokens_decoder()
    return frozenset(token for token, content in added.items() if token > last_timestamp and not content.special)


def _find_id(tokenizer: Tokenizer, *names: str) -> int:
    for name in names:
        token = tokenizer.token_to_id(name)
        if token is not None:
            return int(token)
    raise ValueError(f"tokenizer.json has no token {' or '.join(names)}: it is not a Whisper tokenizer")
