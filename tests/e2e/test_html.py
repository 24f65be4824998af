"""
The HTML report in a real browser, used with the mouse and with the keyboard; whatever it writes to the console fails.

Needs Chromium and its driver (Debian: chromium, chromium-driver). Where they are missing the tests are skipped, but not
under CI, where that is a failure.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from selenium.webdriver import ActionChains, Chrome, Keys

from tracedthread.capture import Capture
from tracedthread.export import render
from tracedthread.histogram import Histogram
from tracedthread.pools import PoolRow
from tracedthread.profile import Profile

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import capture_builder as cb

pytestmark = pytest.mark.timeout(300)

NASTY = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as chrome:
        yield chrome


class Page:
    def __init__(self, chrome: Chrome, path: Path) -> None:
        self.chrome = chrome
        chrome.get(path.as_uri())
        assert self.js("return document.documentElement.dataset.ready") == "true"

    def js(self, script: str, *arguments: object) -> Any:
        return self.chrome.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).textContent", selector))

    def texts(self, selector: str) -> list[str]:
        return list(self.js("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector))

    def find(self, selector: str) -> Any:
        return self.chrome.find_element("css selector", selector)

    def keys(self, *keys: str) -> None:
        ActionChains(self.chrome).send_keys(*keys).perform()

    def focus(self, selector: str) -> None:
        self.js("document.querySelector(arguments[0]).focus()", selector)

    def press(self, selector: str, *keys: str) -> None:
        self.focus(selector)
        self.keys(*keys)

    def click_at(self, selector: str, x: float, y: float, *, to: float | None = None) -> None:
        """Click, x as a fraction of the width and y in pixels; or drag as far as `to`."""
        element = self.find(selector)
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        width, height = element.size["width"], element.size["height"]
        actions = ActionChains(self.chrome).move_to_element_with_offset(
            element, int((x - 0.5) * width), int(y - height / 2)
        )
        if to is None:
            actions.click().perform()
        else:
            actions.click_and_hold().move_by_offset(int((to - x) * width), 0).release().perform()

    def painted(self, selector: str) -> str:
        """What is on a canvas, once it has been drawn."""
        return str(
            self.chrome.execute_async_script(
                "const done = arguments[1]; requestAnimationFrame(() => requestAnimationFrame(() => "
                "done(document.querySelector(arguments[0]).toDataURL())))",
                selector,
            )
        )

    def assert_quiet(self) -> None:
        assert self.chrome.get_log("browser") == []
        assert self.js("return performance.getEntriesByType('resource').map(e => e.name)") == []


def open_page(chrome: Chrome, builder: cb.CaptureBuilder, folder: Path) -> Iterator[Page]:
    path = folder / "report.html"
    with path.open("w", encoding="ascii") as file:
        render(Profile.from_capture(Capture.from_buffer(builder.build())), "html", file)
    page = Page(chrome, path)
    yield page
    page.assert_quiet()


@pytest.fixture
def shop(chrome: Chrome, tmp_path: Path) -> Iterator[Page]:
    yield from open_page(chrome, cb.example(grown=True), tmp_path)


def test_findings_and_totals_come_first(shop: Page) -> None:
    assert shop.texts(".findings li")[0].startswith(
        "PriceCache.slow_report (cache.py:118) held PriceCache._lock 15 times"
    )
    assert dict(zip(shop.texts(".cards span"), shop.texts(".cards b")))["waited for locks"] == "3.9 s"
    assert "while the lock was held 98 %" in shop.text("#share")
    assert "logging._lock, app.Böse" in shop.text("#limits-list")


def test_locks_are_sorted_with_the_mouse_and_the_keyboard(shop: Page) -> None:
    names = "#lock-table tbody td.name button"
    assert shop.texts(names)[:2] == ["PriceCache._lock", "Registry.lock"]
    heads = shop.texts("#lock-table th")
    shop.find(f"#lock-table th:nth-child({heads.index('acquired') + 1}) button").click()
    assert shop.texts(names)[:2] == ["Registry.lock", "PriceCache._lock"]
    shop.press(f"#lock-table th:nth-child({heads.index('held max') + 1}) button", Keys.ENTER)
    assert shop.texts(names)[0] == "PriceCache._lock"
    shop.keys(Keys.ENTER)  # the other way round
    assert shop.texts(names)[-1] == "PriceCache._lock"
    assert shop.texts("#lock-table th[aria-sort=ascending]") == ["held max"]
    shop.press("#lock-table th:first-child button", Keys.ENTER)
    assert shop.texts(names) == sorted(shop.texts(names), key=str.lower)


def test_locks_are_filtered(shop: Page) -> None:
    shop.press("#lock-filter", "JOBS.py")
    assert shop.texts("#lock-table tbody td.name button") == ["jobs"]
    assert shop.text("#lock-count") == "1 of 5 locks"


def test_lock_opens_to_both_sides_and_leads_to_its_flames(shop: Page) -> None:
    shop.press("#lock-table tbody td.name button", Keys.ENTER)
    details = shop.text("tr.more")
    for words in ("PriceCache.slow_report", "15 holds, 3.0 waiters at a time", "PriceCache.fast_lookup", "45 waits"):
        assert words in details
    shop.find("tr.more .sides div:nth-child(2) button").click()
    assert shop.js("return document.querySelector('#tab-waits').getAttribute('aria-selected')") == "true"
    assert shop.text("#flame-detail").startswith("PriceCache._lock\n3.9 s waited")
    assert shop.js("return document.activeElement.id") == "flame"
    shop.press("#lock-table tbody td.name button", Keys.ENTER)
    assert shop.texts("tr.more") == []


def test_flame_graph_is_walked_and_zoomed_with_the_keyboard(shop: Page) -> None:
    def detail() -> str:
        return shop.text("#flame-detail").partition("\n")[0]

    whole = shop.painted("#flame")
    shop.press("#flame", Keys.ARROW_DOWN)
    assert detail() == "PriceCache._lock"
    shop.keys(Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    assert detail() == "refresh_loop (jobs.py:31)"
    shop.keys(Keys.ENTER)
    assert shop.painted("#flame") != whole
    shop.keys(Keys.ARROW_DOWN)
    assert detail() == "PriceCache.refresh (cache.py:99)"
    assert "100 % of what is shown" in shop.text("#flame-detail")
    shop.keys(Keys.ARROW_UP, Keys.ARROW_LEFT)
    assert detail() == "report_loop (jobs.py:44)"
    shop.keys(Keys.ESCAPE, Keys.ESCAPE, Keys.ESCAPE)
    assert detail() == "all locks"
    shop.js("document.activeElement.blur()")
    assert shop.painted("#flame") == whole


def test_flame_graph_is_zoomed_with_the_mouse(shop: Page) -> None:
    shop.click_at("#flame", 0.3, 50)
    assert shop.text("#flame-detail").startswith(
        "report_loop (jobs.py:44)\n3.8 s waiting caused, 99 % of all, in 15 holds"
    )
    assert "report_loop" in shop.text("#tip")
    shop.find("#flame-reset").click()
    assert shop.text("#flame-detail").startswith("all locks")


def test_flame_graph_is_searched_on_each_side(shop: Page) -> None:
    plain = shop.painted("#flame")
    shop.press("#flame-search", "SLOW_rep")
    assert shop.text("#flame-found") == "1 match, 99 % of the time"
    assert shop.painted("#flame") != plain
    shop.press("#tab-blame", Keys.ARROW_RIGHT)
    assert shop.js("return document.activeElement.id") == "tab-waits"
    assert shop.text("#flame-found") == "no match"
    shop.find("#flame-search").clear()
    shop.press("#flame-search", "cache.py")
    assert shop.text("#flame-found") == "2 matches, 99 % of the time"


def test_timeline_tells_of_waits_and_holders(shop: Page) -> None:
    shop.press("#time", Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    detail = shop.text("#time-detail")
    assert detail.startswith("worker-1: lock PriceCache._lock, 119 ms from 4.000 s; the last 40 µs only for the GIL")
    assert "in PriceCache.fast_lookup (cache.py:63)\n   called by checkout" in detail
    assert "released by report in PriceCache.slow_report (cache.py:118)" in detail
    assert "whose holder was in PriceCache._load (cache.py:131)" in detail
    shop.keys(Keys.ARROW_RIGHT)
    assert "from 8.000 s" in shop.text("#time-detail")


def test_timeline_zooms_with_keys_buttons_and_a_drag(shop: Page) -> None:
    shop.js("document.querySelector('#time').blur()")
    views = [shop.painted("#time")]
    for step in (
        lambda: shop.press("#time", "+"),
        lambda: shop.find("#time-in").click(),
        lambda: shop.click_at("#time", 0.5, 60, to=0.6),
    ):
        step()
        views.append(shop.painted("#time"))
    assert len(set(views)) == len(views)
    shop.find("#time-reset").click()
    assert shop.painted("#time") == views[0]


def test_theme_follows_the_system_and_the_button(shop: Page) -> None:
    def background() -> str:
        return str(shop.js("return getComputedStyle(document.body).backgroundColor"))

    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        shop.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefer("light")
    light, light_flames = background(), shop.painted("#flame")
    prefer("dark")
    dark, dark_flames = background(), shop.painted("#flame")
    assert len({light, dark}) == len({light_flames, dark_flames}) == 2
    shop.press("#theme", Keys.ENTER)
    assert (background(), shop.painted("#flame")) == (light, light_flames)
    shop.find("#theme").click()
    assert background() == dark
    prefer("light")


def test_everything_is_reached_with_the_tab_key_and_has_a_name(shop: Page) -> None:
    shop.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    reached = set()
    for _ in range(80):
        shop.keys(Keys.TAB)
        reached.add(shop.js("return document.activeElement.id || document.activeElement.textContent"))
    assert reached >= {"theme", "lock-filter", "tab-blame", "flame-search", "flame-reset", "flame", "time-in", "time"}
    assert "PriceCache._lock" in reached
    nameless = "return [...document.querySelectorAll('button, canvas, input')].filter(e => !(e.textContent.trim() || "
    nameless += "e.getAttribute('aria-label') || (e.labels && e.labels.length)) && !e.hidden).map(e => e.outerHTML)"
    assert shop.js(nameless) == []


def test_thread_pools_have_a_table_where_there_are_any(chrome: Chrome, tmp_path: Path) -> None:
    of = Profile.from_capture(Capture.from_buffer(cb.example(grown=True).build()))
    waited = [0] * cb.BUCKETS
    waited[cb.bucket(20 * cb.MS)], waited[cb.bucket(500 * cb.MS)] = 1_000, 9
    queue = Histogram.from_bytes(struct.pack(f"<{cb.BUCKETS}Q", *waited))
    pool = PoolRow(NASTY, 1, 2, 1, 1, 1_010, 1_008, 0, 0, 2, 24_500_000, 500_000, 1_800_000, 0, 1e-6, queue)
    path = tmp_path / "report.html"
    for pools in ((pool,), ()):
        with path.open("w", encoding="ascii") as file:
            render(replace(of, pools=pools), "html", file)
        page = Page(chrome, path)
        shown = [page.find(selector).is_displayed() for selector in ("#pools", "nav a[href='#pools']")]
        assert shown == [bool(pools)] * 2
        heads, cells = page.texts("#pool-table th"), page.texts("#pool-table td")
        row = dict(zip(heads, cells))
        assert not pools or row == {
            "pool": NASTY + "1 task in the queue",
            "tasks": "1,009",
            "queue p50": "20 ms",
            "queue p99": "21 ms",  # buckets are an eighth wide
            "queue max": "500 ms",
            "busy": "1.8 s",
            "full": "0",
            "workers": "2",
        }
        assert page.js("return [window.hacked, document.images.length]") == [None, 0]
        page.assert_quiet()


def test_hostile_names_are_shown_and_do_nothing(chrome: Chrome, tmp_path: Path) -> None:
    builder = cb.CaptureBuilder(grown=True)
    builder.program = NASTY.encode()[:127]
    site = builder.site(NASTY, (NASTY, "/srv/" + NASTY, 1))
    stack = [(NASTY, "/srv/" + NASTY, 2)]
    builder.thread(NASTY, NASTY, wait_ns=1)
    builder.wait(site, "lock", stack, cb.MS)
    builder.wait(site, "semaphore", stack, cb.MS, waker=stack)
    builder.blame(site, stack, cb.MS)
    builder.event(site, stack, 0, cb.MS, thread=1, holder=1, release=stack)
    for page in open_page(chrome, builder, tmp_path):
        page.press("#lock-table tbody td.name button", Keys.ENTER)
        page.press("#time", Keys.ARROW_RIGHT)
        page.press("#flame", Keys.ARROW_DOWN)
        assert page.text("#lock-table td.name button") == NASTY
        assert NASTY in page.text("#time-detail")
        assert page.js("return [window.hacked, document.images.length]") == [None, 0]


def test_recording_without_anything_opens(chrome: Chrome, tmp_path: Path) -> None:
    for page in open_page(chrome, cb.CaptureBuilder(), tmp_path):
        assert page.texts(".findings li") == ["No lock was used."]
        page.press("#flame", Keys.ARROW_DOWN, Keys.ENTER, Keys.ESCAPE)
        page.press("#time", Keys.ARROW_RIGHT, "+", Keys.ESCAPE)


def test_large_recording_opens_and_says_what_is_left_out(chrome: Chrome, tmp_path: Path) -> None:
    builder = cb.example(grown=True)
    site, places = builder.site("Many._lock", ("create", "/srv/app.py", 1)), [("take", "/srv/app.py", 2)]
    builder.events.clear()
    builder.events_written = 0
    for number in range(1, 12_001):
        builder.event(site, places, number * 1_000, number * 1_500, thread=1, holder=2, release=places)
    of = Profile.from_capture(Capture.from_buffer(builder.build()))
    locks = tuple(replace(of.locks[0], name=f"Lock{number}._lock") for number in range(2_100))
    path = tmp_path / "report.html"
    with path.open("w", encoding="ascii") as file:
        render(replace(of, locks=locks), "html", file)
    page = Page(chrome, path)
    assert page.text("#time-left").startswith(
        "2,000 of 12,000 waits are not drawn one by one: the shortest; contention"
    )
    assert "100 locks with less waiting" in page.text("#limits-list")
    rows = "#lock-table tbody tr.lock"
    assert len(page.texts(rows)) == 200
    page.press("#lock-all", Keys.ENTER)
    assert len(page.texts(rows)) == 2_000
    page.assert_quiet()
