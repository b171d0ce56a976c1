"""How much memory the decode stage takes for recordings of any length, without Ray.

    python -m tests.pipeline.long_recordings FILE …

Each file is planned and decoded in a process of its own, as a task worker does it; prints the peak resident size of
that process and of the decoder's child, and the CPU seconds of both.
"""

import json
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from distil_ray.pipeline import decode_stage
from distil_ray.types import SAMPLE_RATE
from tests.pipeline.conftest import plan_run, pointers


@dataclass(frozen=True, slots=True)
class Peak:
    """`seconds` of audio were decoded in `num_parts`; resident sizes in MiB; CPU seconds of worker and child."""

    seconds: float
    num_parts: int
    worker_mib: float
    child_mib: float
    cpu_s: float


def measure(path: Path, *overrides: str) -> Peak:
    """Decodes a file in a new process."""
    command = [sys.executable, "-m", "tests.pipeline.long_recordings", "--one", str(path), *overrides]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, check=True)
    return Peak(**json.loads(done.stdout))


def _decode(path: str, *overrides: str) -> Peak:
    with tempfile.TemporaryDirectory(prefix="distil-ray-long-") as folder:
        settings = ("decoding.language=en", "input.references=none", *overrides)
        run, plan = plan_run(Path(path), Path(folder), *settings)
        samples = num_parts = 0
        for part in decode_stage.decode_tasks(pointers(plan), run):
            num_parts += 1
            for ending in part["decoded"][0].as_py():
                assert ending["error"] is None, ending["error"]
                samples += ending["num_samples"]
        limits, longest_s = run.config.resources, run.config.input.max_duration_s
        child = decode_stage.shared_decoder(limits.decoder_memory_mb, limits.decoder_timeout_s, longest_s)._worker
        assert child is not None
        sizes = _peak_mib("self"), _peak_mib(str(child._process.pid))
        child.end()
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Peak(samples / SAMPLE_RATE, num_parts, *sizes, sum(one.ru_utime + one.ru_stime for one in spent))


def _peak_mib(process: str) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    if sys.argv[1] == "--one":
        print(json.dumps(asdict(_decode(*sys.argv[2:]))))
        return
    print("| file | hours | parts | worker, MiB | decoder's child, MiB | CPU s |\n|---|---|---|---|---|---|")
    for name in sys.argv[1:]:
        peak = measure(Path(name).resolve())
        sizes = f"{peak.worker_mib:.0f} | {peak.child_mib:.0f}"
        print(f"| {Path(name).name} | {peak.seconds / 3600:.2f} | {peak.num_parts} | {sizes} | {peak.cpu_s:.0f} |")


if __name__ == "__main__":
    main()
