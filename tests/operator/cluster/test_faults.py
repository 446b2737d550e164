"""An API server that is away, slow, overloaded or forgetful: the operator works on when it can, and misses nothing."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from aiohttp import web
from tests.api.table import SMALLEST, edited
from tests.operator.cluster.access import at, eventually
from tests.operator.cluster.processes import running
from tests.operator.cluster.proxy import Cut, proxied, status

from moa_operator.resources import DEPLOYMENTS, SERVICES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.operator.cluster.access import Access
    from tests.operator.cluster.processes import Process
    from tests.operator.cluster.proxy import Call, Proxy


@pytest.fixture
async def proxy(kubeconfig: Path) -> AsyncIterator[Proxy]:
    async with proxied(kubeconfig) as found:
        yield found


@pytest.fixture
async def operator(access: Access, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Process]:
    """An operator behind the proxy, alone."""
    arguments = (f"--namespace={access.namespace}", "--no-leader-elect")
    config = proxy.kubeconfig(tmp_path / "kubeconfig")
    async with running(config, tmp_path / "operator.log", *arguments) as process:
        yield process


async def follows(access: Access, image: str) -> None:
    """A change of the profile and damage to a child are both seen to."""
    await access.profile(edited(SMALLEST, {"spec.router": {"image": image}}))
    await has_image(access, image)
    await access.delete(SERVICES, "research-moa")
    await eventually(lambda: access.get(SERVICES, "research-moa"), lambda found: found is not None)


async def has_image(access: Access, image: str) -> None:
    async def found() -> object:
        child = await access.get(DEPLOYMENTS, "research-moa")
        return at(child, "spec", "template", "spec", "containers", 0, "image")

    await eventually(found, lambda now: now == image)


def first(count: int, wanted: Callable[[Call], bool], answer: Callable[[], web.Response]) -> object:
    """A rule for the first few calls of a sort."""
    left = count

    async def rule(call: Call) -> web.Response | None:
        nonlocal left
        if not left or not wanted(call):
            return None
        left -= 1
        return answer()

    return rule


def cut() -> web.Response:
    raise Cut("cut")


ANSWERS: dict[str, Callable[[], web.Response]] = {
    "429": lambda: status(429, "TooManyRequests", **{"Retry-After": "1"}),
    "500": lambda: status(500, "InternalError"),
    "503": lambda: status(503, "ServiceUnavailable"),
    "409": lambda: status(409, "Conflict"),
    "no answer": cut,
    "nonsense": lambda: web.Response(text="<html>bad gateway</html>", status=502),
}


@pytest.mark.parametrize("answer", ANSWERS)
async def test_writes_that_fail_are_tried_again(access: Access, proxy: Proxy, operator: Process, answer: str) -> None:
    rule = first(7, lambda call: call.is_write, ANSWERS[answer])
    proxy.rules.append(rule)  # type: ignore[arg-type] # it is one
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
    await follows(access, "after:1")


@pytest.mark.parametrize("answer", [name for name in ANSWERS if name != "409"])
async def test_reads_that_fail_are_tried_again(access: Access, proxy: Proxy, operator: Process, answer: str) -> None:
    rule = first(15, lambda call: call.method == "GET" and not call.is_watch, ANSWERS[answer])
    proxy.rules.append(rule)  # type: ignore[arg-type] # it is one
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
    await follows(access, "after:1")


async def test_watches_that_break_go_on(access: Access, proxy: Proxy, operator: Process) -> None:
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
    for number in range(3):
        await eventually(_count(proxy), lambda count: count >= 8)
        assert proxy.cut_watches() >= 8
        await follows(access, f"cut:{number}")


def _count(proxy: Proxy) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return len(proxy.streams)

    return count


async def test_a_watch_that_has_expired_lists_again(access: Access, proxy: Proxy, operator: Process) -> None:
    """As an event of the stream, which is how API servers say it, and as a status."""
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
    gone = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410}
    line = json.dumps({"type": "ERROR", "object": gone}) + "\n"
    for answer in (lambda: web.Response(text=line, content_type="application/json"), lambda: status(410, "Expired")):
        await eventually(_count(proxy), lambda count: count >= 8)
        proxy.rules.append(first(8, lambda call: call.is_watch, answer))  # type: ignore[arg-type] # it is one
        # What happens while nobody watches has to be noticed all the same.
        proxy.cut_watches()
        await follows(access, f"gone:{len(proxy.rules)}")


async def test_an_error_in_a_stream_that_nobody_expects_does_not_end_it(
    access: Access, proxy: Proxy, operator: Process
) -> None:
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
    odd = json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is on fire"}}) + "\n"
    answers = [lambda: web.Response(text=odd), lambda: web.Response(text='{"type": "MODIF')]
    for answer in answers:
        await eventually(_count(proxy), lambda count: count >= 8)
        proxy.rules.append(first(8, lambda call: call.is_watch, answer))  # type: ignore[arg-type] # it is one
        proxy.cut_watches()
        await follows(access, f"odd:{len(proxy.rules)}")
    assert await operator.total("moa_operator_watch_restarts_total") >= 1
    assert (await operator.admin("/livez"))[0] == 200


async def test_a_slow_api_server_is_waited_for(access: Access, proxy: Proxy, operator: Process) -> None:
    async def slow(call: Call) -> None:
        if not call.is_watch:
            await asyncio.sleep(0.3)

    proxy.rules.append(slow)
    await access.profile(SMALLEST)
    await access.until("research", Ready="True")
    await follows(access, "slow:1")
