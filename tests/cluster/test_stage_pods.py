"""The stage's decisions, without a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from pydantic import JsonValue, ValidationError
from tests.cluster.stage_pods import (
    NODE,
    Bind,
    Confirm,
    Outcome,
    Pod,
    PodStatus,
    Rule,
    RuleData,
    Show,
    next_step,
    rule_for,
    rule_manifest,
)

if TYPE_CHECKING:
    from tests.cluster.kube import JsonObject

NOW = "2026-01-02T03:04:05Z"
EARLIER = "2026-01-01T00:00:00Z"
ADDRESS = "10.244.0.1"


def pod(
    *,
    node: str = NODE,
    status: JsonObject | None = None,
    meta: JsonObject | None = None,
    spec: JsonObject | None = None,
) -> Pod:
    return Pod.model_validate(
        {
            "metadata": {"name": "p", "namespace": "n", "uid": "u", **(meta or {})},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "main:1"}], **(spec or {})},
            "status": status or {},
        }
    )


def shown(step: object) -> JsonObject:
    assert isinstance(step, Show)
    return step.status


def after(before: Pod, outcome: Outcome) -> Pod:
    status = shown(next_step(before, outcome, ADDRESS, NOW))
    return before.model_copy(update={"status": PodStatus.model_validate(status)})


def entries(value: JsonValue) -> list[JsonObject]:
    assert isinstance(value, list)
    return [entry for entry in value if isinstance(entry, dict)]


def test_a_new_pod_is_bound() -> None:
    assert next_step(pod(node=""), Outcome.READY, ADDRESS, NOW) == Bind()


@pytest.mark.parametrize("spec", [{"schedulerName": "another"}, {"schedulingGates": [{"name": "wait"}]}])
def test_a_pod_that_is_not_to_be_scheduled_by_us_is_left_alone(spec: JsonObject) -> None:
    assert next_step(pod(node="", spec=spec), Outcome.READY, ADDRESS, NOW) is None


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_is_over_stays_over(phase: str) -> None:
    assert next_step(pod(status={"phase": phase}), Outcome.READY, ADDRESS, NOW) is None


def test_pods_of_other_nodes_are_left_alone() -> None:
    assert next_step(pod(node="real"), Outcome.READY, ADDRESS, NOW) is None
    assert next_step(pod(node="real", meta={"deletionTimestamp": NOW}), Outcome.READY, ADDRESS, NOW) is None


def test_deletion_comes_before_everything_else() -> None:
    assert next_step(pod(meta={"deletionTimestamp": NOW}), Outcome.CRASH_LOOP, ADDRESS, NOW) == Confirm()


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_step_that_was_taken_is_not_taken_again(outcome: Outcome) -> None:
    settled = after(pod(), outcome)
    assert next_step(settled, outcome, ADDRESS, NOW) is None


def test_a_pod_that_cannot_be_scheduled_says_so_once() -> None:
    refused = after(pod(node=""), Outcome.UNSCHEDULABLE)
    assert [(found.type, found.reason) for found in refused.status.conditions] == [("PodScheduled", "Unschedulable")]
    assert next_step(refused, Outcome.UNSCHEDULABLE, ADDRESS, NOW) is None
    assert next_step(refused, Outcome.READY, ADDRESS, NOW) == Bind()


def test_conditions_that_stay_keep_their_time() -> None:
    ready: JsonObject = {"type": "Ready", "status": "True", "lastTransitionTime": EARLIER}
    initialized: JsonObject = {"type": "Initialized", "status": "True", "lastTransitionTime": EARLIER}
    running = pod(status={"phase": "Running", "conditions": [ready, initialized]})

    conditions = entries(shown(next_step(running, Outcome.NOT_READY, ADDRESS, NOW))["conditions"])
    times = {found["type"]: (found["status"], found["lastTransitionTime"]) for found in conditions}
    assert times["Initialized"] == ("True", EARLIER)
    assert times["Ready"] == ("False", NOW)


def test_init_containers_end_and_sidecars_run() -> None:
    spec: JsonObject = {"initContainers": [{"name": "once"}, {"name": "beside", "restartPolicy": "Always"}]}
    once, beside = entries(shown(next_step(pod(spec=spec), Outcome.READY, ADDRESS, NOW))["initContainerStatuses"])
    ended: JsonObject = {"exitCode": 0, "reason": "Completed", "startedAt": NOW, "finishedAt": NOW}
    assert (once["state"], once["started"]) == ({"terminated": ended}, False)
    assert (beside["state"], beside["started"]) == ({"running": {"startedAt": NOW}}, True)


def test_only_running_pods_have_an_address() -> None:
    assert "podIP" not in shown(next_step(pod(), Outcome.IMAGE_PULL, ADDRESS, NOW))
    assert shown(next_step(pod(), Outcome.CRASH_LOOP, ADDRESS, NOW))["podIP"] == ADDRESS


def test_a_crash_loop_shows_what_came_before() -> None:
    container = entries(shown(next_step(pod(), Outcome.CRASH_LOOP, ADDRESS, NOW))["containerStatuses"])[0]
    assert container["restartCount"] == 3
    assert container["lastState"] == {
        "terminated": {"exitCode": 1, "reason": "Error", "startedAt": NOW, "finishedAt": NOW}
    }


def rule(name: str, outcome: Outcome, selector: dict[str, str], namespace: str = "n") -> Rule:
    manifest = rule_manifest(name, outcome, selector, ready_after=0.25)
    metadata = manifest["metadata"]
    assert isinstance(metadata, dict)
    return Rule.model_validate({**manifest, "metadata": {**metadata, "namespace": namespace}})


def test_rules_survive_their_manifest() -> None:
    read = rule("r", Outcome.NOT_READY, {"app": "web", "tier": "front"}).data
    assert read == RuleData(outcome=Outcome.NOT_READY, selector={"app": "web", "tier": "front"}, ready_after=0.25)


def test_the_first_matching_rule_of_the_namespace_counts() -> None:
    web = pod(meta={"labels": {"app": "web"}})
    rules = [
        rule("c", Outcome.CRASH_LOOP, {}),
        rule("b", Outcome.IMAGE_PULL, {"app": "web"}),
        rule("a", Outcome.NOT_READY, {"app": "other"}),
        rule("a", Outcome.UNSCHEDULABLE, {}, namespace="elsewhere"),
    ]
    assert rule_for(web, rules).outcome is Outcome.IMAGE_PULL
    assert rule_for(web, []).outcome is Outcome.READY


@pytest.mark.parametrize("data", [{"outcome": "Splendid"}, {"outcome": "Ready", "readyAfter": "-1"}, {}])
def test_a_rule_that_makes_no_sense_is_refused(data: JsonObject) -> None:
    with pytest.raises(ValidationError):
        Rule.model_validate({"metadata": {"name": "r"}, "data": data})
