#!/usr/bin/env python3
"""Everything that goes wrong with GPUs at once: 8 GPUs with 6 worker processes each serve at 80 % of what they can; every
200 ms one of the workers gets a SIGKILL, and halfway one GPU falls off the bus (Xid 79). NVML is the tests' fake, the
engine sim. Every request carries numbers of its own, and every answer is held against them.

    fleet_storm.py [--seconds 60] [--every 0.2] [--gpus 8] [--processes 6] [--load 0.8] [--seed 1] [--json]

Printed: requests, failed and wrong ones (aim: 0), latencies, how many workers were ready, and how long after the last
kill all of those that are left were.
"""
import argparse
import asyncio
import json
import os
import pathlib
import random
import signal
import struct
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "system"))

from fake_nvml import FakeNvml, gpu  # noqa: E402
from muster_server import Server, put_model, sim_config  # noqa: E402

RUN_MS, LOAD_MS, WIDTH = 100, 300, 4


class Load:
    """An open loop over connections that are kept."""

    def __init__(self, port, seed):
        self.port, self.random, self.free = port, random.Random(seed), []
        self.times, self.failed, self.wrong = [], [], 0

    async def ask(self):
        numbers = [self.random.random() for _ in range(WIDTH)]
        tensor = struct.pack(f"<{WIDTH}f", *numbers)
        text = json.dumps({"inputs": [{"name": "x", "shape": [WIDTH], "datatype": "FP32",
                                       "parameters": {"binary_data_size": len(tensor)}}],
                           "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
        head = (f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(text) + len(tensor)}\r\n"
                f"Inference-Header-Content-Length: {len(text)}\r\n\r\n").encode()
        begin = time.monotonic()
        try:
            reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(head + text + tensor)
            lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
            body = await reader.readexactly(int(fields[b"content-length"]))
        except (OSError, asyncio.IncompleteReadError) as problem:
            self.failed.append(repr(problem))
            return
        self.free.append((reader, writer))
        self.times.append(time.monotonic() - begin)
        if b" 200 " not in lines[0]:
            self.failed.append(f"{lines[0]} {body[:200]}")
        elif body[int(fields[b"inference-header-content-length"]):] != tensor:
            self.wrong += 1

    async def run(self, rate, seconds):
        begin, tasks, sent = time.monotonic(), set(), 0
        while (now := time.monotonic() - begin) < seconds:
            while sent < now * rate:
                task = asyncio.create_task(self.ask())
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                sent += 1
            await asyncio.sleep(0.002)
        await asyncio.gather(*tasks)
        for _, writer in self.free:
            writer.close()


def ready(server):
    return [worker for worker in server.workers() if worker["state"] == "ready"]


async def storm(server, nvml, arguments, found):
    """Kills, looks and, halfway, the Xid. In threads where it waits for the server."""
    chance, end = random.Random(arguments.seed), time.monotonic() + arguments.seconds
    half, counts, fallen = time.monotonic() + arguments.seconds / 2, [], False
    while time.monotonic() < end:
        await asyncio.sleep(arguments.every)
        if not fallen and time.monotonic() > half:
            nvml.machine["events"].append({"gpu": 1, "xid": 79})
            nvml.write()
            fallen = True
        workers = await asyncio.to_thread(ready, server)
        counts.append(len(workers))
        if workers:
            os.kill(chance.choice(workers)["pid"], signal.SIGKILL)
            found["kills"] += 1
    found["ready_mean"], found["ready_least"] = sum(counts) / len(counts), min(counts)
    last, left = time.monotonic(), (arguments.gpus - 1) * arguments.processes
    while len(await asyncio.to_thread(ready, server)) < left:
        if time.monotonic() > last + 60:
            sys.exit(f"after a minute still not {left} workers:\n{server.log[-3000:]}")
        await asyncio.sleep(0.01)
    found["full_again_s"] = time.monotonic() - last


async def both(server, nvml, arguments, found):
    rate = arguments.load * arguments.gpus * arguments.processes * 1000 / RUN_MS
    load = Load(server.port, arguments.seed)
    await asyncio.gather(load.run(rate, arguments.seconds), storm(server, nvml, arguments, found))
    times = sorted(load.times)
    found |= {"requests": len(times), "failed": len(load.failed), "wrong": load.wrong, "p50_ms": times[len(times) // 2] * 1e3,
              "p99_ms": times[len(times) * 99 // 100] * 1e3, "max_ms": times[-1] * 1e3}
    return found, load.failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=0.2)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--load", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        folder = pathlib.Path(folder)
        nvml = FakeNvml(folder, [gpu(i) for i in range(arguments.gpus)])
        repository = put_model(folder / "models", "echo", config=sim_config(
            instance_group="[{ kind: KIND_GPU count: 1 }]", base_ms=RUN_MS, load_ms=LOAD_MS, sharing="mps"))
        server = Server(folder, [repository, "--processes-per-gpu", arguments.processes], env=nvml.environment).wait_ready()
        try:
            found, failed = asyncio.run(both(server, nvml, arguments, {"kills": 0}))
            found["restarts"] = sum(worker["restarts"] for worker in server.workers())
        finally:
            server.close()
    print(json.dumps(found) if arguments.json else
          "fleet storm: " + ", ".join(f"{k} {v:,.1f}" if isinstance(v, float) else f"{k} {v:,}" for k, v in found.items()))
    if failed or found["wrong"]:
        sys.exit(f"failed: {failed[:3]}")


if __name__ == "__main__":
    main()
