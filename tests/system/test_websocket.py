"""WebSocket streams: messages in and out, order, bounds, deadlines, what is broken, and the end."""
import contextlib
import json
import signal
import struct
import subprocess

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from muster_server import MODELS, run_muster, put_model, sim_config, wait_for
from oip import same
from traffic import metric, rows, sim_model, standing_still, stats, wait_depth, worker_pids
from websocket_client import (BINARY, CLOSE, PING, PONG, TEXT, Answer, RawStream, binary_message, frame, receive, stream,
                              text_message)

ECHO, LIMIT = "/v2/models/echo/stream", 64 * 1024


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    """echo answers at once; words takes texts."""
    repository = sim_model(module_path / "models")
    sim_model(repository, name="bulk", dims="-1")
    put_model(repository, "words", config=sim_config(dtype="TYPE_STRING", dims="1", max_batch_size=8))
    return serve_module(repository, f"--body-limit={LIMIT}", "--gateway-threads=2", "--websocket-origins=https://app.example")


@pytest.fixture
def alone(serve, tmp_path):
    """alone(*flags, **settings of the model): a server whose only worker may be stopped."""
    def start(*flags, **settings):
        return serve(sim_model(tmp_path / "models", **settings), "--gateway-threads=1", *flags)
    return start


# ---- messages --------------------------------------------------------------------------------------------------------


def test_text_is_answered_with_text(server):
    with stream(server, ECHO) as ws:
        ws.send(text_message("a", {"x": rows(1)}))
        answer = receive(ws)
        assert answer.id == "a" and not answer.binary and same(answer.outputs["y"], rows(1))


def test_binary_is_answered_with_binary(server):
    with stream(server, ECHO) as ws:
        ws.send(binary_message("a", {"x": rows(1, 2)}))
        answer = receive(ws)
        assert answer.id == "a" and answer.binary and same(answer.outputs["y"], rows(1, 2))


def test_the_parameters_say_otherwise(server):
    with stream(server, ECHO) as ws:
        ws.send(text_message("a", {"x": rows(1)}, parameters={"binary_data_output": True}))
        answer = receive(ws)
        assert answer.binary and same(answer.outputs["y"], rows(1))
        ws.send(binary_message("b", {"x": rows(2)}, parameters={"binary_data_output": False}))
        answer = receive(ws)
        assert answer.binary and same(answer.outputs["y"], rows(2)), "the layout is that of the message"


def test_a_message_without_json(server):
    with stream(server, ECHO) as ws:
        ws.send(struct.pack("<I", 0) + rows(7).tobytes())
        answer = receive(ws)
        assert answer.id is None and same(answer.outputs["y"], rows(7))


def test_texts_as_tensors(server):
    with stream(server, "/v2/models/words/stream") as ws:
        ws.send(json.dumps({"id": "ü", "inputs": [{"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": ["süß \U0001f389"]}]}))
        reply = json.loads(ws.recv())
        assert reply["id"] == "ü" and reply["outputs"][0]["data"] == ["süß \U0001f389"]


def test_fragments_with_a_ping_between(server):
    message = binary_message("a", {"x": rows(3)})
    with RawStream(server, ECHO) as ws:
        parts = [message[i:i + 7] for i in range(0, len(message), 7)]
        ws.send(frame(BINARY, parts[0]), frame(0x80 | PING, b"still there?"), *(frame(0, part) for part in parts[1:]), frame(0x80))
        assert ws.receive() == (PONG, b"still there?")
        opcode, payload = ws.receive()
        assert opcode == BINARY and same(Answer(payload).outputs["y"], rows(3))


def test_byte_by_byte(server):
    with RawStream(server, ECHO) as ws:
        for byte in frame(0x80 | TEXT, text_message("a", {"x": rows(3)}).encode()):
            ws.send(bytes([byte]))
        opcode, payload = ws.receive()
        assert opcode == TEXT and Answer(payload.decode()).id == "a"


def test_large_messages_both_ways(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", name="bulk", dims="-1"))
    with stream(server, "/v2/models/bulk/stream") as ws:
        array = np.arange(1 << 20, dtype=np.float32).reshape(1, -1)
        for id in "abc":
            ws.send(binary_message(id, {"x": array}))
        for _ in range(3):
            assert same(receive(ws).outputs["y"], array)


def test_the_version_of_the_address(server):
    with stream(server, "/v2/models/echo/versions/1/stream") as ws:
        ws.send(text_message("a", {"x": rows(1)}))
        assert receive(ws).outputs


def test_the_model_of_the_message(server):
    with stream(server, "/v2/stream") as ws:
        ws.send(text_message("a", {"x": rows(1)}, model_name="echo"))
        ws.send(binary_message("b", {"x": np.ones((1, 5), np.float32)}, model_name="bulk", model_version="1"))
        answers = {answer.id: answer for answer in (receive(ws), receive(ws))}
        assert same(answers["a"].outputs["y"], rows(1)) and same(answers["b"].outputs["y"], np.ones((1, 5), np.float32))


BAD = {
    "no JSON": ("hello", 400, "byte 0"),
    "no inputs": ('{"id": "b"}', 400, "inputs"),
    "an unknown input": (text_message("b", {"z": rows(1)}), 400, "no input 'z'"),
    "a wrong shape": (text_message("b", {"x": rows(1)[:, :3]}), 400, "[1,3]"),
    "a wrong type": (text_message("b", {"x": rows(1).astype(np.float64)}), 400, "FP64"),
    "too many bytes": (binary_message("b", {"x": rows(1)}) + b"x", 400, "65 bytes follow"),
    "too few bytes": (binary_message("b", {"x": rows(1)})[:-1], 400, "63 bytes follow"),
    "no length": (b"abc", 400, "4 bytes"),
    "an empty message": (b"", 400, "4 bytes"),
    "a length that is too large": (struct.pack("<I", 999) + b"{}", 400, "999"),
}


@pytest.mark.parametrize("bad", BAD)
def test_one_bad_message_costs_its_error(server, bad):
    message, status, part = BAD[bad]
    with stream(server, ECHO) as ws:
        ws.send(message)
        answer = receive(ws)
        assert answer.status == status and part in answer.error
        assert answer.id == ("b" if b'"b"' in (message if isinstance(message, bytes) else message.encode()) else None)
        ws.send(text_message("good", {"x": rows(1)}))
        assert receive(ws).id == "good"


NAMELESS = {
    "no model": ({}, 400, "model_name"),
    "an unknown model": ({"model_name": "nobody"}, 404, "Request for unknown model: 'nobody' is not found"),
    "an unknown version": ({"model_name": "echo", "model_version": 9}, 404, "version 9 is not found"),
    "no name": ({"model_name": 7}, 400, "must be a string"),
    "no version": ({"model_name": "echo", "model_version": "x"}, 400, "positive number"),
    "a path": ({"model_name": "../echo"}, 400, "cannot be the name"),
}


@pytest.mark.parametrize("bad", NAMELESS)
def test_messages_for_no_model(server, bad):
    members, status, part = NAMELESS[bad]
    with stream(server, "/v2/stream") as ws:
        ws.send(text_message("b", {"x": rows(1)}, **members))
        answer = receive(ws)
        assert (answer.id, answer.status) == ("b", status) and part in answer.error
        ws.send(text_message("good", {"x": rows(1)}, model_name="echo"))
        assert receive(ws).outputs


def test_a_run_that_fails_costs_its_error(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", fail_on="13"))
    with stream(server, ECHO) as ws:
        for value in (1, 13, 2):
            ws.send(text_message(str(value), {"x": rows(value)}))
        answers = {answer.id: answer for answer in (receive(ws) for _ in range(3))}
        assert answers["1"].outputs and answers["2"].outputs and "told to fail" in answers["13"].error


# ---- the handshake ---------------------------------------------------------------------------------------------------

REFUSED = {
    "an unknown model": ("/v2/models/nobody/stream", {}, 404),
    "an unknown key": (ECHO + "?speed=9", {}, 400),
    "a key twice": (ECHO + "?order=request&order=request", {}, 400),
    "a wrong order": (ECHO + "?order=random", {}, 400),
    "more than the limit": (ECHO + "?max_in_flight=65", {}, 400),
    "none in flight": (ECHO + "?max_in_flight=0", {}, 400),
    "no number": (ECHO + "?deadline_ms=soon", {}, 400),
    "late without a deadline": (ECHO + "?drop=late", {}, 400),
    "another version": (ECHO, {"Sec-WebSocket-Version": "8"}, 426),
    "another protocol": (ECHO, {"Upgrade": "h2c"}, 400),
    "no upgrade": (ECHO, {"Connection": "keep-alive"}, 400),
    "a broken key": (ECHO, {"Sec-WebSocket-Key": "short"}, 400),
    "a foreign page": (ECHO, {"Origin": "https://evil.example"}, 403),
    "a local file": (ECHO, {"Origin": "null"}, 403),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_handshakes(server, case):
    path, headers, status = REFUSED[case]
    with RawStream(server, path, headers) as ws:
        assert ws.status == status
        body = ws.file.read(int(ws.headers["content-length"]))
        assert len(json.loads(body)["error"]) > 15
        if status == 426:
            assert ws.headers["sec-websocket-version"] == "13" and ws.headers["upgrade"] == "websocket"


def test_pages_that_may(server):
    for origin in (f"http://{server.url}", "https://app.example"):
        with RawStream(server, ECHO, {"Origin": origin}) as ws:
            assert ws.status == 101


def test_no_extension_and_no_subprotocol_is_agreed_on(server):
    with RawStream(server, ECHO, {"Sec-WebSocket-Extensions": "permessage-deflate", "Sec-WebSocket-Protocol": "chat"}) as ws:
        assert ws.status == 101
        assert "sec-websocket-extensions" not in ws.headers and "sec-websocket-protocol" not in ws.headers


def test_plain_requests_learn_what_the_address_is_for(server):
    reply = server.get(ECHO)
    assert reply.status == 426 and "WebSocket" in reply.json["error"]
    assert server.post(ECHO, "{}").status == 405


# ---- what is broken --------------------------------------------------------------------------------------------------

BROKEN = {
    "no mask": ([frame(0x81, b"hi", mask=None)], 1002),
    "a reserved bit": ([frame(0xc1, b"hi")], 1002),
    "an unknown opcode": ([frame(0x83, b"hi")], 1002),
    "a continuation of nothing": ([frame(0x80, b"hi")], 1002),
    "a message inside a message": ([frame(0x01, b"{"), frame(0x81, b"{")], 1002),
    "a fragmented ping": ([frame(0x09, b"hi")], 1002),
    "a long ping": ([frame(0x89, b"x" * 126)], 1002),
    "a length in long form": ([frame(0x82, b"ab", length=b"\x7e\x00\x02")], 1002),
    "a code that is none": ([frame(0x88, struct.pack(">H", 1005))], 1002),
    "half a code": ([frame(0x88, b"\x03")], 1002),
    "text that is not UTF-8": ([frame(0x81, b'{"id":"\xff"}')], 1007),
    "half a character": ([frame(0x01, b'{"id":"\xe2\x82'), frame(0x80, b'"}')], 1007),
    "a reason that is not UTF-8": ([frame(0x88, struct.pack(">H", 1000) + b"\xff")], 1007),
    "a message beyond the limit": ([frame(0x82, length=b"\x7f" + struct.pack(">Q", LIMIT + 1))], 1009),
    "fragments beyond the limit": ([frame(0x02, b"x" * LIMIT), frame(0x80, b"x")], 1009),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_frames(server, case):
    frames, code = BROKEN[case]
    with RawStream(server, ECHO) as ws:
        ws.send(frame(0x81, text_message("a", {"x": rows(1)}).encode()))
        assert ws.receive()[0] == TEXT, "what came before is answered"
        ws.send(*frames)
        closed = ws.receive()
        while closed[0] == TEXT:  # the fragments of a message that is no request are answered before it is too large
            closed = ws.receive()
        assert closed[0] == CLOSE and struct.unpack(">H", closed[1][:2])[0] == code and len(closed[1]) > 20
        assert ws.receive() is None


def test_a_fragment_without_an_end_is_no_answer(server):
    with RawStream(server, ECHO) as ws:
        ws.send(frame(TEXT, text_message("a", {"x": rows(1)}).encode()), frame(0x80 | PING, b"1"))
        assert ws.receive() == (PONG, b"1"), "nothing has been answered"
        ws.send(frame(0x80))
        assert ws.receive()[0] == TEXT


# ---- the end of a connection -----------------------------------------------------------------------------------------


def test_the_client_closes(server):
    for payload, code in ((struct.pack(">H", 1000) + b"bye", 1000), (struct.pack(">H", 3999), 3999), (b"", 1000)):
        with RawStream(server, ECHO) as ws:
            ws.send(frame(0x80 | CLOSE, payload))
            assert ws.receive_close() == (code, "")


def test_silent_clients_are_asked_and_cut(alone):
    server = alone("--websocket-ping=100ms")
    with RawStream(server, ECHO) as ws:
        assert [ws.receive() for _ in range(2)] == [(PING, b"")] * 2
        assert ws.receive_close()[0] == 1011

    def goes_on():
        """A client that answers; false: the test was too slow for that, and is cut rightly."""
        with RawStream(server, ECHO) as ws, contextlib.suppress(ConnectionError):
            for _ in range(4):
                if ws.receive() != (PING, b""):
                    return False
                ws.send(frame(0x80 | PONG))
            ws.send(frame(0x81, text_message("a", {"x": rows(1)}).encode()))
            while (got := ws.receive()) is not None and got[0] == PING:
                ws.send(frame(0x80 | PONG))
            return got is not None and got[0] == TEXT
    wait_for(goes_on, "a client that answers to stay")


def test_a_client_that_leaves_cancels(alone):
    server = alone(max_batch_size=1)
    with standing_still(*worker_pids(server)):
        with RawStream(server, ECHO) as ws:
            for i in range(5):
                ws.send(frame(0x81, text_message(str(i), {"x": rows(i)}).encode()))
            wait_depth(server, 5)
        wait_for(lambda: stats(server)["inference_stats"]["fail"]["count"] == 5, "all to be cancelled")
        assert metric(server, "nv_inference_request_failure", model="echo", reason="CANCELED") == 5
    wait_depth(server, 0)
    with stream(server, ECHO) as ws:
        ws.send(text_message("a", {"x": rows(1)}))
        assert receive(ws).outputs


def test_a_close_cancels_what_is_in_flight(alone):
    server = alone(max_batch_size=1)
    with standing_still(*worker_pids(server)):
        with RawStream(server, ECHO) as ws:
            for i in range(3):
                ws.send(frame(0x81, text_message(str(i), {"x": rows(i)}).encode()))
            wait_depth(server, 3)
            ws.send(frame(0x80 | CLOSE, struct.pack(">H", 1001)))
            assert ws.receive_close() == (1001, "")
        assert metric(server, "nv_inference_request_failure", model="echo", reason="CANCELED") == 3


def test_a_stop_answers_what_is_in_flight(alone):
    server = alone()
    with standing_still(*worker_pids(server)), RawStream(server, ECHO) as ws, RawStream(server, ECHO) as idle:
        ws.send(frame(0x81, text_message("a", {"x": rows(1)}).encode()))
        wait_depth(server, 1)
        server.signal(signal.SIGTERM)
        assert idle.receive_close()[0] == 1001
        for pid in worker_pids_now(server):
            subprocess.run(["kill", "-CONT", str(pid)], check=True)
        assert ws.receive()[0] == TEXT
        assert ws.receive_close()[0] == 1001
    assert server.wait_exit() == 0


def worker_pids_now(server) -> list[int]:
    return [worker["pid"] for worker in server.status()["workers"]]


def test_an_upgrade_closes_streams_behind_their_answers(alone):
    server = alone(base_ms=300)
    with stream(server, ECHO) as ws:
        ws.send(text_message("a", {"x": rows(1)}))
        wait_depth(server, 1)
        done = run_muster("upgrade", "--control-socket", server.socket, cwd=server.socket.parent)
        assert done.returncode == 0, done.stderr
        assert receive(ws).id == "a"
        with pytest.raises(ConnectionClosed) as closed:
            receive(ws)
        assert closed.value.rcvd.code == 1001
    with stream(server, ECHO) as ws:
        ws.send(text_message("b", {"x": rows(1)}))
        assert receive(ws).id == "b"


# ---- many in flight --------------------------------------------------------------------------------------------------


def test_answers_as_they_are_there(alone):
    server = alone(base_ms=1, jitter_ms=20, max_batch_size=1, instance_group="{ count: 8 }")
    with stream(server, ECHO) as ws:
        for i in range(100):
            ws.send(binary_message(str(i), {"x": rows(i)}))
        answers = [receive(ws) for _ in range(100)]
        assert sorted(int(answer.id) for answer in answers) == list(range(100))
        assert all(same(answer.outputs["y"], rows(int(answer.id))) for answer in answers)
        assert [int(answer.id) for answer in answers] != list(range(100))


def test_answers_in_the_order_of_the_messages(alone):
    server = alone(base_ms=1, jitter_ms=20, max_batch_size=1, instance_group="{ count: 8 }", fail_on="50")
    with stream(server, ECHO + "?order=request") as ws:
        for i in range(100):
            ws.send(binary_message(str(i), {"x": rows(i)} if i % 10 != 5 else {"z": rows(i)}))
        answers = [receive(ws) for _ in range(100)]
        assert [int(answer.id) for answer in answers] == list(range(100))
        for i, answer in enumerate(answers):
            if i % 10 == 5:
                assert answer.status == 400
            elif i == 50:
                assert "told to fail" in answer.error
            else:
                assert same(answer.outputs["y"], rows(i))


def test_reading_pauses_at_the_bound(alone):
    server = alone(max_batch_size=1)
    with standing_still(*worker_pids(server)):
        with stream(server, ECHO + "?max_in_flight=3") as ws, stream(server, ECHO) as other:
            for i in range(10):
                ws.send(text_message(str(i), {"x": rows(i)}))
            wait_depth(server, 3)
            other.send(text_message("other", {"x": rows(1)}))
            wait_depth(server, 4)  # what was read later is in flight; of the first stream nothing more is
            for pid in worker_pids_now(server):
                subprocess.run(["kill", "-CONT", str(pid)], check=True)
            assert [receive(ws).id for _ in range(10)] == [str(i) for i in range(10)]
            assert receive(other).id == "other"


def test_a_slow_reader_holds_nobody_up_and_little_memory(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", name="bulk", dims="-1"), "--gateway-threads=1", "--max-queue-size=10000")
    big = binary_message("a", {"x": np.zeros((1, 1 << 18), np.float32)})  # 1 MiB
    with RawStream(server, "/v2/models/bulk/stream?max_in_flight=4") as slow:
        slow.socket.settimeout(2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256 << 20:  # far more than the sockets hold
                slow.send(frame(0x82, big) if sent == 0 else head_and_payload(big))
                sent += len(big)
        assert sent < 64 << 20
        with stream(server, "/v2/models/bulk/stream") as ws:
            ws.send(binary_message("b", {"x": np.ones((1, 3), np.float32)}))
            assert receive(ws).id == "b"


def head_and_payload(payload: bytes) -> bytes:
    return frame(0x82, length=b"\x7f" + struct.pack(">Q", len(payload)), mask=bytes(4)) + payload


# ---- deadlines and drops ---------------------------------------------------------------------------------------------


def test_a_deadline_is_an_error(alone):
    server = alone(max_batch_size=1)
    with standing_still(*worker_pids(server)), stream(server, ECHO + "?deadline_ms=50") as ws:
        for id in "ab":
            ws.send(text_message(id, {"x": rows(1)}))
        answers = {answer.id: answer for answer in (receive(ws), receive(ws))}
        assert answers["a"].status == 503 and answers["b"].status == 503


def test_late_messages_are_dropped_without_a_run(alone):
    server = alone(max_batch_size=1)
    executed = stats(server)["execution_count"]
    with standing_still(*worker_pids(server)), stream(server, ECHO + "?deadline_ms=50&drop=late") as ws:
        for id in "abc":
            ws.send(text_message(id, {"x": rows(1)}))
        answers = [receive(ws) for _ in range(3)]
        assert {answer.id for answer in answers} == set("abc") and all(answer.dropped == "late" for answer in answers)
    wait_depth(server, 0)
    with stream(server, ECHO + "?deadline_ms=60000&drop=late") as ws:
        ws.send(text_message("d", {"x": rows(1)}))
        assert receive(ws).outputs
    assert stats(server)["execution_count"] - executed <= 2, "that of the first, which was with the worker, and the last one"


def test_what_cannot_be_in_time_is_dropped_at_once(serve, tmp_path):
    def dropped(run_ms):
        """false: the first ones were late, too: the machine is slow."""
        server = serve(sim_model(tmp_path / f"models{run_ms}", base_ms=run_ms, max_batch_size=1), "--gateway-threads=1")
        with stream(server, ECHO + f"?deadline_ms={run_ms * 3 // 2}&drop=late") as ws:
            ws.send(text_message("first", {"x": rows(1)}))  # after it is known how long a run takes
            if not receive(ws).outputs:
                return False
            for id in "abc":
                ws.send(text_message(id, {"x": rows(1)}))
            answers = {answer.id: answer for answer in (receive(ws) for _ in range(3))}
            if not answers["a"].outputs:
                return False
            assert answers["b"].dropped == "late" and answers["c"].dropped == "late"
        assert stats(server)["execution_count"] == 2
        return True
    assert any(dropped(run_ms) for run_ms in (400, 2000, 10_000))


def test_the_newest_message_replaces_those_that_wait(alone):
    server = alone(max_batch_size=1)
    with stream(server, ECHO + "?keep=newest") as ws:
        with standing_still(*worker_pids(server)):
            ws.send(text_message("running", {"x": rows(1)}))
            wait_depth(server, 1)
            for i in range(5):
                ws.send(text_message(str(i), {"x": rows(i)}))
            dropped = [receive(ws) for _ in range(4)]
            assert [(answer.id, answer.dropped) for answer in dropped] == [(str(i), "older") for i in range(4)]
        assert [receive(ws).id for _ in range(2)] == ["running", "4"]


def test_the_newest_message_in_order(alone):
    server = alone(max_batch_size=1)
    with stream(server, ECHO + "?keep=newest&order=request") as ws:
        with standing_still(*worker_pids(server)):
            ws.send(text_message("running", {"x": rows(1)}))
            wait_depth(server, 1)
            for i in range(5):
                ws.send(text_message(str(i), {"x": rows(i)}))
            ws.send(text_message("bad", {"z": rows(1)}))
            with RawStream(server, ECHO) as other:  # all of them are read when a later one is
                other.send(frame(0x81, b"x"))
                other.receive()
        answers = [receive(ws) for _ in range(7)]
        assert [answer.id for answer in answers] == ["running", "0", "1", "2", "3", "4", "bad"]
        assert [bool(answer.outputs) for answer in answers] == [True, False, False, False, False, True, False]


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_messages_wait_for_input_memory(serve, tmp_path):
    """An input arena of 1 MiB takes three of these at once."""
    repository = sim_model(tmp_path / "models", name="bulk", dims="65536", base_ms=5, max_batch_size=1)
    server = serve(repository, "--input-arena=1MiB", "--gateway-threads=1")
    with stream(server, "/v2/models/bulk/stream") as ws:
        arrays = [np.full((1, 65536), i, np.float32) for i in range(30)]
        for i, array in enumerate(arrays):
            ws.send(binary_message(str(i), {"x": array}))
        answers = [receive(ws) for _ in arrays]
        assert not [answer for answer in answers if answer.error]
        assert all(same(answer.outputs["y"], arrays[int(answer.id)]) for answer in answers)


def test_a_gateway_takes_many_streams(server):
    streams = [RawStream(server, ECHO) for _ in range(200)]
    try:
        for i, ws in enumerate(streams):
            ws.send(frame(0x81, text_message(str(i), {"x": rows(i)}).encode()))
        for i, ws in enumerate(streams):
            assert Answer(ws.receive()[1].decode()).id == str(i)
    finally:
        for ws in streams:
            ws.close()


def test_a_plain_client_of_the_library_is_refused_as_it_expects(server):
    with pytest.raises(InvalidStatus):
        with stream(server, "/v2/models/nobody/stream"):
            pass


# ---- muster bench --streams ------------------------------------------------------------------------------------------


def test_bench_counts_every_frame(server):
    done = run_muster("bench", "echo", "--url", f"http://{server.url}", "--streams", "4", "--fps", "50", "--seconds", "1", "--warm-up", "0",
                      "--deadline", "30s", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["due"] == 200 == result["in_time"] + result["unsent"] and result["in_time"] > 0


def test_bench_says_what_does_not_go_together(server):
    done = run_muster("bench", "echo", "--url", f"http://{server.url}", "--fps", "50")
    assert done.returncode == 2 and "--streams" in done.stderr
    done = run_muster("bench", "nobody", "--url", f"http://{server.url}", "--streams", "4")
    assert done.returncode == 1 and "nobody" in done.stderr
