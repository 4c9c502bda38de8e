"""Results in bench/RESULTS.md: each part between markers of its own, the last run in the place of the one before.

    record.py fuzz SECONDS <the lines of `script/test fuzz`
"""
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TITLE = """
## The long check

`script/soak` writes its last results here. Memory is RssAnon; memory and descriptors of a process: first seen / last seen / most.
"""


def commit() -> str:
    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "src", "include", "tests", "script", "CMakeLists.txt")
    return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")


def table(rows: list[tuple[str, str]]) -> str:
    return "| what | |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)


def record(part: str, text: str):
    path = ROOT / "bench" / "RESULTS.md"
    old, begin, end = path.read_text(), f"<!-- soak {part} -->\n", f"<!-- end of soak {part} -->\n"
    if begin in old:
        path.write_text(old[:old.index(begin)] + begin + text + old[old.index(end):])
        return
    title = "" if TITLE in old else TITLE
    path.write_text(f"{old.rstrip()}\n{title}\n### {part}\n\n{begin}{text}{end}")


def main():
    lines = [line.strip().partition(": ") for line in sys.stdin if line.startswith("fuzz_")]
    rows = [("commit", commit()), ("seconds for each target", sys.argv[2])] + [(name, said) for name, _, said in lines]
    record("fuzz", table(rows))


if __name__ == "__main__":
    main()
