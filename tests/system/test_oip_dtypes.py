"""Every element type of the protocol, as JSON and as bytes, to the bit."""
import json
import re

import numpy as np
import pytest

from muster_server import MODELS
from oip import BINARY_OUTPUTS, DTYPES, Wire, binary_body, objects, outputs_of, same, tensor, to_wire

INTEGERS = [name for name in DTYPES if "INT" in name]
FLOATS = {"FP16": np.uint16, "BF16": np.uint16, "FP32": np.uint32, "FP64": np.uint64}


@pytest.fixture(scope="module")
def server(serve_module):
    return serve_module(MODELS / "dtypes.onnx", MODELS / "string_identity.onnx")


@pytest.fixture
def wire(server):
    with Wire(server.port) as connection:
        yield connection


def edges(name: str) -> np.ndarray:
    """Values at the ends of a type and the odd ones between, two a row."""
    dtype = DTYPES[name]
    if name == "BOOL":
        return np.array([[True, False], [False, True]])
    if name == "BYTES":
        return objects([b"", "Gr\u00fc\u00dfe \U0001f600".encode(), b"\x00", b'a\x00b\n\r\t"\\/\x1f\x7f'], (2, 2))
    if name in INTEGERS:
        info = np.iinfo(dtype)
        return np.array([[info.min, info.max], [0, 1], [info.max - 1, info.min + 1]], dtype)
    # by their bits: zero, minus zero, least subnormal, least normal, largest, one, one and a bit, -pi
    ones = {"FP16": 0x3C00, "BF16": 0x3F80, "FP32": 0x3F800000, "FP64": 0x3FF0000000000000}[name]
    infinity = {"FP16": 0x7C00, "BF16": 0x7F80, "FP32": 0x7F800000, "FP64": 0x7FF0000000000000}[name]
    normal = {"FP16": 0x0400, "BF16": 0x0080, "FP32": 0x00800000, "FP64": 0x0010000000000000}[name]
    sign = 1 << (np.dtype(FLOATS[name]).itemsize * 8 - 1)
    pi = np.array([-np.pi]).astype(dtype).view(FLOATS[name])[0]
    bits = [0, sign, 1, normal - 1, normal, infinity - 1, ones, ones + 1, int(pi), sign | (infinity - 1)]
    return np.array(bits, FLOATS[name]).view(dtype).reshape(-1, 2)


def every_input(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """The model wants all its inputs; those of the other types are empty or zero."""
    rows = array.shape[0]
    inputs = {}
    for other, dtype in DTYPES.items():
        blank = objects([b""] * (2 * rows), (rows, 2)) if other == "BYTES" else np.zeros((rows, 2), dtype)
        inputs[f"in_{other.lower()}"] = array if other == name else blank
    return inputs


def only(name: str, binary: bool) -> list[dict]:
    return [{"name": f"out_{name.lower()}", "parameters": {"binary_data": binary}}]


@pytest.mark.parametrize("name", DTYPES)
def test_binary_there_and_back(wire, name):
    body, headers = binary_body(every_input(name, edges(name)), outputs=only(name, True))
    assert same(outputs_of(wire.infer("dtypes", body, headers))[f"out_{name.lower()}"], edges(name))


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_json_there_and_back(wire, name, flat):
    inputs = [tensor(key, array, flat) for key, array in every_input(name, edges(name)).items()]
    reply = wire.infer("dtypes", {"inputs": inputs, "outputs": only(name, False)})
    assert same(outputs_of(reply)[f"out_{name.lower()}"], edges(name))


@pytest.mark.parametrize("name", DTYPES)
def test_random_values_in_json_come_out_as_they_went_in(wire, name):
    """Random bits of the type (finite ones), as JSON in and as binary out, and the other way round."""
    random = np.random.default_rng(sorted(DTYPES).index(name))
    n = 64
    if name == "BYTES":
        texts = ["".join(chr(c) for c in random.choice([*range(0x80), 0xE4, 0x20AC, 0x1F600], random.integers(9)))
                 for _ in range(n)]
        array = objects([text.encode() for text in texts], (n // 2, 2))
    elif name == "BOOL":
        array = random.integers(0, 2, (n // 2, 2)).astype(np.bool_)
    else:
        dtype = np.dtype(DTYPES[name])
        array = np.frombuffer(random.bytes(n * dtype.itemsize), dtype).copy().reshape(-1, 2)
        if name in FLOATS:
            with np.errstate(invalid="ignore"):
                array[~np.isfinite(array)] = 1
    inputs = every_input(name, array)
    as_json = wire.infer("dtypes", {"inputs": [tensor(k, v) for k, v in inputs.items()], "outputs": only(name, True)})
    assert same(outputs_of(as_json)[f"out_{name.lower()}"], array)
    body, headers = binary_body(inputs, outputs=only(name, False))
    assert same(outputs_of(wire.infer("dtypes", body, headers))[f"out_{name.lower()}"], array)


@pytest.mark.parametrize("name", FLOATS)
def test_what_is_not_finite_needs_binary(wire, name):
    array = np.array([[np.nan, np.inf], [-np.inf, 1]]).astype(DTYPES[name])
    inputs = every_input(name, array)
    body, headers = binary_body(inputs, outputs=only(name, True))
    assert same(outputs_of(wire.infer("dtypes", body, headers))[f"out_{name.lower()}"], array)
    body, headers = binary_body(inputs, outputs=only(name, False))
    reply = wire.infer("dtypes", body, headers)
    assert reply.status == 501 and "JSON cannot carry: ask for binary data" in reply.json["error"]


def test_booleans_may_be_numbers_in_json(wire):
    inputs = [tensor(key, array) for key, array in every_input("BOOL", edges("BOOL")).items()]
    next(i for i in inputs if i["name"] == "in_bool")["data"] = [1, 0, 0, 1]
    assert same(outputs_of(wire.infer("dtypes", {"inputs": inputs, "outputs": only("BOOL", False)}))["out_bool"],
                edges("BOOL"))


@pytest.mark.parametrize("name, value", [
    *((name, value) for name in INTEGERS
      for value in (int(np.iinfo(DTYPES[name]).max) + 1, int(np.iinfo(DTYPES[name]).min) - 1)),
    ("INT32", 1.5), ("INT32", "1"), ("INT32", None), ("INT32", True), ("UINT8", 1e30), ("FP16", 65520),
    ("FP32", 1e39), ("BF16", 1e39), ("FP64", 10**400), ("FP32", "NaN"), ("BOOL", 2), ("BOOL", "true"), ("BYTES", 1),
    ("BYTES", None), ("FP32", {})])
def test_a_value_that_the_type_cannot_hold(wire, name, value):
    inputs = [tensor(key, array, flat=True) for key, array in every_input(name, edges(name)[:1]).items()]
    next(i for i in inputs if i["name"] == f"in_{name.lower()}")["data"][1] = value
    reply = wire.infer("dtypes", {"inputs": inputs})
    assert reply.status == 400 and name in reply.json["error"] and "element 1" in reply.json["error"], reply.body
    good = [tensor(key, array) for key, array in every_input(name, edges(name)).items()]
    assert wire.infer("dtypes", {"inputs": good, "outputs": only(name, True)}).status == 200


# ---- BYTES: any byte


def test_any_byte_survives(wire):
    array = objects([bytes(range(256)), b"", b"\xff\xfe", b"\x00" * 1000, bytes(reversed(range(256))) * 50, b"x"], (2, 3))
    body, headers = binary_body({"text": array}, **BINARY_OUTPUTS)
    for _ in range(3):
        assert same(outputs_of(wire.infer("string_identity", body, headers))["same"], array)


def test_bytes_that_are_no_text_cannot_leave_as_json(wire):
    body, headers = binary_body({"text": objects([b"fine", b"\xff"], (1, 2))})
    reply = wire.infer("string_identity", body, headers)
    assert reply.status == 501
    assert reply.json["error"] == ("output 'same': element 1 is not valid UTF-8, which JSON cannot carry: "
                                   "ask for binary data")


def test_escapes_in_json_strings(wire):
    text = r'{"inputs":[{"name":"text","shape":[1,4],"datatype":"BYTES","data":["\u0000\u00e4","\ud83d\ude00","\"\\\/\b\f\n\r\t",""]}]}'
    expected = objects(["\0\u00e4".encode(), "\U0001f600".encode(), b'"\\/\b\f\n\r\t', b""], (1, 4))
    reply = wire.infer("string_identity", text)
    assert same(outputs_of(reply)["same"], expected)


@pytest.mark.parametrize("text", [r'"\ud83d"', r'"\ude00\ud83d"', r'"\x41"', r'"\u12"', '"\n"', '"open'])
def test_strings_that_json_does_not_allow(wire, text):
    body = '{"inputs":[{"name":"text","shape":[1,1],"datatype":"BYTES","data":[%s]}]}' % text
    reply = wire.infer("string_identity", body)
    assert reply.status == 400 and reply.json["error"].startswith("the request's JSON is wrong at byte "), reply.body


def test_no_elements_at_all(wire):
    empty = objects([], (3, 0))
    body, headers = binary_body({"text": empty}, **BINARY_OUTPUTS)
    assert same(outputs_of(wire.infer("string_identity", body, headers))["same"], empty)
    reply = wire.infer("string_identity", {"inputs": [tensor("text", empty, flat=True)]})
    assert reply.status == 200 and reply.json["outputs"][0] == {"name": "same", "datatype": "BYTES", "shape": [3, 0],
                                                                "data": []}


@pytest.mark.parametrize("wire_form", [b"\x05\0\0\0abc", b"\x01\0\0\0a\x01\0\0", b"\xff\xff\xff\xffab\0\0",
                                       b"\x01\0\0\0a" + b"\0\0\0\0" * 2, b"\x04\0\0\0abcd"])
def test_bytes_lengths_that_do_not_add_up(wire, wire_form):
    """Two elements are claimed."""
    head = json.dumps({"inputs": [{"name": "text", "shape": [1, 2], "datatype": "BYTES",
                                   "parameters": {"binary_data_size": len(wire_form)}}]}).encode()
    reply = wire.infer("string_identity", head + wire_form, {"Inference-Header-Content-Length": str(len(head))})
    assert reply.status == 400 and re.search("'text'.*(data|left)", reply.json["error"]), reply.body
    good, headers = binary_body({"text": objects([b"a", b"b"], (1, 2))})
    assert wire.infer("string_identity", good, headers).status == 200


def test_binary_booleans_are_zero_or_one(wire):
    inputs = every_input("BOOL", edges("BOOL"))
    body, headers = binary_body(inputs)
    at = body.index(to_wire(edges("BOOL")), int(headers["Inference-Header-Content-Length"]))
    reply = wire.infer("dtypes", body[:at] + b"\x02" + body[at + 1:], headers)
    assert reply.status == 400 and "neither 0 nor 1" in reply.json["error"]
