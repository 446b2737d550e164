"""Profiles for the operator's tests, as an API server gives them."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

from tests.api.table import SMALLEST, edited

from moa_api.v1alpha1 import load_profile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moa_api.v1alpha1 import MoAProfile

UID = "3b7efded-d035-4437-aeb3-57ced766e5bd"

SERVED = {
    "metadata.namespace": "team-a",
    "metadata.uid": UID,
    "metadata.generation": 3,
    "metadata.resourceVersion": "41",
}
"""What an API server adds to a profile."""

EVERYTHING: Mapping[str, object] = {
    "spec.upstreams[0].apiKeySecretRef": {"name": "vllm.keys", "key": "api-key"},
    "spec.upstreams[1]": {
        "name": "gpt",
        "url": "https://models.example.com",
        "model": "gpt-4o",
        "apiKeySecretRef": {"name": "vllm.keys", "key": "other-key"},
        "tls": {"caConfigMapRef": {"name": "authorities", "key": "ca.crt"}},
    },
    "spec.auth": {"type": "APIKey", "secretRef": {"name": "tenants"}},
    "spec.telemetry": {
        "otlp": {"endpoint": "http://collector.monitoring:4318"},
        "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
    },
    "spec.router": {
        "autoscaling": {"minReplicas": 3, "maxReplicas": 9, "targetCPUUtilization": 60},
        "image": "registry.example.com/moa-router:1.2",
        "imagePullPolicy": "Always",
        "resources": {"requests": {"cpu": 1, "memory": "0.5Gi"}, "limits": {"memory": "2048Mi"}},
        "drain": {"delay": "2.5s", "timeout": "2m"},
        "service": {"type": "LoadBalancer", "annotations": {"cloud.example.com/internal": "true"}},
        "serviceAccount": {"annotations": {"cloud.example.com/role": "moa"}},
        "podDisruptionBudget": {"maxUnavailable": "25%"},
        "networkPolicy": {"enabled": True, "from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]},
        "route": {
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
            "hostnames": ["models.example.com"],
        },
        "podTemplate": {
            "metadata": {
                "labels": {"team": "a", "moa-operator.io/profile": "mine"},
                "annotations": {"note": "kept"},
            },
            "spec": {
                "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                "nodeSelector": {"disk": "ssd"},
                "priorityClassName": "serving",
                "imagePullSecrets": [{"name": "registry"}],
                "topologySpreadConstraints": None,
                "containers": [
                    {
                        "name": "router",
                        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
                        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
                    }
                ],
                "volumes": [{"name": "scratch", "emptyDir": {}}],
            },
        },
    },
}
"""Edits after which the smallest profile has every child there is, and every option of each."""


def document(edits: Mapping[str, object] | None = None) -> dict[str, object]:
    """The smallest profile with edits, as an API server gives it."""
    return edited(deepcopy(SMALLEST), {**SERVED, **(edits or {})})


def profile(edits: Mapping[str, object] | None = None) -> MoAProfile:
    """The smallest profile with edits, read."""
    return load_profile(document(edits))
