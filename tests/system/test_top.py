"""muster top: once as text, and the screen in a terminal; draining a worker."""
import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading

import pyte
import pytest

from muster_server import Server, ask_control, binary_path, environment, put_model, run_muster, wait_for
from traffic import Client, sim_model


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    """Two workers for one model, one for the other; requests take 20 ms."""
    repository = sim_model(module_path / "models", "echo", base_ms=20, instance_group="[{ count: 1 }]")
    return serve_module(repository, "--processes", "2", "--metrics-config", "summary_latencies=true")


@contextlib.contextmanager
def load(server, clients=2):
    """Requests one after the other, until the end; yields what went wrong with them."""
    over, failures, answers = threading.Event(), [], []

    def ask():
        with Client(server) as client:
            while not over.is_set():
                answer = client.echo(1.0)
                answers.append(answer.status)
                if answer.status != 200:
                    failures.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(answers) >= clients, "the first answers")
        yield failures, answers
    finally:
        over.set()
        for thread in threads:
            thread.join()


class Screen:
    """`muster top` in a terminal of so many columns and lines."""

    def __init__(self, server, *arguments, columns=80, lines=24, term="xterm"):
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.bytes = b""
        self.master, slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.process = subprocess.Popen(
            [binary_path(), "top", "--interval", "0.2", "--control-socket", str(server.socket), *arguments],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=server.socket.parent,
            env=environment({"TERM": term, "LC_ALL": "C.UTF-8", "COLUMNS": "80", "LINES": "24"}))

    def resize(self, columns, lines):
        self.screen.resize(lines, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self) -> str:
        while select.select([self.master], [], [], 0)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            self.bytes += data
            self.stream.feed(data)
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait(self, pattern: str) -> re.Match:
        return wait_for(lambda: re.search(pattern, self.read(), re.M), f"{pattern!r} on the screen:\n{self.read()}")

    def press(self, keys: str):
        os.write(self.master, keys.encode())

    def selected(self) -> str:
        """The line that stands reversed."""
        self.read()
        for y, line in enumerate(self.screen.display):
            if self.screen.buffer[y][1].reverse:
                return line.rstrip()
        return ""

    def ended(self) -> int:
        def gone():
            self.read()  # whoever writes into a full terminal waits
            return self.process.poll() is not None
        wait_for(gone, "the end")
        self.read()
        return self.process.returncode

    def restored(self) -> bool:
        """The modes of the terminal are what they were, and the screen before is back (rmcup)."""
        after = termios.tcgetattr(self.slave)
        return after[:4] == self.before[:4] and b"\x1b[?1049l" in self.bytes

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def top(server):
    screens = []

    def open_screen(*arguments, of=None, **options):
        screens.append(Screen(of or server, *arguments, **options))
        return screens[-1]

    yield open_screen
    for screen in screens:
        screen.close()


# ---- once ------------------------------------------------------------------------------------------------------------

def once(server, *arguments):
    return run_muster("top", "--once", "--interval", "0.5", "--control-socket", server.socket, *arguments)


def test_once_under_load(server):
    def busy():
        """Once the clients of this process did get to ask within the half second that is looked at."""
        done = once(server)
        assert done.returncode == 0, done.stderr
        rate = re.search(r"^all models: (\S+) requests/s", done.stdout, re.M)
        return done if float(rate[1]) > 0 else None
    with load(server) as (failures, _):
        done = wait_for(busy, "requests in the half second that is looked at")
    assert not failures
    lines = done.stdout.splitlines()
    assert re.match(rf"muster \S+  ready  up .*  pid {server.process.pid}  cpu \d+%  mem \S+M ", lines[0])
    assert re.match(rf"gateway ready  pid {server.status()['gateway']['pid']}  restarts 0 .*conn [2-9]", lines[1])
    assert float(re.match(r"all models: (\S+) requests/s  waiting \d+  failures 0.0/s", lines[2])[1]) > 0
    model = next(line for line in lines if line.startswith("echo ")).split()
    assert model[1:3] == ["1", "READY"] and float(model[4]) > 0 and float(model[6]) > 0
    assert all(float(ms) >= 20 for ms in model[-3:]), "a request takes 20 ms"
    assert "  latency of the last minute" in lines
    for worker in server.workers():
        row = next(line.split() for line in lines if line.split()[:2] == [str(worker["worker"]), str(worker["pid"])])
        assert row[2:5] == ["echo", "cpu", "ready"] and row[-2].endswith("M") and row[-1] == "0"
    assert "\x1b" not in done.stdout and "q quit" not in done.stdout


def test_what_there_is_no_figure_for(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), "--allow-metrics=false")
    done = once(server)
    assert done.returncode == 0 and "no figures of requests: the server has no port for that" in done.stdout
    assert "latency" not in done.stdout and re.search(r"^echo +1 READY +- +- ", done.stdout, re.M)


def test_estimated_latencies_are_called_so(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    assert "latency from buckets; exact with --metrics-config summary_latencies=true" in once(server).stdout


@pytest.mark.parametrize("arguments, status, said", [
    (["--interval", "0"], 2, "--interval has to be seconds from 0.1 to 3600"),
    (["--interval=nan"], 2, "--interval has to be seconds from 0.1 to 3600"),
    (["--interval"], 2, "--interval has to be seconds from 0.1 to 3600"),
    (["--once", "--control-socket", "/nowhere/sock"], 1, "no server is running at /nowhere/sock"),
    (["--control-socket", "/nowhere/sock"], 1, "this is no terminal: use --once"),
    (["--no-such-flag"], 2, "no-such-flag")])
def test_bad_arguments(tmp_path, arguments, status, said):
    done = run_muster("top", *arguments, cwd=tmp_path)
    assert done.returncode == status and said in done.stderr


# ---- the screen ------------------------------------------------------------------------------------------------------

def test_the_screen_follows_the_server(top, server):
    screen = top()
    with load(server):
        screen.wait(r"^all models: [1-9]\S* requests/s")
        screen.wait(r"^echo +1 READY +\d+ +[1-9]")
    screen.wait(r"^all models: 0\.0 requests/s")
    assert "q quit  j/k select" in screen.read()
    first, second = (worker["worker"] for worker in server.workers())
    screen.press("j")
    wait_for(lambda: screen.selected().split()[:1] == [str(first)], "the first worker to be selected")
    screen.press("\x1b[B" if b"\x1b[?1h" not in screen.bytes else "\x1bOB")
    wait_for(lambda: screen.selected().split()[:1] == [str(second)], "the second")
    screen.press("s")
    screen.wait("s sort: requests")
    screen.press("p")
    screen.wait("PAUSED")
    screen.press("p?")
    screen.wait("select a GPU or a worker")
    screen.press("?f")
    screen.wait("this server reports no GPUs")
    screen.resize(60, 9)
    screen.process.send_signal(signal.SIGWINCH)
    screen.wait(r"\Amuster .*\n(.*\n){7}.*(quit|GPUs)")
    screen.press("q")
    assert screen.ended() == 0 and screen.restored()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(top, number):
    screen = top()
    screen.wait("^muster .* ready")
    if number == signal.SIGINT:
        screen.press("\x03")
        screen.process.send_signal(number)  # the pty is no controlling terminal: Ctrl-C is only a byte
    else:
        screen.process.send_signal(number)
    assert screen.ended() == 0 and screen.restored()


def test_an_unknown_terminal(top):
    screen = top(term="no-such-terminal")
    assert screen.ended() == 1 and "nothing is known of the terminal 'no-such-terminal'" in screen.bytes.decode()


def test_it_outlives_the_server(serve, tmp_path, top):
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    screen = top(of=server)
    screen.wait("^muster .* ready")
    server.signal(signal.SIGTERM)
    server.wait_exit()
    screen.wait("^no server, trying again every 0.2 s")
    screen.press("jfd")
    screen.wait("select a worker first")
    again = Server(tmp_path / "again", [repository, "--control-socket", str(server.socket)])
    try:
        screen.wait("^muster .* ready")
        screen.press("q")
        assert screen.ended() == 0 and screen.restored()
    finally:
        again.socket = server.socket
        assert again.close() == []


def test_keys_are_heard_while_the_server_hangs(serve, tmp_path, top):
    server = serve(sim_model(tmp_path / "models"))
    screen = top(of=server)
    screen.wait("^muster .* ready")
    server.signal(signal.SIGSTOP)
    try:
        screen.press("?")
        screen.wait("select a GPU or a worker")
        screen.press("q")
        assert screen.ended() == 0 and screen.restored()
    finally:
        server.signal(signal.SIGCONT)


# ---- GPUs: a server that reports them, and what the keys ask of it ---------------------------------------------------

class GpuServer(threading.Thread):
    """Answers as a control socket does, with two GPUs."""

    def __init__(self, path, fences=True):
        super().__init__(daemon=True)
        self.socket, self.fences, self.asked = path, fences, []
        self.states = {"GPU-a": "serving", "GPU-b": "serving"}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.start()

    def run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                head = b""
                while b"\r\n\r\n" not in head and (data := connection.recv(65536)):
                    head += data
                method, target = head.split(b" ")[:2] if head else (b"", b"")
                status, body = self.answer(method.decode(), target.decode())
                connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode())

    def answer(self, method, target):
        if method == "GET":
            gpus = ",".join(f'{{"uuid":"{uuid}","index":{i},"mig_index":-1,"name":"NVIDIA H200","state":"{state}","reason":""}}'
                            for i, (uuid, state) in enumerate(self.states.items()))
            return 200, f'{{"state":"ready","pid":1,"version":"0.1.0","uptime_s":1,"models":[],"workers":[],"gpus":[{gpus}]}}'
        self.asked.append(target)
        if not self.fences:
            return 404, '{"error":"there are GET /status, POST /stop and POST /reload"}'
        uuid = re.search(r"gpu=([^&]+)", target)[1]
        self.states[uuid] = "fenced" if "/fence" in target else "serving"
        return 200, "{}"


@pytest.mark.parametrize("fences", [True, False])
def test_fence_and_unfence(top, tmp_path, fences):
    fake = GpuServer(tmp_path / "sock", fences)
    screen = top(of=fake)
    screen.wait("^1 +NVIDIA H200 +serving")
    screen.press("f")
    screen.wait("select a GPU first")
    screen.press("jjf")
    if fences:
        screen.wait("^GPU-b is fenced")
        screen.wait("^1 +NVIDIA H200 +fenced")
        screen.press("u")
        screen.wait("^1 +NVIDIA H200 +serving")
        assert fake.asked == ["/gpus/fence?gpu=GPU-b&reason=muster%20top", "/gpus/unfence?gpu=GPU-b"]
    else:
        screen.wait("^this server cannot do that: its muster is older than this one")
    screen.press("q")
    assert screen.ended() == 0
    fake.listener.close()


def test_the_fence_of_a_real_server(serve, tmp_path, top):
    repository = sim_model(tmp_path / "models")
    server = serve(repository, "--simulate-gpus", "2")
    screen = top(of=server)
    screen.wait("^1 +simulated GPU +serving")
    screen.press("jjf")
    screen.wait("^GPU-simulated-1 is fenced")
    screen.wait("^1 +simulated GPU +fenced")
    assert [gpu["state"] for gpu in server.status()["gpus"]] == ["serving", "fenced"]
    screen.press("u")
    screen.wait("^1 +simulated GPU +serving")
    screen.press("q")
    assert screen.ended() == 0 and screen.restored()


# ---- drain -----------------------------------------------------------------------------------------------------------

def drain(server, query) -> tuple[int, str]:
    reply = ask_control(server.socket, "POST", f"/workers/drain{query}")
    return reply.status, reply.body.decode()


def test_drain_costs_no_request(top, server):
    screen = top()
    before = {worker["worker"]: worker["pid"] for worker in server.workers()}
    with load(server, 4) as (failures, answers):
        screen.wait("^all models: [1-9]")
        screen.press("j")
        wait_for(lambda: screen.selected().split()[:1] == [str(min(before))], "the worker to be selected")
        screen.press("d")
        screen.wait(rf"^worker {min(before)} finishes what it has and is started again")

        def replaced():
            now = server.workers()
            return [w for w in now if w["state"] == "ready"] if min(before) not in [w["worker"] for w in now] else None
        workers = wait_for(lambda: (found := replaced()) and len(found) == 2 and found, "the successor")
        n = len(answers)
        wait_for(lambda: len(answers) > n + 8, "more answers")
    assert not failures
    assert max(before) in [worker["worker"] for worker in workers], "the other one is the same"
    assert server.process.poll() is None and server.status()["state"] == "ready"
    said = [line for line in server.log_lines() if "has left as it was told" in line.get("message", "")]
    assert len(said) == 1 and said[0]["worker"] == min(before)
    assert "muster_worker_deaths_total 0" in server.metrics(), "nobody died"


def test_what_cannot_be_drained(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"))
    number = server.workers()[0]["worker"]
    assert drain(server, f"?worker={number}") == (
        409, f'{{"error":"worker {number} cannot be drained: no other worker of its model is ready"}}')
    assert drain(server, "?worker=77") == (404, '{"error":"there is no worker 77"}')
    for query in ["", "?worker=", "?worker=-1", "?worker=1x", "?worker=99999999999", "?other=1"]:
        assert drain(server, query)[0] == 400
    assert server.workers()[0]["worker"] == number


def test_a_model_that_cannot_be_served_does_not_forbid_it(serve, tmp_path):
    """A server that never was ready as a whole serves all the same."""
    repository = sim_model(tmp_path / "models")
    put_model(repository, "broken")
    server = serve(repository, "--processes", "2", wait=False)
    server.wait_state("degraded")
    number = server.workers()[0]["worker"]
    wait_for(lambda: all(worker["state"] == "ready" for worker in server.workers()), "both workers")
    assert drain(server, f"?worker={number}")[0] == 202
    wait_for(lambda: number not in [worker["worker"] for worker in server.workers()], "the successor")
