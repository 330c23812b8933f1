"""An entry as a CADF event record.

Source: DMTF DSP0262 1.0.0, "Cloud Auditing Data Federation (CADF): Data Format and Interface Definitions";
the additions of OpenStack (initiator's project_id, user_id, request_id) as in pycadf's documentation.
"""

from typing import Any

from cairn.audit.records import Event, Outcome
from cairn.audit.words import AUTHENTICATE

TYPE_URI = "http://schemas.dmtf.org/cloud/audit/1.0/event"
_OUTCOMES = {Outcome.DENIED.value: "failure"}  # CADF knows success, failure, pending and unknown
_ACTIONS = {AUTHENTICATE, "create", "delete", "disable", "enable", "read", "update"}
_TYPES = {
    "compute": "service/compute",
    "block-storage": "service/storage/block",
    "image": "service/storage/image",
    "network": "service/network",
    "identity": "service/security",
    "cairn": "service/bss",
}
_SECURITY = {
    "identity/user": "data/security/account/user",
    "identity/group": "data/security/group",
    "identity/role": "data/security/role",
    "identity/role_assignment": "data/security/account/user",
    "identity/project": "data/security/project",
    "identity/domain": "data/security/domain",
    "identity/credential": "data/security/credential",
    "identity/trust": "data/security/trust",
    "identity/policy": "data/security/policy",
    "identity/region": "data/security/region",
    "identity/service": "data/security/service",
    "identity/endpoint": "data/security/endpoint",
    "identity/token": "service/security/account/user",
}


def record(event: Event, *, observer: str) -> dict[str, Any]:
    """`observer`: the name of the cloud that saw it."""
    shown: dict[str, Any] = {
        "typeURI": TYPE_URI,
        "eventType": "activity",
        "id": event.id,
        "eventTime": event.at.isoformat(timespec="microseconds"),
        "action": event.action if event.action in _ACTIONS else f"update/{event.action}",
        "outcome": _OUTCOMES.get(event.outcome, event.outcome),
        "initiator": _initiator(event),
        "target": _target(event),
        "observer": {
            "id": observer,
            "typeURI": _TYPES.get(event.service, "service"),
            "name": event.service,
        },
        "reason": {"reasonType": "HTTP", "reasonCode": str(event.status)},
        "requestPath": event.path,
        "tags": [f"method?value={event.method}"],
    }
    if event.reason is not None:
        shown["reason"]["policyType"] = event.reason
    if event.details:
        content = {"name": "path", "typeURI": "application/json", "content": event.details}
        shown["attachments"] = [content]
    return shown


def _initiator(event: Event) -> dict[str, Any]:
    name = event.details.get("user_name") if event.action == AUTHENTICATE else None
    shown: dict[str, Any] = {
        "id": event.user_id or "unknown",
        "typeURI": "service/security/account/user",
        "host": {"address": event.source, "agent": event.agent},
        "user_id": event.user_id,
        "username": name,
        "domain_id": event.user_domain_id,
        "project_id": _scoped(event, "project"),
        "project_domain_id": event.domain_id if _scoped(event, "project") else None,
        "system_scope": _scoped(event, "system"),
        "request_id": event.request_id,
    }
    if event.token_id is not None:
        shown["credential"] = {"type": "token", "token": event.token_id}
        if event.delegation is not None:
            kind, _, id_ = event.delegation.partition(":")
            shown["credential"] |= {"type": kind, "id": id_}
    return {key: value for key, value in shown.items() if value is not None}


def _scoped(event: Event, kind: str) -> str | None:
    of, _, id_ = (event.scope or "").partition(":")
    return id_ if of == kind else None


def _target(event: Event) -> dict[str, Any]:
    shown = {
        "id": event.target_id or event.service,
        "typeURI": _SECURITY.get(event.target_type, event.target_type),
        "name": event.target_name,
        "project_id": event.project_id,
        "domain_id": event.domain_id,
    }
    return {key: value for key, value in shown.items() if value is not None}
