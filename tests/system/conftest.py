"""Fixtures of the system tests: real `muster` processes on ports of their own, and nothing left behind."""
import contextlib

import os
import tempfile

import pytest

from muster_server import Server, binary_path

# The reference answers come from onnxruntime in this process; its official builds report home unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


# Modules that take long, the longest first. A process of pytest-xdist runs a whole module (--dist loadfile): one that begins
# late is waited for alone. Run with --no-loadscope-reorder, or xdist sorts by the number of tests.
LONGEST = """reload memory lifecycle overload upgrade launch fleet gpu_check worker_death model_control mps config_cli placement
failures proxy remote grpc bench magika bad_input websocket restarts""".split()


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def binary():
    return binary_path()


@pytest.fixture(scope="session", autouse=True)
def own_runtime_folder():
    """Sockets and MPS folders of this process's servers alone: each keeper of an MPS daemon tidies up what killed ones have
    left in its folder, and other tests run beside. Short, as the address of a socket has to be."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="muster-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        patch.setenv("XDG_RUNTIME_DIR", folder)
        yield


@contextlib.contextmanager
def starter(folder):
    """start(*arguments, **options) starts a server and waits until it is ready; all end with the block."""
    servers = []

    def start(*arguments, **options):
        server = Server(folder / f"server{len(servers)}", arguments, **options)
        servers.append(server)
        if options.get("wait", True):
            server.wait_ready()
        return server

    try:
        yield start
    finally:
        problems = [problem for server in servers for problem in server.close()]
    assert not problems, "\n".join(problems)


@pytest.fixture
def serve(tmp_path):
    """serve(*arguments, **options): a server for one test."""
    with starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def module_path(tmp_path_factory, request):
    """A folder that the tests of a module share."""
    return tmp_path_factory.mktemp(request.module.__name__)


@pytest.fixture(scope="module")
def serve_module(module_path):
    """serve_module(*arguments, **options): a server that the tests of a module share."""
    with starter(module_path) as start:
        yield start
