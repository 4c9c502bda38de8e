"""Several GPUs, one of them slow: who gets how much, by counts, and what the statistics say of each."""
import concurrent.futures

import pytest

from muster_server import put_model, sim_config, wait_for

ON_GPUS = {"max_batch_size": 1, "instance_group": "{ kind: KIND_GPU }", "profile": "none", "gpu_memory_mib": 100}
SLOW = 2
CLIENTS, EACH = 16, 40


def ask(server, value):
    return server.infer("s", [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [value] * 4}])


def run_clients(server):
    """CLIENTS that each ask EACH times, one after the other. Every answer is that of its question."""
    def client(number):
        for i in range(EACH):
            value = number * EACH + i
            reply = ask(server, value)
            assert reply.status == 200, reply.body
            assert reply.json["outputs"][0]["data"] == [value] * 4
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))


def serve_on_all(serve, folder, config, processes=1, *flags):
    """Four GPUs, on each of which its workers serve: the server is ready with the first of them."""
    server = serve(put_model(folder / "models", "s", config=config), "--simulate-gpus=4", f"--processes={processes}", *flags)
    wait_for(lambda: [entry["workers"] for entry in server.get("/stats").json["per_gpu_stats"]] == [processes] * 4, "all workers")
    return server


def gpu_entries(server):
    entries = {entry["gpu_id"]: entry for entry in server.get("/stats").json["per_gpu_stats"]}
    assert sorted(entries) == [0, 1, 2, 3]
    return entries


@pytest.mark.parametrize("more, processes", [({}, 1), ({"max_batch_size": 4}, 1), ({}, 2)], ids=["single", "batches", "two-processes"])
def test_a_gpu_at_half_speed_gets_less(serve, tmp_path, more, processes):
    config = sim_config(gpu_ms=12, **{f"gpu_speed.{SLOW}": 0.5}, **(ON_GPUS | more))
    server = serve_on_all(serve, tmp_path, config, processes)
    run_clients(server)
    gpus = gpu_entries(server)
    work = {gpu: entry["total_requests"] for gpu, entry in gpus.items()}
    assert sum(work.values()) == CLIENTS * EACH
    others = sum(work[gpu] for gpu in work if gpu != SLOW) / 3
    assert 0.3 < work[SLOW] / others < 0.8, work
    for gpu, entry in gpus.items():
        assert entry["uuid"] == f"GPU-simulated-{gpu}" and entry["device"] == f"gpu:{gpu}"
        assert entry["workers"] == processes
        assert entry["in_flight"] == entry["current_queue_depth"] == entry["error_count"] == 0
        assert entry["avg_batch_size"] * entry["total_batches"] == pytest.approx(entry["total_requests"])
    speeds = {gpu: entry["speed_ratio"] for gpu, entry in gpus.items()}
    assert max(speeds.values()) == pytest.approx(1, abs=0.2)
    assert min(speeds, key=speeds.get) == SLOW and speeds[SLOW] < 0.8, speeds
    metrics = server.metrics()
    for gpu in gpus:
        assert f'muster_gpu_speed_ratio{{gpu_uuid="GPU-simulated-{gpu}"}} ' in metrics


def test_in_turn(serve, tmp_path):
    """round-robin takes no notice of speed, where everybody waits for one answer before the next question."""
    config = sim_config(gpu_ms=1, **{f"gpu_speed.{SLOW}": 0.5}, **ON_GPUS)
    server = serve_on_all(serve, tmp_path, config, 1, "--load-balance=round-robin")
    for value in range(40):
        assert ask(server, value).json["outputs"][0]["data"] == [value] * 4
    assert {entry["total_requests"] for entry in gpu_entries(server).values()} == {10}


def test_errors_and_deaths_are_counted_where_they_were(serve, tmp_path):
    config = sim_config(fail_on=7, **ON_GPUS)
    server = serve_on_all(serve, tmp_path, config)
    for value in (1, 7, 2, 7):
        assert ask(server, value).status == (400 if value == 7 else 200)
    gpus = gpu_entries(server).values()
    assert sum(entry["error_count"] for entry in gpus) == 2
    assert all(entry["in_flight"] == 0 for entry in gpus)
