"""A muster server under test: its process, its log, its ports, and what must hold when it ends."""
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "models"
DEPS = ROOT / ".deps"
PATIENCE = float(os.environ.get("MUSTER_TEST_PATIENCE", 60))  # seconds: a bound for what should take far less, also under a sanitizer on a busy machine


# For tests that look into a server's processes (/proc/PID/fd, maps, mem): the sandbox hides them from all but root.
VISIBLE = [] if os.geteuid() == 0 else ["--sandbox=off"]


def binary_path() -> pathlib.Path:
    return pathlib.Path(os.environ.get("MUSTER_BINARY", ROOT / "build" / "release" / "muster"))


def sanitized() -> bool:
    """Is the binary built with a sanitizer, whose own memory says nothing about muster's?"""
    return binary_path().parent.name in ("asan", "tsan")


def environment(more=None) -> dict[str, str]:
    """That of the tests without what muster would take for settings of its own, then what a test adds."""
    settings = {"ENABLE_BATCHING", "MAX_BATCH_SIZE", "MAX_BATCH_WAIT_TIME", "GPU_LOAD_BALANCE_STRATEGY"}
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MUSTER_") and k not in settings}
    return {**kept, **(more or {})}


def run_muster(*arguments, env=None, cwd=None) -> subprocess.CompletedProcess:
    """A command that ends by itself."""
    return subprocess.run([binary_path(), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, errors="replace", timeout=PATIENCE, env=environment(env), cwd=cwd)


def put_model(repository: pathlib.Path, name: str, source="", config="", version=1, files=None) -> pathlib.Path:
    """A model in Triton's layout: source is a file (copied by link), config the text of its config.pbtxt, files are
    further ones beside that. Without a source: a model of the sim engine. Returns the repository."""
    folder = repository / name / str(version)
    folder.mkdir(parents=True)
    if source:
        (folder / "model.onnx").symlink_to(MODELS / source)
    if config:
        (repository / name / "config.pbtxt").write_text(config)
    for file, text in (files or {}).items():
        (repository / name / file).write_text(text)
    return repository


def sim_config(dtype="TYPE_FP32", dims="4", **parameters) -> str:
    """config.pbtxt of a model of the sim engine that echoes `x` as `y`; parameters: sim.* by their last word, others
    (max_batch_size, dynamic_batching …) as they are written in the file."""
    lines = ['backend: "sim"', f"input {{ name: 'x' data_type: {dtype} dims: [{dims}] }}",
             f"output {{ name: 'y' data_type: {dtype} dims: [{dims}] }}"]
    plain = {"max_batch_size", "dynamic_batching", "instance_group", "version_policy"}
    for key, value in parameters.items():
        if key in plain:
            lines.append(f"{key} {value}" if str(value).startswith("{") else f"{key}: {value}")
        else:
            lines.append(f'parameters {{ key: "sim.{key}" value {{ string_value: "{value}" }} }}')
    return "\n".join(lines) + "\n"


def wait_for(condition, what: str, seconds: float = PATIENCE):
    """Polls until condition() is true and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.01)


def name_of(pid: int) -> str:
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it has just ended
        return ""


class Reply:
    def __init__(self, response: http.client.HTTPResponse, body: bytes):
        self.status, self.headers, self.body = response.status, response.headers, body

    @property
    def json(self):
        return json.loads(self.body)


def ask_control(path, method: str, target: str, timeout=PATIENCE) -> Reply:
    """HTTP to a control socket: what the commands ask, without the time that a process takes."""
    connection = http.client.HTTPConnection("localhost", timeout=timeout)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(timeout)
    try:
        connection.sock.connect(str(path))
        connection.request(method, target)
        response = connection.getresponse()
        return Reply(response, response.read())
    finally:
        connection.close()


def control_status(path) -> dict:
    """The document of `status --json`; {} while nobody answers. Tests ask often: processes of the sanitizer build for it
    were a third of all that the tests do."""
    try:
        reply = ask_control(path, "GET", "/status", 10)
    except (OSError, http.client.HTTPException):
        return {}
    assert reply.status == 200, reply.body
    return reply.json


class Server:
    """Ports are chosen by the server (0) unless arguments say otherwise. env: further environment variables; command: what
    stands before `serve` instead of the binary; process: further arguments of subprocess.Popen (user, umask)."""

    def __init__(self, folder: pathlib.Path, arguments, wait=True, env=None, cwd=None, command=None, **process):
        folder.mkdir(parents=True, exist_ok=True)
        self.socket = folder / "control.sock"
        self.log_path = folder / "log"
        flags = [str(argument) for argument in arguments]
        for flag, value in {"--address": "127.0.0.1", "--http-port": "0", "--grpc-port": "0", "--metrics-port": "0",
                            "--control-socket": str(self.socket)}.items():
            if not any(given.split("=")[0] == flag for given in flags):
                flags += [flag, value]
        self.log_file = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [*(command or [binary_path()]), "serve", *flags], stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=self.log_file,
            start_new_session=True, cwd=cwd or folder, env=environment(env), **process)
        self.expected_to_crash = False
        self._status = None

    # ---- what it says of itself

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def log_lines(self):
        for line in self.log.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def status(self) -> dict:
        """`muster status --json`; {} while there is no answer."""
        return control_status(self.socket)

    def wait_state(self, state: str, seconds: float = PATIENCE) -> dict:
        def reached():
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
            status = self.status()
            return status if status.get("state") == state else None
        return wait_for(reached, f"state {state}; log:\n{self.log}", seconds)

    def wait_ready(self):
        self._status = self.wait_state("ready")
        return self

    @property
    def port(self) -> int:
        return (self._status or self.status())["http"][0]["port"]

    @property
    def grpc_port(self) -> int:
        return (self._status or self.status())["grpc"][0]["port"]

    @property
    def metrics_port(self) -> int:
        return (self._status or self.status())["metrics"][0]["port"]

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def workers(self, model=None) -> list[dict]:
        return [w for w in self.status()["workers"] if model in (None, w["model"])]

    # ---- talking to it

    def request(self, method: str, path: str, body=None, headers=None, port=None, timeout=PATIENCE) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response, response.read())
        finally:
            connection.close()

    def get(self, path: str, **options) -> Reply:
        return self.request("GET", path, **options)

    def post(self, path: str, body, **options) -> Reply:
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        return self.request("POST", path, body, **options)

    def infer(self, model: str, inputs: list[dict], **more) -> Reply:
        return self.post(f"/v2/models/{model}/infer", {"inputs": inputs, **more})

    def metrics(self) -> str:
        return self.get("/metrics", port=self.metrics_port).body.decode()

    # ---- its end

    def signal(self, number: int):
        self.process.send_signal(number)

    def wait_exit(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def family(self) -> list[int]:
        """Processes of the server's session that are alive."""
        pids = []
        for entry in pathlib.Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                pids.append(int(entry.name))
        return pids

    def settled_family(self) -> list[int]:
        """family(), once the process that has looked for NVML and found none has left, too."""
        def settled():
            pids, state = self.family(), self.status().get("fleet", {}).get("state")
            return pids if state == "answering" or state == "none" and not any(name_of(pid) == "muster-fleet" for pid in pids) else None
        return wait_for(settled, "the look for NVML to be over")

    def close(self) -> list[str]:
        """Ends it; returns what was wrong: sanitizer reports, processes left behind, a stale socket, a hang."""
        problems = []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                problems.append("the server did not end on SIGTERM")
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.log_file.close()
        try:
            wait_for(lambda: not self.family(), "the children to go", 10)
        except AssertionError:
            problems.append(f"processes left behind: {self.family()}")
            os.killpg(self.process.pid, signal.SIGKILL)
        text = self.log
        for sign in ("ERROR: AddressSanitizer", "ERROR: LeakSanitizer", "LeakSanitizer has encountered", "runtime error:", "WARNING: ThreadSanitizer"):
            if sign in text:
                problems.append(f"sanitizer report in the log:\n{text[text.index(sign) - 200 if text.index(sign) > 200 else 0:][:6000]}")
        if self.socket.exists() and not self.expected_to_crash:
            problems.append("the control socket was left behind")
        return problems
