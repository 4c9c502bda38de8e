"""A worker that has been taken over writes nonsense into its own shared memory, under load: here that is written from
outside, through /proc/PID/mem, into whatever the worker owns (its ring file, its output arena)."""
import os
import pathlib
import random
import struct
import threading
import time

import pytest

from muster_server import PATIENCE, VISIBLE, wait_for
from oip import same
from traffic import Client, crowd, depth, echo, rows, sim_model, worker_pids
from test_worker_death import holdings, wait_no_more_than

HEADER = struct.Struct("<QHHIQQIIIIQQQQ")  # docs/shared-memory.md
LINE = 128
ATTACK_SECONDS, DEATHS = 4, 4  # an attack ends with whichever comes first


# ---- the attacker ----------------------------------------------------------------------------------------------------

class Prey:
    """The writable memory of a worker, as it is mapped there now."""

    def __init__(self, pid: int):
        self.memory = os.open(f"/proc/{pid}/mem", os.O_RDWR)
        self.maps = {}
        for line in pathlib.Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, access, *_, path = line.split(maxsplit=5)
            if access == "rw-s" and path.startswith("/memfd:muster"):
                begin, end = (int(half, 16) for half in span.split("-"))
                self.maps["output" if "output" in path else "rings"] = (begin, end - begin)
        begin = self.maps["rings"][0]
        fields = HEADER.unpack(os.pread(self.memory, HEADER.size, begin))
        self.lanes, self.sleepers_at, self.lanes_at, self.rings_at, self.ring_size = fields[6], *fields[10:]

    def word(self, at: int) -> int:
        return struct.unpack("<Q", os.pread(self.memory, 8, self.maps["rings"][0] + at))[0]

    def set_word(self, at: int, value: int):
        self.write("rings", at, struct.pack("<Q", value & (1 << 64) - 1))

    def write(self, name: str, at: int, data: bytes):
        os.pwrite(self.memory, data, self.maps[name][0] + at)

    def close(self):
        os.close(self.memory)


def nonsense(dice: random.Random, old: int) -> int:
    return dice.choice([0, 1, 7, 8, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, old - 8, old + 8, old + 3,
                        old + 4096, old ^ (1 << dice.randrange(64)), dice.getrandbits(64)])


def spoil_tail(dice, prey):
    at = prey.lanes_at + 2 * LINE * dice.randrange(prey.lanes)
    prey.set_word(at, nonsense(dice, prey.word(at)))


def spoil_head(dice, prey):
    at = prey.lanes_at + 2 * LINE * dice.randrange(prey.lanes) + LINE
    prey.set_word(at, nonsense(dice, prey.word(at)))


def spoil_sleep_word(dice, prey):
    at = prey.sleepers_at + LINE * dice.randrange(prey.lanes)
    prey.set_word(at, nonsense(dice, prey.word(at)))


def spoil_header(dice, prey):
    prey.set_word(8 * dice.randrange(16), dice.getrandbits(64))


def spoil_newest_records(dice, prey):
    """Words around the end of a ring, where the gateway reads next: sizes, kinds, batches, offsets, shapes."""
    lane = dice.randrange(prey.lanes)
    tail = prey.word(prey.lanes_at + 2 * LINE * lane)
    for _ in range(8):
        at = (tail + 8 * dice.randrange(-64, 64)) % prey.ring_size
        place = prey.rings_at + lane * prey.ring_size + at
        prey.set_word(place, nonsense(dice, prey.word(place)))


def spoil_ring(dice, prey):
    place = prey.rings_at + prey.ring_size * dice.randrange(prey.lanes)
    prey.write("rings", place, dice.randbytes(min(prey.ring_size, 1 << 16)))


def forge_completions(dice, prey):
    """A tail that runs ahead, over records that were never written or are long consumed."""
    at = prey.lanes_at + 2 * LINE * dice.randrange(prey.lanes)
    prey.set_word(at, prey.word(at) + 8 * dice.randrange(1, 64))


def spoil_outputs(dice, prey):
    prey.write("output", 4096 * dice.randrange(4), dice.randbytes(4096))


RINGS = [spoil_tail, spoil_head, spoil_sleep_word, spoil_header, spoil_newest_records, spoil_ring, forge_completions]


def attack(server, model: str, dice: random.Random, spoilers, has_hit) -> int:
    """Writes again and again into whichever process is the model's worker, for a while and until something was hit; how
    many writes."""
    prey, pid, writes, begun = None, None, 0, time.monotonic()
    while time.monotonic() < begun + (ATTACK_SECONDS if has_hit() else PATIENCE):
        (worker,) = server.workers(model)
        if worker["restarts"] >= DEATHS:
            break
        if worker["pid"] != pid and prey is not None:
            prey.close()
            prey = None
        pid = worker["pid"]
        for _ in range(10):
            try:
                prey = prey or Prey(pid)
                dice.choice(spoilers)(dice, prey)
                writes += 1
            except (OSError, KeyError, struct.error, TypeError):  # not attached yet, or gone
                break
            time.sleep(dice.random() / 200)
    if prey is not None:
        prey.close()
    return writes


# ---- the clients -----------------------------------------------------------------------------------------------------

class Load:
    """Clients that send to a model until they are told to stop; every answer is looked at, and every one comes."""

    def __init__(self, server, threads, model, clients, may_be_wrong=False):
        self.server, self.model, self.may_be_wrong = server, model, may_be_wrong
        self.over = threading.Event()
        self.statuses, self.wrong = {}, []
        self.futures = [threads.submit(self.run, number) for number in range(clients)]

    def run(self, number):
        with Client(self.server) as client:
            for i in range(1 << 30):
                if self.over.is_set():
                    return
                sent = rows(1000 * number + i % 1000)
                answer = client.infer_arrays(self.model, {"x": sent})
                self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                if answer.status == 200 and not same(answer.outputs["y"], sent):
                    self.wrong.append((number, i))

    def end(self):
        self.over.set()
        for future in self.futures:
            future.result()


def anonymous_memory(pid: int) -> int:
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("spoilers", [RINGS, [spoil_outputs], [*RINGS, spoil_outputs]], ids=["rings", "outputs", "all"])
def test_nonsense_in_a_workers_memory_costs_nobody_else(serve, tmp_path, spoilers, seed):
    models = sim_model(sim_model(tmp_path / "models", "taken", base_ms=2), "other", base_ms=2)
    # max-execution: what hangs is a worker that was made to oversleep its doorbell
    server = serve(models, "--cpu-slots=2", "--max-execution=1s", *VISIBLE)
    gateway, (other,) = server.status()["gateway"]["pid"], worker_pids(server, "other")
    dice = random.Random(seed)
    with crowd() as threads:
        for model in ("taken", "other"):
            assert echo(server, 1, model=model).status == 200
        before, memory = holdings(gateway), anonymous_memory(gateway)
        loads = {model: Load(server, threads, model, 4) for model in ("taken", "other")}
        try:
            has_hit = ((lambda: loads["taken"].wrong) if spoilers == [spoil_outputs] else
                       (lambda: server.workers("taken")[0]["restarts"] > 0))
            writes = attack(server, "taken", dice, spoilers, has_hit)
        finally:
            for load in loads.values():
                load.end()

    # the gateway lives, and so does who had no part in it
    status = server.status()
    assert (status["gateway"]["pid"], status["gateway"]["restarts"]) == (gateway, 0), server.log[-3000:]
    assert worker_pids(server, "other") == [other]
    assert set(loads["other"].statuses) == {200} and not loads["other"].wrong
    # the attacked model: what is wrong is its own outputs and nothing else
    assert set(loads["taken"].statuses) <= {200, 500, 503, 504} and 200 in loads["taken"].statuses
    assert not loads["taken"].wrong or spoil_outputs in spoilers
    (taken,) = server.workers("taken")
    assert writes > 0 and (taken["restarts"] > 0) == (spoilers != [spoil_outputs]), server.log[-3000:]
    assert loads["taken"].wrong or spoilers != [spoil_outputs], "nothing was hit"

    # nothing is left of it
    wait_for(lambda: server.get("/v2/health/ready").status == 200, "readiness")
    worker_pids(server)
    for model in ("taken", "other"):
        answers = [echo(server, i, model=model) for i in range(20)]
        assert [answer.status for answer in answers] == [200] * 20, answers
    wait_for(lambda: depth(server) == 0, "an empty server")
    wait_no_more_than([gateway], [before])
    if "asan" not in pathlib.Path(f"/proc/{gateway}/maps").read_text():  # which keeps what was freed
        assert anonymous_memory(gateway) - memory < 8 << 20
