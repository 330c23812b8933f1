"""Unified limits over HTTP: /v3/registered_limits and /v3/limits."""

from collections.abc import Sequence
from typing import Any

import msgspec

from cairn.core.errors import NotFound
from cairn.core.limits import Limits
from cairn.db.engine import Tx
from cairn.http.bodies import said
from cairn.http.call import Call
from cairn.http.routes import Route, tells
from cairn.identity import limits, store
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.lists import listed_things
from cairn.identity.catalog.shapes import (
    ChangedLimitBody,
    ChangedRegisteredLimitBody,
    NewLimitsBody,
    NewRegisteredLimitsBody,
)
from cairn.identity.limit_store import RegisteredLimit
from cairn.identity.limits import Ours, UnifiedLimit, Wish
from cairn.identity.listing import link

MODEL = {
    "name": "flat",
    "description": (
        "The limit of a project is its own, or else the registered default; the projects above it "
        "do not count."
    ),
}
_PLACE = ("service_id", "region_id", "resource_name")


class LimitRoutes:
    def __init__(self, own: Own, tables: Sequence[Limits]) -> None:
        self._ours = Ours(own=own, tables=tables)

    def routes(self) -> tuple[Route, ...]:
        registered, limits_ = "/v3/registered_limits", "/v3/limits"
        one, limit = f"{registered}/{{registered_limit_id}}", f"{limits_}/{{limit_id}}"
        return (
            Route(method="GET", path=registered, rule="identity:list_registered_limits",
                  do=self._list_registered),
            Route(method="POST", path=registered, rule="identity:create_registered_limits",
                  do=self._register, body=NewRegisteredLimitsBody, status=201),
            Route(method="GET", path=one, rule="identity:get_registered_limit",
                  do=self._get_registered),
            Route(method="PATCH", path=one, rule="identity:update_registered_limit",
                  do=self._update_registered, body=ChangedRegisteredLimitBody),
            Route(method="DELETE", path=one, rule="identity:delete_registered_limit",
                  do=self._unregister, status=204),
            Route(method="GET", path=limits_, rule="identity:list_limits", do=self._list),
            Route(method="POST", path=limits_, rule="identity:create_limits", do=self._create,
                  body=NewLimitsBody, status=201),
            Route(method="GET", path=f"{limits_}/model", rule="identity:get_limit_model",
                  do=get_model),
            Route(method="GET", path=limit, rule="identity:get_limit", do=self._get,
                  target=self._target),
            Route(method="PATCH", path=limit, rule="identity:update_limit", do=self._update,
                  body=ChangedLimitBody),
            Route(method="DELETE", path=limit, rule="identity:delete_limit", do=self._delete,
                  status=204),
        )  # fmt: skip

    # --- registered ------------------------------------------------------------------------------------

    def _list_registered(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = limits.all_registered(tx, self._ours).values()
        return listed_things(
            call, "registered_limits", [show_registered(call, one) for one in found], _PLACE
        )

    def _register(self, tx: Tx, call: Call[NewRegisteredLimitsBody]) -> dict[str, Any]:
        new = [
            RegisteredLimit(id=tx.new_hex_id(), **msgspec.structs.asdict(asked))
            for asked in call.body.registered_limits
        ]
        made = limits.register(tx, self._ours, new)
        return {"registered_limits": [show_registered(call, one) for one in made]}

    def _get_registered(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = limits.registered(tx, self._ours, call.path["registered_limit_id"])
        return {"registered_limit": show_registered(call, found)}

    def _update_registered(self, tx: Tx, call: Call[ChangedRegisteredLimitBody]) -> dict[str, Any]:
        new = limits.update_registered(
            tx,
            self._ours,
            call.path["registered_limit_id"],
            said(call.body.registered_limit),
        )
        return {"registered_limit": show_registered(call, new)}

    def _unregister(self, tx: Tx, call: Call[None]) -> None:
        limits.unregister(tx, self._ours, call.path["registered_limit_id"])

    # --- of projects and domains -----------------------------------------------------------------------

    def _list(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        names = (*_PLACE, "project_id", "domain_id")
        shown = [show_limit(call, one) for one in self._visible(tx, call)]
        return listed_things(call, "limits", shown, names)

    def _visible(self, tx: Tx, call: Call[None]) -> list[UnifiedLimit]:
        """All of them for operators and services; those of its domain or project for any other token."""
        who = call.who
        if who.is_system or who.is_admin or "service" in who.roles:
            return limits.all_limits(tx, self._ours)
        if who.scope_domain_id is not None:
            columns = store.projects.c
            own = store.PROJECTS.page(
                tx, [columns.domain_id == who.scope_domain_id], limit=limits.ROWS_MAX
            )
            return limits.all_limits(
                tx,
                self._ours,
                project_ids=[project.id for project in own],
                domain_id=who.scope_domain_id,
            )
        return limits.all_limits(
            tx, self._ours, project_ids=[who.project_id] if who.project_id else []
        )

    def _create(self, tx: Tx, call: Call[NewLimitsBody]) -> dict[str, Any]:
        wishes = [Wish(**msgspec.structs.asdict(asked)) for asked in call.body.limits]
        made = limits.create_limits(tx, self._ours, wishes)
        return {"limits": [show_limit(call, one) for one in made]}

    def _get(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = limits.limit(tx, self._ours, call.path["limit_id"])
        return {"limit": show_limit(call, found)}

    def _update(self, tx: Tx, call: Call[ChangedLimitBody]) -> dict[str, Any]:
        new = limits.update_limit(tx, self._ours, call.path["limit_id"], said(call.body.limit))
        return {"limit": show_limit(call, new)}

    def _delete(self, tx: Tx, call: Call[None]) -> None:
        limits.delete_limit(tx, self._ours, call.path["limit_id"])

    @tells("target.limit.domain.id", "target.limit.project_id", "target.limit.project.domain_id")
    def _target(self, tx: Tx, call: Call[Any]) -> dict[str, str | None]:
        try:
            found = limits.limit(tx, self._ours, call.path["limit_id"])
        except NotFound:
            return {}
        if found.project_id is None:
            return {"target.limit.domain.id": found.domain_id}
        project = store.PROJECTS.get(tx, found.project_id)
        return {
            "target.limit.project_id": found.project_id,
            "target.limit.project.domain_id": project.domain_id if project else None,
        }


def get_model(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"model": MODEL}


def show_registered(call: Call[Any], one: RegisteredLimit) -> dict[str, Any]:
    return {
        "id": one.id,
        "service_id": one.service_id,
        "region_id": one.region_id,
        "resource_name": one.resource_name,
        "default_limit": one.default_limit,
        "description": one.description,
        "links": link(call, f"registered_limits/{one.id}"),
    }


def show_limit(call: Call[Any], one: UnifiedLimit) -> dict[str, Any]:
    return {
        "id": one.id,
        "project_id": one.project_id,
        "domain_id": one.domain_id,
        "service_id": one.registered.service_id,
        "region_id": one.registered.region_id,
        "resource_name": one.registered.resource_name,
        "resource_limit": one.resource_limit,
        "description": one.description,
        "links": link(call, f"limits/{one.id}"),
    }
