"""Whisper's vocabularies: from the bytes of the text tokens to a tokenizer.json, and back.

A Whisper tokenizer is determined by its text tokens. It is a byte-level BPE whose token ids are the ranks of the
merges, so that the merge that makes a token is found by encoding the token's bytes with the merges of lower rank.
Special tokens follow in a fixed order. The size of the vocabulary says which of three tokenizers it is: 51864 entries
are English-only, 51865 multilingual, 51866 multilingual with Cantonese. Suppressed tokens are those of texts that
nobody says, such as brackets and notes of music, and special tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from distil_ray.whisper.formats.tensors import Json
from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP, parse_tokenizer
from distil_ray.whisper.weights_cache import WeightsError

ENGLISH_SIZE, MULTILINGUAL_SIZE, V3_SIZE = 51864, 51865, 51866
NUM_TEXT_TOKENS = {ENGLISH_SIZE: 50256, MULTILINGUAL_SIZE: 50257, V3_SIZE: 50257}  # by entries of the vocabulary
NUM_BYTES = 256  # the first ids are single bytes; the ids after them are made by merges
NUM_TIMESTAMPS = 1501  # <|0.00|> to <|30.00|>
EOT, SOT, TRANSCRIBE, TRANSLATE = "<|endoftext|>", "<|startoftranscript|>", "<|transcribe|>", "<|translate|>"
NO_TIMESTAMPS, PREVIOUS = "<|notimestamps|>", "<|startofprev|>"
# In the order of their ids; English-only vocabularies have these tokens, too. Cantonese is in that of large-v3 alone.
_LANGUAGES = """
en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml cy
sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo
uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue
"""
LANGUAGES = tuple(_LANGUAGES.split())

# Texts that describe sounds instead of words. The second and third group are suppressed where they are one token; of
# notes of music the first token is, too, which only symbols share.
_SINGLE = '"#()*+/:;<=>@[\\]^_`{|}~「」『』'
_REPEATED = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }}"
_NOTES = "♩♪♫♬♭♮♯"
_NOTE_PAIRS = ("♪♪", "♪♪♪")
_BEFORE_WORDS = (" -", " '")  # a dash or quote may be inside a word, but not before it


@cache
def letter_of_byte() -> dict[int, str]:
    """Returns GPT-2's byte alphabet: printable bytes map to themselves, the others to U+0100 and following."""
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return {byte: chr(byte) for byte in printing} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


def to_letters(word: bytes) -> str:
    """Returns a token as tokenizer.json writes it."""
    letters = letter_of_byte()
    return "".join(letters[byte] for byte in word)


def to_bytes(source: str, token: str) -> bytes:
    """Returns the bytes of a token of tokenizer.json. Raises `WeightsError` for letters that stand for no byte."""
    bytes_of = {letter: byte for byte, letter in letter_of_byte().items()}
    try:
        return bytes(bytes_of[letter] for letter in token)
    except KeyError as error:
        raise WeightsError(f"{source}: the token {token!r} is none of a byte-level tokenizer") from error


def require_known_size(source: str, vocab_size: int) -> int:
    """Returns the number of text tokens of a vocabulary.

    Raises:
        WeightsError: It is none of the three sizes of Whisper, so that the meaning of its ids is not known.
    """
    if vocab_size not in NUM_TEXT_TOKENS:
        known = ", ".join(map(str, NUM_TEXT_TOKENS))
        raise WeightsError(
            f"{source}: has {vocab_size} vocabulary entries; the tokens of {known} entries are known. Put the"
            " tokenizer.json of the model beside the file"
        )
    return NUM_TEXT_TOKENS[vocab_size]


def require_text_tokens(source: str, words: Sequence[bytes], vocab_size: int) -> tuple[bytes, ...]:
    """Returns the text tokens among the first words of a vocabulary.

    Some files of whisper.cpp list the end token, too, as a text.

    Raises:
        WeightsError: The vocabulary is not Whisper's, or not complete.
    """
    count = require_known_size(source, vocab_size)
    text = tuple(words[:count])
    if len(text) < count or any(word != EOT.encode() for word in words[count:]):
        raise WeightsError(
            f"{source}: a vocabulary of {vocab_size} entries has {count} text tokens; found {len(words)}"
        )
    if {len(word) for word in text[:NUM_BYTES]} != {1} or len(set(text)) < count:
        raise WeightsError(
            f"{source}: its vocabulary is not Whisper's: the first {NUM_BYTES} tokens must be single bytes"
        )
    return text


def special_texts(vocab_size: int) -> list[str]:
    """Returns the special tokens in the order of their ids, from the end token to ``<|notimestamps|>``."""
    languages = LANGUAGES if vocab_size == V3_SIZE else LANGUAGES[:-1]
    no_speech = "<|nospeech|>" if vocab_size == V3_SIZE else "<|nocaptions|>"  # as published
    return [
        *(EOT, SOT),
        *(f"<|{code}|>" for code in languages),
        *(TRANSLATE, TRANSCRIBE, "<|startoflm|>", PREVIOUS, no_speech, NO_TIMESTAMPS),
    ]


def make_tokenizer(source: str, words: Sequence[bytes], vocab_size: int) -> Json:
    """Returns the tokenizer.json of a vocabulary.

    Args:
        source: The file, for messages.
        words: The text tokens in the order of their ids.
        vocab_size: Entries of the whole vocabulary.

    Raises:
        WeightsError: The vocabulary is not Whisper's.
    """
    words = require_text_tokens(source, words, vocab_size)
    specials = {text: len(words) + index for index, text in enumerate(special_texts(vocab_size))}
    begin = specials[NO_TIMESTAMPS] + 1
    times = {f"<|{index * SECONDS_PER_TIMESTAMP:.2f}|>": begin + index for index in range(NUM_TIMESTAMPS)}
    vocabulary = {to_letters(word): index for index, word in enumerate(words)} | {EOT: specials[EOT]}
    added = [_added_token(token, text, text in specials) for text, token in (specials | times).items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": _post_processor(specials),
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [list(map(to_letters, merge)) for merge in merges(source, words)],
        },
    }


def _added_token(token: int, text: str, special: bool) -> Json:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": token, "content": text, **flags}


def _post_processor(specials: Mapping[str, int]) -> Json:
    """Returns the template by which transformers adds the prompt without language and task, and the end token."""
    start = [{"SpecialToken": {"id": text, "type_id": 0}} for text in (SOT, NO_TIMESTAMPS)]
    first, second = ({"Sequence": {"id": name, "type_id": index}} for index, name in enumerate("AB"))
    end = [{"SpecialToken": {"id": EOT, "type_id": index}} for index in range(2)]
    texts = sorted((EOT, NO_TIMESTAMPS, SOT))
    return {
        "type": "TemplateProcessing",
        "single": [*start, first, end[0]],
        "pair": [*start, first, second, end[1]],
        "special_tokens": {text: {"id": text, "ids": [specials[text]], "tokens": [text]} for text in texts},
    }


def merges(source: str, words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yields the two parts that the merge of each token of more than one byte joins, in the order of their ranks.

    Raises:
        WeightsError: A token cannot be made of two tokens before it.
    """
    ranks = {word: rank for rank, word in enumerate(words)}
    for rank, word in enumerate(words):
        if len(word) < 2:  # single bytes, and the empty token of multilingual vocabularies
            continue
        parts = _encode(word, ranks, rank) if len(word) > 2 else [word[:1], word[1:]]
        if len(parts) != 2:
            raise WeightsError(f"{source}: token {rank} ({word!r}) is no merge of two tokens before it")
        yield parts[0], parts[1]


def _encode(word: bytes, ranks: Mapping[bytes, int], limit: int) -> list[bytes]:
    """Returns the tokens of a word, made by the merges of a lower rank than `limit`."""
    parts = [word[index : index + 1] for index in range(len(word))]
    while len(parts) > 1:
        found = [ranks.get(parts[index] + parts[index + 1], limit) for index in range(len(parts) - 1)]
        lowest = min(found)
        if lowest >= limit:
            break
        index = found.index(lowest)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts


def token_texts(tokenizer: Json, vocab_size: int) -> list[str]:
    """Returns the vocabulary of a tokenizer.json in the order of ids; ids without a token get a text of their own."""
    ids = dict(tokenizer["model"]["vocab"])
    ids |= {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    named = {number: text for text, number in ids.items()}
    return [named.get(number, f"<|unused{number}|>") for number in range(vocab_size)]


def text_tokens(source: str, tokenizer: Json, vocab_size: int) -> tuple[bytes, ...]:
    """Returns the text tokens of a tokenizer.json as bytes.

    Raises:
        WeightsError: The vocabulary is not one of Whisper's three.
    """
    count = require_known_size(source, vocab_size)
    return tuple(to_bytes(source, text) for text in token_texts(tokenizer, vocab_size)[:count])


def check_tokenizer(source: str, tokenizer: Json, vocab_size: int) -> None:
    """Checks that a tokenizer.json has as many tokens as the embedding.

    Raises:
        WeightsError: It has more or fewer, or it is no Whisper tokenizer.
    """
    try:
        ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
        found = 1 + max(ids)
        named = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
        ends_with_times = named[NO_TIMESTAMPS] + 1 + NUM_TIMESTAMPS == found
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{source}: tokenizer.json is no Whisper tokenizer ({error})") from error
    if found != vocab_size or not ends_with_times:
        raise WeightsError(
            f"{source}: its tokenizer.json has {found} tokens, but the weights have {vocab_size} vocabulary entries;"
            " it is the tokenizer of another model"
        )


def suppressed_tokens(tokenizer: Json) -> tuple[list[int], list[int]]:
    """Returns the ids that may never be chosen, and those that may not be the first after the prompt."""
    encoder = parse_tokenizer(json.dumps(tokenizer))

    def ids(text: str) -> list[int]:
        found: list[int] = encoder.encode(text, add_special_tokens=False).ids
        return found

    suppressed = {ids(text)[0] for text in _BEFORE_WORDS}
    for text in (*_SINGLE, *_REPEATED.split(), *_NOTE_PAIRS):
        suppressed |= {tokens[0] for tokens in (ids(text), ids(f" {text}")) if len(tokens) == 1}
    for note in _NOTES:
        suppressed |= {ids(note)[0], ids(f" {note}")[0]}
    named = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    suppressed |= {named[SOT], *range(named[TRANSLATE], named[NO_TIMESTAMPS])}
    return sorted(suppressed), [*ids(" "), named[EOT]]
