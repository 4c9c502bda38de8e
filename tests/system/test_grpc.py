"""gRPC as NVIDIA's own clients speak it, unmodified: `tritonclient.grpc` and its asyncio form."""
import asyncio
import base64
import concurrent.futures
import itertools
import json
import queue
import threading

import grpc
import ml_dtypes
import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from muster_server import MODELS, PATIENCE, put_model, sim_config, wait_for
from oip import DTYPES, objects
from traffic import standing_still, worker_pids

LABELS = [f"label{i}" for i in range(8)]
X = np.arange(16, dtype=np.float32).reshape(1, 16)
FOUR = np.ones((1, 4), np.float32)
numbers = itertools.count()


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name in ("identity", "add", "dtypes", "string_identity", "nonzero", "mixed", "embedding"):
        put_model(models, name, f"{name}.onnx")
    put_model(models, "counted", "identity.onnx")
    put_model(models, "classes", "mlp.onnx", config="max_batch_size: 8\noutput { name: 'y' data_type: TYPE_FP32 dims: 8 "
              "label_filename: 'labels.txt' }\n", files={"labels.txt": "\n".join(LABELS)})
    put_model(models, "sleepy", config=sim_config(base_ms=150))
    put_model(models, "wide", config=sim_config(dims="-1"))
    put_model(models, "levels", config=sim_config(max_batch_size=4, dynamic_batching="{ priority_levels: 3 "
                                                                                   "default_priority_level: 2 }"))
    return serve_module(models, f"--trace-config=triton,file={module_path}/trace.json")


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as made:
        yield made


def given(name: str, array: np.ndarray) -> triton.InferInput:
    datatype = next(known for known, dtype in DTYPES.items() if array.dtype == dtype)
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array)


def reference(model: str, inputs: dict) -> list[np.ndarray]:
    """The answer of onnxruntime in this process."""
    return onnxruntime.InferenceSession(MODELS / f"{model}.onnx", providers=["CPUExecutionProvider"]).run(None, inputs)


def counter(server, name: str, *labels: str) -> float:
    return sum(float(line.split()[-1]) for line in server.metrics().splitlines()
               if line.startswith(name) and all(label in line for label in labels))


def dropped(server) -> float:
    return counter(server, "nv_inference_request_failure", 'model="sleepy"')


# ---- everything that is no inference


def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("add", "1")
    for name, version in (("nobody", ""), ("add", "2")):
        with pytest.raises(InferenceServerException, match="Request for unknown model") as caught:
            client.is_model_ready(name, version)
        assert caught.value.status() == "StatusCode.NOT_FOUND"


def test_documents_are_those_of_http(server, client):
    """The same answers by both protocols, where they have the same form."""
    def http(path: str):
        return server.get(path).json
    assert client.get_server_metadata(as_json=True) == http("/v2")
    assert "extensions" in http("/v2")
    metadata = client.get_model_metadata("dtypes")
    assert [i.name for i in metadata.inputs][:2] == ["in_bool", "in_uint8"] and list(metadata.versions) == ["1"]
    assert [(list(i.shape), i.datatype) for i in metadata.inputs] == \
        [(i["shape"], i["datatype"]) for i in http("/v2/models/dtypes")["inputs"]]
    assert client.get_model_metadata("dtypes", "1") == metadata
    config = client.get_model_config("classes").config
    assert config.max_batch_size == 8 and config.output[0].label_filename == "labels.txt"
    assert config.platform == http("/v2/models/classes/config")["platform"]


def test_statistics(client):
    for rows in (1, 1, 3):
        client.infer("counted", [given("x", np.repeat(X, rows, axis=0))])
    stats = client.get_inference_statistics("counted").model_stats
    assert stats == client.get_inference_statistics("counted", "1").model_stats
    assert (stats[0].inference_count, stats[0].execution_count) == (5, 3)
    assert stats[0].inference_stats.success.count == 3
    assert len(client.get_inference_statistics().model_stats) == 12


def test_repository_index(client):
    index = client.get_model_repository_index().models
    assert len(index) == 12 and {(m.version, m.state) for m in index} == {("1", "READY")}


def test_log_settings(client):
    before = client.get_log_settings(as_json=True)["settings"]
    changed = client.update_log_settings({"log_verbose_level": 1, "log_info": False}, as_json=True)["settings"]
    assert changed["log_verbose_level"] == {"uint32_param": 1} and changed["log_info"] == {"bool_param": False}
    back = client.update_log_settings({"log_verbose_level": 0, "log_info": True, "log_format": "default"}, as_json=True)
    assert back["settings"]["log_info"] == {"bool_param": True}
    for wrong, code in (({"log_file": "/tmp/x"}, "UNIMPLEMENTED"), ({"log_format": "verse"}, "INVALID_ARGUMENT"),
                        ({"nonsense": True}, "INVALID_ARGUMENT")):
        with pytest.raises(InferenceServerException) as caught:
            client.update_log_settings(wrong)
        assert caught.value.status() == f"StatusCode.{code}"
    client.update_log_settings({"log_format": before["log_format"]["string_param"]})
    assert client.get_log_settings(as_json=True)["settings"] == before


def test_trace_settings(client):
    everybody = client.get_trace_settings(as_json=True)["settings"]
    assert everybody["trace_level"] == {"value": ["OFF"]}
    own = client.update_trace_settings("add", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "3"},
                                       as_json=True)["settings"]
    assert own["trace_level"] == {"value": ["TIMESTAMPS"]} and own["trace_count"] == {"value": ["3"]}
    assert client.get_trace_settings("add", as_json=True)["settings"] == own
    assert client.get_trace_settings(as_json=True)["settings"] == everybody
    cleared = client.update_trace_settings("add", {"trace_level": None, "trace_rate": None, "trace_count": None},
                                           as_json=True)["settings"]
    assert cleared == everybody
    with pytest.raises(InferenceServerException, match="trace_rate"):
        client.update_trace_settings("add", {"trace_rate": "often"})
    with pytest.raises(InferenceServerException, match="nobody") as caught:
        client.get_trace_settings("nobody")
    assert caught.value.status() in ("StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT")


def test_model_control(serve, tmp_path):
    models = tmp_path / "models"
    put_model(models, "add", "add.onnx")
    put_model(models, "identity", "identity.onnx")
    server = serve(models, "--model-control-mode=explicit", "--load-model=add")
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        def states():
            return {m.name: m.state for m in client.get_model_repository_index().models}
        assert states()["add"] == "READY" and states().get("identity") != "READY"
        client.load_model("identity")
        assert client.is_model_ready("identity") and states()["identity"] == "READY"
        assert np.array_equal(client.infer("identity", [given("x", X)]).as_numpy("y"), X)
        client.load_model("identity", config=json.dumps({"max_batch_size": 3}))
        assert client.get_model_config("identity").config.max_batch_size == 3
        client.load_model("brought", config=json.dumps({"backend": "onnxruntime"}),
                          files={"file:1/model.onnx": (MODELS / "identity.onnx").read_bytes()})
        assert np.array_equal(client.infer("brought", [given("x", X)]).as_numpy("y"), X)
        client.unload_model("add")
        wait_for(lambda: states()["add"] == "UNAVAILABLE", "the model to be unloaded")
        with pytest.raises(InferenceServerException, match="Request for unknown model: 'add' is not found"):
            client.infer("add", [given("a", FOUR), given("b", FOUR)])
        with pytest.raises(InferenceServerException, match="nobody"):
            client.load_model("nobody")
        with pytest.raises(InferenceServerException) as caught:
            client.load_model("identity", config="{")
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_model_control_needs_its_mode(client):
    for call in (client.load_model, client.unload_model):
        with pytest.raises(InferenceServerException, match="explicit"):
            call("add")


def test_shared_memory(client):
    a, b = np.random.default_rng(2).standard_normal((2, 4, 4)).astype(np.float32)
    key = f"/muster-grpc-{next(numbers)}-{id(a)}"
    handle = shm.create_shared_memory_region("both", key, 3 * a.nbytes)
    try:
        shm.set_shared_memory_region(handle, [a, b])
        client.register_system_shared_memory("both", key, 3 * a.nbytes)
        region = client.get_system_shared_memory_status("both").regions["both"]
        assert (region.key, region.byte_size, region.offset) == (key, 3 * a.nbytes, 0)
        inputs = [triton.InferInput(name, [4, 4], "FP32") for name in "ab"]
        inputs[0].set_shared_memory("both", a.nbytes)
        inputs[1].set_shared_memory("both", a.nbytes, a.nbytes)
        output = triton.InferRequestedOutput("sum")
        output.set_shared_memory("both", a.nbytes, 2 * a.nbytes)
        result = client.infer("add", inputs, outputs=[output])
        assert result.get_output("sum").parameters["shared_memory_region"].string_param == "both"
        assert np.array_equal(shm.get_contents_as_numpy(handle, np.float32, [4, 4], 2 * a.nbytes), a + b)
        mixed = client.infer("add", [inputs[0], given("b", b)])  # one here, one there
        assert np.array_equal(mixed.as_numpy("sum"), a + b)
        with pytest.raises(InferenceServerException, match="both") as caught:
            client.register_system_shared_memory("both", key, a.nbytes)
        assert caught.value.status() == "StatusCode.ALREADY_EXISTS"
        client.unregister_system_shared_memory("both")
        assert not client.get_system_shared_memory_status().regions
        for call in (lambda: client.get_system_shared_memory_status("both"), lambda: client.infer("add", inputs)):
            with pytest.raises(InferenceServerException, match="both") as caught:
                call()
            assert caught.value.status() in ("StatusCode.NOT_FOUND", "StatusCode.INVALID_ARGUMENT")
    finally:
        client.unregister_system_shared_memory()
        shm.destroy_shared_memory_region(handle)
    assert not client.get_cuda_shared_memory_status().regions
    with pytest.raises(InferenceServerException, match="CUDA") as caught:
        client.register_cuda_shared_memory("gpu", base64.b64encode(b"handle"), 0, 64)
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


# ---- inference


def test_results_are_those_of_onnxruntime(client):
    random = np.random.default_rng(3)
    for model, inputs in (("add", {"a": random.standard_normal((3, 4)), "b": random.standard_normal((3, 4))}),
                          ("mixed", {"x": random.standard_normal((2, 4))}), ("identity", {"x": random.standard_normal((5, 16))})):
        inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
        result = client.infer(model, [given(name, array) for name, array in inputs.items()], request_id="7")
        output = result.get_response().outputs[0].name
        assert np.array_equal(result.as_numpy(output), reference(model, inputs)[0])
        response = result.get_response()
        assert (response.id, response.model_name, response.model_version) == ("7", model, "1")
    ids = {"ids": random.integers(0, 5, (2, 3))}
    assert np.array_equal(client.infer("embedding", [given("ids", ids["ids"])]).as_numpy("y"), reference("embedding", ids)[0])
    array = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    assert np.array_equal(client.infer("nonzero", [given("x", array)]).as_numpy("where"), np.array(array.nonzero()))
    assert client.infer("nonzero", [given("x", 0 * array)]).as_numpy("where").shape == (2, 0)


EXAMPLES = {name: np.array([[1, 0]]).astype(dtype) for name, dtype in DTYPES.items() if name != "BYTES"} | \
    {"BYTES": objects([b"", "\u00e4\U0001f600".encode()], (1, 2)), "INT8": np.array([[-128, 127]], np.int8),
     "INT64": np.array([[-1 << 63, (1 << 63) - 1]], np.int64), "UINT64": np.array([[0, (1 << 64) - 1]], np.uint64),
     "UINT32": np.array([[0, (1 << 32) - 1]], np.uint32), "INT32": np.array([[-1 << 31, -1]], np.int32),
     "UINT16": np.array([[65535, 0]], np.uint16), "FP16": np.array([[65504, 6e-8]], np.float16),
     "BF16": np.array([[3.0e38, 1e-40]], ml_dtypes.bfloat16), "FP64": np.array([[1e308, -0.0]])}


def test_every_type_raw(client):
    result = client.infer("dtypes", [given(f"in_{name.lower()}", array) for name, array in EXAMPLES.items()])
    for name, array in EXAMPLES.items():
        found = result.as_numpy(f"out_{name.lower()}")
        if name == "BF16":
            found = found.astype(ml_dtypes.bfloat16)  # this client widens it
        assert found.dtype == array.dtype and np.array_equal(found, array), name


FIELDS = {"BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
          "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
          "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"}


@pytest.fixture(scope="module")
def stub(server):
    from tritonclient.grpc import service_pb2_grpc
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def typed(request: pb.ModelInferRequest, name: str, datatype: str, array: np.ndarray):
    tensor = request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    getattr(tensor.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    return tensor


def test_every_type_in_contents(server, stub, serve, tmp_path):
    """Half precision has no contents of its own: a model with all others."""
    for name, array in EXAMPLES.items():
        if name not in FIELDS:
            continue
        models = put_model(tmp_path / "models", name.lower(), config=sim_config(
            f"TYPE_{name.replace('BYTES', 'STRING')}", "2", max_batch_size=2))
    own = serve(models)
    from tritonclient.grpc import service_pb2_grpc
    with grpc.insecure_channel(f"127.0.0.1:{own.grpc_port}") as channel:
        made = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for name in FIELDS:
            request = pb.ModelInferRequest(model_name=name.lower())
            typed(request, "x", name, EXAMPLES[name])
            found = triton.InferResult(made.ModelInfer(request)).as_numpy("y")
            assert found.dtype == EXAMPLES[name].dtype and np.array_equal(found, EXAMPLES[name]), name


def test_strings(client):
    array = objects([b"", b"\x00\xff any byte", "gr\u00fc\u00df".encode(), b"x" * 70000], (2, 2))
    assert np.array_equal(client.infer("string_identity", [given("text", array)]).as_numpy("same"), array)


def test_classification(client):
    scores = client.infer("classes", [given("x", X)]).as_numpy("y")[0]
    found = client.infer("classes", [given("x", X)], outputs=[triton.InferRequestedOutput("y", class_count=3)]).as_numpy("y")
    assert [text.decode() for text in found[0]] == [f"{scores[i]:.6f}:{i}:{LABELS[i]}" for i in np.argsort(-scores)[:3]]


def test_priority_timeout_and_parameters(server, client):
    for priority in (0, 1, 3):
        assert np.array_equal(client.infer("levels", [given("x", FOUR)], priority=priority).as_numpy("y"), FOUR)
    with pytest.raises(InferenceServerException, match="priority 4: the model has levels 1 to 3"):
        client.infer("levels", [given("x", FOUR)], priority=4)
    with standing_still(*worker_pids(server, "sleepy")), pytest.raises(InferenceServerException, match="timeout|deadline") as caught:
        client.infer("sleepy", [given("x", FOUR[0])], timeout=1000)
    assert caught.value.status() == "StatusCode.UNAVAILABLE"
    result = client.infer("identity", [given("x", X)], headers={"x-request-id": "h", "authorization": "Bearer me"},
                          parameters={"mine": "yes", "number": 5, "flag": True})
    assert np.array_equal(result.as_numpy("y"), X)


def test_deadline(server, client):
    """The client stops waiting, and the server does not work for nobody."""
    before, calls = dropped(server), []

    def eight_dropped():
        """A client that is slow itself may give up before it has sent anything: then there are more."""
        calls.append(client.async_infer("sleepy", [given("x", FOUR[0])], callback=lambda result, error: None, client_timeout=0.02))
        return dropped(server) >= before + 8
    with standing_still(*worker_pids(server, "sleepy")):
        with pytest.raises(InferenceServerException) as caught:
            client.infer("sleepy", [given("x", FOUR[0])], client_timeout=0.02)
        assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
        wait_for(eight_dropped, "the requests to be dropped")
    assert client.infer("sleepy", [given("x", FOUR[0])], client_timeout=30).as_numpy("y").shape == (4,)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client, algorithm):
    array = np.tile(X[0], 512)
    assert np.array_equal(client.infer("wide", [given("x", array)], compression_algorithm=algorithm).as_numpy("y"), array)


def test_large_messages(stub, client):
    array = np.random.default_rng(4).standard_normal(6_400_000).astype(np.float32)  # 25.6 MB
    assert np.array_equal(client.infer("wide", [given("x", array)]).as_numpy("y"), array)
    request = pb.ModelInferRequest(model_name="wide")
    typed(request, "x", "FP32", array[:1_600_000])
    assert stub.ModelInfer(request).raw_output_contents[0] == array[:1_600_000].tobytes()


def test_a_message_that_is_too_large(stub):
    """The limit of a body is that of a message with its prefix: just below it is answered, what is above is refused by gRPC
    (not with 413, which clients of gRPC do not understand)."""
    request = pb.ModelInferRequest(model_name="wide")
    request.inputs.add(name="x", datatype="FP32", shape=[16_777_190])
    request.raw_input_contents.append(bytes(4 * 16_777_190))
    room = (64 << 20) - 5 - request.ByteSize()
    for extra in (room, room + 1, room + 5):
        request.id = "i" * (extra - 2)
        if extra == room:
            assert len(stub.ModelInfer(request).raw_output_contents[0]) == 4 * 16_777_190
            continue
        with pytest.raises(grpc.RpcError, match="larger than max") as caught:
            stub.ModelInfer(request)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_keepalive(server):
    options = triton.KeepAliveOptions(keepalive_time_ms=50, keepalive_timeout_ms=20000, keepalive_permit_without_calls=True,
                                      http2_max_pings_without_data=0)
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}", keepalive_options=options) as client:
        for _ in range(3):
            assert client.infer("sleepy", [given("x", FOUR[0])]).as_numpy("y").shape == (4,)


@pytest.mark.parametrize("call, message, code", [
    (lambda c: c.infer("nobody", [given("x", X)]), "Request for unknown model: 'nobody' is not found", "NOT_FOUND"),
    (lambda c: c.infer("identity", [given("x", X)], model_version="9"),
     "Request for unknown model: 'identity' version 9 is not found", "NOT_FOUND"),
    (lambda c: c.get_model_metadata("nobody"), "Request for unknown model: 'nobody' is not found", "NOT_FOUND"),
    (lambda c: c.get_model_config("nobody"), "Request for unknown model", "NOT_FOUND"),
    (lambda c: c.get_inference_statistics("nobody"), "Request for unknown model", "NOT_FOUND"),
    (lambda c: c.infer("identity", [given("x", X)], model_version="first"), "version", "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", [given("z", X)]), "has no input 'z'; it has 'x'", "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", [given("x", X.astype(np.float64))]), "datatype FP64 is not the FP32", "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", [given("x", X[:, :4])]), r"shape \[1,4\] does not fit the model's \[-1,16\]",
     "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", []), "input 'x' of model 'identity' is missing", "INVALID_ARGUMENT"),
    (lambda c: c.infer("add", [given("a", FOUR)]), "input 'b' of model 'add' is missing", "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", [given("x", X)] * 2), "x", "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", [given("x", X)], outputs=[triton.InferRequestedOutput("q")]),
     "has no output 'q'; it has 'y'", "INVALID_ARGUMENT"),
    (lambda c: c.infer("identity", [given("x", X)], sequence_id=3, sequence_start=True), "sequence", "UNIMPLEMENTED")])
def test_errors(client, call, message, code):
    with pytest.raises(InferenceServerException, match=message) as caught:
        call(client)
    assert caught.value.status() == f"StatusCode.{code}"


# ---- many at once


def test_async_infer(client):
    arrays, answers = [X + i for i in range(64)], queue.Queue()
    for i, array in enumerate(arrays):
        client.async_infer("identity", [given("x", array)], request_id=str(i),
                           callback=lambda result, error: answers.put((result, error)))
    for _ in arrays:
        result, error = answers.get(timeout=PATIENCE)
        assert error is None and np.array_equal(result.as_numpy("y"), arrays[int(result.get_response().id)])


def test_async_infer_cancelled(server, client):
    before, errors = dropped(server), queue.Queue()
    with standing_still(*worker_pids(server, "sleepy")):
        calls = [client.async_infer("sleepy", [given("x", FOUR[0])], callback=lambda result, error: errors.put(error))
                 for _ in range(8)]
        wait_for(lambda: counter(server, "nv_inference_pending_request_count", 'model="sleepy"') >= 5, "the requests")
        for call in calls:
            call.cancel()
        kinds = [errors.get(timeout=PATIENCE) for _ in calls]
        assert sum(error is not None and "CANCELLED" in error.status() for error in kinds) >= 5
        wait_for(lambda: dropped(server) >= before + 5, "cancelled requests to be counted")


def test_many_threads(server, client):
    def work(thread: int) -> int:
        random = np.random.default_rng(thread)
        for _ in range(25):
            a, b = random.standard_normal((2, random.integers(1, 5), 4)).astype(np.float32)
            assert np.array_equal(client.infer("add", [given("a", a), given("b", b)]).as_numpy("sum"), a + b)
        return thread

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(12))) == list(range(12))


def test_asyncio_client(server):
    async def work():
        async with triton_aio.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
            assert await client.is_server_live() and await client.is_server_ready() and await client.is_model_ready("add")
            assert (await client.get_server_metadata()).name == "muster"
            assert (await client.get_model_metadata("add")).name == "add"
            assert (await client.get_model_config("add")).config.name == "add"
            assert len((await client.get_model_repository_index()).models) == 12
            assert (await client.get_log_settings()).settings and (await client.get_trace_settings()).settings
            assert not (await client.get_system_shared_memory_status()).regions
            arrays = [np.repeat(X + i, 1 + i % 3, axis=0) for i in range(48)]
            results = await asyncio.gather(*(client.infer("identity", [given("x", array)]) for array in arrays))
            assert all(np.array_equal(result.as_numpy("y"), array) for result, array in zip(results, arrays))
            for algorithm in ("gzip", "deflate"):
                result = await client.infer("identity", [given("x", np.tile(X, (32, 1)))], compression_algorithm=algorithm)
                assert result.as_numpy("y").shape == (32, 16)
            with pytest.raises(InferenceServerException, match="Request for unknown model"):
                await client.infer("nobody", [given("x", X)])
            assert (await client.get_inference_statistics("identity")).model_stats[0].inference_count > 0

            async def requests():
                for i in range(20):
                    yield {"model_name": "identity", "inputs": [given("x", X + i)], "request_id": str(i)}
            ids = []
            async for result, error in client.stream_infer(requests()):
                assert error is None and np.array_equal(result.as_numpy("y"), X + int(result.get_response().id))
                ids.append(int(result.get_response().id))
            assert ids == list(range(20))

    asyncio.run(asyncio.wait_for(work(), PATIENCE))


# ---- streams


@pytest.fixture
def stream(client):
    """stream.ask(...) and the answers in a queue, through ModelStreamInfer."""
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))

    class Made:
        ask = staticmethod(client.async_stream_infer)
        stop = staticmethod(client.stop_stream)

        @staticmethod
        def answer():
            return answers.get(timeout=PATIENCE)
    yield Made
    client.stop_stream(cancel_requests=True)


def test_stream_in_order(stream):
    """Slow and fast ones, with a thousand on their way: the answers come in the order of the requests."""
    for i in range(1000):
        stream.ask("identity" if i != 3 else "sleepy", [given("x", X + i if i != 3 else FOUR[0])], request_id=str(i))
    for i in range(1000):
        result, error = stream.answer()
        assert error is None and result.get_response().id == str(i)
        assert i == 3 or np.array_equal(result.as_numpy("y"), X + i)


def test_stream_errors_concern_one_request(stream):
    stream.ask("identity", [given("x", X)], request_id="good")
    stream.ask("nobody", [given("x", X)], request_id="bad")
    stream.ask("identity", [given("x", X[:, :3])], request_id="worse")
    stream.ask("identity", [given("x", X)], request_id="good again")
    kinds = [stream.answer() for _ in range(4)]
    assert [result.get_response().id if error is None else None for result, error in kinds] == \
        ["good", None, None, "good again"]
    assert "Request for unknown model: 'nobody' is not found" in kinds[1][1].message()
    assert "does not fit the model's" in kinds[2][1].message()


def test_stream_final_response(stream):
    for empty in (False, True):
        stream.ask("identity", [given("x", X)], enable_empty_final_response=empty)
        result, error = stream.answer()
        assert error is None and result.get_response().parameters["triton_final_response"].bool_param is True


def test_stream_half_closed(stream):
    """What is on its way when the client says its last is answered."""
    for i in range(4):
        stream.ask("sleepy", [given("x", FOUR[0])], request_id=str(i))
    stream.stop()
    for i in range(4):
        result, error = stream.answer()
        assert error is None and result.get_response().id == str(i)


def test_stream_cancelled(server, client, stream):
    before = dropped(server)
    with standing_still(*worker_pids(server, "sleepy")):
        for i in range(8):
            stream.ask("sleepy", [given("x", FOUR[0])])
        wait_for(lambda: counter(server, "nv_inference_pending_request_count", 'model="sleepy"') >= 5, "the requests")
        client.stop_stream(cancel_requests=True)
        wait_for(lambda: dropped(server) >= before + 5, "cancelled requests to be counted")


def test_stream_large_and_compressed(server):
    answers, array = queue.Queue(), np.random.default_rng(5).standard_normal(800_000).astype(np.float32)
    with triton.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put((result, error)), compression_algorithm="gzip")
        client.async_stream_infer("wide", [given("x", np.tile(X[0], 512))])
        client.async_stream_infer("wide", [given("x", array)])
        sizes = [answers.get(timeout=PATIENCE)[0].as_numpy("y") for _ in range(2)]
        assert sizes[0].shape == (8192,) and np.array_equal(sizes[1], array)
        client.stop_stream()


def test_stream_errors_carry_the_id(stub):
    """So that a client knows which request failed."""
    answers = stub.ModelStreamInfer(iter([pb.ModelInferRequest(model_name="nobody", id="seven")]), timeout=PATIENCE)
    answer = next(answers)
    assert answer.error_message and answer.infer_response.id == "seven"
    assert list(answers) == [] and answers.code() == grpc.StatusCode.OK


def test_streams_at_once(server, stub):
    def work(number: int):
        def requests():
            for i in range(50):
                request = pb.ModelInferRequest(model_name="identity", id=f"{number}.{i}")
                request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
                request.raw_input_contents.append((X + number).tobytes())
                yield request
        for i, answer in enumerate(stub.ModelStreamInfer(requests(), timeout=PATIENCE)):
            assert answer.infer_response.id == f"{number}.{i}"
            assert answer.infer_response.raw_output_contents[0] == (X + number).tobytes()
        return i
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        assert list(pool.map(work, range(10))) == [49] * 10
