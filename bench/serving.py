#!/usr/bin/env python3
"""What the server costs: throughput and latency through gateway, shared memory and worker, beside the same model in this
process. Every ratio is of figures from one run. Called by script/bench.

    serving.py [--seconds S] [--only NAME ...] [--json]
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is loaded: its official builds report home otherwise
import numpy as np
import onnx
import onnx.helper as h
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parents[1]
MUSTER = pathlib.Path(os.environ.pop("MUSTER_BINARY", ROOT / "build/release/muster"))
CORES = sorted(os.sched_getaffinity(0))
LEVELS = (1, 4, 16, 64)


# ---- models -------------------------------------------------------------------------------------------------------------

def save(nodes, inputs, outputs, weights, path):
    graph = h.make_graph(nodes, "bench", inputs, outputs, weights)
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9), path)


def make_mlp(path):
    """1024-2048-2048-2048-1000, ReLU between."""
    random, sizes = np.random.default_rng(1), (1024, 2048, 2048, 2048, 1000)
    nodes, weights, last = [], [], "x"
    for i, (rows, columns) in enumerate(zip(sizes, sizes[1:])):
        w = (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)
        weights += [onnx.numpy_helper.from_array(w, f"w{i}"),
                    onnx.numpy_helper.from_array(np.zeros(columns, np.float32), f"b{i}")]
        nodes.append(h.make_node("Gemm", [last, f"w{i}", f"b{i}"], [f"g{i}"]))
        last = f"g{i}"
        if i < len(sizes) - 2:
            nodes.append(h.make_node("Relu", [last], [f"r{i}"]))
            last = f"r{i}"
    nodes[-1].output[0] = "y"
    save(nodes, [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1024])],
         [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 1000])], weights, path)


def make_identity(path, dims):
    save([h.make_node("Identity", ["x"], ["y"])],
         [h.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *dims])],
         [h.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", *dims])], [], path)


def models(folder):
    folder.mkdir(parents=True)
    make_mlp(folder / "mlp.onnx")
    make_identity(folder / "identity16.onnx", [16])
    make_identity(folder / "identity1m.onnx", [3, 320, 320])
    (folder / "magika" / "1").mkdir(parents=True)
    (folder / "magika" / "1" / "model.onnx").symlink_to((ROOT / ".deps/models/magika/1/model.onnx").resolve())
    return {"mlp": folder / "mlp.onnx", "identity16": folder / "identity16.onnx",
            "identity1m": folder / "identity1m.onnx", "magika": folder / "magika/1/model.onnx"}


# ---- the two sides ---------------------------------------------------------------------------------------------------------

class Server:
    """One muster for one model; cpu seconds of its processes."""

    def __init__(self, folder, model, flags=()):
        self.socket = pathlib.Path(folder) / "control.sock"
        self.log = open(pathlib.Path(folder) / "log", "ab")
        path = model if model.name != "model.onnx" else model.parents[2]
        wanted = [] if model.name != "model.onnx" else ["--model-control-mode", "explicit", "--load-model", model.parents[1].name]
        self.process = subprocess.Popen([MUSTER, "serve", path, *wanted, "--address", "127.0.0.1", "--http-port", "0",
                                         "--metrics-port", "0", "--control-socket", self.socket, *flags],
                                        stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 60
        while (status := self.status()).get("state") != "ready":
            if self.process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"the server did not become ready:\n{pathlib.Path(self.log.name).read_text()}")
            time.sleep(0.02)
        self.port = status["http"][0]["port"]
        self.pids = {"gateway": status["gateway"]["pid"], **{f"worker {w['worker']}": w["pid"] for w in status["workers"]}}

    def status(self):
        done = subprocess.run([MUSTER, "status", "--json", "--control-socket", self.socket], capture_output=True)
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def cpu_seconds(self):
        def of(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return {name: of(pid) for name, pid in self.pids.items()}

    def bench(self, model, concurrency, seconds, warmup=1):
        before = self.cpu_seconds()
        done = subprocess.run([MUSTER, "bench", model, "--url", f"http://127.0.0.1:{self.port}", "--json",
                               "--concurrency", str(concurrency), "--duration", str(seconds), "--warmup", str(warmup)],
                              capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"muster bench failed: {done.stderr}{done.stdout}")
        level = json.loads(done.stdout)["levels"][0]
        after = self.cpu_seconds()
        # the warm-up's requests cost too: per request of the whole time
        requests = level["requests"] * (seconds + warmup) / seconds
        level["cpu_us"] = {name: (after[name] - before[name]) / requests * 1e6 for name in before}
        return level

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()


def in_process(path, batch, seconds):
    """Inferences a second of onnxruntime in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(CORES)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for i in session.get_inputs():
        dims = [batch] + [d if isinstance(d, int) else 1 for d in i.shape[1:]]
        dtype = {"tensor(float)": np.float32, "tensor(int32)": np.int32}[i.type]
        feeds[i.name] = np.random.default_rng(1).integers(0, 2, dims).astype(dtype)
    for _ in range(5):
        session.run(None, feeds)
    n, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        session.run(None, feeds)
        n += 1
    return n * batch / passed


# ---- what is measured ----------------------------------------------------------------------------------------------------------

def measure(name, path, seconds, folder):
    rows = []
    baselines = {} if name.startswith("identity") else {n: in_process(path, n, seconds) for n in LEVELS}
    server = Server(folder, path)
    try:
        for level in LEVELS:
            result = server.bench(name, level, seconds)
            base = baselines.get(level)
            rows.append({"model": name, "concurrency": level, "inferences_per_second": result["inferences_per_second"],
                         "in_process_same_batch": base, "ratio": result["inferences_per_second"] / base if base else None,
                         "p50_us": result["p50_us"], "p99_us": result["p99_us"], "mean_batch": result["mean_batch"],
                         "errors": result["errors"], "cpu_us_per_request": result["cpu_us"]})
    finally:
        server.close()
    return rows


def print_rows(rows):
    def number(value, decimals=0):
        return "-" if value is None else f"{value:,.{decimals}f}"
    print(f"{'model':<12}{'clients':>8}{'inf/s':>12}{'in-process':>12}{'ratio':>8}{'p50 us':>11}{'p99 us':>11}{'batch':>8}"
          f"{'errors':>8}   CPU us/request")
    for row in rows:
        cpu = "  ".join(f"{name} {us:.1f}" for name, us in row["cpu_us_per_request"].items())
        print(f"{row['model']:<12}{row['concurrency']:>8}{number(row['inferences_per_second']):>12}"
              f"{number(row['in_process_same_batch']):>12}{number(row['ratio'], 2):>8}{number(row['p50_us'], 1):>11}"
              f"{number(row['p99_us'], 1):>11}{number(row['mean_batch'], 2):>8}{number(row['errors']):>8}   {cpu}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="measured time of each figure")
    parser.add_argument("--only", nargs="*", help="models: mlp magika identity16 identity1m")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        folder = pathlib.Path(folder)
        for name, path in models(folder / "models").items():
            if arguments.only and name not in arguments.only:
                continue
            rows += measure(name, path, arguments.seconds, folder)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(rows)


if __name__ == "__main__":
    main()
