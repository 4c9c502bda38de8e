#!/usr/bin/env python3
"""What no batching setting costs: a server without any against static settings, on the MLP and on Magika.

    no_tuning.py [--seconds S] [--warmup S] [--rounds N] [--only NAME ...] [--levels N ...] [--quick] [--json]

The static settings are config.pbtxt's: max_batch_size 1, 4, 8, 16, 32, 64 with dynamic_batching {
max_queue_delay_microseconds: 0, 500, 2000, 5000 } (for a batch of 1 only 0). First every setting runs once at every
concurrency; then, for each concurrency, the best few by throughput run again in turn with the server without settings
(A, untuned, B, untuned, …), --rounds times, and only those runs count: so a slow minute of the machine hits both sides,
and a lucky run does not make a setting the best. Throughput and p99 are medians over the rounds.

For each concurrency: the best static setting, its inferences a second and p99; the untuned server's, next to it; the two
ratios. The aim is at least 0.95 of the throughput and at most 1.2 of the p99. Run as root it takes precedence over
whatever else the machine does (nice -20). With the defaults 25 minutes a model; --quick takes 6 and shows less.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

from models import models
from server import Server

SIZES = (1, 4, 8, 16, 32, 64)
DELAYS_US = (0, 500, 2000, 5000)
FINALISTS = 3  # settings that run again, beside the untuned server
AIMS = {"rate": 0.95, "p99": 1.2}


def settings(quick):
    """Name → the lines that config.pbtxt gets; the first one has none."""
    found = {"untuned": ""}
    for size in SIZES:
        for delay in DELAYS_US if size > 1 else (0,):
            if quick and (size in (8, 32) or delay in (500, 5000)):
                continue
            found[f"batch {size}, delay {delay} us"] = (
                f"max_batch_size: {size}\ndynamic_batching {{ max_queue_delay_microseconds: {delay} }}\n")
    return found


def repository(folder, name, model, text):
    """A model with this configuration in a repository of its own; the path that serving.Server wants."""
    version = folder / name / "1"
    version.mkdir(parents=True)
    (version / "model.onnx").symlink_to(model.resolve())
    if text:
        (folder / name / "config.pbtxt").write_text(text)
    return version / "model.onnx"


def run(name, path, levels, arguments):
    """One server's life: {concurrency: (inferences a second, p99 in us)}."""
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        server = Server(folder, path)
        try:
            # what is learned belongs to the server, so it gets a chance to learn before anything is counted
            results = {level: server.bench(name, level, arguments.seconds, arguments.warmup) for level in levels}
        finally:
            server.close()
    if any(result["errors"] for result in results.values()):
        sys.exit(f"{name}: requests failed")
    return {level: (result["inferences_per_second"], result["p99_us"]) for level, result in results.items()}


def compare(name, model, arguments):
    rows = []
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        paths = {setting: repository(pathlib.Path(folder) / str(i), name, model, text)
                 for i, (setting, text) in enumerate(settings(arguments.quick).items())}
        sweep = {}
        for setting, path in paths.items():
            if setting != "untuned":
                sweep[setting] = run(name, path, arguments.levels, arguments)
                print(f"{name}: {setting}: " + ", ".join(f"{level}: {rate:,.0f}/s" for level, (rate, _)
                                                         in sweep[setting].items()), file=sys.stderr)
        for level in arguments.levels:
            best = sorted(sweep, key=lambda setting: -sweep[setting][level][0])[:FINALISTS]
            runs = {setting: [] for setting in ["untuned", *best]}
            for _ in range(arguments.rounds):
                for setting in best:
                    for each in (setting, "untuned"):
                        runs[each].append(run(name, paths[each], [level], arguments)[level])
            medians = {setting: tuple(statistics.median(values) for values in zip(*results))
                       for setting, results in runs.items()}
            untuned = medians.pop("untuned")
            winner = max(medians, key=lambda setting: medians[setting][0])
            static = medians[winner]
            rows.append({"model": name, "concurrency": level, "setting": winner, "static_rate": static[0],
                         "static_p99_us": static[1], "untuned_rate": untuned[0], "untuned_p99_us": untuned[1],
                         "rate": untuned[0] / static[0], "p99": untuned[1] / static[1]})
    return rows


def print_rows(rows):
    print(f"{'model':<8}{'clients':>8}  {'best static setting':<24}{'inf/s':>10}{'p99 us':>12}"
          f"{'untuned':>10}{'p99 us':>12}{'rate':>8}{'p99':>8}")
    for row in rows:
        missed = row["rate"] < AIMS["rate"] or row["p99"] > AIMS["p99"]
        print(f"{row['model']:<8}{row['concurrency']:>8}  {row['setting']:<24}{row['static_rate']:>10,.0f}"
              f"{row['static_p99_us']:>12,.1f}{row['untuned_rate']:>10,.0f}{row['untuned_p99_us']:>12,.1f}"
              f"{row['rate']:>8.2f}{row['p99']:>8.2f}{'  missed' if missed else ''}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3, help="measured time of each run")
    parser.add_argument("--warmup", type=float, default=3, help="time before it")
    parser.add_argument("--rounds", type=int, default=3, help="how often the best settings and the untuned server take turns")
    parser.add_argument("--only", nargs="*", choices=("mlp", "magika"), default=("mlp", "magika"))
    parser.add_argument("--levels", nargs="*", type=int, default=(1, 4, 16, 64), help="clients")
    parser.add_argument("--quick", action="store_true", help="fewer settings")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if os.geteuid() == 0:
        os.nice(-20)
    rows = []
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder:
        for name, path in models(pathlib.Path(folder) / "models").items():
            if name in arguments.only:
                rows += compare(name, path, arguments)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        print_rows(rows)


if __name__ == "__main__":
    main()
