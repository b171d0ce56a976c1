"""What nodes compute for int8 is said once where all are alike, and by number where they differ."""

import io

import pytest
from rich.console import Console

from distil_ray.config.loader import load_config
from distil_ray.pipeline import int8_dtypes
from distil_ray.pipeline.int8_dtypes import NodeDtype, describe_local_dtype, describe_node_dtypes, find_dtype
from distil_ray.whisper import processor

VNNI, AVX2, ARM = NodeDtype("int8", None), NodeDtype("int8_w7", "7 bits"), NodeDtype("float32", "ARM")


@pytest.mark.parametrize(
    ("nodes", "expected", "lines"),
    [
        ([VNNI, VNNI], "int8", []),
        ([AVX2] * 3, "int8", ["3 nodes of 3: 7 bits"]),
        ([ARM], "float32", ["1 node of 1: ARM"]),
        ([VNNI, ARM, VNNI], "float32", ["1 node of 3: ARM", "float32 on 1 node, int8 on 2 nodes"]),
        ([VNNI, AVX2], "int8", ["1 node of 2: 7 bits", "int8 on 1 node, int8_w7 on 1 node"]),
        ([], "int8", []),
    ],
)
def test_nodes_are_described(nodes: list[NodeDtype], expected: str, lines: list[str]) -> None:
    console = Console(file=io.StringIO(), width=200)
    assert describe_node_dtypes(nodes, console) == expected
    found = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(found) == len(lines)
    assert all(words in line for words, line in zip(lines, found, strict=True))


def test_this_machine_is_described_only_for_int8_and_a_local_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_read_cpu_flags", frozenset)
    assert find_dtype().dtype == "float32"
    console = Console(file=io.StringIO(), width=200)
    for settings, expected in (
        (["model.dtype=float32"], "float32"),
        (["model.dtype=auto"], "auto"),
        (["model.dtype=int8", "resources.ray_address=head:6379"], "int8"),
    ):
        assert describe_local_dtype(load_config(None, settings), console) == expected
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    config = load_config(None, ["model.dtype=int8", "resources.ray_address=local"])
    assert describe_local_dtype(config, console) == "float32"
    assert "model.dtype=int8: float32 instead" in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("has_amx", "words"), [(True, "slower than model.dtype=auto on a processor"), (False, "")])
def test_a_processor_that_is_faster_in_bfloat16_is_named(
    has_amx: bool, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8_dtypes, "choose_int8_products", lambda: (processor.EIGHT_BITS, None))
    monkeypatch.setattr(int8_dtypes, "has_amx", lambda: has_amx)
    console = Console(file=io.StringIO(), width=200)
    config = load_config(None, ["model.dtype=int8", "resources.ray_address=local"])
    assert describe_local_dtype(config, console) == "int8"
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert words in printed and bool(printed) == has_amx
