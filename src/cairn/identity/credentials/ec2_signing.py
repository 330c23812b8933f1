"""Signatures of EC2's and S3's clients: what a secret key makes of a request.

EC2: Amazon's signature versions 0, 1 and 2 over the parameters, 4 over the whole request ("Signing AWS API
requests", and for the older ones "Amazon EC2 Developer Guide", 2012). S3: version 2's string, or version
4's, made by the service that was asked, which sends it here to have the signature checked.

A service tells of the request as Keystone's clients do: verb, host, path, params, headers, body_hash.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import quote

from msgspec import Meta, Struct

from cairn.core.errors import Unauthenticated

ALGORITHM = "AWS4-HMAC-SHA256"
TTL = timedelta(minutes=15)
_S3_SERVICES = ("s3", "iam", "sts")
_SIGNATURES = ("Signature", "X-Amz-Signature")
_REFUSAL = "Invalid EC2 signature."

Text = Annotated[str, Meta(max_length=8192)]
Texts = Annotated[dict[Text, str | int | float | bool | None], Meta(max_length=256)]


class Signed(Struct, frozen=True, kw_only=True):
    """A signed request, as the service tells of it that received it."""

    access: Text | None = None
    signature: Text | None = None
    host: Text = ""
    verb: Text = ""
    path: Text = ""
    params: Texts = {}
    headers: Texts = {}
    body_hash: Text = ""
    token: Annotated[str, Meta(max_length=64 * 1024)] | None = (
        None  # S3: the string that was signed
    )


def require_ec2(signed: Signed, secret: str) -> None:
    """Unauthenticated unless the secret key made the signature."""
    if not signed.signature:
        raise Unauthenticated("EC2 signature not supplied.")
    hosts = [signed.host]
    name, colon, port = signed.host.rpartition(":")
    if colon and port.isdecimal():
        hosts.append(name)  # Some clients sign without the port.
    if not any(_is_same(signed.signature, _ec2(signed, secret, host)) for host in hosts):
        raise Unauthenticated(_REFUSAL)


def require_s3(signed: Signed, secret: str) -> None:
    """Unauthenticated unless the secret key made the signature of the string in `token`."""
    if not signed.signature or not signed.token:
        raise Unauthenticated("Credential signature mismatch")
    try:
        text = base64.b64decode(signed.token.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError as error:
        raise Unauthenticated("Credential signature mismatch") from error
    made = _s3_v4(text, secret) if text.startswith(b"AWS4") else _hmac_text(secret, text, "sha1")
    if not _is_same(signed.signature, made):
        raise Unauthenticated("Credential signature mismatch")


def require_recent(signed: Signed, now: datetime) -> None:
    """Unauthenticated when the request says that it is older than a quarter of an hour, or as far ahead."""
    told = _Fields(signed.params).get("Timestamp") or _date(signed)
    if not told:
        return  # It does not say: then the signer did not want it to.
    try:
        moment = datetime.fromisoformat(told)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Unauthenticated("Credential timestamp is invalid") from error
    if abs(now - moment) > TTL:
        raise Unauthenticated("Credential is expired")


class _Fields:
    """Values by name as text; headers' names mean the same in either case."""

    def __init__(self, values: Texts, *, any_case: bool = False) -> None:
        self._any_case = any_case
        self.values = {self._key(k): _text(v) for k, v in values.items() if v is not None}

    def get(self, name: str) -> str | None:
        return self.values.get(self._key(name))

    def _key(self, name: str) -> str:
        return name.strip().lower() if self._any_case else name


def _ec2(signed: Signed, secret: str, host: str) -> str:
    params = _Fields({k: v for k, v in signed.params.items() if k not in _SIGNATURES})
    match params.get("SignatureVersion"):
        case "0":
            text = (params.get("Action") or "") + (params.get("Timestamp") or "")
            return _hmac_text(secret, text.encode(), "sha1")
        case "1":
            pairs = sorted(params.values.items(), key=lambda pair: pair[0].lower())
            return _hmac_text(secret, "".join(k + v for k, v in pairs).encode(), "sha1")
        case "2":
            return _ec2_v2(signed, params, secret, host)
        case _:
            return _ec2_v4(signed, params, secret, host)


def _ec2_v2(signed: Signed, params: _Fields, secret: str, host: str) -> str:
    algorithm = "sha1" if params.get("SignatureMethod") == "HmacSHA1" else "sha256"
    values = {"SignatureMethod": "HmacSHA256", **params.values}
    text = "\n".join((signed.verb, host, signed.path, _query(values)))
    return _hmac_text(secret, text.encode(), algorithm)


def _ec2_v4(signed: Signed, params: _Fields, secret: str, host: str) -> str:
    """Signature and what it covers stand in the header Authorization, or in parameters."""
    headers = _Fields(signed.headers, any_case=True)
    header = headers.get("Authorization") or ""
    if header.startswith(ALGORITHM):
        given = dict(
            part.strip().partition("=")[::2] for part in header.removeprefix(ALGORITHM).split(",")
        )
        credential, names = given.get("Credential", ""), given.get("SignedHeaders", "")
    elif params.get("X-Amz-Algorithm") == ALGORITHM:
        credential = params.get("X-Amz-Credential") or ""
        names = params.get("X-Amz-SignedHeaders") or ""
    else:
        raise Unauthenticated(_REFUSAL, because="neither version 0, 1, 2 nor 4")
    scope, date = credential.split("/")[1:], _date(signed) or ""
    if len(scope) != 4 or scope[3] != "aws4_request" or not date.startswith(scope[0]):
        raise Unauthenticated(_REFUSAL, because="the date is not the one of the credential")
    known = dict(headers.values)
    if host != signed.host or "host" not in known:
        known["host"] = host
    if "host" not in names.lower().split(";"):
        raise Unauthenticated(_REFUSAL, because="the host is not signed")
    is_form = signed.verb.upper() == "POST"  # Then the parameters are the body, which has its hash.
    request = "\n".join(
        (
            signed.verb.upper(),
            signed.path,
            "" if is_form else _query(params.values),
            *(
                f"{name}:{' '.join(known[name].split())}"
                for name in names.split(";")
                if name in known
            ),
            "",
            names,
            signed.body_hash,
        )
    )
    hashed = hashlib.sha256(request.encode()).hexdigest()
    text = "\n".join((ALGORITHM, date, "/".join(scope), hashed))
    return hmac.new(_v4_key(secret, scope), text.encode(), "sha256").hexdigest()


def _s3_v4(text: bytes, secret: str) -> str:
    """`text`: algorithm, time, scope and the request's hash, a line each."""
    try:
        algorithm, _, scope_text, _ = text.decode().split("\n")
    except (ValueError, UnicodeDecodeError) as error:
        raise Unauthenticated(_REFUSAL) from error
    scope = scope_text.split("/")
    if algorithm != ALGORITHM or len(scope) != 4 or scope[3] != "aws4_request":
        raise Unauthenticated(_REFUSAL)
    if scope[2] not in _S3_SERVICES:
        raise Unauthenticated(_REFUSAL, because="a signature for another service")
    return hmac.new(_v4_key(secret, scope), text, "sha256").hexdigest()


def _v4_key(secret: str, scope: list[str]) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _date(signed: Signed) -> str | None:
    headers = _Fields(signed.headers, any_case=True)
    return headers.get("X-Amz-Date") or _Fields(signed.params).get("X-Amz-Date")


def _query(values: Mapping[str, str]) -> str:
    return "&".join(f"{_quoted(k)}={_quoted(v)}" for k, v in sorted(values.items()))


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _hmac_text(secret: str, text: bytes, algorithm: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), text, algorithm)).decode()


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _is_same(given: str, made: str) -> bool:
    return hmac.compare_digest(given.strip().encode(), made.encode())
