"""More than the server can do: what is accepted is answered in time, the rest is refused at once, nothing is held up by
those who do not read, send slowly or only sit there, and neither memory nor descriptors run out for good."""
import contextlib
import os
import pathlib
import re
import resource
import signal
import socket
import threading
import time

import numpy as np
import pytest

from muster_server import PATIENCE, binary_path, put_model, sanitized, sim_config, wait_for
from oip import binary_body, outputs_of, same
from test_idle import assert_sleeps
from test_memory import KIB, MIB, numbers, stalled_reader, used, wait_all_given_back
from traffic import (Client, batch_sizes, crowd, echo, infer, metric, rows, sim_model, standing_still, stats, wait_depth,
                     wait_waiting, worker_pids)


def gateway_pid(server) -> int:
    return server.status()["gateway"]["pid"]


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def anonymous_kib(pid: int) -> int:
    return int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1])


# ---- more requests than it can run -----------------------------------------------------------------------------------

def test_accepted_requests_are_answered_and_the_rest_refused(serve, tmp_path):
    """Three times what the model can run: nobody waits past its deadline, and every request is accounted for."""
    server = serve(sim_model(tmp_path / "models", max_batch_size=4, base_ms=20), "--max-queue-size=8")
    timeout_s, answers, lock = 5, [], threading.Lock()

    def client(number):
        with Client(server) as connection:
            for i in range(12):
                begin = time.monotonic()
                answer = connection.echo(number * 100 + i, parameters={"timeout": timeout_s * 1_000_000})
                with lock:
                    answers.append((answer, time.monotonic() - begin))

    with crowd() as threads:
        list(threads.map(client, range(36)))
    good = [seconds for answer, seconds in answers if answer.status == 200]
    refused = [answer for answer, _ in answers if answer.status == 503]
    assert len(answers) == 36 * 12 == len(good) + len(refused) and good and refused
    assert max(good) < timeout_s + PATIENCE, "answered past its deadline"  # the clients may have been slow, too
    assert all(int(answer.headers["Retry-After"]) > 0 for answer in refused)
    counts = stats(server)
    assert counts["inference_count"] == len(good) == counts["inference_stats"]["success"]["count"]
    assert counts["inference_stats"]["fail"]["count"] == len(refused)
    assert sum(size * n for size, n in batch_sizes(server).items()) == len(good), "rows that nobody got"


def test_the_expired_and_the_canceled_cost_no_place(serve, tmp_path):
    """Of what waits behind a batch, only what somebody still waits for is run."""
    server = serve(sim_model(tmp_path / "models", max_batch_size=16))  # more than wait: a full batch would be taken
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            first = threads.submit(echo, server, 0)
            wait_depth(server, 1)
            expiring = [threads.submit(echo, server, i, parameters={"timeout": 300_000}) for i in range(1, 6)]
            leavers = [Client(server) for _ in range(5)]
            for leaver in leavers:
                leaver.send_infer("echo", {"x": rows(7)})
            stayers = [threads.submit(echo, server, i) for i in range(10, 13)]
            assert [answer.result().status for answer in expiring] == [503] * 5
            assert all("Retry-After" in answer.result().headers for answer in expiring)
            wait_waiting(server, 8)
            for leaver in leavers:
                leaver.close()
            wait_waiting(server, 3)
        assert [answer.result().status for answer in [first, *stayers]] == [200] * 4
    assert batch_sizes(server) == {1: 1, 3: 1}


# ---- memory ----------------------------------------------------------------------------------------------------------

def half_sent(server, x) -> tuple[Client, bytes]:
    """A client in the middle of its upload, and what it has still to send."""
    body, headers = binary_body({"x": x}, parameters={"binary_data_output": True})
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    client = Client(server)
    client.send(f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode()
                + body[:len(body) // 2])
    return client, body[len(body) // 2:]


SCARCE = {"arena": ["--input-arena=1MiB"], "budget": ["--memory-budget=2MiB"]}


@pytest.mark.parametrize("flags", SCARCE.values(), ids=SCARCE)
def test_64_half_uploads_and_room_for_four_all_end(serve, tmp_path, flags):
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), *flags)
    arrays = [numbers(i, 1, 60_000) for i in range(64)]  # 240 KB each
    uploads = [half_sent(server, x) for x in arrays]

    def finish(upload):
        client, rest = upload
        client.send(rest)
        reply = client.reply()
        client.close()
        return reply

    with crowd() as threads:
        replies = list(threads.map(finish, reversed(uploads)))  # the last comes first
    for x, reply in zip(reversed(arrays), replies):
        assert same(outputs_of(reply)["y"], x)
    wait_all_given_back(server)


def test_half_uploads_that_never_go_on_end_too(serve, tmp_path):
    """Those who hold memory are cut for their rate, those who wait for it are refused at their deadline."""
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), "--input-arena=1MiB",
                   "--default-request-timeout=2s")
    uploads = [half_sent(server, numbers(i, 1, 60_000))[0] for i in range(16)]
    statuses = sorted(upload.reply().status for upload in uploads)
    assert set(statuses) == {408, 503}, statuses
    for upload in uploads:
        upload.close()
    assert echo(server, 1).status == 200
    wait_all_given_back(server)


SLOW_READERS = {"enough": ([], 4), "no room for copies": (["--memory-budget=24MiB", "--output-arena=16MiB"], 4)}


@pytest.mark.parametrize("flags, n", SLOW_READERS.values(), ids=SLOW_READERS)
def test_who_never_reads_holds_up_nobody(serve, tmp_path, flags, n):
    """Their replies count against the budget; past their share of it they are cut."""
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), *flags)
    x = numbers(1, 1, 1_200_000)  # 4.8 MB
    readers = []
    for i in range(n):
        readers.append(stalled_reader(server, "echo", {"x": x}))
        wait_for(lambda: stats(server)["inference_count"] == i + 1, "the reply to be on its way")
    with crowd() as threads:
        for i, answer in enumerate([threads.submit(infer, server, "echo", {"x": numbers(i, 1, 100_000)}) for i in range(32)]):
            assert same(answer.result().outputs["y"], numbers(i, 1, 100_000))
    if not flags:
        wait_for(lambda: used(server) > 4 * n * MIB // 2, "their replies to be counted")
        assert all(reader.reply().status == 200 for reader in readers)
    else:
        wait_for(lambda: used(server) <= 24 * MIB // 8, "those that found no room to be cut")
    for reader in readers:
        reader.close()
    wait_all_given_back(server)


def test_large_json_replies_count(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--memory-budget=40MiB")
    x = numbers(1, 1, 150_000)  # some 3 MB as text
    answer = infer(server, "echo", {"x": x}, parameters={"binary_data_output": False})
    assert answer.status == 200
    with crowd() as threads:
        replies = [threads.submit(infer, server, "echo", {"x": x}, parameters={"binary_data_output": False})
                   for _ in range(12)]
        for reply in replies:
            assert reply.result().status in (200, 503), reply.result()
            assert reply.result().status == 200 or "Retry-After" in reply.result().headers
    huge = infer(server, "echo", {"x": numbers(1, 1, 400_000)}, parameters={"binary_data_output": False})
    assert huge.status == 413 and "--memory-budget" in huge.error and "binary" in huge.error
    assert infer(server, "echo", {"x": numbers(1, 1, 400_000)}).status == 200
    wait_all_given_back(server)


def test_ten_thousand_shapes(serve, tmp_path):
    """What is kept for each shape is bounded: another ten thousand take no more than the first."""
    config = sim_config(dims="-1", max_batch_size=4)
    server = serve(put_model(tmp_path / "models", "echo", config=config), "--gateway-threads=1")
    pids = {"gateway": gateway_pid(server), "worker": worker_pids(server)[0]}

    def shapes(first, n):
        with Client(server) as client:
            for i in range(first, first + n):
                assert client.infer_arrays("echo", {"x": np.zeros((1, i), np.float32)}).status == 200

    shapes(1, 2000)
    before = {name: anonymous_kib(pid) for name, pid in pids.items()}
    shapes(2001, 8000)
    after = {name: anonymous_kib(pid) for name, pid in pids.items()}
    for name in pids:
        assert sanitized() or after[name] - before[name] < 4096, (name, before, after)
    wait_all_given_back(server)


# ---- time ------------------------------------------------------------------------------------------------------------

def ends(client, limit=PATIENCE) -> bytes:
    """What the server still says before it ends the connection."""
    client.socket.settimeout(limit)
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while part := client.socket.recv(65536):
            said += part
    return said


def test_connections_that_do_nothing_end(serve, tmp_path):
    """Idle from the start, idle behind a request, a head that never ends, a head that comes byte by byte, empty lines."""
    server = serve(sim_model(tmp_path / "models"), "--idle-timeout=1s", "--head-timeout=1s")

    def begun(begin):
        """A client that has got that far before it was cut for its silence."""
        def attempt():
            client = Client(server)
            with contextlib.suppress(ConnectionError):
                return client if begin(client) else None
            return client.close()
        return wait_for(attempt, "a client that is not too slow")
    silent, lines = Client(server), Client(server)
    after = begun(lambda client: client.echo(1).status == 200)
    stop = threading.Event()

    def drip(client, bytes_):
        with contextlib.suppress(OSError):
            while not stop.wait(0.1):
                client.send(bytes_)

    def said_on(client):
        client.send(b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: ")
        return True
    half, drop = begun(said_on), begun(said_on)
    clients = [silent, after, half, drop, lines]
    drips = [threading.Thread(target=drip, args=(drop, b"a")), threading.Thread(target=drip, args=(lines, b"\r\n"))]
    for thread in drips:
        thread.start()
    try:
        assert ends(silent) == b"" and ends(after) == b"" and ends(lines) == b""
        said = ends(drop), ends(half) or ends(begun(said_on))  # b"": its head came when its silence had lasted too long
        assert said[0][:13] in (b"HTTP/1.1 408 ", b"") and said[1].startswith(b"HTTP/1.1 408 "), said
    finally:
        stop.set()
        for thread in drips:
            thread.join()
    for client in clients:
        client.close()
    wait_for(lambda: metric(server, "muster_connections_open") <= 1, "all to be gone")
    assert echo(server, 1).status == 200


def test_who_reads_too_slowly_is_cut(serve, tmp_path):
    """A byte now and then is no reading: 1 KiB a second is asked for, looked at once in --idle-timeout."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--idle-timeout=1s")
    reader = stalled_reader(server, "echo", {"x": numbers(1, 1, 2_000_000)})
    wait_for(lambda: stats(server)["inference_count"] == 1, "the reply to be on its way")

    def cut():
        with contextlib.suppress(OSError):
            reader.socket.recv(1)
        return metric(server, "muster_connections_open") <= 1

    wait_for(cut, "it to be cut")
    reader.close()
    wait_all_given_back(server)


# ---- descriptors -----------------------------------------------------------------------------------------------------

def test_more_connections_than_descriptors(serve, tmp_path):
    """Connections stop short of the last descriptors: the others wait, /metrics, status and a new worker are served."""
    server = serve(sim_model(tmp_path / "models"), "--gateway-threads=2", command=["prlimit", "--nofile=160", binary_path()])
    clients = [Client(server) for _ in range(150)]
    wait_for(lambda: metric(server, "muster_connections_open") >= 96, "all places to be taken")
    assert metric(server, "muster_connections_open") <= 97, "96 and the one that asks"
    assert descriptors(gateway_pid(server)) < 160
    assert_sleeps(server)
    dead = server.workers()[0]["pid"]
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: [w["state"] for w in server.workers() if w["pid"] != dead] == ["ready"], "another worker")
    for client in clients[:100]:
        client.close()
    assert clients[149].echo(1).status == 200
    for client in clients[100:]:
        client.close()
    assert echo(server, 1).status == 200
    assert "ulimit -n" in server.log


def test_no_descriptors_at_all(serve, tmp_path):
    """Somebody else has taken them: connections wait in the backlog, a worker that dies meanwhile comes back later, and
    nothing spins."""
    server = serve(sim_model(tmp_path / "models"), "--gateway-threads=1")
    gateway = gateway_pid(server)
    usual = resource.prlimit(gateway, resource.RLIMIT_NOFILE)
    with Client(server) as old:
        assert old.echo(1).status == 200
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, (3, usual[1]))
        waiting = Client(server)
        waiting.send_infer("echo", {"x": rows(5)})
        assert_sleeps(server)
        dead = server.workers()[0]["pid"]
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: "no free file descriptor" in server.log, "the gateway to say so")
        assert server.status()["gateway"]["pid"] == gateway
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, usual)
        assert waiting.reply().status == 200
        assert old.echo(2).status == 200
        waiting.close()
    assert gateway_pid(server) == gateway and worker_pids(server) != [dead]
