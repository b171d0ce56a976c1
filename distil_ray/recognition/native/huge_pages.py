"""Huge pages for the memory of a process that recognizes on a CPU.

A decoder step reads all weights and caches once. In pages of 4 KiB these are tens of thousands of pages, more than the
processor keeps translations of, and in a virtual machine each translation is looked up twice. Most systems give a
process pages of 2 MiB only where it asks for them (`/sys/kernel/mm/transparent_hugepage/enabled` is `madvise`), and
neither torch nor its libraries ask.

So the process asks once its memory is in use: Linux 6.1 and later copy it into huge pages at once
(`MADV_COLLAPSE` of madvise(2)), older kernels in the background. Only ranges of 2 MiB that are mostly in use are
copied, so that the process does not grow. Results are the same, bit for bit.
"""

import ctypes
import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from distil_ray.recognition.native.device import c_function

PAGE, HUGE_PAGE = 4096, 2 * 2**20  # bytes, on x86-64 and on most ARM systems
MIN_SHARE = 0.5  # of the pages of a range that are in use, for it to be copied
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25  # of Linux; mmap has no constant for the second
MAX_FAILURES = 8  # in a row; the system then has no free huge pages
# Copying took 3 s for each GiB in a virtual machine, and saved up to 20 % of the time (docs/performance.md). A process
# that ends after a few seconds would lose by it.
WAIT_S_PER_GIB = 10.0
_SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_PAGEMAP = Path("/proc/self/pagemap")  # 8 bytes for each page
_PRESENT = np.uint64(1 << 63)  # a bit of its entries


class HugePagePolicy:
    """Moves the memory of the process into huge pages once recognition has taken long enough."""

    def __init__(self, threads: int) -> None:
        """Starts the clock. `threads` compute at once."""
        self._threads = threads
        self._started = time.process_time()
        self._is_done = not is_supported()
        self._wait_s = 0.0 if self._is_done else WAIT_S_PER_GIB * _own_bytes() / 2**30

    def after_chunk(self) -> None:
        """To be called while a recognizer works, when its caches and buffers are in use."""
        if self._is_done or time.process_time() - self._started < self._wait_s * self._threads:
            return
        self._is_done = True
        use_huge_pages()


def is_supported() -> bool:
    """Returns whether this system has huge pages for processes that ask for them, and shows which pages are in use."""
    if sys.platform != "linux" or mmap.PAGESIZE != PAGE:
        return False
    try:
        return "[never]" not in _SYSTEM.read_text(encoding="ascii") and _PAGEMAP.exists()
    except OSError:
        return False


def use_huge_pages() -> int:
    """Moves what is in use of the private memory of this process into huge pages.

    Returns:
        The bytes that were asked for: less than all where the system has no more huge pages, 0 where it has none.
    """
    madvise = c_function("madvise")
    if madvise is None:
        return 0
    advice, moved, failures = MADV_COLLAPSE, 0, 0
    try:
        for address in list(_ranges_in_use()):
            huge_range = ctypes.c_void_p(address), ctypes.c_size_t(HUGE_PAGE)
            failed = madvise(*huge_range, advice) != 0
            if failed and advice == MADV_COLLAPSE and not moved:  # an older kernel, or no huge page is free now
                advice = MADV_HUGEPAGE
                failed = madvise(*huge_range, advice) != 0
            failures = failures + 1 if failed else 0
            moved += 0 if failed else HUGE_PAGE
            if failures == MAX_FAILURES:
                break
    except OSError:  # a container may hide its pages
        pass
    return moved


def _ranges_in_use() -> Iterator[int]:
    """Yields the addresses of aligned ranges of the size of a huge page that are mostly in use.

    Large mappings may be mostly empty, such as the stacks of threads, and would be filled.
    """
    pages = HUGE_PAGE // PAGE
    with _PAGEMAP.open("rb", buffering=0) as pagemap:
        for begin, end in _private_mappings():
            first, last = -(-begin // HUGE_PAGE), end // HUGE_PAGE
            if first >= last:
                continue
            pagemap.seek(first * pages * 8)
            entries = np.frombuffer(pagemap.read((last - first) * pages * 8), np.uint64)
            entries = entries[: len(entries) // pages * pages]  # a read may be cut short
            in_use = np.count_nonzero((entries & _PRESENT).reshape(-1, pages), axis=1)
            yield from ((first + int(index)) * HUGE_PAGE for index in np.flatnonzero(in_use >= MIN_SHARE * pages))


def _private_mappings() -> Iterator[tuple[int, int]]:
    """Yields begin and end of the mappings of this process that it writes to and that are of no file."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
        addresses, rights, _, _, inode, *name = line.split(maxsplit=5)
        if rights == "rw-p" and inode == "0" and name in ([], ["[heap]"]):
            begin, end = addresses.split("-")
            yield int(begin, 16), int(end, 16)


def _own_bytes() -> int:
    """Returns the resident memory of this process that is of no file."""
    resident, shared = Path("/proc/self/statm").read_text(encoding="ascii").split()[1:3]
    return (int(resident) - int(shared)) * PAGE
