"""What was checked, step by step: on the screen as it happens, and as report.json and report.md."""
import json
import signal
import sys
import time
import traceback

PASSED, FAILED, NOT_CHECKED = "passed", "failed", "not checked"


class NotChecked(Exception):
    """A step that cannot be done here; the text says why."""


class Failed(Exception):
    """What the step looked for does not hold; the text says what was found."""


class OutOfTime(Exception):
    """A step took longer than it may."""


def need(condition, text):
    if not condition:
        raise Failed(text)


class Report:
    def __init__(self, about, minutes):
        self.about, self.steps, self.tables = about, [], {}
        self.end = time.monotonic() + minutes * 60

    def left(self):
        """Seconds of the whole check."""
        return self.end - time.monotonic()

    def step(self, name, function, limit):
        """Runs one step, for at most so many seconds. It returns a line for people, or raises."""
        start, found = time.monotonic(), {}
        seconds = min(limit, self.left())
        try:
            if seconds < 1:
                raise NotChecked("no time left: give more --minutes")
            state, text = PASSED, bounded(seconds, function, found) or ""
        except NotChecked as reason:
            state, text = NOT_CHECKED, str(reason)
        except Failed as problem:
            state, text = FAILED, str(problem)
        except OutOfTime:
            state, text = FAILED, f"not done within {seconds:.0f} s"
        except SystemExit as problem:  # of bench/server.py
            state, text = FAILED, str(problem)
        except Exception:  # pylint: disable=broad-except # of this script or of what it ran: the other steps go on
            state, text = FAILED, traceback.format_exc(limit=-3)
        row = {"step": name, "result": state, "text": text, "seconds": round(time.monotonic() - start, 2), **found}
        self.steps.append(row)
        print(f"{state:<12}{name}: {text.strip()}", flush=True)
        return state == PASSED

    def skip(self, name, reason):
        self.steps.append({"step": name, "result": NOT_CHECKED, "text": reason, "seconds": 0})
        print(f"{NOT_CHECKED:<12}{name}: {reason}", flush=True)

    def failed(self):
        return [row["step"] for row in self.steps if row["result"] == FAILED]

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        counts = {state: sum(row["result"] == state for row in self.steps) for state in (PASSED, FAILED, NOT_CHECKED)}
        whole = {"about": self.about, "counts": counts, "steps": self.steps, "tables": self.tables}
        (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
        (folder / "report.md").write_text(markdown(whole))
        return counts


def bounded(seconds, function, found):
    def too_long(*_):
        raise OutOfTime
    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return function(found)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def markdown(whole):
    lines = ["# muster on a GPU: what was checked", ""]
    if whole["about"].get("simulated"):
        lines += ["**Simulated.** No GPU was used: this checks the check, and says nothing about a GPU.", ""]
    lines += [f"- {key}: {value}" for key, value in whole["about"].items()]
    counts = whole["counts"]
    lines += ["", f"{counts[PASSED]} passed, {counts[FAILED]} failed, {counts[NOT_CHECKED]} not checked.", ""]
    for state in (FAILED, NOT_CHECKED, PASSED):
        rows = [row for row in whole["steps"] if row["result"] == state]
        if rows:
            lines += [f"## {state.capitalize()}", ""]
            lines += [f"- **{row['step']}** ({row['seconds']} s): {' '.join(row['text'].split())}" for row in rows] + [""]
    for title, rows in whole["tables"].items():
        if rows:
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines += [f"## {title}", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
            lines += ["| " + " | ".join(cell(row.get(column)) for column in columns) + " |" for row in rows] + [""]
    return "\n".join(lines)


def cell(value):
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def tell(text):
    print(text, file=sys.stderr, flush=True)
