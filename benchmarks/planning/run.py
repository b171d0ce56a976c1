"""The measured process: makes synthetic recordings, reads a ledger, makes a plan, prints time and memory as JSON.

    python -m benchmarks.planning.run OUTPUT RECORDINGS DONE

Memory is the anonymous memory of the process. The pages of the plan's temporary file, which is mapped while the plan is
written, can be reclaimed by the kernel and are not counted.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distil_ray.config import PlanConfig
from distil_ray.output.ledger import Ledger
from distil_ray.pipeline.planner import make_plan
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join
from distil_ray.types import Recording

FINGERPRINT = "planning"
EVERY_S = 0.02  # seconds between two samples of the memory
IN_A_FOLDER = 1000


def make_recording(number: int) -> Recording:
    """Returns a recording as a large bucket may list it: an id of about forty characters, an etag, a speaker."""
    speaker = f"{number // IN_A_FOLDER:05d}"
    name = f"speaker-{speaker}/utterance-{number:09d}.flac"
    size = 60_000 + number * 7919 % 400_000
    return Recording(name, f"s3://corpus/audio/{name}", size, f"{number:032x}", metadata={"speaker": speaker})


def main() -> None:
    output, num_recordings, num_done = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    storage = Storage()
    with PeakMemorySampler() as memory:
        ledger, reading = timed(lambda: Ledger.read(output, storage), memory)
        # The ledger holds the numbers below `num_recordings`; listed are as many, some of them further on.
        first = num_recordings - num_done
        listing: Iterator[Recording] = map(make_recording, range(first, first + num_recordings))
        run = join(output, "runs", "planning", "plan")
        plan, planning = timed(lambda: make_plan(listing, ledger, FINGERPRINT, PlanConfig(), run, storage), memory)
    found = {"rows": ledger.num_rows, "done": plan.num_done, "to_do": plan.num_recordings, "tasks": plan.num_tasks}
    print(json.dumps(found | {"ledger": reading, "plan": planning}))


def timed(work: Callable[[], Any], memory: "PeakMemorySampler") -> tuple[Any, dict[str, float]]:
    """Returns the result of `work`, with its wall and CPU seconds and the peak of the memory meanwhile."""
    before = memory.start()
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    took = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    return result, took | {"before_mib": before, "peak_mib": memory.peak_mib}


class PeakMemorySampler:
    """Samples the memory of this process in a thread."""

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def start(self) -> float:
        """Resets the peak; returns the current memory in MiB."""
        self.peak_mib = _anonymous_mib()
        return self.peak_mib

    def _sample(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.peak_mib = max(self.peak_mib, _anonymous_mib())


def _anonymous_mib() -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
