"""What the server is held against: nginx, a bare TCP echo (muster bench --echo), the same model in this process."""
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before onnxruntime is loaded: its official builds report home otherwise
import numpy as np
import onnxruntime

from server import MUSTER, cpu_seconds, on_cores


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_port(port):
    deadline = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


class Peer:
    """A process that listens on self.port until the end of the block."""

    def __init__(self, cores=None):
        self.cores = cores

    def __enter__(self):
        self.port = free_port()
        self.process = subprocess.Popen([*on_cores(self.cores), *self.command()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_port(self.port)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def cpu_seconds(self):
        return sum(cpu_seconds(self.process.pid))


class Nginx(Peer):
    """One nginx process that reads a POST and answers an empty 200."""

    def command(self):
        self.folder = tempfile.TemporaryDirectory(prefix="muster-bench-nginx-")
        path = pathlib.Path(self.folder.name) / "nginx.conf"
        path.write_text(f"""
            worker_processes 1; daemon off; master_process off; error_log /dev/null; pid {self.folder.name}/pid;
            events {{ worker_connections 1024; }}
            http {{
              access_log off; client_body_buffer_size 64k; keepalive_requests 1000000000;
              client_body_temp_path {self.folder.name}; proxy_temp_path {self.folder.name};
              fastcgi_temp_path {self.folder.name}; uwsgi_temp_path {self.folder.name}; scgi_temp_path {self.folder.name};
              server {{ listen 127.0.0.1:{self.port}; location / {{ return 200; }} }}
            }}""")
        return [shutil.which("nginx") or "/usr/sbin/nginx", "-c", path, "-p", self.folder.name]

    def __exit__(self, *_):
        super().__exit__()
        self.folder.cleanup()


class Echo(Peer):
    """Sends messages of a fixed size back, each when it is there as a whole: as a server does that needs the whole request
    for its answer."""

    def __init__(self, size, cores=None):
        super().__init__(cores)
        self.size = size

    def command(self):
        return [MUSTER, "bench", "--echo", f"127.0.0.1:{self.port}", "--bytes", str(self.size)]


class InProcess:
    """onnxruntime in this process, on the cores and with as many threads as there are cores."""

    def __init__(self, path, cores):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(cores)
        self.cores, self.before = cores, os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # the session's threads inherit it
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        os.sched_setaffinity(0, self.before)

    def seconds_each(self, batch, seconds):
        """Times of runs of so many rows, for so long."""
        dtypes, random = {"tensor(float)": np.float32, "tensor(int32)": np.int32}, np.random.default_rng(1)
        feeds = {i.name: random.integers(0, 2, [batch] + [d if isinstance(d, int) else 1 for d in i.shape[1:]])
                 .astype(dtypes[i.type]) for i in self.session.get_inputs()}
        times = []
        os.sched_setaffinity(0, self.cores)
        try:
            for _ in range(3):
                self.session.run(None, feeds)
            end = time.perf_counter() + seconds
            while not times or at < end:
                start = time.perf_counter()
                self.session.run(None, feeds)
                at = time.perf_counter()
                times.append(at - start)
        finally:
            os.sched_setaffinity(0, self.before)
        return times

    def rate(self, batch, seconds):
        """Inferences a second in batches of so many."""
        times = self.seconds_each(batch, seconds)
        return batch * len(times) / sum(times)

    def p50_us(self, seconds):
        return statistics.median(self.seconds_each(1, seconds)) * 1e6
