"""Trusts over HTTP: /v3/OS-TRUST/trusts."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from cairn.core.errors import Denied, NotFound
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route, tells
from cairn.identity import grants, store
from cairn.identity.accounts import expiry
from cairn.identity.api_roles import show_role
from cairn.identity.delegation import trusts
from cairn.identity.delegation.application_credentials import KIND as BY_CREDENTIAL
from cairn.identity.delegation.trusts_store import TRUSTS, Trust
from cairn.identity.listing import filters, link, listed, page
from cairn.identity.shapes import Id, RoleRef, read

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class TrustWish(Struct, frozen=True, kw_only=True):
    trustor_user_id: Id
    trustee_user_id: Id
    impersonation: bool
    project_id: Id | None = None
    roles: Annotated[list[RoleRef], Meta(max_length=200)] = []
    expires_at: str | None = None
    remaining_uses: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    allow_redelegation: bool | None = None
    redelegation_count: Count | None = None
    redelegated_trust_id: Id | None = None


class TrustBody(Struct, frozen=True, forbid_unknown_fields=True):
    trust: dict[str, Any]


def routes() -> tuple[Route, ...]:
    many = "/v3/OS-TRUST/trusts"
    one, roles = f"{many}/{{trust_id}}", f"{many}/{{trust_id}}/roles"
    return (
        Route(method="GET", path=many, rule="identity:signed_in", do=list_),
        Route(method="POST", path=many, rule="identity:create_trust", do=create, body=TrustBody,
              target=_wished, status=201, body_bytes_max=256 * 1024),
        Route(method="GET", path=one, rule="identity:get_trust", do=get, target=_agents),
        Route(method="DELETE", path=one, rule="identity:delete_trust", do=delete, target=_agents,
              status=204),
        Route(method="GET", path=roles, rule="identity:list_roles_for_trust", do=list_roles,
              target=_agents),
        Route(method="GET", path=f"{roles}/{{role_id}}", rule="identity:get_role_for_trust",
              do=get_role, target=_agents),
    )  # fmt: skip


@tells("target.trust.trustor_user_id")
def _wished(tx: Tx, call: Call[TrustBody]) -> dict[str, str | None]:
    trustor_id = call.body.trust.get("trustor_user_id")
    return {"target.trust.trustor_user_id": trustor_id if isinstance(trustor_id, str) else None}


@tells("target.trust.trustor_user_id", "target.trust.trustee_user_id")
def _agents(tx: Tx, call: Call[Any]) -> dict[str, str | None]:
    """Raises NotFound before anybody is asked for leave: a trust that has ended is nobody's."""
    one = trusts.trust(tx, call.path["trust_id"])
    return {
        "target.trust.trustor_user_id": one.trustor_user_id,
        "target.trust.trustee_user_id": one.trustee_user_id,
    }


def _require_own_token(call: Call[Any]) -> None:
    """An application credential is for one project, and a trust would be a way out of it."""
    lent = call.who.delegation
    if lent is not None and lent.kind == BY_CREDENTIAL:
        raise Denied(
            "You are not authorized to perform the requested action: Using method"
            " 'application_credential' is not allowed for managing trusts."
        )


def show(call: Call[Any], one: Trust) -> dict[str, Any]:
    return {
        **one.extra,
        "id": one.id,
        "trustor_user_id": one.trustor_user_id,
        "trustee_user_id": one.trustee_user_id,
        "project_id": one.project_id,
        "impersonation": one.impersonation,
        "expires_at": expiry.show(one.expires_at),
        "remaining_uses": one.remaining_uses,
        "redelegated_trust_id": one.redelegated_trust_id,
        "redelegation_count": one.redelegation_count,
        "deleted_at": None,
        "links": link(call, f"OS-TRUST/trusts/{one.id}"),
    }


def show_whole(tx: Tx, call: Call[Any], one: Trust) -> dict[str, Any]:
    return {
        **show(call, one),
        "roles": _roles(tx, call, one),
        "roles_links": _roles_links(call, one),
    }


def _roles(tx: Tx, call: Call[Any], one: Trust) -> list[dict[str, Any]]:
    found = store.ROLES.many(tx, one.role_ids)
    return [show_role(call, found[id_]) for id_ in one.role_ids if id_ in found]


def _roles_links(call: Call[Any], one: Trust) -> dict[str, str | None]:
    path = link(call, f"OS-TRUST/trusts/{one.id}/roles")
    return {**path, "previous": None, "next": None}


def create(tx: Tx, call: Call[TrustBody]) -> dict[str, Any]:
    _require_own_token(call)
    changes, extra = read(call.body.trust, TrustWish, "trust")
    wish = TrustWish(**changes)
    new = Trust(
        id=tx.new_hex_id(),
        trustor_user_id=UserId(wish.trustor_user_id),
        trustee_user_id=UserId(wish.trustee_user_id),
        project_id=ProjectId(wish.project_id) if wish.project_id else None,
        impersonation=wish.impersonation,
        expires_at=expiry.parse(wish.expires_at, tx.now) if wish.expires_at is not None else None,
        remaining_uses=wish.remaining_uses,
        redelegated_trust_id=wish.redelegated_trust_id,
        extra={k: v for k, v in extra.items() if k not in ("roles_links", "deleted_at")},
    )
    made = trusts.create(
        tx,
        trusts.Wish(
            trust=new,
            roles=tuple(role.named("roles") for role in wish.roles),
            may_redelegate=bool(wish.allow_redelegation),
            count=wish.redelegation_count,
            by=call.who.delegation,
        ),
    )
    return {"trust": show_whole(tx, call, made)}


def list_(tx: Tx, call: Call[None]) -> dict[str, Any]:
    """All of them, or those of one trustor or trustee, which these may ask for as well."""
    trustor, trustee = call.query.get("trustor_user_id"), call.query.get("trustee_user_id")
    if trustor:
        target = {"target.trust.trustor_user_id": trustor}
        call.require("identity:list_trusts_for_trustor", **target)
    elif trustee:
        target = {"target.trust.trustee_user_id": trustee}
        call.require("identity:list_trusts_for_trustee", **target)
    else:
        call.require("identity:list_trusts")
    _require_own_token(call)
    names = [n for n in ("trustor_user_id", "trustee_user_id") if call.query.get(n)]
    found, following = page(tx, call, TRUSTS, filters(call, TRUSTS, names))
    return listed(call, "trusts", [show(call, one) for one in found], following)


def get(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_own_token(call)
    return {"trust": show_whole(tx, call, trusts.trust(tx, call.path["trust_id"]))}


def delete(tx: Tx, call: Call[None]) -> None:
    _require_own_token(call)
    trusts.delete(tx, trusts.trust(tx, call.path["trust_id"]).id)


def list_roles(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_own_token(call)
    one = trusts.trust(tx, call.path["trust_id"])
    return {"roles": _roles(tx, call, one), "links": _roles_links(call, one)}


def get_role(tx: Tx, call: Call[None]) -> dict[str, Any]:
    _require_own_token(call)
    role_id = call.path["role_id"]
    if role_id not in trusts.trust(tx, call.path["trust_id"]).role_ids:
        raise NotFound(f"Could not find role: {role_id}.")
    return {"role": show_role(call, grants.role(tx, role_id))}
