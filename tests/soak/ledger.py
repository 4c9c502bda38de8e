"""The book of every request: sent once, one outcome, judged against what the design allows."""
import collections
import itertools
import re
import threading
import time

# What a refusal may say, by a word of ours. A refusal that matches nothing here has no reason that we know.
REASONS = [
    ("queue full", (503, 429), r"the queue is full|overload|max_queue"),
    ("too late", (503,), r"deadline passed|timeout passed|waited in the queue for longer|before the request's deadline"),
    ("no memory free", (503,), r"memory"),
    ("too large", (413,), r"at most|larger than|too large|do not fit"),
    ("worker died, alone", (500,), r"The worker died while it ran this request alone"),
    ("engine's error", (400,), r"told to fail on"),
    ("model not there", (404, 503), r"Request for unknown model"),
    ("model unloaded", (503,), r"was unloaded|is being unloaded|failed for good"),
    ("stopping", (503,), r"stopping|draining|shut"),
]
ALWAYS = {"queue full", "too late", "no memory free"}  # what overload, memory and time may do to any request


def reason_of(status: int, error: str) -> str | None:
    return next((word for word, codes, text in REASONS if status in codes and re.search(text, error)), None)


class Entry:
    """A request on its way. may: reasons for a refusal besides ALWAYS; guilty: must not be answered with 200."""
    __slots__ = ("number", "model", "kind", "may", "guilty", "timeout", "born", "opened", "rested", "sent", "grace", "outcome")

    def __init__(self, number, model, kind, may=(), guilty=False, timeout=None):
        self.number, self.model, self.kind, self.may, self.guilty = number, model, kind, set(may), guilty
        self.timeout, self.born, self.opened, self.rested, self.sent, self.grace, self.outcome = timeout, 0.0, 0.0, 0.0, None, 0, None

    @property
    def id(self) -> str:
        return f"soak-{self.number}"


class Ledger:
    def __init__(self, slack: float, idle_timeout: float):
        self.idle_timeout = idle_timeout  # of the server
        self.slack = slack  # seconds past its time within which an answer still counts as in time, on a busy machine
        self.numbers = itertools.count(1)
        self.lock = threading.Lock()
        self.on_the_way: dict[int, Entry] = {}
        self.counts = collections.Counter()  # (model, outcome)
        self.sent = 0
        self.violations: list[str] = []
        self.longest = 0.0
        self.kills: list[float] = []  # the gateway's
        self.stopping: float | None = None  # since when the server has been told to stop

    def open(self, entry: Entry, born: float) -> Entry:
        """born: when the client began to connect."""
        entry.born, entry.opened = born, time.monotonic()
        with self.lock:
            self.sent += 1
            self.on_the_way[entry.number] = entry
        return entry

    def violation(self, text: str):
        with self.lock:
            self.violations.append(text)

    def _end(self, entry: Entry, outcome: str):
        waited = time.monotonic() - entry.opened
        with self.lock:
            if entry.outcome is not None:
                self.violations.append(f"{entry.id} ({entry.kind}): {outcome} after {entry.outcome}")
                return
            entry.outcome = outcome
            del self.on_the_way[entry.number]
            self.counts[entry.model, outcome] += 1
            if outcome != "left":
                self.longest = max(self.longest, waited)

    def _wrong(self, entry: Entry, what: str):
        waited = time.monotonic() - entry.opened
        self.violation(f"{entry.id} ({entry.model}, {entry.kind}, {waited:.2f} s): {what}")
        self._end(entry, "VIOLATION")

    # ---- outcomes

    def right(self, entry: Entry):
        if entry.guilty:
            self._wrong(entry, "answered although it must fail")
        elif self.late(entry):
            self._wrong(entry, "answered long after its time")
        else:
            self._end(entry, "right")

    def wrong(self, entry: Entry, what: str):
        self._wrong(entry, what)

    def late(self, entry: Entry) -> bool:
        return entry.timeout is not None and time.monotonic() - entry.opened > entry.timeout + entry.grace + self.slack

    def refused(self, entry: Entry, status: int, error: str, retry_after: str | None):
        word = reason_of(status, error)
        waited = time.monotonic() - entry.opened
        now, allowed = time.monotonic(), ALWAYS | entry.may
        if self.stopping is not None and now >= self.stopping:
            allowed = allowed | {"stopping"}
        if word is None or word not in allowed:
            self._wrong(entry, f"refused with {status} {error!r}")
        elif status in (429, 503) and retry_after is None:
            self._wrong(entry, f"refused with {status} without Retry-After: {error!r}")
        elif word == "too late" and entry.timeout is not None and waited < entry.timeout * 0.9 - 0.01:
            self._wrong(entry, f"refused as too late before its time of {entry.timeout} s")
        elif self.late(entry):
            self._wrong(entry, f"refused long after its time: {error!r}")
        else:
            self._end(entry, f"{status} {word}")

    def bad_input_refused(self, entry: Entry, status: int):
        self._end(entry, f"{status} bad input")

    def left(self, entry: Entry):
        """The client itself went away."""
        self._end(entry, "left")

    def not_taken(self, entry: Entry, status: int):
        """An earlier reply on the connection says that it is closed: right after a refusal (the rest of a body is not read
        then), or when the server stops."""
        if status >= 400 or self.stopping is not None:
            self._end(entry, f"not taken, closed after {status}")
        else:
            self._wrong(entry, f"not taken: the connection was closed after {status}")

    def lost(self, entry: Entry, error: BaseException):
        """The connection ended, or nothing came for as long as the client waits."""
        now = time.monotonic()
        if isinstance(error, TimeoutError):
            self._wrong(entry, "NO ANSWER: a hang")
        elif any(entry.born <= kill <= now for kill in self.kills):
            self._end(entry, "cut, gateway killed")
        elif entry.rested > self.idle_timeout * 0.9:
            self._end(entry, "cut, idle")
        elif self.stopping is not None and (entry.sent is None or entry.sent >= self.stopping):
            self._end(entry, "not taken, stopping")
        else:
            self._wrong(entry, f"connection lost without a cause: {error!r}")

    # ---- sums

    def totals(self) -> collections.Counter:
        sums = collections.Counter()
        for (_, outcome), n in self.counts.items():
            sums[outcome] += n
        return sums

    def of_model(self, model: str) -> collections.Counter:
        return collections.Counter({outcome: n for (of, outcome), n in self.counts.items() if of == model})

    def settle(self):
        """At the end: nothing may be on its way."""
        with self.lock:
            for entry in self.on_the_way.values():
                self.violations.append(f"{entry.id} ({entry.model}, {entry.kind}): LOST, no outcome")
            total = sum(self.counts.values()) + len(self.on_the_way)
            if total != self.sent:
                self.violations.append(f"{self.sent} requests sent, {total} accounted for")
