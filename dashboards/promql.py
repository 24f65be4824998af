"""
Pieces of PromQL, made of the names in `tracedthread.names`.

Series are named as Prometheus' OTLP receiver, the collector's Prometheus exporter, VictoriaMetrics
(`-opentelemetry.usePrometheusNaming`) and our own endpoint name them alike. Labels that only some of these have
(`otel_scope_name`, `service_name`) are not used, and `job` and `instance` may be missing.
"""

from __future__ import annotations

from tracedthread import names
from tracedthread.names import Metric
from tracedthread.prometheus import family_name

#: What the variables at the top of each dashboard choose.
CHOSEN = 'job=~"$job",instance=~"$instance"'
RATE = "[$__rate_interval]"
RANGE = "[$__range]"


def label(attribute: str) -> str:
    """What Prometheus calls an attribute."""
    return attribute.replace(".", "_")


POOL = label(names.POOL_NAME)
LOCK, KIND, FUNCTION = label(names.LOCK_NAME), label(names.WAIT_KIND), label(names.BLAMED_FUNCTION)
SECTION = label(names.DROPPED.attributes[0])
ONE_LOCK = f'{CHOSEN},{LOCK}="$lock"'


def series(metric: Metric, part: str = "") -> str:
    """
    The name of a metric's series.

    Args:
        part: Of a histogram: `bucket`, `sum` or `count`.
    """
    suffix = "total" if metric.kind == "counter" else part
    return family_name(metric) + (f"_{suffix}" if suffix else "")


def total(metric: Metric, *by: str, part: str = "", chosen: str = CHOSEN) -> str:
    """The newest values, summed up."""
    return f"{_sum(by)}({series(metric, part)}{{{chosen}}})"


def rate(metric: Metric, *by: str, part: str = "", chosen: str = CHOSEN) -> str:
    """Growth a second, summed up. Of seconds that is how many threads do it at once, on average."""
    return f"{_sum(by)}(rate({series(metric, part)}{{{chosen}}}{RATE}))"


def increase(metric: Metric, *by: str, part: str = "", chosen: str = CHOSEN, over: str = RANGE) -> str:
    """Growth in the time that is shown, summed up."""
    return f"{_sum(by)}(increase({series(metric, part)}{{{chosen}}}{over}))"


def quantile(q: float, metric: Metric, *by: str, chosen: str = CHOSEN) -> str:
    """Of a histogram."""
    return f"histogram_quantile({q}, {rate(metric, 'le', *by, part='bucket', chosen=chosen)})"


def legend(*labels: str) -> str:
    """The values of labels, for Grafana's legend."""
    return " ".join(f"{{{{{name}}}}}" for name in labels)


def top(count: int, expression: str) -> str:
    """The largest; what is zero is not among them."""
    return f"topk({count}, {expression} > 0)"


def _sum(by: tuple[str, ...]) -> str:
    return f"sum by ({', '.join(by)}) " if by else "sum"
