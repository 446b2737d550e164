"""Command line: `moa-sim serve`."""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from moa_simulator.config import ConfigError, ModelConfig, SimulatorConfig
from moa_simulator.server import Simulator


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; gives its exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = _configured(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(config, options.host, options.port, announce=options.announce))
    except OSError as error:
        print(f"moa-sim cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="moa-sim", description="A simulated vLLM server.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve until told to stop", description="Serves until told to stop.")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serve.add_argument(
        "--port", type=int, default=0, help="port to listen on; 0 picks a free one (default: %(default)s)"
    )
    serve.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="NAME[,KEY=VALUE...]",
        help="a model to serve, for example qwen,ttft=0.2,inter_token=0.01; repeatable; replaces the file's models",
    )
    serve.add_argument("--config", type=Path, metavar="FILE", help="YAML file with models, rules and server settings")
    serve.add_argument(
        "--record", action=argparse.BooleanOptionalAction, default=None, help="keep a record of every call"
    )
    serve.add_argument("--api-key", help="want this bearer token on /v1 paths")
    serve.add_argument(
        "--announce",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="print the address on standard output once it listens (default: %(default)s)",
    )
    return parser


def _configured(options: argparse.Namespace) -> SimulatorConfig:
    config = SimulatorConfig() if options.config is None else SimulatorConfig.from_file(options.config)
    given: dict[str, object] = {}
    if options.model:
        given["models"] = tuple(ModelConfig.from_flag(text) for text in options.model)
    if options.record is not None:
        given["record"] = options.record
    if options.api_key is not None:
        given["api_key"] = options.api_key
    return config.with_settings(given)


async def _serve(config: SimulatorConfig, host: str, port: int, *, announce: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Simulator(config, host, port) as simulator:
        # What is allocated by now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        if announce:
            print(f"moa-sim listening on {simulator.url}", flush=True)
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
