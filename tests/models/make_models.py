#!/usr/bin/env python3
"""Writes the small ONNX models that the tests load: make_models.py FOLDER (default: the folder of this file).

Deterministic: the same version of `onnx` writes the same bytes. The models are kept in the repository, so that
the tests need neither Python nor `onnx`.
"""

import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper, numpy_helper

OPSET, IR = 17, 8
DTYPES = {
    "bool": T.BOOL, "uint8": T.UINT8, "uint16": T.UINT16, "uint32": T.UINT32, "uint64": T.UINT64,
    "int8": T.INT8, "int16": T.INT16, "int32": T.INT32, "int64": T.INT64,
    "fp16": T.FLOAT16, "fp32": T.FLOAT, "fp64": T.DOUBLE, "bytes": T.STRING, "bf16": T.BFLOAT16,
}


def value(name, dtype, dims):
    return helper.make_tensor_value_info(name, dtype, dims)


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def model(nodes, inputs, outputs, constants=()):
    graph = helper.make_graph(nodes, "test", inputs, outputs, list(constants))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
                             producer_name="muster tests")
    onnx.checker.check_model(made)
    return made


def identity():
    """FP32 [N,16] to itself."""
    return model([helper.make_node("Identity", ["x"], ["y"])], [value("x", T.FLOAT, ["N", 16])],
                 [value("y", T.FLOAT, ["N", 16])])


def add():
    """Two inputs."""
    return model([helper.make_node("Add", ["a", "b"], ["sum"])],
                 [value("a", T.FLOAT, ["N", 4]), value("b", T.FLOAT, ["N", 4])], [value("sum", T.FLOAT, ["N", 4])])


def dtypes():
    """An input and an output of every element type."""
    return model([helper.make_node("Identity", [f"in_{n}"], [f"out_{n}"]) for n in DTYPES],
                 [value(f"in_{n}", t, ["N", 2]) for n, t in DTYPES.items()],
                 [value(f"out_{n}", t, ["N", 2]) for n, t in DTYPES.items()])


def string_identity():
    return model([helper.make_node("Identity", ["text"], ["same"])], [value("text", T.STRING, ["N", "M"])],
                 [value("same", T.STRING, ["N", "M"])])


def mlp_layers(random):
    return [random.standard_normal(shape).astype(np.float32) for shape in ((16, 32), (32,), (32, 8), (8,))]


def mlp():
    """16 -> 32 -> 8, ReLU between."""
    w1, b1, w2, b2 = mlp_layers(np.random.default_rng(1))
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"]), helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["r1"]), helper.make_node("MatMul", ["r1", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "b2"], ["y"]),
    ]
    return model(nodes, [value("x", T.FLOAT, ["N", 16])], [value("y", T.FLOAT, ["N", 8])],
                 [constant("w1", w1), constant("b1", b1), constant("w2", w2), constant("b2", b2)])


def quantized_layer(i, source, weights, bias):
    """One layer as dynamic quantisation writes it: the scale comes from the largest value of the whole batch."""
    scale = np.float32(np.abs(weights).max() / 127)
    whole = np.clip(np.round(weights / scale), -127, 127).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [source], [f"q{i}", f"s{i}", f"z{i}"]),
        helper.make_node("MatMulInteger", [f"q{i}", f"w{i}", f"z{i}"], [f"p{i}"]),
        helper.make_node("Cast", [f"p{i}"], [f"f{i}"], to=T.FLOAT),
        helper.make_node("Mul", [f"s{i}", f"ws{i}"], [f"k{i}"]),
        helper.make_node("Mul", [f"f{i}", f"k{i}"], [f"m{i}"]),
        helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"]),
    ]
    return nodes, [constant(f"w{i}", whole), constant(f"ws{i}", scale), constant(f"b{i}", bias)]


def quantized_mlp():
    """The same as mlp, dynamically quantised: neighbours in a batch change each other's answers."""
    w1, b1, w2, b2 = mlp_layers(np.random.default_rng(1))
    first, first_constants = quantized_layer(1, "x", w1, b1)
    second, second_constants = quantized_layer(2, "r1", w2, b2)
    nodes = first + [helper.make_node("Relu", ["a1"], ["r1"])] + second + [helper.make_node("Identity", ["a2"], ["y"])]
    return model(nodes, [value("x", T.FLOAT, ["N", 16])], [value("y", T.FLOAT, ["N", 8])],
                 first_constants + second_constants)


def embedding():
    """Whole numbers into a table of 20 rows: larger ones are refused."""
    table = np.random.default_rng(2).standard_normal((20, 4)).astype(np.float32)
    return model([helper.make_node("Gather", ["table", "ids"], ["y"])], [value("ids", T.INT64, ["N", "L"])],
                 [value("y", T.FLOAT, ["N", "L", 4])], [constant("table", table)])


def not_batched():
    """Says [N], but answers with one row whatever comes in; how many is computed, so that nobody sees it beforehand."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
        helper.make_node("Mul", ["largest", "nothing"], ["zero"]), helper.make_node("Exp", ["zero"], ["one"]),
        helper.make_node("Cast", ["one"], ["count"], to=T.INT64), helper.make_node("Unsqueeze", ["count", "axis"], ["end"]),
        helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"]),
    ]
    return model(nodes, [value("x", T.FLOAT, ["N", 4])], [value("y", T.FLOAT, ["N", 4])],
                 [constant("nothing", np.float32(0)), constant("start", np.array([0], np.int64)),
                  constant("axis", np.array([0], np.int64))])


def mixed():
    """Every row minus the mean of its batch: the shapes are right, the rows are not independent."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0], keepdims=1),
             helper.make_node("Sub", ["x", "mean"], ["y"])]
    return model(nodes, [value("x", T.FLOAT, ["N", 4])], [value("y", T.FLOAT, ["N", 4])])


def nonzero():
    """The shape of the output depends on the values."""
    return model([helper.make_node("NonZero", ["x"], ["where"])], [value("x", T.FLOAT, ["N", 4])],
                 [value("where", T.INT64, [2, "found"])])


def fixed():
    """No dimension may vary."""
    two = constant("two", np.float32(2))
    return model([helper.make_node("Mul", ["x", "two"], ["y"])], [value("x", T.FLOAT, [2, 3])],
                 [value("y", T.FLOAT, [2, 3])], [two])


def wrong_shape():
    """Says that the output is as long as the input; it is half of it."""
    nodes = [helper.make_node("Slice", ["x", "zero", "end", "one", "step"], ["y"])]
    whole = [constant(n, np.array([v], np.int64)) for n, v in (("zero", 0), ("end", 1 << 30), ("one", 1), ("step", 2))]
    return model(nodes, [value("x", T.FLOAT, ["N", "L"])], [value("y", T.FLOAT, ["N", "L"])], whole)


def sequence():
    """An output that is no tensor."""
    made = helper.make_tensor_sequence_value_info("parts", T.FLOAT, None)
    return model([helper.make_node("SequenceConstruct", ["x"], ["parts"])], [value("x", T.FLOAT, [2])], [made])


def float8():
    """An element type that the protocol does not know."""
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=T.FLOAT8E4M3FN)], "test",
                              [value("x", T.FLOAT, [2])], [value("y", T.FLOAT8E4M3FN, [2])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9,
                             producer_name="muster tests")


def slow():
    """Counts n up one by one: how long it runs is in the input, and stopping is seen between the steps."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["sum", "step"], ["more"])], "body",
        [value("i", T.INT64, []), value("go", T.BOOL, []), value("sum", T.FLOAT, [1])],
        [value("go_on", T.BOOL, []), value("more", T.FLOAT, [1])], [constant("step", np.ones(1, np.float32))])
    nodes = [helper.make_node("Squeeze", ["n"], ["steps"]),
             helper.make_node("Loop", ["steps", "", "start"], ["sum_of_steps"], body=body)]
    return model(nodes, [value("n", T.INT64, [1])], [value("sum_of_steps", T.FLOAT, [1])],
                 [constant("start", np.zeros(1, np.float32))])


MODELS = [identity, add, dtypes, string_identity, mlp, quantized_mlp, embedding, not_batched, mixed, nonzero, fixed,
          wrong_shape, sequence, float8, slow]


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    for make in MODELS:
        (folder / f"{make.__name__}.onnx").write_bytes(make().SerializeToString(deterministic=True))


if __name__ == "__main__":
    main()
