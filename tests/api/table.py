"""Good and bad profiles: the one table that models, the generated CRD and a real API server are held to."""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Final, Literal

RefusedBy = Literal["schema", "rules", "unknown", "nobody"]
"""Who refuses a bad document on an API server.

``schema`` (types, bounds, patterns, list keys) and ``rules`` (CEL) always do. ``unknown`` fields are refused under
strict field validation, which is kubectl's default, and dropped otherwise. ``nobody``: only the models know, and the
row says why.
"""

ABSENT: Final = object()
"""Marks an edit that removes a field."""

SMALLEST: Final[dict[str, object]] = {
    "apiVersion": "moa-operator.io/v1alpha1",
    "kind": "MoAProfile",
    "metadata": {"name": "research"},
    "spec": {
        "upstreams": [
            {"name": "qwen", "service": {"name": "vllm-qwen", "port": 8000}, "model": "Qwen/Qwen3-32B"},
        ],
        "panel": {"members": [{"upstream": "qwen", "samples": 3, "temperature": 0.7}], "quorum": 2},
        "aggregator": {"upstream": "qwen", "temperature": 0.3},
    },
}

EXTERNAL: Final[dict[str, object]] = {"name": "gpt", "url": "https://api.example.com", "model": "gpt-4o"}
"""A second upstream, outside the cluster."""

Edits = Mapping[str, object]


@dataclass(frozen=True)
class Good:
    """A document that everyone accepts."""

    name: str
    edits: Edits = field(default_factory=dict)

    @property
    def document(self) -> dict[str, object]:
        return edited(SMALLEST, self.edits)


@dataclass(frozen=True)
class Bad:
    """A document that the models refuse with exactly these problems."""

    name: str
    edits: Edits
    problems: tuple[str, ...]
    refused_by: RefusedBy = "schema"
    why: str = ""

    @property
    def document(self) -> dict[str, object]:
        return edited(SMALLEST, self.edits)


def edited(document: dict[str, object], edits: Edits) -> dict[str, object]:
    """Returns a copy with values set (or removed) at paths such as ``spec.panel.members[0].samples``."""
    copy = deepcopy(document)
    for path, value in edits.items():
        _set(copy, [int(step) if step.isdigit() else step for step in re.findall(r"[^.\[\]]+", path)], value)
    return copy


def _set(document: dict[str, object], steps: list[int | str], value: object) -> None:
    parent: object = document
    for step in steps[:-1]:
        if isinstance(parent, dict):
            parent = parent.setdefault(step, {})
        else:
            assert isinstance(parent, list)
            assert isinstance(step, int)
            parent = parent[step]
    _put(parent, steps[-1], deepcopy(value) if value is not ABSENT else value)


def _put(parent: object, step: int | str, value: object) -> None:
    if isinstance(parent, list):
        assert isinstance(step, int)
        parent[step : step + 1] = [value]
        return
    assert isinstance(parent, dict)
    if value is ABSENT:
        del parent[step]
    else:
        parent[step] = value


def _nested(levels: int) -> dict[str, object]:
    return {"deeper": _nested(levels - 1)} if levels else {}


U = "spec.upstreams[0]"
M = "spec.panel.members[0]"
VERSION = "moa-operator.io/v1alpha1"
F = "spec.aggregator.fallbackUpstreams"
NOT_A_DURATION = 'not a duration; write a number and a unit (h, m, s, ms), such as "300ms", "5s" or "1h5m"'
NOT_A_QUORUM = 'not a quorum; write a whole number such as 2, or a percentage from "1%" to "100%"'
LABEL_HINT = 'write lower-case letters, digits and "-", such as "qwen-32b"'
URL_HINT = (
    'write scheme, host and port only, such as "https://api.example.com"; the path goes into `path`, '
    "credentials into `apiKeySecretRef`"
)
PATH_HINT = 'write a path with a leading and no trailing slash, such as "/v1", or "/" for none'
MODEL_HINT = 'write the printable ASCII name the upstream serves, such as "Qwen/Qwen3-32B"'
OBJECT_HINT = 'write lower-case letters, digits, "-" and ".", such as "vllm-api-keys"'
OWNED = "`model`, `messages`, `stream`, `stream_options`, `n`"
OWNED_HINT = "remove it (samples set `n`, the upstream sets `model`)"
PUBLIC_HINT = 'write printable ASCII without spaces and without ":" (it separates the mode), such as "gpt-4o"'
ENDPOINT_HINT = 'write an http or https URL without credentials, query or fragment, such as "http://collector:4318"'
SHORTER = "write a shorter one, or a longer request"
EMPTY = "empty; write some text, or leave the field out"
SHOWN = '"Never", "Reasoning", "Think"'
SECTIONS = (
    '"upstreams", "panel", "aggregator", "gate", "timeouts", "response", "auth", "telemetry", "router", "limits", '
    '"paused"'
)
R = "spec.router"
IMAGE_HINT = 'write a container image, such as "registry.example.com/moa-router:1.2"'
HOST_HINT = 'write a DNS name in lower case, such as "models.example.com" or "*.example.com"'
NOT_A_QUANTITY = 'not a quantity; write a number with a unit if any, such as "500m" or 2 cores, "512Mi" or "1Gi" bytes'
NOT_PODS = (
    'neither a number of pods nor a share of them; write a whole number such as 1, or a percentage from "1%" to "100%"'
)

GOOD: Final[tuple[Good, ...]] = (
    Good("the smallest"),
    Good("a status from the API server", {"status": {"conditions": [], "endpoint": "http://research-moa/v1"}}),
    Good(
        "metadata from the API server",
        {
            "metadata.namespace": "team-a",
            "metadata.uid": "f1e0c5f8-6a0a-4f6e-9f53-6f6f3c3b4f10",
            "metadata.generation": 3,
            "metadata.labels": {"team": "a"},
            "metadata.annotations": {"note": "mine"},
            "metadata.managedFields": [],
        },
    ),
    Good("a name of 59 characters", {"metadata.name": "a" * 59}),
    Good("a null is a field left out", {"spec.gate": None, "spec.panel.quorum": None, f"{M}.topP": None}),
    Good("a temperature without a fraction", {f"{M}.temperature": 0, "spec.aggregator.temperature": 2}),
    Good(
        "a Service in another namespace, over TLS", {f"{U}.service.namespace": "models", f"{U}.service.scheme": "https"}
    ),
    Good("an external upstream", {"spec.upstreams[1]": EXTERNAL}),
    Good("a URL with a port and a slash", {"spec.upstreams[1]": EXTERNAL | {"url": "http://127.0.0.1:65535/"}}),
    Good("a URL with an IPv6 host", {"spec.upstreams[1]": EXTERNAL | {"url": "http://[::1]:8000"}}),
    Good("no path", {f"{U}.path": "/"}),
    Good("a long path", {f"{U}.path": "/openai/deployments/gpt-4o/v1"}),
    Good("an API key", {f"{U}.apiKeySecretRef": {"name": "keys.example", "key": "open_ai.key"}}),
    Good(
        "an authority from a ConfigMap",
        {f"{U}.service.scheme": "https", f"{U}.tls": {"caConfigMapRef": {"name": "ca", "key": "ca.crt"}}},
    ),
    Good(
        "an authority from a Secret for a URL",
        {"spec.upstreams[1]": EXTERNAL | {"tls": {"caSecretRef": {"name": "ca", "key": "ca.crt"}}}},
    ),
    Good("no verification", {"spec.upstreams[1]": EXTERNAL | {"tls": {"insecureSkipVerify": True}}}),
    Good("TLS with everything left out", {"spec.upstreams[1]": EXTERNAL | {"tls": {}}}),
    Good("no capabilities", {f"{U}.capabilities": []}),
    Good("all capabilities", {f"{U}.capabilities": ["Vision", "Tools", "StructuredOutput", "MultipleChoices"]}),
    Good("bounds of an upstream", {f"{U}.contextLength": 256, f"{U}.maxConcurrency": 1}),
    Good(
        "prices",
        {
            f"{U}.pricing": {
                "inputPerMillion": 0.15,
                "cachedInputPerMillion": 0,
                "outputPerMillion": 1,
                "reasoningPerMillion": 0.6,
            }
        },
    ),
    Good(
        "parameters of any shape",
        {
            f"{U}.parameters": {
                "top_k": 20,
                "chat_template_kwargs": {"enable_thinking": False},
                "stop": None,
                "a": [1, {}],
            }
        },
    ),
    Good(
        "a member with everything",
        {
            M: {
                "name": "careful",
                "upstream": "qwen",
                "samples": 16,
                "temperature": 2,
                "topP": 1,
                "maxTokens": 1,
                "seed": 0,
                "role": "You doubt every number.",
                "systemPrompt": "Answer briefly.\nCheck twice.",
                "timeout": "20s",
                "weight": 0.5,
            }
        },
    ),
    Good("members that share an upstream", {"spec.panel.members": [{"upstream": "qwen"}] * 3}),
    Good("a quorum of all samples", {"spec.panel.quorum": 3}),
    Good("a quorum in percent", {"spec.panel.quorum": "60%"}),
    Good("a quorum of everyone", {"spec.panel.quorum": "100%"}),
    Good("the most calls", {f"{M}.samples": 16, "spec.panel.layers": 4, "spec.panel.quorum": 16}),
    Good("no grace", {"spec.panel.grace": "0s"}),
    Good("a duration of several parts", {"spec.panel.grace": "1m1.5s"}),
    Good(
        "choices of the panel",
        {"spec.panel.fanOut": "Parallel", "spec.panel.onUnmet": "Fail", "spec.panel.onToolTurn": "Fuse"},
    ),
    Good("First without an upstream", {"spec.aggregator": {"strategy": "First"}}),
    Good(
        "fallbacks",
        {
            "spec.upstreams[1]": EXTERNAL,
            "spec.aggregator.fallbackUpstreams": ["gpt"],
            "spec.aggregator.onFailure": "Fail",
        },
    ),
    Good(
        "an aggregator with everything",
        {
            "spec.aggregator": {
                "strategy": "Synthesize",
                "upstream": "qwen",
                "temperature": 0.1,
                "maxTokens": 4096,
                "prompt": "Write one answer.",
                "hardening": {
                    "anonymize": False,
                    "shuffle": False,
                    "delimit": False,
                    "dissent": False,
                    "maxCandidateTokens": 16,
                },
            }
        },
    ),
    Good("a bypass", {"spec.gate": {"policy": "Never", "single": "qwen"}}),
    Good("a bypass to the aggregator's upstream", {"spec.gate": {"policy": "Never"}}),
    Good(
        "timeouts",
        {
            "spec.timeouts": {
                "request": "90s",
                "connect": "500ms",
                "firstToken": "1m30s",
                "idle": "10s",
                "member": "60s",
                "aggregator": "1m30s",
            }
        },
    ),
    Good("one timeout of several", {"spec.timeouts": {"request": "1h"}}),
    Good(
        "a response with everything",
        {"spec.response": {"showCandidates": "Reasoning", "heartbeat": "0s", "modelNames": ["gpt-4o", "org/model@1"]}},
    ),
    Good("API keys", {"spec.auth": {"type": "APIKey", "secretRef": {"name": "tenants"}}}),
    Good(
        "traces",
        {"spec.telemetry": {"otlp": {"endpoint": "http://collector.monitoring:4318/otlp", "samplingPercent": 12.5}}},
    ),
    Good("draining at once", {"spec.router": {"drain": {"delay": "0s", "timeout": "0s"}}}),
    Good("paused", {"spec.paused": True}),
    Good("a router that is told where it runs", {R: {"mode": "Deployment"}}),
    Good("no pods", {f"{R}.replicas": 0}),
    Good("as many pods as needed", {f"{R}.autoscaling": {"maxReplicas": 10}}),
    Good(
        "as many pods as said",
        {f"{R}.autoscaling": {"minReplicas": 3, "maxReplicas": 3, "targetCPUUtilization": 150}},
    ),
    Good(
        "an image",
        {
            f"{R}.image": "registry.example.com:5000/team/moa-router:1.2@sha256:" + "0" * 64,
            f"{R}.imagePullPolicy": "Always",
        },
    ),
    Good(
        "resources",
        {
            f"{R}.resources": {
                "requests": {"cpu": 2, "memory": "0.5Gi", "ephemeral-storage": "1G"},
                "limits": {"cpu": "2500m", "memory": "1024Mi", "ephemeral-storage": 1000000},
            }
        },
    ),
    Good("no disruption budget", {f"{R}.podDisruptionBudget": {"enabled": False}}),
    Good("a disruption budget in percent", {f"{R}.podDisruptionBudget.maxUnavailable": "25%"}),
    Good("nobody may leave", {f"{R}.podDisruptionBudget.maxUnavailable": 0}),
    Good(
        "a network policy",
        {
            f"{R}.networkPolicy": {
                "enabled": True,
                "from": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}, {"podSelector": {}}],
            }
        },
    ),
    Good(
        "a service for a load balancer",
        {f"{R}.service": {"type": "LoadBalancer", "annotations": {"cloud.example.com/internal": "true"}}},
    ),
    Good("a service account with an identity", {f"{R}.serviceAccount.annotations": {"cloud.example.com/role": "moa"}}),
    Good(
        "a route",
        {
            f"{R}.route": {
                "parentRefs": [
                    {"name": "public", "namespace": "gateways", "sectionName": "https", "port": 443},
                    {"name": "internal"},
                ],
                "hostnames": ["models.example.com", "*.models.example.com"],
            }
        },
    ),
    Good(
        "a pod template",
        {
            f"{R}.podTemplate": {
                "metadata": {"labels": {"team": "a"}, "annotations": {"note": ""}},
                "spec": {
                    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
                    "nodeSelector": {"disk": "ssd"},
                    "containers": [{"name": "router", "env": [{"name": "A", "value": "b"}]}],
                },
            }
        },
    ),
    Good(
        "a service monitor",
        {"spec.telemetry.serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}},
    ),
    Good(
        "limits",
        {
            "spec.limits": {
                "maxBodyBytes": 1024,
                "maxConcurrentRequests": 1,
                "maxQueuedRequests": 0,
                "queueTimeout": "0s",
                "maxQueuedCalls": 0,
                "maxHeaderCount": 16,
                "maxHeaderBytes": 1024,
                "maxJSONDepth": 8,
                "maxCandidateBytes": 1024,
            }
        },
    ),
    Good(
        "the most members and upstreams",
        {
            "spec.upstreams": [EXTERNAL | {"name": f"u{index}"} for index in range(24)],
            "spec.panel.members": [{"upstream": f"u{index % 24}"} for index in range(32)],
            "spec.aggregator.upstream": "u0",
        },
    ),
)

BAD: Final[tuple[Bad, ...]] = (
    # The envelope.
    Bad(
        "no version",
        {"apiVersion": ABSENT},
        (f"apiVersion: required (always {VERSION}, the version of the schema this document follows)",),
        "nobody",
        "an API server finds the schema by the version, so it never reads this one without",
    ),
    Bad(
        "another version",
        {"apiVersion": "moa-operator.io/v1"},
        ('apiVersion: "moa-operator.io/v1" is no choice; did you mean "moa-operator.io/v1alpha1"?',),
        "nobody",
        "an API server finds the schema by the version, so it never reads this one with another",
    ),
    Bad(
        "another kind",
        {"kind": "MoaProfile"},
        ('kind: "MoaProfile" is no choice; did you mean "MoAProfile"?',),
        "nobody",
        "an API server finds the schema by the kind, so it never reads this one with another",
    ),
    Bad("no metadata", {"metadata": ABSENT}, ("metadata: required (name, namespace and the like)",)),
    Bad("no spec", {"spec": ABSENT}, ("spec: required (what is wanted)",)),
    Bad("a spec that is a list", {"spec": []}, ("spec: expected an object; got a list",)),
    Bad(
        "a long name",
        {"metadata.name": "a" * 60},
        ("metadata.name: too long; write 59 characters at most",),
        "rules",
    ),
    Bad(
        "a name with a dot",
        {"metadata.name": "research.v2"},
        (f'metadata.name: "research.v2" does not fit; {LABEL_HINT}',),
        "rules",
    ),
    Bad(
        "a name in upper case",
        {"metadata.name": "Research"},
        (f'metadata.name: "Research" does not fit; {LABEL_HINT}',),
        "nobody",
        "an API server checks names of its own accord, before the schema",
    ),
    Bad(
        "an unknown section",
        {"spec.cahce": {}},
        (f"spec.cahce: unknown field; write one of {SECTIONS}",),
        "unknown",
    ),
    # Unknown fields.
    Bad(
        "a misspelled field",
        {"spec.panel.quorom": 2},
        ('spec.panel.quorom: unknown field; did you mean "quorum"?',),
        "unknown",
    ),
    Bad(
        "a field in snake case",
        {f"{M}.max_tokens": 2},
        (f'{M}.max_tokens: unknown field; did you mean "maxTokens"?',),
        "unknown",
    ),
    Bad(
        "an initialism in another case",
        {"spec.limits": {"maxJsonDepth": 10}},
        ('spec.limits.maxJsonDepth: unknown field; did you mean "maxJSONDepth"?',),
        "unknown",
    ),
    Bad(
        "a misspelled required field is reported once as missing and once as unknown",
        {f"{M}.upstream": ABSENT, f"{M}.upstraem": "qwen"},
        (
            f"{M}.upstream: required (name of the upstream to ask)",
            f'{M}.upstraem: unknown field; did you mean "upstream"?',
        ),
    ),
    Bad(
        "a misspelled optional field breaks no rule besides",
        {f"{U}.service": ABSENT, f"{U}.srevice": {"name": "vllm", "port": 8000}},
        (f'{U}.srevice: unknown field; did you mean "service"?',),
        "rules",
    ),
    # Upstreams.
    Bad(
        "no upstreams",
        {"spec.upstreams": ABSENT},
        ("spec.upstreams: required (the models this profile may call, each by a name of its own)",),
    ),
    Bad(
        "empty upstreams",
        {"spec.upstreams": []},
        (
            "spec.upstreams: too few entries; write 1 at least",
            f'{M}.upstream: no upstream named "qwen"; there is none',
            'spec.aggregator.upstream: no upstream named "qwen"; there is none',
        ),
    ),
    Bad(
        "too many upstreams",
        {
            "spec.upstreams": [EXTERNAL | {"name": f"u{index}"} for index in range(25)],
            f"{M}.upstream": "u0",
            "spec.aggregator.upstream": "u0",
        },
        ("spec.upstreams: too many entries; write 24 at most",),
    ),
    Bad(
        "upstreams as an object", {"spec.upstreams": {"qwen": {}}}, ("spec.upstreams: expected a list; got an object",)
    ),
    Bad(
        "an upstream that is text",
        {"spec.upstreams[1]": "gpt"},
        ('spec.upstreams[1]: expected an object; got text ("gpt")',),
    ),
    Bad(
        "an upstream that is null", {"spec.upstreams[1]": None}, ("spec.upstreams[1]: expected an object; got nothing",)
    ),
    Bad(
        "no name",
        {f"{U}.name": ABSENT},
        (f"{U}.name: required (name of the upstream within the profile; others refer to it)",),
    ),
    Bad("a name that is no label", {f"{U}.name": "Qwen_3"}, (f'{U}.name: "Qwen_3" does not fit; {LABEL_HINT}',)),
    Bad("a name that is a number", {f"{U}.name": 3}, (f"{U}.name: expected text in quotes; got a number (3)",)),
    Bad(
        "upstreams of one name",
        {"spec.upstreams[1]": EXTERNAL | {"name": "qwen"}},
        ('spec.upstreams[1].name: "qwen" is taken by spec.upstreams[0].name; write a different one',),
    ),
    Bad(
        "neither service nor url",
        {f"{U}.service": ABSENT},
        (f"{U}: needs service: {{name: …, port: …}} for a Service in the cluster, or url: for anything else",),
        "rules",
    ),
    Bad(
        "both service and url",
        {f"{U}.url": "http://vllm"},
        (f"{U}: has both service and url; write exactly one of them",),
        "rules",
    ),
    Bad(
        "a service without a port",
        {f"{U}.service.port": ABSENT},
        (f"{U}.service.port: required (port of the Service, by number)",),
    ),
    Bad(
        "a port in quotes",
        {f"{U}.service.port": "8000"},
        (f'{U}.service.port: expected a whole number without quotes; got text ("8000")',),
    ),
    Bad("a port of nothing", {f"{U}.service.port": 0}, (f"{U}.service.port: 0 is out of bounds; write 1 at least",)),
    Bad(
        "a port beyond all",
        {f"{U}.service.port": 65536},
        (f"{U}.service.port: 65536 is out of bounds; write 65535 at most",),
    ),
    Bad(
        "a port and a half",
        {f"{U}.service.port": 80.5},
        (f"{U}.service.port: expected a whole number without quotes; got a number (80.5)",),
    ),
    Bad(
        "a service in upper case",
        {f"{U}.service.name": "VLLM"},
        (f'{U}.service.name: "VLLM" does not fit; {LABEL_HINT}',),
    ),
    Bad(
        "a scheme of another sort",
        {f"{U}.service.scheme": "grpc"},
        (f'{U}.service.scheme: "grpc" is no choice; write one of "http", "https"',),
    ),
    Bad(
        "a url of another scheme",
        {"spec.upstreams[1]": EXTERNAL | {"url": "ftp://host"}},
        (f'spec.upstreams[1].url: "ftp://host" does not fit; {URL_HINT}',),
    ),
    Bad(
        "a url with a path",
        {"spec.upstreams[1]": EXTERNAL | {"url": "https://host/v1"}},
        (f'spec.upstreams[1].url: "https://host/v1" does not fit; {URL_HINT}',),
    ),
    Bad(
        "a url with credentials",
        {"spec.upstreams[1]": EXTERNAL | {"url": "https://me:secret@host"}},
        (f"spec.upstreams[1].url: this text does not fit; {URL_HINT}",),
    ),
    Bad(
        "a url with a query",
        {"spec.upstreams[1]": EXTERNAL | {"url": "https://host?key=x"}},
        (f'spec.upstreams[1].url: "https://host?key=x" does not fit; {URL_HINT}',),
    ),
    Bad(
        "a url with a port beyond all",
        {"spec.upstreams[1]": EXTERNAL | {"url": "https://host:65536"}},
        (f'spec.upstreams[1].url: "https://host:65536" does not fit; {URL_HINT}',),
    ),
    Bad("a path with a trailing slash", {f"{U}.path": "/v1/"}, (f'{U}.path: "/v1/" does not fit; {PATH_HINT}',)),
    Bad("a path without a leading slash", {f"{U}.path": "v1"}, (f'{U}.path: "v1" does not fit; {PATH_HINT}',)),
    Bad("a path with a query", {f"{U}.path": "/v1?a=b"}, (f'{U}.path: "/v1?a=b" does not fit; {PATH_HINT}',)),
    Bad("no model", {f"{U}.model": ABSENT}, (f"{U}.model: required (name of the model as the upstream knows it)",)),
    Bad(
        "an empty model",
        {f"{U}.model": ""},
        (f"{U}.model: empty; write some text",),
    ),
    Bad(
        "a model with a line break",
        {f"{U}.model": "a\nb"},
        (f"{U}.model: this text does not fit; {MODEL_HINT}",),
    ),
    Bad("a long model", {f"{U}.model": "m" * 254}, (f"{U}.model: too long; write 253 characters at most",)),
    Bad(
        "an API key in the open",
        {f"{U}.apiKeySecretRef": "sk-proj-abcdef"},
        (f"{U}.apiKeySecretRef: expected an object; got text (this text)",),
    ),
    Bad(
        "an API key without an entry",
        {f"{U}.apiKeySecretRef": {"name": "keys"}},
        (f"{U}.apiKeySecretRef.key: required (entry of the Secret that holds the value)",),
    ),
    Bad(
        "an entry with a slash",
        {f"{U}.apiKeySecretRef": {"name": "keys", "key": "a/b"}},
        (f'{U}.apiKeySecretRef.key: "a/b" does not fit; write letters, digits, "-", "_" and ".", such as "api-key"',),
    ),
    Bad(
        "a Secret in upper case",
        {f"{U}.apiKeySecretRef": {"name": "Keys", "key": "a"}},
        (f'{U}.apiKeySecretRef.name: "Keys" does not fit; {OBJECT_HINT}',),
    ),
    Bad(
        "TLS over plain HTTP",
        {f"{U}.tls": {"insecureSkipVerify": True}},
        (f"{U}.tls: the endpoint speaks plain HTTP; write service.scheme: https or an https url, or remove tls",),
        "rules",
    ),
    Bad(
        "two authorities",
        {
            "spec.upstreams[1]": EXTERNAL
            | {"tls": {"caSecretRef": {"name": "a", "key": "b"}, "caConfigMapRef": {"name": "a", "key": "b"}}}
        },
        ("spec.upstreams[1].tls: has both caConfigMapRef and caSecretRef; write one of them at most",),
        "rules",
    ),
    Bad(
        "a boolean in quotes",
        {"spec.upstreams[1]": EXTERNAL | {"tls": {"insecureSkipVerify": "yes"}}},
        ('spec.upstreams[1].tls.insecureSkipVerify: expected true or false without quotes; got text ("yes")',),
    ),
    Bad(
        "a boolean as a number",
        {"spec.upstreams[1]": EXTERNAL | {"tls": {"insecureSkipVerify": 1}}},
        ("spec.upstreams[1].tls.insecureSkipVerify: expected true or false without quotes; got a number (1)",),
    ),
    Bad(
        "a capability that is none",
        {f"{U}.capabilities": ["Vison"]},
        (f'{U}.capabilities[0]: "Vison" is no choice; did you mean "Vision"?',),
    ),
    Bad(
        "a capability twice",
        {f"{U}.capabilities": ["Tools", "Tools"]},
        (f'{U}.capabilities[1]: "Tools" is taken by {U}.capabilities[0]; write a different one',),
    ),
    Bad(
        "a short context",
        {f"{U}.contextLength": 255},
        (f"{U}.contextLength: 255 is out of bounds; write 256 at least",),
    ),
    Bad("no concurrency", {f"{U}.maxConcurrency": 0}, (f"{U}.maxConcurrency: 0 is out of bounds; write 1 at least",)),
    Bad(
        "a price in quotes",
        {f"{U}.pricing": {"inputPerMillion": "1", "outputPerMillion": 1}},
        (f"{U}.pricing.inputPerMillion: not a price; write a number without quotes, such as 0.15",),
    ),
    Bad(
        "a price below nothing",
        {f"{U}.pricing": {"inputPerMillion": -1, "outputPerMillion": 1}},
        (f"{U}.pricing.inputPerMillion: -1 is out of bounds; write 0 at least",),
    ),
    Bad(
        "half a price",
        {f"{U}.pricing": {"inputPerMillion": 1}},
        (f"{U}.pricing.outputPerMillion: required (price of a million output tokens)",),
    ),
    Bad(
        "parameters the router owns",
        {f"{U}.parameters": {"n": 3, "stream": True, "stream_options": {}, "messages": [], "model": "m"}},
        (f"{U}.parameters: the router writes {OWNED} itself; {OWNED_HINT}",),
        "rules",
    ),
    Bad("parameters as a list", {f"{U}.parameters": []}, (f"{U}.parameters: expected an object; got a list",)),
    Bad(
        "too many parameters",
        {f"{U}.parameters": {f"p{index}": index for index in range(65)}},
        (f"{U}.parameters: too many entries; write 64 at most",),
    ),
    Bad(
        "deep parameters",
        {f"{U}.parameters": _nested(17)},
        (f"{U}.parameters: nested deeper than 16 levels; write a flatter object",),
        "nobody",
        "a schema cannot bound what it leaves free-form",
    ),
    Bad(
        "parameters with a huge number",
        {f"{U}.parameters": {"a": [2**63]}},
        (f"{U}.parameters: holds a whole number beyond 64 bits; write it as text",),
        "nobody",
        "an API server reads it as a float and keeps it",
    ),
    # The panel.
    Bad(
        "no panel",
        {"spec.panel": ABSENT},
        ("spec.panel: required (who proposes answers, and when enough of them have answered)",),
    ),
    Bad(
        "no members",
        {"spec.panel.members": ABSENT, "spec.panel.quorum": ABSENT},
        ("spec.panel.members: required (who is asked)",),
    ),
    Bad(
        "empty members",
        {"spec.panel.members": [], "spec.panel.quorum": ABSENT},
        ("spec.panel.members: too few entries; write 1 at least",),
    ),
    Bad(
        "too many members",
        {"spec.panel.members": [{"upstream": "qwen"}] * 33},
        ("spec.panel.members: too many entries; write 32 at most",),
    ),
    Bad(
        "members of one name",
        {"spec.panel.members": [{"name": "a", "upstream": "qwen"}] * 2},
        ('spec.panel.members[1].name: "a" is taken by spec.panel.members[0].name; write a different one',),
        "rules",
    ),
    Bad(
        "a member of no upstream",
        {f"{M}.upstream": "qwne"},
        (f'{M}.upstream: no upstream named "qwne"; did you mean "qwen"?',),
        "rules",
    ),
    Bad(
        "a member of an upstream unlike any",
        {f"{M}.upstream": "llama"},
        (f'{M}.upstream: no upstream named "llama"; write one of "qwen"',),
        "rules",
    ),
    Bad("no samples", {f"{M}.samples": 0}, (f"{M}.samples: 0 is out of bounds; write 1 at least",)),
    Bad("too many samples", {f"{M}.samples": 17}, (f"{M}.samples: 17 is out of bounds; write 16 at most",)),
    Bad(
        "samples as a boolean",
        {f"{M}.samples": True},
        (f"{M}.samples: expected a whole number without quotes; got a boolean (true)",),
    ),
    Bad(
        "a temperature in quotes",
        {f"{M}.temperature": "0.7"},
        (f'{M}.temperature: expected a number without quotes; got text ("0.7")',),
    ),
    Bad(
        "a temperature as a boolean",
        {f"{M}.temperature": True},
        (f"{M}.temperature: expected a number without quotes; got a boolean (true)",),
    ),
    Bad("a hot temperature", {f"{M}.temperature": 2.1}, (f"{M}.temperature: 2.1 is out of bounds; write 2 at most",)),
    Bad(
        "a frozen temperature",
        {f"{M}.temperature": -0.1},
        (f"{M}.temperature: -0.1 is out of bounds; write 0 at least",),
    ),
    Bad("no probability", {f"{M}.topP": 0}, (f"{M}.topP: 0 is out of bounds; write more than 0",)),
    Bad("no tokens", {f"{M}.maxTokens": 0}, (f"{M}.maxTokens: 0 is out of bounds; write 1 at least",)),
    Bad("a seed below nothing", {f"{M}.seed": -1}, (f"{M}.seed: -1 is out of bounds; write 0 at least",)),
    Bad(
        "an empty role",
        {f"{M}.role": ""},
        (f"{M}.role: {EMPTY}",),
    ),
    Bad("a long role", {f"{M}.role": "x" * 16385}, (f"{M}.role: too long; write 16384 characters at most",)),
    Bad("no weight", {f"{M}.weight": 0}, (f"{M}.weight: 0 is out of bounds; write more than 0",)),
    Bad("too much weight", {f"{M}.weight": 101}, (f"{M}.weight: 101 is out of bounds; write 100 at most",)),
    Bad(
        "a member slower than the request",
        {f"{M}.timeout": "10m"},
        (f"{M}.timeout: 10m is longer than spec.timeouts.request (5m); {SHORTER}",),
        "rules",
    ),
    Bad(
        "too many calls",
        {f"{M}.samples": 16, "spec.panel.members[1]": {"upstream": "qwen"}, "spec.panel.layers": 4},
        ("spec.panel: 17 samples in 4 layers are 68 calls per request; lower samples or layers to 64 calls at most",),
        "rules",
    ),
    Bad("no layers", {"spec.panel.layers": 0}, ("spec.panel.layers: 0 is out of bounds; write 1 at least",)),
    Bad("too many layers", {"spec.panel.layers": 5}, ("spec.panel.layers: 5 is out of bounds; write 4 at most",)),
    Bad(
        "a quorum beyond the panel",
        {"spec.panel.quorum": 4},
        ("spec.panel.quorum: 4 is more than the panel's 3 samples; write 3 at most",),
        "rules",
    ),
    Bad("a quorum of none", {"spec.panel.quorum": 0}, (f"spec.panel.quorum: {NOT_A_QUORUM}",)),
    Bad("a quorum of no percent", {"spec.panel.quorum": "0%"}, (f"spec.panel.quorum: {NOT_A_QUORUM}",)),
    Bad("a quorum of more than everyone", {"spec.panel.quorum": "101%"}, (f"spec.panel.quorum: {NOT_A_QUORUM}",)),
    Bad("a quorum in quotes", {"spec.panel.quorum": "2"}, (f"spec.panel.quorum: {NOT_A_QUORUM}",)),
    Bad("a quorum and a half", {"spec.panel.quorum": 1.5}, (f"spec.panel.quorum: {NOT_A_QUORUM}",)),
    Bad("a quorum as a boolean", {"spec.panel.quorum": True}, (f"spec.panel.quorum: {NOT_A_QUORUM}",)),
    Bad(
        "a bare number of seconds",
        {"spec.panel.grace": 2},
        ('spec.panel.grace: a bare number is not a duration; write "2s" for seconds',),
    ),
    Bad("a number of seconds in quotes", {"spec.panel.grace": "2"}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad("a duration in words", {"spec.panel.grace": "2 seconds"}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad("a duration below nothing", {"spec.panel.grace": "-2s"}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad("an empty duration", {"spec.panel.grace": ""}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad("a duration in days", {"spec.panel.grace": "1d"}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad("a duration that is a list", {"spec.panel.grace": ["2s"]}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad(
        "a long duration",
        {"spec.panel.grace": "25h"},
        ('spec.panel.grace: "25h" is out of bounds; write 0s to 24h',),
        "rules",
    ),
    Bad("a duration of many parts", {"spec.panel.grace": "1s" * 17}, (f"spec.panel.grace: {NOT_A_DURATION}",)),
    Bad(
        "a choice in lower case",
        {"spec.panel.fanOut": "auto"},
        ('spec.panel.fanOut: "auto" is no choice; did you mean "Auto"?',),
    ),
    Bad(
        "a choice of another sort",
        {"spec.panel.onUnmet": 1},
        ('spec.panel.onUnmet: expected text; got a number (1); write one of "Degrade", "Fail"',),
    ),
    Bad(
        "a choice that is none",
        {"spec.panel.onToolTurn": "Ignore"},
        ('spec.panel.onToolTurn: "Ignore" is no choice; write one of "Aggregate", "Fuse"',),
    ),
    # The aggregator.
    Bad(
        "no aggregator",
        {"spec.aggregator": ABSENT},
        ("spec.aggregator: required (who writes the answer from the panel's candidates)",),
    ),
    Bad(
        "Synthesize without an upstream",
        {"spec.aggregator.upstream": ABSENT},
        ('spec.aggregator.upstream: required by strategy Synthesize; write one of "qwen"',),
        "rules",
    ),
    Bad(
        "a strategy not honoured yet",
        {"spec.aggregator.strategy": "Vote"},
        ('spec.aggregator.strategy: "Vote" is no choice; write one of "Synthesize", "First"',),
    ),
    Bad(
        "an aggregator of no upstream",
        {"spec.aggregator.upstream": "qwem"},
        ('spec.aggregator.upstream: no upstream named "qwem"; did you mean "qwen"?',),
        "rules",
    ),
    Bad(
        "a fallback of no upstream",
        {"spec.aggregator.fallbackUpstreams": ["gpt"]},
        ('spec.aggregator.fallbackUpstreams[0]: no upstream named "gpt"; write one of "qwen"',),
        "rules",
    ),
    Bad(
        "a fallback to itself",
        {"spec.aggregator.fallbackUpstreams": ["qwen"]},
        ('spec.aggregator.fallbackUpstreams[0]: "qwen" is the aggregator\'s own upstream; remove it here',),
        "rules",
    ),
    Bad(
        "a fallback twice",
        {"spec.upstreams[1]": EXTERNAL, "spec.aggregator.fallbackUpstreams": ["gpt", "gpt"]},
        (f'{F}[1]: "gpt" is taken by {F}[0]; write a different one',),
        "rules",
    ),
    Bad(
        "fallbacks as text",
        {"spec.aggregator.fallbackUpstreams": "gpt"},
        ('spec.aggregator.fallbackUpstreams: expected a list; got text ("gpt")',),
    ),
    Bad(
        "hardening in words",
        {"spec.aggregator.hardening": {"shuffle": "no"}},
        ('spec.aggregator.hardening.shuffle: expected true or false without quotes; got text ("no")',),
    ),
    Bad(
        "short candidates",
        {"spec.aggregator.hardening": {"maxCandidateTokens": 15}},
        ("spec.aggregator.hardening.maxCandidateTokens: 15 is out of bounds; write 16 at least",),
    ),
    Bad(
        "an empty prompt",
        {"spec.aggregator.prompt": ""},
        (f"spec.aggregator.prompt: {EMPTY}",),
    ),
    # Gate, timeouts, response, auth, telemetry, router, limits.
    Bad(
        "a bypass to no upstream",
        {"spec.gate": {"single": "gpt"}},
        ('spec.gate.single: no upstream named "gpt"; write one of "qwen"',),
        "rules",
    ),
    Bad(
        "a gate not honoured yet",
        {"spec.gate": {"policy": "Heuristic"}},
        ('spec.gate.policy: "Heuristic" is no choice; write one of "Always", "Never"',),
    ),
    Bad(
        "no time for a request",
        {"spec.timeouts": {"request": "0s", "connect": "1ms"}},
        ('spec.timeouts.request: "0s" is out of bounds; write 1ms to 24h',),
        "rules",
    ),
    Bad(
        "connecting longer than the request",
        {"spec.timeouts": {"request": "2s"}},
        (f"spec.timeouts.connect: 5s is longer than spec.timeouts.request (2s); {SHORTER}",),
        "rules",
    ),
    Bad(
        "a member's time beyond the request's",
        {"spec.timeouts": {"member": "301s"}},
        (f"spec.timeouts.member: 5m1s is longer than spec.timeouts.request (5m); {SHORTER}",),
        "rules",
    ),
    Bad(
        "an aggregator's time beyond the request's",
        {"spec.timeouts": {"aggregator": "300001ms"}},
        (f"spec.timeouts.aggregator: 5m1ms is longer than spec.timeouts.request (5m); {SHORTER}",),
        "rules",
    ),
    Bad(
        "a model name with a mode",
        {"spec.response": {"modelNames": ["gpt:vote"]}},
        (f'spec.response.modelNames[0]: "gpt:vote" does not fit; {PUBLIC_HINT}',),
    ),
    Bad(
        "a model name twice",
        {"spec.response": {"modelNames": ["a", "b", "a"]}},
        ('spec.response.modelNames[2]: "a" is taken by spec.response.modelNames[0]; write a different one',),
    ),
    Bad(
        "too many model names",
        {"spec.response": {"modelNames": [f"m{index}" for index in range(17)]}},
        ("spec.response.modelNames: too many entries; write 16 at most",),
    ),
    Bad(
        "candidates shown otherwise",
        {"spec.response": {"showCandidates": True}},
        (f"spec.response.showCandidates: expected text; got a boolean (true); write one of {SHOWN}",),
    ),
    Bad(
        "keys without a Secret",
        {"spec.auth": {"type": "APIKey"}},
        ("spec.auth.secretRef: required by type APIKey; write {name: <Secret with one key per entry>}",),
        "rules",
    ),
    Bad(
        "a Secret without keys",
        {"spec.auth": {"secretRef": {"name": "tenants"}}},
        ("spec.auth.secretRef: has no use with type None; write type: APIKey, or remove it",),
        "rules",
    ),
    Bad(
        "an endpoint without a scheme",
        {"spec.telemetry": {"otlp": {"endpoint": "collector:4318"}}},
        (f'spec.telemetry.otlp.endpoint: "collector:4318" does not fit; {ENDPOINT_HINT}',),
    ),
    Bad(
        "a percentage beyond all",
        {"spec.telemetry": {"otlp": {"endpoint": "http://c", "samplingPercent": 101}}},
        ("spec.telemetry.otlp.samplingPercent: 101 is out of bounds; write 100 at most",),
    ),
    Bad(
        "a long drain",
        {"spec.router": {"drain": {"timeout": "1000h"}}},
        ('spec.router.drain.timeout: "1000h" is out of bounds; write 0s to 24h',),
        "rules",
    ),
    Bad(
        "a tiny body",
        {"spec.limits": {"maxBodyBytes": 1}},
        ("spec.limits.maxBodyBytes: 1 is out of bounds; write 1024 at least",),
    ),
    Bad(
        "a flat body",
        {"spec.limits": {"maxJSONDepth": 7}},
        ("spec.limits.maxJSONDepth: 7 is out of bounds; write 8 at least",),
    ),
    Bad(
        "a queue below nothing",
        {"spec.limits": {"maxQueuedRequests": -1}},
        ("spec.limits.maxQueuedRequests: -1 is out of bounds; write 0 at least",),
    ),
    # How the router runs.
    Bad(
        "paused as text",
        {"spec.paused": "yes"},
        ('spec.paused: expected true or false without quotes; got text ("yes")',),
    ),
    Bad(
        "another mode", {f"{R}.mode": "DaemonSet"}, (f'{R}.mode: "DaemonSet" is no choice; write one of "Deployment"',)
    ),
    Bad("replicas below zero", {f"{R}.replicas": -1}, (f"{R}.replicas: -1 is out of bounds; write 0 at least",)),
    Bad(
        "replicas beside autoscaling",
        {R: {"replicas": 2, "autoscaling": {"maxReplicas": 3}}},
        (f"{R}: has both replicas and autoscaling; write one of them at most",),
        "rules",
    ),
    Bad(
        "autoscaling without an end",
        {f"{R}.autoscaling": {}},
        (f"{R}.autoscaling.maxReplicas: required (pods there are at most)",),
    ),
    Bad(
        "autoscaling upside down",
        {f"{R}.autoscaling": {"minReplicas": 5, "maxReplicas": 3}},
        (f"{R}.autoscaling.minReplicas: 5 is more than maxReplicas (3); write a lower one, or a higher maxReplicas",),
        "rules",
    ),
    Bad(
        "an image with a space",
        {f"{R}.image": "moa router"},
        (f'{R}.image: "moa router" does not fit; {IMAGE_HINT}',),
    ),
    Bad(
        "another pull policy",
        {f"{R}.imagePullPolicy": "always"},
        (f'{R}.imagePullPolicy: "always" is no choice; did you mean "Always"?',),
    ),
    Bad(
        "a quantity in words",
        {f"{R}.resources.limits": {"memory": "1GB"}},
        (f"{R}.resources.limits.memory: {NOT_A_QUANTITY}",),
    ),
    Bad(
        "a negative quantity",
        {f"{R}.resources.requests": {"cpu": -1}},
        (f"{R}.resources.requests.cpu: {NOT_A_QUANTITY}",),
    ),
    Bad(
        "a fraction without quotes",
        {f"{R}.resources.requests": {"cpu": 0.5}},
        (f"{R}.resources.requests.cpu: {NOT_A_QUANTITY}",),
    ),
    Bad(
        "a budget beyond everyone",
        {f"{R}.podDisruptionBudget.maxUnavailable": "101%"},
        (f"{R}.podDisruptionBudget.maxUnavailable: {NOT_PODS}",),
    ),
    Bad(
        "annotations that are no text",
        {f"{R}.service.annotations": {"internal": True}},
        (f"{R}.service.annotations.internal: expected text in quotes; got a boolean (true)",),
    ),
    Bad(
        "too many annotations",
        {f"{R}.serviceAccount.annotations": {f"a{index}": "" for index in range(65)}},
        (f"{R}.serviceAccount.annotations: too many entries; write 64 at most",),
    ),
    Bad(
        "a route to nowhere",
        {f"{R}.route.parentRefs": []},
        (f"{R}.route.parentRefs: too few entries; write 1 at least",),
    ),
    Bad(
        "a host name in upper case",
        {f"{R}.route": {"parentRefs": [{"name": "public"}], "hostnames": ["Models.example.com"]}},
        (f'{R}.route.hostnames[0]: "Models.example.com" does not fit; {HOST_HINT}',),
    ),
    Bad(
        "a network policy's peer that is no object",
        {f"{R}.networkPolicy.from": ["everyone"]},
        (f'{R}.networkPolicy.from[0]: expected an object; got text ("everyone")',),
    ),
    Bad(
        "a pod spec beside the template",
        {f"{R}.podTemplate": {"tolerations": []}},
        (f'{R}.podTemplate.tolerations: unknown field; write one of "metadata", "spec"',),
        "unknown",
    ),
    Bad(
        "a pod spec nested too deep",
        {f"{R}.podTemplate.spec": _nested(17)},
        (f"{R}.podTemplate.spec: nested deeper than 16 levels; write a flatter object",),
        "nobody",
        "a schema cannot bound what it leaves free-form",
    ),
    Bad(
        "a service monitor that collects all the time",
        {"spec.telemetry.serviceMonitor": {"interval": "0s"}},
        ('spec.telemetry.serviceMonitor.interval: "0s" is out of bounds; write 1ms to 24h',),
        "rules",
    ),
    # Several at once.
    Bad(
        "shape and rules are reported together, and nothing twice",
        {
            f"{U}.service.port": "8000",
            M: {"upstream": "qwne", "samples": "3"},
            "spec.panel.members[1]": {"upstream": "qwen", "timeout": "10m"},
            "spec.panel.quorum": 9,
            "spec.aggregator.upstream": ABSENT,
            "spec.gate": {"single": "nobody"},
            "spec.timeouts": {"connect": 5},
            "spec.auth": {"type": "APIKey"},
        },
        (
            f'{U}.service.port: expected a whole number without quotes; got text ("8000")',
            f'{M}.samples: expected a whole number without quotes; got text ("3")',
            'spec.timeouts.connect: a bare number is not a duration; write "5s" for seconds',
            f'{M}.upstream: no upstream named "qwne"; did you mean "qwen"?',
            f"spec.panel.members[1].timeout: 10m is longer than spec.timeouts.request (5m); {SHORTER}",
            'spec.aggregator.upstream: required by strategy Synthesize; write one of "qwen"',
            'spec.gate.single: no upstream named "nobody"; write one of "qwen"',
            "spec.auth.secretRef: required by type APIKey; write {name: <Secret with one key per entry>}",
        ),
    ),
)
