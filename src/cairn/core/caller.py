"""Who asks: the result of authentication, as every verb receives it."""

from msgspec import Struct

from cairn.core.errors import Denied
from cairn.core.ids import DomainId, ProjectId, RequestId, UserId


class AccessRule(Struct, frozen=True, array_like=True):
    """One kind of request that a narrowed token may make (api-ref, Identity v3, access rules)."""

    service: str  # its type in the catalog: "compute"
    method: str  # "GET"
    path: str  # below the service's root: "/v2.1/servers/{id}"; "*" is one part, "**" any number


class Delegation(Struct, frozen=True, array_like=True):
    """On whose behalf, and how far, somebody acts who did not sign in as themselves."""

    kind: str  # "application_credential", "trust" or "oauth1"
    id: str
    owner_id: UserId  # who delegated: what voids their tokens voids this one
    actor_id: str = ""  # who acts: a trust's trustee, a consumer of OAuth
    may_delegate: bool = False  # whether it may make more of its kind
    access_rules: tuple[AccessRule, ...] | None = None  # None: everything that the roles allow
    hangs_on: tuple[str, ...] = ()  # further subjects of revocation: what voids them voids this one


class Caller(Struct, frozen=True, kw_only=True):
    """One authenticated request's origin.

    At most one of `project_id`, `scope_domain_id` and `is_system` is set: the token's scope. `roles` are
    role names with implied ones included. `is_admin` is decided once, when the token is checked.
    """

    user_id: UserId
    user_domain_id: DomainId = DomainId("default")
    project_id: ProjectId | None = None
    project_domain_id: DomainId | None = None
    scope_domain_id: DomainId | None = None
    is_system: bool = False
    roles: frozenset[str] = frozenset()
    is_admin: bool = False
    request_id: RequestId = RequestId("")
    audit_id: str = ""
    delegation: Delegation | None = None
    group_ids: tuple[str, ...] = ()  # that an identity provider vouches for, for this session

    @property
    def reach(self) -> ProjectId | None:
        """The project whose things may be seen; None is every project. Stores filter by it."""
        return None if self.is_admin else (self.project_id or ProjectId("-"))

    @property
    def home(self) -> ProjectId:
        """The project that new things belong to. Denied to those who are scoped to none: administrators of
        the whole system pass policies, and still there is no project to make a thing in."""
        if self.project_id is None:
            raise Denied("This needs a token that is scoped to a project.")
        return self.project_id


def system_caller(request_id: str = "") -> Caller:
    """Cairn itself, when a reconciler needs a verb."""
    return Caller(
        user_id=UserId("cairn"),
        is_system=True,
        roles=frozenset({"admin", "manager", "member", "reader", "service"}),
        is_admin=True,
        request_id=RequestId(request_id),
    )
