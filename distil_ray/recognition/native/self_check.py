"""Self-check of the fast decoding methods of a GPU, before the first chunk is decoded.

The attention kernel (triton_attention.py) and recorded steps (cuda_graphs.py) depend on the GPU, its driver and the
versions of CUDA and Triton. Before a recognizer works, it decodes a signal that is made here, two seconds that sound
like a voice and two seconds of silence, in three ways: by plain steps with plain attention, by plain steps with the
kernel, and by recorded steps. The tokens and their log-probabilities must agree with those of the first way. A method
that fails or does not agree is switched off, and the recognizer goes on with the others. The content of the texts does
not matter: the end token is suppressed, so that each text has `NUM_TOKENS` tokens.

In float32 all tokens must be equal. In 16-bit number types two tokens may be so close that rounding decides: texts are
compared up to their first difference, where the log-probabilities of both choices must agree within the bounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.native.cuda_graphs import Recorder
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_loop import DecodingLoop
from distil_ray.recognition.native.decoding_task import DecodingResult, DecodingTask
from distil_ray.recognition.native.scheduler import MIN_ROWS, TaskQueue
from distil_ray.types import SAMPLE_RATE

SIGNAL_S = 2.0
NUM_TOKENS = 24  # of each text: three polls, so that a recorded step is replayed more than once
SLOTS = MIN_ROWS  # of the loop that decodes the signal
SYLLABLES_PER_S = 4.0
PITCH_HZ = 120.0
FORMANTS_HZ = (600.0, 1200.0, 2400.0)
FORMANT_WIDTH_HZ = 150.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Largest differences from plain steps that are due to rounding.

    Attributes:
        logprob: Of the natural log-probability of a token.
        is_exact: All tokens must be equal.
    """

    logprob: float
    is_exact: bool = False


# Measured on a CPU with whisper-base and tiny.en, with sums of attention in a higher precision: at most 2e-5 in
# float32 and 0.23 in bfloat16. float16 has three bits more and gets an eighth. Errors of a method are far larger.
BOUNDS = {
    torch.float32: Bounds(1e-3, is_exact=True),
    torch.bfloat16: Bounds(0.5),
    torch.float16: Bounds(0.06),
}


def check_methods(
    decoder: Decoder,
    recorder: Recorder | None,
    make_loop: Callable[[Recorder | None], DecodingLoop],
    tasks: Sequence[DecodingTask],
) -> tuple[Recorder | None, tuple[str, ...]]:
    """Decodes `tasks` by plain steps, with the kernel of `decoder`, and with recorded steps.

    The kernel of `decoder` is switched off where it fails. Nothing is decoded if there is neither a kernel nor a
    recorder.

    Args:
        decoder: Of the main model.
        recorder: Records steps; None if steps are not recorded.
        make_loop: Returns a loop over `decoder`, with at most `SLOTS` slots, that uses the given recorder and aligns
            all tokens of a text.
        tasks: Of `check_tasks`.

    Returns:
        The recorder, or None if there is none or if it failed, and a message with the result for each method.

    Raises:
        RuntimeError: Plain steps fail: the model cannot run here.
    """
    kernel = decoder.single_query_attention
    if kernel is None and recorder is None:
        return None, ()
    bounds = BOUNDS[decoder.dtype]
    warnings = []
    decoder.single_query_attention = None
    expected = _decode(make_loop(None), tasks)
    if kernel is not None:
        decoder.single_query_attention = kernel
        problem = _find_problem(lambda: _decode(make_loop(None), tasks), expected, bounds)
        warnings.append(_describe("decoder attention", "the Triton kernel", "plain products", problem))
        decoder.single_query_attention = None if problem else kernel
    if recorder is not None:
        problem = _find_problem(lambda: _decode(make_loop(recorder), tasks), expected, bounds)
        warnings.append(_describe("CUDA graphs", "recorded steps", "steps that are not recorded", problem))
        recorder = None if problem else recorder
    return recorder, tuple(warnings)


def check_signal() -> tuple[PCM16, PCM16]:
    """Returns a signal that sounds like a voice, and silence: int16, shape (32000,), 16 kHz, the same in every call.

    The first one has the harmonics of a pitch that falls slowly, weighted by three formants, in syllables with a little
    noise. The second one has the noise alone, 66 dB below full scale.
    """
    times = np.arange(round(SIGNAL_S * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = PITCH_HZ * (1.1 - 0.1 * times / SIGNAL_S)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = np.zeros_like(times)
    for harmonic in range(1, int(4000 / PITCH_HZ)):
        nearest = min(abs(harmonic * PITCH_HZ - formant) for formant in FORMANTS_HZ)
        voice += np.sin(harmonic * phase) / (1 + (nearest / FORMANT_WIDTH_HZ) ** 2) / harmonic
    syllables = np.clip(np.sin(np.pi * SYLLABLES_PER_S * times) ** 2, 0.02, None)
    noise = np.random.default_rng(0).standard_normal(len(times)) * 16
    spoken = 8000 * syllables * voice / np.abs(voice).max() + noise
    return spoken.astype(np.int16), noise.astype(np.int16)


def check_tasks(prompt: tuple[int, ...], window_frames: Callable[[PCM16], int]) -> list[DecodingTask]:
    """Returns a task for each signal of `check_signal`, of `NUM_TOKENS` tokens.

    Args:
        prompt: Ids before the text.
        window_frames: Returns the frames of the window for a signal.
    """
    return [
        DecodingTask(index, pcm, prompt, window_frames(pcm), NUM_TOKENS) for index, pcm in enumerate(check_signal())
    ]


def _decode(loop: DecodingLoop, tasks: Sequence[DecodingTask]) -> list[DecodingResult]:
    found = dict(loop.run(TaskQueue(tasks)))
    return [found[task.index] for task in tasks]


def _find_problem(
    decode: Callable[[], list[DecodingResult]], expected: Sequence[DecodingResult], bounds: Bounds
) -> str | None:
    """Returns why a method is not used, or None if its results agree."""
    try:
        found = decode()
    except Exception as error:  # whatever it is, plain steps have worked
        lines = str(error).strip().splitlines()
        return f"it fails ({lines[0] if lines else type(error).__name__})"
    for mine, other in zip(found, expected, strict=True):
        if problem := difference(mine, other, bounds):
            return problem
    return None


def difference(found: DecodingResult, expected: DecodingResult, bounds: Bounds) -> str | None:
    """Returns the difference of two results with aligned tokens in words, or None if it is due to rounding."""
    if found.alignment is None or expected.alignment is None:
        raise ValueError("the check needs the probability of every token")
    if not abs(found.no_speech_prob - expected.no_speech_prob) <= bounds.logprob:
        return f"no_speech_prob is {found.no_speech_prob:.3g} instead of {expected.no_speech_prob:.3g}"
    pairs = zip(found.tokens, expected.tokens, strict=False)
    logprobs = np.log(np.array([found.alignment.probabilities, expected.alignment.probabilities]))
    for index, ((token, other), (mine, wanted)) in enumerate(zip(pairs, logprobs.T, strict=False)):
        if token != other and bounds.is_exact:
            return f"token {index} of a text is {token} instead of {other}"
        if not abs(mine - wanted) <= bounds.logprob:
            return f"the log-probability of token {index} of a text differs by {abs(mine - wanted):.2g}"
        if token != other:
            return None
    return None


def _describe(topic: str, method: str, instead: str, problem: str | None) -> str:
    """Returns the warning with the result of a check."""
    if problem is None:
        return f"{topic}: {method}; its results agree with {instead} (model.self_check)"
    return f"{topic}: {instead}, as {method} did not pass model.self_check: {problem}. Decoding takes longer"
