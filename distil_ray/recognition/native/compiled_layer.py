"""A layer that is compiled by `torch.compile` when a recognizer is loaded, and never again.

Norms, activations, residuals and the rounding to 8 bits are passes over memory, which a compiler joins with each other.
One layer is compiled, not the whole encoder: all layers have the same shapes, and their weights are arguments. There
are two programs: one for full windows, one for windows of any length with silence behind them. The number of windows
and the lengths are symbols in them. A call that neither fits, such as that of a single window, runs as it is, because
compiling in the middle of a run would take minutes.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

FIRST_TORCH = "2.8"  # before, calls that a program fits are not all run by it
# Dimensions of the arguments that vary: number and length of the windows; positions of silence; both.
_VARYING = ((0, 1), (2,), (2,), (3,))


class CompiledLayer:
    """Runs a layer by the programs that fit; arguments and result are those of the layer.

    Attributes:
        seconds: Wall-clock time that compiling has taken.
    """

    def __init__(self, layer: Callable[..., Tensor], backend: str | Callable[..., Any] = "inductor") -> None:
        """Creates a layer without programs.

        Args:
            layer: Called with weights, number of heads, hidden states, and keys, values and mask of silence, if any.
            backend: Of `torch.compile`.
        """
        self._program = torch.compile(layer, backend=backend, fullgraph=True)
        self.seconds = 0.0

    def compile(self, weights: Any, num_heads: int, hidden: Tensor, *silence: Tensor) -> None:
        """Compiles the program for windows like these: of their length without silence, of any length with it.

        Raises:
            RuntimeError: torch is too old, this machine lacks a compiler, or torch cannot compile the layer.
        """
        if torch.__version__ < FIRST_TORCH:
            raise RuntimeError(
                f"model.compile_encoder needs torch {FIRST_TORCH} or later; found {torch.__version__}. Set it to false"
            )
        began = time.monotonic()
        varying = _VARYING if silence else ((0,),)
        for tensor, dimensions in zip((hidden, *silence), varying, strict=True):
            for dimension in dimensions:
                torch._dynamo.mark_dynamic(tensor, dimension)
        # Sizes differ between checkpoints, not between calls: no others become symbols.
        with torch._dynamo.config.patch(automatic_dynamic_shapes=False):
            self._program(weights, num_heads, hidden, *silence)
        self.seconds += time.monotonic() - began

    def __call__(self, weights: Any, num_heads: int, hidden: Tensor, *silence: Tensor) -> Tensor:
        with torch.compiler.set_stance("eager_on_recompile"):
            return self._program(weights, num_heads, hidden, *silence)
