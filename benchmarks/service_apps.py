"""
The services that bench_service.py measures: Flask and Django, each with a cache of prices that its threads share.

`gunicorn service_apps:flask_application()` and `service_apps:django_application()`. Every request is a span of the
service's own (OpenTelemetry's SDK, OTLP to $SERVICE_TRACES), looks 20 prices up one by one, and renders them. Every
fiftieth request refreshes some prices under the lock, 2 ms of waiting for a data base.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

LOOK_UPS = 20
REFRESH_EVERY = 50
REFRESH_S = 0.002


class PriceCache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prices = {f"article-{number}": float(number) for number in range(1000)}
        self._numbers = itertools.count()

    def prices(self) -> dict[str, float]:
        """What one request needs."""
        number = next(self._numbers)
        if number % REFRESH_EVERY == 0:
            self._refresh(number)
        found = {}
        for index in range(number, number + LOOK_UPS):
            article = f"article-{index % 1000}"
            with self._lock:
                found[article] = self._prices[article]
        return found

    def _refresh(self, number: int) -> None:
        with self._lock:
            time.sleep(REFRESH_S)
            self._prices[f"article-{number % 1000}"] += 0.01


cache = PriceCache()
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


def traced(application: Wsgi) -> Wsgi:
    """A span around each request; the provider is made with the first one, as its threads would not survive a fork."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import SpanKind

    tracers: list[Any] = []
    guard = threading.Lock()

    def tracer() -> Any:
        with guard:
            if not tracers:
                provider = TracerProvider()
                exporter = OTLPSpanExporter(f"{os.environ['SERVICE_TRACES']}/v1/traces")
                provider.add_span_processor(BatchSpanProcessor(exporter))
                tracers.append(provider.get_tracer("service"))
            return tracers[0]

    def serve(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        with (tracers[0] if tracers else tracer()).start_as_current_span("GET /prices", kind=SpanKind.SERVER):
            return application(environ, start_response)

    return serve


def flask_application() -> Wsgi:
    from flask import Flask, jsonify

    app = Flask(__name__)

    app.add_url_rule("/prices", view_func=lambda: jsonify(cache.prices()), endpoint="prices")
    return traced(app)


def django_application() -> Wsgi:
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import JsonResponse
    from django.urls import path

    settings.configure(
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=["django.middleware.common.CommonMiddleware", "django.middleware.security.SecurityMiddleware"],
        ROOT_URLCONF=__name__,
        SECRET_KEY="of a benchmark",
    )
    global urlpatterns  # noqa: PLW0603
    urlpatterns = [path("prices", lambda request: JsonResponse(cache.prices()))]
    return traced(get_wsgi_application())


urlpatterns: list[Any] = []
