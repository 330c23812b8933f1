"""What a join token is to the control plane, and what a machine that joins says and hears."""

from datetime import datetime
from enum import StrEnum

from msgspec import Struct

from cairn.core.ids import NodeId
from cairn.fleet.records import Node


class Wishes(Struct, frozen=True, kw_only=True):
    """What the host that uses a token becomes."""

    roles: tuple[str, ...] = ("compute", "storage")
    zone: str
    rack: str = ""
    labels: dict[str, str] = {}


class Token(Struct, frozen=True, kw_only=True):
    """A token without its secret, which nobody can read again."""

    id: str
    zone: str
    rack: str
    roles: tuple[str, ...]
    labels: dict[str, str]
    made_at: datetime
    expires_at: datetime
    used_at: datetime | None = None
    used_by: NodeId | None = None
    used_hostname: str | None = None
    used_key_digest: str | None = None


class Applicant(Struct, frozen=True, kw_only=True):
    """A machine that wants to be a member. Its key is proven, the rest it merely says."""

    key_digest: str
    hostname: str
    address: str
    agent_version: str


class Reason(StrEnum):
    """Why a machine or an agent is refused; the label of a counter."""

    UNKNOWN = "unknown-token"
    EXPIRED = "expired-token"
    USED = "used-token"
    OTHER_CLOUD = "other-cloud"
    NAME = "name-taken"
    ADDRESS = "address-taken"
    BAD_REQUEST = "bad-request"
    TOO_MANY = "too-many-attempts"


class Refusal(Struct, frozen=True, kw_only=True):
    reason: Reason
    message: str  # for whoever stands at the machine


class Farewell(Struct, frozen=True, kw_only=True):
    """A host that was removed and has not yet said that it cleaned up."""

    node_id: NodeId
    hostname: str
    removed_at: datetime


Verdict = Node | Refusal
