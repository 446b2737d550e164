"""The command `moa-router demo`: its options, its exit status, and what ends it."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from moa_router.demo.errors import DemoError
from moa_router.demo.extra import require, weights

if TYPE_CHECKING:
    import argparse
    from types import FrameType

HELP = "watch a small model's answers being fused, on this machine"
QUESTION = "Name three things to see in Paris, and say one thing about each."

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: What a shell makes of a program that ended by Ctrl-C.
_INTERRUPTED = 130


def configure(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.description = (
        "Start a small language model on the CPU (llama.cpp) and the router in front of it, ask one question, and show "
        "the candidates, the fused answer and what both took. Everything is stopped at the end."
    )
    parser.add_argument("--question", default=QUESTION, metavar="TEXT", help="what to ask")
    parser.add_argument("--simulated", action="store_true", help="take the simulator (moa-sim) instead of the model")
    parser.add_argument("--keep", action="store_true", help="keep serving until Ctrl-C, and say how to talk to it")
    parser.add_argument("--port", type=int, default=0, help="port of the router; 0 for any free one")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo; returns the exit status: 0, 1 for a failure, 130 when interrupted before the end."""
    for number in _SIGNALS:
        signal.signal(number, _interrupt)
    try:
        _check(simulated=options.simulated)
        from moa_router.demo.show import show  # noqa: PLC0415 - it needs packages whose absence was told just now

        show(options.question, simulated=options.simulated, keep=options.keep, port=options.port)
    except DemoError as error:
        sys.stderr.write(f"moa-router demo: {error}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0


def _check(*, simulated: bool) -> None:
    require("rich", "openai")
    if not simulated:
        require("xllamacpp")
        weights()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the demo in order, once: a second signal must not cut the stopping of its servers short."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
