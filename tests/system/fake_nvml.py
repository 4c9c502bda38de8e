"""A machine's GPUs as NVML shows them, for tests: the fake library and its scenario (tests/fake_nvml/scenario.c)."""
import json
import os
import pathlib

from muster_server import binary_path


def gpu(number: int, **figures) -> dict:
    """A GPU with every figure; what is given replaces or, as None, removes one."""
    whole = {"uuid": f"GPU-{number:08x}-0000-0000-0000-000000000000", "name": "NVIDIA H200",
             "pci": f"00000000:{0x10 * number + 0x0b:02X}:00.0", "compute_capability": [9, 0],
             "memory": {"total": 141 << 30, "used": 1 << 30}, "compute_mode": 0, "persistence": 1,
             "numa_node": number // 4, "utilization": [0, 0], "temperature": 40, "power_mw": 100_000,
             "power_limit_mw": 700_000, "energy_mj": 1_000_000, "sm_clock": 1980, "sm_clock_max": 1980,
             "memory_clock": 3201, "throttle_reasons": 0, "ecc": [0, 0], "recovery_action": 0, "processes": []}
    return {key: value for key, value in {**whole, **figures}.items() if value is not None}


class FakeNvml:
    """The scenario's file; `machine` is what it says: change it and call write()."""

    def __init__(self, folder: pathlib.Path, gpus=(), **machine):
        self.path = folder / "nvml.json"
        self.machine = {"driver": "550.54.15", "cuda": 12040, "gpus": list(gpus), "events": [], **machine}
        self.write()

    def write(self):
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.machine))
        os.replace(new, self.path)

    @property
    def library(self) -> pathlib.Path:
        return binary_path().parent / "libfake_nvml.so"

    @property
    def environment(self) -> dict[str, str]:
        """For muster_server's env=."""
        return {"FAKE_NVML": str(self.path), "MUSTER_NVML_LIBRARY": str(self.library)}
