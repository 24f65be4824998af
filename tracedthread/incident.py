"""
One incident to learn from: the bundled shop under gunicorn, recorded, with a fault switched on and customers beside it.
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tracedthread.capture import Capture
from tracedthread.profile import Profile

HEALTHY = "healthy"
NEEDS = ("flask", "gunicorn", "sqlalchemy")  # the extra `demo`

AT_ONCE = 16  # requests, as many as the server has threads
TIMEOUT_S = 30.0


class CannotPlay(Exception):
    """The shop could not be run or recorded; says why in one line."""


@dataclass(frozen=True)
class Incident:
    """
    What became of it.

    Args:
        p99_s: Seconds that 99 of 100 requests did not exceed, by endpoint.
        requests: How many were answered.
    """

    profile: Profile
    p99_s: dict[str, float]
    requests: int
    table: str


def missing() -> list[str]:
    """What the shop needs and this environment has not."""
    return [package for package in NEEDS if find_spec(package) is None]


def play(fault: str, recording: Path, *, seed: int, seconds: float, requests: int) -> Incident:
    """
    Open the shop, let the customers in, close it.

    Args:
        fault: One that the shop knows (examples/shop/faults.py), or HEALTHY.
        recording: The file to write; it is overwritten.
        seed: Of the customers' wishes.
        seconds: How long they come, after a short warm-up.
        requests: How many they make at most.
    Raises:
        CannotPlay: It went wrong.
    """
    package, root = _shop()
    customers = import_module(f"{package}.load")
    with tempfile.TemporaryDirectory(prefix="tracedthread-shop-") as folder, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        errors = Path(folder, "errors")
        server = _open(package, root, Path(folder), listener, errors)
        listener.close()
        try:
            _ask(port, "GET", "/health")
            _warm_up(port)
            if fault != HEALTHY:
                _ask(port, "PUT", f"/faults/{fault}?on=1")
            outcome = customers.load(f"http://127.0.0.1:{port}", seed=seed, seconds=seconds, requests=requests)
            _end(server)
        except CannotPlay as exc:
            raise CannotPlay(_last_line(errors) or str(exc)) from None
        finally:
            if server.poll() is None:
                _kill(server)
        if outcome.failed:
            raise CannotPlay(f"{outcome.failed} requests failed: {_last_line(errors)}")
        profile = _take(Path(folder), recording)
    answered = {endpoint: took for endpoint, took in outcome.latencies.items() if took}
    p99_s = {endpoint: customers.percentile(took, 99) for endpoint, took in answered.items()}
    return Incident(profile, p99_s, sum(map(len, answered.values())), outcome.table())


def _shop() -> tuple[str, Path]:
    """The package's name and the folder to import it from: of the installed package, or else of the checkout."""
    here = Path(__file__).parents[1]
    if (here / "tracedthread" / "examples").is_dir():
        return "tracedthread.examples.shop", here
    return "examples.shop", here


def _open(package: str, root: Path, folder: Path, listener: socket.socket, errors: Path) -> subprocess.Popen[bytes]:
    """gunicorn under `tracedthread run`. It inherits the socket, so that no port is guessed and none is refused."""
    settings = root.joinpath(*package.split("."), "gunicorn.conf.py")
    command = [sys.executable, "-m", "tracedthread", "run", "-q", "--follow-fork", "-o", str(folder / "shop.ttc")]
    command += ["-m", "gunicorn", "-c", str(settings), f"{package}.app:app"]
    environment = {
        **{name: value for name, value in os.environ.items() if name not in ("GUNICORN_CMD_ARGS", "SHOP_FAULTS")},
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        "SHOP_BIND": f"fd://{listener.fileno()}",
        "SHOP_DATABASE_URL": f"sqlite:///{folder / 'shop.db'}",
    }
    with errors.open("wb") as stream:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for us, and what is left can be ended as one group
        )


def _ask(port: int, method: str, path: str) -> None:
    """One request; the first waits until the shop is open."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
        try:
            connection.request(method, path)
            response: Any = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException) as exc:
            raise CannotPlay(f"the shop does not answer: {exc or type(exc).__name__}") from None
    if response.status != 200:
        raise CannotPlay(f"the shop answers {method} {path} with {response.status}")


def _warm_up(port: int) -> None:
    """Have all threads of the thread pools started: they start under a lock, when there is more to do than threads."""
    with ThreadPoolExecutor(AT_ONCE) as customers:
        for path in ("/search?q=drum", "/quote?sku=sku-000"):
            for answer in [customers.submit(_ask, port, "GET", path) for _ in range(AT_ONCE)]:
                answer.result()


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)
    try:
        code = server.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise CannotPlay("the shop did not end in time") from None
    if code:
        raise CannotPlay(f"the shop ended with exit code {code}")


def _kill(server: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(server.pid, signal.SIGKILL)
    except ProcessLookupError:
        server.kill()
    server.wait()


def _take(folder: Path, recording: Path) -> Profile:
    """The worker's recording, under the name it shall have; the master does nothing worth one."""
    workers = list(folder.glob("shop.*.ttc"))
    if len(workers) != 1:
        raise CannotPlay("the shop ran, but was not recorded")
    recording.write_bytes(workers[0].read_bytes())
    return Profile.from_capture(Capture.open(recording))


def _last_line(errors: Path) -> str:
    lines = errors.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
