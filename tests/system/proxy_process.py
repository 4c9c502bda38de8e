"""`muster proxy` and Python gRPC servers behind it, as the tests and bench/proxy.py start them."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import grpc

from muster_server import PATIENCE, binary_path, environment, wait_for

BACKEND = pathlib.Path(__file__).with_name("grpc_backend.py")


class Backends:
    """Servers by name, each on a port of its own that it keeps when it is started again."""

    def __init__(self, names, *more):
        self.names, self.more = list(names), more
        self.processes = {name: self._spawn(name, 0) for name in self.names}
        self.ports = {name: self._listening(name) for name in self.names}

    def _spawn(self, name, port):
        return subprocess.Popen([sys.executable, str(BACKEND), str(port), name, *self.more], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, text=True)

    def _listening(self, name) -> int:
        line = self.processes[name].stdout.readline()
        assert line, f"backend {name} did not start"
        return int(line)

    def list(self) -> str:
        return ",".join(self.address(name) for name in self.names)

    def address(self, name) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def signal(self, name, number):
        os.kill(self.processes[name].pid, number)

    def kill(self, name):
        process = self.processes[name]
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()

    def revive(self, name):
        self.processes[name] = self._spawn(name, self.ports[name])
        assert self._listening(name) == self.ports[name]

    def close(self):
        for name, process in self.processes.items():
            if process.poll() is None:
                self.kill(name)


class Proxy:
    """A running `muster proxy` on free ports; closes itself and checks how it ended."""

    def __init__(self, *arguments):
        if not {"--health-timeout", "--opaque"} & set(map(str, arguments)):
            arguments = (*arguments, "--health-timeout", "30s")  # a backend that is slow on a busy machine is no hung one
        command = [binary_path(), "proxy", "--grpc-port", "0", "--http-port", "0", "--ws-port", "0", *map(str, arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment())
        self.ports, self.log = {}, []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_for(lambda: len(self.ports) == 3 or self.process.poll() is not None, "the proxy's ports")
        assert len(self.ports) == 3, self.log

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if line.startswith("{"):
                event = json.loads(line)
                if event["message"] == "listening":
                    self.ports[event["protocol"]] = event["port"]

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        problems = self.close()
        if kind is None:
            assert not problems, problems

    def close(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self.process.stderr.close()
        return "" if code == 0 else f"the proxy ended with {code}:\n" + "".join(self.log)

    def channel(self):
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.insecure_channel(f"127.0.0.1:{self.ports['grpc']}", options=options)

    def get(self, path) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def health(self) -> dict:
        return json.loads(self.get("/health")[1])

    def wait_healthy(self, n: int):
        wait_for(lambda: self.health()["healthy_count"] == n, f"{n} healthy backends")
        return self
