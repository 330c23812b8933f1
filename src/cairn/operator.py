"""The operator's API under `/cairn/v1`: one service, put together of what each part has for operators.

A part gives a tuple of routes and a policy table; paths are whole, from the root. It is no OpenStack
API and stands in no catalog: the `cairn` command is its client.
"""

from collections.abc import Iterable, Mapping

from cairn.http import faults
from cairn.http.routes import Route, Service

Part = tuple[tuple[Route, ...], Mapping[str, str]]


def service(parts: Iterable[Part]) -> Service:
    """All parts as one service."""
    routes: tuple[Route, ...] = ()
    policy: dict[str, str] = {}
    for more, rules in parts:
        routes += more
        policy |= rules
    return Service(
        name="cairn",
        kind="cairn",
        root="",
        catalog_path="/cairn/v1",
        policy=policy,
        shape_fault=faults.keystone,
        routes=routes,
    )
