"""What clients send to identity. Users, projects and the like may carry attributes of any name, so a body
is read in two parts: the fields that mean something to us, with their limits, and the rest, kept as it is.

Limits of length are Keystone's own (api-ref, Identity v3).
"""

from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from cairn.core.errors import Invalid
from cairn.http.bodies import said
from cairn.identity.accounts.user_options import UserOptions

W = TypeVar("W", bound=Struct)

ShortName = Annotated[str, Meta(max_length=64, pattern=r"\A[^\x00]*[^\x00\s][^\x00]*\Z")]
LongName = Annotated[str, Meta(max_length=255, pattern=r"\A[^\x00]*[^\x00\s][^\x00]*\Z")]
Words = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]
Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"\A[\w.-]+\Z")]
Tag = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"\A[^\x00/,]*\Z")]
Tags = Annotated[list[Tag], Meta(max_length=80)]

EXTRA_BYTES_MAX = 16 * 1024
_OURS = {"id", "links", "password_expires_at", "is_domain", "original_password"}
"""What clients echo from a reply, or send besides, and must not become an attribute."""


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    immutable: bool | None = None


class DomainWish(Struct, frozen=True, kw_only=True):
    name: ShortName | UnsetType = UNSET
    description: Words | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    explicit_domain_id: Id | UnsetType | None = UNSET


class ProjectWish(Struct, frozen=True, kw_only=True):
    name: ShortName | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    parent_id: Id | UnsetType | None = UNSET
    description: Words | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    options: Options | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    is_domain: bool | UnsetType = UNSET


class FederatedProtocol(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    protocol_id: Id
    unique_id: LongName


class FederatedRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom an identity provider means by this user."""

    idp_id: Id
    protocols: Annotated[tuple[FederatedProtocol, ...], Meta(max_length=100)]


class UserWish(Struct, frozen=True, kw_only=True):
    name: LongName | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    default_project_id: Id | UnsetType | None = UNSET
    description: Words | UnsetType | None = UNSET
    email: Words | UnsetType | None = UNSET
    options: UserOptions | UnsetType = UNSET
    password: str | UnsetType | None = UNSET
    federated: Annotated[tuple[FederatedRef, ...], Meta(max_length=100)] | UnsetType = UNSET


class GroupWish(Struct, frozen=True, kw_only=True):
    name: ShortName | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: Words | UnsetType | None = UNSET


class RoleWish(Struct, frozen=True, kw_only=True):
    name: LongName | UnsetType = UNSET
    domain_id: Id | UnsetType | None = UNSET
    description: Words | UnsetType | None = UNSET
    options: Options | UnsetType = UNSET


class DomainBody(Struct, frozen=True, forbid_unknown_fields=True):
    domain: dict[str, Any]


class ProjectBody(Struct, frozen=True, forbid_unknown_fields=True):
    project: dict[str, Any]


class UserBody(Struct, frozen=True, forbid_unknown_fields=True):
    user: dict[str, Any]


class GroupBody(Struct, frozen=True, forbid_unknown_fields=True):
    group: dict[str, Any]


class RoleBody(Struct, frozen=True, forbid_unknown_fields=True):
    role: dict[str, Any]


class TagsBody(Struct, frozen=True, forbid_unknown_fields=True):
    tags: Tags


class PasswordChange(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    password: str
    original_password: str


class PasswordBody(Struct, frozen=True, forbid_unknown_fields=True):
    user: PasswordChange


# Signing in. Unknown fields are let through as Keystone does: clients send more than it reads.


Ref = Annotated[str, Meta(max_length=255, pattern=r"\A[^\x00]*\Z")]
"""An id or a name: anybody may send one, so it must not trouble the database."""


class DomainRef(Struct, frozen=True, kw_only=True):
    id: Ref | None = None
    name: Ref | None = None


class ProjectRef(Struct, frozen=True, kw_only=True):
    id: Ref | None = None
    name: Ref | None = None
    domain: DomainRef | None = None


class UserRef(Struct, frozen=True, kw_only=True):
    password: str
    id: Ref | None = None
    name: Ref | None = None
    domain: DomainRef | None = None


class PasswordMethod(Struct, frozen=True, kw_only=True):
    user: UserRef


class TokenMethod(Struct, frozen=True, kw_only=True):
    id: str


class OwnerRef(Struct, frozen=True, kw_only=True):
    """A user, named without a proof."""

    id: Ref | None = None
    name: Ref | None = None
    domain: DomainRef | None = None


class ApplicationCredentialMethod(Struct, frozen=True, kw_only=True):
    secret: str
    id: Ref | None = None
    name: Ref | None = None
    user: OwnerRef | None = None


class TrustRef(Struct, frozen=True, kw_only=True):
    id: Ref


class RoleRef(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A role to be delegated: by id or by name."""

    id: Id | None = None
    name: LongName | None = None

    def named(self, field: str) -> tuple[str | None, str | None]:
        if (self.id is None) == (self.name is None):
            raise Invalid(f"Field '{field}': each role needs an id or a name, and not both.")
        return self.id, self.name


class TotpUserRef(Struct, frozen=True, kw_only=True):
    passcode: Annotated[str, Meta(max_length=64)]
    id: Ref | None = None
    name: Ref | None = None
    domain: DomainRef | None = None


class TotpMethod(Struct, frozen=True, kw_only=True):
    user: TotpUserRef


class SystemRef(Struct, frozen=True, kw_only=True):
    all: bool


class IdentityRef(Struct, frozen=True, kw_only=True):
    methods: Annotated[list[str], Meta(min_length=1, max_length=8)]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    totp: TotpMethod | None = None
    application_credential: ApplicationCredentialMethod | None = None
    oauth1: dict[str, Any] | None = None


class ScopeRef(Struct, frozen=True, kw_only=True):
    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None
    trust: TrustRef | None = field(default=None, name="OS-TRUST:trust")
    unscoped: Any = UNSET


class Auth(Struct, frozen=True, kw_only=True):
    identity: IdentityRef
    scope: ScopeRef | Literal["unscoped"] | None = None


class AuthBody(Struct, frozen=True):
    auth: Auth


def read(
    document: dict[str, Any], kind: type[W], what: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A body as (changes of known fields, other attributes). Invalid names the field and the reason."""
    known = set(kind.__struct_fields__)
    try:
        wish = msgspec.convert({k: v for k, v in document.items() if k in known}, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"Invalid input for {what}: {error}") from error
    extra = {k: v for k, v in document.items() if k not in known and k not in _OURS}
    if len(msgspec.json.encode(extra)) > EXTRA_BYTES_MAX:
        raise Invalid(f"The {what}'s other attributes may have at most {EXTRA_BYTES_MAX} bytes.")
    changes = said(wish)
    if changes.get("description", "") is None:
        changes["description"] = ""
    options = changes.get("options")
    if isinstance(options, Options):
        changes["is_immutable"] = bool(options.immutable)
        del changes["options"]
    if isinstance(options, UserOptions):
        changes["options"] = options.given()
    return changes, extra


def require_name(changes: dict[str, Any], what: str) -> None:
    """Invalid when a new thing has no name."""
    if "name" not in changes:
        raise Invalid(f"Invalid input for {what}: 'name' is a required property")
