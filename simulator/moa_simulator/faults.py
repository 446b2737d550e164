"""Faults that leave nothing to generate: the rule alone decides what the client gets."""

import asyncio

from moa_simulator.protocol.answer import encode_json
from moa_simulator.protocol.errors import error_body
from moa_simulator.rules import Action, Raw, Status
from moa_simulator.wire.connection import Connection, send


def strikes_early(script: Action) -> bool:
    """Says whether a rule leaves nothing to generate."""
    before_head = [fault for fault in (script.reset, script.hang) if fault is not None and fault.after is None]
    return bool(script.status or script.redirect or script.raw or before_head)


async def forever() -> None:
    """Waits until cancelled: by the client's leaving, or the server's end."""
    await asyncio.get_running_loop().create_future()


async def strike_early(connection: Connection, script: Action) -> int:
    """Commits a fault for which `strikes_early` holds; gives the status sent, 0 for none."""
    await asyncio.sleep(script.delay)
    if script.status is not None:
        send(connection, script.status.code, _told(script.status), headers=script.status.headers)
        return script.status.code
    if script.redirect is not None:
        send(connection, script.redirect.code, b"", headers={"location": script.redirect.location})
        return script.redirect.code
    if script.raw is not None:
        await _play(connection, script.raw)
    elif script.reset is not None:
        connection.reset()
    else:
        await forever()
    return 0


async def _play(connection: Connection, raw: Raw) -> None:
    for piece in raw.pieces:
        connection.write(piece.data())
        await asyncio.sleep(piece.sleep)
    if not raw.keep_open:
        connection.close()


def _told(status: Status) -> bytes:
    if status.body is None:
        return error_body(status.code, "A rule of the simulator says so", "SimulatedError")
    return status.body.encode() if isinstance(status.body, str) else encode_json(status.body)
