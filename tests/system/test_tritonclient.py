"""NVIDIA's own Python client, unmodified: `tritonclient.http` and its asyncio form."""
import asyncio
import concurrent.futures

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from muster_server import MODELS, put_model, sim_config
from oip import DTYPES, objects
from traffic import standing_still, worker_pids

LABELS = [f"label{i}" for i in range(8)]
X = np.arange(16, dtype=np.float32).reshape(1, 16)


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name in ("identity", "add", "dtypes", "string_identity", "nonzero"):
        put_model(models, name, f"{name}.onnx")
    put_model(models, "counted", "identity.onnx")
    put_model(models, "classes", "mlp.onnx", config="max_batch_size: 8\noutput { name: 'y' data_type: TYPE_FP32 dims: 8 "
              "label_filename: 'labels.txt' }\n", files={"labels.txt": "\n".join(LABELS)})
    put_model(models, "sleepy", config=sim_config(base_ms=150))
    put_model(models, "levels", config=sim_config(max_batch_size=4, dynamic_batching="{ priority_levels: 3 "
                                                                                   "default_priority_level: 2 }"))
    return serve_module(models)


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.url, concurrency=16) as made:
        yield made


def given(name: str, array: np.ndarray, binary=True, datatype=None) -> triton.InferInput:
    datatype = datatype or next(known for known, dtype in DTYPES.items() if array.dtype == dtype)
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(array, binary_data=binary)


def wanted(name: str, binary=True, classes=0) -> triton.InferRequestedOutput:
    return triton.InferRequestedOutput(name, binary_data=binary, class_count=classes)


# ---- everything that is no inference


def test_health(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("add") and client.is_model_ready("add", "1")
    assert not client.is_model_ready("nobody") and not client.is_model_ready("add", "2")


def test_metadata_and_config(client):
    assert client.get_server_metadata()["name"] == "muster"
    metadata = client.get_model_metadata("add")
    assert [i["name"] for i in metadata["inputs"]] == ["a", "b"] and metadata["versions"] == ["1"]
    assert client.get_model_metadata("add", "1") == metadata
    config = client.get_model_config("classes")
    assert config["max_batch_size"] == 8 and config["output"][0]["label_filename"] == "labels.txt"
    assert client.get_model_config("classes", "1") == config


def test_repository_index(client):
    index = client.get_model_repository_index()
    assert {m["name"] for m in index} == {"identity", "add", "dtypes", "string_identity", "nonzero", "counted", "classes",
                                          "sleepy", "levels"}
    assert {m["state"] for m in index} == {"READY"}


def test_statistics(client):
    for rows in (1, 1, 3):
        client.infer("counted", [given("x", np.repeat(X, rows, axis=0))])
    stats = client.get_inference_statistics("counted")["model_stats"]
    assert stats == client.get_inference_statistics("counted", "1")["model_stats"]
    assert (stats[0]["inference_count"], stats[0]["execution_count"]) == (5, 3)
    assert stats[0]["inference_stats"]["success"]["count"] == 3
    assert len(client.get_inference_statistics()["model_stats"]) == 9


# ---- inference


@pytest.mark.parametrize("binary_in", [False, True])
@pytest.mark.parametrize("binary_out", [False, True])
def test_infer(client, binary_in, binary_out):
    a, b = np.random.default_rng(5).standard_normal((2, 3, 4)).astype(np.float32)
    result = client.infer("add", [given("a", a, binary_in), given("b", b, binary_in)],
                          outputs=[wanted("sum", binary_out)], request_id="7")
    assert np.array_equal(result.as_numpy("sum"), a + b)
    response = result.get_response()
    assert (response["id"], response["model_name"], response["model_version"]) == ("7", "add", "1")
    assert result.as_numpy("other") is None and result.get_output("sum")["shape"] == [3, 4]


def test_infer_without_asking_for_outputs(client):
    assert np.array_equal(client.infer("identity", [given("x", X)]).as_numpy("y"), X)
    assert np.array_equal(client.infer("identity", [given("x", X)], model_version="1").as_numpy("y"), X)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [False, True])
def test_compression(client, algorithm, binary):
    array = np.tile(X, (32, 1))
    for request, response in ((algorithm, None), (None, algorithm), (algorithm, algorithm)):
        result = client.infer("identity", [given("x", array, binary)], outputs=[wanted("y", binary)],
                              request_compression_algorithm=request, response_compression_algorithm=response)
        assert np.array_equal(result.as_numpy("y"), array)


# the client sends BF16 only as binary data
@pytest.mark.parametrize("name, binary", [(name, binary) for name in DTYPES for binary in (False, True)
                                          if binary or name != "BF16"])
def test_every_type(client, name, binary):
    arrays = {key: (objects([b"a", "\u00e4\U0001f600".encode()], (1, 2)) if key == "BYTES" else
                    np.array([[1, 0]]).astype(dtype)) for key, dtype in DTYPES.items()}
    inputs = [given(f"in_{key.lower()}", array, binary or key != name) for key, array in arrays.items()]
    result = client.infer("dtypes", inputs, outputs=[wanted(f"out_{name.lower()}", binary)])
    found = result.as_numpy(f"out_{name.lower()}")
    if name == "BYTES" and not binary:
        assert [text.encode() for text in found.ravel()] == arrays[name].ravel().tolist()
    else:
        assert found.dtype == DTYPES[name] and np.array_equal(found, arrays[name])


def test_half_precision(client):
    values = np.array([[65504, 6e-8]], np.float16), np.array([[3.0e38, 1e-40]], ml_dtypes.bfloat16)
    for name, array in zip(("FP16", "BF16"), values):
        arrays = {key: objects([b"", b""], (1, 2)) if key == "BYTES" else np.zeros((1, 2), dtype)
                  for key, dtype in DTYPES.items()} | {name: array}
        inputs = [given(f"in_{key.lower()}", value) for key, value in arrays.items()]
        found = client.infer("dtypes", inputs).as_numpy(f"out_{name.lower()}")
        assert found.tobytes() == array.tobytes()


def test_strings(client):
    array = objects([b"", b"\x00\xff any byte", "gr\u00fc\u00df".encode(), b"x" * 70000], (2, 2))
    assert np.array_equal(client.infer("string_identity", [given("text", array)]).as_numpy("same"), array)
    numpy_strings = np.array([["one", "two"]]).astype(np.bytes_)
    sent = triton.InferInput("text", [1, 2], "BYTES").set_data_from_numpy(numpy_strings)
    assert client.infer("string_identity", [sent]).as_numpy("same").tolist() == [[b"one", b"two"]]


def test_classification(client):
    for binary in (True, False):
        scores = client.infer("classes", [given("x", X)]).as_numpy("y")[0]
        found = client.infer("classes", [given("x", X)], outputs=[wanted("y", binary, 3)]).as_numpy("y")
        texts = [text.decode() if binary else text for text in found[0]]
        assert texts == [f"{scores[i]:.6f}:{i}:{LABELS[i]}" for i in np.argsort(-scores)[:3]]


def test_outputs_that_vary(client):
    array = np.array([[0, 1, 0, 1], [1, 0, 0, 0]], np.float32)
    found = client.infer("nonzero", [given("x", array)]).as_numpy("where")
    assert np.array_equal(found, np.array(array.nonzero()))
    assert client.infer("nonzero", [given("x", 0 * array)]).as_numpy("where").shape == (2, 0)


def test_priority_and_timeout(server, client):
    four = np.ones((1, 4), np.float32)
    for priority in (0, 1, 3):
        assert np.array_equal(client.infer("levels", [given("x", four)], priority=priority).as_numpy("y"), four)
    with pytest.raises(InferenceServerException, match="priority 4: the model has levels 1 to 3"):
        client.infer("levels", [given("x", four)], priority=4)
    with standing_still(*worker_pids(server, "sleepy")), pytest.raises(InferenceServerException, match="timeout|deadline") as caught:
        client.infer("sleepy", [given("x", four[0])], timeout=1000)
    assert caught.value.status() == "503"
    assert client.infer("sleepy", [given("x", four[0])], timeout=30_000_000).as_numpy("y").shape == (4,)


def test_headers_queries_and_parameters(client):
    result = client.infer("identity", [given("x", X)], headers={"X-Request-Id": "h"}, query_params={"q": [1, 2]},
                          parameters={"mine": "yes", "number": 5})
    assert np.array_equal(result.as_numpy("y"), X)


def test_body_made_elsewhere():
    body, length = triton.InferenceServerClient.generate_request_body([given("x", X)])
    assert length is not None and body[length:] == X.tobytes()


# ---- errors


@pytest.mark.parametrize("call, message, status", [
    (lambda c: c.infer("nobody", [given("x", X)]), "Request for unknown model: 'nobody' is not found", "404"),
    (lambda c: c.infer("identity", [given("x", X)], model_version="9"), "Request for unknown model: 'identity' version 9",
     "404"),
    (lambda c: c.get_model_metadata("nobody"), "Request for unknown model: 'nobody' is not found", "404"),
    (lambda c: c.get_model_config("nobody"), "Request for unknown model", "404"),
    (lambda c: c.get_inference_statistics("nobody"), "Request for unknown model", "404"),
    (lambda c: c.infer("identity", [given("z", X)]), "has no input 'z'; it has 'x'", "400"),
    (lambda c: c.infer("identity", [given("x", X.astype(np.float64))]), "datatype FP64 is not the FP32", "400"),
    (lambda c: c.infer("identity", [given("x", X[:, :4])]), r"shape \[1,4\] does not fit the model's \[-1,16\]", "400"),
    (lambda c: c.infer("identity", []), "input 'x' of model 'identity' is missing", "400"),
    (lambda c: c.infer("identity", [given("x", X)], outputs=[wanted("q")]), "has no output 'q'; it has 'y'", "400"),
    (lambda c: c.infer("identity", [given("x", X)], sequence_id=3, sequence_start=True), "sequence", "501")])
def test_errors(client, call, message, status):
    with pytest.raises(InferenceServerException, match=message) as caught:
        call(client)
    assert caught.value.status() == status
    assert np.array_equal(client.infer("identity", [given("x", X)]).as_numpy("y"), X)


# ---- many at once


def test_async_infer(client):
    arrays = [X + i for i in range(64)]
    pending = [client.async_infer("identity", [given("x", array)], request_id=str(i)) for i, array in enumerate(arrays)]
    for i, (array, one) in enumerate(zip(arrays, pending)):
        result = one.get_result()
        assert np.array_equal(result.as_numpy("y"), array) and result.get_response()["id"] == str(i)


def test_many_threads(server):
    """A client for each thread (it is not made for sharing); different rows, so that a mixed-up batch is seen."""
    def work(thread: int) -> int:
        random = np.random.default_rng(thread)
        with triton.InferenceServerClient(server.url) as own:
            for _ in range(25):
                a, b = random.standard_normal((2, random.integers(1, 5), 4)).astype(np.float32)
                assert np.array_equal(own.infer("add", [given("a", a), given("b", b)]).as_numpy("sum"), a + b)
        return thread

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(12))) == list(range(12))


def test_asyncio_client(server):
    aio = pytest.importorskip("tritonclient.http.aio", reason="the asyncio client needs aiohttp")

    async def work():
        async with aio.InferenceServerClient(server.url) as client:
            assert await client.is_server_ready() and await client.is_model_ready("add")
            assert (await client.get_model_metadata("add"))["name"] == "add"
            assert (await client.get_model_config("add"))["name"] == "add"
            assert len(await client.get_model_repository_index()) == 9
            arrays = [np.repeat(X + i, 1 + i % 3, axis=0) for i in range(48)]
            results = await asyncio.gather(*(client.infer("identity", [given("x", array)]) for array in arrays))
            assert all(np.array_equal(result.as_numpy("y"), array) for result, array in zip(results, arrays))
            for algorithm in ("gzip", "deflate"):
                result = await client.infer("identity", [given("x", np.tile(X, (32, 1)), False)],
                                            outputs=[wanted("y", False)], request_compression_algorithm=algorithm,
                                            response_compression_algorithm=algorithm)
                assert result.as_numpy("y").shape == (32, 16)
            with pytest.raises(InferenceServerException, match="Request for unknown model"):
                await client.infer("nobody", [given("x", X)])
            assert (await client.get_inference_statistics("identity"))["model_stats"][0]["inference_count"] > 0

    asyncio.run(work())
