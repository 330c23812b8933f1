"""OAuth 1.0a signatures: what a signed request says, and whether the secrets have signed it.

Source: RFC 5849, sections 3.1 to 3.4. HMAC only: a signature in plain text would show the secrets to
whoever sees the request.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from oauthlib.common import Request
from oauthlib.oauth1.rfc5849 import signature, utils

from cairn.core.errors import Invalid

VERIFIERS: Mapping[str, Callable[..., bool]] = {
    "HMAC-SHA1": signature.verify_hmac_sha1,
    "HMAC-SHA256": signature.verify_hmac_sha256,
    "HMAC-SHA512": signature.verify_hmac_sha512,
}
CLOCK_SECONDS_MAX = 600  # by which a client's clock may differ from ours
CHARACTERS_MAX = 8192
_NOT_TEXT = set("\0\r\n")


class Signed(Struct, frozen=True, kw_only=True):
    """A signed request. The signature is not verified yet."""

    consumer_id: str
    token_id: str | None
    verifier: str | None
    nonce: str
    timestamp: int
    method: str
    signature: str
    parameters: tuple[tuple[str, str], ...]  # all that are signed
    http_method: str
    url: str

    def is_by(self, consumer_secret: str, token_secret: str | None) -> bool:
        request = Request(self.url, http_method=self.http_method)
        request.params = list(self.parameters)
        request.signature = self.signature
        try:
            return bool(VERIFIERS[self.method](request, consumer_secret, token_secret))
        except ValueError:  # The client's idea of our address is none.
            return False

    def is_recent(self, now: datetime) -> bool:
        return abs(now.timestamp() - self.timestamp) <= CLOCK_SECONDS_MAX


def read(
    http_method: str, url: str, query: Sequence[tuple[str, str]], authorization: str | None
) -> Signed:
    """The request as its Authorization header describes it. Raises Invalid, naming what is missing."""
    given = _header(authorization)
    fields = dict(given)
    if fields.get("oauth_version", "1.0") != "1.0":
        raise Invalid("oauth_version must be 1.0.")
    method = _required(fields, "oauth_signature_method")
    if method not in VERIFIERS:
        raise Invalid(f"oauth_signature_method must be one of {', '.join(VERIFIERS)}.")
    timestamp = _required(fields, "oauth_timestamp")
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) == 10):
        raise Invalid("oauth_timestamp must be the seconds since 1970.")
    in_header = [(k, v) for k, v in given if k not in ("realm", "oauth_signature")]
    return Signed(
        consumer_id=_required(fields, "oauth_consumer_key"),
        token_id=fields.get("oauth_token"),
        verifier=fields.get("oauth_verifier"),
        nonce=_required(fields, "oauth_nonce"),
        timestamp=int(timestamp),
        method=method,
        signature=_required(fields, "oauth_signature"),
        parameters=(*query, *in_header),
        http_method=http_method,
        url=url,
    )


def _header(text: str | None) -> list[tuple[str, str]]:
    if not text:
        raise Invalid("The header Authorization is missing: the request must be signed.")
    if len(text) > CHARACTERS_MAX or not text.lower().startswith("oauth "):
        raise Invalid("The header Authorization is no signature: it must begin with OAuth.")
    try:
        given = utils.parse_authorization_header(text)
        found = [(utils.unescape(name), utils.unescape(value)) for name, value in given]
    except ValueError as error:
        raise Invalid("The header Authorization is malformed.") from error
    if any(_NOT_TEXT & set(name + value) for name, value in found):
        raise Invalid("The header Authorization is malformed.")
    return found


def _required(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name)
    if not value or len(value) > 255:
        raise Invalid(f"Expecting to find {name} in request.")
    return value
