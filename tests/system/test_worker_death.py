"""Workers that die, hang or fail: who gets an answer, who is blamed, and that the server goes on."""
import os
import pathlib
import random
import signal
import socket
import threading
import time

import numpy as np
import pytest

from muster_server import MODELS, PATIENCE, VISIBLE, put_model, sanitized, wait_for
from oip import same
from traffic import (Answer, Client, crowd, depth, echo, infer, metric, rows, sim_model, standing_still, stats,
                     wait_depth, wait_waiting, waiting, worker_pids)

GUILTY = 666


def wait_worker_back(server, old_pid):
    """The successor of a worker is ready."""
    def back():
        (worker,) = server.workers()
        return worker["state"] == "ready" and worker["pid"] != old_pid
    wait_for(back, "the worker's successor")
    wait_for(lambda: server.get("/v2/health/ready").status == 200, "readiness")


def ended_reasons(server) -> list[str]:
    return [line["error"] for line in server.log_lines() if line.get("message") == "worker ended, will be started again"]


def send_batch(server, threads, firsts):
    """While the only worker stands still: a first request that it gets, then the others, which come behind it and so share
    batches. Answers in that order."""
    first = threads.submit(echo, server, 0)
    wait_depth(server, 1)
    others = [threads.submit(echo, server, value) for value in firsts]
    wait_depth(server, 1 + len(firsts))
    return first, others


# ---- killed from outside: no blame -----------------------------------------------------------------------------------

def test_killed_worker_costs_nobody_an_answer(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with crowd() as threads, standing_still(pid):
        first, others = send_batch(server, threads, range(1, 20))
        os.kill(pid, signal.SIGKILL)
        assert [answer.result().status for answer in [first, *others]] == [200] * 20
    wait_worker_back(server, pid)
    (worker,) = server.workers()
    assert worker["restarts"] == 1
    assert ended_reasons(server) == ["killed by signal 9 (Killed)"]
    # the one that ran, and the full batch of eight that was behind it
    assert metric(server, "muster_requests_retried_total", model="echo") == 9
    assert metric(server, "muster_worker_deaths_total") == 1
    counts = stats(server)["inference_stats"]
    assert counts["success"]["count"] == 20 and counts["fail"]["count"] == 0


def test_batch_survives_several_kills(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", base_ms=1500))  # still running when it is looked at, however slowly
    with crowd() as threads:
        answers = [threads.submit(echo, server, i) for i in range(6)]
        killed = []

        def at_work():
            """The worker, when it is none that has been killed and has a batch."""
            (worker,) = server.workers()
            fresh = worker["state"] == "ready" and worker["pid"] not in killed
            return worker["pid"] if fresh and depth(server) - waiting(server) > 0 else None
        for _ in range(3):
            killed.append(wait_for(at_work, "a batch with a worker"))
            os.kill(killed[-1], signal.SIGKILL)
        assert [answer.result().status for answer in answers] == [200] * 6
    assert ended_reasons(server) == ["killed by signal 9 (Killed)"] * 3


def test_other_models_do_not_notice(serve, tmp_path):
    server = serve(sim_model(sim_model(tmp_path / "models"), "other"), "--cpu-slots=2")
    (pid,) = worker_pids(server, "echo")
    others = worker_pids(server, "other")
    with crowd() as threads, standing_still(pid):
        answer = threads.submit(echo, server, 1)
        wait_depth(server, 1)
        assert echo(server, 2, model="other").status == 200
        os.kill(pid, signal.SIGKILL)
        assert answer.result().status == 200
    assert worker_pids(server, "other") == others


def test_results_finished_before_the_death_count(serve, tmp_path):
    """Replies that were borrowed from the dead worker's memory arrive whole."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--output-arena=64MiB")
    width = 4 << 20  # 16 MiB: more than a socket takes at once
    sent = np.arange(width, dtype=np.float32).reshape(1, width)
    (pid,) = worker_pids(server)
    with Client(server) as client:
        client.send_infer("echo", {"x": sent})
        wait_for(lambda: stats(server)["inference_count"] == 1, "the answer to be on its way")
        os.kill(pid, signal.SIGKILL)
        wait_worker_back(server, pid)
        reply = client.reply()
    assert reply.status == 200 and reply.body.endswith(sent.tobytes())


# ---- blame -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("processes", [1, 2])
def test_crashing_request_costs_its_neighbours_nothing(serve, tmp_path, processes):
    server = serve(sim_model(tmp_path / "models", crash_on=GUILTY), f"--processes={processes}", "--cpu-slots=1")
    with crowd() as threads, standing_still(*worker_pids(server)):
        first, (*innocent, guilty) = send_batch(server, threads, [1, 2, 3, 4, 5, GUILTY])
        for pid in worker_pids(server):
            os.kill(pid, signal.SIGCONT)
        assert [answer.result().status for answer in [first, *innocent]] == [200] * 6
        refused = guilty.result()
    assert refused.status == 500 and "worker died" in refused.error and "alone" in refused.error
    wait_for(lambda: all(worker["state"] == "ready" for worker in server.workers()), "the workers")
    assert echo(server, 7).status == 200
    assert [reason.startswith("killed by signal 6") for reason in ended_reasons(server)] == [True, True]
    counts = stats(server)["inference_stats"]
    assert counts["success"]["count"] == 7 and counts["fail"]["count"] == 1


def test_crashing_request_of_several_rows(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", crash_on=GUILTY))
    (pid,) = worker_pids(server)
    with crowd() as threads, standing_still(pid):
        first = threads.submit(echo, server, 0)
        wait_depth(server, 1)
        innocent = threads.submit(echo, server, 1, 2, 3)
        guilty = threads.submit(echo, server, 4, GUILTY)
        wait_waiting(server, 2)
        os.kill(pid, signal.SIGCONT)
        assert first.result().status == 200 and innocent.result().status == 200
        assert guilty.result().status == 500


def test_engine_error_of_one_request(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", fail_on=GUILTY))
    pids = worker_pids(server)
    with crowd() as threads:
        with standing_still(*pids):
            first, (*innocent, guilty) = send_batch(server, threads, [1, 2, 3, 4, 5, GUILTY])
        assert [answer.result().status for answer in [first, *innocent]] == [200] * 6
        refused = guilty.result()
    assert refused.status == 400 and "told to fail on 666" in refused.error
    assert worker_pids(server) == pids, "an error is no death"
    assert echo(server, 7).status == 200


def test_hung_worker_is_killed_and_its_request_blamed(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", hang_on=GUILTY), "--max-execution=1s")
    (pid,) = worker_pids(server)
    assert echo(server, 9).status == 200  # later runs of a shape fall under --max-execution
    with crowd() as threads:
        with standing_still(pid):
            first, (*innocent, guilty) = send_batch(server, threads, [1, 2, 3, GUILTY])
        assert [answer.result().status for answer in [first, *innocent]] == [200] * 4
        refused = guilty.result()
    assert refused.status == 500 and "worker died" in refused.error
    wait_worker_back(server, pid)
    assert echo(server, 7).status == 200
    reasons = ended_reasons(server)
    assert len(reasons) >= 2 and all("hung" in reason for reason in reasons)  # once more where all this took longer


def test_death_of_real_engine_in_the_first_run_of_a_shape(serve, tmp_path):
    """--load-timeout bounds the first run; a worker that stands still for longer is hung."""
    server = serve(MODELS / "identity.onnx", f"--load-timeout={6 if sanitized() else 2}s")  # a successor has to load in that
    (pid,) = worker_pids(server)
    x = rows(1)
    with crowd() as threads, standing_still(pid):
        answer = threads.submit(infer, server, "identity", {"x": x})
        result = answer.result()
    # blamed once, then alone on the successor, which runs it
    assert result.status == 200 and result.outputs["y"].tobytes() == x.tobytes()
    assert any("hung" in reason for reason in ended_reasons(server))


def test_dying_again_and_again_backs_off(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", crash_on=GUILTY))
    for _ in range(2):  # each kills two workers: in its batch, then alone
        assert echo(server, GUILTY).status == 500
    wait_for(lambda: server.workers()[0]["state"] == "ready", "the worker")
    delays = [line["delay_ms"] for line in server.log_lines()
              if line.get("message") == "worker ended, will be started again"]
    assert delays == [0, 100, 200, 400]
    assert server.workers()[0]["restarts"] == 4
    assert echo(server, 1).status == 200


def test_model_that_fails_for_good_lets_nobody_wait(serve, tmp_path):
    file = put_model(tmp_path / "models", "model") / "model" / "1" / "model.onnx"
    file.write_bytes((MODELS / "mlp.onnx").read_bytes())
    server = serve(tmp_path / "models")
    (pid,) = worker_pids(server)
    with crowd() as threads, standing_still(pid):
        answers = [threads.submit(infer, server, "model", {"x": rows(i)}) for i in range(5)]
        wait_depth(server, 5)
        file.write_bytes(b"nonsense")  # in place: a new file of that name would not be looked at
        os.kill(pid, signal.SIGKILL)
        refused = [answer.result() for answer in answers]  # long before their deadline, which is 60 s away
    assert [answer.status for answer in refused] == [503] * 5 and "failed" in refused[0].error
    assert server.status()["models"][0]["state"] == "UNAVAILABLE"
    assert server.get("/v2/health/ready").status == 503
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "their memory to be given back")


def test_pipelined_requests_are_answered_in_order(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=1), "--processes=2", "--cpu-slots=2")
    pids = worker_pids(server)
    with Client(server) as client:
        with standing_still(*pids):
            for i in range(16):
                client.send_infer("echo", {"x": rows(i)})
            wait_depth(server, 16)
            os.kill(pids[0], signal.SIGKILL)
        for i in range(16):
            answer = Answer(client.reply())
            assert answer.status == 200 and same(answer.outputs["y"], rows(i))


# ---- storm -----------------------------------------------------------------------------------------------------------

STORM_SECONDS, PAUSE_SECONDS, CLIENTS = 5, 0.3, 16


def kill_now_and_then(pids, chance) -> int:
    """Kills one of pids() again and again; how often."""
    killed, end = set(), time.monotonic() + STORM_SECONDS
    while (now := time.monotonic()) < end or len(killed) < 3 and now < end + PATIENCE:
        if candidates := [pid for pid in pids() if pid not in killed]:  # the supervisor may not have heard of all ends
            victim = chance.choice(candidates)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        time.sleep(PAUSE_SECONDS)  # the rhythm of the storm: nothing waits for it
    return len(killed)


def ready_workers(server) -> list[int]:
    return [worker["pid"] for worker in server.workers() if worker["state"] == "ready"]


def test_storm_of_kills(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", base_ms=3, jitter_ms=2), "--processes=2", "--cpu-slots=2")
    over, done = threading.Event(), [0] * CLIENTS

    def ask(number):
        with Client(server) as client:
            while not over.is_set():
                answer = client.echo(number * 4096 + done[number] % 4096)
                assert answer.status == 200, answer
                done[number] += 1

    with crowd() as threads:
        clients = [threads.submit(ask, number) for number in range(CLIENTS)]
        kills = kill_now_and_then(lambda: ready_workers(server), random.Random(3))
        over.set()
        for client in clients:
            client.result()
    assert kills >= 3 and min(done) > 0
    wait_for(lambda: metric(server, "muster_worker_deaths_total") == kills, f"{kills} deaths to be counted")
    server.wait_ready()
    counts = stats(server)["inference_stats"]
    assert counts["success"]["count"] == sum(done) and counts["fail"]["count"] == 0
    assert echo(server, 1).status == 200


def test_storm_on_results_that_have_to_be_fetched(serve):
    """Outputs of unknown length above the first guess, little memory, and workers that die at any point of it."""
    server = serve(MODELS / "string_identity.onnx", "--processes=2", "--cpu-slots=2", "--output-arena=2MiB",
                   "--input-arena=4MiB")
    over, done = threading.Event(), [0] * CLIENTS

    def ask(number):
        chance = random.Random(number)
        with Client(server) as client:
            while not over.is_set():
                text = np.empty((1, 1), np.object_)
                text[0, 0] = bytes([chance.randrange(256)]) * chance.choice([5, 30_000, 90_000, 300_000])
                answer = client.infer_arrays("string_identity", {"text": text})
                assert answer.status == 200 and same(answer.outputs["same"], text)
                done[number] += 1

    with crowd() as threads:
        clients = [threads.submit(ask, number) for number in range(CLIENTS)]
        assert kill_now_and_then(lambda: ready_workers(server), random.Random(4)) >= 3
        over.set()
        for client in clients:
            client.result()
    assert min(done) > 0
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "all memory to be given back")


def test_storm_on_the_gateway(serve, tmp_path):
    """Clients lose their connections, ask again, and never get another one's answer; the workers stay."""
    server = serve(sim_model(tmp_path / "models", base_ms=3, jitter_ms=2), "--processes=2", "--cpu-slots=2")
    pids = sorted(worker_pids(server))
    over, done = threading.Event(), [0] * CLIENTS

    def ask(number):
        while not over.is_set():
            try:
                with Client(server) as client:
                    while not over.is_set():
                        answer = client.echo(number * 4096 + done[number] % 4096)
                        assert answer.status == 200, answer
                        done[number] += 1
            except OSError:
                continue

    def gateways():
        status = server.status()
        return [status["gateway"]["pid"]] if status["state"] == "ready" else []

    with crowd() as threads:
        clients = [threads.submit(ask, number) for number in range(CLIENTS)]
        kills = kill_now_and_then(gateways, random.Random(5))
        over.set()
        for client in clients:
            client.result()
    assert kills >= 3 and min(done) > 0
    wait_for(lambda: server.status()["gateway"]["restarts"] == kills, f"{kills} deaths to be counted")
    server.wait_ready()
    assert sorted(worker_pids(server)) == pids and server.status()["gateway"]["restarts"] == kills
    assert echo(server, 1).status == 200


# ---- nothing is left behind ------------------------------------------------------------------------------------------

def holdings(pid: int) -> tuple[int, int]:
    """Descriptors and mapped shared memories of a process."""
    process = pathlib.Path(f"/proc/{pid}")
    mapped = sum("memfd:muster" in line for line in (process / "maps").read_text().splitlines())
    return len(list((process / "fd").iterdir())), mapped


def wait_no_more_than(pids, before):
    """What each holds now is at most what it held before; that may have included a connection of the test."""
    def same_or_less():
        return all(now <= then for pid, held in zip(pids, before) for now, then in zip(holdings(pid), held))
    wait_for(same_or_less, f"at most {before}, not {[holdings(pid) for pid in pids]}")


def test_deaths_of_workers_leave_nothing_in_the_others(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    survivors = [server.process.pid, server.status()["gateway"]["pid"]]
    assert echo(server, 0).status == 200
    before = [holdings(pid) for pid in survivors]
    for i in range(5):
        (pid,) = worker_pids(server)
        with crowd() as threads, standing_still(pid):
            answer = threads.submit(echo, server, i)
            wait_depth(server, 1)
            os.kill(pid, signal.SIGKILL)
            assert answer.result().status == 200
        wait_worker_back(server, pid)
    wait_no_more_than(survivors, before)


def test_deaths_of_the_gateway_leave_nothing_in_the_others(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    survivors = [server.process.pid, *worker_pids(server)]
    assert echo(server, 0).status == 200
    before = [holdings(pid) for pid in survivors]
    for i in range(4):
        gateway = server.status()["gateway"]["pid"]
        os.kill(gateway, signal.SIGKILL)
        wait_for(lambda: server.status()["gateway"]["pid"] not in (gateway, None), "the next gateway")
        server.wait_ready()
        assert echo(server, i).status == 200
    wait_no_more_than(survivors, before)


# ---- clients that leave or do not wait -------------------------------------------------------------------------------

def hang_up(client):
    client.socket.shutdown(socket.SHUT_RDWR)
    client.close()


def test_request_of_a_client_that_left_is_not_executed(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            first = threads.submit(echo, server, 0)
            wait_depth(server, 1)
            leavers = [Client(server) for _ in range(5)]
            for leaver in leavers:
                leaver.send_infer("echo", {"x": rows(1)})
            stayer = threads.submit(echo, server, 2)
            wait_waiting(server, 6)
            for leaver in leavers:
                hang_up(leaver)
            wait_waiting(server, 1)
        assert first.result().status == 200 and stayer.result().status == 200
    counts = stats(server)
    assert counts["inference_count"] == 2 and counts["execution_count"] == 2
    assert counts["inference_stats"]["fail"]["count"] == 5
    assert metric(server, "nv_inference_request_failure", model="echo", reason="CANCELED") == 5


def test_run_for_nobody_is_stopped(serve):
    """The model counts for hours; when its client has gone the instance is free again."""
    server = serve(MODELS / "slow.onnx")
    pids = worker_pids(server)
    leaver = Client(server)
    leaver.send_infer("slow", {"n": np.array([1 << 40], np.int64)})
    wait_depth(server, 1)
    hang_up(leaver)
    answer = infer(server, "slow", {"n": np.array([3], np.int64)})
    assert answer.status == 200 and answer.outputs["sum_of_steps"].tolist() == [3.0]
    assert worker_pids(server) == pids


def test_batch_with_one_who_left(serve, tmp_path):
    """A batch in flight goes on for those who stayed."""
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            leaver = Client(server)
            leaver.send_infer("echo", {"x": rows(0)})
            wait_depth(server, 1)
            others = [threads.submit(echo, server, i) for i in range(1, 4)]
            wait_waiting(server, 3)
            hang_up(leaver)
        assert [answer.result().status for answer in others] == [200] * 3
    assert worker_pids(server) == [pid]


def test_death_with_requests_that_nobody_waits_for(serve, tmp_path):
    """Late ones and ones whose clients have left, in flight and waiting: they go with the worker, not to the next."""
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with crowd() as threads, standing_still(pid):
        late = threads.submit(echo, server, 0, parameters={"timeout": 300_000})
        wait_depth(server, 1)
        leavers = [Client(server) for _ in range(3)]
        for leaver in leavers:
            leaver.send_infer("echo", {"x": rows(1)})
        wait_waiting(server, 3)
        assert late.result().status == 503
        for leaver in leavers:
            leaver.close()
        wait_waiting(server, 0)
        os.kill(pid, signal.SIGKILL)
    wait_worker_back(server, pid)
    assert echo(server, 2).status == 200
    assert metric(server, "muster_requests_retried_total", model="echo") == 0
    assert stats(server)["execution_count"] == 1
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "all memory to be given back")


@pytest.mark.parametrize("in_flight", [True, False], ids=["in flight", "waiting"])
def test_timeout_of_a_request_does_not_kill_its_worker(serve, tmp_path, in_flight):
    server = serve(sim_model(tmp_path / "models"), "--max-execution=3600s")
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            if not in_flight:
                before = threads.submit(echo, server, 0)
                wait_depth(server, 1)
            late = echo(server, 1, parameters={"timeout": 200_000})
            assert late.status == 503 and "deadline" in late.error or "timeout" in late.error
        if not in_flight:
            assert before.result().status == 200
        assert echo(server, 2).status == 200
    assert worker_pids(server) == [pid]
    assert stats(server)["inference_stats"]["fail"]["count"] == 1


def test_default_timeout_ends_every_request(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--default-request-timeout=300ms", "--max-execution=3600s")
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            answers = [threads.submit(echo, server, i) for i in range(3)]
            assert [answer.result().status for answer in answers] == [503] * 3
        wait_for(lambda: echo(server, 3).status == 200, "the worker to be free again")
    assert worker_pids(server) == [pid]
