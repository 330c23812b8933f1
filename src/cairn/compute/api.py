"""Compute over HTTP: Nova v2.1, microversions 2.1 to 2.96.

The routes live in a file a family (api_servers, api_actions, api_plugs, api_flavors, ...); here they
become one service, with the version documents. The application hands in how to ask a host.
"""

from typing import Any

from cairn.compute import (
    api_actions,
    api_aggregates,
    api_cloud,
    api_flavors,
    api_keypairs,
    api_migrations,
    api_plugs,
    api_quotas,
    api_servers,
)
from cairn.compute.policy import POLICY
from cairn.db.engine import Tx
from cairn.fleet.ask import Ask
from cairn.http import faults
from cairn.http.call import Call
from cairn.http.routes import Route, Service
from cairn.http.versions import Version, Versions

VERSIONS = Versions(
    service="compute",
    minimum=Version(2, 1),
    maximum=Version(2, 96),
    legacy_header="X-OpenStack-Nova-API-Version",
)


def service(ask: Ask) -> Service:
    """`ask` is for what only a host knows: the console's log."""
    return Service(
        name="nova",
        kind="compute",
        root="/compute",
        catalog_path="/v2.1",
        policy=POLICY,
        shape_fault=faults.nova,
        versions=VERSIONS,
        request_id_header="X-Compute-Request-Id",
        routes=(
            Route(method="GET", path="/", rule=None, do=list_versions),
            Route(method="GET", path="/v2", rule=None, do=show_version),
            Route(method="GET", path="/v2.1", rule=None, do=show_version),
            *api_servers.ROUTES,
            *api_actions.routes(ask),
            *api_migrations.ROUTES,
            *api_plugs.ROUTES,
            *api_flavors.ROUTES,
            *api_keypairs.ROUTES,
            *api_quotas.ROUTES,
            *api_cloud.ROUTES,
            *api_aggregates.ROUTES,
        ),
    )


def list_versions(tx: Tx, call: Call[None]) -> Any:
    return {"versions": [_version(call, "v2.0"), _version(call, "v2.1")]}


def show_version(tx: Tx, call: Call[None]) -> Any:
    number = "v2.1" if call.url_path.rstrip("/").endswith("/v2.1") else "v2.0"
    media = "application/vnd.openstack.compute+json;version=" + ("2.1" if number == "v2.1" else "2")
    body = _version(call, number)
    body["links"] += [
        {"rel": "describedby", "type": "text/html", "href": "https://docs.openstack.org/"}
    ]
    body["media-types"] = [{"base": "application/json", "type": media}]
    return {"version": body}


def _version(call: Call[None], number: str) -> dict[str, Any]:
    """v2.0 comes first, as clients expect, and has no microversions."""
    is_current = number == "v2.1"
    path = "/v2.1/" if is_current else "/v2/"
    return {
        "id": number,
        "status": "CURRENT" if is_current else "SUPPORTED",
        "version": str(VERSIONS.maximum) if is_current else "",
        "min_version": str(VERSIONS.minimum) if is_current else "",
        "updated": "2013-07-23T11:33:21Z" if is_current else "2011-01-21T11:33:21Z",
        "links": [{"rel": "self", "href": f"{call.base_url}/compute{path}"}],
    }
