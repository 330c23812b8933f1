"""Which endpoints projects are shown, over HTTP: /v3/OS-EP-FILTER/..."""

from typing import Any

from msgspec import UNSET, UnsetType

from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.http.bodies import said
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import store
from cairn.identity.api_places import show_projects
from cairn.identity.catalog import endpoint_groups, endpoints
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.api_catalog import show_endpoint
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.lists import listed_things
from cairn.identity.catalog.records import EndpointGroup
from cairn.identity.catalog.regions import known
from cairn.identity.catalog.shapes import ChangedGroupBody, NewGroupBody
from cairn.identity.catalog.store import GROUPS
from cairn.identity.listing import link, listed


class EndpointGroupRoutes:
    def __init__(self, own: Own) -> None:
        self._own = own

    def routes(self) -> tuple[Route, ...]:
        groups = "/v3/OS-EP-FILTER/endpoint_groups"
        group = f"{groups}/{{endpoint_group_id}}"
        of_group = f"{group}/projects/{{project}}"
        project = "/v3/OS-EP-FILTER/projects/{project}"
        shown = f"{project}/endpoints/{{endpoint_id}}"
        return (
            Route(method="GET", path=groups, rule="identity:list_endpoint_groups", do=list_groups),
            Route(method="POST", path=groups, rule="identity:create_endpoint_group",
                  do=create_group, body=NewGroupBody, status=201),
            Route(method="GET", path=group, rule="identity:get_endpoint_group", do=get_group),
            Route(method="PATCH", path=group, rule="identity:update_endpoint_group",
                  do=update_group, body=ChangedGroupBody),
            Route(method="DELETE", path=group, rule="identity:delete_endpoint_group",
                  do=delete_group, status=204),
            Route(method="GET", path=f"{group}/endpoints",
                  rule="identity:list_endpoints_associated_with_endpoint_group",
                  do=self._endpoints_of_group),
            Route(method="GET", path=f"{group}/projects",
                  rule="identity:list_projects_associated_with_endpoint_group",
                  do=projects_of_group),
            Route(method="GET", path=of_group, rule="identity:get_endpoint_group_in_project",
                  do=get_group_in_project),
            Route(method="PUT", path=of_group, rule="identity:add_endpoint_group_to_project",
                  do=add_group_to_project, status=204),
            Route(method="DELETE", path=of_group,
                  rule="identity:remove_endpoint_group_from_project",
                  do=remove_group_from_project, status=204),
            Route(method="GET", path="/v3/OS-EP-FILTER/endpoints/{endpoint_id}/projects",
                  rule="identity:list_projects_for_endpoint", do=self._projects_of_endpoint),
            Route(method="GET", path=f"{project}/endpoints",
                  rule="identity:list_endpoints_for_project", do=self._endpoints_of_project),
            Route(method="GET", path=f"{project}/endpoint_groups",
                  rule="identity:list_endpoint_groups_for_project", do=groups_of_project),
            Route(method="GET", path=shown, rule="identity:check_endpoint_in_project",
                  do=self._check_endpoint, status=204),
            Route(method="PUT", path=shown, rule="identity:add_endpoint_to_project",
                  do=self._add_endpoint, status=204),
            Route(method="DELETE", path=shown, rule="identity:remove_endpoint_from_project",
                  do=remove_endpoint, status=204),
        )  # fmt: skip

    def _endpoints_of_group(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = endpoint_groups.endpoints_of_group(
            tx, self._own, call.path["endpoint_group_id"], call.base_url
        )
        return listed(call, "endpoints", [show_endpoint(call, e) for e in found])

    def _endpoints_of_project(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = endpoint_groups.endpoints_of_project(
            tx, self._own, call.path["project"], call.base_url
        )
        return listed(call, "endpoints", [show_endpoint(call, e) for e in found])

    def _projects_of_endpoint(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = endpoints.endpoint(known(tx, self._own), call.path["endpoint_id"])
        return _projects(tx, call, catalog_store.projects_shown(tx, endpoint_id=found.id))

    def _check_endpoint(self, tx: Tx, call: Call[None]) -> None:
        endpoint_groups.require_endpoint_shown(
            tx, self._own, call.path["project"], call.path["endpoint_id"]
        )

    def _add_endpoint(self, tx: Tx, call: Call[None]) -> None:
        endpoint_groups.show_endpoint(tx, self._own, call.path["project"], call.path["endpoint_id"])


def list_groups(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = [show_group(call, g) for g in GROUPS.page(tx, limit=catalog_store.ROWS_MAX)]
    return listed_things(call, "endpoint_groups", found, ("name",))


def create_group(tx: Tx, call: Call[NewGroupBody]) -> dict[str, Any]:
    asked = call.body.endpoint_group
    filters = said(asked.filters)
    if not filters:
        raise Invalid("Invalid input for endpoint_group: filters field cannot be empty.")
    new = EndpointGroup(
        id=tx.new_hex_id(), name=asked.name, description=asked.description, filters=filters
    )
    return {"endpoint_group": show_group(call, endpoint_groups.create_group(tx, new))}


def get_group(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = endpoint_groups.group(tx, call.path["endpoint_group_id"])
    return {"endpoint_group": show_group(call, found)}


def update_group(tx: Tx, call: Call[ChangedGroupBody]) -> dict[str, Any]:
    asked, group_id = call.body.endpoint_group, call.path["endpoint_group_id"]
    if asked.id not in (UNSET, group_id):
        raise Invalid("Cannot change endpoint_group ID")
    changes = said(asked, "name", "description")
    if not isinstance(asked.filters, UnsetType):
        changes["filters"] = said(asked.filters)
    if not changes:
        raise Invalid("Invalid input for endpoint_group: there must be at least one attribute.")
    new = endpoint_groups.update_group(tx, group_id, changes)
    return {"endpoint_group": show_group(call, new)}


def delete_group(tx: Tx, call: Call[None]) -> None:
    endpoint_groups.delete_group(tx, call.path["endpoint_group_id"])


def projects_of_group(tx: Tx, call: Call[None]) -> dict[str, Any]:
    group = endpoint_groups.group(tx, call.path["endpoint_group_id"])
    return _projects(tx, call, catalog_store.projects_shown(tx, group_id=group.id))


def get_group_in_project(tx: Tx, call: Call[None]) -> dict[str, Any]:
    group_id, project_id = call.path["endpoint_group_id"], call.path["project"]
    endpoint_groups.require_group_shown(tx, project_id, group_id)
    path = f"OS-EP-FILTER/endpoint_groups/{group_id}/projects/{project_id}"
    return {
        "project_endpoint_group": {
            "endpoint_group_id": group_id,
            "project_id": project_id,
            "links": link(call, path),
        }
    }


def add_group_to_project(tx: Tx, call: Call[None]) -> None:
    endpoint_groups.show_group(tx, call.path["project"], call.path["endpoint_group_id"])


def remove_group_from_project(tx: Tx, call: Call[None]) -> None:
    endpoint_groups.hide_group(tx, call.path["project"], call.path["endpoint_group_id"])


def groups_of_project(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = endpoint_groups.groups_of_project(tx, call.path["project"])
    return listed(call, "endpoint_groups", [show_group(call, g) for g in found])


def remove_endpoint(tx: Tx, call: Call[None]) -> None:
    endpoint_groups.hide_endpoint(tx, call.path["project"], call.path["endpoint_id"])


def show_group(call: Call[Any], group: EndpointGroup) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "description": group.description,
        "filters": group.filters,
        "links": link(call, f"OS-EP-FILTER/endpoint_groups/{group.id}"),
    }


def _projects(tx: Tx, call: Call[None], project_ids: list[str]) -> dict[str, Any]:
    found = store.PROJECTS.many(tx, project_ids)
    shown = [found[id_] for id_ in project_ids if id_ in found]
    return listed(call, "projects", show_projects(tx, call, shown))
