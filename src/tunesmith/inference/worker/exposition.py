"""The worker's counts as a page of metrics: Prometheus' text format, vLLM's names behind our prefix."""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from tunesmith.inference.worker.measures import OUTCOMES, Histogram, Measures, Series

if TYPE_CHECKING:
    from prometheus_client import Metric

_LABELS = ("model_name", "adapter")


def page(measures: Measures, model: str, cache_usage: float) -> bytes:
    """The page.

    Args:
        model: what callers call the base model.
        cache_usage: share of the cache memory that is taken, 0 to 1.
    """
    from prometheus_client import generate_latest

    return generate_latest(_Collected(measures, model, cache_usage))


class _Collected:
    """What ``generate_latest`` takes for a registry."""

    def __init__(self, measures: Measures, model: str, cache_usage: float) -> None:
        self._measures, self._model, self._cache_usage = measures, model, cache_usage

    def collect(self) -> Iterator["Metric"]:
        from prometheus_client.core import GaugeMetricFamily

        series, model = self._measures.series, self._model
        usage = "Share of the cache memory that is taken; 1 is all of it."
        family = GaugeMetricFamily("tunesmith:kv_cache_usage_perc", usage, labels=_LABELS[:1])
        family.add_metric([model], self._cache_usage)
        yield family
        for name, help_text, value in _GAUGES:
            yield _gauge(name, help_text, model, ((adapter, value(counts)) for adapter, counts in series))
        for name, help_text, value in _COUNTERS:
            yield _counter(name, help_text, model, ((adapter, value(counts)) for adapter, counts in series))
        yield _outcomes(model, series)
        for name, help_text, histogram in _HISTOGRAMS:
            yield _histogram(name, help_text, model, ((adapter, histogram(counts)) for adapter, counts in series))


_GAUGES: tuple[tuple[str, str, Callable[[Series], int]], ...] = (
    ("num_requests_running", "Rows in the batch.", lambda counts: counts.running),
    ("num_requests_waiting", "Rows that wait for a place in the batch.", lambda counts: counts.waiting),
)
_COUNTERS: tuple[tuple[str, str, Callable[[Series], int]], ...] = (
    ("prompt_tokens", "Prompt tokens read.", lambda counts: counts.prompt_tokens),
    ("generation_tokens", "Tokens generated.", lambda counts: counts.generation_tokens),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", lambda counts: counts.prefix_queries),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", lambda counts: counts.prefix_hits),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Series], Histogram]], ...] = (
    ("time_to_first_token_seconds", "From the request to its first token.", lambda counts: counts.first_token),
    ("inter_token_latency_seconds", "From one step of a row to its next.", lambda counts: counts.inter_token),
    ("request_queue_time_seconds", "From the request to its place in the batch.", lambda counts: counts.queue),
    ("e2e_request_latency_seconds", "From the request to its end.", lambda counts: counts.whole),
)


def _gauge(name: str, help_text: str, model: str, values: Iterable[tuple[str, int]]) -> "Metric":
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"tunesmith:{name}", help_text, labels=_LABELS)
    for adapter, value in values:
        family.add_metric([model, adapter], value)
    return family


def _counter(name: str, help_text: str, model: str, values: Iterable[tuple[str, int]]) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    family = CounterMetricFamily(f"tunesmith:{name}", help_text, labels=_LABELS)
    for adapter, value in values:
        family.add_metric([model, adapter], value)
    return family


def _outcomes(model: str, series: Iterable[tuple[str, Series]]) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    labels = (*_LABELS, "finished_reason")
    family = CounterMetricFamily("tunesmith:request_success", "Rows that ended, by how they did.", labels=labels)
    for adapter, counts in series:
        for outcome in OUTCOMES:
            family.add_metric([model, adapter, outcome], counts.ended[outcome])
    return family


def _histogram(name: str, help_text: str, model: str, values: Iterable[tuple[str, Histogram]]) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(f"tunesmith:{name}", help_text, labels=_LABELS)
    for adapter, histogram in values:
        bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
        up_to = accumulate(list(histogram.counts))
        buckets = list(zip(bounds, up_to, strict=True))
        family.add_metric([model, adapter], buckets=buckets, sum_value=histogram.total)
    return family
