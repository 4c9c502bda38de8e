"""The engine remote: models whose engine is other servers. Two real servers behind one in front, and fake ones that lie."""
import concurrent.futures
import http.server
import json
import os
import signal
import socket
import threading

import numpy as np
import pytest

from muster_server import put_model, sim_config, wait_for
from oip import BINARY_OUTPUTS, DTYPES, binary_body, objects, outputs_of, same
from ports import free_ports


def remote_config(*urls, protocol="http", more="", **parameters) -> str:
    lines = ['backend: "remote"', more]
    parameters = {"backends": ",".join(urls), "protocol": protocol, "health_interval": "200ms", **parameters}
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "remote.{key}" value {{ string_value: "{value}" }} }}')
    return "\n".join(lines) + "\n"


def sample(name: str) -> np.ndarray:
    if name == "BYTES":
        return objects([b"", b"a\0b", b"text", b"\xff" * 300], (2, 2))
    dtype = DTYPES[name]
    return np.array([[0, 1], [3, 100]], np.float64).astype(dtype)


@pytest.fixture(scope="module")
def backends(serve_module, module_path):
    """Two servers with the same models."""
    repository = module_path / "backend"
    for name in DTYPES:
        put_model(repository, name.lower(), config=sim_config("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}", "2", max_batch_size=8))
    put_model(repository, "mlp", "mlp.onnx")
    arguments = ["--model-repository", repository, "--grpc-port", "0"]
    return [serve_module(*arguments), serve_module(*arguments)]


@pytest.fixture(scope="module")
def front(serve_module, module_path, backends):
    repository = module_path / "front"
    addresses = {"http": [backend.url for backend in backends],
                 "grpc": [f"127.0.0.1:{backend.grpc_port}" for backend in backends]}
    for protocol, urls in addresses.items():
        for name in [*DTYPES, "mlp"]:
            put_model(repository, f"{name.lower()}_{protocol}", config=remote_config(*urls, protocol=protocol, model=name.lower()))
    server = serve_module("--model-repository", repository)
    yield server
    server.signal(signal.SIGTERM)  # before its backends, which would wait for its idle connections of HTTP/2
    server.wait_exit()


def infer(server, model: str, **inputs) -> dict:
    body, headers = binary_body(inputs, **BINARY_OUTPUTS)
    return outputs_of(server.post(f"/v2/models/{model}/infer", body, headers=headers))


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_answers_are_equal_to_the_bit(front, backends, protocol):
    for name in DTYPES:
        array = sample(name)
        assert same(infer(front, f"{name.lower()}_{protocol}", x=array)["y"], array), name


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_real_model_answers_as_it_does_behind(front, backends, protocol):
    (described,) = backends[0].get("/v2/models/mlp").json["inputs"]
    array = np.linspace(-1, 1, 3 * described["shape"][1], dtype=np.float32).reshape(3, -1)
    ours = infer(front, f"mlp_{protocol}", **{described["name"]: array})
    theirs = infer(backends[0], "mlp", **{described["name"]: array})
    assert ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)
    metadata = front.get(f"/v2/models/mlp_{protocol}").json
    assert metadata["inputs"] == [described] and metadata["platform"] == "remote"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_backends_own_refusal_is_the_answer(front, backends, protocol):
    body, headers = binary_body({"x": np.zeros((1, 3), np.float32)})
    assert front.post(f"/v2/models/fp32_{protocol}/infer", body, headers=headers).status == 400  # ours: nobody was asked


# ---- backends that die and come back


def backends_of(server, model: str) -> dict[str, dict]:
    (worker,) = server.workers(model)
    return {backend["address"]: backend for backend in worker.get("backends", [])}


def healthy(server, model: str) -> set[str]:
    return {address for address, backend in backends_of(server, model).items() if backend["healthy"]}


def test_no_request_fails_while_one_backend_lives(serve, tmp_path):
    repository = put_model(tmp_path / "backend", "echo", config=sim_config(dims="2", max_batch_size=4, base_ms=2))
    first = free_ports(4)
    def start(http_port, grpc_port):
        return serve("--model-repository", repository, "--http-port", http_port, "--grpc-port", grpc_port)
    servers = {pair: start(*pair) for pair in [(first, first + 1), (first + 2, first + 3)]}
    for at, protocol in enumerate(["http", "grpc"]):
        config = remote_config(*[f"127.0.0.1:{pair[at]}" for pair in servers], protocol=protocol, model="echo")
        put_model(tmp_path / "front", protocol, config=config)
    front = serve("--model-repository", tmp_path / "front")
    over, failures, answered = threading.Event(), [], [0] * 6

    def wait_healthy(*pairs):
        wait_for(lambda: all(healthy(front, protocol) == {f"127.0.0.1:{pair[at]}" for pair in pairs}
                             for at, protocol in enumerate(["http", "grpc"])), f"{pairs} to be all that are healthy")

    def load(client: int):
        array = np.array([[client, 0]], np.float32)
        while not over.is_set():
            array[0, 1] += 1
            try:
                assert same(infer(front, ["http", "grpc"][client % 2], x=array)["y"], array)
                answered[client] += 1
            except Exception as why:  # also what the connection says
                failures.append(repr(why))

    wait_healthy(*servers)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        clients = [pool.submit(load, client) for client in range(len(answered))]
        try:
            for pair in servers:
                before = list(answered)
                servers[pair].expected_to_crash = True
                os.killpg(servers[pair].process.pid, signal.SIGKILL)
                servers[pair].wait_exit()
                wait_healthy(*(other for other in servers if other != pair))
                wait_for(lambda: failures or all(now > then + 5 for now, then in zip(answered, before)), "requests to go on")
                servers[pair] = start(*pair)
                wait_healthy(*servers)
        finally:
            over.set()
        for client in clients:
            client.result()
    assert not failures
    assert all(backend["total_requests"] > 0 for protocol in ["http", "grpc"] for backend in backends_of(front, protocol).values())


def test_without_a_backend_requests_wait_and_then_say_why(serve, tmp_path):
    port = free_ports(1)
    config = remote_config(f"127.0.0.1:{port}", wait="300ms", more=FP32_IO)
    front = serve("--model-repository", put_model(tmp_path / "front", "m", config=config))
    reply = front.infer("m", [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2]}])
    assert reply.status == 503 and "no backend is healthy" in reply.json["error"]
    wait_for(lambda: "connect" in backends_of(front, "m").get(f"127.0.0.1:{port}", {}).get("error", ""), "the reason")


# ---- backends that lie

FP32_IO = "input { name: 'x' data_type: TYPE_FP32 dims: [2] }\noutput { name: 'y' data_type: TYPE_FP32 dims: [2] }"


def answer(head, tail=b"", **headers) -> tuple[bytes, dict]:
    text = head if isinstance(head, bytes) else json.dumps({"outputs": [head]}).encode()
    return text + tail, {"Inference-Header-Content-Length": str(len(text)), **headers}


def output(**changes) -> dict:
    return {"name": "y", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}, **changes}


TWO = np.array([1, 2], np.float32).tobytes()
LIES = {  # what it answers, and a word of what the client then hears
    "dtype": (answer(output(datatype="FP64"), TWO), "is FP64"),
    "no dtype": (answer(output(datatype="FP33"), TWO), "INVALID"),
    "shape": (answer(output(shape=[3]), TWO), "shape [3]"),
    "rank": (answer(output(shape=[1] * 20), TWO), "no shape"),
    "size": (answer(output(parameters={"binary_data_size": 4}), TWO[:4]), "4 bytes"),
    "huge": (answer(output(parameters={"binary_data_size": 1 << 62}), TWO), "max_reply_mib"),
    "other output": (answer(output(name="z"), TWO), "lacks the output"),
    "twice": (answer(json.dumps({"outputs": [output(), output()]}).encode(), TWO + TWO), "twice"),
    "short": (answer(output(), TWO[:5]), "short"),
    "long": (answer(output(), TWO + b"x"), "more bytes"),
    "no JSON": (answer(b"{\"outputs\": [", b""), "JSON"),
    "not outputs": (answer(b"[1, 2]"), "JSON"),
    "empty": ((b"", {}), "no outputs"),
    "head beyond the body": ((b"{}", {"Inference-Header-Content-Length": "100"}), "2 of 100"),
    "head without end": ((b"{}", {"Inference-Header-Content-Length": "99999999"}), "JSON"),
    "header is no number": (answer(output(), TWO, **{"Inference-Header-Content-Length": "-5"}), "JSON"),
    "wrong element": (answer(b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1,"a"]}]}'), "wrong"),
    "few elements": (answer(b'{"outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1]}]}'), "do not fit"),
    "connection closed": (None, "backend"),
    "body without end": ("endless", "more"),
    "head of the answer without end": ("headers", "no end"),
    "slow": ("slow", "in time"),
    "not HTTP": ("garbage", "backend"),
}


class Liar(http.server.BaseHTTPRequestHandler):
    """Ready, but its answers to inferences are what `server.lie` says."""
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        lie = self.server.lie
        self.close_connection = True
        if lie == "slow":
            self.server.over.wait()
        elif lie == "garbage":
            self.wfile.write(b"SSH-2.0-what\r\n")
        elif lie == "headers":
            self.without_end(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"y" * 1000 + b"\r\n")
        elif lie == "endless":
            head, _ = answer(output())
            self.without_end(b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: %d\r\n\r\n%s" % (len(head), head), b"z" * 4096)
        elif lie is not None:
            body, headers = lie
            self.send_response(headers.pop("status", 200) if isinstance(headers, dict) else 200)
            for name, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def without_end(self, first: bytes, again: bytes):
        try:
            self.wfile.write(first)
            while not self.server.over.is_set():
                self.wfile.write(again)
        except OSError:
            pass


@pytest.fixture(scope="module")
def liar():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    server.daemon_threads, server.over, server.lie = True, threading.Event(), answer(output(), TWO)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def misled(serve_module, module_path, liar):
    repository, url = module_path / "misled", f"127.0.0.1:{liar.server_port}"
    put_model(repository, "m", config=remote_config(url, more=FP32_IO, wait="30s"))
    put_model(repository, "hasty", config=remote_config(url, more=FP32_IO, timeout="300ms"))
    return serve_module("--model-repository", repository)


def ask(server, model="m"):
    body, headers = binary_body({"x": np.array([1, 2], np.float32)}, **BINARY_OUTPUTS)
    return server.post(f"/v2/models/{model}/infer", body, headers=headers)


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_an_error_of_the_request_and_of_nothing_else(misled, liar, lie):
    liar.lie, word = LIES[lie]
    pid = misled.workers("m")[0]["pid"]
    reply = ask(misled, "hasty" if lie == "slow" else "m")
    assert reply.status in (500, 503, 413) and word in reply.json["error"] and str(liar.server_port) in reply.json["error"], reply.body
    liar.lie = answer(output(), TWO)
    assert outputs_of(ask(misled))["y"].tolist() == [1, 2]
    assert misled.workers("m")[0]["pid"] == pid


def test_other_forms_of_a_good_answer(misled, liar):
    more = {"name": "unasked", "datatype": "INT8", "shape": [3], "parameters": {"binary_data_size": 3}}
    for good in [answer(json.dumps({"model_name": "m", "outputs": [more, output()], "id": "x"}).encode(), b"abc" + TWO),
                 (json.dumps({"outputs": [{"data": [1, 2.0], "shape": [2], "datatype": "FP32", "name": "y"}]}).encode(), {})]:
        liar.lie = good
        assert outputs_of(ask(misled))["y"].tolist() == [1, 2]


@pytest.mark.parametrize("theirs, ours", [(400, 400), (500, 500), (501, 501), (302, 500)])
def test_what_a_backend_says_of_the_request_is_the_answer(misled, liar, theirs, ours):
    liar.lie = (b'{"error":"told you\\u001b[31m"}', {"status": theirs})
    reply = ask(misled)
    assert reply.status == ours and "told you [31m" in reply.json["error"]


# ---- configurations that cannot be served


def refused(serve, folder, config: str) -> str:
    server = serve("--model-repository", put_model(folder, "m", config=config), "--exit-on-error=false", wait=False)
    def reason():
        (model,) = server.status().get("models") or [{"state": ""}]
        return model["reason"] if model["state"] == "UNAVAILABLE" else ""
    return wait_for(reason, "the model to be refused")


@pytest.mark.parametrize("parameters, word", [
    ({"backends": "127.0.0.1:1,127.0.0.1:1"}, "127.0.0.1:1"),
    ({"backends": "nobody.invalid:80"}, "nobody.invalid"),
    ({"backends": "127.0.0.1:9-5"}, "9-5"),
    ({"backends": "127.0.0.1:1-300"}, "300 backends"),
    ({"backends": "127.0.0.1:1", "protocol": "thrift"}, "thrift"),
    ({"backends": "127.0.0.1:1", "timeout": "soon"}, "remote.timeout"),
    ({"backends": "127.0.0.1:1", "colour": "red"}, "remote.colour"),
    ({"backends": "127.0.0.1:1", "timeout": "10ms"}, "no backend says what the model is"),
])
def test_bad_parameters_are_refused(serve, tmp_path, parameters, word):
    assert word in refused(serve, tmp_path / "front", remote_config(**parameters))


def test_backends_must_agree(serve, tmp_path):
    servers = [serve("--model-repository", put_model(tmp_path / dims, "m", config=sim_config(dims=dims))) for dims in ("2", "3")]
    reason = refused(serve, tmp_path / "front", remote_config(*[server.url for server in servers]))
    assert servers[1].url in reason and "[3] instead of [2]" in reason
    said = refused(serve, tmp_path / "large", remote_config(servers[0].url, more="max_batch_size: 8"))
    assert "no varying first dimension" in said
