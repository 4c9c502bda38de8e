"""Clients of every kind, good and bad, each a thread. What they send and get goes through the ledger."""
import json
import random
import socket
import threading
import time
import traceback

from ledger import Entry
from models import CRASH, FAIL, HANG, Maker, Request
from oip import DECOMPRESS, Wire, outputs_of


class Connection(Wire):
    """Knows since when it exists, and whether it may have been closed for idleness."""

    def __init__(self, port: int, patience: float, receive_buffer=None):
        self.born = self.used = time.monotonic()
        if receive_buffer is None:
            super().__init__(port, patience)
            return
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(patience)
        self.socket.connect(("127.0.0.1", port))
        self.file = self.socket.makefile("rb")


def wrong_in(request: Request, reply) -> str | None:
    """What is wrong with a 200."""
    coding = reply.headers.get("Content-Encoding")
    if coding is not None:
        reply.body = DECOMPRESS[coding](reply.body)
    length = reply.headers.get("Inference-Header-Content-Length")
    head = json.loads(reply.body if length is None else reply.body[:int(length)])
    if head.get("id") != request.entry.id:
        return f"THE ANSWER OF ANOTHER: id {head.get('id')}"
    return request.check(outputs_of(reply))


class Client(threading.Thread):
    """Subclasses say what one turn is. A turn never raises for what the server does: that is the ledger's."""
    pause = 0.0  # seconds between turns, at most

    def __init__(self, soak, number: int):
        super().__init__(name=f"{type(self).__name__} {number}", daemon=True)
        self.soak, self.ledger = soak, soak.ledger
        self.chance = random.Random(f"{soak.seed} {type(self).__name__} {number}")
        self.maker = Maker(soak.ledger, self.chance, soak.real, soak.default_timeout)
        self.connection_: Connection | None = None
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set():
            try:
                self.turn()
            except Exception:
                self.ledger.violation(f"{self.name}: {traceback.format_exc()}")
                self.drop()
            if self.pause:
                self.over.wait(self.chance.random() * self.pause)
        self.drop()

    def turn(self):
        raise NotImplementedError

    # ---- connections

    def drop(self):
        if self.connection_ is not None:
            self.connection_.close()
            self.connection_ = None

    def fresh(self, **options) -> Connection | None:
        """None: nobody listens any more, which only a server that stops may do."""
        try:
            return Connection(self.soak.port, self.soak.patience, **options)
        except OSError as error:
            if self.ledger.stopping is None:
                self.ledger.violation(f"{self.name}: cannot connect: {error!r}")
            self.over.wait(0.1)
            return None

    def connection(self) -> Connection | None:
        """The kept one, unless it has rested so long that the server may have closed it."""
        kept = self.connection_
        if kept is not None and time.monotonic() - kept.used > self.soak.idle_timeout / 2:
            self.drop()
        elif kept is not None and self.chance.random() < 0.01:
            self.drop()
        if self.connection_ is None:
            self.connection_ = self.fresh()
        return self.connection_

    # ---- asking

    def converse(self, connection: Connection, requests: list[Request]):
        """Sends all, then reads all; every one of them is judged."""
        entries = [self.ledger.open(request.entry, connection.born) for request in requests]
        trouble = None
        try:
            connection.send(b"".join(request.wire for request in requests))
            for entry in entries:
                entry.sent = time.monotonic()
        except OSError as error:
            trouble = error  # an answer may be there all the same: it was refused before its end
        for entry in entries:  # on a busy machine a client may itself sleep too long between its look and its request
            entry.rested = time.monotonic() - connection.used
        self.read(connection, requests, trouble)

    def read(self, connection: Connection, requests: list[Request], trouble=None):
        for i, request in enumerate(requests):
            try:
                reply = connection.reply()
            except (OSError, AssertionError, ValueError) as error:
                kept_from = isinstance(error, (ConnectionError, TimeoutError))
                for late in requests[i:]:
                    if kept_from:
                        self.ledger.lost(late.entry, trouble or error)
                    else:
                        self.ledger.wrong(late.entry, f"no HTTP reply: {error!r}")
                self.drop()
                return
            connection.used = time.monotonic()
            self.judge(request, reply)
            if reply.headers.get("Connection", "").lower() == "close":
                for late in requests[i + 1:]:
                    self.ledger.not_taken(late.entry, reply.status)
                self.drop()
                return

    def judge(self, request: Request, reply):
        entry = request.entry
        if reply.status == 200:
            try:
                wrong = wrong_in(request, reply)
            except Exception as error:
                wrong = f"an answer that cannot be read: {error!r}"
            self.ledger.wrong(entry, wrong) if wrong else self.ledger.right(entry)
            return
        try:
            error = reply.json["error"]
        except (ValueError, KeyError, TypeError):
            self.ledger.wrong(entry, f"refused with {reply.status} and no reason: {reply.body[:200]!r}")
            return
        self.ledger.refused(entry, reply.status, error, reply.headers.get("Retry-After"))

    def ask(self, *requests: Request):
        connection = self.connection()
        if connection is not None:
            self.converse(connection, list(requests))


# ---- good ones -------------------------------------------------------------------------------------------------------

class KeptAlive(Client):
    def turn(self):
        self.ask(self.maker.make("kept alive"))


class Pipelined(Client):
    def turn(self):
        self.ask(*(self.maker.make("pipelined") for _ in range(self.chance.randint(2, 12))))


class Newcomer(Client):
    """A connection for each request."""
    pause = 0.05

    def turn(self):
        self.ask(self.maker.make("new connection"))
        self.drop()


class Big(Client):
    """Bodies of 0.4 to 4 MB."""
    pause = 0.5

    def turn(self):
        self.ask(self.maker.make("big body", "echo", width=self.chance.randint(50_000, 500_000), form="binary"))


class Hasty(Client):
    """Little time: an answer, or a refusal that comes in time. None of it may cost a worker."""
    pause = 0.02

    def turn(self):
        self.ask(self.maker.make("short timeout", self.chance.choice(("echo", "faulty")),
                                 timeout_s=self.chance.choice((0.001, 0.005, 0.02, 0.1))))


class Visitor(Client):
    """Asks for the model that comes and goes."""
    pause = 0.1

    def turn(self):
        self.ask(self.maker.make("passing model", "extra", width=8, may={"model not there", "model unloaded"}))


# ---- guilty ones -----------------------------------------------------------------------------------------------------

class Failing(Client):
    """An engine's error for this request alone."""
    pause = 0.3

    def turn(self):
        self.ask(self.maker.make("engine error", "faulty", first=FAIL, may={"engine's error"}))


class Guilty(Client):
    """Brings its worker down, when chaos says so."""
    def __init__(self, soak, number, first=CRASH):
        super().__init__(soak, number)
        self.first = first

    def turn(self):
        kind = {CRASH: "crash input", HANG: "hang input"}[self.first]
        self.ask(self.maker.make(kind, "faulty", first=self.first, may={"worker died, alone"}))
        self.over.set()


# ---- slow and rude ones ----------------------------------------------------------------------------------------------

class SlowReader(Client):
    """Reads a large reply in small pieces."""
    pause = 0.5

    def turn(self):
        connection = self.fresh(receive_buffer=8192)
        if connection is None:
            return
        self.connection_ = connection
        request = self.maker.make("slow reader", "echo", width=self.chance.randint(20_000, 60_000), form="binary")
        self.ledger.open(request.entry, connection.born)
        try:
            connection.send(request.wire)
            request.entry.sent = time.monotonic()
            self.over.wait(self.chance.random() * self.soak.idle_timeout / 3)
            self.read(connection, [request])
        except OSError as error:
            self.ledger.lost(request.entry, error)
        self.drop()


class NeverReader(Client):
    """Asks, reads nothing, and goes in the end (the server may have cut it off before)."""
    pause = 1.0

    def turn(self):
        connection = self.fresh(receive_buffer=4096)
        if connection is None:
            return
        request = self.maker.make("never reads", "echo", width=self.chance.randint(100_000, 300_000), form="binary")
        self.ledger.open(request.entry, connection.born)
        try:
            connection.send(request.wire)
            self.over.wait(self.soak.idle_timeout * 1.5 * self.chance.random())
        except OSError:
            pass
        connection.close()
        self.ledger.left(request.entry)


class Leaver(Client):
    """Disconnects anywhere: in the head, in the body, while it waits, in the reply."""
    pause = 0.05

    def turn(self):
        connection = self.fresh()
        if connection is None:
            return
        request = self.maker.make("leaves", width=self.chance.choice((None, 20_000)) if self.chance.random() < 0.5 else None)
        self.ledger.open(request.entry, connection.born)
        wire = request.wire
        end = len(wire) if self.chance.random() < 0.5 else self.chance.randrange(len(wire))
        try:
            connection.send(wire[:end])
            if self.chance.random() < 0.3:
                self.over.wait(self.chance.random() * 0.05)
            if self.chance.random() < 0.3:  # with a reset instead of an orderly end
                connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        except OSError:
            pass
        connection.close()
        self.ledger.left(request.entry)


class HalfUploader(Client):
    """Stops in the middle of the body, goes on later, or never."""
    pause = 0.2

    def turn(self):
        connection = self.fresh()
        if connection is None:
            return
        self.connection_ = connection
        request = self.maker.make("half upload", "echo", width=self.chance.choice((8, 1000, 30_000)))
        self.ledger.open(request.entry, connection.born)
        wire, half = request.wire, len(request.head) + len(request.body) // 2
        try:
            connection.send(wire[:half])
            self.over.wait(self.chance.random() * 2)
            if self.chance.random() < 0.2:
                self.ledger.left(request.entry)
                self.drop()
                return
            connection.send(wire[half:])
            request.entry.sent = time.monotonic()
            request.entry.grace = 3  # its time runs from the first byte or from the last
        except OSError as error:
            self.read(connection, [request], error)
            return
        self.read(connection, [request])
        self.drop()


class Idle(Client):
    """Connects and says nothing, or half a head: the server has to end it in its time."""
    pause = 1.0

    def turn(self):
        connection = self.fresh()
        if connection is None:
            return
        talks = self.chance.random() < 0.5
        bound = (self.soak.head_timeout if talks else self.soak.idle_timeout) + self.ledger.slack + 5
        began = time.monotonic()
        try:
            if talks:
                connection.send(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\nX-Slow: ")
            connection.socket.settimeout(0.5)
            while not self.over.is_set():
                if time.monotonic() - began > bound:
                    self.ledger.violation(f"{self.name}: {'a half head' if talks else 'an idle connection'} lives longer "
                                          f"than {bound:.0f} s")
                    break
                try:
                    if connection.socket.recv(4096) == b"":
                        break
                except TimeoutError:
                    continue
        except OSError:
            pass  # reset: ended as well
        connection.close()


# ---- hostile ones ----------------------------------------------------------------------------------------------------

def _infer(document: bytes, *headers: str, length=None) -> bytes:
    lines = ["POST /v2/models/echo/infer HTTP/1.1", "Host: bad", *headers,
             f"Content-Length: {len(document) if length is None else length}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + document


def _input(shape, data="[1]", datatype="INT64") -> bytes:
    return b'{"inputs":[{"name":"x","shape":%s,"datatype":"%s","data":%s}]}' % (
        str(shape).encode(), datatype.encode(), data.encode())


def _claims(size: int, body=b"12345678") -> bytes:
    head = (b'{"inputs":[{"name":"x","shape":[1,1],"datatype":"INT64","parameters":{"binary_data_size":%d}}]}' % size)
    return _infer(head + body, f"Inference-Header-Content-Length: {len(head)}")


BAD = {
    "no JSON": _infer(b"this is no JSON"),
    "empty": _infer(b""),
    "no inputs": _infer(b"{}"),
    "overflowing shape": _infer(_input([1 << 62, 1 << 62])),
    "negative dim": _infer(_input([1, -5])),
    "huge rows": _infer(_input([1 << 40, 1])),
    "wrong type": _infer(_input([1, 1], datatype="FP32")),
    "unknown type": _infer(_input([1, 1], datatype="FP33")),
    "too few numbers": _infer(_input([1, 5])),
    "too many numbers": _infer(_input([1, 1], "[1,2,3]")),
    "NaN": _infer(_input([1, 1], "[NaN]")),
    "long number": _infer(_input([1, 1], "[" + "9" * 10_000 + "]")),
    "deep nest": _infer(_input([1, 1], "[" * 10_000 + "]" * 10_000)),
    "broken UTF-8": _infer(b'{"id":"\xff\xfe","inputs":[]}'),
    "size that lies up": _claims(1 << 40),
    "size that lies down": _claims(4),
    "header length too large": _infer(_input([1, 1]), "Inference-Header-Content-Length: 999999"),
    "header length negative": _infer(_input([1, 1]), "Inference-Header-Content-Length: -5"),
    "no gzip": _infer(_input([1, 1]), "Content-Encoding: gzip"),
    "two lengths": _infer(_input([1, 1]), "Content-Length: 3"),
    "length and chunked": _infer(b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "bare line feeds": b"POST /v2/models/echo/infer HTTP/1.1\nHost: a\nContent-Length: 0\n\n",
    "obsolete fold": b"GET /v2 HTTP/1.1\r\nHost: a\r\nX-A: 1\r\n 2\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n",
    "header flood": b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(20_000)) + b"\r\n",
    "path tricks": b"GET /v2/models/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown model": b"POST /v2/models/nobody/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
    "unknown path": b"GET /nothing/here HTTP/1.1\r\nHost: a\r\n\r\n",
    "wrong method": b"DELETE /v2/models/echo/infer HTTP/1.1\r\nHost: a\r\n\r\n",
}
MAY_CLOSE = {"no HTTP", "bare line feeds", "header flood", "two lengths", "length and chunked", "obsolete fold"}


class Hostile(Client):
    """Every request of it is wrong: 4xx, or for what is no HTTP the end of the connection; never an answer, never 5xx."""
    pause = 0.05

    def turn(self):
        name = self.chance.choice(list(BAD))
        connection = self.fresh()
        if connection is None:
            return
        self.connection_ = connection
        entry = Entry(next(self.ledger.numbers), "(bad input)", name)
        self.ledger.open(entry, connection.born)
        try:
            try:
                connection.send(BAD[name])
                entry.sent = time.monotonic()
            except ConnectionError:
                pass
            reply = connection.reply()
            reason = None if reply.status != 503 else reply.json.get("error", "")
            if 400 <= reply.status < 500 and reply.json.get("error"):
                self.ledger.bad_input_refused(entry, reply.status)
            elif reason is not None:
                self.ledger.refused(entry, 503, reason, reply.headers.get("Retry-After"))
            else:
                self.ledger.wrong(entry, f"bad input got {reply.status} {reply.body[:200]!r}")
        except ConnectionError as error:
            if name in MAY_CLOSE:
                self.ledger.bad_input_refused(entry, 0)
            else:
                self.ledger.lost(entry, error)
        except (OSError, AssertionError, ValueError) as error:
            self.ledger.lost(entry, error) if isinstance(error, TimeoutError) else self.ledger.wrong(entry, repr(error))
        self.drop()


class Watcher(Client):
    """Health, metadata and statistics are answered whatever happens."""
    pause = 0.3
    PAGES = ("/v2", "/v2/health/live", "/v2/models/echo", "/v2/models/echo/stats", "/v2/models/echo/config", "/stats")
    MAY_BE_DOWN = ("/v2/health/ready", "/v2/models/faulty/ready", "/health")

    def turn(self):
        page = self.chance.choice(self.PAGES + self.MAY_BE_DOWN)
        connection = self.connection()
        if connection is None:
            return
        entry = Entry(next(self.ledger.numbers), "(pages)", page, timeout=self.soak.default_timeout)
        self.ledger.open(entry, connection.born)
        try:
            connection.send(f"GET {page} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())
            entry.sent = time.monotonic()
            reply = connection.reply()
        except (OSError, AssertionError) as error:
            self.ledger.lost(entry, error)
            self.drop()
            return
        connection.used = time.monotonic()
        if reply.headers.get("Connection", "").lower() == "close":
            self.drop()
        if reply.status == 200 or reply.status == 503 and (page in self.MAY_BE_DOWN or self.ledger.stopping):
            self.ledger.right(entry)
        else:
            self.ledger.wrong(entry, f"{reply.status} {reply.body[:200]!r}")


CROWD = {KeptAlive: 10, Pipelined: 3, Newcomer: 2, Big: 2, Hasty: 2, Failing: 1, SlowReader: 2, NeverReader: 2, Leaver: 2,
         HalfUploader: 2, Idle: 3, Hostile: 2, Watcher: 1, Visitor: 1}
EXACT = {KeptAlive: 6, Pipelined: 2, Hasty: 1, Failing: 1}  # those whose every request the server's own counters show
