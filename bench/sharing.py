#!/usr/bin/env python3
"""What sharing a GPU brings: public measurements, the model of engine sim, and the same through a whole server.

    sharing.py [--seconds S] [--only seed saturating] [--json]

Each row is a server with a model of engine sim on simulated GPUs, under more clients than it has room for, so that
there is always another batch to run. `published` is what somebody measured on a real GPU (docs/engine-sim.md says
who), `model` what the rules there give, computed here by events (the scheduler's tokens included, two batches at a time
on a GPU without MPS), `measured` what muster bench counted. The aim: measured within 5 % of the model.
Rows with several GPUs have no published figure but what one GPU brings, times their number.
"""
import argparse
import dataclasses
import json
import pathlib
import random
import sys
import tempfile

from server import Server

AIM = 0.05
SWITCHED_SPEED = 0.9
GPU_TOKENS = 2  # of the scheduler, without MPS

# Milliseconds, as in src/engine/sim/sim_settings.c.
PROFILES = {
    "saturating": {"base": 0.5, "jitter": 0, "gpu": 10.96, "gpu_item": 2.245, "work": 6.2, "work_item": 2.62},
    "seed": {"base": 6.4, "jitter": 6, "gpu": 7.14, "gpu_item": 0.685, "work": 0, "work_item": 1.575},
}


@dataclasses.dataclass
class Row:
    profile: str
    name: str
    published: str
    processes: int = 1
    instances: int = 1
    batch: int = 1
    mps: bool = False
    gpus: int = 1


ROWS = [
    Row("saturating", "alone", "73"),
    Row("saturating", "two instances", "110", instances=2),
    Row("saturating", "batches of 8", "272", batch=8),
    Row("saturating", "both", "290", instances=2, batch=8),
    Row("seed", "alone", "58"),
    Row("seed", "batches of 8", "363", batch=8),
    Row("seed", "4 processes, MPS", "232", 4, mps=True),
    Row("seed", "4 processes by turns", "90-140", 4),
    Row("seed", "4 processes, MPS, batches of 8", "1,452 estimate", 4, batch=8, mps=True),
    *(row for n in (2, 4, 8) for row in (
        Row("seed", f"{n} GPUs, 4 processes by turns", f"{90 * n}-{140 * n}", 4, gpus=n),
        Row("seed", f"{n} GPUs, 4 processes, MPS, batches of 8", f"{1452 * n:,} estimate", 4, batch=8, mps=True, gpus=n))),
]


class Gpu:
    """One GPU with all that runs on it, in virtual milliseconds; batches are always there to be run."""

    def __init__(self, row, seed=1):
        profile, self.row, self.random = PROFILES[row.profile], row, random.Random(seed)
        work = profile["work"] + profile["work_item"] * row.batch
        self.alone = max(profile["gpu"] + profile["gpu_item"] * row.batch, work)
        self.share = work / self.alone
        self.host = lambda: profile["base"] + profile["jitter"] * self.random.random()

    def rates(self, running):
        """Of the kernels [process, left], in the order in which they came."""
        active = [self.row.mps or kernel[0] == running[0][0] for kernel in running]
        speed = min(1, 1 / (self.share * sum(active))) * (1 if all(active) else SWITCHED_SPEED)
        return [speed if on else 0 for on in active]

    def throughput(self, seconds):
        n = self.row.processes * self.row.instances
        idle = [i // self.row.instances for i in range(n)]
        on_host, running, done, now = [], [], 0, 0.0
        for _ in range(n if self.row.mps else min(n, GPU_TOKENS)):
            on_host.append([self.host(), idle.pop(0)])
        while now < seconds * 1e3:
            rates = self.rates(running) if running else []
            step = min([at - now for at, _ in on_host] + [left / rate for (_, left), rate in zip(running, rates) if rate])
            now += step
            for kernel, rate in zip(running, rates):
                kernel[1] -= step * rate
            for process in [process for process, left in running if left <= 1e-9]:
                done += self.row.batch
                idle.append(process)
                on_host.append([now + self.host(), idle.pop(0)])
            running = [kernel for kernel in running if kernel[1] > 1e-9]
            running += [[process, self.alone] for at, process in sorted(on_host) if at <= now + 1e-9]
            on_host = [entry for entry in on_host if entry[0] > now + 1e-9]
        return done / now * 1e3


def put_model(folder, row):
    (folder / "models" / "sim" / "1").mkdir(parents=True)
    lines = ['backend: "sim"', f"max_batch_size: {row.batch}", "input { name: 'x' data_type: TYPE_FP32 dims: [4] }",
             "output { name: 'y' data_type: TYPE_FP32 dims: [4] }",
             f"instance_group {{ kind: KIND_GPU count: {row.instances} gpus: {list(range(row.gpus))} }}"]
    if row.batch > 1:  # full ones, always; the clients see to it that they do not wait
        lines.append(f"dynamic_batching {{ preferred_batch_size: [{row.batch}] max_queue_delay_microseconds: 100000 }}")
    parameters = {"profile": row.profile, "sharing": "mps" if row.mps else "timeslice"}
    lines += [f'parameters {{ key: "sim.{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    (folder / "models" / "sim" / "config.pbtxt").write_text("\n".join(lines) + "\n")
    return folder / "models"


def measure(row, seconds):
    runs = row.gpus * row.processes * row.instances * row.batch
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        folder = pathlib.Path(folder)
        with Server(folder, put_model(folder, row), ["--simulate-gpus", str(row.gpus), "--processes", str(row.processes)]) as server:
            result = server.bench("sim", 2 * runs + 16, seconds)
    if result["errors"]:
        sys.exit(f"{row.profile}, {row.name}: {result['errors']} requests failed")
    model = row.gpus * Gpu(row).throughput(60)
    rate = result["inferences_per_second"]
    return {"profile": row.profile, "row": row.name, "published": row.published, "model": model, "measured": rate,
            "ratio": rate / model, "mean_batch": result["mean_batch"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4, help="measured time of each row")
    parser.add_argument("--only", nargs="*", choices=PROFILES, default=list(PROFILES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    if not arguments.json:
        print(f"{'profile':<12}{'row':<42}{'published':>16}{'model':>10}{'measured':>10}{'ratio':>8}{'batch':>8}")
    for row in ROWS:
        if row.profile not in arguments.only:
            continue
        result = measure(row, arguments.seconds)
        results.append(result)
        if not arguments.json:
            print(f"{result['profile']:<12}{result['row']:<42}{result['published']:>16}{result['model']:>10.1f}"
                  f"{result['measured']:>10.1f}{result['ratio']:>8.3f}{result['mean_batch']:>8.2f}", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))
    if any(abs(result["ratio"] - 1) > AIM for result in results):
        sys.exit("a row is not within 5 % of the model")


if __name__ == "__main__":
    main()
