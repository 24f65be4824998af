"""
The pictures of find-the-slow-lock.md: our report of the shop in examples/, in headless Chromium.

    python docs/pictures.py            (in a checkout; needs the groups `test` and `demo`, chromium and chromium-driver)

It plays the shop twice, with the fault `report` and with `hog`, about 10 s each, and writes docs/pictures/*.png. The
figures in them are those of that run.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "e2e")]

from browser import chromium  # noqa: E402
from selenium.webdriver import ActionChains, Chrome, Keys  # noqa: E402

from tracedthread.export import render  # noqa: E402
from tracedthread.incident import play  # noqa: E402

PICTURES = HERE / "pictures"
MAX_BYTES = 200_000  # everybody who clones the repository has them
WIDTH, HEIGHT = 1200, 1500  # of the window; parts of the page are as high as it allows
ZOOMS = 3  # into the timeline, each to the half
MOST_THREADS, MOST_STEPS = 50, 500


def main() -> None:
    """Make all of them."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tracedthread-pictures-") as folder, chromium(Path(folder)) as chrome:
        chrome.set_window_size(WIDTH, HEIGHT)
        light = [{"name": "prefers-color-scheme", "value": "light"}]
        chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": light})
        with page(chrome, "report", Path(folder)):
            shoot(chrome, "#findings", "findings")
            press(chrome, "#lock-filter", "PriceCache")
            press(chrome, "#lock-table tbody td.name button", Keys.ENTER)
            shoot(chrome, "#locks", "lock")
            press(chrome, "#flame", *[Keys.ARROW_DOWN] * 3)
            shoot(chrome, "#flames", "flames")
            choose_a_victim(chrome)
            shoot(chrome, "#timeline", "timeline")
        with page(chrome, "hog", Path(folder)):
            shoot(chrome, "#findings", "gil")


@contextmanager
def page(chrome: Chrome, fault: str, folder: Path) -> Iterator[None]:
    """The report of the shop with `fault`, open in the browser."""
    incident = play(fault, folder / f"{fault}.ttc", seed=1, seconds=6.0, requests=1500)
    path = folder / f"{fault}.html"
    stream = io.StringIO()
    render(incident.profile, "html", stream)
    # Where this checkout and this Python are is of no interest to who looks at the pictures.
    path.write_text(stream.getvalue().replace(f"{HERE.parent}/", "/srv/"), encoding="utf-8")
    chrome.get(path.as_uri())
    yield


def press(chrome: Chrome, selector: str, *keys: str) -> None:
    """Keys, as somebody would who uses the page without a mouse."""
    chrome.execute_script("document.querySelector(arguments[0]).focus()", selector)
    ActionChains(chrome).send_keys(*keys).perform()


def choose_a_victim(chrome: Chrome) -> None:
    """In the timeline, a wait for the price cache that a report ended, and what was around it."""
    press(chrome, "#time", Keys.ARROW_RIGHT, *[Keys.ARROW_UP] * MOST_THREADS)  # who waited longest is on top
    onward, backward, last = Keys.ARROW_RIGHT, Keys.ARROW_LEFT, ""
    for _ in range(MOST_STEPS):
        detail = str(chrome.execute_script("return document.querySelector('#time-detail').textContent"))
        if detail.startswith("ThreadPoolExecutor") and "released by reporter-0" in detail:
            break
        if detail == last:  # the end of this thread: back along the next one
            onward, backward = backward, onward
            press(chrome, "#time", Keys.ARROW_DOWN)
        last = detail
        press(chrome, "#time", onward)
    else:
        raise SystemExit("timeline: nobody waited for a report")
    press(chrome, "#time", *["+"] * ZOOMS)
    chrome.execute_script("document.querySelector('#time').parentElement.scrollTop = 0")


def shoot(chrome: Chrome, selector: str, name: str) -> None:
    """One section of the page as a picture."""
    section = chrome.find_element("css selector", selector)
    chrome.execute_script("arguments[0].scrollIntoView({block: 'center'})", section)
    png = section.screenshot_as_png
    if len(png) > MAX_BYTES:
        raise SystemExit(f"{name}: {len(png):,} bytes, more than {MAX_BYTES:,}")
    (PICTURES / f"{name}.png").write_bytes(png)
    print(f"{name}.png {len(png):,} bytes")


if __name__ == "__main__":
    main()
