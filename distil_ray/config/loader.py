"""From files and the command line to a `Config`, and back to words: YAML, overrides, help, complaints.

An unknown key or a wrong value is a `SettingsError` that names the key, the value, the reason and the nearest valid
key; everything that is wrong is told at once.
"""

import difflib
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distil_ray.config import Config
from distil_ray.errors import SettingsError
from distil_ray.redaction import redact


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The config of a YAML file (none: the defaults), with `dotted.key=value` overrides laid over it.

    Values of overrides are YAML: ``input.uri='[a, b]'`` is a list, ``model.revision=null`` is none. Raises
    `SettingsError` for whatever cannot be a config, with one line for each thing that is wrong.
    """
    tree = _read_yaml(path) if path is not None else {}
    for override in overrides:
        _apply(tree, override)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = dict.fromkeys(_explain(detail) for detail in error.errors())
        raise SettingsError("\n".join(lines)) from None


def require_locations(config: Config) -> None:
    """Raises `SettingsError` unless the config says what to transcribe and where to write it."""
    _require_named("input.uri", config.input.uri)
    require_output_location(config)


def require_output_location(config: Config) -> None:
    """Raises `SettingsError` unless the config says where an output lies that is written to."""
    _require_named("output.uri", (config.output.uri,) if config.output.uri else ())
    if config.output.uri.startswith(("http://", "https://")):
        raise SettingsError(
            f"output.uri={config.output.uri}: web addresses can only be read. Give a folder, or s3://bucket/folder"
            " with storage.endpoint_url for a store of your own."
        )


def _require_named(key: str, uris: Sequence[str]) -> None:
    if not uris:
        raise SettingsError(
            f"{key} is not set. Give it in the config, or as {key}=s3://bucket/folder on the command line."
        )
    for uri in uris:
        if uri.endswith("://"):
            raise SettingsError(f"{key}={uri}: names no bucket or folder. Give {uri}name/folder.")


def dump_config(config: Config) -> str:
    """The whole config as YAML, defaults included: what is stored with a run and can be run again, but for credentials
    in URIs, which are hidden."""
    return redact(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=math.inf))


def parse_config(text: str, where: str) -> Config:
    """The config that `dump_config` wrote; `where` names it in messages. Raises `SettingsError`."""
    try:
        return Config.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise SettingsError(f"{where}: is no config of this version ({' '.join(str(error).split())[:300]})") from error


def describe_settings() -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, choices or type, default, description) of every setting, in the order of the model."""
    yield from _describe(Config, "")


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


def _read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"--config {path}: cannot be read ({error.strerror}). Shipped ones lie in configs/."
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"--config {path}: is not a text file in UTF-8. Shipped configs lie in configs/."
        ) from error
    try:
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-13-22 looks like a date
        raise SettingsError(f"--config {path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"--config {path}: must hold keys and values at its top, found {type(tree).__name__}.")
    return tree


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    if not equals or not key.strip():
        raise SettingsError(f"'{override}' is not an override. Write dotted.key=value, such as decoding.language=en.")
    try:
        value = yaml.safe_load(raw)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-13-22 looks like a date
        raise SettingsError(f"{key}={raw}: the value is not valid YAML ({' '.join(str(error).split())}).") from error
    *sections, last = key.strip().split(".")
    node: Any = tree
    for section in sections:
        if node.get(section) is None:
            node[section] = {}
        node = node[section]
        if not isinstance(node, dict):
            raise SettingsError(f"{key}: '{section}' is a value, not a group of settings.{_nearest(key)}")
    node[last] = value


_WRONG_KINDS = ("literal_error", "_type", "_parsing", "_from_float", "_inexact")  # how pydantic names them


def _explain(detail: ErrorDetails) -> str:
    """One line for one of pydantic's complaints: key, value, reason, nearest valid key."""
    loc = [str(part) for part in detail["loc"]]
    found = f"; found {detail['input']!r}."
    if detail["type"] == "extra_forbidden":
        return f"{'.'.join(loc)}: there is no such setting.{_nearest('.'.join(loc))}"
    if detail["type"] == "string_pattern_mismatch":
        detail["msg"] = "must be letters, digits, dots, dashes and underscores, at most 100"
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    words = {key: words for key, words, *_ in describe_settings()}
    key = next((k for n in range(len(loc), 0, -1) if (k := ".".join(loc[:n])) in words), None)
    if key is None:  # a group of settings, or the whole config: its checks name their keys themselves
        group = ".".join(loc)
        if detail["type"] == "model_type":
            example = next((k for k in words if k.startswith(f"{group}.")), "")
            return f"{group}: is a group of settings, such as {example}{found}"
        return message
    # unions complain once for each of their kinds; one line tells them all
    wrong_kind = detail["type"].endswith(_WRONG_KINDS)
    return f"{key}: {f'takes {words[key]}' if wrong_kind else message}{found}"


def _nearest(key: str) -> str:
    keys = [k for k, *_ in describe_settings()]
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.5) or _by_last_word(key, keys)
    return f" Did you mean {close[0]}?" if close else " --help lists every setting."


def _by_last_word(key: str, keys: Iterable[str]) -> list[str]:
    lasts = {k.rsplit(".", 1)[-1]: k for k in keys}
    return [lasts[c] for c in difflib.get_close_matches(key.rsplit(".", 1)[-1], lasts, n=1, cutoff=0.5)]
