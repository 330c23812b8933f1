"""The keys in the operator's API: which there are, and new ones. No route tells a key itself."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from cairn.db.engine import Tx
from cairn.db.secrets import Sealer
from cairn.http.call import Call
from cairn.http.routes import Route
from cairn.identity.credentials.credential_keys import key_ages, rotate_credential_keys
from cairn.identity.keys import KeyRepository

POLICY: Mapping[str, str] = {"cairn:keys:list": "rule:admin", "cairn:keys:rotate": "rule:admin"}
FERNET, CREDENTIALS = "fernet", "credentials"

Kind = Literal["fernet", "credentials"]


class Rotate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    kinds: Annotated[tuple[Kind, ...], Meta(min_length=1, max_length=2)]


class RotateKeys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rotate: Rotate


def routes(keys: KeyRepository, sealer: Sealer) -> tuple[Route, ...]:
    def list_keys(tx: Tx, call: Call[None]) -> Any:
        return {"keys": _all(tx, keys, sealer)}

    def rotate(tx: Tx, call: Call[RotateKeys]) -> Any:
        kinds = call.body.rotate.kinds
        if FERNET in kinds:
            keys.rotate(tx)
        sealed = rotate_credential_keys(tx, sealer) if CREDENTIALS in kinds else None
        return {"keys": _all(tx, keys, sealer), "credentials_sealed": sealed}

    path = "/cairn/v1/keys"
    return (
        Route(method="GET", path=path, rule="cairn:keys:list", do=list_keys),
        Route(
            method="POST", path=f"{path}/rotate", rule="cairn:keys:rotate", do=rotate,
            body=RotateKeys,
        ),
    )  # fmt: skip


def _all(tx: Tx, keys: KeyRepository, sealer: Sealer) -> list[dict[str, Any]]:
    fernet = [
        {
            "kind": FERNET,
            "number": key.number,
            "state": key.state,
            "since": tx.now - timedelta(seconds=key.age_s),
            "needed_until": (
                None if key.needed_s is None else tx.now + timedelta(seconds=key.needed_s)
            ),
        }
        for key in keys.shown(tx)
    ]
    ages = key_ages(tx, sealer)
    credentials = [
        {
            "kind": CREDENTIALS,
            "number": number,
            "state": "primary" if number == max(ages) else "retired",
            "since": tx.now - timedelta(seconds=age_s),
            "needed_until": None,
        }
        for number, age_s in sorted(ages.items(), reverse=True)
    ]
    return [*fernet, *credentials]
