"""Command line of the router."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from moa_api.v1alpha1 import ProfileError
from moa_router.demo import command as demo
from moa_router.server import Addresses, Settings, serve
from moa_router.telemetry import logs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2 for a usage or configuration error)."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moa-router",
        description="Mixture-of-Agents fusion behind one OpenAI-compatible endpoint.",
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serving = commands.add_parser(
        "serve",
        help="serve profiles",
        description="Serve one or more MoAProfiles. SIGHUP or a changed file reloads; SIGTERM drains.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    serving.add_argument(
        "--profile", type=Path, action="append", required=True, metavar="FILE", help="a MoAProfile; repeatable"
    )
    serving.add_argument("--host", default=_environment("HOST", "127.0.0.1"), help="address of the client port")
    serving.add_argument(
        "--port", type=int, default=_environment("PORT", "8080"), help="client port; 0 for any free one"
    )
    serving.add_argument(
        "--admin-host", default=_environment("ADMIN_HOST"), help="address of the admin port; --host if not given"
    )
    serving.add_argument(
        "--admin-port",
        type=int,
        default=_environment("ADMIN_PORT", "9090"),
        help="metrics and probes; 0 for any free one",
    )
    serving.add_argument(
        "--secrets-dir",
        type=Path,
        default=_environment("SECRETS_DIR"),
        metavar="DIR",
        help="DIR/<secret>/<key> stands for a Secret",
    )
    serving.add_argument(
        "--config-maps-dir",
        type=Path,
        default=_environment("CONFIG_MAPS_DIR"),
        metavar="DIR",
        help="DIR/<configmap>/<key> stands for a ConfigMap",
    )
    serving.add_argument(
        "--log-level",
        default=_environment("LOG_LEVEL", "info"),
        choices=("debug", "info", "warning", "error"),
        help="least severity logged",
    )
    serving.add_argument(
        "--log-format",
        default=_environment("LOG_FORMAT", "json"),
        choices=("json", "console"),
        help="how log lines look",
    )
    serving.add_argument("--access-log", action="store_true", help="log a line for each request")
    serving.set_defaults(run=_serve)
    demo.configure(commands.add_parser("demo", help=demo.HELP, formatter_class=argparse.ArgumentDefaultsHelpFormatter))
    return parser


def _serve(options: argparse.Namespace) -> int:
    logs.configure(options.log_level, options.log_format)
    settings = Settings(
        profiles=options.profile,
        host=options.host,
        port=options.port,
        admin_host=options.admin_host or options.host,
        admin_port=options.admin_port,
        secrets_dir=options.secrets_dir,
        config_maps_dir=options.config_maps_dir,
        access_log=options.access_log,
        version=_version(),
    )
    try:
        uvloop.run(serve(settings, _announce))
    except ProfileError as error:
        print("moa-router: these profiles cannot be served:", *error.problems, sep="\n  ", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"moa-router: cannot listen: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _announce(addresses: Addresses) -> None:
    print(f"moa-router listening on {addresses.url} (admin {addresses.admin_url})", flush=True)


def _environment(name: str, default: str | None = None) -> str | None:
    """Every option has an environment variable, for containers."""
    return os.environ.get(f"MOA_ROUTER_{name}", default)


def _version() -> str:
    try:
        return version("moa-operator")
    except PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    sys.exit(main())
