"""What the benchmarks can be told: one frozen record a command, filled from `key=value` words.

Loads nothing heavy, so that --help answers at once. An unknown key or a value of the wrong kind is a `SettingsError`
that names it.
"""

import difflib
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from distil_ray.errors import SettingsError

T = TypeVar("T")


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """The cost of the pipeline itself, with a recogniser that answers at once."""

    hours: float = _setting(4.0, "hours of audio of the larger of two runs")
    start_fraction: float = _setting(0.25, "share of it in the smaller run; the difference is free of start-up")
    formats: tuple[str, ...] = _setting(("flac", "mp3", "wav"), "formats to measure")
    recording_s: float = _setting(60.0, "seconds of a recording")
    audio: str = _setting("", "folder, glob or manifest of real speech to repeat; default: the demo's samples")
    report: str = _setting(".bench/reports", "folder for pipeline.json")


@dataclass(frozen=True, slots=True)
class EnginesSettings:
    """Our recognisers beside other programs: same weights, same audio, same machine."""

    engines: tuple[str, ...] = _setting(("all",), "names or groups (all, ours, hf, fw), separated by commas")
    clips: str = _setting("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = _setting(48, "short clips (3 to 30 s) at most")
    num_long: int = _setting(4, "long recordings (more than 45 s) at most")
    long_s: float = _setting(600.0, "seconds that a long recording may have")
    model: str = _setting("packaged:whisper-base", "checkpoint: packaged:..., local folder, hub id")
    language: str = _setting("en", "language of the speech")
    threads: int = _setting(1, "threads of every engine")
    rounds: int = _setting(3, "times that every engine runs, in turn; medians are reported")
    install: bool = _setting(True, "install engines that are not there; false leaves them out")
    kept: str = _setting(".bench", "folder for environments, converted weights and WAV files")
    report: str = _setting(".bench/reports", "folder for engines.json, engines.svg, engines-texts.jsonl")


@dataclass(frozen=True, slots=True)
class ModelsSettings:
    """Two checkpoints beside each other: generation time, parameters, decoder parameters."""

    main: str = field(metadata={"meaning": "the larger checkpoint: packaged:..., local folder, hub id"})
    student: str = field(metadata={"meaning": "the smaller one"})
    engine: str = _setting("full", "what recognises: a name of the engines that runs in this environment")
    clips: str = _setting("", "folder, glob or manifest of speech with references; default: the demo's samples")
    num_clips: int = _setting(48, "short clips (3 to 30 s) at most")
    language: str = _setting("en", "language of the speech")
    threads: int = _setting(1, "threads")
    rounds: int = _setting(3, "times that both run, in turn; medians are reported")
    kept: str = _setting(".bench", "folder for WAV files")
    report: str = _setting(".bench/reports", "folder for models.json")


@dataclass(frozen=True, slots=True)
class ExactnessSettings:
    """Our recogniser beside transformers' own generate and pipeline, token for token."""

    models: tuple[str, ...] = _setting(
        ("packaged:whisper-tiny.en", "packaged:whisper-base"), "checkpoints: packaged:..., local folder, hub id"
    )
    clips: str = _setting("", "folder, glob or manifest of speech; default: the demo's samples")
    column: str = _setting("set", "column of the manifest that tells the parts of the corpus apart")
    sets: tuple[str, ...] = _setting((), "values of it to take; default: all")
    share: float = _setting(1.0, "share of each set's recordings, chosen by a seed")
    checks: tuple[str, ...] = _setting(("tokens", "languages", "overlap"), "what to compare; bfloat16 too")
    chunk_s: tuple[float, ...] = _setting((15.0, 30.0), "seconds of a chunk at most, each length in turn")
    overlap_s: float = _setting(15.0, "seconds of a chunk at most where chunks overlap")
    batch_sizes: tuple[int, ...] = _setting((1, 3, 32), "chunks at once, each number in turn")
    small_share: float = _setting(1.0, "share of the chunks that all but the largest batch size get")
    num_proven: int = _setting(8, "chunks computed with nothing remembered, which shows that remembering is harmless")
    num_rounded: int = _setting(40, "chunks that bfloat16 is tried on")
    threads: int = _setting(1, "threads")
    kept: str = _setting(".bench", "folder for what transformers said, which is computed once")
    report: str = _setting(".bench/reports", "folder for exactness.json")


COMMANDS: dict[str, type] = {
    "pipeline": PipelineSettings,
    "engines": EnginesSettings,
    "models": ModelsSettings,
    "exactness": ExactnessSettings,
}


def parse(kind: type[T], words: Sequence[str]) -> T:
    """A record from `key=value` words; what is not named keeps its default. Raises `SettingsError`."""
    kinds = get_type_hints(kind)
    values: dict[str, Any] = {}
    for word in words:
        key, is_given, value = word.partition("=")
        if not is_given or key not in kinds:
            nearest = difflib.get_close_matches(key, kinds, 1, 0.4)
            hint = f"; did you mean {nearest[0]}?" if nearest else ""
            raise SettingsError(f"{word}: no such setting here. Known: {', '.join(kinds)}{hint}")
        values[key] = _read(key, value, kinds[key])
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]  # type: ignore[arg-type]
    if missing:
        raise SettingsError(f"{' and '.join(f'{name}=…' for name in missing)} must be given")
    return kind(**values)


def _read(key: str, value: str, kind: Any) -> Any:
    if kind is bool:
        if value not in ("true", "false"):
            raise SettingsError(f"{key}={value}: must be true or false")
        return value == "true"
    if kind in (int, float):
        try:
            number = kind(value)
        except ValueError as error:
            raise SettingsError(f"{key}={value}: must be a number") from error
        if number <= 0:
            raise SettingsError(f"{key}={value}: must be greater than 0")
        return number
    if get_origin(kind) is tuple:
        return tuple(_read(key, word, get_args(kind)[0]) for word in value.split(",") if word)
    return value


def describe() -> str:
    """Every command with its settings and defaults, for --help."""
    lines = []
    for name, kind in COMMANDS.items():
        lines += ["", f"{name}: {(kind.__doc__ or '').strip()}"]
        for setting in fields(kind):
            default = "" if setting.default is MISSING else _write(setting.default)
            text = f"{setting.name}={default}  {setting.metadata['meaning']}"
            lines += textwrap.wrap(text, 100, initial_indent="  ", subsequent_indent=" " * 6)
    return "\n".join(lines)


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_write, value))
    return str(value).lower() if isinstance(value, bool) else str(value)
