#!/usr/bin/env python3
"""What the way through the server costs, each figure beside something known, measured in turns in one run:

  small     identity FP32 [1,16], 32 connections, wrk: requests a second beside nginx that answers the same POSTs with an
            empty 200. Server (or nginx) on one core, client on another.
  ping      the same request, one connection: p50 beside a bare TCP ping-pong of the same bytes. Same cores.
  large     identity FP32 [1,3,320,320] = 1.2 MB at 1, 8 and 32 connections: round trips a second beside a bare TCP echo of
            the same bytes. All cores for all.
  added     p50 of one client over HTTP minus p50 of the same model in this process: identity and MLP. All cores for all.

    path.py [--seconds S] [--rounds N] [--only small ping large added] [--json]

Every row is the median of the rounds; the spread is shown behind it. CPU is that of the server's processes for each request.
"""
import argparse
import json
import socket
import statistics
import subprocess
import sys

from peers import Echo, InProcess, Nginx
from report import report
from server import CORES, MUSTER, Server, bench, cpu_text, on_cores

SERVER_CORE, CLIENT_CORE = CORES[0], CORES[-1]
SMALL, LARGE = ("identity16", (1, 16)), ("identity1m", (1, 3, 320, 320))


def request(name, dims):
    """The body of an inference with a binary tensor that wants one back, and its header."""
    n = 4
    for d in dims:
        n *= d
    text = json.dumps({"inputs": [{"name": "x", "shape": dims, "datatype": "FP32", "parameters": {"binary_data_size": n}}],
                       "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
    return text + b"\0" * n, {"Inference-Header-Content-Length": str(len(text))}


def wrk(folder, url, name, dims, connections, seconds):
    """Requests a second; every answer has to be a 2xx."""
    body, headers = request(name, dims)
    (folder / "body").write_bytes(body)
    lines = "\n".join(f'wrk.headers["{k}"]="{v}"' for k, v in headers.items())
    (folder / "post.lua").write_text(f'wrk.method="POST"\nlocal f=io.open("{folder}/body","rb"); wrk.body=f:read("*a"); f:close()\n'
                                     f"{lines}\n")
    done = subprocess.run([*on_cores([CLIENT_CORE]), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s",
                           "-s", folder / "post.lua", url], capture_output=True, text=True, check=True)
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        sys.exit(f"wrk: {done.stdout}")
    return float(done.stdout.split("Requests/sec:")[1].split()[0])


# ---- the figures -----------------------------------------------------------------------------------------------------------

def spread(values):
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def small(folder, paths, arguments):
    seconds, rounds = arguments.seconds, arguments.rounds
    name, dims = SMALL
    ratios, ours, theirs, cpu, nginx_cpu = [], [], [], [], []
    with Nginx([SERVER_CORE]) as nginx, Server(folder, paths[name], cores=[SERVER_CORE]) as server:
        for _ in range(rounds):
            before = nginx.cpu_seconds()
            theirs.append(wrk(folder, f"http://127.0.0.1:{nginx.port}/", name, dims, 32, seconds))
            nginx_cpu.append((nginx.cpu_seconds() - before) / theirs[-1] / seconds * 1e6)
            before = server.cpu_seconds()
            ours.append(wrk(folder, server.infer_url(name), name, dims, 32, seconds))
            after = server.cpu_seconds()
            cpu.append({k: [(b - a) / ours[-1] / seconds * 1e6 for a, b in zip(before[k], after[k])] for k in after})
            ratios.append(ours[-1] / theirs[-1])
    middle = cpu[ratios.index(sorted(ratios)[len(ratios) // 2])]
    yield {"figure": "small: requests/s beside nginx, 32 connections", "muster": statistics.median(ours),
           "peer": statistics.median(theirs), "ratio": spread(ratios), "aim": ">= 0.45",
           "cpu": "  ".join(f"{k} {u + s:.1f} (user {u:.1f}, kernel {s:.1f})" for k, (u, s) in middle.items())
                  + f"  nginx {statistics.median(nginx_cpu):.1f}"}


def row(figure, level, aim, value, echo_us):
    return {"figure": figure, "muster": level["requests_per_second"], "peer": level["compare"]["requests_per_second"],
            "ratio": value, "aim": aim, "cpu": f"{cpu_text(level)}  echo {echo_us:.1f}"}


def size_on_the_wire(load):
    """Of one request of muster bench."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [MUSTER, "bench", f"http://127.0.0.1:{listener.getsockname()[1]}", *load, "--requests", "1",
                   "--concurrency", "1", "--warm-up", "0", "--timeout", "1"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
            size = 0
            while size == 0:  # a first connection only looks whether somebody is there
                connection, _ = listener.accept()
                with connection:
                    while part := connection.recv(1 << 20):
                        size += len(part)
    return size


def echo_cpu_us(echo, both, requests, client_cores):
    """What the echo's side of a round trip takes: its copies and its system calls."""
    before = echo.cpu_seconds()
    bench([*both, "--requests", str(requests), "--warm-up", "0"], client_cores)
    return (echo.cpu_seconds() - before) / requests * 1e6


def against_echo(folder, paths, model, server_cores, client_cores, connections, seconds, rounds):
    name, dims = model
    body, headers = request(name, dims)
    (folder / "body").write_bytes(body)
    (header,) = (f"{k}: {v}" for k, v in headers.items())
    load = ["--raw", f"POST /v2/models/{name}/infer", "--body", folder / "body", "--header", header]
    size = size_on_the_wire(load)
    with Server(folder, paths[name], cores=server_cores) as server, Echo(size, server_cores) as echo:
        for n in connections:
            both = [server.infer_url(name), f"tcp://127.0.0.1:{echo.port}", *load, "--concurrency", str(n)]
            level = bench([*both, "--rounds", str(2 * rounds), "--seconds", str(seconds * rounds), "--control-socket",
                           server.socket], client_cores)["levels"][0]
            yield level, echo_cpu_us(echo, both, 2400 if size > 1e6 else 24000, client_cores)


def ping(folder, paths, arguments):
    seconds, rounds = arguments.seconds, arguments.rounds
    for level, echo_us in against_echo(folder, paths, SMALL, [SERVER_CORE], [CLIENT_CORE], [1], seconds, rounds):
        more = level["ratio"]["p50_more_us"]
        yield row(f"ping: p50 {level['p50_us']:.1f} us, bare TCP ping-pong {level['compare']['p50_us']:.1f} us", level,
                  "<= 12 us more", f"{more['median']:.1f} us more ({more['min']:.1f} to {more['max']:.1f})", echo_us)


def large(folder, paths, arguments):
    seconds, rounds = arguments.seconds, arguments.rounds
    for level, echo_us in against_echo(folder, paths, LARGE, CORES, CORES, [1, 8, 32], seconds, rounds):
        ratio = level["ratio"]["requests_per_second"]
        yield row(f"large: round trips/s of 1.2 MB beside a TCP echo, {level['concurrency']} connections", level, ">= 0.6, < 500 us CPU",
                  f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})", echo_us)


def added(folder, paths, arguments):
    seconds, rounds = arguments.seconds, arguments.rounds
    for name in ("identity16", "mlp"):
        local = InProcess(paths[name], CORES)
        more, ours, alone = [], [], []
        with Server(folder, paths[name]) as server:
            for _ in range(rounds):
                ours.append(server.bench(name, 1, seconds)["p50_us"])
                alone.append(local.p50_us(seconds))
                more.append(ours[-1] - alone[-1])
        yield {"figure": f"added: {name}, p50 {statistics.median(ours):.0f} us over HTTP, {statistics.median(alone):.0f} us in process",
               "muster": None, "peer": None, "ratio": spread(more) + " us more", "aim": "< 80 us", "cpu": ""}


FIGURES = {"small": small, "ping": ping, "large": large, "added": added}


def print_row(row):
    rates = "" if row["muster"] is None else f"{row['muster']:,.0f}/s, peer {row['peer']:,.0f}/s: "
    print(f"{row['figure']}: {rates}{row['ratio']}   [{row['aim']}]", flush=True)
    print(f"    CPU us/request: {row['cpu']}" if row["cpu"] else "", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=3, help="measured time of each side in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--json", action="store_true")
    report(FIGURES, parser.parse_args(), print_row)


if __name__ == "__main__":
    main()
