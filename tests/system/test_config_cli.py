"""The command line and the settings: help, sources and their order, files, variables, tritonserver's names."""
import json
import re
import socket

import pytest

from muster_server import MODELS, PATIENCE, ROOT, put_model, run_muster, sim_config
from oip import COMPRESS, Wire, chunks

COMMANDS = [
    "serve",
    "launch",
    "proxy",
    "plan",
    "bench",
    "gpus",
    "status",
    "top",
    "mps",
    "reload",
    "upgrade",
    "stop",
    "config",
    "version",
    "help",
]
REFERENCE = ROOT / "docs" / "options.md"


def options(*arguments, **where) -> dict:
    """Every setting: {name: {"value", "source", "origin"}}."""
    done = run_muster("config", "--json", *arguments, **where)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["options"]


def flag_of(key: str) -> str:
    return "--" + key.replace("_", "-")


# ---- commands


def test_overview(tmp_path):
    for arguments in (["--help"], ["-h"], ["help"]):
        done = run_muster(*arguments)
        assert done.returncode == 0 and done.stderr == ""
        assert re.findall(r"^  (\w+) +[A-Z]", done.stdout, re.M) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command):
    done = run_muster(command, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"Usage: muster {command}") and done.stderr == ""
    assert run_muster("help", command).stdout == run_muster(command, "-h").stdout == done.stdout


def test_help_of_serve_lists_every_option():
    text = run_muster("serve", "--help").stdout
    listed = re.findall(r"^  (--[a-z-]+)", text, re.M)
    assert listed == [flag_of(key) for key in options()] and len(set(listed)) == len(listed) > 40
    assert max(len(line) for line in text.splitlines()) <= 110


def test_version():
    done = run_muster("version")
    assert done.returncode == 0 and re.fullmatch(r"muster \d+\.\d+\.\d+\n", done.stdout)
    assert run_muster("--version").stdout == run_muster("-V").stdout == done.stdout
    assert run_muster("version", "x").returncode == 2


@pytest.mark.parametrize("arguments, message", [
    ([], "a command is missing"), (["serv"], "unknown command 'serv': did you mean serve?"),
    (["confg"], "did you mean config?"), (["frobnicate"], "unknown command 'frobnicate': see muster help"),
    ([MODELS / "add.onnx"], "did you mean muster serve"), (["help", "serv"], "no command 'serv'"),
    (["config", "--reference", "x"], "--reference takes no other argument"),
    (["config", "--jsn"], "unknown flag --jsn"), (["status", "--no-such"], "unknown flag --no-such"),
    (["--role", "worker"], "--role is for muster's own processes")])
def test_wrong_use(arguments, message):
    done = run_muster(*arguments)
    assert done.returncode == 2 and done.stdout == "" and message in done.stderr


def test_reference_page_is_the_printed_one():
    done = run_muster("config", "--reference")
    assert done.returncode == 0
    assert REFERENCE.read_text() == done.stdout, "muster config --reference > docs/options.md"
    assert "| `--model-repository`, `--model-store` | `model_repository` |" in done.stdout
    assert re.findall(r"^\| `(--[a-z-]+)`", done.stdout, re.M) == [flag_of(key) for key in options()]


# ---- where settings come from


def test_defaults(tmp_path):
    found = options(cwd=tmp_path)
    assert {o["source"] for o in found.values()} == {"default"}
    assert {key: found[key]["value"] for key in ("http_port", "metrics_port", "grpc_port", "body_limit", "processes",
                                                 "max_batch_size", "strict_readiness", "exit_timeout_secs")} == {
        "http_port": 8000, "metrics_port": 8002, "grpc_port": 8001, "body_limit": 64 << 20, "processes": 1,
        "max_batch_size": 64, "strict_readiness": True, "exit_timeout_secs": 30}


def test_later_wins(tmp_path):
    (tmp_path / "muster.yaml").write_text("http_port: 1\nmetrics_port: 2\nmax_batch_size: 3\nthreads: 4\n")
    env = {"MUSTER_METRICS_PORT": "20", "MUSTER_MAX_BATCH_SIZE": "30", "MUSTER_INSTANCES": "50"}
    found = options("--max-batch-size", "300", "--processes=6", env=env, cwd=tmp_path)
    seen = {key: (found[key]["value"], found[key]["source"], found[key]["origin"]) for key in
            ("http_port", "metrics_port", "max_batch_size", "threads", "instances", "processes")}
    assert seen == {
        "http_port": (1, "file", "muster.yaml:1"), "metrics_port": (20, "environment", "MUSTER_METRICS_PORT"),
        "max_batch_size": (300, "flag", "--max-batch-size"), "threads": (4, "file", "muster.yaml:4"),
        "instances": (50, "environment", "MUSTER_INSTANCES"), "processes": (6, "flag", "--processes")}


def test_text_form_says_the_same(tmp_path):
    (tmp_path / "muster.yaml").write_text("http_port: 1\n")
    done = run_muster("config", "--threads", "2", env={"MUSTER_INSTANCES": "3"}, cwd=tmp_path)
    lines = dict(re.findall(r"^(\w+): (.*)$", done.stdout, re.M))
    assert re.fullmatch(r"1 +# muster.yaml:1", lines["http_port"])
    assert re.fullmatch(r"2 +# --threads", lines["threads"])
    assert re.fullmatch(r"3 +# MUSTER_INSTANCES", lines["instances"])
    assert re.fullmatch(r"8002 +# default", lines["metrics_port"])


def test_printed_settings_can_be_saved_and_read_again(tmp_path):
    flags = ["--body-limit", "3MiB", "--max-queue-delay", "500us", "--drain-delay", "1.5", "--model-repository", "a b",
             "--model-repository", "#c", "--log-format", "json", "--exit-on-error", "--address", "::1"]
    (tmp_path / "muster.yaml").write_text("models:\n  'odd name: #1':\n    instances: 2\n    engine: sim\n")
    first = run_muster("config", *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    saved = tmp_path / "saved.yaml"
    saved.write_text(first.stdout)

    def values(done):
        document = json.loads(done.stdout)
        return {k: v["value"] for k, v in document["options"].items() if k != "config"}, document["models"]

    again = run_muster("config", "--json", "--config", saved, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    before = values(run_muster("config", "--json", *flags, cwd=tmp_path))
    assert values(again) == before and before[1] == {"odd name: #1": {"instances": 2, "engine": "sim"}}


def test_models_have_settings_of_their_own(tmp_path):
    (tmp_path / "muster.yaml").write_text("instances: 3\nmodels:\n  ocr: { processes: 2, max_batch_size: 16 }\n  b: {}\n")
    done = run_muster("config", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["models"] == {"ocr": {"processes": 2, "max_batch_size": 16}, "b": {}}


def test_which_file(tmp_path):
    (tmp_path / "muster.yaml").write_text("threads: 1\n")
    (tmp_path / "other.yaml").write_text("threads: 2\n")

    def threads(*arguments, **env):
        return options(*arguments, env=env, cwd=tmp_path)["threads"]["value"]

    assert threads() == 1
    assert threads("--config", "other.yaml") == threads("--config=other.yaml") == 2
    assert threads(MUSTER_CONFIG="other.yaml") == 2
    assert threads("--config=muster.yaml", MUSTER_CONFIG="other.yaml") == 1
    assert threads("--config=") == "auto"


@pytest.mark.parametrize("text", ["max-batch-size: 5\n", "max_batch_size: '5'\n", "---\nmax_batch_size: 5\n...\n",
                                  "{max_batch_size: 5}\n", "# c\r\nmax_batch_size: 5\r\n"])
def test_spellings_of_the_file(tmp_path, text):
    (tmp_path / "muster.yaml").write_text(text)
    assert options(cwd=tmp_path)["max_batch_size"]["value"] == 5


@pytest.mark.parametrize("flags, key, value", [
    (["--body-limit", "1GiB"], "body_limit", 1 << 30), (["--body-limit=1.5MiB"], "body_limit", 3 << 19),
    (["--body-limit", "65536"], "body_limit", 65536), (["--idle-timeout", "250ms"], "idle_timeout", 0.25),
    (["--idle-timeout", "5m"], "idle_timeout", 300), (["--idle-timeout", "2"], "idle_timeout", 2),
    (["--max-queue-delay", "100"], "max_queue_delay", 1e-4), (["--max-queue-delay", "2ms"], "max_queue_delay", 2e-3),
    (["--max-queue-delay=learned"], "max_queue_delay", "learned"), (["--threads", "auto"], "threads", "auto"),
    (["--allow-metrics=false"], "allow_metrics", False), (["--no-allow-metrics"], "allow_metrics", False),
    (["--allow-metrics", "0"], "allow_metrics", False), (["--strict-readiness"], "strict_readiness", True),
    (["--exit-on-error=no"], "exit_on_error", "false"), (["--load-balance", "ROUND_ROBIN"], "load_balance", "round-robin"),
    (["--threads", "1", "--threads", "2"], "threads", 2)])
def test_spellings_of_values(tmp_path, flags, key, value):
    assert options(*flags, cwd=tmp_path)[key]["value"] == value


def test_address_is_for_all_listeners(tmp_path):
    found = options("--address", "127.0.0.1", "--metrics-address", "::1", cwd=tmp_path)
    assert {key: found[key]["value"] for key in ("http_address", "grpc_address", "metrics_address")} == {
        "http_address": "127.0.0.1", "grpc_address": "127.0.0.1", "metrics_address": "::1"}


# ---- names of others


@pytest.mark.parametrize("name, text, key, value", [
    ("MAX_BATCH_SIZE", "8", "max_batch_size", 8), ("ENABLE_BATCHING", "false", "max_batch_size", 1),
    ("ENABLE_BATCHING", "True", "max_batch_size", 64), ("MAX_BATCH_WAIT_TIME", "0.02", "max_batch_wait", 0.02),
    ("GPU_LOAD_BALANCE_STRATEGY", "round-robin", "load_balance", "round-robin"),
    ("GPU_LOAD_BALANCE_STRATEGY", "queue-depth", "load_balance", "queue-depth")])
def test_environment_of_existing_deployments(tmp_path, name, text, key, value):
    found = options(env={name: text}, cwd=tmp_path)[key]
    assert found["value"] == value and (found["origin"] == name or value == 64)
    own = {f"MUSTER_{name}": text} if name in ("MAX_BATCH_SIZE", "ENABLE_BATCHING") else {}
    if own:  # muster's own name counts before
        other = {"MAX_BATCH_SIZE": "9", "ENABLE_BATCHING": "true"}[name]
        assert options(env={**own, name: other}, cwd=tmp_path)[key]["value"] == value


def test_variables_that_kubernetes_makes_are_no_settings(tmp_path):
    env = {"MUSTER_SERVICE_HOST": "10.0.0.1", "MUSTER_SERVICE_PORT": "8000", "MUSTER_PORT": "tcp://10.0.0.1:8000",
           "MUSTER_PORT_8000_TCP_ADDR": "10.0.0.1"}
    assert {o["source"] for o in options(env=env, cwd=tmp_path).values()} == {"default"}


def test_tritonserver_command_line(tmp_path):
    found = options("--model-repository=/models", "--http-port=9000", "--http-address=127.0.0.1", "--grpc-port", "9001",
                    "--metrics-port=9002", "--allow-metrics=true", "--model-control-mode=explicit", "--load-model=a",
                    "--load-model", "b", "--exit-timeout-secs=5", "--log-verbose=1", "--log-info=true",
                    "--strict-readiness=true", "--exit-on-error=false", "--http-thread-count=4", "--model-store=/more",
                    "--log-format=ISO8601", "--http-max-input-size=1048576", "--allow-grpc=false", cwd=tmp_path)
    values = {key: o["value"] for key, o in found.items() if o["source"] == "flag"}
    assert values == {"model_repository": ["/models", "/more"], "http_port": 9000, "http_address": "127.0.0.1",
                      "grpc_port": 9001, "metrics_port": 9002, "allow_metrics": True, "model_control_mode": "explicit",
                      "load_model": ["a", "b"], "exit_timeout_secs": 5, "log_verbose": 1, "log_info": True,
                      "strict_readiness": True, "exit_on_error": "false", "gateway_threads": 4, "log_format": "ISO8601",
                      "body_limit": 1 << 20, "allow_grpc": False}


def test_tritonserver_flags_without_counterpart(tmp_path):
    """Those that lose nothing are a warning, those that would lose something an error."""
    harmless = run_muster("config", "--pinned-memory-pool-byte-size=1", "--backend-directory", "/opt", cwd=tmp_path)
    assert harmless.returncode == 0
    assert len(re.findall("warning: tritonserver's --[a-z-]+ has no counterpart: ", harmless.stderr)) == 2
    for flag in ("--rate-limit=execution_count", "--http-restricted-api=a:b=c", "--backend-config=onnxruntime,x=1"):
        refused = run_muster("config", flag, cwd=tmp_path)
        assert refused.returncode == 2 and "has no counterpart" in refused.stderr


# ---- what settings do to a server


def test_server_reads_file_environment_and_flags(serve, tmp_path):
    models = put_model(tmp_path / "models", "one", config=sim_config(max_batch_size=4))
    put_model(models, "two", config=sim_config(max_batch_size=4))
    (tmp_path / "muster.yaml").write_text(f"model_repository: [{models}]\nprocesses: 2\nmodels:\n  two: {{processes: 1}}\n")
    server = serve(cwd=tmp_path, env={"MUSTER_LOG_VERBOSE": "1"})
    assert sorted(w["model"] for w in server.workers()) == ["one", "one", "two"]
    assert any(line["level"] == "verbose" for line in server.log_lines())


def test_explicit_mode_loads_what_is_named(serve, tmp_path):
    models = put_model(tmp_path / "models", "one", config=sim_config())
    put_model(models, "two", config=sim_config())
    server = serve(models, "--model-control-mode=explicit", "--load-model=two")
    assert [m["name"] for m in server.status()["models"]] == ["two"]
    assert server.get("/v2/models/one").status == 404
    every = serve(models, "--model-control-mode=explicit", "--load-model=*")
    assert [m["name"] for m in every.status()["models"]] == ["one", "two"]


def test_layouts_of_a_repository(serve, tmp_path):
    """Triton's, flat files, and model files by name, in one server."""
    models = put_model(tmp_path / "models", "layered", "identity.onnx")
    (models / "flat.onnx").symlink_to(MODELS / "add.onnx")
    (models / "README.md").write_text("not a model")
    (models / ".hidden").mkdir()
    server = serve(models, MODELS / "mlp.onnx")
    assert [(m["name"], m["version"]) for m in server.status()["models"]] == [("flat", 1), ("layered", 1), ("mlp", 1)]


def test_limits_of_body_and_batch(serve):
    server = serve(MODELS / "identity.onnx", "--body-limit", "1KiB", "--max-batch-size", "2")
    assert server.get("/v2/models/identity/config").json["max_batch_size"] == 2
    assert server.infer("identity", [{"name": "x", "shape": [3, 16], "datatype": "FP32", "data": [0] * 48}]).status == 400
    with Wire(server.port) as wire:
        assert wire.infer("identity", b" " * 1025).status == 413
    for body, headers in ((chunks(b" " * 1025, 100), {}),
                          (chunks(COMPRESS["gzip"](b" " * 1025), 10), {"Content-Encoding": "gzip"})):
        with Wire(server.port) as wire:
            wire.request("POST", "/v2/models/identity/infer", None, {"Transfer-Encoding": "chunked", **headers})
            wire.send(body)
            reply = wire.reply()
            assert reply.status == 413 and "larger than this server takes" in reply.json["error"]


def test_no_batching_at_all(serve):
    server = serve(MODELS / "identity.onnx", env={"ENABLE_BATCHING": "false"})
    assert server.get("/v2/models/identity/config").json["max_batch_size"] == 1


def test_ipv6(serve):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no ::1")
    server = serve(MODELS / "identity.onnx", "--address", "::1")
    assert [listener["address"] for listener in server.status()["http"] + server.status()["metrics"]] == ["::1"] * 2
    with socket.create_connection(("::1", server.port), PATIENCE) as connection:
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    assert f"http://[::1]:{server.port}" in run_muster("status", "--control-socket", server.socket).stdout


def test_listeners_can_be_switched_off(serve):
    server = serve(MODELS / "identity.onnx", "--no-allow-metrics")
    assert server.status()["metrics"] == [] and server.get("/metrics").status == 200


# ---- status and stop


def test_status_for_people(serve):
    server = serve(MODELS / "identity.onnx")
    done = run_muster("status", "--control-socket", server.socket)
    assert done.returncode == 0 and re.search(r"^state +ready$", done.stdout, re.M)
    assert f"http://{server.url}" in done.stdout
    assert re.search(r"^identity +1 +READY", done.stdout, re.M)
    assert re.search(rf"^\d+ +\d+ +identity +1 +cpu +ready +0", done.stdout, re.M)


def test_status_and_stop_without_a_server(tmp_path):
    for command in ("status", "stop"):
        done = run_muster(command, "--control-socket", tmp_path / "none.sock")
        assert done.returncode == 1 and "no server is running at" in done.stderr


def test_stop(serve):
    server = serve(MODELS / "identity.onnx")
    done = run_muster("stop", "--control-socket", server.socket)
    assert (done.returncode, done.stdout) == (0, f"The server (pid {server.process.pid}) has stopped.\n")
    assert server.wait_exit() == 0 and not server.socket.exists()
