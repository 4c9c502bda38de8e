"""Everybody at once: clients of every protocol that ask, cancel, run out of time and break off, while models come and go and
settings change. Nothing may be left of them, and the counters have to add up with what the clients have seen."""
import contextlib
import json
import os
import pathlib
import random
import re
import socket
import threading
import time

import grpc
import numpy as np
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2, service_pb2_grpc

from muster_server import PATIENCE, VISIBLE, sanitized, wait_for
from oip import binary_body, same, tensor
from traffic import Client, depth, metric, rows, sim_model
from websocket_client import binary_message, receive, stream

WARM_UP, SECONDS = 1.0, 3.0
LEAK_KIB = 6 << 10  # of anonymous memory: more than the allocator's whims, less than a request of each round would leave


class Account:
    """What became of requests to `echo`: answered well, refused, or nobody knows, as their client did not wait."""

    def __init__(self):
        self.lock, self.answered, self.refused, self.unknown, self.problems = threading.Lock(), 0, 0, 0, []

    def is_little(self):
        return self.answered <= 100 or self.unknown <= 20

    def add(self, answered=0, refused=0, unknown=0):
        with self.lock:
            self.answered, self.refused, self.unknown = self.answered + answered, self.refused + refused, self.unknown + unknown


class Visit:
    """One client thread's view: the server, its chance, the account, and whether time is up."""

    def __init__(self, server, account, seed, until):
        self.server, self.account, self.chance, self.until = server, account, random.Random(seed), until

    def goes_on(self):
        """Until the time is up and enough was done, on however slow a machine."""
        now = time.monotonic()
        return now < self.until or self.account.is_little() and now < self.until + PATIENCE

    def some_rows(self):
        return rows(*(self.chance.randrange(1000) for _ in range(self.chance.choice((1, 1, 2, 4)))))


# ---- clients ---------------------------------------------------------------------------------------------------------

def http(visit):
    with Client(visit.server) as client:
        while visit.goes_on():
            sent = visit.some_rows()
            parameters = {"timeout": 200} if visit.chance.random() < 0.3 else {}
            answer = client.infer_arrays("echo", {"x": sent}, parameters=parameters)
            assert answer.status in (200, 429, 503, 504), answer
            assert answer.status != 200 or same(answer.outputs["y"], sent)
            visit.account.add(answered=answer.status == 200, refused=answer.status != 200)


def http_broken_off(visit):
    while visit.goes_on():
        body, headers = binary_body({"x": visit.some_rows()}, parameters={"binary_data_output": True})
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body), "Host": "x"}.items())
        text = f"POST /v2/models/echo/infer HTTP/1.1\r\n{lines}\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", visit.server.port), PATIENCE) as one:
            one.sendall(text[:visit.chance.randrange(1, len(text) + 1)])
            visit.account.add(unknown=1)
            time.sleep(visit.chance.random() / 300)


def grpc_request(sent, id="", **parameters):
    request = service_pb2.ModelInferRequest(model_name="echo", id=id)
    request.inputs.add(name="x", datatype="FP32", shape=sent.shape)
    request.raw_input_contents.append(sent.tobytes())
    for key, value in parameters.items():
        request.parameters[key].int64_param = value
    return request


@contextlib.contextmanager
def grpc_stub(visit):
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{visit.server.grpc_port}", options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def grpc_unary(visit):
    """Some are cancelled, some have less time than they need."""
    with grpc_stub(visit) as stub:
        while visit.goes_on():
            sent, kind = visit.some_rows(), visit.chance.random()
            call = stub.ModelInfer.future(grpc_request(sent), timeout=0.002 if kind < 0.2 else PATIENCE)
            if kind > 0.8:
                time.sleep(visit.chance.random() / 300)
                call.cancel()
            try:
                answer = call.result()
            except grpc.FutureCancelledError:
                visit.account.add(unknown=1)
            except grpc.RpcError as error:
                assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED), error
                visit.account.add(unknown=kind < 0.2, refused=kind >= 0.2)
            else:
                assert same(np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(sent.shape), sent)
                visit.account.add(answered=1)


def grpc_stream(visit):
    """Some calls are cancelled in the middle."""
    with grpc_stub(visit) as stub:
        while visit.goes_on():
            sent = [visit.some_rows() for _ in range(visit.chance.randrange(1, 30))]
            call = stub.ModelStreamInfer(iter([grpc_request(one, id=f"{i}", **({"timeout": 300} if i % 5 == 4 else {}))
                                               for i, one in enumerate(sent)]))
            stop_at = visit.chance.randrange(len(sent)) if visit.chance.random() < 0.3 else len(sent)
            heard = answered = 0
            try:
                for reply in call:
                    assert reply.infer_response.id == f"{heard}", "answers come in the order of the requests"
                    if not reply.error_message:
                        wanted = sent[heard]
                        assert same(np.frombuffer(reply.infer_response.raw_output_contents[0], np.float32).reshape(wanted.shape), wanted)
                        answered += 1
                    heard += 1
                    if heard > stop_at:
                        call.cancel()
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.CANCELLED, error
            visit.account.add(answered=answered, refused=heard - answered, unknown=len(sent) - heard)


def websocket(visit):
    """Most streams break off with messages in flight."""
    while visit.goes_on():
        sent = [visit.some_rows() for _ in range(visit.chance.randrange(1, 30))]
        listen_to = len(sent) if visit.chance.random() < 0.5 else visit.chance.randrange(len(sent))
        answered = heard = 0
        with stream(visit.server, "/v2/models/echo/stream?order=request") as ws:
            for i, one in enumerate(sent):
                ws.send(binary_message(f"{i}", {"x": one}))
            for i in range(listen_to):
                answer = receive(ws)
                heard += 1
                assert answer.id == f"{i}" and (answer.error or same(answer.outputs["y"], sent[i])), answer
                answered += not answer.error
            if heard < len(sent):
                ws.socket.shutdown(socket.SHUT_RDWR)
        visit.account.add(answered=answered, refused=heard - answered, unknown=len(sent) - heard)


def shared_memory(visit):
    """Input and output in a region that is registered and unregistered all the time."""
    sent = rows(visit.chance.randrange(1000))
    name = f"mixed-{os.getpid()}-{visit.chance.randrange(1 << 40)}"
    handle = shm.create_shared_memory_region(name, "/" + name, 2 * sent.nbytes)
    try:
        with Client(visit.server) as client:
            while visit.goes_on():
                shm.set_shared_memory_region(handle, [sent])
                reply = client.ask("POST", f"/v2/systemsharedmemory/region/{name}/register",
                                   json.dumps({"key": "/" + name, "offset": 0, "byte_size": 2 * sent.nbytes}))
                assert reply.status == 200, reply.body
                for _ in range(5):
                    where = {"shared_memory_region": name, "shared_memory_byte_size": sent.nbytes}
                    reply = client.ask("POST", "/v2/models/echo/infer", json.dumps({
                        "inputs": [{"name": "x", "datatype": "FP32", "shape": sent.shape, "parameters": where}],
                        "outputs": [{"name": "y", "parameters": {**where, "shared_memory_offset": sent.nbytes}}]}))
                    assert reply.status in (200, 503), reply.body
                    visit.account.add(answered=reply.status == 200, refused=reply.status != 200)
                    if reply.status == 200:
                        assert same(shm.get_contents_as_numpy(handle, np.float32, sent.shape, sent.nbytes), sent)
                assert client.ask("POST", f"/v2/systemsharedmemory/region/{name}/unregister", b"").status == 200
    finally:
        shm.destroy_shared_memory_region(handle)


def operator(visit):
    """Loads and unloads `guest`, asks it something, changes settings of traces and the log, reads every document."""
    with Client(visit.server) as client:
        while visit.goes_on():
            for path, body in (("/v2/repository/models/guest/load", b""),
                               ("/v2/trace/setting", json.dumps({"trace_level": ["TIMESTAMPS"], "trace_rate": "7", "trace_count": "-1"})),
                               ("/v2/models/echo/trace/setting", json.dumps({"trace_rate": f"{visit.chance.randrange(1, 9)}"})),
                               ("/v2/logging", json.dumps({"log_verbose_level": 0})),
                               ("/v2/repository/index", b"{}")):
                reply = client.ask("POST", path, body)
                assert reply.status == 200, (path, reply.body)
            reply = client.ask("POST", "/v2/models/guest/infer", json.dumps({"inputs": [tensor("x", rows(1))]}))
            assert reply.status == 200, reply.body
            for path in "/v2", "/v2/models/echo", "/v2/models/echo/config", "/v2/models/echo/stats", "/stats", "/v2/health/ready":
                assert client.ask("GET", path).status in (200, 503), path
            visit.server.metrics()
            reply = client.ask("POST", "/v2/repository/models/guest/unload", b"")
            assert reply.status == 200, reply.body
            for body in ({"trace_rate": None}, {"trace_level": ["OFF"]}):
                assert client.ask("POST", "/v2/models/echo/trace/setting", json.dumps(body)).status == 200


def watcher(visit):
    """Watches the health of what comes and goes, and leaves without a word."""
    with grpc.insecure_channel(f"127.0.0.1:{visit.server.grpc_port}", [("grpc.use_local_subchannel_pool", 1)]) as channel:
        while visit.goes_on():
            watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"\x0a\x05guest", timeout=visit.chance.random() / 2)
            with contextlib.suppress(grpc.RpcError):  # its time is over
                for _ in range(visit.chance.randrange(1, 5)):
                    assert next(watch)[0] == 8
            watch.cancel()


CLIENTS = [http, http, http_broken_off, grpc_unary, grpc_unary, grpc_stream, grpc_stream, websocket, websocket, shared_memory, operator,
           watcher]


def go(server, account, seconds, seed):
    def run(client, number):
        try:
            client(Visit(server, account, seed * 100 + number, until))
        except Exception as problem:  # told by the test's own thread
            account.problems.append(f"{client.__name__}: {problem!r}")

    until = time.monotonic() + seconds
    threads = [threading.Thread(target=run, args=(client, number)) for number, client in enumerate(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), f"a client hangs; problems so far: {account.problems}"
    assert not account.problems, account.problems


# ---- what is left ----------------------------------------------------------------------------------------------------

def wait_quiet(server):
    wait_for(lambda: depth(server) == 0 and metric(server, "nv_inference_pending_request_count") == 0, "all requests to be over")
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "memory to be given back")


def descriptors(server) -> int:
    return len(os.listdir(f"/proc/{server.status()['gateway']['pid']}/fd"))


def anonymous_kib(server) -> int:
    text = pathlib.Path(f"/proc/{server.status()['gateway']['pid']}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", text)[1])


def test_nothing_is_left_of_mixed_clients(serve, tmp_path):
    repository = sim_model(sim_model(tmp_path / "models", base_ms=1), name="guest")
    server = serve(repository, "--gateway-threads=3", "--model-control-mode=explicit", "--load-model=echo", "--max-queue-size=64",
                   "--trace-config", f"triton,file={tmp_path}/trace.json", "--trace-config", "rate=3", *VISIBLE)
    account = Account()
    go(server, account, WARM_UP, 1)
    wait_quiet(server)
    files, memory, gateway = descriptors(server), anonymous_kib(server), server.status()["gateway"]
    go(server, account, SECONDS, 2)
    wait_quiet(server)
    wait_for(lambda: descriptors(server) <= files, f"descriptors to be closed: {descriptors(server)} instead of {files}")
    if not sanitized():
        assert anonymous_kib(server) - memory < LEAK_KIB
    success = metric(server, "nv_inference_request_success", model="echo")
    failure = metric(server, "nv_inference_request_failure", model="echo")
    assert account.answered <= success <= account.answered + account.unknown, (success, failure, vars(account))
    known = account.answered + account.refused
    assert known <= success + failure <= known + account.unknown, (success, failure, vars(account))
    assert not account.is_little()
    assert server.status()["gateway"] == gateway and all(w["restarts"] == 0 for w in server.status()["workers"])
