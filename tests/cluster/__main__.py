"""Command line: a real Kubernetes cluster for tests and play; run `python -m tests.cluster --help` in the checkout."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

from tests.cluster import binaries, clusters, supervisor
from tests.cluster.errors import CannotProvide, ClusterError

_MIB = 1024 * 1024


def main(arguments: list[str]) -> int:
    """Do what the command line says; the exit status."""
    try:
        # Everything behind `kubectl` is kubectl's, options that look like ours included.
        if arguments[:1] == ["kubectl"]:
            _kubectl(arguments[1:])
        return _run(_parser().parse_args(arguments))
    except (CannotProvide, ClusterError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description="A real Kubernetes API server for tests.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True)
    name = argparse.ArgumentParser(add_help=False)
    name.add_argument("--name", default=_default_name(), help="which cluster ($MOA_CLUSTER, or moa)")

    up = commands.add_parser("up", parents=[name], help="start a cluster; its last line is for your shell")
    up.add_argument("--provider", choices=["auto", "kubeconfig", "kind", "local"], default="auto")
    up.add_argument("--stage", action="store_true", help="show pods as running although no node runs them")
    up.add_argument("--nodes", type=int, default=0, metavar="N", help="real nodes, as root; without, nothing runs")
    commands.add_parser("down", parents=[name], help="take down what `up` has started")
    load = commands.add_parser("load", parents=[name], help="import images on every node")
    load.add_argument("archives", nargs="+", type=Path, metavar="IMAGE.tar", help="as `docker save` writes them")
    commands.add_parser("status", help="what runs, and how much memory it takes")
    build = commands.add_parser("build", help="compile only")
    build.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(binaries.TARGETS)} (the first)")
    commands.add_parser("kubectl", help="kubectl with that cluster's access: `kubectl get pods`")
    supervise = commands.add_parser("supervise", description="What `up` leaves running.")
    supervise.add_argument("directory", type=Path)
    supervise.add_argument("announce", type=int)
    return parser


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "up":
            cluster = clusters.acquire(options.name, choice=options.provider, stage=options.stage, nodes=options.nodes)
            print(f"# {cluster.provider} cluster {cluster.name}")
            print(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}")
        case "down":
            clusters.sweep()
            found = clusters.take_down(options.name)
            print(f"cluster {options.name} is gone" if found else f"there is no cluster {options.name}")
        case "load":
            _named(options.name).load(*options.archives)
        case "status":
            _status()
        case "build":
            _build(options.targets)
        case "supervise":
            return _supervise(options.directory, options.announce)
    return 0


def _build(names: list[str]) -> None:
    unknown = [name for name in names if name not in binaries.TARGETS]
    if unknown:
        raise CannotProvide(f"nothing to build is called {unknown[0]!r}; there are {', '.join(binaries.TARGETS)}")
    targets = [target for name in names or ["control-plane"] for target in binaries.TARGETS[name]]
    print(binaries.ensure(targets).directory)


def _status() -> None:
    for cluster in clusters.running():
        print(f"{cluster.name} ({cluster.provider}{', stage' if cluster.has_stage else ''}): {cluster.kubeconfig}")
        if cluster.provider == "local":
            for component, process in cluster.processes().items():
                print(f"  {component:<26} pid {process.pid:<8} {process.resident_bytes // _MIB:>5} MiB")


def _supervise(directory: Path, announce: int) -> int:
    # Its starter waits for this process alone; the cluster belongs to init and survives the starter.
    if os.fork():
        os._exit(0)
    return supervisor.main(directory, announce)


def _kubectl(arguments: list[str]) -> NoReturn:
    cluster = _named(_default_name())
    os.execve(
        cluster.kubectl(),
        ["kubectl", *arguments],
        os.environ | {"KUBECONFIG": str(cluster.kubeconfig)},
    )


def _named(name: str) -> clusters.Cluster:
    found = [cluster for cluster in clusters.running() if cluster.name == name]
    if not found and not os.environ.get("KUBECONFIG"):
        raise CannotProvide(f"there is no cluster {name}; start one by `up --name {name}`, or set KUBECONFIG")
    return found[0] if found else clusters.acquire(name, choice="kubeconfig")


def _default_name() -> str:
    return os.environ.get("MOA_CLUSTER", "moa")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
