"""What every measurement plays on: the constant upstream, the relay, and a router with the profiles measured."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import yaml

from bench.processes import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

MODEL = "constant"


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        rounds: how often the measured programs take turns.
        requests: requests of a round where CPU time per request is asked for.
        clients: connections that ask at the same time there.
        stream_seconds: seconds of a round of paced streams.
        samples: requests of a round where latency is asked for.
        load_seconds: seconds of a round at half load.
        crowd: requests at the same time where memory is asked for.
        hold: seconds they wait for a model there: long enough that all have come before the first is answered.
    """

    rounds: int
    requests: int
    clients: int
    stream_seconds: float
    samples: int
    load_seconds: float
    crowd: int
    hold: float


FULL = Scale(rounds=9, requests=3000, clients=8, stream_seconds=1.6, samples=40, load_seconds=2.0, crowd=500, hold=2.0)
QUICK = Scale(rounds=3, requests=1000, clients=8, stream_seconds=0.8, samples=10, load_seconds=1.0, crowd=500, hold=2.0)


@dataclass(frozen=True, slots=True)
class Scene:
    """The processes of a run, ready."""

    upstream: Process
    relay: Process
    router: Process
    scale: Scale


def profile(
    name: str,
    upstreams: Mapping[str, str],
    *,
    model: str = MODEL,
    members: Sequence[str] | None = None,
    aggregator: str | None = None,
    **panel: object,
) -> dict[str, object]:
    """A MoAProfile.

    Args:
        name: its name.
        upstreams: base URL by name.
        model: the model all of them serve.
        members: upstreams on the panel; all but the aggregator's if not given.
        aggregator: upstream of the aggregator; the last if not given.
        panel: further fields of `spec.panel`.
    """
    writer = aggregator or list(upstreams)[-1]
    seats = members or [upstream for upstream in upstreams if upstream != writer]
    spec: dict[str, object] = {
        "upstreams": [_upstream(key, base, model) for key, base in upstreams.items()],
        "panel": {"members": [{"upstream": seat} for seat in seats], **panel},
        "aggregator": {"upstream": writer},
        "limits": {"maxConcurrentRequests": 2000},
        "router": {"drain": {"delay": "0s", "timeout": "1s"}},
    }
    return {"apiVersion": "moa-operator.io/v1alpha1", "kind": "MoAProfile", "metadata": {"name": name}, "spec": spec}


def _upstream(name: str, base: str, model: str) -> dict[str, object]:
    parts = urlsplit(base)
    return {"name": name, "url": f"{parts.scheme}://{parts.netloc}", "path": parts.path, "model": model}


@contextlib.asynccontextmanager
async def router(*profiles: Mapping[str, object]) -> AsyncIterator[Process]:
    """A router process that serves these profiles."""
    with tempfile.TemporaryDirectory(prefix="moa-bench-") as folder:
        files = await asyncio.to_thread(_write, Path(folder), profiles)
        flags = [flag for file in files for flag in ("--profile", str(file))]
        arguments = ["serve", *flags, "--port", "0", "--admin-port", "0", "--log-level", "warning"]
        async with Process("moa_router", *arguments) as process:
            yield process


def _write(folder: Path, profiles: Sequence[Mapping[str, object]]) -> list[Path]:
    files = []
    for number, one in enumerate(profiles):
        files.append(folder / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump(dict(one)))
    return files


#: A first token late enough to be told from noise, early enough to be asked for often.
TIMED = "wait-15,every-5,events-2"
BRISK, LATE = "wait-30", "wait-300"
PACE_MS = 8


def paced(scale: Scale) -> str:
    """The manner of a stream of single events, far enough apart that each is a wake-up of its own."""
    return f"every-{PACE_MS},events-{events_of(scale)}"


def events_of(scale: Scale) -> int:
    """Events of one paced stream."""
    return int(scale.stream_seconds * 1000 / PACE_MS)


@contextlib.asynccontextmanager
async def scene(scale: Scale) -> AsyncIterator[Scene]:
    """Start everything; stop it whatever happens."""
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(Process("bench.upstream"))
        relay = await stack.enter_async_context(Process("bench.relay", upstream.url))
        fusing = await stack.enter_async_context(router(*_profiles(upstream.url, scale)))
        yield Scene(upstream, relay, fusing, scale)


def _profiles(url: str, scale: Scale) -> list[dict[str, object]]:
    def all_of(manner: str, *names: str) -> dict[str, str]:
        return dict.fromkeys(names, f"{url}/{manner}/v1")

    return [
        # what is counted is every call, so every call has to be waited for: the quorum is everybody
        profile("fused", all_of("now", "one", "two", "three", "writer"), quorum="100%"),
        profile("paced", all_of("now", "member") | all_of(paced(scale), "pacer")),
        profile("timed", all_of(TIMED, "tick", "tack", "tock", "timer"), quorum="100%"),
        profile(
            "patient", all_of(BRISK, "brisk", "swift") | all_of(LATE, "late") | all_of("now", "scribe"), quorum="100%"
        ),
        profile(
            "decided",
            all_of(BRISK, "keen", "fleet") | all_of(LATE, "tardy") | all_of("now", "clerk"),
            quorum=2,
            grace="0s",
        ),
    ]
