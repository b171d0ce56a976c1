"""The files that are written, and the programs that they are run in. This module is data only."""

from dataclasses import dataclass, field

from benchmarks.comparison.catalog import REQUIREMENTS, Options
from benchmarks.comparison.environments import TORCH

# Environment -> requirements, in addition to those of `benchmarks/comparison`.
ONNX, NODE = "onnx", "transformers.js"
ENVIRONMENTS = REQUIREMENTS | {
    ONNX: (TORCH, "optimum-onnx[onnxruntime]==0.1.0", "optimum==2.1.0", "onnxruntime==1.32.0"),
}
NODE_PACKAGE = "@huggingface/transformers@4.3.2"
REFERENCE = "transformers"


@dataclass(frozen=True, slots=True)
class File:
    """A checkpoint in a format, with the number type of its matrices."""

    format: str
    dtype: str

    def __str__(self) -> str:
        return f"{self.format} {self.dtype}"


@dataclass(frozen=True, slots=True, eq=False)  # each exists once
class Run:
    """A file in a program.

    Attributes:
        program: Name in the settings and in the report.
        file: The file that it loads.
        environment: Key of `ENVIRONMENTS`; of `NODE`, the program is run by node, and started in `ONNX`.
        options: Options of its worker (`tokens.py`).
    """

    program: str
    file: File
    environment: str
    options: Options = field(default_factory=dict)

    @property
    def label(self) -> str:
        return self.program + (", its own log-mel" if self.options.get("own_features") else "")


OWN: Options = {"own_features": True}  # features that the program computes, instead of those of transformers
RUNS = (
    Run(REFERENCE, File("hf", "float32"), "transformers"),
    Run("openai-whisper", File("openai", "float32"), "openai-whisper"),
    Run("openai-whisper", File("openai", "float32"), "openai-whisper", OWN),
    Run("CTranslate2", File("ctranslate2", "float32"), "faster-whisper"),
    Run("CTranslate2", File("ctranslate2", "int8"), "faster-whisper"),
    Run("faster-whisper", File("ctranslate2", "float32"), "faster-whisper", OWN),
    Run("faster-whisper", File("ctranslate2", "int8"), "faster-whisper", OWN),
    Run("whisper.cpp", File("ggml", "float16"), "whisper-cpp", OWN),
    Run("whisper.cpp", File("ggml", "q8_0"), "whisper-cpp", OWN),
    Run("whisper.cpp", File("ggml", "q5_1"), "whisper-cpp", OWN),
    Run("onnxruntime", File("onnx", "float32"), ONNX),
    Run("onnxruntime", File("onnx", "int8"), ONNX),
    Run("transformers.js", File("onnx", "float32"), NODE, OWN),
    Run("transformers.js", File("onnx", "int8"), NODE, OWN),
)
PROGRAMS = tuple(dict.fromkeys(run.program for run in RUNS))
