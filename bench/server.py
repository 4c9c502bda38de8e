"""A muster that is measured: its processes, their cores, and muster bench against it."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MUSTER = pathlib.Path(os.environ.pop("MUSTER_BINARY", ROOT / "build/release/muster"))
CORES = sorted(os.sched_getaffinity(0))


def on_cores(cores):
    """The beginning of a command line that runs the rest on these cores; None: on all."""
    return ["taskset", "-c", ",".join(map(str, cores))] if cores else []


def cpu_seconds(pid):
    """User and kernel time of a process so far, by the clock's ticks: measure for a second or more."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:13]]


class Server:
    """One muster for one model (a file, or NAME/VERSION/model.onnx of a repository), ready when made."""

    def __init__(self, folder, model, flags=(), cores=None, worker_cores=None):
        self.socket = pathlib.Path(folder) / "control.sock"
        self.log = open(pathlib.Path(folder) / "log", "ab")
        in_repository = model.name == "model.onnx"
        path = model.parents[2] if in_repository else model
        wanted = ["--model-control-mode", "explicit", "--load-model", model.parents[1].name] if in_repository else []
        start = time.monotonic()
        self.process = subprocess.Popen([*on_cores(cores), MUSTER, "serve", path, *wanted, "--address", "127.0.0.1",
                                         "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--control-socket", self.socket,
                                         *flags], stdout=self.log, stderr=self.log)
        while (status := self.status()).get("state") != "ready":
            if self.process.poll() is not None or time.monotonic() > start + 60:
                self.process.kill()
                sys.exit(f"the server did not become ready:\n{pathlib.Path(self.log.name).read_text()}")
            time.sleep(0.005)
        self.ready_ms = (time.monotonic() - start) * 1e3
        self.port, self.grpc_port = status["http"][0]["port"], status["grpc"][0]["port"]
        self.pids = {"gateway": status["gateway"]["pid"], **{f"worker {w['worker']}": w["pid"] for w in status["workers"]}}
        if worker_cores:
            for worker in status["workers"]:
                for task in os.listdir(f"/proc/{worker['pid']}/task"):
                    os.sched_setaffinity(int(task), worker_cores)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()

    def status(self):
        done = subprocess.run([MUSTER, "status", "--json", "--control-socket", self.socket], capture_output=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def infer_url(self, model):
        return f"http://127.0.0.1:{self.port}/v2/models/{model}/infer"

    def cpu_seconds(self):
        return {name: cpu_seconds(pid) for name, pid in self.pids.items()}

    def bench(self, model, concurrency, seconds, warmup=1, cores=None):
        """One closed loop: a row of muster bench's JSON."""
        return bench([model, "--url", f"http://127.0.0.1:{self.port}", "--control-socket", self.socket, "--concurrency",
                      str(concurrency), "--seconds", str(seconds), "--warm-up", str(warmup)], cores)["levels"][0]


def bench(arguments, cores=None):
    done = subprocess.run([*on_cores(cores), MUSTER, "bench", *arguments, "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"muster bench failed: {done.stderr}{done.stdout}")
    return json.loads(done.stdout)


def cpu_text(row):
    """CPU of the server's processes in a row of muster bench, us a request."""
    return "  ".join(f"{name} {part['total']:.1f} (user {part['user']:.1f}, kernel {part['kernel']:.1f})"
                     for name, part in row["cpu_us_per_request"].items() if name != "bench")
