"""gRPC's health and reflection services, and its calls when the server or a part of it goes away."""
import collections
import contextlib
import os
import queue
import signal
import threading

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc

from muster_server import PATIENCE, put_model, run_muster, sim_config, wait_for
from traffic import standing_still, wait_gateway, worker_pids

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
INFERENCE, HEALTH = "inference.GRPCInferenceService", "grpc.health.v1.Health"
FOUR = np.ones(4, np.float32).tobytes()


def connect(server):
    return grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}")


def infer(model: str, **more) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[FOUR], **more)
    request.inputs.add(name="x", datatype="FP32", shape=[4])
    return request


class Heard:
    """What a call with many answers says, and how it ends."""

    def __init__(self, call):
        self.call, self.said = call, queue.Queue()
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self):
        try:
            for answer in self.call:
                self.said.put(answer)
        except grpc.RpcError:
            pass
        self.said.put(self.call.code())

    def next(self):
        return self.said.get(timeout=PATIENCE)


def watch(channel, service: str) -> Heard:
    return Heard(health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service)))


# ---- health


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = put_model(module_path / "models", "echo", config=sim_config())
    put_model(models, "late", config=sim_config(load_ms=400))
    return serve_module(models, "--model-control-mode=explicit", "--load-model=*")


@pytest.fixture(scope="module")
def channel(server):
    with connect(server) as made:
        yield made


def test_health_check(channel):
    check = health_pb2_grpc.HealthStub(channel).Check
    for service in ("", INFERENCE, HEALTH, "echo"):
        assert check(health_pb2.HealthCheckRequest(service=service)).status == SERVING
    with pytest.raises(grpc.RpcError) as caught:
        check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_health_watch(server, channel):
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    heard, nobody = watch(channel, "echo"), watch(channel, "nobody")
    assert heard.next().status == SERVING and nobody.next().status == SERVICE_UNKNOWN
    stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="echo"))
    assert heard.next().status == SERVICE_UNKNOWN
    stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="echo"))
    assert heard.next().status == SERVING
    for one in (heard, nobody):
        one.call.cancel()
        assert one.next() == grpc.StatusCode.CANCELLED
        one.thread.join()


def test_health_watch_of_a_worker_that_dies(server, channel):
    heard, all_of_it = watch(channel, "late"), watch(channel, "")
    assert heard.next().status == all_of_it.next().status == SERVING
    os.kill(server.workers("late")[0]["pid"], signal.SIGKILL)
    assert [heard.next().status for _ in range(2)] == [NOT_SERVING, SERVING]  # it loads for a while
    assert [all_of_it.next().status for _ in range(2)] == [NOT_SERVING, SERVING]
    for one in (heard, all_of_it):
        one.call.cancel()
        one.thread.join()


# ---- reflection


def test_reflection(channel):
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(database.get_services()) >= {INFERENCE, HEALTH, "grpc.reflection.v1.ServerReflection",
                                            "grpc.reflection.v1alpha.ServerReflection"}
    pool = DescriptorPool(database)
    for name in database.get_services():
        service = pool.FindServiceByName(name)
        assert service.methods and all(method.input_type.fields is not None for method in service.methods)
    served = pool.FindServiceByName(INFERENCE)
    theirs = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert {m.name for m in theirs.methods} == {m.name for m in served.methods}
    for method in theirs.methods:
        here = served.methods_by_name[method.name]
        assert (here.client_streaming, here.server_streaming) == (method.client_streaming, method.server_streaming)
        assert [(f.name, f.number, f.type) for f in here.input_type.fields] == \
            [(f.name, f.number, f.type) for f in method.input_type.fields]
    with pytest.raises(KeyError):
        pool.FindServiceByName("nothing.Here")


def test_reflection_v1(channel):
    talk = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                                 reflection_pb2.ServerReflectionRequest.SerializeToString,
                                 reflection_pb2.ServerReflectionResponse.FromString)
    questions = [reflection_pb2.ServerReflectionRequest(list_services="*"),
                 reflection_pb2.ServerReflectionRequest(file_containing_symbol=INFERENCE),
                 reflection_pb2.ServerReflectionRequest(file_by_filename="nothing.proto"),
                 reflection_pb2.ServerReflectionRequest(file_containing_symbol=HEALTH + ".Check")]
    answers = list(talk(iter(questions), timeout=PATIENCE))
    assert len(answers[0].list_services_response.service) >= 4
    assert answers[1].file_descriptor_response.file_descriptor_proto and answers[3].file_descriptor_response.file_descriptor_proto
    assert answers[2].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
    assert [a.original_request for a in answers] == questions


# ---- going away


def test_drain(serve, tmp_path):
    """What is in flight is answered, calls that would never end are ended, and nobody waits for the end of the time."""
    server = serve(put_model(tmp_path / "models", "slow", config=sim_config(base_ms=150)))
    with connect(server) as channel, contextlib.ExitStack() as still:
        still.enter_context(standing_still(*worker_pids(server)))
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        unary = [stub.ModelInfer.future(infer("slow", id=str(i))) for i in range(3)]
        asked = [queue.Queue() for _ in range(3)]
        for i in range(3):
            asked[0].put(infer("slow", id=str(i)))
        stream, idle = (Heard(stub.ModelStreamInfer(iter(requests.get, None))) for requests in asked[:2])
        watched = watch(channel, "slow")
        reflection = Heard(channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(
            iter(asked[2].get, None)))
        assert watched.next().status == SERVING

        def pending():
            return any(line.startswith("nv_inference_pending_request_count") and float(line.split()[-1]) >= 5
                       for line in server.metrics().splitlines())
        wait_for(pending, "all requests")
        server.signal(signal.SIGTERM)
        server.wait_state("draining")
        still.close()
        assert [future.result(PATIENCE).id for future in unary] == ["0", "1", "2"]
        assert [stream.next().infer_response.id for _ in range(3)] == ["0", "1", "2"]
        assert stream.next() == idle.next() == grpc.StatusCode.UNAVAILABLE
        assert watched.next().status == NOT_SERVING
        assert watched.next() == reflection.next() == grpc.StatusCode.UNAVAILABLE
        assert "going away" in watched.call.details() and "going away" in stream.call.details()
        for requests in asked:
            requests.put(None)
    assert server.wait_exit() == 0
    assert "still in flight at the end" not in server.log


class Load:
    """Threads that infer on one channel as long as the block lasts, and count what becomes of it."""

    def __init__(self, channel, wait_for_ready: bool):
        self.stub, self.counts, self.over = service_pb2_grpc.GRPCInferenceServiceStub(channel), collections.Counter(), False
        self.wait_for_ready = wait_for_ready
        self.threads = [threading.Thread(target=self.ask) for _ in range(4)]

    def ask(self):
        while not self.over:
            try:
                answer = self.stub.ModelInfer(infer("echo"), wait_for_ready=self.wait_for_ready, timeout=PATIENCE)
                self.counts["good" if answer.raw_output_contents[0] == FOUR else "wrong"] += 1
            except grpc.RpcError as error:
                self.counts[error.code()] += 1

    def some_more(self):
        before = self.counts["good"]
        wait_for(lambda: self.counts["good"] > before + 100, "answers")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.some_more()
        return self

    def __exit__(self, *_):
        self.over = True
        for thread in self.threads:
            thread.join()


def test_gateway_dies(serve, tmp_path):
    """Clients see UNAVAILABLE, which they may try again, or nothing at all."""
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config()))
    with connect(server) as channel, Load(channel, wait_for_ready=True) as load:
        killed = []
        for _ in range(2):
            killed.append(wait_gateway(server, *killed))
            os.kill(killed[-1], signal.SIGKILL)
            load.some_more()
    assert set(load.counts) <= {"good", grpc.StatusCode.UNAVAILABLE}, load.counts


def test_upgrade(serve, tmp_path):
    """No call fails; a stream is told to come again, and the gateway before does not stay for it."""
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config()))
    old = server.status()["gateway"]["pid"]
    with connect(server) as channel, Load(channel, wait_for_ready=True) as load:
        stub, requests = service_pb2_grpc.GRPCInferenceServiceStub(channel), queue.Queue()
        stream = Heard(stub.ModelStreamInfer(iter(requests.get, None)))
        requests.put(infer("echo"))
        assert stream.next().infer_response.raw_output_contents[0] == FOUR
        upgraded = run_muster("upgrade", "--control-socket", server.socket)
        assert upgraded.returncode == 0, upgraded.stderr
        assert stream.next() == grpc.StatusCode.UNAVAILABLE
        requests.put(None)
        load.some_more()
        wait_for(lambda: old not in server.family(), "the gateway before to leave")
        again = Heard(stub.ModelStreamInfer(iter([infer("echo")])))
        assert again.next().infer_response.raw_output_contents[0] == FOUR and again.next() == grpc.StatusCode.OK
    assert set(load.counts) == {"good"}, load.counts
