"""Application credentials: what a user may hand to a program instead of a password.

Source: api-ref, Identity v3, "Application Credentials". One ends with its user, when the user is
disabled, with its project, and when a role is deleted that the user had in the project; a role that the
user loses is missing in the tokens, and without any role left there are none.
"""

from collections.abc import Sequence

import msgspec

from cairn.core.caller import AccessRule, Caller, Delegation
from cairn.core.errors import Conflict, Denied, Invalid, NotFound
from cairn.core.ids import ProjectId, UserId
from cairn.db.engine import Tx
from cairn.identity import grants, revocation, store_grants
from cairn.identity.catalog.catalog import ALIASES
from cairn.identity.delegation.application_credentials_store import (
    ACCESS_RULES,
    APPLICATION_CREDENTIALS,
    ApplicationCredential,
    KeptRule,
    access_rules,
    application_credentials,
    set_secret_hash,
)
from cairn.identity.records import Scope, ScopeKind

KIND = "application_credential"
RULES_BYTES_MAX = 2048  # packed: with them, a token stays below 4 KiB and fits into every header
_TYPES = {other: kind for kind, (other, _) in ALIASES.items()}
CREDENTIALS_MAX = 1000  # of one user


def credential(tx: Tx, id_: str) -> ApplicationCredential:
    found = APPLICATION_CREDENTIALS.get(tx, id_)
    if found is None:
        raise NotFound(f"Could not find Application Credential: {id_}.")
    return found


def of_user(tx: Tx, user_id: str) -> list[ApplicationCredential]:
    mine = application_credentials.c.user_id == user_id
    return APPLICATION_CREDENTIALS.page(tx, [mine], limit=CREDENTIALS_MAX)


def create(tx: Tx, new: ApplicationCredential, secret_hash: str) -> ApplicationCredential:
    columns = application_credentials.c
    if len(of_user(tx, new.user_id)) >= CREDENTIALS_MAX:
        raise Denied(
            "Unable to create additional application credentials, maximum of"
            f" {CREDENTIALS_MAX} already exceeded for user."
        )
    if APPLICATION_CREDENTIALS.find(tx, columns.user_id == new.user_id, columns.name == new.name):
        raise Conflict(
            "Conflict occurred attempting to store application_credential - Duplicate entry found"
            f" with name {new.name}."
        )
    if len(msgspec.msgpack.encode(delegation(tx, new))) > RULES_BYTES_MAX:
        raise Invalid(
            "Field 'access_rules' is too long: tokens carry the rules, which may have at most"
            f" {RULES_BYTES_MAX} bytes together."
        )
    APPLICATION_CREDENTIALS.add(tx, new)
    set_secret_hash(tx, new.id, secret_hash)
    return new


def delete(tx: Tx, id_: str) -> None:
    revocation.revoke(tx, revocation.of_delegation(KIND, credential(tx, id_).id))
    APPLICATION_CREDENTIALS.remove(tx, id_)


def roles_of(tx: Tx, who: Caller, wanted: Sequence[tuple[str | None, str | None]]) -> list[str]:
    """The ids of the roles for a new one: all that the caller has in the project now, or `wanted` of them.

    By delegation nobody has more than the token says. `wanted` names each by id or by name; what these
    imply comes along. Raises Invalid and NotFound.
    """
    scope = Scope(kind=ScopeKind.PROJECT, id=who.home)
    held = grants.held(tx, who.user_id, scope)
    mine = {role.id for role in held if who.delegation is None or role.name in who.roles}
    if not wanted:
        return sorted(mine)
    ids = [id_ or grants.role_named(tx, name or "").id for id_, name in wanted]
    found = grants.closure(ids, grants.implied_by(store_grants.all_implications(tx)))
    if not found <= mine:
        raise Invalid(
            "Invalid application credential: Cannot create an application credential with"
            " unassigned role"
        )
    return sorted(found)


# Access rules


def access_rule(tx: Tx, user_id: str, id_: str) -> KeptRule:
    found = ACCESS_RULES.get(tx, id_)
    if found is None or found.user_id != user_id:
        raise NotFound(f"Could not find Access Rule: {id_}.")
    return found


def keep_rule(tx: Tx, user_id: UserId, rule: tuple[str, str, str]) -> KeptRule:
    """The user's rule for (service, method, path): the one that is there already, or a new one."""
    service, method, path = rule
    columns = access_rules.c
    same = (columns.service == service, columns.method == method, columns.path == path)
    if found := ACCESS_RULES.find(tx, columns.user_id == user_id, *same):
        return found
    new = KeptRule(
        id=tx.new_hex_id(), user_id=user_id, service=service, method=method, path=path
    )  # fmt: skip
    return ACCESS_RULES.add(tx, new)


def delete_access_rule(tx: Tx, user_id: str, id_: str) -> None:
    rule = access_rule(tx, user_id, id_)
    if any(rule.id in one.rule_ids for one in of_user(tx, user_id)):
        raise Denied("May not delete access rule in use")
    ACCESS_RULES.remove(tx, rule.id)


def rules_of(tx: Tx, one: ApplicationCredential) -> list[KeptRule]:
    found = ACCESS_RULES.many(tx, one.rule_ids)
    return [found[id_] for id_ in one.rule_ids if id_ in found]


def delegation(tx: Tx, one: ApplicationCredential) -> Delegation:
    """What a token by this credential says about it."""
    rules = tuple(
        AccessRule(
            service=_TYPES.get(kept.service, kept.service), method=kept.method, path=kept.path
        )
        for kept in rules_of(tx, one)
    )
    return Delegation(
        kind=KIND,
        id=one.id,
        owner_id=one.user_id,
        may_delegate=one.unrestricted,
        access_rules=rules if one.rule_ids else None,
    )


# What goes with what


def forget_user(tx: Tx, user_id: UserId) -> None:
    """The user is gone or disabled. Tokens are void by what voids the user's."""
    tx.execute(application_credentials.delete().where(application_credentials.c.user_id == user_id))
    tx.execute(access_rules.delete().where(access_rules.c.user_id == user_id))


def forget_project(tx: Tx, project_id: ProjectId) -> None:
    columns = application_credentials.c
    tx.execute(application_credentials.delete().where(columns.project_id == project_id))


def forget_user_in_project(tx: Tx, user_id: UserId, project_id: ProjectId) -> None:
    """A role that the user had there is deleted from the cloud."""
    columns = application_credentials.c
    mine = (columns.user_id == user_id, columns.project_id == project_id)
    for one in APPLICATION_CREDENTIALS.page(tx, mine, limit=CREDENTIALS_MAX):
        delete(tx, one.id)
