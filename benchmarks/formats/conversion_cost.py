"""The cost of reading a checkpoint in another format: a process that converts it, as a node does once.

    python -m benchmarks.formats.conversion_cost MODEL_NAME CACHE_DIR

prints CPU seconds and private memory (MiB, the maximum of what the conversion adds, sampled every 5 ms) as JSON. Mapped
files are not private: the kernel can drop them at any time.
"""

import json
import sys
import threading
import time
from pathlib import Path

from distil_ray.whisper.download import fetch_weights

INTERVAL_S = 0.005


def main(name: str, cache_dir: str) -> None:
    """Converts the checkpoint and prints the cost."""
    import torch  # noqa: F401 - loaded before the measurement, as in a worker

    peak, done = _private_mb(), threading.Event()
    before = peak

    def sample() -> None:
        nonlocal peak
        while not done.wait(INTERVAL_S):
            peak = max(peak, _private_mb())

    thread = threading.Thread(target=sample)
    thread.start()
    cpu_before = time.process_time()
    fetch_weights(name, cache_dir=cache_dir)
    cpu_s = time.process_time() - cpu_before
    done.set()
    thread.join()
    print(json.dumps({"cpu_s": cpu_s, "private_mb": peak - before}))


def _private_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
