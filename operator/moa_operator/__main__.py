"""Command line of the operator."""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import uvloop
from kubernetes.aio.config import ConfigException

from moa_operator import logs
from moa_operator.app import Settings, operate
from moa_operator.kube.connection import own_namespace
from moa_operator.leader import LeadershipLost

EVERYWHERE = "0.0.0.0"  # noqa: S104 - probes and Prometheus come from elsewhere


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
        The exit status: 0 when told to stop, 1 when leadership was lost, 2 for a usage or configuration error.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    logs.configure(options.log_level, options.log_format)
    if options.all_namespaces and options.namespace:
        parser.error("write one of --namespace and --all-namespaces, not both")
    try:
        uvloop.run(operate(_settings(options), _announce, _told_to_stop))
    except LeadershipLost as error:
        print(f"moa-operator: {error}", file=sys.stderr)
        return 1
    except ConfigException as error:
        print(f"moa-operator: no way to the API server: {error}; set KUBECONFIG, or run in a pod", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"moa-operator: cannot listen: {error.strerror or error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="moa-operator", description="Makes MoAProfiles running routers.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    running = commands.add_parser(
        "run",
        help="run the operator",
        description="Every option has an environment variable: MOA_OPERATOR_ and its name, in upper case.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    _add_scope(running)
    _add_leadership(running)
    running.add_argument(
        "--admin-host", default=_environment("ADMIN_HOST", EVERYWHERE), help="address of the admin port"
    )
    running.add_argument(
        "--admin-port",
        type=int,
        default=_environment("ADMIN_PORT", "9090"),
        help="probes and metrics; 0 for any free one",
    )
    running.add_argument(
        "--router-image",
        default=_environment("ROUTER_IMAGE", f"moa-operator/router:{_version()}"),
        help="container image of routers whose profile names none",
    )
    running.add_argument(
        "--workers", type=_positive, default=_environment("WORKERS", "8"), help="profiles worked on at the same time"
    )
    running.add_argument(
        "--relist-seconds",
        type=_positive,
        default=_environment("RELIST_SECONDS", "300"),
        help="seconds between two looks at every profile",
    )
    running.add_argument(
        "--log-level",
        default=_environment("LOG_LEVEL", "info"),
        choices=("debug", "info", "warning", "error"),
        help="least severity logged",
    )
    running.add_argument(
        "--log-format",
        default=_environment("LOG_FORMAT", "json"),
        choices=("json", "console"),
        help="how log lines look",
    )
    return parser


def _add_scope(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--namespace",
        action="append",
        metavar="NS",
        help="where profiles are looked for; repeatable (with commas in the variable); the pod's own if not given",
    )
    parser.add_argument(
        "--all-namespaces",
        action="store_true",
        default=_switch("ALL_NAMESPACES", default=False),
        help="look for profiles everywhere",
    )


def _add_leadership(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--leader-elect",
        action=argparse.BooleanOptionalAction,
        default=_switch("LEADER_ELECT", default=True),
        help="let other replicas stand by",
    )
    parser.add_argument(
        "--lease-namespace", default=_environment("LEASE_NAMESPACE"), metavar="NS", help="the pod's own if not given"
    )
    parser.add_argument("--lease-name", default=_environment("LEASE_NAME", "moa-operator"), help="name of the Lease")


def _settings(options: argparse.Namespace) -> Settings:
    own = own_namespace() or "default"
    namespaces = options.namespace or _names(_environment("NAMESPACE"))
    return Settings(
        namespaces=() if options.all_namespaces else tuple(dict.fromkeys(namespaces)) or (own,),
        admin_host=options.admin_host,
        admin_port=options.admin_port,
        leader_elect=options.leader_elect,
        lease_namespace=options.lease_namespace or own,
        lease_name=options.lease_name,
        router_image=options.router_image,
        workers=options.workers,
        relist_seconds=options.relist_seconds,
    )


async def _told_to_stop() -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def _announce(port: int) -> None:
    print(f"moa-operator admin port {port}", flush=True)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too low; write 1 at least")
    return number


def _environment(name: str, default: str | None = None) -> str | None:
    return os.environ.get(f"MOA_OPERATOR_{name}", default)


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _switch(name: str, *, default: bool) -> bool:
    text = (_environment(name) or "").lower()
    return text in {"1", "true", "yes", "on"} if text else default


def _version() -> str:
    try:
        return version("moa-operator")
    except PackageNotFoundError:
        return "0"


if __name__ == "__main__":
    sys.exit(main())
