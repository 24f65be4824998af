"""
A threaded service with a cache that some requests keep locked for long: what test_otel_backends.py runs.

Its own spans, one a request, go to where OTEL_EXPORTER_OTLP_* say; it knows nothing of tracedthread. After its load it
stays until its stdin ends, so that whoever reads its metrics sees the last of them.
"""

import sys
import threading
import time

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind

THREADS = 6
HELD_S = 0.012


class PriceCache:
    """Reads are quick, each fourth request refreshes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.price = 0

    def look_up(self) -> int:
        with self._lock:
            return self.price

    def refresh(self) -> None:
        with self._lock:
            time.sleep(HELD_S)
            self.price += 1


def main(requests: int) -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=100_000))
    tracer = provider.get_tracer("service")
    cache = PriceCache()

    def serve(first: int) -> None:
        for number in range(first, first + requests):
            refreshes = number % 4 == 0
            with tracer.start_as_current_span("refresh" if refreshes else "look_up", kind=SpanKind.SERVER):
                if refreshes:
                    cache.refresh()
                else:
                    cache.look_up()

    workers = [threading.Thread(target=serve, args=(number,), name=f"worker-{number}") for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    provider.force_flush()
    print("served", THREADS * requests, flush=True)
    sys.stdin.read()
    provider.shutdown()


main(int(sys.argv[1]))
