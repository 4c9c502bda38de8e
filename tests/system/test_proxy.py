"""`muster proxy` in front of servers that muster did not write: Python gRPC servers as they are in the field, and muster itself over HTTP."""
import collections
import contextlib
import http.client
import json
import pathlib
import signal
import socket
import threading

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from grpc_wire import message
from muster_server import PATIENCE, put_model, run_muster, sim_config, wait_for
from proxy_process import Backends, Proxy
from test_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PING, SETTINGS, frame, literal


@pytest.fixture(scope="module")
def backends():
    backends = Backends("abc")
    yield backends
    backends.close()


@pytest.fixture(scope="module")
def proxy(backends):
    with Proxy("--backends", backends.list(), "--ws-method", "/echo.Echo/Unary") as proxy:
        proxy.wait_healthy(3)
        yield proxy


@pytest.fixture(scope="module")
def channel(proxy):
    with proxy.channel() as channel:
        yield channel


def unary(channel, method="Unary"):
    call = channel.unary_unary(f"/echo.Echo/{method}")
    return lambda message=b"", **options: call(message, **{"timeout": PATIENCE, **options})


def code_of(function, *arguments, **options):
    with pytest.raises(grpc.RpcError) as error:
        function(*arguments, **options)
    return error.value.code(), error.value.details()


# ---- gRPC as it is ----------------------------------------------------------------------------------------------------


def test_idle_backends_take_turns(channel):
    answers = collections.Counter(unary(channel)(b"x") for _ in range(9))
    assert set(answers) == {b"a:x", b"b:x", b"c:x"} and max(answers.values()) <= 4  # checks of the backends' health come in between


def test_metadata_and_timeout_pass_both_ways(channel):
    answer, call = channel.unary_unary("/echo.Echo/Meta").with_call(b"", timeout=500, metadata=(("key", "a, b;c"), ("blob-bin", b"\0\xff")))
    seen = json.loads(answer)
    assert seen["blob-bin"] == repr(b"\0\xff") and seen["key"] == repr("a, b;c") and "grpc-python" in seen["user-agent"]
    assert 400 < seen["timeout"] < 510  # rounded up by grpcio
    assert dict(call.initial_metadata())["x-initial"] == "1" and dict(call.initial_metadata())["x-blob-bin"] == b"\0\1\2"
    assert dict(call.trailing_metadata())["x-trailing"] == "2"


def test_large_messages_both_ways(channel):
    assert len(unary(channel)(b"x" * 30_000_000)) == 30_000_002
    assert unary(channel, "Size")(b"30000000") == b"x" * 30_000_000


def test_streams_both_ways(channel):
    assert len(list(channel.unary_stream("/echo.Echo/Count")(b"2000", timeout=PATIENCE))) == 2000
    asked, answered = threading.Semaphore(1), []

    def ask():
        for i in range(20):
            assert asked.acquire(timeout=PATIENCE)
            yield b"%d" % i

    for answer in channel.stream_stream("/echo.Echo/Chat")(ask(), timeout=PATIENCE):
        answered.append(answer)
        asked.release()
    names = {answer[:1] for answer in answered}
    assert len(names) == 1 and [answer[2:] for answer in answered] == [b"%d" % i for i in range(20)]


def test_a_backends_own_errors_pass_through(channel):
    assert code_of(unary(channel, "Fail"), b"NOT_FOUND") == (grpc.StatusCode.NOT_FOUND, "so it was said: ä%")
    assert code_of(unary(channel, "Fail"), b"UNAVAILABLE") == (grpc.StatusCode.UNAVAILABLE, "so it was said: ä%")
    assert code_of(unary(channel, "Nothing"))[0] == grpc.StatusCode.UNIMPLEMENTED


def open_calls(backends, *dead):
    n = 0
    for name in set(backends.names) - set(dead):
        with grpc.insecure_channel(backends.address(name)) as direct:
            n += int(unary(direct, "Open")())
    return n


def test_deadline_and_cancel_reach_the_backend(channel, backends):
    assert code_of(unary(channel, "Slow"), b"600", timeout=0.2)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    call = channel.unary_unary("/echo.Echo/Slow").future(b"600")
    wait_for(lambda: open_calls(backends) == 1, "the call at its backend")
    call.cancel()
    wait_for(lambda: open_calls(backends) == 0, "the end of the call")


def test_a_client_that_vanishes_ends_its_calls(proxy, backends):
    channel = proxy.channel()
    calls = [channel.unary_unary("/echo.Echo/Slow").future(b"600") for _ in range(6)]
    wait_for(lambda: open_calls(backends) == 6, "the calls at their backends")
    channel.close()
    wait_for(lambda: open_calls(backends) == 0, "the end of the calls")
    assert len(calls) == 6


# ---- health -----------------------------------------------------------------------------------------------------------


def test_health_and_metrics(proxy, channel, backends):
    for _ in range(6):  # the next backend in turn each time
        channel.unary_unary("/echo.Echo/Unary")(b"x", timeout=PATIENCE)
    status, text = proxy.get("/health")
    health = json.loads(text)
    assert status == 200 and health["healthy"] and health["total_backends"] == health["healthy_count"] == 3
    assert [backend["address"] for backend in health["backends"]] == backends.list().split(",")
    assert all(backend["total_requests"] > 0 and backend["healthy"] for backend in health["backends"])
    status, text = proxy.get("/metrics")
    assert status == 200 and f'muster_proxy_backend_healthy{{backend="{backends.address("a")}",list="backends"}} 1' in text
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as error:
        list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE))
    assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture
def nobody():
    """An address that refuses connections."""
    with contextlib.closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))  # without listen
        yield "127.0.0.1:%d" % held.getsockname()[1]


def test_no_backend_is_an_error_within_the_wait_timeout(nobody):
    with Proxy("--backends", nobody, "--wait-timeout", "50ms") as proxy, proxy.channel() as channel:
        code, details = code_of(unary(channel))
        assert code == grpc.StatusCode.UNAVAILABLE and "no backend is healthy" in details
        assert proxy.get("/v2")[0] == 503
        status, text = proxy.get("/health")
        assert status == 503 and not json.loads(text)["healthy"] and json.loads(text)["healthy_count"] == 0
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == health_pb2.HealthCheckResponse.NOT_SERVING
        out = wait_for(lambda: [json.loads(line) for line in proxy.log if '"backend out"' in line], "why it is not healthy")
        assert [(line["backend"], line["why"]) for line in out] == [(nobody, f"no connection to {nobody}: Connection refused")]


# ---- backends that die, hang and come back ------------------------------------------------------------------------------


@contextlib.contextmanager
def load(proxy, threads=6):
    """Calls without a pause; answers and errors so far."""
    answers, errors, over = collections.Counter(), [], threading.Event()

    def run():
        with proxy.channel() as channel:
            call = unary(channel)
            while not over.is_set():
                try:
                    answers[call(b"x")[:1].decode()] += 1
                except grpc.RpcError as error:
                    errors.append((error.code(), error.details()))

    workers = [threading.Thread(target=run) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield answers, errors
    finally:
        over.set()
        for worker in workers:
            worker.join(PATIENCE)


def more_of(answers, name):
    before = answers[name]
    wait_for(lambda: answers[name] > before, f"answers of {name}")


def test_no_request_fails_while_one_backend_lives(backends):
    with Proxy("--backends", backends.list()) as proxy, load(proxy.wait_healthy(3)) as (answers, errors):
        for name in "abc":
            more_of(answers, name)
        backends.kill("a")
        more_of(answers, "b")
        backends.kill("b")
        more_of(answers, "c")
        backends.revive("a")
        more_of(answers, "a")  # found by a check, while c answers everything
        backends.kill("c")
        more_of(answers, "a")
        backends.revive("b")
        backends.revive("c")
        for name in "abc":
            more_of(answers, name)
    assert not errors


def test_what_is_in_flight_at_a_death_runs_elsewhere_and_a_stream_breaks(backends):
    with Proxy("--backends", backends.list(), "--wait-timeout", "60s") as proxy, proxy.wait_healthy(3).channel() as channel:
        slow = [channel.unary_unary("/echo.Echo/Wait").future(b"") for _ in range(6)]
        stream = channel.unary_stream("/echo.Echo/Drip")(b"600")
        victim = next(stream).decode()  # an answer has begun: nobody may repeat it
        wait_for(lambda: open_calls(backends) == 6, "the calls at their backends")
        backends.kill(victim)
        wait_for(lambda: open_calls(backends, victim) == 6, "the calls at other backends")
        for name in set(backends.names) - {victim}:
            with grpc.insecure_channel(backends.address(name)) as direct:
                unary(direct, "Go")()
        assert all(call.result(PATIENCE) in {b"a", b"b", b"c"} - {victim.encode()} for call in slow)
        with pytest.raises(grpc.RpcError) as error:
            next(stream)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "muster_proxy_retries_total 0" not in proxy.get("/metrics")[1]
        backends.revive(victim)
        proxy.wait_healthy(3)


def test_retry_never_passes_the_death_on(backends):
    with Proxy("--backends", backends.address("a"), "--retry", "never") as proxy, proxy.wait_healthy(1).channel() as channel:
        call = channel.unary_unary("/echo.Echo/Slow").future(b"600")
        wait_for(lambda: open_calls(backends) == 1, "the call at its backend")
        backends.kill("a")
        with pytest.raises(grpc.RpcError) as error:
            call.result(PATIENCE)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE and backends.address("a") in error.value.details()
        backends.revive("a")
        assert unary(channel)(b"x") == b"a:x"  # waits for the check that finds it


def test_a_hung_backend_gives_its_calls_to_others(backends):
    arguments = ["--backends", backends.list(), "--health-timeout", "400ms", "--health-interval", "100ms"]
    with Proxy(*arguments) as proxy, proxy.wait_healthy(3).channel() as channel:
        backends.signal("a", signal.SIGSTOP)
        try:
            calls = [channel.unary_unary("/echo.Echo/Unary").future(b"x") for _ in range(6)]
            assert {call.result(PATIENCE) for call in calls} <= {b"b:x", b"c:x"}
            wait_for(lambda: not proxy.health()["backends"][0]["healthy"], "the hung one is out")
        finally:
            backends.signal("a", signal.SIGCONT)
        proxy.wait_healthy(3)


# ---- WebSocket ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bridge(proxy, query=""):
    url = f"ws://127.0.0.1:{proxy.ports['ws']}/ws{query}"
    with connect(url, open_timeout=PATIENCE, close_timeout=PATIENCE, ping_interval=None, max_size=None, compression=None) as ws:
        yield ws


def test_each_message_is_a_call_answered_in_order(proxy):
    with bridge(proxy) as ws:  # --ws-method
        for i in range(100):
            ws.send(b"%d" % i)
        answers = [ws.recv(timeout=PATIENCE) for _ in range(100)]
    assert [answer[2:] for answer in answers] == [b"%d" % i for i in range(100)]
    assert {answer[:1] for answer in answers} == {b"a", b"b", b"c"}


def test_order_of_the_answers(proxy):
    for order, first in (("request", b"30"), ("any", b"0")):
        with bridge(proxy, f"?method=%2Fecho.Echo%2FSlow&order={order}") as ws:
            ws.send(b"1")
            ws.send(b"NONE")  # no number: fails at once
            answers = [ws.recv(timeout=PATIENCE) for _ in range(2)]
        error = next(answer for answer in answers if isinstance(answer, str))
        assert json.loads(error)["code"] == grpc.StatusCode.UNKNOWN.value[0] and json.loads(error)["message"] == 1
        assert isinstance(answers[0], bytes) == (order == "request")


def test_a_stream_for_the_life_of_the_socket(proxy):
    with bridge(proxy, "?method=/echo.Echo/Chat&mode=stream") as ws:
        for i in range(50):
            ws.send(b"%d" % i)
            assert ws.recv(timeout=PATIENCE)[2:] == b"%d" % i
    with bridge(proxy, "?method=/echo.Echo/Nothing&mode=stream") as ws:
        ws.send(b"x")
        assert json.loads(ws.recv(timeout=PATIENCE))["code"] == grpc.StatusCode.UNIMPLEMENTED.value[0]
        with pytest.raises(ConnectionClosed):
            ws.recv(timeout=PATIENCE)


def test_a_client_ends_its_side_of_a_stream(proxy):
    """An empty text message does: methods that answer when they have heard everything wait for it."""
    for messages, answer in (([b"one", b"", b"three"], b":8"), ([], b":0")):
        with bridge(proxy, "?method=/echo.Echo/Sum&mode=stream") as ws:
            for said in [*messages, ""]:
                ws.send(said)
            assert ws.recv(timeout=PATIENCE)[1:] == answer
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(timeout=PATIENCE)
            assert closed.value.rcvd.code == 1000
    with bridge(proxy, "?method=/echo.Echo/Slow&mode=stream") as ws:
        for said in (b"600", "", b"more"):
            ws.send(said)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=PATIENCE)
        assert closed.value.rcvd.code == 1002


class ByHand:
    """A server on a port of its own that writes every byte of its answers itself: _serve has a thread for each connection."""

    def __init__(self, answers):
        self.answers, self.listener = answers, socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):  # until the listener is closed
            while True:
                threading.Thread(target=self._serve, args=[self.listener.accept()[0]], daemon=True).start()


class Framed(ByHand):
    """HTTP/2: answers every call with these bytes and that all went well."""

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as frames:
            frames.read(24)
            connection.sendall(frame(SETTINGS, 0, 0))
            while len(head := frames.read(9)) == 9:
                kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
                payload = frames.read(int.from_bytes(head[:3], "big"))
                if kind in (SETTINGS, PING) and not flags & 1:
                    connection.sendall(frame(kind, 1, 0, payload if kind == PING else b""))
                if flags & END_STREAM and kind in (HEADERS, DATA):
                    connection.sendall(frame(HEADERS, END_HEADERS, stream, b"\x88" + literal(b"content-type", b"application/grpc"))
                                       + frame(DATA, 0, stream, self.answers)
                                       + frame(HEADERS, END_HEADERS | END_STREAM, stream, literal(b"grpc-status", b"0")))


def test_part_of_a_message_is_none():
    server = Framed(message(b"\x08\x01") + message(b"cut off", size=1000))
    with Proxy("--backends", server.address) as proxy, bridge(proxy.wait_healthy(1), "?method=/echo.Echo/Unary") as ws:
        ws.send(b"x")
        assert ws.recv(timeout=PATIENCE) == b"\x08\x01"
        error = json.loads(ws.recv(timeout=PATIENCE))
        assert error["code"] == grpc.StatusCode.INTERNAL.value[0] and "before the end of a message of 1000 bytes" in error["error"]
    server.listener.close()


def test_large_and_slow_sockets_hold_back(proxy):
    with bridge(proxy, "?method=/echo.Echo/Size") as ws:
        for _ in range(30):
            ws.send(b"3000000")  # nobody reads yet: what waits is bounded
        for _ in range(30):
            assert len(ws.recv(timeout=PATIENCE)) == 3_000_000
        ws.send(b"0")
        assert ws.recv(timeout=PATIENCE) == b""


def test_sockets_hold_so_much_together():
    """With a backend that takes nothing large messages wait here. Past --ws-buffer who holds much gives way; small messages
    do not, and it is all over when the backend is well again."""
    much = bytes(3_000_000)  # what a Python server takes
    with contextlib.closing(Backends("a")) as backends, contextlib.ExitStack() as sockets, \
            Proxy("--backends", backends.list(), "--ws-buffer", "8000000", "--ws-method", "/echo.Echo/Unary", "--health-interval", "60s",
                  "--ws-deadline", "300s") as proxy:
        proxy.wait_healthy(1)
        small, *large = [sockets.enter_context(bridge(proxy)) for _ in range(9)]
        backends.signal("a", signal.SIGSTOP)
        taken, refused = [], []
        for ws in large:
            with contextlib.suppress(ConnectionClosed):  # in the middle of the message
                ws.send(much)
            wait_for(lambda: proxy.health()["backends"][0]["outstanding"] > len(taken) or ws.protocol.close_code, "what becomes of it")
            (refused if ws.protocol.close_code else taken).append(ws)
        assert len(taken) >= 2 and len(refused) >= 4 and {ws.protocol.close_code for ws in refused} == {1013}
        small.send(b"small")
        backends.signal("a", signal.SIGCONT)
        assert small.recv(timeout=PATIENCE) == b"a:small"
        for ws in taken:
            assert ws.recv(timeout=PATIENCE) == b"a:" + much
        for _ in range(4):  # nothing of it is counted any more
            with bridge(proxy) as ws:
                ws.send(much)
                assert ws.recv(timeout=PATIENCE) == b"a:" + much


def test_sockets_that_end_in_the_middle_of_an_answer(proxy):
    for i in range(20):
        with bridge(proxy, "?method=/echo.Echo/Size" + "&order=any" * (i % 2)) as ws:
            for _ in range(4):
                ws.send(b"3000000")
            ws.recv(timeout=PATIENCE)
    wait_for(lambda: all(backend["outstanding"] == 0 for backend in proxy.health()["backends"]), "the end of all calls")


def test_bad_sockets(proxy, nobody):
    for query in ("?method=Unary", "?method=/echo.Echo/", "?method=/a%20b/c", "?method=/a/b%0d%0ax", "?mode=other", "?order=x", "?method=%zz"):
        with pytest.raises(InvalidStatus) as refused, bridge(proxy, query):
            pass
        assert refused.value.response.status_code == 400, query
    with bridge(proxy) as ws:
        ws.send("text")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=PATIENCE)
        assert closed.value.rcvd.code == 1003
    assert proxy.get("/ws")[0] == 426
    with Proxy("--backends", nobody, "--wait-timeout", "50ms") as deserted:
        with pytest.raises(InvalidStatus), bridge(deserted):  # no method anywhere
            pass
        with bridge(deserted, "?method=/echo.Echo/Unary") as ws:
            ws.send(b"x")
            assert json.loads(ws.recv(timeout=PATIENCE))["code"] == grpc.StatusCode.UNAVAILABLE.value[0]


# ---- HTTP ---------------------------------------------------------------------------------------------------------------


def test_triton_clients_through_the_proxy(serve, tmp_path):
    model = put_model(tmp_path / "models", "echo", config=sim_config(dims="-1", max_batch_size=0))
    servers = [serve(model) for _ in range(2)]
    arguments = ["--backends", ",".join(f"127.0.0.1:{server.grpc_port}" for server in servers),
                 "--http-backends", ",".join(f"127.0.0.1:{server.port}" for server in servers)]
    with Proxy(*arguments) as proxy:
        proxy.wait_healthy(4)
        for module, port in ((tritonclient.http, proxy.ports["http"]), (tritonclient.grpc, proxy.ports["grpc"])):
            with module.InferenceServerClient(f"127.0.0.1:{port}") as client:
                assert client.is_server_ready() and client.is_model_ready("echo")
                for n in (3, 400_000):
                    x = module.InferInput("x", [n], "FP32")
                    x.set_data_from_numpy(np.arange(n, dtype=np.float32))
                    answers = [client.infer("echo", [x]).as_numpy("y") for _ in range(4)]
                    assert all((answer == np.arange(n, dtype=np.float32)).all() for answer in answers)
                with pytest.raises(Exception, match="(?i)unknown model"):
                    client.infer("nothing", [x])
        assert proxy.get("/v2/models/nothing")[0] == 404
        assert sum("healthy" in line for line in proxy.log) == 4
        counts = [backend["total_requests"] for backend in proxy.health()["backends"]]
        assert all(count > 4 for count in counts), counts


class Scripted(ByHand):
    """HTTP/1.1: answers each path with the bytes it is given for it."""

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as requests:
            while line := requests.readline():
                while requests.readline() != b"\r\n":
                    pass
                connection.sendall(self.answers.get(line.split()[1].decode(), b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))


def lines(n, size=1):
    return b"".join(b"X-%d: %s\r\n" % (i, b"v" * size) for i in range(n))


def test_heads_pass_whole_or_not_at_all():
    ok, body = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 2\r\n\r\nok"
    server = Scripted({"/many": ok + lines(90) + body, "/too-many": ok + lines(251) + body, "/too-large": ok + lines(10, 7000) + body,
                       "/head": ok + b"Content-Length: 123\r\nX-A: 1\r\n\r\n", "/large-head": ok + b"Content-Length: 5000000000\r\n\r\n",
                       "/open-head": ok + b"Transfer-Encoding: chunked\r\n\r\n"})
    with Proxy("--backends", server.address, "--health", "http:/many") as proxy:
        proxy.wait_healthy(1)

        def ask(method, path):
            connection = http.client.HTTPConnection("127.0.0.1", proxy.ports["http"], timeout=PATIENCE)
            with contextlib.closing(connection):
                connection.request(method, path)
                answer = connection.getresponse()
                return answer.status, answer.headers, answer.read()

        status, headers, text = ask("GET", "/many")
        assert status == 200 and text == b"ok" and sum(name.startswith("x-") for name in headers) == 90
        status, headers, text = ask("GET", "/too-many")
        assert status == 502 and b"more than 250 headers" in text
        for _ in range(4):  # nothing that would take the backend out, and nothing to ask another one for
            status, headers, text = ask("GET", "/too-large")
            assert status == 502 and b"head is too large" in text
        backend = proxy.health()["backends"][0]
        assert backend["healthy"] and backend["error_count"] == 0 and "muster_proxy_retries_total 0" in proxy.get("/metrics")[1]
        for path, length in (("/head", "123"), ("/large-head", "5000000000"), ("/open-head", None)):
            status, headers, text = ask("HEAD", path)
            assert (status, headers["content-length"], text) == (200, length, b""), path
    server.listener.close()


def test_metadata_passes_whole_or_not_at_all(proxy):
    options = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    with grpc.insecure_channel(f"127.0.0.1:{proxy.ports['grpc']}", options=options) as channel:
        _, call = channel.unary_unary("/echo.Echo/Many").with_call(b"100", timeout=PATIENCE)
        for metadata in (call.initial_metadata(), call.trailing_metadata()):
            assert {f"x-{i}" for i in range(100)} <= dict(metadata).keys()
        code, details = code_of(unary(channel, "Many"), b"300")
        assert code == grpc.StatusCode.INTERNAL and "more than 250 headers" in details


def test_an_address_in_both_lists_has_series_of_its_own_in_each(backends):
    address = backends.address("a")
    with Proxy("--backends", address, "--http-backends", address, "--health", "grpc") as proxy:
        names = [line.rsplit(" ", 1)[0] for line in proxy.wait_healthy(2).get("/metrics")[1].splitlines()]
    assert f'muster_proxy_backend_healthy{{backend="{address}",list="http-backends"}}' in names
    assert len(names) == len(set(names))


def test_a_drained_backend_gets_no_new_calls(backends):
    def post(path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", proxy.ports["http"], timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", path, b"", headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    with Proxy("--backends", backends.list()) as proxy, proxy.wait_healthy(3).channel() as channel:
        status, health = post(f"/backends/drain?address={backends.address('a')}")
        assert status == 200 and [backend["draining"] for backend in health["backends"]] == [True, False, False]
        assert {unary(channel)(b"x") for _ in range(9)} == {b"b:x", b"c:x"}
        status, health = post(f"/backends/undrain?address={backends.address('a')}")
        assert status == 200 and not any(backend["draining"] for backend in health["backends"])
        assert {unary(channel)(b"x") for _ in range(9)} == {b"a:x", b"b:x", b"c:x"}
        assert post("/backends/drain?address=127.0.0.1:1")[0] == 404 and post("/backends/drain")[0] == 400
        assert post(f"/backends/drain?address={backends.address('a')}", Origin="http://elsewhere")[0] == 403
        assert not any(backend["draining"] for backend in proxy.health()["backends"])


# ---- signals ------------------------------------------------------------------------------------------------------------


def test_a_hangup_is_ignored(backends):
    with Proxy("--backends", backends.list()) as proxy, proxy.wait_healthy(3).channel() as channel:
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("SIGHUP is ignored" in line for line in proxy.log), "the line in the log")
        assert unary(channel)(b"x")[1:] == b":x"


# ---- HAProxy ------------------------------------------------------------------------------------------------------------


def answered_by(proxy, n=6) -> set:
    """Who answers on n connections of their own."""
    names = set()
    for _ in range(n):
        with proxy.channel() as channel:
            names.add(unary(channel)(b"x")[:1].decode())
    return names


def test_opaque_runs_haproxy(backends, tmp_path):
    servers = tmp_path / "servers"
    servers.write_text(f"{backends.address('a')}  # the first\n\n{backends.address('b')}\n")
    with Proxy("--opaque", "--backends-file", servers, "--health-interval", "100ms") as proxy:
        assert answered_by(proxy) == {"a", "b"}
        backends.kill("a")
        wait_for(lambda: any("s1 is DOWN" in line for line in proxy.log), "haproxy to notice")
        assert answered_by(proxy) == {"b"}
        backends.revive("a")
        wait_for(lambda: answered_by(proxy) == {"a", "b"}, "the one that came back")
        asked = threading.Semaphore(1)
        with proxy.channel() as channel:
            def ask():
                for i in range(2):
                    assert asked.acquire(timeout=PATIENCE)
                    yield b"%d" % i

            chat = channel.stream_stream("/echo.Echo/Chat")(ask(), timeout=PATIENCE)
            before = next(chat)
            servers.write_text(backends.address("c"))
            proxy.process.send_signal(signal.SIGHUP)
            wait_for(lambda: any('"reloaded"' in line for line in proxy.log), "the reload")
            wait_for(lambda: answered_by(proxy) == {"c"}, "the new list")
            asked.release()
            assert next(chat)[:1] == before[:1]  # a connection from before goes on
        servers.write_text("c")
        proxy.process.send_signal(signal.SIGHUP)
        wait_for(lambda: any("not reloaded" in line and "line 1" in line for line in proxy.log), "the refusal")
        assert answered_by(proxy, 2) == {"c"}


# ---- what cannot start ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, says", [
    ([], "no backends"),
    (["--backends", "127.0.0.1:1,127.0.0.1:1"], "named twice"),
    (["--backends", "localhost:7001", "--backends", "127.0.0.1:7001"], "are one address"),
    (["--backends", "no-such-host.invalid:1"], "'no-such-host.invalid' does not resolve"),
    (["--backends", "127.0.0.1:50098-50051"], "runs backwards"),
    (["--backends", "127.0.0.1:65000-65536"], "1 to 65535"),
    (["--grpc-addrs=127.0.0.1:0"], "1 to 65535"),
    (["--start-port", "50051"], "belong together"),
    (["--start-port", "65530", "--num-servers", "48"], "--num-servers: '48' is not a number from 1 to 6"),
    (["--start-port", "50051", "--num-servers", "2", "--backends", "127.0.0.1:50052"], "named twice"),
    (["--backends", "127.0.0.1:1", "--health", "http:nothing"], "--health: 'http:nothing'"),
    (["--backends", "127.0.0.1:1", "--retry", "often"], "'often' is none of"),
    (["--backends", "127.0.0.1:1", "--grpc-port", "70000"], "not a port"),
    (["--backends", "127.0.0.1:1", "--grpc-port=off", "--http-port=off", "--ws-port=off"], "all ports are off"),
    (["--backends", "127.0.0.1:1", "--ws-method", "Generate"], "is not a method"),
    (["--backends", "127.0.0.1:1", "--ws-in-flight", "0"], "at least 1"),
    (["--backends"], "needs a value"),
    (["--backends-file", "/nonexistent/list"], "No such file"),
    (["--backends", "127.0.0.1:1", "--opaque", "--health", "grpc"], "cannot ask gRPC's health"),
    (["--backends", "127.0.0.1:1", "--opaque=yes"], "takes no value"),
    (["--backends", "127.0.0.1:1", "--sandbox", "perhaps"], "neither on nor off"),
    (["--frontends", "x"], "unknown option '--frontends'"),
])
def test_bad_flags(arguments, says):
    ended = run_muster("proxy", *arguments)
    assert ended.returncode == 2 and says in ended.stderr and "muster proxy: " in ended.stderr


# ---- the fence --------------------------------------------------------------------------------------------------------

def status_of(process) -> dict[str, str]:
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_it_is_fenced_in(proxy):
    """All of this file's tests run so. What the fence lets through: tests/unit/proxy/test_fence.c."""
    status = status_of(proxy.process)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    assert not any("the sandbox is off" in line for line in proxy.log)


def test_without_the_fence(backends):
    with Proxy("--backends", backends.list(), "--sandbox=off") as proxy, proxy.wait_healthy(3).channel() as channel:
        assert unary(channel)(b"x")[1:] == b":x"
        status = status_of(proxy.process)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "0")
        assert any("the sandbox is off" in line for line in proxy.log)


def test_checks_by_tcp_under_the_fence(backends):
    with Proxy("--backends", backends.list(), "--health", "tcp") as proxy:
        proxy.wait_healthy(3)


def test_opaque_without_haproxy():
    ended = run_muster("proxy", "--opaque", "--backends", "127.0.0.1:1", "--grpc-port=0", "--http-port=off", "--ws-port=off", "--haproxy", "no-such-haproxy")
    assert ended.returncode == 1 and "is the package haproxy installed?" in ended.stderr


def test_a_port_in_use(proxy, backends):
    ended = run_muster("proxy", "--backends", backends.list(), "--grpc-port", proxy.ports["grpc"])
    assert ended.returncode == 1 and str(proxy.ports["grpc"]) in ended.stderr
