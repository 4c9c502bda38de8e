#!/usr/bin/env python3
"""What the server takes when nobody asks anything of it, and whether it grows:

  start    milliseconds from exec to ready with a 3 MB model (Magika), by the first 200 of /v2/health/ready
  idle     RssAnon of each process; its shared memory (arenas, rings) apart
  grown    RssAnon of the gateway after a million requests more than after the first thousand
  weights  RssAnon of a worker with 1 and with 4 instances of the MLP (50 MB of weights)

    footprint.py [--requests 1000000] [--only start idle grown weights] [--json]
"""
import argparse
import pathlib
import re
import statistics
import subprocess

from report import report
from server import MUSTER, Server


def memory_kb(pid):
    """RssAnon and RssShmem of a process."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return [int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) for key in ("RssAnon", "RssShmem")]


def start(folder, paths, arguments):
    times = []
    for _ in range(10):
        with Server(folder, paths["magika"]) as server:
            times.append(server.ready_ms)
    yield {"figure": "start to ready, magika, ms", "median": statistics.median(times), "most": max(times), "aim": "< 500"}


def idle(folder, paths, arguments):
    with Server(folder, paths["identity16"]) as server:
        for name, pid in {"supervisor": server.process.pid, **server.pids}.items():
            anon, shared = memory_kb(pid)
            yield {"figure": f"idle {name}, MB", "RssAnon": anon / 1024, "RssShmem": shared / 1024,
                   "aim": "< 15" if name == "gateway" else ""}


def grown(folder, paths, arguments):
    with Server(folder, paths["identity16"]) as server:
        def ask(n):
            subprocess.run([MUSTER, "bench", "identity16", "--url", f"http://127.0.0.1:{server.port}", "--requests", str(n),
                            "--concurrency", "64", "--warm-up", "0", "--json"], check=True, stdout=subprocess.DEVNULL)
            return [memory_kb(pid)[0] / 1024 for pid in server.pids.values()]
        ask(20000)
        before = ask(20000)
        after = ask(arguments.requests)
        for name, a, b in zip(server.pids, before, after):
            yield {"figure": f"grown {name}, MB after {arguments.requests:,} requests", "before": a, "after": b,
                   "more": b - a, "aim": "<= 1" if name == "gateway" else ""}


def weights(folder, paths, arguments):
    for instances in (1, 4):
        with Server(folder, paths["mlp"], ["--instances", str(instances)]) as server:
            server.bench("mlp", 8, 1)
            yield {"figure": f"weights, MB of a worker with {instances} instances", "RssAnon":
                   max(memory_kb(pid)[0] for name, pid in server.pids.items() if name != "gateway") / 1024,
                   "model file": paths["mlp"].stat().st_size / (1 << 20), "aim": "" if instances == 1 else "weights once"}


FIGURES = {"start": start, "idle": idle, "grown": grown, "weights": weights}


def print_row(row):
    values = ", ".join(f"{k} {v:,.1f}" for k, v in row.items() if k not in ("figure", "aim"))
    print(f"{row['figure']}: {values}   {'[' + row['aim'] + ']' if row['aim'] else ''}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--json", action="store_true")
    report(FIGURES, parser.parse_args(), print_row)


if __name__ == "__main__":
    main()
