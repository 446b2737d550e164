"""The Deployment that runs the router, and its pods."""

import hashlib
import math
from typing import Final, cast

from moa_api.fields import JSONObject
from moa_api.models import MoAProfile
from moa_api.router import DEFAULT_REPLICAS, RouterSpec
from moa_operator.references import mounted
from moa_operator.render.configuration import PROFILE_FILE
from moa_operator.render.labels import CONFIG_CHECKSUM, child_name, manifest, pod_labels, selector
from moa_operator.render.pod_template import merged
from moa_operator.resources import DEPLOYMENTS

CONTAINER: Final = "router"
CLIENT_PORT: Final = 8080
ADMIN_PORT: Final = 9090

_ROOT: Final = "/etc/moa"
_NOBODY: Final = 65_532
_READABLE_BY_GROUP: Final = 0o440
_SPARE_SECONDS: Final = 10
_START_SECONDS: Final = 60


def deployment(profile: MoAProfile, checksum: str, default_image: str) -> JSONObject:
    """Returns the Deployment.

    Args:
        profile: The profile.
        checksum: Changes when pods have to be replaced for what they read.
        default_image: The router's image where the profile names none.
    """
    router = profile.spec.router
    spec: JSONObject = {
        "selector": {"matchLabels": {**selector(profile.metadata.name)}},
        "revisionHistoryLimit": 3,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": _template(profile, checksum, default_image),
    }
    if router.autoscaling is None:
        spec["replicas"] = DEFAULT_REPLICAS if router.replicas is None else router.replicas
    return manifest(DEPLOYMENTS, profile, {"spec": spec})


def _template(profile: MoAProfile, checksum: str, default_image: str) -> JSONObject:
    own = profile.spec.router.pod_template
    name = profile.metadata.name
    return {
        "metadata": {
            # Whoever changed these would take the pods away from their Deployment and Service.
            "labels": {**pod_labels(name), **own.metadata.labels, **selector(name)},
            "annotations": {**own.metadata.annotations, CONFIG_CHECKSUM: checksum},
        },
        "spec": merged(_pod(profile, default_image), own.spec),
    }


def _pod(profile: MoAProfile, default_image: str) -> JSONObject:
    drain = profile.spec.router.drain
    return {
        "serviceAccountName": child_name(profile.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The router waits out `drain.delay` by itself once it is told to stop, so there is no preStop hook.
        "terminationGracePeriodSeconds": math.ceil(drain.delay + drain.timeout) + _SPARE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _NOBODY,
            "runAsGroup": _NOBODY,
            "fsGroup": _NOBODY,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "topologySpreadConstraints": [
            _spread("kubernetes.io/hostname", profile.metadata.name),
            _spread("topology.kubernetes.io/zone", profile.metadata.name),
        ],
        "containers": [_container(profile, default_image)],
        "volumes": [_profile_volume(profile), *_reference_volumes(profile)],
    }


def _spread(topology: str, profile: str) -> JSONObject:
    return {
        "topologyKey": topology,
        "whenUnsatisfiable": "ScheduleAnyway",
        "maxSkew": 1,
        "labelSelector": {"matchLabels": {**selector(profile)}},
        "matchLabelKeys": ["pod-template-hash"],
    }


def _container(profile: MoAProfile, default_image: str) -> JSONObject:
    router = profile.spec.router
    return {
        "name": CONTAINER,
        "image": router.image or default_image,
        "imagePullPolicy": router.image_pull_policy,
        "command": ["moa-router"],
        "args": [
            "serve",
            f"--profile={_ROOT}/{PROFILE_FILE}",
            "--host=0.0.0.0",
            f"--port={CLIENT_PORT}",
            f"--admin-port={ADMIN_PORT}",
            f"--secrets-dir={_ROOT}/secrets",
            f"--config-maps-dir={_ROOT}/config-maps",
        ],
        "ports": [
            {"name": "http", "containerPort": CLIENT_PORT, "protocol": "TCP"},
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": _resources(router),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": _probe("/livez", period=1, failures=_START_SECONDS),
        "livenessProbe": _probe("/livez", period=10, failures=3),
        "readinessProbe": _probe("/readyz", period=2, failures=2),
        "volumeMounts": [_profile_mount(), *_reference_mounts(profile)],
    }


def _resources(router: RouterSpec) -> JSONObject:
    return cast("JSONObject", router.resources.model_dump(by_alias=True, mode="json", exclude_none=True))


def _probe(path: str, *, period: int, failures: int) -> JSONObject:
    return {
        "httpGet": {"path": path, "port": "admin", "scheme": "HTTP"},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _profile_mount() -> JSONObject:
    # By subPath, so that pods keep what they started with: a changed profile reaches them by a rollout.
    return {"name": "profile", "mountPath": f"{_ROOT}/{PROFILE_FILE}", "subPath": PROFILE_FILE, "readOnly": True}


def _reference_mounts(profile: MoAProfile) -> list[JSONObject]:
    return [
        {"name": _volume_name(kind, name), "mountPath": f"{_ROOT}/{_FOLDERS[kind]}/{name}", "readOnly": True}
        for kind, name in mounted(profile)
    ]


def _profile_volume(profile: MoAProfile) -> JSONObject:
    return {
        "name": "profile",
        "configMap": {
            "name": child_name(profile.metadata.name),
            "items": [{"key": PROFILE_FILE, "path": PROFILE_FILE}],
        },
    }


_FOLDERS: Final = {"Secret": "secrets", "ConfigMap": "config-maps"}


def _reference_volumes(profile: MoAProfile) -> list[JSONObject]:
    """Volumes of what the profile refers to, each with no more entries than it asks for.

    None is optional: a pod waits for what is missing instead of crashing for want of it.
    """
    volumes: list[JSONObject] = []
    for (kind, name), keys in mounted(profile).items():
        source: JSONObject = {"secretName" if kind == "Secret" else "name": name, "defaultMode": _READABLE_BY_GROUP}
        if keys is not None:
            source["items"] = [{"key": key, "path": key} for key in sorted(keys)]
        volumes.append({"name": _volume_name(kind, name), "secret" if kind == "Secret" else "configMap": source})
    return volumes


def _volume_name(kind: str, name: str) -> str:
    # Names of Secrets may be longer than those of volumes, and may have dots.
    return f"{kind.lower()}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
