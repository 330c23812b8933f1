"""Quotas over HTTP. Only what a project differs in is stored; defaults are the service's own."""

from typing import Any

from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.network.api.resource import Shown, part
from cairn.network.service import quotas


def _of_project(tx: Tx, call: Call[Any]) -> Shown:
    return {"quota": quotas.limits(tx, call.who, call.path["project_id"])}


def _list(tx: Tx, call: Call[Any]) -> Shown:
    return {
        "quotas": [
            {"project_id": project_id, "tenant_id": project_id, **limits}
            for project_id, limits in quotas.changed_projects(tx)
        ]
    }


def _details(tx: Tx, call: Call[Any]) -> Shown:
    return {"quota": quotas.details(tx, call.who, call.path["project_id"])}


def _defaults(tx: Tx, call: Call[Any]) -> Shown:
    return {"quota": quotas.defaults(tx)}


def _own_project(tx: Tx, call: Call[Any]) -> Shown:
    """Older clients ask here whose quotas they would see."""
    project_id = call.who.project_id
    if project_id is None:
        raise Invalid("HTTPBadRequest: The token has no project.")
    return {"tenant": {"tenant_id": project_id, "project_id": project_id}}


def _change(tx: Tx, call: Call[Any]) -> Shown:
    wanted = dict(part(call.body, "quota"))
    for name in ("tenant_id", "project_id", "force", "check_limit"):
        wanted.pop(name, None)
    return {"quota": quotas.change(tx, call.path["project_id"], wanted)}


def _reset(tx: Tx, call: Call[Any]) -> None:
    quotas.reset(tx, call.path["project_id"])


_ONE = "/v2.0/quotas/{project_id}"

ROUTES = (
    Route(method="GET", path="/v2.0/quotas", rule="get_quotas", do=_list),
    Route(method="GET", path="/v2.0/quotas/tenant", rule="get_quota", do=_own_project),
    Route(method="GET", path=_ONE, rule="get_quota", do=_of_project),
    Route(method="GET", path=f"{_ONE}/default", rule="get_quota", do=_defaults),
    Route(method="GET", path=f"{_ONE}/details", rule="get_quota", do=_details),
    Route(method="PUT", path=_ONE, rule="update_quota", do=_change, body=object),
    Route(method="DELETE", path=_ONE, rule="delete_quota", do=_reset, status=204),
)
