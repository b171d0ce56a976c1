"""The engines that are compared: programs, their environments and weights formats, and options.

Every engine of this table decodes greedily, with the language given and without temperature fallback, so that all do
the same work. Apart from that, each is run as its own documentation advises. The engines of `benchmarks/accuracy` are
other options of the same programs. This module is data only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.comparison.environments import TORCH
from distil_ray.errors import SettingsError

OWN = "own"  # the environment that this program runs in
SHORT, LONG = "short", "long"
SETS = (SHORT, LONG)
OptionValue = str | int | float | bool | tuple[float, ...]
Options = dict[str, OptionValue]


@dataclass(frozen=True, slots=True)
class Program:
    """A program that is compared.

    Attributes:
        worker: Module of benchmarks/engines.
        environment: Key of `REQUIREMENTS`, or `OWN`.
        weights: Weights format (comparison/weights.py).
    """

    worker: str
    environment: str
    weights: str


@dataclass(frozen=True, slots=True)
class Engine:
    """A program with its options: one row of a comparison.

    Attributes:
        name: Name in the settings.
        label: Name in tables.
        program: The program.
        options: Options of its worker.
        sets: Sets to run; a set is missing where this engine would not differ from another one.
    """

    name: str
    label: str
    program: Program
    options: Options = field(default_factory=dict)
    sets: tuple[str, ...] = SETS


# Environment -> requirements. Versions are those that the figures in docs/performance.md were measured with.
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "transformers": (TORCH, "transformers==5.23.0", "safetensors==0.8.0"),
    "openvino": (TORCH, "optimum-intel[openvino]==2.2.0", "openvino-genai==2026.4.1.0"),
    "faster-whisper": ("faster-whisper==1.2.1", "ctranslate2==4.8.5"),
    "openai-whisper": (TORCH, "openai-whisper==20250625"),
    "whisper-cpp": ("pywhispercpp==1.5.1",),
}

NATIVE = Program("native", OWN, "hf")
TRANSFORMERS = Program("transformers_pipeline", "transformers", "hf")
FASTER_WHISPER = Program("faster_whisper", "faster-whisper", "ctranslate2")
OPENAI_WHISPER = Program("openai_whisper", "openai-whisper", "openai")
OPENVINO = Program("openvino_genai", "openvino", "openvino")
WHISPER_CPP = Program("whisper_cpp", "whisper-cpp", "ggml")

_GREEDY: Options = {"decoding.num_beams": 1}  # as the other engines
_GATED: Options = _GREEDY | {"chunking.window": "gated"}
_FULL: Options = _GREEDY | {"chunking.window": "full"}
_INT8: Options = {"model.dtype": "int8"}
_FLOAT32: Options = {"model.dtype": "float32"}
_15_S: Options = {"chunking.length_s": 15.0}
ENGINES = (
    Engine("gated", "distil_ray, gated windows", NATIVE, _GATED),
    # A clip is one chunk either way.
    Engine("gated-15", "distil_ray, gated windows, 15 s chunks", NATIVE, _GATED | _15_S, sets=(LONG,)),
    Engine("defaults", "distil_ray, defaults (5 beams)", NATIVE),
    Engine("gated-int8", "distil_ray int8, gated windows", NATIVE, _GATED | _INT8),
    Engine(
        "gated-15-int8", "distil_ray int8, gated windows, 15 s chunks", NATIVE, _GATED | _15_S | _INT8, sets=(LONG,)
    ),
    Engine("full-int8", "distil_ray int8, full windows", NATIVE, _FULL | _INT8),
    Engine("full", "distil_ray, full windows", NATIVE, _FULL),
    # Where model.dtype=auto is a 16-bit type.
    Engine("gated-float32", "distil_ray float32, gated windows", NATIVE, _GATED | _FLOAT32),
    Engine(
        "gated-15-float32",
        "distil_ray float32, gated windows, 15 s chunks",
        NATIVE,
        _GATED | _15_S | _FLOAT32,
        sets=(LONG,),
    ),
    Engine("full-float32", "distil_ray float32, full windows", NATIVE, _FULL | _FLOAT32),
    Engine("reference", "distil_ray, transformers' generate", NATIVE, _FULL | {"model.recognizer": "transformers"}),
    Engine("hf-float32", "transformers pipeline float32", TRANSFORMERS, {"dtype": "float32"}),
    Engine("hf-bfloat16", "transformers pipeline bfloat16", TRANSFORMERS, {"dtype": "bfloat16"}),
    Engine("fw-int8", "faster-whisper int8", FASTER_WHISPER, {"compute_type": "int8"}),
    Engine("fw-float32", "faster-whisper float32", FASTER_WHISPER, {"compute_type": "float32"}),
    # It batches the pieces of one recording: a clip is one piece.
    Engine(
        "fw-int8-batched",
        "faster-whisper int8, batched",
        FASTER_WHISPER,
        {"compute_type": "int8", "batch_size": 16},
        sets=(LONG,),
    ),
    Engine(
        "fw-float32-batched",
        "faster-whisper float32, batched",
        FASTER_WHISPER,
        {"compute_type": "float32", "batch_size": 16},
        sets=(LONG,),
    ),
    Engine("openvino-int8", "OpenVINO GenAI int8", OPENVINO),
    Engine("openai-float32", "openai-whisper float32", OPENAI_WHISPER),
    Engine("whisper-cpp-q8", "whisper.cpp q8_0", WHISPER_CPP),
)
BY_NAME = {engine.name: engine for engine in ENGINES}
# Groups that stand for several names.
GROUPS = {
    "all": tuple(BY_NAME),
    "native": tuple(engine.name for engine in ENGINES if engine.program == NATIVE),
    "hf": ("hf-float32", "hf-bfloat16"),
    "fw": ("fw-int8", "fw-float32", "fw-int8-batched", "fw-float32-batched"),
}


def select(names: Sequence[str]) -> list[Engine]:
    """Returns engines by name or group, each once, in the order given.

    Raises:
        SettingsError: A name is unknown.
    """
    chosen: dict[str, Engine] = {}
    for name in names:
        members = GROUPS.get(name, (name,))
        for member in members:
            if member not in BY_NAME:
                raise SettingsError(
                    f"engines={name}: there is no such engine. Known: {', '.join(BY_NAME)}; groups: {', '.join(GROUPS)}"
                )
            chosen[member] = BY_NAME[member]
    return list(chosen.values())
