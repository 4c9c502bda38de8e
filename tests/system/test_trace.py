"""Triton's trace extension: settings over HTTP, and the files, which must be what Triton writes."""
import concurrent.futures
import json

import numpy as np
import pytest
import tritonclient.http as triton

from muster_server import MODELS, put_model, run_muster, sim_config, wait_for
from oip import Wire, tensor
from test_metrics import Page
from traffic import rows, sim_model
from websocket_client import receive, stream, text_message

X = np.zeros((1, 16), np.float32)
POINTS = ["HTTP_RECV_START", "HTTP_RECV_END", "REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END",
          "COMPUTE_OUTPUT_START", "COMPUTE_END", "INFER_RESPONSE_COMPLETE", "REQUEST_END", "HTTP_SEND_START", "HTTP_SEND_END"]
OFF = {"trace_level": ["OFF"], "trace_rate": "1000", "trace_count": "-1", "log_frequency": "0", "trace_file": "",
       "trace_mode": "triton"}


def infer(server, model="identity", x=X, **more):
    assert server.infer(model, [tensor("x", x)], **more).status == 200


def stop(server):
    server.process.terminate()
    assert server.wait_exit() == 0


def traces_of(text):
    """{id: ({model_name, …}, {point: ns})} of a trace file."""
    found = {}
    for entry in json.loads(text):
        about, times = found.setdefault(entry["id"], ({}, {}))
        if "timestamps" in entry:
            (time,) = entry["timestamps"]
            assert time["name"] not in times
            times[time["name"]] = time["ns"]
        else:
            about.update(entry)
    return found


def counted(server, name):
    return Page(server.metrics()).get(f"muster_traces_{name}_total")


@pytest.fixture
def traced(serve, tmp_path):
    """serve with --trace-config: a function of the settings that returns the server; its file is tmp_path/trace.json."""
    def start(*settings, models=MODELS / "identity.onnx"):
        flags = [flag for setting in (f"triton,file={tmp_path}/trace.json", *settings) for flag in ("--trace-config", setting)]
        return serve(models, *flags)
    return start


# ---- files


def test_a_trace(traced, tmp_path):
    server = traced("level=TIMESTAMPS", "rate=1", "mode=triton")
    infer(server, id="first \"one\"")
    with Wire(server.port) as wire:
        assert wire.infer("identity", {"inputs": []}).status == 400  # an error has a trace too, as far as it came
    infer(server)
    stop(server)
    assert (tmp_path / "trace.json").stat().st_mode & 0o777 == 0o640
    traces = list(traces_of((tmp_path / "trace.json").read_text()).values())
    assert [about["model_name"] for about, _ in traces] == ["identity"] * 3
    assert [about.get("request_id") for about, _ in traces] == ['first "one"', None, None]
    assert {about["model_version"] for about, _ in traces} == {1}
    for _, times in (traces[0], traces[2]):
        assert list(times) == POINTS and list(times.values()) == sorted(times.values())
    assert "HTTP_RECV_START" in traces[1][1] and "COMPUTE_START" not in traces[1][1]


def test_rate_and_count(traced, tmp_path):
    server = traced("level=TIMESTAMPS", "rate=3", "count=2")
    for i in range(12):
        infer(server, id=str(i))
    assert server.get("/v2/trace/setting").json["trace_count"] == "0"
    stop(server)
    traces = traces_of((tmp_path / "trace.json").read_text())
    assert [about["request_id"] for about, _ in traces.values()] == ["2", "5"]


def test_the_messages_of_a_stream_are_traced_not_its_beginning(traced, tmp_path):
    server = traced("level=TIMESTAMPS", "rate=1", "count=1", models=sim_model(tmp_path / "models"))
    with stream(server, "/v2/models/echo/stream") as ws:
        assert server.get("/v2/trace/setting").json["trace_count"] == "1"
        ws.send(text_message("message", {"x": rows(1)}))
        assert receive(ws).id == "message"
    stop(server)
    traces = traces_of((tmp_path / "trace.json").read_text())
    assert [about["request_id"] for about, _ in traces.values()] == ["message"]


def test_log_frequency_makes_files(traced, tmp_path):
    server = traced("level=TIMESTAMPS", "rate=1", "triton,log-frequency=2")
    for i in range(5):
        infer(server, id=str(i))
    wait_for(lambda: counted(server, "written") == 4, "two files")
    assert len(traces_of((tmp_path / "trace.json.0").read_text())) == 2  # whole while the server runs
    stop(server)
    files = sorted(path.name for path in tmp_path.glob("trace.json*"))
    assert files == ["trace.json.0", "trace.json.1", "trace.json.2"]
    ids = [about["request_id"] for name in files for about, _ in traces_of((tmp_path / name).read_text()).values()]
    assert ids == list("01234")


def test_many_traces_of_many_connections(traced, tmp_path):
    """More than fits one piece; none is lost and none is mixed with another."""
    models = put_model(tmp_path / "models", "echo", config=sim_config(max_batch_size=8))
    server = traced("level=TIMESTAMPS", "rate=1", models=models)

    def ask(connection):
        with Wire(server.port) as wire:
            for i in range(100):
                assert wire.infer("echo", {"id": f"{connection}-{i}", "inputs": [tensor("x", np.zeros((1, 4), np.float32))]}).status == 200

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, range(4)))
    wait_for(lambda: counted(server, "written") == 400, "all traces")
    assert counted(server, "dropped") == 0
    stop(server)
    traces = traces_of((tmp_path / "trace.json").read_text())
    assert {about["request_id"] for about, _ in traces.values()} == {f"{c}-{i}" for c in range(4) for i in range(100)}
    assert all(set(times) == set(POINTS) for _, times in traces.values())


def test_an_upgrade_goes_on_with_the_file(traced, tmp_path):
    server = traced("level=TIMESTAMPS", "rate=1")
    infer(server, id="before")
    assert run_muster("upgrade", "--control-socket", server.socket).returncode == 0
    infer(server, id="after")
    stop(server)
    traces = traces_of((tmp_path / "trace.json").read_text())
    assert [about["request_id"] for about, _ in traces.values()] == ["before", "after"]


def test_a_file_that_cannot_be_written(serve, tmp_path):
    """Neither a link nor a device is written to; the requests go on."""
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    for path in (tmp_path / "link", "/dev/null", tmp_path / "no" / "where"):
        server = serve(MODELS / "identity.onnx", "--trace-config", f"triton,file={path}", "--trace-level", "TIMESTAMPS",
                       "--trace-rate=1")
        infer(server)
        wait_for(lambda: counted(server, "dropped") == 1, "the loss")
        wait_for(lambda: any(line["message"] == "traces cannot be written and are dropped" for line in server.log_lines()), "a word about it")
        infer(server)
    assert (tmp_path / "victim").read_text() == "precious"


# ---- settings


def test_settings_with_tritonclient(traced, tmp_path):
    models = put_model(tmp_path / "models", "one", config=sim_config(max_batch_size=8))
    put_model(models, "two", config=sim_config(max_batch_size=8))
    server = traced("count=1000", models=models)
    client = triton.InferenceServerClient(server.url)
    start = {**OFF, "trace_count": "1000", "trace_file": f"{tmp_path}/trace.json"}
    assert client.get_trace_settings() == client.get_trace_settings(model_name="one") == start
    assert "trace" in client.get_server_metadata()["extensions"]
    # a model's own ones, the others follow the global ones
    on = client.update_trace_settings(model_name="one", settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
    assert on == {**start, "trace_level": ["TIMESTAMPS"], "trace_rate": "1"}
    assert client.get_trace_settings(model_name="two") == client.get_trace_settings() == start
    assert client.update_trace_settings(settings={"trace_count": "7", "trace_rate": "5"}) == {**start, "trace_count": "7", "trace_rate": "5"}
    assert client.get_trace_settings(model_name="one") == {**on, "trace_count": "7"}
    # traced is the one, and not the other
    infer(server, "one", np.zeros((1, 4), np.float32), id="yes")
    infer(server, "two", np.zeros((1, 4), np.float32), id="no")
    assert client.get_trace_settings(model_name="one")["trace_count"] == "6"
    # cleared settings follow again, those of the start in the end
    assert client.update_trace_settings(model_name="one", settings={"trace_level": None, "trace_rate": None}) == {
        **start, "trace_count": "7", "trace_rate": "5"}
    assert client.update_trace_settings(settings={"trace_count": None, "trace_rate": None}) == start
    client.close()
    stop(server)
    assert [about["request_id"] for about, _ in traces_of((tmp_path / "trace.json").read_text()).values()] == ["yes"]


@pytest.mark.parametrize("path, body, code, says", [
    ("/v2/trace/setting", {"trace_file": "/etc/passwd"}, 501, "trace file location can not be updated through network protocol"),
    ("/v2/trace/setting", {"trace_level": ["TENSORS"]}, 501, "TENSORS is not supported"),
    ("/v2/trace/setting", {"trace_mode": "opentelemetry"}, 501, "opentelemetry"),
    ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, 400, "Attempting to set invalid trace setting :trace file name is not given"),
    ("/v2/trace/setting", {"trace_rate": "x"}, 400, "Unable to parse 'trace_rate', got: x"),
    ("/v2/models/nobody/trace/setting", {"trace_rate": "1"}, 400, "Request for unknown model : nobody"),
    ("/v2/models/nobody/trace/setting", {}, 400, "Request for unknown model : nobody"),
])
def test_refused_settings(module_server, path, body, code, says):
    reply = module_server.post(path, body)
    assert (reply.status, says in reply.json["error"]) == (code, True), reply.body
    assert module_server.get("/v2/trace/setting").json == OFF


@pytest.fixture(scope="module")
def module_server(serve_module):
    return serve_module(MODELS / "identity.onnx")


def test_a_rate_of_zero_traces_nothing(traced):
    server = traced("rate=0")
    reply = server.post("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]})
    assert reply.status == 400 and "sample rate must be non-zero" in reply.json["error"]
    assert server.post("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"], "trace_rate": 1}).status == 200
    reply = server.post("/v2/trace/setting", {"trace_rate": "0"})
    assert reply.status == 400 and server.get("/v2/trace/setting").json["trace_rate"] == "1"


@pytest.mark.parametrize("setting, says", [
    ("level=TENSORS", "TENSORS is not supported"), ("mode=opentelemetry", "opentelemetry is not supported"),
    ("opentelemetry,url=localhost", "opentelemetry is not supported"), ("rate=-1", "out of range"), ("count=-2", "Expecting value >= -1"),
    ("colour=red", "triton,log-frequency"), ("triton", "SETTING=VALUE")])
def test_wrong_trace_config(tmp_path, setting, says):
    done = run_muster("config", MODELS / "identity.onnx", "--trace-config", setting, cwd=tmp_path)
    assert done.returncode == 2 and "--trace-config" in done.stderr and says in done.stderr


def test_a_level_without_a_file_is_said(tmp_path):
    done = run_muster("config", MODELS / "identity.onnx", "--trace-config", "level=TIMESTAMPS", cwd=tmp_path)
    assert done.returncode == 0 and "nothing is traced without triton,file=PATH" in done.stderr
