"""The sandbox of a running server: what its processes may still do, that real work goes on under it, and that nobody is
left unprotected without being told. What an intruder tries: tests/unit/worker/test_sandboxed_worker.c."""
import contextlib
import os
import pathlib
import shutil
import signal
import stat
import sys
import tempfile

import numpy as np
import pytest

from muster_server import MODELS, binary_path, put_model, run_muster, wait_for
from traffic import Client, crowd, echo, sim_model, worker_pids

NOBODY = 65534
DAC_READ_SEARCH = 1 << 2
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to lose")


def threads_of(pid: int) -> list[dict[str, str]]:
    """/proc/PID/status of each thread."""
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.append(dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line))
    return found


def children(server) -> dict[str, list[int]]:
    status = server.status()
    return {"gateway": [status["gateway"]["pid"]], "worker": [worker["pid"] for worker in status["workers"]]}


def expect_fenced(server):
    for role, pids in children(server).items():
        for thread in (thread for pid in pids for thread in threads_of(pid)):
            assert (thread["NoNewPrivs"], thread["Seccomp"]) == ("1", "2"), (role, thread["Name"])
            kept = DAC_READ_SEARCH if role == "worker" and os.geteuid() == 0 else 0
            held = {int(thread[name], 16) for name in ("CapEff", "CapPrm")}
            assert held == {kept} and int(thread["CapInh"], 16) == int(thread["CapAmb"], 16) == 0, (role, thread["Name"])


def two_models(tmp_path):
    return put_model(sim_model(tmp_path / "models"), "mlp", "mlp.onnx")


# ---- on --------------------------------------------------------------------------------------------------------------

def test_every_thread_of_every_child_is_fenced(serve, tmp_path):
    server = serve(two_models(tmp_path), "--gateway-threads=3", "--instances=2", "--threads=2")
    assert echo(server, 1).status == 200
    expect_fenced(server)
    assert len(threads_of(server.status()["gateway"]["pid"])) >= 3
    assert min(len(threads_of(pid)) for pid in worker_pids(server)) >= 3  # its own and one a lane


def test_successors_are_fenced_and_serve(serve, tmp_path):
    server = serve(two_models(tmp_path))
    before = children(server)
    for pid in before["worker"] + before["gateway"]:
        os.kill(pid, signal.SIGKILL)

    def replaced():
        now = children(server)
        return all(None not in now[role] and not set(now[role]) & set(before[role]) for role in now)
    wait_for(replaced, "successors")
    server.wait_ready()
    worker_pids(server)
    assert echo(server, 1).status == 200
    expect_fenced(server)


def test_a_flood_under_the_fence(serve, tmp_path):
    server = serve(two_models(tmp_path))
    sent = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)

    def flood(seed):
        with Client(server) as client:
            expected = client.infer_arrays("mlp", {"x": sent}).outputs
            for i in range(100):
                assert client.echo(seed * 1000 + i).status == 200
                answer = client.infer_arrays("mlp", {"x": sent})
                assert answer.status == 200 and all(
                    np.allclose(answer.outputs[name], expected[name], atol=1e-5) for name in expected)
    with crowd() as threads:
        for client in [threads.submit(flood, seed) for seed in range(8)]:
            client.result()
    expect_fenced(server)


def test_a_settings_file_for_threads_is_obeyed_under_the_fence(serve, tmp_path):
    """ONNX Runtime ties threads to cores only where it is told to; that is one more system call."""
    config = 'parameters { key: "session.intra_op_thread_affinities" value { string_value: "1" } }'
    server = serve(put_model(tmp_path / "models", "mlp", "mlp.onnx", config=config), "--threads=2")
    assert not [line for line in server.log_lines() if line["level"] == "error"]


@AS_ROOT
def test_a_model_that_belongs_to_somebody_else_is_read(serve, tmp_path):
    models = tmp_path / "models"
    (models / "mlp" / "1").mkdir(parents=True)
    model = models / "mlp" / "1" / "model.onnx"
    shutil.copy(MODELS / "mlp.onnx", model)
    model.chmod(0o600)
    os.chown(model, NOBODY, NOBODY)
    assert serve(models).status()["state"] == "ready"


# ---- the supervisor, and a server that is not root -------------------------------------------------------------------

@pytest.fixture
def open_folder():
    """A folder that others than root can reach."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-test-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def opens_as_nobody(path) -> bool:
    pid = os.fork()
    if pid == 0:
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        try:
            os.open(path, os.O_RDWR)
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@AS_ROOT
@pytest.mark.parametrize("sandbox", ["on", "off"])
def test_processes_are_hidden_from_their_own_user(serve, open_folder, tmp_path, sandbox):
    program = open_folder / "muster"
    shutil.copy(binary_path(), program)
    home = open_folder / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    sim_model(open_folder / "models")
    server = serve(open_folder / "models", f"--sandbox={sandbox}", f"--control-socket={home}/control.sock", wait=False,
                   command=[program], cwd=home, user=NOBODY, group=NOBODY, extra_groups=[])
    server.socket = home / "control.sock"
    server.wait_ready()
    assert echo(server, 1).status == 200
    pids = [server.process.pid, *(pid for pids in children(server).values() for pid in pids)]
    assert [opens_as_nobody(f"/proc/{pid}/mem") for pid in pids] == [sandbox == "off"] * 3


# ---- off, and where it cannot be -------------------------------------------------------------------------------------

def test_one_option_turns_it_off(serve, tmp_path):
    server = serve(two_models(tmp_path), "--sandbox", "off")
    own = threads_of(os.getpid())[0]
    for pids in children(server).values():
        for thread in (thread for pid in pids for thread in threads_of(pid)):
            assert (thread["NoNewPrivs"], thread["Seccomp"], thread["CapEff"]) == ("1", own["Seccomp"], own["CapEff"])
    assert [line["level"] for line in server.log_lines() if "the sandbox is off" in line["message"]] == ["warning"]
    assert echo(server, 1).status == 200


# The system refuses filters of system calls, as one around a container may.
WITHOUT_SECCOMP = """
import ctypes, os, sys
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
ALLOW, EPERM = 0x7fff0000, 0x00050001
class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
context = ctypes.c_void_p(seccomp.seccomp_init(ALLOW))
number = seccomp.seccomp_syscall_resolve_name
assert seccomp.seccomp_rule_add_array(context, EPERM, number(b"seccomp"), 0, None) == 0
set_seccomp = Compare(0, 4, 22, 0)  # prctl(PR_SET_SECCOMP)
assert seccomp.seccomp_rule_add_array(context, EPERM, number(b"prctl"), 1, ctypes.byref(set_seccomp)) == 0
assert seccomp.seccomp_load(context) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_where_it_cannot_be_nobody_is_unprotected_unasked(serve, tmp_path):
    command = [sys.executable, "-c", WITHOUT_SECCOMP, binary_path()]
    server = serve(sim_model(tmp_path / "models"), wait=False, command=command)
    server.expected_to_crash = True
    assert server.wait_exit() == 1
    errors = [line.get("error", "") for line in server.log_lines() if line["level"] == "error"]
    for role in ("gateway", "worker"):
        assert [line for line in server.log_lines() if line["role"] in (role, "supervisor")
                and "--sandbox=off" in line.get("error", "")], errors
    assert echo(serve(sim_model(tmp_path / "more"), "--sandbox=off", command=command), 1).status == 200


@pytest.mark.skipif(os.path.exists("/dev/nvidia-uvm"), reason="the device files are there")
def test_device_files_are_made_before_the_fence(serve, tmp_path):
    """A GPU worker cannot execute anything later; so the driver's program runs first."""
    program = tmp_path / "bin" / "nvidia-modprobe"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/arguments\n')
    program.chmod(0o755)
    serve(sim_model(tmp_path / "models"), "--simulate-gpus=1", "--device=gpu:0",
          env={"PATH": f"{program.parent}:{os.environ['PATH']}"})
    assert "-u -c=0" in (tmp_path / "arguments").read_text().splitlines()


# ---- the control socket ----------------------------------------------------------------------------------------------

def test_control_socket_is_for_its_user_alone(serve, tmp_path):
    """Whatever the umask: the file from its first moment (it takes the mode of the socket), and muster's own folder."""
    server = serve(sim_model(tmp_path / "models"), umask=0)
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o600
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    other = serve(sim_model(tmp_path / "more"), "--control-socket=", wait=False, umask=0,
                  env={"XDG_RUNTIME_DIR": str(runtime)})
    (other.socket,) = wait_for(lambda: list((runtime / "muster").glob("*.sock")), "the socket")
    assert stat.S_IMODE(other.socket.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(other.socket.stat().st_mode) == 0o600
    other.wait_ready()


@AS_ROOT
def test_a_control_folder_that_others_can_use_is_refused(serve, tmp_path):
    runtime = tmp_path / "runtime"
    (runtime / "muster").mkdir(parents=True)
    (runtime / "muster").chmod(0o777)
    done = run_muster("serve", sim_model(tmp_path / "models"), "--address=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0",
                      "--control-socket=", env={"XDG_RUNTIME_DIR": str(runtime)})
    assert done.returncode == 1 and "nobody else can use" in done.stderr + done.stdout
