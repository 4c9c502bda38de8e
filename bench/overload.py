#!/usr/bin/env python3
"""What overload costs those who are served, each as a ratio measured in one run:

  goodput     answers within the deadline a second, at three times the load that the server can take over those at just that
              load: open loop (requests come when they come, whatever has become of the ones before)
  neighbours  rate of 31 clients while one more never reads its replies, over their rate without it

  bench/overload.py [--seconds 10] [--binary build/release/muster]
"""
import argparse
import asyncio
import json
import pathlib
import socket
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "system"))

import numpy as np  # noqa: E402

import muster_server  # noqa: E402
from muster_server import Server, put_model, sim_config  # noqa: E402
from oip import binary_body  # noqa: E402

DEADLINE_S = 0.5


def request(width: int, timeout_s=None) -> bytes:
    parameters = {"binary_data_output": True, **({"timeout": int(timeout_s * 1e6)} if timeout_s else {})}
    body, headers = binary_body({"x": np.ones((1, width), np.float32)}, parameters=parameters)
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


async def read_reply(reader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    await reader.readexactly(length)
    return int(head[9:12])


class Pool:
    """Connections that are kept: an open loop needs as many as requests are open at a time."""

    def __init__(self, port):
        self.port, self.free = port, []

    async def ask(self, message: bytes) -> int:
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(message)
        status = await read_reply(reader)
        self.free.append((reader, writer))
        return status

    def close(self):
        for _, writer in self.free:
            writer.close()


async def offer(port: int, rate: float, seconds: float) -> dict:
    """Requests at a constant rate, whatever becomes of them."""
    pool, message, outcome = Pool(port), request(16, DEADLINE_S), {"good": 0, "late": 0, "refused": 0, "other": 0}
    refusals = []

    async def one():
        begin = time.monotonic()
        status = await pool.ask(message)
        took = time.monotonic() - begin
        kind = ("good" if took <= DEADLINE_S else "late") if status == 200 else "refused" if status in (429, 503) else "other"
        outcome[kind] += 1
        if kind == "refused":
            refusals.append(took)

    begin, tasks, sent = time.monotonic(), set(), 0
    while (now := time.monotonic() - begin) < seconds:
        while sent < now * rate:
            task = asyncio.create_task(one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.001)
    if tasks:
        await asyncio.gather(*tasks)
    pool.close()
    refusals.sort()
    median = refusals[len(refusals) // 2] * 1e3 if refusals else None
    return {**outcome, "sent": sent, "goodput": outcome["good"] / seconds, "refused after ms (median)": median}


async def closed_loop(port: int, clients: int, seconds: float, message: bytes) -> float:
    """Replies a second of clients that ask again as soon as they are answered."""
    count, end = 0, time.monotonic() + seconds

    async def client():
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < end:
            writer.write(message)
            assert await read_reply(reader) == 200
            count += 1
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return count / seconds


def never_reads(port: int, message: bytes) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(message * 8)
    return sock


def serve(folder: pathlib.Path, *flags, **model) -> Server:
    config = sim_config(**model)
    return Server(folder, [put_model(folder / "models", "echo", config=config), *flags]).wait_ready()


def goodput(folder, seconds) -> dict:
    """A model of 20 ms for a batch of up to 4: 200 requests a second, so that the load costs little of the processor. The
    queue holds what can be run within the deadline."""
    capacity = 4 / 0.020
    server = serve(folder, "--max-queue-size=60", dims="16", max_batch_size=4, base_ms=20)
    try:
        asyncio.run(offer(server.port, capacity, 2))
        # one after the other twice, so that a machine that slows down is seen
        runs = [asyncio.run(offer(server.port, capacity * load, seconds)) for load in (1, 3, 1, 3)]
    finally:
        server.close()
    once, thrice = ({key: (a[key] + b[key]) / 2 if isinstance(a[key], (int, float)) and b[key] is not None else a[key]
                     for key in a} for a, b in ((runs[0], runs[2]), (runs[1], runs[3])))
    return {"ratio": thrice["goodput"] / once["goodput"], "1x": once, "3x": thrice}


def neighbours(folder, seconds) -> dict:
    """Replies of 400 KB; the arena holds what 32 clients need, not what one could pile up."""
    width = 100_000
    server = serve(folder, "--output-arena=64MiB", dims="-1", max_batch_size=4, base_ms=2)
    message = request(width)
    try:
        asyncio.run(closed_loop(server.port, 31, 2, message))
        rates = {False: [], True: []}
        for with_one in (False, True, False, True):
            bad = never_reads(server.port, message) if with_one else None
            rates[with_one].append(asyncio.run(closed_loop(server.port, 31, seconds, message)))
            if bad:
                bad.close()
    finally:
        server.close()
    without, beside = (sum(values) / 2 for values in (rates[False], rates[True]))
    return {"ratio": beside / without, "replies/s without": without, "replies/s beside it": beside}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--binary", default=str(ROOT / "build" / "release" / "muster"))
    arguments = parser.parse_args()
    muster_server.binary_path = lambda: pathlib.Path(arguments.binary).resolve()
    with tempfile.TemporaryDirectory() as folder:
        result = {"goodput": goodput(pathlib.Path(folder) / "goodput", arguments.seconds),
                  "neighbours": neighbours(pathlib.Path(folder) / "neighbours", arguments.seconds)}
    print(json.dumps(result, indent=2, default=float))


if __name__ == "__main__":
    main()
