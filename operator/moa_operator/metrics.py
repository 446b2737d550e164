"""Every metric of the operator, in one place."""

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from moa_operator.keys import Key

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """The operator's metrics, in a registry of their own.

    Attributes:
        registry: What `/metrics` shows.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "moa_operator_reconciles",
            "Reconciles, by what came of them: ok, changed, refused, waiting or error.",
            ["result"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "moa_operator_reconcile_duration_seconds",
            "Time a reconcile took.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.queue_depth = Gauge(
            "moa_operator_queue_depth", "Profiles that wait for a reconcile.", registry=self.registry
        )
        self.queue_age_seconds = Gauge(
            "moa_operator_queue_oldest_age_seconds",
            "How long the profile has waited that has waited longest.",
            registry=self.registry,
        )
        self.queue_wait_seconds = Histogram(
            "moa_operator_queue_wait_seconds",
            "Time a profile waited for its reconcile.",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.queue_retries = Counter(
            "moa_operator_queue_retries", "Reconciles tried again after a failure.", registry=self.registry
        )
        self.api_requests = Counter(
            "moa_operator_api_requests",
            'Calls to the API server, by HTTP status; "none" where there was no answer.',
            ["verb", "kind", "code"],
            registry=self.registry,
        )
        self.api_request_seconds = Histogram(
            "moa_operator_api_request_duration_seconds",
            "Time a call to the API server took.",
            ["verb"],
            registry=self.registry,
            buckets=_SECONDS,
        )
        self.applies = Counter(
            "moa_operator_applies",
            "Children looked at, by what was done: skipped, created, changed, noop (applied, and nothing changed), "
            "pruned or refused.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.watch_events = Counter(
            "moa_operator_watch_events", "Changes that watches have told of.", ["kind"], registry=self.registry
        )
        self.watch_restarts = Counter(
            "moa_operator_watch_restarts", "Times the watches were started again.", registry=self.registry
        )
        self.watch_missed = Counter(
            "moa_operator_watch_missed",
            "Profiles that a list showed and no watch had told of.",
            registry=self.registry,
        )
        self.leader = Gauge(
            "moa_operator_leader", "Whether this replica is the one that writes.", registry=self.registry
        )
        self._profiles = Gauge(
            "moa_operator_profiles",
            "Profiles, by the status of their conditions.",
            ["condition", "status"],
            registry=self.registry,
        )
        self._conditions: dict[Key, Mapping[str, str]] = {}

    def profile_is(self, key: Key, conditions: Mapping[str, str]) -> None:
        """Counts a profile under its conditions, and no longer under those it had.

        Args:
            key: The profile.
            conditions: Status by type; empty for a profile that is gone.
        """
        for kind, status in self._conditions.pop(key, {}).items():
            self._profiles.labels(kind, status).dec()
        for kind, status in conditions.items():
            self._profiles.labels(kind, status).inc()
        if conditions:
            self._conditions[key] = conditions
