"""Limits and their use in the operator's API: those of every slice for a project, in one table.

The rows are the services' own quotas: what is set here is what Nova, Cinder, Neutron and Glance show.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from cairn import slices
from cairn.core.errors import Conflict, Invalid, NotFound
from cairn.core.ids import ProjectId
from cairn.core.limits import Limit
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import quotas, store

POLICY: Mapping[str, str] = {
    "cairn:quotas:get": "rule:admin or (role:reader and system_scope:all)",
    "cairn:quotas:set": "rule:admin",
}

Maximum = Annotated[int, Meta(ge=-1, le=2**31 - 1)]
KNOWN: Mapping[str, Limit] = {
    limit.name: limit for counted in slices.COUNTED for limit in counted.limits.working
}


class Project(Struct, frozen=True, kw_only=True):
    id: ProjectId
    name: str


class SetQuotas(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits by name; null goes back to the default."""

    quotas: Annotated[dict[str, Maximum | None], Meta(min_length=1, max_length=100)]


def show_defaults(tx: Tx, call: Call[None]) -> dict[str, Any]:
    changed = quotas.changed_defaults(tx)
    return {
        "quotas": [
            {
                "service": counted.limits.service,
                "name": limit.name,
                "unit": limit.unit,
                "default": changed[limit.name].maximum if limit.name in changed else limit.default,
                "built_in": limit.default,
            }
            for counted in slices.COUNTED
            for limit in counted.limits.working
        ]
    }


def set_defaults(tx: Tx, call: Call[SetQuotas]) -> dict[str, Any]:
    for name, maximum in _known(call.body).items():
        if maximum is None:
            quotas.reset_defaults(tx, (name,))
        else:
            quotas.set_default(tx, name, maximum)
    return show_defaults(tx, call)  # type: ignore[arg-type]


def show_project(tx: Tx, call: Call[Any]) -> dict[str, Any]:
    """Each limit with its use; null where it is not of a whole project, but of one server, user or volume."""
    project = _project(tx, call.path["project"])
    own = {row.name for row in quotas.rows_of(tx, project_ids=[project.id])}
    shown = []
    for counted in slices.COUNTED:
        allowed = quotas.limits_of(tx, project.id, counted.limits)
        defaults = quotas.defaults_of(tx, counted.limits)
        used = counted.used(tx, project.id)
        shown += [
            {
                "service": counted.limits.service,
                "name": limit.name,
                "unit": limit.unit,
                "limit": allowed[limit.name],
                "default": defaults[limit.name],
                "is_own": limit.name in own,
                "used": used.get(limit.name),
            }
            for limit in counted.limits.working
        ]
    return {"project": {"id": project.id, "name": project.name}, "quotas": shown}


def set_project(tx: Tx, call: Call[SetQuotas]) -> dict[str, Any]:
    project = _project(tx, call.path["project"])
    for name, maximum in _known(call.body).items():
        if maximum is None:
            quotas.reset_limits(tx, project.id, (name,))
        else:
            quotas.set_limit(tx, project.id, name, maximum)
    return show_project(tx, call)


def _known(body: SetQuotas) -> Mapping[str, int | None]:
    for name in body.quotas:
        if name not in KNOWN:
            raise Invalid(f"There is no limit '{name[:64]}'; there are {', '.join(sorted(KNOWN))}.")
    return body.quotas


def _project(tx: Tx, id_or_name: str) -> Project:
    """By id, else by name. Raises NotFound; Conflict: several have this name, in several domains."""
    found = store.PROJECTS.get(tx, id_or_name)
    if found is None:
        named = store.PROJECTS.page(tx, [store.projects.c.name == id_or_name], limit=2)
        if len(named) > 1:
            raise Conflict(
                f"There are projects '{id_or_name}' in several domains: give the project's id."
            )
        if not named:
            raise NotFound(f"There is no project '{id_or_name[:64]}'.")
        found = named[0]
    return Project(id=found.id, name=found.name)


_ALL, _ONE = "/cairn/v1/quotas", "/cairn/v1/quotas/{project}"
ROUTES = (
    Route(method="GET", path=_ALL, rule="cairn:quotas:get", do=show_defaults),
    Route(method="PUT", path=_ALL, rule="cairn:quotas:set", do=set_defaults, body=SetQuotas),
    Route(method="GET", path=_ONE, rule="cairn:quotas:get", do=show_project),
    Route(method="PUT", path=_ONE, rule="cairn:quotas:set", do=set_project, body=SetQuotas),
)
