"""Roles, and what they imply, over HTTP. Who has which is in `api_grants` and `api_assignments`."""

from typing import Any

from cairn.core.errors import Conflict
from cairn.core.ids import RoleId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import grants, store, store_grants, targets
from cairn.identity.delegation import delegation
from cairn.identity.listing import filters, link, listed, listing
from cairn.identity.records import Implication, Role
from cairn.identity.shapes import RoleBody, RoleWish, read, require_name


def routes() -> tuple[Route, ...]:
    role, implies = "/v3/roles/{role_id}", "/v3/roles/{role_id}/implies/{implied_id}"
    of_role = targets.of_role
    return (
        Route(method="GET", path="/v3/roles", rule="identity:list_roles", do=list_roles),
        Route(method="POST", path="/v3/roles", rule="identity:create_role", do=create_role,
              body=RoleBody, status=201),
        Route(method="GET", path=role, rule="identity:get_role", do=get_role, target=of_role),
        Route(method="PATCH", path=role, rule="identity:update_role", do=update_role,
              body=RoleBody, target=of_role),
        Route(method="DELETE", path=role, rule="identity:delete_role", do=delete_role, status=204,
              target=of_role),
        Route(method="GET", path="/v3/role_inferences", rule="identity:list_role_inference_rules",
              do=list_inferences),
        Route(method="GET", path=f"{role}/implies", rule="identity:list_implied_roles",
              do=list_implied),
        Route(method="PUT", path=implies, rule="identity:create_implied_role", do=imply,
              status=201),
        Route(method="GET", path=implies, rule="identity:get_implied_role", do=get_implied),
        Route(method="HEAD", path=implies, rule="identity:check_implied_role", do=check_implied,
              status=204),
        Route(method="DELETE", path=implies, rule="identity:delete_implied_role",
              do=stop_implying, status=204),
    )  # fmt: skip


def show_role(call: Call[Any], role: Role) -> dict[str, Any]:
    return {
        **role.extra,
        "id": role.id,
        "name": role.name,
        "domain_id": role.domain_id or None,
        "description": role.description,
        "options": {"immutable": True} if role.is_immutable else {},
        "links": link(call, f"roles/{role.id}"),
    }


def list_roles(tx: Tx, call: Call[None]) -> dict[str, Any]:
    domain_id = call.query.get("domain_id") or ""
    if domain_id:
        call.require("identity:list_domain_roles")
    wanted = filters(call, store.ROLES, ("name",))
    # Without a domain asked for, only the roles of no domain are listed.
    wanted.append(store.roles.c.domain_id == domain_id)
    return listing(tx, call, "roles", store.ROLES, wanted, show_role)


def create_role(tx: Tx, call: Call[RoleBody]) -> dict[str, Any]:
    changes, extra = read(call.body.role, RoleWish, "role")
    require_name(changes, "role")
    domain_id = changes.pop("domain_id", None) or ""
    new = Role(id=RoleId(tx.new_hex_id()), domain_id=domain_id, **changes, extra=extra)
    _require_of_domain(call, "create", new)
    return {"role": show_role(call, grants.create_role(tx, new))}


def get_role(tx: Tx, call: Call[None]) -> dict[str, Any]:
    role = grants.role(tx, call.path["role_id"])
    _require_of_domain(call, "get", role)
    return {"role": show_role(call, role)}


def update_role(tx: Tx, call: Call[RoleBody]) -> dict[str, Any]:
    changes, extra = read(call.body.role, RoleWish, "role")
    old = grants.role(tx, call.path["role_id"])
    _require_of_domain(call, "update", old)
    if "domain_id" in changes:
        changes["domain_id"] = changes["domain_id"] or ""
    new = grants.update_role(tx, old.id, {**changes, "extra": {**old.extra, **extra}})
    return {"role": show_role(call, new)}


def delete_role(tx: Tx, call: Call[None]) -> None:
    role = grants.role(tx, call.path["role_id"])
    _require_of_domain(call, "delete", role)
    delegation.forget_role(tx, role.id)
    grants.delete_role(tx, role.id)


def _require_of_domain(call: Call[Any], verb: str, role: Role) -> None:
    """Roles of a domain have rules of their own besides."""
    if role.domain_id:
        about = {"target.role.name": role.name, "target.role.domain_id": role.domain_id}
        call.require(f"identity:{verb}_domain_role", **about)


# Implications


def list_inferences(tx: Tx, call: Call[None]) -> dict[str, Any]:
    implied = grants.implied_by(store_grants.all_implications(tx))
    roles = store.ROLES.many(tx, {*implied, *(i for many in implied.values() for i in many)})
    shown = [
        {
            "prior_role": _brief_role(call, roles[prior]),
            "implies": [_brief_role(call, roles[i]) for i in many],
        }
        for prior, many in implied.items()
    ]
    return listed(call, "role_inferences", shown)


def list_implied(tx: Tx, call: Call[None]) -> dict[str, Any]:
    prior = grants.role(tx, call.path["role_id"])
    implied = grants.implied_by(store_grants.all_implications(tx)).get(prior.id, [])
    roles = store.ROLES.many(tx, implied)
    shown = {
        "prior_role": _brief_role(call, prior),
        "implies": [_brief_role(call, roles[i]) for i in implied],
    }
    return {"role_inference": shown, "links": {"self": f"{call.base_url}{call.url_path}"}}


def imply(tx: Tx, call: Call[None]) -> dict[str, Any]:
    prior_id, implied_id = RoleId(call.path["role_id"]), RoleId(call.path["implied_id"])
    if Implication(prior_id=prior_id, implied_id=implied_id) in store_grants.all_implications(tx):
        raise Conflict(f"Role {prior_id} implies role {implied_id} already.")
    grants.imply(tx, prior_id, implied_id)
    return _show_inference(tx, call)


def get_implied(tx: Tx, call: Call[None]) -> dict[str, Any]:
    check_implied(tx, call)
    return _show_inference(tx, call)


def check_implied(tx: Tx, call: Call[None]) -> None:
    grants.implication(tx, call.path["role_id"], call.path["implied_id"])


def stop_implying(tx: Tx, call: Call[None]) -> None:
    grants.stop_implying(tx, call.path["role_id"], call.path["implied_id"])


def _show_inference(tx: Tx, call: Call[None]) -> dict[str, Any]:
    shown = {
        "prior_role": _brief_role(call, grants.role(tx, call.path["role_id"])),
        "implies": _brief_role(call, grants.role(tx, call.path["implied_id"])),
    }
    return {"role_inference": shown, "links": {"self": f"{call.base_url}{call.url_path}"}}


def _brief_role(call: Call[Any], role: Role) -> dict[str, Any]:
    return {"id": role.id, "name": role.name, "links": link(call, f"roles/{role.id}")}
