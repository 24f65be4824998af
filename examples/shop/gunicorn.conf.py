"""gunicorn's settings: one process, sixteen requests at a time. SHOP_BIND is where it listens."""

from __future__ import annotations

import os
from typing import Any

bind = os.environ.get("SHOP_BIND", "127.0.0.1:8000")
workers = 1
worker_class = "gthread"
threads = 16
graceful_timeout = 10
loglevel = "warning"
control_socket_disable = True  # the master has no use for a thread and a socket of its own


def post_worker_init(worker: Any) -> None:
    """Threads belong to the worker; a master that preloads the application has none."""
    worker.wsgi.open()


def worker_exit(_server: Any, worker: Any) -> None:
    """The last request is over; the interpreter will wait for threads that nobody has told to end."""
    if hasattr(worker, "wsgi"):  # else it did not get as far as to have one
        worker.wsgi.close()
