"""Store the weights of an ONNX file in 8 or 4 bits.

The bits are those of onnxruntime's own operators MatMulNBits and GatherBlockQuantized: integers without a sign, with a
float32 scale for every block of a row. Both lay a matrix out alike, so a head and an embedding that share their weights
share the stored ones too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["quantize_weights", "quiet"]

BITS = {"int8": 8, "int4": 4}
BLOCKS = {"int8": (64, 32, 16), "int4": (32, 16)}  # weights that share a scale: the first that divides a row
GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
LINEAR = {**GEMM, "transB": 1}  # of a Gemm that is a linear layer


@contextmanager
def quiet() -> Iterator[None]:
    """Keep everybody's log messages below errors back."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)


def quantize_weights(model: Any, embedding: set[str], quantize: str) -> tuple[Any, list[str]]:
    """Store the matrices of a model that torch wrote in 8 or 4 bits.

    Args:
        model: a `ModelProto`, which is changed.
        embedding: the names that the tensor may have whose rows the tokens are: it has another one if a head shares it.
        quantize: "int8" or "int4".

    Returns:
        The model, and what is to be known of it, as sentences.
    """
    table = next((tensor for tensor in model.graph.initializer if tensor.name in embedding), None)
    width = 0 if table is None else table.dims[1]
    block = next((size for size in BLOCKS[quantize] if width and width % size == 0), None)
    _as_products(model.graph)
    model = _quantize(model, BITS[quantize], block or BLOCKS[quantize][0])
    if block is None:
        return model, ["The embedding stays float32, as its rows are no multiples of 16."]
    _quantize_table(model, table, BITS[quantize], block)
    return model, []


def _as_products(graph: Any) -> None:
    """Turn linear layers into products with a stored matrix, inputs x outputs, as the quantizer reads these alone.

    torch stores a matrix as it holds it, outputs x inputs, and transposes it in the graph or in a Gemm.
    """
    from onnx import helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        given = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type == "Transpose" and node.input[0] in tensors and given.get("perm", [1, 0]) == [1, 0]:
            _add_transposed(graph, tensors[node.input[0]], node.output[0])
        elif node.op_type == "Gemm" and node.input[1] in tensors and {**GEMM, **given} == LINEAR:
            matrix, bias = f"{node.output[0]}_matrix", node.input[2:]
            _add_transposed(graph, tensors[node.input[1]], matrix)
            product = f"{node.output[0]}_product" if bias else node.output[0]
            nodes.append(helper.make_node("MatMul", [node.input[0], matrix], [product]))
            if bias:
                nodes.append(helper.make_node("Add", [product, *bias], [*node.output]))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _add_transposed(graph: Any, tensor: Any, name: str) -> None:
    from onnx import numpy_helper

    values = np.ascontiguousarray(numpy_helper.to_array(tensor).T)
    graph.initializer.append(numpy_helper.from_array(values, name))


def _drop_unused(graph: Any) -> None:
    """Take the tensors away that no node reads."""
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _quantize(model: Any, bits: int, block: int) -> Any:
    """Store the weights of matrix products in `bits` bits."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    with quiet():  # it names every node
        quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=block, is_symmetric=True)
        quantizer.process()
    return quantizer.model.model


def _quantize_table(model: Any, table: Any, bits: int, block: int) -> None:
    """Store the embedding likewise, with a head that is the same."""
    from onnx import helper, numpy_helper
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, DefaultWeightOnlyQuantizer

    graph = model.graph
    how = DefaultWeightOnlyQuantConfig(block_size=block, is_symmetric=True, bits=bits)
    values = numpy_helper.to_array(table)
    packed, scales, _ = DefaultWeightOnlyQuantizer(how).qbits_block_quant(np.ascontiguousarray(values.T))
    names = [_stored(graph, array, f"{table.name}_{what}") for array, what in ((packed, "bits"), (scales, "scales"))]
    wide = f"{table.name}_rows"
    shape = numpy_helper.from_array(np.array([len(values), -1]), f"{table.name}_shape")
    graph.initializer.append(shape)
    for node in [node for node in graph.node if node.op_type == "Gather" and node.input[0] == table.name]:
        read = helper.make_node(
            "GatherBlockQuantized",
            [wide, node.input[1], names[1]],
            [*node.output],
            domain="com.microsoft",
            bits=bits,
            block_size=block,
            gather_axis=0,
            quantize_axis=1,
        )
        place = [*graph.node].index(node)
        graph.node.remove(node)
        graph.node.insert(place, read)
    graph.node.insert(0, helper.make_node("Reshape", [names[0], shape.name], [wide]))
    graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == table.name))


def _stored(graph: Any, array: np.ndarray, name: str) -> str:
    """Return the name of a tensor with these values, which is added if the file has none."""
    from onnx import numpy_helper

    own = numpy_helper.from_array(array, name)
    for tensor in graph.initializer:
        alike = tensor.dims == own.dims and tensor.data_type == own.data_type
        if alike and np.array_equal(numpy_helper.to_array(tensor), array):
            return str(tensor.name)
    graph.initializer.append(own)
    return name
