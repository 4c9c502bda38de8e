"""What happens in the gateway at the same time: memory that is short, clients that leave, workers that die, answers that
cross. Each of these once was, or could easily become, a request that nobody wakes up again."""
import contextlib
import json
import os
import random
import signal
import threading

import numpy as np
import pytest

from muster_server import PATIENCE, put_model, sim_config, wait_for
from oip import Wire, binary_body, outputs_of, same
from traffic import Client, crowd, echo, metric, rows, sim_model, standing_still, wait_depth, worker_pids

KIB, MIB = 1 << 10, 1 << 20


def floats(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((1, n), np.float32)


def memory_used(server) -> float:
    return metric(server, "muster_memory_used_bytes")


# ---- memory that is short --------------------------------------------------------------------------------------------

def test_batch_that_does_not_fit_the_budget_is_run_in_smaller_ones(serve, tmp_path):
    """Four inputs fit the budget, but not together with their outputs: alone each of them does."""
    batching = "{ preferred_batch_size: [4] max_queue_delay_microseconds: 60000000 }"
    repository = sim_model(tmp_path / "models", dims="-1", max_batch_size=4, dynamic_batching=batching)
    server = serve(repository, "--memory-budget", 3 * MIB, "--default-request-timeout", f"{PATIENCE:g}s")
    sent = [floats(100_000, seed) for seed in range(4)]
    with crowd() as pool:
        clients = [Client(server) for _ in sent]
        answers = list(pool.map(lambda c, x: c.infer_arrays("echo", {"x": x}), clients, sent))
    assert all(answer.status == 200 and same(answer.outputs["y"], x) for answer, x in zip(answers, sent))
    assert metric(server, "muster_worker_deaths_total") == 0


def test_memory_kept_for_one_model_is_given_to_another(serve, tmp_path):
    """Slots that a model keeps for its next requests count against the budget, but nobody has to wait for them."""
    repository = sim_model(tmp_path / "models", name="first", dims="-1", max_batch_size=0)
    sim_model(repository, name="second", dims="-1", max_batch_size=0)
    server = serve(repository, "--memory-budget", 3 * MIB)
    for model in ("first", "second", "first", "second"):
        sent = floats(250_000, 1)[0]
        with Client(server) as client:
            answer = client.infer_arrays(model, {"x": sent})
        assert answer.status == 200 and same(answer.outputs["y"], sent)
    wait_for(lambda: memory_used(server) == 0, "idle memory to be given back")


def half_a_request(server, model: str, tensor: np.ndarray) -> Wire:
    """A client that has sent only the beginning: as little as still lets its end be seen where nobody reads."""
    body, headers = binary_body({"x": tensor})
    wire = Wire(server.port)
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n" + \
        "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    wire.send(head.encode() + body[:1000])
    return wire


def test_who_waits_behind_a_request_that_leaves_goes_on(serve, tmp_path):
    """The arena is held by a slow upload; a second large request waits for room, and a small one behind it. When the
    second leaves, the small one fits: nothing else happens that could wake it."""
    repository = sim_model(tmp_path / "models", dims="-1", max_batch_size=0)
    server = serve(repository, "--input-arena", MIB, "--gateway-threads", 1)
    holds = half_a_request(server, "echo", floats(180_000, 1)[0])
    wait_for(lambda: memory_used(server) > 0, "the first to hold memory")
    waits = half_a_request(server, "echo", floats(120_000, 2)[0])
    server.get("/v2/health/live")  # one loop: what has come before this has been read by now
    small = floats(4, 3)[0]
    with Client(server) as client, crowd(1) as pool:
        answer = pool.submit(client.infer_arrays, "echo", {"x": small})
        server.get("/v2/health/live")
        waits.close()
        answer = answer.result(PATIENCE / 2)
    assert answer.status == 200 and same(answer.outputs["y"], small)
    holds.close()


def test_request_that_waits_for_memory_obeys_its_own_timeout(serve, tmp_path):
    repository = sim_model(tmp_path / "models", dims="-1", max_batch_size=0)
    server = serve(repository, "--input-arena", MIB, "--default-request-timeout", "1h")
    holds = half_a_request(server, "echo", floats(180_000, 1)[0])
    wait_for(lambda: memory_used(server) > 0, "the first to hold memory")
    with Client(server) as client:
        answer = client.infer_arrays("echo", {"x": floats(120_000, 2)[0]}, parameters={"timeout": 50_000})
    assert answer.status == 503 and "Retry-After" in answer.headers
    holds.close()


# ---- answers that cross ----------------------------------------------------------------------------------------------

def test_timeout_in_flight_is_what_the_client_hears(serve, tmp_path):
    """When nobody waits for a run any more it is told to stop, and ends with an error of its own: that is not the
    answer to the client whose timeout was the reason."""
    server = serve(sim_model(tmp_path / "models", max_batch_size=1, base_ms=1000), "--gateway-threads", 3)
    with crowd() as pool:
        answers = list(pool.map(lambda first: echo(server, first, parameters={"timeout": 20_000}), range(60)))
    assert {answer.status for answer in answers} == {503}, answers


def test_large_answers_outlive_the_worker_that_made_them(serve, tmp_path):
    """The client reads only after the worker has been killed: its memory stays until the answer has left."""
    repository = sim_model(tmp_path / "models", dims="-1", max_batch_size=0)
    server = serve(repository, "--gateway-threads", 3)
    sent = [floats(2_000_000, seed)[0] for seed in range(4)]
    clients = [Client(server) for _ in sent]
    for client, x in zip(clients, sent):
        client.send_infer("echo", {"x": x})
    wait_for(lambda: metric(server, "nv_inference_exec_count", model="echo") == len(sent), "all to be executed")
    for pid in worker_pids(server):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: metric(server, "muster_worker_deaths_total") == 1, "the gateway to hear of it")
    for client, x in zip(clients, sent):
        assert same(outputs_of(client.reply())["y"], x)
        client.close()


def test_pipelined_requests_of_a_client_that_leaves_are_all_let_go(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--gateway-threads", 3)
    with standing_still(*worker_pids(server)):
        wires = []
        for first in range(8):
            client = Client(server)
            for _ in range(4):
                client.send_infer("echo", {"x": rows(first)})
            wires.append(client)
        wait_depth(server, 32)
        for client in wires:
            client.close()
        wait_for(lambda: metric(server, "nv_inference_request_failure", reason="CANCELED") == 32, "all to be canceled")
    wait_depth(server, 0)
    assert echo(server, 1).status == 200
    wait_for(lambda: memory_used(server) == 0, "their memory")


# ---- configurations that the scheduler must be able to take ----------------------------------------------------------

@pytest.mark.parametrize("batching", [
    "{ preferred_batch_size: [4, 8, 4] }",
    "{ priority_queue_policy: { key: 4000000000 value: { max_queue_size: 3 } } }",
    "{ max_queue_delay_microseconds: 18446744073709551615 default_queue_policy: "
    "{ default_timeout_microseconds: 18446744073709551615 } }",
])
def test_batching_is_taken_as_far_as_it_means_anything(serve, tmp_path, batching):
    server = serve(sim_model(tmp_path / "models", dynamic_batching=batching), "--enable-batching=false")
    assert echo(server, 1).status == 200


# ---- everything at once ----------------------------------------------------------------------------------------------

def storm_client(server, seed: int, wrong: list):
    """Requests of all kinds one after the other; some leave before their answer."""
    choose = random.Random(seed)
    client = None
    for _ in range(40):
        client = client or Client(server)
        sent = floats(choose.choice([1, 16, 5_000, 100_000]), choose.randrange(1000))
        parameters = {"timeout": choose.choice([1, 1000])} if choose.random() < 0.1 else {}
        try:
            client.send_infer("echo", {"x": sent}, parameters=parameters)
            if choose.random() < 0.15:
                client.close()
                client = None
                continue
            reply = client.reply()
        except OSError as error:
            wrong.append(f"no answer: {error!r}")
            return
        if reply.status == 200 and not same(outputs_of(reply)["y"], sent):
            wrong.append(f"other bytes than those of {sent.shape}")
        if reply.status not in (200, 503):
            wrong.append(f"{reply.status} {reply.body[:200]}")
    if client is not None:
        client.close()


@pytest.mark.parametrize("budget", [[], ["--memory-budget", 4 * MIB]], ids=["roomy", "tight"])
def test_storm(serve, tmp_path, budget):
    """Three loops, clients that leave, workers that are killed from outside, with and without room: every request gets
    its own bytes or a 503, and in the end all memory is back."""
    server = serve(sim_model(tmp_path / "models", dims="-1", base_ms="1"), "--gateway-threads", 3, *budget)
    wrong: list[str] = []
    threads = [threading.Thread(target=storm_client, args=(server, seed, wrong)) for seed in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for pid in worker_pids(server):
            with contextlib.suppress(ProcessLookupError):  # the supervisor has not heard of the last time
                os.kill(pid, signal.SIGKILL)
        threads[0].join(0.5)
        for thread in threads:
            thread.join(0.1)
    assert not wrong, wrong[:5]
    wait_for(lambda: memory_used(server) == 0, "all memory to be given back")
    wait_depth(server, 0)
