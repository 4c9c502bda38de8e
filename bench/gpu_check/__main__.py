"""Checks muster on a machine with an NVIDIA GPU. docs/gpu-check.md says what, and what it cannot."""
import argparse
import datetime
import functools
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile

import building
import libraries
import staging
from report import FAILED, NOT_CHECKED, Failed, Report, tell

ROOT = pathlib.Path(__file__).resolve().parents[2]
NO_GPU = 3


def arguments_of(words):
    parser = argparse.ArgumentParser(prog="script/gpu-check", description=__doc__.splitlines()[0],
                                     epilog="Exit status: 0 all that could be checked holds, 1 something does not, 2 wrong use or a "
                                            "damaged stage, 3 no GPU. `script/gpu-check stage --help` is about staging.")
    parser.add_argument("--staged", type=pathlib.Path, metavar="DIR", help="libraries from here (of `stage`): nothing is fetched")
    parser.add_argument("--libraries", type=pathlib.Path, metavar="DIR",
                        help="unpacked ones: a folder with onnxruntime/capi/ (such as site-packages of a Python with onnxruntime-gpu)")
    parser.add_argument("--muster", type=pathlib.Path, metavar="FILE", help="this program instead of building one")
    parser.add_argument("--gpu", type=int, default=0, metavar="INDEX", help="which GPU, as nvidia-smi counts (default 0)")
    parser.add_argument("--minutes", type=float, default=8, help="for everything; what finds no time is not checked (default 8)")
    parser.add_argument("--seconds", type=float, default=None, help="measured time of each row of the table (default 3)")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "build/gpu-check", metavar="DIR",
                        help="where report.json and report.md go (default build/gpu-check of this repository)")
    parser.add_argument("--simulate", "--dry-run", action="store_true",
                        help="the check itself on simulated GPUs and a simulated driver, in seconds")
    return parser.parse_args(words)


def stage_main(words):
    parser = argparse.ArgumentParser(prog="script/gpu-check stage", description="Fetches what the check needs, for a machine without network.")
    parser.add_argument("folder", type=pathlib.Path, help="new or empty")
    parser.add_argument("--only-runtime", action="store_true", help="without CUDA's libraries: the machine has CUDA 13 and cuDNN 9")
    parser.add_argument("--arch", type=int, nargs="+", default=[], metavar="N",
                        help="only code for these GPUs: 80 A100, 86, 89 L4, 90 H100 and H200, 120 … (default: all)")
    parser.add_argument("--part-mb", type=float, default=59, help="size of a part in MB of 10^6 bytes (default 59)")
    parser.add_argument("--muster", type=pathlib.Path, metavar="FILE", help="takes this program along, with what it is linked with")
    given = parser.parse_args(words)
    if not 0 < given.part_mb <= 4000:
        parser.error("--part-mb: above 0")
    manifest = staging.stage(given.folder, "runtime" if given.only_runtime else "all", set(given.arch),
                             int(given.part_mb * staging.MB), given.muster, tell)
    for entry in manifest["files"]:
        print(f"{entry['size'] / staging.MB:9.1f} MB  packed {entry['packed'] / staging.MB:7.1f} MB  {entry['path']}")
    print(f"{manifest['packed'] / staging.MB:.1f} MB ({manifest['packed'] / 2**20:.1f} MiB) in {len(manifest['parts'])} parts in {given.folder}")
    return 0


def no_gpu():
    """Why there is no GPU here, or None. Cheap: before anything is fetched or built."""
    if os.path.exists("/dev/nvidiactl") or os.path.exists("/dev/nvidia0") or os.path.exists("/dev/dxg"):
        return None
    smi = shutil.which("nvidia-smi")
    if smi and subprocess.run([smi, "-L"], capture_output=True, check=False, timeout=60).returncode == 0:
        return None
    return "there is no /dev/nvidiactl, and nvidia-smi " + ("finds no GPU" if smi else "is not here")


# ---- what stands before the checks -------------------------------------------------------------------------------------

def get_libraries(given, work, found):
    """The folder that holds onnxruntime/capi and nvidia/, complete."""
    if given.libraries:
        site = work / "site"
        shutil.copytree(given.libraries / "onnxruntime" / "capi", site / "onnxruntime" / "capi", symlinks=False,
                        ignore=lambda folder, names: [name for name in names if not name.startswith("libonnxruntime")])
        for folder in sorted((given.libraries / "nvidia").glob("*/lib")):
            (site / "nvidia" / folder.parent.name).mkdir(parents=True)
            (site / "nvidia" / folder.parent.name / "lib").symlink_to(folder.resolve())
    elif given.staged:
        site = given.unpacked / "site"
    else:
        site = work / "site"
        site.mkdir()
        found["wheels"] = staging.fetch(site, "all")
    if not list((site / "onnxruntime" / "capi").glob("libonnxruntime_providers_cuda.so")):
        raise Failed("no libonnxruntime_providers_cuda.so there: this is not the CUDA build of ONNX Runtime")
    places = libraries.find(str(site))
    needed, useful = libraries.missing(places)
    found.update(places=places, missing=needed + useful)
    if needed:
        raise Failed(f"missing: {', '.join(needed)}. Install these Python packages, or stage without --only-runtime")
    libraries.link(str(site), places)
    given.site = site
    return f"{len(places)} libraries found" + (f"; not here, and perhaps not needed: {', '.join(useful)}" if useful else "")


def make_models(folder, simulated):
    import models
    import numpy as np
    folder.mkdir()
    small = {"size": 32, "width": 8} if simulated else {}
    models.make_mlp(folder / "mlp.onnx")
    models.make_unet(folder / "unet.onnx", **small)
    models.make_unet(folder / "unet16.onnx", dtype=np.float16, **small)
    paths = {"mlp": folder / "mlp.onnx", "unet": folder / "unet.onnx", "unet16": folder / "unet16.onnx"}
    magika = ROOT / ".deps/models/magika/1/model.onnx"
    if magika.exists():
        paths["magika"] = magika
    return paths


# ---- the checks ----------------------------------------------------------------------------------------------------------

def run_checks(report, machine, given, models):
    from checks import (drivers_view, fleet, killed_worker, memory, no_fallback, pinning, same_results, sharing_row, xid_events)
    simulated = given.simulate

    def step(name, limit, function, *more, **named):
        def call(found):
            try:
                return function(machine, found, *more, **named)
            finally:
                machine.close_servers()
        return report.step(name, call, limit)

    if not step("the driver, by NVML", 60, drivers_view):
        return
    cpu_library = ROOT / ".deps/onnxruntime/lib"
    if cpu_library.exists():
        step("no silent fallback to the CPU", 60, no_fallback, models["mlp"], cpu_library)
    else:
        report.skip("no silent fallback to the CPU", "the CPU build of ONNX Runtime (.deps/onnxruntime, by script/bootstrap) is not here")
    device = "cpu" if simulated else "gpu"
    for name, path, kind in (("mlp", "mlp", "FP32"), ("unet", "unet", "FP32"), ("unet", "unet", "TF32"), ("unet16", "unet16", "FP16"),
                             ("magika", "magika", "FP32")):
        title = f"results of {name} in {kind}" + (", on the CPU" if simulated else "")
        if path not in models:
            report.skip(title, "the model is not here (.deps/models, by script/bootstrap)")
        elif not (simulated and (kind == "TF32" or name == "magika")):  # the same again, on the CPU
            step(title, 90, same_results, name, models[path], kind, device)
    unet = None if simulated else models["unet"]
    step("a fleet of two workers", 90, fleet, unet)
    step("pinning", 5, pinning)
    step("Xid events", 5, xid_events)
    step("memory of a worker", 5, memory)
    step("a worker is killed under load", 90, killed_worker, unet, 2 if simulated else 5)
    if not simulated:
        step("a worker is killed under load, MPS", 90, killed_worker, unet, 3, mps=True)
    seconds = given.seconds or (0.3 if simulated else 3)
    table = report.tables.setdefault("One GPU: processes, MPS, batches", [])
    for mps in (False, True):
        for processes in ((1, 2) if simulated else (1, 2, 4)):
            for batch in ((1, 8) if simulated else (1, 8, 32)):
                if mps and processes == 1:
                    continue
                title = f"{processes} processes{', MPS' if mps else ''}, batches of {batch}"
                step(title, 40 + seconds, sharing_row, table, unet, processes, mps, batch, seconds)
    not_possible(report, machine)


def not_possible(report, machine):
    """What no run of this script, or none on this machine, can say."""
    whole = [gpu for gpu in machine.inventory["gpus"] if gpu["mig_index"] is None]
    if machine.simulated:
        for name in ("CUDA", "results on a GPU", "MPS's daemon", "memory on a GPU", "speed"):
            report.skip(name, "simulated: no GPU was used")
    report.skip("several GPUs", "one GPU only" if len(whole) == 1 else f"of {len(whole)} GPUs one was used; the move of work is tested "
                                                                      "on simulated GPUs (tests/system/test_fleet.py)")
    if not any("NV" in gpu["links"] for gpu in whole):
        report.skip("NVLink", "no two GPUs here are connected by it")
    if not any(gpu["mig_index"] is not None for gpu in machine.inventory["gpus"]):
        report.skip("MIG", "no GPU here is divided")
    report.skip("faults of a GPU", "a real Xid, a lost GPU, an ECC error: nobody makes one on purpose; tests/system/test_fleet.py has them simulated")


def about(given):
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {"time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "commit": done.stdout.strip() or "unknown",
            "machine": f"{platform.system()} {platform.release()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores",
            "simulated": given.simulate, "gpu": given.gpu, "minutes": given.minutes}


def check(given, report, work):
    muster = given.muster
    if given.staged:
        given.unpacked = work / "staged"
        staging.unpack(given.staged, given.unpacked)
        staged = given.unpacked / "muster" / "muster"
        muster = muster or (staged if staged.exists() else None)
    if muster is None and not report.step("build", building.build, 600):
        return
    muster = (muster or ROOT / "build/release/muster").resolve()
    if not given.simulate and not report.step("CUDA's libraries", functools.partial(get_libraries, given, work), 400):
        return
    from machine import Machine
    machine = Machine(work, muster, given.simulate, given.gpu)
    if not given.simulate:
        machine.capi = given.site / "onnxruntime" / "capi"
    try:
        run_checks(report, machine, given, make_models(work / "models", given.simulate))
    finally:
        machine.kill_servers()


def main():
    if sys.argv[1:2] == ["stage"]:
        return stage_main(sys.argv[2:])
    given = arguments_of(sys.argv[1:])
    if given.staged:
        staging.check_parts(given.staged, staging.read_manifest(given.staged))  # before anything else costs time
    if not given.simulate and (reason := no_gpu()):
        print(f"gpu-check: no NVIDIA GPU on this machine: {reason}. `script/gpu-check --simulate` tries the check itself, and "
              "`script/gpu-check stage DIR` prepares one elsewhere.", file=sys.stderr)
        return NO_GPU
    report = Report(about(given), given.minutes)
    with tempfile.TemporaryDirectory(prefix="muster-gpu-check-") as work:
        check(given, report, pathlib.Path(work))
    counts = report.write(given.out)
    print(f"{counts['passed']} passed, {counts[FAILED]} failed, {counts[NOT_CHECKED]} not checked: {given.out}/report.md")
    return 1 if report.failed() else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except staging.Refused as refusal:
        print(f"gpu-check: {refusal}", file=sys.stderr)
        sys.exit(2)
