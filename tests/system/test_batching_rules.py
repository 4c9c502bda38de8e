"""When requests may share a batch, and that answers are the same whether they do or not."""
import numpy as np
import onnxruntime
import pytest

from muster_server import MODELS, put_model, run_muster
from oip import same
from traffic import (Client, batch_sizes, crowd, infer, rows, sim_model, standing_still, stats, wait_depth,
                     wait_waiting, worker_pids)


def reference(model: str):
    """run(inputs) -> outputs of ONNX Runtime itself, {name: array}."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODELS / f"{model}.onnx", options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs)))


def all_at_once(server, model, requests):
    """Answers to requests, of which all but the first wait while the worker stands still and then run together, as far
    as they may."""
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [threads.submit(infer, server, model, requests[0])]
            wait_depth(server, 1)
            answers += [threads.submit(infer, server, model, inputs) for inputs in requests[1:]]
            wait_depth(server, len(requests))
        return [answer.result() for answer in answers]


def warnings(server) -> list[dict]:
    return [line for line in server.log_lines() if line["level"] == "warning"]


def warning_about(server, text: str) -> dict:
    found = [line for line in warnings(server) if text in line["message"]]
    assert len(found) == 1, f"{len(found)} warnings with {text!r}; log:\n{server.log}"
    return found[0]


def floats(seed: int, *shape) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ---- models of which nobody said how many ----------------------------------------------------------------------------

def test_mlp_is_batched_by_itself(serve):
    server = serve(MODELS / "mlp.onnx")
    run = reference("mlp")
    requests = [{"x": floats(i, 1, 16)} for i in range(13)]
    for inputs, answer in zip(requests, all_at_once(server, "mlp", requests)):
        assert answer.status == 200
        np.testing.assert_allclose(answer.outputs["y"], run(inputs)["y"], rtol=1e-5, atol=1e-5)
    assert batch_sizes(server, "mlp") == {1: 1, 12: 1}
    assert server.get("/v2/models/mlp/config").json["max_batch_size"] == 64
    assert not [line for line in warnings(server) if line.get("model") == "mlp"]


@pytest.mark.parametrize("model", ["quantized_mlp", "mixed", "not_batched"])
def test_rows_that_change_each_other_are_not_batched(serve, model):
    server = serve(MODELS / f"{model}.onnx")
    warning = warning_about(server, "not batched")
    assert warning["model"] == model and warning["because"] and "max_batch_size" in warning["cure"]
    assert server.get(f"/v2/models/{model}/config").json["max_batch_size"] == 0
    run, width = reference(model), 16 if model == "quantized_mlp" else 4
    requests = [{"x": floats(i, 2, width) * np.float32(10.0 ** i)} for i in range(6)]
    for inputs, answer in zip(requests, all_at_once(server, model, requests)):
        assert answer.status == 200 and same(answer.outputs["y"], run(inputs)["y"])
    assert stats(server, model)["execution_count"] == 6


def test_the_largest_batch_of_models_that_do_not_say(serve):
    server = serve(MODELS / "identity.onnx", "--max-batch-size=3")
    requests = [{"x": floats(i, 1, 16)} for i in range(8)]
    for inputs, answer in zip(requests, all_at_once(server, "identity", requests)):
        assert same(answer.outputs["y"], inputs["x"])
    assert max(batch_sizes(server, "identity")) == 3


def test_no_batch_dimension(serve):
    server = serve(MODELS / "fixed.onnx")
    requests = [{"x": floats(i, 2, 3)} for i in range(5)]
    for inputs, answer in zip(requests, all_at_once(server, "fixed", requests)):
        assert same(answer.outputs["y"], inputs["x"] * 2)
    assert stats(server, "fixed")["execution_count"] == 5


# ---- what was said is obeyed -----------------------------------------------------------------------------------------

def test_explicit_batch_size_is_obeyed(serve, tmp_path):
    """Also for a model that would not be batched by itself: its owner has decided."""
    server = serve(put_model(tmp_path / "models", "quantized", "quantized_mlp.onnx", "max_batch_size: 4"))
    requests = [{"x": floats(i, 1, 16)} for i in range(9)]
    assert all(answer.status == 200 for answer in all_at_once(server, "quantized", requests))
    assert batch_sizes(server, "quantized") == {1: 1, 4: 2}
    assert not [line for line in warnings(server) if "not batched" in line["message"]]


def test_output_that_does_not_follow_an_explicit_batch(serve, tmp_path):
    server = serve(put_model(tmp_path / "models", "model", "not_batched.onnx", "max_batch_size: 4"))
    run = reference("not_batched")
    requests = [{"x": floats(i, 1, 4)} for i in range(9)]
    for _ in range(2):
        for inputs, answer in zip(requests, all_at_once(server, "model", requests)):
            assert answer.status == 200 and same(answer.outputs["y"], run(inputs)["y"])
    assert warning_about(server, "one by one")["model"] == "model"
    assert batch_sizes(server, "model") == {1: 18}


def test_batching_switched_off(serve):
    server = serve(MODELS / "mlp.onnx", env={"ENABLE_BATCHING": "false"})
    run = reference("mlp")
    requests = [{"x": floats(i, 1, 16)} for i in range(6)]
    for inputs, answer in zip(requests, all_at_once(server, "mlp", requests)):
        assert answer.status == 200 and same(answer.outputs["y"], run(inputs)["y"])
    assert batch_sizes(server, "mlp") == {1: 6}


def test_batch_size_of_a_model_in_the_settings(serve, tmp_path):
    (tmp_path / "muster.yaml").write_text("models: { mlp: { max_batch_size: 2 } }\n")
    server = serve(MODELS / "mlp.onnx", cwd=tmp_path)
    requests = [{"x": floats(i, 1, 16)} for i in range(5)]
    assert all(answer.status == 200 for answer in all_at_once(server, "mlp", requests))
    assert batch_sizes(server, "mlp") == {1: 1, 2: 2}


# ---- every request gets its own rows ---------------------------------------------------------------------------------

def test_requests_of_several_rows_share_a_batch(serve):
    server = serve(MODELS / "mlp.onnx")
    run = reference("mlp")
    requests = [{"x": floats(i, 1 + i % 5, 16)} for i in range(16)]
    for inputs, answer in zip(requests, all_at_once(server, "mlp", requests)):
        np.testing.assert_allclose(answer.outputs["y"], run(inputs)["y"], rtol=1e-5, atol=1e-5)
    counts = stats(server, "mlp")
    assert counts["inference_count"] == sum(len(inputs["x"]) for inputs in requests)
    assert counts["execution_count"] <= 6 and max(batch_sizes(server, "mlp")) > 10  # 16 rows at first, see sched/enough.h


def test_two_inputs_share_a_batch(serve):
    server = serve(MODELS / "add.onnx")
    requests = [{"a": floats(i, 1 + i % 3, 4), "b": floats(100 + i, 1 + i % 3, 4)} for i in range(12)]
    for inputs, answer in zip(requests, all_at_once(server, "add", requests)):
        assert same(answer.outputs["sum"], inputs["a"] + inputs["b"])
    assert stats(server, "add")["execution_count"] <= 3


def test_texts_share_a_batch(serve):
    server = serve(MODELS / "string_identity.onnx")
    requests = []
    for i in range(10):
        text = np.empty((1 + i % 3, 2), np.object_)
        for at in np.ndindex(text.shape):
            text[at] = b"\x00" * (i % 4) + f"{i}/{at}".encode() * (i * 7)
        requests.append({"text": text})
    for inputs, answer in zip(requests, all_at_once(server, "string_identity", requests)):
        assert answer.status == 200 and same(answer.outputs["same"], inputs["text"])
    assert stats(server, "string_identity")["execution_count"] <= 3


def test_only_the_same_shapes_share_a_batch(serve):
    server = serve(MODELS / "embedding.onnx")
    run = reference("embedding")
    random = np.random.default_rng(5)
    lengths = [7, 3, 5, 3, 5, 3, 5]  # the first one is with the worker alone
    requests = [{"ids": random.integers(0, 20, (1, length))} for length in lengths]
    for inputs, answer in zip(requests, all_at_once(server, "embedding", requests)):
        assert same(answer.outputs["y"], run(inputs)["y"])
    assert batch_sizes(server, "embedding") == {1: 1, 3: 2}


def test_only_the_outputs_that_each_request_wants(serve):
    """One batch, of which every member asked for something else."""
    server = serve(MODELS / "dtypes.onnx")
    names = ["fp32", "int64", "bool"]
    inputs = {f"in_{n}": v for n, v in dtype_inputs(3).items()}
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [threads.submit(infer, server, "dtypes", inputs)]
            wait_depth(server, 1)
            for i, name in enumerate(names):
                answers.append(threads.submit(infer, server, "dtypes", inputs, outputs=[{"name": f"out_{name}"}]))
                wait_waiting(server, i + 1, "dtypes")
        everything, *single = [answer.result() for answer in answers]
    assert len(everything.outputs) == 14
    for name, answer in zip(names, single):
        assert answer.status == 200 and list(answer.outputs) == [f"out_{name}"]
        assert same(answer.outputs[f"out_{name}"], inputs[f"in_{name}"])


def dtype_inputs(n_rows: int) -> dict[str, np.ndarray]:
    import ml_dtypes
    random = np.random.default_rng(7)
    made = {name: random.integers(0, 2, (n_rows, 2)).astype(dtype) for name, dtype in {
        "bool": np.bool_, "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
        "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64, "fp16": np.float16,
        "fp32": np.float32, "fp64": np.float64, "bf16": ml_dtypes.bfloat16}.items()}
    made["bytes"] = np.array([[b"a", b""]] * n_rows, np.object_)
    return made


CLIENTS, REQUESTS = 24, 40


def test_many_clients_of_a_simulated_model(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", base_ms=2, max_batch_size=16))

    def ask(number):
        with Client(server) as client:
            for i in range(REQUESTS):
                count = 1 + (number + i) % 3
                values = [number * 1000 + i * 5 + k for k in range(count)]
                assert client.echo(*values).status == 200
                yield count

    with crowd() as threads:
        with standing_still(*worker_pids(server)):  # so that the first ones do wait for one another
            clients = [threads.submit(lambda n: sum(ask(n)), number) for number in range(CLIENTS)]
            wait_depth(server, CLIENTS)
        total = sum(client.result() for client in clients)
    counts = stats(server)
    assert counts["inference_count"] == total
    assert counts["inference_stats"]["success"]["count"] == CLIENTS * REQUESTS
    assert sum(size * n for size, n in batch_sizes(server).items()) == total
    assert counts["execution_count"] < CLIENTS * REQUESTS and max(batch_sizes(server)) > 3


@pytest.mark.parametrize("flags", [[], ["--processes=2", "--instances=2", "--cpu-slots=4"]], ids=["one", "four"])
def test_many_clients_of_a_real_model(serve, flags):
    server = serve(MODELS / "mlp.onnx", *flags)
    run = reference("mlp")

    def ask(number):
        random = np.random.default_rng(number)
        with Client(server) as client:
            for i in range(REQUESTS):
                inputs = {"x": random.standard_normal((1 + i % 4, 16)).astype(np.float32)}
                answer = client.infer_arrays("mlp", inputs)
                np.testing.assert_allclose(answer.outputs["y"], run(inputs)["y"], rtol=1e-5, atol=1e-5)

    with crowd() as threads:
        for client in [threads.submit(ask, number) for number in range(CLIENTS)]:
            client.result()
    counts = stats(server, "mlp")
    assert counts["inference_stats"]["success"]["count"] == CLIENTS * REQUESTS
    assert counts["inference_count"] == CLIENTS * sum(1 + i % 4 for i in range(REQUESTS))


# ---- devices ---------------------------------------------------------------------------------------------------------

def test_a_gpu_that_is_not_there(tmp_path):
    done = run_muster("serve", MODELS / "identity.onnx", "--device=gpu:0", "--http-port=0", "--grpc-port=0", "--metrics-port=0",
                      "--control-socket", tmp_path / "socket", cwd=tmp_path, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "identity" in done.stderr and ("CUDA" in done.stderr or "GPU" in done.stderr)


def test_a_gpu_model_beside_a_cpu_model(serve, tmp_path):
    put_model(tmp_path / "models", "on_gpu", "identity.onnx", "max_batch_size: 4 instance_group { kind: KIND_GPU }")
    put_model(tmp_path / "models", "on_cpu", "identity.onnx")
    server = serve(tmp_path / "models", wait=False, env={"CUDA_VISIBLE_DEVICES": ""})
    server.wait_state("degraded")
    x = rows(1)
    assert same(infer(server, "on_cpu", {"x": x}).outputs["y"], x)
    refused = infer(server, "on_gpu", {"x": x})
    assert refused.status == 503 and ("CUDA" in refused.error or "GPU" in refused.error)
