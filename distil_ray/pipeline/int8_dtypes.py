"""The dtype that ``model.dtype=int8`` is computed in: it depends on the processors, and is said before the start.

Processors with 8-bit products compute it as it is, other x86-64 processors with weights of 7 bits, and the rest in
float32 (`whisper/processor.py`). Where ``auto`` is faster, that is said too. A local Ray and recognizers of this
process run on the driver's processor. The nodes of a cluster are asked; where they differ, rows differ by rounding, and
each has its dtype in a column.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from distil_ray.cli.console import format_count, log_field
from distil_ray.config import Config
from distil_ray.pipeline.capacity import starts_local_ray
from distil_ray.whisper.processor import BFLOAT16_FLAG, choose_int8_products, has_amx

FLOAT32 = "float32"
INT8 = "int8"


@dataclass(frozen=True, slots=True)
class NodeDtype:
    """The dtype that a node computes ``model.dtype=int8`` in.

    Attributes:
        dtype: "int8", "int8_w7" or "float32", as in the output.
        remark: Why it is not "int8", or that another dtype is faster.
    """

    dtype: str
    remark: str | None


def find_dtype() -> NodeDtype:
    """Returns what the machine of this process computes."""
    products, reason = choose_int8_products()
    if products is not None and reason is None and has_amx():
        return NodeDtype(
            products.dtype,
            f"model.dtype=int8: slower than model.dtype=auto on a processor with {BFLOAT16_FLAG}, though it takes less"
            " memory",
        )
    return NodeDtype(FLOAT32 if products is None else products.dtype, reason)


def describe_local_dtype(config: Config, console: Console) -> str:
    """Returns the dtype of recognizers on this machine, and logs what is to be known about it.

    On a cluster, whose nodes are not known yet, it is the one that was set.
    """
    if config.model.dtype != INT8 or not starts_local_ray(config.resources):
        return config.model.dtype
    found = find_dtype()
    if found.remark is not None:
        log_field("warning", found.remark, console, level="warning")
    return found.dtype


def describe_node_dtypes(found: Sequence[NodeDtype], console: Console) -> str:
    """Logs what is to be known about the dtypes of a cluster's nodes, and where they are not the same on all of them.

    Returns:
        The dtype that takes the most memory: "float32" if a node computes it.
    """
    counts = Counter(node.dtype for node in found)
    for remark, number in Counter(node.remark for node in found if node.remark is not None).items():
        log_field("warning", f"{format_count(number, 'node')} of {len(found)}: {remark}", console, level="warning")
    if len(counts) > 1:
        kinds = ", ".join(f"{dtype} on {format_count(number, 'node')}" for dtype, number in sorted(counts.items()))
        log_field(
            "warning",
            f"model.dtype=int8: {kinds}; transcripts differ by rounding, and the column dtype says what a row is from",
            console,
            level="warning",
        )
    return FLOAT32 if counts[FLOAT32] else INT8
