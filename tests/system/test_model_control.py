"""Models loaded and unloaded on request, the watch over the repository, version policies, and who may ask for it."""
import contextlib
import json
import os
import signal

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from muster_server import MODELS, put_model, run_muster, sim_config, wait_for
from oip import Wire
from test_reload import (ANSWERS, NEW, OLD, X, Load, answer_of, ask_echo, ask_net, change, change_net, control, delete, net_model,
                         reload_json, reloads, wait_gone)
from traffic import echo, infer, sim_model, standing_still, worker_pids

EXPLICIT = "--model-control-mode=explicit"
NEW_BYTES, OLD_BYTES = (MODELS / NEW).read_bytes(), (MODELS / OLD).read_bytes()


@pytest.fixture
def client_of():
    """client_of(server): NVIDIA's own client."""
    with contextlib.ExitStack() as stack:
        yield lambda server: stack.enter_context(triton.InferenceServerClient(server.url))


@pytest.fixture
def explicit(serve, tmp_path, client_of):
    """A server with the models `net` and `echo` of which none is loaded, its repository, and a client."""
    repository = net_model(sim_model(tmp_path / "models"))
    server = serve(repository, EXPLICIT)
    return server, repository, client_of(server)


@pytest.fixture(scope="module")
def refusing(serve_module, module_path):
    """A server that is asked for what cannot be, and serves `net` as ever."""
    return serve_module(net_model(module_path / "models"), EXPLICIT, "--load-model=net", "--body-limit=1MiB")


def index(client) -> dict[str, tuple]:
    """{name or name/version: (state, reason)}; a model of which only the name is known has none."""
    return {entry["name"] + ("/" + entry["version"] if "version" in entry else ""):
            (entry["state"], entry["reason"]) if "state" in entry else () for entry in client.get_model_repository_index()}


def refused(call, pattern, status=None):
    with pytest.raises(InferenceServerException, match=pattern) as caught:
        call()
    assert status is None or caught.value.status() == f"{status}", caught.value


# ---- explicit --------------------------------------------------------------------------------------------------------

def test_load_and_unload(explicit):
    server, _, client = explicit
    assert client.is_server_ready(), "nothing was asked for, so nothing is missing"
    assert index(client) == {"net": (), "echo": ()} and not client.is_model_ready("net")
    client.load_model("net")
    assert client.is_model_ready("net") and answer_of(server) == "old"
    assert index(client) == {"net/1": ("READY", ""), "echo": ()}
    assert server.post("/v2/repository/index", {"ready": True}).json == [
        {"name": "net", "version": "1", "state": "READY", "reason": ""}]
    before = worker_pids(server, "net")
    client.load_model("net")
    assert worker_pids(server, "net") == before, "what has not changed is not loaded again"
    client.unload_model("net")
    assert not client.is_model_ready("net") and index(client) == {"net/1": ("UNAVAILABLE", "unloaded"), "echo": ()}
    assert answer_of(server) == "404"
    client.unload_model("net", unload_dependents=True)  # it is not loaded: nothing is to be done, as with Triton
    wait_gone(server, 0)
    client.load_model("net")
    assert answer_of(server) == "old" and client.is_server_ready()


def test_a_model_is_replaced_under_load(explicit):
    server, repository, client = explicit
    client.load_model("echo")
    client.load_model("net")
    with Load(server, ask_echo()) as steady, Load(server, ask_net) as net:
        change_net(repository)
        client.load_model("net")
        assert answer_of(server) == "new"
        net.go_on()
        client.load_model("net", config="{}", files={"file:1/model.onnx": OLD_BYTES})
        assert answer_of(server) == "old"
        net.go_on()
        client.load_model("net")
        net.go_on()
    assert steady.heard == [["right"]] * 3 and net.heard == [["old", "new", "old", "new"]] * 3


def test_what_is_at_work_when_a_model_is_unloaded_ends_as_usual(serve, tmp_path, client_of):
    server = serve(sim_model(tmp_path / "models"), EXPLICIT, "--load-model=echo")
    with Wire(server.port) as wire, contextlib.closing(client_of(server)) as client:
        with standing_still(*worker_pids(server)):
            wire.request("POST", "/v2/models/echo/infer", json.dumps({"inputs": [
                {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [1] * 16}]}).encode())
            wait_for(lambda: server.get("/stats").json["queue_depth"] == 1, "the request to be at work")
            client.unload_model("echo")
            assert not client.is_model_ready("echo")
        assert wire.reply().status == 200


def test_loads_that_fail(explicit):
    server, repository, client = explicit
    refused(lambda: client.load_model("nothing"), "failed to load 'nothing', failed to poll from model repository", 404)
    put_model(repository, "broken", config=sim_config(load_fail=1))
    refused(lambda: client.load_model("broken"), "load failed for model 'broken': version 1 is at UNAVAILABLE state", 400)
    state, reason = index(client)["broken/1"]
    assert state == "UNAVAILABLE" and "load_fail" in reason
    put_model(repository, "wrong", config="max_batchsize: 1")
    refused(lambda: client.load_model("wrong"), "max_batchsize", 400)
    assert index(client)["wrong"][0] == "UNAVAILABLE" and "max_batchsize" in index(client)["wrong"][1]
    assert client.is_server_ready(), "what could not be loaded was not there before either"
    client.load_model("net")
    (before,) = worker_pids(server, "net")
    change(repository / "net" / "1" / "model.onnx", "no model")
    refused(lambda: client.load_model("net"), "load failed for model 'net'.*Protobuf parsing failed", 400)
    assert answer_of(server) == "old" and worker_pids(server, "net") == [before], "the one before serves on"
    state, reason = index(client)["net/1"]
    assert state == "READY" and "Protobuf parsing failed" in reason
    change_net(repository)
    client.load_model("net")
    assert answer_of(server) == "new" and index(client)["net/1"] == ("READY", "")


def test_what_is_new_in_the_repository_is_listed(explicit):
    _, repository, client = explicit
    sim_model(repository, "fresh")
    wait_for(lambda: "fresh" in index(client), "the new model in the index")
    delete(repository, "fresh")
    wait_for(lambda: "fresh" not in index(client), "the index without the model")


def test_reload_with_explicit_control(serve, tmp_path, client_of):
    """muster reload reads anew what is loaded, and loads nothing else."""
    repository = net_model(sim_model(sim_model(tmp_path / "models"), "other"))
    server = serve(repository, EXPLICIT, "--load-model=echo")
    client = client_of(server)
    client.load_model("net", config=json.dumps({"max_batch_size": 3}))
    change_net(repository)
    found = reload_json(server)
    assert [m["name"] for m in found["changed"]] == ["net"] and not found["added"]
    assert [m["name"] for m in found["unchanged"]] == ["echo"]
    assert answer_of(server) == "new" and client.get_model_config("net")["max_batch_size"] == 3, "as it was loaded"
    assert index(client)["other"] == ()
    delete(repository, "net")
    assert [m["name"] for m in reload_json(server)["removed"]] == ["net"]
    net_model(repository)
    assert not reload_json(server)["added"], "it is not loaded any more, and nothing else is loaded"


def test_loads_at_the_same_time(explicit):
    """One after the other, each with an answer; a client that leaves changes nothing for the others."""
    server, repository, client = explicit
    for i in range(4):
        sim_model(repository, f"m{i}")
    wires = [Wire(server.port) for _ in range(4)]
    for i, wire in enumerate(wires):
        wire.request("POST", f"/v2/repository/models/m{i}/load", b"")
    wires.pop(0).close()
    assert [wire.reply().status for wire in wires] == [200] * 3
    for wire in wires:
        wire.close()
    assert [echo(server, 1, model=f"m{i}").status for i in range(4)] == [200] * 4


# ---- what comes with a load ------------------------------------------------------------------------------------------

def test_config_override(explicit):
    server, _, client = explicit
    client.load_model("net", config='{"maxBatchSize": 5, "dynamicBatching": {"maxQueueDelayMicroseconds": "100"}}')
    config = client.get_model_config("net")
    assert config["max_batch_size"] == 5 and config["dynamic_batching"]["max_queue_delay_microseconds"] == 100
    client.load_model("net", config=json.dumps(config))
    assert client.get_model_config("net") == config, "what the server prints it also takes"
    client.load_model("net")
    assert client.get_model_config("net")["max_batch_size"] == 64, "that of the repository again"
    assert answer_of(server) == "old"


@pytest.mark.parametrize("config, pattern", [
    ('{"max_batchsize": 4}', "config:1:19: ModelConfig has no field 'max_batchsize'; did you mean 'max_batch_size'"),
    ('{\n "max_batch_size": "many"}', "config:2:20: max_batch_size must be an integer"),
    ('{"max_batch_size": 4', "byte 20"), ('{"name": "echo"}', "the name is 'echo'"), ("", "is empty"), ("[]", "config:1:"),
    ('{"input": [{"name": "x", "data_type": "TYPE_FP33", "dims": [16]}]}', "did you mean TYPE_FP32"),
    ('{"input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [17]}]}', "dims .17., but the model expects .16."),
    ('{"ensemble_scheduling": {"step": []}}', "ensemble_scheduling is not supported"),
    ('{"default_model_filename": "../../etc/passwd"}', "must name a file below the model's folder"),
    ('{"parameters": {"muster.onnxruntime": {"string_value": "/tmp/x.so"}}}', "cannot be set"),
    ('{"parameters": {"session.model_external_initializers_file_folder_path": {"string_value": "/etc"}}}', "names a path"),
    ('{"optimization": {"execution_accelerators": {"gpu_execution_accelerator": [{"name": "tensorrt", "parameters":'
     ' {"trt_engine_cache_path": "/tmp"}}]}}}', "names a path")])
def test_wrong_config_override(refusing, client_of, config, pattern):
    refused(lambda: client_of(refusing).load_model("net", config=config), pattern)
    assert answer_of(refusing) == "old"


def test_files_come_along(explicit):
    """The model need not be in the repository at all."""
    server, repository, client = explicit
    client.load_model("given", config='{"version_policy": {"all": {}}}',
                      files={"file:1/model.onnx": OLD_BYTES, "file:3/model.onnx": NEW_BYTES})
    assert index(client)["given/1"] == index(client)["given/3"] == ("READY", "")
    assert np.array_equal(infer(server, "given", {"x": X}).outputs["y"], infer(server, "given", {"x": X}).outputs["y"])
    assert infer(server, "given", {"x": X}).outputs["y"].shape == ANSWERS["new"].shape, "the highest version"
    (pid,) = {w["pid"] for w in server.workers("given") if w["version"] == 3}
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: any(w["version"] == 3 and w["state"] == "ready" and w["pid"] != pid for w in server.workers("given")),
             "the worker to be started again, with the same file")
    assert infer(server, "given", {"x": X}).outputs["y"].shape == ANSWERS["new"].shape
    found = reload_json(server)
    assert len(found["unchanged"]) == 2 and not (found["removed"] or found["failed"])
    client.unload_model("given")
    assert not client.is_model_ready("given")
    assert not [path for path in repository.rglob("*") if "given" in path.name]


B64 = "AAAA"


@pytest.mark.parametrize("parameters, pattern, status", [
    ({"file:1/model.onnx": B64}, "need its 'config' parameter", 400),
    *(({"config": "{}", f"file:{name}": B64}, "file:", 400) for name in (
        "/etc/passwd", "../x", "1/../model.onnx", "1//model.onnx", "1/", "", ".", "..", "01/model.onnx", "-1/model.onnx",
        "1/model.onnx\0", "1/a/b", "99999999999999999999/model.onnx", "one/model.onnx")),
    ({"config": "{}", "file:1/weights.bin": B64}, "only the model file itself is taken", 501),
    ({"config": "{}", "file:labels.txt": B64}, "only the model file itself is taken", 501),
    ({"config": "{}", "file:1/model.onnx": "A*AA"}, "not base64", 400),
    ({"config": "{}", "file:1/model.onnx": 5}, "must be the content of a file", 400),
    ({"config": "{}", "file:1/model.onnx": B64}, "load failed for model 'net'", 400),
    ({"config": {"name": "net"}}, "parameter 'config'", 400), ({"config": True}, "must be a string", 400),
    ({"path": "/etc/passwd"}, "unrecognized load parameter 'path'", 400), ([], "must be a JSON object", 400)])
def test_wrong_files_and_parameters(refusing, parameters, pattern, status):
    reply = refusing.post("/v2/repository/models/net/load", {"parameters": parameters})
    assert reply.status == status and pattern in reply.json["error"], reply.body
    assert answer_of(refusing) == "old" and refusing.get("/v2/health/ready").status == 200


@pytest.mark.parametrize("body", ["{", "[]", "1", '{"parameters": 5}', '{"parameters": {"a": [1]}}', '{"parameters": {"a"}}'])
@pytest.mark.parametrize("what", ["load", "unload"])
def test_bodies_that_are_none(refusing, what, body):
    assert refusing.post(f"/v2/repository/models/net/{what}", body).status == 400


@pytest.mark.parametrize("name", ["..", "%2e%2e", "a%2fb", "%2fetc", "a%00b", "..%2f..%2fetc", "%0a"])
def test_no_name_is_a_path(refusing, name):
    for what in ("load", "unload"):
        reply = refusing.post(f"/v2/repository/models/{name}/{what}", "")
        assert reply.status == 400 and "cannot be the name of a model" in reply.json["error"]


def test_a_body_past_the_limit(refusing):
    reply = refusing.post("/v2/repository/models/net/load",
                        {"parameters": {"config": "{}", "file:1/model.onnx": "A" * (1 << 20)}})
    assert reply.status == 413


# ---- the other modes -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode, pattern", [("none", "not allowed if model control mode is NONE"),
                                           ("poll", "not allowed if polling is enabled")])
def test_load_is_for_explicit_control(serve, tmp_path, client_of, mode, pattern):
    server = serve(net_model(tmp_path / "models"), f"--model-control-mode={mode}")
    client = client_of(server)
    for call in (client.load_model, client.unload_model):
        refused(lambda call=call: call("net"), f"explicit model load / unload is {pattern}", 400)
    assert answer_of(server) == "old"


def test_poll(serve, tmp_path, client_of):
    repository = net_model(sim_model(tmp_path / "models"))
    server = serve(repository, "--model-control-mode=poll", "--repository-poll-secs=0.1")
    client = client_of(server)
    (stays,) = worker_pids(server, "echo")
    with Load(server, ask_echo()) as steady, Load(server, ask_net) as net:
        change_net(repository)
        wait_for(lambda: answer_of(server) == "new", "the changed model")
        sim_model(repository, "fresh")
        wait_for(lambda: client.is_model_ready("fresh"), "the new model")
        delete(repository, "fresh")
        wait_for(lambda: "fresh/1" not in index(client), "the model to be gone")
        steady.go_on()
    assert steady.heard == [["right"]] * 3 and net.heard == [["old", "new"]] * 3
    assert worker_pids(server, "echo") == [stays]


def test_poll_is_silent_when_nothing_changes(serve, tmp_path):
    repository = net_model(sim_model(tmp_path / "models"))
    put_model(repository, "broken", config=sim_config(load_fail=1))
    put_model(repository, "warned", config=sim_config(version_policy="{ all {} }") + "metric_tags { key: 'a' value: 'b' }\n")
    server = serve(repository, "--model-control-mode=poll", "--repository-poll-secs=0.05", wait=False)
    server.wait_state("degraded")
    said = server.log
    moved = repository.rename(tmp_path / "elsewhere")
    wait_for(lambda: "the repository cannot be read" in server.log, "a word about the repository that is gone")
    moved.rename(repository)
    (sim_model(tmp_path / "aside", "fresh") / "fresh").rename(repository / "fresh")  # never seen half written
    wait_for(lambda: len(reloads(server)) == 1, "the one reload for what is new")
    assert not said.count("reloading") and said.count("metric_tags") == 1
    assert server.log.count("the repository cannot be read") == 1, "said once, not at every look"
    assert answer_of(server) == "old" and echo(server, 1, model="fresh").status == 200


def test_no_poll(serve, tmp_path, client_of):
    repository = net_model(tmp_path / "models")
    server = serve(repository, "--model-control-mode=poll", "--repository-poll-secs=0")
    sim_model(repository, "fresh")
    assert index(client_of(server)) == {"net/1": ("READY", "")}
    assert [m["name"] for m in reload_json(server)["added"]] == ["fresh"], "muster reload still does it"


# ---- versions --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("policy, versions", [
    ("", ["3"]), ("{ latest { num_versions: 2 } }", ["2", "3"]), ("{ all {} }", ["1", "2", "3"]),
    ("{ specific { versions: [1, 3] } }", ["1", "3"])])
def test_version_policy(serve, tmp_path, client_of, policy, versions):
    def config(text):
        return sim_config(dims=16, max_batch_size=8, **({"version_policy": text} if text else {}))
    repository = put_model(tmp_path / "models", "echo", config=config(policy))
    for version in ("2", "3"):
        (repository / "echo" / version).mkdir()
    server = serve(repository, EXPLICIT, "--load-model=*")
    client = client_of(server)

    def served():
        return [name.removeprefix("echo/") for name, (state, _) in index(client).items() if state == "READY"]
    assert served() == versions == client.get_model_metadata("echo")["versions"]
    client.unload_model("echo")
    assert index(client) == {f"echo/{version}": ("UNAVAILABLE", "unloaded") for version in versions}
    client.load_model("echo")
    assert served() == versions
    (repository / "echo" / "4").mkdir()
    change(repository / "echo" / "config.pbtxt", config("{ all {} }"))
    reload_json(server)
    assert served() == ["1", "2", "3", "4"]
    client.load_model("echo", config=json.dumps({**client.get_model_config("echo"), "version_policy": {
        "specific": {"versions": ["2"]}}}))
    assert served() == ["2"]


def test_a_version_that_is_not_there(refusing, client_of):
    config = '{"version_policy": {"specific": {"versions": [7]}}}'
    refused(lambda: client_of(refusing).load_model("net", config=config), "net/7", 400)
    assert answer_of(refusing) == "old"


# ---- processes come and go -------------------------------------------------------------------------------------------

def test_the_gateway_dies_while_a_model_is_loading(explicit):
    """The client's connection is cut; the load still happens, and the next gateway knows."""
    server, repository, client = explicit
    put_model(repository, "slow", config=sim_config(load_ms=1500))
    gateway = server.status()["gateway"]["pid"]
    with Wire(server.port) as wire:
        wire.request("POST", "/v2/repository/models/slow/load", b"")
        loading = wait_for(lambda: [worker["pid"] for worker in control(server, "GET", "/status")["workers"] if worker["pid"]], "the load to have begun")
        with standing_still(*loading):
            os.kill(gateway, signal.SIGKILL)
            with pytest.raises(ConnectionError):
                wire.reply()
    wait_for(lambda: server.status().get("gateway", {}).get("state") == "ready", "the next gateway")
    wait_for(lambda: server.get("/v2/models/slow/ready").status == 200, "the model that was asked for")
    assert {m["name"]: m.get("state") for m in server.post("/v2/repository/index", "").json} == {
        "slow": "READY", "net": None, "echo": None}
    assert server.post("/v2/repository/models/slow/unload", "").status == 200


def test_an_upgrade_keeps_what_is_loaded(explicit):
    server, repository, client = explicit
    client.load_model("net", config=json.dumps({"max_batch_size": 3}))
    client.load_model("given", config="{}", files={"file:2/model.onnx": NEW_BYTES})
    client.load_model("echo")
    client.unload_model("echo")
    wait_gone(server, 2)
    done = run_muster("upgrade", "--control-socket", server.socket, cwd=server.socket.parent)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert index(client) == {"net/1": ("READY", ""), "given/2": ("READY", ""), "echo/1": ("UNAVAILABLE", "unloaded")}
    assert client.get_model_config("net")["max_batch_size"] == 3
    assert infer(server, "given", {"x": X}).outputs["y"].shape == ANSWERS["new"].shape
    (worker,) = server.workers("given")
    os.kill(worker["pid"], signal.SIGKILL)
    wait_for(lambda: [w for w in server.workers("given") if w["state"] == "ready" and w["pid"] != worker["pid"]],
             "the given model to be loaded again out of its file")
    client.load_model("echo")
    assert echo(server, 1).status == 200
    assert len(reload_json(server)["unchanged"]) == 3


def test_stop_while_a_model_is_loading(explicit):
    server, repository, _ = explicit
    put_model(repository, "slow", config=sim_config(load_ms=30000))
    with Wire(server.port) as wire:
        wire.request("POST", "/v2/repository/models/slow/load", b"")
        wait_for(lambda: server.workers("slow"), "the load to have begun")
        server.signal(signal.SIGTERM)
        reply = wire.reply()
        assert reply.status == 503 and "stopping" in reply.json["error"]
    assert server.wait_exit() == 0


# ---- who may ---------------------------------------------------------------------------------------------------------

def test_admin_off(serve, tmp_path):
    server = serve(net_model(tmp_path / "models"), EXPLICIT, "--load-model=net", "--admin=off")
    for what in ("load", "unload"):
        reply = server.post(f"/v2/repository/models/net/{what}", "{}")
        assert reply.status == 403 and "--admin=off" in reply.json["error"]
    assert answer_of(server) == "old" and server.post("/v2/repository/index", "").status == 200


@pytest.mark.parametrize("admin", ["local", "all"])
def test_admin_for_local_clients(serve, tmp_path, admin):
    server = serve(net_model(tmp_path / "models"), EXPLICIT, f"--admin={admin}")
    assert server.post("/v2/repository/models/net/load", "").status == 200
    assert "WHOEVER" not in server.log, "only this machine reaches 127.0.0.1"
