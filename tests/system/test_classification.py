"""Triton's classification extension where models differ: labels that are missing, short or not to be had, batches,
models without a batch, and counts that mean nothing."""
import numpy as np
import pytest
import tritonclient.http as triton

from muster_server import put_model, sim_config, wait_for
from oip import Wire, outputs_of, tensor

LABELED = sim_config(max_batch_size=8).replace("output { name: 'y' data_type: TYPE_FP32 dims: [4] }",
                                               "output { name: 'y' data_type: TYPE_FP32 dims: [4] label_filename: 'labels.txt' }")
ROWS = np.array([[1, 5, 10, 4], [0.5, -1, 0.25, 7]], np.float32)


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = put_model(module_path / "models", "fruits", config=LABELED, files={"labels.txt": "pear\npickle\napple\nplum\n"})
    put_model(models, "some", config=LABELED, files={"labels.txt": "\n\napple"})
    put_model(models, "missing", config=LABELED)
    put_model(models, "single", config=LABELED.replace("max_batch_size: 8", "max_batch_size: 0"), files={"labels.txt": "a\nb\nc\nd"})
    put_model(models, "outside", config=LABELED.replace("labels.txt", "../fruits/labels.txt"))
    return serve_module(models, "--strict-readiness=false", "--exit-on-error=false", wait=False)


@pytest.fixture(scope="module")
def wire(server):
    wait_for(lambda: {m["name"] for m in server.status().get("models", []) if m["state"] == "READY"} >=
             {"fruits", "some", "missing", "single"}, "the models")
    with Wire(server.port) as wire:
        yield wire


def ask(wire, model, count, rows=ROWS, **more):
    return wire.infer(model, {"inputs": [tensor("x", rows)], "outputs": [{"name": "y", "parameters": {"classification": count, **more}}]})


def classes(reply):
    assert reply.status == 200, reply.body
    (output,) = reply.json["outputs"]
    assert output["datatype"] == "BYTES"
    return output["shape"], output["data"]


def test_labels_and_batches(wire):
    assert classes(ask(wire, "fruits", 2)) == ([2, 2], ["10.000000:2:apple", "5.000000:1:pickle", "7.000000:3:plum", "0.500000:0:pear"])
    assert classes(ask(wire, "fruits", 1, ROWS[:1])) == ([1, 1], ["10.000000:2:apple"])


def test_more_classes_than_elements(wire):
    shape, data = classes(ask(wire, "fruits", 1000))
    assert shape == [2, 4] and data[:4] == ["10.000000:2:apple", "5.000000:1:pickle", "4.000000:3:plum", "1.000000:0:pear"]
    assert classes(ask(wire, "fruits", 2**63))[0] == [2, 4]


def test_labels_that_are_not_there(wire, server):
    """An empty line and a missing one are no label; a file that is not there is none for all, and said."""
    assert classes(ask(wire, "some", 4, ROWS[:1]))[1] == ["10.000000:2:apple", "5.000000:1", "4.000000:3", "1.000000:0"]
    assert classes(ask(wire, "missing", 1))[1] == ["10.000000:2", "7.000000:3"]
    assert any(line["message"] == "labels cannot be read" and line["model"] == "missing" for line in server.log_lines())
    wait_for(lambda: [m for m in server.status()["models"] if m["name"] == "outside" and "must name a file below" in m["reason"]],
             "the refusal of the model whose labels lie elsewhere")


def test_a_model_without_a_batch(wire):
    assert classes(ask(wire, "single", 2, np.array([1, 3, 2, 0], np.float32))) == ([2], ["3.000000:1:b", "2.000000:2:c"])


@pytest.mark.parametrize("count", [-1, 1.5, "2", True, [1], None])
def test_counts_that_are_none(wire, count):
    reply = ask(wire, "fruits", count)
    assert reply.status == 400 and "classification" in reply.json["error"]


def test_with_tritonclient(wire, server):
    client = triton.InferenceServerClient(server.url)
    x = triton.InferInput("x", [2, 4], "FP32")
    x.set_data_from_numpy(ROWS)
    for binary in (True, False):
        found = client.infer("fruits", [x], outputs=[triton.InferRequestedOutput("y", binary_data=binary, class_count=1)]).as_numpy("y")
        assert [text.decode() if isinstance(text, bytes) else text for text in found.ravel()] == ["10.000000:2:apple", "7.000000:3:plum"]
    client.close()


# ---- statistics: all that Triton's document has


def test_statistics_document(wire, server):
    assert outputs_of(wire.infer("fruits", {"inputs": [tensor("x", ROWS)]}))["y"].shape == (2, 4)
    client = triton.InferenceServerClient(server.url)
    every = client.get_inference_statistics()["model_stats"]
    assert {"fruits", "some", "missing", "single"} <= {stats["name"] for stats in every}
    (stats,) = client.get_inference_statistics("fruits", "1")["model_stats"]
    assert list(stats) == ["name", "version", "last_inference", "inference_count", "execution_count", "inference_stats",
                           "response_stats", "batch_stats", "memory_usage"]
    assert list(stats["inference_stats"]) == ["success", "fail", "queue", "compute_input", "compute_infer",
                                              "compute_output", "cache_hit", "cache_miss"]
    for name, duration in stats["inference_stats"].items():
        assert list(duration) == ["count", "ns"] and (duration["count"] > 0 or name in ("fail", "cache_hit", "cache_miss"))
    assert stats["inference_stats"]["cache_hit"] == stats["inference_stats"]["cache_miss"] == {"count": 0, "ns": 0}
    assert stats["response_stats"] == {} and stats["memory_usage"] == []
    by_size = {batch["batch_size"]: batch for batch in stats["batch_stats"]}
    assert list(by_size[2]) == ["batch_size", "compute_input", "compute_infer", "compute_output"]
    assert sum(size * batch["compute_infer"]["count"] for size, batch in by_size.items()) == stats["inference_count"]
    assert stats["last_inference"] > 1_600_000_000_000
    with pytest.raises(triton.InferenceServerException, match="Request for unknown model: 'nobody'"):
        client.get_inference_statistics("nobody")
    with pytest.raises(triton.InferenceServerException, match="Request for unknown model: 'fruits'"):
        client.get_inference_statistics("fruits", "7")
    client.close()
