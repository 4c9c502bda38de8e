"""What systemd hears of a server (sd_notify), and the unit that goes with it."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from muster_server import PATIENCE, ROOT, VISIBLE, binary_path, put_model, run_muster, sim_config, wait_for


class Manager:
    """systemd's end of the socket. lines: all that was said, in order, as (NAME, VALUE)."""

    def __init__(self, address: str):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address.replace("@", "\0", 1) if address[0] == "@" else address)
        self.socket.setblocking(False)
        self.lines, self.messages = [], []

    def read(self):
        while True:
            try:
                text = self.socket.recv(4096).decode()
            except BlockingIOError:
                return self.lines
            self.messages.append(text)
            assert text.endswith("\n")
            self.lines += [tuple(line.split("=", 1)) for line in text.splitlines()]

    def wait(self, name: str, value=None, after=0):
        """The position behind the first such line from `after` on."""
        def found():
            for i, line in enumerate(self.read()[after:], after):
                if line[0] == name and value in (None, line[1]):
                    return i + 1
            return None
        return wait_for(found, f"{name}={value} in {self.lines[after:]}")

    def names(self, start=0, end=None) -> list[str]:
        return [name for name, _ in self.lines[start:end] if name not in ("EXTEND_TIMEOUT_USEC", "WATCHDOG", "STATUS")]

    def close(self):
        self.socket.close()


@pytest.fixture
def manager(tmp_path):
    with_end = Manager(str(tmp_path / "notify"))
    yield with_end
    with_end.close()


def environment_of(pid) -> dict[str, str]:
    entries = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(entry.decode().split("=", 1) for entry in entries if b"=" in entry)


def test_the_life_of_a_service(serve, manager, tmp_path):
    repository = put_model(tmp_path / "models", "slow", config=sim_config(load_ms=300))
    put_model(repository, "quick", config=sim_config())
    binary = shutil.copy(binary_path(), tmp_path / "muster-new")
    server = serve(repository, *VISIBLE, env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "600000"})

    ready = manager.wait("READY", "1")
    assert manager.names() == ["READY"], "said once, and nothing before it"
    manager.wait("STATUS", "ready: 2 of 2 models ready, 2 workers")
    assert any(line[0] == "EXTEND_TIMEOUT_USEC" for line in manager.lines[:ready]), "loading asks for more time"
    after = manager.wait("WATCHDOG", "1", ready)
    manager.wait("WATCHDOG", "1", after)

    status = server.status()
    for pid in [status["gateway"]["pid"], *(worker["pid"] for worker in status["workers"])]:
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(environment_of(pid)), "children speak for themselves alone"

    start = len(manager.lines)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    put_model(repository, "third", config=sim_config())
    assert run_muster("reload", "--control-socket", server.socket).returncode == 0
    after = manager.wait("READY", "1", start)
    assert manager.names(start, after) == ["RELOADING", "MONOTONIC_USEC", "READY"]
    at = int(next(value for name, value in manager.lines[start:] if name == "MONOTONIC_USEC"))
    assert before <= at <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.wait("STATUS", "ready: 3 of 3 models ready, 3 workers", start)

    start = len(manager.lines)
    pid = server.process.pid
    done = run_muster("upgrade", "--binary", binary, "--control-socket", server.socket)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert server.status()["pid"] == pid and os.readlink(f"/proc/{pid}/exe") == str(binary)
    after = manager.wait("READY", "1", start)
    assert manager.names(start, after).count("READY") == 1 and manager.names(start, after)[0] == "RELOADING"
    assert any("RELOADING=1" in message and "MONOTONIC_USEC=" in message for message in manager.messages)
    manager.wait("WATCHDOG", "1", after)
    for worker in server.workers():
        assert "NOTIFY_SOCKET" not in environment_of(worker["pid"])

    start = len(manager.lines)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    manager.wait("STOPPING", "1", start)
    assert manager.names(start) == ["STOPPING"]


def test_an_abstract_socket_and_a_model_that_cannot_be_served(serve, tmp_path):
    name = f"@muster-test-{os.getpid()}"
    manager = Manager(name)
    repository = put_model(tmp_path / "models", "good", config=sim_config())
    put_model(repository, "bad", config=sim_config(load_fail="no such weights"))
    server = serve(repository, wait=False, env={"NOTIFY_SOCKET": name})
    try:
        manager.wait("READY", "1")  # the start is over; what is served is in the status
        manager.wait("STATUS", "degraded: 1 of 2 models ready, 1 of 2 workers")
        assert not [line for line in manager.lines if line[0] == "WATCHDOG"], "nobody asked for that"
        assert server.status()["state"] == "degraded"
    finally:
        manager.close()


def test_another_process_is_watched(serve, manager, tmp_path):
    """WATCHDOG_PID names somebody else: the variable was inherited."""
    repository = put_model(tmp_path / "models", "echo", config=sim_config())
    serve(repository, env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000", "WATCHDOG_PID": "1"})
    after = manager.wait("READY", "1")
    manager.wait("STATUS", after=0)
    assert "WATCHDOG" not in {name for name, _ in manager.lines[:after]}


@pytest.mark.parametrize("address, said", [
    ("relative", "NOTIFY_SOCKET has to be a path or @ and a name"),
    ("/" + "x" * 200, "NOTIFY_SOCKET has to be a path or @ and a name"),
    ("vsock:2:1234", "NOTIFY_SOCKET has to be a path or @ and a name"),
    ("/nowhere/notify", "No such file or directory")])
def test_a_socket_that_is_none_is_said_once_and_costs_nothing(serve, tmp_path, address, said):
    repository = put_model(tmp_path / "models", "echo", config=sim_config())
    server = serve(repository, env={"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "nonsense" if address[0] != "/" else "90000"})
    lines = [line for line in server.log_lines() if line.get("message") == "cannot tell the service manager"]
    assert len(lines) == 1 and lines[0]["error"] == said


def test_a_manager_that_does_not_read_holds_nothing_up(serve, tmp_path):
    """The socket's queue is full from the beginning."""
    manager = Manager(str(tmp_path / "notify"))
    stuffing = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stuffing.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            stuffing.sendto(b"STATUS=x\n", str(tmp_path / "notify"))
    repository = put_model(tmp_path / "models", "echo", config=sim_config())
    server = serve(repository, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert server.get("/v2/health/ready").status == 200
    manager.wait("READY", "1")  # what found no room is said when there is room
    stuffing.close()
    manager.close()


# ---- the unit --------------------------------------------------------------------------------------------------------

def verify(tmp_path, text: str, name="muster.service") -> str:
    """What systemd-analyze has to complain of; the binary of the tests stands in for the installed one."""
    (tmp_path / name).write_text(text.replace("/usr/local/bin/muster", str(binary_path().resolve())))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(tmp_path / name)],
                          capture_output=True, text=True, timeout=PATIENCE)
    return done.stdout + done.stderr


def test_the_unit_is_one(tmp_path):
    text = (ROOT / "deploy" / "muster.service").read_text()
    assert verify(tmp_path, text) == ""
    assert "Unknown key" in verify(tmp_path, text.replace("OOMPolicy=", "OOMPolicies=")), "it does look"
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    for name, value in {"Type": "notify", "NotifyAccess": "main", "KillMode": "mixed", "OOMPolicy": "continue",
                        "Delegate": "yes", "Restart": "on-failure"}.items():
        assert settings[name] == value
    assert "PrivateDevices" not in settings
    exit_timeout = int(re.search(r"MUSTER_EXIT_TIMEOUT_SECS=(\d+)", text)[1])
    assert int(settings["TimeoutStopSec"]) > exit_timeout + 2 + 5 + 10, "the stop of supervisor.c fits into systemd's"


def test_the_unit_of_the_proxy_is_one(tmp_path):
    text = (ROOT / "deploy" / "muster-proxy.service").read_text()
    assert verify(tmp_path, text, "muster-proxy.service") == ""
    settings = dict(re.findall(r"^(\w+)=(.*)$", text, re.M))
    assert settings["Type"] == "exec" and settings["Restart"] == "on-failure", "the proxy does not start itself again"
    assert int(settings["TimeoutStopSec"]) > int(re.search(r"--drain-timeout (\d+)s", text)[1])


@pytest.mark.parametrize("name", ["muster.service", "muster-proxy.service"])
def test_its_commands_are_commands(tmp_path, name):
    text = (ROOT / "deploy" / name).read_text()
    for line in re.findall(r"^Exec\w+=/usr/local/bin/muster (\w+)", text, re.M):
        assert run_muster(line, "--help", cwd=tmp_path).returncode == 0
