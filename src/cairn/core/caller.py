"""Who asks: the result of authentication, as every verb receives it."""

from msgspec import Struct

from cairn.core.ids import DomainId, ProjectId, RequestId, UserId


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

    @property
    def reach(self) -> ProjectId | None:
        """The project whose things may be seen; None is every project. Stores filter by it."""
        return None if self.is_admin else (self.project_id or ProjectId("-"))

    @property
    def home(self) -> ProjectId:
        """The project that new things belong to. Callers without one may not create (policy sees to it)."""
        assert self.project_id is not None, (
            "policy admits only project-scoped callers to this route"
        )
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
