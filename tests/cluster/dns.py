"""The cluster's DNS: CoreDNS as a Deployment, with what it may read and the Service that everybody asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cluster.images import DNS

if TYPE_CHECKING:
    from tests.cluster.kube import JsonObject

DEPLOYMENT = "/apis/apps/v1/namespaces/kube-system/deployments/coredns"

_BUDGET = "/apis/policy/v1/namespaces/kube-system/poddisruptionbudgets/coredns"

_COREFILE = """\
.:53 {
    errors
    ready
    health
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        ttl 5
    }
    cache 5
    loadbalance
}
"""


def manifests(address: str, replicas: int) -> dict[str, JsonObject]:
    """Each object with the path that it is applied to.

    Args:
        address: The Service's virtual address, as the kubelets tell it to pods.
        replicas: How many pods; with two, names resolve while a node is drained.
    """
    core = "/api/v1/namespaces/kube-system"
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    return {
        f"{core}/serviceaccounts/coredns": _object("v1", "ServiceAccount", {}, name="coredns"),
        f"{rbac}/clusterroles/system:coredns": _role(),
        f"{rbac}/clusterrolebindings/system:coredns": _binding(),
        f"{core}/configmaps/coredns": _object("v1", "ConfigMap", {"data": {"Corefile": _COREFILE}}, name="coredns"),
        DEPLOYMENT: _object("apps/v1", "Deployment", {"spec": _deployment(replicas)}, name="coredns"),
        _BUDGET: _object("policy/v1", "PodDisruptionBudget", {"spec": _budget()}, name="coredns"),
        f"{core}/services/kube-dns": _object("v1", "Service", {"spec": _service(address)}, name="kube-dns"),
    }


def _object(version: str, kind: str, content: JsonObject, *, name: str) -> JsonObject:
    metadata: JsonObject = {"name": name, "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **content}


def _role() -> JsonObject:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
        ],
    }


def _binding() -> JsonObject:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}],
    }


def _deployment(replicas: int) -> JsonObject:
    labels: JsonObject = {"k8s-app": "kube-dns"}
    container: JsonObject = {
        "name": "coredns",
        "image": DNS.name,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [
            {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            {"containerPort": 53, "name": "dns-tcp", "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod: JsonObject = {
        "serviceAccountName": "coredns",
        "priorityClassName": "system-cluster-critical",
        # Not every taint: a pod that tolerates a cordoned node would be scheduled right back to it.
        "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": labels},
            }
        ],
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": "coredns"}}],
    }
    return {
        "replicas": replicas,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}},
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }


def _budget() -> JsonObject:
    return {"maxUnavailable": 1, "selector": {"matchLabels": {"k8s-app": "kube-dns"}}}


def _service(address: str) -> JsonObject:
    return {
        "clusterIP": address,
        "selector": {"k8s-app": "kube-dns"},
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ],
    }
