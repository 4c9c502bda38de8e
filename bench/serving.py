#!/usr/bin/env python3
"""What the server costs a real model: throughput through gateway, shared memory and worker, beside the same model in this
process (the baseline runs before and after each figure). No batching setting is given.

  pinned   the MLP: worker with one thread on one core, gateway and client on another; baseline: one thread on the
           worker's core. Concurrency 1 beside batch 1, 64 and 128 beside batch 64.
  shared   MLP and Magika: all on all cores, the baseline with as many threads as cores. Concurrency 1, 4, 16, 64 beside
           batches of as many; and the identity models, which have no baseline.

    serving.py [--seconds S] [--only pinned shared] [--models mlp magika identity16 identity1m] [--json]
"""
import argparse

from peers import InProcess
from report import report
from server import CORES, Server, cpu_text

LEVELS = (1, 4, 16, 64)
AIMS = {("pinned", 1): 0.85, ("pinned", 64): 0.93, ("pinned", 128): 0.97}


def measure(layout, server, name, concurrency, batch, local, seconds, cores):
    before = local.rate(batch, seconds / 2) if local else None
    result = server.bench(name, concurrency, seconds, cores=cores)
    base = (before + local.rate(batch, seconds / 2)) / 2 if local else None
    return {"layout": layout, "model": name, "concurrency": concurrency, "inferences_per_second":
            result["inferences_per_second"], "in_process": base, "in_process_batch": batch,
            "ratio": result["inferences_per_second"] / base if base else None, "aim": AIMS.get((layout, concurrency)),
            "p50_us": result["p50_us"], "p99_us": result["p99_us"], "mean_batch": result["mean_batch"],
            "errors": result["errors"], "cpu": cpu_text(result)}


def pinned(folder, paths, arguments):
    worker, rest = CORES[:1], CORES[-1:]
    local = InProcess(paths["mlp"], worker)
    with Server(folder, paths["mlp"], ["--threads", "1", "--gateway-threads", "1"], cores=rest, worker_cores=worker) as server:
        for concurrency, batch in ((1, 1), (64, 64), (128, 64)):
            yield measure("pinned", server, "mlp", concurrency, batch, local, arguments.seconds, rest)


def shared(folder, paths, arguments):
    for name in arguments.models:
        local = None if name.startswith("identity") else InProcess(paths[name], CORES)
        with Server(folder, paths[name]) as server:
            for level in LEVELS:
                yield measure("shared", server, name, level, level, local, arguments.seconds, CORES)


LAYOUTS = {"pinned": pinned, "shared": shared}


def print_row(row):
    def number(value, decimals=0):
        return "-" if value is None else f"{value:,.{decimals}f}"
    print(f"{row['layout']:<8}{row['model']:<12}{row['concurrency']:>8}{number(row['inferences_per_second']):>12}"
          f"{number(row['in_process']):>12}{number(row['ratio'], 2):>8}{number(row['aim'], 2):>6}{number(row['p50_us'], 1):>11}"
          f"{number(row['p99_us'], 1):>11}{number(row['mean_batch'], 2):>8}{number(row['errors']):>8}   {row['cpu']}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="measured time of each figure")
    parser.add_argument("--only", nargs="*", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--models", nargs="*", default=["mlp", "magika", "identity16", "identity1m"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.json:
        print(f"{'layout':<8}{'model':<12}{'clients':>8}{'inf/s':>12}{'in-process':>12}{'ratio':>8}{'aim':>6}{'p50 us':>11}"
              f"{'p99 us':>11}{'batch':>8}{'errors':>8}   CPU us/request")
    report(LAYOUTS, arguments, print_row)


if __name__ == "__main__":
    main()
