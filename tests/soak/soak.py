#!/usr/bin/env python3
"""The long check: four models, clients of every kind and everything that can go wrong, and an account of every request.

    soak.py [--seconds N] [--seed S] [--preset release|asan|tsan] [--no-record] [--keep FOLDER]

Started by script/soak, which builds first. Ends with 1 when anything was violated.
"""
import argparse
import collections
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests" / "system")]
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

SANITIZERS = {
    "release": {},
    # A SIGSEGV that chaos sends is to kill, not to be reported; of the crashes that are real the supervisor tells.
    "asan": {"ASAN_OPTIONS": "handle_segv=0:detect_leaks=1", "LSAN_OPTIONS": "log_threads=1"},
    "tsan": {"TSAN_OPTIONS": "handle_segv=0:halt_on_error=0:second_deadlock_stack=1:history_size=4"},
}


class Soak:
    def __init__(self, folder: pathlib.Path, seconds: float, seed: int, preset: str):
        from ledger import Ledger
        from models import MAGIKA, Real, Simulated
        self.folder, self.seconds, self.seed, self.preset = folder, seconds, seed, preset
        self.slow = 1 if preset == "release" else 3  # how much longer everything may take
        self.default_timeout, self.max_execution, self.load_timeout = 20 * self.slow, 4 * self.slow, 60 * self.slow
        self.idle_timeout, self.head_timeout = 8, 4
        self.patience = self.default_timeout * 2 + 30  # an answer that has not come by then never comes
        self.blame_gap = 2.0 * self.slow
        self.ledger = Ledger(slack=10.0 * self.slow, idle_timeout=self.idle_timeout)
        self.real = Simulated() if preset == "tsan" else Real(200, seed)
        self.n_clients = 0
        self.repository = folder / "models"
        self.commands = None
        self.lines: list[tuple[str, str]] = []
        self.began = time.monotonic()

    def say(self, text: str):
        print(text, flush=True)

    def next_number(self) -> int:
        self.n_clients += 1
        return self.n_clients

    # ---- the server

    def settings(self, max_queue_size=48) -> pathlib.Path:
        path = self.folder / "muster.yaml"
        path.write_text(f"""models:
  echo: {{processes: 2, max_execution: {self.max_execution}s}}
  faulty: {{max_execution: {self.max_execution}s, max_queue_size: {max_queue_size}}}
""")
        return path

    def start(self, name: str, *more, socket=None):
        from muster_server import Server
        server = Server(self.folder / name, [
            self.repository, f"--config={self.settings()}", "--cpu-slots=4", "--threads=1", "--memory-budget=48MiB",
            "--input-arena=24MiB", "--output-arena=24MiB", "--body-limit=16MiB",
            f"--default-request-timeout={self.default_timeout}s", f"--load-timeout={self.load_timeout}s",
            f"--idle-timeout={self.idle_timeout}s", f"--head-timeout={self.head_timeout}s", "--exit-timeout-secs=60",
            "--gateway-threads=2", "--log-format=json", *more], env=SANITIZERS[self.preset])
        self.server, server.socket = server, socket or server.socket
        server.wait_ready()
        self.port, self.metrics_port = server.port, server.metrics_port
        return server

    def has_command(self, name) -> bool:
        if self.commands is None:
            from muster_server import run_muster
            self.commands = run_muster("help").stdout
        return any(line.split()[:1] == [name] for line in self.commands.splitlines())

    def page(self, path: str) -> int:
        """The status of a page; 0 where the connection was cut."""
        try:
            return self.server.get(path, port=self.port, timeout=self.patience).status
        except ConnectionError:
            return 0

    def wait_calm(self):
        """Every worker takes requests, and nothing is in use, waits, or is connected but the one who asks."""
        from muster_server import wait_for
        from traffic import metric, worker_pids
        worker_pids(self.server)
        for name, least in (("muster_memory_used_bytes", 0), ("nv_inference_pending_request_count", 0),
                            ("muster_connections_open", 1)):
            wait_for(lambda: metric(self.server, name) <= least, f"{name} to come down to {least}; it is "
                     f"{metric(self.server, name)}", self.patience)

    # ---- clients

    def crowd(self, kinds: dict):
        clients = [kind(self, self.next_number()) for kind, n in kinds.items() for _ in range(n)]
        for client in clients:
            client.start()
        return clients

    def dismiss(self, clients):
        for client in clients:
            client.over.set()
        for client in clients:
            client.join(self.patience + 20)
            if client.is_alive():
                self.ledger.violation(f"{client.name} hangs")

    # ---- the parts

    def holdings(self) -> dict[str, int]:
        from processes import descriptors, roles
        held = collections.Counter()
        for role, pid in roles(self.server.status()):
            held[role] = max(held[role], descriptors(pid))
        return held

    def chaos(self):
        from chaos import Chaos
        from clients import CROWD, Visitor
        kinds = dict(CROWD)
        if not self.has_command("reload"):
            del kinds[Visitor]
        self.wait_calm()
        before = self.holdings()
        clients, events = self.crowd(kinds), Chaos(self)
        self.events = events
        try:
            events.run(time.monotonic() + self.seconds)
            events.finish()
        finally:
            self.dismiss(clients)
        self.wait_calm()
        self.compare_holdings(before)

    def compare_holdings(self, before):
        """Descriptors that stay open are leaks: as many as at the start, once all is calm."""
        from muster_server import wait_for
        try:
            wait_for(lambda: all(n <= before.get(role, 1 << 30) + 4 for role, n in self.holdings().items()),
                     "descriptors to be given back", 20)
        except AssertionError:
            self.ledger.violation(f"descriptors before {dict(before)}, after {dict(self.holdings())}")

    MOST_MB = {"supervisor": 8, "gateway": 64, "worker magika": 400}  # RssAnon; others: 64

    def judge_memory(self, seen):
        """In the release build: the sanitizers keep freed memory."""
        for (role, pid), samples in seen.items():
            most = max((kib for kib, _ in samples), default=0) / 1024
            if self.preset == "release" and most > self.MOST_MB.get(role, 64):
                self.ledger.violation(f"{role} {pid} had {most:.0f} MB of its own")

    def counters(self) -> dict[tuple[str, str], int]:
        from traffic import metric
        return {(model, name): int(metric(self.server, f"nv_inference_request_{name}", model=model))
                for model in self.models for name in ("success", "failure")}

    def quiet(self):
        """Nothing is killed: the server's own counters must add up with the ledger's."""
        from clients import EXACT
        self.wait_calm()
        before, book = self.counters(), {model: self.ledger.of_model(model) for model in self.models}
        clients = self.crowd(EXACT)
        time.sleep(min(5, 2 + self.seconds / 60))
        self.dismiss(clients)
        self.wait_calm()
        after, n = self.counters(), 0
        for model in self.models:
            ours = self.ledger.of_model(model) - book[model]
            right = ours.pop("right", 0)
            n += right + sum(ours.values())
            for name, mine in (("success", right), ("failure", sum(ours.values()))):
                theirs = after[model, name] - before[model, name]
                if theirs != mine:
                    self.ledger.violation(f"counters of {model}: {name} {theirs}, the ledger has {mine} ({dict(ours)})")
        self.lines.append(("server's own counters", f"the same for {n:,} requests of a quiet stretch"))

    def stop_under_load(self):
        """`muster stop`: whatever was sent before is answered, all leave with status 0, and no leak."""
        from clients import EXACT
        from muster_server import run_muster
        from processes import leak_checked, roles
        pids = dict((pid, role) for role, pid in roles(self.server.status()))
        clients = self.crowd(EXACT)
        time.sleep(1)
        self.ledger.stopping = time.monotonic()
        done = run_muster("stop", "--control-socket", self.server.socket)
        if done.returncode != 0:
            self.ledger.violation(f"muster stop: {done.returncode} {done.stderr}")
        self.dismiss(clients)
        status = self.server.wait_exit()
        if status != 0:
            self.ledger.violation(f"the server ended with status {status}")
        self.examine(self.server)
        self.ledger.stopping = None
        if self.preset == "asan":
            missing = {role for pid, role in pids.items() if pid not in leak_checked(self.server.log)}
            if missing:
                self.ledger.violation(f"the leak sanitizer did not look at the end of: {missing}")
            self.lines.append(("leak check at the end of", ", ".join(sorted(pids.values()))))

    def kill_supervisor(self):
        """Everything leaves with it, and the next start works on the same ports and the same socket."""
        from clients import EXACT
        from muster_server import wait_for
        server = self.start("second", f"--http-port={self.port}", "--grpc-port=0", f"--metrics-port={self.metrics_port}")
        self.wait_calm()
        clients = self.crowd(EXACT)
        time.sleep(2)
        self.ledger.kills.append(time.monotonic())  # the gateway leaves as well
        self.ledger.stopping = time.monotonic()
        os.kill(server.process.pid, signal.SIGKILL)
        for client in clients:
            client.over.set()
        try:
            wait_for(lambda: not server.family(), "children without a supervisor to leave", self.patience)
        except AssertionError as error:
            self.ledger.violation(f"supervisor killed: {error}; left: {server.family()}")
        self.dismiss(clients)
        server.wait_exit()
        server.expected_to_crash = True
        self.examine(server)
        self.ledger.stopping = None
        third = self.start("third", f"--http-port={self.port}", "--grpc-port=0", f"--metrics-port={self.metrics_port}",
                           f"--control-socket={server.socket}", socket=server.socket)
        clients = self.crowd(EXACT)
        time.sleep(1)
        self.dismiss(clients)
        self.examine(third)

    def examine(self, server):
        for problem in server.close():
            self.ledger.violation(problem)

    def judge_ends(self):
        """Every death has a cause that we know of."""
        from processes import ends
        events, (workers, gateways) = self.events, ends(self.server)
        # Pauses of 0, 0.1, 0.2, 0.4 and 0.8 s lie between a worker's tries, and the shortage lasts a second or so; a
        # reload that the signal began may bring a new worker in either of the two.
        short = sum(events.counts.get(name, 0) for name in ("kill_worker_without_descriptors", "descriptors_run_out"))
        allowed = {"found no free file descriptor": short * 6,
                   "signal 9": events.signals[signal.SIGKILL], "signal 11": events.signals[signal.SIGSEGV],
                   "signal 6": 2 * events.counts.get("crash_input", 0),
                   "hung": 2 * events.counts.get("hang_input", 0) + 2 * events.counts.get("hang_worker", 0)}
        for cause, n in workers.items():
            key = next((key for key in allowed if key in cause), None)
            if key is None:
                self.ledger.violation(f"{n} workers ended without a cause of ours: {cause}")
        for key, most in allowed.items():
            n = sum(count for cause, count in workers.items() if key in cause)
            if n > most:
                self.ledger.violation(f"{n} workers ended by {key}, ours are {most}: {dict(workers)}")
        if len(gateways) > len(self.ledger.kills):
            self.ledger.violation(f"gateways ended {len(gateways)} times, killed {len(self.ledger.kills)}: {gateways}")
        self.lines.append(("restarts", f"{sum(workers.values())} workers, {len(gateways)} gateways"))

    def run(self):
        from models import write_repository
        from processes import Sampler
        write_repository(self.repository, self.preset == "tsan")
        self.models = ["identity", "magika", "echo", "faulty"]
        self.start("first")
        sampler = Sampler(self.server)
        sampler.start()
        try:
            self.chaos()
            self.judge_ends()
            self.quiet()
            sampler.over.set()
            sampler.join()
            self.lines += sampler.table()
            self.judge_memory(sampler.seen)
            self.stop_under_load()
            self.kill_supervisor()
        except Exception:
            self.ledger.violation(f"not finished: {traceback.format_exc()}")
        finally:
            sampler.over.set()
            self.examine(self.server)
        self.ledger.settle()


# ---- the result ------------------------------------------------------------------------------------------------------

def result(soak: Soak) -> str:
    from record import commit, table
    ledger, totals = soak.ledger, soak.ledger.totals()
    rows = [("commit", commit()), ("build, seed", f"{soak.preset}, {soak.seed}"),
            ("seconds of chaos, in all", f"{soak.seconds:g}, {time.monotonic() - soak.began:.0f}"),
            ("requests sent", f"{ledger.sent:,}"), ("answered right", f"{totals.pop('right', 0):,}")]
    rows += [(f"refused: {word}" if word[:1].isdigit() else word, f"{n:,}") for word, n in sorted(totals.items())]
    rows += [("lost", f"{len(ledger.on_the_way):,}"),
             ("events", ", ".join(f"{name} {n}" for name, n in sorted(soak.events.counts.items()))),
             ("longest wait of a request", f"{ledger.longest:.1f} s"), *soak.lines,
             ("violations", str(len(ledger.violations)))]
    return table(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--preset", choices=SANITIZERS, default="release")
    parser.add_argument("--without", default="", help="kinds of events to leave out, with commas between")
    parser.add_argument("--no-record", action="store_true", help="leave bench/RESULTS.md alone")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for models and logs, kept (the log is kept anyway after a violation)")
    options = parser.parse_args()
    os.environ.setdefault("MUSTER_BINARY", str(ROOT / "build" / options.preset / "muster"))
    os.environ.setdefault("MUSTER_TEST_PATIENCE", "120")
    folder = options.keep or pathlib.Path(tempfile.mkdtemp(prefix="muster-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder, options.seconds, options.seed, options.preset)
    soak.without = set(options.without.split(","))
    soak.say(f"soak: {options.preset}, {options.seconds:g} s, --seed {options.seed}, logs in {folder}")
    soak.run()
    text = result(soak)
    print(text)
    (folder / "violations").write_text("\n".join(soak.ledger.violations))
    for violation in sorted(soak.ledger.violations, key=lambda text: text.startswith("soak-"))[:40]:
        print(f"VIOLATION: {violation}")
    violations, totals = len(soak.ledger.violations), soak.ledger.totals()
    if not options.no_record:
        from record import record
        record(f"chaos, {options.preset}", text)
    if violations:
        print(f"all violations and the server's logs: {folder}")
    elif options.keep is None:
        shutil.rmtree(folder)
    refused = sum(n for word, n in totals.items() if word[:1].isdigit())
    print(f"soak {options.preset}: {soak.ledger.sent} requests: {totals['right']} answered right, {refused} refused with reason, "
          f"{sum(totals.values()) - totals['right'] - refused} cut or left; {sum(soak.events.counts.values())} events of "
          f"{len(soak.events.counts)} kinds; longest wait {soak.ledger.longest:.1f} s; {violations} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
