"""vLLM's metrics, under vLLM's names.

Cells are plain numbers so that counting costs nothing on the hot path; prometheus_client only writes them out.
Source of names and buckets: vLLM's "Production Metrics" documentation.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from moa_simulator.prefix_cache import PrefixCache

_FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_TOKEN: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_REQUEST: Final = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_LABELS: Final = ("model_name", "engine")


class Histogram:
    """A histogram's cells; bounds in seconds."""

    __slots__ = ("bounds", "cells", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.cells = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Counts `count` observations of one value."""
        self.cells[bisect_left(self.bounds, value)] += count
        self.sum += value * count

    def cumulated(self) -> list[tuple[str, float]]:
        """Gives (upper bound, observations up to it) pairs."""
        total = 0
        pairs: list[tuple[str, float]] = []
        for bound, cell in zip([*map(str, map(float, self.bounds)), "+Inf"], self.cells, strict=True):
            total += cell
            pairs.append((bound, total))
        return pairs


class EngineMetrics:
    """What one model's engine counts."""

    def __init__(self, cache: PrefixCache) -> None:
        self.cache = cache
        self.running = 0
        self.waiting = 0
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.generation_tokens = 0
        self.finished: dict[str, int] = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self.first_token = Histogram(_FIRST_TOKEN)
        self.between_tokens = Histogram(_TOKEN)
        self.whole_request = Histogram(_REQUEST)
        self.queue = Histogram(_REQUEST)


_GAUGES: Final[Sequence[tuple[str, str, Callable[[EngineMetrics], int]]]] = (
    ("num_requests_running", "Requests in model execution batches.", lambda engine: engine.running),
    ("num_requests_waiting", "Requests waiting to be processed.", lambda engine: engine.waiting),
)
_COUNTERS: Final[Sequence[tuple[str, str, Callable[[EngineMetrics], int]]]] = (
    ("prompt_tokens", "Prefill tokens processed.", lambda engine: engine.prompt_tokens),
    ("prompt_tokens_cached", "Cached prompt tokens.", lambda engine: engine.cached_tokens),
    ("generation_tokens", "Generation tokens processed.", lambda engine: engine.generation_tokens),
    ("prefix_cache_queries", "Prefix cache queries, in queried tokens.", lambda engine: engine.cache.queries),
    ("prefix_cache_hits", "Prefix cache hits, in cached tokens.", lambda engine: engine.cache.hits),
)
_HISTOGRAMS: Final[Sequence[tuple[str, str, Callable[[EngineMetrics], Histogram]]]] = (
    ("time_to_first_token_seconds", "Time to first token.", lambda engine: engine.first_token),
    ("inter_token_latency_seconds", "Inter-token latency.", lambda engine: engine.between_tokens),
    ("e2e_request_latency_seconds", "End-to-end request latency.", lambda engine: engine.whole_request),
    ("request_queue_time_seconds", "Time spent in the WAITING phase.", lambda engine: engine.queue),
)


class _Exposition(Collector):
    def __init__(self, engines: Mapping[str, EngineMetrics]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        for name, help_text, read in _GAUGES:
            gauge = GaugeMetricFamily(f"vllm:{name}", help_text, labels=_LABELS)
            for model, engine in self._engines.items():
                gauge.add_metric((model, "0"), read(engine))
            yield gauge
        for name, help_text, read in _COUNTERS:
            counter = CounterMetricFamily(f"vllm:{name}", help_text, labels=_LABELS)
            for model, engine in self._engines.items():
                counter.add_metric((model, "0"), read(engine))
            yield counter
        yield self._finished()
        for name, help_text, cells_of in _HISTOGRAMS:
            histogram = HistogramMetricFamily(f"vllm:{name}", help_text, labels=_LABELS)
            for model, engine in self._engines.items():
                cells = cells_of(engine)
                histogram.add_metric((model, "0"), buckets=cells.cumulated(), sum_value=cells.sum)
            yield histogram

    def _finished(self) -> Metric:
        labels = (*_LABELS, "finished_reason")
        family = CounterMetricFamily("vllm:request_success", "Count of finished requests.", labels=labels)
        for model, engine in self._engines.items():
            for reason, count in engine.finished.items():
                family.add_metric((model, "0", reason), count)
        return family


def exposition(engines: Mapping[str, EngineMetrics]) -> bytes:
    """Writes all engines' metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Exposition(engines))
    return generate_latest(registry)
