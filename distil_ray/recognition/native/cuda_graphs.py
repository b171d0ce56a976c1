"""CUDA graphs: steps that are recorded once and then launched as a whole.

A decoder step is a few hundred small kernels, which a GPU executes faster than a host can launch them one by one. The
first step of a shape runs as it is, which also initializes libraries; the second is recorded, and from then on the
recording is replayed. A recorded step must find and leave everything in tensors at fixed addresses. Where recording
fails, steps run unrecorded and a warning says why. The module knows no Whisper.
"""

from collections.abc import Callable, Hashable

import torch

from distil_ray.recognition.native.device import is_out_of_memory

Work = Callable[[], None]
Recorder = Callable[[Work], Work]  # work to its recording, without running it


class GraphRunner:
    """Runs work as it is or, with a recorder, from recordings by shape."""

    def __init__(self, record: Recorder | None, warn: Callable[[str], None]) -> None:
        """Creates a runner.

        Args:
            record: Returns a recording of work, without running it. None: work always runs as it is.
            warn: Called with a message if recording fails.
        """
        self._record = record
        self._warn = warn
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, Work] = {}

    def run(self, shape: Hashable, work: Work) -> None:
        """Runs `work`, which depends on the host by nothing but `shape`."""
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


def create_recorder(device: torch.device) -> Recorder | None:
    """Returns the recorder for a device, or None where nothing needs to be recorded."""
    return CudaRecorder() if device.type == "cuda" else None


class CudaRecorder:
    """Records CUDA graphs that share one memory pool: they never run at the same time and leave nothing in it."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # "thread_local": other threads of the process may use the device meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(before)  # torch does not restore it where a recording fails
        return graph.replay
