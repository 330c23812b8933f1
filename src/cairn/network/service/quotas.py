"""How many of each thing a project may have, as the API shows and changes it."""

from msgspec import Struct

from cairn.core.caller import Caller
from cairn.core.errors import Denied, Invalid
from cairn.core.ids import ProjectId
from cairn.db.engine import Tx
from cairn.identity import service as identity
from cairn.network.records import LIMITS
from cairn.network.service.access import QUOTAS, used

LIMIT_MAX = 2**31 - 1


class Usage(Struct, frozen=True, kw_only=True):
    limit: int  # -1: none
    used: int
    reserved: int = 0  # requests count and add in one transaction: nothing is ever reserved


def defaults(tx: Tx) -> dict[str, int]:
    return identity.defaults_of(tx, LIMITS)


def limits(tx: Tx, who: Caller, project_id: str) -> dict[str, int]:
    """Raises Denied for another project's."""
    _require_own(who, project_id)
    return identity.limits_of(tx, ProjectId(project_id), LIMITS)


def details(tx: Tx, who: Caller, project_id: str) -> dict[str, Usage]:
    allowed = limits(tx, who, project_id)
    return {
        name: Usage(limit=allowed[name], used=used(tx, name, ProjectId(project_id)))
        for name in QUOTAS
    }


def change(tx: Tx, project_id: str, wanted: dict[str, object]) -> dict[str, int]:
    """Raises Invalid, naming the quota."""
    for name, value in wanted.items():
        if name not in QUOTAS:
            raise Invalid(f"HTTPBadRequest: Unrecognized attribute(s) '{name}'")
        number = _number(name, value)
        identity.set_limit(tx, ProjectId(project_id), name, number)
    return identity.limits_of(tx, ProjectId(project_id), LIMITS)


def reset(tx: Tx, project_id: str) -> None:
    identity.reset_limits(tx, ProjectId(project_id), tuple(QUOTAS))


def changed_projects(tx: Tx) -> list[tuple[str, dict[str, int]]]:
    """Projects that differ from the defaults, with all their limits."""
    found = identity.limits_by_project(tx, tuple(QUOTAS))
    default = defaults(tx)
    return [(project_id, default | changed) for project_id, changed in found.items()]


def counts(tx: Tx, project_id: ProjectId) -> dict[str, int]:
    """What the project has of all that is limited."""
    return {name: used(tx, name, project_id) for name in QUOTAS}


def _number(name: str, value: object) -> int:
    number = int(value) if isinstance(value, str) and value.removeprefix("-").isdecimal() else value
    if isinstance(number, bool) or not isinstance(number, int) or not -1 <= number <= LIMIT_MAX:
        raise Invalid(
            f"InvalidInput: Invalid input for {name}. Reason: '{str(value)[:40]}' is not a number of "
            f"-1 to {LIMIT_MAX}."
        )
    return number


def _require_own(who: Caller, project_id: str) -> None:
    if who.reach not in (None, project_id):
        raise Denied("PolicyNotAuthorized: Only an admin may see another project's quotas.")
