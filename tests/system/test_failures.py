"""What a failure costs: the guilty request its error, nobody else anything. DESIGN's "When things fail", for requests and
workers; docs/failures.md says the same to operators. Deaths from outside and storms are in test_worker_death.py, the
gateway's and the supervisor's in test_restarts.py."""
import contextlib
import os
import pathlib
import resource
import signal
import time

import numpy as np
import pytest

from muster_server import MODELS, put_model, sanitized, sim_config, wait_for
from oip import same
from traffic import (Client, crowd, echo, infer, metric, rows, sim_model, standing_still, stats, wait_depth,
                     wait_waiting, worker_pids)

GUILTY = 666
WAYS = {"segv": "signal 11", "abort": "signal 6", "bus": "signal 7", "ill": "signal 4", "fpe": "signal 8",
        "exit": "exited with status 3"}


def deaths(server, model) -> list[str]:
    """Why the workers of a model ended."""
    return [line["error"] for line in server.log_lines() if line.get("model") == model and
            line.get("message") in ("worker ended, will be started again", "worker failed")]


def wait_deaths(server, n: int):
    wait_for(lambda: metric(server, "muster_worker_deaths_total") == n, f"{n} deaths of workers")


def wait_all_ready(server):
    wait_for(lambda: all(worker["state"] == "ready" for worker in server.workers()), "all workers")


# ---- blame -----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def six_ways(serve_module, module_path):
    """A model for each way to crash."""
    repository = module_path / "models"
    for way in WAYS:
        sim_model(repository, way, crash_on=GUILTY, crash_by=way)
    return serve_module(repository, "--cpu-slots=8")


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_crash(six_ways, way):
    """One request of a batch crashes the worker: it gets an error that says so, its neighbours get their answers."""
    (pid,) = worker_pids(six_ways, way)
    with crowd() as threads:
        with standing_still(pid):
            first = threads.submit(echo, six_ways, 0, model=way)
            wait_depth(six_ways, 1)
            neighbours = [threads.submit(echo, six_ways, i, model=way) for i in range(1, 4)]
            guilty = threads.submit(echo, six_ways, GUILTY, model=way)
            wait_waiting(six_ways, 4, way)
        assert [answer.result().status for answer in [first, *neighbours]] == [200] * 4
        refused = guilty.result()
    assert refused.status == 500 and "worker died while it ran this request alone" in refused.error
    found = wait_for(lambda: (seen := deaths(six_ways, way))[1:] and seen, "both deaths to be logged")
    assert [WAYS[way] in why for why in found] == [True, True]
    wait_all_ready(six_ways)
    counts = stats(six_ways, way)["inference_stats"]
    assert counts["success"]["count"] == 4 and counts["fail"]["count"] == 1


def test_the_other_instances_of_a_process_are_not_to_blame(serve, tmp_path):
    """Instances of a worker die together. The innocent request was in flight beside one that crashed their process, and
    while it is tried again there is another one to crash it: it gets its answer, though it never is alone by chance."""
    repository = sim_model(tmp_path / "models", crash_on=GUILTY, max_batch_size=8, per_item_ms=50,
                           instance_group="{ count: 2 kind: KIND_CPU }")
    server = serve(repository, "--cpu-slots=2")
    with crowd() as threads:
        innocent = threads.submit(echo, server, *range(8))  # 400 ms on one instance
        wait_depth(server, 1)
        guilty = [threads.submit(echo, server, GUILTY)]  # 50 ms on the other
        wait_deaths(server, 1)
        guilty.append(threads.submit(echo, server, GUILTY, 1))
        assert innocent.result().status == 200
        assert [answer.result().status for answer in guilty] == [500, 500]
    wait_all_ready(server)
    assert echo(server, 5).status == 200
    counts = stats(server)["inference_stats"]
    assert counts["success"]["count"] == 2 and counts["fail"]["count"] == 2


@pytest.mark.parametrize("processes", [1, 2])
def test_a_crowd_with_a_few_guilty(serve, tmp_path, processes):
    repository = sim_model(tmp_path / "models", crash_on=GUILTY, crash_by="segv", base_ms=5, jitter_ms=10,
                           max_batch_size=4, instance_group="{ count: 3 kind: KIND_CPU }")
    server = serve(repository, f"--processes={processes}", "--cpu-slots=6")
    firsts = [GUILTY if i in (7, 60) else i for i in range(100)]
    with crowd(32) as threads:
        answers = list(threads.map(lambda first: echo(server, first), firsts))
    assert [answer.status for answer in answers] == [500 if first == GUILTY else 200 for first in firsts]
    wait_all_ready(server)
    assert len(deaths(server, "echo")) in range(2, 5)  # both may have been in one batch the first time


# ---- out of memory ---------------------------------------------------------------------------------------------------

MIB = 1 << 20


def test_an_engine_that_gets_no_memory(serve, tmp_path):
    """Its error costs the request that needs so much, not its neighbours and not the worker."""
    server = serve(sim_model(tmp_path / "models", memory_on=GUILTY, memory_mib=4096))
    (pid,) = worker_pids(server)
    size = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size + 256 * MIB, size + 256 * MIB))
    with crowd() as threads:
        with standing_still(pid):
            first = threads.submit(echo, server, 0)
            wait_depth(server, 1)
            neighbours = [threads.submit(echo, server, i) for i in range(1, 4)]
            greedy = threads.submit(echo, server, GUILTY)
            wait_waiting(server, 4)
        assert [answer.result().status for answer in [first, *neighbours]] == [200] * 4
        refused = greedy.result()
    assert refused.status == 503 and "no memory for 4096 MiB" in refused.error
    assert worker_pids(server) == [pid]


def test_onnx_runtime_gets_no_memory(serve):
    server = serve(MODELS / "string_identity.onnx")
    (pid,) = worker_pids(server)
    if "asan" in pathlib.Path(f"/proc/{pid}/maps").read_text():
        pytest.skip("the sanitizer ends a process that gets no memory")
    text = np.empty((1, 1), np.object_)
    text[0, 0] = b"x" * (40 * MIB)
    size = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size + 8 * MIB, resource.RLIM_INFINITY))
    refused = infer(server, "string_identity", {"text": text})
    assert refused.status == 500 and "bad_alloc" in refused.error
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    answer = infer(server, "string_identity", {"text": text})
    assert answer.status == 200 and same(answer.outputs["same"], text)
    assert worker_pids(server) == [pid]


def own_group() -> pathlib.Path | None:
    """The control group of this process that counts memory."""
    lines = [line.split(":", 2) for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return pathlib.Path("/sys/fs/cgroup/memory") / path.lstrip("/")
    group = pathlib.Path("/sys/fs/cgroup") / next((path.lstrip("/") for _, names, path in lines if names == ""), "")
    return group if "memory" in (group / "cgroup.subtree_control").read_text().split() else None


@pytest.fixture
def memory_group():
    """A control group of its own, below the one of this process."""
    try:
        group = own_group() / f"muster-test-{os.getpid()}"
        group.mkdir()
    except (OSError, TypeError) as error:
        pytest.skip(f"no control group for memory can be made here: {error}")
    yield group
    wait_for(lambda: not (group / "cgroup.procs").read_text(), "the control group to be empty")
    group.rmdir()


def limit_memory(group, more: int):
    """To what is used now, and so much more."""
    v2 = (group / "memory.max").exists()
    used = int((group / ("memory.current" if v2 else "memory.usage_in_bytes")).read_text())
    (group / ("memory.max" if v2 else "memory.limit_in_bytes")).write_text(str(used + more))
    if v2:
        with contextlib.suppress(OSError):
            (group / "memory.swap.max").write_text("0")


def test_a_worker_that_the_kernel_kills_for_its_memory(memory_group, serve, tmp_path):
    """SIGKILL, but not from outside: the request that needs so much is to blame, as for a crash."""
    repository = sim_model(tmp_path / "models", memory_on=GUILTY, memory_mib=2048)
    with in_group(memory_group):
        server = serve(repository)
    (pid,) = worker_pids(server)
    limit_memory(memory_group, 256 * MIB)
    with crowd() as threads:
        with standing_still(pid):
            first = threads.submit(echo, server, 0)
            wait_depth(server, 1)
            neighbours = [threads.submit(echo, server, i) for i in range(1, 4)]
            greedy = threads.submit(echo, server, GUILTY)
            wait_waiting(server, 4)
        assert [answer.result().status for answer in [first, *neighbours]] == [200] * 4
        refused = greedy.result()
    assert refused.status == 500 and "worker died" in refused.error
    assert deaths(server, "echo") == ["killed by the kernel: out of memory"] * 2
    wait_all_ready(server)
    assert echo(server, 7).status == 200


@contextlib.contextmanager
def in_group(group):
    """What is started in the block lives in the group."""
    before = own_group()
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        (before / "cgroup.procs").write_text(str(os.getpid()))


# ---- hung ------------------------------------------------------------------------------------------------------------

def test_hung_at_load(serve, tmp_path):
    """Five times past --load-timeout: the model has failed and says why; the other one serves."""
    repository = sim_model(sim_model(tmp_path / "models"), "stuck", load_ms=3600000)
    server = serve(repository, f"--load-timeout={2 if sanitized() else 1}s", wait=False)
    wait_for(lambda: server.status().get("models", [{}])[0].get("state") == "READY", "the other model")
    (pid,) = [worker["pid"] for worker in server.workers("echo")]
    server.wait_state("degraded")
    reasons = {model["name"]: model["reason"] for model in server.status()["models"]}
    assert "not ready in time" in reasons["stuck"] and "--load-timeout" in reasons["stuck"]
    assert "5 times" in reasons["stuck"]
    refused = echo(server, 1, model="stuck")
    assert refused.status == 503 and "not ready in time" in refused.error
    assert echo(server, 1).status == 200
    assert [worker["pid"] for worker in server.workers("echo")] == [pid]


@pytest.mark.parametrize("how", [{"hang_on": 0}, {"crash_on": 0}], ids=["hangs", "crashes"])
def test_a_warm_up_that_ends_nowhere(serve, tmp_path, how):
    server = serve(sim_model(tmp_path / "models", **how), "--load-timeout=500ms", wait=False)
    server.wait_state("degraded")
    (model,) = server.status()["models"]
    assert model["state"] == "UNAVAILABLE" and "5 times" in model["reason"]
    assert server.get("/v2/health/ready").status == 503


# ---- warm-up ---------------------------------------------------------------------------------------------------------

WARM_UP = """model_warmup { name: "zeros" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [16] zero_data: true } } }
"""


def test_a_warm_up_that_fails(serve, tmp_path):
    """What the file asks for has to work; zeros that nobody asked for may be refused."""
    invented = sim_config(dims="16", fail_on=0)
    put_model(tmp_path / "models", "invented", config=invented)
    put_model(tmp_path / "models", "configured", config=invented + WARM_UP)
    server = serve(tmp_path / "models", wait=False)
    server.wait_state("degraded")
    models = {model["name"]: model for model in server.status()["models"]}
    assert models["invented"]["state"] == "READY"
    assert models["configured"]["state"] == "UNAVAILABLE"
    assert 'warm-up "zeros"' in models["configured"]["reason"] and "told to fail" in models["configured"]["reason"]
    warnings = [line for line in server.log_lines() if "refused the invented input" in line.get("message", "")]
    assert [line["model"] for line in warnings] == ["invented"]
    assert infer(server, "invented", {"x": rows(1)[0]}).status == 200


# ---- time ------------------------------------------------------------------------------------------------------------

def test_a_client_that_gives_up_leaves_its_memory_to_the_batch(serve, tmp_path):
    """Its deadline ends the wait of the client, not that of the worker, which may still read the request's inputs."""
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with standing_still(pid):
        assert echo(server, 1, parameters={"timeout": 50_000}).status == 503
        assert metric(server, "muster_memory_used_bytes") > 0
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "the batch to give it back")
    assert worker_pids(server) == [pid] and stats(server)["execution_count"] <= 1


def test_deadlines_are_kept_in_their_order(serve, tmp_path):
    """Whoever asked first: the one with the least time is answered first."""
    server = serve(sim_model(tmp_path / "models"), "--gateway-threads=1", "--log-verbose=1")

    def refused(factor):
        """In which order; None: between the first and the last question was so much time that it says nothing."""
        times = [400 * factor * n for n in (4, 3, 2, 1)]
        before = len([line for line in server.log_lines() if line.get("message") == "request refused"])
        with standing_still(*worker_pids(server)):
            clients = [(timeout_ms, Client(server)) for timeout_ms in times]
            begun = time.monotonic()
            for timeout_ms, client in clients:
                client.send_infer("echo", {"x": rows(1)}, parameters={"timeout": timeout_ms * 1000}, id=str(timeout_ms))
            server.get("/v2/health/live")  # one loop: it has read them
            in_time = time.monotonic() - begun < 0.3 * factor
            for _, client in clients:
                assert client.reply().status == 503
                client.close()
        found = [line["id"] for line in server.log_lines() if line.get("message") == "request refused"][before:]
        return found == [str(timeout_ms) for timeout_ms in reversed(times)] if in_time else None
    assert next(right for factor in (1, 5, 25) if (right := refused(factor)) is not None)


def test_requests_wait_for_a_worker_until_their_deadline(serve, tmp_path):
    """All workers of the model are gone: who has no time is told to try again, who has it gets an answer."""
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    os.kill(pid, signal.SIGKILL)

    def successor():
        (worker,) = server.workers()
        return worker["pid"] if worker["pid"] not in (pid, None) else None

    with crowd() as threads:
        with standing_still(wait_for(successor, "the successor")):
            patient = threads.submit(echo, server, 1)
            hurried = echo(server, 2, parameters={"timeout": 100_000})
            assert hurried.status == 503 and "Retry-After" in hurried.headers
            assert not patient.done()
        assert patient.result().status == 200


def test_a_request_is_tried_eight_times_again(serve, tmp_path):
    """Killed from outside, whoever has it: nobody is to blame, but it is not tried for ever."""
    server = serve(sim_model(tmp_path / "models", hang_on=GUILTY), "--processes=4", "--max-execution=3600s")
    with crowd() as threads:
        answer = threads.submit(echo, server, GUILTY)
        wait_depth(server, 1)
        while not answer.done():
            for worker in server.workers():
                if worker["state"] == "ready":
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(worker["pid"], signal.SIGKILL)
        refused = answer.result()
    assert refused.status == 500 and "too many times" in refused.error
    assert metric(server, "muster_requests_retried_total", model="echo") >= 8


# ---- stop ------------------------------------------------------------------------------------------------------------

def test_a_worker_that_does_not_listen_is_killed_at_the_stop(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with standing_still(pid):
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        assert not server.family()
    assert "not everybody left in time" in server.log
