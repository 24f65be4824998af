"""Real waits, real locks, a real SDK: spans come out, and nobody is hurt."""

from __future__ import annotations

import own_interpreter

HEAD = (
    own_interpreter.HEAD
    + """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tracedthread.otel.spans import Spans

def is_wait(span):
    return span.name == "lock.wait"

class Exporter(InMemorySpanExporter):
    def waiters(self):
        return [span.attributes["thread.name"] for span in self.get_finished_spans() if is_wait(span)]

def tell(processor, **options):
    "Makes spans of all waits from now on; returns the provider."
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(processor)
    assert recorder.start([Spans(tracers.get_tracer("test"), alone_s=0, **options)], interval_s=60)
    return tracers

def in_child(work):
    "What `work` says, in a forked child that then ends as programs do."
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.write(writer, repr(work()).encode())
        sys.exit(7)
    os.close(writer)
    with open(reader) as file:
        said = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    return said
"""
)


def run(program: str) -> str:
    return own_interpreter.run(program, head=HEAD, env={"PYTHONWARNINGS": "ignore::DeprecationWarning"})


def test_a_wait_becomes_a_span_with_its_true_times() -> None:
    run("""
        exporter = Exporter()
        tell(SimpleSpanProcessor(exporter))
        stamps = wait_once(seconds=0.3)
        assert recorder.flush()
        (span,) = exporter.get_finished_spans()
        assert stamps["before"] - 1000 <= span.start_time <= stamps["waits"] + 1000
        assert stamps["still"] - 1000 <= span.end_time <= stamps["after"] + 1000
        assert span.attributes["thread.name"] == "waiter"
        assert span.attributes["tracedthread.holder.thread.id"] == threading.get_ident()
        assert span.attributes["tracedthread.holder.thread.name"] == "MainThread"
    """)


def test_every_wait_of_a_busy_program_becomes_one_span() -> None:
    run("""
        exporter = Exporter()
        tracers = tell(BatchSpanProcessor(exporter, max_queue_size=100_000), per_second=1e9)
        recorder.shared.current.interval_s = 0.002
        def work():
            for _ in range(200):
                with lock:
                    for _ in range(10): time.sleep(0)
        threads = [threading.Thread(target=work, name=f"busy {number}") for number in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert recorder.flush() and tracers.force_flush()
        (row,) = [row for row in tracedthread.snapshot().locks if row.name.endswith("lock") and row.stats.contended]
        assert not any(recorder.lost().values()), recorder.lost()
        told = [name for name in exporter.waiters() if name.startswith("busy")]
        assert len(told) == row.stats.contended > 0
    """)


def test_waits_of_exporters_make_no_spans_whichever_thread_exports() -> None:
    run("""
        in_the_way = threading.Lock()
        class Waits(Exporter):
            def export(self, spans):
                with in_the_way:
                    return super().export(spans)
        # The recorder itself exports with the first one, a thread of the SDK with the second.
        for make, who in (SimpleSpanProcessor, "tracedthread"), (BatchSpanProcessor, "Otel"):
            exporter = Waits()
            tracers = tell(make(exporter))
            wait_once(name="the program's")
            with in_the_way:
                flushing = threading.Thread(target=recorder.flush)
                flushing.start()
                if who == "Otel":
                    for _ in range(512):  # a whole batch, which its thread exports at once
                        tracers.get_tracer("program").start_span("another").end()
                until(lambda: any(name.startswith(who) for name in who_waits(kinds=(0, 1))))
            flushing.join()
            for _ in range(3):
                assert recorder.flush()
            tracers.force_flush()
            assert exporter.waiters() == ["the program's"], exporter.waiters()
            assert recorder.stop()
    """)


def test_destructors_that_wait_are_run_by_the_recorder_without_harm() -> None:
    run("""
        import gc
        exporter = Exporter()
        tell(SimpleSpanProcessor(exporter))
        class Waits:
            def __init__(self): self.itself = self
            def __del__(self):
                if threading.current_thread() is not threading.main_thread():
                    ran.append(lock.acquire(timeout=0.01))
                    if ran[-1]: lock.release()
        ran = []
        gc.disable()
        class Collects(Told):
            def tick(self, *args):
                Waits()
                gc.collect()
        recorder.start([Collects()])
        wait_once(name="first")
        with lock:
            assert recorder.flush()
        assert recorder.flush()
        assert False in ran
        assert exporter.waiters() == ["first"], exporter.waiters()
    """)


def test_an_exporter_that_hangs_costs_spans_and_nothing_else() -> None:
    run("""
        never = recorder.originals.allocate_lock()
        never.acquire()
        class Hangs(Exporter):
            def export(self, spans):
                began.set()
                never.acquire()
        began = threading.Event()
        tell(SimpleSpanProcessor(Hangs()))
        wait_once()
        assert not recorder.flush(timeout_s=0.01)
        began.wait()
        for _ in range(100): wait_once()
    """)


def test_spans_are_told_to_the_end_and_exported_before_the_provider_ends() -> None:
    out = run("""
        class Says(SpanExporter):
            def export(self, spans):
                print([span.attributes["thread.name"] for span in spans])
                return SpanExportResult.SUCCESS
        recorder.start([], interval_s=60)          # before there is a provider: its end is registered later than ours
        tracers = TracerProvider()
        tracers.add_span_processor(BatchSpanProcessor(Says()))
        assert recorder.start([Spans(tracers.get_tracer("test"), alone_s=0)], interval_s=60)
        def lets_go():
            threading.main_thread().join()
            lock.release()
        lock.acquire()
        threading.Thread(target=lock.acquire, name="late").start()
        until(lambda: "late" in who_waits())
        threading.Thread(target=lets_go).start()
    """)
    assert out == "['late']\n"


def test_a_child_tells_its_waits_though_the_parent_forked_in_the_middle_of_an_export() -> None:
    run("""
        class Hangs(Exporter):
            def export(self, spans):
                if os.getpid() == parent:
                    began.set()
                    go.wait()
                return super().export(spans)
        parent, began, go = os.getpid(), threading.Event(), threading.Event()
        exporter = Hangs()
        processor = BatchSpanProcessor(exporter)
        tracers = tell(processor)
        wait_once(name="parent")
        assert recorder.flush()
        flushing = threading.Thread(target=processor.force_flush)   # holds the processor's locks from now on
        flushing.start()
        began.wait()
        def work():
            wait_once(name="child")
            assert recorder.flush()
            tracers.force_flush()
            return exporter.waiters()
        for _ in range(3):
            assert in_child(work) == "['child']"
        go.set()
        flushing.join()
        assert exporter.waiters() == ["parent"]
    """)


def test_a_child_goes_on_and_ends_though_a_lock_of_the_exporter_is_held_for_ever() -> None:
    run("""
        exporter = Exporter()
        tracers = tell(SimpleSpanProcessor(exporter))
        # InMemorySpanExporter's is not made anew in a child.
        held = threading.Event()
        def keep():
            with exporter._lock:
                held.set()
                go.wait()
        go = threading.Event()
        thread = threading.Thread(target=keep)
        thread.start()
        held.wait()
        def work():
            wait_once(name="child")
            done = recorder.flush(timeout_s=0.01)
            wait_once(name="child goes on")
            return done
        assert in_child(work) == "False"
        go.set()
        thread.join()
        wait_once(name="parent")
        assert recorder.flush() and exporter.waiters() == ["parent"]
    """)
