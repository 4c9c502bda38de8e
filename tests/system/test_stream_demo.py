"""/stream-demo in a real browser: frames are drawn, sent, answered; what cannot be served is said."""
import contextlib
import json
import re
import shutil
import subprocess
import urllib.request

import pytest
from websockets.sync.client import connect

from muster_server import PATIENCE, put_model, sim_config, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One page of a browser, over its debugging protocol."""

    def __init__(self, ws):
        self.ws, self.n = ws, 0

    def value(self, expression: str):
        self.n += 1
        self.ws.send(json.dumps({"id": self.n, "method": "Runtime.evaluate", "params": {"expression": expression, "returnByValue": True}}))
        while True:
            message = json.loads(self.ws.recv(timeout=PATIENCE))
            if message.get("id") == self.n:
                return message["result"]["result"].get("value")

    def text(self, id: str) -> str:
        return self.value(f"(document.getElementById({id!r}) || {{}}).textContent") or ""


@contextlib.contextmanager
def page(folder, url):
    assert CHROMIUM, "no chromium: script/bootstrap installs it"
    log = folder / "chromium.log"
    with log.open("wb") as file:
        browser = subprocess.Popen([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                                    "--remote-debugging-port=0", "--remote-allow-origins=*", f"--user-data-dir={folder / 'profile'}", url],
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        port = wait_for(lambda: re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", log.read_text(errors="replace")), "the browser").group(1)

        def target():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=PATIENCE) as reply:
                return next((t["webSocketDebuggerUrl"] for t in json.load(reply) if t["type"] == "page"), None)
        with connect(wait_for(target, "the page"), max_size=None, compression=None, ping_interval=None) as ws:
            yield Page(ws)
    finally:
        browser.terminate()
        browser.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(serve_module, module_path):
    """echo takes pictures, words texts."""
    repository = put_model(module_path / "models", "echo", config=sim_config(dims="3, -1, -1", max_batch_size=8))
    put_model(repository, "words", config=sim_config(dtype="TYPE_STRING", dims="1", max_batch_size=8))
    return serve_module(repository)


def test_the_page_is_served_with_a_policy(server):
    reply = server.get("/stream-demo")
    assert reply.status == 200 and reply.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert "http://" not in reply.body.decode().replace('"http://', "") and "https://" not in reply.body.decode(), "nothing comes from elsewhere"


def test_frames_are_answered(server, tmp_path):
    with page(tmp_path, f"http://{server.url}/stream-demo?model=echo&size=32&fps=50&deadline=10000&start") as demo:
        wait_for(lambda: int(demo.text("answered") or 0) >= 10 or demo.text("message"), "frames to be answered")
        assert demo.text("message") == ""
        assert int(demo.text("errors")) == 0 and demo.text("p50").endswith(" ms") and demo.text("p99").endswith(" ms")
        assert [name for name in ("echo", "words") if name in demo.text("model")] == ["echo", "words"]
    counted = server.get("/v2/models/echo/stats").json["model_stats"][0]
    assert counted["inference_stats"]["success"]["count"] >= 10


def test_a_model_that_takes_no_pictures_is_said(server, tmp_path):
    with page(tmp_path, f"http://{server.url}/stream-demo?model=words&start") as demo:
        assert "of type BYTES" in wait_for(lambda: demo.text("message"), "what is wrong")
