"""CUDA graphs: steps that are recorded once and then launched as a whole.

A decoder step is a few hundred small kernels, which a GPU executes faster than a host can launch them one by one. The
first step of a shape runs as it is, which also initializes libraries; the second is recorded, and from then on the
recording is replayed. A recorded step must find and leave everything in tensors at fixed addresses. Where recording
fails, steps run unrecorded and a warning says why. The module knows no Whisper.

The recordings of one runner share a memory pool and a stream, which no other runner uses. torch must not be given the
id of a pool again after the last graph in it was freed, and freeing any graph frees the workspaces of cuBLAS on the
stream that it was recorded on, which graphs of another runner would still use.
"""

from collections.abc import Callable, Hashable
from functools import partial

import torch

from distil_ray.recognition.native.device import is_out_of_memory

Work = Callable[[], None]
Recorder = Callable[[Work], Work]  # work to its recording, without running it
RecorderFactory = Callable[[], Recorder]


class GraphRunner:
    """Runs work as it is or, with a recorder, from recordings by shape.

    Attributes:
        has_prepared: The last call took longer than later calls of its shape will: the work ran for the first time, or
            was recorded.
    """

    def __init__(self, new_recorder: RecorderFactory | None, warn: Callable[[str], None]) -> None:
        """Creates a runner.

        Args:
            new_recorder: Returns a recorder for this runner. None: work always runs as it is.
            warn: Called with a message if recording fails.
        """
        self.has_prepared = False
        self._record = None if new_recorder is None else new_recorder()
        self._warn = warn
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, Work] = {}

    def run(self, shape: Hashable, work: Work) -> None:
        """Runs `work`, which depends on the host by nothing but `shape`."""
        self.has_prepared = self._record is not None and shape not in self._recorded
        if shape not in self._recorded and self._record is not None and shape in self._seen:
            self._store_recording(shape, self._record, work)
        self._seen.add(shape)
        self._recorded.get(shape, work)()

    def _store_recording(self, shape: Hashable, record: Recorder, work: Work) -> None:
        try:
            self._recorded[shape] = record(work)
        except RuntimeError as error:
            if is_out_of_memory(error):  # fewer rows may fit
                raise
            self._record = None
            reason = str(_first_cause(error)).strip().partition("\n")[0]
            self._warn(f"CUDA graphs: off, as a decoder step could not be recorded ({reason}); steps take longer")


def _first_cause(error: BaseException) -> BaseException:
    """Returns the first error of a chain: ending a failed recording fails too, with a message that does not help."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def recorder_factory(device: torch.device) -> RecorderFactory | None:
    """Returns what creates recorders for a device, or None where nothing needs to be recorded."""
    return partial(CudaRecorder, device) if device.type == "cuda" else None


class CudaRecorder:
    """Records CUDA graphs that share one memory pool: they never run at the same time and leave nothing in it."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, work: Work) -> Work:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # "thread_local": other threads of the process may use the device meanwhile.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(before)  # torch does not restore it where a recording fails
        return graph.replay
