"""Bounded memory: nobody hangs when it is short, nobody who is slow holds up others, large results arrive whole."""
import json
import socket

import numpy as np
import pytest

from muster_server import MODELS, put_model, sim_config, wait_for
from oip import binary_body, chunks, outputs_of, same
from traffic import (Client, crowd, echo, infer, metric, sim_model, standing_still, stats, wait_depth,
                     worker_pids)

KIB, MIB = 1 << 10, 1 << 20


def numbers(seed: int, *shape) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def used(server) -> int:
    return int(metric(server, "muster_memory_used_bytes"))


def wait_all_given_back(server):
    """What requests took has gone back, and so have the slots that an idle model keeps."""
    wait_for(lambda: used(server) == 0, f"memory to be given back; {used(server)} bytes are in use")


def ask_all(server, model, requests, **more):
    with crowd() as threads:
        answers = [threads.submit(infer, server, model, inputs, **more) for inputs in requests]
        return [answer.result() for answer in answers]


# ---- little memory, many large requests ------------------------------------------------------------------------------

SHORTAGES = {
    "input arena": ["--input-arena=1MiB"],
    "output arena": ["--output-arena=1MiB"],
    "both arenas": ["--input-arena=1MiB", "--output-arena=1MiB"],
    "budget": ["--memory-budget=1MiB"],
    "all": ["--input-arena=1MiB", "--output-arena=1MiB", "--memory-budget=3MiB"],
}


@pytest.mark.parametrize("flags", SHORTAGES.values(), ids=SHORTAGES)
def test_many_large_requests_in_little_memory(serve, tmp_path, flags):
    server = serve(sim_model(tmp_path / "models", dims="-1", base_ms=1), *flags)
    requests = [{"x": numbers(i, 1 + i % 3, 20_000 + 1000 * (i % 7))} for i in range(60)]  # 80 to 300 KiB
    for inputs, answer in zip(requests, ask_all(server, "echo", requests)):
        assert answer.status in (200, 503), answer
        assert answer.status == 503 or same(answer.outputs["y"], inputs["x"])
    counts = stats(server)["inference_stats"]
    assert counts["success"]["count"] + counts["fail"]["count"] == len(requests)
    assert echo(server, 1).status == 200
    wait_all_given_back(server)


@pytest.mark.parametrize("flags", [["--input-arena=1MiB"], ["--memory-budget=2MiB"]], ids=["arena", "budget"])
def test_requests_wait_in_line_for_input_memory(serve, tmp_path, flags):
    """All of them are answered: memory comes back as fast as the worker runs, and none waits longer than it may."""
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), *flags)
    requests = [{"x": numbers(i, 1, 100_000)} for i in range(24)]  # 400 KiB each
    answers = ask_all(server, "echo", requests)
    assert [answer.status for answer in answers] == [200] * len(requests)
    assert all(same(answer.outputs["y"], inputs["x"]) for inputs, answer in zip(requests, answers))
    wait_all_given_back(server)


def test_waiting_for_memory_ends_with_the_requests_time(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), "--input-arena=1MiB",
                   "--default-request-timeout=500ms", "--max-execution=3600s")
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [threads.submit(infer, server, "echo", {"x": numbers(i, 1, 150_000)}) for i in range(4)]
            assert [answer.result().status for answer in answers] == [503] * 4
    wait_for(lambda: echo(server, 1).status == 200, "the worker to be free again")
    wait_all_given_back(server)


def test_clients_that_leave_while_they_wait_for_memory(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=1), "--input-arena=1MiB")
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            first = threads.submit(infer, server, "echo", {"x": numbers(0, 1, 200_000)})
            wait_depth(server, 1)
            leavers = [Client(server) for _ in range(5)]
            for leaver in leavers:
                body, headers = binary_body({"x": numbers(1, 1, 200_000)})
                head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
                leaver.send(f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{head}"
                            "\r\n".encode() + body[:1000])
            stayer = threads.submit(infer, server, "echo", {"x": numbers(2, 1, 200_000)})
            wait_for(lambda: metric(server, "muster_connections_open") >= 8, "all to be connected")
            for leaver in leavers:
                leaver.close()
            wait_for(lambda: metric(server, "muster_connections_open") <= 3, "the connections to end")
        assert first.result().status == 200 and stayer.result().status == 200
    assert stats(server)["inference_count"] == 2
    wait_all_given_back(server)


def test_an_input_that_can_never_fit(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--input-arena=1MiB")
    refused = infer(server, "echo", {"x": numbers(1, 1, 300_000)})
    assert refused.status == 413 and "--input-arena" in refused.error
    assert echo(server, 1).status == 200
    wait_all_given_back(server)


def test_an_output_that_can_never_fit(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--output-arena=1MiB")
    refused = infer(server, "echo", {"x": numbers(1, 1, 300_000)})
    assert refused.status == 413 and "--output-arena" in refused.error
    assert echo(server, 1).status == 200
    pids = worker_pids(server)
    assert infer(server, "echo", {"x": numbers(1, 1, 200_000)}).status == 200
    assert worker_pids(server) == pids
    wait_all_given_back(server)


def test_a_batch_whose_outputs_do_not_fit_together(serve, tmp_path):
    """Each alone fits the output arena, all of them do not: then they run one by one."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--output-arena=1MiB")
    requests = [{"x": numbers(i, 1, 100_000)} for i in range(7)]
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [threads.submit(infer, server, "echo", inputs) for inputs in requests]
            wait_depth(server, len(requests))
        for inputs, answer in zip(requests, answers):
            assert answer.result().status == 200 and same(answer.result().outputs["y"], inputs["x"])
    wait_all_given_back(server)


def test_a_body_above_the_limit(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--body-limit=1MiB")
    with Client(server) as client:
        client.send(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n")
        assert client.reply().status == 413
    with Client(server) as client:
        client.send(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(chunks(b" " * (MIB + 1), 64 * KIB))
        assert client.reply().status == 413
    assert echo(server, 1).status == 200
    wait_all_given_back(server)


# ---- slow clients ----------------------------------------------------------------------------------------------------

def stalled_reader(server, model, inputs) -> Client:
    """A client that has asked and reads nothing; its socket takes little."""
    client = Client.__new__(Client)
    client.socket = socket.socket()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.socket.settimeout(60)
    client.socket.connect(("127.0.0.1", server.port))
    client.file = client.socket.makefile("rb")
    client.send_infer(model, inputs)
    return client


def test_slow_readers_do_not_hold_up_others(serve, tmp_path):
    """Their replies would fill the output arena for good."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--output-arena=8MiB")
    x = numbers(1, 1, 1_500_000)  # 6 MiB
    readers = []
    for i in range(4):
        readers.append(stalled_reader(server, "echo", {"x": x}))
        wait_for(lambda: stats(server)["inference_count"] == i + 1, "the reply to be on its way")
    for i in range(5):
        y = numbers(i, 1, 1_500_000)
        assert same(infer(server, "echo", {"x": y}).outputs["y"], y)
    for reader in readers:  # and theirs are whole, whenever they come for them
        reply = reader.reply()
        assert reply.status == 200 and same(outputs_of(reply)["y"], x)
        reader.close()
    wait_all_given_back(server)


def test_large_replies(serve, tmp_path):
    """Nobody reads 96 MB in the 20 ms after which a reply counts as slow; and who reads nothing at all is cut off."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--body-limit=256MiB", "--idle-timeout=5s")
    x = numbers(1, 1, 24_000_000)
    assert same(infer(server, "echo", {"x": x}).outputs["y"], x)
    reader = stalled_reader(server, "echo", {"x": x})
    wait_for(lambda: stats(server)["inference_count"] == 2, "the reply to be on its way")
    wait_for(lambda: metric(server, "muster_connections_open") == 1, "the reader to be cut off")  # one is our own
    reader.close()
    assert echo(server, 1).status == 200
    wait_all_given_back(server)


def test_slow_senders_do_not_hold_up_others(serve, tmp_path):
    """Bodies that stop half way hold their memory, but others find theirs."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--input-arena=8MiB")
    senders = []
    for i in range(4):
        body, headers = binary_body({"x": numbers(i, 1, 400_000)}, parameters={"binary_data_output": True})
        sender = Client(server)
        head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        sender.send(f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n{head}\r\n"
                    .encode() + body[:100_000])
        senders.append((sender, body[100_000:]))
    for i in range(5):
        x = numbers(i, 1, 100_000)
        assert same(infer(server, "echo", {"x": x}).outputs["y"], x)
    for i, (sender, rest) in enumerate(senders):
        sender.send(rest)
        reply = sender.reply()
        assert reply.status == 200 and same(outputs_of(reply)["y"], numbers(i, 1, 400_000))
        sender.close()
    wait_all_given_back(server)


# ---- outputs that nobody knows beforehand ----------------------------------------------------------------------------

def test_outputs_of_unknown_shape(serve):
    """Larger than the first guess of 64 KiB, smaller again, and of another shape each time."""
    server = serve(MODELS / "nonzero.onnx")
    random = np.random.default_rng(3)
    for n_rows in (1, 10_000, 3, 20_000, 20_000, 20_000, 20_000, 50_000, 1, 20_000):
        x = (random.random((n_rows, 4)) < random.random()).astype(np.float32)
        answer = infer(server, "nonzero", {"x": x})
        assert same(answer.outputs["where"], np.array(np.nonzero(x), np.int64))
    assert worker_pids(server)


def test_outputs_that_do_not_fit_with_the_next_batch_right_behind(serve, tmp_path):
    """The worker holds what did not fit until its next run, and that one is in its queue already."""
    server = serve(sim_model(tmp_path / "models", dims="-1", max_batch_size=2, base_ms=1))
    with crowd() as threads:
        for width in (30_000, 50_000, 70_000):  # outputs of unknown shape, above the first guess
            requests = [{"x": numbers(width + i, 2, width)} for i in range(4)]  # each a full batch
            with standing_still(*worker_pids(server)):
                answers = [threads.submit(infer, server, "echo", inputs) for inputs in requests]
                wait_depth(server, len(requests))
            for inputs, answer in zip(requests, answers):
                assert answer.result().status == 200 and same(answer.result().outputs["y"], inputs["x"])


def test_empty_output(serve):
    server = serve(MODELS / "nonzero.onnx")
    for _ in range(4):
        answer = infer(server, "nonzero", {"x": np.zeros((5, 4), np.float32)})
        assert answer.outputs["where"].shape == (2, 0)


def test_output_whose_declared_shape_is_wrong(serve):
    server = serve(MODELS / "wrong_shape.onnx", "--max-batch-size=0")
    for length in (10, 40_000, 40_000, 40_000, 11, 90_000):
        x = numbers(length, 2, length)
        assert same(infer(server, "wrong_shape", {"x": x}).outputs["y"], np.ascontiguousarray(x[:, ::2]))


@pytest.mark.parametrize("size", [10, 70 * KIB, 3 * MIB])
def test_texts_of_any_length(serve, size):
    server = serve(MODELS / "string_identity.onnx")
    for i in range(4):
        text = np.empty((2, 2), np.object_)
        for at in np.ndindex(text.shape):
            text[at] = bytes([65 + i]) * (size + sum(at))
        assert same(infer(server, "string_identity", {"text": text}).outputs["same"], text)


def test_batches_of_large_unknown_outputs(serve):
    """Together far more than the first guess, in one batch after the other."""
    server = serve(MODELS / "string_identity.onnx")

    def request(i):
        text = np.empty((1, 1), np.object_)
        text[0, 0] = bytes([48 + i % 60]) * (20_000 + 997 * i)
        return {"text": text}

    for _ in range(3):
        requests = [request(i) for i in range(24)]
        with crowd() as threads:
            with standing_still(*worker_pids(server)):
                answers = [threads.submit(infer, server, "string_identity", inputs) for inputs in requests]
                wait_depth(server, len(requests))
            for inputs, answer in zip(requests, answers):
                assert same(answer.result().outputs["same"], inputs["text"])
    assert stats(server, "string_identity")["execution_count"] < 3 * 24
    wait_all_given_back(server)


def test_unknown_outputs_that_do_not_fit(serve):
    """The run is over and says what it needs, which is more than there can be."""
    server = serve(MODELS / "string_identity.onnx", "--output-arena=1MiB")
    large, small = (np.empty((1, 1), np.object_) for _ in range(2))
    large[0, 0], small[0, 0] = b"a" * (2 * MIB), b"b"
    for _ in range(2):
        refused = infer(server, "string_identity", {"text": large})
        assert refused.status == 413 and "--output-arena" in refused.error
        assert same(infer(server, "string_identity", {"text": small}).outputs["same"], small)
    wait_all_given_back(server)


def test_generated_output_of_a_simulated_model(serve, tmp_path):
    config = sim_config(dims="1", max_batch_size=4, output_size=100_000).replace(
        "output { name: 'y' data_type: TYPE_FP32 dims: [1] }", "output { name: 'y' data_type: TYPE_FP64 dims: [-1, 2] }")
    server = serve(put_model(tmp_path / "models", "sized", config=config))
    for n_rows in (1, 4, 2, 3, 1):
        answer = infer(server, "sized", {"x": np.ones((n_rows, 1), np.float32)})
        assert same(answer.outputs["y"], np.zeros((n_rows, 100_000, 2)))


# ---- staged JSON -----------------------------------------------------------------------------------------------------

def json_request(x: np.ndarray) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.tolist()}],
                       "parameters": {"binary_data_output": True}}).encode()


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_json_of_several_megabytes(serve, tmp_path, chunked):
    server = serve(sim_model(tmp_path / "models", dims="-1"))
    x = numbers(1, 3, 100_000)
    body = json_request(x)
    assert len(body) > 5 * MIB
    with Client(server) as client:
        if chunked:
            client.send(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(chunks(body, 50_000))
        else:
            client.request("POST", "/v2/models/echo/infer", body)
        assert same(outputs_of(client.reply())["y"], x)
    wait_all_given_back(server)


def test_json_counts_against_the_budget(serve, tmp_path):
    """Many large texts at once: each is answered, or refused because there is no memory now."""
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--memory-budget=8MiB")
    arrays = [numbers(i, 1, 50_000) for i in range(16)]  # about 1 MiB of JSON each

    def ask(x):
        with Client(server) as client:
            client.request("POST", "/v2/models/echo/infer", json_request(x))
            return client.reply()

    with crowd() as threads:
        for x, reply in zip(arrays, threads.map(ask, arrays)):
            assert reply.status in (200, 503), reply.body
            if reply.status == 200:
                assert same(outputs_of(reply)["y"], x)
            else:
                assert reply.headers["Retry-After"]
    assert ask(arrays[0]).status == 200
    wait_all_given_back(server)


def test_json_larger_than_the_budget(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="-1"), "--memory-budget=1MiB")
    with Client(server) as client:
        client.request("POST", "/v2/models/echo/infer", json_request(numbers(1, 1, 100_000)))
        assert client.reply().status in (413, 503)
    assert echo(server, 1).status == 200
    wait_all_given_back(server)
