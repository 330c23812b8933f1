"""Key pairs over the API: each user's own, and for administrators everybody's."""

import re
from typing import Any

from msgspec import UNSET, UnsetType

from cairn.compute import keypairs, quota
from cairn.compute.bodies import Strict, Text255
from cairn.compute.records import KeyPair
from cairn.compute.shapes import minor_of, time_text
from cairn.core.errors import Invalid
from cairn.core.ids import UserId
from cairn.db.engine import Tx
from cairn.http import pages
from cairn.http.call import Call
from cairn.http.routes import Reply, Route

_NAME = re.compile(r"[A-Za-z0-9 _-]{1,255}")
_NAME_SINCE_92 = re.compile(r"[A-Za-z0-9 _@.-]{1,255}")


class NewKeyPair(Strict, frozen=True, kw_only=True):
    name: Text255
    public_key: str | UnsetType = UNSET
    type: str | UnsetType = UNSET  # since 2.2
    user_id: Text255 | UnsetType = UNSET  # since 2.10


class CreateKeyPair(Strict, frozen=True, kw_only=True):
    keypair: NewKeyPair


def create(tx: Tx, call: Call[CreateKeyPair]) -> Reply:
    asked, minor = call.body.keypair, minor_of(call)
    for name, value, since in (("type", asked.type, 2), ("user_id", asked.user_id, 10)):
        if value is not UNSET and minor < since:
            raise Invalid(f"Additional properties are not allowed ('{name}' was unexpected)")
    kind = "ssh" if asked.type is UNSET else asked.type
    if kind not in ("ssh", "x509"):
        raise Invalid(
            f"Invalid input for field/attribute type: '{kind[:20]}' is neither ssh nor x509."
        )
    user_id = _user(call, None if asked.user_id is UNSET else asked.user_id)
    _require_name(asked.name, minor)
    quota.require_keypair(tx, call.who.project_id, user_id)
    private = None
    if asked.public_key is not UNSET:
        public = asked.public_key
    elif minor >= 92:
        raise Invalid("Invalid input for field/attribute keypair: 'public_key' is required.")
    elif kind == "x509":
        raise Invalid(
            "X.509 key pairs cannot be generated here; import a certificate as public_key."
        )
    else:
        private, public = keypairs.generated(tx.random_bytes(32))
    made = keypairs.add(tx, user_id, asked.name, kind, public)
    body = _brief(made, minor) | {"user_id": made.user_id}
    if private is not None:
        body["private_key"] = private
    return Reply(body={"keypair": body}, status=200 if minor < 2 else 201)


def index(tx: Tx, call: Call[None]) -> Any:
    minor = minor_of(call)
    user_id = _user(call, call.query.get("user_id") if minor >= 10 else None)
    page = pages.page_of(call) if minor >= 35 else pages.Page(limit=pages.LIMIT_MAX)
    if page.limit == 0:
        return {"keypairs": []}
    found = keypairs.list_keypairs(tx, user_id, limit=page.limit, marker=page.marker)
    body: dict[str, Any] = {"keypairs": [{"keypair": _brief(key, minor)} for key in found]}
    if minor >= 35 and len(found) == page.limit:
        href = pages.next_link(call, marker=found[-1].name)
        body["keypairs_links"] = [{"rel": "next", "href": href}]
    return body


def show(tx: Tx, call: Call[None]) -> Any:
    minor = minor_of(call)
    user_id = _user(call, call.query.get("user_id") if minor >= 10 else None)
    found = keypairs.get(tx, user_id, call.path["name"])
    body = _brief(found, minor) | {
        "user_id": found.user_id,
        "id": found.number,
        "created_at": time_text(found.created_at)[:-1] + ".000000",
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
    }
    return {"keypair": body}


def delete(tx: Tx, call: Call[None]) -> Reply:
    minor = minor_of(call)
    user_id = _user(call, call.query.get("user_id") if minor >= 10 else None)
    keypairs.delete(tx, user_id, call.path["name"])
    return Reply(status=202 if minor < 2 else 204)


def _user(call: Call[Any], wanted: str | None) -> UserId:
    """Whose key pairs. Raises Denied for another's, unless the caller is an administrator."""
    if wanted is None or wanted == call.who.user_id:
        return call.who.user_id
    call.require("os_compute_api:os-keypairs:other")
    return UserId(wanted)


def _require_name(name: str, minor: int) -> None:
    pattern = _NAME_SINCE_92 if minor >= 92 else _NAME
    if pattern.fullmatch(name) is None or not name.strip() or name != name.strip():
        more = "@._-" if minor >= 92 else "_-"
        raise Invalid(
            "Keypair data is invalid: the name must have 1 to 255 letters, digits, spaces and "
            f"'{more}', and no blanks around it."
        )


def _brief(key: KeyPair, minor: int) -> dict[str, Any]:
    body = {"name": key.name, "public_key": key.public_key, "fingerprint": key.fingerprint}
    if minor >= 2:
        body["type"] = key.kind
    return body


_RULE = "os_compute_api:os-keypairs"
_PATH = "/v2.1/os-keypairs"

ROUTES = (
    Route(method="GET", path=_PATH, rule=_RULE, do=index),
    Route(method="POST", path=_PATH, rule=_RULE, do=create, body=CreateKeyPair),
    Route(method="GET", path=_PATH + "/{name}", rule=_RULE, do=show),
    Route(method="DELETE", path=_PATH + "/{name}", rule=_RULE, do=delete, status=204),
)
