"""The one place that knows status codes, and the shape in which each service says no.

Shapes: facts 11-14 of the inventory of what clients check; api-ref of each service, "Faults".
"""

import html
from collections.abc import Mapping

import msgspec

from cairn.core.errors import (
    CloudError,
    Conflict,
    Denied,
    Invalid,
    NoCapacity,
    NotFound,
    OverQuota,
    Unauthenticated,
    Unavailable,
)

STATUSES: Mapping[type[CloudError], int] = {
    NotFound: 404,
    Conflict: 409,
    Invalid: 400,
    Unauthenticated: 401,
    Denied: 403,
    OverQuota: 403,
    NoCapacity: 409,
    Unavailable: 503,
}

TITLES: Mapping[int, str] = {
    400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 406: "Not Acceptable", 409: "Conflict", 411: "Length Required",
    412: "Precondition Failed", 413: "Request Entity Too Large", 415: "Unsupported Media Type",
    416: "Requested Range Not Satisfiable", 429: "Too Many Requests", 431: "Headers Too Large",
    500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip

_NOVA_NAMES: Mapping[int, str] = {
    400: "badRequest", 401: "unauthorized", 403: "forbidden", 404: "itemNotFound",
    405: "badMethod", 406: "notAcceptable", 409: "conflictingRequest", 413: "overLimit",
    415: "badMediaType", 429: "overLimit", 501: "notImplemented", 503: "serviceUnavailable",
}  # fmt: skip

JSON = "application/json"


class HttpFault(Exception):
    """A refusal that exists only in HTTP: 405, 406, 412, 415... For `http` and the slices' `api` only."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


def status_of(error: CloudError, overrides: Mapping[type[CloudError], int]) -> int:
    for kind in type(error).__mro__:
        if kind in overrides:
            return overrides[kind]
        if kind in STATUSES:
            return STATUSES[kind]
    return 500


def keystone(status: int, message: str) -> tuple[bytes, str]:
    title = TITLES.get(status, "Error")
    return _json({"error": {"code": status, "message": message, "title": title}})


def nova(status: int, message: str) -> tuple[bytes, str]:
    """Compute's and block storage's."""
    return _json({_NOVA_NAMES.get(status, "computeFault"): {"code": status, "message": message}})


_NEUTRON_TYPES: Mapping[int, str] = {
    400: "BadRequest", 401: "HTTPUnauthorized", 403: "PolicyNotAuthorized", 404: "HTTPNotFound",
    409: "Conflict", 412: "RevisionNumberConstraintFailed", 503: "ServiceUnavailable",
}  # fmt: skip


def neutron(status: int, message: str) -> tuple[bytes, str]:
    """`message` may start with a type of its own: "IpAddressAlreadyAllocated: ..."."""
    kind, colon, rest = message.partition(": ")
    if not colon or not kind.isidentifier() or not kind[0].isupper() or kind.islower():
        kind, rest = (
            _NEUTRON_TYPES.get(status, TITLES.get(status, "Error").replace(" ", "")),
            message,
        )
    return _json({"NeutronError": {"type": kind, "message": rest, "detail": ""}})


def glance(status: int, message: str) -> tuple[bytes, str]:
    title = f"{status} {TITLES.get(status, 'Error')}"
    page = (
        f"<html>\n <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n"
        f"  {html.escape(message)}<br /><br />\n </body>\n</html>"
    )
    return page.encode(), "text/html; charset=UTF-8"


def placement(status: int, message: str) -> tuple[bytes, str]:
    return _json(
        {"errors": [{"status": status, "title": TITLES.get(status, "Error"), "detail": message}]}
    )


def _json(body: object) -> tuple[bytes, str]:
    return msgspec.json.encode(body), JSON
