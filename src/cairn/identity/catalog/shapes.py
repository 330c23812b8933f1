"""What clients send about the catalog, policies and limits. Limits of length are Keystone's own schemas'."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from cairn.identity.shapes import Id, LongName

_Text = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]
_Short = Annotated[str, Meta(max_length=255, pattern=r"\A[^\x00]*\Z")]
_Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00]*\Z")]
RegionId = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00-\x1f/]*\Z")]
Url = Annotated[str, Meta(max_length=225, pattern=r"\A[a-zA-Z0-9+.-]+:[^\x00\s]+\Z")]
Interface = Literal["public", "internal", "admin"]
Number = Annotated[int, Meta(ge=-1, le=0x7FFFFFFF)]


class RegionWish(Struct, frozen=True, kw_only=True):
    description: _Text | UnsetType | None = UNSET
    parent_region_id: RegionId | UnsetType | None = UNSET


class ServiceWish(Struct, frozen=True, kw_only=True):
    type: _Name | UnsetType = UNSET
    name: _Name | UnsetType = UNSET
    description: _Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class EndpointWish(Struct, frozen=True, kw_only=True):
    """`region` is the older name of `region_id`: it makes the region if it is not there."""

    service_id: Id | UnsetType = UNSET
    interface: Interface | UnsetType = UNSET
    region_id: RegionId | UnsetType | None = UNSET
    region: RegionId | UnsetType | None = UNSET
    url: Url | UnsetType | None = UNSET
    name: _Short | UnsetType = UNSET
    description: _Text | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


class RegionBody(Struct, frozen=True, forbid_unknown_fields=True):
    region: dict[str, Any]


class ServiceBody(Struct, frozen=True, forbid_unknown_fields=True):
    service: dict[str, Any]


class EndpointBody(Struct, frozen=True, forbid_unknown_fields=True):
    endpoint: dict[str, Any]


class Filters(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    service_id: Id | UnsetType = UNSET
    region_id: RegionId | UnsetType | None = UNSET
    interface: Interface | UnsetType = UNSET


class NewGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: LongName
    filters: Filters
    description: _Text | None = None


class ChangedGroup(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: Id | UnsetType = UNSET
    name: LongName | UnsetType = UNSET
    filters: Filters | UnsetType = UNSET
    description: _Text | UnsetType | None = UNSET


class NewGroupBody(Struct, frozen=True, forbid_unknown_fields=True):
    endpoint_group: NewGroup


class ChangedGroupBody(Struct, frozen=True, forbid_unknown_fields=True):
    endpoint_group: ChangedGroup


class PolicyWish(Struct, frozen=True, kw_only=True):
    type: _Short | UnsetType = UNSET
    blob: Annotated[str, Meta(max_length=512 * 1024, pattern=r"\A[^\x00]*\Z")] | UnsetType = UNSET


class PolicyBody(Struct, frozen=True, forbid_unknown_fields=True):
    policy: dict[str, Any]


class NewRegisteredLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    service_id: Id
    resource_name: LongName
    default_limit: Number
    region_id: RegionId | None = None
    description: _Short | None = None


class ChangedRegisteredLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    service_id: Id | UnsetType = UNSET
    resource_name: LongName | UnsetType = UNSET
    default_limit: Number | UnsetType = UNSET
    region_id: RegionId | UnsetType | None = UNSET
    description: _Short | UnsetType | None = UNSET


class NewLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of a project or of a domain: exactly one of them."""

    service_id: Id
    resource_name: LongName
    resource_limit: Number
    region_id: RegionId | None = None
    description: _Short | None = None
    project_id: Id | None = None
    domain_id: Id | None = None


class ChangedLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    resource_limit: Number | UnsetType = UNSET
    description: _Short | UnsetType | None = UNSET


class NewRegisteredLimitsBody(Struct, frozen=True, forbid_unknown_fields=True):
    registered_limits: Annotated[list[NewRegisteredLimit], Meta(min_length=1, max_length=1000)]


class ChangedRegisteredLimitBody(Struct, frozen=True, forbid_unknown_fields=True):
    registered_limit: ChangedRegisteredLimit


class NewLimitsBody(Struct, frozen=True, forbid_unknown_fields=True):
    limits: Annotated[list[NewLimit], Meta(min_length=1, max_length=1000)]


class ChangedLimitBody(Struct, frozen=True, forbid_unknown_fields=True):
    limit: ChangedLimit
