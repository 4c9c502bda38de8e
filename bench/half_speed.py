#!/usr/bin/env python3
"""Four simulated GPUs, one of them at half speed: throughput against the ideal, 3.5 times that of one.

    half_speed.py [--seconds S] [--json]

Each row is a server with a model of engine sim and clients that always have another request. `one` is one GPU, `even` four at full speed,
`half` four of which one has half the speed. The ideal is 3.5 times `one`, the aim 0.95 of it; `work` is what the slow one did beside the mean of the others.
"""
import argparse
import json
import pathlib
import sys
import tempfile
import urllib.request

from server import Server

AIM = 0.95
ROWS = {"single requests": {"batch": 1, "clients": 16}, "batches of 8": {"batch": 8, "clients": 96}}


def put_model(folder, row, speeds):
    (folder / "models" / "sim" / "1").mkdir(parents=True)
    lines = ['backend: "sim"', f"max_batch_size: {row['batch']}", "input { name: 'x' data_type: TYPE_FP32 dims: [4] }",
             "output { name: 'y' data_type: TYPE_FP32 dims: [4] }", "instance_group { kind: KIND_GPU }"]
    parameters = {"profile": "none", "gpu_ms": 8, "gpu_per_item_ms": 2, **{f"gpu_speed.{i}": speed for i, speed in enumerate(speeds)}}
    lines += [f'parameters {{ key: "sim.{key}" value {{ string_value: "{value}" }} }}' for key, value in parameters.items()]
    (folder / "models" / "sim" / "config.pbtxt").write_text("\n".join(lines) + "\n")
    return folder / "models"


def measure(row, speeds, seconds):
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        folder = pathlib.Path(folder)
        with Server(folder, put_model(folder, row, speeds), ["--simulate-gpus", str(len(speeds))]) as server:
            result = server.bench("sim", row["clients"] * len(speeds) // 4, seconds, warmup=2)
            stats = json.load(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/stats"))["per_gpu_stats"]
    if result["errors"]:
        sys.exit(f"{result['errors']} requests failed")
    return result, [entry["total_requests"] for entry in sorted(stats, key=lambda entry: entry["gpu_id"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5, help="measured time of each server")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    results = []
    for name, row in ROWS.items():
        rates = {}
        for kind, speeds in {"one": [1], "even": [1] * 4, "half": [1, 1, 0.5, 1]}.items():
            result, work = measure(row, speeds, arguments.seconds)
            rates[kind] = result["inferences_per_second"]
        results.append({"row": name, **rates, "of_ideal": rates["half"] / (3.5 * rates["one"]), "work": 3 * work[2] / (sum(work) - work[2]),
                        "mean_batch": result["mean_batch"]})
    if arguments.json:
        print(json.dumps(results, indent=2))
    else:
        print(f"{'row':<20}{'one':>10}{'even':>10}{'half':>10}{'of 3.5 x one':>14}{'work':>8}{'batch':>8}")
        for r in results:
            print(f"{r['row']:<20}{r['one']:>10.1f}{r['even']:>10.1f}{r['half']:>10.1f}{r['of_ideal']:>14.3f}{r['work']:>8.3f}{r['mean_batch']:>8.2f}")
    if any(result["of_ideal"] < AIM for result in results):
        sys.exit(f"a row is below {AIM} of the ideal")


if __name__ == "__main__":
    main()
