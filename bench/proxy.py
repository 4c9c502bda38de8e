#!/usr/bin/env python3
"""`muster proxy` beside direct calls of the same server, in turns in one run (h2load is the client):

  gRPC, HTTP      a small inference (identity FP32 [1,16] of the sim engine) by muster serve
  Python gRPC     an empty echo by a grpcio server, as the proxy's backends in the field are

one at a time: p50 and what the proxy adds to it. 32 at a time: requests a second and their ratio. Everything shares the machine's cores, so at 32 the
proxy takes CPU time from server and client.

    proxy.py [--seconds S] [--rounds N] [--json]
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "system"))
import numpy as np
from tritonclient.grpc import service_pb2

from muster_server import put_model, sim_config
from proxy_process import Backends, Proxy
from server import Server

GRPC = ["-H", "content-type: application/grpc", "-H", "te: trailers"]
WAYS = {"one at a time": (1, 1), "32 at a time": (8, 4)}


def h2load(url, body, seconds, connections, streams, http1, folder):
    log = pathlib.Path(folder) / "requests"
    log.unlink(missing_ok=True)
    kind = ["--h1", "-H", "content-type: application/json"] if http1 else GRPC
    if http1:  # one request at a time on each connection
        connections, streams = connections * streams, 1
    done = subprocess.run(["h2load", "-c", str(connections), "-m", str(streams), "-D", str(seconds), "--log-file", log, "-d", body, *kind, url],
                          capture_output=True, text=True, check=True).stdout
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", done)
    if set(failed.groups()) != {"0"} or "0 4xx, 0 5xx" not in done:
        sys.exit(f"requests failed: {done}")
    rate = float(re.search(r"finished in .*?, ([\d.]+) req/s", done).group(1))
    return statistics.median(int(line.split()[2]) for line in log.open()), rate


def measure(name, direct, proxied, body, http1, options, folder, path):
    rows = []
    for way, (connections, streams) in WAYS.items():
        rounds = []
        for _ in range(options.rounds):
            rounds.append([h2load(f"http://{address}{path}", body, options.seconds, connections, streams, http1, folder) for address in (direct, proxied)])
        p50 = [statistics.median(r[i][0] for r in rounds) for i in (0, 1)]
        rate = [statistics.median(r[i][1] for r in rounds) for i in (0, 1)]
        ratios = [r[1][1] / r[0][1] for r in rounds]
        rows.append({"what": name, "way": way, "p50_us": p50, "per_s": rate, "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)]})
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        put_model(folder / "models", "echo", config=sim_config(dims="16", max_batch_size=8))
        x = np.zeros((1, 16), np.float32)
        tensor = service_pb2.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=x.shape)
        message = service_pb2.ModelInferRequest(model_name="echo", inputs=[tensor], raw_input_contents=[x.tobytes()]).SerializeToString()
        bodies = {"grpc": b"\0" + len(message).to_bytes(4, "big") + message, "empty": bytes(5),
                  "http": json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": x.ravel().tolist()}]}).encode()}
        for name, body in bodies.items():
            (folder / name).write_bytes(body)
        rows = []
        with Server(folder, folder / "models" / "echo" / "1" / "model.onnx") as server:
            with Proxy("--backends", f"127.0.0.1:{server.grpc_port}") as proxy:
                proxy.wait_healthy(1)
                for name, port, body, path in (("gRPC", server.grpc_port, "grpc", "/inference.GRPCInferenceService/ModelInfer"),
                                               ("HTTP", server.port, "http", "/v2/models/echo/infer")):
                    rows += measure(name, f"127.0.0.1:{port}", f"127.0.0.1:{proxy.ports['grpc']}", folder / body, name == "HTTP", options, folder, path)
        backends = Backends("a")
        try:
            with Proxy("--backends", backends.list()) as proxy:
                proxy.wait_healthy(1)
                rows += measure("Python gRPC", backends.list(), f"127.0.0.1:{proxy.ports['grpc']}", folder / "empty", False, options, folder, "/echo.Echo/Unary")
        finally:
            backends.close()
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'':12} {'':14} {'p50 direct':>11} {'proxied':>9} {'added':>9} {'direct/s':>9} {'proxied/s':>10} {'ratio':>6}  spread")
    for row in rows:
        (a, b), (c, d) = row["p50_us"], row["per_s"]
        print(f"{row['what']:12} {row['way']:14} {a:8.0f} us {b:6.0f} us {b - a:6.0f} us {c:9.0f} {d:10.0f} {row['ratio']:6.2f}  "
              f"{row['spread'][0]:.2f} .. {row['spread'][1]:.2f}")


if __name__ == "__main__":
    main()
