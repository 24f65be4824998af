"""Real waits, real locks, a real SDK: spans come out, and nobody is hurt."""

from __future__ import annotations

import own_interpreter

HEAD = (
    own_interpreter.HEAD
    + own_interpreter.FORK
    + """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry import context, trace
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler, TraceIdRatioBased
from tracedthread.otel.spans import Spans, context_variable

def is_wait(span):
    return span.name == "lock.wait"

class Exporter(InMemorySpanExporter):
    def get_finished_spans(self):
        spans = super().get_finished_spans()
        return [span for span in spans if not is_wait(span) or is_ours(span.attributes["tracedthread.lock.name"])]
    def waiters(self):
        return [span.attributes["thread.name"] for span in self.get_finished_spans() if is_wait(span)]

def tell(processor, sampler=None, **options):
    "Makes spans of all waits from now on; returns the provider."
    tracers = TracerProvider(sampler=sampler, shutdown_on_exit=False)
    tracers.add_span_processor(processor)
    sink = Spans(tracers.get_tracer("test"), **{"alone_s": 0, "in_trace_s": 0, **options})
    assert recorder.start([sink], interval_s=60, context_variable=context_variable())
    return tracers
"""
)


def run(program: str, *, stderr: str = "") -> str:
    return own_interpreter.run(program, head=HEAD, stderr=stderr, env={"PYTHONWARNINGS": "ignore::DeprecationWarning"})


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
        # Looking so often, a holder's context may have been given out before the waiter's event names it.
        assert {name for name, number in recorder.lost().items() if number} <= {"contexts"}, recorder.lost()
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
    program = """
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
    """
    run(program, stderr="sinks left behind: 1\n")


def test_spans_are_told_to_the_end_and_exported_before_the_provider_ends() -> None:
    out = run("""
        class Says(SpanExporter):
            def export(self, spans):
                print([span.attributes["thread.name"] for span in spans if is_ours(span.attributes["tracedthread.lock.name"])])
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
    program = """
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
    """
    run(program, stderr="sinks left behind: 1\n")  # in the child


def test_the_parent_is_the_waiters_span_and_the_link_leads_to_the_holders() -> None:
    run("""
        exporter = Exporter()
        tracer = tell(SimpleSpanProcessor(exporter)).get_tracer("program")
        def in_span(wait):
            with tracer.start_as_current_span("waits"): wait()
        with tracer.start_as_current_span("holds"):
            wait_once(wrap=in_span)
        assert recorder.flush()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        wait, waits, holds = spans["lock.wait"], spans["waits"], spans["holds"]
        assert wait.parent.span_id == waits.context.span_id and wait.context.trace_id == waits.context.trace_id
        assert waits.start_time <= wait.start_time <= wait.end_time <= waits.end_time
        (link,) = wait.links
        assert link.context.span_id == holds.context.span_id and link.context.trace_id == holds.context.trace_id
        assert dict(link.attributes) == {"tracedthread.link.type": "holder"}
    """)


def test_after_a_timeout_the_link_leads_to_who_has_the_lock() -> None:
    run("""
        exporter = Exporter()
        tracer = tell(SimpleSpanProcessor(exporter)).get_tracer("program")
        with tracer.start_as_current_span("holds"), lock:
            thread = threading.Thread(target=lock.acquire, kwargs={"timeout": 0.01})
            thread.start()
            thread.join()
        assert recorder.flush()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        assert spans["lock.wait"].attributes["tracedthread.wait.outcome"] == "timeout"
        assert [link.context.span_id for link in spans["lock.wait"].links] == [spans["holds"].context.span_id]
    """)


def test_a_trace_that_is_not_sampled_costs_no_call_of_the_sdk() -> None:
    run("""
        class Asked(Sampler):
            def should_sample(self, parent_context, trace_id, name, *args, **kwargs):
                asked.append(name)
                return sampler.should_sample(parent_context, trace_id, name, *args, **kwargs)
            def get_description(self):
                return "asked"
        asked, sampler, exporter = [], ParentBased(TraceIdRatioBased(0)), Exporter()
        tracer = tell(SimpleSpanProcessor(exporter), sampler=Asked(), alone_s=0.1).get_tracer("program")
        def in_span(wait):
            with tracer.start_as_current_span("waits") as span:
                assert not span.is_recording()
                wait()
        wait_once(wrap=in_span, seconds=0.2)
        assert recorder.flush() and asked == ["waits"], asked
        wait_once(seconds=0.2)
        assert recorder.flush() and asked == ["waits", "lock.wait"], asked
        assert not exporter.get_finished_spans()
    """)


def test_the_thresholds_are_of_the_trace() -> None:
    run("""
        exporter = Exporter()
        tracer = tell(SimpleSpanProcessor(exporter), alone_s=0.1, in_trace_s=0.001).get_tracer("program")
        def in_span(wait):
            with tracer.start_as_current_span("waits"): wait()
        wait_once(name="alone, long enough", seconds=0.11)
        wait_once(name="in a trace, long enough", seconds=0.002, wrap=in_span)
        with lock:
            for place in (lambda wait: wait()), in_span:
                place(lambda: lock.acquire(timeout=0.0001))
        assert recorder.flush()
        told = {span.attributes["thread.name"]: span for span in exporter.get_finished_spans() if is_wait(span)}
        short = told.pop("MainThread", None)  # on a busy machine they may well have taken longer than asked for
        assert short is None or short.end_time - short.start_time >= 1_000_000
        assert list(told) == ["alone, long enough", "in a trace, long enough"]
    """)


def test_request_objects_die() -> None:
    run("""
        import contextvars, gc, weakref
        class Request: pass
        exporter = Exporter()
        tracer = tell(SimpleSpanProcessor(exporter)).get_tracer("program")
        of_the_program = contextvars.ContextVar("of_the_program")
        died = {}
        def handle(wait):
            requests = Request(), Request()
            died.update(zip(("in a variable", "in the context"), map(weakref.ref, requests)))
            of_the_program.set(requests[0])
            token = context.attach(context.set_value("request", requests[1]))
            with tracer.start_as_current_span("request"): wait()
            context.detach(token)
        wait_once(wrap=handle)
        gc.collect()
        assert died["in a variable"]() is None
        assert died["in the context"]() is not None    # its wait has not been told yet
        for _ in range(3): assert recorder.flush()
        gc.collect()
        assert died["in the context"]() is None
        assert exporter.waiters() == ["waiter"]
    """)


def test_what_waits_while_it_exports_makes_no_span() -> None:
    run("""
        in_the_way = threading.Lock()
        class Waits(Exporter):
            def export(self, spans):
                with in_the_way:
                    return super().export(spans)
        exporter = Waits()
        tracer = tell(SimpleSpanProcessor(exporter)).get_tracer("program")
        def request():
            with tracer.start_as_current_span("request"): pass   # exported at its end, in this thread
        with in_the_way:
            thread = threading.Thread(target=request, name="exports")
            thread.start()
            until(lambda: "exports" in who_waits())
        thread.join()
        for _ in range(3): assert recorder.flush()
        assert [span.name for span in exporter.get_finished_spans()] == ["request"]
    """)


def test_under_load_the_links_lead_to_spans_that_exist() -> None:
    run("""
        exporter = Exporter()
        tracers = tell(BatchSpanProcessor(exporter, max_queue_size=100_000))
        tracer = tracers.get_tracer("program")
        def serve():
            for _ in range(20):
                with tracer.start_as_current_span("request"), lock:
                    time.sleep(0.004)
        threads = [threading.Thread(target=serve) for _ in range(6)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        assert recorder.flush() and tracers.force_flush()
        spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
        long = [span for span in spans.values() if is_wait(span) and span.end_time - span.start_time > 10_000_000]
        assert len(long) > 50
        for span in long:
            assert spans[span.parent.span_id].name == "request"
        linked = [span for span in long if [spans[link.context.span_id].name for link in span.links] == ["request"]]
        assert len(linked) >= 0.99 * len(long), (len(linked), len(long))
        assert not any(recorder.lost().values()), recorder.lost()
    """)


def test_a_child_carries_contexts_as_well() -> None:
    run("""
        exporter = Exporter()
        tracer = tell(SimpleSpanProcessor(exporter)).get_tracer("program")
        def in_span(wait):
            with tracer.start_as_current_span("waits"): wait()
        def work():
            exporter.clear()
            wait_once(name="child", wrap=in_span)
            assert recorder.flush()
            spans = {span.name: span for span in exporter.get_finished_spans()}
            return spans["lock.wait"].parent.span_id == spans["waits"].context.span_id
        wait_once(name="parent", wrap=in_span)          # not looked at before the fork
        assert in_child(work) == "True"
        assert recorder.flush() and exporter.waiters() == ["parent"]
    """)


def test_thread_starts_are_told_in_the_trace_that_caused_them() -> None:
    run("""
        from opentelemetry.sdk._logs import LoggerProvider, export
        from tracedthread import audit
        from tracedthread.otel.starts import Starts
        in_memory = getattr(export, "InMemoryLogRecordExporter", None) or export.InMemoryLogExporter
        logs = in_memory()
        loggers = LoggerProvider(shutdown_on_exit=False)
        loggers.add_log_record_processor(export.SimpleLogRecordProcessor(logs))
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("program")
        assert recorder.start([Starts(loggers.get_logger("test"), loggers.resource)], context_variable=context_variable())
        audit.keep_trail()
        def work(): pass
        with tracer.start_as_current_span("request") as span:
            thread = threading.Thread(target=work, name="helper")
            thread.start()
        thread.join()
        assert recorder.flush()
        (data,) = logs.get_finished_logs()
        record = data.log_record
        assert (record.trace_id, record.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
        assert record.attributes["tracedthread.started.thread.name"] == "helper"
        assert record.attributes["tracedthread.started.code.function.name"].endswith("work")
    """)
