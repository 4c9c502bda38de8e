"""gRPC at its edges: messages in pieces, calls that end in ways that no client library would choose, and the server's end."""
import os
import signal
import threading

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from muster_server import PATIENCE, put_model, sim_config
from oip import same
from traffic import rows, sim_model, standing_still, wait_depth, worker_pids
from websocket_client import BINARY, RawStream, binary_message, frame

WATCH, REFLECTION = "/grpc.health.v1.Health/Watch", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    """echo takes rows of 16, ints any number of INT32."""
    repository = sim_model(module_path / "models")
    put_model(repository, "ints", config=sim_config(dtype="TYPE_INT32", dims="-1", max_batch_size=8))
    return serve_module(repository, "--gateway-threads=1", "--head-timeout=1s")


def channel(server):
    return grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")


def infer(channel, request):
    return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=PATIENCE)


def echo_request(first):
    request = service_pb2.ModelInferRequest(model_name="echo")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
    request.raw_input_contents.append(rows(first).tobytes())
    return request


def iter_open(*messages):
    """Messages of a client that says nothing more, but does not end its side either."""
    yield from messages
    threading.Event().wait(PATIENCE)


# ---- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 100_000])
def test_typed_contents_of_any_length(server, n):
    """The longer one comes in many pieces, of which none are raw contents."""
    numbers = np.arange(n, dtype=np.int32) * 20000
    request = service_pb2.ModelInferRequest(model_name="ints")
    request.inputs.add(name="x", datatype="INT32", shape=[1, n]).contents.int_contents.extend(numbers.tolist())
    with channel(server) as one:
        assert same(np.frombuffer(infer(one, request).raw_output_contents[0], np.int32), numbers)


def test_grpc_needs_http2(server):
    """Its status stands in trailers, which HTTP/1.1 clients do not look for."""
    for path in REFLECTION, "/inference.GRPCInferenceService/ServerLive":
        reply = server.post(path, b"\0\0\0\0\0", headers={"Content-Type": "application/grpc"}, port=server.grpc_port)
        assert reply.status == 505 and "HTTP/2" in reply.json["error"]


# ---- messages that do not come ---------------------------------------------------------------------------------------


def test_a_stream_whose_message_comes_too_slowly_keeps_no_memory(server):
    """The message is refused, what still comes of it is thrown away, and the stream goes on."""
    message = binary_message("slow", {"x": rows(1)})
    whole = frame(0x80 | BINARY, message)
    with RawStream(server, "/v2/models/echo/stream") as ws:
        ws.send(whole[:-4])
        assert ws.receive()[0] == 1
        ws.send(whole[-4:], frame(0x80 | BINARY, binary_message("next", {"x": rows(2)})))
        assert b"next" in ws.receive()[1]


# ---- the server's end ------------------------------------------------------------------------------------------------


def test_open_calls_do_not_hold_up_the_end(serve, tmp_path):
    """What is in flight is answered; then streams that their clients keep open end with UNAVAILABLE."""
    server = serve(sim_model(tmp_path / "models"), "--gateway-threads=1")
    (worker,) = worker_pids(server)
    with channel(server) as one, standing_still(worker):
        watch = one.unary_stream(WATCH)(b"")
        assert next(watch) == SERVING
        asking = one.stream_stream(REFLECTION)(iter_open(b"\x3a\x00"))
        assert b"inference.GRPCInferenceService" in next(asking)
        answers = service_pb2_grpc.GRPCInferenceServiceStub(one).ModelStreamInfer(iter_open(echo_request(3)))
        wait_depth(server, 1)
        server.signal(signal.SIGTERM)
        assert next(watch) == NOT_SERVING
        for call in watch, asking:
            with pytest.raises(grpc.RpcError) as error:
                next(call)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE and "going away" in error.value.details()
        os.kill(worker, signal.SIGCONT)
        assert same(np.frombuffer(next(answers).infer_response.raw_output_contents[0], np.float32), rows(3)[0])
        with pytest.raises(grpc.RpcError) as error:
            next(answers)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE and "going away" in error.value.details()
        assert server.wait_exit() == 0
    assert "still in flight" not in server.log
