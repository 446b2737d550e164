"""The cells count as prometheus-client's own do, and the exposition is one that parsers accept."""

import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from moa_router.telemetry import names
from moa_router.telemetry.metrics import CounterFamily, GaugeFamily, HistogramFamily, Metrics
from moa_router.telemetry.names import MetricName

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"


def touch_everything(metrics: Metrics, profile: str) -> None:
    """One cell in every family, its profile's label (where it has one) being `profile`."""
    for family in metrics.families():
        values = [
            profile if label in {names.PROFILE, names.GEN_AI_PROFILE} else "value" for label in family.metric.labels
        ]
        if isinstance(family, HistogramFamily):
            family.labels(*values).observe(0.3)
        else:
            family.labels(*values).inc()


def parsed(metrics: Metrics, accept: str = "") -> list[Metric]:
    body, content_type = metrics.render(accept)
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return list(parse(body.decode()))


def sample(metrics: Metrics, name: str, **labels: str) -> float | None:
    found = [
        sample.value
        for family in parsed(metrics)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) <= 1
    return found[0] if found else None


def all_metric_names() -> Iterator[MetricName]:
    for value in vars(names).values():
        if isinstance(value, MetricName):
            yield value


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain", "text/plain; version=0.0.4; charset=utf-8"),
        ("nonsense;;,=", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
    ],
)
def test_the_exposition_parses_and_shows_every_family(accept: str, content_type: str) -> None:
    metrics = Metrics("1.2.3")
    touch_everything(metrics, "research")

    assert metrics.render(accept)[1] == content_type
    shown = {family.name: family for family in parsed(metrics, accept)}
    for metric in all_metric_names():
        family = shown[metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert {label for sample in family.samples for label in sample.labels} - {"le"} == set(metric.labels)
    assert "python_gc_collections" in shown
    assert not [sample.name for family in shown.values() for sample in family.samples if "_created" in sample.name]


def test_every_metric_named_is_counted_by_metrics_and_follows_the_naming_convention() -> None:
    families = {family.metric.name: family for family in Metrics("1").families()}

    assert set(families) == {metric.name for metric in all_metric_names()}
    for name, family in families.items():
        assert name.endswith("_total") == isinstance(family, CounterFamily), name
        assert bool(family.metric.buckets) == isinstance(family, HistogramFamily), name
        assert family.metric.help.endswith("."), name


def test_label_values_are_escaped_and_come_back_unchanged() -> None:
    metrics = Metrics("1")
    model = 'a"b\\c\nmoa_requests_total 666\u2028ü'
    metrics.stage_tokens.labels("research", "panel", "qwen", model, "input").inc(7)

    labels = {"profile": "research", "stage": "panel", "upstream": "qwen", "model": model, "type": "input"}
    assert sample(metrics, "moa_stage_tokens_total", **labels) == 7
    assert sample(metrics, "moa_requests_total") is None


def test_a_counter_counts_and_never_goes_down() -> None:
    counter = CounterFamily(names.REQUESTS).labels("research", "fuse", "ok")
    counter.inc()
    counter.inc(2)

    for amount in (-1, math.nan):
        with pytest.raises(ValueError, match="cannot be increased"):
            counter.inc(amount)
    assert counter.value == 3


def test_a_counter_of_integers_stays_exact_beyond_the_precision_of_floats() -> None:
    counter = CounterFamily(names.STAGE_TOKENS).labels("research", "panel", "qwen", "model", "input")
    counter.inc(2**53)
    counter.inc()

    assert counter.value == 2**53 + 1


def test_tiny_costs_add_up() -> None:
    metrics = Metrics("1")
    cost = metrics.stage_cost.labels("research", "panel", "qwen")
    for _ in range(1000):
        cost.inc(0.000_000_15)

    shown = sample(metrics, "moa_stage_cost_total", profile="research", stage="panel", upstream="qwen")
    assert shown == pytest.approx(0.000_15, rel=1e-12)


def test_a_gauge_goes_up_and_down_or_follows_a_source() -> None:
    metrics = Metrics("1")
    inflight = metrics.inflight.labels("research")
    inflight.inc()
    inflight.inc()
    inflight.dec()
    waiting = ["one", "two", "three"]
    metrics.queue_depth.labels("research").follow(lambda: len(waiting))

    assert sample(metrics, "moa_inflight_requests", profile="research") == 1
    assert sample(metrics, "moa_queue_depth", profile="research") == 3
    waiting.pop()
    assert sample(metrics, "moa_queue_depth", profile="research") == 2


bounds = st.lists(st.floats(min_value=0, max_value=1e6), min_size=1, max_size=12, unique=True).map(sorted)


@settings(deadline=None)
@given(bounds=bounds, values=st.lists(st.floats(min_value=-2e6, max_value=2e6)), data=st.data())
def test_a_histogram_counts_as_prometheus_client_does(
    bounds: list[float], values: list[float], data: st.DataObject
) -> None:
    values += data.draw(st.lists(st.sampled_from(bounds)), label="on the bounds")
    registry = CollectorRegistry()
    reference = Histogram("reference_seconds", "A histogram.", ["profile"], registry=registry, buckets=bounds)
    ours = HistogramFamily(MetricName("reference_seconds", "A histogram.", ("profile",), tuple(bounds)))
    for value in values:
        reference.labels("research").observe(value)
        ours.labels("research").observe(value)
    reference.labels("research")
    ours.labels("research")

    (expected,) = registry.collect()
    assert [s for s in ours.collect().samples if not s.name.endswith("_sum")] == [
        s for s in expected.samples if not s.name.endswith(("_created", "_sum"))
    ]
    assert ours.labels("research").count == len(values)
    assert ours.labels("research").sum == pytest.approx(sum(values))


@settings(deadline=None)
@given(amounts=st.lists(st.integers(min_value=0, max_value=10**9)))
def test_counters_and_gauges_expose_their_sum(amounts: list[int]) -> None:
    counters, gauges = CounterFamily(names.QUORUM), GaugeFamily(names.INFLIGHT)
    for amount in amounts:
        counters.labels("research", "met").inc(amount)
        gauges.labels("research").inc(amount)
    counters.labels("research", "met")
    gauges.labels("research")

    assert [s.value for family in (counters, gauges) for s in family.collect().samples] == [sum(amounts)] * 2


def test_the_same_values_give_the_same_cell() -> None:
    family = CounterFamily(names.QUORUM)

    assert family.labels("research", "met") is family.labels("research", "met")
    assert family.labels("research", "met") is not family.labels("research", "unmet")


def test_wrong_labels_are_refused_with_the_names_of_the_right_ones() -> None:
    family = CounterFamily(names.QUORUM)

    with pytest.raises(ValueError, match=r"moa_quorum_total has the labels profile, outcome; got \('research',\)"):
        family.labels("research")
    with pytest.raises(TypeError, match="label outcome must be a string, not 3"):
        family.labels("research", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"has the labels \(none\)"):
        GaugeFamily(names.LAST_RELOAD_SUCCESSFUL).labels("research")
    assert family.items() == ()


@pytest.mark.parametrize("buckets", [(), (2.0, 1.0), (1.0, 1.0)])
def test_a_histogram_needs_ascending_buckets(buckets: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="buckets must be ascending"):
        HistogramFamily(MetricName("some_seconds", "Some.", (), buckets))


def test_forget_drops_every_cell_of_one_profile_and_no_other() -> None:
    metrics = Metrics("1")
    touch_everything(metrics, "gone")
    touch_everything(metrics, "stays")
    metrics.forget("gone")

    shown = [sample for family in parsed(metrics) for sample in family.samples]
    assert not [sample for sample in shown if "gone" in sample.labels.values()]
    for metric in all_metric_names():
        name = metric.name + ("_count" if metric.buckets else "")
        assert [sample for sample in shown if sample.name == name], name


def test_a_value_equal_to_a_profile_under_another_label_is_not_forgotten() -> None:
    metrics = Metrics("1")
    metrics.upstream_requests.labels("research", "qwen", "ok").inc()
    metrics.forget("qwen")

    assert len(metrics.upstream_requests.items()) == 1


def test_a_cell_that_is_still_held_counts_on_unseen() -> None:
    metrics = Metrics("1")
    held = metrics.inflight.labels("gone")
    metrics.forget("gone")
    held.inc()

    assert sample(metrics, "moa_inflight_requests", profile="gone") is None


def test_a_scrape_in_another_thread_survives_cells_that_come_and_go() -> None:
    metrics = Metrics("1")
    done = threading.Event()

    def scrape() -> int:
        scrapes = 0
        while not done.is_set() or scrapes == 0:
            parsed(metrics)
            scrapes += 1
        return scrapes

    with ThreadPoolExecutor(1) as executor:
        scraper = executor.submit(scrape)
        for number in range(2000):
            metrics.quorum.labels(str(number), "met").inc()
            metrics.stage_duration.labels(str(number), "panel", "qwen", "ok").observe(number)
            metrics.forget(str(number - 20))
        done.set()

        assert scraper.result(timeout=60) > 0


def test_two_instances_share_nothing() -> None:
    one, other = Metrics("1"), Metrics("2")
    one.inflight.labels("research").set(5)

    assert sample(other, "moa_inflight_requests", profile="research") is None
    assert sample(other, "moa_build_info", version="2") == 1
