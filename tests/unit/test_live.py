"""What is new in the capture of this process, read in place."""

from __future__ import annotations

import pytest
from own_interpreter import run

from tracedthread import _core
from tracedthread.live import Live


def test_a_wait_is_told_with_all_that_is_known_of_it() -> None:
    run("""
        live = Live(_core.loaded())
        def inner(wait):
            wait()
        wait_once(wrap=inner)
        (event,) = new(live)
        assert event.lock.name.endswith("lock") and event.lock.type == "lock", event
        assert event.lock.created.function == "<module>" and event.lock.created.line > 0
        assert (event.kind, event.outcome) == ("lock", "acquired")
        assert event.waiter.name == "waiter" and event.waiter.ident
        assert event.holder == (threading.get_ident(), "MainThread"), event
        assert [frame.function.split(".")[-1] for frame in event.stack] == ["acquire", "inner"], event.stack
        assert [frame.function for frame in event.release_stack] == ["wait_once", "<module>"], event.release_stack
        assert event.holder_stack[-1].function == "<module>"
        assert 0 <= event.own_gil_s <= event.wait_s
        assert (event.context, event.holder_context) == (0, 0)
        assert new(live) == [] and live.missed_events == 0
    """)


def test_times_lie_between_stamps_taken_by_others_to_the_microsecond() -> None:
    run("""
        live = Live(_core.loaded())
        for length in (0.0, 0.02, 0.6, 0.0, 1.2, 0.0):
            stamps = wait_once(seconds=length)
            (event,) = new(live)
            assert stamps["before"] - 1000 <= event.start_ns <= stamps["waits"] + 1000, (stamps, event)
            assert stamps["still"] - 1000 <= event.end_ns <= stamps["after"] + 1000, (stamps, event)
    """)


def test_timeouts_name_who_had_the_lock() -> None:
    run("""
        live = Live(_core.loaded())
        with lock:
            thread = threading.Thread(target=lock.acquire, kwargs={"timeout": 0.01}, name="gives up")
            thread.start()
            thread.join()
        (event,) = new(live)
        assert (event.outcome, event.waiter.name) == ("timeout", "gives up")
        assert event.holder.name == "MainThread" and not event.release_stack
        assert event.holder_stack[0].function in ("<module>", "wait_once"), event
    """)


def test_idle_waiting_is_no_event_and_waiting_for_permits_and_room_is() -> None:
    run("""
        import queue
        live = Live(_core.loaded())
        got, full, permits = queue.Queue(), queue.Queue(maxsize=1), threading.Semaphore(0)
        full.put(0)
        threads = [threading.Thread(target=call, name=name) for name, call in
                   [("idle", got.get), ("room", lambda: full.put(1)), ("permit", permits.acquire)]]
        for thread in threads: thread.start()
        until(lambda: who_waits() >= {"idle", "room", "permit"})
        got.put(0); full.get(); permits.release()
        for thread in threads: thread.join()
        told = {(event.waiter.name, event.kind): event for event in live.new_events()}
        assert {kind for _, kind in told} - {"lock", "rlock"} == {"queue.put", "semaphore"}, told
        assert ("room", "queue.put") in told
        permit = told["permit", "semaphore"]
        assert permit.holder.name == "MainThread" and permit.release_stack[0].function == "<module>"
    """)


def test_every_event_is_told_or_counted_as_missed() -> None:
    run(
        """
        live = Live(_core.loaded())
        capacity = live._sections[7].capacity
        for number in range(capacity + 37):
            with lock:
                thread = threading.Thread(target=lock.acquire, kwargs={"timeout": 0.00001})
                thread.start()
                thread.join()
        # Joins and starts are waits as well, so their number is what the capture says.
        written = live._used(7)
        assert written >= capacity + 37
        events = live.new_events()
        assert live.missed_events == written - capacity, (live.missed_events, written, capacity)
        assert 0 < len(events) <= capacity
        wait_once()
        missed = live.missed_events
        assert new(live)[-1].outcome == "acquired" and live.missed_events == missed
        """,
        env={"TRACEDTHREAD_CAPTURE_BYTES": "192k"},
    )


def test_a_thread_whose_record_is_used_again_is_nobody() -> None:
    run(
        """
        live = Live(_core.loaded())
        wait_once(name="forgotten")
        for number in range(2 * live._sections[6].capacity):
            thread = threading.Thread(target=bool, name=f"later {number}")
            thread.start()
            thread.join()
        (event,) = [event for event in new(live) if event.outcome == "acquired"]
        assert event.waiter == (0, ""), event
        """,
        env={"TRACEDTHREAD_CAPTURE_BYTES": "192k"},
    )


def test_thread_starts_are_told_while_the_trail_is_kept() -> None:
    run("""
        from tracedthread import audit
        live = Live(_core.loaded())
        def work(): pass
        def launch(name):
            stamps.append(time.time_ns())
            thread = threading.Thread(target=work, name=name)
            thread.start()
            stamps.append(time.time_ns())
            thread.join()
        stamps = []
        launch("before")
        assert live.new_starts() == []
        audit.keep_trail()
        stamps.clear()
        launch("told")
        (start,) = live.new_starts()
        assert start.thread.name == "told" and start.thread.ident and start.function == "work"
        assert start.parent == (threading.get_ident(), "MainThread")
        assert start.stack[0].function == "launch"
        assert stamps[0] - 1000 <= start.time_ns <= stamps[1] + 1000
        assert live.new_starts() == [] and live.missed_starts == 0
    """)


def test_what_was_before_is_not_told() -> None:
    run("""
        wait_once(name="before")
        live = Live(_core.loaded())
        wait_once(name="after")
        assert [event.waiter.name for event in new(live)] == ["after"]
    """)


def test_unpatching_and_pausing_leave_nothing_new_and_no_error() -> None:
    run("""
        live = Live(_core.loaded())
        tracedthread.pause()
        with lock:
            thread = threading.Thread(target=lock.acquire, kwargs={"timeout": 0.01})
            thread.start()
            thread.join()
        assert new(live) == []
        tracedthread.resume()
        wait_once(name="resumed")
        assert [event.waiter.name for event in new(live)] == ["resumed"]
        tracedthread.unpatch()
        assert new(live) == [] and live.new_starts() == []
        assert tracedthread.patch()
        again = threading.Lock()
        wait_once(again, name="again")
        assert [event.waiter.name for event in new(live)] == ["again"]
    """)


def test_without_a_capture_there_is_none() -> None:
    class Closed:
        is_open = False

    with pytest.raises(_core.Unavailable):
        Live(Closed())  # type: ignore[arg-type]
