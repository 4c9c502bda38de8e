"""The soak's ledger (tests/soak/ledger.py) lets nothing pass: every way to lose, double or refuse wrongly is a violation."""
import sys
import time

import pytest

from muster_server import ROOT

sys.path.insert(0, str(ROOT / "tests" / "soak"))
from ledger import Entry, Ledger  # noqa: E402

FULL = (503, "the queue is full: max_queue_requests is 48", "1")


@pytest.fixture
def ledger():
    return Ledger(slack=1.0, idle_timeout=5.0)


def sent(ledger, **more) -> Entry:
    entry = ledger.open(Entry(next(ledger.numbers), "model", "kind", **more), time.monotonic())
    entry.sent = time.monotonic()
    return entry


def only_violation(ledger) -> str:
    ledger.settle()
    (violation,) = ledger.violations
    return violation


def test_what_is_allowed_adds_up(ledger):
    ledger.right(sent(ledger))
    ledger.refused(sent(ledger), *FULL)
    ledger.left(sent(ledger))
    cut = sent(ledger)
    ledger.kills.append(time.monotonic())
    ledger.lost(cut, ConnectionResetError())
    ledger.refused(sent(ledger, guilty=True, may={"worker died, alone"}), 500,
                   "The worker died while it ran this request alone; the request is not tried again.", None)
    ledger.settle()
    assert ledger.violations == [] and ledger.sent == 5
    assert ledger.totals() == {"right": 1, "503 queue full": 1, "left": 1, "cut, gateway killed": 1,
                               "500 worker died, alone": 1}


def test_a_request_without_an_outcome(ledger):
    sent(ledger)
    assert "LOST" in only_violation(ledger)


def test_a_request_with_two_outcomes(ledger):
    entry = sent(ledger)
    ledger.right(entry)
    ledger.refused(entry, *FULL)
    assert "after right" in only_violation(ledger)


def test_a_wrong_answer(ledger):
    ledger.wrong(sent(ledger), "WRONG BYTES")
    assert "WRONG BYTES" in only_violation(ledger)


def test_an_answer_that_never_comes(ledger):
    ledger.lost(sent(ledger), TimeoutError())
    assert "hang" in only_violation(ledger)


def test_an_answer_long_after_its_time(ledger):
    entry = sent(ledger, timeout=5)
    entry.opened -= 7
    ledger.right(entry)
    assert "long after its time" in only_violation(ledger)


def test_a_connection_that_ends_without_a_cause(ledger):
    ledger.kills.append(time.monotonic())
    time.sleep(0.001)
    ledger.lost(sent(ledger), ConnectionResetError())  # it began after the gateway was killed
    assert "without a cause" in only_violation(ledger)


def test_a_connection_that_is_closed_after_an_earlier_answer(ledger):
    ledger.not_taken(sent(ledger), 503)
    assert ledger.violations == []
    ledger.not_taken(sent(ledger), 200)
    assert "closed after 200" in only_violation(ledger)


def test_a_connection_that_rested_too_long(ledger):
    entry = sent(ledger)
    entry.rested = 4.9
    ledger.lost(entry, ConnectionResetError())
    ledger.settle()
    assert ledger.violations == []


def test_what_was_sent_before_the_stop_is_answered(ledger):
    before = sent(ledger)
    ledger.stopping = time.monotonic()
    ledger.lost(sent(ledger), ConnectionResetError())
    assert ledger.violations == []
    ledger.lost(before, ConnectionResetError())
    assert "without a cause" in only_violation(ledger)


def test_a_guilty_request_that_is_answered(ledger):
    ledger.right(sent(ledger, guilty=True))
    assert "although it must fail" in only_violation(ledger)


@pytest.mark.parametrize("status, error, retry_after", [
    (500, "The worker died while it ran this request alone; the request is not tried again.", None),
    (503, "the queue is full: max_queue_requests is 48", None),
    (503, "no reason that anybody knows", "1"),
    (500, "the queue is full: max_queue_requests is 48", "1"),
    (503, "The model was unloaded while the request was waiting.", "1"),
    (503, "Request for unknown model: 'x' is still loading: the gateway is started again", "1"),
    (503, "The request's deadline passed before its answer was there.", "1"),  # at once, with five seconds of time
])
def test_an_innocent_request_that_is_refused_wrongly(ledger, status, error, retry_after):
    ledger.refused(sent(ledger, timeout=5), status, error, retry_after)
    only_violation(ledger)


def test_a_gateway_that_was_killed_excuses_no_refusal(ledger):
    ledger.kills.append(time.monotonic())
    ledger.refused(sent(ledger), 503,
                   "Request for unknown model: 'x' is still loading: the gateway is started again", "1")
    assert "still loading" in only_violation(ledger)
