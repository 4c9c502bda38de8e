"""gRPC frame by frame: what no client library would send, and its answers read with nghttp2's own HPACK."""
import ctypes
import ctypes.util
import struct
import urllib.parse

from test_http2 import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Wire, frame, literal

SERVICE = "/inference.GRPCInferenceService/"


class _Pair(ctypes.Structure):
    _fields_ = [("name", ctypes.POINTER(ctypes.c_char)), ("value", ctypes.POINTER(ctypes.c_char)), ("name_size", ctypes.c_size_t),
                ("value_size", ctypes.c_size_t), ("flags", ctypes.c_uint8)]


_nghttp2 = ctypes.CDLL(ctypes.util.find_library("nghttp2"))
_nghttp2.nghttp2_hd_inflate_hd2.restype = ctypes.c_ssize_t
_nghttp2.nghttp2_hd_inflate_hd2.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Pair), ctypes.POINTER(ctypes.c_int), ctypes.c_char_p,
                                            ctypes.c_size_t, ctypes.c_int]
FINAL, EMIT = 1, 2


class Inflater:
    """The header blocks of one connection, in their order."""

    def __init__(self):
        self.state = ctypes.c_void_p()
        assert _nghttp2.nghttp2_hd_inflate_new(ctypes.byref(self.state)) == 0

    def __del__(self):
        _nghttp2.nghttp2_hd_inflate_del(self.state)

    def headers(self, block: bytes) -> dict[str, str]:
        found, pair, flags = {}, _Pair(), ctypes.c_int()
        while not flags.value & FINAL:
            used = _nghttp2.nghttp2_hd_inflate_hd2(self.state, pair, flags, block, len(block), 1)
            assert used >= 0, f"a header block that cannot be read: {used}"
            block = block[used:]
            if flags.value & EMIT:
                found[pair.name[:pair.name_size].decode()] = pair.value[:pair.value_size].decode()
        _nghttp2.nghttp2_hd_inflate_end_headers(self.state)
        return found


def message(data: bytes, compressed=0, size=None) -> bytes:
    """Behind its prefix, which may lie."""
    return struct.pack(">BI", compressed, len(data) if size is None else size) + data


class Call:
    """One call on a connection of its own. headers: `_` in their names stands for `-`; None leaves one out."""

    def __init__(self, port: int, path=SERVICE + "ModelInfer", post=True, end=False, **headers):
        self.wire, self.inflater = Wire(port), Inflater()
        block = bytes([0x83 if post else 0x82, 0x86]) + literal(b":path", path.encode()) + literal(b":authority", b"h")
        for name, value in {"content_type": "application/grpc", "te": "trailers", **headers}.items():
            if value is not None:
                block += literal(name.replace("_", "-").encode(), value.encode())
        self.wire.send(frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), 1, block))

    def send(self, data: bytes, piece=16384, end=True):
        """data in frames of so many bytes."""
        pieces = [data[at:at + piece] for at in range(0, len(data), piece)] or [b""]
        frames = [frame(DATA, END_STREAM if end and i == len(pieces) - 1 else 0, 1, part) for i, part in enumerate(pieces)]
        try:
            self.wire.send(*frames)
        except ConnectionError:
            pass  # the answer may be there
        return self

    def reset(self):
        self.wire.send(frame(RST_STREAM, 0, 1, b"\0\0\0\x08"))
        return self

    def answer(self) -> tuple[dict, bytes, dict]:
        """Headers, bytes and trailers; where there is one block of headers it is both."""
        blocks, body, over = [], b"", False
        while not over and (got := self.wire.next()) is not None:
            kind, flags, stream, payload = got
            if stream != 1 or kind not in (HEADERS, DATA, RST_STREAM):
                continue
            if kind == HEADERS:
                blocks.append(self.inflater.headers(payload))
            if kind == DATA:
                body += payload
            over = kind == RST_STREAM or flags & END_STREAM
        self.wire.close()
        assert blocks, "there is no answer"
        return blocks[0], body, blocks[-1]

    def status(self) -> tuple[int, str]:
        """grpc-status and grpc-message."""
        head, _, trailers = self.answer()
        assert head[":status"] == "200" and head["content-type"] == "application/grpc", head
        return int(trailers["grpc-status"]), urllib.parse.unquote(trailers.get("grpc-message", ""))

    def messages(self) -> list[bytes]:
        """Those of a call that went well."""
        head, body, trailers = self.answer()
        assert trailers.get("grpc-status") == "0", trailers
        found = []
        while body:
            (size,) = struct.unpack_from(">I", body, 1)
            found.append(body[5:5 + size])
            body = body[5 + size:]
        return found
