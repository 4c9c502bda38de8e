"""The four models of the soak, and requests for them whose answers can be checked to the byte."""
import gzip
import importlib.util
import json
import pathlib
import random
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "system"))

from ledger import Entry  # noqa: E402
from muster_server import put_model, sim_config  # noqa: E402
from oip import binary_body, chunks, tensor  # noqa: E402

MAGIKA = ROOT / ".deps" / "models" / "magika" / "1" / "model.onnx"
TOLERANCE = 1e-3  # alone a row takes other kernels of ONNX Runtime than in a batch; tests/system/test_magika.py says more
CRASH, HANG, FAIL = -1, -2, -3  # the first number of a row that brings its run down


def echo_config(**settings) -> str:
    return sim_config(dtype="TYPE_INT64", dims="-1", **settings)


def write_repository(folder: pathlib.Path, simulated: bool) -> pathlib.Path:
    """simulated: nothing runs in ONNX Runtime (which is not instrumented for the thread sanitizer)."""
    if simulated:
        put_model(folder, "identity", config=sim_config(dims="16", max_batch_size=32))
        put_model(folder, "magika", config=sim_config(dtype="TYPE_INT32", dims="2048", max_batch_size=8, base_ms=5))
    else:
        put_model(folder, "identity", "identity.onnx")
        put_model(folder, "magika", MAGIKA)
    put_echo(folder)
    put_model(folder, "faulty", config=echo_config(max_batch_size=4, base_ms=8, jitter_ms=4, crash_on=CRASH, hang_on=HANG,
                                                   fail_on=FAIL))
    return folder


def put_echo(folder: pathlib.Path, base_ms=2):
    """In one step, as an operator should: a reload may come at any moment."""
    put(folder, "echo", echo_config(max_batch_size=8, base_ms=base_ms, per_item_ms=0.2, jitter_ms=2, load_ms=150))


def put_extra(folder: pathlib.Path, **settings):
    """A fifth model, which comes, changes and goes while the server runs."""
    put(folder, "extra", echo_config(max_batch_size=4, **settings))


def put(folder: pathlib.Path, name: str, config: str):
    (folder / name / "1").mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.new").write_text(config)
    (folder / f"{name}.new").rename(folder / name / "config.pbtxt")


class Request:
    """One request: the bytes to send, and what a reply must be."""

    def __init__(self, entry: Entry, head: bytes, body: bytes, check):
        self.entry, self.head, self.body, self.check = entry, head, body, check

    @property
    def wire(self) -> bytes:
        return self.head + self.body


def identical(name: str, sent: np.ndarray):
    def check(outputs):
        got = outputs.get(name)
        if got is None or got.shape != sent.shape or got.dtype != sent.dtype:
            return f"output {name} is {got!r}"
        return None if got.tobytes() == sent.tobytes() else f"WRONG BYTES: sent {sent.ravel()[:4]}, got {got.ravel()[:4]}"
    return check


class Real:
    """Magika on blocks of this repository's files; the right answers are onnxruntime's own, each row alone."""

    def __init__(self, n: int, seed: int):
        import onnxruntime
        spec = importlib.util.spec_from_file_location("identify", ROOT / "examples" / "magika" / "identify.py")
        identify = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(identify)
        session = onnxruntime.InferenceSession(str(MAGIKA), providers=["CPUExecutionProvider"])
        files = sorted(path for pattern in ("src/**/*.[ch]", "tests/**/*.py", "script/*", "docs/*", "*.md", "tests/models/*",
                                            ".deps/venv/lib/python3*/site-packages/*/*.py")
                       for path in ROOT.glob(pattern) if path.is_file() and path.stat().st_size > 64)
        chosen = random.Random(seed).sample(files, min(n, len(files)))
        self.rows = np.array([identify.features(path) for path in chosen], np.int32)
        self.scores = np.concatenate([session.run(["target_label"], {"bytes": row[None]})[0] for row in self.rows])

    def pick(self, chance: random.Random, rows: int):
        which = chance.sample(range(len(self.rows)), rows)
        want = self.scores[which]

        def check(outputs):
            got = outputs.get("target_label")
            if got is None or got.shape != want.shape:
                return "no target_label of the right shape"
            worst = float(np.abs(got - want).max())
            return None if worst <= TOLERANCE else f"WRONG ANSWER: scores differ by {worst:.4f}"
        return {"bytes": self.rows[which]}, check


class Simulated:
    """The same interface, echoed by the sim engine."""

    def pick(self, chance: random.Random, rows: int):
        sent = np.random.default_rng(chance.getrandbits(63)).integers(0, 257, (rows, 2048), np.int32)
        return {"x": sent}, identical("y", sent)


class Maker:
    """Makes requests. One for each client thread: all that is random comes out of its `chance`."""
    MIX = (("echo", 45), ("identity", 30), ("faulty", 18), ("magika", 7))

    def __init__(self, ledger, chance: random.Random, real, default_timeout: float):
        self.ledger, self.chance, self.real, self.default_timeout = ledger, chance, real, default_timeout
        self.numbers = np.random.default_rng(chance.getrandbits(63))

    def model(self) -> str:
        names, weights = zip(*self.MIX)
        return self.chance.choices(names, weights)[0]

    def numbers_for(self, number: int, rows: int, width: int, first=None) -> np.ndarray:
        """No two requests have a row in common: each begins with the request's number."""
        sent = self.numbers.integers(0, 1 << 52, (rows, width), np.int64)
        sent[:, 0] = number
        if first is not None:
            sent[-1, 0] = first
        return sent

    def tensors(self, model: str, number: int, first, width):
        chance = self.chance
        if model == "magika":
            return self.real.pick(chance, chance.choice((1, 1, 1, 2)))
        if model == "identity":
            sent = self.numbers.standard_normal((chance.choice((1, 1, 2, 5)), 16)).astype(np.float32)
            sent[:, 0], sent[:, 1] = number & 0xfffff, number >> 20
            return {"x": sent}, identical("y", sent)
        single = first is not None or model == "faulty" or (width or 0) > 1000
        rows = 1 if single else chance.choice((1, 1, 1, 2, 4))
        sent = self.numbers_for(number, rows, width or (8 if model != "echo" else chance.choice((4, 8, 64, 1000))), first)
        return {"x": sent}, identical("y", sent)

    def make(self, kind: str, model: str | None = None, first=None, width=None, may=(), timeout_s=None, form=None) -> Request:
        """first: CRASH, HANG or FAIL; timeout_s: the request's own; form: of FORMS, else any."""
        chance, model = self.chance, model or self.model()
        number = next(self.ledger.numbers)
        inputs, check = self.tensors(model, number, first, width)
        entry = Entry(number, model, kind, may, first is not None, timeout_s or self.default_timeout)
        parameters = {} if timeout_s is None else {"timeout": int(timeout_s * 1e6)}
        form = form or chance.choices(("binary", "json", "mixed"), (70, 15, 15))[0]
        if form != "json":
            parameters["binary_data_output"] = form == "binary"
            body, headers = binary_body(inputs, id=entry.id, parameters=parameters)
        else:
            document = {"id": entry.id, "parameters": parameters,
                        "inputs": [tensor(name, array) for name, array in inputs.items()]}
            body, headers = json.dumps(document).encode(), {}
        return Request(entry, *self.encode(f"/v2/models/{model}/infer", body, headers), check)

    def encode(self, path: str, body: bytes, headers: dict) -> tuple[bytes, bytes]:
        """Head and body; now and then compressed, chunked, or asking for a compressed reply."""
        chance = self.chance
        if len(body) < 100_000 and chance.random() < 0.1:
            body, headers = gzip.compress(body, 1), {**headers, "Content-Encoding": "gzip"}
        if chance.random() < 0.05:
            headers = {**headers, "Accept-Encoding": "gzip"}
        chunked = chance.random() < 0.1
        headers = {**headers, **({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": len(body)})}
        head = f"POST {path} HTTP/1.1\r\nHost: soak\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
        body = chunks(body, chance.choice((100, 5000, 70_000))) if chunked else body
        return head.encode(), body
