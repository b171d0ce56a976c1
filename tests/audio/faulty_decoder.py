"""A worker process in which the first word of a file selects a fault of the C library.

test_subprocess_decoder.py runs it in place of `subprocess_worker`, which does everything except the faults.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from distil_ray.audio import subprocess_worker
from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.segments import AudioSegment


def decode_or_break(path: str, max_duration_s: float, segment: AudioSegment) -> Iterator[PCM16 | DecodeResult]:
    word = Path(path).read_bytes()[:20].split(b" ")[0].decode("latin-1")
    if word == "LATE":
        yield next(decode_file(path.removesuffix(".late")))
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "SEGFAULT":
        os.write(2, b"free(): invalid pointer\n")
        ctypes.string_at(0)
    if word == "EXIT":
        os._exit(7)
    if word == "ABORT":
        os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
        os.abort()
    if word == "HANG":
        time.sleep(3600)
    if word == "MEMORY":
        hoard = [bytearray(1 << 24) for _ in range(1 << 16)]
        raise AssertionError(f"{len(hoard)} pieces of 16 MiB could be had")
    if word == "RAISE":
        raise KeyError("s20")
    if word == "NOISE":
        for _ in range(3000):
            os.write(2, b"Note: Trying to resync...\n" * 40)
        sys.stdout.write("this went to stdout\n" * 1000)
        sys.stdout.flush()
        path = path.removesuffix(".noise")
    yield from decode_file(path, max_duration_s, segment)


if __name__ == "__main__":
    setattr(subprocess_worker, "decode_file", decode_or_break)  # noqa: B010 - a name that the module only imports
    subprocess_worker.main()
