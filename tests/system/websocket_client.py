"""WebSocket clients for the tests: the `websockets` library for streams as they should be, and one that writes every byte of its
frames itself."""
import base64
import json
import os
import socket
import struct

import numpy as np
from websockets.sync.client import connect

from muster_server import PATIENCE, Server
from oip import DTYPES, from_wire, tensor, to_wire

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def stream(server: Server, path: str, **options):
    """A connection of the library. Its own pings are off: nothing depends on the time."""
    return connect(f"ws://{server.url}{path}", open_timeout=PATIENCE, close_timeout=PATIENCE, ping_interval=None, max_size=None,
                   compression=None, **options)


def text_message(id: str, inputs: dict[str, np.ndarray], **more) -> str:
    return json.dumps({"inputs": [tensor(name, array) for name, array in inputs.items()], "id": id, **more})


def binary_message(id: str, inputs: dict[str, np.ndarray], **more) -> bytes:
    head = json.dumps({"id": id, "inputs": [tensor(name, array, binary=True) for name, array in inputs.items()], **more}).encode()
    return struct.pack("<I", len(head)) + head + b"".join(to_wire(array) for array in inputs.values())


class Answer:
    """What a message of the server says: id, error and status, dropped, outputs {name: array}; binary: how it came."""

    def __init__(self, message):
        self.binary = isinstance(message, bytes)
        (length,) = struct.unpack_from("<I", message) if self.binary else (0,)
        head = json.loads(message[4:4 + length] if self.binary else message)
        rest = message[4 + length:] if self.binary else b""
        self.id, self.error, self.status = head.get("id"), head.get("error"), head.get("status")
        self.dropped, self.outputs = head.get("dropped"), {}
        for output in head.get("outputs", []):
            size = output.get("parameters", {}).get("binary_data_size")
            if size is None:
                self.outputs[output["name"]] = np.array(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])
            else:
                self.outputs[output["name"]] = from_wire(rest[:size], output["datatype"], output["shape"])
                rest = rest[size:]
        assert rest == b""

    def __repr__(self):
        return f"<{self.id} {self.error or self.dropped or self.outputs}>"


def receive(ws) -> Answer:
    return Answer(ws.recv(timeout=PATIENCE))


def frame(first: int, payload: bytes = b"", mask=b"\x37\xfa\x21\x3d", length: bytes | None = None) -> bytes:
    """first: FIN, reserved bits and opcode. mask None: not masked. length: instead of the right one."""
    bit = 0x80 if mask is not None else 0
    if length is None:
        size = len(payload)
        length = bytes([size]) if size < 126 else b"\x7e" + struct.pack(">H", size) if size < 65536 else b"\x7f" + struct.pack(">Q", size)
    masked = payload if mask is None else bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([first, bit | length[0]]) + length[1:] + (mask or b"") + masked


class RawStream:
    """A connection where the test decides about every byte."""

    def __init__(self, server: Server, path: str, headers=None):
        self.socket = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        self.file = self.socket.makefile("rb")
        lines = {"Host": server.url, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
                 "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(), **(headers or {})}
        self.socket.sendall((f"GET {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n").encode())
        self.status = int(self.file.readline().split()[1])
        self.headers = {}
        while (line := self.file.readline().strip()):
            name, _, value = line.decode().partition(":")
            self.headers[name.lower()] = value.strip()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, *frames: bytes):
        self.socket.sendall(b"".join(frames))

    def receive(self):
        """(opcode, payload) of the next frame; None at the end of the connection."""
        head = self.file.read(2)
        if len(head) < 2:
            return None
        assert head[0] & 0xf0 == 0x80 and head[1] < 128, "a server's frames are whole and not masked"
        size = head[1]
        if size == 126:
            (size,) = struct.unpack(">H", self.file.read(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self.file.read(8))
        return head[0] & 15, self.file.read(size)

    def receive_close(self) -> tuple[int, str]:
        """Code and reason of the close frame that comes next; the connection ends behind it."""
        opcode, payload = self.receive()
        assert opcode == CLOSE, (opcode, payload)
        assert self.receive() is None
        return struct.unpack(">H", payload[:2])[0], payload[2:].decode()
