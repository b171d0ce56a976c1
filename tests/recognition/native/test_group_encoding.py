"""Windows are encoded ahead on a side stream. Here stand-ins replace it, which do what a GPU may do at worst."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import recognizer as recognizer_module
from distil_ray.recognition.native import slot_loop
from distil_ray.recognition.native.decoding_loop import DecodingLoop
from distil_ray.recognition.native.group_encoding import Encoded
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.native.scheduler import GPU_POLICY
from distil_ray.types import Hypothesis
from tests.support.clips import load_samples

OPTIONS = RecognizerOptions(dtype="float32", batch_size=4, window="gated", max_new_tokens=10, self_check=False)
NAMES = ("cards-005", "cards-003", "cards-001", "austen-0880-8khz")


class LateStream:
    """Work is done when it is waited for, and what was handed out is overwritten as soon as that is allowed."""

    def __init__(self, events: list[str]) -> None:
        self._events = events
        self._given: list[Encoded] = []

    def start(self, work: Callable[[], Encoded]) -> Callable[[], Encoded]:
        self._events.append("start")

        def wait() -> Encoded:
            self._events.append("wait")
            encoded = work()
            self._given.append(encoded)
            return encoded

        return wait

    def follow(self) -> None:
        with torch.inference_mode():
            for tensor in (each for encoded in self._given for each in encoded):
                tensor.fill_(float("nan"))
        self._given.clear()


class EarlyStream(LateStream):
    """Work is done when it is queued."""

    def start(self, work: Callable[[], Encoded]) -> Callable[[], Encoded]:
        encoded = work()
        return super().start(lambda: encoded)


class FullStream(LateStream):
    """There is no memory for the second group that is begun."""

    def start(self, work: Callable[[], Encoded]) -> Callable[[], Encoded]:
        if self._events.count("start") == 1:
            self._events.append("start")
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().start(work)


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    return [load_samples(name) for name in NAMES for _ in range(2)]


def load(
    folder: Path, monkeypatch: pytest.MonkeyPatch, stream: LateStream | None, options: RecognizerOptions = OPTIONS
) -> NativeRecognizer:
    monkeypatch.setattr(slot_loop, "policy_for", lambda device: GPU_POLICY)
    monkeypatch.setattr(recognizer_module, "create_side_stream", lambda device: stream)
    return NativeRecognizer(folder, replace(options, encode_ahead=stream is not None))


def texts(recognizer: NativeRecognizer, clips: list[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(clips, ["en"] * len(clips))


@pytest.fixture(scope="module")
def expected(small_checkpoint: Path, clips: list[PCM16]) -> list[Hypothesis]:
    with pytest.MonkeyPatch.context() as patch:
        return texts(load(small_checkpoint, patch, None), clips)


@pytest.mark.parametrize("kind", [LateStream, EarlyStream, FullStream])
def test_encoding_ahead_changes_no_text(
    small_checkpoint: Path,
    clips: list[PCM16],
    expected: list[Hypothesis],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[LateStream],
) -> None:
    events: list[str] = []
    monkeypatch.setattr(DecodingLoop, "_run_steps", noted(DecodingLoop._run_steps, events))
    recognizer = load(small_checkpoint, monkeypatch, kind(events))
    found = texts(recognizer, clips)
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    assert [each.avg_logprob for each in found] == pytest.approx([each.avg_logprob for each in expected], rel=1e-4)
    if kind is not FullStream:
        assert "steps start steps" in " ".join(events), "a group is begun while the steps of others run"
    assert any("decoding.batch_size is now 2" in text for text in recognizer.warnings) == (kind is FullStream)


def noted(run_steps: Callable[[DecodingLoop], None], events: list[str]) -> Callable[[DecodingLoop], None]:
    def run(loop: DecodingLoop) -> None:
        events.append("steps")
        run_steps(loop)

    return run


def test_a_stream_passes_the_self_check_with_chunks_that_wait(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    monkeypatch.setattr(DecodingLoop, "_run_steps", noted(DecodingLoop._run_steps, events))
    recognizer = load(small_checkpoint, monkeypatch, EarlyStream(events), replace(OPTIONS, self_check=True))
    assert recognizer._loops.parts.side_stream is not None
    assert any("model.encode_ahead: a second stream; its results agree" in text for text in recognizer.warnings)
    assert "steps start steps" in " ".join(events)


def test_the_stream_waits_for_all_work_before_a_run(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded silence may have been computed anew after the stream was created."""

    class Noted(LateStream):
        def follow(self) -> None:
            events.append("follow")
            super().follow()

    events: list[str] = []
    recognizer = load(small_checkpoint, monkeypatch, Noted(events))
    for run in (recognizer.detect_languages, lambda clips: texts(recognizer, clips)):
        events.clear()
        run([load_samples("cards-001")])
        assert events[:2] == ["follow", "start"]


def test_a_stream_that_is_not_waited_for_does_not_pass(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Torn(LateStream):
        """Hands out what is in memory before the work is done."""

        def start(self, work: Callable[[], Encoded]) -> Callable[[], Encoded]:
            features, encoded = work()
            return lambda: (features, torch.zeros_like(encoded))

    recognizer = load(small_checkpoint, monkeypatch, Torn([]), replace(OPTIONS, self_check=True))
    assert recognizer._loops.parts.side_stream is None
    assert any(text.startswith("model.encode_ahead: one stream, as a second stream") for text in recognizer.warnings)
