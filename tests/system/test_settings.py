"""What can be set while the server runs: the log (v2/logging), with NVIDIA's client and without."""
import os
import re
import signal

import numpy as np
import pytest
import tritonclient.http as triton

from muster_server import MODELS, run_muster, wait_for
from oip import Wire, tensor

X = np.zeros((1, 16), np.float32)
DEFAULTS = {"log_file": "", "log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0,
            "log_format": "default"}


def infer(server, **more):
    assert server.infer("identity", [tensor("x", X)], **more).status == 200


def levels_of(server, role, after=0):
    return {line["level"] for line in list(server.log_lines())[after:] if line["role"] == role}


# ---- logging


def test_log_settings_with_tritonclient(serve):
    server = serve(MODELS / "identity.onnx")
    client = triton.InferenceServerClient(server.url)
    assert client.get_log_settings() == DEFAULTS
    assert "logging" in client.get_server_metadata()["extensions"]
    changed = {"log_info": False, "log_warning": False, "log_error": False, "log_verbose_level": 3,
               "log_format": "ISO8601"}
    assert client.update_log_settings(changed) == {"log_file": "", **changed}
    assert client.get_log_settings() == {"log_file": "", **changed}
    assert client.update_log_settings({"log_error": True}) == {"log_file": "", **changed, "log_error": True}
    with pytest.raises(triton.InferenceServerException, match="log file location can not be updated through network protocol"):
        client.update_log_settings({"log_file": "/tmp/x"})
    with pytest.raises(triton.InferenceServerException, match="there is no log setting 'log_level'"):
        client.update_log_settings({"log_level": "info"})
    client.close()


@pytest.mark.parametrize("body, code", [(b"[]", 400), (b"{", 400), (b'{"log_info": "yes"}', 400), (b"x" * 100_000, 413),
                                        (b'{"log_file": "/etc/passwd"}', 501), (b"", 200), (b'{"log_file": null}', 200)])
def test_bad_log_settings(module_server, body, code):
    with Wire(module_server.port) as wire:
        reply = wire.ask("POST", "/v2/logging", body)
        assert reply.status == code
        assert wire.ask("GET", "/v2/logging").json == DEFAULTS  # nothing has changed
        assert wire.ask("DELETE", "/v2/logging").status == 405


@pytest.fixture(scope="module")
def module_server(serve_module):
    return serve_module(MODELS / "identity.onnx")


def test_log_settings_reach_all_processes(serve):
    server = serve(MODELS / "identity.onnx")
    infer(server)
    assert levels_of(server, "gateway") <= {"info"}
    (worker,) = server.workers()
    assert server.post("/v2/logging", {"log_verbose_level": 1}).json == {**DEFAULTS, "log_verbose_level": 1}
    infer(server, id="seen")  # this gateway: at once
    wait_for(lambda: any(line.get("id") == "seen" for line in server.log_lines()), "the gateway's details")
    wait_for(lambda: any(line["message"] == "a client changes the log settings" and line["role"] == "supervisor"
                         for line in server.log_lines()), "the supervisor's word")
    os.kill(worker["pid"], signal.SIGKILL)  # a process that is started later has them too
    wait_for(lambda: server.workers() and server.workers()[0]["state"] == "ready" and
             server.workers()[0]["pid"] != worker["pid"], "another worker")
    assert server.get("/v2/logging").json["log_verbose_level"] == 1
    gateway = server.status()["gateway"]["pid"]
    os.kill(gateway, signal.SIGKILL)  # and so has the next gateway
    wait_for(lambda: server.status()["gateway"]["pid"] not in (gateway, None, 0), "another gateway")
    server.wait_state("ready")
    assert server.get("/v2/logging").json == {**DEFAULTS, "log_verbose_level": 1}


def test_reload_brings_the_settings_of_the_file_back(serve, tmp_path):
    server = serve(MODELS / "identity.onnx", "--log-warning=false")
    assert server.get("/v2/logging").json == {**DEFAULTS, "log_warning": False}
    assert server.post("/v2/logging", {"log_info": False}).json["log_info"] is False
    assert run_muster("reload", "--control-socket", server.socket).returncode == 0
    assert server.get("/v2/logging").json == {**DEFAULTS, "log_warning": False}


def test_silence_and_dates(serve):
    """Each level for itself; lines of text with dates where that is wanted."""
    server = serve(MODELS / "identity.onnx", "--log-format", "ISO8601", "--log-info=false", "--log-verbose=1",
                   "--log-error=false")
    infer(server)
    wait_for(lambda: any(line["message"] == "request answered" for line in server.log_lines()), "a detail")
    assert {line["level"] for line in server.log_lines()} == {"verbose"}
    assert server.get("/v2/logging").json == {**DEFAULTS, "log_info": False, "log_error": False,
                                              "log_verbose_level": 1, "log_format": "ISO8601"}
    text = serve(MODELS / "identity.onnx", "--log-format", "text")
    text.post("/v2/logging", {"log_format": "ISO8601", "log_verbose_level": 1})
    infer(text)
    wait_for(lambda: re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z verbose gateway: request answered", text.log,
                               re.M), "a line with a date")
