"""Workers of the sim engine on a simulated GPU: its memory, its kernels, and what becomes of both when a worker is killed."""
import concurrent.futures
import os
import signal

import pytest

from muster_server import put_model, sim_config, wait_for
from traffic import depth, waiting

ON_GPU = {"instance_group": "{ kind: KIND_GPU gpus: [0] }", "max_batch_size": 8}
# What the GPU itself says is tested here: by the estimate everything fits.
ONE = ["--simulate-gpus=1", "--gpu-memory=1MiB"]


def workers(server):
    return server.status().get("workers", [])  # nothing while it starts


def ask(server, value, model="s"):
    return server.infer(model, [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}])


@pytest.mark.parametrize("sharing", ["mps", "timeslice"])
def test_processes_share_a_gpu(serve, tmp_path, sharing):
    config = sim_config(gpu_ms=2, gpu_work_ms=1, sharing=sharing, **ON_GPU)
    server = serve(put_model(tmp_path / "models", "s", config=config), *ONE, "--processes=3")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda i: (i, ask(server, i)), range(60)))
    for i, reply in replies:
        assert reply.status == 200, reply.body
        assert reply.json["outputs"][0]["data"] == [i] * 4


def test_without_times_it_is_saturating(serve, tmp_path):
    server = serve(put_model(tmp_path / "models", "s", config=sim_config(gpu_speed=100, **ON_GPU)), *ONE)
    assert ask(server, 5).json["outputs"][0]["data"] == [5] * 4


@pytest.mark.parametrize("parameters, reason", [
    ({"gpu_memory_mib": 90000}, "out of memory on gpu:GPU-simulated-0: 90000 MiB wanted, 0 other processes hold 0 of 81920 MiB"),
    ({"gpu_memory_mib": 500, "gpu_total_mib": 499}, "500 MiB wanted, 0 other processes hold 0 of 499 MiB"),
    ({"profile": "fast"}, 'sim.profile = "fast"'), ({"sharing": "mig"}, 'sim.sharing = "mig"'), ({"gpu_speed": 0}, "sim.gpu_speed"),
])
def test_what_a_gpu_cannot_load(serve, tmp_path, parameters, reason):
    server = serve(put_model(tmp_path / "models", "s", config=sim_config(**parameters, **ON_GPU)), *ONE, wait=False)
    wait_for(lambda: any(reason in worker["reason"] for worker in workers(server)), "the worker's reason")


def test_a_parameter_of_a_gpu_on_a_cpu_is_refused(serve, tmp_path):
    server = serve(put_model(tmp_path / "models", "s", config=sim_config(profile="seed")), wait=False)
    wait_for(lambda: "parameter sim.profile is for a model on a GPU: this one is on cpu" in server.log, "the error")


def test_one_fits_and_the_next_does_not(serve, tmp_path):
    """The second worker gets in when the first is dead and gone."""
    config = sim_config(profile="none", gpu_memory_mib=50000, **ON_GPU)
    server = serve(put_model(tmp_path / "models", "s", config=config), *ONE, "--processes=2", wait=False)
    full = "50000 MiB wanted, 1 other process holds 50000 of 81920 MiB"
    wait_for(lambda: [w["state"] for w in workers(server)].count("ready") == 1 and full in server.log, "one of two to load")
    assert ask(server, 1).status == 200
    first = next(worker for worker in server.workers("s") if worker["state"] == "ready")
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: any(w["state"] == "ready" and w["pid"] != first["pid"] for w in server.workers("s")), "another one in its place")
    assert ask(server, 2).json["outputs"][0]["data"] == [2] * 4


def test_a_worker_is_killed_in_the_middle_of_a_kernel(serve, tmp_path):
    """Nearly all of the GPU's memory is its own and it has the GPU: its successor needs both. The request is answered."""
    config = sim_config(gpu_ms=800, gpu_memory_mib=80000, **ON_GPU)
    server = serve(put_model(tmp_path / "models", "s", config=config), *ONE)
    worker = server.workers("s")[0]
    replies = []

    def at_work():
        """Asked again where all of it passed unseen."""
        if not replies or replies[-1].done():
            replies.append(pool.submit(ask, server, 9))
        return depth(server) - waiting(server, "s") == 1
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        wait_for(at_work, "the request to be with the worker")
        os.kill(worker["pid"], signal.SIGKILL)
        assert [reply.result().json["outputs"][0]["data"] for reply in replies] == [[9] * 4] * len(replies)
    wait_for(lambda: server.workers("s")[0]["state"] == "ready" and server.workers("s")[0]["pid"] != worker["pid"], "the successor")
