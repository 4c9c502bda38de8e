"""script/gpu-check where there is no GPU: on simulated ones, what it refuses, and staged parts. What CUDA does is not here."""
import json
import lzma
import os
import struct
import subprocess
import sys

import pytest

from muster_server import ROOT, binary_path, environment

sys.path.insert(0, str(ROOT / "bench" / "gpu_check"))
import fatbin  # noqa: E402
import libraries  # noqa: E402
import staging  # noqa: E402


def gpu_check(*arguments, cwd=None, **env):
    return subprocess.run([ROOT / "script/gpu-check", *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=environment(env), stdin=subprocess.DEVNULL, check=False, cwd=cwd)


def test_simulated(tmp_path):
    """Every step runs, and the report says what it could not check."""
    done = gpu_check("--simulate", "--muster", binary_path(), "--out", tmp_path, "--seconds", "0.1", "--minutes", "5")
    report = json.loads((tmp_path / "report.json").read_text())
    results = {step["step"]: step["result"] for step in report["steps"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["about"]["simulated"] and report["counts"]["failed"] == 0
    for step in ("the driver, by NVML", "no silent fallback to the CPU", "results of unet in FP32, on the CPU", "pinning", "Xid events",
                 "a worker is killed under load", "2 processes, MPS, batches of 8"):
        assert results[step] == "passed", done.stdout
    for step in ("CUDA", "results on a GPU", "several GPUs", "NVLink", "MIG", "faults of a GPU"):
        assert results[step] == "not checked", done.stdout
    (table,) = report["tables"].values()
    assert len(table) == 6 and all(row["errors"] == 0 and row["inferences/s"] > 0 and row["p99 ms"] >= row["p50 ms"] for row in table)
    text = (tmp_path / "report.md").read_text()
    assert "**Simulated.**" in text and "one GPU only" in text and "| 2 | on | 8 |" in text


DEAF = """
import json, pathlib, sys
from machine import Machine
import checks
machine = Machine(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), True)
scenario = pathlib.Path(sys.argv[1], "nvml.json")
told = json.loads(scenario.read_text())
told["gpus"][0]["events"] = False
scenario.write_text(json.dumps(told))
machine.fake_nvml = lambda *_: None
checks.fleet(machine, {}, None)
checks.xid_events(machine, {})
"""


def test_a_driver_that_reports_no_faults_fails_the_step(tmp_path):
    done = subprocess.run([sys.executable, "-c", DEAF, tmp_path, binary_path()], capture_output=True, text=True, timeout=120, check=False,
                          env=environment({"PYTHONPATH": str(ROOT / "bench/gpu_check")}), cwd=tmp_path)
    assert "Failed: the driver reports no Xid events: none of the 1 GPUs reports Xid events" in done.stderr


def test_no_time_is_not_checked(tmp_path):
    done = gpu_check("--simulate", "--muster", binary_path(), "--out", "out", "--minutes", "0", cwd=tmp_path)
    report = json.loads((tmp_path / "out/report.json").read_text())  # a path is that of who calls
    assert report["counts"]["passed"] == 0 and "no time left" in done.stdout


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="a GPU is here")
def test_no_gpu(tmp_path):
    done = gpu_check("--out", tmp_path / "out")
    assert done.returncode == 3 and "no NVIDIA GPU on this machine" in done.stderr and "--simulate" in done.stderr
    assert not (tmp_path / "out").exists()


# ---- staged parts --------------------------------------------------------------------------------------------------------

@pytest.fixture
def staged(tmp_path):
    """A few files in small parts."""
    source = tmp_path / "source"
    (source / "site/onnxruntime/capi").mkdir(parents=True)
    (source / "muster").mkdir()
    (source / "site/onnxruntime/capi/libonnxruntime.so.1").write_bytes(os.urandom(25_000))
    (source / "muster/muster").write_bytes(b"#!/bin/sh\n" * 1000)
    (source / "muster/muster").chmod(0o755)
    staging.pack(source, tmp_path / "staged", 10_000, {})
    return tmp_path / "staged"


def test_parts_are_bounded_and_come_together(staged, tmp_path):
    parts = sorted(staged.glob("part-*"))
    assert len(parts) == 3 and all(part.stat().st_size <= 10_000 for part in parts)
    staging.unpack(staged, tmp_path / "target")
    for path in (tmp_path / "source").rglob("*"):
        copy = tmp_path / "target" / path.relative_to(tmp_path / "source")
        assert path.is_dir() or (copy.read_bytes() == path.read_bytes() and copy.stat().st_mode == path.stat().st_mode)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage, message", [
    (lambda folder: flip(folder / "part-001"), "part-001 is damaged"),
    (lambda folder: (folder / "part-002").unlink(), "part-002 is missing"),
    (lambda folder: (folder / "part-000").write_bytes(b"x"), "part-000 has 1 bytes, not 10000"),
    (lambda folder: (folder / "manifest.json").unlink(), "is no staged folder"),
    (lambda folder: (folder / "manifest.json").write_text('{"format": 2}'), "of a format that this script does not know")])
def test_damage_is_refused(staged, damage, message):
    damage(staged)
    done = gpu_check("--staged", staged)  # also where there is no GPU: a stage can be checked anywhere
    assert done.returncode == 2 and message in done.stderr


def rewrite(staged, change):
    manifest = json.loads((staged / "manifest.json").read_text())
    change(manifest)
    (staged / "manifest.json").write_text(json.dumps(manifest))


def test_what_unpacks_to_something_else_is_refused(staged, tmp_path):
    rewrite(staged, lambda manifest: manifest["files"][0].update(sha256="0" * 64))
    with pytest.raises(staging.Refused, match="does not unpack to what was staged"):
        staging.unpack(staged, tmp_path / "target")


def test_nothing_is_written_outside(staged, tmp_path):
    rewrite(staged, lambda manifest: manifest["files"][0].update(path="../outside"))
    with pytest.raises(staging.Refused, match="outside of"):
        staging.unpack(staged, tmp_path / "target")
    assert not (tmp_path / "outside").exists()


def test_a_folder_in_use_is_not_staged_into(staged, tmp_path):
    with pytest.raises(staging.Refused, match="is not empty"):
        staging.pack(tmp_path / "source", staged, 10_000, {})


# ---- code for other GPUs -------------------------------------------------------------------------------------------------

def fat_binary(*codes):
    """As NVIDIA's compiler writes it: (architecture, code) each with a header of 64 bytes."""
    body = b""
    for architecture, code in codes:
        header = bytearray(64)
        struct.pack_into("<HHIQ", header, 0, 2, 0x101, 64, len(code))
        struct.pack_into("<I", header, 28, architecture)
        body += bytes(header) + code
    return fatbin.MAGIC + struct.pack("<Q", len(body)) + body


def test_code_for_other_gpus_becomes_zeros():
    before = b"code" * 5 + fat_binary((80, b"A" * 64), (90, b"H" * 128)) + b"between" + fat_binary((75, b"T" * 8), (90, b"h" * 16)) + b"end"
    data = bytearray(before)
    assert fatbin.keep_architectures(data, {90}) == ({90: 144}, {80: 64, 75: 8})
    assert data == before.replace(b"A" * 64, bytes(64)).replace(b"T" * 8, bytes(8))
    assert len(lzma.compress(data)) < len(lzma.compress(before)) + 64


@pytest.mark.parametrize("data", [fatbin.MAGIC, fatbin.MAGIC + struct.pack("<Q", 1 << 60), fat_binary((80, b"A" * 64))[:-1],
                                  fatbin.MAGIC + struct.pack("<Q", 32) + bytes(32), fat_binary((80, b"A" * 64)).replace(struct.pack("<IQ", 64, 64), struct.pack("<IQ", 64, 1 << 40))])
def test_what_only_looks_like_code_stays(data):
    changed = bytearray(data)
    assert fatbin.keep_architectures(changed, {90}) == ({}, {}) and changed == data


# ---- CUDA's libraries ----------------------------------------------------------------------------------------------------

def test_libraries_of_the_machine_are_linked_beside_the_runtime(tmp_path, monkeypatch):
    site, machine = tmp_path / "site", tmp_path / "cuda"
    (site / "nvidia/cu13/lib").mkdir(parents=True)
    machine.mkdir()
    (site / "nvidia/cu13/lib/libcudart.so.13").touch()
    for name in ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13"):
        (machine / name).touch()
    monkeypatch.setattr(libraries, "site_packages", lambda: [])
    monkeypatch.setattr(libraries, "system_folders", lambda: [str(machine)])
    found = libraries.find(str(site))
    libraries.link(str(site), found)
    assert found["libcudart.so.13"].startswith(str(site)) and found["libcublas.so.13"] == str(machine)
    assert len(list(site.glob("nvidia/*/lib/libcublas.so.*"))) == 1  # where muster looks
    needed, useful = libraries.missing(found)
    assert needed == ["libcurand.so.10 (nvidia-curand)"] and "libcudnn.so.9 (nvidia-cudnn-cu13)" in useful
