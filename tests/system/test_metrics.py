"""What is counted and said: Prometheus, /health, /stats, the log."""
import concurrent.futures
import json
import math
import os
import re
import shutil
import subprocess
import urllib.parse

import numpy as np
import pytest

from muster_server import MODELS, PATIENCE, put_model, run_muster, sim_config, wait_for
from oip import COMPRESS, DECOMPRESS, Wire, outputs_of, tensor
from ports import free_ports
from traffic import standing_still, wait_depth, worker_pids

X = np.arange(4, dtype=np.float32).reshape(1, 4)
SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="[^"]*",?)*)\})? (\S+)')
COUNTERS = ["nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count",
            "nv_inference_exec_count", "nv_inference_request_duration_us", "nv_inference_queue_duration_us",
            "nv_inference_compute_input_duration_us", "nv_inference_compute_infer_duration_us",
            "nv_inference_compute_output_duration_us", "muster_requests_retried_total", "muster_connections_total",
            "muster_http_requests_total", "muster_worker_deaths_total", "muster_traces_written_total",
            "muster_traces_dropped_total"]
GAUGES = ["nv_inference_pending_request_count", "nv_model_load_duration_secs", "nv_cpu_utilization",
          "nv_cpu_memory_total_bytes", "nv_cpu_memory_used_bytes", "muster_model_ready", "muster_model_instances_ready",
          "muster_server_ready", "muster_connections_open", "muster_memory_used_bytes", "muster_memory_limit_bytes"]
HISTOGRAMS = ["muster_request_duration_seconds", "muster_queue_duration_seconds", "muster_batch_size"]


class Page:
    """Prometheus' text form, read strictly."""

    def __init__(self, text: str):
        assert text.endswith("\n")
        self.types, self.help, self.samples = {}, {}, {}
        for line in text.splitlines():
            kind, _, rest = line.partition(" ")
            if line.startswith("# HELP "):
                name, _, help_text = rest.partition(" ")[2].partition(" ")
                assert name not in self.help and help_text
                self.help[name] = help_text
            elif line.startswith("# TYPE "):
                name, kind = rest.split(" ")[1:]
                assert name in self.help and name not in self.types  # HELP first, each once
                self.types[name] = kind
                assert kind in ("counter", "gauge", "histogram", "summary")
            else:
                found = SAMPLE.fullmatch(line)
                assert found, line
                labels = tuple(sorted(re.findall(r'([a-z]+)="([^"]*)"', found[2] or "")))
                base = re.sub("_(bucket|sum|count)$", "", found[1])
                assert found[1] in self.types or self.types.get(base) in ("histogram", "summary"), line
                assert (found[1], labels) not in self.samples, line
                self.samples[found[1], labels] = float(found[3])

    def get(self, name: str, **labels) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]

    def of(self, name: str, model: str, **labels) -> float:
        return self.get(name, model=model, version="1", **labels)

    def histogram(self, name: str, model: str) -> list[tuple[float, float]]:
        found = [(float(dict(labels)["le"]), value) for (sample, labels), value in self.samples.items()
                 if sample == f"{name}_bucket" and dict(labels)["model"] == model]
        return found


def page_of(server) -> Page:
    return Page(server.metrics())


def request(array=X) -> list[dict]:
    return [tensor("x", array)]


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name in ("echo", "counted", "batched", "idle"):
        put_model(models, name, config=sim_config(max_batch_size=8, base_ms=20 if name == "batched" else 0))
    put_model(models, "fails", config=sim_config(max_batch_size=8, fail_on=7))
    return serve_module(models)


# ---- the page


def test_page(server):
    reply = server.get("/metrics", port=server.metrics_port)
    assert reply.status == 200 and reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    page = Page(reply.body.decode())
    assert page.types == {**dict.fromkeys(COUNTERS, "counter"), **dict.fromkeys(GAUGES, "gauge"),
                          **dict.fromkeys(HISTOGRAMS, "histogram")}
    models = {dict(labels)["model"] for (name, labels) in page.samples if name == "nv_inference_count"}
    assert models == {"echo", "counted", "batched", "idle", "fails"}
    assert {name for (name, labels) in page.samples if labels == ()} == {
        name for name in COUNTERS + GAUGES if re.match("nv_cpu|muster_(server|conn|http|memory|worker|traces)", name)}


def test_head_and_compression_of_the_page(server):
    with Wire(server.metrics_port) as wire:
        reply = wire.ask("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        assert reply.headers["Content-Encoding"] == "gzip" and Page(DECOMPRESS["gzip"](reply.body).decode())
        assert wire.ask("HEAD", "/metrics").status == 200
        assert wire.ask("POST", "/metrics", b"").status == 405


def promtool_complaints(server):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run([promtool, "check", "metrics"], input=server.metrics(), capture_output=True, text=True,
                          timeout=PATIENCE)
    # Triton's names break promtool's rules of style; they are what dashboards ask for
    return [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("nv_")]


def test_promtool_finds_nothing_wrong(server):
    assert promtool_complaints(server) == []


def test_idle_model_is_all_zero(server):
    page = page_of(server)
    for name in COUNTERS[:9]:
        labels = [{"reason": r} for r in ("REJECTED", "CANCELED", "BACKEND", "OTHER")] if "failure" in name else [{}]
        assert [page.of(name, "idle", **label) for label in labels] == [0] * len(labels)
    assert (page.of("muster_model_ready", "idle"), page.of("muster_model_instances_ready", "idle")) == (1, 1)
    assert page.get("muster_server_ready") == 1 and page.get("muster_worker_deaths_total") == 0
    assert 0 < page.get("muster_memory_limit_bytes")


def test_counters_are_exact(server):
    before = page_of(server)
    with Wire(server.port) as wire:
        for rows in (1, 1, 2, 5):
            assert wire.infer("counted", {"inputs": request(np.repeat(X, rows, axis=0))}).status == 200
        assert wire.infer("counted", {"inputs": []}).status == 400
    page = page_of(server)
    assert page.of("nv_inference_request_success", "counted") == 4
    assert page.of("nv_inference_count", "counted") == 9
    assert page.of("nv_inference_exec_count", "counted") == 4
    failures = {reason: page.of("nv_inference_request_failure", "counted", reason=reason)
                for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")}
    assert failures == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 0, "OTHER": 1}
    parts = sum(page.of(f"nv_inference_{part}_duration_us", "counted")
                for part in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= page.of("nv_inference_request_duration_us", "counted") + 4  # each is cut to microseconds
    assert page.of("nv_inference_pending_request_count", "counted") == 0
    # each reading of the page is a request and a connection of its own
    assert page.get("muster_http_requests_total") - before.get("muster_http_requests_total") == 6
    assert page.get("muster_connections_total") - before.get("muster_connections_total") == 2
    assert page.get("muster_connections_open") >= 1


def test_engine_errors_are_failures_of_the_backend(server):
    assert server.infer("fails", request(np.array([[7, 0, 0, 0]], np.float32))).status in (400, 500)
    page = page_of(server)
    assert sum(page.of("nv_inference_request_failure", "fails", reason=reason)
               for reason in ("REJECTED", "CANCELED", "BACKEND", "OTHER")) == 1
    assert page.of("nv_inference_request_success", "fails") == page.of("nv_inference_count", "fails") == 0


def test_histograms_add_up(server):
    for rows in (1, 3):
        assert server.infer("echo", request(np.repeat(X, rows, axis=0))).status == 200
    page = page_of(server)
    for name in HISTOGRAMS:
        for model in ("echo", "counted", "batched", "idle", "fails"):
            buckets = page.histogram(name, model)
            bounds, counts = zip(*buckets)
            assert list(bounds) == sorted(bounds) and bounds[-1] == math.inf and len(bounds) > 10
            assert list(counts) == sorted(counts) and counts[-1] == page.of(f"{name}_count", model)
            assert (page.of(f"{name}_sum", model) > 0) == (counts[-1] > 0)
    requests = page.of("nv_inference_request_success", "echo")
    assert page.of("muster_request_duration_seconds_count", "echo") == requests
    assert page.of("muster_queue_duration_seconds_count", "echo") == requests
    assert page.of("muster_batch_size_count", "echo") == page.of("nv_inference_exec_count", "echo")
    assert page.of("muster_batch_size_sum", "echo") == page.of("nv_inference_count", "echo")
    assert page.of("muster_request_duration_seconds_sum", "echo") == pytest.approx(
        page.of("nv_inference_request_duration_us", "echo") / 1e6, abs=2e-6 * requests + 1e-6)


def test_batches_are_seen(server):
    """More rows than executions once many come at the same time; metrics, statistics and /stats agree."""
    def one(i):
        with Wire(server.port) as wire:
            return [outputs_of(wire.infer("batched", {"inputs": request(X + i)}))["y"][0, 0] for _ in range(4)]

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        with standing_still(*worker_pids(server, "batched")):  # so that the first ones do come at the same time
            answers = [pool.submit(one, i) for i in range(16)]
            wait_depth(server, 16)
        assert [answer.result() for answer in answers] == [[i] * 4 for i in range(16)]
    page, stats = page_of(server), server.get("/v2/models/batched/stats").json["model_stats"][0]
    assert page.of("nv_inference_count", "batched") == stats["inference_count"] == 64
    assert page.of("nv_inference_exec_count", "batched") == stats["execution_count"] < 60
    sizes = {b["batch_size"]: b["compute_infer"]["count"] for b in stats["batch_stats"]}
    assert sum(size * n for size, n in sizes.items()) == 64 and max(sizes) > 1
    histogram = dict(page.histogram("muster_batch_size", "batched"))
    for bound in (1, 2, 4, 8):
        assert histogram[bound] == sum(n for size, n in sizes.items() if size <= bound)
    # a batch takes 20 ms: every request took at least that
    assert dict(page.histogram("muster_request_duration_seconds", "batched"))[0.01] == 0


SUMMARIES = [f"nv_inference_{part}_summary_us" for part in ("request", "queue", "compute_input", "compute_infer",
                                                            "compute_output")]


def test_figures_of_the_machine(server):
    page = page_of(server)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert page.get("nv_cpu_memory_total_bytes") == total
    assert 0 < page.get("nv_cpu_memory_used_bytes") < total
    assert 0 <= page.get("nv_cpu_utilization") <= 1
    assert all(0 < page.of("nv_model_load_duration_secs", model) < PATIENCE for model in ("echo", "idle"))


def test_metrics_config(serve, tmp_path):
    """Triton's kinds of latencies: summaries and the histogram are asked for, the counters can be left out."""
    models = put_model(tmp_path / "models", "slow", config=sim_config(max_batch_size=8, base_ms=20))
    put_model(models, "idle", config=sim_config())
    server = serve(models, "--metrics-config", "summary_latencies=true", "--metrics-config",
                   "summary_quantiles=0.5:0.05,0.99:0.001", "--metrics-config=histogram_latencies=true",
                   "--metrics-config", "counter_latencies=false", "--allow-cpu-metrics=false")
    for _ in range(5):
        assert server.infer("slow", request()).status == 200
    page = page_of(server)
    assert [name for name, kind in page.types.items() if kind == "summary"] == SUMMARIES
    assert not [name for name in page.types if name.endswith("_duration_us") or name.startswith("nv_cpu")]
    for name in SUMMARIES:
        assert page.of(f"{name}_count", "slow") == 5 and page.of(f"{name}_count", "idle") == 0
        assert math.isnan(page.of(name, "idle", quantile="0.5"))
        quantiles = [page.of(name, "slow", quantile=q) for q in ("0.5", "0.99")]
        assert quantiles == sorted(quantiles)
    # a run takes 20 ms, and quantiles are within a hundredth of the value
    assert page.of("nv_inference_compute_infer_summary_us", "slow", quantile="0.5") > 0.99 * 20e3
    assert page.of("nv_inference_request_summary_us_sum", "slow") >= 5 * 20e3
    buckets = page.histogram("nv_inference_first_response_histogram_ms", "slow")
    assert [bound for bound, _ in buckets] == [100, 500, 2000, 5000, math.inf] and buckets[-1][1] == 5
    assert page.of("nv_inference_first_response_histogram_ms_count", "slow") == 5
    assert promtool_complaints(server) == []


@pytest.mark.parametrize("setting, says", [("summary_latencies", "SETTING=VALUE"), ("latencies=true", "summary_quantiles"),
                                           ("summary_latencies=1", "true or false")])
def test_wrong_metrics_config(setting, says):
    done = run_muster("config", MODELS / "identity.onnx", "--metrics-config", setting)
    assert done.returncode == 2 and "--metrics-config" in done.stderr and says in done.stderr


def test_prometheus_scrapes(serve, tmp_path):
    """The server that the page is made for: it takes every sample, and answers from them."""
    prometheus = shutil.which("prometheus")
    assert prometheus, "script/bootstrap installs it"
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config(max_batch_size=8)), "--metrics-config",
                   "summary_latencies=true")
    for _ in range(3):
        assert server.infer("echo", request()).status == 200
    (tmp_path / "prometheus.yml").write_text(f"""
scrape_configs:
  - job_name: muster
    scrape_interval: 200ms
    scrape_timeout: 200ms
    static_configs: [{{targets: ["127.0.0.1:{server.metrics_port}"]}}]
""")
    port = free_ports(1)
    with open(tmp_path / "prometheus.log", "wb") as log:
        process = subprocess.Popen([prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                                    f"--web.listen-address=127.0.0.1:{port}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def ask(query):
        try:
            reply = server.get("/api/v1/query?" + urllib.parse.urlencode({"query": query}), port=port)
        except OSError:
            return None
        return [float(found["value"][1]) for found in reply.json["data"]["result"]] if reply.status == 200 else None

    def says(query, check):  # one scrape that comes too late makes everything unknown until the next one
        wait_for(lambda: (found := ask(query)) and check(found), f"{query} to be right")

    try:
        says('nv_inference_request_success{model="echo",version="1"}', lambda found: found == [3])
        says("up", lambda found: found == [1])
        says("muster_server_ready", lambda found: found == [1])
        says('nv_inference_request_summary_us{model="echo",quantile="0.5"}', lambda found: len(found) == 1 and found[0] > 0)
        says("nv_inference_request_summary_us_count", lambda found: found == [3])
        says('count({__name__=~"nv_.+|muster_.+"})', lambda found: found[0] > 50)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_label_values_are_escaped(serve, tmp_path):
    models = put_model(tmp_path / "models", 'odd "name" \\ \u00e4', config=sim_config())
    page = serve(models).metrics()
    assert 'nv_inference_count{model="odd \\"name\\" \\\\ \u00e4",version="1"} 0' in page.splitlines()


def test_readiness_of_one_broken_model(serve, tmp_path):
    models = put_model(tmp_path / "models", "good", config=sim_config())
    put_model(models, "broken", config=sim_config(load_fail=1))
    server = serve(models, wait=False)
    wait_for(lambda: server.status().get("http"), "the port")
    wait_for(lambda: page_of(server).samples.get(("muster_model_ready", (("model", "good"), ("version", "1")))) == 1,
             "the good model")
    page = page_of(server)
    assert page.of("muster_model_ready", "broken") == page.of("muster_model_instances_ready", "broken") == 0
    assert page.get("muster_server_ready") == 0


# ---- /health and /stats: the forms of existing deployments


def test_health(server):
    reply = server.get("/health")
    assert reply.status == 200
    health = reply.json
    assert list(health) == ["healthy", "total_backends", "healthy_count", "backends"]
    assert (health["healthy"], health["total_backends"], health["healthy_count"]) == (True, 5, 5)
    assert [list(backend) for backend in health["backends"]] == [["address", "healthy", "total_requests",
                                                                 "error_count"]] * 5
    before = {b["address"].split("/")[0]: b["total_requests"] for b in health["backends"]}
    assert server.infer("echo", request()).status == 200
    after = {b["address"].split("/")[0]: b["total_requests"] for b in server.get("/health").json["backends"]}
    assert after == before | {"echo": before["echo"] + 1}


def test_stats(server):
    before = server.get("/stats").json
    assert server.infer("echo", request(np.repeat(X, 4, axis=0))).status == 200
    stats = server.get("/stats").json
    assert list(stats) == ["total_requests", "total_batches", "avg_batch_size", "queue_depth", "models", "per_gpu_stats"]
    assert stats["total_requests"] == before["total_requests"] + 1
    assert stats["total_batches"] == before["total_batches"] + 1
    assert stats["queue_depth"] == 0 and stats["models"] == ["batched", "counted", "echo", "fails", "idle"]
    rows = stats["avg_batch_size"] * stats["total_batches"]
    assert rows == pytest.approx(before["avg_batch_size"] * before["total_batches"] + 4)
    assert stats["per_gpu_stats"] == [{  # no GPU: all of it is under -1
        "gpu_id": -1, "current_queue_depth": 0, "total_requests": stats["total_requests"],
        "total_batches": stats["total_batches"], "avg_batch_size": stats["avg_batch_size"],
        "in_flight": 0, "error_count": stats["per_gpu_stats"][0]["error_count"], "workers": 5}]


# ---- the log


def log_of(server, check):
    """The lines of the log once check(lines) holds."""
    def look():
        text = server.log
        lines = [json.loads(line) for line in text[:text.rfind("\n") + 1].splitlines()]  # every line is JSON
        return lines if check(lines) else None
    return wait_for(look, "the log")


def test_json_log_with_request_ids(serve):
    server = serve(MODELS / "identity.onnx", "--log-verbose", "1")
    array = np.zeros((2, 16), np.float32)
    with Wire(server.port) as wire:
        assert wire.infer("identity", {"id": 'my "id"\n', "inputs": [tensor("x", array)]}).status == 200
        assert wire.infer("nobody", b"{}", {"X-Request-Id": "from-header"}).status == 404
        assert wire.infer("identity", {"id": "wrong", "inputs": []}).status == 400

    def said(lines, message):
        return [line for line in lines if line["message"] == message]

    lines = log_of(server, lambda lines: len(said(lines, "request refused")) >= 2)
    for line in lines:
        assert {"time", "level", "role", "message"} <= set(line)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("error", "warning", "info", "verbose")
    assert {line["role"] for line in lines} >= {"supervisor", "gateway", "worker"}
    (answered,) = said(lines, "request answered")
    assert (answered["id"], answered["model"], answered["rows"]) == ('my "id"\n', "identity", 2) and answered["us"] > 0
    nobody, wrong = said(lines, "request refused")
    assert (nobody["id"], nobody["code"], nobody["path"]) == ("from-header", 404, "/v2/models/nobody/infer")
    assert (wrong["id"], wrong["code"]) == ("wrong", 400) and "is missing" in wrong["error"]
    assert len({line["request"] for line in (answered, nobody, wrong)}) == 3


def test_log_without_details(serve):
    server = serve(MODELS / "identity.onnx")
    assert server.infer("identity", [tensor("x", np.zeros((1, 16), np.float32))]).status == 200
    lines = log_of(server, lambda lines: any(line["message"] == "ready" for line in lines))
    assert {line["level"] for line in lines} == {"info"}
    (ready,) = [line for line in lines if line["message"] == "ready"]
    assert ready["http"] == f"http://{server.url}" and ready["metrics"].endswith(f":{server.metrics_port}/metrics")
    quiet = serve(MODELS / "identity.onnx", "--log-info=false")
    assert quiet.log == ""


def test_text_log(serve):
    server = serve(MODELS / "identity.onnx", "--log-format", "text")
    pattern = re.compile(r"\d\d:\d\d:\d\d\.\d{3} (error|warning|info|verbose) +\w+: .*")
    assert server.log and all(pattern.fullmatch(line) for line in server.log.splitlines())
    assert re.search(r"supervisor: ready http=http://127.0.0.1:\d+ ", server.log)


def test_a_name_cannot_forge_a_line(serve):
    """What clients send reaches the log only within its string."""
    server = serve(MODELS / "identity.onnx", "--log-verbose", "1")
    with Wire(server.port) as wire:
        assert wire.ask("GET", '/v2/x"},{"message":"forged"').status == 404
        body = COMPRESS["gzip"](json.dumps({"id": '"}\n{"message":"forged"}', "inputs": []}).encode())
        assert wire.infer("identity", body, {"Content-Encoding": "gzip"}).status == 400
    lines = log_of(server, lambda lines: any("is missing" in line.get("error", "") for line in lines))
    assert "forged" not in {line["message"] for line in lines}
