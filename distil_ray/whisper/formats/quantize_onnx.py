"""Quantizes an ONNX graph to int8: ``quantize_onnx.py SOURCE TARGET``, run in the environment of the exporter.

Matrices are quantized by channel, activations while the graph runs, in the subgraphs of a merged decoder, too. As in
the graphs that are published for transformers.js, weights are unsigned in graphs with convolutions, which have no
signed kernel on CPUs, and have 7 bits, because processors without VNNI saturate with 8.
"""

import sys
from typing import Any


def main(source: str, target: str) -> None:
    """Writes the quantized graph."""
    import onnx  # type: ignore[import-not-found, unused-ignore]
    from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-untyped, unused-ignore]

    graph: Any = onnx.load_model(source, load_external_data=False)
    has_convolutions = any(node.op_type == "Conv" for node in graph.graph.node)
    quantize_dynamic(
        model_input=source,
        model_output=target,
        weight_type=QuantType.QUInt8 if has_convolutions else QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
