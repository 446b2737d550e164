"""The process: its options, its admin port, its exit status."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

import aiohttp
import pytest
import yaml

from moa_operator import __main__ as command_line
from moa_operator import logs
from moa_operator.app import Settings
from moa_operator.health import serving
from moa_operator.keys import Key
from moa_operator.leader import LeadershipLost
from moa_operator.metrics import Metrics
from moa_operator.rights import WORK, leadership, rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """Settings of operators that were started and stopped at once."""
    found: list[Settings] = []

    async def operate(
        settings: Settings, announce: Callable[[int], None], _stopped: Callable[[], Awaitable[None]]
    ) -> None:
        found.append(settings)
        announce(1234)

    monkeypatch.setattr(command_line, "operate", operate)
    return found


def test_without_options_it_serves_its_own_namespace(
    started: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["run"]) == 0
    [settings] = started
    assert (settings.namespaces, settings.lease_namespace, settings.leader_elect) == (("default",), "default", True)
    assert (settings.admin_host, settings.admin_port, settings.workers) == ("0.0.0.0", 9090, 8)
    assert capsys.readouterr().out == "moa-operator admin port 1234\n"


def test_namespaces_may_be_several_or_all(started: list[Settings]) -> None:
    command_line.main(["run", "--namespace", "a", "--namespace=b", "--namespace=a", "--no-leader-elect"])
    command_line.main(["run", "--all-namespaces", "--lease-namespace=system"])
    assert [each.namespaces for each in started] == [("a", "b"), ()]
    assert [each.leader_elect for each in started] == [False, True]
    assert started[1].lease_namespace == "system"


def test_every_option_has_an_environment_variable_which_options_override(
    started: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "NAMESPACE": "a, b",
        "LEADER_ELECT": "false",
        "LEASE_NAMESPACE": "system",
        "LEASE_NAME": "mine",
        "ADMIN_HOST": "127.0.0.1",
        "ADMIN_PORT": "0",
        "ROUTER_IMAGE": "r:1",
        "WORKERS": "3",
        "RELIST_SECONDS": "60",
        "LOG_LEVEL": "error",
        "LOG_FORMAT": "console",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"MOA_OPERATOR_{name}", value)
    command_line.main(["run"])
    command_line.main(["run", "--namespace=c", "--leader-elect"])
    assert started[0] == Settings(("a", "b"), "127.0.0.1", 0, False, "system", "mine", "r:1", 3, 60)
    assert (started[1].namespaces, started[1].leader_elect) == (("c",), True)
    monkeypatch.delenv("MOA_OPERATOR_NAMESPACE")
    monkeypatch.setenv("MOA_OPERATOR_ALL_NAMESPACES", "true")
    command_line.main(["run"])
    assert started[2].namespaces == ()


@pytest.mark.parametrize(
    "arguments",
    [["run", "--namespace=a", "--all-namespaces"], ["run", "--workers=0"], ["run", "--log-format=xml"], []],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command_line.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "status"), [(LeadershipLost("the lease is other's"), 1), (OSError("address in use"), 2)]
)
def test_the_exit_status_tells_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    async def operate(*_: object) -> None:
        raise error

    monkeypatch.setattr(command_line, "operate", operate)
    assert command_line.main(["run"]) == status
    assert str(error) in capsys.readouterr().err


def test_without_an_api_server_to_go_to_it_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert command_line.main(["run", "--admin-port=0"]) == 2
    assert "set KUBECONFIG" in capsys.readouterr().err


async def test_the_admin_port_answers_probes_and_shows_metrics() -> None:
    wrong: list[str] = []
    async with (
        serving("127.0.0.1", 0, Metrics(), lambda: wrong, lambda: ["not yet"]) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def get(path: str, accept: str = "*/*") -> tuple[int, str, str]:
            async with session.get(path, headers={"Accept": accept}) as response:
                return response.status, await response.text(), response.headers["Content-Type"]

        assert (await get("/livez"))[:2] == (200, "ok")
        assert (await get("/readyz"))[:2] == (503, "not yet")
        wrong.append("a worker is stuck")
        assert (await get("/livez"))[:2] == (503, "a worker is stuck")
        status, text, _ = await get("/metrics")
        assert status == 200
        assert "moa_operator_queue_depth 0.0" in text
        assert (await get("/metrics", "application/openmetrics-text"))[2].startswith("application/openmetrics-text")


async def test_a_port_that_is_taken_is_an_error() -> None:
    async with serving("127.0.0.1", 0, Metrics(), list, list) as port:
        with pytest.raises(OSError, match=str(port)):
            async with serving("127.0.0.1", port, Metrics(), list, list):
                pass


def test_log_lines_carry_facts(capsys: pytest.CaptureFixture[str]) -> None:
    for style in ("json", "console"):
        logs.configure("info", style)
        try:
            int("broken")
        except ValueError:
            logging.getLogger("moa_operator.test").exception("it failed", extra={"profile": "ns/research"})
        logging.getLogger("kopf.test").info("chatter")
    first, *rest = capsys.readouterr().err.splitlines()
    line = json.loads(first)
    assert (line["level"], line["message"], line["profile"]) == ("error", "it failed", "ns/research")
    assert "ValueError: invalid literal" in line["exception"]
    assert rest[0].endswith("it failed profile=ns/research")
    assert "chatter" not in "".join(rest)


def test_profiles_are_counted_by_their_conditions_as_long_as_they_are_there() -> None:
    metrics = Metrics()

    def count(status: str) -> float | None:
        labels = {"condition": "Ready", "status": status}
        return metrics.registry.get_sample_value("moa_operator_profiles", labels)

    key = Key("ns", "research")
    metrics.profile_is(key, {"Ready": "False"})
    metrics.profile_is(key, {"Ready": "True"})
    assert (count("True"), count("False")) == (1, 0)
    metrics.profile_is(key, {})
    assert count("True") == 0


def test_rights_are_roles_rules() -> None:
    found = yaml.safe_load(yaml.safe_dump(rules((*WORK, *leadership("moa-operator")))))
    assert {"apiGroups": ["moa-operator.io"], "resources": ["moaprofiles/status"], "verbs": ["patch"]} in found
    assert found[-1]["resourceNames"] == ["moa-operator"]
    secrets = [rule for rule in found if "secrets" in rule["resources"]]
    assert [rule["verbs"] for rule in secrets] == [["get"]]
    assert not [rule for rule in found if "*" in str(rule)]
