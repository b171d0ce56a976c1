"""The worker process of `SubprocessDecoder`: reads requests from stdin and writes PCM to stdout.

A request is a line of JSON: ``{"path": …, "max_duration_s": …, "segment": …}`` to decode, ``{"path": …}`` to probe the
header. An answer consists of messages: a kind, a length, and that many bytes. READY comes once, at the start. Then each
request is answered by pieces of PCM16 and one RESULT, or by one INFO, which is null if the header has no information.

The process imports numpy and soundfile only; libav and soxr when a file needs them. It limits its address space, leaves
no core dump, and ends with its parent.
"""

import ctypes
import json
import os
import resource
import signal
import struct
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from distil_ray.audio.decode import decode_file
from distil_ray.audio.pcm import DecodeResult
from distil_ray.audio.segments import AudioSegment
from distil_ray.errors import ErrorKind

HEADER = struct.Struct("<BI")  # kind, number of bytes that follow
READY, PCM, RESULT, INFO = 1, 2, 3, 4
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def main() -> None:
    """Answers requests until stdin ends. `sys.argv[1]`: MiB of address space for decoding, beside the imports."""
    memory_mb = int(sys.argv[1])
    answers = _take_stdout()
    _end_with_parent()
    _limit_memory(memory_mb)
    _send(answers, READY, b"")
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if "segment" in request:
            _decode(answers, **request, memory_mb=memory_mb)
        else:
            _probe(answers, **request)


def _probe(answers: BinaryIO, path: str) -> None:
    from distil_ray.audio.probe import probe_audio

    info = None
    with suppress(MemoryError, OSError):
        if Path(path).is_file():  # opening a named pipe would block
            with open(path, "rb") as file:
                info = probe_audio(file)
    _send(answers, INFO, json.dumps(info and asdict(info)).encode())


def _decode(answers: BinaryIO, path: str, max_duration_s: float, segment: dict[str, Any], memory_mb: int) -> None:
    began_s = time.process_time()
    num_samples = 0
    try:
        for item in decode_file(path, max_duration_s, AudioSegment(**segment)):
            if isinstance(item, DecodeResult):
                result = item
            else:
                num_samples += len(item)
                _send(answers, PCM, item.data.cast("B"))
    except MemoryError:
        message = f"decoding it takes more memory than {memory_mb} MiB"
        result = DecodeResult(num_samples, ErrorKind.DECODE_OOM, message)
    except FileNotFoundError as error:
        result = DecodeResult(num_samples, ErrorKind.NOT_FOUND, error.strerror)
    except OSError as error:
        result = DecodeResult(num_samples, ErrorKind.STORAGE, f"cannot be read ({error.strerror})")
    except Exception as error:  # no known case; the recording gets the error, and the next one is decoded
        result = DecodeResult(num_samples, ErrorKind.INTERNAL, f"{type(error).__name__}: {error}")
    fields = asdict(result) | {"cpu_s": time.process_time() - began_s}
    _send(answers, RESULT, json.dumps(fields).encode())


def _send(answers: BinaryIO, kind: int, body: bytes | memoryview) -> None:
    answers.write(HEADER.pack(kind, len(body)))
    answers.write(body)
    answers.flush()


def _take_stdout() -> BinaryIO:
    """Returns the pipe to the parent. What C libraries print to stdout goes to stderr from now on."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(answers, "wb", buffering=1 << 16)


def _end_with_parent() -> None:
    """Makes the process end with its parent: by the end of stdin while it waits, by a signal while it decodes.

    Ctrl-C is handled by the parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(OSError, AttributeError):  # not Linux: only the end of stdin
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory(memory_mb: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/statm", "rb") as statm:
        taken = int(statm.read().split()[0]) * resource.getpagesize()
        limit = taken + (memory_mb << 20)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    main()
