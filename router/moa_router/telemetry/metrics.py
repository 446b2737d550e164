"""Counters, gauges and histograms that cost an attribute access, and their exposition by prometheus-client.

A fused request counts some 25 things. prometheus-client's own children take a lock for each, although everything here
happens on one event loop; so the cells are ours, plain slots without a lock, and prometheus-client does what it does
best: the text formats. Cells are meant to be looked up once, when a profile is loaded, and kept.

Reading is safe from another thread (`Metrics.render` belongs in one): a scrape sees each number as it was at some
moment, not all of them at the same one.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from moa_router.telemetry import names
from moa_router.telemetry.names import MetricName

_PROFILE_LABELS = (names.PROFILE, names.GEN_AI_PROFILE)


class CounterCell:
    """A number that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``.

        Integers stay integers, hence exact whatever their size.

        Raises:
            ValueError: The amount is negative or not a number.
        """
        if not amount >= 0:
            raise ValueError(f"a counter cannot be increased by {amount}; use a gauge for what goes down")
        self.value += amount


class GaugeCell:
    """A number that goes up and down, or one that is asked for at each scrape."""

    __slots__ = ("_source", "_value")

    def __init__(self) -> None:
        self._value: float = 0
        self._source: Callable[[], float] | None = None

    @property
    def value(self) -> float:
        """The number now."""
        return self._value if self._source is None else self._source()

    def set(self, value: float) -> None:
        """Set the number."""
        self._value = value

    def inc(self, amount: float = 1) -> None:
        """Add ``amount``."""
        self._value += amount

    def dec(self, amount: float = 1) -> None:
        """Subtract ``amount``."""
        self._value -= amount

    def follow(self, source: Callable[[], float]) -> None:
        """Take the number from ``source`` at each scrape from now on.

        Args:
            source: A plain read such as ``lambda: len(queue)``; the scrape may call it from another thread.
        """
        self._source = source


class HistogramCell:
    """Observations counted by bucket."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0

    def observe(self, value: float) -> None:
        """Count ``value`` (seconds, or the family's unit) in the first bucket whose upper bound is not below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)


Cell = TypeVar("Cell", CounterCell, GaugeCell, HistogramCell)


class Family(ABC, Generic[Cell]):
    """All cells of one metric, by the values of its labels.

    Args:
        metric: Name, help and labels.
        new_cell: Makes the cell of a combination of values seen for the first time.
    """

    def __init__(self, metric: MetricName, new_cell: Callable[[], Cell]) -> None:
        self.metric = metric
        self._new_cell: Callable[[], Cell] = new_cell
        self._cells: dict[tuple[str, ...], Cell] = {}

    def labels(self, *values: str) -> Cell:
        """The cell of these values, one for each label in the order of the metric's ``labels``.

        Raises:
            ValueError: There are more or fewer values than labels.
            TypeError: A value is not a string.
        """
        cell = self._cells.get(values)
        return self._add(values) if cell is None else cell

    def forget(self, label: str, value: str) -> None:
        """Drop the cells whose ``label`` has this value; without such a label nothing happens."""
        if label not in self.metric.labels:
            return
        position = self.metric.labels.index(label)
        for values in [values for values in self._cells if values[position] == value]:
            del self._cells[values]

    @abstractmethod
    def collect(self) -> Metric:
        """The family as prometheus-client exposes it."""

    def items(self) -> tuple[tuple[tuple[str, ...], Cell], ...]:
        """Label values and cells, as they are at this moment."""
        return tuple(self._cells.items())

    def _add(self, values: tuple[str, ...]) -> Cell:
        metric = self.metric
        if len(values) != len(metric.labels):
            raise ValueError(f"{metric.name} has the labels {', '.join(metric.labels) or '(none)'}; got {values}")
        for label, value in zip(metric.labels, values, strict=True):
            if not isinstance(value, str):
                raise TypeError(f"{metric.name}: label {label} must be a string, not {value!r}")
        return self._cells.setdefault(values, self._new_cell())


class CounterFamily(Family[CounterCell]):
    """Cells that only grow."""

    def __init__(self, metric: MetricName) -> None:
        super().__init__(metric, CounterCell)

    def collect(self) -> Metric:
        """The counters, without ``_created`` lines, which no query needs."""
        family = CounterMetricFamily(self.metric.name, self.metric.help, labels=self.metric.labels)
        for values, cell in self.items():
            family.add_metric(values, cell.value)
        return family


class GaugeFamily(Family[GaugeCell]):
    """Cells that go up and down."""

    def __init__(self, metric: MetricName) -> None:
        super().__init__(metric, GaugeCell)

    def collect(self) -> Metric:
        """The gauges; those that follow a source are read now."""
        family = GaugeMetricFamily(self.metric.name, self.metric.help, labels=self.metric.labels)
        for values, cell in self.items():
            family.add_metric(values, cell.value)
        return family


class HistogramFamily(Family[HistogramCell]):
    """Cells that count by bucket.

    Raises:
        ValueError: The metric's buckets are missing or not in ascending order.
    """

    def __init__(self, metric: MetricName) -> None:
        bounds = metric.buckets
        if not bounds or list(bounds) != sorted(set(bounds)):
            raise ValueError(f"{metric.name}: buckets must be ascending and at least one, not {bounds}")
        super().__init__(metric, lambda: HistogramCell(bounds))
        self._texts = [*map(floatToGoString, bounds), "+Inf"]

    def collect(self) -> Metric:
        """The histograms, their buckets cumulative."""
        family = HistogramMetricFamily(self.metric.name, self.metric.help, labels=self.metric.labels)
        for values, cell in self.items():
            family.add_metric(values, list(zip(self._texts, accumulate(cell.counts.copy()), strict=True)), cell.sum)
        return family


class Metrics(Collector):
    """Every metric of the router, one instance a process.

    Values of labels are given in the order that `moa_router.telemetry.names` fixes.

    Args:
        version: The router's version, for ``moa_build_info``.
    """

    def __init__(self, version: str) -> None:
        self.requests = CounterFamily(names.REQUESTS)
        self.request_duration = HistogramFamily(names.REQUEST_DURATION)
        self.time_to_first_token = HistogramFamily(names.TIME_TO_FIRST_TOKEN)
        self.router_overhead = HistogramFamily(names.ROUTER_OVERHEAD)
        self.stage_duration = HistogramFamily(names.STAGE_DURATION)
        self.stage_tokens = CounterFamily(names.STAGE_TOKENS)
        self.stage_cost = CounterFamily(names.STAGE_COST)
        self.estimated_usage = CounterFamily(names.ESTIMATED_USAGE)
        self.upstream_requests = CounterFamily(names.UPSTREAM_REQUESTS)
        self.upstream_connections = GaugeFamily(names.UPSTREAM_CONNECTIONS)
        self.quorum = CounterFamily(names.QUORUM)
        self.degraded = CounterFamily(names.DEGRADED)
        self.cancelled_calls = CounterFamily(names.CANCELLED_CALLS)
        self.inflight = GaugeFamily(names.INFLIGHT)
        self.queue_depth = GaugeFamily(names.QUEUE_DEPTH)
        self.profile_reloads = CounterFamily(names.PROFILE_RELOADS)
        self.last_reload_successful = GaugeFamily(names.LAST_RELOAD_SUCCESSFUL)
        self.build_info = GaugeFamily(names.BUILD_INFO)
        self.gen_ai_token_usage = HistogramFamily(names.GEN_AI_TOKEN_USAGE)
        self.gen_ai_operation_duration = HistogramFamily(names.GEN_AI_OPERATION_DURATION)

        self.build_info.labels(version).set(1)
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def families(self) -> Iterator[CounterFamily | GaugeFamily | HistogramFamily]:
        """All families, in the order of their exposition."""
        for value in vars(self).values():
            if isinstance(value, CounterFamily | GaugeFamily | HistogramFamily):
                yield value

    def collect(self) -> Iterator[Metric]:
        """All families as prometheus-client exposes them (its ``Collector`` protocol)."""
        for family in self.families():
            yield family.collect()

    def forget(self, profile: str) -> None:
        """Drop every cell of a profile that is no longer served.

        To be called when its last request has ended: cells that are still held count on unseen, and looking one up anew
        brings it back.
        """
        for family in self.families():
            for label in _PROFILE_LABELS:
                family.forget(label, profile)

    def render(self, accept: str) -> tuple[bytes, str]:
        """The exposition in the format that the scraper prefers.

        Takes some ten microseconds a line, tens of milliseconds for thousands: call it through `asyncio.to_thread`.

        Args:
            accept: The request's ``Accept`` header, empty if it has none: OpenMetrics where it is asked for, else the
                Prometheus text format.

        Returns:
            Body and content type.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type
