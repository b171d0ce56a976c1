"""Self-check of the fast methods of a recognizer on a GPU, before the first chunk is decoded.

The attention kernel (triton_attention.py), recorded steps (cuda_graphs.py), the compiled encoder (compiled_layer.py),
the side stream (group_encoding.py) and 8-bit products (float8.py) depend on the GPU, its driver and the versions of
CUDA and Triton. Before a recognizer works, it decodes a signal that is made here, two seconds that sound like a voice
and two seconds of silence: without any of these methods, then with one more of them each time. The tokens and their
log-probabilities must agree with those of the first way. A method that fails or does not agree is switched off, and the
recognizer goes on with the others. The content of the texts does not matter: the end token is suppressed, so that each
text has `NUM_TOKENS` tokens.

In float32 all tokens must be equal. In 16-bit number types two tokens may be so close that rounding decides: texts are
compared up to their first difference, where the log-probabilities of both choices must agree within the bounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.native.decoding_task import DecodingResult, DecodingTask
from distil_ray.recognition.native.scheduler import MIN_ROWS
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


# Of 8-bit products beside bfloat16: with whisper-base and tiny.en at most 0.2 was seen. Whether the texts of a
# checkpoint are as good is decided by its word error rate, not here.
FLOAT8_BOUNDS = Bounds(1.0)


@dataclass(frozen=True, slots=True)
class FastMethod:
    """A method that replaces another one.

    Attributes:
        topic: What it is a method of, for messages.
        name: The method.
        instead: The method that it replaces.
        switch: Called with True, the recognizer uses the method from then on; with False, the one that it replaces.
        bounds: Of the difference; None: those of the number type.
        is_number_type: It rounds more. If it passes, the methods after it are compared with its results.
        num_copies: The tasks are decoded so many times in one run, so that some of them wait for others.
    """

    topic: str
    name: str
    instead: str
    switch: Callable[[bool], None]
    bounds: Bounds | None = None
    is_number_type: bool = False
    num_copies: int = 1


Decode = Callable[[Sequence[DecodingTask]], list[DecodingResult]]


def check_methods(
    methods: Sequence[FastMethod], bounds: Bounds, decode: Decode, tasks: Sequence[DecodingTask]
) -> tuple[str, ...]:
    """Decodes `tasks` without any of the methods, and then with each of them and those before it that agree.

    Nothing is decoded if there are none.

    Args:
        methods: In this order.
        bounds: Of the number type.
        decode: Returns the results of tasks, in order, with all of their tokens aligned, by the methods that are on.
        tasks: Of `check_tasks`.

    Returns:
        A message with the result for each method.

    Raises:
        RuntimeError: The checkpoint cannot be decoded without the methods: it cannot run here.
    """
    if not methods:
        return ()
    for method in methods:
        method.switch(False)
    expected = decode(tasks)
    messages = []
    for method in methods:
        problem = _find_problem(method, decode, tasks, expected, method.bounds or bounds)
        method.switch(problem is None)
        if method.is_number_type and problem is None:
            expected = decode(tasks)
        messages.append(_describe(method, problem))
    return tuple(messages)


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


def _find_problem(
    method: FastMethod,
    decode: Decode,
    tasks: Sequence[DecodingTask],
    expected: Sequence[DecodingResult],
    bounds: Bounds,
) -> str | None:
    """Switches a method on. Returns why it is not used, or None if its results agree."""
    num = method.num_copies * len(tasks)
    repeated = [replace(tasks[index % len(tasks)], index=index) for index in range(num)]
    try:
        method.switch(True)
        found = decode(repeated)
    except Exception as error:  # whatever it is, the recognizer works without the method
        lines = str(error).strip().splitlines()
        return f"it fails ({lines[0] if lines else type(error).__name__})"
    for index, mine in enumerate(found):
        if problem := difference(mine, expected[index % len(tasks)], bounds):
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


def _describe(method: FastMethod, problem: str | None) -> str:
    """Returns the message with the result of a check."""
    if problem is None:
        return f"{method.topic}: {method.name}; its results agree with {method.instead} (model.self_check)"
    return (
        f"{method.topic}: {method.instead}, as {method.name} did not pass model.self_check: {problem}."
        " Decoding takes longer"
    )
