"""The server's processes from outside: memory, descriptors, why they ended, what the sanitizers said."""
import collections
import pathlib
import re
import threading


def anonymous_kib(pid: int) -> int:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+)", status).group(1))


def descriptors(pid: int) -> int:
    return len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))


class Sampler(threading.Thread):
    """Looks at every process once a second. seen: {(role, pid): [(RssAnon in KiB, descriptors), …]}"""

    def __init__(self, server):
        super().__init__(name="sampler", daemon=True)
        self.server, self.over = server, threading.Event()
        self.seen: dict[tuple[str, int], list[tuple[int, int]]] = collections.defaultdict(list)

    def run(self):
        while not self.over.wait(1):
            try:
                status = self.server.status()
            except Exception:
                continue  # it is being stopped
            for role, pid in roles(status):
                try:
                    self.seen[role, pid].append((anonymous_kib(pid), descriptors(pid)))
                except (OSError, AttributeError):
                    continue  # just ended

    def table(self) -> list[tuple[str, str]]:
        """For each role: memory and descriptors when first and last seen, and the most ever."""
        rows = []
        for role in sorted({role for role, _ in self.seen}):
            of_role = [samples for (name, _), samples in self.seen.items() if name == role and samples]
            first, last = of_role[0][0], of_role[-1][-1]
            most = [max(sample[i] for samples in of_role for sample in samples) for i in (0, 1)]
            rows.append((role, f"{first[0] / 1024:.1f} / {last[0] / 1024:.1f} / {most[0] / 1024:.1f} MB, "
                               f"{first[1]} / {last[1]} / {most[1]} descriptors, {len(of_role)} processes"))
        return rows


def roles(status: dict):
    if status.get("pid"):
        yield "supervisor", status["pid"]
    if status.get("gateway", {}).get("pid"):
        yield "gateway", status["gateway"]["pid"]
    for worker in status.get("workers", []):
        if worker["pid"] and worker["state"] == "ready":
            yield f"worker {worker['model']}", worker["pid"]


def ends(server) -> tuple[collections.Counter, list[str]]:
    """How often workers died and of what; how gateways ended."""
    workers, gateways = collections.Counter(), []
    for line in server.log_lines():
        if line.get("message", "").startswith("worker ended"):
            workers[line["error"]] += 1
        elif line.get("message", "").startswith("gateway ended"):
            gateways.append(line["error"])
    return workers, gateways


def leak_checked(log: str) -> set[int]:
    """Processes whose end the leak sanitizer has looked at (LSAN_OPTIONS=log_threads=1)."""
    return {int(pid) for pid in re.findall(r"Processing thread (\d+)\.", log)}
