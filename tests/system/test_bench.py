"""`muster bench`: what it sends, what it counts, and that its figures add up. Nothing here depends on speed."""
import json
import os
import signal
import socket
import socketserver
import subprocess
import threading

import numpy as np
import pytest

from muster_server import environment, binary_path, put_model, run_muster, sim_config, wait_for, PATIENCE


@pytest.fixture(scope="module")
def server(module_path, serve_module):
    """Models of the sim engine: echo of [-1,4], one that takes 50 ms a request, one that always fails, one of a
    varying shape."""
    repository = module_path / "models"
    put_model(repository, "echo", config=sim_config(max_batch_size=8))
    put_model(repository, "slow", config=sim_config(base_ms=50, instance_group="{ count: 1 }"))
    put_model(repository, "fails", config=sim_config(fail_rate=1))
    put_model(repository, "varies", config=sim_config(dims="-1, 2"))
    return serve_module(repository)


def bench(server, *arguments, code=0):
    """The parsed JSON of a run."""
    done = run_muster("bench", "--json", "--warm-up", "0", "--url", f"http://{server.url}",
                      "--control-socket", server.socket, *arguments)
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout)


def start_bench(*arguments):
    """One that a test goes on beside."""
    return subprocess.Popen([binary_path(), "bench", *arguments], stdout=subprocess.PIPE, text=True, env=environment())


def only_level(*arguments, **options):
    levels = bench(*arguments, **options)["levels"]
    assert len(levels) == 1
    return levels[0]


def succeeded(server, model):
    stats = server.get(f"/v2/models/{model}/stats").json["model_stats"][0]["inference_stats"]
    return stats["success"]["count"]


def assert_adds_up(level):
    assert level["sent"] == level["answered"] + level["failed"] + level["unfinished"]
    assert level["offered"] == level["sent"] + (level["not_sent"] or 0)
    assert level["errors"] == level["failed"] == sum(kind["count"] for kind in level["error_kinds"])
    if level["answered"]:
        ordered = [level[key] for key in ("p50_us", "p90_us", "p95_us", "p99_us", "p99_9_us", "max_us")]
        assert ordered == sorted(ordered) and 0 < ordered[0]


# ---- how much is sent


def test_so_many_requests_reach_the_server(server):
    before = succeeded(server, "echo")
    levels = bench(server, "echo", "--requests", 300, "--concurrency", "1,3")["levels"]
    assert [level["concurrency"] for level in levels] == [1, 3]
    for level in levels:
        assert_adds_up(level)
        assert level["answered"] == level["requests"] == 300
        assert sum(int(rows) * count for rows, count in level["batches"].items()) == 300
    assert succeeded(server, "echo") == before + 600


def test_rows_count_as_inferences(server):
    level = only_level(server, "echo", "-n", 50, "-c", 1, "-b", 4)
    assert level["rows"] == 4 and level["batches"] == {"4": 50}
    assert level["inferences_per_second"] == pytest.approx(4 * level["requests_per_second"], rel=.01)


def test_a_time_is_kept(server):
    level = only_level(server, "echo", "--seconds", "600ms", "-c", 2)
    assert_adds_up(level)
    assert level["answered"] > 0 and .6 <= level["seconds"] < .61


def test_a_constant_rate_sends_exactly_that(server):
    levels = bench(server, "echo", "--rate", "50:150:50", "--arrivals", "constant", "--seconds", 1)["levels"]
    assert [level["rate"] for level in levels] == [50, 100, 150]
    for level in levels:
        assert_adds_up(level)
        assert level["offered"] == level["rate"] and level["failed"] == 0


def test_poisson_arrivals_are_those_of_the_seed(server):
    def offered(seed):
        level = only_level(server, "echo", "--rate", 600, "--seconds", ".5", "--seed", seed)
        assert_adds_up(level)
        return level["offered"]
    counts = [offered(seed) for seed in (1, 1, 2, 3)]
    assert counts[0] == counts[1] and len(set(counts)) > 1
    assert all(300 - 6 * 17.3 < count < 300 + 6 * 17.3 for count in counts)  # 6 standard deviations


def test_a_saturated_target_shows_in_an_open_loop(server):
    """One instance that takes 50 ms: 20 requests a second are offered five times as much."""
    level = only_level(server, "slow", "--rate", 100, "--arrivals", "constant", "--seconds", 1, "--connections", 4)
    assert_adds_up(level)
    assert level["offered"] == 100 and level["offered_per_second"] == 100
    assert level["requests_per_second"] <= 30
    assert level["not_sent"] >= 70
    # counted from when they were due: by the end a request has waited most of the second, not four turns of 50 ms
    assert level["max_us"] > 500_000 and level["p50_us"] > 250_000 and level["send_delay_p99_us"] > 250_000
    closed = only_level(server, "slow", "--concurrency", 4, "--seconds", 1)
    assert closed["p50_us"] > 100_000 and closed["requests_per_second"] <= 30


# ---- what is sent


DATA = np.array([[1, 2, 3, 4.5], [5, 6, 7, -8]], np.float32)


def echoed(server, folder, *arguments):
    """The output of the first reply of a run whose replies were all the same."""
    reply = folder / "reply"
    level = only_level(server, *arguments, "-n", 20, "-c", 2, "--check", "--save-reply", reply)
    assert level["answered"] == 20
    body = reply.read_bytes()
    head = json.loads(body[:body.rindex(b"}]}") + 3])
    output = head["outputs"][0]
    size = output["parameters"]["binary_data_size"]
    return np.frombuffer(body[-size:], np.float32).reshape(output["shape"])


def test_input_files_are_sent(server, tmp_path):
    np.save(tmp_path / "x.npy", DATA)
    (tmp_path / "x.json").write_text(json.dumps(DATA.tolist()))
    (tmp_path / "x.bin").write_bytes(DATA.tobytes())
    for name, more in (("x.npy", ()), ("x.json", ()), ("x.bin", ("-b", 2))):
        got = echoed(server, tmp_path, "echo", "--input", f"x={tmp_path / name}", *more)
        assert got.tobytes() == DATA.tobytes() and got.shape == (2, 4), name
    assert echoed(server, tmp_path, "varies", "--shape", "x:2").shape[-1] == 2


def test_a_ready_body_is_sent(server, tmp_path):
    (tmp_path / "body").write_text(json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32",
                                                           "data": [1, 2, 3, 4]}]}))
    reply = tmp_path / "reply"
    only_level(server, "echo", "--body", tmp_path / "body", "-H", "Content-Type: application/json", "-n", 5, "-c", 1,
               "--check", "--save-reply", reply)
    assert json.loads(reply.read_text())["outputs"][0]["data"] == [1, 2, 3, 4]


@pytest.mark.parametrize("arguments,says", [
    (["echo", "--input", "x=/nonexistent"], "No such file"),
    (["echo", "--input", "y=/dev/null"], "has no such input"),
    (["echo", "--input", "x=/dev/null"], "/dev/null has 0 bytes, input 'x' with the shape [1,4] takes 16"),
    (["nobody"], "nobody"),
    (["http://127.0.0.1:1/v2/models/m"], "connect"),
    (["tcp://127.0.0.1:1"], "--body FILE or --bytes N"),
    (["tcp://127.0.0.1:1", "--bytes", "1"], "Connection refused"),
    (["echo", "--server-pid", "2147483646"], "no process"),
    (["echo", "--raw", "GET /"], "--raw wants a URL"),
])
def test_mistakes_are_told(server, arguments, says):
    done = run_muster("bench", "--url", f"http://{server.url}", *arguments)
    assert done.returncode == 1 and says in done.stderr and done.stdout == "", (done.stdout, done.stderr)


# ---- what comes back


def test_errors_are_counted_by_kind(server):
    level = only_level(server, "fails", "-n", 20, "-c", 2, code=1)
    assert_adds_up(level)
    assert level["answered"] == 0
    (kind,) = level["error_kinds"]
    assert kind["kind"] == "status" and kind["http_status"] >= 500 and kind["count"] == 20 and kind["what"]


def test_timeouts_are_errors(server):
    level = only_level(server, "slow", "-n", 3, "-c", 1, "--timeout", "1ms", code=1)
    assert_adds_up(level)
    assert [(kind["kind"], kind["count"]) for kind in level["error_kinds"]] == [("timeout", 3)]


def reply_of(body: bytes, head=b"HTTP/1.1 200 OK", length=None):
    return head + b"\r\nContent-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


OK = reply_of(b"ok")
CLOSE = b" and close"


class Peer(socketserver.ThreadingTCPServer):
    """Answers each request on a connection with what `replies` says in turn; behind CLOSE it closes."""
    daemon_threads = allow_reuse_address = True

    def __init__(self, replies):
        super().__init__(("127.0.0.1", 0), Peer.Handler)
        self.replies = replies
        self.thread = threading.Thread(target=self.serve_forever, args=(.01,))
        self.thread.start()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            while True:
                line = self.rfile.readline()
                while line not in (b"\r\n", b""):
                    line = self.rfile.readline()
                if not line:
                    return
                reply = next(self.server.replies)
                self.wfile.write(reply.removesuffix(CLOSE))
                if reply.endswith(CLOSE):
                    return

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()
        self.thread.join()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


def bench_peer(replies, *arguments):
    """A run with requests one after another, against a peer with these replies."""
    with Peer(iter(replies)) as peer:
        done = run_muster("bench", peer.address, "--raw", "GET /x", "-n", len(replies), "-c", 1, "--warm-up", 0,
                          "--json", *arguments)
    assert done.stdout, done.stderr
    level = json.loads(done.stdout)["levels"][0]
    assert_adds_up(level)
    return level, done.returncode


def test_broken_replies_are_no_successes():
    level, code = bench_peer([OK, b"nonsense\r\n\r\n", CLOSE, reply_of(b"but no", length=9) + CLOSE,
                              reply_of(b'{"error":"full"}', b"HTTP/1.1 429 Slow down"), OK + b"!", OK])
    assert {(kind["kind"], kind["http_status"]): (kind["count"], kind["what"]) for kind in level["error_kinds"]} == {
        ("wrong reply", 0): (2, "the reply is no HTTP/1: 'nonsense    '"),
        ("connection", 0): (2, "the server closed the connection without a reply"),
        ("status", 429): (1, "full")}
    assert level["answered"] == 2 and code == 0


def test_check_finds_a_different_reply():
    replies = [reply_of(b"ab")] * 3 + [reply_of(b"ac")] * 2
    level, code = bench_peer(replies, "--check")
    assert level["answered"] == 3 and level["failed"] == 2 and code == 1
    assert level["error_kinds"][0]["kind"] == "wrong reply" and "--check" in level["error_kinds"][0]["what"]
    level, code = bench_peer(replies)
    assert level["answered"] == 5 and code == 0


def test_closed_and_chunked_replies():
    level, _ = bench_peer([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                           reply_of(b"a", b"HTTP/1.1 200 OK\r\nConnection: close")], "--check")
    assert level["answered"] == 2


# ---- beside another target


@pytest.fixture(params=[[], ["--bytes", "4000000"]], ids=["at once", "whole"])
def large_peer(request):
    yield from echo("--echo", "0", *request.param)


@pytest.fixture
def echo_peer():
    yield from echo("--echo", "0")


def echo(*arguments):
    """The port of `muster bench --echo`."""
    process = start_bench(*arguments)
    try:
        yield process.stdout.readline().strip().rpartition(":")[2], process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_two_targets_take_turns(server, echo_peer):
    port, pid = echo_peer
    level = only_level(server, "echo", f"tcp://127.0.0.1:{port}", "-n", 400, "--rounds", 4, "-c", 2,
                       "--compare-pid", pid)
    other, ratio = level["compare"], level["ratio"]
    assert_adds_up(level)
    assert_adds_up(other)
    assert level["answered"] == other["answered"] == 400 and ratio["rounds"] == 4
    for key in ("requests_per_second", "p50", "p99", "p50_more_us"):
        assert ratio[key]["min"] <= ratio[key]["median"] <= ratio[key]["max"]
    assert ratio["requests_per_second"]["min"] > 0
    workers = {f"worker {worker['worker']}" for worker in server.workers("echo")}
    assert set(level["cpu_us_per_request"]) == {"gateway", "bench"} | workers
    assert set(other["cpu_us_per_request"]) == {f"muster {pid}", "bench"}


def test_a_peer_that_wants_the_whole_message_first():
    peer = echo("--echo", "0", "--bytes", "6")
    with socket.create_connection(("127.0.0.1", int(next(peer)[0])), timeout=PATIENCE) as connection:
        connection.sendall(b"abc")
        connection.settimeout(.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(PATIENCE)
        connection.sendall(b"def")
        assert connection.recv(6, socket.MSG_WAITALL) == b"abcdef"
    peer.close()


def test_a_large_message_comes_back_whole(large_peer):
    """More than the sockets hold: it is read while it is still being written."""
    done = run_muster("bench", f"tcp://127.0.0.1:{large_peer[0]}", "--bytes", 4_000_000, "-n", 3, "-c", 2,
                      "--check", "--json", "--warm-up", 0)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["levels"][0]["answered"] == 3


def test_cpu_time_is_that_of_the_processes(server):
    level = only_level(server, "echo", "-n", 2000, "-c", 4)
    for name, cpu in level["cpu_us_per_request"].items():
        assert 0 < cpu["total"] < 100_000, name
        assert cpu["user"] + cpu["kernel"] == pytest.approx(cpu["total"], abs=.01)
    pids = {cpu["pid"] for name, cpu in level["cpu_us_per_request"].items() if name != "bench"}
    status = server.status()
    assert pids == {status["gateway"]["pid"], *(w["pid"] for w in server.workers("echo"))}
    level = only_level(server, "echo", "-n", 10, "-c", 1, "--server-pid", os.getpid())
    assert {cpu["pid"] for cpu in level["cpu_us_per_request"].values()} >= {os.getpid()}


# ---- the end


def test_text_and_histogram(server, tmp_path):
    done = run_muster("bench", "echo", "--url", f"http://{server.url}", "-c", "1,2", "-n", 100, "--warm-up", 0,
                      "--histogram", tmp_path / "h")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:2] == ["concurrency", "requests/s"]
    assert [row.split()[0] for row in rows if "CPU" not in row] == ["1", "2"]
    for name in ("h.c1", "h.c2"):
        lines = (tmp_path / name).read_text().splitlines()
        assert lines[0].split() == ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]
        last = [line for line in lines if not line.startswith("#")][-1].split()
        assert last[1] == "1.000000000000" and last[2] == "100"
        assert "Total count    =          100]" in lines[-2]


def test_interrupt_prints_what_was_measured(server):
    process = start_bench("echo", "--url", f"http://{server.url}", "-d", "600", "-c", "2", "--warm-up", "0", "--json")
    before = succeeded(server, "echo")
    wait_for(lambda: succeeded(server, "echo") > before + 10, "requests")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    (level,) = json.loads(out)["levels"]
    assert_adds_up(level)
    assert level["answered"] > 0 and level["unfinished"] <= 2


def test_interrupt_of_a_comparison(server, echo_peer):
    """Also between two rounds: most of the time goes there when a round has one request."""
    process = start_bench("echo", f"tcp://127.0.0.1:{echo_peer[0]}", "--url", f"http://{server.url}", "-n", "1000",
                          "--rounds", "1000", "-c", "1", "--warm-up", "0", "--json")
    before = succeeded(server, "echo")
    wait_for(lambda: succeeded(server, "echo") > before + 3, "requests")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    (level,) = json.loads(out)["levels"]
    assert_adds_up(level)
    assert_adds_up(level["compare"])
    assert level["answered"] > 0


def test_a_server_that_dies_leaves_errors_not_a_hang(serve, tmp_path):
    """Requests that find no server count too, so the run comes to its end."""
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config(base_ms=20)))
    process = start_bench("echo", "--url", f"http://{server.url}", "-n", "500", "-c", "2", "--warm-up", "0", "--json")
    wait_for(lambda: succeeded(server, "echo") > 5, "requests")
    server.signal(signal.SIGTERM)
    server.wait_exit()
    out, _ = process.communicate(timeout=PATIENCE)
    (level,) = json.loads(out)["levels"]
    assert_adds_up(level)
    assert level["answered"] > 0 and level["failed"] > 0 and level["sent"] == 500
    assert {kind["kind"] for kind in level["error_kinds"]} <= {"connection", "status"}
