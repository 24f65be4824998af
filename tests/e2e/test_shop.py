"""The shop that `tracedthread demo` runs: what it does, with and without us."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from clean_environment import clean_environment

from tracedthread.incident import missing

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop"

pytestmark = pytest.mark.skipif(
    bool(missing()) and not os.environ.get("CI"), reason="the shop's packages: make build has them (group `demo`)"
)

STOCK = [sys.executable]
OURS = [sys.executable, "-m", "tracedthread", "run", "-q", "--follow-fork", "-o", "shop.ttc"]


@contextmanager
def opened(python: list[str], folder: Path, **env: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The port and the process of a shop."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        server = subprocess.Popen(
            [*python, "-m", "gunicorn", "-c", str(SHOP / "gunicorn.conf.py"), "examples.shop.app:app"],
            cwd=folder,
            env=clean_environment(ROOT, SHOP_BIND=f"fd://{listener.fileno()}", **env),
            pass_fds=[listener.fileno()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    try:
        yield port, server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def ask(port: int, path: str, method: str = "GET") -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if response.status == 200 else None


def assert_ends(server: subprocess.Popen[str]) -> None:
    """At once, with nothing to say, no warning either."""
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=30)
    assert (server.returncode, output) == (0, "")


def test_the_shop_is_plain_code() -> None:
    for file in SHOP.glob("*.py"):
        assert "import tracedthread" not in file.read_text(encoding="utf-8"), file


@pytest.mark.parametrize("python", [STOCK, OURS], ids=["stock", "ours"])
def test_every_endpoint_answers_and_faults_switch_while_it_runs(python: list[str], tmp_path: Path) -> None:
    with opened(python, tmp_path) as (port, server):
        assert ask(port, "/health") == (200, {"status": "ok"})
        status, price = ask(port, "/price?sku=sku-007")
        assert status == 200
        assert 500 <= price["cents"] < 50_000
        assert ask(port, "/checkout?sku=sku-007&count=2", "POST") == (200, {"order": 1, "cents": 2 * price["cents"]})
        assert len(ask(port, "/search?q=anvil")[1]["skus"]) > 5
        assert 300 <= ask(port, "/quote?sku=sku-007")[1]["cents"] < 4_000
        assert ask(port, "/similar?sku=sku-007") == (200, {"skus": []})
        assert [ask(port, path)[0] for path in ("/price?sku=none", "/price", "/nothing")] == [404, 400, 404]

        off = {"report": False, "hog": False, "pool": False}
        assert ask(port, "/faults") == (200, off)
        for fault in off:
            assert ask(port, f"/faults/{fault}?on=1", "PUT") == (200, {**off, fault: True})
            assert ask(port, "/search?q=anvil")[0] == 200
            assert ask(port, f"/faults/{fault}?on=0", "PUT") == (200, off)
        assert ask(port, "/faults/none?on=1", "PUT")[0] == 404
        assert ask(port, "/faults/hog?on=maybe", "PUT")[0] == 400
        assert_ends(server)


@pytest.mark.parametrize("python", [STOCK, OURS], ids=["stock", "ours"])
def test_it_ends_at_once_with_all_faults_on_and_under_load(python: list[str], tmp_path: Path) -> None:
    with opened(python, tmp_path, SHOP_FAULTS="report,hog,pool") as (port, server):
        assert ask(port, "/faults") == (200, {"report": True, "hog": True, "pool": True})
        load = [sys.executable, "-m", "examples.shop.load", "--url", f"http://127.0.0.1:{port}"]
        load += ["--seconds", "0.5", "--requests", "100"]
        done = subprocess.run(
            load, env=clean_environment(ROOT), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert re.search(r"^/price +\d+ +\d+\.\d ms +\d+\.\d ms$", done.stdout, re.MULTILINE)
        assert "failed" not in done.stdout
        assert_ends(server)


def test_threads_are_the_workers_also_where_the_master_preloads(tmp_path: Path) -> None:
    with opened([sys.executable], tmp_path, GUNICORN_CMD_ARGS="--preload") as (port, server):
        assert ask(port, "/checkout?sku=sku-001", "POST")[0] == 200
        assert len(os.listdir(f"/proc/{server.pid}/task")) == 1
        assert_ends(server)


def test_no_thread_outlives_the_shop(tmp_path: Path) -> None:
    program = """
import threading
from examples.shop.app import app
app.open()
with app.test_client() as client:
    for path in ("/quote?sku=sku-001", "/search?q=drum"):
        assert client.get(path).status_code == 200
    assert client.post("/checkout?sku=sku-001").status_code == 200
assert threading.active_count() > 8
app.close()
assert threading.enumerate() == [threading.main_thread()], threading.enumerate()
"""
    command = [sys.executable, "-X", "dev", "-c", program]
    env = clean_environment(ROOT, SHOP_FAULTS="report,hog,pool")
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_seed_is_one_load() -> None:
    program = """
import random
from examples.shop import load
class Connection:
    def __init__(self, *_address, **_options): pass
    def request(self, method, path): asked.append((method, path))
    def getresponse(self): return self
    def read(self): pass
    def close(self): pass
    status = 200
load.http.client.HTTPConnection = Connection
load.time.sleep = lambda _seconds: None
runs = []
for seed in (1, 1, 2):
    asked = []
    load.load("http://shop", seed=seed, seconds=30, requests=64)
    runs.append(sorted(asked))
assert runs[0] == runs[1] != runs[2]
assert len(runs[0]) == 64
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(ROOT),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
