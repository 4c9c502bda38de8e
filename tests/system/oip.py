"""The Open Inference Protocol as plain bytes: what tests send and read without a client library."""
import gzip
import json
import socket
import struct
import zlib

import ml_dtypes
import numpy as np

DTYPES = {"BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
          "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
          "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_}


def datatype_of(array: np.ndarray) -> str:
    return next(name for name, dtype in DTYPES.items() if array.dtype == dtype)


# ---- tensors


def to_wire(array: np.ndarray) -> bytes:
    if array.dtype == np.object_:
        return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
    return np.ascontiguousarray(array).tobytes()


def from_wire(data: bytes, datatype: str, shape) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(data, DTYPES[datatype]).reshape(shape)
    elements, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4:at + 4 + size])
        at += 4 + size
    assert at == len(data)
    return objects(elements, shape)


def objects(elements, shape) -> np.ndarray:
    """An array of byte strings (numpy's own would drop NUL at the end)."""
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def json_data(array: np.ndarray):
    """Nested lists as JSON has them."""
    if array.dtype == np.object_:
        return np.vectorize(lambda element: element.decode(), otypes=[object])(array).tolist() if array.size else \
            array.tolist()
    return array.astype(np.float64).tolist() if array.dtype.name in ("bfloat16", "float16") else array.tolist()


def tensor(name: str, array: np.ndarray, flat=False, binary=False, **more) -> dict:
    """One of the "inputs"."""
    made = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array), **more}
    if binary:
        made["parameters"] = {"binary_data_size": len(to_wire(array))}
    else:
        made["data"] = json_data(array.ravel() if flat else array)
    return made


def binary_body(inputs: dict[str, np.ndarray], **more) -> tuple[bytes, dict]:
    """Body and headers of a request in the binary form; more: further members of the JSON part."""
    head = json.dumps({"inputs": [tensor(name, array, binary=True) for name, array in inputs.items()], **more}).encode()
    return (head + b"".join(to_wire(array) for array in inputs.values()),
            {"Inference-Header-Content-Length": str(len(head))})


BINARY_OUTPUTS = {"parameters": {"binary_data_output": True}}


def outputs_of(reply) -> dict[str, np.ndarray]:
    """The tensors of a reply, JSON or binary."""
    assert reply.status == 200, reply.body
    length = reply.headers.get("Inference-Header-Content-Length")
    head = reply.body if length is None else reply.body[:int(length)]
    rest, tensors = b"" if length is None else reply.body[int(length):], {}
    for output in json.loads(head)["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            tensors[output["name"]] = from_wire(rest[:size], output["datatype"], output["shape"])
            rest = rest[size:]
        elif output["datatype"] == "BYTES":
            tensors[output["name"]] = objects([text.encode() for text in output["data"]], output["shape"])
        else:
            data = np.array(output["data"], np.float64) if output["datatype"] == "BF16" else output["data"]
            tensors[output["name"]] = np.array(data, DTYPES[output["datatype"]]).reshape(output["shape"])
    assert rest == b""
    return tensors


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit: type, shape and every byte."""
    return a.dtype == b.dtype and a.shape == b.shape and to_wire(a) == to_wire(b)


# ---- HTTP


COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
DECOMPRESS = {"gzip": gzip.decompress, "deflate": zlib.decompress}


class WireReply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


class Headers(dict):
    """Looked up whatever the case."""

    def get(self, name, default=None):
        return super().get(name.lower(), default)

    def __getitem__(self, name):
        return super().__getitem__(name.lower())

    def __contains__(self, name):
        return super().__contains__(name.lower())


class Wire:
    """A connection where the test decides about every byte."""

    def __init__(self, port: int, timeout=60, source=""):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout, (source, 0))
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.file.close()
        self.socket.close()

    def send(self, data: bytes):
        self.socket.sendall(data)

    def request(self, method: str, path: str, body: bytes | None = None, headers=None):
        lines = [f"{method} {path} HTTP/1.1", "Host: test", *(f"{k}: {v}" for k, v in (headers or {}).items())]
        if body is not None and not any(line.lower().startswith("transfer-encoding") for line in lines):
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""))

    def _line(self) -> bytes:
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the connection ended before the reply did")
        return line.strip()

    def reply(self, head_only=False) -> WireReply:
        """ConnectionError when the server ends the connection instead."""
        status_line = self._line()
        assert status_line.startswith(b"HTTP/1.1 "), f"no reply but {status_line!r}"
        status, headers = int(status_line.split()[1]), Headers()
        while (line := self._line()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        empty = head_only or status < 200 or status in (204, 304)
        length = 0 if empty else int(headers["Content-Length"])
        body = self.file.read(length)
        if len(body) < length:
            raise ConnectionError(f"the connection ended after {len(body)} of {length} bytes of the reply's body")
        return WireReply(status, headers, body)

    def ask(self, method: str, path: str, body=None, headers=None) -> WireReply:
        if body is not None and not isinstance(body, bytes):
            body = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.request(method, path, body, headers)
        return self.reply(head_only=method == "HEAD")

    def infer(self, model: str, body, headers=None) -> WireReply:
        return self.ask("POST", f"/v2/models/{model}/infer", body, headers)

    def ended(self) -> bool:
        """The server has closed its side; nothing else came."""
        return self.file.read() == b""


def chunks(body: bytes, size: int, trailer=b"") -> bytes:
    """A body in the chunked coding."""
    parts = [body[at:at + size] for at in range(0, len(body), size)]
    return b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n" + trailer + b"\r\n"
