#!/usr/bin/env python3
"""How long a fleet takes to start, and what it holds of the machine's memory:

  workers  8 simulated GPUs, 6 processes of a model on each, each loading for 2 s: seconds until all 48 take requests
  memory   of all of those processes together: RSS counts what they share once for each, PSS once in all (/proc/PID/smaps_rollup)
  weights  PSS of 1 and of 8 CPU workers of one ONNX model (the MLP, 50 MB of weights): what each further one costs
  models   200 models in one repository, on the CPU: seconds until all are ready, and the index lists them

    fleet_start.py [--gpus 8] [--processes 6] [--load-ms 2000] [--models 200] [--only workers weights models] [--json]
"""
import argparse
import http.client
import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from models import models
from server import MUSTER

CONFIG = """backend: "sim"
max_batch_size: 8
input {{ name: 'x' data_type: TYPE_FP32 dims: [16] }}
output {{ name: 'y' data_type: TYPE_FP32 dims: [16] }}
instance_group {{ kind: {kind} }}
parameters {{ key: "sim.load_ms" value {{ string_value: "{load_ms}" }} }}
"""


class Fleet:
    """A server that is asked for its state ten times a second, over its control socket: nothing else runs beside it."""

    def __init__(self, folder, models, *flags):
        self.path = pathlib.Path(folder) / "control.sock"
        self.log = open(pathlib.Path(folder) / "log", "wb")
        start = time.monotonic()
        self.process = subprocess.Popen([MUSTER, "serve", *models, "--address", "127.0.0.1", "--http-port", "0", "--grpc-port", "0",
                                         "--metrics-port", "0", "--control-socket", self.path, *flags],
                                        stdout=self.log, stderr=self.log)
        while not self.all_ready():
            if self.process.poll() is not None or time.monotonic() > start + 120:
                self.process.kill()
                sys.exit(f"not all workers became ready:\n{pathlib.Path(self.log.name).read_text()}")
            time.sleep(0.1)
        self.seconds = time.monotonic() - start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()

    def all_ready(self):
        try:
            self.status = self.get("/status")
        except OSError:
            return False
        return self.status["state"] == "ready" and all(worker["state"] == "ready" for worker in self.status["workers"])

    def get(self, target):
        connection = http.client.HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.path))
            connection.request("GET", target)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def index(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.status["http"][0]["port"], timeout=60)
        connection.request("POST", "/v2/repository/index", b"{}")
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def worker_pids(self):
        return [worker["pid"] for worker in self.status["workers"]]

    def pids(self):
        return [self.process.pid, self.status["gateway"]["pid"], *self.worker_pids()]


def memory_mb(pids):
    """RSS and PSS of these processes together."""
    texts = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return [sum(int(re.search(rf"^{key}:\s+(\d+) kB", text, re.M)[1]) for text in texts) / 1024 for key in ("Rss", "Pss")]


def put_sim(folder, name, kind, load_ms):
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(CONFIG.format(kind=kind, load_ms=load_ms))


def workers(folder, arguments):
    put_sim(folder / "models", "fleet", "KIND_GPU", arguments.load_ms)
    wanted = arguments.gpus * arguments.processes
    with Fleet(folder, [folder / "models"], f"--simulate-gpus={arguments.gpus}", f"--processes-per-gpu={arguments.processes}") as fleet:
        assert len(fleet.worker_pids()) == wanted
        yield {"figure": f"{wanted} workers, each loading {arguments.load_ms} ms, all ready, s", "value": fleet.seconds, "aim": "< 10"}
        rss, pss = memory_mb(fleet.pids())
        yield {"figure": f"supervisor, gateway and {wanted} workers: RSS, MB", "value": rss, "aim": ""}
        yield {"figure": "the same: PSS, MB", "value": pss, "aim": ""}
        rss, pss = memory_mb(fleet.worker_pids())
        yield {"figure": "of it a worker: PSS, MB", "value": pss / wanted, "aim": ""}


def weights(folder, arguments):
    model, one = models(folder / "files")["mlp"], None
    for processes in (1, 8):
        with Fleet(folder, [model], f"--processes={processes}", "--cpu-slots=8") as fleet:
            rss, pss = memory_mb(fleet.worker_pids())
        one = one or pss
        yield {"figure": f"{processes} worker{'s' * (processes > 1)} of the MLP (50 MB of weights): PSS, MB", "value": pss, "aim": ""}
        if processes > 1:
            yield {"figure": "a further worker, MB", "value": (pss - one) / (processes - 1), "aim": ""}


def many(folder, arguments):
    for i in range(arguments.models):
        put_sim(folder / "models", f"model{i:03}", "KIND_CPU", 0)
    with Fleet(folder, [folder / "models"]) as fleet:
        listed = [entry for entry in fleet.index() if entry["state"] == "READY"]
        assert len(listed) == arguments.models, f"{len(listed)} are listed"
        yield {"figure": f"{arguments.models} models ready and listed, s", "value": fleet.seconds, "aim": ""}
        rss, pss = memory_mb(fleet.pids())
        yield {"figure": "all their processes: PSS, MB", "value": pss, "aim": ""}


FIGURES = {"workers": workers, "weights": weights, "models": many}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--load-ms", type=int, default=2000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.only:
        with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
            for row in FIGURES[name](pathlib.Path(folder), arguments):
                print(json.dumps(row) if arguments.json else f"{row['figure']:70} {row['value']:10.1f}  {row['aim']}", flush=True)


if __name__ == "__main__":
    main()
