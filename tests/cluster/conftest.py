"""The fixtures under test."""

from tests.cluster.fixtures import (
    api,
    cluster,
    kubeconfig,
    namespace,
    node_cluster,
    own_cluster,
    play,
    pytest_collection_finish,
)

__all__ = [
    "api",
    "cluster",
    "kubeconfig",
    "namespace",
    "node_cluster",
    "own_cluster",
    "play",
    "pytest_collection_finish",
]
