"""
What every test relies on: an end, and signals.

A test that hangs where not even a signal gets through ends the run, and says in which line of which thread.
"""

import faulthandler
import os
import signal
from collections.abc import Iterator

import pytest

LAST_RESORT_S = 600  # pytest-timeout is far quicker, but it needs the main thread to run Python code

_stderr = 2


def pytest_configure() -> None:
    global _stderr  # noqa: PLW0603
    _stderr = os.dup(2)  # while tests run, 2 is a file that nobody will see
    # A shell without job control ignores SIGINT in what it starts with `&`, and children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    faulthandler.dump_traceback_later(LAST_RESORT_S, exit=True, file=_stderr)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
