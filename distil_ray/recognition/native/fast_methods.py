"""The fast methods of one recognizer, each of which can be switched off: what the self-check decides about.

A method is a piece of the recognizer's own parts (decoder, encoder) or is handed to its loops (recorders, side stream).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.native.compiled_layer import CompiledLayer
from distil_ray.recognition.native.cuda_graphs import RecorderFactory
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_loop import DecodingLoop
from distil_ray.recognition.native.decoding_task import AlignmentLevel, DecodingResult, DecodingStats, DecodingTask
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.float8 import Float8Layers
from distil_ray.recognition.native.group_encoding import SideStream
from distil_ray.recognition.native.logits_rules import LogitsRules
from distil_ray.recognition.native.scheduler import TaskQueue
from distil_ray.recognition.native.self_check import (
    BOUNDS,
    FLOAT8_BOUNDS,
    SLOTS,
    FastMethod,
    check_methods,
    check_tasks,
)
from distil_ray.recognition.native.slot_loop import LoopParts

SIDE_STREAM_COPIES = SLOTS  # of the tasks, so that twice as many as there are slots are decoded


@dataclass(slots=True)
class FastMethods:
    """The methods that a recognizer has, and those that are in use.

    Attributes:
        decoder: Of the main model; has the attention kernel.
        encoder: Of the main model; has the compiled layer.
        new_recorder: Creates recorders of steps, in use; None: steps are not recorded.
        side_stream: Of the encoder, in use; None: there is one stream.
        float8: The layers in 8 bits, until it is decided whether they are used.
        compiles_encoder: The encoder is to be compiled.
        has_float8: Layers compute in 8 bits.
    """

    decoder: Decoder
    encoder: Encoder
    new_recorder: RecorderFactory | None
    side_stream: SideStream | None
    float8: Float8Layers | None
    compiles_encoder: bool
    has_float8: bool = field(init=False)
    _compiled: CompiledLayer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.has_float8 = self.float8 is not None

    def use_all(self) -> None:
        """Uses every method unchecked.

        Raises:
            RuntimeError: The encoder cannot be compiled.
        """
        for method in self._methods():
            method.switch(True)
        self._settle()

    def check(self, parts: LoopParts, window_frames: Callable[[PCM16], int], slots: int) -> tuple[str, ...]:
        """Compares the methods with what they replace, and uses those that agree.

        Args:
            parts: Of the recognizer.
            window_frames: Returns the frames of the window for a signal.
            slots: Of the recognizer.

        Returns:
            A message with the result for each method.
        """
        tokens, rules = parts.tokens, parts.rules
        endless = replace(tokens, suppress=(*tokens.suppress, tokens.eot))
        rules = LogitsRules(endless, rules.vocab_size, False, self.decoder.device)

        def decode(tasks: Sequence[DecodingTask]) -> list[DecodingResult]:
            own = replace(
                parts,
                rules=rules,
                stats=DecodingStats(),
                alignment_for=lambda *_: AlignmentLevel.TOKENS,
                side_stream=self.side_stream,
            )
            cache = self.decoder.new_cache(min(slots, SLOTS))
            loop = DecodingLoop(own, cache, _raise_recording_error, self.new_recorder)
            found = dict(loop.run(TaskQueue(tasks)))
            return [found[task.index] for task in tasks]

        tasks = check_tasks(tokens.prompt(tokens.language_codes[0]), window_frames)
        messages = check_methods(self._methods(), BOUNDS[self.decoder.dtype], decode, tasks)
        self._settle()
        return messages

    @property
    def compile_message(self) -> str | None:
        """The time that compiling has taken, as a message; None if nothing was compiled."""
        if self._compiled is None:
            return None
        return f"model.compile_encoder: torch.compile took {self._compiled.seconds:.0f} s"

    def _methods(self) -> list[FastMethod]:
        """Returns the methods in the order in which they are checked."""
        found = []
        if self.float8 is not None:
            name, bounds = "8-bit products", FLOAT8_BOUNDS
            found.append(FastMethod("model.dtype=float8", name, "bfloat16", self._switch_float8, bounds, True))
        kernel, new_recorder, side_stream = self.decoder.single_query_attention, self.new_recorder, self.side_stream

        def switch_kernel(is_on: bool) -> None:
            self.decoder.single_query_attention = kernel if is_on else None

        def switch_recorder(is_on: bool) -> None:
            self.new_recorder = new_recorder if is_on else None

        def switch_side_stream(is_on: bool) -> None:
            self.side_stream = side_stream if is_on else None

        if kernel is not None:
            found.append(FastMethod("decoder attention", "the Triton kernel", "plain products", switch_kernel))
        if new_recorder is not None:
            found.append(FastMethod("CUDA graphs", "recorded steps", "steps that are not recorded", switch_recorder))
        if self.compiles_encoder:
            name, instead = "the compiled layer", "the layer as it is"
            found.append(FastMethod("model.compile_encoder", name, instead, self._switch_compiled, num_copies=2))
        if side_stream is not None:
            copies = SIDE_STREAM_COPIES
            found.append(
                FastMethod("model.encode_ahead", "a second stream", "one stream", switch_side_stream, num_copies=copies)
            )
        return found

    def _switch_float8(self, is_on: bool) -> None:
        assert self.float8 is not None
        self.float8.switch(is_on)
        self.has_float8 = is_on
        if self.encoder.has_silence:
            self.encoder.add_silence_context()  # it depends on the layers
            self.decoder.add_silence(self.encoder.silence)

    def _switch_compiled(self, is_on: bool) -> None:
        if is_on and self._compiled is None:
            self._compiled = self.encoder.compile_layers()
        self.encoder.compiled = self._compiled if is_on else None

    def _settle(self) -> None:
        """Frees the weights of the number type that is not used."""
        if self.float8 is not None:
            self.float8.settle()
            self.float8 = None


def _raise_recording_error(message: str) -> None:
    """Raises what a loop would only warn of: a method under check counts as failed if steps cannot be recorded."""
    raise RuntimeError(message)
