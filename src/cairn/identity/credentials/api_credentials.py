"""Credentials over HTTP: /v3/credentials."""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from cairn.core.errors import Denied, Invalid
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Route, tells
from cairn.identity.credentials import credential_store, credentials
from cairn.identity.credentials.credential_keys import CredentialKeys
from cairn.identity.credentials.credential_store import CREDENTIALS
from cairn.identity.credentials.credentials import Credential
from cairn.identity.listing import filters, link, listed, page
from cairn.identity.shapes import Id, LongName, read

Blob = Annotated[str, Meta(max_length=65535)]


class CredentialWish(Struct, frozen=True, kw_only=True):
    user_id: Id | UnsetType = UNSET
    project_id: Id | UnsetType | None = UNSET
    type: LongName | UnsetType = UNSET
    blob: Blob | UnsetType = UNSET


class CredentialBody(Struct, frozen=True, forbid_unknown_fields=True):
    credential: dict[str, Any]


class CredentialRoutes:
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def routes(self) -> tuple[Route, ...]:
        all_, one = "/v3/credentials", "/v3/credentials/{credential_id}"
        return (
            Route(method="GET", path=all_, rule="identity:list_credentials", do=self._list,
                  target=_own),
            Route(method="POST", path=all_, rule="identity:create_credential", do=self._create,
                  body=CredentialBody, status=201, target=_in_body),
            Route(method="GET", path=one, rule="identity:get_credential", do=self._get,
                  target=_in_path),
            Route(method="PATCH", path=one, rule="identity:update_credential", do=self._update,
                  body=CredentialBody, target=_in_path),
            Route(method="DELETE", path=one, rule="identity:delete_credential", do=self._delete,
                  status=204, target=_in_path),
        )  # fmt: skip

    def _list(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        wanted = filters(call, CREDENTIALS, ("user_id", "type"))
        if not call.may("identity:get_credential"):
            wanted.append(credential_store.credentials.c.user_id == call.who.user_id)
        if call.who.delegation is not None:
            wanted.append(credential_store.credentials.c.project_id == call.who.project_id)
        found, following = page(tx, call, CREDENTIALS, wanted)
        keys = CredentialKeys(tx, self._sealer)
        shown = [
            _show(call, credentials.opened(keys, one))
            for one in found
            if call.may("identity:get_credential", **_target(one.user_id, one.project_id))
        ]
        return listed(call, "credentials", shown, following)

    def _create(self, tx: Tx, call: Call[CredentialBody]) -> dict[str, Any]:
        changes, extra = read(call.body.credential, CredentialWish, "credential")
        for name in ("user_id", "type", "blob"):
            if name not in changes:
                raise Invalid(f"Invalid input for credential: '{name}' is a required property")
        new = Credential(id=tx.new_hex_id(), **changes, extra=extra)
        made = credentials.create(tx, self._sealer, call.who, new)
        return {"credential": _show(call, made)}

    def _get(self, tx: Tx, call: Call[None]) -> dict[str, Any]:
        found = self._found(tx, call)
        credentials.require_in_reach(call.who, found.project_id)
        return {"credential": _show(call, found)}

    def _update(self, tx: Tx, call: Call[CredentialBody]) -> dict[str, Any]:
        old = self._found(tx, call)
        if not call.body.credential:
            raise Invalid("Invalid input for credential: there is nothing to change.")
        if call.body.credential.get("id", old.id) != old.id:
            raise Invalid("Cannot change credential ID")
        changes, extra = read(call.body.credential, CredentialWish, "credential")
        changes["extra"] = {**old.extra, **extra}
        new = msgspec.structs.replace(old, **changes)
        # Whoever may change it may not make it somebody else's whom they could not change it for.
        if not call.may("identity:update_credential", **_target(new.user_id, new.project_id)):
            raise Denied("Policy does not allow to give the credential to another user.")
        done = credentials.update(tx, self._sealer, call.who, old, changes)
        return {"credential": _show(call, done)}

    def _delete(self, tx: Tx, call: Call[None]) -> None:
        found = credentials.sealed(tx, call.path["credential_id"])
        credentials.require_in_reach(call.who, found.project_id)
        credentials.delete(tx, found.id)

    def _found(self, tx: Tx, call: Call[Any]) -> Credential:
        return credentials.credential(tx, self._sealer, call.path["credential_id"])


def _show(call: Call[Any], one: Credential) -> dict[str, Any]:
    return {
        **one.extra,
        "id": one.id,
        "user_id": one.user_id,
        "project_id": one.project_id,
        "type": one.type,
        "blob": one.blob,
        "links": link(call, f"credentials/{one.id}"),
    }


@tells("target.credential.user_id", "target.credential.project_id")
def _own(tx: Tx, call: Call[Any]) -> Mapping[str, str | None]:
    """Everybody may list what they own."""
    return _target(call.who.user_id, call.who.project_id)


@tells("target.credential.user_id", "target.credential.project_id")
def _in_body(tx: Tx, call: Call[CredentialBody]) -> Mapping[str, str | None]:
    asked = call.body.credential
    user_id, project_id = asked.get("user_id"), asked.get("project_id")
    return _target(
        user_id if isinstance(user_id, str) else None,
        project_id if isinstance(project_id, str) else None,
    )


@tells("target.credential.user_id", "target.credential.project_id")
def _in_path(tx: Tx, call: Call[Any]) -> Mapping[str, str | None]:
    found = CREDENTIALS.get(tx, call.path["credential_id"])
    return {} if found is None else _target(found.user_id, found.project_id)


def _target(user_id: str | None, project_id: str | None) -> dict[str, str | None]:
    return {"target.credential.user_id": user_id, "target.credential.project_id": project_id}
