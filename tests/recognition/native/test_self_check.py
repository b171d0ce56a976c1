"""Before it works, a recognizer on a GPU compares its fast methods with plain steps; here stand-ins replace them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native import decoder as decoder_module
from distil_ray.recognition.native import slot_loop
from distil_ray.recognition.native.attention import reference_attention
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.scheduler import GPU_POLICY
from distil_ray.recognition.native.self_check import BOUNDS, check_signal, difference
from distil_ray.types import TokenAlignment
from tests.support.clips import load_samples

OPTIONS = RecognizerOptions(dtype="float32", batch_size=4, window="gated", max_new_tokens=20)
Work = Callable[[], None]
Recorder = Callable[[Work], Work]


def record(work: Work) -> Work:
    """Replays by running the work again."""
    return work


def record_nothing(work: Work) -> Work:
    """Replays nothing: the state of the rows stays as it was."""
    return lambda: None


def run_out_of_memory(*_: object) -> Work:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore of it")


def imprecise(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mask: Tensor | None) -> Tensor:
    """Reads one position less than each row has."""
    return reference_attention(query, keys, values, lengths - 1, mask)


def not_a_number(query: Tensor, *_: object) -> Tensor:
    return torch.full_like(query, float("nan"))


Load = Callable[..., NativeRecognizer]


@pytest.fixture
def load(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(kernel, recorder, options): a recognizer on a device that has them."""

    def make(
        kernel: Callable[..., Tensor] | None, recorder: Recorder | None, options: RecognizerOptions = OPTIONS
    ) -> NativeRecognizer:
        monkeypatch.setattr(slot_loop, "policy_for", lambda device: GPU_POLICY)
        monkeypatch.setattr(decoder_module, "choose_single_query_attention", lambda *_: (kernel, "a kernel"))
        new_recorder = None if recorder is None else lambda: recorder
        monkeypatch.setattr("distil_ray.recognition.native.recognizer.recorder_factory", lambda device: new_recorder)
        return NativeRecognizer(small_checkpoint, options)

    return make


def recorder_in_use(recognizer: NativeRecognizer) -> Recorder | None:
    new_recorder = recognizer._methods.new_recorder
    return None if new_recorder is None else new_recorder()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_methods_that_agree_are_used(load: Load, dtype: str) -> None:
    recognizer = load(reference_attention, record, replace(OPTIONS, dtype=dtype))
    assert recognizer._decoder.single_query_attention is reference_attention
    assert recorder_in_use(recognizer) is record
    agreed = [warning for warning in recognizer.warnings if "agree" in warning]
    assert len(agreed) == 2 and "a kernel" not in recognizer.warnings


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (imprecise, "of a text"),
        (not_a_number, "of a text"),
        (run_out_of_memory, "CUDA out of memory. Tried to allocate 2 GiB)"),
    ],
)
def test_a_kernel_that_fails_or_differs_is_switched_off(load: Load, kernel: Callable[..., Tensor], reason: str) -> None:
    recognizer = load(kernel, record)
    assert recognizer._decoder.single_query_attention is None
    assert recorder_in_use(recognizer) is record, "recorded steps are checked without the kernel"
    (warning,) = (warning for warning in recognizer.warnings if warning.startswith("decoder attention: plain products"))
    assert "model.self_check" in warning and reason in warning


@pytest.mark.parametrize("recorder", [record_nothing, run_out_of_memory])
def test_a_recorder_that_fails_or_differs_is_switched_off(load: Load, recorder: Recorder) -> None:
    recognizer = load(reference_attention, recorder)
    assert recorder_in_use(recognizer) is None
    assert recognizer._decoder.single_query_attention is reference_attention
    assert any(warning.startswith("CUDA graphs: steps that are not recorded") for warning in recognizer.warnings)


def test_what_is_left_gives_the_same_text(load: Load) -> None:
    clip = load_samples("librispeech-61")
    (expected,) = load(None, None).transcribe([clip], ["en"])
    (found,) = load(not_a_number, record_nothing).transcribe([clip], ["en"])
    assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-4)
    same = replace(found, avg_logprob=expected.avg_logprob, no_speech_prob=expected.no_speech_prob)
    assert same == expected


def test_the_check_can_be_switched_off(load: Load) -> None:
    recognizer = load(not_a_number, record_nothing, replace(OPTIONS, self_check=False))
    assert recognizer._decoder.single_query_attention is not_a_number
    assert recorder_in_use(recognizer) is record_nothing


def test_nothing_is_decoded_where_there_is_nothing_to_check(load: Load) -> None:
    assert load(None, None).stats.encoded_s == 0.0
    assert not any("self_check" in warning for warning in load(None, None).warnings)


def test_the_signal_is_the_same_everywhere() -> None:
    voice, silence = check_signal()
    assert voice.dtype == silence.dtype == np.int16
    assert len(voice) == len(silence) == 32_000
    assert 7_000 < np.abs(voice).max() < 9_000
    assert np.abs(silence).max() < 100
    assert all(np.array_equal(mine, other) for mine, other in zip(check_signal(), (voice, silence), strict=True))


def result(tokens: tuple[int, ...], *logprobs: float) -> DecodingResult:
    probabilities = tuple(float(np.exp(each)) for each in logprobs)
    return DecodingResult(tokens, sum(logprobs), 0.1, False, alignment=TokenAlignment(tokens, probabilities))


@pytest.mark.parametrize(
    ("found", "dtype", "problem"),
    [
        (result((1, 2, 3), -0.1, -0.5, -0.2), torch.float32, None),
        (result((1, 2, 4), -0.1, -0.5, -0.2), torch.float32, "token 2 of a text is 4 instead of 3"),
        (result((1, 2, 3), -0.1, -0.52, -0.2), torch.float32, "log-probability of token 1"),
        (result((1, 4, 9), -0.1, -0.51, -7.0), torch.bfloat16, None),  # rounding decides between two likely tokens
        (result((1, 4, 9), -0.1, -1.9, -0.2), torch.bfloat16, "log-probability of token 1"),
        (result((1, 2, 3), -0.1, float("nan"), -0.2), torch.float16, "log-probability of token 1"),
        (replace(result((1, 2, 3), -0.1, -0.5, -0.2), no_speech_prob=0.9), torch.bfloat16, "no_speech_prob is 0.9"),
    ],
)
def test_differences_beyond_rounding_are_found(found: DecodingResult, dtype: torch.dtype, problem: str | None) -> None:
    expected = result((1, 2, 3), -0.1, -0.5, -0.2)
    words = difference(found, expected, BOUNDS[dtype])
    assert words is None if problem is None else words is not None and problem in words
