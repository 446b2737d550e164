"""What there is: read anew for every reconcile, so that no decision rests on what somebody remembers."""

from collections.abc import Iterable

from moa_operator.keys import Key
from moa_operator.kube.client import Kube, together
from moa_operator.kube.objects import Live
from moa_operator.render.labels import child_name
from moa_operator.resources import Resource

World = dict[Resource, Live | None]
"""What is there under the name of each child, by kind; None where there is nothing."""


async def read_world(kube: Kube, key: Key, kinds: Iterable[Resource]) -> World:
    """Reads what is there under the name of each child.

    Args:
        kube: The API server.
        key: Whose children they are.
        kinds: What to look at.

    Raises:
        KubeError: Something could not be read.
    """
    asked = tuple(kinds)
    reads = await together(kube.get(each, key.namespace, child_name(key.name)) for each in asked)
    return dict(zip(asked, reads, strict=True))
