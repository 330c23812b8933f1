"""How much of everything may come in, and how long it may take. Values, and what a body must keep.

None of these is a setting: what clients of OpenStack send is known, and stays far below each.
"""

import re

from msgspec import Struct

from cairn.core.errors import Invalid


class Limits(Struct, frozen=True, kw_only=True):
    """Of one connection, before anybody knows what it asks for."""

    # Neutron's own client splits what it asks into addresses of 8 KiB.
    url_bytes_max: int = 16 << 10
    # All of a request's lines before its body, the address included.
    head_bytes_max: int = 32 << 10
    headers_max: int = 100
    # From the first byte of a request to the end of its headers, and from the handshake to the first byte.
    head_s: float = 20.0
    handshake_s: float = 10.0
    # Between two requests. Balancers keep theirs for a minute.
    idle_s: int = 75
    # Between two pieces of a body, while somebody waits for it.
    body_stall_s: float = 30.0
    # How long what a client still sends is thrown away after it has its answer.
    leftover_s: float = 10.0
    # How long what was written to a closed connection may wait to be taken.
    farewell_s: float = 10.0
    # A client that takes less than this much of its answer, in this time, does not want it.
    stall_s: float = 30.0
    stall_bytes_min: int = 30 << 10
    # Connections of all, and of one address that is no trusted proxy.
    connections_max: int = 8192
    connections_per_address_max: int = 1024


BODY_S = 30.0  # for a whole JSON body
STREAM_BYTES_PER_S_MIN = 1 << 10  # of an upload, once it has lasted for a while
STREAM_GRACE_S = 120.0
QUERY_FIELDS_MAX = 1000
DEPTH_MAX = 64  # lists and objects in each other
DIGITS_MAX = 400  # of a number in a body; a double has at most 309 before the point

_MARK = re.compile(rb'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)
_DIGITS = re.compile(rb"[0-9]{%d}" % (DIGITS_MAX + 1))


def require_shallow(data: bytes) -> None:
    """Invalid if a JSON text is nested too deep for what handles it. Cheap where it cannot be."""
    if data.count(b"[") + data.count(b"{") <= DEPTH_MAX:
        return
    depth = 0
    for found in _MARK.finditer(data):
        mark = found[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth > DEPTH_MAX:
                raise Invalid(
                    f"Invalid input: lists and objects are nested more than {DEPTH_MAX} deep."
                )
        elif mark in (b"]", b"}"):
            depth -= 1


def require_short_numbers(data: bytes) -> None:
    """Invalid if a JSON text has a number that no field could take, and that is dear to read."""
    if len(data) > DIGITS_MAX and _DIGITS.search(data) and _has_long_number(data):
        raise Invalid(f"Invalid input: a number has more than {DIGITS_MAX} digits.")


def _has_long_number(data: bytes) -> bool:
    """Digits in texts are no numbers: keys and user data may be long."""
    return _DIGITS.search(_MARK.sub(b" ", data)) is not None
