"""Loads a `Config` from a YAML file and command-line overrides, writes it as YAML, and lists all settings.

An unknown key or a wrong value is a `SettingsError` that names the key, the value, the reason and the nearest valid
key. One error reports everything that is wrong with the settings.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distil_ray.config import Config
from distil_ray.config.shipped import find_config
from distil_ray.errors import SettingsError
from distil_ray.redaction import redact


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Loads the config from a YAML file and applies overrides to it.

    Args:
        path: YAML file, or the name of a shipped config ("cpu"); None for the defaults.
        overrides: Settings as ``dotted.key=value``. Values are YAML: ``input.uri='[a, b]'`` is a list,
            ``model.revision=null`` is None.

    Raises:
        SettingsError: The file cannot be read, or settings are wrong; the message has a line for each of them.
    """
    tree = read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    return validate_tree(tree)


def validate_tree(tree: Mapping[str, Any]) -> Config:
    """Returns the config of nested settings. Raises `SettingsError` with one line for each setting that is wrong."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(detail) for detail in error.errors())
        raise SettingsError("\n".join(lines)) from None


def require_locations(config: Config) -> None:
    """Raises `SettingsError` unless `input.uri` and `output.uri` are set to usable locations."""
    require_input_location(config)
    require_output_location(config)


def require_input_location(config: Config) -> None:
    """Raises `SettingsError` unless `input.uri` is set to a usable location."""
    _require_named("input.uri", config.input.uri)


def require_output_location(config: Config) -> None:
    """Raises `SettingsError` unless `output.uri` is set to a location that can be written to."""
    _require_named("output.uri", (config.output.uri,) if config.output.uri else ())
    if config.output.uri.startswith(("http://", "https://")):
        raise SettingsError(
            f"output.uri={config.output.uri}: web servers are read-only. Use a folder or s3://bucket/folder, with"
            " storage.endpoint_url for an S3-compatible store."
        )


def _require_named(key: str, uris: Sequence[str]) -> None:
    if not uris:
        raise SettingsError(
            f"{key} is not set. Set it in the config, or as {key}=s3://bucket/folder on the command line."
        )
    for uri in uris:
        if uri.endswith("://"):
            raise SettingsError(f"{key}={uri}: the bucket or folder is missing. Use {uri}name/folder.")


def dump_config(config: Config) -> str:
    """Returns all settings as YAML, including defaults. `load_config` reads it. Credentials in URIs are masked."""
    return redact(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=math.inf))


def parse_config(text: str, where: str) -> Config:
    """Returns the config from the text that `dump_config` wrote.

    Args:
        text: YAML.
        where: Location of the text, for messages.

    Raises:
        SettingsError: It is not YAML, or has settings that this version does not know.
    """
    try:
        return Config.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        reason = " ".join(str(error).split())[:300]
        raise SettingsError(f"{where}: cannot be read as a config of this version ({reason})") from error


def describe_settings() -> Iterator[tuple[str, str, str, str]]:
    """Yields (dotted key, choices or type, default, description) of every setting, in the order of the sections."""
    yield from _describe(Config, "")


def setting_keys() -> list[str]:
    """Returns the dotted keys of all settings."""
    return [key for key, *_ in describe_settings()]


def nearest_keys(key: str, keys: Iterable[str], cutoff: float) -> list[str]:
    """Returns the key that is spelled most like `key`, by its whole name or by its last part; empty if none is near."""
    keys = list(keys)
    if whole := difflib.get_close_matches(key, keys, 1, cutoff):
        return whole
    by_last_part = {one.rsplit(".", 1)[-1]: one for one in reversed(keys)}
    near = difflib.get_close_matches(key.rsplit(".", 1)[-1], by_last_part, 1, cutoff)
    return [by_last_part[one] for one in near]


def _describe(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from _describe(info.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _type_words(info.annotation), _yaml_inline(info.default), info.description or ""


def _type_words(annotation: Any) -> str:
    if annotation in (str, int, float, bool, date):
        return str(annotation.__name__)
    if annotation is type(None):
        return "null"
    if annotation is ...:
        return "…"
    args = get_args(annotation)
    if not args:
        return str(annotation)
    if getattr(annotation, "__origin__", None) is Literal:
        return " | ".join(str(arg) for arg in args)
    if getattr(annotation, "__origin__", None) is tuple:
        return f"list of {_type_words(args[0])}"
    return " | ".join(_type_words(arg) for arg in args)


def _yaml_inline(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).replace("...", "").strip()


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Returns the nested settings of a YAML file. Raises `SettingsError` if it cannot be read."""
    file = find_config(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"--config {path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"--config {path}: is not a UTF-8 text file. A config is a YAML file.") from error
    try:
        tree = yaml.safe_load(text)
        duplicates = _duplicate_keys(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, such as 2026-13-22
        raise SettingsError(f"--config {path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if duplicates:
        raise SettingsError("\n".join(f"--config {path}: {duplicate}" for duplicate in duplicates))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(
            f"--config {path}: the top level must be sections such as input and output; found {type(tree).__name__}."
        )
    return tree


def _duplicate_keys(text: str) -> list[str]:
    """Returns a message for each key that a mapping of the YAML text has twice, of which `safe_load` keeps the last."""
    messages: list[str] = []
    visited: set[int] = set()

    def visit(node: yaml.Node | None, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode) or id(node) in visited:
            return
        visited.add(id(node))
        lines: dict[str, int] = {}
        for key_node, value in node.value:
            name, line = str(key_node.value), key_node.start_mark.line + 1
            if name in lines:
                messages.append(f"{prefix}{name} is set twice, on lines {lines[name]} and {line}. Remove one of them.")
            lines[name] = line
            visit(value, f"{prefix}{name}.")

    visit(yaml.compose(text, Loader=yaml.SafeLoader), "")
    return messages


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"'{override}' is not a setting. Write dotted.key=value, such as decoding.language=en.")
    key, text = key.strip(), raw.strip()
    is_plain = text[:1] not in tuple("'\"[{|>")  # neither quoted nor a list or mapping in brackets
    is_text = is_plain and key in _text_keys()
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date, such as 2026-13-22
        if not is_text:
            words = " ".join(str(error).split())
            raise SettingsError(f"{key}={raw}: the value is not valid YAML ({words}).") from error
        value = text
    if is_text and not isinstance(value, str | None):
        value = text  # what is a number, a date or a mapping elsewhere: 20261122, 2026-11-22, Speakers: Anna
    elif is_plain and isinstance(value, str | None) and " #" in f" {text}":
        value = text  # a command line has no comments
    set_value(tree, key, value)


@cache
def _text_keys() -> frozenset[str]:
    """Returns the keys of the settings whose value is text, whatever it says."""
    return frozenset(key for key, words, *_ in describe_settings() if words in ("str", "str | null"))


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets the setting with a dotted key in nested settings. Raises `SettingsError` if part of the key is a value."""
    *sections, last = key.split(".")
    known = setting_keys()
    node: Any = tree
    for depth, section in enumerate(sections, 1):
        if node.get(section) is None:
            node[section] = {}
        node, name = node[section], ".".join(sections[:depth])
        if name in known or not isinstance(node, dict):
            raise SettingsError(f"{key}: '{name}' is a setting, not a section.{_nearest(key)}")
    node[last] = value


_TYPE_ERRORS = ("literal_error", "_type", "_parsing", "_from_float", "_inexact")  # ends of pydantic's error types


def _explain(detail: ErrorDetails) -> str:
    """Returns a line for one of pydantic's errors: key, value, reason, nearest valid key."""
    loc = [str(part) for part in detail["loc"]]
    found = f"; found {detail['input']!r}."
    if detail["type"] == "extra_forbidden" and "." in loc[-1]:
        return f"{loc[-1]}: settings are nested by section; keys with dots are for overrides."
    if detail["type"] == "extra_forbidden":
        return f"{'.'.join(loc)}: unknown setting.{_nearest('.'.join(loc))}"
    if detail["type"] == "string_pattern_mismatch":
        detail["msg"] = "must be at most 100 letters, digits, dots, dashes and underscores"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    words = {key: words for key, words, *_ in describe_settings()}
    key = next((k for n in range(len(loc), 0, -1) if (k := ".".join(loc[:n])) in words), None)
    if key is None:  # a section or the whole config: the messages of their checks name the keys
        group = ".".join(loc)
        if detail["type"] == "model_type":
            example = next((k for k in words if k.startswith(f"{group}.")), "")
            return f"{group}: is a section with settings such as {example}{found}"
        return message
    # a union has an error for each of its types; all of them become the same line
    has_wrong_type = detail["type"].endswith(_TYPE_ERRORS)
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float | date):
        found = f"; found {detail['input']}. Write it in quotes."
    return f"{key}: {f'must be {words[key]}' if has_wrong_type else message}{found}"


def _nearest(key: str) -> str:
    close = nearest_keys(key, setting_keys(), cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else " --help-all lists every setting."
