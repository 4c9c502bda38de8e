"""muster gpus: what it prints of the machine that a fake NVML shows, and what it says where that cannot be read."""
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios

import pytest

from fake_nvml import FakeNvml, gpu
from muster_server import binary_path, environment, run_muster, wait_for

MIG = {"uuid": "MIG-5a", "name": "NVIDIA H200 MIG 1g.18gb", "memory": {"total": 18 << 30, "used": 0}}


def gpus(nvml, *arguments):
    return run_muster("gpus", *arguments, env=nvml.environment)


def rows(output: str, title: str) -> dict[str, str]:
    """The lines of the table whose first column has that title, by their first word."""
    block = next(part for part in output.split("\n\n") if part.startswith(title))
    return {line.split()[0]: line for line in block.splitlines()[1:]}


@pytest.fixture
def machine(tmp_path):
    """Two GPUs on NVLink, one of them throttled and with two processes, one lost, one divided."""
    own = {"pid": os.getpid(), "memory": 3 << 30}
    return FakeNvml(tmp_path, [gpu(0, processes=[own, {"pid": 4194305}], throttle_reasons=0x24, utilization=[87, 40]),
                               gpu(1), gpu(4, lost=True), gpu(5, mig=[MIG, None, {"uuid": "MIG-5c", "name": "x"}])],
                    nvlink=[[0, 1]])


def test_table(machine):
    done = gpus(machine)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.startswith("driver 550.54.15, CUDA 12.4\n")
    table = rows(done.stdout, "GPU ")
    assert re.fullmatch(r"0 +GPU-00000000 +NVIDIA H200 +1.0 / 141.0 GiB +87 % +40 C +100 / 700 W +1980 / 1980 MHz +"
                        r"power cap, thermal \(software\)", table["0"])
    assert table["1"].endswith(" ok")
    assert "LOST" in table["2"] and "GPU is lost" in table["2"]
    assert table["3"].endswith("divided into MIG devices")
    assert re.fullmatch(r"3:0 +MIG-5a +NVIDIA H200 MIG 1g.18gb +0.0 / 18.0 GiB +- +- +- +- +ok", table["3:0"])
    assert "3:2" in table and "3:1" not in table
    processes = rows(done.stdout, "PID")
    comm = open("/proc/self/comm").read().strip()
    assert re.fullmatch(rf"{os.getpid()} +0 +3.0 GiB +{re.escape(comm)}", processes[str(os.getpid())])
    assert re.fullmatch(r"4194305 +0 +- +\?", processes["4194305"])


def test_uuids_are_told_apart(tmp_path):
    nvml = FakeNvml(tmp_path, [gpu(0, uuid="GPU-11111111-2222-a"), gpu(1, uuid="GPU-11111111-2222-b")])
    assert "GPU-11111111-2222-b" in gpus(nvml).stdout


def test_control_characters_stay_away_from_the_terminal(tmp_path):
    assert "\x1b" not in gpus(FakeNvml(tmp_path, [gpu(0, name="\x1b[2J")])).stdout


def test_topology(machine):
    done = gpus(machine, "--topology")
    assert done.returncode == 0
    table = rows(done.stdout, " ")
    cores = re.escape(table["GPU0"].split()[-1])
    assert table["GPU0"].split()[1:-2] == ["X", "NV", "?", "SYS", "SYS", "SYS"]
    assert table["GPU3:0"].split()[1:-2] == ["SYS", "SYS", "?", "PIX", "X", "PIX"]
    assert re.fullmatch(rf"GPU1 .* 0 +{cores}", table["GPU1"]) and re.fullmatch(r"[0-9,-]*\d[0-9,-]*", cores.replace("\\", ""))
    assert "NVLink island: 0 1\n" in done.stdout


def test_more_than_can_be_used(tmp_path):
    """16 GPUs of 7 MIG devices each are there as a whole; what is more is counted."""
    mig = [{"uuid": f"MIG-{n:02x}", "name": "1g.5gb"} for n in range(7 * 18)]
    nvml = FakeNvml(tmp_path, [gpu(n, mig=mig[7 * n:7 * n + 7]) for n in range(16)])
    found = json.loads(gpus(nvml, "--json").stdout)
    assert [len(found["gpus"]), found["left_out"], found["gpus"][-1]["uuid"]] == [128, 0, mig[7 * 16 - 1]["uuid"]]
    nvml.machine["gpus"] += [gpu(16), gpu(17, mig=mig[7 * 17:])]
    nvml.write()
    found = json.loads(gpus(nvml, "--json").stdout)
    assert [len(found["gpus"]), found["left_out"]] == [128, 2]
    assert gpus(nvml).stdout.startswith("driver 550.54.15, CUDA 12.4; 2 more GPUs and MIG devices")


def test_json(machine):
    done = gpus(machine, "list", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0 and found["driver"] == "550.54.15" and found["cuda"] == 12040
    first, second, lost, parent, mig, _ = found["gpus"]
    assert first["reading"]["throttle_reasons"] == 0x24 and first["memory_total"] == 141 << 30
    assert first["island"] == second["island"] == 0 and parent["island"] == 3
    assert first["links"] == ["X", "NV", "?", "SYS", "SYS", "SYS"]
    assert lost["reading"]["lost"] and lost["reading"]["temperature"] is None
    assert mig["uuid"] == "MIG-5a" and (mig["index"], mig["mig_index"]) == (3, 0) and mig["reading"]["power_mw"] is None
    assert [process["pid"] for process in found["processes"]] == [os.getpid(), 4194305]
    assert found["processes"][1]["memory_used"] is None and found["processes"][1]["name"] == "?"


def test_no_gpu_is_no_error(tmp_path):
    done = gpus(FakeNvml(tmp_path))
    assert (done.returncode, done.stdout) == (0, "driver 550.54.15, CUDA 12.4: no GPU\n")


def test_watch_shows_what_changes(machine):
    watching = subprocess.Popen([binary_path(), "gpus", "--json", "--watch=0.1"], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=environment(machine.environment),
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a background job's is ignored
    try:
        assert json.loads(watching.stdout.readline())["gpus"][1]["reading"]["temperature"] == 40
        machine.machine["gpus"][1]["temperature"] = 91
        machine.write()
        while json.loads(watching.stdout.readline())["gpus"][1]["reading"]["temperature"] != 91:
            pass
        machine.machine["gpus"][1]["lost"] = True  # it keeps its name
        machine.write()
        while not (lost := json.loads(watching.stdout.readline())["gpus"][1])["reading"]["lost"]:
            pass
        assert lost["uuid"] == machine.machine["gpus"][1]["uuid"]
        child = children_of(watching.pid)[0]
        watching.send_signal(signal.SIGINT)
        assert watching.wait(60) == -signal.SIGINT and not watching.stderr.read()
        wait_for(lambda: not alive(child), "the end of the process that reads NVML")
    finally:
        watching.kill()
        watching.communicate()


def test_watch_on_a_terminal(tmp_path):
    """Each look takes the place of the one before. What does not fit is counted; lines that are too long take two rows."""
    nvml = FakeNvml(tmp_path, [gpu(n) for n in range(12)])
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 12, 80, 0, 0))
    watching = subprocess.Popen([binary_path(), "gpus", "--watch=0.1"], stdin=subprocess.DEVNULL, stdout=terminal,
                                stderr=subprocess.DEVNULL, env=environment(nvml.environment))
    try:
        os.close(terminal)
        seen = b""
        while seen.count(b"\x1b[H\x1b[2J") < 3:
            seen += os.read(screen, 65536)
    finally:
        watching.kill()
        watching.wait()
        os.close(screen)
    _, first, second, _ = [look.splitlines() for look in seen.decode().split("\x1b[H\x1b[2J", 3)]
    assert first == second and first[:2] == ["driver 550.54.15, CUDA 12.4", ""]
    assert [line.split()[0] for line in first[2:]] == ["GPU", "0", "1", "2", "..."]  # 2 rows, and 2 for each of these
    assert first[-1] == "... 9 more lines"


def children_of(pid: int) -> list[int]:
    return [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]


def alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in open(f"/proc/{pid}/status").read()
    except OSError:
        return False


@pytest.mark.parametrize("change, message", [
    ({"errors": {"nvmlInitWithFlags": 9}}, "nvmlInitWithFlags: Driver Not Loaded (NVML 9): NVIDIA's kernel driver is not"),
    ({"errors": {"nvmlInitWithFlags": 18}}, "Driver/library version mismatch (NVML 18): the driver was updated"),
    ({"errors": {"nvmlDeviceGetCount_v2": 999}}, "nvmlDeviceGetCount_v2: Unknown Error (NVML 999)"),
    ({"hang": ["nvmlDeviceGetTemperature"]}, "the call nvmlDeviceGetTemperature has not come back within"),
    ({"hang": ["nvmlInitWithFlags"]}, "the call nvmlInitWithFlags has not come back"),
])
def test_what_cannot_be_read(machine, change, message):
    machine.machine.update(change)
    machine.write()
    for timeout in ("200ms", "2s", "20s"):  # the longer ones for a machine that does not get as far as the call
        done = gpus(machine, f"--nvml-timeout={timeout}" if "hang" in change else "--json")
        if message in done.stderr:
            break
    assert done.returncode == 1 and not done.stdout
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_one_broken_gpu_hides_no_other(machine):
    machine.machine["gpus"][1]["errors"] = {"nvmlDeviceGetName": 999}
    machine.write()
    done = gpus(machine)
    assert done.returncode == 0
    table = rows(done.stdout, "GPU ")
    assert "nvmlDeviceGetName: Unknown Error" in table["1"] and "NVIDIA H200" in table["0"]


@pytest.mark.parametrize("library, message", [("/nowhere/libnvidia-ml.so.1", "/nowhere/libnvidia-ml.so.1: cannot open"),
                                              ("libc.so.6", "libc.so.6 lacks nvmlInitWithFlags")])
def test_no_nvml(library, message):
    done = run_muster("gpus", "--nvml-library", library)
    assert done.returncode == 1 and message in done.stderr and not done.stdout


@pytest.mark.parametrize("arguments", [["--watch=0"], ["--watch=x"], ["--watch=1e9"], ["--json", "--topology"], ["7"],
                                       ["--jsn"], ["--nvml-timeout=soon"], ["list", "--watch="]])
def test_usage(arguments):
    done = run_muster("gpus", *arguments)
    assert done.returncode == 2 and done.stderr.startswith("muster gpus: ") and not done.stdout


def test_old_driver(machine):
    machine_environment = {**machine.environment,
                           "MUSTER_NVML_LIBRARY": str(machine.library.with_name("libfake_nvml_old.so"))}
    done = run_muster("gpus", env=machine_environment)
    assert done.returncode == 0
    assert re.search(r"^0 +GPU-00000000 +NVIDIA H200 +1.0 / 141.0 GiB", done.stdout, re.M)
