"""Traffic for the system tests: simulated models, clients side by side, workers that stand still."""
import concurrent.futures
import contextlib
import os
import pathlib
import signal

import numpy as np

from muster_server import PATIENCE, Server, put_model, sim_config, wait_for
from oip import Wire, binary_body, outputs_of, same


# ---- models ----------------------------------------------------------------------------------------------------------

def sim_model(repository, name="echo", dims="16", max_batch_size=8, **settings):
    """Adds a simulated model, FP32 `x` to `y`; settings as of sim_config. Returns the repository."""
    config = sim_config(dims=dims, max_batch_size=max_batch_size, **settings)
    return put_model(repository, name, config=config)


def rows(*firsts, width=16):
    """FP32 rows that begin with these numbers; the rest of a row tells it from all others."""
    return np.stack([np.arange(width, dtype=np.float32) / 64 + np.float32(first) for first in firsts])


# ---- requests --------------------------------------------------------------------------------------------------------

class Answer:
    """status and headers; outputs {name: array} of a 200, error of any other."""

    def __init__(self, reply):
        self.status, self.headers = reply.status, reply.headers
        self.outputs = outputs_of(reply) if reply.status == 200 else {}
        self.error = "" if reply.status == 200 else reply.json["error"]

    def __repr__(self):
        return f"<{self.status} {self.error}>"


class Client(Wire):
    """A connection that is kept open from request to request. What goes in and out is binary."""

    def __init__(self, server: Server, timeout=PATIENCE):
        super().__init__(server.port, timeout)

    def send_infer(self, model, inputs, parameters=None, **more):
        body, headers = binary_body(inputs, parameters={"binary_data_output": True, **(parameters or {})}, **more)
        self.request("POST", f"/v2/models/{model}/infer", body, headers)

    def infer_arrays(self, model, inputs, **more) -> Answer:
        self.send_infer(model, inputs, **more)
        return Answer(self.reply())

    def echo(self, *firsts, model="echo", width=16, **more) -> Answer:
        """One request of these rows; a 200 must bring them back."""
        sent = rows(*firsts, width=width)
        answer = self.infer_arrays(model, {"x": sent}, **more)
        assert answer.status != 200 or same(answer.outputs["y"], sent), f"not the rows of {firsts}"
        return answer


def infer(server: Server, model, inputs, **more) -> Answer:
    with Client(server) as client:
        return client.infer_arrays(model, inputs, **more)


def echo(server: Server, *firsts, **more) -> Answer:
    with Client(server) as client:
        return client.echo(*firsts, **more)


@contextlib.contextmanager
def crowd(size=64):
    """Threads for requests side by side: submit(function, *arguments) gives a future."""
    with concurrent.futures.ThreadPoolExecutor(size) as pool:
        yield pool


# ---- what a server knows of a model ----------------------------------------------------------------------------------

def stats(server: Server, model="echo") -> dict:
    return server.get(f"/v2/models/{model}/stats").json["model_stats"][0]


def batch_sizes(server: Server, model="echo") -> dict[int, int]:
    """{rows: executed batches of so many}."""
    return {entry["batch_size"]: entry["compute_infer"]["count"] for entry in stats(server, model)["batch_stats"]}


def metric(server: Server, name: str, **labels) -> float:
    """The sum of the series of a metric that carry these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    found = [float(line.rpartition(" ")[2]) for line in server.metrics().splitlines()
             if line.startswith((name + "{", name + " ")) and all(label in line for label in wanted)]
    assert found, f"no metric {name} {labels}"
    return sum(found)


def waiting(server: Server, model="echo") -> int:
    """Requests in the queue."""
    return int(metric(server, "nv_inference_pending_request_count", model=model))


def wait_waiting(server: Server, n: int, model="echo"):
    wait_for(lambda: waiting(server, model) == n, f"{n} requests in the queue of {model}")


def depth(server: Server) -> int:
    """Requests in the queue or with a worker, over all models of one worker each."""
    return server.get("/stats").json["queue_depth"]


def wait_depth(server: Server, n: int):
    wait_for(lambda: depth(server) == n, f"{n} requests in the server")


# ---- who is killed ---------------------------------------------------------------------------------------------------

def wait_gateway(server: Server, *dead: int) -> int:
    """The gateway's process, when it is none of those that were killed: in the status they are ready until the supervisor
    has heard of their end."""
    def at_work():
        status = server.status()
        pid = status["gateway"]["pid"]
        return pid if status["state"] == "ready" and pid not in dead else None
    return wait_for(at_work, "a gateway")


# ---- workers that stand still ----------------------------------------------------------------------------------------

def worker_pids(server: Server, model=None) -> list[int]:
    """The workers' processes, once all of them take requests: a server is ready as soon as one does for each model."""
    def at_work():
        workers = server.workers()
        healthy = server.get("/health").json["healthy_count"]
        return workers if all(w["state"] == "ready" for w in workers) and healthy == len(workers) else None
    workers = wait_for(at_work, "all workers to take requests")
    return [worker["pid"] for worker in workers if model in (None, worker["model"])]


def stands_still(pid: int) -> bool:
    """Every thread of it has stopped: the signal reaches them one after the other."""
    try:
        tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
        return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)
    except (FileNotFoundError, ProcessLookupError):  # a thread has just ended
        return False


@contextlib.contextmanager
def standing_still(*pids):
    """Processes that do nothing until the end of the block: what is sent to them meanwhile is in flight."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for pid in pids:
        wait_for(lambda: stands_still(pid), f"process {pid} to stand still")
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
