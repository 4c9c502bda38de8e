"""Queues: their bounds, order, times; and how an explicit dynamic_batching forms batches."""
import pytest

from muster_server import run_muster
from traffic import (batch_sizes, crowd, depth, echo, metric, sim_model, standing_still, stats, wait_depth,
                     wait_waiting, waiting, worker_pids)


def fill(server, threads, firsts, model="echo", **more):
    """One request after the other, each in the server before the next is sent. A first one is with the only worker,
    which stands still."""
    answers = []
    for value in firsts:
        before = depth(server)
        answers.append(threads.submit(echo, server, value, model=model, **more))
        wait_depth(server, before + 1)
    return answers


def occupy(server, threads, model="echo"):
    """The request that the worker is busy with."""
    answer = threads.submit(echo, server, 0, model=model)
    wait_depth(server, 1)
    return answer


def answered(server) -> list[str]:
    """Ids of the requests in the order of their answers; needs --log-verbose=1 and one gateway thread."""
    return [line["id"] for line in server.log_lines() if line.get("message") == "request answered" and line["id"]]


VERBOSE = ("--log-verbose=1", "--gateway-threads=1")


# ---- bounds ----------------------------------------------------------------------------------------------------------

BOUNDS = {
    "flag": ({}, "", ["--max-queue-size=4"]),
    "muster.yaml": ({}, "models: { echo: { max_queue_size: 4 } }\n", []),
    "config.pbtxt": ({"dynamic_batching": "{ default_queue_policy { max_queue_size: 4 } }"}, "", []),
}


@pytest.mark.parametrize("where", BOUNDS)
def test_a_full_queue_refuses_at_once(serve, tmp_path, where):
    settings, yaml, flags = BOUNDS[where]
    (tmp_path / "muster.yaml").write_text(yaml)
    server = serve(sim_model(tmp_path / "models", **settings), *flags, cwd=tmp_path)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            accepted = [occupy(server, threads), *fill(server, threads, range(1, 5))]
            for _ in range(3):
                refused = echo(server, 9)  # answered while nothing moves
                assert refused.status == 503 and "queue is full" in refused.error
                assert int(refused.headers["Retry-After"]) > 0
            assert waiting(server) == 4
        assert [answer.result().status for answer in accepted] == [200] * 5
    assert echo(server, 9).status == 200, "there is room again"
    assert metric(server, "nv_inference_request_failure", model="echo", reason="REJECTED") == 3
    assert stats(server)["inference_stats"]["fail"]["count"] == 3


def test_the_queue_is_bounded_in_bytes(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", dims="128"), "--max-queue-bytes=1KiB")  # a row: 512 bytes
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            accepted = [threads.submit(echo, server, 0, width=128)]
            wait_depth(server, 1)
            accepted.append(threads.submit(echo, server, 1, 2, width=128))
            wait_waiting(server, 1)
            refused = echo(server, 3, width=128)
            assert refused.status == 503 and "max_queue_bytes" in refused.error and "Retry-After" in refused.headers
        assert [answer.result().status for answer in accepted] == [200] * 2
    assert echo(server, 3, width=128).status == 200


def test_one_models_full_queue_is_no_others(serve, tmp_path):
    server = serve(sim_model(sim_model(tmp_path / "models"), "other"), "--max-queue-size=1", "--cpu-slots=2")
    with crowd() as threads:
        with standing_still(*worker_pids(server, "echo")):
            accepted = [occupy(server, threads), *fill(server, threads, [1])]
            assert echo(server, 2).status == 503
            assert echo(server, 3, model="other").status == 200
        assert [answer.result().status for answer in accepted] == [200] * 2


# ---- order -----------------------------------------------------------------------------------------------------------

def test_first_come_first_served(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=1), *VERBOSE)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads)]
            for i in range(1, 9):
                answers += fill(server, threads, [i], id=str(i))
        assert [answer.result().status for answer in answers] == [200] * 9
    assert answered(server) == [str(i) for i in range(1, 9)]


def test_a_higher_priority_overtakes(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=1,
                             dynamic_batching="{ priority_levels: 3 default_priority_level: 2 }"), *VERBOSE)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads)]
            for name, parameters in (("last", {"priority": 3}), ("default", {}), ("second", {"priority": 2}),
                                     ("first", {"priority": 1}), ("last again", {"priority": 3})):
                answers += fill(server, threads, [1], id=name, parameters=parameters)
        assert [answer.result().status for answer in answers] == [200] * 6
    assert answered(server) == ["first", "default", "second", "last", "last again"]
    unknown = echo(server, 1, parameters={"priority": 4})
    assert unknown.status == 400 and "priority" in unknown.error


def test_priority_without_levels_changes_nothing(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=1), *VERBOSE)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads), *fill(server, threads, [1], id="a", parameters={"priority": 7}),
                       *fill(server, threads, [2], id="b", parameters={"priority": 1})]
        assert [answer.result().status for answer in answers] == [200] * 3
    assert answered(server) == ["a", "b"]


def test_bounds_of_a_priority_level(serve, tmp_path):
    batching = """{ priority_levels: 2 default_priority_level: 2
                    priority_queue_policy { key: 1 value { max_queue_size: 1 } } }"""
    server = serve(sim_model(tmp_path / "models", dynamic_batching=batching))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads), *fill(server, threads, [1], parameters={"priority": 1})]
            assert echo(server, 2, parameters={"priority": 1}).status == 503
            answers += fill(server, threads, [3, 4, 5])
        assert [answer.result().status for answer in answers] == [200] * 5


@pytest.mark.parametrize("preserve, with_workers", [("true", 1), ("false", 2)])
def test_preserve_ordering_has_one_batch_in_flight(serve, tmp_path, preserve, with_workers):
    server = serve(sim_model(tmp_path / "models", max_batch_size=1,
                             dynamic_batching=f"{{ preserve_ordering: {preserve} }}"),
                   "--processes=2", "--cpu-slots=2", *VERBOSE)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = []
            for i in range(5):
                answers.append(threads.submit(echo, server, i, id=str(i)))
                wait_depth(server, i + 1)
            assert depth(server) - waiting(server) == with_workers
        assert [answer.result().status for answer in answers] == [200] * 5
    if preserve == "true":
        assert answered(server) == [str(i) for i in range(5)]


# ---- times -----------------------------------------------------------------------------------------------------------

def test_default_timeout_rejects_what_waits(serve, tmp_path):
    policy = "{ default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 200000 } }"
    server = serve(sim_model(tmp_path / "models", dynamic_batching=policy))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            first = occupy(server, threads)
            late = echo(server, 1)
            assert late.status == 503 and "queue" in late.error
            assert not first.done(), "the time in the queue was over for the first one"
        assert first.result().status == 200
    assert stats(server)["inference_count"] == 1


def test_delayed_requests_are_answered_in_the_end(serve, tmp_path):
    policy = "{ default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 } }"
    server = serve(sim_model(tmp_path / "models", max_batch_size=1, dynamic_batching=policy), *VERBOSE)
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads)]
            for name in ("a", "b", "c"):
                answers += fill(server, threads, [1], id=name)
        assert [answer.result().status for answer in answers] == [200] * 4
    assert answered(server) == ["a", "b", "c"]


def test_a_request_may_shorten_its_time_in_the_queue(serve, tmp_path):
    policy = "{ default_queue_policy { default_timeout_microseconds: 3600000000 allow_timeout_override: true } }"
    server = serve(sim_model(tmp_path / "models", dynamic_batching=policy))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            first = occupy(server, threads)
            assert echo(server, 1, parameters={"timeout": 100_000}).status == 503
            assert not first.done()
        assert first.result().status == 200


# ---- batches as configured -------------------------------------------------------------------------------------------

NEVER = 3600 * 10**6  # microseconds


def test_queue_delay_waits_for_a_full_batch(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=4,
                             dynamic_batching=f"{{ max_queue_delay_microseconds: {NEVER} }}"))
    with crowd() as threads:
        answers = fill(server, threads, range(3))
        assert batch_sizes(server) == {}
        answers.append(threads.submit(echo, server, 4))
        assert [answer.result().status for answer in answers] == [200] * 4
    assert batch_sizes(server) == {4: 1}


def test_queue_delay_ends_the_wait(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=4), "--max-queue-delay=100ms")
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = fill(server, threads, range(1))
        assert [answer.result().status for answer in answers] == [200]
    assert batch_sizes(server) == {1: 1}


def test_preferred_batch_sizes(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=8, dynamic_batching=
                             f"{{ preferred_batch_size: [6, 3] max_queue_delay_microseconds: {NEVER} }}"))
    with crowd() as threads:
        answers = fill(server, threads, range(2))
        assert batch_sizes(server) == {}
        answers.append(threads.submit(echo, server, 3))
        assert [answer.result().status for answer in answers] == [200] * 3
        assert batch_sizes(server) == {3: 1}
        with standing_still(*worker_pids(server)):
            answers = [threads.submit(echo, server, 1, 2, 3)]
            wait_depth(server, 1)
            answers += fill(server, threads, range(7))
        wait_waiting(server, 1)  # three, six, and one that waits for two more
        answers += [threads.submit(echo, server, i) for i in range(2)]
        assert [answer.result().status for answer in answers] == [200] * 10
    assert batch_sizes(server) == {3: 3, 6: 1}


def test_rows_count_not_requests(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=4,
                             dynamic_batching=f"{{ max_queue_delay_microseconds: {NEVER} }}"))
    with crowd() as threads:
        three = threads.submit(echo, server, 1, 2, 3)
        wait_waiting(server, 1)
        one = threads.submit(echo, server, 4)
        assert three.result().status == 200 and one.result().status == 200
    assert batch_sizes(server) == {4: 1}
    assert stats(server)["inference_count"] == 4 and stats(server)["execution_count"] == 1


def test_what_does_not_fit_goes_with_the_next_batch(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models", max_batch_size=4))
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads)]
            for values in ([1, 2, 3], [4, 5], [6, 7]):
                before = depth(server)
                answers.append(threads.submit(echo, server, *values))
                wait_depth(server, before + 1)
        assert [answer.result().status for answer in answers] == [200] * 4
    assert batch_sizes(server) == {1: 1, 3: 1, 4: 1}
    too_many = echo(server, 1, 2, 3, 4, 5)
    assert too_many.status == 400 and "4" in too_many.error


def test_preferred_sizes_without_batching(serve, tmp_path):
    """ENABLE_BATCHING=false holds over what config.pbtxt prefers."""
    server = serve(sim_model(tmp_path / "models", dynamic_batching="{ preferred_batch_size: [4, 8] }"),
                   env={"ENABLE_BATCHING": "false"})
    with crowd() as threads:
        with standing_still(*worker_pids(server)):
            answers = [occupy(server, threads), *fill(server, threads, range(1, 5))]
        assert [answer.result().status for answer in answers] == [200] * 5
    assert batch_sizes(server) == {1: 5}


def test_preferred_size_above_the_largest_batch_is_refused(tmp_path):
    sim_model(tmp_path / "models", max_batch_size=4, dynamic_batching="{ preferred_batch_size: [8] }")
    done = run_muster("serve", tmp_path / "models", "--exit-on-error", "--http-port=0", "--grpc-port=0", "--metrics-port=0",
                      "--control-socket", tmp_path / "socket", cwd=tmp_path)
    assert done.returncode == 1 and "preferred_batch_size" in done.stderr
