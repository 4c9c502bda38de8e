"""The machine's GPUs: faults, fences, and what becomes of the work on them. No GPU is needed: simulated ones, and a fake
of NVIDIA's management library."""
import itertools
import json
import os
import re
import signal
import threading
import urllib.parse

import pytest

from fake_nvml import FakeNvml, gpu
from muster_server import ask_control, name_of, run_muster, wait_for
from traffic import Client, crowd, echo, sim_model


def gpu_model(repository, name="echo", gpus="0, 1", **parameters):
    """A model of the sim engine with a worker on each of these GPUs."""
    return sim_model(repository, name, instance_group=f"{{ kind: KIND_GPU gpus: [{gpus}] }}", **parameters)


def ask(server, method, target, **query) -> tuple[int, str]:
    """Of the control socket."""
    reply = ask_control(server.socket, method, target + ("?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote) if query else ""))
    return reply.status, reply.body.decode()


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


def test_the_command_fences(serve, tmp_path):
    server = serve(gpu_model(tmp_path / "models"), "--simulate-gpus=2")

    def gpus(*arguments):
        return run_muster("gpus", *arguments, "--control-socket", server.socket, cwd=tmp_path)
    done = gpus("fence", "1", "--reason", "a 50% fan = \u00e4rger")
    assert (done.returncode, done.stdout) == (0, "GPU 1 (GPU-simulated-1) is fenced: a 50% fan = \u00e4rger\n")
    wait_states(server, gpu0="ready", gpu1="fenced")
    status = run_muster("status", "--control-socket", server.socket, cwd=tmp_path).stdout
    assert re.search(r"1 +GPU-simulated-1 +simulated GPU +fenced +a 50% fan", status)
    done = gpus("unfence", "GPU-simulated-1")
    assert (done.returncode, done.stdout) == (0, "GPU 1 (GPU-simulated-1) is serving\n")
    wait_states(server, gpu0="ready", gpu1="ready")
    for arguments, code, said in [(["fence"], 2, "which GPU"), (["fence", "7"], 1, "no GPU 7"), (["fence", "0", "--reason"], 2, "--reason"),
                                  (["unfence", "--reason=x"], 2, "which GPU")]:
        done = gpus(*arguments)
        assert done.returncode == code and said in done.stderr, done.stderr
    assert states(server) == {"gpu:0": "ready", "gpu:1": "ready"}


def test_a_model_without_a_gpu_says_why(serve, tmp_path):
    server = serve(gpu_model(tmp_path / "models", gpus="1"), "--simulate-gpus=2")
    assert ask(server, "POST", "/gpus/fence", gpu="1", reason="maintenance")[0] == 200
    wait_states(server, gpu1="fenced")
    wait_for(lambda: server.get("/v2/health/ready").status == 503, "readiness to go")
    refused = echo(server, 1)
    assert refused.status == 503 and "GPU 1" in refused.error and "maintenance" in refused.error
    done = run_muster("reload", "--control-socket", server.socket, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "unchanged  echo/1\n")  # that it rests is no reason to load it again
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


def test_an_upgrade_while_all_gpus_are_fenced(serve, tmp_path):
    """Nobody can say yet whether the new binary serves: that is no failure of the models."""
    server = serve(gpu_model(tmp_path / "models"), "--simulate-gpus=2")
    for number in "01":
        ask(server, "POST", "/gpus/fence", gpu=number, reason="dust")
    wait_states(server, gpu0="fenced", gpu1="fenced")
    done = run_muster("upgrade", "--control-socket", server.socket, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    for number in "01":
        ask(server, "POST", "/gpus/unfence", gpu=number)
    wait_states(server, gpu0="ready", gpu1="ready")
    assert "reload failed" not in json.dumps(server.status()) and not logged(server, "model cannot be reloaded")
    assert run_muster("status", "--control-socket", server.socket, cwd=tmp_path).stdout.count("dust") == 0 and echo(server, 1).status == 200


def test_a_reload_goes_round_a_fence(serve, tmp_path):
    models = gpu_model(tmp_path / "models")
    server = serve(models, "--simulate-gpus=2")
    ask(server, "POST", "/gpus/fence", gpu="0")
    wait_states(server, gpu0="fenced", gpu1="ready")
    gpu_model(models, "second")
    done = run_muster("reload", "--control-socket", server.socket, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert states(server, "second") == {"gpu:0": "fenced", "gpu:1": "ready"}


def test_a_fence_during_the_start_is_no_failure_of_the_model(serve, tmp_path):
    """--exit-on-error ends a server whose model cannot be served: this one can, elsewhere or later."""
    server = serve(gpu_model(tmp_path / "models", gpus="0", load_ms=3_600_000), "--simulate-gpus=1", "--exit-on-error=true", wait=False)
    wait_for(lambda: server.status().get("gpus"), "the server")
    wait_for(lambda: states(server) == {"gpu:0": "loading"}, "the worker")
    assert ask(server, "POST", "/gpus/fence", gpu="0")[0] == 200
    wait_states(server, gpu0="fenced")
    wait_for(lambda: server.status()["state"] == "degraded", "the start to be over")
    assert ask(server, "POST", "/gpus/unfence", gpu="0")[0] == 200
    wait_states(server, gpu0="loading")


@pytest.mark.parametrize("query, status", [({"gpu": "2"}, 404), ({}, 400), ({"gpu": ""}, 400), ({"gpu": "GPU-simulated"}, 404),
                                           ({"gpu": "x" * 200}, 400), ({"gpu": "0", "reason": "y" * 1000}, 400),
                                           ({"gpu": "0", "reason": b"\xff"}, 400)])
def test_gpus_that_are_not_there(serve_module, module_path, query, status):
    server = getattr(test_gpus_that_are_not_there, "server", None)
    if server is None:
        server = test_gpus_that_are_not_there.server = serve_module(gpu_model(module_path / "models"), "--simulate-gpus=2")
    code, answer = ask(server, "POST", "/gpus/fence", **query)
    assert code == status and "error" in answer
    assert {gpu["state"] for gpu in server.status()["gpus"]} == {"serving"}


# ---- faults that NVML reports ----------------------------------------------------------------------------------------

UUIDS = [gpu(n)["uuid"] for n in range(2)]
QUICK = ["--metrics-interval-ms=50"]


@pytest.fixture
def machine(tmp_path):
    """Two GPUs, as a fake of NVML shows them."""
    return FakeNvml(tmp_path, [gpu(0), gpu(1)])


def fault(machine, number, xid):
    machine.machine["events"].append({"gpu": number, "xid": xid})
    machine.write()


def gpu_states(server) -> list[str]:
    return [gpu["state"] for gpu in server.status()["gpus"]]


def fleet(server) -> dict:
    return server.status()["fleet"]


def fleet_pid(server) -> int:
    """Of the process that asks NVML."""
    def find():
        for pid in server.family():
            if name_of(pid) == "muster-fleet":
                return pid
        return None
    return wait_for(find, "the fleet process")


def logged(server, message) -> list[dict]:
    return [line for line in server.log_lines() if line.get("message") == message]


def serve_on(machine, serve, folder, *arguments, **parameters):
    server = serve(gpu_model(folder / "models", **parameters), *QUICK, *arguments, env=machine.environment)
    wait_states(server, gpu0="ready", gpu1="ready")  # it is ready with the first one
    return server


def test_what_nvml_says_is_told(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path)
    health = server.get("/health").json
    assert (health["healthy"], health["total_backends"], len(health["gpus"])) == (True, 2, 2)
    assert [(g["uuid"], g["index"], g["state"], g["healthy"]) for g in health["gpus"]] == [(UUIDS[0], 0, "serving", True), (UUIDS[1], 1, "serving", True)]
    assert health["fleet"]["state"] == "answering"
    machine.machine["gpus"][0].update(utilization=[25, 0], power_mw=250_000, energy_mj=1_500_000, throttle_reasons=0x4)
    machine.machine["gpus"][0].pop("temperature")
    machine.write()
    label = f'{{gpu_uuid="{UUIDS[0]}"}}'
    lines = ["nv_gpu_utilization%s 0.25", "nv_gpu_memory_total_bytes%s 151397597184",
             "nv_gpu_memory_used_bytes%s 1073741824", "nv_gpu_power_usage%s 250", "nv_gpu_power_limit%s 700", "nv_energy_consumption%s 500", "muster_gpu_sm_clock_hertz%s 1980000000",
             "muster_gpu_throttled%s 1", "muster_gpu_fenced%s 0", "muster_gpu_lost%s 0"]

    def new_page():
        """With all of them: the machine may have changed in the middle of a reading."""
        page = server.metrics()
        return page if all(line % label + "\n" in page for line in lines) else None
    page = wait_for(new_page, "the new reading")
    # a figure that is not given is left out, for that GPU alone
    assert f"muster_gpu_temperature_celsius{label}" not in page and f'celsius{{gpu_uuid="{UUIDS[1]}"}} 40' in page
    assert "muster_fleet_answering 1" in page


def test_gpu_metrics_can_be_left_out(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path, "--allow-gpu-metrics=false")
    assert "gpu" not in server.metrics() and "fleet" not in server.metrics()


def test_an_application_fault_restarts_the_workers_of_its_gpu(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path, base_ms=5)
    with Load(server) as load:
        before = {worker["device"]: worker["pid"] for worker in server.workers()}
        fault(machine, 0, 13)
        fault(machine, 1, 45)
        wait_for(lambda: any(w["device"] == "gpu:0" and w["state"] == "ready" and w["pid"] != before["gpu:0"] for w in server.workers()),
                 "the successor")
        wait_for(lambda: len(logged(server, "GPU fault")) == 2, "both to be told")
        load.more()
        assert {w["device"]: w["pid"] for w in server.workers()}["gpu:1"] == before["gpu:1"]
    ended = logged(server, "worker ended, will be started again")
    assert [(line["device"], line["error"]) for line in ended] == [("gpu:0", "killed because of its GPU: Xid 13, graphics engine exception")]
    assert gpu_states(server) == ["serving", "serving"]
    assert f'muster_gpu_xid_total{{gpu_uuid="{UUIDS[0]}",xid="13"}} 1' in server.metrics()


def test_mig_devices_share_the_faults_of_their_gpu(serve, tmp_path):
    """Xids are those of the whole GPU: when one comes back, the workers on its MIG devices wait, too."""
    machine = FakeNvml(tmp_path, [gpu(0, mig=[{"uuid": "MIG-a", "name": "1g", "memory": {"total": 20 << 30, "used": 0}}])])
    server = serve(sim_model(tmp_path / "models", instance_group="{ kind: KIND_GPU }"), *QUICK, env=machine.environment)
    assert states(server) == {"gpu:0:0": "ready"}

    def again():
        fault(machine, 0, 13)
        return len(logged(server, "workers are started again for a fault of their GPU")) >= 2
    wait_for(again, "two faults that are not one")
    ended = wait_for(lambda: len(lines := logged(server, "worker ended, will be started again")) >= 2 and lines, "both ends")
    assert [line["delay_ms"] for line in ended[:2]] == [0, 100]


@pytest.mark.parametrize("xid, state", [(48, "drained"), (95, "fenced"), (79, "removed")])
def test_a_bad_fault_takes_the_gpu_out(serve, tmp_path, machine, xid, state):
    server = serve_on(machine, serve, tmp_path, base_ms=5)
    with Load(server) as load:
        fault(machine, 0, xid)
        wait_states(server, gpu0="fenced", gpu1="ready")
        load.more()
    assert gpu_states(server) == [state, "serving"]
    (health, _) = server.get("/health").json["gpus"]
    assert (health["healthy"], health["state"], health["xids"]) == (False, state, {str(xid): 1}) and f"Xid {xid}" in health["reason"]
    page = server.metrics()
    assert f'muster_gpu_fenced{{gpu_uuid="{UUIDS[0]}"}} 1' in page and f'muster_gpu_xid_total{{gpu_uuid="{UUIDS[0]}",xid="{xid}"}} 1' in page
    status, answer = ask(server, "POST", "/gpus/unfence", gpu="0")
    if state == "removed":
        assert status == 409 and "restart of the machine" in answer
        assert states(server) == {"gpu:0": "fenced", "gpu:1": "ready"}
    else:
        assert status == 200
        wait_states(server, gpu0="ready", gpu1="ready")


def test_a_gpu_that_is_lost_is_removed(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path, base_ms=5)
    with Load(server) as load:
        machine.machine["gpus"][1]["lost"] = True
        machine.write()
        wait_states(server, gpu0="ready", gpu1="fenced")
        load.more()
    assert gpu_states(server) == ["serving", "removed"]
    assert f'muster_gpu_lost{{gpu_uuid="{UUIDS[1]}"}} 1' in server.metrics()


def test_the_drivers_wish_is_obeyed_once(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path)
    machine.machine["gpus"][0]["recovery_action"] = 1
    fault(machine, 0, 154)
    wait_states(server, gpu0="fenced", gpu1="ready")
    assert "asks for a reset" in server.status()["gpus"][0]["reason"]
    assert ask(server, "POST", "/gpus/unfence", gpu="0")[0] == 200  # people decide otherwise
    wait_states(server, gpu0="ready", gpu1="ready")
    fault(machine, 1, 63)
    wait_for(lambda: server.status()["gpus"][1]["xids"] == {"63": 1}, "a later event")
    assert gpu_states(server) == ["serving", "serving"]


# ---- NVML itself -----------------------------------------------------------------------------------------------------

def test_a_call_that_never_returns(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path, "--nvml-timeout=300ms", base_ms=5)
    with Load(server) as load:
        before = fleet_pid(server)
        machine.machine["hang"] = ["nvmlDeviceGetTemperature"]
        machine.write()
        wait_for(lambda: fleet(server)["state"] == "not answering", "the fault to be reported")
        load.more()
        assert states(server) == {"gpu:0": "ready", "gpu:1": "ready"}
        assert "muster_fleet_answering 0" in server.metrics() and "nv_gpu_utilization" not in server.metrics()
        wait_for(lambda: "NVML has not answered" in server.get("/health").json["fleet"]["error"], "the reason")
        machine.machine.pop("hang")
        machine.write()
        wait_for(lambda: fleet(server)["state"] == "answering", "NVML to answer again")
        load.more()
    assert fleet(server)["restarts"] >= 1 and fleet_pid(server) != before
    told = [line["error"] for line in logged(server, "nothing is known of the GPUs for now, serving goes on")]
    assert any("nvmlDeviceGetTemperature" in error for error in told), told


def test_a_wait_for_events_that_never_returns(serve, tmp_path, machine):
    """The next process reads the GPUs again, and waits again."""
    server = serve_on(machine, serve, tmp_path, "--nvml-timeout=300ms")
    machine.machine["hang"] = ["nvmlEventSetWait_v2"]
    machine.write()
    wait_for(lambda: any("nvmlEventSetWait_v2" in line["error"]
                         for line in logged(server, "nothing is known of the GPUs for now, serving goes on")), "the reason")
    machine.machine.pop("hang")
    machine.write()
    wait_for(lambda: fleet(server)["state"] == "answering", "NVML to answer again")
    assert echo(server, 1).status == 200


def test_a_start_while_nvml_hangs(serve, tmp_path, machine):
    """Models of the CPU are there at once, those of GPUs say why not, and come when NVML answers."""
    machine.machine["hang"] = ["nvmlInitWithFlags"]
    machine.write()
    models = sim_model(gpu_model(tmp_path / "models"), "plain")
    server = serve(models, *QUICK, "--nvml-timeout=500ms", wait=False, env=machine.environment)
    wait_for(lambda: server.status().get("state") == "degraded", "the start to be over")
    wait_for(lambda: (refused := echo(server, 1)).status == 503 and "NVML has not answered" in refused.error, "the reason")
    assert echo(server, 1, model="plain").status == 200
    machine.machine.pop("hang")
    machine.write()
    wait_for(lambda: echo(server, 1).status == 200, "the model of the GPUs")


def test_a_killed_fleet_process_is_started_again(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path)
    ask(server, "POST", "/gpus/fence", gpu="0")
    before = fleet_pid(server)
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: fleet(server)["restarts"] == 1 and fleet(server)["state"] == "answering", "the next one")
    assert fleet_pid(server) != before
    assert gpu_states(server) == ["fenced", "serving"]
    fault(machine, 1, 63)
    wait_for(lambda: server.status()["gpus"][1]["xids"] == {"63": 1}, "faults to be heard again")


def test_a_fleet_process_that_stands_still(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path, "--nvml-timeout=2s", base_ms=5)  # a call that takes so long by itself is another case
    with Load(server) as load:
        before = fleet_pid(server)
        os.kill(before, signal.SIGSTOP)
        wait_for(lambda: fleet(server)["restarts"] >= 1 and fleet(server)["state"] == "answering", "the next one")
        load.more()
        assert states(server) == {"gpu:0": "ready", "gpu:1": "ready"}
    told = [line["error"] for line in logged(server, "nothing is known of the GPUs for now, serving goes on")]
    assert "the process that asks NVML gives no sign of life" in told
    assert fleet_pid(server) != before and fleet(server)["stalls"] >= 1


def test_readings_that_fail(serve, tmp_path, machine):
    """The driver went away: that is told, old figures are not, and it may come back."""
    server = serve_on(machine, serve, tmp_path)
    assert "nv_gpu_utilization" in server.metrics()
    machine.machine["errors"] = {"nvmlDeviceGetCount_v2": 9}
    machine.write()
    wait_for(lambda: fleet(server)["state"] == "not answering", "the fault to be reported")
    assert "driver is not loaded" in fleet(server)["error"]
    wait_for(lambda: "muster_fleet_answering 0" in server.metrics(), "the metrics")
    assert "nv_gpu_utilization" not in server.metrics()
    assert states(server) == {"gpu:0": "ready", "gpu:1": "ready"}
    machine.machine.pop("errors")
    machine.write()
    wait_for(lambda: fleet(server)["state"] == "answering", "NVML to answer again")


def test_gpus_that_cannot_be_read_at_the_start(serve, tmp_path):
    """Two are lost, one is closed to the server (another container's): the others serve, indices mean what they did, each that is
    lost is told for itself, and the closed one is nobody's."""
    machine = FakeNvml(tmp_path, [gpu(0), gpu(1, lost=True), gpu(2, lost=16), gpu(3, errors={"nvmlDeviceGetHandleByIndex_v2": 17})])
    sim_model(gpu_model(tmp_path / "models", gpus="0"), "all", instance_group="{ kind: KIND_GPU }")
    server = serve(tmp_path / "models", *QUICK, env=machine.environment)
    assert sorted(worker["device"] for worker in server.workers()) == ["gpu:0", "gpu:0"]
    told = [(g["index"], g["state"]) for g in server.status()["gpus"]]
    assert told == [(0, "serving"), (1, "removed"), (2, "removed")]
    lost = re.compile(r"^muster_gpu_lost.* 1$", re.M)
    wait_for(lambda: len(set(lost.findall(server.metrics()))) == 2, "a series for each")
    (line,) = logged(server, "GPU cannot be read and is not used")
    assert line["gpu"] == 3 and "NVML 17" in line["error"]
    status, answer = ask(server, "POST", "/gpus/unfence", gpu="1")
    assert status == 409 and "GPU 1 " in answer
    done = run_muster("upgrade", "--control-socket", server.socket, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert [(g["index"], g["state"]) for g in server.status()["gpus"]] == told


@pytest.mark.parametrize("lost, state", [(True, "removed"), (False, "fenced")])
def test_a_gpu_that_a_new_fleet_process_does_not_find(serve, tmp_path, machine, lost, state):
    """It is lost and says no UUID, or it is not listed at all: its workers leave, and it is told under its own name."""
    server = serve_on(machine, serve, tmp_path)
    before = fleet_pid(server)
    os.kill(before, signal.SIGSTOP)
    if lost:
        machine.machine["gpus"][1]["lost"] = True
    else:
        machine.machine["gpus"].pop()
    machine.write()
    os.kill(before, signal.SIGKILL)
    wait_states(server, gpu0="ready", gpu1="fenced")
    assert gpu_states(server) == ["serving", state]
    assert [g["uuid"] for g in server.status()["gpus"]] == UUIDS
    assert echo(server, 1).status == 200


def test_the_fleet_process_hears_of_log_settings(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path, "--log-warning=false")
    assert server.post("/v2/logging", {"log_warning": True}).status == 200
    wait_for(lambda: logged(server, "a client changes the log settings"), "the supervisor to hear of it")
    looks = itertools.count()

    def warned():
        """The first failure may come before the settings do, and the next one is said after a wait that went well, which may be
        two seconds away: one for the pause after a failure, one for the wait."""
        look = next(looks) % 500
        if look in (0, 200):
            machine.machine["errors"] = {"nvmlEventSetWait_v2": 999} if look == 0 else {}
            machine.write()
        return logged(server, "faults of GPUs are not heard of for now")
    wait_for(warned, "a warning of the fleet process")


@pytest.mark.parametrize("way", ["upgrade", "absent"])
def test_nvml_that_hangs_at_the_start_does_not_decide_for_good(serve, tmp_path, machine, way):
    machine.machine["hang"] = ["nvmlInitWithFlags"]
    machine.write()
    server = serve(gpu_model(tmp_path / "models"), *QUICK, "--nvml-timeout=500ms", wait=False, env=machine.environment)
    wait_for(lambda: server.status().get("state") == "degraded", "the start to be over")
    if way == "upgrade":
        run_muster("upgrade", "--control-socket", server.socket, cwd=tmp_path)
    else:
        machine.machine["errors"] = {"nvmlInitWithFlags": 18}
    wait_for(lambda: "NVML has not answered" in echo(server, 1).error, "the reason")
    machine.machine.pop("hang")
    machine.write()
    if way == "upgrade":
        wait_for(lambda: echo(server, 1).status == 200, "the model")
    else:
        wait_for(lambda: "version" in echo(server, 1).error, "the reason to be the last one")


def test_workers_run_next_to_their_gpu(serve, tmp_path):
    """On a made-up machine where every core is a NUMA node of its own."""
    cores = sorted(os.sched_getaffinity(0))
    near = [cores[0], cores[-1]]
    machine = FakeNvml(tmp_path, [gpu(n, numa_node=core) for n, core in enumerate(near)])
    server = serve(gpu_model(tmp_path / "models"), *QUICK,
                   env={**machine.environment, "HWLOC_SYNTHETIC": f"numa:{cores[-1] + 1} pu:1", "HWLOC_THISSYSTEM": "0"})
    wait_states(server, gpu0="ready", gpu1="ready")
    for worker in server.workers():
        wanted = {near[int(worker["device"].removeprefix("gpu:"))]}
        pinned = [int(thread) for thread in os.listdir(f"/proc/{worker['pid']}/task") if os.sched_getaffinity(int(thread)) == wanted]
        assert worker["pid"] in pinned and len(pinned) > 1  # the thread that listens, and those that run


def test_an_upgrade_starts_the_fleet_process_anew(serve, tmp_path, machine):
    server = serve_on(machine, serve, tmp_path)
    ask(server, "POST", "/gpus/fence", gpu="0", reason="dust")
    fault(machine, 1, 63)
    wait_for(lambda: server.status()["gpus"][1]["xids"] == {"63": 1}, "the fault")
    before = fleet_pid(server)
    done = run_muster("upgrade", "--control-socket", server.socket, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert fleet_pid(server) != before
    wait_for(lambda: fleet(server)["state"] == "answering", "NVML to answer")
    assert [(g["state"], g["reason"], bool(g["xids"])) for g in server.status()["gpus"]] == [("fenced", "dust", False), ("serving", "", True)]


@pytest.mark.parametrize("arguments, said", [
    (["--nvml-library=/nowhere/libnvidia-ml.so.1"], "/nowhere"), ({"errors": {"nvmlInitWithFlags": 18}}, "(?i)version")])
def test_without_nvml(serve, tmp_path, machine, arguments, said):
    """The library is not there, or does not fit the driver: models of the CPU are served, and nobody waits."""
    if isinstance(arguments, dict):
        machine.machine.update(arguments)
        machine.write()
        arguments = []
    server = serve(sim_model(tmp_path / "models"), *arguments, "--log-verbose=1", env=machine.environment)
    assert echo(server, 1).status == 200
    wait_for(lambda: fleet(server)["state"] == "none", "the look to be over")
    assert server.status()["gpus"] == [] and "muster_gpu" not in server.metrics()
    assert "gpus" not in server.get("/health").json
    (line,) = logged(server, "no GPUs here")
    assert re.search(said, line["because"])


def test_nvml_that_comes_later(serve, tmp_path, machine):
    """The driver is installed, or made visible in a container, while the server runs: muster reload looks again."""
    library = tmp_path / "libnvidia-ml.so.1"
    models = sim_model(tmp_path / "models", "cpu")
    gpu_model(models)
    server = serve(models, *QUICK, "--exit-on-error=false", env={**machine.environment, "MUSTER_NVML_LIBRARY": str(library)}, wait=False)

    def reload():
        done = run_muster("reload", "--control-socket", server.socket, cwd=tmp_path)
        return done.returncode, done.stdout.splitlines()
    wait_for(lambda: server.status().get("state") == "degraded" and fleet(server)["state"] == "none", "the look to be over")
    code, (unchanged, failed) = reload()  # still nothing
    assert (code, unchanged) == (1, "unchanged  cpu/1") and failed.startswith("failed     echo/1: ") and str(library) in failed
    machine.machine["errors"] = {"nvmlInitWithFlags": 18}
    machine.write()
    library.symlink_to(machine.library)
    code, (gpus, *_) = reload()
    assert code == 1 and re.match("gpus       0 found: .*version", gpus)
    del machine.machine["errors"]
    machine.write()
    assert reload() == (0, ["gpus       2 found", "changed    echo/1", "unchanged  cpu/1"])
    wait_states(server, cpu="ready", gpu0="ready", gpu1="ready")
    assert fleet(server)["state"] == "answering" and gpu_states(server) == ["serving", "serving"] and echo(server, 1).status == 200
    assert reload() == (0, ["unchanged  cpu/1", "unchanged  echo/1"])


def test_nvml_that_hangs_while_a_reload_looks(serve, tmp_path, machine):
    library = tmp_path / "libnvidia-ml.so.1"
    server = serve(sim_model(tmp_path / "models"), "--nvml-timeout=100ms", env={**machine.environment, "MUSTER_NVML_LIBRARY": str(library)})
    wait_for(lambda: fleet(server)["state"] == "none", "the look to be over")
    machine.machine["hang"] = ["nvmlInitWithFlags"]
    machine.write()
    library.symlink_to(machine.library)
    done = run_muster("reload", "--control-socket", server.socket, cwd=tmp_path)
    gpus, unchanged = done.stdout.splitlines()
    assert done.returncode == 0 and re.match("gpus       0 found: NVML has not answered for", gpus) and unchanged == "unchanged  echo/1"
    assert echo(server, 1).status == 200


def test_a_lost_device_costs_nobody_an_answer(serve, tmp_path):
    """The engine says that its device is lost: that worker leaves, its requests go on with another one."""
    server = serve(gpu_model(tmp_path / "models", device_lost_on="666", base_ms=20), "--simulate-gpus=2")
    with crowd(8) as threads:
        answers = [threads.submit(echo, server, value) for value in (1, 2, 666, 3, 4)]
        assert [answer.result().status for answer in answers if answer is not answers[2]] == [200] * 4
        assert answers[2].result().status == 500  # wherever it goes
    wait_for(lambda: states(server) == {"gpu:0": "ready", "gpu:1": "ready"}, "the workers")
    assert all("lose its device" in line["error"] for line in logged(server, "worker ended, will be started again"))
