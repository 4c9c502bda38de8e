"""`muster reload` and SIGHUP: settings and models change while requests go on, and none of them fails for it."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import threading

import numpy as np
import onnxruntime
import pytest

from muster_server import MODELS, ask_control, binary_path, put_model, run_muster, sim_config, wait_for
from oip import same
from traffic import Client, crowd, echo, infer, metric, rows, sim_model, standing_still, wait_depth, worker_pids

# Both take `x` [N, 16] and give `y`: [N, 16] of the one, [N, 8] of the other.
OLD, NEW = "identity.onnx", "mlp.onnx"
X = rows(3)


def answers_of(file: str) -> np.ndarray:
    return onnxruntime.InferenceSession(MODELS / file).run(None, {"x": X})[0]


ANSWERS = {"old": answers_of(OLD), "new": answers_of(NEW)}


def net_model(repository, file=OLD, version=1, config=""):
    return put_model(repository, "net", file, config=config, version=version)


def change(path: pathlib.Path, to):
    """The file becomes another one, at once: a link where `to` is a path, else a text."""
    other = path.with_name(".other")
    other.symlink_to(to) if isinstance(to, pathlib.Path) else other.write_text(to)
    other.rename(path)


def change_net(repository, file=NEW, version=1):
    change(repository / "net" / str(version) / "model.onnx", MODELS / file)


def delete(repository, name):
    """A model's folder, gone at once."""
    (repository / name).rename(repository.parent / f"deleted-{name}-{os.urandom(4).hex()}")


def reload(server):
    return run_muster("reload", "--control-socket", server.socket, cwd=server.socket.parent)


def control(server, method: str, path: str) -> dict:
    reply = ask_control(server.socket, method, path)
    assert reply.status == 200, reply.body
    return reply.json


def report(server) -> dict:
    return control(server, "POST", "/reload")


def names(entries) -> list[str]:
    return [f"{entry['name']}/{entry['version']}" for entry in entries]


def reload_json(server) -> dict:
    done = run_muster("reload", "--json", "--control-socket", server.socket, cwd=server.socket.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def models(server) -> dict[str, dict]:
    """By name; of several generations one that does not leave, where there is one."""
    listed = control(server, "GET", "/status")["models"]
    return {model["name"]: model for model in sorted(listed, key=lambda model: model["state"] != "UNLOADING")}


def reloads(server) -> list[dict]:
    return [line for line in server.log_lines() if line.get("message") == "reloaded"]


def wait_gone(server, n_models: int):
    """What has left is gone: only that many models are there, each with its workers."""
    wait_for(lambda: len(control(server, "GET", "/status")["models"]) == n_models, f"{n_models} models")


def answer_of(server) -> str:
    """Which of both models answers."""
    return kind_of(infer(server, "net", {"x": X}))


def kind_of(answer) -> str:
    if answer.status != 200:
        return f"{answer.status}"
    for kind, expected in ANSWERS.items():
        y = answer.outputs["y"]
        if y.shape == expected.shape and np.allclose(y, expected, rtol=1e-5, atol=1e-6):
            return kind
    return "wrong"


class Load:
    """Clients that ask one after the other on connections of their own, from begin to end of the block. Of each: what
    it heard, one word for a run of the same."""

    def __init__(self, server, ask, clients=3):
        self.server, self.ask = server, ask
        self.stopping = threading.Event()
        self.heard, self.counts = [[] for _ in range(clients)], [0] * clients
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(clients)]

    def run(self, i):
        try:
            with Client(self.server) as client:
                while not self.stopping.is_set():
                    word = self.ask(client)
                    if self.heard[i][-1:] != [word]:
                        self.heard[i].append(word)
                    self.counts[i] += 1
        except Exception as error:  # a cut connection, an answer that is no answer
            self.heard[i].append(repr(error))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.go_on()
        return self

    def go_on(self, n=3):
        """Until every client has asked that many times more."""
        before = list(self.counts)
        wait_for(lambda: all(not t.is_alive() or now >= was + n
                             for t, now, was in zip(self.threads, self.counts, before)), "the clients to go on")

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def ask_echo(model="echo", n_rows=2):
    def ask(client):
        answer = client.echo(*range(n_rows), model=model)
        return "right" if answer.status == 200 else f"{answer.status}"
    return ask


def ask_net(client):
    return kind_of(client.infer_arrays("net", {"x": X}))


# ---- add, change, remove ---------------------------------------------------------------------------------------------

def test_models_come_change_and_go_under_load(serve, tmp_path):
    repository = net_model(sim_model(sim_model(tmp_path / "models"), "going"))
    server = serve(repository)
    (stays,) = worker_pids(server, "echo")
    with Load(server, ask_echo()) as steady, Load(server, ask_net) as net, Load(server, ask_echo("going")) as going:
        sim_model(repository, "fresh")
        change_net(repository)
        delete(repository, "going")
        done = reload(server)
        assert done.returncode == 0, done.stderr
        assert [line.split() for line in done.stdout.splitlines()] == [
            ["added", "fresh/1"], ["changed", "net/1"], ["removed", "going/1"], ["unchanged", "echo/1"]]
        assert answer_of(server) == "new", "what is asked after the reload hears the new model"
        assert echo(server, 1, model="fresh").status == 200 and echo(server, 1, model="going").status == 404
        for load in (steady, net, going):
            load.go_on()
    assert steady.heard == [["right"]] * 3
    assert net.heard == [["old", "new"]] * 3
    assert going.heard == [["right", "404"]] * 3
    wait_gone(server, 3)
    status = server.status()
    assert [(m["name"], m["state"], m["reason"]) for m in status["models"]] == [
        ("echo", "READY", ""), ("fresh", "READY", ""), ("net", "READY", "")]
    assert status["state"] == "ready" and [w["restarts"] for w in status["workers"]] == [0, 0, 0]
    assert worker_pids(server, "echo") == [stays], "what has not changed is not touched"
    assert len(server.settled_family()) == 2 + 3
    assert {model["name"] for model in server.post("/v2/repository/index", "").json} == {"echo", "fresh", "net"}
    assert metric(server, "muster_worker_deaths_total") == 0, "to leave is no death"


def test_nothing_has_changed(serve, tmp_path):
    server = serve(net_model(sim_model(tmp_path / "models")))
    before = worker_pids(server)
    found = reload_json(server)
    assert found["state"] == "applied" and names(found["unchanged"]) == ["echo/1", "net/1"]
    assert not (found["added"] or found["changed"] or found["removed"] or found["failed"])
    assert worker_pids(server) == before


@pytest.mark.parametrize("what", ["configuration", "touched file", "labels", "settings"])
def test_what_makes_a_model_another_one(serve, tmp_path, what):
    repository = put_model(sim_model(tmp_path / "models"), "net", files={"labels.txt": "a\nb\n"})
    source = repository / "net" / "1" / "model.onnx"
    source.write_bytes((MODELS / OLD).read_bytes())
    server = serve(repository, cwd=tmp_path)
    (before,) = worker_pids(server, "net")
    {"configuration": lambda: (repository / "net" / "config.pbtxt").write_text("max_batch_size: 4"),
     "touched file": lambda: os.utime(source, (1, 1)),
     "labels": lambda: change(repository / "net" / "labels.txt", "c\nd\n"),
     "settings": lambda: (tmp_path / "muster.yaml").write_text("models:\n  net: { instances: 2 }\n")}[what]()
    found = report(server)
    assert names(found["changed"]) == ["net/1"] and names(found["unchanged"]) == ["echo/1"]
    wait_gone(server, 2)
    assert worker_pids(server, "net") != [before]
    assert answer_of(server) == "old"


def test_a_new_version_takes_over_from_the_old_one(serve, tmp_path):
    repository = net_model(tmp_path / "models")
    server = serve(repository)
    with Load(server, ask_net) as net:
        staged = net_model(tmp_path / "staged", NEW, version=2)
        (staged / "net" / "2").rename(repository / "net" / "2")
        found = report(server)
        assert names(found["added"]) == ["net/2"] and names(found["removed"]) == ["net/1"]
        net.go_on()
    assert net.heard == [["old", "new"]] * 3
    assert server.get("/v2/models/net/versions/1").status == 404
    assert server.get("/v2/models/net/versions/2").status == 200


def test_all_processes_of_the_new_one_are_ready_before_the_old_one_goes(serve, tmp_path):
    repository = sim_model(tmp_path / "models", max_batch_size=1)
    server = serve(repository, "--processes=3", "--cpu-slots=8")
    with Load(server, ask_echo(n_rows=1)) as load:
        change(repository / "echo" / "config.pbtxt", sim_config(dims="16", max_batch_size=2))
        assert report(server)["state"] == "applied"
        assert metric(server, "muster_model_instances_ready", model="echo") == 3
        load.go_on()
    assert load.heard == [["right"]] * 3


def test_requests_in_flight_and_in_the_queue_of_a_model_that_goes(serve, tmp_path):
    repository = sim_model(sim_model(tmp_path / "models", max_batch_size=1), "going", max_batch_size=1)
    server = serve(repository)
    pids = worker_pids(server, "going")
    with crowd() as threads:
        with standing_still(*pids):
            answers = [threads.submit(echo, server, i, model="going") for i in range(3)]
            wait_depth(server, 3)
            delete(repository, "going")
            assert reload(server).returncode == 0, "it is over when nobody new gets the model"
            assert echo(server, 9, model="going").status == 404
            assert models(server)["going"]["state"] == "UNLOADING"
            assert set(pids) <= set(server.family())
        assert [answer.result().status for answer in answers] == [200] * 3
    wait_gone(server, 1)
    wait_for(lambda: len(server.family()) == 3, "its worker to leave")


def test_a_request_half_sent_when_its_model_changes(serve, tmp_path):
    repository = net_model(tmp_path / "models")
    server = serve(repository)
    with Client(server) as client:
        body = X.tobytes()
        head = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32",
                                       "parameters": {"binary_data_size": len(body)}}]}).encode()
        client.send(b"POST /v2/models/net/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: %d\r\n"
                    b"Content-Length: %d\r\n\r\n" % (len(head), len(head) + len(body)) + head + body[:20])
        wait_for(lambda: metric(server, "muster_memory_used_bytes") > 0, "its memory to be reserved")
        change_net(repository)
        assert reload(server).returncode == 0
        client.send(body[20:])
        reply = client.reply()
        assert reply.status == 200
        y = np.array(json.loads(reply.body)["outputs"][0]["data"], np.float32)
        assert same(y.reshape(1, 16), X), "it was the old model's from its beginning"
    assert answer_of(server) == "new"
    wait_gone(server, 1)


# ---- what cannot be applied ------------------------------------------------------------------------------------------

def test_a_broken_configuration_leaves_the_old_model(serve, tmp_path):
    repository = net_model(sim_model(tmp_path / "models"))
    server = serve(repository)
    (before,) = worker_pids(server, "net")
    with Load(server, ask_net) as net:
        (repository / "net" / "config.pbtxt").write_text("max_batch_size: many")
        sim_model(repository, "fresh")
        done = reload(server)
        assert done.returncode == 1 and "failed     net" in done.stdout and "max_batch_size" in done.stdout
        assert "added      fresh/1" in done.stdout, "the others are not held up"
        net.go_on()
        remark = models(server)["net"]
        assert remark["state"] == "READY" and "max_batch_size" in remark["reason"]
        (repository / "net" / "config.pbtxt").unlink()
        assert names(report(server)["unchanged"]) == ["echo/1", "fresh/1", "net/1"]
        assert models(server)["net"]["reason"] == ""
        assert "reload   applied" in run_muster("status", "--control-socket", server.socket, cwd=tmp_path).stdout
    assert net.heard == [["old"]] * 3 and worker_pids(server, "net") == [before]


@pytest.mark.parametrize("how", ["load_fail", "load_crash", "corrupt file"])
def test_a_model_that_fails_at_load_leaves_the_old_one(serve, tmp_path, how):
    repository = net_model(sim_model(tmp_path / "models"))
    server = serve(repository)
    with Load(server, ask_net) as net, Load(server, ask_echo()) as steady:
        if how == "corrupt file":
            (repository / "net" / "1" / "broken").write_bytes(b"no model")
            change(repository / "net" / "1" / "model.onnx", repository / "net" / "1" / "broken")
        else:
            change(repository / "echo" / "config.pbtxt", sim_config(dims="16", max_batch_size=8, **{how: 1}))
        broken = "net" if how == "corrupt file" else "echo"
        found = report(server)
        assert found["state"] == "partly applied"
        ((name, reason),) = [(entry["name"], entry["reason"]) for entry in found["failed"]]
        assert name == broken and reason
        assert reason[:60] in models(server)[broken]["reason"] and models(server)[broken]["state"] == "READY"
        assert server.get("/v2/health/ready").status == 200 and server.status()["state"] == "ready"
        wait_gone(server, 2)
        change_net(repository)
        change(repository / "echo" / "config.pbtxt", sim_config(dims="16", max_batch_size=4))
        assert sorted(names(report(server)["changed"])) == ["echo/1", "net/1"], "a later reload tries again"
        net.go_on()
    assert net.heard == [["old", "new"]] * 3 and steady.heard == [["right"]] * 3


def test_a_model_that_was_never_there_and_cannot_be_served_is_not_added(serve, tmp_path):
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    sim_model(repository, "broken", load_fail=1)
    (repository / "wrong").mkdir()
    found = report(server)
    assert sorted(entry["name"] for entry in found["failed"]) == ["broken", "wrong"]
    wait_gone(server, 1)
    assert server.get("/v2/health/ready").status == 200, "readiness is that of the models that are served"
    assert echo(server, 1, model="broken").status == 404


def test_a_model_that_was_broken_at_the_start_is_mended(serve, tmp_path):
    repository = net_model(sim_model(tmp_path / "models"), config="max_batch_size: many")
    server = serve(repository, wait=False)
    server.wait_state("degraded")
    found = report(server)
    assert [entry["name"] for entry in found["failed"]] == ["net"], "still broken, and that is said"
    (repository / "net" / "config.pbtxt").unlink()
    assert names(report(server)["changed"]) == ["net/1"]
    server.wait_ready()
    assert answer_of(server) == "old"
    wait_gone(server, 2)


@pytest.mark.parametrize("how", ["repository gone", "file of settings", "setting", "two of a name"])
def test_what_is_refused_as_a_whole_changes_nothing(serve, tmp_path, how):
    repository = net_model(tmp_path / "models")
    second = sim_model(tmp_path / "second", "other")
    settings = tmp_path / "muster.yaml"
    settings.write_text("body_limit: 1MiB\n")
    server = serve(repository, second, cwd=tmp_path)
    before = worker_pids(server)
    change_net(repository)
    sim_model(repository, "fresh")
    word = {"repository gone": "second", "file of settings": "body-limit: 'large'", "setting": "body-limit is 1MiB and would be 2MiB",
            "two of a name": "two models are called 'net'"}[how]
    {"repository gone": lambda: second.rename(tmp_path / "third"),
     "file of settings": lambda: settings.write_text("body_limit: large\n"),
     "setting": lambda: settings.write_text("body_limit: 2MiB\n"),
     "two of a name": lambda: sim_model(second, "net")}[how]()
    with Load(server, ask_net) as net:
        done = reload(server)
        assert done.returncode == 1 and word in done.stderr and "nothing has changed" in done.stderr
        if how == "setting":
            assert "restart" in done.stderr and "muster.yaml:1" in done.stderr
        net.go_on()
    assert net.heard == [["old"]] * 3
    assert worker_pids(server) == before and set(models(server)) == {"net", "other"}


# ---- settings --------------------------------------------------------------------------------------------------------

def test_settings_that_a_reload_changes(serve, tmp_path):
    repository = sim_model(sim_model(tmp_path / "models"), "slow", base_ms=1000)
    settings = tmp_path / "muster.yaml"
    server = serve(repository, cwd=tmp_path)
    before = worker_pids(server)

    def verbose():
        echo(server, 1)
        return [line for line in server.log_lines() if line.get("message") == "request answered"]

    assert not verbose()
    settings.write_text("log_verbose: 1\ndefault_request_timeout: 100ms\n")
    assert names(report(server)["unchanged"]) == ["echo/1", "slow/1"]
    assert worker_pids(server) == before
    assert verbose()
    assert echo(server, 7, model="slow").status == 503, "the new timeout of requests without one of their own"
    settings.write_text("log_verbose: 0\n")
    assert reload(server).returncode == 0
    n = len(verbose())
    assert len(verbose()) == n


def test_the_queue_limit_of_a_model(serve, tmp_path):
    repository = sim_model(tmp_path / "models", max_batch_size=1)
    settings = tmp_path / "muster.yaml"
    server = serve(repository, cwd=tmp_path)
    settings.write_text("models:\n  echo: { max_queue_size: 1 }\n")
    assert names(report(server)["changed"]) == ["echo/1"]
    wait_gone(server, 1)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [threads.submit(echo, server, 1)]
            wait_depth(server, 1)
            answers.append(threads.submit(echo, server, 2))
            wait_depth(server, 2)
            assert echo(server, 3).status == 503
        assert [answer.result().status for answer in answers] == [200, 200]


# ---- SIGHUP, and more than one at a time -----------------------------------------------------------------------------

@pytest.mark.parametrize("to", ["supervisor", "all"])
def test_sighup(serve, tmp_path, to):
    repository = net_model(tmp_path / "models")
    server = serve(repository)
    with Load(server, ask_net) as net:
        change_net(repository)
        os.killpg(server.process.pid, signal.SIGHUP) if to == "all" else server.signal(signal.SIGHUP)
        wait_for(lambda: reloads(server), "the reload to be over")
        net.go_on()
    assert net.heard == [["old", "new"]] * 3
    (line,) = reloads(server)
    assert (line["state"], line["changed"], line["failed"]) == ("applied", 1, 0)


def test_a_reload_during_a_reload(serve, tmp_path):
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    sim_model(repository, "slow", load_ms=2000)
    with crowd() as threads:
        first = threads.submit(reload, server)
        with standing_still(*wait_for(lambda: [w["pid"] for w in server.workers("slow") if w["pid"]], "the first to go on")):
            assert models(server)["slow"]["state"] == "LOADING"
            assert echo(server, 1, model="slow").status == 404, "it is not there before it is ready"
            second = reload(server)
            assert second.returncode == 1 and "a reload is going on" in second.stderr
            sim_model(repository, "later")
            server.signal(signal.SIGHUP)  # is not lost
        assert first.result().returncode == 0 and "later" not in first.result().stdout
    wait_for(lambda: len(reloads(server)) == 2, "the second one")
    assert reloads(server)[1]["added"] == 1
    assert echo(server, 1, model="slow").status == 200 and echo(server, 1, model="later").status == 200


def test_a_reload_while_the_server_starts(serve, tmp_path):
    repository = sim_model(net_model(tmp_path / "models"), "slow", load_ms=3000)
    server = serve(repository, wait=False)
    wait_for(server.status, "the control socket")
    change_net(repository)
    sim_model(repository, "fresh")
    found = report(server)
    assert names(found["added"]) == ["fresh/1"] and names(found["changed"]) == ["net/1"]
    assert names(found["unchanged"]) == ["slow/1"], "it loads on"
    server.wait_ready()
    assert answer_of(server) == "new" and echo(server, 1, model="fresh").status == 200
    assert server.workers("slow")[0]["restarts"] == 0


def test_a_stop_during_a_reload(serve, tmp_path):
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    sim_model(repository, "slow", load_ms=60000)
    with crowd() as threads:
        waiting = threads.submit(reload, server)
        wait_for(lambda: "slow" in models(server), "the reload to go on")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert waiting.result().returncode == 1 and "stopping" in waiting.result().stderr


def test_who_asked_for_the_reload_leaves(serve, tmp_path):
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    sim_model(repository, "slow", load_ms=1500)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(server.socket))
        client.sendall(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        wait_for(lambda: "slow" in models(server), "the reload to go on")
    wait_for(lambda: reloads(server), "the reload to be over")
    assert echo(server, 1, model="slow").status == 200


# ---- together with deaths --------------------------------------------------------------------------------------------

def test_workers_crash_during_a_reload(serve, tmp_path):
    repository = sim_model(net_model(tmp_path / "models"))
    server = serve(repository)
    with Load(server, ask_net) as net, Load(server, ask_echo()) as steady, crowd() as threads:
        change_net(repository)
        sim_model(repository, "slow", load_ms=2000)  # the reload lasts that long
        waiting = threads.submit(reload, server)
        wait_for(lambda: "slow" in models(server), "the reload to go on")
        for pid in [w["pid"] for w in server.workers() if w["model"] in ("net", "echo") and w["pid"]]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert waiting.result().returncode == 0, waiting.result().stderr
        assert answer_of(server) == "new"
        net.go_on()
        steady.go_on()
    assert net.heard == [["old", "new"]] * 3 and steady.heard == [["right"]] * 3


def test_a_worker_that_dies_before_the_reload_comes_back_with_the_old_file(serve, tmp_path):
    repository = net_model(tmp_path / "models")
    server = serve(repository)
    (pid,) = worker_pids(server)
    with Load(server, ask_net) as net:
        change_net(repository)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: server.workers()[0]["restarts"] == 1, "the worker to be started again")
        net.go_on()
        assert reload(server).returncode == 0
        net.go_on()
    assert net.heard == [["old", "new"]] * 3


def kill_gateway(server):
    before = server.status()["gateway"]
    os.kill(before["pid"], signal.SIGKILL)

    def again():
        gateway = server.status()["gateway"]
        return gateway["restarts"] > before["restarts"] and gateway["state"] == "ready"
    wait_for(again, "the next gateway")


def test_a_gateway_after_the_reload_knows_the_new_set(serve, tmp_path):
    repository = net_model(sim_model(sim_model(tmp_path / "models"), "going"))
    server = serve(repository)
    sim_model(repository, "fresh")
    change_net(repository)
    delete(repository, "going")
    assert reload(server).returncode == 0
    kill_gateway(server)
    server.wait_ready()
    assert answer_of(server) == "new"
    assert [echo(server, 1, model=m).status for m in ("echo", "fresh", "going")] == [200, 200, 404]
    wait_gone(server, 3)


def test_the_gateway_dies_while_models_come_and_go(serve, tmp_path):
    repository = net_model(sim_model(sim_model(tmp_path / "models"), "going", max_batch_size=1))
    server = serve(repository)
    with crowd() as threads:
        with standing_still(*worker_pids(server, "going")):
            cut = threads.submit(echo, server, 1, model="going")
            wait_depth(server, 1)
            delete(repository, "going")
            change_net(repository)
            sim_model(repository, "slow", load_ms=2000)
            waiting = threads.submit(reload, server)
            wait_for(lambda: models(server).get("going", {}).get("state") == "UNLOADING", "the reload to go on")
            kill_gateway(server)
            with pytest.raises(ConnectionError):
                cut.result()
        assert waiting.result().returncode == 0
    assert answer_of(server) == "new"
    assert [echo(server, 1, model=m).status for m in ("echo", "slow", "going")] == [200, 200, 404]
    wait_gone(server, 3)


# ---- again and again -------------------------------------------------------------------------------------------------

def n_fds(pid: int) -> int:
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


def anonymous_kb(pid: int) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    raise AssertionError("no RssAnon")


def sanitized() -> bool:
    """Such a program keeps what was freed for a while, to see who uses it."""
    return b"__asan_init" in binary_path().read_bytes()


def n_mappings(pid: int) -> int:
    return len(pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines())


def test_thirty_reloads_leave_nothing_behind(serve, tmp_path):
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    pids = [server.process.pid, server.status()["gateway"]["pid"]]

    def cycle(i):
        change(repository / "echo" / "config.pbtxt", sim_config(dims="16", max_batch_size=2 + i % 2))
        sim_model(repository, "guest") if i % 2 else delete(repository, "guest")
        assert report(server)["state"] == "applied"

    def measure():
        wait_gone(server, 1)
        return [(n_fds(pid), anonymous_kb(pid), n_mappings(pid)) for pid in pids]

    with Load(server, ask_echo(), clients=2) as load:
        for i in range(1, 7):
            cycle(i)
        before = measure()
        for i in range(7, 31):
            cycle(i)
        wait_for(lambda: all(now[0] <= was[0] + 2 for now, was in zip(measure(), before)),
                 f"the descriptors to be those of before, {before}; now {measure()}", 20)
        for now, was in zip(measure(), before):
            assert now[2] <= was[2] + 16, f"{was} became {now}"
            assert sanitized() or now[1] <= was[1] + 2048, f"{was} became {now}"
    assert load.heard == [["right"]] * 2
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "all memory of models that left to be given back")
