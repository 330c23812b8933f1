"""The machine's side of a join: find the control plane, judge it, be judged, keep what was given.

Every step may be cut off and done again. The key is made and kept before anybody is asked, so the control
plane knows the machine again; `membership.json` is written last and means that all is there.
"""

import base64
import http.client
import json
import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Struct

from cairn import __version__
from cairn.core.errors import CloudError, Conflict, Denied, Invalid, Unavailable
from cairn.host import certs, prepare, private_files
from cairn.settings import Settings
from cairn.wire import token as wire_token
from cairn.wire.addresses import joined, split
from cairn.wire.token import JoinToken

API_PORT = 8443
CONNECT_S_MAX = 5.0  # for each address of the control plane: some may not be ours to reach
ANSWER_S_MAX = 30.0

Tell = Callable[[str], None]


class Wish(Struct, frozen=True, kw_only=True):
    """What the operator at the machine may say."""

    name: str = ""
    address: str = ""  # of this host; empty: the one that the control plane is reached from


class Found(Struct, frozen=True, kw_only=True):
    """The control plane that the token is of."""

    host: str
    port: int
    authority: bytes  # PEM
    own_address: str  # from which it was reached


class Standing(Struct, frozen=True, kw_only=True):
    """What the control plane says of this host."""

    id: str
    hostname: str
    zone: str
    roles: tuple[str, ...]
    state: str
    has_facts: bool

    @property
    def is_at_work(self) -> bool:
        return self.state == "up" and self.has_facts


class _Given(Struct, frozen=True, kw_only=True):
    host: Standing
    certificate: str
    authority: str
    node_addresses: tuple[str, ...]
    node_port: int


def require_joinable(settings: Settings, token: JoinToken) -> bool:
    """Whether the host is a member of the token's cloud already, and can prove it. Raises Conflict: it
    has another cloud."""
    if settings.membership_file.exists():
        where = certs.paths(settings.certs_dir)
        held = where.authority.read_bytes()
        if certs.fingerprint(held) == token.fingerprint:
            # One that was off for too long joins again; by its key it is the same host.
            return not certs.has_expired(where.node)
        raise Conflict(
            f"this host is a member of another cloud, {wire_token.shown(certs.fingerprint(held))}, and"
            f" the token is of {wire_token.shown(token.fingerprint)}: `cairn host remove` there first"
        )
    if settings.control_dir.exists():
        raise Conflict(
            f"a control plane of its own lives in {settings.state}: `cairn wipe` deletes it, or choose"
            " another state directory with --state"
        )
    return False


def join(settings: Settings, token: JoinToken, wish: Wish, tell: Tell) -> Standing:
    """Become a member. Raises Unavailable (nobody answers), Denied, Conflict, Invalid (refused)."""
    prepare.make_folders(settings)
    where = certs.paths(settings.certs_dir)
    key = certs.ensure_key(where.node_key)
    found = find(token, tell)
    address = wish.address or found.own_address
    tell(f"asking {joined(found.host, found.port)} to be taken in")
    body = {
        "secret": _text(token.secret),
        "request": certs.request_for(key).decode(),
        "hostname": wish.name or socket.gethostname(),
        "address": address,
        "agent_version": __version__,
    }
    said = _call(found, "POST", "/cairn/v1/join", {"join": body})
    given = msgspec.convert(said, _Given)
    certificate = given.certificate.encode()
    if not certs.is_for_key(certificate, key, found.authority):
        raise Denied("the control plane gave a certificate that is not for this host's key")
    private_files.write(where.authority, found.authority, mode=0o644)
    private_files.write(where.node, certificate)
    private_files.write(settings.node_id_file, f"{given.host.id}\n", mode=0o644)
    others = (a for a in given.node_addresses if split(a, given.node_port)[0] != found.host)
    membership = {
        "control": False,
        "roles": given.host.roles,
        "control_addresses": (joined(found.host, given.node_port), *others),
        "host_address": address,
        "host_name": wish.name,
    }
    private_files.write(settings.membership_file, json.dumps(membership, indent=2) + "\n")
    return given.host


def find(token: JoinToken, tell: Tell) -> Found:
    """The first of the token's addresses at which its control plane answers. Raises Unavailable, Denied."""
    failed = []
    for address in token.addresses:
        host, port = split(address, API_PORT)
        tell(f"looking for the control plane at {address}")
        try:
            return _judge(token, host, port)
        except Unavailable as error:
            failed.append(f"{address}: {error.because or error.message}")
    raise Unavailable(
        "the control plane cannot be reached at any address of the token", because="; ".join(failed)
    )


def standing(found: Found, token: JoinToken, node_id: str) -> Standing:
    """What the control plane says of this host by now. Raises Unavailable, Denied."""
    headers = {"x-join-secret": _text(token.secret)}
    said = _call(found, "GET", f"/cairn/v1/join/{quote(node_id)}", headers=headers)
    return msgspec.convert(said["host"], Standing)


def _judge(token: JoinToken, host: str, port: int) -> Found:
    """Take the authority's certificate from whoever answers, and believe it by its fingerprint alone."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, context=blind, timeout=CONNECT_S_MAX)
    try:
        connection.request("GET", f"/cairn/v1/authority?wanted={token.fingerprint.hex()}")
        own_address = str(connection.sock.getsockname()[0])
        answer = connection.getresponse()
        said = answer.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable("no answer", because=str(error)) from error
    finally:
        connection.close()
    if answer.status != 200:
        raise _refusal(answer.status, said)
    if certs.fingerprint(said) != token.fingerprint:
        raise Denied(
            f"{joined(host, port)} is not the control plane that made the token: its authority is"
            f" {wire_token.shown(certs.fingerprint(said))}, the token's is"
            f" {wire_token.shown(token.fingerprint)}. Nothing was told to it."
        )
    return Found(host=host, port=port, authority=said, own_address=own_address)


def _call(
    found: Found,
    method: str,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
) -> Any:
    context = ssl.create_default_context(cadata=found.authority.decode())
    connection = http.client.HTTPSConnection(
        found.host, found.port, context=context, timeout=ANSWER_S_MAX
    )
    content = None if body is None else json.dumps(body).encode()
    known = {"content-type": "application/json", **(headers or {})}
    try:
        connection.request(method, path, body=content, headers=known)
        answer = connection.getresponse()
        said = answer.read()
    except ssl.SSLCertVerificationError as error:
        raise Denied(
            f"the control plane cannot prove that it is {found.host}: its certificate names other"
            " addresses; `cairn up` there again takes new ones in",
            because=str(error),
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(
            f"the control plane at {joined(found.host, found.port)} does not answer",
            because=str(error),
        ) from error
    finally:
        connection.close()
    if answer.status >= 400:
        raise _refusal(answer.status, said)
    return json.loads(said)


def _refusal(status: int, said: bytes) -> CloudError:
    try:
        message = str(json.loads(said)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        message = said[:200].decode(errors="replace")
    if status in (429, 503):
        return Unavailable(f"the control plane cannot take this host now: {message}")
    kinds: dict[int, type[CloudError]] = {400: Invalid, 409: Conflict}
    return kinds.get(status, Denied)(f"the control plane refuses this host: {message}")


def _text(secret: bytes) -> str:
    return base64.urlsafe_b64encode(secret).decode().rstrip("=")
