"""The one line that makes a machine a member: where the control plane is, how to know it, and a secret.

`cairn1.` and the base64url of a msgpack array. The fingerprint is what lets the machine believe a control
plane that it has never met; the secret is what lets the control plane believe the machine, once.
"""

import base64
import binascii
import hashlib
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from cairn.core.errors import Invalid

PREFIX = "cairn1."
SECRET_BYTES = 32
TEXT_CHARS_MAX = 4096

Address = Annotated[str, Meta(min_length=1, max_length=255)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]


class JoinToken(Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    addresses: Annotated[
        tuple[Address, ...], Meta(min_length=1, max_length=16)
    ]  # host:port of the API
    fingerprint: Digest  # SHA-256 of the authority's certificate (DER)
    secret: Digest


_decoder = msgspec.msgpack.Decoder(JoinToken)


def encode(token: JoinToken) -> str:
    packed = base64.urlsafe_b64encode(msgspec.msgpack.encode(token))
    return PREFIX + packed.decode().rstrip("=")


def decode(text: str) -> JoinToken:
    """Raises Invalid saying in which way the text is no token."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise Invalid(f"This is no join token: it must begin with '{PREFIX}'.")
    body = text.removeprefix(PREFIX)
    if len(text) > TEXT_CHARS_MAX:
        raise Invalid("This is no join token: it is too long.")
    try:
        packed = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        return _decoder.decode(packed)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise Invalid(
            "The join token is damaged: copy it whole, in one line.", because=str(error)
        ) from error


def digest(secret: bytes) -> str:
    """What the control plane keeps of a secret: it cannot be turned back."""
    return hashlib.sha256(secret).hexdigest()


def shown(fingerprint: bytes) -> str:
    """A fingerprint as people compare it: its first 16 bytes in groups."""
    text = fingerprint[:16].hex()
    return ":".join(text[i : i + 4] for i in range(0, len(text), 4))
