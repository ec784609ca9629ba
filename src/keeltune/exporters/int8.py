"""An ONNX graph with weights of 8 bits, each output channel on a scale of its own.

Activations are rounded as they come, to the range of the batch that they are in: so what such a graph says of a row
depends a little on the rows beside it, and keeltune asks it row by row. Weights take 7 of the 8 bits: on processors
without VNNI sums of two products of 8 bits may saturate, and the same file would say something else there.
"""

from __future__ import annotations

import logging
from pathlib import Path


def write_int8(source: Path, file: Path) -> None:
    """Writes a float32 graph again, quantised dynamically."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.registry import IntegerOpsRegistry

    logger = logging.getLogger()
    before, logger.disabled = logger.disabled, True  # it advises a step that torch's exporter has done
    try:
        kinds = [kind for kind in IntegerOpsRegistry if kind != "Conv"]  # which onnxruntime has for no signed weights
        quantize_dynamic(
            source, file, op_types_to_quantize=kinds, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    finally:
        logger.disabled = before
