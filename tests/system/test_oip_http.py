"""The Open Inference Protocol over HTTP/1.1, byte by byte: raw connections, no client library."""
import concurrent.futures
import json
import re

import numpy as np
import pytest

from muster_server import MODELS, put_model, sim_config, wait_for
from oip import (BINARY_OUTPUTS, COMPRESS, DECOMPRESS, Wire, binary_body, chunks, objects, outputs_of, same, tensor,
                 to_wire)
from traffic import standing_still, worker_pids

LABELS = ["ant", "bee", "cat", "dog", "", "fox", "gnu"]  # one is empty, and the eighth class has none
X = np.arange(16, dtype=np.float32).reshape(1, 16)
Y4 = np.array([[1, 2, 3, 4]], np.float32)


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name in ("identity", "add", "string_identity", "fixed", "nonzero", "embedding", "slow"):
        put_model(models, name, f"{name}.onnx")
    put_model(models, "counted", "identity.onnx")
    put_model(models, "classes", "mlp.onnx", files={"labels.txt": "\n".join(LABELS) + "\n"},
              config="output { name: 'y' data_type: TYPE_FP32 dims: 8 label_filename: 'labels.txt' }\n"
                     "max_batch_size: 8\n")
    put_model(models, "versions", "identity.onnx", version=1, config="version_policy { all {} }\nmax_batch_size: 4\n")
    (models / "versions" / "3").mkdir()
    (models / "versions" / "3" / "model.onnx").symlink_to(MODELS / "mlp.onnx")
    put_model(models, "sleepy", config=sim_config(base_ms=150, max_batch_size=1))
    put_model(models, "levels", config=sim_config(max_batch_size=4, dynamic_batching="{ priority_levels: 2 "
                                                                                   "default_priority_level: 2 }"))
    return serve_module(models)


@pytest.fixture
def wire(server):
    with Wire(server.port) as connection:
        yield connection


def one(array, name="x", **more) -> dict:
    return {"inputs": [tensor(name, array)], **more}


# ---- health, metadata, configuration, index


def test_server_metadata(server):
    reply = server.get("/v2")
    assert reply.status == 200 and reply.headers["Content-Type"] == "application/json"
    assert reply.json["name"] == "muster" and re.fullmatch(r"\d+\.\d+\.\d+", reply.json["version"])
    assert set(reply.json["extensions"]) == {"classification", "schedule_policy", "model_configuration",
                                             "binary_tensor_data", "parameters", "statistics", "model_repository",
                                             "model_repository(unload_dependents)", "system_shared_memory", "trace",
                                             "logging"}


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2/health/ready", "/v2/models/add/ready",
                                  "/v2/models/add/versions/1/ready"])
def test_health_is_a_status_without_a_body(wire, path):
    for _ in range(2):
        reply = wire.ask("GET", path)
        assert (reply.status, reply.body) == (200, b"")


def test_model_metadata(server):
    expected = {"name": "add", "versions": ["1"], "platform": "onnxruntime_onnx",
                "inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 4]} for name in "ab"],
                "outputs": [{"name": "sum", "datatype": "FP32", "shape": [-1, 4]}]}
    assert server.get("/v2/models/add").json == expected
    assert server.get("/v2/models/add/versions/1").json == expected


def test_metadata_of_a_model_that_is_not_batched(server):
    assert server.get("/v2/models/fixed").json["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [2, 3]}]


def test_versions(server, wire):
    assert server.get("/v2/models/versions").json["versions"] == ["1", "3"]
    newest = outputs_of(wire.infer("versions", one(X)))["y"]
    third = outputs_of(wire.ask("POST", "/v2/models/versions/versions/3/infer", one(X)))["y"]
    first = wire.ask("POST", "/v2/models/versions/versions/1/infer", one(X))
    assert newest.shape == (1, 8) and same(newest, third)
    assert same(outputs_of(first)["y"], X) and first.json["model_version"] == "1"
    assert server.get("/v2/models/versions/versions/1").json["outputs"][0]["shape"] == [-1, 16]
    for path in ("", "/ready", "/config", "/stats"):
        assert server.get(f"/v2/models/versions/versions/2{path}").status == 404


def test_model_config(server):
    config = server.get("/v2/models/classes/config").json
    assert (config["name"], config["platform"], config["backend"]) == ("classes", "onnxruntime_onnx", "onnxruntime")
    assert config["max_batch_size"] == 8
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [("x", "TYPE_FP32", [16])]
    assert [(t["name"], t["data_type"], t["dims"], t["label_filename"]) for t in config["output"]] == [
        ("y", "TYPE_FP32", [8], "labels.txt")]
    levels = server.get("/v2/models/levels/config").json
    assert levels["backend"] == "sim"
    assert levels["dynamic_batching"]["priority_levels"] == levels["dynamic_batching"]["default_priority_level"] == 2
    assert server.get("/v2/models/versions/versions/3/config").json["version_policy"] == {"all": {}}
    assert server.get("/v2/models/fixed/config").json["max_batch_size"] == 0


@pytest.mark.parametrize("body", [b"", b"{}", b'{"ready": false}', b'{"ready": true, "unknown": [1, {"a": null}]}'])
def test_repository_index(server, body):
    index = server.post("/v2/repository/index", body).json
    assert {(m["name"], m["version"], m["state"], m["reason"]) for m in index} == {
        (name, version, "READY", "") for name, version in
        [(name, "1") for name in ("identity", "add", "string_identity", "fixed", "nonzero", "embedding", "slow",
                                  "counted", "classes", "sleepy", "levels")] + [("versions", "1"), ("versions", "3")]}


def test_statistics_are_exact(server, wire):
    def stats():
        return server.get("/v2/models/counted/stats").json["model_stats"][0]

    before = stats()
    assert before["inference_count"] == before["execution_count"] == before["last_inference"] == 0
    four = np.repeat(X, 4, axis=0)
    for array in (X, X, four, X):
        assert wire.infer("counted", one(array)).status == 200
    assert wire.infer("counted", one(X[:, :3])).status == 400
    assert wire.infer("add", {"inputs": [tensor(name, Y4) for name in "ab"]}).status == 200  # counts elsewhere
    after = stats()
    assert (after["name"], after["version"]) == ("counted", "1")
    assert (after["inference_count"], after["execution_count"]) == (7, 4)
    counts = {key: value["count"] for key, value in after["inference_stats"].items()}
    assert counts == {"success": 4, "fail": 1, "queue": 4, "compute_input": 4, "compute_infer": 4, "compute_output": 4,
                      "cache_hit": 0, "cache_miss": 0}
    batches = {batch["batch_size"]: batch["compute_infer"]["count"] for batch in after["batch_stats"]}
    assert batches == {1: 3, 4: 1}
    assert after["inference_stats"]["success"]["ns"] >= after["inference_stats"]["compute_infer"]["ns"] > 0
    assert after["last_inference"] > 1_600_000_000_000
    every = server.get("/v2/models/stats").json["model_stats"]
    assert after in every and len(every) == 13
    assert server.get("/v2/models/counted/versions/1/stats").json["model_stats"] == [after]
    assert [m["version"] for m in server.get("/v2/models/versions/stats").json["model_stats"]] == ["1", "3"]


# ---- the forms of a request


@pytest.mark.parametrize("flat", [False, True])
def test_json_data_nested_and_flat(wire, flat):
    a, b = np.arange(8, dtype=np.float32).reshape(2, 4), np.full((2, 4), 0.5, np.float32)
    reply = wire.infer("add", {"inputs": [tensor("a", a, flat), tensor("b", b, flat)]})
    assert reply.json == {"model_name": "add", "model_version": "1", "outputs": [
        {"name": "sum", "datatype": "FP32", "shape": [2, 4], "data": (a + b).ravel().tolist()}]}
    assert reply.headers["Content-Type"] == "application/json"
    assert "Inference-Header-Content-Length" not in reply.headers


def test_order_of_inputs_and_of_keys_is_free(wire):
    a, b = tensor("a", Y4), tensor("b", 10 * Y4)
    backwards = {"outputs": [{"name": "sum"}], "parameters": {}, "id": "7",
                 "inputs": [dict(reversed(b.items())), dict(reversed(a.items()))]}
    assert outputs_of(wire.infer("add", backwards))["sum"].tolist() == (11 * Y4).tolist()


def test_binary_in_and_out(wire):
    a, b = np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32)
    body, headers = binary_body({"a": a, "b": b}, **BINARY_OUTPUTS)
    reply = wire.infer("add", body, headers)
    assert reply.headers["Content-Type"] == "application/octet-stream"
    assert same(outputs_of(reply)["sum"], a + b)


def test_json_and_binary_inputs_in_one_request(wire):
    head = json.dumps({"inputs": [tensor("a", Y4, binary=True), tensor("b", Y4)]}).encode()
    reply = wire.infer("add", head + to_wire(Y4), {"Inference-Header-Content-Length": str(len(head))})
    assert outputs_of(reply)["sum"].tolist() == (2 * Y4).tolist()


def test_header_length_over_the_whole_body_is_plain_json(wire):
    body = json.dumps(one(X)).encode()
    assert same(outputs_of(wire.infer("identity", body, {"Inference-Header-Content-Length": str(len(body))}))["y"], X)


def test_raw_body(wire):
    reply = wire.infer("identity", to_wire(X), {"Inference-Header-Content-Length": "0"})
    assert same(outputs_of(reply)["y"], X)
    fixed = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert same(outputs_of(wire.infer("fixed", to_wire(fixed), {"Inference-Header-Content-Length": "0"}))["y"],
                2 * fixed)
    sizes = wire.infer("embedding", to_wire(np.arange(7)), {"Inference-Header-Content-Length": "0"})
    assert outputs_of(sizes)["y"].shape == (1, 7, 4)  # the varying dimension is worked out
    text = wire.infer("string_identity", b"any \x00 byte \xff", {"Inference-Header-Content-Length": "0"})
    assert outputs_of(text)["same"].tolist() == [[b"any \x00 byte \xff"]]


def test_large_tensors_take_the_direct_way(wire):
    """16 KiB and more still to come are read by the kernel into their place."""
    big = np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)
    text = objects([bytes([i % 256]) * (i * 40) for i in range(64)], (8, 8))
    for _ in range(3):
        body, headers = binary_body({"x": big}, **BINARY_OUTPUTS)
        assert same(outputs_of(wire.infer("identity", body, headers))["y"], big)
        body, headers = binary_body({"text": text}, **BINARY_OUTPUTS)
        assert len(body) > 65536
        assert same(outputs_of(wire.infer("string_identity", body, headers))["same"], text)


def test_a_body_that_comes_byte_by_byte(wire):
    body, headers = binary_body({"x": X}, **BINARY_OUTPUTS)
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    whole = (f"POST /v2/models/identity/infer HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
             .encode() + body)
    for at in range(len(whole)):
        wire.send(whole[at:at + 1])
    assert same(outputs_of(wire.reply())["y"], X)


def test_outputs_whose_shape_follows_from_the_values(wire):
    for array in (np.eye(3, 4, dtype=np.float32), np.zeros((2, 4), np.float32), np.ones((3, 4), np.float32)):
        for more in ({}, BINARY_OUTPUTS):
            body, headers = binary_body({"x": array}, **more)
            assert same(outputs_of(wire.infer("nonzero", body, headers))["where"], np.array(array.nonzero()))


# ---- what is asked for


def test_ids(wire):
    for text in ("1", "with \"quotes\" and \\ and \u00fc and \U0001f600", "x" * 100):
        assert wire.infer("identity", one(X, id=text)).json["id"] == text
    assert "id" not in wire.infer("identity", one(X)).json
    assert "id" not in wire.infer("identity", one(X, id="")).json


def test_chosen_outputs_and_their_form(wire):
    json_form = wire.infer("identity", one(X, outputs=[{"name": "y", "parameters": {"binary_data": False}}],
                                           **BINARY_OUTPUTS))
    assert "Inference-Header-Content-Length" not in json_form.headers and same(outputs_of(json_form)["y"], X)
    binary = wire.infer("identity", one(X, outputs=[{"name": "y", "parameters": {"binary_data": True}}]))
    assert binary.headers["Inference-Header-Content-Length"] and same(outputs_of(binary)["y"], X)
    assert same(outputs_of(wire.infer("identity", one(X, outputs=[])))["y"], X)
    assert same(outputs_of(wire.infer("identity", one(X, **BINARY_OUTPUTS)))["y"], X)


@pytest.mark.parametrize("binary", [False, True])
def test_classification(wire, binary):
    rows = np.random.default_rng(3).standard_normal((3, 16)).astype(np.float32)
    scores = outputs_of(wire.infer("classes", one(rows, **BINARY_OUTPUTS)))["y"]

    def expected(row, index):
        label = LABELS[index] if index < len(LABELS) else ""
        return f"{row[index]:.6f}:{index}" + (f":{label}" if label else "")

    for count in (1, 3, 8, 20):
        asked = [{"name": "y", "parameters": {"classification": count, "binary_data": binary}}]
        found = outputs_of(wire.infer("classes", one(rows, outputs=asked)))["y"]
        best = [[expected(row, i) for i in np.argsort(-row, kind="stable")[:count]] for row in scores]
        assert [[text.decode() for text in row] for row in found] == best


def test_priority(wire):
    for priority in (0, 1, 2):
        assert same(outputs_of(wire.infer("levels", one(Y4, parameters={"priority": priority})))["y"], Y4)
    reply = wire.infer("levels", one(Y4, parameters={"priority": 3}))
    assert reply.status == 400 and reply.json == {"error": "priority 3: the model has levels 1 to 2"}


def test_timeout(server, wire):
    with standing_still(*worker_pids(server, "sleepy")):
        reply = wire.infer("sleepy", one(Y4, parameters={"timeout": 1000}))  # microseconds
        assert reply.status == 503 and re.search("timeout|deadline", reply.json["error"])  # while it runs, or before
    assert wire.infer("sleepy", one(Y4, parameters={"timeout": 30_000_000})).status == 200


def test_parameters_nobody_knows_are_passed_over(wire):
    assert wire.infer("identity", one(X, parameters={"mine": {"a": [1]}, "sequence_id": 0})).status == 200


# ---- HTTP


def test_keep_alive(wire):
    for i in range(50):
        array = X + i
        assert same(outputs_of(wire.infer("identity", one(array)))["y"], array)


def test_connection_close(wire):
    wire.request("GET", "/v2/health/live", headers={"Connection": "close"})
    reply = wire.reply()
    assert reply.status == 200 and reply.headers["Connection"] == "close" and wire.ended()


def test_http_1_0(wire):
    wire.send(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
    assert wire.reply().status == 200 and wire.ended()


def test_pipelined_replies_keep_their_order(wire):
    """The first waits, those behind it are done long before; more than the 16 that may wait at once."""
    n = 40
    for i in range(n):
        body = json.dumps(one(Y4 if i == 0 else X, id=str(i))).encode()
        wire.request("POST", f"/v2/models/{'sleepy' if i == 0 else 'identity'}/infer", body)
    assert [wire.reply().json["id"] for _ in range(n)] == [str(i) for i in range(n)]


def test_pipelined_in_one_packet_with_an_error_between(wire):
    good = json.dumps(one(X)).encode()
    requests = [(b"GET", b"/v2", b""), (b"POST", b"/v2/models/nobody/infer", good),
                (b"POST", b"/v2/models/identity/infer", good), (b"GET", b"/v2/health/ready", b"")]
    wire.send(b"".join(b"%s %s HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n%s" % (m, p, len(b), b)
                       for m, p, b in requests))
    assert [wire.reply().status for _ in requests] == [200, 404, 200, 200]


@pytest.mark.parametrize("size", [1, 7, 100000])
def test_chunked_body(wire, size):
    body, headers = binary_body({"x": X}, **BINARY_OUTPUTS)
    for _ in range(2):
        wire.request("POST", "/v2/models/identity/infer", None, {**headers, "Transfer-Encoding": "chunked"})
        wire.send(chunks(body, size, trailer=b"X-Trailer: 1\r\n"))
        assert same(outputs_of(wire.reply())["y"], X)
        wire.request("POST", "/v2/models/identity/infer", None, {"Transfer-Encoding": "chunked"})
        wire.send(chunks(json.dumps(one(X)).encode(), size))
        assert same(outputs_of(wire.reply())["y"], X)
        wire.request("POST", "/v2/models/identity/infer", None,
                     {"Transfer-Encoding": "chunked", "Inference-Header-Content-Length": "0"})
        wire.send(chunks(to_wire(X), size))
        assert same(outputs_of(wire.reply())["y"], X)


def test_expect_continue(wire):
    body = json.dumps(one(X)).encode()
    for _ in range(2):
        wire.send(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\n"
                  b"Content-Length: %d\r\n\r\n" % len(body))
        assert wire.reply().status == 100
        wire.send(body)
        assert same(outputs_of(wire.reply())["y"], X)


def test_expect_continue_is_answered_at_once_where_the_body_is_not_wanted(wire):
    wire.send(b"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    reply = wire.reply()
    assert reply.status == 404 and reply.headers["Connection"] == "close" and wire.ended()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_requests(wire, coding):
    body, headers = binary_body({"x": X}, **BINARY_OUTPUTS)
    for _ in range(2):
        # the header's length is that of the JSON before compression
        reply = wire.infer("identity", COMPRESS[coding](body), {**headers, "Content-Encoding": coding})
        assert same(outputs_of(reply)["y"], X)
        packed = COMPRESS[coding](json.dumps(one(X)).encode())
        assert same(outputs_of(wire.infer("identity", packed, {"Content-Encoding": coding}))["y"], X)
        wire.request("POST", "/v2/models/identity/infer", None,
                     {"Content-Encoding": coding, "Transfer-Encoding": "chunked"})
        wire.send(chunks(packed, 5))
        assert same(outputs_of(wire.reply())["y"], X)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_replies(wire, coding):
    big = np.zeros((64, 16), np.float32)
    for more in ({}, BINARY_OUTPUTS):
        plain = wire.infer("identity", one(big, **more))
        packed = wire.infer("identity", one(big, **more), {"Accept-Encoding": coding})
        assert packed.headers["Content-Encoding"] == coding and len(packed.body) < len(plain.body) / 4
        assert DECOMPRESS[coding](packed.body) == plain.body
        # the JSON part is measured before compression
        length = "Inference-Header-Content-Length"
        assert packed.headers.get(length) == plain.headers.get(length)
    refused = wire.infer("identity", one(big), {"Accept-Encoding": f"{coding};q=0, identity"})
    assert "Content-Encoding" not in refused.headers


def test_documents_are_never_compressed(wire):
    """NVIDIA's asyncio client accepts gzip with every request and undoes it for inference alone."""
    for path in ("/v2/models/add/config", "/v2/models/stats", "/v2/models/add"):
        reply = wire.ask("GET", path, headers={"Accept-Encoding": "gzip, deflate"})
        assert "Content-Encoding" not in reply.headers and reply.json
    assert wire.ask("GET", "/metrics", headers={"Accept-Encoding": "gzip"}).headers["Content-Encoding"] == "gzip"


def test_head_is_get_without_the_body(wire):
    for path in ("/v2", "/v2/models/add", "/v2/health/ready", "/v2/models/nobody"):
        get, head = wire.ask("GET", path), wire.ask("HEAD", path)
        assert head.status == get.status and head.headers["Content-Length"] == str(len(get.body)) and head.body == b""


def test_query_strings_slashes_and_escapes(wire):
    assert wire.ask("GET", "/v2/models/add?verbose=1&x=%00").status == 200
    assert wire.ask("GET", "/v2/models/%61dd/").json["name"] == "add"
    assert wire.ask("GET", "http://test/v2/models/add").json["name"] == "add"


@pytest.mark.parametrize("method, path, allow", [
    ("GET", "/v2/models/add/infer", "POST"), ("PUT", "/v2/models/add/infer", "POST"),
    ("DELETE", "/v2/models/add", "GET, HEAD"), ("POST", "/v2", "GET, HEAD"), ("POST", "/v2/health/live", "GET, HEAD"),
    ("GET", "/v2/repository/index", "POST"), ("PATCH", "/v2/models/add/stats", "GET, HEAD"),
    ("OPTIONS", "/v2/models/add/config", "GET, HEAD"), ("POST", "/metrics", "GET, HEAD")])
def test_wrong_method(wire, method, path, allow):
    reply = wire.ask(method, path, b"body" if method in ("PUT", "PATCH", "POST") else None)
    assert reply.status == 405 and reply.headers["Allow"] == allow
    assert reply.json == {"error": f"the path takes {allow}, not {method}"}
    assert wire.ask("GET", "/v2/health/live").status == 200


@pytest.mark.parametrize("method, path, feature", [
    ("POST", "/v2/cudasharedmemory/region/r/register", "CUDA shared memory"),
    ("POST", "/v2/models/add/generate", "generate")])
def test_what_is_not_served_says_so(wire, method, path, feature):
    reply = wire.ask(method, path, b"{}" if method == "POST" else None)
    assert reply.status == 501 and feature in reply.json["error"]


def test_metrics_are_on_the_http_port_too(wire):
    reply = wire.ask("GET", "/metrics")
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_several_loops_share_a_port(serve):
    """Every answer belongs to its question, and nothing is counted twice, whichever loop has the connection."""
    server = serve(MODELS / "identity.onnx", "--gateway-threads", "4")

    def work(client: int) -> bool:
        with Wire(server.port) as connection:
            arrays = [np.full((1 + i % 3, 16), 100 * client + i, np.float32) for i in range(20)]
            for i, array in enumerate(arrays):
                connection.request("POST", "/v2/models/identity/infer", json.dumps(one(array, id=str(i))).encode())
            return all(same(outputs_of(connection.reply())["y"], array) for array in arrays)

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        assert all(pool.map(work, range(24)))
    stats = server.get("/v2/models/identity/stats").json["model_stats"][0]
    assert stats["inference_stats"]["success"]["count"] == 24 * 20
    assert stats["inference_count"] == 24 * sum(1 + i % 3 for i in range(20))


# ---- HTTP that is wrong


def test_a_body_past_the_limit(server):
    with Wire(server.port) as wire:
        wire.send(b"POST /v2/models/add/infer HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % (64 * 1024**2 + 1))
        reply = wire.reply()
        assert reply.status == 413 and "larger than this server takes" in reply.json["error"]


@pytest.mark.parametrize("head, status", [
    (b"GET  HTTP/1.1\r\n\r\n", 400), (b"nonsense\r\n\r\n", 400), (b"GET /v2 HTTP/9.9\r\n\r\n", 505),
    (b"GET /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    (b"GET /v2 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
    (b"POST /v2/models/add/infer HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v2/models/add/infer HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"GET /v2 HTTP/1.1\r\nHost: t\r\nX: " + b"x" * 200000 + b"\r\n\r\n", 431)])
def test_malformed_http_ends_its_connection_alone(server, wire, head, status):
    assert wire.ask("GET", "/v2").status == 200
    with Wire(server.port) as other:
        other.send(head)
        reply = other.reply()
        assert reply.status == status and reply.json["error"] and reply.headers["Connection"] == "close"
        assert other.ended()
    assert wire.ask("GET", "/v2").status == 200


def test_unknown_content_encoding(wire):
    reply = wire.infer("add", b"whatever", {"Content-Encoding": "br"})
    assert reply.status == 415 and reply.headers["Accept-Encoding"] == "gzip, deflate"
    assert "gzip and deflate" in reply.json["error"]
    assert wire.ask("GET", "/v2").status == 200


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_body_that_is_broken(server, coding):
    good = COMPRESS[coding](json.dumps(one(X)).encode())
    for body in (b"not compressed at all", good[:-3], good[:10] + b"\xff\xff\xff\xff" + good[14:]):
        with Wire(server.port) as wire:
            reply = wire.infer("identity", body, {"Content-Encoding": coding})
            assert reply.status == 400 and reply.json["error"]
    assert server.infer("identity", one(X)["inputs"]).status == 200


def test_a_compression_bomb_is_stopped_at_the_limit(server):
    bomb = COMPRESS["gzip"](b" " * (80 * 1024**2))
    with Wire(server.port) as wire:
        reply = wire.infer("identity", bomb, {"Content-Encoding": "gzip"})
        assert reply.status == 413 and reply.json["error"]


def test_a_client_that_leaves_cancels(server):
    """Its run is told to stop, its request counts as canceled, and the next one gets its turn."""
    def canceled():
        found = re.search(r'nv_inference_request_failure\{model="slow",version="1",reason="CANCELED"\} (\d+)',
                          server.metrics())
        return int(found.group(1))

    with Wire(server.port) as wire:
        wire.request("POST", "/v2/models/slow/infer", json.dumps(one(np.array([10**15]), "n")).encode())
        wait_for(lambda: server.get("/stats").json["queue_depth"] >= 1, "the request to arrive")
        assert canceled() == 0
    wait_for(lambda: canceled() == 1, "the cancel to be counted")
    assert outputs_of(server.infer("slow", one(np.array([3]), "n")["inputs"]))["sum_of_steps"].tolist() == [3]


def test_many_connections_with_half_a_request(server):
    """Slow or silent clients hold nobody up."""
    idle = [Wire(server.port) for _ in range(100)]
    for i, connection in enumerate(idle):
        connection.send(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n{"[:i])
    for _ in range(5):
        assert server.infer("identity", one(X)["inputs"]).status == 200
    for connection in idle:
        connection.close()
