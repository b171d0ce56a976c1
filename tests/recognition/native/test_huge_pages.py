"""Memory in use is moved into huge pages, once recognition has taken long enough, and nothing else changes."""

import ctypes
import mmap
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native import huge_pages
from distil_ray.recognition.native.huge_pages import HUGE_PAGE, HugePagePolicy, is_supported, use_huge_pages
from distil_ray.recognition.native.recognizer import NativeRecognizer
from tests.support.clips import load_samples
from tests.support.memory import resident_mb

pytestmark = pytest.mark.skipif(not is_supported(), reason="this system has no huge pages")


def huge_bytes() -> int:
    """Returns the bytes of this process that are in huge pages."""
    line = next(
        line
        for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
        if line.startswith("AnonHugePages")
    )
    return int(line.split()[1]) * 1024


def mapping(num_huge_pages: int, used_share: float) -> NDArray[np.uint8]:
    """Returns memory of its own; of each range of 2 MiB the first part has been written to."""
    memory = mmap.mmap(-1, num_huge_pages * HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    numbers = np.frombuffer(memory, np.uint8)
    numbers.reshape(num_huge_pages, HUGE_PAGE)[:, : int(used_share * HUGE_PAGE)] = 7
    return numbers


@pytest.fixture
def can_collapse() -> None:
    before = huge_bytes()
    numbers = mapping(8, used_share=1.0)
    if not use_huge_pages() or huge_bytes() <= before:
        pytest.skip("this kernel copies memory in the background only")
    del numbers


@pytest.mark.usefixtures("can_collapse")
def test_memory_in_use_moves_and_keeps_its_content() -> None:
    before = huge_bytes()
    numbers = mapping(16, used_share=1.0)
    assert use_huge_pages() >= 14 * HUGE_PAGE  # a mapping need not begin with a huge page
    assert huge_bytes() - before >= 14 * HUGE_PAGE
    assert (numbers == 7).all()


@pytest.mark.usefixtures("can_collapse")
def test_memory_that_is_mostly_empty_stays_empty() -> None:
    use_huge_pages()
    numbers = mapping(32, used_share=0.1)
    before = resident_mb()
    use_huge_pages()
    assert (resident_mb() - before) * 2**20 < 8 * HUGE_PAGE
    assert numbers[0] == 7


def test_transcripts_are_the_same_when_memory_moves_between_two_chunks(
    whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rows are being decoded while the memory of all moves."""
    clips = [load_samples(name) for name in ("librispeech-61", "austen-0890", "cards-005")]
    options = RecognizerOptions(dtype="float32", batch_size=3, threads=1, window="gated", num_beams=2)
    calls: list[int] = []
    monkeypatch.setattr(huge_pages, "use_huge_pages", lambda: calls.append(use_huge_pages()))
    monkeypatch.setattr(huge_pages, "WAIT_S_PER_GIB", 1e6)
    expected = NativeRecognizer(whisper_tiny_en, options).transcribe(clips, ["en"] * 3)
    assert not calls
    monkeypatch.setattr(huge_pages, "WAIT_S_PER_GIB", 0.0)
    found = NativeRecognizer(whisper_tiny_en, options).transcribe(clips, ["en"] * 3)
    assert len(calls) == 1
    assert calls[0] > 50 * HUGE_PAGE  # the weights take more
    assert [asdict(each) for each in found] == [asdict(each) for each in expected]


def test_a_process_that_ends_soon_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    monkeypatch.setattr(huge_pages, "use_huge_pages", lambda: asked.append(None))
    seconds = [100.0]
    monkeypatch.setattr(time, "process_time", lambda: seconds[0])
    monkeypatch.setattr(huge_pages, "_own_bytes", lambda: 3 * 2**29)
    policy = HugePagePolicy(threads=2)
    for now, expected in ((129.9, 0), (130.0, 1), (500.0, 1)):  # 15 s for each of two threads, once
        seconds[0] = now
        policy.after_chunk()
        assert len(asked) == expected


@pytest.mark.parametrize("setting", ["always madvise [never]", None])
def test_a_system_without_huge_pages_is_not_asked(
    setting: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "enabled"
    if setting is not None:
        file.write_text(setting)
    monkeypatch.setattr(huge_pages, "_SYSTEM", file)
    monkeypatch.setattr(huge_pages, "use_huge_pages", lambda: pytest.fail("asked"))
    assert not is_supported()
    monkeypatch.setattr(huge_pages, "WAIT_S_PER_GIB", 0.0)
    HugePagePolicy(threads=1).after_chunk()


def test_an_older_kernel_is_asked_to_copy_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    advised: list[int] = []

    def madvise(_address: ctypes.c_void_p, size: ctypes.c_size_t, advice: int) -> int:
        assert size.value == HUGE_PAGE
        advised.append(advice)
        return -1 if advice == huge_pages.MADV_COLLAPSE else 0

    numbers = mapping(4, used_share=1.0)
    monkeypatch.setattr(huge_pages, "c_function", lambda _name: madvise)
    assert use_huge_pages() == (len(advised) - 1) * HUGE_PAGE
    assert set(advised[1:]) == {mmap.MADV_HUGEPAGE}
    assert numbers[0] == 7


def test_a_system_whose_huge_pages_are_used_up_is_not_asked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def madvise(_address: ctypes.c_void_p, _size: ctypes.c_size_t, advice: int) -> int:
        calls.append(advice)
        return -1

    numbers = mapping(64, used_share=1.0)
    monkeypatch.setattr(huge_pages, "c_function", lambda _name: madvise)
    assert use_huge_pages() == 0
    assert len(calls) <= huge_pages.MAX_FAILURES + 1
    assert numbers[0] == 7
