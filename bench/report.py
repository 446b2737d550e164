"""What came out, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Result:
    """One figure.

    Attributes:
        name: what was measured.
        value: the median over the rounds.
        unit: its unit.
        relay: the same of the bare aiohttp relay (or whatever `against` names) in the same run.
        ratio: median over the rounds of this round's value over this round's relay.
        aim: what the ratio, or where there is none the value, should not exceed; None where there is no such thing.
        against: what `relay` is, where it is not the relay.
        rounds: the values of the single rounds.
        details: further figures worth knowing, by name.
    """

    name: str
    value: float
    unit: str
    relay: float | None = None
    ratio: float | None = None
    aim: float | None = None
    against: str = "relay"
    rounds: Sequence[float] = ()
    details: Mapping[str, float] = field(default_factory=dict)


def compared(
    name: str,
    unit: str,
    values: Sequence[float],
    relay: Sequence[float],
    *,
    aim: float | None = None,
    against: str = "relay",
    details: Mapping[str, float] | None = None,
) -> Result:
    """A figure beside another's: each round's value is set against the same round's, so that a drift touches both."""
    ratio = median(value / other for value, other in zip(values, relay, strict=True))
    return Result(name, median(values), unit, median(relay), ratio, aim, against, tuple(values), details or {})


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def document(machine: Mapping[str, str], results: Sequence[Result], seconds: float) -> dict[str, object]:
    """The whole run, to be written as JSON."""
    return {"machine": dict(machine), "seconds": round(seconds, 1), "results": [asdict(result) for result in results]}


def table(machine: Mapping[str, str], results: Sequence[Result]) -> str:
    """The whole run, to be read."""
    lines = [f"{name:10} {text}" for name, text in machine.items()]
    lines += ["", f"{'':44} {'router':>12} {'compared with':>22} {'ratio':>7} {'aim':>7}"]
    for result in results:
        lines.append(_row(result))
        lines += [f"    {name:52} {value:10.2f}" for name, value in result.details.items()]
    return "\n".join(lines)


def _row(result: Result) -> str:
    other = "" if result.relay is None else f"{result.against} {result.relay:.1f}"
    ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
    aim = "" if result.aim is None else f"<= {result.aim:g}"
    return f"{result.name:44} {result.value:8.1f} {result.unit:>3} {other:>22} {ratio:>7} {aim:>7}"
