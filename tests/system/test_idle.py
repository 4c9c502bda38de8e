"""Whoever waits sleeps: no process burns the processor while there is nothing to do."""
import contextlib
import os
import pathlib
import signal
import socket
import time

import numpy as np
import pytest

from oip import binary_body
from muster_server import wait_for
from traffic import Client, crowd, echo, metric, rows, sim_model, standing_still, stats, wait_depth, \
    worker_pids

TICKS = os.sysconf("SC_CLK_TCK")
STRETCH = 1.0  # seconds looked at; a loop that spins takes all of them, the tests allow a fifth


def cpu_seconds(server) -> dict[int, float]:
    """What each process of the server has used."""
    used = {}
    for pid in server.family():
        with contextlib.suppress(FileNotFoundError):  # it has just ended: at a stop the one that reads NVML goes by itself
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return used


def assert_sleeps(server):
    """All processes of the server together."""
    stretches = []
    while len(stretches) < 5:  # what began before may still go on in the first ones
        before = cpu_seconds(server)
        time.sleep(STRETCH)
        after = cpu_seconds(server)
        stretches.append(sum(after[pid] - before[pid] for pid in before.keys() & after.keys()))
        if stretches[-1] < STRETCH / 5:
            return
    raise AssertionError(f"{stretches} of {STRETCH} s each")


def test_without_requests(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    assert echo(server, 1).status == 200
    assert_sleeps(server)


def test_requests_in_flight_and_waiting(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    with crowd() as threads, standing_still(*worker_pids(server)):
        answers = [threads.submit(echo, server, i, parameters={"timeout": 30_000_000}) for i in range(4)]
        wait_depth(server, 4)
        assert_sleeps(server)
        for pid in worker_pids(server):
            os.kill(pid, signal.SIGCONT)
        assert [answer.result().status for answer in answers] == [200] * 4


def test_late_requests(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    with standing_still(*worker_pids(server)):
        assert echo(server, 1, parameters={"timeout": 50_000}).status == 503
        assert_sleeps(server)


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR], ids=["half closed", "closed"])
def test_clients_that_are_gone_while_their_request_runs(serve, tmp_path, how):
    server = serve(sim_model(tmp_path / "models"))
    with standing_still(*worker_pids(server)):
        with Client(server) as client:
            client.send_infer("echo", {"x": rows(1)})
            wait_depth(server, 1)
            client.send_infer("echo", {"x": rows(2)})
            client.socket.shutdown(how)
            assert_sleeps(server)


def test_clients_that_wait_for_memory(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), "--input-arena=1MiB")
    with standing_still(*worker_pids(server)):
        clients = [Client(server) for _ in range(4)]
        for client in clients:
            client.send_infer("echo", {"x": np.zeros((1, 150_000), np.float32)})
        wait_for(lambda: metric(server, "muster_connections_open") >= 5, "all to be connected")
        clients.pop().close()
        clients[-1].socket.shutdown(socket.SHUT_WR)
        assert_sleeps(server)
        for client in clients:
            client.close()
        assert_sleeps(server)


def test_slow_readers(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"))
    with Client(server) as client:
        client.send_infer("echo", {"x": np.zeros((1, 4_000_000), np.float32)})
        wait_for(lambda: stats(server)["inference_count"] == 1, "the reply to be on its way")
        assert_sleeps(server)
        client.socket.shutdown(socket.SHUT_WR)
        assert_sleeps(server)
        assert client.reply().status == 200


def test_slow_senders(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"))
    body, headers = binary_body({"x": np.zeros((1, 200_000), np.float32)})
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    with Client(server) as client:
        client.send(f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{head}\r\n"
                    .encode() + body[:100_000])
        assert_sleeps(server)
        client.socket.shutdown(socket.SHUT_WR)
        assert_sleeps(server)


def test_a_worker_that_cannot_be_started_again(serve, tmp_path):
    server = serve(sim_model(sim_model(tmp_path / "models"), "broken", load_fail=1), wait=False)
    server.wait_state("degraded")
    assert_sleeps(server)


def test_more_connections_than_allowed(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--max-connections=4", "--gateway-threads=1")
    clients = [Client(server) for _ in range(8)]
    for client in clients[:4]:
        assert client.echo(1).status == 200
    clients[7].send_infer("echo", {"x": rows(7)})
    assert_sleeps(server)
    for client in clients[:4]:
        client.close()
    assert clients[7].reply().status == 200
    for client in clients[4:]:
        client.close()


def test_a_stop_that_waits(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", hang_on=666), "--exit-timeout-secs=3600")
    with Client(server) as client:
        client.send_infer("echo", {"x": rows(666)})
        wait_depth(server, 1)
        server.signal(signal.SIGTERM)
        server.wait_state("draining")
        assert_sleeps(server)
        wait_for(lambda: server.process.poll() is not None or server.signal(signal.SIGTERM), "the end")
