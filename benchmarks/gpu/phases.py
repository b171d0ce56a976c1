"""Time of a recognizer by phase, measured by events on the device that are read only at the end.

Between phases the device waits for the host, or the host for the device. On a CPU the host's clock is used.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch

from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_loop import DecodingLoop
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.whisper.features import LogMel

PHASES: dict[str, tuple[type, str]] = {
    "copy": (LogMel, "stage"),
    "log_mel": (LogMel, "features"),
    "encoder": (Encoder, "__call__"),
    "keys_and_values": (Decoder, "write_windows"),
    "prefill": (Decoder, "prefill"),
    "steps": (DecodingLoop, "_run_steps"),
    "polls": (DecodingLoop, "_poll_finished"),
}


class Phases:
    """Start and end events of every call of a phase."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which every phase of every recognizer of this process is timed."""
        before = {name: getattr(owner, method) for name, (owner, method) in PHASES.items()}
        for name, (owner, method) in PHASES.items():
            setattr(owner, method, self._marked(name, before[name]))
        try:
            yield
        finally:
            for name, (owner, method) in PHASES.items():
                setattr(owner, method, before[name])

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of each phase so far."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        found = dict.fromkeys(PHASES, 0.0)
        for name, begin, end in self._marks:
            found[name] += begin.elapsed_time(end) / 1000 if self._device.type == "cuda" else end - begin
        return found

    def _marked(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = self._mark()
            result = work(*args, **kwargs)
            self._marks.append((name, begin, self._mark()))
            return result

        return timed

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
