"""Which tokens are void before their time, as Keystone tells it: /v3/OS-REVOKE/events."""

from datetime import UTC, datetime
from typing import Any

from cairn.core.errors import Invalid
from cairn.db.engine import Tx
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity import store
from cairn.identity.accounts import expiry
from cairn.identity.listing import listed
from cairn.identity.records import Revocation

_KEYS = {
    "token": "audit_id",
    "user": "user_id",
    "project": "project_id",
    "domain": "domain_id",
    "trust": "OS-TRUST:trust_id",
    "oauth1": "OS-OAUTH1:access_token_id",
    "consumer": "OS-OAUTH1:consumer_id",
}
"""Kinds of subjects (`revocation`) that Keystone has a name for."""

_SCOPE_KEYS = {"project": "project_id", "domain": "domain_scope_id", "system": "system_scope"}


def routes() -> tuple[Route, ...]:
    return (
        Route(method="GET", path="/v3/OS-REVOKE/events", rule="identity:list_revoke_events",
              do=list_events),
    )  # fmt: skip


def list_events(tx: Tx, call: Call[None]) -> dict[str, Any]:
    since = _moment(text) if (text := call.query.get("since")) else None
    return listed(call, "events", [_show(r) for r in store.revocations_since(tx, since)])


def _moment(text: str) -> datetime:
    try:
        # A "+" that nobody has escaped arrives as a space.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
    except ValueError as error:
        raise Invalid(f"Query parameter 'since': invalid date format {text[:64]}") from error
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise Invalid(f"Query parameter 'since': invalid date {text[:64]}") from error


def _show(revocation: Revocation) -> dict[str, Any]:
    moment = expiry.text(revocation.revoked_at)
    return {**_about(revocation), "issued_before": moment, "revoked_at": moment}


def _about(revocation: Revocation) -> dict[str, str]:
    kind, _, rest = revocation.subject.partition(":")
    if kind == "grant":
        user_id, scope_kind, scope_id = rest.split(":", 2)
        return {"user_id": user_id, _SCOPE_KEYS[scope_kind]: scope_id}
    if kind == "below":
        user_id, domain_id = rest.split(":", 1)
        return {"user_id": user_id, "domain_id": domain_id}
    if kind == "role":
        return {"role_id": revocation.role_id or rest}
    return {_KEYS.get(kind, f"{kind}_id"): rest}
