"""All ways to act for somebody else, together: what a token shows of one, and what ends them."""

from typing import Any

from cairn.core.caller import Delegation
from cairn.core.errors import NotFound
from cairn.core.ids import ProjectId, RoleId, UserId
from cairn.db.engine import Tx
from cairn.identity import store_grants
from cairn.identity.delegation import application_credentials, oauth, trusts
from cairn.identity.delegation.application_credentials_store import APPLICATION_CREDENTIALS
from cairn.identity.delegation.trusts_store import TRUSTS
from cairn.identity.records import ActorKind, ScopeKind

_MANY = 10_000


def shown(tx: Tx, lent: Delegation | None) -> dict[str, Any]:
    """What the token's description says of it. NotFound when it is just being deleted."""
    if lent is None:
        return {}
    if lent.kind == application_credentials.KIND:
        return {lent.kind: _application_credential(tx, lent.id)}
    if lent.kind == trusts.KIND:
        return {"OS-TRUST:trust": _trust(tx, lent.id)}
    return {"OS-OAUTH1": {"access_token_id": lent.id, "consumer_id": lent.actor_id}}


def _application_credential(tx: Tx, id_: str) -> dict[str, Any]:
    one = APPLICATION_CREDENTIALS.get(tx, id_)
    if one is None:
        raise NotFound("Failed to validate token")
    described: dict[str, Any] = {
        "id": one.id,
        "name": one.name,
        "restricted": not one.unrestricted,
    }
    if one.rule_ids:
        described["access_rules"] = [
            {"id": rule.id, "service": rule.service, "path": rule.path, "method": rule.method}
            for rule in application_credentials.rules_of(tx, one)
        ]
    return described


def _trust(tx: Tx, id_: str) -> dict[str, Any]:
    one = TRUSTS.get(tx, id_)
    if one is None:
        raise NotFound("Failed to validate token")
    return {
        "id": one.id,
        "impersonation": one.impersonation,
        "trustor_user": {"id": one.trustor_user_id},
        "trustee_user": {"id": one.trustee_user_id},
    }


def forget_user(tx: Tx, user_id: UserId) -> None:
    trusts.forget_user(tx, user_id)
    application_credentials.forget_user(tx, user_id)
    oauth.forget_user(tx, user_id)


def disable_user(tx: Tx, user_id: UserId) -> None:
    """Programs get no second chance when the user is enabled again; trusts are good again then."""
    application_credentials.forget_user(tx, user_id)


def forget_project(tx: Tx, project_id: ProjectId) -> None:
    trusts.forget_project(tx, project_id)
    application_credentials.forget_project(tx, project_id)
    oauth.forget_project(tx, project_id)


def forget_role(tx: Tx, role_id: RoleId) -> None:
    """Before its assignments go: whoever has it in a project loses the application credentials there."""
    for given in store_grants.assignments_where(tx, role_id=role_id, limit=_MANY):
        if given.actor.kind is ActorKind.USER and given.scope.kind is ScopeKind.PROJECT:
            application_credentials.forget_user_in_project(
                tx, UserId(given.actor.id), ProjectId(given.scope.id)
            )
