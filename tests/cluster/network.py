"""Addresses of a cluster that has nodes: one /16 of its own, so that several clusters fit on a machine."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter
from tests.cluster.errors import CannotProvide

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_NODES = 8

_CANDIDATES = range(200, 250)


@dataclass(frozen=True)
class Network:
    """The range 10.`second`.0.0/16 and what is where in it; this machine alone reaches it, and it reaches nobody."""

    second: int

    @property
    def range(self) -> IPv4Network:
        """All of it."""
        return IPv4Network(f"10.{self.second}.0.0/16")

    @property
    def host(self) -> IPv4Address:
        """The machine itself, with the API server; the nodes' gateway."""
        return self.range[1]

    @property
    def link(self) -> str:
        """The machine's interface into the cluster."""
        return f"moa{self.second}"

    def node(self, number: int) -> IPv4Address:
        """Node `number`, counted from 1."""
        return self.range[10 + number]

    def pods(self, number: int) -> IPv4Network:
        """The pods of node `number`."""
        return IPv4Network(f"10.{self.second}.{64 + number}.0/24")

    @property
    def all_pods(self) -> IPv4Network:
        """The pods of every node."""
        return IPv4Network(f"10.{self.second}.64.0/18")

    @property
    def services(self) -> IPv4Network:
        """The Services' virtual addresses."""
        return IPv4Network(f"10.{self.second}.128.0/17")

    @property
    def dns(self) -> IPv4Address:
        """The cluster's name server."""
        return self.services[10]


class _Route(BaseModel):
    dst: str


_routes = TypeAdapter(list[_Route])


def parse_routes(listing: bytes) -> list[IPv4Network]:
    """The destinations in the output of `ip -json -4 route show table all`, the default route left out."""
    destinations = [route.dst for route in _routes.validate_json(listing or b"[]")]
    return [IPv4Network(destination) for destination in destinations if destination != "default"]


def free(taken: Iterable[IPv4Network]) -> list[Network]:
    """The networks that overlap with nothing this machine has a route to.

    Raises:
        CannotProvide: There is none.
    """
    known = list(taken)
    candidates = [Network(second) for second in _CANDIDATES]
    found = [network for network in candidates if not any(network.range.overlaps(other) for other in known)]
    if not found:
        raise CannotProvide("this machine has routes into each of 10.200.0.0/16 to 10.249.0.0/16; one has to be free")
    return found
