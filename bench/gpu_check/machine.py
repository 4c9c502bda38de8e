"""The machine that is checked: muster on its GPUs, or on simulated ones; models, servers, requests, readings."""
import http.client
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import time

import numpy as np

from report import Failed, NotChecked, need

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "bench"), str(ROOT / "tests" / "system")]


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()


class Connection:
    """To one server, kept open."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def infer(self, model, inputs):
        from oip import binary_body, outputs_of
        body, headers = binary_body(inputs, parameters={"binary_data_output": True})
        self.connection.request("POST", f"/v2/models/{model}/infer", body, headers)
        answer = Answer(self.connection.getresponse())
        need(answer.status == 200, f"{model}: status {answer.status}, {answer.body[:300]!r}")
        return outputs_of(answer)

    def close(self):
        self.connection.close()


class Machine:
    def __init__(self, folder, muster, simulated, gpu=0):
        self.folder, self.muster, self.simulated, self.gpu = folder, muster, simulated, gpu
        self.capi, self.servers, self.inventory, self.number = None, [], None, 0
        self.nvml_flags = self.fake_nvml() if simulated else []
        os.environ["MUSTER_BINARY"] = str(muster)  # for bench/server.py, which takes it away again
        if (libraries := pathlib.Path(muster).parent).name == "muster":  # one that was staged, with what it is linked with
            os.environ["LD_LIBRARY_PATH"] = ":".join(filter(None, [str(libraries), os.environ.get("LD_LIBRARY_PATH")]))
        import server
        self.server_module = server
        self.serve_help = self.command("serve", "--help").stdout

    # ---- muster's commands

    def command(self, *arguments, timeout=30):
        return subprocess.run([self.muster, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False)

    def knows_option(self, name):
        return f"--{name} " in self.serve_help

    def knows_command(self, name):
        return f"\n  {name} " in self.command("--help").stdout

    def gpus(self):
        done = self.command("gpus", "--json", *self.nvml_flags)
        need(done.returncode == 0, f"muster gpus: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def one_gpu(self):
        """The GPU that is checked, read now."""
        return next(gpu for gpu in self.gpus()["gpus"] if gpu["index"] == self.gpu and gpu["mig_index"] is None)

    # ---- the fake

    def fake_nvml(self, processes=()):
        library = pathlib.Path(self.muster).parent / "libfake_nvml.so"
        if not library.exists():
            sys.exit(f"gpu-check: --simulate needs {library}, which the build of the tests makes")
        scenario = self.folder / "nvml.json"
        gpu = {"uuid": "GPU-51a11a7e-0000-0000-0000-000000000000", "name": "simulated GPU", "pci": "00000000:0B:00.0",
               "compute_capability": [9, 0], "memory": {"total": 80 << 30, "used": 1 << 30}, "compute_mode": 0,
               "numa_node": 0, "utilization": [50, 20], "temperature": 40, "power_mw": 100000, "sm_clock": 1980,
               "processes": list(processes)}
        new = scenario.with_suffix(".new")
        new.write_text(json.dumps({"driver": "simulated", "cuda": 13000, "gpus": [gpu], "events": []}))
        os.replace(new, scenario)
        os.environ["FAKE_NVML"] = str(scenario)
        return ["--nvml-library", str(library)]

    # ---- models

    def put_model(self, name, source, batch, device="gpu", parameters=None, cuda=None, engine=None):
        """A repository of its own; source: an ONNX file, or None for a simulated model. Returns its folder."""
        self.number += 1
        repository = self.folder / f"repository{self.number}"
        (repository / name / "1").mkdir(parents=True)
        kind = f"kind: KIND_GPU gpus: [ {self.gpu} ]" if device == "gpu" else "kind: KIND_CPU"
        lines = [f"max_batch_size: {batch}", f"instance_group {{ count: 1 {kind} }}"]
        if source:
            (repository / name / "1" / "model.onnx").symlink_to(pathlib.Path(source).resolve())
        else:
            lines += [f'backend: "{engine or "sim"}"', 'input { name: "x" data_type: TYPE_FP32 dims: [ 16 ] }',
                      'output { name: "y" data_type: TYPE_FP32 dims: [ 16 ] }']
        if batch > 1:  # full batches: the clients see to it that they come
            lines.append(f"dynamic_batching {{ preferred_batch_size: [ {batch} ] max_queue_delay_microseconds: 100000 }}")
        lines += [f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in (parameters or {}).items()]
        if cuda:
            words = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in cuda.items())
            lines.append(f'optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: "cuda" {words} }} ] }} }}')
        (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n")
        return repository

    # ---- servers

    def serve(self, repository, *flags, gpus=True):
        """A server that is ready. Close it, or close_servers()."""
        self.number += 1
        folder = self.folder / f"server{self.number}"
        folder.mkdir()
        flags = list(flags)
        if self.capi:
            flags += ["--onnxruntime-library", self.capi]
        if gpus:
            flags += self.nvml_flags
        started = object.__new__(self.server_module.Server)  # known before it starts, so that it never stays behind
        started.folder = folder
        try:
            started.__init__(folder, repository, flags)
        except BaseException:
            if hasattr(started, "process"):
                started.process.kill()
                started.process.wait()
            raise
        self.servers.append(started)
        return started

    def refusal(self, repository, *flags):
        """Why the one model of this repository is not served; it must not be."""
        folder = pathlib.Path(repository)
        socket = folder.parent / f"{folder.name}.sock"
        with open(folder.parent / f"{folder.name}.log", "wb") as log:
            process = subprocess.Popen([self.muster, "serve", repository, "--address", "127.0.0.1", "--http-port", "0", "--grpc-port", "0",
                                        "--metrics-port", "0", "--control-socket", socket, *flags, *self.nvml_flags], stdout=log, stderr=log)
            try:
                while True:
                    need(process.poll() is None, f"the server has left: {(folder.parent / (folder.name + '.log')).read_text()[-600:]}")
                    done = self.command("status", "--json", "--control-socket", socket)
                    (model,) = json.loads(done.stdout)["models"] if done.returncode == 0 else [{"state": "", "reason": ""}]
                    need(model["state"] != "READY", "the model is served")
                    if model["reason"] and not model["reason"].startswith("waits "):  # for what NVML says
                        return model["reason"]
                    time.sleep(0.02)
            finally:
                process.terminate()
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def close(self, server):
        if server not in self.servers:
            return
        self.servers.remove(server)
        server.process.terminate()
        try:
            server.process.wait(40)
        except subprocess.TimeoutExpired:
            server.process.kill()  # its children die with it
            server.process.wait()
            raise Failed("the server did not stop within 40 s") from None
        finally:
            server.log.close()

    def close_servers(self):
        for server in list(self.servers):
            self.close(server)

    def kill_servers(self):
        """At the end, whatever happened before: nothing stays behind."""
        for server in self.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()
            server.log.close()
        self.servers.clear()


def log_lines(server):
    for line in (server.folder / "log").read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


class Sampler(threading.Thread):
    """Reads the GPU all the time by `muster gpus --json --watch`, in a process of its own."""

    def __init__(self, machine, every=0.25):
        super().__init__(daemon=True)
        self.machine, self.memory, self.utilization = machine, [], []
        self.process = subprocess.Popen([machine.muster, "gpus", "--json", f"--watch={every}", *machine.nvml_flags],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def run(self):
        for line in self.process.stdout:
            for gpu in json.loads(line)["gpus"]:
                if gpu["index"] == self.machine.gpu and gpu["mig_index"] is None:
                    self.memory.append(gpu["reading"]["memory_used"])
                    self.utilization.append(gpu["reading"]["gpu_utilization"])

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.join()

    def figures(self):
        memory = [value for value in self.memory if value is not None]
        busy = [value for value in self.utilization if value is not None]
        return {"GPU memory MiB": max(memory) / 2**20 if memory else None,
                "GPU busy %": sum(busy) / len(busy) if busy else None, "samples": len(self.memory)}


def parse_cores(text):
    """{0, 1, 2, 8} of 0-2,8"""
    pairs = [part.split("-") for part in text.split(",") if part]
    return {core for pair in pairs for core in range(int(pair[0]), int(pair[-1]) + 1)}


def mps_program():
    found = shutil.which("nvidia-cuda-mps-control")
    if not found:
        raise NotChecked("nvidia-cuda-mps-control is not on this machine")
    return found


def random_inputs(path, rows, seed):
    """For an ONNX file: random inputs, and what the CPU makes of them."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random, inputs = np.random.default_rng(seed), {}
    for tensor in session.get_inputs():
        shape = [rows] + [dim if isinstance(dim, int) else 1 for dim in tensor.shape[1:]]
        if tensor.type == "tensor(int32)":
            inputs[tensor.name] = random.integers(0, 256, shape).astype(np.int32)
        else:
            dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[tensor.type]
            inputs[tensor.name] = random.standard_normal(shape).astype(dtype)
    names = [tensor.name for tensor in session.get_outputs()]
    return inputs, dict(zip(names, session.run(names, inputs)))
