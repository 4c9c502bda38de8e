"""What is wrong is told: to clients as a 4xx with {"error": …} on a connection that goes on, at start as a message and an exit
status."""
import json
import os
import re
import shutil
import socket
import subprocess

import numpy as np
import pytest

from muster_server import MODELS, PATIENCE, binary_path, environment, put_model, run_muster, sim_config
from oip import BINARY_OUTPUTS, Wire, binary_body, outputs_of, same, tensor, to_wire

X = np.arange(16, dtype=np.float32).reshape(1, 16)
GOOD = {"inputs": [tensor("x", X)]}
A, B = (np.array([[1, 2, 3, 4]], np.float32) * k for k in (1, 10))


@pytest.fixture(scope="module")
def server(serve_module):
    return serve_module(*(MODELS / f"{name}.onnx" for name in ("identity", "add", "fixed", "embedding", "string_identity")))


@pytest.fixture
def wire(server):
    """A connection that has to be good for a right request after the wrong ones of the test."""
    with Wire(server.port) as connection:
        yield connection
        assert same(outputs_of(connection.infer("identity", GOOD))["y"], X)


def refused(reply, status: int, pattern: str):
    assert reply.status == status, (reply.status, reply.body)
    assert reply.headers["Content-Type"] == "application/json"
    assert list(reply.json) == ["error"] and re.search(pattern, reply.json["error"]), reply.json


# ---- JSON


@pytest.mark.parametrize("body, pattern", [
    ("", "must be a JSON object"), ("{", "wrong at byte 1"), ("{]", "wrong at byte 1"), ("null", "must be a JSON object"),
    ("[]", "must be a JSON object"), ("{} trailing", "wrong at byte 3"), ('{"inputs": [}', "wrong at byte 12|must be a JSON object"),
    ('{"inputs": [{"name": "x", "name": "x"}]}', 'input has "name" twice'),
    ('{"inputs": [], "inputs": []}', '"inputs" twice'), ("{}", 'no "inputs"'), ('{"id": "1"}', 'no "inputs"'),
    ('{"inputs": {}}', '"inputs" must be an array'), ('{"inputs": [1]}', "input must be a JSON object"),
    ('{"inputs": [{}]}', r'inputs\[0\] has no "name"'), ('{"inputs": [{"name": 5}]}', "wrong at byte"),
    ('{"id": 5, "inputs": []}', "wrong at byte"), ('{"id": "' + "x" * 2000 + '", "inputs": []}', '"id" has 2000 bytes'),
    ('{"id": "a\\u0000b", "inputs": []}', "NUL character"),
    ('{"inputs": ' + "[" * 100000, "wrong at byte|must be a JSON object|deep"),
    ('{"x": ' + '{"a":' * 100000, "wrong at byte"), ('{"inputs": [{"name": "\udcff"}]}', "wrong at byte"),
    ('{"parameters": [], "inputs": []}', '"parameters" must be a JSON object'),
    ('{"parameters": {"timeout": "soon"}, "inputs": []}', '"timeout"'),
    ('{"parameters": {"timeout": -1}, "inputs": []}', '"timeout"'),
    ('{"parameters": {"priority": 1.5}, "inputs": []}', '"priority"'),
    ('{"parameters": {"binary_data_output": 1}, "inputs": []}', '"binary_data_output"'),
    ('{"a": 01, "inputs": []}', "wrong at byte"), ("{'inputs': []}", "wrong at byte 1"),
    ('\ufeff{"inputs": []}', "JSON")])
def test_malformed_json(wire, body, pattern):
    refused(wire.infer("identity", body.encode(errors="surrogateescape")), 400, pattern)


@pytest.mark.parametrize("cut", range(1, 100, 7))
def test_json_that_ends_early(wire, cut):
    whole = json.dumps({"inputs": [tensor("x", X)]}).encode()
    refused(wire.infer("identity", whole[:cut]), 400, "wrong at byte|must be")


def test_bytes_that_are_no_json(wire):
    random = np.random.default_rng(4)
    for size in (1, 10, 1000, 100000):
        refused(wire.infer("identity", random.bytes(size)), 400, "JSON")


# ---- tensors


def change(**changes) -> dict:
    """The good request with members of its input changed; None takes one away."""
    given = {**GOOD["inputs"][0], **changes}
    return {"inputs": [{key: value for key, value in given.items() if value is not None}]}


@pytest.mark.parametrize("body, pattern", [
    # datatype
    (change(datatype="INT32"), "input 'x': datatype INT32 is not the FP32 that the model takes"),
    (change(datatype="float32"), "datatype float32 is not the FP32"), (change(datatype="\u00e4\"\n"), "is not the FP32"),
    (change(datatype=None), "input 'x' has no \"datatype\"; the model takes FP32"),
    # shape
    (change(shape=[1, 8]), r"input 'x': shape \[1,8\] does not fit the model's \[-1,16\]"),
    (change(shape=[16]), r"shape \[16\] does not fit the model's \[-1,16\]"),
    (change(shape=[1, 16, 1]), r"shape \[1,16,1\] does not fit"), (change(shape=[]), r"shape \[\] does not fit"),
    (change(shape=[0, 16], data=[]), r"shape \[0,16\] has 0 rows, the model takes 1 to 64"),
    (change(shape=[65, 16], data=[0] * 1040), r"has 65 rows, the model takes 1 to 64 \(max_batch_size\)"),
    (change(shape=[-1, 16]), "a dimension of its shape is -1"), (change(shape=None), "input 'x' has no \"shape\""),
    (change(shape=16), '"shape" must be an array'), (change(shape=["1", "16"]), "wrong at byte"),
    (change(shape=[1.5, 16]), "wrong at byte"), (change(shape=[1] * 17), "more than 16 dimensions"),
    (change(shape=[2**63 - 1, 16]), "rows"), (change(shape=[2**64, 16]), "wrong at byte"),
    # names, missing and extra
    (change(name="z"), "model 'identity' has no input 'z'; it has 'x'"),
    (change(name="x\u0000"), "has no input"), (change(name=None), r'inputs\[0\] has no "name"'),
    ({"inputs": []}, "input 'x' of model 'identity' is missing"),
    ({"inputs": [GOOD["inputs"][0], tensor("more", X)]}, "has no input 'more'"),
    ({"inputs": [GOOD["inputs"][0]] * 2}, "input 'x' is given twice"),
    ({**GOOD, "outputs": [{"name": "q"}]}, "model 'identity' has no output 'q'; it has 'y'"),
    ({**GOOD, "outputs": [{"name": "y"}, {"name": "y"}]}, "output 'y' is asked for twice"),
    ({**GOOD, "outputs": [{}]}, r'outputs\[0\] has no "name"'), ({**GOOD, "outputs": 1}, '"outputs" must be an array'),
    # elements against the shape
    (change(data=[0] * 15), r"shape \[1,16\] has 16 elements, \"data\" has 15"),
    (change(data=[0] * 17), r"shape \[1,16\] has 16 elements, \"data\" has 17"),
    (change(data=[]), r"\"data\" has 0"), (change(data=[[0] * 8] * 2), r"nested as \[2,8\], its shape is \[1,16\]"),
    (change(data=[[0] * 15, [0]]), "different lengths"), (change(data=[[0] * 15, 0]), "mixes arrays and values"),
    (change(data=5), "data must be an array"), (change(data={"a": 1}), "data must be an array"),
    (change(data=None), "neither \"data\" nor a binary_data_size"),
    (change(data=["a"] * 16), "element 0 of FP32 must be a number"),
    (change(parameters={"binary_data_size": 64}), 'both "data" and a binary_data_size'),
    # binary
    (change(data=None, parameters={"binary_data_size": 64}), "0 bytes follow the JSON part, its inputs claim 64"),
    (change(data=None, parameters={"binary_data_size": 60}), r"binary_data_size 60 is not the 64 bytes of shape \[1,16\]"),
    (change(data=None, parameters={"binary_data_size": -1}), "binary_data_size"),
    (change(data=None, parameters={"binary_data_size": 2**64 - 1}), "binary_data_size"),
    (change(parameters=5), "\"parameters\" must be a JSON object")])
def test_wrong_tensors(wire, body, pattern):
    refused(wire.infer("identity", body), 400, pattern)


def test_inputs_that_do_not_go_together(wire):
    two = np.repeat(B, 2, axis=0)
    refused(wire.infer("add", {"inputs": [tensor("a", A), tensor("b", two)]}), 400,
            "input 'b' has 2 rows, input 'a' has 1")
    refused(wire.infer("add", {"inputs": [tensor("a", A)]}), 400, "input 'b' of model 'add' is missing")
    refused(wire.infer("fixed", {"inputs": [tensor("x", np.zeros((3, 3), np.float32))]}), 400,
            r"shape \[3,3\] does not fit the model's \[2,3\]")


def test_sequences_are_not_served(wire):
    for value in (5, "five"):
        refused(wire.infer("identity", {**GOOD, "parameters": {"sequence_id": value}}), 501, "sequence_id.*sequences")


def test_strings_have_no_classes(wire):
    body = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["a"]}],
            "outputs": [{"name": "same", "parameters": {"classification": 1}}]}
    refused(wire.infer("string_identity", body), 400, "output 'same': a classification needs numbers")


def test_binary_part_that_is_too_short_or_too_long(wire):
    body, headers = binary_body({"x": X})
    refused(wire.infer("identity", body[:-1], headers), 400, "63 bytes follow the JSON part, its inputs claim 64")
    refused(wire.infer("identity", body + b"!", headers), 400, "65 bytes follow the JSON part, its inputs claim 64")
    for extra, pattern in ((body[:-1], "ends after 63 of the 64 bytes"), (body + b"!", "goes on after the 64 bytes")):
        with Wire(wire.socket.getpeername()[1]) as other:  # an answer ahead of the end of a chunked body is the last one
            other.request("POST", "/v2/models/identity/infer", None, {**headers, "Transfer-Encoding": "chunked"})
            other.send(b"%x\r\n%s\r\n0\r\n\r\n" % (len(extra), extra))
            refused(other.reply(), 400, pattern)


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "0x10", "99999999999999999999", " ", "1,2"])
def test_header_length_that_is_none(wire, length):
    body, _ = binary_body({"x": X})
    refused(wire.infer("identity", body, {"Inference-Header-Content-Length": length}), 400,
            "Inference-Header-Content-Length .* is not a length")


def test_header_length_that_does_not_fit_the_body(wire):
    body, headers = binary_body({"x": X})
    length = int(headers["Inference-Header-Content-Length"])
    refused(wire.infer("identity", body, {"Inference-Header-Content-Length": str(len(body) + 1)}), 400,
            "is larger than the body")
    refused(wire.infer("identity", body, {"Inference-Header-Content-Length": str(length - 1)}), 400, "wrong at byte")
    refused(wire.infer("identity", body, {"Inference-Header-Content-Length": str(length + 1)}), 400, "wrong at byte")
    refused(wire.infer("identity", body, {"Inference-Header-Content-Length": str(10**12)}), 400, "larger than the body")


def test_raw_bodies_that_do_not_fit(wire):
    raw = {"Inference-Header-Content-Length": "0"}
    refused(wire.infer("identity", to_wire(X)[:-1], raw), 400, r"63 bytes, input 'x' takes 64 \(shape \[1,16\] as FP32\)")
    refused(wire.infer("identity", b"", raw), 400, "0 bytes")
    refused(wire.infer("add", to_wire(A), raw), 400, "needs a model with one input; model 'add' has 2")


def test_what_only_the_model_notices(wire):
    """The index is past the table: the engine's error reaches the client as its own mistake or the server's, and the
    neighbours get their answers."""
    bad = wire.infer("embedding", {"inputs": [tensor("ids", np.array([[1, 99]]))]})
    assert bad.status in (400, 500) and "indices element out of data bounds" in bad.json["error"], bad.body
    good = outputs_of(wire.infer("embedding", {"inputs": [tensor("ids", np.array([[1, 19]]))]}))["y"]
    assert good.shape == (1, 2, 4)


# ---- models, versions, paths, methods


@pytest.mark.parametrize("path", ["infer", "versions/1/infer"])
def test_unknown_model(wire, path):
    refused(wire.ask("POST", f"/v2/models/nobody/{path}", GOOD), 404, "Request for unknown model: 'nobody'")


@pytest.mark.parametrize("path", ["", "/ready", "/config", "/stats", "/versions/1", "/versions/1/stats"])
def test_documents_of_an_unknown_model(wire, path):
    refused(wire.ask("GET", f"/v2/models/nobody{path}"), 404, "Request for unknown model: 'nobody' is not found")


def test_unknown_version(wire):
    refused(wire.ask("POST", "/v2/models/identity/versions/2/infer", GOOD), 404,
            "Request for unknown model: 'identity' version 2 is not found")
    refused(wire.ask("GET", "/v2/models/identity/versions/2"), 404, "Request for unknown model: 'identity'")
    for version in ("0", "-1", "one", "1.0", "99999999999999999999", "%31"):
        refused(wire.ask("POST", f"/v2/models/identity/versions/{version}/infer", GOOD), 400,
                "model version .* is not a positive number")


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/", "/v2//models", "/v2/models", "/v2/models/", "/v2/models//infer",
                                  "/v2/models/add/infer/more", "/v2/models/add/versions/1/infer/x", "/V2", "/../v2",
                                  "/v2/models/add/versions", "/favicon.ico", "/v2/health", "/" + "x" * 3000])
def test_unknown_path(wire, path):
    reply = wire.ask("GET", path)
    if path == "/v2/":
        assert reply.status == 200  # one slash at the end is passed over
    else:
        refused(reply, 404, "there is nothing at /")


@pytest.mark.parametrize("name", ["%", "%4", "%zz", "%00", "a%2Fb", "..", "a%0Ab", "%ff", "x" * 300])
def test_names_that_no_model_can_have(wire, name):
    reply = wire.ask("GET", f"/v2/models/{name}")
    assert reply.status in (400, 404) and reply.json["error"]


def test_wrong_method(wire):
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        refused(wire.ask(method, "/v2/models/identity/infer", GOOD), 405, f"takes POST, not {method}")
    refused(wire.ask("POST", "/v2/models/identity", b"{}"), 405, "takes GET, HEAD, not POST")


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b"null", b"{} x", b"x" * 100])
def test_index_request_that_is_none(wire, body):
    refused(wire.ask("POST", "/v2/repository/index", body), 400, ".")


def test_body_too_large_for_a_document(wire):
    """The connection may end with the answer: its rest is too long to be worth reading."""
    with Wire(wire.socket.getpeername()[1]) as other:
        refused(other.ask("POST", "/v2/repository/index", b" " * 100000), 413, "too large")


# ---- at start: models


def start(*arguments, **options) -> subprocess.CompletedProcess:
    """A server that is expected not to start."""
    flags = [("--address", "127.0.0.1"), ("--http-port", "0"), ("--grpc-port", "0"), ("--metrics-port", "0"),
             ("--control-socket", "c.sock")]
    given = {str(argument).split("=")[0] for argument in arguments}
    return run_muster("serve", *arguments, *(word for flag in flags if flag[0] not in given for word in flag), **options)


def fails(done: subprocess.CompletedProcess, pattern: str, status=1):
    assert done.returncode == status, (done.returncode, done.stderr)
    assert re.search(pattern, done.stderr), done.stderr
    assert done.stdout == ""


def corrupt(path):
    good = (MODELS / "mlp.onnx").read_bytes()
    path.write_bytes(good[:len(good) // 2])
    return path


@pytest.mark.parametrize("content", [b"", b"this is no model", None])
def test_corrupt_model_file(tmp_path, content):
    file = tmp_path / "broken.onnx"
    corrupt(file) if content is None else file.write_bytes(content)
    fails(start(file, cwd=tmp_path), r'model.{1,20}broken.*(error|cannot be served)')
    assert not (tmp_path / "c.sock").exists()


def test_corrupt_model_in_a_repository_leaves_the_others_alone(serve, tmp_path):
    models = put_model(tmp_path / "models", "good", "identity.onnx")
    (models / "broken" / "1").mkdir(parents=True)
    corrupt(models / "broken" / "1" / "model.onnx")
    server = serve(models, wait=False)
    server.wait_state("degraded")
    with Wire(server.port) as wire:
        assert wire.ask("GET", "/v2/health/live").status == 200
        assert wire.ask("GET", "/v2/health/ready").status == 503
        assert wire.ask("GET", "/v2/models/broken/ready").status == 503
        index = {m["name"]: m for m in wire.ask("POST", "/v2/repository/index", b"").json}
        assert index["good"]["state"] == "READY" and index["broken"]["state"] == "UNAVAILABLE"
        assert "protobuf" in index["broken"]["reason"].lower() or "model.onnx" in index["broken"]["reason"]
        reply = wire.infer("broken", GOOD)
        assert reply.status == 503 and index["broken"]["reason"] in reply.json["error"]
        assert "unknown model" in reply.json["error"] and reply.headers["Retry-After"]
        assert same(outputs_of(wire.infer("good", GOOD))["y"], X)
    status = {m["name"]: m for m in server.status()["models"]}
    assert status["broken"]["state"] == "UNAVAILABLE" and status["broken"]["reason"] == index["broken"]["reason"]


def test_without_strict_readiness_one_good_model_is_enough(serve, tmp_path):
    models = put_model(tmp_path / "models", "good", "identity.onnx")
    corrupt(models / "broken.onnx")
    server = serve(models, "--strict-readiness=false", wait=False)
    server.wait_state("degraded")
    assert server.get("/v2/health/ready").status == 200
    assert server.infer("good", GOOD["inputs"]).status == 200


def test_exit_on_error_for_a_repository(tmp_path):
    models = put_model(tmp_path / "models", "good", "identity.onnx")
    corrupt(models / "broken.onnx")
    fails(start(models, "--exit-on-error", cwd=tmp_path), "broken")


def test_exit_on_error_switched_off_for_a_file(serve, tmp_path):
    server = serve(corrupt(tmp_path / "broken.onnx"), MODELS / "identity.onnx", "--exit-on-error=false", wait=False)
    server.wait_state("degraded")
    assert server.infer("identity", GOOD["inputs"]).status == 200


@pytest.mark.parametrize("model, pattern", [("sequence", "parts"), ("float8", "(?i)float8|type")])
def test_models_that_cannot_be_served(tmp_path, model, pattern):
    fails(start(MODELS / f"{model}.onnx", cwd=tmp_path), pattern)


# ---- at start: files and folders


def test_paths_that_are_not_there(tmp_path):
    (tmp_path / "text.txt").write_text("no model")
    (tmp_path / "empty").mkdir()
    for name, pattern in (("missing.onnx", "missing.onnx: No such file"), ("missing", "missing: No such file"),
                          ("text.txt", r"text.txt: neither a model file \(\*.onnx\) nor a folder"),
                          ("empty", "empty: no model in it")):
        fails(start(tmp_path / name, cwd=tmp_path), pattern)


def test_a_models_own_folder(tmp_path):
    models = put_model(tmp_path / "models", "one", "identity.onnx", config="max_batch_size: 4")
    fails(start(models / "one", cwd=tmp_path), "this is a model's folder; name the folder that holds it")


def without_override() -> list[str]:
    """The words before a command that take from root the right to read what permissions forbid."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("running as root without setpriv: every folder is readable")
    caps = "-dac_override,-dac_read_search"
    return [setpriv, f"--inh-caps={caps}", f"--bounding-set={caps}"]


def test_unreadable_folder(tmp_path):
    folder = tmp_path / "locked"
    put_model(folder, "one", "identity.onnx")
    folder.chmod(0)
    command = [*without_override(), binary_path(), "serve", folder, "--http-port", "0", "--grpc-port", "0",
               "--metrics-port", "0", "--address", "127.0.0.1", "--control-socket", "c.sock"]
    try:
        fails(subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment(), cwd=tmp_path),
              "locked: Permission denied")
    finally:
        folder.chmod(0o700)


def test_two_models_of_one_name(tmp_path):
    one, two = (put_model(tmp_path / name, "same", "identity.onnx") for name in ("one", "two"))
    fails(start(one, two, cwd=tmp_path), "two models are called 'same'")


# ---- at start: ports


def test_port_in_use(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails(start(MODELS / "identity.onnx", "--http-port", port, cwd=tmp_path), f"port {port} on 127.0.0.1 is in use")
        fails(start(MODELS / "identity.onnx", "--metrics-port", port, cwd=tmp_path), f"port {port} on 127.0.0.1 is in use")


def test_port_of_another_server(serve, tmp_path):
    server = serve(MODELS / "identity.onnx")
    fails(start(MODELS / "identity.onnx", "--http-port", server.port, cwd=tmp_path), f"{server.port}.*in use")
    socket_in_use = start(MODELS / "identity.onnx", "--control-socket", server.socket, cwd=tmp_path)
    fails(socket_in_use, "control.sock")
    assert server.socket.exists() and server.infer("identity", GOOD["inputs"]).status == 200


def test_an_address_that_is_none(tmp_path):
    fails(start(MODELS / "identity.onnx", "--address", "300.1.2.3", cwd=tmp_path), "300.1.2.3")
    fails(start(MODELS / "identity.onnx", "--http-address", "192.0.2.1", cwd=tmp_path), "192.0.2.1")


# ---- config.pbtxt


WRONG_CONFIGS = [
    ("max_batch_size 4\nname {", r"config.pbtxt:\d"), ("max_batch_size: many", "config.pbtxt:1.*max_batch_size"),
    ("max_batch_size: -1", "config.pbtxt:1.*max_batch_size"), ("max_batch_sise: 4", "config.pbtxt:1.*max_batch_sise"),
    ("name: 'other'", "config.pbtxt:1.*other"), ("platform: 'tensorflow_savedmodel'", "config.pbtxt:1.*tensorflow"),
    ("\ninput { name: 'x' data_type: TYPE_INT32 dims: 16 }", "config.pbtxt:2.*'x' is TYPE_INT32 here, but TYPE_FP32"),
    ("max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 8 }", r"config.pbtxt:1.*\[8\].*\[16\]"),
    ("input { name: 'z' data_type: TYPE_FP32 dims: 16 }", "config.pbtxt:1.*no input 'z'; it has 'x'"),
    ("output { name: 'z' data_type: TYPE_FP32 dims: 16 }", "config.pbtxt:1.*no output 'z'; it has 'y'"),
    ("sequence_batching { }", "config.pbtxt:1.*sequence_batching"),
    ("ensemble_scheduling { }", "config.pbtxt:1.*ensemble_scheduling"),
    ("instance_group { kind: KIND_GPU }", "(?i)gpu"),
    ("max_batch_size: 4 dynamic_batching { preferred_batch_size: 8 }", "preferred_batch_size 8 is more than"),
    ("version_policy { specific { versions: 7 } }", "version policy names it"),
    ("default_model_filename: '../../secret'", "config.pbtxt:1.*default_model_filename"),
    ("default_model_filename: 'other.onnx'", "other.onnx"),
    ("max_batch_size: 4\nmodel_warmup { name: 'w' batch_size: 1 inputs { key: 'q' value { data_type: TYPE_FP32 dims: 1 "
     "zero_data: true } } }", "model_warmup 'w': the model has no input 'q'")]


@pytest.mark.parametrize("config, pattern", WRONG_CONFIGS)
def test_wrong_config(tmp_path, config, pattern):
    models = put_model(tmp_path / "models", "model", "identity.onnx", config=config)
    fails(start(models, "--exit-on-error", cwd=tmp_path), pattern)


def test_wrong_configs_in_a_repository_are_told_apart(serve, tmp_path):
    models = put_model(tmp_path / "models", "good", "identity.onnx")
    for i, (config, _) in enumerate(WRONG_CONFIGS):
        put_model(models, f"wrong{i}", "identity.onnx", config=config)
    server = serve(models, wait=False)
    server.wait_state("degraded")
    index = {m["name"]: m for m in server.post("/v2/repository/index", "").json}
    for i, (_, pattern) in enumerate(WRONG_CONFIGS):
        model = index[f"wrong{i}"]
        assert model["state"] == "UNAVAILABLE" and re.search(pattern, model["reason"]), model
    assert server.infer("good", GOOD["inputs"]).status == 200


@pytest.mark.parametrize("parameters, pattern", [
    ({"base_ms": "soon"}, "sim.base_ms"), ({"no_such": 1}, "sim.no_such"), ({"load_fail": 1}, "sim.load_fail")])
def test_wrong_simulated_model(tmp_path, parameters, pattern):
    models = put_model(tmp_path / "models", "model", config=sim_config(**parameters))
    fails(start(models, "--exit-on-error", cwd=tmp_path), pattern)


# ---- flags, files and variables


@pytest.mark.parametrize("arguments, pattern", [
    (["--htp-port", "1"], "unknown flag --htp-port: did you mean --http-port?"),
    (["--max-batchsize=4"], "unknown flag --max-batchsize=4: did you mean --max-batch-size?"),
    (["--frobnicate"], "unknown flag --frobnicate: see --help"), (["-p", "1"], "unknown flag -p: flags begin with --"),
    (["--http-port"], "--http-port needs a value"), (["--http-port", "http"], "http-port: 'http' .*0 to 65535"),
    (["--http-port", "65536"], "65536"), (["--no-http-port"], "--no-http-port"),
    (["--body-limit", "1"], "body-limit: '1' .*1KiB to 64GiB"), (["--body-limit", "1XB"], "body-limit"),
    (["--engine", "caffe"], "caffe"), (["--device", "gpu:99"], "GPU 99"), (["--device", "quantum"], "quantum"),
    (["--load-balance", "best"], "queue-depth, round-robin"), (["--grpc-port", "7000", "--http-port", "7000"], "http-port and grpc-port are both 7000"),
    (["--load-model", "a"], "--load-model needs --model-control-mode=explicit"),
    (["--model-control-mode=explicit", "--load-model", "identty"], "did you mean identity?"),
    (["--admin=some"], "local, all, off"), (["--config", "nowhere.yaml"], "nowhere.yaml: No such file"),
    (["--rate-limit=execution_count"], "tritonserver's --rate-limit has no counterpart"),
    (["--http-port", "7000", "--metrics-port", "7000"], "http-port and metrics-port are both 7000")])
def test_wrong_flags(tmp_path, arguments, pattern):
    done = start(MODELS / "identity.onnx", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2) and re.search(pattern, done.stderr), (done.returncode, done.stderr)


@pytest.mark.parametrize("text, pattern", [
    ("http_prt: 1\n", "muster.yaml:1: unknown key 'http_prt': did you mean http_port?"),
    ("\n# comment\nthreads: many\n", "threads: 'many' .*muster.yaml:3"),
    ("models:\n  identity:\n    instanses: 2\n", "muster.yaml:3: unknown key 'instanses': did you mean instances?"),
    ("http_port: 1\nhttp-port: 2\n", "muster.yaml:2: 'http-port' is already set in line 1"),
    ("http_port: [1, 2]\n", "muster.yaml:1"), ("- http_port\n", "muster.yaml:1"), ("a: b: c\n", "muster.yaml:1"),
    ("models: 5\n", "muster.yaml:1"), ("\t\n", "muster.yaml:1"), ("config: other.yaml\n", "muster.yaml:1: unknown key")])
def test_wrong_settings_file(tmp_path, text, pattern):
    (tmp_path / "muster.yaml").write_text(text)
    fails(start(MODELS / "identity.onnx", cwd=tmp_path), pattern, status=2)


def test_wrong_environment(tmp_path):
    for name, value, pattern in (("MUSTER_HTP_PORT", "1", "MUSTER_HTP_PORT: did you mean MUSTER_HTTP_PORT?"),
                                 ("MUSTER_HTTP_PORT", "x", "'x' .from MUSTER_HTTP_PORT."),
                                 ("MAX_BATCH_SIZE", "-3", "'-3' .from MAX_BATCH_SIZE.")):
        fails(run_muster("serve", MODELS / "identity.onnx", cwd=tmp_path, env={name: value}), pattern, status=2)


def test_nothing_to_serve(tmp_path):
    fails(start(cwd=tmp_path), "nothing to serve", status=2)
