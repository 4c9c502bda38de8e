"""The engine remote: models whose engine is other servers. Two real servers behind one in front, and fake ones that lie."""
import numpy as np
import pytest

from muster_server import put_model, sim_config, wait_for
from oip import BINARY_OUTPUTS, DTYPES, binary_body, objects, outputs_of, same


def remote_config(*backends, protocol="http", more="", **parameters) -> str:
    lines = ['backend: "remote"', more]
    parameters = {"backends": ",".join(backends), "protocol": protocol, "health_interval": "200ms", **parameters}
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "remote.{key}" value {{ string_value: "{value}" }} }}')
    return "\n".join(lines) + "\n"


def sample(name: str) -> np.ndarray:
    if name == "BYTES":
        return objects([b"", b"a\0b", b"text", b"\xff" * 300], (2, 2))
    dtype = DTYPES[name]
    return np.array([[0, 1], [3, 100]], np.float64).astype(dtype)


@pytest.fixture(scope="module")
def backends(serve_module, module_path):
    """Two servers with the same models."""
    repository = module_path / "backend"
    for name in DTYPES:
        put_model(repository, name.lower(), config=sim_config("TYPE_STRING" if name == "BYTES" else f"TYPE_{name}", "2", max_batch_size=8))
    put_model(repository, "mlp", "mlp.onnx")
    arguments = ["--model-repository", repository, "--grpc-port", "0"]
    return [serve_module(*arguments), serve_module(*arguments)]


@pytest.fixture(scope="module")
def front(serve_module, module_path, backends):
    repository = module_path / "front"
    urls = [backend.url for backend in backends]
    for name in DTYPES:
        put_model(repository, name.lower(), config=remote_config(*urls))
    put_model(repository, "mlp", config=remote_config(*urls))
    return serve_module("--model-repository", repository)


@pytest.mark.parametrize("name", DTYPES)
def test_answers_are_equal_to_the_bit(front, backends, name):
    array = sample(name)
    body, headers = binary_body({"x": array}, **BINARY_OUTPUTS)
    reply = front.post(f"/v2/models/{name.lower()}/infer", body, headers=headers)
    assert same(outputs_of(reply)["y"], array)
