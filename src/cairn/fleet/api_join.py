"""Join tokens for operators, and the two public routes by which a machine becomes a member.

A machine first asks for the authority's certificate, which its token lets it judge, and only then tells
the token's secret. Both sides count and say what they refuse.
"""

import base64
import binascii
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NoReturn

from msgspec import Meta, Struct

from cairn.core import log
from cairn.core.clock import Clock
from cairn.core.errors import Conflict, Denied, Invalid
from cairn.core.ids import NodeId
from cairn.db.engine import Database, Tx
from cairn.fleet import hosts, join
from cairn.fleet.attempts import Attempts
from cairn.fleet.join import LIFETIME_S, LIFETIME_S_MAX, Authority
from cairn.fleet.join_records import Applicant, Reason, Refusal, Token, Wishes
from cairn.fleet.records import DEFAULT_ZONE, Node
from cairn.http.call import Call
from cairn.http.faults import HttpFault
from cairn.http.routes import Reply, Route
from cairn.wire import token as wire_token

POLICY: Mapping[str, str] = {
    "cairn:tokens:create": "rule:admin",
    "cairn:tokens:list": "rule:admin",
    "cairn:tokens:revoke": "rule:admin",
}

_log = log.get("fleet.join")

Text = Annotated[str, Meta(max_length=255)]
HostName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,62}[A-Za-z0-9])?$")]
HostAddress = Annotated[str, Meta(pattern=r"^[A-Za-z0-9:]([A-Za-z0-9.:-]{0,253}[A-Za-z0-9:])?$")]

_KINDS = {Reason.USED: Conflict, Reason.NAME: Conflict, Reason.ADDRESS: Conflict}


class Addresses(Struct, frozen=True, kw_only=True):
    """Where a new host finds the control plane, the likeliest first; "host:port" each."""

    api: tuple[str, ...]
    node: tuple[str, ...] = ()  # of all control machines, if the operator has named them
    node_port: int = 8444


class Doors(Struct, frozen=True, kw_only=True):
    """What these routes stand on."""

    authority: Authority
    addresses: Callable[[], Awaitable[Addresses]]
    refused: Callable[[str], None]  # counts, by reason
    clock: Clock


class NewToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    roles: tuple[Text, ...] = ("compute", "storage")
    zone: Text = DEFAULT_ZONE
    rack: Text = ""
    labels: dict[str, str] = {}
    expires_in_s: Annotated[int, Meta(ge=60, le=LIFETIME_S_MAX)] = LIFETIME_S


class CreateToken(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    token: NewToken


class Application(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine says of itself; `request` is PKCS #10 in PEM, and only its key counts."""

    secret: Annotated[str, Meta(max_length=64)]
    request: Annotated[str, Meta(max_length=8192)]
    hostname: HostName
    address: HostAddress
    agent_version: Annotated[str, Meta(max_length=64)] = ""


class Join(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    join: Application


def routes(doors: Doors) -> tuple[Route, ...]:
    desk = _Desk(doors)
    return (
        Route(
            method="POST", path="/cairn/v1/tokens", rule="cairn:tokens:create",
            run=desk.create_token, body=CreateToken, status=201,
        ),
        Route(method="GET", path="/cairn/v1/tokens", rule="cairn:tokens:list", do=_list_tokens),
        Route(
            method="DELETE", path="/cairn/v1/tokens/{token_id}", rule="cairn:tokens:revoke",
            do=_revoke_token, status=204,
        ),
        Route(method="GET", path="/cairn/v1/authority", rule=None, run=desk.show_authority),
        Route(method="POST", path="/cairn/v1/join", rule=None, run=desk.join, body=Join),
        Route(method="GET", path="/cairn/v1/join/{node_id}", rule=None, run=desk.show_member),
    )  # fmt: skip


class _Desk:
    """Where machines come to join."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._attempts = Attempts(doors.clock)

    async def create_token(self, database: Database, call: Call[CreateToken]) -> Any:
        asked = call.body.token
        wishes = Wishes(
            roles=hosts.require_roles(asked.roles),
            zone=hosts.require_word(asked.zone, "zone"),
            rack=hosts.require_word(asked.rack, "rack") if asked.rack else "",
            labels=hosts.merged_labels({}, dict(asked.labels)),
        )
        addresses = await self._doors.addresses()
        made, secret = await database.write(
            lambda tx: join.create_token(tx, wishes, lifetime_s=asked.expires_in_s)
        )
        text = wire_token.encode(
            wire_token.JoinToken(
                addresses=addresses.api,
                fingerprint=self._doors.authority.fingerprint,
                secret=secret,
            )
        )
        return {"token": {**_token(made), "state": "open", "text": text}}

    async def show_authority(self, database: Database, call: Call[None]) -> Any:
        """The authority's certificate. Who says which one it looks for hears whether it is ours."""
        authority = self._doors.authority
        wanted = call.query.get("wanted")
        if wanted is not None and wanted.lower() != authority.fingerprint.hex():
            self._refuse(
                call,
                Refusal(
                    reason=Reason.OTHER_CLOUD,
                    message="The token is of another cloud: it was made by the authority"
                    f" {_shown(wanted)}, and this one is {authority.name},"
                    f" {wire_token.shown(authority.fingerprint)}.",
                ),
            )
        return Reply(body=authority.pem, content_type="application/x-pem-file")

    async def join(self, database: Database, call: Call[Join]) -> Any:
        asked, doors = call.body.join, self._doors
        self._require_patience(call)
        try:
            secret = _secret(asked.secret)
            request = asked.request.encode()
            key_digest = doors.authority.key_digest(request)
        except Invalid as error:
            self._refuse(call, Refusal(reason=Reason.BAD_REQUEST, message=error.message))
        if not doors.authority.may_be_at(asked.address):
            message = f"The address {asked.address} is the control plane's own."
            self._refuse(call, Refusal(reason=Reason.ADDRESS, message=message))
        who = Applicant(
            key_digest=key_digest,
            hostname=asked.hostname,
            address=asked.address,
            agent_version=asked.agent_version,
        )
        verdict = await database.write(lambda tx: join.join(tx, secret, who))
        if isinstance(verdict, Refusal):
            self._refuse(call, verdict)
        _log.info("host joins", node=verdict.id, hostname=verdict.hostname, peer=call.peer)
        certificate = doors.authority.issue(request, verdict.id, address=asked.address)
        addresses = await doors.addresses()
        return {
            "host": _host(verdict),
            "certificate": certificate.decode(),
            "authority": doors.authority.pem.decode(),
            "node_addresses": addresses.node,
            "node_port": addresses.node_port,
        }

    async def show_member(self, database: Database, call: Call[None]) -> Any:
        """What became of a machine that joined; for itself only, by the secret that it used."""
        self._require_patience(call)
        node_id = NodeId(call.path["node_id"])
        try:
            secret = _secret(call.headers.get("x-join-secret", ""))
        except Invalid:
            secret = b""
        node = await database.read(lambda tx: join.member(tx, secret, node_id))
        if node is None:
            message = (
                f"The secret in the header X-Join-Secret is not that of host {node_id}'s token."
            )
            self._refuse(call, Refusal(reason=Reason.UNKNOWN, message=message))
        return {"host": _host(node)}

    def _require_patience(self, call: Call[Any]) -> None:
        wait_s = self._attempts.wait_s(call.peer)
        if wait_s > 0:
            self._doors.refused(Reason.TOO_MANY)
            raise HttpFault(
                429,
                f"Too many refused attempts from {call.peer}: try again in {math.ceil(wait_s)} s.",
                {"Retry-After": str(math.ceil(wait_s))},
            )

    def _refuse(self, call: Call[Any], refusal: Refusal) -> NoReturn:
        self._attempts.failed(call.peer)
        self._doors.refused(refusal.reason)
        _log.warning("join refused", peer=call.peer, reason=refusal.reason, message=refusal.message)
        if refusal.reason is Reason.BAD_REQUEST:
            raise Invalid(refusal.message)
        raise _KINDS.get(refusal.reason, Denied)(refusal.message)


def _list_tokens(tx: Tx, call: Call[None]) -> Any:
    return {"tokens": [_token(one) | _state(one, tx) for one in join.tokens(tx)]}


def _revoke_token(tx: Tx, call: Call[None]) -> Any:
    join.revoke_token(tx, call.path["token_id"])


def _secret(text: str) -> bytes:
    """Raises Invalid."""
    try:
        return join.require_secret(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        )
    except (binascii.Error, ValueError) as error:
        raise Invalid("secret: this is not base64url.") from error


def _shown(wanted: str) -> str:
    try:
        return wire_token.shown(bytes.fromhex(wanted[:64]))
    except ValueError:
        return "(no fingerprint)"


def _token(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "roles": token.roles,
        "zone": token.zone,
        "rack": token.rack,
        "labels": token.labels,
        "made_at": token.made_at,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
        "used_by": token.used_by,
        "used_hostname": token.used_hostname,
    }


def _state(token: Token, tx: Tx) -> dict[str, str]:
    if token.used_by is not None:
        return {"state": "used"}
    return {"state": "expired" if token.expires_at <= tx.now else "open"}


def _host(node: Node) -> dict[str, Any]:
    return {
        "id": node.id,
        "hostname": node.hostname,
        "zone": node.zone,
        "rack": node.rack,
        "roles": node.roles,
        "state": node.state,
        "has_facts": node.facts is not None,
        "address": node.address,
    }
