"""What a processor computes for int8 follows from its flags, less those that the environment disables."""

import platform
from pathlib import Path

import pytest

from distil_ray.whisper import processor
from distil_ray.whisper.processor import (
    EIGHT_BITS,
    SEVEN_BITS,
    Int8Products,
    choose_int8_products,
    cpu_flags,
    has_int8_products,
)

SKYLAKE = "avx avx2 avx512f avx512bw avx512dq avx512vl"


def pretend(monkeypatch: pytest.MonkeyPatch, flags: str, machine: str = "x86_64") -> None:
    monkeypatch.setattr(processor, "_read_cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("flags", "machine", "expected", "word"),
    [
        (f"{SKYLAKE} avx512_vnni", "x86_64", EIGHT_BITS, None),
        ("avx2 avx_vnni", "AMD64", EIGHT_BITS, None),
        (f"{SKYLAKE} amx_int8", "x86_64", EIGHT_BITS, None),
        (SKYLAKE, "x86_64", SEVEN_BITS, "weights of 7 bits"),
        ("avx avx2 avx512f", "x86_64", SEVEN_BITS, "weights of 7 bits"),
        ("avx avx2", "x86_64", SEVEN_BITS, "weights of 7 bits"),
        ("avx", "x86_64", None, "neither VNNI nor AVX2"),
        ("", "x86_64", None, "neither VNNI nor AVX2"),
        ("", "aarch64", None, "the processor is aarch64"),
        ("asimddp avx2", "arm64", None, "the processor is arm64"),
    ],
)
def test_a_processor_computes_int8_with_what_it_has(
    flags: str, machine: str, expected: Int8Products | None, word: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, flags, machine)
    products, reason = choose_int8_products()
    assert products is expected
    assert (reason is None) == (word is None)
    assert word is None or (reason is not None and word in reason and reason.startswith("model.dtype=int8: "))
    assert has_int8_products() == (expected is EIGHT_BITS)


@pytest.mark.parametrize(
    ("torch_limit", "onednn_limit", "expected"),
    [
        (None, None, {"avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"}),
        ("avx512", "ALL", {"avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8"}),
        ("avx2", None, {"avx2", "avx_vnni"}),
        ("AVX2", "AVX2", {"avx2"}),
        (None, "avx2", {"avx2"}),
        (None, "AVX512_CORE", {"avx2", "avx512f"}),
        (None, "AVX512_CORE_BF16", {"avx2", "avx_vnni", "avx512f", "avx512_vnni"}),
        (None, "AVX2_VNNI", {"avx2", "avx_vnni"}),
        ("default", None, set()),
    ],
)
def test_cpu_flags_that_the_environment_disables_are_left_out(
    torch_limit: str | None, onednn_limit: str | None, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "avx2 avx_vnni avx512f avx512_vnni amx_int8")
    for name, value in (("ATEN_CPU_CAPABILITY", torch_limit), ("ONEDNN_MAX_CPU_ISA", onednn_limit)):
        if value is not None:
            monkeypatch.setenv(name, value)
    assert cpu_flags() == expected


def test_flags_are_read_from_the_file_of_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    assert processor._read_cpu_flags() == frozenset()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu avx2 sse\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert processor._read_cpu_flags() == {"fpu", "avx2", "sse"}
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")
    assert processor._read_cpu_flags() == frozenset()
