"""The models that are measured; made on the spot, but for Magika, which script/bootstrap fetches."""
import pathlib

import numpy as np
import onnx
import onnx.helper as h

ROOT = pathlib.Path(__file__).resolve().parents[1]


def save(nodes, inputs, outputs, weights, path):
    graph = h.make_graph(nodes, "bench", inputs, outputs, weights)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), path)


def make_mlp(path):
    """1024-2048-2048-2048-1000, ReLU between."""
    random, sizes = np.random.default_rng(1), (1024, 2048, 2048, 2048, 1000)
    nodes, weights, last = [], [], "x"
    for i, (rows, columns) in enumerate(zip(sizes, sizes[1:])):
        w = (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights += [onnx.numpy_helper.from_array(w, f"w{i}"),
                    onnx.numpy_helper.from_array(np.zeros(columns, np.float32), f"b{i}")]
        nodes.append(h.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"g{i}"]))
        last = f"g{i}"
        if i < len(sizes) - 2:
            nodes.append(h.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    nodes[-1].output[0] = "y"
    save(nodes, [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1024])],
         [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 1000])], weights, path)


def make_identity(path, dims):
    save([h.make_node("Identity", ["x"], ["y"])],
         [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *dims])],
         [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", *dims])], [], path)


def models(folder):
    """Name → file; Magika's stands in a repository, since it needs its name."""
    folder.mkdir(parents=True)
    make_mlp(folder / "mlp.onnx")
    make_identity(folder / "identity16.onnx", [16])
    make_identity(folder / "identity30k.onnx", [7680])
    make_identity(folder / "identity1m.onnx", [3, 320, 320])
    (folder / "magika" / "1").mkdir(parents=True)
    (folder / "magika" / "1" / "model.onnx").symlink_to((ROOT / ".deps/models/magika/1/model.onnx").resolve())
    return {"mlp": folder / "mlp.onnx", "identity16": folder / "identity16.onnx",
            "identity30k": folder / "identity30k.onnx", "identity1m": folder / "identity1m.onnx", "magika": folder / "magika/1/model.onnx"}


def make_unet(path, size=128, width=32, dtype=np.float32):
    """Image to image, two levels down and up with skips, 3×size×size."""
    random, nodes, weights, element = np.random.default_rng(1), [], [], onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def conv(name, source, rows, columns, stride=1, relu=True):
        w = (random.standard_normal((columns, rows, 3, 3)) / np.sqrt(9 * rows)).astype(dtype)
        weights.extend([onnx.numpy_helper.from_array(w, f"{name}_w"),
                        onnx.numpy_helper.from_array(np.zeros(columns, dtype), f"{name}_b")])
        nodes.append(h.make_node("Conv", [source, f"{name}_w", f"{name}_b"], [f"{name}_c"], kernel_shape=[3, 3],
                                 pads=[1, 1, 1, 1], strides=[stride, stride]))
        nodes.append(h.make_node("Relu" if relu else "Sigmoid", [f"{name}_c"], [name]))
        return name

    def up(name, source, rows, columns):
        w = (random.standard_normal((rows, columns, 2, 2)) / np.sqrt(rows)).astype(dtype)
        weights.append(onnx.numpy_helper.from_array(w, f"{name}_w"))
        nodes.append(h.make_node("ConvTranspose", [source, f"{name}_w"], [name], kernel_shape=[2, 2], strides=[2, 2]))
        return name

    def beside(name, first, second):
        nodes.append(h.make_node("Concat", [first, second], [name], axis=1))
        return name

    a = conv("a", "x", 3, width)
    b = conv("b", conv("b0", a, width, 2 * width, stride=2), 2 * width, 2 * width)
    c = conv("c", conv("c0", b, 2 * width, 4 * width, stride=2), 4 * width, 4 * width)
    d = conv("d", beside("d1", up("d0", c, 4 * width, 2 * width), b), 4 * width, 2 * width)
    e = conv("e", beside("e1", up("e0", d, 2 * width, width), a), 2 * width, width)
    conv("y", e, width, 3, relu=False)
    shape = ["N", 3, size, size]
    save(nodes, [h.make_tensor_value_info("x", element, shape)], [h.make_tensor_value_info("y", element, shape)], weights, path)
