"""HTTP/2 without TLS on the ports of HTTP and gRPC: real clients (curl, h2load), frames by hand, drain and upgrade."""
import collections
import gzip
import json
import socket
import struct
import subprocess
import threading

import pytest

from muster_server import PATIENCE, put_model, run_muster, sanitized, sim_config, wait_for

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4


@pytest.fixture(scope="module")
def server(serve_module, tmp_path_factory):
    folder = tmp_path_factory.mktemp("http2") / "models"
    put_model(folder, "echo", config=sim_config())
    put_model(folder, "slow", config=sim_config(base_ms=300))
    return serve_module(folder)


USUAL = ["-sS", "--http2-prior-knowledge", "-m", str(PATIENCE), "-w", "\n%{http_version} %{http_code}"]


def curl(url: str, *arguments, data=None) -> subprocess.CompletedProcess:
    return subprocess.run(["curl", *USUAL, *arguments, url], input=data, capture_output=True, timeout=PATIENCE + 5)


def request_text(value: float) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [value] * 4}]}).encode()


def frame(kind: int, flags: int, stream: int, payload=b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """A header in HPACK without compression; both shorter than 127 bytes."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def head(path: bytes, post=True, length=None) -> bytes:
    more = literal(b"content-length", str(length).encode()) if length is not None else b""
    return bytes([0x83 if post else 0x82, 0x86]) + literal(b":path", path) + literal(b":authority", b"h") + more


class Wire:
    """Frames by hand."""

    def __init__(self, port: int):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.buffer, self.going = b"", False
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0) + frame(WINDOW_UPDATE, 0, 0, b"\x3f\xff\x00\x00"))

    def send(self, *frames: bytes):
        self.socket.sendall(b"".join(frames))

    def next(self):
        """(kind, flags, stream, payload); None when the server has closed."""
        while len(self.buffer) < 9 or len(self.buffer) < 9 + int.from_bytes(self.buffer[:3], "big"):
            try:
                more = self.socket.recv(65536)
            except ConnectionError:
                return None
            if not more:
                return None
            self.buffer += more
        size = int.from_bytes(self.buffer[:3], "big")
        kind, flags, stream = self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big")
        payload, self.buffer = self.buffer[9:9 + size], self.buffer[9 + size:]
        if kind == PING and not flags & 1:
            self.send(frame(PING, 1, 0, payload))
        return kind, flags, stream, payload

    def until(self, wanted: int, stream=None):
        while (got := self.next()) is not None:
            if got[0] == wanted and stream in (None, got[2]):
                return got
        return None

    def close(self):
        self.socket.close()


@pytest.fixture
def wire(server):
    made = Wire(server.port)
    yield made
    made.close()


# ---- clients as they are


@pytest.mark.parametrize("port", ["port", "grpc_port"])
def test_curl(server, port):
    url = f"http://127.0.0.1:{getattr(server, port)}"
    done = curl(url + "/v2/models/echo/infer", "--data-binary", "@-", data=request_text(3.5))
    body, _, facts = done.stdout.decode().rpartition("\n")
    assert facts == "2 200", done
    assert json.loads(body)["outputs"][0]["data"] == [3.5] * 4
    assert curl(url + "/v2/models/none").stdout.endswith(b"\n2 404")
    assert curl(url + "/v2/health/ready", "--http1.1").stdout.endswith(b"\n1.1 200")


def test_compressed(server):
    done = curl(f"http://127.0.0.1:{server.metrics_port}/metrics", "--compressed", "-D", "/dev/stderr")
    assert done.stdout.endswith(b"\n2 200") and b"nv_inference_count" in done.stdout
    assert b"content-encoding: gzip" in done.stderr
    packed = gzip.compress(request_text(5))
    done = curl(f"http://{server.url}/v2/models/echo/infer", "-H", "Content-Encoding: gzip", "--data-binary", "@-", data=packed)
    assert json.loads(done.stdout.rpartition(b"\n")[0])["outputs"][0]["data"] == [5] * 4


def test_many_streams_at_once(server, tmp_path):
    (tmp_path / "body").write_bytes(request_text(1))
    done = subprocess.run(["h2load", "-n", "4000", "-c", "4", "-m", "200", "-d", tmp_path / "body",
                           f"http://{server.url}/v2/models/echo/infer"], capture_output=True, text=True, timeout=PATIENCE)
    assert "4000 succeeded, 0 failed, 0 errored, 0 timeout" in done.stdout, done.stdout


# ---- clients as they should not be

LARGE = b"\x40\x01x\x7f\xbd\x1d" + b"v" * 3900  # a header into HPACK's table, where 0xbe stands for all of it


@pytest.mark.parametrize("frames, code", [
    ([frame(DATA, 0, 1, b"x")], 1), ([frame(HEADERS, END_HEADERS, 1, b"\xff" * 8)], 9),
    ([frame(9, END_HEADERS, 1, b"\x82")], 1), ([frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff")], 3),
    ([frame(8, 0, 0, b"\x7f\xff\xff\xff")], 3), ([frame(SETTINGS, 0, 0)] * 5000, 11), ([frame(PING, 0, 0, bytes(8))] * 5000, 11),
    ([frame(HEADERS, END_HEADERS, n, head(b"/v2/models/slow/infer")) + frame(RST_STREAM, 0, n, b"\0\0\0\x08")
      for n in range(1, 6001, 2)], None),
    ([frame(HEADERS, 0, 1, head(b"/v2", post=False))] + [frame(9, 0, 1)] * 50, None),
    ([frame(HEADERS, END_HEADERS | END_STREAM, 1, head(b"/v2", post=False) + LARGE + b"\xbe" * 12000)], 11),
    ([frame(HEADERS, END_HEADERS, 1, head(b"/v2/models/echo/infer")), frame(DATA, 0, 1, b"{"),
      frame(HEADERS, END_HEADERS | END_STREAM, 1, LARGE + b"\xbe" * 12000)], 11)])
def test_frames_that_end_the_connection(server, wire, frames, code):
    try:
        wire.send(*frames)
    except ConnectionError:
        pass
    told = wire.until(GOAWAY)
    if code is not None and told is not None:
        assert int.from_bytes(told[3][4:8], "big") == code
    while told is not None:
        told = wire.until(GOAWAY)  # it closes
    assert server.get("/v2/health/ready").status == 200


def test_headers_that_are_too_large(wire):
    block = head(b"/v2", post=False) + b"".join(literal(b"x-%d" % i, b"v" * 120) for i in range(450))
    pieces = [block[at:at + 16000] for at in range(0, len(block), 16000)]
    wire.send(frame(HEADERS, END_STREAM, 1, pieces[0]), *(frame(9, 0, 1, piece) for piece in pieces[1:]), frame(9, END_HEADERS, 1))
    assert wire.until(HEADERS, 1) is not None
    assert b"larger than this server takes" in wire.until(DATA, 1)[3]


def test_reset_cancels(server, wire):
    """A model that is busy does not run what nobody waits for."""
    body = request_text(1)
    asked = [frame(HEADERS, END_HEADERS, stream, head(b"/v2/models/slow/infer")) + frame(DATA, END_STREAM, stream, body) for stream in range(1, 17, 2)]
    wire.send(*asked, *(frame(RST_STREAM, 0, stream, b"\0\0\0\x08") for stream in range(1, 15, 2)))
    kind, flags, stream, payload = wire.until(DATA)
    assert stream == 15 and json.loads(payload)["outputs"][0]["data"] == [1] * 4

    def cancelled():
        return sum(float(line.split()[-1]) for line in server.metrics().splitlines()
                   if line.startswith("nv_inference_request_failure") and 'model="slow"' in line and "CANCELED" in line)
    wait_for(lambda: cancelled() >= 5, "cancelled requests to be counted")


def test_a_stream_that_is_reset_in_its_body(server, wire):
    for stream in range(1, 201, 2):
        wire.send(frame(HEADERS, END_HEADERS, stream, head(b"/v2/models/echo/infer", length=1000)),
                  frame(DATA, 0, stream, b"{" * 10), frame(RST_STREAM, 0, stream, b"\0\0\0\x08"))
    body = request_text(7)
    wire.send(frame(HEADERS, END_HEADERS, 201, head(b"/v2/models/echo/infer")), frame(DATA, END_STREAM, 201, body))
    assert json.loads(wire.until(DATA, 201)[3])["outputs"][0]["data"] == [7] * 4


@pytest.mark.skipif(sanitized(), reason="the sanitizer's memory says nothing about muster's")
def test_a_reader_that_opens_no_window(server):
    """Replies wait as copies, counted; the gateway does not grow with what clients do not take."""
    gateway = server.status()["gateway"]["pid"]

    def memory() -> int:
        with open(f"/proc/{gateway}/statm") as file:
            return int(file.read().split()[1]) * 4096
    wire = Wire(server.port)
    wire.send(frame(SETTINGS, 0, 0, b"\0\4\0\0\0\0"))
    before = memory()
    for stream in range(1, 2001, 2):
        wire.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, head(b"/v2/models/echo/config", post=False)))
    assert wire.until(HEADERS, 1999) is not None
    assert memory() - before < 64 << 20
    wire.close()


# ---- going away


def test_drain_finishes_streams(serve, tmp_path):
    server = serve(put_model(tmp_path / "models", "slow", config=sim_config(base_ms=500)))
    wire, idle = Wire(server.grpc_port), Wire(server.port)
    wire.send(frame(HEADERS, END_HEADERS, 1, head(b"/v2/models/slow/infer")), frame(DATA, END_STREAM, 1, request_text(2)))
    wait_for(lambda: 'nv_inference_pending_request_count{' in server.metrics(), "the request")
    stop = threading.Thread(target=run_muster, args=("stop", "--control-socket", server.socket))
    stop.start()
    codes, reply = [], None
    while (got := wire.next()) is not None:
        if got[0] == GOAWAY:
            codes.append(got[3][4:8])
        if got[0] == DATA:
            reply = json.loads(got[3])
    assert codes == [bytes(4)] * 2  # "no more", then "none behind this one"
    assert reply["outputs"][0]["data"] == [2] * 4
    assert idle.until(GOAWAY) is not None
    stop.join(PATIENCE)
    assert server.wait_exit() == 0


def infer_on(wire: Wire, stream: int) -> str:
    """"answered"; "again": the server has not looked at it, says its GOAWAY, so it is for another connection."""
    try:
        wire.send(frame(HEADERS, END_HEADERS, stream, head(b"/v2/models/echo/infer")), frame(DATA, END_STREAM, stream, request_text(4)))
    except ConnectionError:
        pass  # what the server has said before is still to be read
    last, body = None, b""
    while (got := wire.next()) is not None:
        kind, flags, number, payload = got
        if kind == GOAWAY:
            wire.going, last = True, int.from_bytes(payload[:4], "big")
        if number == stream and kind == DATA:
            body += payload
        if number == stream and kind in (HEADERS, DATA) and flags & END_STREAM:
            return "answered" if json.loads(body)["outputs"][0]["data"] == [4] * 4 else "wrong"
    return "again" if last is not None and stream > last else "lost"


def test_upgrade_under_load(serve, tmp_path):
    """A client that honours GOAWAY loses nothing."""
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config()))
    over, counts = threading.Event(), collections.Counter()

    def ask():
        wire, stream = Wire(server.port), 1
        while not over.is_set():
            counts[infer_on(wire, stream)] += 1
            stream += 2
            if wire.going:
                wire.close()
                wire, stream = Wire(server.port), 1
                counts["connections"] += 1
        wire.close()
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: counts["answered"] > 100, "requests")
    upgraded = run_muster("upgrade", "--control-socket", server.socket)
    before = counts["answered"]
    wait_for(lambda: counts["answered"] > before + 100 and counts["connections"] >= 4, "requests on new connections")
    over.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert upgraded.returncode == 0, upgraded.stderr
    assert counts["lost"] == counts["wrong"] == 0, counts
