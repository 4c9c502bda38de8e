"""What becomes of everybody when the gateway or the supervisor is killed: connections in flight, models, ports, and what
is left behind."""
import contextlib
import os
import pathlib
import resource
import signal
import threading

import pytest

from muster_server import PATIENCE, VISIBLE, wait_for
from traffic import Client, crowd, echo, rows, sim_model, standing_still, wait_depth, worker_pids


def gateway_pid(server) -> int | None:
    return server.status()["gateway"]["pid"]


def is_gateway(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_text().startswith("muster: gateway")
    return False


def has_offered(pid: int | None) -> bool:
    """Whether a gateway has made memory for a worker to write to it."""
    with contextlib.suppress(OSError):
        return any("muster-submissions" in os.readlink(fd) for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir())
    return False


def gone(pid: int) -> bool:
    """No thread of it runs any more."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_gateway(server):
    """From here on a connection is one to the next gateway."""
    pid = gateway_pid(server)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(pid), "the gateway to be gone")


@contextlib.contextmanager
def supervisor_stands_still(server):
    """What dies meanwhile is noticed afterwards, all at once."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


# ---- the gateway -----------------------------------------------------------------------------------------------------

def test_the_first_thing_seen_of_a_new_gateway_is_a_ready_server(serve, tmp_path):
    """Connections wait in the backlog until its workers are attached: nobody is told that a model is loading."""
    repository = sim_model(sim_model(tmp_path / "models"), "other")
    server = serve(repository, "--processes=2", "--gateway-threads=2")
    pids = sorted(worker_pids(server))
    for i in range(5):
        kill_gateway(server)
        with Client(server) as first, Client(server) as second, Client(server) as third:
            first.request("GET", "/v2/health/ready")
            second.send_infer("echo", {"x": rows(i)})
            third.send_infer("other", {"x": rows(i)})
            assert [client.reply().status for client in (first, second, third)] == [200] * 3
    assert sorted(worker_pids(server)) == pids


def test_a_worker_killed_while_it_is_attached_is_nobodys_fault(serve, tmp_path):
    """The gateway sees the end of their socket, as a rule before the supervisor sees the death; that says what it was."""
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    (pid,) = worker_pids(server)
    with standing_still(pid):
        kill_gateway(server)
        wait_for(lambda: has_offered(gateway_pid(server)), "the next gateway to offer its memory")
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.workers()[0]["pid"] not in (pid, None), "another worker")
    server.wait_ready()
    assert echo(server, 1).status == 200
    assert "killed by signal 9" in server.log
    assert "handshake" not in server.log and "has to go" not in server.log and "protocol" not in server.log


def holdings(pid: int) -> tuple[int, int]:
    """Descriptors, and pages of its own in memory."""
    process = pathlib.Path(f"/proc/{pid}")
    resident, shared = map(int, (process / "statm").read_text().split()[1:3])
    return len(list((process / "fd").iterdir())), (resident - shared) * resource.getpagesize()


def test_ten_deaths_of_the_gateway_under_load(serve, tmp_path):
    """Requests whose connection was cut get no answer; every answer is the right one; no connection is refused; the
    models stay loaded in the same workers, which grow by nothing."""
    server = serve(sim_model(tmp_path / "models", base_ms=2), "--processes=2", "--cpu-slots=2", "--gateway-threads=2")
    pids, clients = sorted(worker_pids(server)), 8
    over, answered, cut = threading.Event(), [0] * clients, [0] * clients

    def ask(number):
        while not over.is_set():
            with Client(server) as client:  # to be refused is an error of the test
                with contextlib.suppress(ConnectionError):
                    while not over.is_set():
                        answer = client.echo(number * 4096 + answered[number] % 4096)
                        assert answer.status == 200, answer
                        answered[number] += 1
                    return
            cut[number] += 1

    server.port  # known to all from here on
    kill_gateway(server)  # what a first one leaves in them is not growth
    assert sorted(worker_pids(server)) == pids
    before = [holdings(pid) for pid in pids]
    with crowd() as threads:
        done = [threads.submit(ask, number) for number in range(clients)]
        for _ in range(10):
            so_far = list(answered)
            wait_for(lambda: all(now > then for now, then in zip(answered, so_far)) or any(d.done() for d in done),
                     "an answer for everybody")
            kill_gateway(server)
        over.set()
        for client in done:
            client.result()
    assert max(cut) <= 11, "each death cuts a connection at most once"
    assert sorted(worker_pids(server)) == pids
    assert server.status()["gateway"]["restarts"] == 11 and [w["restarts"] for w in server.workers()] == [0, 0]

    def no_more():
        return all(fds <= fds_then and own < own_then + (4 << 20)
                   for (fds, own), (fds_then, own_then) in zip([holdings(pid) for pid in pids], before))
    wait_for(no_more, f"no more than {before}, not {[holdings(pid) for pid in pids]}")


def test_gateway_and_worker_die_together(serve, tmp_path):
    """The new gateway knows a model whose only worker is being started again: requests wait for it."""
    server = serve(sim_model(tmp_path / "models", load_ms=300))
    (pid,) = worker_pids(server)
    with supervisor_stands_still(server):
        gateway = next(child for child in server.family() if is_gateway(child))
        for victim in (gateway, pid):
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: gone(gateway) and gone(pid), "both to be gone")
        client = Client(server)
        client.send_infer("echo", {"x": rows(1)})
    with client:
        assert client.reply().status == 200
    assert worker_pids(server) != [pid]


def test_a_worker_dies_while_the_gateway_is_away(serve, tmp_path):
    """One of two: the new gateway is told only of the other one, and of the successor when it is there."""
    server = serve(sim_model(tmp_path / "models"), "--processes=2")
    one, other = worker_pids(server)
    with supervisor_stands_still(server):
        gateway = next(child for child in server.family() if is_gateway(child))
        for victim in (gateway, one):
            os.kill(victim, signal.SIGKILL)
        wait_for(lambda: gone(gateway) and gone(one), "both to be gone")
    assert echo(server, 1).status == 200
    pids = worker_pids(server)
    assert other in pids and one not in pids and len(pids) == 2


def test_a_worker_that_stands_still_does_not_hold_up_the_others(serve, tmp_path):
    """It cannot attach to the new gateway: that opens all the same, and who asks for its model waits."""
    server = serve(sim_model(sim_model(tmp_path / "models"), "other"), "--cpu-slots=2")
    (pid,) = worker_pids(server, "echo")
    with crowd() as threads:
        with standing_still(pid):
            kill_gateway(server)
            assert echo(server, 1, model="other").status == 200
            waits = threads.submit(echo, server, 2)
            wait_for(lambda: server.get("/v2/models/other/stats").status == 200, "the gateway to go on")
            assert not waits.done()
        assert waits.result().status == 200
    assert worker_pids(server, "echo") == [pid]


def test_a_worker_that_hangs_while_it_attaches(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--max-execution=1s")
    (pid,) = worker_pids(server)
    with crowd() as threads, standing_still(pid):
        kill_gateway(server)
        waits = threads.submit(echo, server, 1)
        assert waits.result().status == 200
    assert any("did not attach" in line.get("error", "") for line in server.log_lines())
    assert worker_pids(server) != [pid]


def test_a_gateway_that_never_gets_to_listen(serve, tmp_path):
    """A worker that stands still keeps each new one from listening for a moment, in which it dies: five times in a row,
    and the server ends and says so instead of trying for ever."""
    server = serve(sim_model(tmp_path / "models"))

    def kill_it_again():
        for pid in filter(is_gateway, server.family()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return server.process.poll() is not None

    with standing_still(*worker_pids(server)):
        wait_for(kill_it_again, "the server to end")
        assert server.wait_exit() == 1
    assert "the gateway cannot be started" in server.log
    assert not server.family()


# ---- the supervisor --------------------------------------------------------------------------------------------------

def loading(server):
    wait_for(lambda: [w["state"] for w in server.status().get("workers", [])] == ["loading"], "the worker to load")


def draining(server, client):
    client.send_infer("echo", {"x": rows(666)})
    wait_depth(server, 1)
    server.signal(signal.SIGTERM)
    server.wait_state("draining")


def under_load(server, client):
    for i in range(4):
        client.send_infer("echo", {"x": rows(i)})
    client.send_infer("echo", {"x": rows(666)})
    wait_for(lambda: server.get("/stats").json["queue_depth"] > 0, "requests in flight")


STATES = {
    "idle": ({}, lambda server, client: None),
    "under load": ({"hang_on": 666}, under_load),
    "during start": ({"load_ms": 3600000}, lambda server, client: loading(server)),
    "during the drain": ({"hang_on": 666}, draining),
}


def muster_memory() -> set[tuple[str, str]]:
    """Shared memory of muster that somebody has open or mapped: (process, name)."""
    found = set()
    for process in pathlib.Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for line in (process / "maps").read_text().splitlines():
                if "memfd:muster" in line:
                    found.add((process.name, line.split("memfd:")[1]))
    return found


@pytest.mark.parametrize("when", STATES)
def test_everything_leaves_with_the_supervisor(serve, tmp_path, when):
    """Children and their threads, the shared memory, the port: the next start with the same ones works at once. A file
    of the control socket may stay, and is in nobody's way."""
    settings, get_there = STATES[when]
    server = serve(sim_model(tmp_path / "models", **settings), "--processes=2" if when == "idle" else "--processes=1",
                   wait=when != "during start")
    server.expected_to_crash = True
    if when == "during start":
        get_there(server, None)
        family, port = server.family(), server.status()["http"][0]["port"]
        server.signal(signal.SIGKILL)
    else:
        with Client(server) as client:
            get_there(server, client)
            family, port = server.family(), server.port
            server.signal(signal.SIGKILL)
            assert server.wait_exit() == -signal.SIGKILL
            wait_for(lambda: connection_is_over(client), "the connection to be cut")
    assert server.wait_exit() == -signal.SIGKILL
    assert len(family) >= 3
    wait_for(lambda: all(not pathlib.Path(f"/proc/{pid}").exists() or gone(pid) for pid in family), "all to be gone")
    assert not {pid for pid, _ in muster_memory()} & {str(pid) for pid in family}
    fresh = sim_model(tmp_path / "fresh")
    successor = serve(fresh, f"--http-port={port}", "--control-socket", server.socket, wait=False)
    successor.socket = server.socket
    successor.wait_ready()
    assert successor.port == port and echo(successor, 1).status == 200
    successor.signal(signal.SIGTERM)
    assert successor.wait_exit() == 0 and not server.socket.exists()


def connection_is_over(client) -> bool:
    client.socket.settimeout(PATIENCE)
    with contextlib.suppress(ConnectionError):
        while client.socket.recv(1 << 16):
            pass
    return True
