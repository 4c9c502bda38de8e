"""Fixtures of the system tests: real `muster` processes on ports of their own, and nothing left behind."""
import pytest

from muster_server import Server, binary_path


@pytest.fixture(scope="session")
def binary():
    return binary_path()


@pytest.fixture
def serve(tmp_path):
    """serve(*arguments, **options) starts a server and waits until it is ready; all end with the test."""
    servers = []

    def start(*arguments, **options):
        server = Server(tmp_path / f"server{len(servers)}", arguments, **options)
        servers.append(server)
        if options.get("wait", True):
            server.wait_ready()
        return server

    yield start
    problems = [problem for server in servers for problem in server.close()]
    assert not problems, "\n".join(problems)
