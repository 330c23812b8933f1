"""Discovery and the catalog over HTTP: what there is, and where. Regions, services and endpoints."""

from typing import Any

import msgspec
from msgspec import UNSET

from cairn.core.errors import Invalid
from cairn.db.engine import Database, Tx
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity.catalog import catalog, endpoints, regions
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.lists import listed_things
from cairn.identity.catalog.memory import CatalogMemory
from cairn.identity.catalog.records import (
    INTERFACES,
    Catalog,
    CatalogEndpoint,
    CatalogService,
    Region,
)
from cairn.identity.catalog.shapes import (
    EndpointBody,
    EndpointWish,
    RegionBody,
    RegionId,
    RegionWish,
    ServiceBody,
    ServiceWish,
)
from cairn.identity.listing import link, listed
from cairn.identity.shapes import read


class CatalogRoutes:
    """Those that show a token's catalog are `run`: the copy in memory belongs to the event loop's thread."""

    def __init__(self, own: Own, memory: CatalogMemory) -> None:
        self._own = own
        self._memory = memory

    def routes(self) -> tuple[Route, ...]:
        region, service = "/v3/regions/{region_id}", "/v3/services/{service_id}"
        endpoint = "/v3/endpoints/{endpoint_id}"
        return (
            Route(method="GET", path="/", rule=None, do=versions, status=300),
            Route(method="GET", path="/v3", rule=None, do=version),
            Route(method="GET", path="/v3/auth/catalog", rule="identity:signed_in",
                  run=self._show_catalog),
            Route(method="GET", path="/v3/regions", rule="identity:list_regions",
                  do=self._list_regions),
            Route(method="POST", path="/v3/regions", rule="identity:create_region",
                  do=self._create_region, body=RegionBody, status=201),
            Route(method="GET", path=region, rule="identity:get_region", do=self._show_region),
            Route(method="PUT", path=region, rule="identity:create_region",
                  do=self._put_region, body=RegionBody, status=201),
            Route(method="PATCH", path=region, rule="identity:update_region",
                  do=self._update_region, body=RegionBody),
            Route(method="DELETE", path=region, rule="identity:delete_region",
                  do=self._delete_region, status=204),
            Route(method="GET", path="/v3/services", rule="identity:list_services",
                  do=self._list_services),
            Route(method="POST", path="/v3/services", rule="identity:create_service",
                  do=self._create_service, body=ServiceBody, status=201),
            Route(method="GET", path=service, rule="identity:get_service", do=self._show_service),
            Route(method="PATCH", path=service, rule="identity:update_service",
                  do=self._update_service, body=ServiceBody),
            Route(method="DELETE", path=service, rule="identity:delete_service",
                  do=self._delete_service, status=204),
            Route(method="GET", path="/v3/endpoints", rule="identity:list_endpoints",
                  do=self._list_endpoints),
            Route(method="POST", path="/v3/endpoints", rule="identity:create_endpoint",
                  do=self._create_endpoint, body=EndpointBody, status=201),
            Route(method="GET", path=endpoint, rule="identity:get_endpoint",
                  do=self._show_endpoint),
            Route(method="PATCH", path=endpoint, rule="identity:update_endpoint",
                  do=self._update_endpoint, body=EndpointBody),
            Route(method="DELETE", path=endpoint, rule="identity:delete_endpoint",
                  do=self._delete_endpoint, status=204),
        )  # fmt: skip

    def shown(
        self, call: Call[Any], *, project_id: str | None = None, user_id: str | None = None
    ) -> list[dict[str, Any]]:
        """The catalog as a token of this project and user carries it. On the event loop only."""
        return self._memory.shown(call.base_url, project_id=project_id, user_id=user_id)

    async def _show_catalog(self, database: Database, call: Call[None]) -> dict[str, Any]:
        who = call.who
        return listed(
            call, "catalog", self.shown(call, project_id=who.project_id, user_id=who.user_id)
        )

    def _whole(self, tx: Tx, call: Call[Any]) -> Catalog:
        return catalog.whole(self._own, catalog_store.entries(tx), call.base_url)

    # --- regions ---------------------------------------------------------------------------------------

    def _list_regions(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = [show_region(call, r) for r in self._whole(tx, call).regions.values()]
        return listed_things(call, "regions", found, ("parent_region_id", "description"))

    def _show_region(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = regions.region(self._whole(tx, call), call.path["region_id"])
        return {"region": show_region(call, found)}

    def _create_region(self, tx: Tx, call: Call[RegionBody]) -> dict[str, Any]:
        return self._new_region(tx, call, call.body.region.get("id") or tx.new_hex_id())

    def _put_region(self, tx: Tx, call: Call[RegionBody]) -> dict[str, Any]:
        in_body, in_path = call.body.region.get("id"), call.path["region_id"]
        if in_body is not None and in_body != in_path:
            raise Invalid(
                f'Conflicting region IDs specified: "{in_path[:255]}" != "{str(in_body)[:255]}"'
            )
        return self._new_region(tx, call, in_path)

    def _new_region(self, tx: Tx, call: Call[RegionBody], region_id: Any) -> dict[str, Any]:
        changes, extra = read(call.body.region, RegionWish, "region")
        new = Region(id=_checked_id(region_id), **changes, extra=extra)
        return {"region": show_region(call, regions.create_region(tx, self._own, new))}

    def _update_region(self, tx: Tx, call: Call[RegionBody]) -> dict[str, Any]:
        region_id = call.path["region_id"]
        changes, extra = _changes(call.body.region, RegionWish, "region", region_id)
        old = regions.region(self._whole(tx, call), region_id)
        changes["extra"] = {**old.extra, **extra}
        new = regions.update_region(tx, self._own, region_id, changes)
        return {"region": show_region(call, new)}

    def _delete_region(self, tx: Tx, call: Call[None]) -> None:
        regions.delete_region(tx, self._own, call.path["region_id"])

    # --- services --------------------------------------------------------------------------------------

    def _list_services(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = [show_service(call, s) for s in self._whole(tx, call).services.values()]
        return listed_things(call, "services", found, ("type", "name"))

    def _show_service(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = endpoints.service(self._whole(tx, call), call.path["service_id"])
        return {"service": show_service(call, found)}

    def _create_service(self, tx: Tx, call: Call[ServiceBody]) -> dict[str, Any]:
        changes, extra = _wishes(call.body.service, ServiceWish, "service", ("description",))
        _require(changes, "service", ("type",))
        new = CatalogService(id=tx.new_hex_id(), **changes, extra=extra)
        return {"service": show_service(call, endpoints.create_service(tx, new))}

    def _update_service(self, tx: Tx, call: Call[ServiceBody]) -> dict[str, Any]:
        service_id = call.path["service_id"]
        changes, extra = _changes(
            call.body.service, ServiceWish, "service", service_id, ("description",)
        )
        old = endpoints.service(self._whole(tx, call), service_id)
        changes["extra"] = {**old.extra, **extra}
        new = endpoints.update_service(tx, self._own, service_id, changes)
        return {"service": show_service(call, new)}

    def _delete_service(self, tx: Tx, call: Call[None]) -> None:
        endpoints.delete_service(tx, self._own, call.path["service_id"])

    # --- endpoints -------------------------------------------------------------------------------------

    def _list_endpoints(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        if (interface := call.query.get("interface")) not in (None, *INTERFACES):
            raise Invalid(
                f"Query parameter 'interface' must be one of {', '.join(INTERFACES)}, "
                f"not '{interface}'."
            )
        found = [show_endpoint(call, e) for e in self._whole(tx, call).endpoints.values()]
        names = ("interface", "service_id", "region_id", "region")
        return listed_things(call, "endpoints", found, names)

    def _show_endpoint(self, tx: Tx, call: Call[Any]) -> dict[str, Any]:
        found = endpoints.endpoint(self._whole(tx, call), call.path["endpoint_id"])
        return {"endpoint": show_endpoint(call, found)}

    def _create_endpoint(self, tx: Tx, call: Call[EndpointBody]) -> dict[str, Any]:
        changes, extra = _wishes(
            call.body.endpoint, EndpointWish, "endpoint", ("name", "description")
        )
        _require(changes, "endpoint", ("interface", "service_id", "url"))
        legacy = changes.pop("region", None)
        changes.setdefault("region_id", None)
        new = CatalogEndpoint(id=tx.new_hex_id(), **changes, extra=extra)
        made = endpoints.create_endpoint(tx, self._own, new, legacy_region=legacy)
        return {"endpoint": show_endpoint(call, made)}

    def _update_endpoint(self, tx: Tx, call: Call[EndpointBody]) -> dict[str, Any]:
        endpoint_id = call.path["endpoint_id"]
        changes, extra = _changes(
            call.body.endpoint, EndpointWish, "endpoint", endpoint_id, ("name", "description")
        )
        legacy = changes.pop("region", None)
        old = endpoints.endpoint(self._whole(tx, call), endpoint_id)
        changes["extra"] = {**old.extra, **extra}
        endpoints.update_endpoint(tx, self._own, endpoint_id, changes, legacy_region=legacy)
        return self._show_endpoint(tx, call)

    def _delete_endpoint(self, tx: Tx, call: Call[None]) -> None:
        endpoints.delete_endpoint(tx, self._own, call.path["endpoint_id"])


def versions(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"versions": {"values": [_show_version(call)]}}


def version(tx: Tx, call: Call[None]) -> Reply:
    return Reply(body={"version": _show_version(call)}, headers={"Vary": "X-Auth-Token"})


def _show_version(call: Call[None]) -> dict[str, Any]:
    media = "application/vnd.openstack.identity-v3+json"
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [{"rel": "self", "href": f"{call.base_url}/identity/v3/"}],
        "media-types": [{"base": "application/json", "type": media}],
    }


def show_region(call: Call[Any], region: Region) -> dict[str, Any]:
    return {
        **region.extra,
        "id": region.id,
        "description": region.description,
        "parent_region_id": region.parent_region_id,
        "links": link(call, f"regions/{region.id}"),
    }


def show_service(call: Call[Any], service: CatalogService) -> dict[str, Any]:
    return {
        **service.extra,
        "id": service.id,
        "type": service.type,
        "name": service.name,
        "enabled": service.enabled,
        "links": link(call, f"services/{service.id}"),
    }


def show_endpoint(call: Call[Any], endpoint: CatalogEndpoint) -> dict[str, Any]:
    return {
        **endpoint.extra,
        "id": endpoint.id,
        "interface": endpoint.interface,
        "region": endpoint.region_id,
        "region_id": endpoint.region_id,
        "service_id": endpoint.service_id,
        "url": endpoint.url,
        "enabled": endpoint.enabled,
        "links": link(call, f"endpoints/{endpoint.id}"),
    }


def _wishes(
    document: dict[str, Any], kind: Any, what: str, to_extra: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Changes of known fields and other attributes; `to_extra`: known fields that are kept as the latter."""
    changes, extra = read(document, kind, what)
    for name in to_extra:
        if name in changes:
            extra[name] = changes.pop(name)
    return changes, extra


def _changes(
    document: dict[str, Any], kind: Any, what: str, id_: str, to_extra: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    if not document:
        raise Invalid(f"Invalid input for {what}: there must be at least one attribute.")
    if document.get("id", id_) != id_:
        raise Invalid(f"Cannot change {what} ID")
    return _wishes(document, kind, what, to_extra)


def _require(changes: dict[str, Any], what: str, names: tuple[str, ...]) -> None:
    for name in names:
        if changes.get(name, UNSET) is UNSET:
            raise Invalid(f"Invalid input for {what}: '{name}' is a required property")


def _checked_id(region_id: Any) -> str:
    try:
        return str(msgspec.convert(region_id, RegionId))
    except msgspec.ValidationError as error:
        raise Invalid(f"Invalid input for region: id: {error}") from error
