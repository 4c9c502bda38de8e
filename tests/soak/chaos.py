"""What goes wrong, on a schedule that a seed repeats. Every event waits (bounded) until it has had its effect."""
import contextlib
import os
import random
import resource
import shutil
import signal
import socket
import time
import traceback

from clients import Client, Guilty
from models import CRASH, HANG, put_echo, put_extra
from muster_server import binary_path, run_muster, wait_for
from processes import descriptors


class Burst(Client):
    """Many requests at once on one connection, for a model that cannot keep up."""
    def turn(self):
        self.ask(*(self.maker.make("burst", "faulty") for _ in range(12)))
        self.over.set()


class BigBurst(Client):
    """More tensor bytes at once than --memory-budget has."""
    def turn(self):
        self.ask(self.maker.make("memory pressure", "echo", width=self.chance.randint(300_000, 600_000), form="binary"))
        self.over.set()


class Beside(Client):
    """So much at once that every instance of `echo` is given work."""
    def turn(self):
        self.ask(*(self.maker.make("beside a hung worker", "echo") for _ in range(12)))


class Chaos:
    def __init__(self, soak):
        self.soak, self.server, self.ledger = soak, soak.server, soak.ledger
        self.chance = random.Random(f"{soak.seed} chaos")
        self.counts: dict[str, int] = {}
        self.signals = {signal.SIGKILL: 0, signal.SIGSEGV: 0}  # that workers got from us
        self.began = time.monotonic()
        self.blamed_at: dict[str, float] = {}  # model: when something was last done to it that is blamed on its batch
        self.helpers: list[Client] = []

    # ---- the schedule

    def events(self):
        names = [name.removeprefix("do_") for name in dir(self) if name.startswith("do_")]
        def there(name):
            command = name.partition("_")[0]
            return command not in ("reload", "upgrade") or self.soak.has_command(command)
        return [name for name in names if name not in self.soak.without and there(name)]

    def run(self, until: float):
        """Rounds of every kind of event, each in an order of its own, until the time is over; the first round is always
        completed."""
        first = True
        while first or time.monotonic() < until:
            order = self.events()
            self.chance.shuffle(order)
            left = max(until - time.monotonic(), 1) if first else len(order) * 3
            gap = left / (len(order) + 1) * 0.6
            for name in order:
                if not first and time.monotonic() >= until:
                    return
                self.event(name)
                time.sleep(min(self.chance.random() * gap, 6))  # the rhythm of the schedule: nothing waits for it
            first = False

    def event(self, name: str):
        started = time.monotonic()
        try:
            detail = getattr(self, f"do_{name}")() or ""
        except Exception as error:
            detail = "VIOLATION"
            self.ledger.violation(f"chaos, {name}: {error!r}" if isinstance(error, AssertionError) else
                                  f"chaos, {name}: {traceback.format_exc()}")
        self.counts[name] = self.counts.get(name, 0) + 1
        self.soak.say(f"{started - self.began:6.1f} s  {name}: {detail} ({time.monotonic() - started:.1f} s)")

    # ---- finding somebody

    def workers(self) -> list[dict]:
        return self.server.status().get("workers", [])

    def worker(self, *models) -> tuple[str, int]:
        def ready():
            found = [w for w in self.workers() if w["state"] == "ready" and w["model"] in models]
            return self.chance.choice(found) if found else None
        found = wait_for(ready, f"a ready worker of {models}", self.soak.patience)
        return found["model"], found["pid"]

    def wait_replaced(self, model: str, pid: int, more_s=0.0):
        def replaced():
            workers = self.workers()
            return all(w["pid"] != pid for w in workers) and any(
                w["model"] == model and w["state"] == "ready" for w in workers)
        wait_for(replaced, f"a successor of {model}'s worker {pid}", self.soak.patience + more_s)

    def send(self, pid: int, number: int):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            self.signals[number] += 1

    def spare(self, model: str):
        """Two deaths that count in quick succession may meet a request that is being tried alone: by design it is then
        refused. So they keep their distance."""
        rest = self.blamed_at.get(model, 0) + self.soak.blame_gap - time.monotonic()
        if rest > 0:
            time.sleep(rest)
        self.blamed_at[model] = time.monotonic()

    def crowd(self, kind, n: int, *arguments):
        clients = [kind(self.soak, self.soak.next_number(), *arguments) for _ in range(n)]
        for client in clients:
            client.start()
        self.helpers += clients
        return clients

    def join(self, clients):
        for client in clients:
            client.join(self.soak.patience + 10)
            assert not client.is_alive(), f"{client.name} does not come to an end"

    # ---- workers

    def do_kill_worker(self):
        model, pid = self.worker("echo", "identity", "magika", "faulty")
        self.send(pid, signal.SIGKILL)
        self.wait_replaced(model, pid)
        return f"{model} {pid}"

    def do_kill_storm(self):
        """Again and again, of one model."""
        for _ in range(4):
            _, pid = self.worker("echo")
            self.send(pid, signal.SIGKILL)
            time.sleep(0.3)
        self.worker("echo")
        return "4 times, echo"

    def do_segv_worker(self):
        model, pid = self.worker("echo", "identity", "magika")
        self.spare(model)
        self.send(pid, signal.SIGSEGV)
        self.wait_replaced(model, pid)
        self.blamed_at[model] = time.monotonic()
        return f"{model} {pid}"

    def do_pause_worker(self):
        """Shorter than what counts as hung."""
        model, pid = self.worker("echo", "identity", "magika")
        seconds = self.chance.uniform(0.1, 0.8)
        with self.standing_still(pid):
            time.sleep(seconds)
        return f"{model} {pid} for {seconds:.1f} s"

    def do_hang_worker(self):
        """Stopped until the server takes it for hung and kills it, for which it must have been given a batch."""
        model, pid = self.worker("echo")
        self.spare(model)
        with self.standing_still(pid):
            clients = self.crowd(Beside, 4)
            try:
                # the batch that it holds may be the first of its shape, which has as long as loading
                self.wait_replaced(model, pid, self.soak.load_timeout)
            finally:
                for client in clients:
                    client.over.set()
        self.join(clients)
        self.blamed_at[model] = time.monotonic()
        return f"{model} {pid}"

    def do_kill_loading(self):
        """A worker dies, and its successor while it loads."""
        _, pid = self.worker("echo")
        before = {w["pid"] for w in self.workers()}
        self.send(pid, signal.SIGKILL)

        def successor():
            found = [w for w in self.workers() if w["model"] == "echo" and w["pid"] and w["pid"] not in before]
            return found[0] if found else None
        found = wait_for(successor, "the successor to start", self.soak.patience)
        if found["state"] != "ready":  # 150 ms of loading are long enough to be met nearly always
            self.send(found["pid"], signal.SIGKILL)
        self.wait_replaced("echo", pid)
        return f"echo {pid}, then {found['pid']} while {found['state']}"

    # ---- inputs that bring a worker down

    def guilty(self, first: int) -> str:
        self.spare("faulty")
        self.join(self.crowd(Guilty, 1, first))
        self.worker("faulty")
        self.blamed_at["faulty"] = time.monotonic()
        return "its request got its own error"

    def do_crash_input(self):
        return self.guilty(CRASH)

    def do_hang_input(self):
        return self.guilty(HANG)

    # ---- the gateway

    def lasting_workers(self) -> set[int]:
        """Those that only chaos itself ends."""
        return {w["pid"] for w in self.workers() if w["model"] in ("identity", "magika")}

    def gateway(self) -> int:
        return wait_for(lambda: self.server.status().get("gateway", {}).get("pid"), "a gateway", self.soak.patience)

    def end_gateway(self, pid: int):
        self.ledger.kills.append(time.monotonic())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def wait_gateway(self, *gone: int):
        wait_for(lambda: self.gateway() not in gone and self.soak.page("/v2/health/ready") == 200,
                 "the next gateway to serve", self.soak.patience)

    def do_kill_gateway(self):
        """Workers stay as they are."""
        before, pid = self.lasting_workers(), self.gateway()
        self.end_gateway(pid)
        self.wait_gateway(pid)
        assert self.lasting_workers() == before, f"the workers were {before} and are {self.lasting_workers()}"
        return f"pid {pid}"

    def do_kill_gateway_twice(self):
        """The next one as well, while it attaches to the workers."""
        before, pid = self.lasting_workers(), self.gateway()
        self.end_gateway(pid)
        second = wait_for(lambda: self.gateway() if self.gateway() != pid else None, "the next gateway", self.soak.patience)
        self.end_gateway(second)
        self.wait_gateway(pid, second)
        assert self.lasting_workers() == before, f"the workers were {before} and are {self.lasting_workers()}"
        return f"pids {pid}, {second}"

    def do_kill_worker_and_gateway(self):
        model, pid = self.worker("echo", "faulty")
        gateway = self.gateway()
        self.send(pid, signal.SIGKILL)
        self.end_gateway(gateway)
        self.wait_gateway(gateway)
        self.wait_replaced(model, pid)
        return f"{model} {pid}, gateway {gateway}"

    @contextlib.contextmanager
    def standing_still(self, pid: int):
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def do_pause_gateway(self):
        pid, seconds = self.gateway(), self.chance.uniform(0.1, 1)
        with self.standing_still(pid):
            time.sleep(seconds)
        return f"{pid} for {seconds:.1f} s"

    def do_pause_supervisor(self):
        """And a worker dies meanwhile."""
        model, pid = self.worker("echo")
        with self.standing_still(self.server.process.pid):
            self.send(pid, signal.SIGKILL)
            time.sleep(self.chance.uniform(0.1, 1))
        self.wait_replaced(model, pid)
        return f"while {model} {pid} dies"

    @contextlib.contextmanager
    def few_descriptors(self, pid: int):
        """It may open hardly any more, and many connect."""
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        sockets = []
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(pid) + 8, before[1]))
            for _ in range(100):
                sockets.append(socket.create_connection(("127.0.0.1", self.soak.port), self.soak.patience))
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            for one in sockets:
                one.close()

    def do_descriptors_run_out(self):
        with self.few_descriptors(self.gateway()):
            time.sleep(1)
        assert self.soak.page("/v2/health/live") == 200
        return "8 more allowed, 100 connections"

    def do_kill_worker_without_descriptors(self):
        """Its successor cannot be attached until there are some again."""
        model, pid = self.worker("echo")
        with self.few_descriptors(self.gateway()):
            self.send(pid, signal.SIGKILL)
            time.sleep(1)
        self.wait_replaced(model, pid)
        assert self.soak.page("/v2/health/live") == 200
        return f"{model} {pid}"

    # ---- too much

    def do_overload(self):
        before = self.ledger.totals()
        self.join(self.crowd(Burst, 16))
        refused = {word: n - before[word] for word, n in self.ledger.totals().items() if "queue full" in word}
        return f"192 requests at once, refused: {refused}"

    def do_memory_pressure(self):
        self.join(self.crowd(BigBurst, 24))
        return "24 bodies of 2 to 5 MB at once"

    def do_idle_connections(self):
        sockets = [socket.create_connection(("127.0.0.1", self.soak.port), self.soak.patience) for _ in range(200)]
        time.sleep(0.5)
        for one in sockets:
            one.close()
        return "200 connections that say nothing"

    # ---- changes while it runs

    def command(self, *words):
        """Of muster. One that finds an earlier change still going on, as SIGHUP begins them, is given again."""
        def done():
            answer = run_muster(*words, "--control-socket", self.server.socket)
            return None if "is going on" in answer.stderr else answer
        return wait_for(done, f"muster {words[0]} to be taken", self.soak.patience)

    def reload(self, works=True) -> str:
        """By the command, which says how it went, or by the signal."""
        if works and self.chance.random() < 0.5:
            self.server.signal(signal.SIGHUP)
            return "SIGHUP"
        done = self.command("reload")
        assert (done.returncode == 0) == works, f"muster reload: {done.returncode} {done.stdout} {done.stderr}"
        return f"muster reload, exit status {done.returncode}"

    def wait_extra(self, *statuses: int):
        wait_for(lambda: self.soak.page("/v2/models/extra/ready") in statuses, f"extra to answer {statuses}",
                 self.soak.patience)

    def do_reload_added(self):
        put_extra(self.soak.repository, base_ms=self.chance.randint(1, 5))
        how = self.reload()
        self.wait_extra(200)
        return how

    def do_reload_changed(self):
        """A model under full load: what is in flight with the old one is answered, too."""
        put_echo(self.soak.repository, base_ms=self.chance.randint(1, 4))
        before = {w["pid"] for w in self.workers() if w["model"] == "echo"}
        how = self.reload()
        wait_for(lambda: not before & {w["pid"] for w in self.workers()}, "echo's workers to be new ones", self.soak.patience)
        self.worker("echo")
        return how

    def do_reload_removed(self):
        shutil.rmtree(self.soak.repository / "extra", ignore_errors=True)
        how = self.reload()
        self.wait_extra(400, 404, 503)
        return how

    def do_reload_settings(self):
        size = self.chance.randint(32, 64)
        self.soak.settings(max_queue_size=size)
        return f"{self.reload()}, max_queue_size {size}"

    def do_reload_broken(self):
        """A change that cannot be applied: it says so, and what was there serves on."""
        put_extra(self.soak.repository, base_ms=1)
        self.reload()
        self.wait_extra(200)
        put_extra(self.soak.repository, base_ms="nonsense")
        how = self.reload(works=False)
        assert self.soak.page("/v2/models/extra/ready") == 200, "a model is gone because its new settings are wrong"
        put_extra(self.soak.repository, base_ms=2)
        self.reload()
        return how

    def do_upgrade(self):
        """The same program under another path: no request may fail."""
        path = self.soak.folder / f"muster-{self.counts.get('upgrade', 0)}"
        shutil.copy2(binary_path(), path)
        pid = self.server.process.pid
        done = self.command("upgrade", "--binary", path)
        assert done.returncode == 0, f"muster upgrade: {done.returncode} {done.stdout} {done.stderr}"
        assert self.server.status()["pid"] == pid, "the supervisor's process number has changed"
        assert self.soak.page("/v2/health/ready") == 200
        return str(path)

    def finish(self):
        """The models are those of the beginning again."""
        if self.soak.has_command("reload"):
            self.event("reload_removed")
