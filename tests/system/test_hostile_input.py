"""What somebody sends who wants to do harm: a 4xx or a closed connection, the same good request served right after it, and
in the end no memory, no descriptor and no process the worse for it. (What a careless client sends is in test_bad_input.py;
every form of broken framing is in tests/unit/proto/test_http1_codec.c.)"""
import functools
import gzip
import json
import os
import pathlib
import re
import struct
import zlib

import numpy as np
import pytest

from muster_server import MODELS, put_model, sanitized, sim_config, wait_for
from oip import Wire, binary_body, chunks, outputs_of, same, tensor
from traffic import metric, worker_pids

X = np.arange(16, dtype=np.float32).reshape(1, 16)
GOOD = {"inputs": [tensor("x", X)]}


def state(server) -> dict:
    """What must be the same when all is over."""
    pids = {"gateway": server.status()["gateway"]["pid"], **{str(pid): pid for pid in worker_pids(server)}}
    return {"memory": int(metric(server, "muster_memory_used_bytes")), "pids": pids,
            "descriptors": {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()}}


def anonymous_mib(pid: int) -> int:
    return int(re.search(r"RssAnon:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) >> 10


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = put_model(module_path / "models", "deep", config=sim_config(dims="-1, -1, -1", max_batch_size=4))
    started = serve_module(models, *(MODELS / f"{name}.onnx" for name in ("identity", "add", "string_identity")))
    with Wire(started.port) as wire:
        for _ in range(5):
            assert same(outputs_of(wire.infer("identity", GOOD))["y"], X)
    wait_for(lambda: metric(started, "muster_memory_used_bytes") == 0, "idle slots to go back")
    before = state(started)
    yield started
    wait_for(lambda: state(started) == before, "everything to be as it was")


@pytest.fixture
def wire(server):
    """A connection; what it is used for must leave it, or at least the server, fit for a good request."""
    with Wire(server.port) as connection:
        yield connection
    with Wire(server.port) as connection:
        assert same(outputs_of(connection.infer("identity", GOOD))["y"], X)


def refused(reply, statuses=(400,), pattern=""):
    assert reply.status in statuses, (reply.status, reply.body[:500])
    assert list(reply.json) == ["error"] and re.search(pattern, reply.json["error"]), reply.json


# ---- framing ---------------------------------------------------------------------------------------------------------

HIDDEN = b"GET /v2/models/hidden-request HTTP/1.1\r\nHost: a\r\n\r\n"


def form(headers: bytes, body=b"", line=b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: a\r\n") -> bytes:
    return line + headers + b"\r\n" + body


CHUNKED_HIDDEN = b"0\r\n\r\n" + HIDDEN
FRAMING = {
    "two lengths": form(b"Content-Length: 0\r\nContent-Length: %d\r\n" % len(HIDDEN), HIDDEN),
    "two lengths that agree": form(b"Content-Length: 0\r\nContent-Length: 0\r\n", HIDDEN),
    "a list of lengths": form(b"Content-Length: 0, 0\r\n", HIDDEN),
    "length and chunked": form(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", CHUNKED_HIDDEN),
    "chunked and length": form(b"Transfer-Encoding: chunked\r\nContent-Length: 60\r\n", CHUNKED_HIDDEN),
    "a signed length": form(b"Content-Length: +0\r\n", HIDDEN),
    "a negative length": form(b"Content-Length: -1\r\n", HIDDEN),
    "a length past any number": form(b"Content-Length: 18446744073709551616\r\n", HIDDEN),
    "a hexadecimal length": form(b"Content-Length: 0x10\r\n", HIDDEN),
    "an empty length": form(b"Content-Length:\r\n", HIDDEN),
    "bare LF": form(b"X: y\nContent-Length: 0\r\n", HIDDEN),
    "bare LF everywhere": b"GET /v2 HTTP/1.1\nHost: a\n\n" + HIDDEN,
    "bare CR": form(b"X: y\rContent-Length: 0\r\n", HIDDEN),
    "a folded line": form(b"X: y\r\n Content-Length: 5\r\n", HIDDEN),
    "a folded coding": form(b"Transfer-Encoding:\r\n chunked\r\n", CHUNKED_HIDDEN),
    "space before the colon": form(b"Content-Length : 5\r\n", HIDDEN),
    "tab before the colon": form(b"Transfer-Encoding\t: chunked\r\n", CHUNKED_HIDDEN),
    "NUL in a value": form(b"X: a\0b\r\nContent-Length: 0\r\n", HIDDEN),
    "NUL in a name": form(b"Content-Length\0: 5\r\n", HIDDEN),
    "chunked twice": form(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CHUNKED_HIDDEN),
    "chunked, chunked": form(b"Transfer-Encoding: chunked, chunked\r\n", CHUNKED_HIDDEN),
    "chunked, identity": form(b"Transfer-Encoding: chunked, identity\r\n", CHUNKED_HIDDEN),
    "identity": form(b"Transfer-Encoding: identity\r\n", HIDDEN),
    "xchunked": form(b"Transfer-Encoding: xchunked\r\n", CHUNKED_HIDDEN),
    "chunked in 1.0": form(b"Transfer-Encoding: chunked\r\n", CHUNKED_HIDDEN, b"POST /v2 HTTP/1.0\r\nHost: a\r\n"),
    "a chunk size past any number": form(b"Transfer-Encoding: chunked\r\n", b"10000000000000000\r\n" + HIDDEN),
    "a negative chunk size": form(b"Transfer-Encoding: chunked\r\n", b"-1\r\n" + HIDDEN),
    "a chunk size with 0x": form(b"Transfer-Encoding: chunked\r\n", b"0x0\r\n\r\n" + HIDDEN),
    "a chunk longer than its size": form(b"Transfer-Encoding: chunked\r\n", b"1\r\nab\r\n" + CHUNKED_HIDDEN),
    "a chunk that ends in LF": form(b"Transfer-Encoding: chunked\r\n", b"1\r\na\n" + CHUNKED_HIDDEN),
    "a chunk size that ends in LF": form(b"Transfer-Encoding: chunked\r\n", b"1\na\r\n" + CHUNKED_HIDDEN),
    "an endless extension": form(b"Transfer-Encoding: chunked\r\n", b"1;" + b"x" * 5000 + b"\r\na\r\n" + CHUNKED_HIDDEN),
    "two hosts": form(b"Host: b\r\n", HIDDEN),
    "no host": form(b"", HIDDEN, b"GET /v2 HTTP/1.1\r\n"),
    "two spaces": b"GET  /v2 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "a space in the target": b"GET /v2 HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "a method that is none": b"GE\0T /v2 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "another authority's form": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n" + HIDDEN,
    "HTTP/0.9": b"GET /v2\r\n\r\n" + HIDDEN,
    "almost HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSN\r\n\r\n" + HIDDEN,
    "TLS": bytes.fromhex("160301020001000001fc0303") + HIDDEN,
}


@pytest.mark.parametrize("stream", FRAMING.values(), ids=FRAMING)
@pytest.mark.parametrize("cut", [1 << 20, 7], ids=["at once", "in pieces"])
def test_framing_in_doubt_ends_the_connection(wire, stream, cut):
    """One answer, an error; what follows is never looked at as a request, however the bytes are cut."""
    try:
        for at in range(0, len(stream), cut):
            wire.send(stream[at:at + cut])
    except OSError:
        pass  # it has closed already
    reply = wire.reply()
    assert 400 <= reply.status < 600 and reply.status != 500 and reply.json["error"]
    assert reply.headers["Connection"] == "close"
    assert wire.ended(), "there is a second answer"


def test_a_body_is_no_request(wire):
    """In plain framing a request inside of a body is a body: one answer for each request, in order."""
    for body in (HIDDEN, HIDDEN * 3):
        wire.request("POST", "/v2/models/identity/infer", body)
        wire.request("GET", "/v2/models/nobody")
        refused(wire.reply(), pattern="JSON")
        refused(wire.reply(), (404,), "'nobody'")
        wire.send(b"POST /v2/models/identity/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                  + chunks(body, 20, trailer=b"GET: /v2\r\n"))
        refused(wire.reply(), pattern="JSON")


def test_forms_that_are_right_are_served(wire):
    body = json.dumps(GOOD).encode()
    wire.send(b"POST http://elsewhere:1/v2/models/identity/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
              + b"%x;a=b;c=\"d\"\r\n%s\r\n0\r\nX: y\r\n\r\n" % (len(body), body))
    assert same(outputs_of(wire.reply())["y"], X)
    wire.send(b"\r\n\r\nGET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert wire.reply().status == 200


FLOODS = {
    "many headers": b"".join(b"X-%d: y\r\n" % i for i in range(20_000)),
    "one that repeats": b"X-Request-Id: abcdefgh\r\n" * 10_000,
    "a large value": b"X: " + b"y" * 200_000 + b"\r\n",
    "a large name": b"X" * 200_000 + b": y\r\n",
    "endless": b"Cookie: " + b"a" * 4_000_000,
}


@pytest.mark.parametrize("headers", FLOODS.values(), ids=FLOODS)
def test_header_floods(wire, headers):
    try:
        wire.send(form(headers))
    except OSError:
        pass
    reply = wire.reply()
    assert reply.status == 431 and reply.headers["Connection"] == "close"


def test_a_flood_of_trailers(wire):
    wire.send(form(b"Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n0\r\n" + b"X: y\r\n" * 50_000))
    assert wire.reply().status == 431 and wire.ended()


def test_a_long_target(wire):
    wire.send(b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    assert wire.reply().status in (404, 414, 431)


# ---- names and paths -------------------------------------------------------------------------------------------------

NAMES = ["%2e%2e", "..", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..%2f..%2fetc", "%2Fetc%2Fpasswd", "..%5c..%5cx", "a%5Cb", "%00",
         "identity%00", "identity%00.onnx", "identity%2F1", "identity%20", "%C3%A9%E2%82%AC", "%ff%fe", "%c0%ae%c0%ae",
         "%ed%a0%80", "x" * 20_000, "%41" * 5_000, "con", "~root", "$(id)", "`id`", "%0d%0aX:%20y", "identity;x", "%", "%2",
         "%%", "%u0041", ".", "identity.onnx", "*", "%2a"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_play_tricks(wire, name):
    for method, path, body in (("GET", f"/v2/models/{name}", None), ("GET", f"/v2/models/{name}/config", None),
                               ("POST", f"/v2/models/{name}/infer", GOOD), ("POST", f"/v2/models/identity/versions/{name}/infer", GOOD)):
        reply = wire.ask(method, path, body)
        assert reply.status in (400, 404, 405), (path[:100], reply.status)
        assert reply.json["error"] and "\n" not in str(reply.headers) and len(reply.body) < 4096
        assert reply.headers.get("X") is None


def test_escapes_of_a_right_name_are_the_name(wire):
    assert same(outputs_of(wire.ask("POST", "/v2/models/%69dentit%79/infer", GOOD))["y"], X)


# ---- JSON ------------------------------------------------------------------------------------------------------------

def with_input(**members) -> dict:
    return {"inputs": [{**GOOD["inputs"][0], **members}]}


DEPTH = 10_000
NESTED = {
    "arrays": b"[" * DEPTH + b"]" * DEPTH, "objects": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "both": b'[{"a":' * DEPTH + b"1" + b"}]" * DEPTH, "open": b"[" * 1_000_000,
    "data": b'{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","data":' + b"[" * DEPTH + b"1" + b"]" * DEPTH + b"}]}",
    "shape": b'{"inputs":[{"name":"x","shape":' + b"[" * DEPTH + b"]" * DEPTH + b',"datatype":"FP32","data":[]}]}',
    "parameters": b'{"parameters":{"a":' + b"[" * DEPTH + b"]" * DEPTH + b'},"inputs":[]}',
    "unknown": b'{"unknown":' + b'{"a":' * DEPTH + b"1" + b"}" * DEPTH + b',"inputs":[]}',
}


@pytest.mark.parametrize("body", NESTED.values(), ids=NESTED)
def test_nesting(wire, body):
    refused(wire.infer("identity", body))


DIGITS = 10_000


@pytest.mark.parametrize("number, fits", [
    ("1" * DIGITS, False), ("-" + "9" * DIGITS, False), ("0." + "0" * DIGITS + "1", True), ("1" + "0" * DIGITS + "e-9999", None),
    ("1e" + "9" * DIGITS, False), ("1e-" + "9" * DIGITS, True), ("0." + "3" * DIGITS, True), ("1e400", False), ("-0.0", True),
    ("0" * DIGITS + "1", False), ("1." + "0" * DIGITS, True), ("1.", False), (".5", False), ("+1", False), ("0x1", False),
    ("1e", False), ("1_000", False), ("--1", False), ("\u0661", False)])
def test_numbers_of_any_length(wire, number, fits):
    body = json.dumps(GOOD).replace("[[0.0,", f"[[{number},").encode()
    assert number.encode()[:50] in body
    reply = wire.infer("identity", body)
    if fits or (fits is None and reply.status == 200):
        assert np.isfinite(outputs_of(reply)["y"]).all()
    else:
        refused(reply)


@pytest.mark.parametrize("member", ["shape", "timeout", "priority", "binary_data_size"])
def test_numbers_of_any_length_elsewhere(wire, member):
    number = "9" * DIGITS
    body = {"shape": f'{{"inputs":[{{"name":"x","shape":[1,{number}],"datatype":"FP32","data":[]}}]}}',
            "binary_data_size": '{"inputs":[{"name":"x","shape":[1,16],"datatype":"FP32","parameters":'
                                f'{{"binary_data_size":{number}}}}}]}}'}.get(
        member, f'{{"parameters":{{"{member}":{number}}},"inputs":[]}}')
    refused(wire.infer("identity", body.encode()))


@pytest.mark.parametrize("word", ["NaN", "-NaN", "nan", "Infinity", "-Infinity", "inf", "1e999", '"NaN"', "null", "true", "undefined"])
def test_numbers_that_are_none(wire, word):
    """JSON has no such numbers (RFC 8259 section 6), and Triton refuses them as well; binary data may carry them."""
    refused(wire.infer("identity", json.dumps(GOOD).replace("[[0.0,", f"[[{word},").encode()))
    special = np.array([[np.nan, np.inf, -np.inf, -0.0] * 4], np.float32)
    body, headers = binary_body({"x": special}, parameters={"binary_data_output": True})
    assert same(outputs_of(wire.infer("identity", body, headers))["y"], special)


BAD_UTF8 = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8\x88\x80\x80\x80"]


@pytest.mark.parametrize("bad", BAD_UTF8)
def test_invalid_utf8(wire, bad):
    text = json.dumps({"id": "ID", "KEY": 1, "inputs": [{"name": "NAME", "shape": [1, 16], "datatype": "FP32", "data": [0] * 16}]})
    for place in ("ID", "KEY", "NAME"):
        refused(wire.infer("identity", text.encode().replace(place.encode(), bad)), pattern="wrong at byte")
    strings = b'{"inputs":[{"name":"text","shape":[1,1],"datatype":"BYTES","data":["' + bad + b'"]}]}'
    refused(wire.infer("string_identity", strings), pattern="wrong at byte")
    strings = strings.replace(bad, b"\\ud800")
    refused(wire.infer("string_identity", strings))
    binary, headers = binary_body({"text": np.array([[bad]], np.object_)})
    reply = wire.infer("string_identity", binary, headers)  # JSON cannot carry the answer, binary data can
    refused(reply, (400, 501))


@pytest.mark.parametrize("twice", ['"name":"x"', '"shape":[1,16]', '"datatype":"FP32"', '"data":[0]', '"parameters":{}'])
def test_keys_that_come_twice(wire, twice):
    body = json.dumps(with_input(parameters={}), separators=(",", ":"))
    refused(wire.infer("identity", body.replace('{"name"', "{" + twice + ',"name"').encode()), pattern="twice")


@pytest.mark.parametrize("size", ['"binary_data_size":64,"binary_data_size":64', '"binary_data_size":64,"binary_data_size":1'])
def test_a_size_that_is_given_twice(wire, size):
    head = f'{{"inputs":[{{"name":"x","shape":[1,16],"datatype":"FP32","parameters":{{{size}}}}}]}}'.encode()
    refused(wire.infer("identity", head + X.tobytes(), {"Inference-Header-Content-Length": str(len(head))}))


# ---- shapes and sizes ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("shape", [
    [1, 2**21, 2**21, 2**22], [1, 2**62, 2, 2], [1, 2**63 - 1, 1, 1], [1, 2**63 - 1, 2**63 - 1, 2**63 - 1], [1, 2**32, 2**32, 1],
    [4, 2**61, 1, 1], [1, -1, 1, 1], [1, -2**63, 1, 1], [-1, 1, 1, 1], [1, 0, 2**62, 2**62], [0, 0, 0, 0], [2**32 + 1, 1, 1, 1],
    [1, 2**64, 1, 1], [1, -2**64, 1, 1], [2**63, 1, 1, 1]])
@pytest.mark.parametrize("binary", [None, 0, 4])
def test_shapes_past_any_memory(wire, shape, binary):
    given = {"name": "x", "shape": shape, "datatype": "FP32"}
    if binary is None:
        refused(wire.infer("deep", {"inputs": [{**given, "data": [1.0]}]}), (400, 413))
        refused(wire.infer("deep", {"inputs": [{**given, "data": []}]}), (400, 413))
        return
    head = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": binary}}]}).encode()
    refused(wire.infer("deep", head + bytes(binary), {"Inference-Header-Content-Length": str(len(head))}), (400, 413))


@pytest.mark.parametrize("first, second", [
    (8, 24), (24, 8), (0, 32), (32, 0), (16, 17), (17, 16), (15, 16), (2**63, 2**63), (2**64 - 16, 32), (16, 2**64 - 16),
    (2**63 - 1, 2**63 - 1), (16, -16), (16, None), (16, "16"), (16, 16.5), (16, [16])])
def test_binary_sizes_that_lie(wire, first, second):
    """Each against its shape, all together against the body; sums do not wrap around."""
    inputs = [{"name": name, "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
              for name, size in (("a", first), ("b", second))]
    head = json.dumps({"inputs": inputs}).encode()
    for body in (bytes(32), bytes(31), b"", bytes(64)):
        refused(wire.infer("add", head + body, {"Inference-Header-Content-Length": str(len(head))}))


@pytest.mark.parametrize("data", [struct.pack("<I", 2**32 - 1), struct.pack("<I", 5) + b"abcd", struct.pack("<I", 4) + b"abcd\0",
                                  struct.pack("<I", 0) * 2, b"\0", struct.pack("<I", 1), struct.pack("<I", 2**31) + b"a" * 100])
def test_strings_whose_lengths_lie(wire, data):
    head = json.dumps({"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES",
                                   "parameters": {"binary_data_size": len(data)}}]}).encode()
    refused(wire.infer("string_identity", head + data, {"Inference-Header-Content-Length": str(len(head))}), pattern="'text'")


@pytest.mark.parametrize("sent", [0, 1, 50, 200])
def test_bodies_that_stop_short(wire, sent):
    """The client says more than it sends and leaves: nothing waits for the rest."""
    body, headers = binary_body({"x": X})
    lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode()
    wire.send(form(lines + b"Content-Length: %d\r\n" % (len(body) + 10**6), body[:sent]))
    wire.close()


# ---- compression -----------------------------------------------------------------------------------------------------

@functools.cache
def bomb(coding) -> bytes:
    """200 MiB in less than 1 MiB."""
    packer = zlib.compressobj(1, zlib.DEFLATED, {"gzip": 31, "deflate": 15}[coding])
    return b"".join(packer.compress(bytes([32]) * (1 << 20)) for _ in range(200)) + packer.flush()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("length", [True, False], ids=["length", "chunked"])
def test_bombs_stop_at_the_limit(server, wire, coding, length):
    """Refused where --body-limit (64 MiB) is passed, and never held."""
    gateway = server.status()["gateway"]["pid"]
    before, packed = anonymous_mib(gateway), bomb(coding)
    head = b"Content-Encoding: %s\r\n" % coding.encode()
    try:
        if length:
            wire.send(form(head + b"Content-Length: %d\r\n" % len(packed), packed))
        else:
            wire.send(form(head + b"Transfer-Encoding: chunked\r\n", chunks(packed, 65536)))
    except OSError:
        pass  # it has closed already
    refused(wire.reply(), (413,))
    assert sanitized() or anonymous_mib(gateway) - before < 160, "more than the body limit and the growth of its buffer"
    wait_for(lambda: metric(server, "muster_memory_used_bytes") == 0, "its memory to go back")


def test_a_bomb_inside_of_a_tensor(server, wire):
    """Behind a right JSON part the inputs are known: the first byte too many ends it."""
    head = json.dumps({"inputs": [tensor("x", X, binary=True)]}).encode()
    packed = gzip.compress(head + bytes(50 << 20))
    reply = wire.infer("identity", packed, {"Content-Encoding": "gzip", "Inference-Header-Content-Length": str(len(head))})
    refused(reply, pattern="goes on after the 64 bytes")


GOOD_TEXT = json.dumps(GOOD).encode()
CODED = {
    "cut": ("gzip", gzip.compress(GOOD_TEXT)[:-9]), "without its sum": ("gzip", gzip.compress(GOOD_TEXT)[:-4]),
    "a wrong sum": ("gzip", gzip.compress(GOOD_TEXT)[:-8] + bytes(8)), "plain": ("gzip", GOOD_TEXT),
    "deflate as gzip": ("gzip", zlib.compress(GOOD_TEXT)), "gzip as deflate": ("deflate", gzip.compress(GOOD_TEXT)),
    "something behind it": ("gzip", gzip.compress(GOOD_TEXT) + b"more"), "nothing": ("gzip", b""),
    "deflate, cut": ("deflate", zlib.compress(GOOD_TEXT)[:-6]), "one byte": ("deflate", b"\x78"),
    "twice": ("gzip", gzip.compress(gzip.compress(GOOD_TEXT))), "noise": ("gzip", bytes(range(256)) * 10),
}


@pytest.mark.parametrize("coding, body", CODED.values(), ids=CODED)
def test_bodies_that_are_not_what_their_coding_says(wire, coding, body):
    refused(wire.infer("identity", body, {"Content-Encoding": coding}))


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "gzip,", "x" * 1000, "compress", "chunked"])
def test_codings_that_nobody_knows(wire, coding):
    refused(wire.infer("identity", GOOD_TEXT, {"Content-Encoding": coding}), (415, 400))
