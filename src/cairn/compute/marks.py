"""Which servers may be started elsewhere when their host is lost: what is said of them, and where.

A server's own metadata counts first, then its flavor's extra specs, then the installation's default as it
was when the server was made.
"""

from collections.abc import Mapping
from enum import StrEnum

from cairn.compute.records import Server
from cairn.core.errors import Invalid
from cairn.fleet.records import Node
from cairn.volume.records import Volume

METADATA_KEY = "restart_elsewhere"
FLAVOR_KEY = "cairn:restart_elsewhere"


class Mark(StrEnum):
    TRUE = "true"  # where its disks can be reached
    FRESH = "fresh"  # even with a new disk from its image: what was written is lost
    FALSE = "false"


class _Installation:
    default = Mark.FALSE


def set_default(mark: str) -> None:
    """What counts for servers that are made from now on, where neither they nor their flavor say.

    A setting of the whole installation, the same in every process; so it is no argument of each verb."""
    _Installation.default = Mark(mark)


def default() -> Mark:
    return _Installation.default


def mark_of(server: Server) -> Mark:
    """A word that is none of the three counts as "false"."""
    for said in (
        server.metadata.get(METADATA_KEY),
        server.flavor.extra_specs.get(FLAVOR_KEY),
        server.restart_default,
    ):
        if said is not None:
            return Mark(said) if said in list(Mark) else Mark.FALSE
    return Mark.FALSE


def require_mark(items: Mapping[str, str], key: str) -> None:
    """Raises Invalid when `key` is there and says something else."""
    said = items.get(key)
    if said is not None and said not in list(Mark):
        raise Invalid(
            f"Invalid input for field/attribute {key}: '{said[:60]}' is none of {', '.join(Mark)}."
        )


def obstacle(server: Server, node: Node, mark: Mark, attached: list[Volume]) -> str | None:
    """Why what is on a fenced host cannot start elsewhere, in words for its owner; None if it can."""
    if mark is Mark.FALSE:
        return f"it is not marked {METADATA_KEY}"
    if node.facts is not None and node.facts.has_shared_pool:
        return None
    if attached:
        return f"its volume {attached[0].id} lies on host {node.hostname} only"
    if server.root_gib and not (mark is Mark.FRESH and server.image_id):
        return f"its disk lies on host {node.hostname} only"
    return None
