"""A simulator for the session, and routers on demand."""

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from tests.router.wire.harness import (
    Json,
    Profile,
    Router,
    Simulator,
    StartRouter,
    small_profile,
    write_profile,
    write_secrets,
)

#: Routers kept running for tests to come.
KEPT = 6
#: Shorter lines may stand in a log by chance.
TELLING = 16


@pytest.fixture(scope="session")
def _simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    simulator = Simulator(tmp_path_factory.mktemp("simulator") / "simulator.log")
    try:
        yield simulator
    finally:
        simulator.process.stop()


@pytest.fixture
def simulator(_simulator: Simulator) -> Simulator:
    """The session's simulator, with empty books."""
    _simulator.reset()
    return _simulator


@pytest.fixture
def profile(simulator: Simulator) -> Profile:
    """Builds profiles whose upstreams are the simulator, unless they say otherwise."""

    def build(*, name: str = "research", upstreams: Sequence[Json] | None = None, **sections: Any) -> Json:
        return small_profile(simulator.url, name, upstreams, sections)

    return build


class _Garage:
    """Running routers by what they serve."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders
        self._kept: dict[str, Router] = {}
        self._own: list[Router] = []
        self._in_use: list[tuple[Router, list[str]]] = []

    def start(
        self,
        *profiles: Json | str,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        flags: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        fresh: bool = False,
    ) -> Router:
        key = json.dumps([profiles, secrets, list(flags), environment], sort_keys=True)
        router = None if fresh else self._kept.pop(key, None)
        if router is None:
            router = self._make(profiles, secrets or {}, flags, environment or {})
        if fresh:
            self._own.append(router)
        else:
            self._kept[key] = router
        self._in_use.append((router, [value for entries in (secrets or {}).values() for value in entries.values()]))
        return router

    def after_test(self, prompts: Sequence[str]) -> None:
        """Look at the logs of the test's routers, and end those that nobody else may use."""
        used, self._in_use = self._in_use, []
        own, self._own = self._own, []
        for router in own:
            router.stop()
        while len(self._kept) > KEPT:
            self._kept.pop(next(iter(self._kept))).stop()
        for router, keys in used:
            router.check_log([*prompts, *keys])

    def close(self) -> None:
        routers = [*self._kept.values(), *self._own]
        for router in routers:
            router.process.signal(signal.SIGTERM)
        for router in routers:
            router.stop()

    def _make(
        self,
        profiles: Sequence[Json | str],
        secrets: Mapping[str, Mapping[str, str]],
        flags: Sequence[str],
        environment: Mapping[str, str],
    ) -> Router:
        folder = self._folders.mktemp("router")
        for number, document in enumerate(profiles):
            write_profile(folder / f"profile-{number}.yaml", document)
        write_secrets(folder / "secrets", secrets)
        return Router(folder, flags, environment)


@pytest.fixture(scope="module")
def _garage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Garage]:
    garage = _Garage(tmp_path_factory)
    try:
        yield garage
    finally:
        garage.close()


@pytest.fixture
def router(_garage: _Garage, simulator: Simulator) -> Iterator[StartRouter]:
    """Starts routers; afterwards their logs may hold no error, no prompt and no key."""
    try:
        yield _garage.start
    finally:
        _garage.after_test(_telling_lines(simulator))


def _telling_lines(simulator: Simulator) -> list[str]:
    """Lines of the prompts that reached the simulator."""
    lines: set[str] = set()
    for call in simulator.calls():
        for message in call.fields["messages"] if call.path.endswith("/chat/completions") else []:
            content = message.get("content")
            parts = content if isinstance(content, list) else [{"text": content}]
            texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
            lines |= {line for text in texts for line in text.splitlines() if len(line) >= TELLING}
    return sorted(lines)


@pytest.fixture
def small(router: StartRouter, profile: Profile) -> Router:
    """A router with the small profile."""
    return router(profile())
