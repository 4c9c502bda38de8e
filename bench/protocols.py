#!/usr/bin/env python3
"""The server's protocols beside its own HTTP/1.1, in turns in one run:

  small      identity FP32 [1,16], 32 at a time: gRPC's ModelInfer (h2load, 32 connections, and one with 32 streams) beside
             HTTP/1.1 (wrk). Server on one core, client on another.
  large      identity FP32 [1,3,320,320] = 1.2 MB, 1 and 8 connections: gRPC, and tensors in system shared memory, beside HTTP/1.1,
             all by h2load. Server on one core, client on another.
  streams    WebSockets with frames of 30 KB at 25 a second through an identity: how many of 500 streams' frames are late, or
             the largest number of streams that has less than 0.1 % of them. Server on one core, client on another.
  idle       RssAnon of the gateway for each of 10,000 connections that have had one answer: HTTP/1.1, HTTP/2, WebSocket.

    protocols.py [--seconds S] [--rounds N] [--only small large streams idle] [--json]

Rows of small and large are medians of the rounds; the spread of the ratio is shown behind it.
"""
import argparse
import base64
import json
import pathlib
import re
import resource
import socket
import statistics
import subprocess
import sys

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from footprint import memory_kb
from path import CLIENT_CORE, LARGE, SERVER_CORE, SMALL, request, spread, wrk
from report import report
from server import MUSTER, Server, bench, on_cores

METHOD = "/inference.GRPCInferenceService/ModelInfer"
DATATYPE, LATE_MOST = "FP32", 0.001
WAYS = {"32 connections": (32, 1), "1 connection, 32 streams": (1, 32)}


# ---- requests --------------------------------------------------------------------------------------------------------------

def elements(dims):
    return int(np.prod(dims))


def grpc_message(name, dims):
    tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype=DATATYPE, shape=dims)
    return service_pb2.ModelInferRequest(model_name=name, inputs=[tensor], raw_input_contents=[bytes(4 * elements(dims))]).SerializeToString()


def grpc_body(name, dims):
    """The body of a unary call, and its headers."""
    message = grpc_message(name, dims)
    return b"\0" + len(message).to_bytes(4, "big") + message, {"content-type": "application/grpc", "te": "trailers"}


def check_grpc(server, name, dims):
    """The same message by gRPC's own client: status 0 and the tensor that was sent. h2load looks at no trailers."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.max_receive_message_length", -1)]) as channel:
        reply = channel.unary_unary(METHOD, response_deserializer=service_pb2.ModelInferResponse.FromString)(grpc_message(name, dims))
    if reply.raw_output_contents[0] != bytes(4 * elements(dims)):
        sys.exit("the answer is not the tensor that was sent")


def counted(server, name):
    (stats,) = json.loads(get(server.port, f"/v2/models/{name}/stats"))["model_stats"]
    return [stats["inference_stats"][key]["count"] for key in ("success", "fail")]


def get(port, path, method="GET", body=b""):
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: s.recv(65536), b""))
    if b" 200 " not in answer[:20]:
        sys.exit(f"{path}: {answer[:500]!r}")
    return answer.partition(b"\r\n\r\n")[2]


def shared_body(name, dims, regions):
    """JSON that names a region for the input and one for the output."""
    def parameters(region):
        return {"shared_memory_region": region, "shared_memory_byte_size": 4 * elements(dims)}
    return json.dumps({"inputs": [{"name": "x", "shape": dims, "datatype": DATATYPE, "parameters": parameters(regions[0])}],
                       "outputs": [{"name": "y", "parameters": parameters(regions[1])}]}).encode(), {}


def h2load(folder, url, body, headers, connections, streams, seconds, plain=False):
    """Requests a second; every answer has to be a 2xx."""
    (folder / "h2body").write_bytes(body)
    given = [word for key, value in headers.items() for word in ("-H", f"{key}: {value}")]
    done = subprocess.run([*on_cores([CLIENT_CORE]), "h2load", *(["--h1"] if plain else []), "-c", str(connections), "-m", str(streams),
                           "-D", str(seconds), "-d", folder / "h2body", *given, url], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if int(found[1]) == 0 or any(map(int, (*found.groups()[1:], *codes.groups()[1:]))):
        sys.exit(f"h2load: {done.stdout}")
    return int(found[1]) / seconds


# ---- small and large -------------------------------------------------------------------------------------------------------

class Way:
    """One protocol: what measures its requests a second, and what was measured."""

    def __init__(self, server, measure):
        self.server, self.measure, self.rates, self.cpu = server, measure, [], []

    def run(self, seconds):
        before = self.server.cpu_seconds()
        self.rates.append(self.measure())
        after, n = self.server.cpu_seconds(), self.rates[-1] * seconds
        self.cpu.append({key: sum(after[key]) - sum(before[key]) for key in after})
        self.cpu[-1] = {key: value / n * 1e6 for key, value in self.cpu[-1].items()}

    def cpu_us(self):
        return {key: statistics.median(cpu[key] for cpu in self.cpu) for key in self.cpu[0]}


def in_turns(figure, ways, aims, server, name, at_once, seconds, rounds):
    """Rows of all ways but the first, beside it. at_once: requests that a client leaves behind when its time is over."""
    before = counted(server, name)
    for _ in range(rounds):
        for way in ways.values():
            way.run(seconds)
    successes, failures = (b - a for a, b in zip(before, counted(server, name)))
    asked = sum(rate * seconds for way in ways.values() for rate in way.rates)
    if failures > at_once * rounds * len(ways) or successes < asked:
        sys.exit(f"{figure}: {asked:.0f} answers, the server counts {successes} successes and {failures} failures")
    (first, base), *others = ways.items()
    for label, way in others:
        yield {"figure": f"{figure}: {label}", "per_second": statistics.median(way.rates), "beside": first,
               "beside_per_second": statistics.median(base.rates), "ratio": spread([a / b for a, b in zip(way.rates, base.rates)]),
               "cpu_us": way.cpu_us(), "beside_cpu_us": base.cpu_us(), "aim": aims[label]}


def small(folder, paths, arguments):
    name, dims = SMALL
    body, headers = grpc_body(name, dims)
    with Server(folder, paths[name], cores=[SERVER_CORE]) as server:
        check_grpc(server, name, dims)
        url, seconds = f"http://127.0.0.1:{server.grpc_port}{METHOD}", arguments.seconds
        ways = {"HTTP/1.1, wrk": Way(server, lambda: wrk(folder, server.infer_url(name), name, dims, 32, seconds))}
        for label, (connections, streams) in WAYS.items():
            ways[f"gRPC, {label}"] = Way(server, lambda c=connections, m=streams: h2load(folder, url, body, headers, c, m, seconds))
        yield from in_turns("small", ways, dict.fromkeys(ways, ">= 0.6, < 15 us CPU"), server, name, 32, seconds, arguments.rounds)


def large(folder, paths, arguments):
    name, dims = LARGE
    with Server(folder, paths[name], cores=[SERVER_CORE]) as server:
        check_grpc(server, name, dims)
        regions = []
        for i in range(2):
            region = pathlib.Path(f"/dev/shm/muster-bench-{server.process.pid}-{i}")
            region.write_bytes(bytes(4 * elements(dims)))
            regions.append(region)
            get(server.port, f"/v2/systemsharedmemory/region/r{i}/register", "POST",
                json.dumps({"key": f"/{region.name}", "offset": 0, "byte_size": 4 * elements(dims)}).encode())
        try:
            for connections in (1, 8):
                def way(body, headers, grpc_url=False, n=connections):
                    url = f"http://127.0.0.1:{server.grpc_port}{METHOD}" if grpc_url else server.infer_url(name)
                    return Way(server, lambda: h2load(folder, url, body, headers, n, 1, arguments.seconds, plain=not grpc_url))
                ways = {"HTTP/1.1": way(*request(name, dims)), "gRPC": way(*grpc_body(name, dims), grpc_url=True),
                        "HTTP/1.1, shared memory": way(*shared_body(name, dims, ["r0", "r1"]))}
                aims = {"gRPC": ">= 0.8, < 600 us CPU", "HTTP/1.1, shared memory": ">= 3"}
                yield from in_turns(f"large, {connections} connections", ways, aims, server, name, connections, arguments.seconds,
                                    arguments.rounds)
        finally:
            for region in regions:
                region.unlink()


# ---- WebSockets ------------------------------------------------------------------------------------------------------------

def streams(folder, paths, arguments):
    def late(n):
        before = server.cpu_seconds()
        found = bench(["identity30k", "--url", f"http://127.0.0.1:{server.port}", "--control-socket", server.socket, "--streams", str(n),
                       "--fps", "25", "--deadline", "200ms", "--seconds", str(arguments.seconds), "--warm-up", "1"], [CLIENT_CORE])
        busy = {key: (sum(after) - sum(before[key])) / (arguments.seconds + 1) for key, after in server.cpu_seconds().items()}
        share = 1 - found["in_time"] / found["due"]
        return {"figure": f"streams: {n} of 25 frames of 30 KB a second, deadline 200 ms", "not_in_time": share, "busy": busy,
                "aim": "< 0.1 % not in time", **{key: value for key, value in found.items() if key not in ("streams", "fps")}}

    with Server(folder, paths["identity30k"], cores=[SERVER_CORE]) as server:
        most = late(500)
        yield most
        if most["not_in_time"] < LATE_MOST:
            return
        good, bad = 0, 500
        while bad - good > 16:
            middle = (good + bad) // 2
            row = late(middle)
            good, bad = (middle, bad) if row["not_in_time"] < LATE_MOST else (good, middle)
            yield row
        yield {"figure": "streams: most with less than 0.1 % not in time", "streams": good, "aim": "500"}


# ---- idle connections ------------------------------------------------------------------------------------------------------

def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


LIVE = b"/v2/health/live"
HEADERS, SETTINGS = 1, 4
HELLO = {
    "HTTP/1.1": (b"GET " + LIVE + b" HTTP/1.1\r\nHost: x\r\n\r\n", lambda got: b"\r\n\r\n" in got),
    # GET, http, the path and the authority as literals without Huffman's code; END_STREAM and END_HEADERS
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(SETTINGS, 1, 0) +
               frame(HEADERS, 5, 1, b"\x82\x86\x44" + bytes([len(LIVE)]) + LIVE + b"\x41\x01x"),
               lambda got: re.search(rb"[\x00\x01][\x01\x05]\x00\x00\x00\x01", got) is not None),
    "WebSocket": (b"GET /v2/models/identity16/stream HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                  b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + base64.b64encode(bytes(16)) + b"\r\n\r\n",
                  lambda got: b"101 Switching" in got and b"\r\n\r\n" in got),
}


def idle(folder, paths, arguments):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    n = 10000 if hard >= 11000 else 2000
    for protocol, (hello, done) in HELLO.items():
        with Server(folder, paths["identity16"], ["--idle-timeout", "10m", "--max-connections", str(n + 100)]) as server:
            connections, before = [], memory_kb(server.pids["gateway"])[0]
            for _ in range(n):
                s = socket.create_connection(("127.0.0.1", server.port))
                s.sendall(hello)
                got = s.recv(4096)
                while not done(got):
                    if not (more := s.recv(4096)):
                        sys.exit(f"{protocol}: a connection ended: {got!r}")
                    got += more
                connections.append(s)
            after = memory_kb(server.pids["gateway"])[0]
            for s in connections:
                s.close()
        yield {"figure": f"idle: {n:,} connections of {protocol}", "kb_each": (after - before) / n, "aim": ""}


# ---- printing --------------------------------------------------------------------------------------------------------------

FIGURES = {"small": small, "large": large, "streams": streams, "idle": idle}


def cpu_words(cpu):
    return "  ".join(f"{key} {value:.1f}" for key, value in cpu.items())


def print_row(row):
    if "ratio" in row:
        print(f"{row['figure']}: {row['per_second']:,.0f}/s, {row['beside']} {row['beside_per_second']:,.0f}/s: {row['ratio']}   [{row['aim']}]")
        print(f"    CPU us/request: {cpu_words(row['cpu_us'])};  {row['beside']}: {cpu_words(row['beside_cpu_us'])}", flush=True)
    elif "busy" in row:
        print(f"{row['figure']}: {row['not_in_time']:.3%} not in time (late {row['late']:,}, dropped {row['dropped']:,}, unsent {row['unsent']:,}, "
              f"of {row['due']:,})   [{row['aim']}]")
        print("    busy: " + "  ".join(f"{key} {value:.0%}" for key, value in row["busy"].items()), flush=True)
    else:
        (key, value), = ((k, v) for k, v in row.items() if k not in ("figure", "aim"))
        print(f"{row['figure']}: {key} {value:.2f}   {'[' + row['aim'] + ']' if row['aim'] else ''}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="measured time of each side in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--json", action="store_true")
    report(FIGURES, parser.parse_args(), print_row)


if __name__ == "__main__":
    main()
