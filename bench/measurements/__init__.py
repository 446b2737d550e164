"""What is measured, by name, in the order of the report."""

from collections.abc import Awaitable, Callable, Sequence

from bench.measurements import cpu, latency, memory, prefix, quorum, streams
from bench.report import Result
from bench.scene import Scene

Measurement = Callable[[Scene], Awaitable[Sequence[Result]]]

MEASUREMENTS: dict[str, Measurement] = {
    "cpu": cpu.measure,
    "streams": streams.measure,
    "first-token": latency.first_token,
    "half-load": latency.half_load,
    "memory": memory.measure,
    "quorum": quorum.measure,
    "prefix": prefix.measure,
}
