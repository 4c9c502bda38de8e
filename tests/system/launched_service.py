"""A small server for `muster launch` to start: launched_service.py PORT [WORD …]. Answers every GET with what it is (JSON).
Words: ignore-term; daemon (goes into the background as old daemons do, and forgets its session); clean (with an empty
environment, too); child (has a child process); unready=N (503 for the first N requests); heavy-daemon (the process
between the first one and the daemon takes long to end, and the first one ends meanwhile)."""
import json
import mmap
import os
import pathlib
import signal
import socket
import sys
import time

port, words = int(sys.argv[1]), sys.argv[2:]
unready = sum(int(word.split("=")[1]) for word in words if word.startswith("unready="))
if "ignore-term" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "daemon" in words:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
if "heavy-daemon" in words:
    between = os.fork()
    if between:
        try:
            while pathlib.Path(f"/proc/{between}/environ").read_bytes():  # empty as soon as it ends
                pass
        except OSError:
            pass
        os._exit(0)
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nothing, fd)
    if os.fork():
        memory = mmap.mmap(-1, 192 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
        os._exit(0)
if "clean" in words:
    os.execve(sys.executable, [sys.executable, "-I", "-S", __file__, str(port)], {})
if "child" in words and os.fork() == 0:
    while True:
        time.sleep(3600)

listener = socket.create_server(("127.0.0.1", port))
print("listening on", port, flush=True)
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    body = json.dumps({"pid": os.getpid(), "environment": dict(os.environ)}).encode()
    status, unready = ("503 Not Yet" if unready > 0 else "200 OK"), unready - 1
    try:
        connection.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body))
    except OSError:
        pass
    connection.close()
