"""Shared memory of clients: NVIDIA's own client with tensors in /dev/shm, and clients that mean harm."""
import itertools
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import tempfile
import threading

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

from muster_server import PATIENCE, binary_path, put_model, run_muster, sim_config, wait_for
from oip import Wire, from_wire, objects, same
from traffic import standing_still, worker_pids

NOBODY = 65534
SHM = pathlib.Path("/dev/shm")
X = np.arange(64, dtype=np.float32).reshape(4, 16)
TEXTS = objects([b"", b"a", "grüße".encode(), b"\0\xff" * 40], [4, 1])
numbers = itertools.count()


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name in ("identity", "add", "string_identity", "nonzero", "dtypes"):
        put_model(models, name, f"{name}.onnx")
    put_model(models, "classes", "mlp.onnx")
    put_model(models, "sleepy", config=sim_config(dims="16", max_batch_size=8, base_ms=150))
    return serve_module(models, "--input-arena=64MiB")


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.url, concurrency=4) as made:
        yield made
        made.unregister_system_shared_memory()


@pytest.fixture
def wire(server):
    with Wire(server.port) as made:
        yield made
    assert server.post("/v2/systemsharedmemory/unregister", b"").status == 200


@pytest.fixture
def file():
    """file(bytes or size) makes a file in /dev/shm and returns its path; its name is its key."""
    made = []

    def make(content) -> pathlib.Path:
        path = SHM / f"muster-test-{os.getpid()}-{next(numbers)}"
        made.append(path)
        path.write_bytes(content if isinstance(content, bytes) else bytes(content))
        return path

    yield make
    for path in made:
        path.unlink(missing_ok=True)


@pytest.fixture
def region():
    """region(size): NVIDIA's handle of a new region."""
    made = []

    def make(size: int):
        made.append(shm.create_shared_memory_region("handle", f"/muster-test-{os.getpid()}-{next(numbers)}", size))
        return made[-1]

    yield make
    for handle in made:
        shm.destroy_shared_memory_region(handle)


def key_of(handle) -> str:
    return handle._shm_key  # pylint: disable=protected-access


def given(name, array, region=None, offset=0, size=None, datatype="FP32"):
    made = triton.InferInput(name, list(array.shape), datatype)
    if region is None:
        return made.set_data_from_numpy(array)
    return made.set_shared_memory(region, array.nbytes if size is None else size, offset)


def wanted(name, region, size, offset=0):
    made = triton.InferRequestedOutput(name)
    made.set_shared_memory(region, size, offset)
    return made


def refused(code, text):
    return pytest.raises(InferenceServerException, match=rf"\[{code}\] .*{text}")


def register(wire, name, key, offset=0, byte_size=64):
    return wire.ask("POST", f"/v2/systemsharedmemory/region/{name}/register",
                    {"key": key, "offset": offset, "byte_size": byte_size})


def shared(name, size, offset=None) -> dict:
    more = {} if offset is None else {"shared_memory_offset": offset}
    return {"shared_memory_region": name, "shared_memory_byte_size": size, **more}


def question(parameters=None, outputs=None, **more) -> dict:
    """A request for `identity`: 1 x 16."""
    tensor = {"name": "x", "shape": [1, 16], "datatype": "FP32", **more}
    if parameters is not None:
        tensor["parameters"] = parameters
    return {"inputs": [tensor], **({} if outputs is None else {"outputs": outputs})}


def waiting(server) -> int:
    return server.get("/stats").json["queue_depth"]


# ---- registering -----------------------------------------------------------------------------------------------------

def test_register_status_unregister(client, region):
    handle = region(256)
    key = key_of(handle)
    assert client.get_system_shared_memory_status() == []
    client.register_system_shared_memory("b", key, 256)
    client.register_system_shared_memory("a b", key.lstrip("/"), 128, offset=64)
    b = {"name": "b", "key": key, "offset": 0, "byte_size": 256}
    a = {"name": "a b", "key": key[1:], "offset": 64, "byte_size": 128}
    assert client.get_system_shared_memory_status() == [a, b]
    assert client.get_system_shared_memory_status("a b") == [a]
    with refused(409, "shared memory region 'b' already in manager"):
        client.register_system_shared_memory("b", key, 256)
    with refused(404, "Unable to find system shared memory region: 'c'"):
        client.get_system_shared_memory_status("c")
    client.unregister_system_shared_memory("b")
    client.unregister_system_shared_memory("b")  # as with Triton that is no error
    assert client.get_system_shared_memory_status() == [a]
    client.register_system_shared_memory("b", key, 256)
    client.unregister_system_shared_memory()
    assert client.get_system_shared_memory_status() == []
    assert "system_shared_memory" in client.get_server_metadata()["extensions"]


def test_cuda_shared_memory_says_that_there_is_none(client):
    assert client.get_cuda_shared_memory_status() == []
    with refused(404, "Unable to find cuda shared memory region: 'c'"):
        client.get_cuda_shared_memory_status("c")
    with refused(501, "failed to register CUDA shared memory region: 'c'"):
        client.register_cuda_shared_memory("c", "AAAA", 0, 64)
    client.unregister_cuda_shared_memory()
    client.unregister_cuda_shared_memory("c")
    assert "cuda_shared_memory" not in client.get_server_metadata()["extensions"]


@pytest.mark.parametrize("offset, byte_size", [
    (0, 65), (64, 1), (1, 64), (2**64 - 1, 1), (1, 2**64 - 1), (2**63, 2**63), (2**64 - 64, 64), (0, 2**63), (0, 0)])
def test_a_region_past_its_file(client, region, offset, byte_size):
    with refused(400, "failed to register shared memory region 'r': invalid args"):
        client.register_system_shared_memory("r", key_of(region(64)), byte_size, offset=offset)
    assert client.get_system_shared_memory_status() == []


@pytest.mark.parametrize("key", [
    "", "/", "//", ".", "..", "/..", "/../etc/passwd", "../shm", "etc/passwd", "//etc/passwd", "a/", "a/b", "/a/../b", "x" * 256,
    "x" * 5000, "/" * 600])
def test_keys_that_are_none(wire, key):
    reply = register(wire, "r", key)
    assert reply.status == 400 and "key" in reply.json["error"], reply.body
    assert wire.ask("GET", "/v2/systemsharedmemory/status").json == []


def test_a_key_of_tritons_own(client):
    prefix = "triton_python_backend_shm_region_"
    for slash in ("", "/"):
        with refused(400, f"cannot register shared memory region 'r' with key '{slash}{prefix}1' as the key contains the "
                          f"reserved prefix '{prefix}'"):
            client.register_system_shared_memory("r", f"{slash}{prefix}1", 64)


def test_what_is_no_shared_memory_object(client, file):
    target = file(64)
    link, fifo, folder = (target.with_name(f"{target.name}-{kind}") for kind in ("link", "fifo", "folder"))
    try:
        link.symlink_to(target)
        os.mkfifo(fifo)
        folder.mkdir()
        for path, code, text in ((link, 400, "symbolic link"), (fifo, 400, "no shared memory object"),
                                 (folder, 400, "Is a directory"), (target.with_name("muster-nobody"), 404, "No such file")):
            with refused(code, text):
                client.register_system_shared_memory("r", path.name, 64)
    finally:
        link.unlink()
        fifo.unlink()
        folder.rmdir()
    client.register_system_shared_memory("r", target.name, 64)


@pytest.mark.parametrize("body", [
    b"", b"{}", b"[]", b"null", b"{\"key\": \"k\"}", b"{\"byte_size\": 1}", b"{\"key\": 1, \"byte_size\": 1}",
    b"{\"key\": \"k\", \"byte_size\": \"1\"}", b"{\"key\": \"k\", \"byte_size\": -1}", b"{\"key\": \"k\", \"byte_size\": 1.5}",
    b"{\"key\": \"k\", \"byte_size\": 1e400}", b"{\"key\": \"k\", \"byte_size\": 1, \"offset\": 18446744073709551616}",
    b"{\"key\": \"k\\u0000\", \"byte_size\": 1}", b"{\"key\": \"\xff\", \"byte_size\": 1}", b"{\"key\": \"k\", \"byte_size\": 1}}",
    b"[" * 1000])
def test_bad_registrations(wire, body):
    reply = wire.ask("POST", "/v2/systemsharedmemory/region/r/register", body)
    assert reply.status == 400 and reply.json["error"]
    assert wire.ask("GET", "/v2/systemsharedmemory/status").json == []


def test_names_that_are_none(wire, file):
    key = file(64).name
    assert register(wire, "x" * 255, key).status == 200
    assert register(wire, "x" * 256, key).status == 400
    assert register(wire, "a%00b", key).status == 400
    assert register(wire, "a%2Fb%22", key).status == 200
    assert [r["name"] for r in wire.ask("GET", "/v2/systemsharedmemory/status").json] == ["a/b\"", "x" * 255]


def test_no_more_than_4096(wire, file):
    """Or fewer, where a process may not have that many descriptors."""
    key, most = file(64).name, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 8)
    replies = []
    for start in range(0, most + 16, 16):
        for n in range(start, start + 16):
            wire.request("POST", f"/v2/systemsharedmemory/region/{n}/register", json.dumps({"key": key, "byte_size": 64}).encode())
        replies += [wire.reply() for _ in range(16)]
    assert [r.status for r in replies] == [200] * most + [503] * (len(replies) - most)
    assert f"{most} are registered" in replies[-1].json["error"]
    assert len(wire.ask("GET", "/v2/systemsharedmemory/status").json) == most
    assert wire.ask("POST", "/v2/systemsharedmemory/unregister", b"").status == 200
    assert wire.ask("GET", "/v2/systemsharedmemory/status").json == []


# ---- inference -------------------------------------------------------------------------------------------------------

def test_infer(client, region):
    """Input and output in one region, as plain requests answer."""
    handle = region(2 * X.nbytes)
    shm.set_shared_memory_region(handle, [X])
    client.register_system_shared_memory("r", key_of(handle), 2 * X.nbytes)
    plain = client.infer("identity", [given("x", X)]).as_numpy("y")
    result = client.infer("identity", [given("x", X, "r")], outputs=[wanted("y", "r", X.nbytes, X.nbytes)])
    assert result.get_output("y") == {"name": "y", "datatype": "FP32", "shape": [4, 16]}
    assert same(shm.get_contents_as_numpy(handle, np.float32, [4, 16], X.nbytes).copy(), plain)


@pytest.mark.parametrize("a_shared, b_shared, binary", [(True, True, True), (True, False, True), (False, True, False)])
def test_mixed_with_plain_tensors(client, region, a_shared, b_shared, binary):
    a, b = np.random.default_rng(5).standard_normal((2, 3, 4)).astype(np.float32)
    handle = region(a.nbytes + b.nbytes + 7)
    shm.set_shared_memory_region(handle, [a], offset=7)
    shm.set_shared_memory_region(handle, [b], offset=7 + a.nbytes)
    client.register_system_shared_memory("r", key_of(handle), a.nbytes + b.nbytes, offset=7)
    inputs = [given("a", a, "r") if a_shared else given("a", a),
              given("b", b, "r", offset=a.nbytes) if b_shared else given("b", b)]
    name = client.get_model_metadata("add")["outputs"][0]["name"]
    result = client.infer("add", inputs, outputs=[triton.InferRequestedOutput(name, binary_data=binary)])
    assert np.array_equal(result.as_numpy(name), a + b)


def test_bytes(client, region):
    sent = serialize_byte_tensor(TEXTS)
    size = len(sent.item())
    handle = region(2 * size + 10)
    shm.set_shared_memory_region(handle, [sent])
    client.register_system_shared_memory("r", key_of(handle), 2 * size + 10)
    result = client.infer("string_identity", [given("text", TEXTS, "r", size=size, datatype="BYTES")],
                          outputs=[wanted("same", "r", size + 10, size)])
    assert result.get_output("same") == {"name": "same", "datatype": "BYTES", "shape": [4, 1]}
    assert same(shm.get_contents_as_numpy(handle, np.object_, TEXTS.shape, size), TEXTS)


def test_outputs_of_a_size_that_nobody_knew(client, region, file):
    """The reply says what they are; the rest of the room stays as it was."""
    x = np.array([[0, 1, 0, 2], [3, 0, 0, 0]], np.float32)
    metadata = client.get_model_metadata("nonzero")
    inputs = [given(metadata["inputs"][0]["name"], x)]
    name = metadata["outputs"][0]["name"]
    plain = client.infer("nonzero", inputs).as_numpy(name)
    out = file(1000)
    client.register_system_shared_memory("r", out.name, 1000)
    output = client.infer("nonzero", inputs, outputs=[wanted(name, "r", 1000)]).get_output(name)
    content = out.read_bytes()
    assert same(from_wire(content[:plain.nbytes], output["datatype"], output["shape"]), plain)
    assert content[plain.nbytes:] == bytes(1000 - plain.nbytes)


def test_default_is_binary_but_shared_goes_first(client, region):
    handle = region(X.nbytes)
    client.register_system_shared_memory("r", key_of(handle), X.nbytes)
    reply = client._post(request_uri="v2/models/identity/infer", headers=None, query_params=None,  # pylint: disable=protected-access
                         request_body=json.dumps({
                             "inputs": [{"name": "x", "shape": [4, 16], "datatype": "FP32", "data": X.ravel().tolist()}],
                             "outputs": [{"name": "y", "parameters": {"binary_data": True, **shared("r", X.nbytes)}}],
                             "parameters": {"binary_data_output": True}}))
    assert reply.status_code == 200 and "data" not in json.loads(reply.read())["outputs"][0]
    assert same(shm.get_contents_as_numpy(handle, np.float32, [4, 16]).copy(), X)


def test_nothing_at_all(wire, file):
    """A tensor without elements takes no bytes, even at the end of its region."""
    assert register(wire, "r", file(64).name).status == 200
    body = {"inputs": [{"name": "x", "shape": [0, 16], "datatype": "FP32", "parameters": shared("r", 0, 64)}]}
    plain = {"inputs": [{"name": "x", "shape": [0, 16], "datatype": "FP32", "data": []}]}
    assert wire.infer("identity", body).status == wire.infer("identity", plain).status


# ---- requests that are wrong -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("parameters, code, text", [
    (shared("s", 64), 404, "Unable to find shared memory region: 's'"),
    (shared("R", 64), 404, "Unable to find shared memory region: 'R'"),
    (shared("", 64), 400, "cannot be the name of a region"), (shared("r" * 256, 64), 400, "cannot be the name of a region"),
    (shared("r\0", 64), 400, "cannot be the name of a region"),
    (shared("r", 63), 400, "63 is not the 64 bytes"), (shared("r", 128), 400, "128 is not the 64 bytes"),
    (shared("r", 0), 400, "0 is not the 64 bytes"), (shared("r", 2**64 - 1), 400, "is not the 64 bytes"),
    (shared("r", 64, 65), 400, "Invalid offset \\+ byte size for shared memory region: 'r'"),
    (shared("r", 64, 128), 400, "Invalid offset \\+ byte size"), (shared("r", 64, 129), 400, "Invalid offset for shared memory"),
    (shared("r", 64, 2**64 - 1), 400, "Invalid offset for shared memory"), (shared("r", 64, 2**64 - 64), 400, "Invalid offset"),
    (shared("r", 64, -1), 400, "shared_memory_offset"), (shared("r", -1), 400, "shared_memory_byte_size"),
    (shared("r", "64"), 400, "shared_memory_byte_size"), (shared(7, 64), 400, "wrong at byte"),
    (shared("r", 64.0), 400, "shared_memory_byte_size"),
    ({"shared_memory_region": "r"}, 400, "needs a \"shared_memory_byte_size\""),
    ({"shared_memory_byte_size": 64}, 400, "needs a \"shared_memory_region\""),
    ({"shared_memory_offset": 0}, 400, "needs a \"shared_memory_region\""),
    ({**shared("r", 64), "binary_data_size": 64}, 400, "both a binary_data_size and a shared_memory_region")])
def test_wrong_parameters(wire, file, parameters, code, text):
    assert register(wire, "r", file(128).name, byte_size=128).status == 200
    reply = wire.infer("identity", question(parameters))
    assert reply.status == code and re.search(text, reply.json["error"]), reply.body
    assert wire.infer("identity", question(shared("r", 64))).status == 200
    if "binary_data_size" not in parameters and "is not the 64" not in text:  # an output needs room, and may have more
        reply = wire.infer("identity", question(data=[0] * 16, outputs=[{"name": "y", "parameters": parameters}]))
        assert reply.status == code and re.search(text, reply.json["error"]), reply.body
    

def test_data_and_shared_memory(wire):
    reply = wire.infer("identity", question(shared("r", 64), data=[0] * 16))
    assert reply.status == 400 and "both \"data\" and a shared_memory_region" in reply.json["error"]
    assert "neither" in wire.infer("identity", question()).json["error"]


def test_classification_and_shared_memory(wire):
    body = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0] * 16}],
            "outputs": [{"name": "y", "parameters": {"classification": 1, **shared("r", 64)}}]}
    reply = wire.infer("classes", body)
    assert reply.status == 400 and "classification" in reply.json["error"]


def test_results_that_do_not_fit(wire, file):
    out = file(64)
    assert register(wire, "r", out.name).status == 200
    reply = wire.infer("identity", question(data=list(range(16)), outputs=[{"name": "y", "parameters": shared("r", 63)}]))
    assert reply.status == 400
    assert "output 'y' (63 bytes) should be at least 64 bytes to hold the results" in reply.json["error"]
    assert out.read_bytes() == bytes(64)


def test_an_input_that_no_arena_holds(wire, file):
    """A sparse file costs its client nothing: the limits are those of any input."""
    path, size = file(b""), 1 << 40
    os.truncate(path, size)
    assert register(wire, "r", path.name, byte_size=size).status == 200
    shape = [size // 64, 16]
    body = {"inputs": [{"name": "x", "shape": shape, "datatype": "FP32", "parameters": shared("r", size)}]}
    assert wire.infer("identity", body).status in (400, 413)
    body = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "parameters": shared("r", size)}]}
    assert wire.infer("string_identity", body).status in (400, 413)


@pytest.mark.parametrize("content", [b"\xff\xff\xff\xff", b"\0\0\0\0\0\0\0\0", b"\5\0\0\0abcd", b"\0\0\0\0\1"])
def test_bytes_that_do_not_add_up(wire, file, content):
    assert register(wire, "r", file(content).name, byte_size=len(content)).status == 200
    body = {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "parameters": shared("r", len(content))}]}
    reply = wire.infer("string_identity", body)
    assert reply.status == 400 and "input 'text'" in reply.json["error"], reply.body


def test_booleans_that_are_none(client, file):
    metadata = client.get_model_metadata("dtypes")["inputs"]
    name = next(i["name"] for i in metadata if i["datatype"] == "BOOL")
    with Wire(int(client._parsed_url.port)) as wire:  # pylint: disable=protected-access
        assert register(wire, "r", file(b"\0\1\2").name, byte_size=3).status == 200
        inputs = [{"name": i["name"], "shape": [1, 2], "datatype": i["datatype"], "data": [0, 0]} for i in metadata
                  if i["name"] != name and i["datatype"] != "BYTES"]
        inputs += [{"name": i["name"], "shape": [1, 2], "datatype": "BYTES", "data": ["", ""]} for i in metadata
                   if i["datatype"] == "BYTES"]
        reply = wire.infer("dtypes", {"inputs": inputs + [{"name": name, "shape": [1, 2], "datatype": "BOOL", "parameters": shared("r", 2, 1)}]})
        assert reply.status == 400 and "BOOL" in reply.json["error"], reply.body


# ---- memory that changes ---------------------------------------------------------------------------------------------

def test_a_file_that_shrinks(wire, server, file):
    path = file(128)
    assert register(wire, "r", path.name, byte_size=128).status == 200
    gateway = server.status()["gateway"]["pid"]
    for size in (0, 63):
        os.truncate(path, size)
        reply = wire.infer("identity", question(shared("r", 64)))
        assert reply.status == 400 and "has lost its memory" in reply.json["error"]
        reply = wire.infer("identity", question(data=[1] * 16, outputs=[{"name": "y", "parameters": shared("r", 64)}]))
        assert reply.status == 400 and "has lost its memory" in reply.json["error"]
        assert path.stat().st_size == size, "a result does not make a file larger"
    os.truncate(path, 128)
    assert wire.infer("identity", question(shared("r", 64))).status == 200
    path.unlink()  # the memory is there as long as it is registered
    assert wire.infer("identity", question(shared("r", 64))).status == 200
    assert server.status()["gateway"]["pid"] == gateway


def test_while_a_request_is_in_flight(wire, server, file):
    """What its client does meanwhile to region and input changes nothing of it; without its file the result is lost."""
    source, out, lost = file(X[0].tobytes()), file(64), file(64)
    for name, path in (("in", source), ("out", out), ("lost", lost)):
        assert register(wire, name, path.name).status == 200
    with Wire(server.port) as other:
        with standing_still(*worker_pids(server, "sleepy")):
            for connection, name in ((wire, "out"), (other, "lost")):
                connection.request("POST", "/v2/models/sleepy/infer", json.dumps(question(
                    shared("in", 64), outputs=[{"name": "y", "parameters": shared(name, 64)}])).encode())
            wait_for(lambda: waiting(server) == 2, "both to be in flight")
            assert server.post("/v2/systemsharedmemory/unregister", b"").status == 200
            assert server.get("/v2/systemsharedmemory/status").json == []
            source.write_bytes(bytes(64))
            os.truncate(lost, 0)
        assert wire.reply().status == 200 and out.read_bytes() == X[0].tobytes()
        reply = other.reply()
        assert reply.status == 400 and "has lost its memory" in reply.json["error"]
    assert wire.infer("identity", question(shared("in", 64))).status == 404


def test_a_client_that_leaves_gets_nothing_written(server, file):
    out = file(64)
    with standing_still(*worker_pids(server, "sleepy")), Wire(server.port) as wire:
        assert register(wire, "out", out.name).status == 200
        wire.request("POST", "/v2/models/sleepy/infer", json.dumps(question(
            data=[1] * 16, outputs=[{"name": "y", "parameters": shared("out", 64)}])).encode())
        wait_for(lambda: waiting(server) == 1, "the request")
    wait_for(lambda: waiting(server) == 0, "its end")
    assert out.read_bytes() == bytes(64)


def test_many_clients_register_at_the_same_time(server, file):
    """One of them gets the name, whichever loop they are on, and every answer is one's own."""
    key, codes = file(64).name, []

    def ask(n):
        with Wire(server.port) as wire:
            for i in range(20):
                codes.append(register(wire, f"r{i}", key).status)
                codes.append(register(wire, f"own{n}-{i}", key).status)
                assert wire.ask("GET", f"/v2/systemsharedmemory/region/own{n}-{i}/status").json[0]["name"] == f"own{n}-{i}"
                assert wire.ask("POST", f"/v2/systemsharedmemory/region/own{n}-{i}/unregister", b"").status == 200

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(codes) == [200] * (20 + 160) + [409] * 140
    assert server.post("/v2/systemsharedmemory/unregister", b"").status == 200


# ---- processes that come and go, and what runs short -----------------------------------------------------------------

def check_still_there(server, regions, out):
    with Wire(server.port) as wire:
        assert wire.ask("GET", "/v2/systemsharedmemory/status").json == regions
        reply = wire.infer("echo", question(shared("in", 64), outputs=[{"name": "y", "parameters": shared("out", 64)}]))
        assert reply.status == 200, reply.body
    assert out.read_bytes() == X[0].tobytes()
    out.write_bytes(bytes(64))


def test_registrations_outlive_processes(serve, tmp_path, file):
    """A gateway that is killed, a reload, an upgrade; the file's name may be gone by then."""
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config(dims="16", max_batch_size=8)))
    source, out = file(X[0].tobytes()), file(64)
    with Wire(server.port) as wire:
        assert register(wire, "out", out.name).status == register(wire, "in", source.name).status == 200
        regions = wire.ask("GET", "/v2/systemsharedmemory/status").json
    source.unlink()
    check_still_there(server, regions, out)
    gateway = server.status()["gateway"]["pid"]
    os.kill(gateway, signal.SIGKILL)
    wait_for(lambda: (server.status().get("gateway") or {}).get("pid") not in (None, 0, gateway), "another gateway")
    server.wait_ready()
    check_still_there(server, regions, out)
    for command in ("reload", "upgrade"):
        done = run_muster(command, "--control-socket", server.socket)
        assert done.returncode == 0, done.stderr
        check_still_there(server, regions, out)
    gateway = server.status()["gateway"]["pid"]
    os.kill(gateway, signal.SIGKILL)
    wait_for(lambda: (server.status().get("gateway") or {}).get("pid") not in (None, 0, gateway), "another gateway")
    server.wait_ready()
    check_still_there(server, regions, out)
    assert server.post("/v2/systemsharedmemory/unregister", b"").status == 200
    assert server.get("/v2/systemsharedmemory/status").json == []


def test_no_descriptor_for_a_region(serve, tmp_path, file):
    """In the gateway it is refused and not half there; the number of regions leaves descriptors for all else."""
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config(dims="16", max_batch_size=8)),
                   command=["prlimit", "--nofile=256", binary_path()])
    key, gateway = file(64).name, server.status()["gateway"]["pid"]
    usual = resource.prlimit(gateway, resource.RLIMIT_NOFILE)
    with Wire(server.port) as wire:
        assert wire.ask("GET", "/v2/systemsharedmemory/status").json == []
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, (3, usual[1]))
        reply = register(wire, "r", key)
        assert reply.status == 503 and "ulimit -n" in reply.json["error"]
        wait_for(lambda: wire.ask("GET", "/v2/systemsharedmemory/status").json == [], "it to be gone")
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, usual)
        assert [register(wire, f"r{n}", key).status for n in range(33)] == [200] * 32 + [503]
        assert wire.infer("echo", question(shared("r31", 64))).status == 200
    assert server.status()["gateway"]["pid"] == gateway


@pytest.fixture
def open_folder():
    """A folder that every user may enter; pytest's own are for their owner."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-shm-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_memory_that_may_only_be_read(serve, open_folder, file):
    """Inputs come from there, outputs are refused. Root may write everywhere: the server is somebody else then."""
    options = {}
    if os.geteuid() == 0:
        program, home = open_folder / "muster", open_folder / "home"
        shutil.copy(binary_path(), program)
        home.mkdir()
        os.chown(home, NOBODY, NOBODY)
        options = {"command": [program], "cwd": home, "user": NOBODY, "group": NOBODY, "extra_groups": []}
    models = put_model(open_folder / "models", "echo", config=sim_config(dims="16", max_batch_size=8))
    server = serve(models, f"--control-socket={open_folder}/home/control.sock" if options else "--strict-readiness=true",
                   wait=False, **options)
    if options:
        server.socket = open_folder / "home" / "control.sock"
    server.wait_ready()
    path, secret = file(X[0].tobytes()), file(64)
    path.chmod(0o444)
    secret.chmod(0)
    with Wire(server.port) as wire:
        assert register(wire, "r", path.name).status == 200
        assert wire.infer("echo", question(shared("r", 64))).status == 200
        reply = wire.infer("echo", question(data=[0] * 16, outputs=[{"name": "y", "parameters": shared("r", 64)}]))
        assert reply.status == 400 and "may only read" in reply.json["error"]
        reply = register(wire, "s", secret.name)
        assert reply.status == 400 and "Permission denied" in reply.json["error"]
    assert path.read_bytes() == X[0].tobytes()


# ---- who may ---------------------------------------------------------------------------------------------------------

USE = question(data=[0] * 16, outputs=[{"name": "y", "parameters": shared("r", 64)}])


def test_admin_off(serve, tmp_path, file):
    server = serve(put_model(tmp_path / "models", "echo", config=sim_config(dims="16", max_batch_size=8)), "--admin=off")
    with Wire(server.port) as wire:
        for reply in (register(wire, "r", file(64).name), wire.ask("GET", "/v2/systemsharedmemory/status"),
                      wire.ask("POST", "/v2/systemsharedmemory/unregister", b""), wire.ask("GET", "/v2/cudasharedmemory/status")):
            assert reply.status == 403 and "--admin=off" in reply.json["error"]
        reply = wire.infer("echo", USE)
        assert reply.status == 400 and "--admin=off" in reply.json["error"]
        assert wire.infer("echo", question(data=[0] * 16)).status == 200


def test_clients_elsewhere(server, wire, file):
    """--admin=local is the default. A client that does not come from a loopback address counts as another machine's, and
    gets nothing of what clients here have registered."""
    out = file(64)
    assert register(wire, "r", out.name).status == 200
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: asks which address would be used
            other = Wire(server.port, source=probe.getsockname()[0])
        except OSError:
            pytest.skip("this machine has loopback addresses only")
    with other:
        assert register(other, "s", out.name).status == 403
        assert other.ask("GET", "/v2/systemsharedmemory/status").status == 403
        reply = other.infer("identity", USE)
        assert reply.status == 400 and "--admin=local" in reply.json["error"]
        assert other.infer("identity", question(data=[0] * 16)).status == 200
    assert wire.infer("identity", USE).status == 200
