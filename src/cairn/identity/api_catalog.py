"""Discovery and the catalog over HTTP: what there is, and where.

Read only, for it follows from what is mounted.
"""

from collections.abc import Callable, Sequence
from typing import Any

from cairn.core.errors import NotFound
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Reply, Route
from cairn.identity.catalog import Endpoint, Entry, endpoints_of
from cairn.identity.listing import link, listed


class CatalogRoutes:
    def __init__(self, entries: Callable[[], Sequence[Entry]], region: str) -> None:
        # A function: identity itself is one of the services that the entries are made from.
        self._entries = entries
        self._region = region

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(method="GET", path="/", rule=None, do=versions, status=300),
            Route(method="GET", path="/v3", rule=None, do=version),
            Route(method="GET", path="/v3/services", rule="identity:list_services",
                  do=self._list_services),
            Route(method="GET", path="/v3/services/{service_id}", rule="identity:get_service",
                  do=self._show_service),
            Route(method="GET", path="/v3/endpoints", rule="identity:list_endpoints",
                  do=self._list_endpoints),
            Route(method="GET", path="/v3/endpoints/{endpoint_id}", rule="identity:get_endpoint",
                  do=self._show_endpoint),
            Route(method="GET", path="/v3/regions", rule="identity:list_regions",
                  do=self._list_regions),
            Route(method="GET", path="/v3/regions/{region_id}", rule="identity:get_region",
                  do=self._show_region),
        )  # fmt: skip

    def shown(self, call: Call[Any]) -> list[dict[str, Any]]:
        """The catalog as tokens carry it."""
        endpoints: dict[str, list[dict[str, str]]] = {}
        for endpoint in self._endpoints(call):
            endpoints.setdefault(endpoint.entry.id, []).append(
                {
                    "id": endpoint.id,
                    "interface": endpoint.interface,
                    "region": endpoint.region,
                    "region_id": endpoint.region,
                    "url": endpoint.url,
                }
            )
        return [
            {"id": e.id, "type": e.kind, "name": e.name, "endpoints": endpoints[e.id]}
            for e in self._entries()
        ]

    def _endpoints(self, call: Call[Any]) -> list[Endpoint]:
        return endpoints_of(self._entries(), base_url=call.base_url, region=self._region)

    def _list_services(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        kind, name = call.query.get("type"), call.query.get("name")
        found = [e for e in self._entries() if kind in (None, e.kind) and name in (None, e.name)]
        return listed(call, "services", [_show_service(call, e) for e in found])

    def _show_service(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        service_id = call.path["service_id"]
        for entry in self._entries():
            if entry.id == service_id:
                return {"service": _show_service(call, entry)}
        raise NotFound(f"Could not find service: {service_id}.")

    def _list_endpoints(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        interface = call.query.get("interface")
        service_id = call.query.get("service_id")
        region = call.query.get("region_id") or call.query.get("region")
        found = [
            e
            for e in self._endpoints(call)
            if interface in (None, e.interface)
            and service_id in (None, e.entry.id)
            and region in (None, e.region)
        ]
        return listed(call, "endpoints", [_show_endpoint(call, e) for e in found])

    def _show_endpoint(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        endpoint_id = call.path["endpoint_id"]
        for endpoint in self._endpoints(call):
            if endpoint.id == endpoint_id:
                return {"endpoint": _show_endpoint(call, endpoint)}
        raise NotFound(f"Could not find endpoint: {endpoint_id}.")

    def _list_regions(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        return listed(call, "regions", [_show_region(call, self._region)])

    def _show_region(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        region = call.path["region_id"]
        if region != self._region:
            raise NotFound(f"Could not find region: {region}.")
        return {"region": _show_region(call, region)}


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


def _show_service(call: Call[None], entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "type": entry.kind,
        "name": entry.name,
        "description": "",
        "enabled": True,
        "links": link(call, f"services/{entry.id}"),
    }


def _show_endpoint(call: Call[None], endpoint: Endpoint) -> dict[str, Any]:
    return {
        "id": endpoint.id,
        "interface": endpoint.interface,
        "region": endpoint.region,
        "region_id": endpoint.region,
        "service_id": endpoint.entry.id,
        "url": endpoint.url,
        "enabled": True,
        "links": link(call, f"endpoints/{endpoint.id}"),
    }


def _show_region(call: Call[None], region: str) -> dict[str, Any]:
    return {
        "id": region,
        "description": "",
        "parent_region_id": None,
        "links": link(call, f"regions/{region}"),
    }
