"""What the router reads, and what makes its pods roll."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.operator.documents import EVERYTHING, document, profile

from moa_api.v1alpha1 import load_profile
from moa_operator.render.configuration import ACCEPTED_FILE, PROFILE_FILE, checksum, config_map, router_profile

if TYPE_CHECKING:
    from collections.abc import Mapping


def data(edits: Mapping[str, object]) -> Mapping[str, str]:
    found = config_map(profile(edits))["data"]
    assert isinstance(found, dict)
    return {name: text for name, text in found.items() if isinstance(text, str)}


@pytest.mark.parametrize("edits", [{}, EVERYTHING], ids=["smallest", "everything"])
def test_the_router_reads_a_profile_that_fuses_the_same(edits: Mapping[str, object]) -> None:
    written = profile(edits).spec
    read = load_profile(yaml.safe_load(data(edits)[PROFILE_FILE])).spec
    assert read.model_copy(update={"router": written.router, "telemetry": written.telemetry}) == written
    assert read.router.drain == written.router.drain
    assert read.telemetry.otlp == written.telemetry.otlp


@pytest.mark.parametrize("edits", [{}, EVERYTHING, {"spec.paused": True}], ids=["smallest", "everything", "paused"])
def test_what_was_accepted_is_kept_whole(edits: Mapping[str, object]) -> None:
    assert load_profile(json.loads(data(edits)[ACCEPTED_FILE])).spec == profile(edits).spec


@pytest.mark.parametrize(
    "edits",
    [
        {"spec.router": {"replicas": 7}},
        {"spec.router": {"service": {"type": "NodePort"}}},
        {"spec.telemetry.serviceMonitor": {"enabled": True}},
        {"spec.paused": True},
        {"spec.aggregator.strategy": "Synthesize", "spec.router": {"drain": {"delay": "5000ms"}}},
        {"metadata.generation": 4, "metadata.labels": {"team": "b"}, "metadata.resourceVersion": "99"},
    ],
    ids=["replicas", "service", "monitor", "paused", "a default written out", "metadata"],
)
def test_pods_do_not_roll_for_what_the_router_does_not_read(edits: Mapping[str, object]) -> None:
    assert checksum(profile(edits), "references") == checksum(profile(), "references")


def test_pods_roll_for_what_the_router_reads() -> None:
    sums = {
        checksum(profile(), "references"),
        checksum(profile(), "other references"),
        checksum(profile({"spec.panel.members[0].temperature": 0.6}), "references"),
        checksum(profile({"spec.router": {"drain": {"delay": "6s"}}}), "references"),
        checksum(profile({"spec.upstreams[0].service.port": 8001}), "references"),
    }
    assert len(sums) == 5


def test_the_text_is_that_of_its_author_without_defaults() -> None:
    assert router_profile(profile()) == {
        "apiVersion": "moa-operator.io/v1alpha1",
        "kind": "MoAProfile",
        "metadata": {"name": "research", "namespace": "team-a"},
        "spec": {
            "upstreams": [
                {"name": "qwen", "service": {"name": "vllm-qwen", "port": 8000}, "model": "Qwen/Qwen3-32B"},
            ],
            "panel": {"members": [{"upstream": "qwen", "samples": 3}], "quorum": 2},
            "aggregator": {"upstream": "qwen"},
        },
    }


def test_a_document_with_defaults_written_out_by_an_api_server_renders_the_same() -> None:
    assert router_profile(load_profile(document({"spec.limits": {"maxBodyBytes": 33554432}}))) == router_profile(
        profile()
    )
