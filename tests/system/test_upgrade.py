"""muster upgrade: another binary takes a running server's place, and no client notices."""
import contextlib
import http.client
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import threading

import pytest

from muster_server import PATIENCE, VISIBLE, binary_path, environment, put_model, run_muster, wait_for
from oip import Wire, binary_body, outputs_of, same
from traffic import Answer, Client, echo, infer, rows, sim_model, standing_still, worker_pids


@pytest.fixture
def new_binary(tmp_path):
    """Another file with the same program in it."""
    return pathlib.Path(shutil.copy(binary_path(), tmp_path / "muster-new"))


def upgrade(server, binary=None) -> subprocess.CompletedProcess:
    binary = ["--binary", binary] if binary else []
    return run_muster("upgrade", *binary, "--control-socket", server.socket, cwd=server.socket.parent)


def upgraded(server, binary=None) -> dict:
    """An upgrade that has to succeed; the status after it."""
    done = upgrade(server, binary)
    assert done.returncode == 0, f"{done.stderr}\n{server.log}"
    assert "Upgraded from" in done.stdout
    return server.status()


def exe(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/exe")


def programs(server) -> set[str]:
    """Which its processes run."""
    found = set()
    for pid in server.family():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.add(exe(pid))
    return found


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


# ---- traffic that forgives nothing -----------------------------------------------------------------------------------

class Load:
    """Clients that ask one thing after the other until told to end. strict ones never open a second connection;
    http.client ones do what their library does. Whatever is not the right answer is a failure."""

    def __init__(self, server, strict=4, library=3):
        self.server, self.over, self.failures, self.answers = server, threading.Event(), [], 0
        self.threads = [threading.Thread(target=self.run, args=(ask, n)) for n, ask in
                        enumerate([self.ask_strictly] * strict + [self.ask_library] * library)]

    def run(self, ask, n):
        try:
            ask(n)
        except Exception as problem:  # pylint: disable=broad-except
            self.failures.append(repr(problem))

    def ask_strictly(self, n):
        with Client(self.server) as client:
            for i in self.numbers(n):
                answer = client.echo(i)
                if answer.status != 200 or "connection" in answer.headers:
                    self.failures.append((answer, dict(answer.headers)))

    def ask_library(self, n):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        for i in self.numbers(n):
            body, headers = binary_body({"x": rows(i)}, parameters={"binary_data_output": True})
            connection.request("POST", "/v2/models/echo/infer", body, headers)
            response = connection.getresponse()
            reply = WireLike(response)
            if reply.status != 200 or not same(outputs_of(reply)["y"], rows(i)):
                self.failures.append((reply.status, reply.body[:200]))
        connection.close()

    def numbers(self, n):
        i = 0
        while not self.over.is_set():
            yield n * 100_000 + i % 1000
            i += 1
            self.answers += 1

    def wait_for_more(self, n=50):
        target = self.answers + n
        wait_for(lambda: self.answers >= target or self.failures, f"{n} more answers")

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        self.wait_for_more()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not self.failures, f"{len(self.failures)} failures, e.g. {self.failures[:3]}\n{self.server.log}"


class WireLike:
    def __init__(self, response):
        self.status, self.body = response.status, response.read()
        self.headers = {k: v for k, v in response.getheaders()}


def slow_models(tmp_path, **settings):
    repository = sim_model(tmp_path / "models", base_ms=2)
    return sim_model(repository, "slow", base_ms=800, **settings)


# ---- what it is for --------------------------------------------------------------------------------------------------

def test_no_request_fails(serve, tmp_path, new_binary):
    server = serve(slow_models(tmp_path), *VISIBLE)
    before = server.status()
    worker_pids(server)
    idle, slow, half = Client(server), Client(server), Wire(server.port)
    assert idle.echo(1).status == 200
    body, headers = binary_body({"x": rows(7)}, parameters={"binary_data_output": True})
    lines = [f"{k}: {v}" for k, v in headers.items()]
    head = "\r\n".join(["POST /v2/models/echo/infer HTTP/1.1", "Host: t", f"Content-Length: {len(body)}", *lines])
    half.send(head.encode() + b"\r\n\r\n" + body[:50])
    with Load(server) as load:
        slow.send_infer("slow", {"x": rows(2)})
        results = []
        running = threading.Thread(target=lambda: results.append(upgrade(server, new_binary)))
        running.start()
        wait_for(lambda: server.status().get("gateway") not in (None, before["gateway"]), "the next gateway")
        half.send(body[50:])
        answer = Answer(slow.reply())
        assert answer.status == 200 and same(answer.outputs["y"], rows(2))
        running.join(PATIENCE)
        assert results[0].returncode == 0, f"{results[0].stderr}\n{server.log}"
        after = server.status()
        load.wait_for_more()
        assert same(outputs_of(half.reply())["y"], rows(7))
        half.request("GET", "/v2/health/ready")  # the connection is still good
        assert half.reply().status == 200
        assert idle.echo(3).status == 200
        load.wait_for_more()
    for wire in (idle, slow, half):
        wire.close()
    assert after["pid"] == before["pid"] == server.process.pid
    assert after["gateway"]["pid"] != before["gateway"]["pid"]
    assert after["state"] == "ready" and after["upgrade"]["state"] == "done"
    assert after["http"] == before["http"] and after["metrics"] == before["metrics"]
    assert after["uptime_s"] > before["uptime_s"]
    assert not {w["pid"] for w in before["workers"]} & {w["pid"] for w in after["workers"]}
    wait_for(lambda: len(server.family()) == 2 + len(after["workers"]), "those before to leave")
    assert programs(server) == {str(new_binary)}


def test_five_in_a_row_leave_nothing_behind(serve, tmp_path, new_binary):
    server = serve(sim_model(tmp_path / "models", base_ms=2), *VISIBLE)
    worker_pids(server)
    counts = []
    with Load(server, strict=2, library=1) as load:
        for _ in range(5):
            status = upgraded(server, new_binary)
            load.wait_for_more(20)
            wait_for(lambda: len(server.family()) == 3, "only supervisor, gateway and worker to be there")

            def count():
                return descriptors(server.process.pid), descriptors(status["workers"][0]["pid"])
            counts.append(count())
            wait_for(lambda: all(now <= then for now, then in zip(count(), counts[0])), f"no more descriptors than {counts[0]}, not {count()}")
    assert server.status()["upgrade"]["number"] == 5


def test_the_file_that_it_was_started_from(serve, tmp_path, monkeypatch, new_binary):
    """The usual way: the package manager has put another file in its place."""
    place = pathlib.Path(shutil.copy(binary_path(), tmp_path / "muster"))
    monkeypatch.setenv("MUSTER_BINARY", str(place))
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    inode = new_binary.stat().st_ino
    new_binary.rename(place)
    upgraded(server)
    assert os.stat(f"/proc/{server.process.pid}/exe").st_ino == inode
    assert exe(server.process.pid) == str(place)
    assert echo(server, 1).status == 200


def test_status_and_log_tell(serve, tmp_path, new_binary):
    server = serve(sim_model(tmp_path / "models"))
    assert server.status()["upgrade"]["state"] == "none"
    upgraded(server, new_binary)
    said = server.status()["upgrade"]
    assert said["state"] == "done" and said["binary"] == str(new_binary) and said["error"] == ""
    assert said["from"] == said["to"] == server.status()["version"]
    text = run_muster("status", "--control-socket", server.socket).stdout
    assert "upgrade  done, from " in text
    assert any(line["message"] == "upgraded" for line in server.log_lines())


# ---- refused: nothing changes ----------------------------------------------------------------------------------------

def script(path: pathlib.Path, text: str) -> pathlib.Path:
    path.write_text("#!/bin/sh\n" + text + "\n")
    path.chmod(0o755)
    return path


def refused(server, binary, *words):
    before, pids = server.status(), sorted(server.settled_family())
    done = upgrade(server, binary)
    assert done.returncode == 1 and "nothing has changed" in done.stderr, done
    for word in words:
        assert word in done.stderr, done.stderr
    after = server.status()
    assert sorted(server.settled_family()) == pids
    for key in ("pid", "state", "gateway", "models", "workers"):
        assert after[key] == before[key]
    assert after["upgrade"]["state"] == "refused"
    assert exe(server.process.pid) == str(binary_path().resolve())


def test_what_is_no_muster_is_refused(serve, tmp_path):
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    worker_pids(server)
    text = tmp_path / "text"
    text.write_text("no program\n")
    text.chmod(0o755)
    with Load(server, strict=2, library=0) as load:
        refused(server, text, "Exec format error")
        refused(server, script(tmp_path / "fails", "echo one; echo the reason >&2; exit 1"), "exit status 1",
                "the reason")
        refused(server, script(tmp_path / "silent", "exit 0"), "is it muster?")
        refused(server, script(tmp_path / "killed", "kill -9 $$"), "signal 9")
        load.wait_for_more()
    text.chmod(0o644)
    refused(server, text, "Permission denied")
    assert upgrade(server, tmp_path / "nothing").returncode == 1
    assert "nothing" in upgrade(server, tmp_path / "nothing").stderr
    assert echo(server, 1).status == 200


def test_a_check_that_hangs_is_ended(serve, tmp_path, new_binary):
    """Until then there is no other upgrade and no reload; requests are answered all the while."""
    server = serve(sim_model(tmp_path / "models"))
    worker_pids(server)
    hangs = script(tmp_path / "hangs", "exec sleep 1000")
    with Load(server, strict=1, library=0) as load:
        results = []
        running = threading.Thread(target=lambda: results.append(upgrade(server, hangs)))
        running.start()
        wait_for(lambda: server.status()["upgrade"]["state"] == "checking", "the upgrade to begin")
        other = upgrade(server, new_binary)
        assert other.returncode == 1 and "an upgrade is going on" in other.stderr
        reload = run_muster("reload", "--control-socket", server.socket)
        assert reload.returncode != 0 and "an upgrade is going on" in reload.stderr
        running.join()
        assert results[0].returncode == 1 and "did not finish its check" in results[0].stderr
        load.wait_for_more()
        wait_for(lambda: len(server.family()) == 3, "the check to be gone")
        assert run_muster("reload", "--control-socket", server.socket).returncode == 0
        upgraded(server, new_binary)


def test_settings_that_the_new_binary_would_not_take(serve, tmp_path, new_binary):
    settings = tmp_path / "muster.yaml"
    settings.write_text("max-queue-size: 100\n")
    server = serve(sim_model(tmp_path / "models"), "--config", settings, *VISIBLE)
    worker_pids(server)
    settings.write_text("max-queue-syze: 100\n")
    refused(server, new_binary, "max-queue-syze")
    settings.write_text("max-queue-size: 100\n")
    upgraded(server, new_binary)


def test_settings_that_break_after_the_check(serve, tmp_path):
    """The binary is in place already, its settings cannot be read: it goes on with those that were in force."""
    settings = tmp_path / "muster.yaml"
    settings.write_text("max-queue-size: 100\n")
    server = serve(sim_model(tmp_path / "models"), "--config", settings, *VISIBLE)
    worker_pids(server)
    breaks = tmp_path / "breaks"
    breaks.write_text(f'''#!/bin/sh
if [ "$2" = upgrade-check ]; then
  {binary_path()} "$@" || exit 1
  echo "max-queue-syze: 100" >{settings}
  exit 0
fi
exec {binary_path()} "$@"
''')
    breaks.chmod(0o755)
    with Load(server) as load:
        done = upgrade(server, breaks)
        assert done.returncode == 1 and "max-queue-syze" in done.stderr + done.stdout + server.log, done
        load.wait_for_more()
    settings.write_text("max-queue-size: 100\n")
    assert run_muster("reload", "--control-socket", server.socket).returncode == 0
    assert echo(server, 1).status == 200


def test_the_doors_are_closed(tmp_path):
    """What the supervisor says to itself is nobody else's to say."""
    repository = sim_model(tmp_path / "models")
    for value in ("3", "0", "x", "99999999999"):
        done = run_muster("serve", repository, "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--control-socket",
                          tmp_path / "s", env={"MUSTER_ROLE_STATE": value})
        assert done.returncode == 1 and ("MUSTER_ROLE_STATE" in done.stderr or "no state" in done.stderr), done
    done = run_muster("--role", "upgrade-check", repository)
    assert done.returncode == 1 and "no state" in done.stderr


# ---- things that die on the way --------------------------------------------------------------------------------------

def successor(server, known: list[int]) -> int:
    """The gateway that has come since."""
    def is_gateway(pid):
        with contextlib.suppress(OSError):
            return pathlib.Path(f"/proc/{pid}/cmdline").read_text().startswith("muster: gateway")
    return wait_for(lambda: next((pid for pid in server.family() if pid not in known and is_gateway(pid)), None),
                    "the next gateway")


def test_a_gateway_that_does_not_come_up(serve, tmp_path, new_binary):
    """It waits for a worker that stands still, and is killed: the one before goes on. The next try succeeds."""
    server = serve(sim_model(tmp_path / "models"), "--max-execution", "600s")
    [worker] = worker_pids(server)
    before = server.status()
    known = server.family()
    results = []
    with standing_still(worker):
        running = threading.Thread(target=lambda: results.append(upgrade(server, new_binary)))
        running.start()
        os.kill(successor(server, known), signal.SIGKILL)
        running.join(PATIENCE)
    [done] = results
    assert done.returncode == 1 and "failed in part" in done.stderr and "gateway" in done.stderr, done
    after = server.status()
    assert after["gateway"] == before["gateway"] and after["upgrade"]["state"] == "failed"
    assert [w["pid"] for w in after["workers"]] == [worker]
    with Load(server, strict=2, library=1):
        assert upgraded(server, new_binary)["gateway"]["pid"] != before["gateway"]["pid"]


def test_a_worker_that_is_killed_meanwhile(serve, tmp_path, new_binary):
    server = serve(sim_model(tmp_path / "models", base_ms=2), "--processes", "2", *VISIBLE)
    pids = worker_pids(server)
    with Load(server) as load:
        results = []
        running = threading.Thread(target=lambda: results.append(upgrade(server, new_binary)))
        running.start()
        os.kill(pids[0], signal.SIGKILL)
        running.join(PATIENCE)
        load.wait_for_more()
    assert results[0].returncode == 0, f"{results[0].stderr}\n{server.log}"
    wait_for(lambda: len(server.family()) == 4, "those before to leave")
    assert programs(server) == {str(new_binary)}


def test_no_gateway_when_it_is_time_to_execute(serve, tmp_path, new_binary):
    """It dies again and again while the new binary proves itself, and waits to be started again when that is done: the
    upgrade waits with it."""
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    worker_pids(server)
    kills = script(tmp_path / "kills", f"""
    n=0
    while [ "$2" = upgrade-check ] && [ $n -lt 4 ]; do
      for pid in $(cat /proc/$PPID/task/$PPID/children); do
        if grep -q "^muster: gateway" /proc/$pid/cmdline; then kill -ABRT $pid && n=$((n + 1)); fi
      done
      sleep 0.02
    done
    exec {new_binary} "$@" """)
    after = upgraded(server, kills)
    assert after["pid"] == server.process.pid and after["gateway"]["restarts"] >= 3
    wait_for(lambda: len(server.family()) == 3, "those before to leave")
    assert programs(server) == {str(new_binary)}
    assert echo(server, 1).status == 200


def test_connections_that_find_no_descriptor(serve, tmp_path, new_binary):
    """The next gateway has none left when it is to take connections: they are cut, and it goes on."""
    server = serve(sim_model(tmp_path / "models"), *VISIBLE)
    worker_pids(server)
    before, known = server.status()["gateway"]["pid"], server.family()
    clients = [Client(server) for _ in range(3)]
    assert [client.echo(i).status for i, client in enumerate(clients)] == [200] * 3
    results = []
    running = threading.Thread(target=lambda: results.append(upgrade(server, new_binary)))
    lost = "a connection of the gateway before found no free file descriptor"
    with contextlib.ExitStack() as still:
        with standing_still(before):
            running.start()
            gateway = successor(server, known)
            wait_for(lambda: server.status().get("gateway", {}).get("pid") == gateway, "the next gateway to take over")
            stdin = os.readlink(f"/proc/{gateway}/fd/0")
            usual = resource.prlimit(gateway, resource.RLIMIT_NOFILE)
            # the two gateways are among themselves now: no new workers come before there are descriptors again
            still.enter_context(standing_still(server.process.pid))
            resource.prlimit(gateway, resource.RLIMIT_NOFILE, (3, usual[1]))
        wait_for(lambda: server.log.count(lost) == 3, "three lost connections")
        resource.prlimit(gateway, resource.RLIMIT_NOFILE, usual)
    running.join(PATIENCE)
    assert results[0].returncode == 0, f"{results[0].stderr}\n{server.log}"
    assert os.readlink(f"/proc/{gateway}/fd/0") == stdin
    for client in clients:
        client.close()
    assert server.status()["gateway"]["pid"] == gateway
    assert echo(server, 1).status == 200


def test_sighup_meanwhile(serve, tmp_path, new_binary):
    """It is seen to when the upgrade is over, whatever became of that."""
    server = serve(sim_model(tmp_path / "models"))
    worker_pids(server)
    go_on = tmp_path / "go-on"
    waits = script(tmp_path / "waits", f"while [ ! -e {go_on} ]; do sleep 0.05; done; exit 1")
    for name, binary in (("refused", waits), ("failed", new_binary)):
        known = server.family()
        running = threading.Thread(target=lambda binary=binary: upgrade(server, binary))
        with standing_still(worker_pids(server)[0]):
            running.start()
            if name == "failed":
                pid = successor(server, known)
            wait_for(lambda: server.status()["upgrade"]["state"] in ("checking", "gateway"), "the upgrade to begin")
            sim_model(tmp_path / "models", name)
            server.signal(signal.SIGHUP)
            server.status()
            go_on.touch()
            if name == "failed":
                os.kill(pid, signal.SIGKILL)
            running.join(PATIENCE)
            assert server.status()["upgrade"]["state"] == name
        wait_for(lambda: [m["state"] for m in server.status()["models"] if m["name"] == name] == ["READY"],
                 "the new model")


def test_the_next_gateway_is_killed_right_after(serve, tmp_path, new_binary):
    """The one before may have connections still: it keeps them. What the killed one had is cut, nothing else."""
    server = serve(slow_models(tmp_path), *VISIBLE)
    worker_pids(server)
    slow = Client(server)
    slow.send_infer("slow", {"x": rows(5)})
    known = server.family()
    results = []
    running = threading.Thread(target=lambda: results.append(upgrade(server, new_binary)))
    running.start()
    next_gateway = successor(server, known)
    wait_for(lambda: server.status().get("gateway", {}).get("pid") == next_gateway, "the next gateway to take over")
    os.kill(next_gateway, signal.SIGKILL)
    answer = Answer(slow.reply())
    assert answer.status == 200 and same(answer.outputs["y"], rows(5))
    slow.close()
    running.join(PATIENCE)
    server.wait_state("ready")
    assert echo(server, 1).status == 200
    assert programs(server) <= {str(new_binary), str(binary_path().resolve())}


def test_a_model_whose_new_workers_do_not_come_up(serve, tmp_path, new_binary):
    """It keeps the ones that it has; the others get new ones; the upgrade says so. Mended, the next one succeeds."""
    repository = sim_model(tmp_path / "models")
    put_model(repository, "file", "identity.onnx")
    server = serve(repository)
    [old] = worker_pids(server, "file")
    [echo_old] = worker_pids(server, "echo")
    model = repository / "file" / "1" / "model.onnx"
    target = model.readlink()
    model.unlink()
    model.write_bytes(b"no model")
    with Load(server, strict=2, library=1):
        done = upgrade(server, new_binary)
        assert done.returncode == 1 and "model file keeps its workers" in done.stderr, done
        status = server.status()
        assert status["upgrade"]["state"] == "failed" and status["state"] == "ready"
        assert [w["pid"] for w in status["workers"] if w["model"] == "file"] == [old]
        assert [w["pid"] for w in status["workers"] if w["model"] == "echo"] != [echo_old]
        x = rows(3)
        assert same(infer(server, "file", {"x": x}).outputs["y"], x)
        os.kill(old, signal.SIGKILL)  # it is started again with the file that it was served with
        assert same(infer(server, "file", {"x": x}).outputs["y"], x)
        model.unlink()
        model.symlink_to(target)
        upgraded(server, new_binary)
    assert not {old, echo_old} & set(server.family())


def test_what_changed_on_disk_comes_along(serve, tmp_path, new_binary):
    """As with muster reload."""
    repository = sim_model(tmp_path / "models")
    server = serve(repository)
    worker_pids(server)
    sim_model(repository, "second")
    with Load(server, strict=1, library=1):
        upgraded(server, new_binary)
        assert echo(server, 5, model="second").status == 200


# ---- after it --------------------------------------------------------------------------------------------------------

def test_stop_after_an_upgrade(serve, tmp_path, new_binary):
    server = serve(slow_models(tmp_path))
    worker_pids(server)
    upgraded(server, new_binary)
    with Client(server) as client:
        client.send_infer("slow", {"x": rows(5)})
        wait_for(lambda: server.get("/stats").json["queue_depth"] > 0, "the request to be in the server")
        done = run_muster("stop", "--control-socket", server.socket)
        assert done.returncode == 0, done.stderr
        assert same(Answer(client.reply()).outputs["y"], rows(5))
    assert server.wait_exit() == 0


def test_a_signal_in_the_middle_stops_it(serve, tmp_path, new_binary):
    """However far the upgrade is: one SIGTERM, one orderly end."""
    for delay in (0.0, 0.03, 0.06, 0.1):
        server = serve(sim_model(tmp_path / f"models{delay}"))
        running = subprocess.Popen([binary_path(), "upgrade", "--binary", str(new_binary), "--control-socket",
                                    str(server.socket)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=environment())
        wait_for(lambda: "upgrading" in server.log, "the upgrade to begin")
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(delay)
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        running.wait(PATIENCE)
        wait_for(lambda: not server.family(), "all to leave")


def test_a_killed_supervisor_takes_everybody_along(serve, tmp_path, new_binary):
    server = serve(sim_model(tmp_path / "models"))
    worker_pids(server)
    upgraded(server, new_binary)
    server.expected_to_crash = True
    server.signal(signal.SIGKILL)
    server.wait_exit()
    wait_for(lambda: not server.family(), "gateway and worker to leave", 10)


def test_a_worker_dies_after_an_upgrade(serve, tmp_path, new_binary):
    """The new supervisor watches what it has inherited, and restarts it."""
    server = serve(sim_model(tmp_path / "models"))
    worker_pids(server)
    upgraded(server, new_binary)
    [worker] = worker_pids(server)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: worker_pids(server) != [worker], "another worker")
    assert echo(server, 4).status == 200
    gateway = server.status()["gateway"]["pid"]
    os.kill(gateway, signal.SIGKILL)
    wait_for(lambda: server.status()["gateway"]["pid"] not in (None, gateway), "another gateway")
    server.wait_state("ready")
    assert echo(server, 5).status == 200
