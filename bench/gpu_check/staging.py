"""What the check needs, in files: fetched from PyPI, packed into parts for a machine without network, and unpacked there.

A staged folder holds part-NNN files and manifest.json: the parts with their SHA-256, and the files in the joined parts,
each packed by itself with xz. Layout of what comes out: site/onnxruntime/capi/…, site/nvidia/…, muster/….
"""
import hashlib
import json
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

from fatbin import keep_architectures

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNTIME = "onnxruntime-gpu"
CUDA_PACKAGES = ["nvidia-cuda-runtime>=13.0,<14", "nvidia-cublas>=13,<14", "nvidia-curand>=10,<11", "nvidia-cufft>=12,<13",
                 "nvidia-cudnn-cu13>=9,<10", "nvidia-cuda-nvrtc>=13,<14", "nvidia-nvjitlink>=13,<14"]
RUNTIME_FILES = re.compile(r"onnxruntime/capi/libonnxruntime(\.so\.[0-9.]+|_providers_(cuda|shared)\.so)$")
CUDA_FILES = re.compile(r"nvidia/\w+/lib/lib(cudart|cublas|cublasLt|curand|cufft|cudnn\w*|nvrtc|nvrtc-builtins|nvJitLink)\.so\.[0-9.]+$")
MB = 1_000_000
FILTERS = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 64 << 20}]
COMMON = re.compile(r"/(ld-linux[^/]*|lib(c|m|pthread|dl|rt|resolv|gcc_s|stdc\+\+)\.so[^/]*)$")  # every machine has these


class Refused(Exception):
    """What is staged, or asked for, cannot be used; the text is for people."""


def runtime_requirement():
    """The CUDA build of the same version as the CPU build that muster is tested with."""
    pinned = re.search(r"^onnxruntime==(\S+)$", (ROOT / "script/requirements.txt").read_text(), re.M)
    return f"{RUNTIME}=={pinned[1]}"


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- fetching --------------------------------------------------------------------------------------------------------

def fetch(site, libraries):
    """Fetches wheels and puts the libraries that are needed into the folder site. libraries: all, or runtime."""
    with tempfile.TemporaryDirectory(prefix="muster-wheels-", dir=site.parent) as folder:
        wanted = [runtime_requirement(), *(CUDA_PACKAGES if libraries == "all" else [])]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                   "--only-binary=:all:", "--python-version", "3.11", "--dest", folder, *platforms(), *wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Refused(f"pip cannot fetch {' '.join(wanted)}: {done.stderr.strip().splitlines()[-1:] or done.returncode}; "
                          "without network use `script/gpu-check stage` elsewhere, and --staged here")
        names = {}
        for wheel in sorted(pathlib.Path(folder).glob("*.whl")):
            names[wheel.name] = digest(wheel)
            unpack_wheel(wheel, site)
    return names


def platforms():
    tags = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 12, 5)] + \
           ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    return [word for tag in tags for word in ("--platform", tag)]


def unpack_wheel(wheel, site):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if RUNTIME_FILES.match(name) or CUDA_FILES.match(name):
                target = site / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)


# ---- staging ---------------------------------------------------------------------------------------------------------

def copy_muster(binary, folder):
    """The program without symbols, and the libraries that it is linked with but for those of the C library."""
    folder.mkdir(parents=True)
    subprocess.run(["strip", "-s", "-o", folder / "muster", binary], check=True)
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout
    for path in re.findall(r"=> (/\S+) \(", listed):
        if not COMMON.search(path):
            shutil.copy(path, folder)


def cut(path, architectures, say):
    """Takes out of a library what no GPU of these architectures runs, and symbols that only debuggers want."""
    subprocess.run(["strip", "-s", path], check=True)
    data = bytearray(path.read_bytes())
    kept, removed = keep_architectures(data, architectures)
    if removed and not kept:
        raise Refused(f"{path.name} has no code for architecture {', '.join(map(str, sorted(architectures)))}, but for "
                      f"{', '.join(map(str, sorted(removed)))}")
    path.write_bytes(data)
    if kept:
        say(f"{path.name}: code kept {sum(kept.values()) / MB:.0f} MB, left out {sum(removed.values()) / MB:.0f} MB")


class Parts:
    """Writes a stream into files of a bounded size."""

    def __init__(self, folder, size):
        self.folder, self.size, self.file, self.names, self.total, self.left = folder, size, None, [], 0, 0

    def write(self, data):
        while data:
            if self.left == 0:
                self.close()
                self.names.append(f"part-{len(self.names):03}")
                self.file, self.left = open(self.folder / self.names[-1], "wb"), self.size
            piece = data[:self.left]
            self.file.write(piece)
            self.total, self.left, data = self.total + len(piece), self.left - len(piece), data[len(piece):]

    def close(self):
        if self.file:
            self.file.close()


def pack(source, folder, part_size, about):
    """Everything below the folder source, as parts and a manifest in folder, which must be empty or new."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise Refused(f"{folder} is not empty")
    parts, files = Parts(folder, part_size), []
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        before, packer = parts.total, lzma.LZMACompressor(lzma.FORMAT_XZ, filters=FILTERS)
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                parts.write(packer.compress(piece))
        parts.write(packer.flush())
        files.append({"path": str(path.relative_to(source)), "size": path.stat().st_size, "packed": parts.total - before,
                      "mode": path.stat().st_mode & 0o777, "sha256": digest(path)})
    parts.close()
    manifest = {"format": 1, **about, "packed": parts.total, "files": files,
                "parts": [{"name": name, "size": (folder / name).stat().st_size, "sha256": digest(folder / name)}
                          for name in parts.names]}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def stage(folder, libraries, architectures, part_size, binary, say):
    """Fetches, cuts, packs. binary: a muster to take along, or None. Returns the manifest."""
    with tempfile.TemporaryDirectory(prefix="muster-stage-", dir=folder.resolve().parent) as work:
        source = pathlib.Path(work) / "content"
        site = source / "site"
        site.mkdir(parents=True)
        say(f"fetching {runtime_requirement()}{' and the CUDA libraries' if libraries == 'all' else ''}")
        wheels = fetch(site, libraries)
        if architectures:
            for path in sorted(site.rglob("*.so*")):
                cut(path, architectures, say)
        if binary:
            copy_muster(binary, source / "muster")
        say("packing, which takes minutes")
        return pack(source, folder, part_size, {"wheels": wheels, "libraries": libraries, "architectures": sorted(architectures)})


# ---- unpacking -------------------------------------------------------------------------------------------------------

def read_manifest(folder):
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as problem:
        raise Refused(f"{folder} is no staged folder: {problem}") from problem
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise Refused(f"{folder}/manifest.json is of a format that this script does not know")
    return manifest


def check_parts(folder, manifest):
    """Every part is there and is what was written; else Refused, with all that is wrong."""
    wrong = []
    for part in manifest["parts"]:
        path = folder / part["name"]
        if not path.is_file():
            wrong.append(f"{part['name']} is missing")
        elif path.stat().st_size != part["size"]:
            wrong.append(f"{part['name']} has {path.stat().st_size} bytes, not {part['size']}")
        elif digest(path) != part["sha256"]:
            wrong.append(f"{part['name']} is damaged: its SHA-256 is not that of the manifest")
    if wrong:
        raise Refused(f"{folder}: {'; '.join(wrong)}. Stage it again, or copy these parts again")


class Joined:
    """The parts as one file to read from."""

    def __init__(self, paths):
        self.paths, self.file = list(paths), None

    def read(self, n):
        pieces = []
        while n > 0:
            if self.file is None:
                if not self.paths:
                    break
                self.file = open(self.paths.pop(0), "rb")
            if piece := self.file.read(n):
                pieces.append(piece)
                n -= len(piece)
            else:
                self.file.close()
                self.file = None
        return b"".join(pieces)


def unpack(folder, target):
    """Joins and unpacks a staged folder into target. Nothing that is damaged is ever used."""
    manifest = read_manifest(folder)
    check_parts(folder, manifest)
    stream = Joined(folder / part["name"] for part in manifest["parts"])
    for entry in manifest["files"]:
        path = (target / entry["path"]).resolve()
        if not path.is_relative_to(target.resolve()):
            raise Refused(f"{folder}: a file would go to {path}, outside of {target}")
        path.parent.mkdir(parents=True, exist_ok=True)
        unpacker, left, sum256 = lzma.LZMADecompressor(lzma.FORMAT_XZ), entry["packed"], hashlib.sha256()
        with open(path, "wb") as file:
            while left > 0 and (piece := stream.read(min(left, 1 << 20))):
                left -= len(piece)
                data = unpacker.decompress(piece)
                sum256.update(data)
                file.write(data)
        if sum256.hexdigest() != entry["sha256"]:
            raise Refused(f"{folder}: {entry['path']} does not unpack to what was staged")
        os.chmod(path, entry["mode"])
    return manifest
