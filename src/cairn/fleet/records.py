"""What a host is to the control plane."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import ImageId, NodeId
from cairn.life.machine import Life
from cairn.wire.report import EngineSeen, HostFacts

DEFAULT_ZONE = "nova"


class NodeState(StrEnum):
    JOINING = "joining"  # enrolled, never heard of
    UP = "up"
    SUSPECT = "suspect"  # silent for longer than its lease; its guests may well run


N = NodeState
NODE_LIFE: Life[NodeState] = Life(
    "node",
    {
        (N.JOINING, "connected"): N.UP,
        (N.UP, "connected"): N.UP,
        (N.SUSPECT, "connected"): N.UP,
        (N.UP, "silent"): N.SUSPECT,
    },
)


class Node(Struct, frozen=True, kw_only=True):
    """One host. Its owner's wishes, its life, and the last that it said of itself."""

    id: NodeId
    hostname: str
    zone: str
    roles: tuple[str, ...]
    state: NodeState
    state_since: datetime
    generation: int  # raised at each connection of its agent; older ones are not heard any more
    spec_number: int  # raised at each change of what should be on it
    report_number: int  # of the newest report taken
    reported_spec_number: int  # the spec that the newest report was made under
    facts: HostFacts | None = None
    engines: tuple[EngineSeen, ...] = ()
    images: tuple[ImageId, ...] = ()  # whose bytes it holds
    enabled: bool = True  # new guests may be placed here
    disabled_reason: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether new guests may be placed here now."""
        return self.state is NodeState.UP and self.enabled and self.facts is not None
