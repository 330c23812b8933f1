"""Credentials: secrets that a user has to prove something elsewhere, kept sealed. Keys of EC2, seeds of
authenticators, whatever else somebody gives a type.

Source: api-ref, Identity v3, "Credentials"; Keystone's release notes on credentials and delegation. What
somebody makes who acts by delegation carries the delegation's id in its blob, so that it is good for no
more than the delegation is; and whoever acts by delegation sees those of the delegation's project only.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from cairn.core.caller import Caller
from cairn.core.errors import Denied, Invalid, NotFound, OverQuota
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.identity.credentials import credential_store
from cairn.identity.credentials.credential_keys import CredentialKeys
from cairn.identity.credentials.credential_store import CREDENTIALS, Sealed

EC2 = "ec2"
PER_USER_MAX = 1000
_DELEGATIONS = {
    "trust": "trust_id",
    "application_credential": "app_cred_id",
    "oauth1": "access_token_id",
}
"""Under which names a blob says by what delegation it was made; Keystone's."""
_LASTING = (*_DELEGATIONS.values(), "access_id")


class Credential(Struct, frozen=True, kw_only=True):
    id: str
    user_id: str
    type: str
    blob: str
    project_id: str | None = None
    extra: dict[str, Any] = {}


def credential(tx: Tx, sealer: Sealer, id_: str) -> Credential:
    return opened(CredentialKeys(tx, sealer), sealed(tx, id_))


def sealed(tx: Tx, id_: str) -> Sealed:
    found = CREDENTIALS.get(tx, id_)
    if found is None:
        raise NotFound(f"Could not find credential: {id_}.")
    return found


def opened(keys: CredentialKeys, kept: Sealed) -> Credential:
    return Credential(
        id=kept.id,
        user_id=kept.user_id,
        type=kept.type,
        blob=keys.open(kept).decode(),
        project_id=kept.project_id,
        extra=kept.extra,
    )


def create(tx: Tx, sealer: Sealer, who: Caller, new: Credential) -> Credential:
    """Keep a new one. One of type ec2 gets its id from its access key, any other one a new id."""
    require_in_reach(who, new.project_id)
    if new.type.lower() == EC2:
        _require_may_make_keys(who)
        _require_project(new)
        blob = ec2_blob(new.blob)
        if who.delegation is not None:
            blob[_DELEGATIONS[who.delegation.kind]] = who.delegation.id
            new = msgspec.structs.replace(new, blob=msgspec.json.encode(blob).decode())
        new = msgspec.structs.replace(new, id=id_of(blob["access"]))
    if credential_store.count_of_user(tx, new.user_id) >= PER_USER_MAX:
        raise OverQuota(
            f"Unable to create additional credentials, maximum of {PER_USER_MAX} already exceeded"
            " for user."
        )
    CREDENTIALS.add(tx, _sealed(tx, sealer, new))
    return new


def update(
    tx: Tx, sealer: Sealer, who: Caller, old: Credential, changes: dict[str, Any]
) -> Credential:
    new = msgspec.structs.replace(old, **changes)
    for one in (old, new):
        require_in_reach(who, one.project_id)
    if new.type.lower() == EC2:
        _require_may_make_keys(who)
        _require_project(new)
    if old.type.lower() == EC2 and "blob" in changes:
        before, after = ec2_blob(old.blob), ec2_blob(new.blob)
        for name in _LASTING:
            if before.get(name) != after.get(name):
                raise Invalid(f"{name} can not be updated for credential")
    credential_store.save(tx, _sealed(tx, sealer, new))
    return new


def delete(tx: Tx, id_: str) -> None:
    CREDENTIALS.remove(tx, sealed(tx, id_).id)


def id_of(access: str) -> str:
    return hashlib.sha256(access.encode()).hexdigest()


def ec2_blob(text: str) -> dict[str, Any]:
    """What is in the blob of a credential of type ec2. Raises Invalid."""
    try:
        blob = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise Invalid(
            "Field 'credential.blob' of type ec2 must be a JSON object as text, with access and secret."
        ) from error
    if not isinstance(blob.get("access"), str) or not blob["access"]:
        raise Invalid("Field 'credential.blob' of type ec2 must have a text 'access'.")
    return blob


def is_in_reach(who: Caller, project_id: str | None) -> bool:
    """Whether the caller's delegation, if there is one, is for the credential's project."""
    return who.delegation is None or (project_id is not None and project_id == who.project_id)


def require_in_reach(who: Caller, project_id: str | None) -> None:
    if not is_in_reach(who, project_id):
        raise Denied("The credential's project is not the one that the token was delegated for.")


def _require_may_make_keys(who: Caller) -> None:
    lent = who.delegation
    if lent is not None and lent.kind == "application_credential" and not lent.may_delegate:
        raise Denied(
            "Using method 'application_credential' is not allowed for managing additional"
            " credentials."
        )


def _require_project(one: Credential) -> None:
    if one.project_id is None:
        raise Invalid("Field 'credential.project_id' is required for type ec2.")


def _sealed(tx: Tx, sealer: Sealer, one: Credential) -> Sealed:
    number, data = CredentialKeys(tx, sealer).seal(one.id, one.blob.encode())
    return Sealed(
        id=one.id,
        user_id=one.user_id,
        project_id=one.project_id,
        type=one.type,
        sealed=data,
        key_number=number,
        extra=one.extra,
    )
