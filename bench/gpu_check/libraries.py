"""Where the CUDA libraries are that ONNX Runtime's CUDA provider opens, and how muster finds them.

muster opens what stands in nvidia/*/lib beside the onnxruntime package, by full path, before the provider asks for it by
name (src/engine/onnxruntime/provider.c). So what was found elsewhere gets a link there; no LD_LIBRARY_PATH is needed.
"""
import glob
import os
import pathlib
import re
import shutil
import subprocess

# Name, Python package, whether the provider is linked with it.
WANTED = [("libcudart.so.13", "nvidia-cuda-runtime", True), ("libcublasLt.so.13", "nvidia-cublas", True),
          ("libcublas.so.13", "nvidia-cublas", True), ("libcurand.so.10", "nvidia-curand", True),
          ("libcufft.so.12", "nvidia-cufft", False), ("libcudnn.so.9", "nvidia-cudnn-cu13", False),
          ("libnvrtc.so.13", "nvidia-cuda-nvrtc", False), ("libnvJitLink.so.13", "nvidia-nvjitlink", False)]


def site_packages():
    """Those of every Python that a shell would find."""
    folders = []
    for python in {shutil.which(name) for name in ("python3", "python")} - {None}:
        done = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True,
                              text=True, check=False, timeout=30)
        folders += done.stdout.split()
    return folders


def system_folders():
    """CUDA's own installations, and what the loader knows."""
    folders = sorted(glob.glob("/usr/local/cuda*/lib64") + glob.glob("/usr/local/cuda*/targets/x86_64-linux/lib"), reverse=True)
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    if os.access(ldconfig, os.X_OK):
        listed = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
        folders += [os.path.dirname(path) for path in re.findall(r"=> (/\S*/lib(?:cuda|cublas|curand|cufft|cudnn|nvrtc)\S*)", listed)]
    return list(dict.fromkeys(folders))


def find(site):
    """Name → folder of each of WANTED that there is; the folders of site come first."""
    places = sorted(glob.glob(f"{site}/nvidia/*/lib"))
    for packages in site_packages():
        places += sorted(glob.glob(f"{packages}/nvidia/*/lib"))
    places += system_folders()
    return {name: folder for name, _, _ in WANTED
            if (folder := next((place for place in places if os.path.exists(f"{place}/{name}")), None))}


def link(site, found):
    """Gives every folder outside of site a place in site/nvidia."""
    outside = [folder for folder in dict.fromkeys(found.values()) if not folder.startswith(f"{site}/")]
    for number, folder in enumerate(outside):
        place = pathlib.Path(site) / "nvidia" / f"machine{number}"
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "lib").is_symlink():
            (place / "lib").symlink_to(folder)


def missing(found):
    """What is needed and what may be needed of the rest, as text with the package of each."""
    absent = [(f"{name} ({package})", needed) for name, package, needed in WANTED if name not in found]
    return [text for text, needed in absent if needed], [text for text, needed in absent if not needed]
