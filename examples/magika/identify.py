#!/usr/bin/env python3
"""Tells what is in files, by the Magika model behind a muster server.

    identify.py [--url http://127.0.0.1:8000] [--model magika] [--wait SECONDS] FILE ...

Needs nothing but Python's standard library and the model's configuration (from the `magika` package, or --labels).
Every file is one request of one row; many are in flight at once, and the server makes the batches.
"""
import argparse
import concurrent.futures
import http.client
import importlib.util
import json
import pathlib
import struct
import sys
import threading
import time
import urllib.parse

BLOCK = 4096  # bytes looked at, from the beginning and from the end
HALF = 1024  # of them that reach the model, after white space at the outer edge is gone
PADDING = 256  # stands for "no byte here"


def features(path: pathlib.Path) -> list[int]:
    """The 2048 numbers that the model wants of a file (Magika's feature extraction, version 2)."""
    with path.open("rb") as file:
        head = file.read(BLOCK).lstrip()
        size = file.seek(0, 2)
        file.seek(max(0, size - BLOCK))
        tail = file.read(BLOCK).rstrip()
    head, tail = head[:HALF], tail[-HALF:] if tail else b""
    return list(head) + [PADDING] * (HALF - len(head)) + [PADDING] * (HALF - len(tail)) + list(tail)


def labels_from_package() -> list[str]:
    package = importlib.util.find_spec("magika")
    if package is None:
        sys.exit("identify: the `magika` package is not installed here: give --labels config.min.json")
    folder = pathlib.Path(package.origin).parent / "models" / "standard_v3_3"
    return json.loads((folder / "config.min.json").read_text())["target_labels_space"]


class Client:
    """Infer requests in the binary form of the protocol, a kept-alive connection for each thread."""

    def __init__(self, url: str, model: str):
        self.address = urllib.parse.urlsplit(url)
        self.path = f"/v2/models/{model}/infer"
        self.local = threading.local()

    def connection(self) -> http.client.HTTPConnection:
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=60)
        return self.local.connection

    def scores(self, numbers: list[int]) -> tuple[float, ...]:
        tensor = struct.pack(f"<{len(numbers)}i", *numbers)
        head = json.dumps({
            "inputs": [{"name": "bytes", "shape": [1, len(numbers)], "datatype": "INT32",
                        "parameters": {"binary_data_size": len(tensor)}}],
            "outputs": [{"name": "target_label", "parameters": {"binary_data": True}}],
        }).encode()
        connection = self.connection()
        connection.request("POST", self.path, head + tensor, {"Inference-Header-Content-Length": str(len(head))})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise RuntimeError(json.loads(body)["error"])
        data = body[int(response.headers["Inference-Header-Content-Length"]):]
        return struct.unpack(f"<{len(data) // 4}f", data)

    def wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                connection = http.client.HTTPConnection(self.address.hostname, self.address.port, timeout=5)
                connection.request("GET", "/v2/health/ready")
                if connection.getresponse().status == 200:
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                sys.exit(f"identify: no ready server at {self.address.geturl()} within {seconds:g} s")
            time.sleep(0.05)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--model", default="magika")
    parser.add_argument("--labels", type=pathlib.Path, help="config.min.json of the model")
    parser.add_argument("--wait", type=float, metavar="SECONDS", help="wait for the server to be ready")
    arguments = parser.parse_args()

    labels = (json.loads(arguments.labels.read_text())["target_labels_space"] if arguments.labels
              else labels_from_package())
    client = Client(arguments.url, arguments.model)
    if arguments.wait:
        client.wait_until_ready(arguments.wait)

    def identify(path: pathlib.Path) -> str:
        scores = client.scores(features(path))
        best = max(range(len(scores)), key=scores.__getitem__)
        return f"{path}: {labels[best]} ({scores[best]:.4f})"

    failed = False
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for path, answer in [(path, pool.submit(identify, path)) for path in arguments.files]:
            try:
                print(answer.result())
            except (OSError, RuntimeError) as error:
                print(f"{path}: {error}", file=sys.stderr)
                failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
