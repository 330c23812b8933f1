"""Policies kept for other services, over HTTP: /v3/policies and OS-ENDPOINT-POLICY."""

from collections.abc import Callable
from typing import Any

from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity.catalog import catalog, endpoints, policies, policy_store, regions
from cairn.identity.catalog import store as catalog_store
from cairn.identity.catalog.api_catalog import show_endpoint
from cairn.identity.catalog.catalog import Own
from cairn.identity.catalog.lists import listed_things
from cairn.identity.catalog.policy_store import POLICIES, Place, StoredPolicy
from cairn.identity.catalog.records import Catalog
from cairn.identity.catalog.shapes import PolicyBody, PolicyWish
from cairn.identity.listing import link, listed
from cairn.identity.shapes import read

_Do = Callable[[Tx, Place, str], None]


class PolicyRoutes:
    def __init__(self, own: Own) -> None:
        self._own = own

    def routes(self) -> tuple[Route, ...]:
        all_, one = "/v3/policies", "/v3/policies/{policy_id}"
        at = f"{one}/OS-ENDPOINT-POLICY"
        return (
            Route(method="GET", path=all_, rule="identity:list_policies", do=list_policies),
            Route(method="POST", path=all_, rule="identity:create_policy", do=create_policy,
                  body=PolicyBody, status=201),
            Route(method="GET", path=one, rule="identity:get_policy", do=get_policy),
            Route(method="PATCH", path=one, rule="identity:update_policy", do=update_policy,
                  body=PolicyBody),
            Route(method="DELETE", path=one, rule="identity:delete_policy", do=delete_policy,
                  status=204),
            Route(method="GET", path=f"{at}/endpoints", rule="identity:list_endpoints_for_policy",
                  do=self._endpoints_of_policy),
            Route(method="GET", path="/v3/endpoints/{endpoint_id}/OS-ENDPOINT-POLICY/policy",
                  rule="identity:get_policy_for_endpoint", do=self._policy_of_endpoint),
            *self._place(f"{at}/endpoints/{{endpoint_id}}", "endpoint"),
            *self._place(f"{at}/services/{{service_id}}", "service"),
            *self._place(f"{at}/services/{{service_id}}/regions/{{region_id}}",
                         "region_and_service"),
        )  # fmt: skip

    def _place(self, path: str, kind: str) -> tuple[Route, ...]:
        """Ask whether the policy is for this place, put it there, take it away."""
        return tuple(
            Route(method=method, path=path, status=204, do=self._at_place(do),
                  rule=f"identity:{verb}_policy_association_for_{kind}")
            for method, verb, do in (
                ("GET", "check", policies.require_at),
                ("PUT", "create", policy_store.put_policy),
                ("DELETE", "delete", policy_store.take_policy),
            )
        )  # fmt: skip

    def _at_place(self, do: _Do) -> Callable[[Tx, Call[None]], None]:
        def act(tx: Tx, call: Call[None]) -> None:
            found = policies.policy(tx, call.path["policy_id"])
            known = regions.known(tx, self._own)
            do(tx, _place_in(known, call), found.id)

        return act

    def _endpoints_of_policy(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = policies.policy(tx, call.path["policy_id"])
        shown = policies.endpoints_of_policy(tx, self._whole(tx, call), found.id)
        return listed(call, "endpoints", [show_endpoint(call, e) for e in shown])

    def _policy_of_endpoint(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        known = self._whole(tx, call)
        endpoint = endpoints.endpoint(known, call.path["endpoint_id"])
        return {"policy": show_policy(call, policies.policy_of_endpoint(tx, known, endpoint))}

    def _whole(self, tx: Tx, call: Call[None]) -> Catalog:
        return catalog.whole(self._own, catalog_store.entries(tx), call.base_url)


def _place_in(known: Catalog, call: Call[None]) -> Place:
    """What the path names. Raises NotFound."""
    path = call.path
    if "endpoint_id" in path:
        return Place(endpoint_id=endpoints.endpoint(known, path["endpoint_id"]).id)
    service = endpoints.service(known, path["service_id"])
    if "region_id" not in path:
        return Place(service_id=service.id)
    return Place(service_id=service.id, region_id=regions.region(known, path["region_id"]).id)


def list_policies(tx: Tx, call: Call[None]) -> dict[str, Any]:
    found = [show_policy(call, p) for p in POLICIES.page(tx, limit=catalog_store.ROWS_MAX)]
    return listed_things(call, "policies", found, ("type",))


def create_policy(tx: Tx, call: Call[PolicyBody]) -> dict[str, Any]:
    changes, extra = read(call.body.policy, PolicyWish, "policy")
    for name in ("blob", "type"):
        if name not in changes:
            raise Invalid(f"Invalid input for policy: '{name}' is a required property")
    new = StoredPolicy(id=tx.new_hex_id(), **changes, extra=extra)
    return {"policy": show_policy(call, POLICIES.add(tx, new))}


def get_policy(tx: Tx, call: Call[None]) -> dict[str, Any]:
    return {"policy": show_policy(call, policies.policy(tx, call.path["policy_id"]))}


def update_policy(tx: Tx, call: Call[PolicyBody]) -> dict[str, Any]:
    policy_id, asked = call.path["policy_id"], call.body.policy
    if not asked:
        raise Invalid("Invalid input for policy: there must be at least one attribute.")
    if asked.get("id", policy_id) != policy_id:
        raise Invalid("Cannot change policy ID")
    changes, extra = read(asked, PolicyWish, "policy")
    changes["extra"] = {**policies.policy(tx, policy_id).extra, **extra}
    return {"policy": show_policy(call, policies.update_policy(tx, policy_id, changes))}


def delete_policy(tx: Tx, call: Call[None]) -> None:
    policies.delete_policy(tx, call.path["policy_id"])


def show_policy(call: Call[Any], policy: StoredPolicy) -> dict[str, Any]:
    return {
        **policy.extra,
        "id": policy.id,
        "type": policy.type,
        "blob": policy.blob,
        "links": link(call, f"policies/{policy.id}"),
    }
