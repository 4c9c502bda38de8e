"""Calls of gRPC as they should not be, each answered with its own status; and messages in pieces of any size."""
import gzip
import zlib

import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from grpc_wire import SERVICE, Call, message
from muster_server import put_model, sim_config, wait_for
from oip import Wire as Http1
from traffic import standing_still, worker_pids

X = np.arange(16, dtype=np.float32).reshape(1, 16)
INVALID_ARGUMENT, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 3, 4, 7, 8, 12


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name in ("identity", "add"):
        put_model(models, name, f"{name}.onnx")
    put_model(models, "sleepy", config=sim_config(base_ms=150))
    put_model(models, "wide", config=sim_config(dims="-1"))
    put_model(models, "text", config=sim_config("TYPE_STRING", "-1"))
    put_model(models, "texts", config='backend: "sim"\ninput [{ name: "x" data_type: TYPE_STRING dims: [-1] }, { name: "z" '
              'data_type: TYPE_STRING dims: [-1] }]\noutput { name: "y" data_type: TYPE_STRING dims: [-1] }\n')
    return serve_module(models, "--body-limit=1MiB", "--admin=off")


@pytest.fixture(autouse=True)
def still_serves(server):
    yield
    request = infer()
    (answer,) = Call(server.grpc_port).send(message(request.SerializeToString())).messages()
    assert pb.ModelInferResponse.FromString(answer).raw_output_contents[0] == X.tobytes()


def infer(model="identity", raw=(X.tobytes(),), shape=(1, 16), datatype="FP32", names=("x",), **more) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=raw, **more)
    for name in names:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
    return request


def typed(field: str, values, **options) -> pb.ModelInferRequest:
    request = infer(raw=(), **options)
    getattr(request.inputs[0].contents, field).extend(values)
    return request


GOOD = infer().SerializeToString()

# ---- HTTP that is no gRPC


@pytest.mark.parametrize("options, code, text", [
    ({"content_type": "application/json"}, "415", "application/grpc"), ({"content_type": None}, "415", "application/grpc"),
    ({"content_type": "application/grpc-web"}, "415", "application/grpc"), ({"post": False}, "405", "POST")])
def test_not_grpc(server, options, code, text):
    head, body, _ = Call(server.grpc_port, **options).send(message(GOOD)).answer()
    assert head[":status"] == code and text in body.decode()


@pytest.mark.parametrize("content_type", ["application/grpc", "application/grpc+proto", "APPLICATION/GRPC; x=y"])
def test_content_types(server, content_type):
    assert len(Call(server.grpc_port, content_type=content_type).send(message(GOOD)).messages()) == 1


def test_http1(server):
    with Http1(server.grpc_port) as wire:
        reply = wire.ask("POST", SERVICE + "ModelInfer", message(GOOD), {"Content-Type": "application/grpc"})
        assert reply.status == 505 and "HTTP/2" in reply.body.decode()
        reply = wire.ask("POST", SERVICE + "ModelInfer", b"{}", {"Content-Type": "application/json"})
        assert reply.status == 415
        assert wire.ask("GET", "/v2/health/ready").status == 200


# ---- calls


@pytest.mark.parametrize("path", [SERVICE + "Nothing", "/nothing.at/All", SERVICE, "/v2", SERVICE + "ModelInfer/"])
def test_unknown_method(server, path):
    code, text = Call(server.grpc_port, path=path).send(message(GOOD)).status()
    assert code == UNIMPLEMENTED and path in text


def test_unknown_compression(server):
    head, _, trailers = Call(server.grpc_port, grpc_encoding="br").send(message(GOOD, compressed=1)).answer()
    assert trailers["grpc-status"] == "12" and "br" in trailers["grpc-message"]
    assert set(head["grpc-accept-encoding"].replace(" ", "").split(",")) == {"identity", "gzip", "deflate"}


@pytest.mark.parametrize("timeout", ["", "1", "S", "123456789S", "1x", "-1S", "1 S", "1SS"])
def test_bad_timeout(server, timeout):
    code, text = Call(server.grpc_port, grpc_timeout=timeout).send(message(GOOD)).status()
    assert code == INVALID_ARGUMENT and "grpc-timeout" in text


@pytest.mark.parametrize("timeout", ["0n", "1n", "20m"])
def test_short_timeout(server, timeout):
    four = infer("sleepy", [bytes(16)], shape=(4,)).SerializeToString()
    with standing_still(*worker_pids(server, "sleepy")):
        code, text = Call(server.grpc_port, grpc_timeout=timeout).send(message(four)).status()
    assert code == DEADLINE_EXCEEDED and ("deadline" in text or "timeout" in text)


@pytest.mark.parametrize("method", ["RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister",
                                    "SystemSharedMemoryUnregister", "SystemSharedMemoryStatus", "CudaSharedMemoryRegister"])
def test_administration_is_off(server, method):
    code, text = Call(server.grpc_port, path=SERVICE + method).send(message(b"")).status()
    assert code == PERMISSION_DENIED and "--admin" in text


def test_settings_may_be_read_only(server):
    setting = pb.LogSettingsRequest()
    setting.settings["log_info"].bool_param = False
    assert len(Call(server.grpc_port, path=SERVICE + "LogSettings").send(message(b"")).messages()) == 1
    assert Call(server.grpc_port, path=SERVICE + "LogSettings").send(message(setting.SerializeToString())).status()[0] == \
        PERMISSION_DENIED


# ---- messages of a call


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive", "ModelStreamInfer"])
@pytest.mark.parametrize("data, text", [
    (message(GOOD)[:-1], "message"), (b"\0\0\0", "message"), (message(GOOD, compressed=1), "compress"),
    (message(GOOD, compressed=7), "byte 7"), (message(GOOD) + b"\0", "message"), (message(GOOD, size=len(GOOD) + 1), "message")],
                         ids=["cut off", "prefix cut off", "compressed", "unknown flag", "more behind", "size that lies"])
def test_broken_framing(server, method, data, text):
    code, said = Call(server.grpc_port, path=SERVICE + method).send(data).status()
    assert code == INVALID_ARGUMENT and text in said


@pytest.mark.parametrize("method", ["ModelInfer", "ServerLive"])
def test_not_one_message(server, method):
    assert Call(server.grpc_port, path=SERVICE + method).send(b"").status() == \
        (INVALID_ARGUMENT, "the call ends without a message")
    assert Call(server.grpc_port, path=SERVICE + method, end=True).status()[0] == INVALID_ARGUMENT
    twice = message(GOOD if method == "ModelInfer" else b"") * 2
    for piece in (16384, 1):
        assert Call(server.grpc_port, path=SERVICE + method).send(twice, piece).status() == \
            (INVALID_ARGUMENT, "the call has more than one message")


@pytest.mark.parametrize("method, size", [("ModelInfer", 1 << 20), ("ModelInfer", (1 << 32) - 1), ("ServerLive", 65537),
                                          ("ModelStreamInfer", 1 << 20)])
def test_too_large(server, method, size):
    code, text = Call(server.grpc_port, path=SERVICE + method).send(message(b"x", size=size), end=False).status()
    assert code == RESOURCE_EXHAUSTED and "larger than max" in text


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@pytest.mark.parametrize("encoding, pack", [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compression(server, method, encoding, pack):
    def call():
        return Call(server.grpc_port, path=SERVICE + method, grpc_encoding=encoding)
    assert len(call().send(message(pack(GOOD), 1), piece=3).messages()) == 1
    assert len(call().send(message(GOOD)).messages()) == 1  # each message says it for itself
    bomb = message(pack(bytes(4 << 20)), 1)
    assert call().send(bomb).status()[0] == RESOURCE_EXHAUSTED
    for broken in (pack(GOOD)[:-3], b"junk", b"", pack(GOOD)[:-3] + b"\1\2\3"):
        assert call().send(message(broken, 1)).status()[0] == INVALID_ARGUMENT


def test_never_ended(server):
    """Neither an end nor a reset leaves anything behind: pytest's fixture sees the answers of others, and the server's end its
    memory (asan)."""
    for method in ("ModelInfer", "ServerLive", "ModelStreamInfer"):
        for data in (b"", b"\0\0", message(GOOD), message(GOOD)[:-5]):
            Call(server.grpc_port, path=SERVICE + method).send(data, end=False).reset().wire.close()
            Call(server.grpc_port, path=SERVICE + method).send(data, end=False).wire.close()


# ---- requests


def nested(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = b"\x2a" + varint(len(data)) + data  # inputs in inputs
    return data


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


REQUESTS = {
    "no model": (infer(""), "model"),
    "wrong version": (infer(model_version="-3"), "version"),
    "raw and typed": (typed("fp32_contents", X.ravel().tolist()), "contents field must not be specified when using raw"),
    "contents of another type": (typed("int_contents", range(16)), "fp32_contents"),
    "contents too few": (typed("fp32_contents", [1.0] * 15), "16"),
    "contents too many": (typed("fp32_contents", [1.0] * 17), "16"),
    "neither": (infer(raw=()), "neither contents nor raw_input_contents"),
    "raw too short": (infer(raw=[X.tobytes()[:-1]]), "63 bytes"),
    "raw too long": (infer(raw=[X.tobytes() + b"x"]), "65 bytes"),
    "raw too many": (infer(raw=[X.tobytes()] * 2), "raw_input_contents, its inputs for model 'identity' take 1"),
    "raw too few": (infer("add", [bytes(16)], (1, 4), names="ab"), "raw"),
    "raw for nothing": (infer(names=()), "raw_input_contents, its inputs for model 'identity' take 0"),
    "a dimension below zero": (infer(shape=(-1, 16)), "dimension"),
    "a shape that overflows": (infer(shape=(1 << 62, 16)), "x"),
    "many dimensions": (infer(shape=[1] * 40), "dimensions"),
    "unknown datatype": (infer(datatype="FP33"), "FP33"),
    "an input twice": (infer(names="xx", raw=[X.tobytes()] * 2), "x"),
    "strings whose lengths lie": (infer("text", [b"\x05\0\0\0abc\0"], (1,), "BYTES"), "x"),
    "strings that are too few": (infer("text", [b"\x01\0\0\0a"], (2,), "BYTES"), "x"),
    "strings that are too many": (infer("text", [b"\x01\0\0\0a" * 2], (1,), "BYTES"), "x"),
}
REQUESTS["raw and typed"][0].raw_input_contents.append(X.tobytes())
BYTES = {
    "no protobuf": (b"\xff" * 30, "protobuf"), "cut off": (GOOD[:-1], "protobuf"), "a group": (b"\x0b\x0c", "protobuf"),
    "field 0": (b"\0\0", "protobuf"), "nested": (b"\x0a\x08identity" + nested(2000), "input"), "no UTF-8": (b"\x0a\x02\xff\xfe", "model"),
    "a length past the end": (b"\x0a\x08identity\x3a\xff\xff\xff\xff\x0f", "protobuf"), "NUL in a name": (b"\x0a\x03a\0b", "model"),
    "a name that is a path": (b"\x0a\x09../../etc", "model"), "empty": (b"", "model")}


@pytest.mark.parametrize("piece", [16384, 1])
@pytest.mark.parametrize("name", [*REQUESTS, *BYTES])
def test_bad_requests(server, name, piece):
    data, text = BYTES[name] if name in BYTES else REQUESTS[name]
    data = data if isinstance(data, bytes) else data.SerializeToString()
    code, said = Call(server.grpc_port).send(message(data), piece).status()
    assert code == INVALID_ARGUMENT and text in said
    # in a stream it is that request's own answer, and the next one has its
    first, second = Call(server.grpc_port, path=SERVICE + "ModelStreamInfer").send(message(data) + message(GOOD), piece).messages()
    assert text in pb.ModelStreamInferResponse.FromString(first).error_message
    assert pb.ModelStreamInferResponse.FromString(second).infer_response.raw_output_contents[0] == X.tobytes()


# ---- in pieces

STRINGS = [b"\x03\0\0\0abc" + b"\0" * 4, b"\x01\0\0\0z"]
PIECES = {
    "raw": (infer(), X.tobytes()),
    "two inputs": (infer("add", [bytes(16), X.tobytes()[:16]], (1, 4), names="ab"), X.tobytes()[:16]),
    "typed": (typed("fp32_contents", X.ravel().tolist()), X.tobytes()),
    "nothing in it": (infer("wide", [b""], (0,)), b""),
    "nothing, and no contents": (infer("wide", (), (0,)), b""),
    "a string": (infer("text", STRINGS[:1], (2,), "BYTES"), STRINGS[0]),
    "typed strings": (typed("bytes_contents", [b"abc", b""], model="text", shape=(2,), datatype="BYTES"), STRINGS[0]),
    "two inputs of strings": (infer("texts", STRINGS, (2,), "BYTES", "xz"), STRINGS[0]),
}
PIECES["two inputs of strings"][0].inputs[1].shape[:] = [1]
PIECES["typed"] = (typed("fp32_contents", X.ravel().tolist()), X.tobytes())


@pytest.mark.parametrize("piece", [1, 7, 50])
@pytest.mark.parametrize("name", PIECES)
def test_pieces(server, name, piece):
    request, wanted = PIECES[name]
    for data in (request.SerializeToString(), behind(request)):
        (answer,) = Call(server.grpc_port).send(message(data), piece).messages()
        assert pb.ModelInferResponse.FromString(answer).raw_output_contents[0] == wanted


def behind(request: pb.ModelInferRequest) -> bytes:
    """The raw contents first, then what says where they belong: legal, though no library writes it so."""
    raw = pb.ModelInferRequest(raw_input_contents=request.raw_input_contents)
    rest = pb.ModelInferRequest()
    rest.CopyFrom(request)
    rest.ClearField("raw_input_contents")
    return raw.SerializeToString() + rest.SerializeToString()
