"""`muster launch`: real processes of other people's programs, started, asked, restarted, scaled and ended."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from fake_nvml import FakeNvml, gpu
from muster_server import PATIENCE, binary_path, control_status, environment, run_muster, wait_for
from ports import free_ports
from proxy_process import Proxy

SERVICE = pathlib.Path(__file__).with_name("launched_service.py")
PYTHON = [sys.executable, "-I", "-S", str(SERVICE)]  # starts in a few milliseconds
HEALTH = pathlib.Path(__file__).with_name("launched_grpc_service.py")


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def marked(folder: pathlib.Path) -> list[int]:
    """Processes that a launch with this state folder has started."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b":" + os.fsencode(folder) + b"\0" in (entry / "environ").read_bytes() and alive(int(entry.name)):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def ask(port: int) -> dict:
    """Of the service there, which may be ready in other ways than by its port."""
    def listens():
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
    wait_for(listens, f"somebody at port {port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PATIENCE) as reply:
        return json.loads(reply.read())


class Launch:
    """before: what is started instead, with the launch as its arguments."""

    def __init__(self, folder: pathlib.Path, arguments, cwd=None, env=None, before=()):
        self.folder, self.log_path = folder, folder.with_suffix(".log")
        self.log_file = self.log_path.open("ab")
        self.process = subprocess.Popen([*before, binary_path(), "launch", "--state-dir", folder, *map(str, arguments)],
                                        stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=self.log_file,
                                        start_new_session=True, cwd=cwd, env=environment(env))

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def command(self, *words):
        return run_muster("launch", *words, "--state-dir", self.folder)

    def status(self) -> dict:
        return control_status(self.folder / "control.sock") or {"state": "", "services": []}

    def wait(self, state="ready") -> dict:
        def reached():
            assert self.process.poll() is None, f"the launch ended with {self.process.returncode}:\n{self.log}"
            status = self.status()
            return status if status["state"] == state else None
        return wait_for(reached, f"state {state}; log:\n{self.log}")

    def service(self, id: str) -> dict:
        return next((s for s in self.status()["services"] if s["id"] == id), {})

    def wait_exit(self) -> int:
        return self.process.wait(PATIENCE)

    def close(self) -> list[str]:
        problems = []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                problems.append("the launch did not end on SIGTERM")
                self.process.kill()
                self.process.wait()
        self.log_file.close()
        try:
            wait_for(lambda: not marked(self.folder), "the services to go", 20)
        except AssertionError:
            problems.append(f"processes left behind: {marked(self.folder)}")
            for pid in marked(self.folder):
                os.kill(pid, signal.SIGKILL)
        for sign in ("ERROR: AddressSanitizer", "LeakSanitizer", "runtime error:"):
            if sign in self.log:
                problems.append(self.log)
        return problems


@pytest.fixture
def launch(tmp_path):
    """launch(*arguments): `muster launch` with a state folder of the test."""
    launches = []

    def start(*arguments, folder="state", **options):
        launches.append(Launch(tmp_path / folder, arguments, **options))
        return launches[-1]

    yield start
    problems = [problem for one in reversed(launches) for problem in one.close()]
    assert not problems, "\n".join(problems)


def test_the_life_of_two_groups(launch, tmp_path):
    """Groups from muster.yaml: environment, readiness by HTTP and by a command, kill, restart, scale, rolling restart."""
    first = free_ports(8)
    (tmp_path / "muster.yaml").write_text(json.dumps({"http_port": 1234, "launch": [
        {"name": "web", "gpus": "0,GPU-b", "per_gpu": "1", "port": f"{first}-{first + 3}", "ready": "http:/ready",
         "mps": "auto", "mps_active_threads": "40",
         "env": ["COLOUR=blue {index}", "JSON={\"a\":{}}"], "stop_timeout": "5s",
         "command": [*PYTHON, "{port}", "unready=2"]},
        {"name": "batch", "count": "1", "port": f"{first + 4}+", "ready": "cmd:test -e {name}-{port}.go",
         "gpus": "none", "command": [*PYTHON, "{port}", "child"]}]}))
    one = launch(cwd=tmp_path)
    status = wait_for(lambda: (s := one.status())["services"] and s["services"][1]["state"] == "ready" and s, "web to be ready")
    assert [s["id"] for s in status["services"]] == ["web/0", "web/1", "batch/0"]
    assert status["services"][2]["state"] == "starting" and status["state"] == "starting"
    (tmp_path / f"batch-{first + 4}.go").touch()
    status = one.wait()
    assert status["backends"] == f"127.0.0.1:{first}-{first + 1},127.0.0.1:{first + 4}"
    assert json.loads((one.folder / "state.json").read_text())["pid"] == one.process.pid
    wait_for(lambda: f"muster proxy --backends {status['backends']}" in one.log, "the summary")

    seen = ask(first + 1)["environment"]
    assert (seen["CUDA_VISIBLE_DEVICES"], seen["MUSTER_GPU"], seen["MUSTER_INDEX"], seen["MUSTER_SERVICE"]) == ("GPU-b", "GPU-b", "1", "web/1")
    assert (seen["PORT"], seen["COLOUR"], seen["JSON"]) == (str(first + 1), "blue 1", '{"a":{}}')
    assert ask(first)["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
    assert ask(first + 4)["environment"]["CUDA_VISIBLE_DEVICES"] == ""

    # Killed by somebody: a successor at once, and what the dead one left behind is gone.
    before = one.service("batch/0")["pid"]
    family = [pid for pid in marked(one.folder) if os.getsid(pid) == before]
    assert len(family) == 2
    os.kill(before, signal.SIGKILL)
    after = wait_for(lambda: (s := one.service("batch/0")).get("state") == "ready" and s["restarts"] == 1 and s, "a successor")
    assert after["pid"] != before and not any(map(alive, family))

    def done(*words):
        command = one.command(*words)
        assert command.returncode == 0, command.stderr
        return command.stdout

    def pids():
        return {s["id"]: s["pid"] for s in one.status()["services"]}

    before = pids()
    done("restart", "web/1")
    now = pids()
    assert now["web/1"] != before["web/1"] and now["web/0"] == before["web/0"]
    done("scale", "4", "--group", "web")
    assert ask(first + 3)["environment"]["MUSTER_GPU"] == "GPU-b"
    refused = one.command("scale", "5", "--group", "web")
    assert refused.returncode == 1 and f"the ports {first}-{first + 3} are 4, for 5 services" in refused.stderr
    done("scale", "1", "--group", "web")
    assert set(pids()) == {"web/0", "batch/0"}
    before = pids()
    done("rolling-restart")
    assert not set(pids().values()) & set(before.values())
    text = done("logs", "web/0", "--lines", "1000")
    assert f"listening on {first}" in text and "started pid" in text and "stopped" in text

    for words, said in ((("restart", "0"), "with several groups it is GROUP/INDEX"), (("restart", "web/7"), "there is no service web/7"),
                        (("scale", "2"), "say --group"), (("scale", "2", "--group", "x"), "there is no group x"),
                        (("scale", "x"), "how many?"), (("restrat", "0"), "Did you mean restart?"), (("logs", "web/9"), "there is no service")):
        command = one.command(*words)
        assert command.returncode in (1, 2) and said in command.stderr, command.stderr
    second = run_muster("launch", "--state-dir", one.folder, "--", "sleep", "60")
    assert second.returncode == 1 and f"another launch runs with this state folder, process {one.process.pid}" in second.stderr

    assert "has stopped" in done("stop")
    assert one.wait_exit() == 0 and not marked(one.folder)
    assert not (one.folder / "state.json").exists() and not (one.folder / "control.sock").exists()
    assert "no server is running" in one.command("status").stderr


def test_gpus_are_those_that_nvml_shows(launch, tmp_path):
    nvml = FakeNvml(tmp_path, [gpu(0), gpu(1)])
    first = free_ports(4)
    one = launch("--gpus", "all", "--per-gpu", 2, "--port", f"{first}+", "--", *PYTHON, "{port}", "{uuid}", env=nvml.environment)
    one.wait()
    uuids = [g["uuid"] for g in nvml.machine["gpus"]]
    assert [ask(first + i)["environment"]["CUDA_VISIBLE_DEVICES"] for i in range(4)] == uuids * 2
    for gpus, said in (("0-2", "there is no GPU '2': this machine has 2"), (f"0,{uuids[0]}", "is named twice")):
        done = run_muster("launch", "--state-dir", tmp_path / "other", "--gpus", gpus, "--", "true", env=nvml.environment)
        assert done.returncode == 2 and said in done.stderr


def children(pid: int, name: str) -> list[int]:
    found = []
    for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        try:
            if pathlib.Path(f"/proc/{child}/comm").read_text() == name + "\n":
                found.append(int(child))
        except OSError:  # it has gone
            continue
    return found


def test_a_gpu_that_fails_is_left_alone(launch, tmp_path):
    """By an Xid, and by NVML's word; until somebody restarts a service there. Others go on, also without who asks NVML."""
    nvml = FakeNvml(tmp_path, [gpu(0), gpu(1), gpu(2)])
    one = launch("--gpus", "all", "--name", "web", "--ready", "cmd:true", "--", "sleep", 600, env=nvml.environment)
    before = [s["pid"] for s in one.wait()["services"]]
    wait_for(lambda: children(one.process.pid, "muster-fleet"), "the process that asks NVML")
    nvml.machine["events"].append({"gpu": 0, "xid": 79})
    nvml.write()
    fault = "GPU 0 is removed: Xid 79, fallen off the bus"
    status = wait_for(lambda: (s := one.status())["services"][0]["state"] == "failed" and s, "the service of GPU 0 to be given up")
    assert status["services"][0]["reason"] == fault and [s["state"] for s in status["services"][1:]] == ["ready"] * 2
    assert [g["fault"] for g in status["gpus"]] == [fault, "", ""] and not alive(before[0])
    assert fault in one.command("status").stdout.splitlines()[-1]

    nvml.machine["events"].append({"gpu": 1, "xid": 48})  # drained: what runs goes on, and is the last
    nvml.write()
    wait_for(lambda: one.status()["gpus"][1]["fault"], "GPU 1 to be drained")
    assert [s["pid"] for s in one.status()["services"]][1:] == before[1:]
    os.kill(before[1], signal.SIGKILL)
    wait_for(lambda: one.service("web/1")["state"] == "failed", "the service of GPU 1 to be given up")

    assert one.command("restart", "web/0").returncode == 0  # somebody knows better
    assert one.status()["gpus"][0]["fault"] == "" and one.service("web/0")["state"] == "ready"

    (fleet,) = wait_for(lambda: children(one.process.pid, "muster-fleet"), "the process that asks NVML")
    os.kill(fleet, signal.SIGKILL)
    nvml.machine["gpus"][2]["lost"] = True
    nvml.machine["events"].clear()
    nvml.write()
    wait_for(lambda: one.service("web/2")["state"] == "failed", "the service of GPU 2 to be given up")
    assert "faults of GPUs are not heard of for now" in one.log and "NVML answers again" in one.log
    assert one.service("web/0")["state"] == "ready"


class Mps(FakeNvml):
    """Two GPUs, and the fake of MPS's control program, whose clients are the services of the launch in folder/state."""

    def __init__(self, folder):
        super().__init__(folder, [gpu(0), gpu(1)])
        self.scenario, self.control = folder / "mps.json", folder / "state" / "control.sock"
        self.arguments = ["--mps-control-binary", binary_path().parent / "fake_mps", "--stop-timeout", "5s"]
        self.say()

    def say(self, **scenario):
        new = self.scenario.with_suffix(".new")
        new.write_text(json.dumps({"control": str(self.control), **scenario}))
        os.replace(new, self.scenario)

    @property
    def environment(self):
        return {**super().environment, "FAKE_MPS": str(self.scenario)}


def test_mps_where_several_share_a_gpu(launch, tmp_path):
    """A daemon for the GPU that two share, and none for the other; who uses it; its death; its end."""
    machine = Mps(tmp_path)
    machine.say(strangers=True)
    first = free_ports(3)
    one = launch(*machine.arguments, "--gpus", "0-1", "--count", 3, "--port", f"{first}+", "--name", "web", "--mps-active-threads", 40,
                 "--", "sh", "-c", f"{' '.join(PYTHON)} $PORT; true", env=machine.environment)
    status = one.wait()
    assert [(m["gpu"], m["state"], m["error"]) for m in status["mps"]] == [("0", "serving", ""), ("1", "off", "")]
    daemon, folder = status["mps"][0]["daemon"], status["mps"][0]["folder"]
    seen = [ask(first + i)["environment"] for i in range(3)]
    assert [e.get("CUDA_MPS_PIPE_DIRECTORY") for e in seen] == [f"{folder}/pipe", None, f"{folder}/pipe"]
    assert (seen[2]["CUDA_MPS_LOG_DIRECTORY"], seen[2]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]) == (f"{folder}/log", "40")

    # none of a service's processes is a client: said, and taken back when one has become it
    def members(*expected):
        return wait_for(lambda: tuple(s["mps"] for s in one.status()["services"]) == expected, f"members {expected}: {one.status()}")
    members(False, None, False)
    assert "service is no MPS client" in one.log and "it runs without MPS, or does not use its GPU" in one.command("status").stdout
    machine.say()
    assert one.command("restart", "web/2").returncode == 0  # the daemon is asked, sooner than by itself
    members(True, None, True)
    assert "service has become an MPS client" in one.log
    status = one.status()
    assert [s["reason"] for s in status["services"]] == ["", "", ""]
    assert f"MPS on GPU 0: serving, daemon {daemon}" in one.command("status").stdout

    # its end is that of its clients, which start after the next one
    before = [s["pid"] for s in status["services"]]
    os.kill(daemon, signal.SIGKILL)
    status = wait_for(lambda: (s := one.status())["state"] == "ready" and s["mps"][0]["restarts"] == 1 and s, "another daemon")
    assert "no MPS daemon, its services are started again" in one.log and "signal 9" in one.log
    pids = [s["pid"] for s in status["services"]]
    assert pids[1] == before[1] and not {pids[0], pids[2]} & set(before)
    folder, daemon = status["mps"][0]["folder"], status["mps"][0]["daemon"]
    assert ask(first)["environment"]["CUDA_MPS_PIPE_DIRECTORY"] == f"{folder}/pipe"

    # one that comes to a service that is alone shares without
    assert one.command("scale", 4).returncode == 0
    assert "a service that was started there alone runs without it" in one.log
    assert one.command("stop").returncode == 0 and one.wait_exit() == 0
    assert not alive(daemon) and not os.path.exists(folder)


def test_mps_ends_with_a_launcher_that_is_killed(tmp_path):
    """In the background: what keeps the daemon does not hold on to the output of the command that has returned."""
    machine, folder = Mps(tmp_path), tmp_path / "state"
    done = run_muster("launch", "--state-dir", folder, "--detach", *machine.arguments, "--gpus", "0", "--mps", "--ready", "cmd:true", "--", "sleep", 600,
                      env=machine.environment)
    assert done.returncode == 0, done.stderr
    status = json.loads(run_muster("launch", "status", "--json", "--state-dir", folder).stdout)
    (entry,) = status["mps"]
    assert entry["state"] == "serving"
    os.kill(status["pid"], signal.SIGKILL)
    wait_for(lambda: not alive(entry["daemon"]) and not os.path.exists(entry["folder"]) and not marked(folder), "all to go")


def test_mps_daemon_of_services_that_are_not_started_again(launch, tmp_path):
    machine = Mps(tmp_path)
    one = launch(*machine.arguments, "--gpus", "0", "--per-gpu", 2, "--restart", "never", "--ready", "cmd:true", "--", "sleep", 600, env=machine.environment)
    os.kill(one.wait()["mps"][0]["daemon"], signal.SIGKILL)
    assert one.wait_exit() == 1 and "the MPS daemon of its GPU has ended" in one.log


def test_mps_ends_the_work_of_a_client_before_it_is_killed(launch, tmp_path):
    """One that does not end on SIGTERM, while another one of its GPU goes on. Where nobody goes on nothing is asked for."""
    machine = Mps(tmp_path)
    first = free_ports(2)
    one = launch(*machine.arguments, "--gpus", "0", "--per-gpu", 2, "--port", f"{first}+", "--name", "web", "--stop-timeout", "200ms",
                 "--", *PYTHON, "{port}", "ignore-term", env=machine.environment)
    pids = [s["pid"] for s in one.wait()["services"]]
    wait_for(lambda: one.service("web/1")["mps"], "both to be clients")
    assert one.command("restart", "web/0").returncode == 0

    def terminated():
        return [int(line.split()[-1]) for line in machine.scenario.with_name("mps.json.commands").read_text().splitlines() if "terminate_client" in line]
    assert terminated() == [pids[0]]
    assert [s["pid"] == pid for s, pid in zip(one.status()["services"], pids)] == [False, True]
    assert one.command("scale", 1).returncode == 0 and terminated() == pids
    assert one.command("restart", "web/0").returncode == 0 and terminated() == pids


def test_mps_clients_start_again_after_a_fault(launch, tmp_path):
    """Of that GPU, together: a fault of one is one of all. Where there is no MPS a program knows best whether it can go on."""
    machine = Mps(tmp_path)
    one = launch(*machine.arguments, "--gpus", "0-1", "--count", 3, "--name", "web", "--ready", "cmd:true", "--", "sleep", 600, env=machine.environment)
    before = [s["pid"] for s in one.wait()["services"]]
    wait_for(lambda: children(one.process.pid, "muster-fleet"), "the process that asks NVML")
    machine.machine["events"] += [{"gpu": 1, "xid": 31}, {"gpu": 0, "xid": 31}]
    machine.write()
    status = wait_for(lambda: (s := one.status())["state"] == "ready" and s["services"][0]["restarts"] == 1 and s, "new clients")
    assert [s["restarts"] for s in status["services"]] == [1, 0, 1] and not alive(before[0]) and not alive(before[2])
    assert status["mps"][0]["restarts"] == 0 and "Xid 31, GPU memory page fault" in (one.folder / "logs" / "web-0.log").read_text()


def test_mps_that_cannot_be(launch, tmp_path):
    machine = Mps(tmp_path)
    command = ["--gpus", "0", "--per-gpu", 2, "--ready", "cmd:true", "--", "sleep", 600]
    for arguments, said in ((["--mps", "on", "--mps-control-binary", "/nowhere"], "which --mps=on wants: there is no /nowhere"),
                            (["--mps", "on", "--per-gpu", 49], "49 processes are planned there, MPS takes at most 48")):
        done = run_muster("launch", "--state-dir", tmp_path / "other", *machine.arguments, *command[:4], *arguments, *command[4:], env=machine.environment)
        assert done.returncode == 2 and said in done.stderr, done.stderr
    auto = launch(*machine.arguments, "--mps-control-binary", "/nowhere", *command, env=machine.environment)
    assert auto.wait()["mps"][0]["state"] == "off"
    assert "services share a GPU without MPS" in auto.log and "there is no /nowhere" in auto.log
    theirs = launch("--mps", "on", *command, folder="inherited", env={**machine.environment, "CUDA_MPS_PIPE_DIRECTORY": "/theirs"})
    assert theirs.wait()["mps"] == [] and "is used as it is" in theirs.log
    # it is there, and no daemon comes of it
    machine.say(refuse="no device for you")
    failed = launch("--mps", "on", *machine.arguments, *command, folder="refused", env=machine.environment)
    assert failed.wait_exit() == 1 and "no device for you" in failed.log


def test_grpc_health_says_when_it_is_ready(launch, tmp_path):
    port = free_ports(1)
    one = launch("--port", port, "--ready", "grpc", "--env", f"GO={tmp_path}/go", "--", sys.executable, HEALTH, "{port}")
    # it says NOT_SERVING, which the launcher has heard: then it may serve
    wait_for(lambda: (tmp_path / "go.asked").exists(), "a health check")
    assert one.status()["state"] == "starting"
    (tmp_path / "go").touch()
    one.wait()


def test_a_daemon_is_its_service(launch):
    """What goes into the background is counted, seen when it dies, and ended with the rest: with its environment cleared, too."""
    first = free_ports(2)
    one = launch("--port", f"{first}+", "--count", 2, "--name", "old", "--", *PYTHON, "{port}", "daemon", "clean")
    one.wait()
    pids = [ask(first)["pid"], ask(first + 1)["pid"]]
    status = wait_for(lambda: (s := one.status()) and all(x["daemon"] for x in s["services"]) and s, "both to be seen as daemons")
    assert [s["pid"] for s in status["services"]] == pids
    os.kill(pids[0], signal.SIGKILL)
    wait_for(lambda: one.service("old/0").get("restarts") == 1 and one.service("old/0")["state"] == "ready", "a successor")
    pids.append(ask(first)["pid"])
    assert one.command("stop").returncode == 0
    one.wait_exit()
    assert not any(map(alive, pids))


def test_a_daemon_whose_parent_takes_long_to_end(launch):
    """A process that ends has no environment any more by which it could be known, and its child is not the launcher's yet."""
    port = free_ports(1)
    one = launch("--port", port, "--name", "old", "--restart", "never", "--", *PYTHON, "{port}", "heavy-daemon")
    one.wait()
    wait_for(lambda: one.service("old/0")["daemon"], "it to be seen as a daemon")
    assert one.service("old/0")["pid"] == ask(port)["pid"]


def test_what_ignores_sigterm_is_killed(launch):
    port = free_ports(1)
    one = launch("--port", port, "--stop-timeout", "200ms", "--", *PYTHON, "{port}", "ignore-term", "child")
    one.wait()
    assert one.command("stop").returncode == 0
    assert one.wait_exit() == 0 and "did not end on SIGTERM: killed" in one.log


def test_asked_to_stop_twice_it_waits_for_nobody(launch):
    one = launch("--port", free_ports(1), "--stop-timeout", "1h", "--", *PYTHON, "{port}", "ignore-term", "child")
    one.wait()

    def ended():  # a second one at once would be the same wish
        one.process.send_signal(signal.SIGINT)
        return one.process.poll() is not None
    wait_for(ended, "the end")
    assert one.process.returncode == 0 and "asked to stop once more" in one.log


def test_many_services_and_few_descriptors(launch, tmp_path):
    """The launcher raises its own limit; its services have what it was started with, and nothing that is systemd's with it."""
    folder = os.fsencode(tmp_path) + b"/\xff"  # no UTF-8: status has to live with it
    one = launch("--count", 50, "--parallel", "all", "--ready", "cmd:test -e {index}", "--", "sh", "-c", "ulimit -Sn; env; touch {index}; exec sleep 600",
                 folder=os.fsdecode(folder), cwd=tmp_path, env={"NOTIFY_SOCKET": "/run/x"}, before=["sh", "-c", 'ulimit -Sn 48; exec "$@"', "sh"])
    status = one.wait()
    assert len(status["services"]) == 50 and status["state_folder"].endswith("/?")
    text = (one.folder / "logs" / "sh-49.log").read_text(errors="replace")  # its first line may come before the launcher's
    assert "48" in text.splitlines() and "MUSTER_INDEX=49" in text and "NOTIFY_SOCKET" not in text


def test_its_standard_descriptors_may_be_closed(launch):
    one = launch("--restart", "never", "--", "true", before=["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"])
    assert one.wait_exit() == 0


def test_a_port_that_a_stranger_takes_meanwhile(launch):
    """It is no fault of the service, which comes back as soon as the port does."""
    port = free_ports(1)
    one = launch("--port", port, "--name", "web", "--", *PYTHON, "{port}")
    one.wait()
    one.process.send_signal(signal.SIGSTOP)
    dead = ask(port)["pid"]
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: not alive(dead), "its end")
    with socket.create_server(("127.0.0.1", port)):
        one.process.send_signal(signal.SIGCONT)
        wait_for(lambda: one.service("web/0")["restarts"] > 5, "more tries than a service has")
        assert f"port {port} is in use by process {os.getpid()}" in one.service("web/0")["reason"]
    one.wait()


def test_scale_waits_for_those_that_go(launch):
    """Though another one has failed: else the next scale would find them still there."""
    one = launch("--count", 3, "--name", "web", "--restart", "never", "--stop-timeout", "300ms", "--ready", "cmd:true", "--",
                 "sh", "-c", "test {index} = 1 && exit 3; trap '' TERM; sleep 600 & wait; wait")
    wait_for(lambda: one.service("web/2").get("state") == "ready" and one.service("web/1")["state"] == "failed", "two to be settled")
    done = one.command("scale", 2, "--group", "web")
    ids = [s["id"] for s in one.status()["services"]]
    assert ids == ["web/0", "web/1"]
    assert done.returncode == 1 and "web/1 is failed: exited with status 3" in done.stderr


def test_a_proxy_of_all_ports_follows_the_scale(launch):
    """Its list is fixed, so it names all that there may be: what is not there yet costs a check a second."""
    first = free_ports(3)
    ports = f"{first}-{first + 2}"
    one = launch("--port", ports, "--count", 1, "--name", "web", "--", *PYTHON, "{port}")
    one.wait()
    with Proxy("--backends", f"127.0.0.1:{ports}", "--health", "http:/", "--health-interval", "100ms", "--health-timeout", "60s") as proxy:
        proxy.wait_healthy(1)
        for n in (3, 1, 2):
            done = one.command("scale", n)
            assert done.returncode == 0, done.stderr
            proxy.wait_healthy(n)
            answers = [proxy.get("/") for _ in range(6)]
            assert {status for status, _ in answers} == {200}
            assert {json.loads(body)["environment"]["PORT"] for _, body in answers} == {str(first + i) for i in range(n)}


def test_nothing_outlives_the_launcher(launch):
    """SIGKILL: the kernel ends the services, the guard what they have turned into daemons. Without the guard the next launch does."""
    first = free_ports(2)
    arguments = ("--port", f"{first}+", "--count", 1, "--", *PYTHON, "{port}", "daemon")
    one = launch(*arguments)
    one.wait()
    one.process.kill()
    one.process.wait()
    wait_for(lambda: not marked(one.folder), "the guard to end the daemon")
    assert (one.folder / "control.sock").exists()
    two = launch(*arguments)  # takes the stale socket over
    two.wait()
    daemon = ask(first)["pid"]
    (guard,) = wait_for(lambda: children(two.process.pid, "muster-guard"), "the guard")
    two.process.send_signal(signal.SIGSTOP)  # so that it does not start another guard
    os.kill(guard, signal.SIGKILL)
    two.process.kill()
    two.process.wait()
    assert alive(daemon)
    three = launch(*arguments)
    three.wait()
    assert not alive(daemon) and "left behind by a launch that died" in three.log and ask(first)["pid"] != daemon


def test_in_the_background(launch, tmp_path):
    port = free_ports(1)
    folder = tmp_path / "background"
    done = run_muster("launch", "--state-dir", folder, "--detach", "--port", port, "--name", "web", "--", *PYTHON, "{port}")
    try:
        assert done.returncode == 0 and f"muster proxy --backends 127.0.0.1:{port}" in done.stdout, done.stderr
        assert ask(port)["environment"]["MUSTER_SERVICE"] == "web/0"
    finally:
        assert run_muster("launch", "stop", "--state-dir", folder).returncode == 0
    assert not marked(folder)
    failed = run_muster("launch", "--state-dir", folder, "--detach", "--restart", "never", "--", "false")
    assert failed.returncode == 1 and "exited with status 1" in failed.stdout + failed.stderr


@pytest.mark.parametrize("arguments, exit_status, said", [
    (["--restart", "never", "--", "sh", "-c", "exit 3"], 1, "exited with status 3"),
    (["--restart", "on-failure", "--", "true"], 0, "no service runs any more"),
    (["--", "false"], 1, "given up after 5 times in a row"),
    (["--restart", "never", "--ready", "cmd:sleep 60", "--ready-timeout", "100ms", "--", "sleep", "60"], 1, "(the command has not ended yet)"),
    (["--restart", "never", "--ready", "cmd:false", "--ready-timeout", "WAIT", "--", "sleep", "60"], 1, "(the command exited with 1)"),
    # a muster under muster launch takes the launch's variables for what they are
    (["--restart", "never", "--gpus", "none", "--", str(binary_path()), "config"], 0, "no service runs any more"),
])
def test_services_that_end(tmp_path, arguments, exit_status, said):
    for wait in ("300ms", "3s", "30s"):  # the longer ones for a machine that does not get as far as the command
        done = run_muster("launch", "--state-dir", tmp_path / "state", *(wait if word == "WAIT" else word for word in arguments))
        if said in done.stdout + done.stderr or "WAIT" not in arguments:
            break
    assert done.returncode == exit_status and said in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("arguments, said", [
    ([], "what is to be started?"),
    (["--config", "nowhere.yaml"], "cannot open nowhere.yaml"),
    (["--"], "a command is missing"),
    (["serve.sh"], "The command comes behind --"),
    (["--prot", "1+", "--", "true"], "did you mean --port?"),
    (["--gpus", "0"], "--gpus belongs to a command"),
    (["--port"], "--port needs a value"),
    (["--", "no-such-command"], "there is no command 'no-such-command'"),
    (["--", "/etc/passwd"], "is no program that may be run"),
    (["--", "true", "{foo}"], "unknown placeholder {foo}: there are {port}, {gpu}"),
    (["--", "true", "{port}"], "{port} has no value: no --port was given"),
    (["--gpus", "0", "--", "true", "{uuid}"], "{uuid} has no value: NVML is not there"),
    (["--mps", "--", "true"], "--mps=on needs --gpus"),
    (["--gpus", "0", "--mps", "on", "--", "true"], "which --mps=on wants: NVML is not there"),
    (["--gpus", "0", "--mps=perhaps", "--", "true"], "mps"),
    (["--gpus", "0,1,0", "--", "true"], "GPU 0 is named twice"),
    (["--gpus", "3-1", "--", "true"], "no range of GPUs"),
    (["--gpus", "all", "--", "true"], "needs NVML"),
    (["--gpus", "first", "--", "true"], "is no GPU"),
    (["--per-gpu", "2", "--", "true"], "no GPUs are named"),
    (["--gpus", "0-1", "--per-gpu", "2", "--count", "3", "--", "true"], "are 4 services, not 3"),
    (["--count", "3", "--port", "65534+", "--", "true"], "beyond 65535"),
    (["--count", "2", "--port", "2000", "--", "true"], "one port (2000) for 2 services"),
    (["--port", "0", "--", "true"], "ports are 50051+"),
    (["--port", "20-10", "--", "true"], "end before they begin"),
    (["--ready", "grpc", "--", "true"], "needs a port"),
    (["--ready", "soon", "--", "true"], "ready is tcp, grpc"),
    (["--ready-timeout", "soon", "--", "true"], "ready-timeout"),
    (["--env", "A", "--", "true"], "a variable is NAME=VALUE"),
    (["--env", "MUSTER_SERVICE=web/1", "--", "true"], "MUSTER_SERVICE is the launcher's"),
    (["--port", "2000", "--ready", "http:/" + "x" * 2048, "--", "true"], "longer than 2048 bytes"),
    (["--name", "a b", "--", "true"], "no name for services"),
    (["status", "--name", "a/b"], "/ in it"),
    (["--restart", "sometimes", "--", "true"], "always, on-failure"),
])
def test_what_cannot_be_is_said_before_anything_starts(tmp_path, arguments, said):
    place = [] if "--name" in arguments else ["--state-dir", tmp_path / "state"]
    done = run_muster("launch", *place, *arguments, cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr


@pytest.mark.parametrize("text, said", [
    ("launch: [{command: [a], port: 2000+}, {name: b, command: [a], port: 2000-2003}]", "a has the ports 2000-2000 and b 2000-2003: they overlap"),
    ("launch: [{command: ['true']}, {command: ['true']}]", "two groups are called true"),
    ("launch: [{command: ['true'], prot: 1}]", "prot"),
    ("launch: [{gpus: 1}]", "command"),
    ("launch: [{command: []}]", "the command of group 1 is empty"),
    ("launch: [{command: ['true'], restart: x}]", "restart of group 1"),
    ("launch: []", "launch"),
    ("launch: [", "muster.yaml:"),
    ("http_port: 8000", "has no list launch:"),
])
def test_a_file_that_is_wrong(tmp_path, text, said):
    (tmp_path / "muster.yaml").write_text(text.replace("[a]", "['true']").replace("{command", "{name: a, command", 1) if "overlap" in said else text)
    done = run_muster("launch", "--state-dir", tmp_path / "state", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_port_in_use_names_who_has_it(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_muster("launch", "--state-dir", tmp_path / "state", "--port", port, "--", "true")
    assert done.returncode == 1 and f"port {port} is in use by process {os.getpid()} (" in done.stderr


def test_the_server_leaves_the_list_alone(tmp_path):
    (tmp_path / "muster.yaml").write_text("launch: [{anything: at all}]\nhttp_port: 1234\n")
    done = run_muster("config", cwd=tmp_path)
    assert done.returncode == 0 and "http_port: 1234" in done.stdout
