import os, signal, shutil, time
import numpy as np, pytest
from muster_server import MODELS, put_model, run_muster, wait_for
from oip import same
from traffic import *

def test_h_gateway_dies_while_a_worker_hangs(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", hang_on=666), "--max-execution=1s")
    assert echo(server, 1).status == 200
    (pid,) = worker_pids(server)
    with Client(server) as client:
        client.send_infer("echo", {"x": rows(666)})
        wait_depth(server, 1)
        os.kill(server.status()["gateway"]["pid"], signal.SIGKILL)
        assert client.file.read() == b""
    wait_for(lambda: (s := server.status())["state"] == "ready" and s["workers"][0]["pid"] not in (None, pid), "a successor of the hung worker")
    assert echo(server, 1).status == 200

def test_j_worker_dies_during_drain(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            answers = [threads.submit(echo, server, i) for i in range(5)]
            wait_depth(server, 5)
            server.signal(signal.SIGTERM)
            server.wait_state("draining")
            os.kill(pid, signal.SIGKILL)
        assert [a.result().status for a in answers] == [200] * 5
    assert server.wait_exit() == 0

@pytest.mark.parametrize("n", range(3))
def test_k_stop_while_gateway_is_being_restarted(serve, tmp_path, n):
    server = serve(sim_model(tmp_path / "models"))
    for _ in range(n):
        os.kill(server.status()["gateway"]["pid"], signal.SIGKILL)
        wait_for(lambda: server.status()["state"] == "ready" , "ready")
    os.kill(server.status()["gateway"]["pid"], signal.SIGKILL)
    server.signal(signal.SIGTERM)
    assert server.wait_exit() == 0

def test_m_model_file_gone_when_worker_dies(serve, tmp_path):
    put_model(tmp_path / "models", "m", "mlp.onnx")
    file = tmp_path / "models" / "m" / "1" / "model.onnx"
    server = serve(tmp_path / "models")
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            answers = [threads.submit(infer, server, "m", {"x": rows(i)}) for i in range(5)]
            wait_depth(server, 5)
            file.unlink()
            os.kill(pid, signal.SIGKILL)
            t = time.monotonic()
            got = [a.result() for a in answers]
    print(got, time.monotonic() - t)
    print(server.status()["models"])
    assert time.monotonic() - t < 5 and [a.status for a in got] == [503] * 5

def test_q_late_and_gone_then_killed(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    (pid,) = worker_pids(server)
    with crowd() as threads:
        with standing_still(pid):
            first = threads.submit(echo, server, 0)
            wait_depth(server, 1)
        first.result()
        with standing_still(pid):
            first = threads.submit(echo, server, 0, parameters={"timeout": 300000})
            wait_depth(server, 1)
            leavers = [Client(server) for _ in range(3)]
            for l in leavers: l.send_infer("echo", {"x": rows(1)})
            wait_waiting(server, 3)
            assert first.result().status == 503
            for l in leavers: l.close()
            wait_waiting(server, 0)
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.status()["workers"][0]["pid"] not in (None, pid), "successor")
    assert echo(server, 4).status == 200
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "memory")
    assert metric(server, "muster_requests_retried_total", model="echo") == 0

def test_r_pipelined(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=1), "--processes=2", "--cpu-slots=2")
    pids = worker_pids(server)
    with Client(server) as client:
        with standing_still(*pids):
            for i in range(16): client.send_infer("echo", {"x": rows(i)})
            wait_depth(server, 16)
            os.kill(pids[0], signal.SIGKILL)
        for i in range(16):
            a = Answer(client.reply())
            assert a.status == 200 and same(a.outputs["y"], rows(i))
