"""Typed ids, and the two ways to make them.

Ids of the API are UUID strings; identity's are 32 hex digits without dashes, as Keystone's are.
"""

import random
import secrets
import uuid
from typing import NewType, Protocol

NodeId = NewType("NodeId", str)
ServerId = NewType("ServerId", str)
VolumeId = NewType("VolumeId", str)
SnapshotId = NewType("SnapshotId", str)
ImageId = NewType("ImageId", str)
FlavorId = NewType("FlavorId", str)
NetworkId = NewType("NetworkId", str)
SubnetId = NewType("SubnetId", str)
PortId = NewType("PortId", str)
RouterId = NewType("RouterId", str)
FloatingIpId = NewType("FloatingIpId", str)
SecurityGroupId = NewType("SecurityGroupId", str)
SecurityGroupRuleId = NewType("SecurityGroupRuleId", str)
ProjectId = NewType("ProjectId", str)
UserId = NewType("UserId", str)
RoleId = NewType("RoleId", str)
DomainId = NewType("DomainId", str)
RequestId = NewType("RequestId", str)


class Randomness(Protocol):
    """Where ids and secrets come from: the system's generator, or one seed in the simulator."""

    def token_bytes(self, count: int) -> bytes: ...


class SystemRandomness:
    def token_bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)


class SeededRandomness:
    """Reproducible, for the simulator and tests only."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose

    def token_bytes(self, count: int) -> bytes:
        return self._random.randbytes(count)


def new_uuid(source: Randomness) -> str:
    """A random (version 4) UUID with dashes."""
    return str(uuid.UUID(bytes=source.token_bytes(16), version=4))


def new_hex_id(source: Randomness) -> str:
    """32 hex digits, as Keystone's ids are."""
    return uuid.UUID(bytes=source.token_bytes(16), version=4).hex
