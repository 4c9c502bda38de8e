"""NVIDIA's own load generator, unmodified (script/bootstrap fetches it): its C++ clients are stricter than the Python ones, and
it reads the model's metadata, configuration, statistics and metrics. Its figures have to be the server's own."""
import json
import os
import re
import subprocess

import pytest

from muster_server import DEPS, PATIENCE, put_model

PROGRAM = DEPS / "perf_analyzer" / "perf_analyzer"
WINDOWS = ["-p", "100", "-r", "100", "-s", "999"]  # it ends with three windows that are much alike: the first ones, but for a busy machine
SHARED = ["--shared-memory", "system", "--output-shared-memory-size", "1024"]
STREAM = ["--streaming", "--async"]


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    put_model(models, "identity", "identity.onnx")
    put_model(models, "text", "string_identity.onnx")
    put_model(models, "batched", "identity.onnx", config="max_batch_size: 8\ndynamic_batching {}\n")
    return serve_module(models, "--trace-config", f"triton,file={module_path / 'trace'}")


def counted(server, model):
    """Of the server's statistics: successes, failures, rows, executions."""
    (stats,) = server.get(f"/v2/models/{model}/stats").json["model_stats"]
    return [stats["inference_stats"]["success"]["count"], stats["inference_stats"]["fail"]["count"],
            stats["inference_count"], stats["execution_count"]]


def numbers(text, name):
    return [int(found) for found in re.findall(rf"{name}: (\d+)", text)]


@pytest.fixture
def analyze(server, tmp_path):
    """analyze(protocol, model, *arguments, rows=1) runs it and holds what it says against the server's statistics; its output."""
    def run(protocol, model, *arguments, rows=1):
        url = f"127.0.0.1:{server.port if protocol == 'http' else server.grpc_port}"
        for window in ("100", "1000", "5000"):  # the longer ones for a machine that answers nothing within one
            before = counted(server, model)
            words = [window if last == "-p" else word for last, word in zip(["", *arguments], arguments)]
            done = subprocess.run([PROGRAM, "-m", model, "-i", protocol, "-u", url, "-b", str(rows), *map(str, words)],
                                  cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, check=False,
                                  env={**os.environ, "LD_LIBRARY_PATH": str(PROGRAM.parent)})
            text = done.stdout + done.stderr
            if "No valid requests recorded" not in text:
                break
        assert done.returncode == 0 and not re.search(r"error|fail|exception", text, re.IGNORECASE), text
        successes, failures, n_rows, executions = (b - a for a, b in zip(before, counted(server, model)))
        client, reported = numbers(text, "Request count"), numbers(text, "Successful request count")
        assert client and min(client) > 0 and len(client) == len(reported), text
        assert failures == 0 and n_rows == rows * successes and 0 < executions <= successes, text
        assert sum(client) <= successes and sum(reported) <= successes, text  # it also sends between the windows
        assert numbers(text, "Inference count") == [rows * count for count in reported], text
        assert server.get("/v2/systemsharedmemory/status").json == [], text
        return text
    return run


def test_exact_count(server, analyze):
    """Where the number of requests is given, the client's account and the server's own are the same. Its report of the server
    may miss the first ones: its threads begin to send before it reads the statistics that it later subtracts."""
    before = counted(server, "identity")
    text = analyze("grpc", "identity", "--request-count", 64)
    assert numbers(text, "Request count") == [64]
    assert counted(server, "identity")[0] - before[0] == 64
    parts = re.search(r"Avg request latency: (\d+) usec \(overhead (\d+) usec \+ queue (\d+) usec \+ compute input (\d+) usec "
                      r"\+ compute infer (\d+) usec \+ compute output (\d+) usec", text)
    total, *rest = (int(part) for part in parts.groups())
    assert abs(total - sum(rest)) <= len(rest), text  # each is rounded


@pytest.mark.parametrize("protocol, arguments", [
    ("http", []), ("http", ["--async"]), ("http", SHARED), ("http", ["--input-tensor-format", "json"]),
    ("http", ["--output-tensor-format", "json"]), ("grpc", []), ("grpc", ["--async"]), ("grpc", STREAM), ("grpc", SHARED),
    ("grpc", [*SHARED, *STREAM]), ("grpc", ["--grpc-compression-algorithm", "gzip"]), ("grpc", ["-x", "1"]),
], ids=lambda value: value if isinstance(value, str) else "_".join(word.strip("-") for word in value) or "plain")
def test_ways(analyze, protocol, arguments):
    analyze(protocol, "identity", *WINDOWS, *arguments)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_levels(analyze, protocol):
    """Two levels of concurrency, then two rates: a report for each."""
    text = analyze(protocol, "batched", *WINDOWS, "--concurrency-range", "2:4:2")
    assert len(numbers(text, "Request count")) == 2 and numbers(text, "Concurrency") == [2, 4]
    text = analyze(protocol, "batched", *WINDOWS, "--request-rate-range", "200:300:100")
    assert len(numbers(text, "Request count")) == 2 and numbers(text, "Request Rate")[-2:] == [200, 300]


@pytest.mark.parametrize("arguments", [["http"], ["grpc"], ["grpc", *STREAM], ["http", *SHARED], ["grpc", *SHARED]],
                         ids="_".join)
def test_rows(analyze, arguments):
    protocol, *more = arguments
    analyze(protocol, "batched", *WINDOWS, *more, rows=4)


@pytest.mark.parametrize("protocol, arguments", [("http", []), ("grpc", []), ("grpc", STREAM), ("http", SHARED), ("grpc", SHARED)],
                         ids=lambda value: value if isinstance(value, str) else "_".join(value) or "plain")
def test_input_data(analyze, tmp_path, protocol, arguments):
    """Tensors of its own from a file, and what is to come back for each: it compares them itself, but for shared memory, where
    it looks for them in the answer."""
    values = [[i + k / 4 for k in range(16)] for i in range(3)]
    told = {"data": [{"x": {"content": row, "shape": [16]}} for row in values]}
    if arguments != SHARED:
        told["validation_data"] = [{"y": {"content": row, "shape": [16]}} for row in values]
    (tmp_path / "data.json").write_text(json.dumps(told))
    analyze(protocol, "identity", *WINDOWS, *arguments, "--input-data", "data.json")


@pytest.mark.parametrize("protocol, arguments", [("http", []), ("grpc", []), ("grpc", STREAM), ("http", SHARED), ("grpc", SHARED)],
                         ids=lambda value: value if isinstance(value, str) else "_".join(value) or "plain")
def test_strings(analyze, tmp_path, protocol, arguments):
    analyze(protocol, "text", *WINDOWS, *arguments, "--shape", "text:3", "--string-length", "40")
    (tmp_path / "data.json").write_text(json.dumps({"data": [{"text": {"content": ["a", "", "gr\u00fc\u00df"], "shape": [3]}}]}))
    analyze(protocol, "text", *WINDOWS, *arguments, "--input-data", "data.json")


def test_metrics(server, analyze, tmp_path):
    """On a machine without a GPU it misses that one's metrics, by name, as it does at Triton; it reads all the others."""
    text = analyze("http", "identity", "--request-count", 32, "--collect-metrics", "--metrics-interval", 50,
                   "--metrics-url", f"127.0.0.1:{server.metrics_port}/metrics", "-f", "report.csv", "--verbose-csv")
    missed = re.findall(r"Unable to parse '(\w+)' metric", text)
    assert all(name.startswith("nv_gpu_") for name in missed), text
    head, row = (tmp_path / "report.csv").read_text().splitlines()[:2]
    assert head.startswith("Concurrency,Inferences/Second") and row.startswith("1,")


def test_trace_and_headers(server, analyze):
    analyze("http", "identity", *WINDOWS, "-H", "x-request-source: perf")
    analyze("grpc", "identity", "--request-count", 32, "--trace-level", "TIMESTAMPS", "--trace-rate", 8, "--trace-count", 4,
            "--log-frequency", 2)


def test_wrong_model(server, tmp_path):
    """What it is told of a model that is not there is what Triton would tell."""
    for protocol, port in (("http", server.port), ("grpc", server.grpc_port)):
        done = subprocess.run([PROGRAM, "-m", "nobody", "-i", protocol, "-u", f"127.0.0.1:{port}"], cwd=tmp_path, capture_output=True,
                              text=True, timeout=PATIENCE, check=False, env={**os.environ, "LD_LIBRARY_PATH": str(PROGRAM.parent)})
        assert done.returncode != 0 and "Request for unknown model: 'nobody' is not found" in done.stdout + done.stderr
