"""`python -m bench`: measure the router on this machine."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import uvloop

from bench import machine
from bench.measurements import MEASUREMENTS
from bench.report import document, table
from bench.scene import FULL, QUICK, Scale, scene

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report import Result

DEFAULT_FILE = Path("build/bench.json")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the router beside a bare aiohttp relay. Everything stays on this machine's loopback.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "measurements", nargs="*", choices=[[], *MEASUREMENTS], metavar="NAME",
        help=f"what to measure, all if none is named: {', '.join(MEASUREMENTS)}",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, for a first look")
    parser.add_argument("--json", type=Path, default=DEFAULT_FILE, metavar="FILE", help="where the figures go as JSON")
    options = parser.parse_args(arguments)
    wanted = options.measurements or list(MEASUREMENTS)
    begun = time.monotonic()
    described = machine.describe()
    results = uvloop.run(run(wanted, QUICK if options.quick else FULL))
    seconds = time.monotonic() - begun
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_bytes(orjson.dumps(document(described, results, seconds), option=orjson.OPT_INDENT_2))
    print(table(described, results))
    print(f"\n{seconds:.0f} s; written to {options.json}")
    return 0


async def run(wanted: Sequence[str], scale: Scale) -> list[Result]:
    """Take measurements, by name, in this order."""
    machine.allow_many_files()
    results: list[Result] = []
    async with scene(scale) as ready:
        for name in wanted:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            results += await MEASUREMENTS[name](ready)
    return results


if __name__ == "__main__":
    sys.exit(main())
