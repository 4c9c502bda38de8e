"""A real model: Magika tells what is in real files of this machine, and must say what the `magika` package says."""
import concurrent.futures
import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import magika
import numpy as np
import onnxruntime
import pytest

from muster_server import PATIENCE, ROOT, environment, put_model
from oip import BINARY_OUTPUTS, Wire, binary_body, outputs_of

IDENTIFY = ROOT / "examples" / "magika" / "identify.py"
MODEL = pathlib.Path(magika.__file__).parent / "models" / "standard_v3_3" / "model.onnx"
PLACES = [ROOT, pathlib.Path(np.__file__).parents[1], pathlib.Path("/usr/include"), pathlib.Path("/usr/lib"),
          pathlib.Path("/usr/share"), pathlib.Path("/etc")]
KINDS = """a awk bat bmp c cfg cmake conf cpp crt css csv dtd gif gz h html ico ini jpg js json lua m4 md mk mo o onnx pdf
pem pl pm png pxd py pyc pyx rst service sh so sql svg tcl tex toml ts ttf txt vim whl xml xsl yaml yml zip""".split()
EACH, MOST, LEAST = 10, 280, 200  # files of a kind, files of all kinds, fewest that make the test worth its name

# Alone in a batch a row takes other kernels of ONNX Runtime than with others, which add up in another order: its scores
# differ by up to 6e-4 (seen; onnxruntime in Python does the same). Beyond that nothing may differ.
BATCH_TOLERANCE = 1e-3


def load_example():
    spec = importlib.util.spec_from_file_location("identify", IDENTIFY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


identify = load_example()


def usable(path: pathlib.Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size >= 64 and os.access(path, os.R_OK)


def choose_files() -> list[pathlib.Path]:
    """The first of every kind in order of their paths: the same on every run of one machine."""
    found = {kind: [] for kind in KINDS}
    for place in PLACES:
        for folder, folders, names in os.walk(place):
            folders[:] = sorted(name for name in folders if name not in ("build", ".git", "__pycache__"))
            for name in sorted(names):
                kind = name.rpartition(".")[2]
                if len(found.get(kind, [0] * EACH)) < EACH and usable(pathlib.Path(folder, name)):
                    found[kind].append(pathlib.Path(folder, name))
    in_turn = [files[i] for i in range(EACH) for files in found.values() if i < len(files)]
    return in_turn[:MOST]


@pytest.fixture(scope="module")
def files() -> list[pathlib.Path]:
    return choose_files()


@pytest.fixture(scope="module")
def features(files) -> np.ndarray:
    return np.array([identify.features(path) for path in files], np.int32)


@pytest.fixture(scope="module")
def package(files) -> list[tuple[str, float]]:
    """Label and score of every file by the package itself, each file alone."""
    model = magika.Magika()
    answers = [model.identify_path(path).prediction for path in files]
    return [(str(answer.dl.label), answer.score) for answer in answers]


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    """Twice the same model: as it comes, and told to wait for batches. Left to itself it may rightly find that on this
    machine batches are no faster."""
    models = put_model(module_path / "models", "magika", MODEL)
    waits = "dynamic_batching { preferred_batch_size: 8 max_queue_delay_microseconds: 500000 }"
    return serve_module(put_model(models, "batched", MODEL, waits))


def ask(wire: Wire, rows: np.ndarray, model: str = "magika") -> np.ndarray:
    body, headers = binary_body({"bytes": rows}, **BINARY_OUTPUTS)
    return outputs_of(wire.infer(model, body, headers))["target_label"]


def label_and_score(scores: np.ndarray) -> tuple[str, float]:
    return LABELS[int(scores.argmax())], float(scores.max())


LABELS = identify.labels_from_package()


def test_the_files_are_many_and_of_many_kinds(files, package):
    assert len(files) >= LEAST
    assert len({label for label, _ in package}) >= 15 and "undefined" not in {label for label, _ in package}


def test_alone_every_label_and_score_is_the_packages(server, features, package):
    with Wire(server.port) as wire:
        answers = [label_and_score(ask(wire, row[None])[0]) for row in features]
    assert answers == package  # scores to the last bit


def test_together_in_batches(server, features, package):
    """32 clients with a file in each request. Every label is the package's, and of every fourth file the answer what
    onnxruntime itself says of it, alone or with others."""
    def work(share: np.ndarray) -> list[np.ndarray]:
        with Wire(server.port) as wire:
            return [ask(wire, row[None], "batched")[0] for row in share]

    shares = [features[i::32] for i in range(32)]
    answers = np.empty((len(features), len(LABELS)), np.float32)
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        for i, rows in enumerate(pool.map(work, shares)):
            answers[i::32] = rows
    stats = server.get("/v2/models/batched/stats").json["model_stats"][0]
    assert stats["inference_count"] == len(features) and stats["execution_count"] < len(features) / 2

    found = [label_and_score(scores) for scores in answers]
    assert [label for label, _ in found] == [label for label, _ in package]
    assert max(abs(a - b) for (_, a), (_, b) in zip(found, package)) < BATCH_TOLERANCE
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # threads that spin beside the other tests' make it ten times slower
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    some = slice(None, None, 4)  # the others are held to the package's above
    alone = np.concatenate([session.run(None, {"bytes": row[None]})[0] for row in features[some]])
    paired = np.concatenate([session.run(None, {"bytes": np.stack([row, row])})[0][:1] for row in features[some]])
    nearest = np.minimum(np.abs(answers[some] - alone).max(1), np.abs(answers[some] - paired).max(1))
    assert nearest.max() < 1e-6


def test_many_rows_in_one_request(server, features, package):
    with Wire(server.port) as wire:
        found = [label_and_score(scores) for scores in ask(wire, features[:64])]
    assert [label for label, _ in found] == [label for label, _ in package[:64]]
    assert max(abs(a - b) for (_, a), (_, b) in zip(found, package)) < BATCH_TOLERANCE


# ---- the example, as a user runs it


def run_example(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, IDENTIFY, *map(str, arguments)], capture_output=True, text=True,
                          timeout=PATIENCE, env=environment())


def test_example(server, files, package):
    done = run_example("--url", f"http://{server.url}", "--wait", 10, *files)
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(files)
    for line, path, (label, score) in zip(lines, files, package):
        found = re.fullmatch(r"(.*): (\w+) \((\d\.\d{4})\)", line)
        assert (found[1], found[2]) == (str(path), label) and abs(float(found[3]) - score) < BATCH_TOLERANCE + 5e-5


def test_example_with_a_file_that_is_not_there(server, files):
    done = run_example("--url", f"http://{server.url}", files[0], "/nowhere")
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 1 and "/nowhere: " in done.stderr


def test_example_without_a_server():
    done = run_example("--url", "http://127.0.0.1:1", "--wait", 0.1, __file__)
    assert done.returncode == 1 and "no ready server at http://127.0.0.1:1" in done.stderr


def test_model_file_named_on_the_command_line(serve, features, package):
    """Straight out of the package's folder, without repository or configuration."""
    server = serve(MODEL)
    config = server.get("/v2/models/model/config").json
    assert config["max_batch_size"] > 1 and config["input"][0]["dims"] == [2048]
    body, headers = binary_body({"bytes": features[:1]}, **BINARY_OUTPUTS)
    with Wire(server.port) as wire:
        scores = outputs_of(wire.infer("model", body, headers))["target_label"][0]
    assert label_and_score(scores) == package[0]
