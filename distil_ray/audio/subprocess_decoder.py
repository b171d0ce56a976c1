"""Runs `decode_file` in a process of its own, which may crash, hang or run out of memory without harm to the caller.

One process decodes many files, one after the other. When it dies, the file that it was decoding gets the error, and the
next file gets a new process. The two communicate through pipes: there is no port and no shared memory, and the
process's environment holds no credentials. Its stderr is drained while its messages are read, so that a library that
prints much cannot block it. The timeout counts only while the caller waits for a piece.
"""

import fcntl
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from distil_ray.audio.pcm import PCM16, DecodeResult
from distil_ray.audio.probe import AudioInfo
from distil_ray.audio.segments import WHOLE_FILE, AudioSegment
from distil_ray.audio.subprocess_worker import HEADER, INFO, PCM, RESULT
from distil_ray.errors import ErrorKind

WORKER_COMMAND = (
    "-P",
    "-m",
    "distil_ray.audio.subprocess_worker",
)  # -P: a module in the working directory is not taken for numpy
# The folder that contains the package. It is not read from `distil_ray.__file__`: where the working directory has a
# folder called distil_ray, such as a clone of the repository, an editable installation makes the package a namespace
# package, which has no file.
PACKAGE_PARENT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0  # for an interpreter and its imports on a busy machine
END_TIMEOUT_S = 10.0  # for a process that was killed
PIPE_BYTES = 1 << 20  # of PCM (33 s) that the worker may be ahead of its reader, where the system allows it
STDERR_BYTES = 4096  # of the end of its stderr that are kept for messages
ENVIRONMENT = {"PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"}
ENVIRONMENT |= {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}


class SubprocessDecoder:
    """Decodes files in a worker process, which is started with the first file. Not thread-safe.

    Args:
        memory_mb: MiB of address space that decoding may take beside the worker's imports.
        timeout_s: Longest wait for a piece, in seconds.
        max_duration_s: Longest audio, in seconds; what is longer fails as TOO_LONG.
    """

    def __init__(self, memory_mb: int, timeout_s: float, max_duration_s: float = math.inf) -> None:
        self._memory_mb = memory_mb
        self._timeout_s = timeout_s
        self._max_duration_s = max_duration_s
        self._worker: _Worker | None = None

    def decode(self, path: str, name: str, segment: AudioSegment = WHOLE_FILE) -> Iterator[PCM16 | DecodeResult]:
        """Yields pieces of PCM16 (16 kHz mono, at most 10 s each), then exactly one `DecodeResult`.

        Nothing is raised for what the audio is. The iteration may be abandoned; the next call then starts a new
        process. There can be only one iteration at a time.

        Args:
            path: Local file.
            name: Name of the recording in messages.
            segment: Part of the file to decode.
        """
        reused = self._keep_if_idle()
        num_samples = 0
        worker = None
        try:
            worker = self._worker = self._worker or _Worker(self._memory_mb)
            worker.ask({"path": path, "max_duration_s": self._max_duration_s, "segment": asdict(segment)})
            while isinstance(item := worker.answer(self._timeout_s), np.ndarray):
                num_samples += len(item)
                yield item
            assert isinstance(item, DecodeResult)
            result = item
        except _WorkerEndedError as end:
            result = DecodeResult(num_samples, end.kind, str(end))
        finally:
            if worker is not None and worker.busy:  # it failed, or the caller has abandoned the iteration
                worker.end()
        if reused and num_samples == 0 and result.error_kind is ErrorKind.DECODE_CRASH:
            yield from self.decode(path, name, segment)  # the file before may be the cause: try a new process
            return
        if result.error_kind is ErrorKind.DECODE_OOM:
            self.close()  # an aborted allocation may leave memory behind
        yield _add_name(result, name)

    def probe(self, path: str) -> AudioInfo | None:
        """Returns how a file was recorded, by its header; the file's first bytes are enough.

        None if the header does not have it, or if reading it ended the worker process.
        """
        self._keep_if_idle()
        try:
            worker = self._worker = self._worker or _Worker(self._memory_mb)
            worker.ask({"path": path})
            info = worker.answer(self._timeout_s)
            assert info is None or isinstance(info, AudioInfo)
            return info
        except _WorkerEndedError:
            self.close()
            return None

    def close(self) -> None:
        """Ends the worker process, if there is one. The next file would start another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _keep_if_idle(self) -> bool:
        """Returns True if a worker process waits for a file; a process in any other state is ended."""
        if self._worker is not None and (self._worker.busy or not self._worker.is_alive()):
            self.close()
        return self._worker is not None


class _WorkerEndedError(Exception):
    """The worker process died or had to be ended."""

    def __init__(self, kind: ErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Worker:
    """The worker process and its pipes. `busy` is True from a request to its result."""

    def __init__(self, memory_mb: int) -> None:
        self._stderr_tail = b""
        self._process = subprocess.Popen(
            [sys.executable, *WORKER_COMMAND, str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=_environment(),
        )
        self._stdout = _descriptor(self._process.stdout)
        self._stderr = _descriptor(self._process.stderr)
        with suppress(OSError, AttributeError):  # not Linux, or not permitted: the usual 64 KiB are enough
            fcntl.fcntl(self._stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)
        self.busy = False
        try:
            self._receive(START_TIMEOUT_S)
        except _WorkerEndedError as end:
            self.end()
            raise _WorkerEndedError(ErrorKind.INTERNAL, f"the decoder process did not start: {end}") from end

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> None:
        """Sends a request (see subprocess_worker.py)."""
        self.busy = True
        self._stderr_tail = b""
        try:
            os.write(_descriptor(self._process.stdin), json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise self._died() from None

    def answer(self, timeout_s: float) -> PCM16 | DecodeResult | AudioInfo | None:
        """Returns the next piece, or the message that ends the answer. Raises `_WorkerEndedError`."""
        kind, body = self._receive(timeout_s)
        if kind == PCM:
            return np.frombuffer(body, np.int16)
        self.busy = False
        fields = json.loads(body)
        if kind == INFO:
            return fields and AudioInfo(**fields)
        assert kind == RESULT
        fields["quality_flags"] = tuple(fields["quality_flags"])
        if fields["error_kind"] is not None:
            fields["error_kind"] = ErrorKind(fields["error_kind"])
        return DecodeResult(**fields)

    def end(self) -> None:
        """Kills the process and closes the pipes."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # a read that the kernel cannot interrupt
            self._process.wait(END_TIMEOUT_S)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _receive(self, timeout_s: float) -> tuple[int, bytearray]:
        """Returns one message, which has to arrive within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        kind, length = HEADER.unpack(self._read(HEADER.size, deadline_s, timeout_s))
        return kind, self._read(length, deadline_s, timeout_s)

    def _read(self, num_bytes: int, deadline_s: float, timeout_s: float) -> bytearray:
        body = bytearray(num_bytes)
        have = 0
        while have < num_bytes:
            ready = dict(self._poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))
            if not ready:
                raise _WorkerEndedError(
                    ErrorKind.DECODE_TIMEOUT, f"the decoder yielded nothing for {timeout_s:g} s and was ended"
                )
            if self._stderr in ready:
                self._drain()
            if self._stdout in ready:
                got = os.readv(self._stdout, [memoryview(body)[have:]])
                if got == 0:
                    raise self._died()
                have += got
        return body

    def _drain(self) -> None:
        text = os.read(self._stderr, 1 << 16)
        if text:
            self._stderr_tail = (self._stderr_tail + text)[-STDERR_BYTES:]
        else:
            self._poll.unregister(self._stderr)

    def _died(self) -> _WorkerEndedError:
        """Returns an error that says how the process ended, with the last line that it wrote."""
        code = self._process.wait()
        os.set_blocking(self._stderr, False)
        with suppress(OSError):
            self._stderr_tail = (self._stderr_tail + os.read(self._stderr, 1 << 16))[-STDERR_BYTES:]
        how = f"on {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        if -code == signal.SIGKILL:
            how += " (the system does this when it runs out of memory)"
        lines = self._stderr_tail.decode(errors="replace").split("\n")
        last = next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        no_memory = any(text in self._stderr_tail for text in (b"bad_alloc", b"MemoryError", b"annot allocate memory"))
        kind = ErrorKind.DECODE_OOM if no_memory else ErrorKind.DECODE_CRASH
        return _WorkerEndedError(
            kind, f"the decoder process died {how}" + (f"; last line of its stderr: {last}" if last else "")
        )


def _add_name(result: DecodeResult, name: str) -> DecodeResult:
    return result if result.error is None else replace(result, error=f"{name}: {result.error}")


def _descriptor(pipe: IO[bytes] | None) -> int:
    assert pipe is not None
    return pipe.fileno()


def _environment() -> dict[str, str]:
    """Returns the environment of the worker: what an interpreter needs to find its packages, and no credentials.

    The C libraries get one thread each: stacks of more would count against the memory limit, and other processes use
    the other CPUs.
    """
    environment = {key: value for key, value in os.environ.items() if key in ENVIRONMENT}
    package = str(PACKAGE_PARENT)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    return environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
