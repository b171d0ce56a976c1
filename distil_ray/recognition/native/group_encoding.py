"""Encoding of groups of windows: when they are needed, or ahead, on a second CUDA stream beside the decoder's steps.

A step of the decoder is limited by memory, a window in the encoder by arithmetic, so that a GPU may do both at once.
`StreamEncoding` queues copies, features and encoder of the next groups on a side stream while the steps of the current
rows run. Every window is encoded there, so that the activations are in memory once.

Three rules make that correct. The side stream begins each run after all that was queued before it, such as encoded
silence that was computed anew. Whoever takes the result of a group lets the current stream wait for it. And the side
stream waits for the current one before it allocates again, once the results are written to the caches: their memory
belongs to the side stream and may then be used anew. Recorded steps are not affected: nothing is queued on the side
stream while one is recorded, and recording begins by waiting for the device.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.scheduler import TaskGroup, stage_groups
from distil_ray.whisper.features import LogMel

Encoded = tuple[Tensor, Tensor]  # features (rows, mel bins, frames); hidden states (rows, positions, d_model)


class SideStream(Protocol):
    """A second queue of work of the device, beside the current one."""

    def start(self, work: Callable[[], Encoded]) -> Callable[[], Encoded]:
        """Queues `work` here. Returns a function that lets the current stream wait for it and returns its result."""
        ...

    def follow(self) -> None:
        """Lets what is queued here from now on wait for what is queued on the current stream so far."""
        ...


class CudaSideStream:
    """A CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, work: Callable[[], Encoded]) -> Callable[[], Encoded]:
        with torch.cuda.stream(self._stream):
            encoded = work()
            done = self._stream.record_event()

        def wait() -> Encoded:
            torch.cuda.current_stream(self._device).wait_event(done)
            return encoded

        return wait

    def follow(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))


def create_side_stream(device: torch.device) -> SideStream | None:
    """Returns a side stream of a device, or None where work does not run beside other work."""
    return CudaSideStream(device) if device.type == "cuda" else None


class GroupEncoding:
    """Encodes each group when it is needed. Ahead of time, samples are sent to the device."""

    def __init__(self, encoder: Encoder, log_mel: LogMel) -> None:
        self._encoder, self._log_mel = encoder, log_mel

    def work_ahead(self, waiting: deque[TaskGroup], num_tasks: int) -> None:
        """Prepares the first groups, as many as have `num_tasks` tasks in all."""
        stage_groups(waiting, num_tasks, self._log_mel)

    def encode(self, group: TaskGroup) -> Encoded:
        """Returns the features and the hidden states of a group. They may be used until `release`."""
        features = group.features(self._log_mel)
        return features, self._encoder(features)

    def release(self) -> None:
        """The caches hold what they need of the results of `encode` so far."""

    def reset(self) -> None:
        """Begins a run: forgets groups that were prepared and not taken, where the last one ended early."""


class StreamEncoding(GroupEncoding):
    """Encodes groups on a side stream, the next ones ahead of time."""

    def __init__(self, encoder: Encoder, log_mel: LogMel, stream: SideStream) -> None:
        super().__init__(encoder, log_mel)
        self._stream = stream
        self._begun: dict[TaskGroup, Callable[[], Encoded]] = {}

    def work_ahead(self, waiting: deque[TaskGroup], num_tasks: int) -> None:
        for group in waiting:
            num_tasks -= len(group.tasks)
            if num_tasks < 0:
                return
            if group not in self._begun and not _has_sections(group):
                self._begun[group] = self._start(group)

    def encode(self, group: TaskGroup) -> Encoded:
        if _has_sections(group):  # their features are kept, and belong to the current stream
            return super().encode(group)
        begun = self._begun.pop(group, None) or self._start(group)
        return begun()

    def release(self) -> None:
        self._stream.follow()

    def reset(self) -> None:
        self._begun.clear()
        self._stream.follow()

    def _start(self, group: TaskGroup) -> Callable[[], Encoded]:
        return self._stream.start(partial(super().encode, group))


def _has_sections(group: TaskGroup) -> bool:
    return any(task.section is not None for task in group.tasks)
