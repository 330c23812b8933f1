"""Every route of every service asked with tokens that are for no project: of the system, of a domain, of
nothing at all. They get a sane answer, and never a project's things."""

from collections.abc import Iterator
from typing import Any

import falcon.testing
import msgspec
import pytest

from cairn.core.caller import Caller
from cairn.core.errors import Unauthenticated
from cairn.core.ids import DomainId, ProjectId, UserId
from cairn.http.routes import Route, Service
from cairn.http.shell import Shell
from tests.callers import P1
from tests.http.everything import World, good_body, name_of
from tests.http.test_every_route import NEEDS_NO_ROLE, SHARED

_CHAIN = ("admin", "manager", "member", "reader")


def _caller(scope: str, role: str) -> Caller:
    """As its token would say."""
    roles = frozenset(_CHAIN[_CHAIN.index(role) :]) if role in _CHAIN else frozenset(role.split())
    return Caller(
        user_id=UserId(f"{scope}-{role}"),
        project_id=ProjectId(P1) if scope == "project" else None,
        project_domain_id=DomainId("default") if scope == "project" else None,
        scope_domain_id=DomainId("default") if scope == "domain" else None,
        is_system=scope == "system",
        roles=roles,
        is_admin=role == "admin" and scope != "domain",
    )


PERSONAS = {
    f"{scope} {role}": _caller(scope, role)
    for scope, role in (
        *((scope, role) for scope in ("system", "domain", "project") for role in _CHAIN),
        ("project", "service"),
        ("nothing", "nobody"),
    )
}
WITHOUT_A_PROJECT = [name for name in PERSONAS if not name.startswith("project")]
THEIRS = (
    "servers",
    "volumes",
    "snapshots",
    "ports",
    "routers",
    "networks",
    "floatingips",
    "images",
)
"""Kinds of which the world has one that is alice's alone."""


class Asker:
    """The world's services, asked by personas."""

    def __init__(self, world: World) -> None:
        self.world = world
        shell = Shell(services=world.services, database=world.database, authenticate=_by_name)
        self._client = falcon.testing.TestClient(shell.app)

    def ask(self, persona: str, service: Service, route: Route, body: Any = None) -> Any:
        url = self.world.url(service, route, "alice")
        headers = {"X-Auth-Token": persona}
        if service.versions is not None:
            newest = route.until or service.versions.maximum
            headers["OpenStack-API-Version"] = f"{service.versions.service} {newest}"
        data = None if body is None else msgspec.json.encode(body)
        return self._client.simulate_request(route.method, url, headers=headers, body=data)


def _by_name(token: str) -> Caller:
    if token not in PERSONAS:
        raise Unauthenticated("The token is not valid.")
    return PERSONAS[token]


@pytest.fixture(scope="module")
def asker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asker]:
    world = World("sqlite://", tmp_path_factory.mktemp("control"))
    yield Asker(world)
    world.database.close()


def check(failures: list[str]) -> None:
    assert not failures, f"{len(failures)}:\n" + "\n".join(failures)


@pytest.mark.parametrize("persona", PERSONAS)
def test_every_question_gets_a_sane_answer(asker: Asker, persona: str) -> None:
    failures = []
    for service, route in asker.world.routes():
        if route.changes or route.rule is None:
            continue
        answer = asker.ask(persona, service, route)
        if answer.status_code >= 500 or answer.status_code == 401:
            failures.append(f"{name_of(service, route)}: {answer.status_code} {answer.text[:120]}")
    check(failures)


@pytest.mark.parametrize("persona", [p for p in WITHOUT_A_PROJECT if p != "system admin"])
def test_a_token_for_no_project_shows_no_projects_things(asker: Asker, persona: str) -> None:
    """Neither one that is named, nor in a list."""
    theirs = {kind: asker.world.ids[kind] for kind in THEIRS}
    failures = []
    for service, route in asker.world.routes():
        if route.changes or service.name == "keystone":
            continue  # What identity shows to whom is in tests/identity/test_personas.py.
        name = name_of(service, route)
        answer = asker.ask(persona, service, route)
        if answer.status_code >= 300 or name in SHARED:
            continue
        failures += [f"{name}: shows {kind}" for kind, id_ in theirs.items() if id_ in answer.text]
    check(failures)


@pytest.mark.parametrize(
    "persona", [p for p in WITHOUT_A_PROJECT if "admin" not in p and p != "domain manager"]
)
def test_who_may_only_read_changes_nothing(asker: Asker, persona: str) -> None:
    world, failures = asker.world, []
    before = world.fingerprint()
    for service, route in world.routes():
        if not route.changes or route.rule is None or route.streams:
            continue
        if name_of(service, route) in NEEDS_NO_ROLE:
            continue
        body = good_body(world, service, route) if route.body is not None else None
        answer = asker.ask(persona, service, route, body)
        if answer.status_code >= 500:
            failures.append(f"{name_of(service, route)}: {answer.status_code}")
        if world.fingerprint() != before:
            failures.append(f"{name_of(service, route)}: {answer.status_code}, changed something")
            before = world.fingerprint()
    check(failures)


@pytest.mark.parametrize("persona", ["system admin", "domain admin", "domain manager"])
def test_those_who_may_change_much_break_nothing(
    persona: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """There is no project to make a thing in: that is refused, not stumbled over."""
    world = World("sqlite://", tmp_path_factory.mktemp("control"))
    asker, failures = Asker(world), []
    for service, route in world.routes():
        if not route.changes or route.rule is None or route.streams:
            continue
        if route.method == "DELETE":
            continue  # What is deleted is not there for the next.
        body = good_body(world, service, route) if route.body is not None else None
        answer = asker.ask(persona, service, route, body)
        if answer.status_code >= 500:
            failures.append(f"{name_of(service, route)}: {answer.status_code} {answer.text[:100]}")
    world.database.close()
    check(failures)
