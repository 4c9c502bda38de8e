"""Builds muster on the machine that is checked, without network."""
import os
import pathlib
import re
import shutil
import subprocess

from report import Failed, need

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = {"cmake": "cmake", "ninja": "ninja-build", "pkg-config": "pkg-config", "cc": "build-essential", "protoc-c": "protobuf-c-compiler"}
DEBIAN = {"libuv": "libuv1-dev", "jansson": "libjansson-dev", "libcyaml": "libcyaml-dev", "libseccomp": "libseccomp-dev",
          "libcurl": "libcurl4-openssl-dev", "ncursesw": "libncurses-dev", "libnghttp2": "libnghttp2-dev", "hwloc": "libhwloc-dev",
          "libprotobuf-c": "libprotobuf-c-dev", "cmocka": "libcmocka-dev"}


def absent():
    """Debian packages that the build wants and that are not here, as the build itself asks for them."""
    packages = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if shutil.which("pkg-config"):
        names = re.findall(r"^pkg_check_modules\(\w+ REQUIRED IMPORTED_TARGET (\S+)\)", (ROOT / "CMakeLists.txt").read_text(), re.M)
        packages += [DEBIAN.get(name, name) for name in names
                     if subprocess.run(["pkg-config", "--exists", name], check=False).returncode != 0]
    headers = [("/usr/include/wslay/wslay.h", "libwslay-dev"), ("/usr/include/zlib.h", "zlib1g-dev")]
    packages += [package for header, package in headers if not os.path.exists(header)]
    if not (ROOT / ".deps/onnxruntime/include/onnxruntime_c_api.h").exists() and not list(
            pathlib.Path("/usr/include").glob("**/onnxruntime_c_api.h")):
        packages.append("libonnxruntime-dev (Debian 12: script/bootstrap fetches the header)")
    return packages


def build(found):
    packages = absent()
    found["absent"] = packages
    need(not packages, f"to build muster here, install: {' '.join(packages)}; or give a built one with --muster, or stage one "
                       "with `stage DIR --muster FILE`")
    for command in (["cmake", "--preset", "release", "-Wno-dev"], ["cmake", "--build", "--preset", "release", "--target", "muster"]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-1500:]}")
    return "build/release/muster"
