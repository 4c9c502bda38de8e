"""MPS: a daemon for each GPU, who is its client, and what becomes of both when something goes wrong. No GPU is needed: a fake of
NVML shows some, and a fake of NVIDIA's control program is the daemon (tests/fake_mps)."""
import json
import os
import pathlib
import signal

import pytest

from fake_nvml import FakeNvml, gpu
from muster_server import VISIBLE, binary_path, run_muster, wait_for
from test_fleet import Load, fault, gpu_model, logged
from traffic import Client, crowd, standing_still, worker_pids

UUIDS = [gpu(n)["uuid"] for n in range(2)]


class Machine(FakeNvml):
    """GPUs, and MPS as its fake's scenario has it; servers started by serve() have their workers as clients."""

    def __init__(self, folder, gpus):
        super().__init__(folder, gpus)
        self.folder, self.scenario = folder, folder / "mps.json"
        self.say()

    def say(self, **scenario):
        new = self.scenario.with_suffix(".new")
        new.write_text(json.dumps({"control": str(self.folder / "server0" / "control.sock"), **scenario}))
        os.replace(new, self.scenario)

    @property
    def environment(self):
        return {**super().environment, "FAKE_MPS": str(self.scenario), "MUSTER_MPS_CONTROL_BINARY": str(binary_path().parent / "fake_mps")}

    def commands(self) -> list[str]:
        log = self.scenario.with_suffix(".json.commands")
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path, [gpu(0), gpu(1)])


def start(machine, serve, *arguments, gpus="0", env=None, wait=True, **parameters):
    models = gpu_model(machine.folder / "models", gpus=gpus, **parameters)
    return serve(models, "--metrics-interval-ms=50", *arguments, env={**machine.environment, **(env or {})}, wait=wait)


def mps(server) -> list[dict]:
    return server.status()["mps"]["gpus"]


def pids(server) -> set[int]:
    return {worker["pid"] for worker in server.workers() if worker["state"] == "ready"}


def clients(entry) -> set[int]:
    return {client["pid"] for server in entry["servers"] for client in server["clients"]}


def wait_serving(server, workers):
    def serves():
        entries = mps(server)
        return entries if len(pids(server)) == workers and all(entry["state"] == "serving" for entry in entries) else None
    return wait_for(serves, f"{workers} workers under MPS; log:\n{server.log}")


def variables(pid) -> dict[str, str]:
    text = pathlib.Path(f"/proc/{pid}/environ").read_text()
    return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)


def is_alive(pid) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent(pid) -> int:
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def left() -> list[str]:
    """Folders of keepers: in the folder that conftest.py makes for this process alone."""
    return sorted(map(str, pathlib.Path(os.environ["XDG_RUNTIME_DIR"]).glob("muster-mps-*")))


# ---- daemons and their clients ---------------------------------------------------------------------------------------

def test_a_daemon_for_each_gpu(serve, machine):
    server = start(machine, serve, *VISIBLE, "--mps=on", "--mps-active-threads=40", "--gpu-memory=2GiB", gpus="0, 1")
    entries = wait_serving(server, 2)
    assert [(entry["gpu"], entry["uuid"], entry["restarts"], entry["client_limit"]) for entry in entries] == [
        ("gpu:0", UUIDS[0], 0, 48), ("gpu:1", UUIDS[1], 0, 48)]
    daemons, folders = {entry["daemon"] for entry in entries}, {entry["folder"] for entry in entries}
    assert len(daemons) == 2 and len(folders) == 2
    for worker in server.workers():
        (entry,) = [entry for entry in entries if entry["uuid"] == worker["gpu"]]
        found = variables(worker["pid"])
        assert found["CUDA_MPS_PIPE_DIRECTORY"] == entry["folder"] + "/pipe" and found["CUDA_VISIBLE_DEVICES"] == worker["gpu"]
        assert found["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "40" and found["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=2048MB"
        assert variables(entry["daemon"])["CUDA_VISIBLE_DEVICES"] == worker["gpu"]
        assert [os.stat(entry["folder"] + part).st_mode & 0o777 for part in ("", "/pipe", "/log")] == [0o700] * 3
    wait_for(lambda: [clients(entry) for entry in mps(server)] == [{worker["pid"]} for worker in server.workers()], "the clients")
    text = run_muster("mps", "status", "--control-socket", server.socket).stdout
    assert f"daemon {entries[0]['daemon']}, restarts 0, at most 48 clients, active threads 100 %" in text and "worker 1 of echo" in text
    told = json.loads(run_muster("mps", "status", "--json", "--control-socket", server.socket).stdout)
    assert told["mode"] == "on" and told["inherited"] is None and len(told["gpus"]) == 2

    log = pathlib.Path(entries[0]["folder"]) / "log" / "control.log"
    log.write_bytes(b"x" * (5 << 20))  # NVIDIA's own grows with every question
    # an upgrade changes the workers, not the daemons
    done = run_muster("upgrade", "--control-socket", server.socket)
    assert done.returncode == 0, done.stderr
    entries = wait_serving(server, 2)
    wait_for(lambda: log.stat().st_size == 0, "the log to be cut short")
    assert {entry["daemon"] for entry in entries} == daemons and {entry["restarts"] for entry in entries} == {0}

    assert server.close() == []
    assert [command for command in machine.commands() if command.endswith(" quit")].__len__() == 2
    assert not any(os.path.exists(folder) for folder in folders) and not any(map(is_alive, daemons))


def test_a_daemon_that_dies_under_load(serve, machine):
    server = start(machine, serve, "--processes=2", base_ms=2, device_lost_on=666)  # auto: several processes share a GPU
    (entry,) = wait_serving(server, 2)
    before = pids(server)
    with Load(server) as load:
        os.kill(entry["daemon"], signal.SIGKILL)
        wait_for(lambda: mps(server)[0]["restarts"] == 1, "another daemon")
        (after,) = wait_serving(server, 2)
        load.more()
    assert after["daemon"] != entry["daemon"] and not pids(server) & before
    assert not os.path.exists(entry["folder"]) and not any(is_alive(old["pid"]) for old in entry["servers"])
    (told,) = logged(server, "no MPS daemon, its clients are started again after it")
    assert "signal 9" in told["error"] and told["workers"] == 2
    assert not logged(server, "worker failed")

    # a fatal fault ends all clients; nobody new comes before all have left
    before = pids(server)
    with Load(server):
        fault(machine, 0, 13)
        wait_for(lambda: pids(server) and not pids(server) & before and len(pids(server)) == 2, "new workers")
    lines = [line.get("message") for line in server.log_lines()]
    lines = lines[lines.index("GPU fault"):]
    assert lines.index("worker started") > max(n for n, line in enumerate(lines) if line == "worker ended, will be started again")
    assert mps(server)[0]["daemon"] == after["daemon"]

    # so does a worker's word that its device is lost
    before = pids(server)
    with Client(server) as client:
        client.echo(666, parameters={"timeout": 300000})  # soon given up, or it would go on from worker to worker
    wait_for(lambda: not pids(server) & before and len(pids(server)) == 2, "new workers")
    assert any("another MPS client's device is lost" in line["error"] for line in logged(server, "worker ended, will be started again"))


def test_a_hung_client_is_terminated_before_it_is_killed(serve, machine):
    server = start(machine, serve, "--mps=on", "--processes=2", "--max-execution=300ms", base_ms=2, max_batch_size=1)
    (entry,) = wait_serving(server, 2)
    with Load(server) as load:
        load.more()  # the first run of a shape may take long
    victim = min(pids(server))
    with crowd(4) as pool, standing_still(victim):
        def ask(n):
            with Client(server) as client:
                return client.echo(n).status
        answers = [pool.submit(ask, n) for n in range(4)]
        wait_for(lambda: victim not in {worker["pid"] for worker in server.workers()}, "the hung worker to go")
        assert {answer.result() for answer in answers} == {200}
    mps_server = wait_for(lambda: mps(server)[0]["servers"], "its server")[0]["pid"]
    wait_for(lambda: f"{UUIDS[0]} terminate_client {mps_server} {victim}" in machine.commands(), "the daemon to be told")
    wait_serving(server, 2)

    # the server dies without a word: nothing stays
    server.expected_to_crash = True
    server.signal(signal.SIGKILL)
    server.wait_exit()
    wait_for(lambda: not os.path.exists(entry["folder"]) and not is_alive(entry["daemon"]), "the daemon to go")


def test_a_gpu_that_is_fenced_is_not_in_use(serve, machine):
    """It could not be reset."""
    server = start(machine, serve, "--mps=on", gpus="0, 1")
    first, second = wait_serving(server, 2)
    assert run_muster("gpus", "fence", "0", "--control-socket", server.socket).returncode == 0
    wait_for(lambda: mps(server)[0]["state"] == "undecided" and not is_alive(first["daemon"]), "the daemon to go")
    assert left() == [second["folder"]]
    assert run_muster("gpus", "unfence", "0", "--control-socket", server.socket).returncode == 0
    entries = wait_serving(server, 2)
    assert entries[0]["daemon"] != first["daemon"] and entries[1]["daemon"] == second["daemon"]


def test_a_fault_of_one_mig_device_leaves_the_others_alone(serve, tmp_path):
    parts = [{"uuid": f"MIG-{n}", "name": "NVIDIA H200 MIG 1g.18gb", "memory": {"total": 16 << 30, "used": 1 << 30}} for n in range(2)]
    machine = Machine(tmp_path, [gpu(0, mig=parts)])
    models = gpu_model(tmp_path / "models", "first", gpus="0", base_ms=2, device_lost_on=666)
    gpu_model(tmp_path / "models", "second", gpus="1", base_ms=2)
    server = serve(models, "--metrics-interval-ms=50", "--processes=2", env={**machine.environment, "CUDA_VISIBLE_DEVICES": "MIG-0,MIG-1"})
    wait_serving(server, 4)

    def on(part):
        return {worker["pid"] for worker in server.workers() if worker["gpu"] == part and worker["state"] == "ready"}
    first, second = on("MIG-0"), on("MIG-1")
    with Client(server) as client:
        client.echo(666, model="first", parameters={"timeout": 300000})
    wait_for(lambda: len(on("MIG-0")) == 2 and not on("MIG-0") & first, "other workers")
    assert on("MIG-1") == second
    os.kill(min(second), signal.SIGKILL)  # whoever starts there does not wait for the other one to leave
    wait_for(lambda: len(on("MIG-1")) == 2 and on("MIG-1") != second, "another worker")


def test_a_reload_with_room_for_some(serve, tmp_path):
    """The processes that find no place among the clients start when those of the generation before have left."""
    machine = Machine(tmp_path, [gpu(0, compute_capability=[6, 0])])  # at most 16 clients
    server = start(machine, serve, "--mps=on", "--processes=9", "--load-parallel=9")
    wait_serving(server, 9)
    before = pids(server)
    config = machine.folder / "models" / "echo" / "config.pbtxt"
    config.write_text(config.read_text() + "\n# another one\n")
    done = run_muster("reload", "--control-socket", server.socket)
    assert (done.returncode, done.stdout) == (0, "changed    echo/1\n"), server.log
    wait_for(lambda: len(pids(server)) == 9 and not pids(server) & before, "the new generation")
    assert {worker["state"] for worker in server.workers()} == {"ready"} and not logged(server, "worker failed")


def test_keepers_hear_of_log_settings(serve, machine):
    server = start(machine, serve, "--mps=on", "--log-error=false")
    (entry,) = wait_serving(server, 1)
    assert server.post("/v2/logging", {"log_error": True}).status == 200
    wait_for(lambda: logged(server, "a client changes the log settings"), "the supervisor to hear of it")
    (pid,) = worker_pids(server)
    os.kill(pid, signal.SIGKILL)  # what the keeper is asked about the next one comes behind the settings
    wait_for(lambda: worker_pids(server) not in ([], [pid]), "another worker, verified by the keeper")
    os.kill(entry["daemon"], signal.SIGKILL)
    wait_for(lambda: [line for line in logged(server, "no MPS any more") if "signal 9" in line["error"]], "the keeper's last word")


# ---- what can be wrong -----------------------------------------------------------------------------------------------

def test_a_worker_that_is_no_client(serve, machine):
    machine.say(strangers=True)
    server = start(machine, serve, "--mps=on", "--exit-on-error=false", wait=False)
    wait_for(lambda: server.status().get("state") == "degraded", "the model to be given up")
    (model,) = server.status()["models"]
    assert model["state"] == "UNAVAILABLE" and "it runs without MPS: the daemon of gpu:0" in model["reason"]


@pytest.mark.parametrize("how, said", [("hang", "within 0.3 s"), ("linger", "within 0.3 s"), ("odd", 'get_server_list with "?[31mNo such server?"')])
def test_a_daemon_that_does_not_answer_any_more(serve, machine, how, said):
    server = start(machine, serve, "--processes=2", "--mps-timeout=300ms", base_ms=2)
    (entry,) = wait_serving(server, 2)
    with Load(server) as load:
        machine.say(**{how: "get_server_list"})
        os.kill(min(pids(server)), signal.SIGKILL)  # for its successor the daemon is asked at once
        wait_for(lambda: said in mps(server)[0]["error"], "what is wrong to be seen")
        wait_for(lambda: mps(server)[0]["state"] != "serving", "the daemon to be given up")
        machine.say()
        (after,) = wait_serving(server, 2)
        load.more()
    assert after["restarts"] >= 1 and after["daemon"] != entry["daemon"] and not is_alive(entry["daemon"])


def test_a_daemon_that_dies_while_it_is_asked(serve, machine):
    """What is told is its end, also where the keeper sees that together with the end of the question."""
    server = start(machine, serve, "--mps=on", "--mps-timeout=1h")
    (entry,) = wait_serving(server, 1)
    machine.say(hang="get_server_list")
    keeper = parent(entry["daemon"])

    def asking():
        children = pathlib.Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
        asked = machine.commands()[-1] == f"{UUIDS[0]} get_server_list"
        return [int(pid) for pid in children if int(pid) != entry["daemon"]] if asked and len(children) == 2 else None
    (program,) = wait_for(asking, "a question that nobody answers")
    with standing_still(keeper):
        os.kill(entry["daemon"], signal.SIGKILL)
        wait_for(lambda: not is_alive(entry["daemon"]) and not is_alive(program), "both to end")
        machine.say()
    (told,) = wait_for(lambda: logged(server, "no MPS any more"), "its end")
    wait_serving(server, 1)
    (lost,) = logged(server, "no MPS daemon, its clients are started again after it")
    assert "signal 9" in told["error"] and "signal 9" in lost["error"]


def test_auto_goes_on_without_a_daemon_that_cannot_be_started_again(serve, machine):
    server = start(machine, serve, "--processes=2", base_ms=2)
    (entry,) = wait_serving(server, 2)
    machine.say(refuse="the driver is another one now")
    os.kill(entry["daemon"], signal.SIGKILL)
    wait_for(lambda: mps(server)[0]["state"] == "off" and len(pids(server)) == 2, "workers without MPS")
    (told,) = logged(server, "processes share a GPU without MPS: they take turns")
    assert "the driver is another one now" in told["because"] and left() == []


def test_what_killed_keepers_leave_goes(serve, machine):
    server = start(machine, serve, "--mps=on")
    (entry,) = wait_serving(server, 1)
    wait_for(lambda: mps(server)[0]["servers"], "its server")
    keeper, (mps_server,) = parent(entry["daemon"]), (found["pid"] for found in mps(server)[0]["servers"])
    with standing_still(server.process.pid):
        os.kill(keeper, signal.SIGKILL)
        wait_for(lambda: not is_alive(entry["daemon"]), "the daemon to die with its keeper")
        assert is_alive(mps_server) and os.path.exists(entry["folder"])
    (after,) = wait_for(lambda: [now for now in mps(server) if now["state"] == "serving" and now["daemon"] != entry["daemon"]], "another daemon")
    assert not is_alive(mps_server) and left() == [after["folder"]]

    # nobody is left to tidy up, but for the next one who starts a daemon; what is in use stays
    wait_for(lambda: mps(server)[0]["servers"], "its server")
    (mps_server,) = (found["pid"] for found in mps(server)[0]["servers"])
    server.expected_to_crash = True
    with standing_still(server.process.pid):
        os.kill(parent(after["daemon"]), signal.SIGKILL)
        wait_for(lambda: not is_alive(after["daemon"]), "the daemon to die with its keeper")
        server.signal(signal.SIGKILL)
    server.wait_exit()
    assert is_alive(mps_server) and os.path.exists(after["folder"])
    machine.say(control=str(machine.folder / "server1" / "control.sock"))
    gpu_model(machine.folder / "models", "other", gpus="1")
    second = serve(machine.folder / "models", "--mps=on", env=machine.environment)
    entries = wait_serving(second, 2)
    assert not is_alive(mps_server) and left() == sorted(entry["folder"] for entry in entries)


@pytest.mark.parametrize("mode", ["on", "auto"])
def test_a_daemon_that_cannot_start(serve, machine, mode):
    machine.say(refuse="\u00e9" * 150 + "no device for you")  # cut where a character is not over
    server = start(machine, serve, f"--mps={mode}", "--processes=2", "--exit-on-error=false", wait=mode == "auto")
    if mode == "auto":
        (told,) = logged(server, "processes share a GPU without MPS: they take turns")
        assert "no device for you" in told["because"] and mps(server)[0]["state"] == "off"
        return
    wait_for(lambda: server.status().get("state") == "degraded", "the model to be given up")
    (model,) = server.status()["models"]
    assert "--mps=on wants" in model["reason"] and "no device for you" in model["reason"]


def test_auto_without_the_control_program(serve, machine):
    server = start(machine, serve, "--processes=2", env={"MUSTER_MPS_CONTROL_BINARY": "there-is-no-such-program"})
    (told,) = logged(server, "processes share a GPU without MPS: they take turns")
    assert "there is no there-is-no-such-program" in told["because"] and len(server.workers()) == 2
    # whoever takes over knows why, and says it once
    assert run_muster("upgrade", "--control-socket", server.socket).returncode == 0
    assert mps(server)[0]["state"] == "off" and mps(server)[0]["error"] == told["because"]
    assert len(logged(server, "processes share a GPU without MPS: they take turns")) == 1


def test_auto_for_a_gpu_that_cannot(serve, tmp_path):
    machine = Machine(tmp_path, [gpu(0, compute_capability=[3, 0])])
    server = start(machine, serve, "--processes=2")
    (told,) = logged(server, "processes share a GPU without MPS: they take turns")
    assert "compute capability" in told["because"] and machine.commands() == []


def test_alone_and_with_a_daemon_of_somebody_else(serve, machine):
    server = start(machine, serve)  # auto: one process has the GPU for itself
    assert [entry["state"] for entry in mps(server)] == ["off"] and machine.commands() == []
    # another one comes while that one runs
    gpu_model(machine.folder / "models", "second", gpus="0")
    assert run_muster("reload", "--control-socket", server.socket).returncode == 0
    (told,) = logged(server, "processes share a GPU without MPS: they take turns")
    assert "runs without it" in told["because"] and len(pids(server)) == 2
    assert server.close() == []
    server = serve(machine.folder / "models", "--mps=on", "--processes=2", env={**machine.environment, "CUDA_MPS_PIPE_DIRECTORY": "/nowhere"})
    assert server.status()["mps"] == {"mode": "on", "inherited": "/nowhere", "gpus": []} and machine.commands() == []
    assert ("CUDA_MPS_PIPE_DIRECTORY", "/nowhere") in [(line["variable"], line["value"]) for line in server.log_lines() if "variable" in line]
    assert "/nowhere, which muster leaves alone" in run_muster("mps", "status", "--control-socket", server.socket).stdout


def test_simulated_gpus(serve, tmp_path):
    server = serve(gpu_model(tmp_path / "models", gpus="0"), "--simulate-gpus=1", "--mps=on", "--processes=2")
    (entry,) = mps(server)
    assert (entry["state"], entry["daemon"], entry["servers"]) == ("simulated", None, []) and len(server.workers()) == 2


def test_more_processes_than_mps_takes(tmp_path):
    done = run_muster("serve", gpu_model(tmp_path / "models", gpus="0"), "--simulate-gpus=1", "--mps=on", "--processes=49",
                      *(f"--{port}-port=0" for port in ("http", "grpc", "metrics")), "--exit-on-error=true")
    assert done.returncode == 1 and "49 processes are planned on GPU 0, MPS takes at most 48 there" in done.stdout + done.stderr


def test_commands_that_are_none():
    assert run_muster("mps").returncode == 2 and run_muster("mps", "start").returncode == 2
    assert run_muster("serve", "--mps=perhaps", "x").returncode == 2
