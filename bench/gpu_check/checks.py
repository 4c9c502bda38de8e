"""The steps: each returns a line for people, or raises Failed or NotChecked. `found` takes figures for the report."""
import json
import os
import shutil
import signal
import subprocess
import threading
import time

import numpy as np

from machine import Connection, Sampler, log_lines, mps_program, parse_cores, random_inputs
from report import Failed, NotChecked, need

MIB = 2**20


def drivers_view(machine, found):
    """NVML as muster reads it: what is known, and the same as nvidia-smi says where there is one."""
    inventory = machine.inventory = machine.gpus()
    need(inventory["gpus"], "NVML shows no GPU")
    gpu = machine.one_gpu()
    unknown = sorted(key for key, value in {**gpu, **gpu["reading"]}.items() if value is None and key != "mig_index")
    found.update(driver=inventory["driver"], cuda=inventory["cuda"], gpus=[one["name"] for one in inventory["gpus"]],
                 not_told=unknown, gpu=gpu)
    need(not gpu["reading"]["lost"], "the GPU is lost")
    for key in ("uuid", "name", "memory_total", "compute_major"):
        need(gpu.get(key), f"NVML does not say {key}")
    text = f"{len(inventory['gpus'])} x {gpu['name']}, driver {inventory['driver']}; not told: {', '.join(unknown) or 'nothing'}"
    smi = shutil.which("nvidia-smi")
    if smi is None or machine.simulated:
        return text + "; nvidia-smi: none to compare with"
    done = subprocess.run([smi, "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"],
                          capture_output=True, text=True, timeout=30, check=False)
    need(done.returncode == 0, f"nvidia-smi fails: {done.stdout.strip()} {done.stderr.strip()}")
    rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
    seen = next((row for row in rows if row[0] == str(machine.gpu)), None)
    need(seen, f"nvidia-smi has no GPU {machine.gpu}: {done.stdout!r}")
    need(seen[1:3] == [gpu["uuid"], gpu["name"]], f"nvidia-smi says {seen}, muster {gpu['uuid']} {gpu['name']}")
    need(abs(float(seen[3]) - gpu["memory_total"] / MIB) < 2, f"nvidia-smi: {seen[3]} MiB, muster {gpu['memory_total'] / MIB:.0f}")
    return text + "; nvidia-smi says the same"


def no_fallback(machine, found, model, cpu_library):
    """A library without CUDA must be refused on a GPU: never the CPU instead."""
    text = machine.refusal(machine.put_model("refused", model, 8), "--onnxruntime-library", cpu_library)
    found["reason"] = text
    need("CUDAExecutionProvider" in text, f"refused, but not for want of the CUDA provider: {text}")
    return "the CPU build of ONNX Runtime is refused on a GPU, with the cure in the message"


# Largest difference from the CPU, relative to the largest value of the output. TF32 has 10 bits of mantissa, as FP16.
TOLERANCES = {"FP32": 1e-4, "TF32": 1e-2, "FP16": 2e-2}


def same_results(machine, found, name, path, kind, device="gpu"):
    """Answers through the whole server against ONNX Runtime on the CPU in this process."""
    cuda = {"use_tf32": "1" if kind == "TF32" else "0"} if device == "gpu" else None
    # Where part of the graph cannot run on the GPU, loading fails: so what answers has run there.
    parameters = {"session.disable_cpu_ep_fallback": "1"} if device == "gpu" and name != "magika" else {}
    repository = machine.put_model(name, path, 32, device, parameters, cuda)
    server = machine.serve(repository / name / "1" / "model.onnx" if device == "cpu" else repository, gpus=device == "gpu")
    connection, worst, bound = Connection(server.port), 0.0, TOLERANCES[kind]
    try:
        for rows in ((1, 3) if machine.simulated else (1, 3, 8, 32)):
            inputs, expected = random_inputs(path, rows, seed=rows)
            answers = connection.infer(name, inputs)
            need(set(answers) == set(expected), f"outputs {sorted(answers)} instead of {sorted(expected)}")
            for output, right in expected.items():
                got = answers[output]
                need(got.shape == right.shape and got.dtype == right.dtype, f"{output}: {got.dtype}{got.shape}, not {right.dtype}{right.shape}")
                need(np.isfinite(got).all(), f"{output} is not finite")
                difference = np.abs(got.astype(np.float64) - right.astype(np.float64)).max() / max(np.abs(right).max(), 1e-9)
                worst = max(worst, float(difference))
    finally:
        connection.close()
        machine.close(server)
    found.update(difference=worst, bound=bound, start_ms=server.ready_ms)
    need(worst <= bound, f"{name}, {kind}: differs from the CPU by {worst:.2e} of the largest value, allowed is {bound:.0e}")
    return f"{name}, {kind}, batches of 1 and more: differs by {worst:.1e} (allowed {bound:.0e}); ready after {server.ready_ms:.0f} ms"


def fleet(machine, found, model):
    """One server with two workers on the GPU: cores, memory, Xid events; what is planned against what is seen."""
    repository = machine.put_model("fleet", model, 8)
    before = machine.one_gpu()["reading"]["memory_used"]
    server = machine.serve(repository, "--processes", "2", "--log-verbose", "1")
    try:
        status = server.status()
        pids = [worker["pid"] for worker in status["workers"]]
        if machine.simulated:
            machine.fake_nvml([{"pid": pid, "memory": 600 * MIB} for pid in pids])
        reading = machine.gpus()
        gpu = machine.one_gpu()
        found["start_ms"] = server.ready_ms
        found["cores"] = {pid: sorted(os.sched_getaffinity(pid)) for pid in pids}
        found["cores_near"] = gpu.get("cores")
        found["memory_before"], found["memory_with"] = before, gpu["reading"]["memory_used"]
        found["memory_of_workers"] = {row["pid"]: row["memory_used"] for row in reading["processes"] if row["pid"] in pids}
        found["no_events"] = [line.get("because") or line.get("error") or line["message"] for line in log_lines(server)
                              if line["role"] == "fleet" and "faults" in line["message"]]
        found["status"] = {"fleet": status.get("fleet"), "gpus": status.get("gpus"), "workers": status["workers"]}
        if machine.knows_command("plan"):
            done = machine.command("plan", "placement", "--json", repository, "--processes", "2", *machine.nvml_flags)
            found["plan"] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr.strip()}
    finally:
        machine.close(server)
    machine.seen = found
    need(status["fleet"]["state"] == "answering", f"the fleet's process is {status['fleet']}")
    return f"two workers ready after {server.ready_ms:.0f} ms"


def seen(machine):
    if getattr(machine, "seen", None) is None:
        raise NotChecked("the server of the step before did not start")
    return machine.seen


def pinning(machine, _):
    near, cores = seen(machine)["cores_near"], seen(machine)["cores"]
    if not near:
        raise NotChecked("it is not known which cores are near the GPU")
    near = parse_cores(near) & os.sched_getaffinity(0)
    for pid, mask in cores.items():
        need(set(mask) == near, f"worker {pid} runs on {mask}, near the GPU are {sorted(near)}")
    everything = " (that is all of this machine's, so pinning changes nothing here)" if near == os.sched_getaffinity(0) else ""
    return f"workers run on the cores near the GPU: {len(near)}{everything}"


def xid_events(machine, _):
    reasons = seen(machine)["no_events"]
    need(not reasons, f"the driver reports no Xid events: {reasons[0] if reasons else ''}")
    return "registered with the driver; whether a real fault is reported was not tried (nobody makes one on purpose)"


def memory(machine, found):
    figures = seen(machine)
    of_workers = {pid: value for pid, value in figures["memory_of_workers"].items() if value}
    if not of_workers:
        raise NotChecked("NVML does not show the memory of the workers: a container with process numbers of its own?")
    measured = max(of_workers.values())
    found["measured_mib"] = measured / MIB
    text = f"a worker takes {measured / MIB:.0f} MiB"
    plan = figures.get("plan")
    if plan is None:
        raise NotChecked(f"{text}; this muster has no `muster plan placement` to compare with")
    need("error" not in plan, f"muster plan placement: {plan.get('error')}")
    predicted = plan["models"][0]["process_bytes"]
    need(predicted, "the plan says nothing about memory")
    found["predicted_mib"] = predicted / MIB
    need(machine.simulated or predicted >= measured, f"{text}, the plan before any measurement says only {predicted / MIB:.0f} MiB")
    return f"{text}, the plan before any measurement says {predicted / MIB:.0f} MiB"


def mps_flags(machine, mps):
    """With MPS on, a worker serves only once muster has seen it in the list of the daemon's clients."""
    if not machine.knows_option("mps"):
        if mps:
            raise NotChecked("this muster has no --mps")
        return []
    if mps:
        mps_program()
    return ["--mps", "on" if mps else "off"]


def measure(server, clients, seconds):
    """Of a short time that passed without an answer, on a busy machine, nothing can be said: then ten times as long."""
    try:
        return server.bench("shared", clients, seconds, warmup=min(1, seconds / 4))
    except SystemExit:
        return server.bench("shared", clients, 10 * seconds, warmup=min(1, seconds / 4))


def sharing_row(machine, _, table, model, processes, mps, batch, seconds):
    """One row of the table: so many processes on the GPU, with or without MPS, batches of so many."""
    flags, parameters = ["--processes", str(processes)], {}
    if machine.simulated:
        flags, parameters = flags + ["--simulate-gpus", "1"], {"sim.sharing": "mps" if mps else "timeslice"}
    else:
        flags += mps_flags(machine, mps)
    repository = machine.put_model("shared", model, batch, parameters=parameters)
    server = machine.serve(repository, *flags, gpus=not machine.simulated)
    try:
        if mps and not machine.simulated and machine.knows_command("mps"):
            done = machine.command("mps", "status", "--json", "--control-socket", server.socket)
            need(done.returncode == 0, f"muster mps status: {done.stderr.strip()}")
        with Sampler(machine) as sampler:
            result = measure(server, 2 * processes * batch + batch, seconds)
    finally:
        machine.close(server)
    row = {"processes": processes, "MPS": "on" if mps else "off", "batch": batch, "inferences/s": result["inferences_per_second"],
           "p50 ms": result["p50_us"] / 1e3, "p99 ms": result["p99_us"] / 1e3, "mean batch": result["mean_batch"],
           **sampler.figures(), "start ms": server.ready_ms, "errors": result["errors"]}
    table.append(row)
    need(result["errors"] == 0, f"{result['errors']} requests failed")
    return f"{row['inferences/s']:.0f} inferences/s, p50 {row['p50 ms']:.1f} ms, p99 {row['p99 ms']:.1f} ms, batch {row['mean batch']:.1f}"


class Asker(threading.Thread):
    """One client that asks the same over and over, and knows the answer."""

    def __init__(self, port, inputs, expected, bound, over):
        super().__init__()
        self.port, self.inputs, self.expected, self.bound, self.over = port, inputs, expected, bound, over
        self.answers, self.failures = 0, []

    def run(self):
        connection = Connection(self.port)
        while not self.over.is_set() and len(self.failures) < 3:
            try:
                got = connection.infer("killed", self.inputs)["y"]
                wrong = np.abs(got.astype(np.float64) - self.expected).max() / max(np.abs(self.expected).max(), 1e-9)
                if not wrong <= self.bound:
                    self.failures.append(f"a wrong answer, by {wrong}")
                self.answers += 1
            except Exception as problem:  # pylint: disable=broad-except # whatever it is, the request has failed
                self.failures.append(repr(problem))
                connection.close()
                connection = Connection(self.port)
        connection.close()


def killed_worker(machine, found, model, kills, mps=False, clients=8):
    """SIGKILL to one of two workers under load: every request is answered, and rightly."""
    if model:
        inputs, expected = random_inputs(model, 1, seed=5)
        expected = expected["y"].astype(np.float64)
    else:
        inputs = {"x": np.arange(16, dtype=np.float32)[None]}
        expected = inputs["x"].astype(np.float64)
    repository = machine.put_model("killed", model, 8, parameters={} if model else {"sim.gpu_ms": "2"})
    flags = ["--simulate-gpus", "1"] if machine.simulated else mps_flags(machine, mps)
    server = machine.serve(repository, "--processes", "2", *flags, gpus=not machine.simulated)
    over, asked, times = threading.Event(), [], []
    try:
        asked = [Asker(server.port, inputs, expected, TOLERANCES["TF32"], over) for _ in range(clients)]
        for asker in asked:
            asker.start()
        for _ in range(kills):
            before = sum(asker.answers for asker in asked)
            wait(lambda least=before: sum(asker.answers for asker in asked) > least + 5 * clients or any(a.failures for a in asked))
            worker = server.status()["workers"][0]
            start = time.monotonic()
            os.kill(worker["pid"], signal.SIGKILL)
            wait(lambda old=worker["pid"]: all(w["state"] == "ready" and w["pid"] != old for w in server.status().get("workers", [{"state": "", "pid": 0}])))
            times.append(time.monotonic() - start)
    finally:
        over.set()
        for asker in asked:
            asker.join()
        machine.close(server)
    failures, answers = [text for asker in asked for text in asker.failures], sum(asker.answers for asker in asked)
    found.update(kills=kills, answers=answers, failures=failures[:10], seconds_until_ready_again=times)
    need(not failures, f"{len(failures)} of {answers + len(failures)} requests failed: {failures[:2]}")
    return f"{kills} kills, {answers} requests, none failed; the worker was ready again after {max(times):.2f} s at most"


def wait(condition):
    """The step's own limit ends it."""
    while not condition():
        time.sleep(0.01)
