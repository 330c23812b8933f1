"""What a host is to the control plane."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import ImageId, NodeId
from cairn.life.machine import Life
from cairn.wire.report import EngineSeen, HealthSeen, HostFacts

DEFAULT_ZONE = "nova"


ROLES = ("compute", "network", "storage", "power")


class NodeState(StrEnum):
    JOINING = "joining"  # enrolled, never heard of
    UP = "up"
    SUSPECT = "suspect"  # silent for longer than its lease; its guests may well run
    LOST = "lost"  # silent for so long that it should be fenced; its guests may still run
    FENCED = "fenced"  # proven to write and run nothing: what may start elsewhere does
    RECOVERED = "recovered"  # nothing that may start elsewhere is left on it


N = NodeState
NODE_LIFE: Life[NodeState] = Life(
    "node",
    {(state, "connected"): N.UP for state in N}
    | {
        (N.UP, "silent"): N.SUSPECT,
        (N.SUSPECT, "given up"): N.LOST,
        # A person may fence a host that is still heard of; the control plane only a lost one.
        (N.UP, "fenced"): N.FENCED,
        (N.SUSPECT, "fenced"): N.FENCED,
        (N.LOST, "fenced"): N.FENCED,
        (N.FENCED, "recovered"): N.RECOVERED,
    },
)


class SouthboundDoor(Struct, frozen=True, kw_only=True):
    """Where a host with the network role lets others read the network's database."""

    node_id: NodeId
    state: NodeState
    address: str  # "ssl:192.0.2.2:6642"


class PowerAddress(Struct, frozen=True, kw_only=True):
    """Where a host's power is switched. Holds a password: never shown, never logged."""

    driver: str
    address: str
    user: str = ""
    password: str = ""


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
    rack: str = ""
    labels: dict[str, str] = {}
    is_draining: bool = False  # its guests are to go elsewhere; implies that none are placed here
    health: tuple[HealthSeen, ...] = ()
    control_id: str | None = None  # the control process that its agent is connected to
    report_digest: bytes | None = (
        None  # of the newest report taken: the same need not be taken again
    )
    power: PowerAddress | None = None  # how to switch it off from outside
    power_on: bool = True  # wished
    power_number: int = 0  # raised at each wish
    agent_version: str = ""
    wire_version: int = 0
    is_fencer: bool = False  # it has been asked to fence another host
    key_digest: str = ""  # SHA-256 of its public key (hex): who may ask for its certificate again
    address: str = (
        ""  # that its certificate speaks for; empty: of a host that was there from the start
    )
    origin: str = ""  # how it became a member: "first host", "token rack-3"
    set_by_hand: tuple[str, ...] = ()  # "zone", "roles": enrolment leaves these alone
    wanted_images: tuple[ImageId, ...] = ()  # to be fetched before a server needs them

    @property
    def is_usable(self) -> bool:
        """Whether new guests may be placed here now."""
        is_open = self.enabled and not self.is_draining
        return self.state is NodeState.UP and is_open and self.facts is not None


class Door(StrEnum):
    """A host's way to the shared pool of its zone, as it is wished."""

    OPEN = "open"
    SHUT = "shut"  # until the host is back and has rid itself of what is no longer its own
    OPENING = "opening"


class Loss(Struct, frozen=True, kw_only=True):
    """What is done about a host that is gone, or was. There is none of a host that is well."""

    node_id: NodeId
    hold: str = ""  # why nothing is done about it until a person says so
    may_recover: bool = False  # a person said so: no hold counts
    power_by: NodeId | None = None  # who was asked to cut its power
    power_number: int = 0
    door: Door = Door.OPEN
    door_by: NodeId | None = None  # who was asked to shut or open its door
    door_number: int = 0
    trouble: str = ""  # why it is not fenced yet
    fenced_by: str = ""  # "power, through host n2"


class Hold(Struct, frozen=True, kw_only=True):
    """No host of the zone is fenced or recovered, because it looks as if it were us and not them."""

    zone: str
    since: datetime
    reason: str
    released_at: datetime | None = None  # a person said that it is them


class Coming(Struct, frozen=True, kw_only=True):
    """A host whose agent connects."""

    node_id: NodeId
    control_id: str | None = None  # the control process that it connects to
    agent_version: str = ""
    wire_version: int = 0


class Arrival(Struct, frozen=True, kw_only=True):
    """What a host that was taken in must know."""

    report_base: int  # its reports are numbered upwards from here
    spec_number: int  # of what should be on it now
    report_digest: bytes | None  # of the last that is known of it
    now_s: float = 0.0  # when that was, seconds since the epoch: it compares its clock


class HostLoad(Struct, frozen=True, kw_only=True):
    """What a host carries, counted by those who know (compute); fleet only shows it and heeds it."""

    servers: int = 0
    volumes: int = 0
    vcpus: int = 0  # that may be promised, and what is taken of them
    vcpus_taken: int = 0
    memory_mib: int = 0
    memory_mib_taken: int = 0
    disk_gib: int = 0
    disk_gib_taken: int = 0
    zone_networks: int = 0  # networks that live in its zone
    aggregates: tuple[str, ...] = ()  # names
    zone_held_by: str = ""  # the aggregate that says which zone it is in


NO_LOAD = HostLoad()
