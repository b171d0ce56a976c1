"""The words of a command line: settings (`key=value`), paths and URIs, and explanations of everything else.

A word with `=` whose left side is a setting is an override. Other words are paths if they exist or are URIs or
patterns; a command maps them to the settings that it declares. Messages for misspelled flags and settings contain the
right spelling.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distil_ray.config.loader import nearest_keys, setting_keys
from distil_ray.errors import SettingsError

_KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
_URI = re.compile(r"[A-Za-z][\w+.-]*://")
_PATTERN = re.compile(r"[*?{\[]")


@dataclass(slots=True)
class Words:
    """The positional words of a command line, by kind."""

    overrides: list[str] = field(default_factory=list)  # key=value of the run's settings
    own: list[str] = field(default_factory=list)  # key=value of the command's own options
    paths: list[str] = field(default_factory=list)


def sort_words(words: Iterable[str], own_keys: Collection[str]) -> Words:
    """Sorts words into overrides, own options of the command, and paths.

    Raises:
        SettingsError: A word is none of these. The message shows the right spelling.
    """
    keys = setting_keys()
    found = Words()
    for word in words:
        key, equals, _ = word.partition("=")
        if equals and key in own_keys:
            found.own.append(word)
        elif equals and key in keys:
            found.overrides.append(word)
        elif _is_path(word):
            found.paths.append(word)
        elif equals and _KEY.fullmatch(key.strip()):
            found.overrides.append(word)  # an unknown key: the config names the nearest one
        else:
            raise SettingsError(_explain_word(word, [*own_keys, *keys]))
    return found


def _is_path(word: str) -> bool:
    if _URI.match(word):
        return True
    try:
        return Path(word).exists() or ("=" not in word and bool(_PATTERN.search(word)))
    except (OSError, ValueError):  # too long, or with a null byte
        return False


def _explain_word(word: str, keys: Sequence[str]) -> str:
    if word in keys:
        return f"{word}: a setting needs a value. Write {word}=VALUE."
    if word.partition("=")[1]:
        return f"'{word}': is neither a setting nor a file. Write key=value, such as decoding.language=en."
    nearest = nearest_keys(word, keys, cutoff=0.75)
    hint = f" Did you mean {nearest[0]}=VALUE?" if nearest else ""
    return (
        f"'{word}': no such file or folder, and not a setting. Settings are written key=value, such as"
        f" decoding.language=en.{hint}"
    )


def assign_paths(words: Words, keys: Sequence[str], own_keys: Collection[str], command: str) -> None:
    """Turns the paths of `words` into overrides and own options.

    Args:
        words: Changed in place: `paths` becomes empty.
        keys: Settings that take the paths, in this order. `input.uri` takes any number.
        own_keys: Keys of the command's own options.
        command: Name of the command, for messages.

    Raises:
        SettingsError: There are more paths than keys, or a setting is given twice.
    """
    paths, words.paths = words.paths, []
    if not paths:
        return
    if not keys:
        raise SettingsError(
            f"{paths[0]}: '{command}' takes no path without a key. Write input.uri={paths[0]} or output.uri={paths[0]}."
        )
    if tuple(keys) == ("input.uri",):
        add_override(words, "input.uri", paths)
        return
    if len(paths) > len(keys):
        takes = f"{len(keys)} path{'s' * (len(keys) > 1)} ({', '.join(keys)})"
        raise SettingsError(f"{paths[len(keys)]}: '{command}' takes {takes}, found {len(paths)}.")
    for key, path in zip(keys, paths, strict=False):
        if key not in own_keys:
            add_override(words, key, path)
        elif any(word.startswith(f"{key}=") for word in words.own):
            raise SettingsError(f"{key}: given twice, as {key}=… and as {path}. Leave one of them out.")
        else:
            words.own.append(f"{key}={path}")


def add_override(words: Words, key: str, value: str | Sequence[str]) -> None:
    """Adds a setting that is given without its key, by a path or a short flag.

    Raises:
        SettingsError: The setting is given by its key too.
    """
    if any(word.startswith(f"{key}=") for word in words.overrides):
        raise SettingsError(f"{key}: given twice, as {key}=… and as {value}. Leave one of them out.")
    words.overrides.append(f"{key}={json.dumps(value, ensure_ascii=False)}")


def explain_flag(words: Sequence[str], flags: Collection[str], own_keys: Collection[str] = ()) -> str | None:
    """Returns an explanation of the first word that looks like a flag and is none; None if there is no such word.

    Args:
        words: The whole command line.
        flags: All flags of the command ("--plan").
        own_keys: Keys of the command's own options.
    """
    keys = [*own_keys, *setting_keys()]
    for index, word in enumerate(words):
        if word == "--":
            return None
        flag, equals, value = word.partition("=")
        if not word.startswith("--") or flag in flags:
            continue
        if not equals:
            following = words[index + 1] if index + 1 < len(words) else ""
            value = following if following and not following.startswith("-") and "=" not in following else "VALUE"
        key = flag.lstrip("-").replace("-", "_")
        if key in keys:
            return f"{flag}: settings are written without dashes: {key}={value}"
        if near := difflib.get_close_matches(flag, flags, 1, 0.75):
            return f"{flag}: no such option. Did you mean {near[0]}?"
        if near := nearest_keys(key, keys, cutoff=0.75):
            return f"{flag}: no such option. Did you mean the setting {near[0]}={value}?"
        return f"{flag}: no such option"
    return None
