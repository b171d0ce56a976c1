"""Passes that are recorded once and then started as a whole: CUDA graphs.

A decoder's pass is a few hundred small kernels, which a GPU does faster than a host can start them one by one. The
first pass of a shape is done as it is, which also readies whatever libraries need; the second is recorded, and from
then on the recording is started. What is recorded must find and leave everything in tensors that stay where they are.
It knows no Whisper. Where recording fails, passes go on as they are, and a note says why.
"""

from collections.abc import Callable, Hashable

import torch

from distil_ray.recognition.native.device import is_out_of_memory

Work = Callable[[], None]
Recorder = Callable[[Work], Work]  # takes work, does not do it, gives what does


class GraphRunner:
    """Does work as it comes or, with a recorder, from recordings by shape."""

    def __init__(self, record: Recorder | None, warn: Callable[[str], None]) -> None:
        """`note` is told if recording has to be given up."""
        self._record = record
        self._warn = warn
        self._seen: set[Hashable] = set()
        self._recorded: dict[Hashable, Work] = {}

    def run(self, shape: Hashable, work: Work) -> None:
        """Does `work`, which depends on nothing of the host but `shape`."""
        if shape not in self._recorded and self._record is not None and shape in self._seen:
            self._store_recording(shape, self._record, work)
        self._seen.add(shape)
        self._recorded.get(shape, work)()

    def _store_recording(self, shape: Hashable, record: Recorder, work: Work) -> None:
        try:
            self._recorded[shape] = record(work)
        except RuntimeError as error:
            if is_out_of_memory(error):  # fewer rows help
                raise
            self._record = None
            reason = str(_first_cause(error)).strip().partition("\n")[0]
            self._warn(f"CUDA graphs: off, as a decoder's pass could not be recorded ({reason}); steps take longer")


def _first_cause(error: BaseException) -> BaseException:
    """What came first: ending a recording that has failed fails too, in words that tell nothing."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def create_recorder(device: torch.device) -> Recorder | None:
    """What records on a device; None where nothing needs to be."""
    return CudaRecorder() if device.type == "cuda" else None


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: they never run at the same time, and leave nothing in it."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Other threads of the process may do as they like meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(before)  # torch leaves its own where a recording fails
        return graph.replay
