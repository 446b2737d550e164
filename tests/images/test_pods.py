"""The images in real pods, where the strictest rules for pods are enforced and no file of theirs can be written."""

from __future__ import annotations

import json
import secrets
import subprocess
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from tests.cluster.errors import CannotProvide

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.cluster.clusters import Cluster
    from tests.images.builds import Built

pytestmark = pytest.mark.timeout(1200)

DEADLINE = 120
GRACE = 20
PYTHON = "/opt/moa/bin/python"
SERVING = ("simulator", "router")
# Keeps a deleted pod's status readable until the test has read how its container ended.
HELD = "tests.moa-operator.io/held"

SETTING = """
apiVersion: v1
kind: ConfigMap
metadata: {name: profile}
data:
  profile.yaml: |
    apiVersion: moa-operator.io/v1alpha1
    kind: MoAProfile
    metadata: {name: research, namespace: NAMESPACE}
    spec:
      upstreams:
      - {name: qwen, service: {name: simulator, port: 8000}, model: qwen}
      panel:
        members: [{upstream: qwen, samples: 3}]
        quorum: 2
      aggregator: {upstream: qwen}
      router: {drain: {delay: 1s, timeout: 5s}}
---
apiVersion: v1
kind: Service
metadata: {name: simulator}
spec: {selector: {app: simulator}, ports: [{port: 8000}]}
---
apiVersion: v1
kind: Service
metadata: {name: research-moa}
spec: {selector: {app: router}, ports: [{port: 80, targetPort: 8080}]}
"""

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}, finalizers: [{held}]}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: {grace}
  securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: main
    image: {image}
    imagePullPolicy: Never
    args: {arguments}
    securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}
    readinessProbe: {probe}
    volumeMounts: [{{name: profile, mountPath: /etc/moa}}]
  volumes: [{{name: profile, configMap: {{name: profile}}}}]
  restartPolicy: Never
"""

# A pod that is ready is a moment later behind its Service on every node.
REACH = """
import socket, sys, time
end = time.monotonic() + 60
while True:
    try:
        socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10).close()
        break
    except OSError:
        if time.monotonic() > end:
            raise
        time.sleep(0.1)
"""

ASK = """
import sys, urllib.request
request = urllib.request.Request(
    "http://research-moa/v1/chat/completions",
    b'{"model": "research", "messages": [{"role": "user", "content": "Why is the sky blue?"}]}',
    {"content-type": "application/json"},
)
try:
    sys.stdout.buffer.write(urllib.request.urlopen(request, timeout=60).read())
except urllib.error.HTTPError as refused:
    sys.stdout.buffer.write(refused.read())
"""

# proc(5), /proc/PID/stat: fields 14, 15 and 22, counted from the end of the name.
STARTED = """
import json, os, time
fields = open("/proc/1/stat").read().rpartition(")")[2].split()
tick = os.sysconf("SC_CLK_TCK")
uptime = float(open("/proc/uptime").read().split()[0])
print(json.dumps([time.time() - uptime + int(fields[19]) / tick, (int(fields[11]) + int(fields[12])) / tick]))
"""

WRITE = """
import os
for place in ("/opt/moa/x", "/tmp/x", "/x"):
    try:
        open(place, "w")
    except OSError as error:
        print(type(error).__name__, error.strerror)
print(os.getuid(), os.getgid())
"""


class Namespace:
    """A namespace in which pods have to be of the standard `restricted`."""

    def __init__(self, cluster: Cluster) -> None:
        self.name = f"images-{secrets.token_hex(4)}"
        self._kubectl = [str(cluster.kubectl()), f"--kubeconfig={cluster.kubeconfig}", f"--namespace={self.name}"]

    def __call__(self, *arguments: str, given: str | None = None) -> str:
        done = subprocess.run(
            [*self._kubectl, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=DEADLINE + 30,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def until(self, pod: str, condition: str) -> None:
        try:
            self("wait", f"pod/{pod}", f"--for={condition}", f"--timeout={DEADLINE}s")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self('describe', 'pod', pod)}") from error

    def python(self, pod: str, program: str, *arguments: str) -> str:
        return self("exec", pod, "--", PYTHON, "-c", program, *arguments)

    def start(
        self, name: str, image: Built, arguments: list[str] | None = None, probe: dict[str, object] | None = None
    ) -> None:
        filled = {"name": name, "image": image.reference, "held": HELD, "grace": GRACE}
        pod = POD.format(**filled, arguments=json.dumps(arguments), probe=json.dumps(probe))
        self("apply", "--filename=-", given=pod)

    def ended(self, pod: str) -> int:
        """Delete a pod; returns its container's exit status."""
        self("delete", "pod", pod, "--wait=false")
        state = "{.status.containerStatuses[0].state.terminated.exitCode}"
        self.until(pod, f"jsonpath={state}")
        return int(self("get", "pod", pod, f"--output=jsonpath={state}"))

    def remove(self) -> None:
        release = '{"metadata": {"finalizers": null}}'
        for pod in self("get", "pods", "--output=name").split():
            self("patch", pod, "--type=merge", f"--patch={release}")
        self("delete", "namespace", self.name, "--wait=false")


@pytest.fixture(scope="module")
def space(node_cluster: Cluster, images: Mapping[str, Built]) -> Iterator[Namespace]:
    try:
        node_cluster.load(*(image.archive for image in images.values()))
    except CannotProvide as reason:
        pytest.skip(str(reason))
    made = Namespace(node_cluster)
    made("create", "namespace", made.name)
    try:
        made("label", "namespace", made.name, "pod-security.kubernetes.io/enforce=restricted")
        made("apply", "--filename=-", given=SETTING.replace("NAMESPACE", made.name))
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def serving(space: Namespace, images: Mapping[str, Built]) -> Namespace:
    space.start("simulator", images["simulator"], ["serve", "--host=0.0.0.0", "--port=8000", "--model=qwen"], None)
    ready = {"httpGet": {"path": "/readyz", "port": 9090}, "periodSeconds": 1}
    space.start("router", images["router"], None, ready)
    for pod in SERVING:
        space.until(pod, "condition=Ready")
    space.python("router", REACH, "simulator", "8000")
    space.python("simulator", REACH, "research-moa", "80")
    return space


def start_up(space: Namespace, pod: str) -> tuple[float, float]:
    """Seconds from a container's first process to its first line of output, which says that it listens; CPU since."""
    line, *_ = space("logs", pod, "--timestamps").splitlines()
    assert "listening on" in line
    started, cpu = json.loads(space.python(pod, STARTED))
    # Kubernetes writes nanoseconds, which Python does not read before 3.11 and cuts from then on.
    return datetime.fromisoformat(line.split()[0]).timestamp() - started, cpu


def test_a_question_to_the_service_gets_a_fused_answer(serving: Namespace) -> None:
    answer = json.loads(serving.python("simulator", ASK))
    assert "error" not in answer
    assert answer["moa"]["panel"] == {"asked": 3, "answered": 3, "quorum": 2}
    assert answer["choices"][0]["message"]["content"]


@pytest.mark.parametrize("pod", SERVING)
def test_start_up_time_is_told(serving: Namespace, pod: str) -> None:
    wall, cpu = start_up(serving, pod)
    print(f"\n{pod}: listens {wall:.2f} s after its process started; {cpu:.2f} s of CPU so far")
    assert 0 < wall < DEADLINE


@pytest.mark.parametrize("pod", SERVING)
def test_it_is_nobody_and_can_write_nowhere(serving: Namespace, pod: str) -> None:
    assert serving.python(pod, WRITE).splitlines() == ["OSError Read-only file system"] * 3 + ["65532 65532"]


def test_the_operator_runs_too(space: Namespace, images: Mapping[str, Built]) -> None:
    space.start("operator", images["operator"], ["--version"])
    space.until("operator", "jsonpath={.status.phase}=Succeeded")
    assert space("logs", "operator").strip() == images["operator"].reference.rpartition(":")[2]


@pytest.mark.parametrize("pod", SERVING[::-1])
def test_told_to_stop_it_stops_well(serving: Namespace, pod: str) -> None:
    # One that does not hear SIGTERM is killed when its grace is over, which is exit status 137.
    assert serving.ended(pod) == 0
