"""Our transport where the order of things matters to the turn of the loop: no sockets, the test moves every byte."""

from collections.abc import AsyncIterator

import pytest
from tests.router.upstream.wires import Heard, Wire, World, ask, settle

from moa_router.upstream import transport

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"


class Boom(Exception):  # noqa: N818 - what it does
    """A sink's defect."""


def boom(_: Heard) -> None:
    raise Boom


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    yield world
    await world.origin.aclose()
    await settle()
    assert (world.origin.idle, world.origin.active) == (0, 0)
    assert all(wire.lost for wire in world.wires)
    assert world.defects == []


async def open_wires(world: World, count: int) -> list[Wire]:
    """Connections that have served and are idle; the last was used last."""
    for _ in range(count):
        ask(world.route)
    await settle()
    wires = world.wires[-count:]
    for wire in wires:
        wire.say(OK)
    return wires


def play(wire: Wire, moment: str) -> None:
    """A response in one piece, in the course of which the moment comes."""
    if moment == "error":
        wire.say(HEAD + b"hello")
        wire.hang_up()
    else:
        wire.say(OK)


# -- the pool -------------------------------------------------------------------------------------------------------


async def test_the_last_ones_used_are_used_first(world: World) -> None:
    one, two, three = await open_wires(world, 3)
    ask(world.route, b"first")
    ask(world.route, b"second")
    assert three.written.endswith(b"first")
    assert two.written.endswith(b"second")
    three.say(OK)
    two.say(OK)
    ask(world.route, b"third")
    assert two.written.endswith(b"third")
    two.say(OK)
    # and the first was not touched in all this
    assert one.written.count(b"POST") == 1


async def test_a_server_that_was_restarted_costs_one_more_try_at_most(world: World) -> None:
    """The second try is made on a new connection, not on the next idle one, which is just as dead."""
    wires = await open_wires(world, 3)
    heard = ask(world.route, b"late")
    # its connection's end is seen first, and those of the others in the turns that follow
    wires[-1].hang_up()
    await settle()
    assert len(world.wires) == 4
    world.wires[3].say(OK)
    assert heard.story == ["head", "body", "end"]
    assert sum(wire.written.endswith(b"late") for wire in world.wires) == 2


async def test_a_response_that_comes_before_its_request_is_nobodys(world: World) -> None:
    world.greeting = OK
    heard = ask(world.route)
    await settle()
    assert heard.error is not None
    assert heard.error.kind == "reset"


# -- sinks that act while they are told something -------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["head", "body", "end", "error"])
async def test_cancelling_in_a_callback(world: World, moment: str) -> None:
    heard = ask(world.route, **{moment: Heard.cancel})
    await settle()
    play(world.wires[0], moment)
    await settle()
    assert heard.story[-1] == moment
    assert heard.story.count(moment) == 1
    assert world.wires[0].closing is (moment != "end")


@pytest.mark.parametrize("moment", ["head", "body", "end", "error"])
async def test_sending_in_a_callback(world: World, moment: str) -> None:
    """Behind the end of a response its connection is free, before that it is not."""
    more: list[Heard] = []
    first = ask(world.route, b"first", **{moment: lambda _: more.append(ask(world.route, b"second"))})
    await settle()
    wire = world.wires[0]
    play(wire, moment)
    await settle()
    assert first.over
    other = wire if moment == "end" else world.wires[1]
    assert other.written.endswith(b"second")
    other.say(OK)
    assert more[0].body == b"ok"


async def test_giving_one_up_for_another(world: World) -> None:
    more: list[Heard] = []

    def change(heard: Heard) -> None:
        heard.cancel()
        more.append(ask(world.route, b"second"))

    first = ask(world.route, b"first", body=change)
    await settle()
    world.wires[0].say(OK)
    await settle()
    assert first.story == ["head", "body"]
    assert world.wires[0].closing
    world.wires[1].say(OK)
    assert more[0].body == b"ok"


@pytest.mark.parametrize("moment", ["head", "body", "end", "error"])
async def test_failing_in_a_callback(world: World, moment: str) -> None:
    heard = ask(world.route, **{moment: boom})
    await settle()
    play(world.wires[0], moment)
    await settle()
    assert heard.over
    assert heard.orderly
    if moment in {"head", "body"}:
        assert heard.error is not None
        assert heard.error.kind == "invalid"
    assert world.wires[0].closing is (moment != "end")
    assert [type(defect) for defect in world.defects] == [Boom]
    world.defects.clear()


async def test_failing_again_in_the_error_of_a_failure(world: World) -> None:
    heard = ask(world.route, head=boom, error=boom)
    await settle()
    world.wires[0].say(OK)
    assert heard.story == ["head", "error"]
    assert [type(defect) for defect in world.defects] == [Boom, Boom]
    world.defects.clear()


async def test_failing_when_cancelled(world: World) -> None:
    def give_up(heard: Heard) -> None:
        heard.cancel()
        raise Boom

    heard = ask(world.route, body=give_up)
    await settle()
    world.wires[0].say(OK)
    assert heard.story == ["head", "body"]
    assert world.wires[0].closing
    assert [type(defect) for defect in world.defects] == [Boom]
    world.defects.clear()


async def test_failing_at_the_end_of_a_body_without_length(world: World) -> None:
    heard = ask(world.route, end=boom)
    await settle()
    world.wires[0].say(b"HTTP/1.1 200 OK\r\n\r\nhello")
    world.wires[0].hang_up()
    await settle()
    assert heard.story == ["head", "body", "end"]
    assert [type(defect) for defect in world.defects] == [Boom]
    world.defects.clear()


# -- pauses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["head", "body"])
async def test_pausing_in_a_callback(world: World, moment: str) -> None:
    heard = ask(world.route, **{moment: lambda heard: heard.exchange.pause()})
    await settle()
    wire = world.wires[0]
    wire.say(HEAD + b"hello")
    assert not wire.is_reading()
    # what was read is told all the same
    assert heard.body == b"hello"
    heard.exchange.resume()
    assert wire.is_reading()


async def test_a_pause_begins_before_there_is_a_connection(world: World) -> None:
    heard = ask(world.route)
    heard.exchange.pause()
    await settle()
    assert not world.wires[0].is_reading()
    heard.exchange.resume()
    assert world.wires[0].is_reading()


async def test_a_pause_holds_for_the_second_try(world: World) -> None:
    (old,) = await open_wires(world, 1)
    heard = ask(world.route)
    heard.exchange.pause()
    heard.exchange.pause()
    assert not old.is_reading()
    old.hang_up()
    await settle()
    fresh = world.wires[1]
    assert not fresh.is_reading()
    heard.exchange.resume()
    heard.exchange.resume()
    assert fresh.is_reading()
    fresh.say(OK)
    assert heard.body == b"ok"


async def test_a_pause_ends_with_its_response(world: World) -> None:
    heard = ask(world.route, end=lambda heard: heard.exchange.pause())
    await settle()
    heard.exchange.pause()
    wire = world.wires[0]
    wire.say(OK)
    assert heard.story == ["head", "body", "end"]
    assert wire.is_reading()
    heard.exchange.pause()
    assert wire.is_reading()


# -- the end --------------------------------------------------------------------------------------------------------


class _Rude(Wire):
    """A TLS peer that never says goodbye."""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("idle", [True, False])
async def test_closing_takes_leave_of_a_peer_without_manners(monkeypatch: pytest.MonkeyPatch, *, idle: bool) -> None:
    monkeypatch.setattr(transport, "FAREWELL_SECONDS", 0.01)
    world = World(_Rude)
    heard = ask(world.route)
    await settle()
    if idle:
        world.wires[0].say(OK)
    await world.origin.aclose()
    assert world.wires[0].closing
    assert heard.story[-1] == ("end" if idle else "error")


async def test_closing_returns_when_every_connection_is_closed(world: World) -> None:
    wires = await open_wires(world, 3)
    busy = ask(world.route)
    await world.origin.aclose()
    assert all(wire.lost for wire in wires)
    assert busy.error is not None
    assert busy.error.kind == "reset"


async def test_closing_ends_what_is_being_connected(world: World) -> None:
    world.open.clear()
    waiting = ask(world.route)
    await settle()
    beginning = ask(world.route)
    await world.origin.aclose()
    for heard in (waiting, beginning):
        assert heard.story == ["error"]
        assert heard.error is not None
        assert heard.error.kind == "reset"
    assert world.wires == []


async def test_closing_amid_a_second_try(world: World) -> None:
    (old,) = await open_wires(world, 1)
    heard = ask(world.route)
    world.open.clear()
    old.hang_up()
    await settle()
    assert heard.story == []
    await world.origin.aclose()
    assert heard.story == ["error"]
    assert len(world.wires) == 1


async def test_what_is_sent_when_all_is_closed_ends_at_once(world: World) -> None:
    more: list[Heard] = []
    ask(world.route, error=lambda _: more.append(ask(world.route)))
    await settle()
    await world.origin.aclose()
    await settle()
    assert more[0].story == ["error"]
    assert len(world.wires) == 1
