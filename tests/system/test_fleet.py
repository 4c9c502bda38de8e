"""The machine's GPUs: faults, fences, and what becomes of the work on them. No GPU is needed: simulated ones, and a fake
of NVIDIA's management library."""
import http.client
import socket
import threading
import urllib.parse

import pytest

from muster_server import run_muster, wait_for
from traffic import Client, echo, sim_model


def gpu_model(repository, name="echo", gpus="0, 1", **parameters):
    """A model of the sim engine with a worker on each of these GPUs."""
    return sim_model(repository, name, instance_group=f"{{ kind: KIND_GPU gpus: [{gpus}] }}", **parameters)


def ask(server, method, target, **query) -> tuple[int, str]:
    """Of the control socket."""
    connection = http.client.HTTPConnection("localhost", timeout=60)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(60)
    connection.sock.connect(str(server.socket))
    connection.request(method, target + ("?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote) if query else ""))
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def states(server, model=None) -> dict[str, str]:
    """State of each worker by its device."""
    return {worker["device"]: worker["state"] for worker in server.workers(model)}


def wait_states(server, **wanted):
    wanted = {name.replace("gpu", "gpu:"): state for name, state in wanted.items()}
    wait_for(lambda: states(server) == wanted, f"workers {wanted}, not {states(server)}; log:\n{server.log}")


class Load:
    """Clients that ask one thing after the other; whatever is not the right answer is a failure."""

    def __init__(self, server, clients=4):
        self.server, self.over, self.failures, self.answers = server, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(clients)]

    def run(self, n):
        try:
            with Client(self.server) as client:
                while not self.over.is_set():
                    answer = client.echo(n)
                    if answer.status != 200:
                        self.failures.append((answer.status, answer))
                    self.answers += 1
        except Exception as problem:  # pylint: disable=broad-except
            self.failures.append(repr(problem))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_for(lambda: self.answers > 20 or self.failures, "answers")
        return self

    def more(self):
        """Some answers later."""
        before = self.answers
        wait_for(lambda: self.answers > before + 20 or self.failures, "more answers")

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()
        assert self.failures == []


# ---- by hand ---------------------------------------------------------------------------------------------------------

def test_a_fenced_gpu_leaves_its_work_to_the_others(serve, tmp_path):
    server = serve(gpu_model(tmp_path / "models", base_ms=5), "--simulate-gpus=2")
    with Load(server) as load:
        status, answer = ask(server, "POST", "/gpus/fence", gpu="0", reason="a fan & its noise")
        assert status == 200 and '"fenced"' in answer
        wait_states(server, gpu0="fenced", gpu1="ready")
        load.more()
        assert server.get("/v2/health/ready").status == 200
        (gpu, other) = server.status()["gpus"]
        assert (gpu["state"], gpu["reason"], gpu["healthy"]) == ("fenced", "a fan & its noise", False)
        assert other["state"] == "serving" and other["healthy"]
        assert ask(server, "POST", "/gpus/unfence", gpu="GPU-simulated-0")[0] == 200
        wait_states(server, gpu0="ready", gpu1="ready")
        load.more()
    changes = [(line["from"], line["to"]) for line in server.log_lines() if line["message"] == "GPU changes its state"]
    assert changes == [("serving", "fenced"), ("fenced", "serving")]


def test_a_model_without_a_gpu_says_why(serve, tmp_path):
    server = serve(gpu_model(tmp_path / "models", gpus="1"), "--simulate-gpus=2")
    assert ask(server, "POST", "/gpus/fence", gpu="1", reason="maintenance")[0] == 200
    wait_states(server, gpu1="fenced")
    wait_for(lambda: server.get("/v2/health/ready").status == 503, "readiness to go")
    refused = echo(server, 1)
    assert refused.status == 503 and "GPU 1" in refused.error and "maintenance" in refused.error
    assert ask(server, "POST", "/gpus/unfence", gpu="1")[0] == 200
    wait_for(lambda: server.get("/v2/health/ready").status == 200, "readiness to come back")


def test_an_upgrade_keeps_a_fence(serve, tmp_path):
    server = serve(gpu_model(tmp_path / "models"), "--simulate-gpus=2")
    ask(server, "POST", "/gpus/fence", gpu="0", reason="dust")
    wait_states(server, gpu0="fenced", gpu1="ready")
    before = [worker["pid"] for worker in server.workers() if worker["pid"]]
    done = run_muster("upgrade", "--control-socket", server.socket, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    wait_states(server, gpu0="fenced", gpu1="ready")
    assert [worker["pid"] for worker in server.workers() if worker["pid"]] != before
    (gpu, _) = server.status()["gpus"]
    assert (gpu["state"], gpu["reason"]) == ("fenced", "dust")
    assert ask(server, "POST", "/gpus/unfence", gpu="0")[0] == 200
    wait_states(server, gpu0="ready", gpu1="ready")


def test_a_reload_goes_round_a_fence(serve, tmp_path):
    models = gpu_model(tmp_path / "models")
    server = serve(models, "--simulate-gpus=2")
    ask(server, "POST", "/gpus/fence", gpu="0")
    wait_states(server, gpu0="fenced", gpu1="ready")
    gpu_model(models, "second")
    done = run_muster("reload", "--control-socket", server.socket, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert states(server, "second") == {"gpu:0": "fenced", "gpu:1": "ready"}


@pytest.mark.parametrize("query, status", [({"gpu": "2"}, 404), ({}, 400), ({"gpu": ""}, 400), ({"gpu": "GPU-simulated"}, 404),
                                           ({"gpu": "x" * 200}, 400), ({"gpu": "0", "reason": "y" * 1000}, 400)])
def test_gpus_that_are_not_there(serve_module, module_path, query, status):
    server = getattr(test_gpus_that_are_not_there, "server", None)
    if server is None:
        server = test_gpus_that_are_not_there.server = serve_module(gpu_model(module_path / "models"), "--simulate-gpus=2")
    code, answer = ask(server, "POST", "/gpus/fence", **query)
    assert code == status and "error" in answer
    assert {gpu["state"] for gpu in server.status()["gpus"]} == {"serving"}
