"""Real models whose shapes vary: PP-OCRv6 text detection and recognition, against onnxruntime in Python."""
import concurrent.futures
import importlib.util
import pathlib

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageDraw, ImageFont

from muster_server import put_model
from oip import BINARY_OUTPUTS, Wire, binary_body, outputs_of, same

MODELS = pathlib.Path(importlib.util.find_spec("rapidocr").origin).parent / "models"
FILES = {"det": MODELS / "PP-OCRv6_det_small.onnx", "rec": MODELS / "PP-OCRv6_rec_small.onnx"}
OUTPUT = "fetch_name_0"
DET_SIZES = [(32, 32), (64, 96), (96, 64), (160, 320), (320, 320)]
REC_WIDTHS = [32, 48, 100, 160, 320]

# With others in its batch a row takes other kernels, which add up in another order.
BATCH_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    models = module_path / "models"
    for name, file in FILES.items():
        put_model(models, name, file)
    return serve_module(models, "--threads", 1)


@pytest.fixture(scope="module")
def sessions():
    """onnxruntime itself, with as many threads as the server's."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return {name: onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            for name, file in FILES.items()}


def ask(wire: Wire, model: str, array: np.ndarray, **more) -> np.ndarray:
    body, headers = binary_body({"x": array}, **{**BINARY_OUTPUTS, **more})
    return outputs_of(wire.infer(model, body, headers))[OUTPUT]


def random_image(*shape) -> np.ndarray:
    return np.random.default_rng(list(shape)).uniform(-1, 1, shape).astype(np.float32)


def test_metadata(server):
    det, rec = server.get("/v2/models/det").json, server.get("/v2/models/rec").json
    assert det["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    assert rec["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 48, -1]}]
    assert det["outputs"][0]["shape"] == [-1, 1, -1, -1] and rec["outputs"][0]["shape"] == [-1, -1, 18710]


@pytest.mark.parametrize("size", DET_SIZES)
def test_detection_is_the_same_to_the_bit(server, sessions, size):
    image = random_image(1, 3, *size)
    expected = sessions["det"].run(None, {"x": image})[0]
    with Wire(server.port) as wire:
        for _ in range(3):  # the first run of a shape is copied, the next ones are written in place
            assert same(ask(wire, "det", image), expected)


@pytest.mark.parametrize("width", REC_WIDTHS)
def test_recognition_is_the_same_to_the_bit(server, sessions, width):
    image = random_image(1, 3, 48, width)
    expected = sessions["rec"].run(None, {"x": image})[0]
    with Wire(server.port) as wire:
        for _ in range(3):
            assert same(ask(wire, "rec", image), expected)


def test_a_batch_of_the_client_is_the_same_to_the_bit(server, sessions):
    with Wire(server.port) as wire:
        for model, shape in (("det", (2, 3, 64, 64)), ("rec", (3, 3, 48, 64)), ("rec", (7, 3, 48, 40))):
            images = random_image(*shape)
            assert same(ask(wire, model, images), sessions[model].run(None, {"x": images})[0])


def test_json_says_the_same(server, sessions):
    image = random_image(1, 3, 32, 64)
    with Wire(server.port) as wire:
        found = ask(wire, "det", image, parameters={"binary_data_output": False})
    assert same(found, sessions["det"].run(None, {"x": image})[0])


def test_many_shapes_at_once(server, sessions):
    """Only requests of one shape can share a batch; each answer belongs to its own image."""
    work = [("rec", random_image(1, 3, 48, width) + np.float32(i)) for i in range(6) for width in REC_WIDTHS[:3]]
    work += [("det", random_image(1, 3, *size) + np.float32(i)) for i in range(3) for size in DET_SIZES[:3]]

    def one(item):
        with Wire(server.port) as wire:
            return ask(wire, *item)

    with concurrent.futures.ThreadPoolExecutor(len(work)) as pool:
        found = list(pool.map(one, work))
    for (model, image), answer in zip(work, found):
        expected = sessions[model].run(None, {"x": image})[0]
        assert answer.shape == expected.shape and np.abs(answer - expected).max() < BATCH_TOLERANCE


def test_shapes_that_the_model_cannot_take(server, sessions):
    with Wire(server.port) as wire:
        body, headers = binary_body({"x": random_image(1, 3, 47, 64)})
        reply = wire.infer("rec", body, headers)
        assert reply.status == 400 and "shape [1,3,47,64] does not fit the model's [-1,3,48,-1]" in reply.json["error"]
        body, headers = binary_body({"x": random_image(1, 3, 33, 33)})  # not halved five times: the engine's error
        reply = wire.infer("det", body, headers)
        assert reply.status >= 400 and reply.json["error"]
        image = random_image(1, 3, 32, 32)
        assert same(ask(wire, "det", image), sessions["det"].run(None, {"x": image})[0])


def test_a_line_of_text_is_read(server, sessions):
    """A picture of words goes in, the words come out."""
    text = "Hello muster 2026"
    font = ImageFont.load_default(size=32)
    width = int(font.getlength(text)) + 24
    picture = Image.new("RGB", (width, 48), "white")
    ImageDraw.Draw(picture).text((12, 4), text, "black", font)
    image = (np.asarray(picture, np.float32) / 127.5 - 1).transpose(2, 0, 1)[None].copy()
    with Wire(server.port) as wire:
        found = ask(wire, "rec", image)
    assert same(found, sessions["rec"].run(None, {"x": image})[0])
    letters = ["", *sessions["rec"].get_modelmeta().custom_metadata_map["character"].splitlines(), " "]
    best = found[0].argmax(1)
    read = "".join(letters[k] for i, k in enumerate(best) if k != 0 and (i == 0 or best[i - 1] != k))
    assert read == text
