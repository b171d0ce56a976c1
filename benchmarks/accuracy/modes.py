"""Programs and modes whose accuracy is compared.

A mode of this package is a name and its settings; a new one is one line of `OWN_MODES`. Another program has the modes
that its documentation offers, with its defaults. This module is data only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.comparison.catalog import (
    FASTER_WHISPER,
    NATIVE,
    OPENAI_WHISPER,
    TRANSFORMERS,
    Engine,
    Options,
    Program,
)
from distil_ray.errors import SettingsError

_TIMES: Options = {"decoding.timestamps": "segment"}
_VAD: Options = {"chunking.strategy": "vad"}
_SEQUENTIAL: Options = {"chunking.strategy": "sequential"}
_CONDITIONED: Options = {"decoding.condition_on_previous_text": True}
_OVERLAP: Options = {"chunking.strategy": "overlap"}
_FULL: Options = {"chunking.window": "full"}
_GREEDY: Options = {"decoding.num_beams": 1}
_BEAMS: Options = {"decoding.num_beams": 5, "decoding.beam_selection": "score"}
_LEAST_RISK: Options = {"decoding.num_beams": 5, "decoding.beam_selection": "minimum_bayes_risk"}
_FALLBACK: Options = {"decoding.temperatures": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)}

_FLOAT32: Options = {"model.dtype": "float32"}  # as the other programs

OWN_MODES: dict[str, Options] = {
    "defaults": {},
    "quiet": _GREEDY,
    "quiet-times": _GREEDY | _TIMES,
    "quiet-full": _GREEDY | _FULL,
    "quiet-fallback": _GREEDY | _FALLBACK,
    "quiet-beams": _BEAMS,
    "quiet-beams-risk-full": _LEAST_RISK | _FULL,
    "quiet-beams-risk-fallback": _LEAST_RISK | _FALLBACK,
    "quiet-beams-times": _BEAMS | _TIMES,
    "quiet-beams-full": _BEAMS | _FULL,
    "vad": _GREEDY | _VAD,
    "vad-times": _GREEDY | _VAD | _TIMES,
    "vad-beams": _BEAMS | _VAD,
    "vad-beams-times": _BEAMS | _VAD | _TIMES,
    "vad-beams-risk": _LEAST_RISK | _VAD,
    "overlap": _GREEDY | _OVERLAP,
    "sequential": _GREEDY | _SEQUENTIAL,
    "sequential-conditioned": _GREEDY | _SEQUENTIAL | _CONDITIONED,
    "sequential-beams": _BEAMS | _SEQUENTIAL,
    "sequential-beams-risk": _LEAST_RISK | _SEQUENTIAL,
}
DEFAULTS: Options = {"defaults": True}
PEER_MODES: dict[str, dict[str, Options]] = {
    "faster-whisper": {
        "sequential": DEFAULTS | {"compute_type": "default"},
        "batched": DEFAULTS | {"compute_type": "default", "batch_size": 8},
    },
    "openai-whisper": {"command-line": DEFAULTS},
    "transformers": {"pipeline": DEFAULTS | {"dtype": "float32"}},
}
OWN = "distil_ray"
PROGRAMS: dict[str, Program] = {
    OWN: NATIVE,
    "faster-whisper": FASTER_WHISPER,
    "openai-whisper": OPENAI_WHISPER,
    "transformers": TRANSFORMERS,
}
# Recordings that a program gets at once. Those that do not batch recordings get one, and its time is its own.
RECORDINGS_AT_ONCE = {OWN: 16}


@dataclass(frozen=True, slots=True, eq=False)  # each exists once
class Mode:
    """A program in one of its modes."""

    program: str
    name: str
    engine: Engine

    @property
    def is_own(self) -> bool:
        return self.program == OWN

    @property
    def recordings_at_once(self) -> int:
        return RECORDINGS_AT_ONCE.get(self.program, 1)


def _mode(program: str, name: str, options: Options) -> Mode:
    label = f"{program} {name}"
    if program == OWN:
        options = {**_FLOAT32, **options}
    return Mode(program, name, Engine(label, label, PROGRAMS[program], options))


MODES = tuple(
    _mode(program, name, options)
    for program, modes in {OWN: OWN_MODES, **PEER_MODES}.items()
    for name, options in modes.items()
)
DEFAULT_MODE = MODES[0]  # what this package does without any setting


def select_modes(programs: Sequence[str], names: Sequence[str]) -> list[Mode]:
    """Returns the modes of these programs with these names; without programs or names, of all or all of them.

    Raises:
        SettingsError: A program or mode is unknown, or nothing is left.
    """
    for key, values, known in (
        ("engines", programs, list(PROGRAMS)),
        ("modes", names, list(dict.fromkeys(mode.name for mode in MODES))),
    ):
        if unknown := [value for value in values if value not in known]:
            raise SettingsError(f"{key}={unknown[0]}: must be among {', '.join(known)}")
    chosen = [
        mode for mode in MODES if (not programs or mode.program in programs) and (not names or mode.name in names)
    ]
    if not chosen:
        raise SettingsError(f"engines={','.join(programs)} modes={','.join(names)}: no engine has such a mode")
    return chosen
