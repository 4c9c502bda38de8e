"""Start, readiness, stop, and what becomes of everybody when one process dies."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import stat

import pytest

from muster_server import MODELS, PATIENCE, put_model, run_muster, sanitized, wait_for
from oip import Wire
from traffic import (Client, crowd, depth, echo, metric, rows, sim_model, standing_still, stats, wait_depth, wait_gateway, wait_waiting,
                     waiting, worker_pids)


def readiness(server) -> int:
    return server.get("/v2/health/ready").status


def refuses_connections(server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), 5).close()
        return False
    except ConnectionRefusedError:
        return True


def index(server) -> dict[str, dict]:
    return {model["name"]: model for model in server.post("/v2/repository/index", "").json}


def logged(server, message: str) -> list[dict]:
    return [line for line in server.log_lines() if line.get("message") == message]


# ---- start -----------------------------------------------------------------------------------------------------------

def test_ready_only_after_warm_up(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", base_ms=2500), wait=False)

    def warming():
        workers = server.status().get("workers", [])
        return workers and workers[0]["state"] == "warming" and workers[0]["pid"]

    with standing_still(wait_for(warming, "the warm-up")):
        wait_for(lambda: server.status()["gateway"]["state"] == "ready", "the gateway")
        assert server.status()["state"] == "starting"
        assert server.get("/v2/health/live").status == 200
        assert readiness(server) == 503
        assert server.get("/v2/models/echo/ready").status == 503
        assert echo(server, 1).status == 503
        assert index(server)["echo"]["state"] == "LOADING"
    server.wait_ready()
    assert readiness(server) == 200 and server.get("/v2/models/echo/ready").status == 200
    assert stats(server)["inference_count"] == 0, "a warm-up is nobody's request"
    assert echo(server, 1).status == 200


def test_all_workers_start_at_the_same_time(serve, tmp_path):
    for name in ("a", "b", "c"):
        sim_model(tmp_path / "models", name, load_ms=3_600_000)
    server = serve(tmp_path / "models", wait=False)
    states = ["loading", "loading", "loading"]
    wait_for(lambda: [w["state"] for w in server.status().get("workers", [])] == states, "three workers loading")


def test_processes_and_instances_of_a_model(serve, tmp_path):
    for name in ("echo", "other"):
        sim_model(tmp_path / "models", name, max_batch_size=1)
    (tmp_path / "muster.yaml").write_text("models:\n  echo: { processes: 2, instances: 3 }\n")
    server = serve(tmp_path / "models", "--cpu-slots", 16, cwd=tmp_path)
    pids = worker_pids(server, "echo")
    assert len(set(pids)) == 2 and len(server.workers("other")) == 1
    assert metric(server, "muster_model_instances_ready", model="echo") == 6
    assert metric(server, "muster_model_instances_ready", model="other") == 1
    with crowd() as threads:
        with standing_still(*pids):
            answers = [threads.submit(echo, server, i) for i in range(8)]
            wait_waiting(server, 2)  # the other six are with an instance each
        assert [answer.result().status for answer in answers] == [200] * 8


def test_instance_group_of_the_configuration(serve, tmp_path):
    sim_model(tmp_path / "models", max_batch_size=1, instance_group="{ count: 2 kind: KIND_CPU }")
    server = serve(tmp_path / "models", "--cpu-slots", 16)
    assert len(server.workers()) == 1
    assert metric(server, "muster_model_instances_ready", model="echo") == 2


def test_explicit_mode_loads_what_is_named(serve, tmp_path):
    for name in ("echo", "other"):
        sim_model(tmp_path / "models", name)
    server = serve(tmp_path / "models", "--model-control-mode", "explicit", "--load-model", "echo")
    assert echo(server, 1).status == 200
    assert echo(server, 1, model="other").status == 404
    assert [worker["model"] for worker in server.workers()] == ["echo"]


def test_explicit_mode_does_not_know_a_model(tmp_path):
    sim_model(tmp_path / "models")
    done = run_muster("serve", tmp_path / "models", "--model-control-mode=explicit", "--load-model=eco", "--http-port=0",
                      "--grpc-port=0", "--metrics-port=0", "--control-socket", tmp_path / "socket", cwd=tmp_path)
    assert done.returncode == 1
    assert "eco" in done.stderr and "did you mean echo" in done.stderr


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port", "--metrics-port"])
def test_a_second_server_on_the_port_names_it(serve, tmp_path, flag):
    repository = sim_model(tmp_path / "models")
    first = serve(repository)
    port = {"--http-port": first.port, "--grpc-port": first.grpc_port, "--metrics-port": first.metrics_port}[flag]
    ports = {"--http-port": 0, "--grpc-port": 0, "--metrics-port": 0, flag: port}
    done = run_muster("serve", repository, "--address=127.0.0.1", *[f"{k}={v}" for k, v in ports.items()],
                      "--control-socket", tmp_path / "second", cwd=tmp_path)
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert not (tmp_path / "second").exists()
    assert echo(first, 1).status == 200


def test_a_second_server_on_the_control_socket(serve, tmp_path):
    repository = sim_model(tmp_path / "models")
    first = serve(repository)
    done = run_muster("serve", repository, "--address=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0",
                      "--control-socket", first.socket, cwd=tmp_path)
    assert done.returncode == 1
    assert str(first.socket) in done.stderr
    assert first.status()["state"] == "ready"


# ---- models that cannot be served ------------------------------------------------------------------------------------

BROKEN = {
    "corrupt file": lambda repository: put_corrupt(repository),
    "load fails": lambda repository: sim_model(repository, "broken", load_fail=1),
    "load crashes": lambda repository: sim_model(repository, "broken", load_crash=1),
    "warm-up crashes": lambda repository: sim_model(repository, "broken", crash_on=0),
    "configuration": lambda repository: put_model(repository, "broken", "identity.onnx", config="max_batch_size: many"),
}


def put_corrupt(repository):
    folder = repository / "broken" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"not a model")
    return repository


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_model_beside_a_good_one(serve, tmp_path, how):
    repository = sim_model(tmp_path / "models")
    BROKEN[how](repository)
    server = serve(repository, wait=False)
    server.wait_state("degraded")
    assert readiness(server) == 503
    assert echo(server, 1).status == 200
    assert server.get("/v2/models/echo/ready").status == 200
    entry = index(server)["broken"]
    assert entry["state"] == "UNAVAILABLE" and entry["reason"]
    assert index(server)["echo"]["state"] == "READY"
    assert server.get("/v2/models/broken/ready").status == 503
    refused = echo(server, 1, model="broken")
    assert refused.status == 503 and entry["reason"][:40] in refused.error
    status = server.status()
    assert [model["reason"] for model in status["models"] if model["name"] == "broken"] == [entry["reason"]]


def test_not_strict_readiness_is_content_with_one_model(serve, tmp_path):
    repository = put_corrupt(sim_model(tmp_path / "models"))
    server = serve(repository, "--strict-readiness=false", wait=False)
    server.wait_state("degraded")
    assert readiness(server) == 200
    assert echo(server, 1).status == 200


def test_a_model_that_fails_five_times_at_load_has_failed(serve, tmp_path):
    repository = sim_model(sim_model(tmp_path / "models"), "broken", load_crash=1)
    server = serve(repository, wait=False)
    server.wait_state("degraded")
    (worker,) = server.workers("broken")
    assert worker["state"] == "failed" and worker["restarts"] == 4 and worker["pid"] is None
    assert "5 times" in worker["reason"] and "signal 6" in worker["reason"]
    delays = [line["delay_ms"] for line in logged(server, "worker ended, will be started again")]
    assert delays == [0, 100, 200, 400]


@pytest.mark.parametrize("flags", [[], ["--exit-on-error=false"]], ids=["default", "exit-on-error=false"])
def test_a_corrupt_file_named_on_the_command_line(serve, tmp_path, flags):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    server = serve(tmp_path / "broken.onnx", MODELS / "identity.onnx", *flags, wait=False)
    if not flags:
        assert server.wait_exit() == 1
        assert "broken" in server.log
    else:
        server.wait_state("degraded")
        assert index(server)["broken"]["state"] == "UNAVAILABLE"


def test_exit_on_error_for_a_repository(serve, tmp_path):
    server = serve(put_corrupt(sim_model(tmp_path / "models")), "--exit-on-error=true", wait=False)
    assert server.wait_exit() == 1
    assert "broken" in server.log


# ---- control socket --------------------------------------------------------------------------------------------------

def test_control_socket_is_private_and_goes_with_the_server(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert not server.socket.exists()


@pytest.mark.skipif(sanitized(), reason="two hundred workers with the sanitizer's memory are too many for a test")
def test_two_hundred_models_in_one_repository(serve, tmp_path):
    names = [f"model_{i:03}" for i in range(200)]
    for name in names:
        sim_model(tmp_path / "models", name)
    server = serve(tmp_path / "models", wait=False)
    server.wait_state("ready", 5 * PATIENCE)
    listed = server.post("/v2/repository/index", {}).json
    assert [(entry["name"], entry["state"]) for entry in listed] == [(name, "READY") for name in names]
    for name in names[::40]:
        assert echo(server, 1, model=name).status == 200


def test_status(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    status = server.status()
    assert {"state", "pid", "uptime_s", "version", "http", "metrics", "gateway", "models", "workers"} <= status.keys()
    assert status["state"] == "ready" and status["pid"] == server.process.pid
    assert status["http"] == [{"address": "127.0.0.1", "port": server.port}]
    assert status["models"] == [{"name": "echo", "version": 1, "state": "READY", "reason": ""}]
    (worker,) = status["workers"]
    assert (worker["model"], worker["device"], worker["state"], worker["restarts"]) == ("echo", "cpu", "ready", 0)
    assert {status["gateway"]["pid"], worker["pid"], server.process.pid} == set(server.settled_family())
    told = json.loads(run_muster("status", "--json", "--control-socket", server.socket, cwd=tmp_path).stdout)
    assert {**told, "uptime_s": 0, "fleet": {}} == {**status, "uptime_s": 0, "fleet": {}}
    text = run_muster("status", "--control-socket", server.socket, cwd=tmp_path).stdout
    assert "ready" in text and f"http://127.0.0.1:{server.port}" in text and str(worker["pid"]) in text


def test_process_titles_tell_role_model_and_device(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    status = server.status()
    gateway = pathlib.Path(f"/proc/{status['gateway']['pid']}/cmdline").read_text()
    worker = pathlib.Path(f"/proc/{status['workers'][0]['pid']}/cmdline").read_text()
    assert gateway.startswith("muster: gateway")
    assert worker.startswith("muster: worker echo/1 cpu")


def test_status_and_stop_without_a_server(tmp_path):
    for command in ("status", "stop"):
        done = run_muster(command, "--control-socket", tmp_path / "none.sock", cwd=tmp_path)
        assert done.returncode == 1 and "none.sock" in done.stderr and done.stdout == ""


# ---- stop ------------------------------------------------------------------------------------------------------------

STOPS = {
    "SIGTERM": lambda server: server.signal(signal.SIGTERM),
    "SIGINT": lambda server: server.signal(signal.SIGINT),
    "SIGINT to all": lambda server: os.killpg(server.process.pid, signal.SIGINT),
    "SIGTERM to all": lambda server: os.killpg(server.process.pid, signal.SIGTERM),
}


@pytest.mark.parametrize("how", STOPS)
def test_stop_finishes_what_is_in_flight(serve, tmp_path, how):
    def stopped(seconds):
        """false: the test itself was too slow for that delay."""
        server, in_time = serve(sim_model(tmp_path / f"models{seconds}"), f"--drain-delay={seconds}s"), False
        with crowd() as threads:
            with standing_still(*worker_pids(server)):
                answers = [threads.submit(echo, server, i) for i in range(3)]
                wait_depth(server, 3)
                STOPS[how](server)
                with contextlib.suppress(ConnectionError):
                    wait_for(lambda: readiness(server) == 503, "readiness to flip")
                    assert server.get("/v2/health/live").status == 200
                    answers.append(Client(server))  # taken until the listeners close
                    answers[-1] = threads.submit(late, answers[-1])
                    wait_depth(server, 4)
                    in_time = True
                wait_for(lambda: refuses_connections(server), "the listeners to close")
                assert server.process.poll() is None
            assert [answer.result().status for answer in (answers if in_time else answers[:3])] == [200] * (4 if in_time else 3)
        assert server.wait_exit() == 0
        assert not server.family()
        return in_time

    def late(client):
        with client:
            return client.echo(4)
    assert any(stopped(seconds) for seconds in (2, 10, 60))


def test_idle_connections_do_not_hold_up_the_stop(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--exit-timeout-secs=3600")
    with Client(server) as used, Client(server) as fresh, Wire(server.metrics_port) as scraper:
        assert used.echo(1).status == 200
        assert scraper.ask("GET", "/metrics").status == 200
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert used.ended() and fresh.ended()


def test_the_drain_delay_is_not_part_of_the_exit_timeout(serve, tmp_path):
    def answered(timeout):
        """false: the test itself was too slow for those times."""
        server = serve(sim_model(tmp_path / f"models{timeout}"), f"--drain-delay={2 * timeout}s", f"--exit-timeout-secs={timeout}")
        with crowd() as threads:
            with standing_still(*worker_pids(server)):
                answer = threads.submit(echo, server, 1)
                wait_depth(server, 1)
                server.signal(signal.SIGTERM)
                wait_for(lambda: refuses_connections(server), "the listeners to close")
            in_time = answer.exception() is None and answer.result().status == 200
        assert server.wait_exit() == 0
        assert in_time != ("were still in flight" in server.log)
        return in_time
    assert any(answered(timeout) for timeout in (1, 5, 25))


def test_a_hung_batch_does_not_hold_up_the_stop(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", hang_on=666), "--exit-timeout-secs=1")
    with Client(server) as client:
        client.send_infer("echo", {"x": rows(666)})
        wait_depth(server, 1)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert client.ended(), "the connection is cut"
    assert "were still in flight" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(serve, tmp_path, number):
    server = serve(sim_model(tmp_path / "models", hang_on=666), "--exit-timeout-secs=3600")
    with Client(server) as client:
        client.send_infer("echo", {"x": rows(666)})
        wait_depth(server, 1)
        server.signal(number)
        server.wait_state("draining")
        wait_for(lambda: server.process.poll() is not None or server.signal(number), "the end")
        assert client.ended()
    assert "stopping at once" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_twice_in_a_moment_is_one(serve, tmp_path, number):
    """As from a terminal and the script that passes it on, or from timeout(1)."""
    server = serve(sim_model(tmp_path / "models"))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answer = threads.submit(echo, server, 1)
            wait_depth(server, 1)
            os.killpg(server.process.pid, number)
            server.signal(number)
            server.wait_state("draining")
        assert answer.result().status == 200
    assert server.wait_exit() == 0
    assert "stopping at once" not in server.log


def test_muster_stop(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answer = threads.submit(echo, server, 1)
            wait_depth(server, 1)
            stop = threads.submit(run_muster, "stop", "--control-socket", server.socket, cwd=tmp_path)
            server.wait_state("draining")
            assert not stop.done()
        assert answer.result().status == 200
        done = stop.result()
    assert done.returncode == 0, done.stderr
    assert server.wait_exit() == 0
    assert str(server.process.pid) in done.stdout


def test_stop_while_the_models_load(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", load_ms=3600000), wait=False)
    wait_for(lambda: server.status().get("workers", [{}])[0].get("state") == "loading", "the worker to load")
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0


# ---- deaths of the supervisor and of the gateway ---------------------------------------------------------------------

def test_nobody_outlives_the_supervisor(serve, tmp_path):
    repository = sim_model(tmp_path / "models", hang_on=666)
    server = serve(repository)
    server.expected_to_crash = True
    with Client(server) as client:
        client.send_infer("echo", {"x": rows(666)})
        wait_depth(server, 1)
        server.signal(signal.SIGKILL)
        assert server.wait_exit() == -signal.SIGKILL
        wait_for(lambda: not server.family(), "the children to go")
        assert client.ended()
    assert server.socket.exists()
    successor = serve(repository, "--control-socket", server.socket, wait=False)  # what was left is in nobody's way
    successor.socket = server.socket
    successor.wait_ready()
    assert echo(successor, 1).status == 200


def test_a_new_gateway_finds_the_models_loaded(serve, tmp_path):
    server = serve(sim_model(sim_model(tmp_path / "models", base_ms=300), "other"), "--processes=2")
    pids, port = sorted(worker_pids(server)), server.port
    for death in range(1, 3):
        gateway = server.status()["gateway"]["pid"]
        with Client(server) as client:
            client.send_infer("echo", {"x": rows(666)})
            wait_depth(server, 1)
            os.kill(gateway, signal.SIGKILL)
            assert client.ended(), "its connections are lost with it"

        def renewed():
            status = server.status()
            return status["gateway"]["pid"] not in (gateway, None) and status["state"] == "ready"

        wait_for(renewed, "the next gateway")
        assert server.status()["gateway"]["restarts"] == death
        assert sorted(worker_pids(server)) == pids and server.status()["http"][0]["port"] == port
        for i in range(4):
            assert echo(server, i).status == 200 and echo(server, i, model="other").status == 200
        assert readiness(server) == 200
    assert [worker["restarts"] for worker in server.workers()] == [0] * 4


def test_the_gateway_dies_while_the_server_stops(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--drain-delay=3600s")
    gateway = server.status()["gateway"]["pid"]
    server.signal(signal.SIGTERM)
    server.wait_state("draining")
    os.kill(gateway, signal.SIGKILL)
    server.wait_exit()
    assert not server.family()


def test_a_worker_that_hangs_while_its_gateway_dies(serve, tmp_path):
    """Nobody waits for its batch any more, and it will never come to attach to the next gateway. What the gateway sent just
    before it died may not have reached the worker, which is well then and attaches: so it gets several chances."""
    server = serve(sim_model(tmp_path / "models", hang_on=666), "--max-execution=1s")
    (pid,) = worker_pids(server)

    def ready_again(gateway):
        status = server.status()
        return status if status["state"] == "ready" and status["gateway"]["pid"] not in (None, gateway) else None

    for _ in range(5):
        with Client(server) as client:
            client.send_infer("echo", {"x": rows(666)})
            wait_for(lambda: depth(server) - waiting(server) == 1, "the worker to have it")
            gateway = server.status()["gateway"]["pid"]
            os.kill(gateway, signal.SIGKILL)
            assert client.ended()
        status = wait_for(lambda gateway=gateway: ready_again(gateway), "the next gateway with a worker")
        if status["workers"][0]["pid"] != pid:
            break
    assert status["workers"][0]["pid"] != pid
    assert echo(server, 1).status == 200


def test_a_worker_dies_while_the_server_stops(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            answers = [threads.submit(echo, server, i) for i in range(5)]
            wait_depth(server, 5)
            server.signal(signal.SIGTERM)
            server.wait_state("draining")
            os.kill(pid, signal.SIGKILL)
        assert [answer.result().status for answer in answers] == [200] * 5
    assert server.wait_exit() == 0


@pytest.mark.parametrize("deaths", [1, 2, 3])
def test_stop_while_the_gateway_is_started_again(serve, tmp_path, deaths):
    server = serve(sim_model(tmp_path / "models"))
    killed = []
    for _ in range(deaths):
        killed.append(wait_gateway(server, *killed))
        os.kill(killed[-1], signal.SIGKILL)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
