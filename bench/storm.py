#!/usr/bin/env python3
"""SIGKILL to the worker every 300 ms for a minute under load: 0 failed, 0 wrong, and what it costs those who wait.

    storm.py [--seconds 60] [--every 0.3] [--clients 16] [--json]

Every client sends tensors of its own and holds each answer against them.
"""
import argparse
import http.client
import json
import os
import pathlib
import random
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time

from models import models
from server import Server


class Client(threading.Thread):
    def __init__(self, port, number, over):
        super().__init__()
        self.port, self.random, self.over = port, random.Random(number), over
        self.times, self.failed, self.wrong = [], [], 0

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        text = json.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32",
                                       "parameters": {"binary_data_size": 64}}],
                           "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}).encode()
        while not self.over.is_set():
            tensor, start = struct.pack("<16f", *(self.random.random() for _ in range(16))), time.monotonic()
            try:
                connection.request("POST", "/v2/models/identity16/infer", text + tensor,
                                   {"Inference-Header-Content-Length": str(len(text))})
                answer = connection.getresponse()
                body = answer.read()
            except OSError as error:
                self.failed.append(repr(error))
                connection.close()
                continue
            self.times.append(time.monotonic() - start)
            if answer.status != 200:
                self.failed.append(f"{answer.status} {body[:200]}")
            elif body[int(answer.headers["Inference-Header-Content-Length"]):] != tensor:
                self.wrong += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=0.3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        folder = pathlib.Path(folder)
        with Server(folder, models(folder / "models")["identity16"]) as server:
            over, kills = threading.Event(), 0
            clients = [Client(server.port, number, over) for number in range(arguments.clients)]
            for client in clients:
                client.start()
            end = time.monotonic() + arguments.seconds
            while time.monotonic() < end:
                time.sleep(arguments.every)
                for worker in server.status()["workers"]:
                    if worker["pid"]:
                        os.kill(worker["pid"], signal.SIGKILL)
                        kills += 1
            over.set()
            for client in clients:
                client.join()
            restarts = sum(worker["restarts"] for worker in server.status()["workers"])
    times = sorted(t for client in clients for t in client.times)
    failed = [f for client in clients for f in client.failed]
    found = {"kills": kills, "restarts": restarts, "requests": len(times), "failed": len(failed),
             "wrong": sum(client.wrong for client in clients), "p50_ms": statistics.median(times) * 1e3,
             "p99_ms": times[len(times) * 99 // 100] * 1e3, "max_ms": times[-1] * 1e3}
    print(json.dumps(found) if arguments.json else
          "storm: " + ", ".join(f"{k} {v:,.1f}" if isinstance(v, float) else f"{k} {v:,}" for k, v in found.items()))
    if failed or found["wrong"]:
        sys.exit(f"failed: {failed[:3]}")


if __name__ == "__main__":
    main()
