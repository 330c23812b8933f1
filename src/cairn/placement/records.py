"""Amounts of what a host has, and claims on them."""

from msgspec import Struct

from cairn.core.ids import NodeId

MEMORY_RESERVED_MIB = 512  # for the host itself


class Ratios(Struct, frozen=True, kw_only=True):
    """How often each resource of a host may be promised."""

    vcpus: float = 16.0  # they share: sixteen to a real one, as OpenStack's default
    memory: float = 1.0  # it does not: a guest that was promised it may use all of it at once
    disk: float = 1.0


class Amounts(Struct, frozen=True, kw_only=True):
    vcpus: int = 0
    memory_mib: int = 0
    disk_gib: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            vcpus=self.vcpus + other.vcpus,
            memory_mib=self.memory_mib + other.memory_mib,
            disk_gib=self.disk_gib + other.disk_gib,
        )


class Claim(Struct, frozen=True, kw_only=True):
    """What one consumer (a server) took of one host."""

    consumer_id: str
    node_id: NodeId
    amounts: Amounts


class Room(Struct, frozen=True, kw_only=True):
    """One host's capacity with its ratios applied, and what is taken of it."""

    node_id: NodeId
    capacity: Amounts
    taken: Amounts
