"""Ports for those who cannot be asked which one they got."""
import socket

FIRST, LAST = 20000, 32000  # below those that the kernel gives to outgoing connections and to who binds none
_held = []  # claims of this process, for as long as it lives


def _claim(port: int) -> bool:
    """No other test of this machine gets the port: an abstract address is taken by one at a time."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0muster-test-port-{port}")
        _held.append(claim)
        with socket.create_server(("127.0.0.1", port)):
            return True
    except OSError:
        if claim not in _held:
            claim.close()
        return False


def free_ports(n: int) -> int:
    """The first of n ports in a row that nobody has, and no other test gets."""
    in_a_row = 0
    for port in range(FIRST, LAST):
        in_a_row = in_a_row + 1 if _claim(port) else 0
        if in_a_row == n:
            return port - n + 1
    raise AssertionError("no free ports")
