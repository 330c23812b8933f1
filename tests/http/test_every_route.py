"""Promises that every route of every service keeps, asked of the route tables themselves.

No token, a forged one, one without roles; somebody else's things and things that never were; bodies that
are no JSON, too deep, too long, of the wrong type. Refused requests change nothing. An exception is a line
of data with its reason, and one that is not needed any more fails.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from cairn.http import shell
from cairn.http.routes import Route, Service
from tests.http.everything import (
    UNKNOWN,
    Variable,
    World,
    good_body,
    guesses,
    is_own_project,
    name_of,
    spoilt,
    variables,
)

_WEBSSO = "/v3/auth/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/websso"
_IDP = "an identity provider vouches for the user"
PUBLIC: Mapping[str, str] = {
    "keystone GET /": "discovery",
    "keystone GET /v3": "discovery",
    "keystone POST /v3/auth/tokens": "signing in",
    "keystone POST /v3/OS-OAUTH1/request_token": "the consumer's signature is the proof",
    "keystone POST /v3/OS-OAUTH1/access_token": "the consumer's signature is the proof",
    "keystone POST /v3/users/{user_id}/password": "an expired password is changed without a token",
    "keystone GET /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth": _IDP,
    "keystone POST /v3/OS-FEDERATION/identity_providers/{idp_id}/protocols/{protocol_id}/auth": _IDP,
    f"keystone GET {_WEBSSO}": _IDP,
    f"keystone POST {_WEBSSO}": _IDP,
    f"keystone GET {_WEBSSO}/callback": _IDP,
    "keystone GET /v3/auth/OS-FEDERATION/websso/{protocol_id}": _IDP,
    "keystone POST /v3/auth/OS-FEDERATION/websso/{protocol_id}": _IDP,
    "glance GET /": "discovery",
    "glance GET /versions": "discovery",
    "glance GET /v2": "discovery",
    "cinder GET /": "discovery",
    "cinder GET /v3": "discovery",
    "neutron GET /": "discovery",
    "neutron GET /v2.0": "discovery",
    "nova GET /": "discovery",
    "nova GET /v2": "discovery",
    "nova GET /v2.1": "discovery",
    "keystone GET /openapi.json": "what the API is",
    "glance GET /openapi.json": "what the API is",
    "cinder GET /openapi.json": "what the API is",
    "neutron GET /openapi.json": "what the API is",
    "nova GET /openapi.json": "what the API is",
    "cairn GET /openapi.json": "what the API is",
    "cairn GET /healthz": "load balancers ask it",
    "cairn GET /metrics": "a scraper's own secret, or an operator's token, which it asks for itself",
    "cairn GET /cairn/v1/authority": "a machine that joins judges it by its fingerprint",
    "cairn POST /cairn/v1/join": "the token's secret is the proof",
    "cairn GET /cairn/v1/join/{node_id}": "the token's secret is the proof",
}
"""Routes without a token, with the reason."""

_OWN = "about the token itself"
_SAME = "the same for everybody"
NEEDS_NO_ROLE: Mapping[str, str] = {
    "keystone GET /v3/regions": _SAME,
    "keystone GET /v3/regions/{region_id}": _SAME,
    "keystone GET /v3/registered_limits": _SAME,
    "keystone GET /v3/registered_limits/{registered_limit_id}": _SAME,
    "keystone GET /v3/limits": "the project's own",
    "keystone GET /v3/limits/model": _SAME,
    "keystone GET /v3/auth/tokens": _OWN,
    "keystone DELETE /v3/auth/tokens": _OWN,
    "keystone GET /v3/auth/catalog": _OWN,
    "keystone GET /v3/auth/projects": _OWN,
    "keystone GET /v3/auth/domains": _OWN,
    "keystone GET /v3/auth/system": _OWN,
    "keystone GET /v3/credentials": "everybody lists the own ones",
    "keystone GET /v3/OS-FEDERATION/projects": _OWN,
    "keystone GET /v3/OS-FEDERATION/domains": _OWN,
    "nova GET /v2.1/flavors": _SAME,
    "nova GET /v2.1/flavors/detail": _SAME,
    "nova GET /v2.1/flavors/{flavor_id}": _SAME,
    "nova GET /v2.1/os-keypairs": "key pairs belong to a user, not to a project",
    "nova POST /v2.1/os-keypairs": "key pairs belong to a user, not to a project",
    "nova GET /v2.1/os-quota-sets/{project_id}/defaults": _SAME,
    "nova GET /v2.1/limits": _OWN,
    "nova GET /v2.1/os-availability-zone": _SAME,
    "nova GET /v2.1/extensions": _SAME,
    "nova GET /v2.1/extensions/{alias}": _SAME,
    "glance GET /v2/schemas/{name}": _SAME,
    "glance GET /v2/info/import": _SAME,
}
"""Routes that any valid token may use, with the reason."""

SHARED: Mapping[str, str] = {
    "keystone GET /v3/registered_limits/{registered_limit_id}": _SAME,
    "keystone GET /v3/regions/{region_id}": _SAME,
    "nova GET /v2.1/flavors/{flavor_id}": "a public flavor",
    "nova GET /v2.1/flavors/{flavor_id}/os-extra_specs": "a public flavor",
    "nova GET /v2.1/flavors/{flavor_id}/os-extra_specs/{key}": "a public flavor",
    "nova GET /v2.1/os-quota-sets/{project_id}/defaults": _SAME,
    "nova GET /v2.1/extensions/{alias}": _SAME,
    "glance GET /v2/schemas/{name}": _SAME,
    "neutron GET /v2.0/extensions/{alias}": _SAME,
    "neutron GET /v2.0/quotas/{project_id}/default": _SAME,
    "cinder GET /v3/types/{type_id}": "a public type",
    "cinder GET /v3/types/{type_id}/extra_specs": "a public type",
}
"""Routes whose path names a thing that all projects may see, with the reason."""

_BUSY = "the server is being built, and that is told first"
_NOVA = "Nova says so"
_KEYSTONE = "what cannot be configured is forbidden, Keystone says so"
_ANY = "Neutron takes any text for a project"
_OWN_ONLY = "the user alone may, an administrator of the system aside: Keystone says so"
UNKNOWN_IS: Mapping[str, tuple[int, str]] = {
    "keystone POST /v3/users/{user_id}/application_credentials": (403, _OWN_ONLY),
    "keystone GET /v3/users/{user_id}/access_rules": (403, _OWN_ONLY),
    "keystone GET /v3/users/{user_id}/access_rules/{access_rule_id}": (403, _OWN_ONLY),
    "keystone DELETE /v3/users/{user_id}/access_rules/{access_rule_id}": (403, _OWN_ONLY),
    "nova DELETE /v2.1/servers/{server_id}/os-volume_attachments/{volume_id}": (409, _BUSY),
    "nova DELETE /v2.1/servers/{server_id}/os-interface/{port_id}": (409, _BUSY),
    "keystone GET /v3/domains/config/{group}/default": (403, _KEYSTONE),
    "keystone GET /v3/domains/config/{group}/{option}/default": (403, _KEYSTONE),
    "keystone GET /v3/domains/{domain}/config/{group}": (403, _KEYSTONE),
    "keystone GET /v3/domains/{domain}/config/{group}/{option}": (403, _KEYSTONE),
    "keystone GET /v3/domains/{domain}/config/security_compliance/{option}": (403, _KEYSTONE),
    "keystone PATCH /v3/domains/{domain}/config/{group}": (403, _KEYSTONE),
    "keystone PATCH /v3/domains/{domain}/config/{group}/{option}": (403, _KEYSTONE),
    "keystone DELETE /v3/domains/{domain}/config/{group}": (403, _KEYSTONE),
    "keystone DELETE /v3/domains/{domain}/config/{group}/{option}": (403, _KEYSTONE),
    "nova GET /v2.1/os-quota-sets/{project_id}": (400, _NOVA),
    "nova GET /v2.1/os-quota-sets/{project_id}/detail": (400, _NOVA),
    "nova GET /v2.1/os-quota-sets/{project_id}/defaults": (200, _SAME),
    "nova PUT /v2.1/os-quota-sets/{project_id}": (400, _NOVA),
    "nova DELETE /v2.1/os-quota-sets/{project_id}": (400, _NOVA),
    "nova GET /v2.1/os-quota-class-sets/{class_name}": (200, _NOVA),
    "nova PUT /v2.1/os-quota-class-sets/{class_name}": (400, "only one class has projects"),
    "cinder GET /v3/os-quota-class-sets/{class_name}": (200, "Cinder says so"),
    "cinder PUT /v3/os-quota-class-sets/{class_name}": (400, "only one class has projects"),
    "nova PUT /v2.1/os-services/{service_id}": (400, "before 2.53 the path has a verb here"),
    "nova GET /v2.1/os-simple-tenant-usage/{project_id}": (200, _NOVA),
    "neutron GET /v2.0/quotas/{project_id}": (200, _ANY),
    "neutron GET /v2.0/quotas/{project_id}/default": (200, _SAME),
    "neutron GET /v2.0/quotas/{project_id}/details": (200, _ANY),
    "neutron PUT /v2.0/quotas/{project_id}": (200, _ANY),
    "neutron DELETE /v2.0/quotas/{project_id}": (204, _ANY),
}
"""Routes that answer something else than 404 to an unknown id, with the reason."""

TAKES_LISTS = {"glance PATCH /v2/images/{image_id}": "a JSON patch is a list; an empty one is good"}
"""Routes whose body is a list."""

NO_BODY_NEEDED: Mapping[str, str] = {}
"""Routes on which an empty body is good, with the reason."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World("sqlite://", tmp_path_factory.mktemp("control"))
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def on_postgresql(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(postgres_url, tmp_path_factory.mktemp("control"))
    yield made
    made.database.close()


def guarded(world: World) -> Iterator[tuple[Service, Route, str]]:
    for service, route in world.routes():
        if route.rule is not None:
            yield service, route, name_of(service, route)


def check(failures: list[str]) -> None:
    assert not failures, f"{len(failures)} routes:\n" + "\n".join(failures)


def test_every_service_is_here(world: World) -> None:
    names = {s.name for s in world.services}
    assert names == {"keystone", "glance", "cinder", "neutron", "nova", "cairn"}
    assert sum(1 for _ in world.routes()) > 200


def test_public_routes_are_the_listed_ones(world: World) -> None:
    found = {name_of(s, r) for s, r in world.routes() if r.rule is None}
    assert found == set(PUBLIC)


def test_every_variable_of_a_path_is_known(world: World) -> None:
    """So that "somebody else's" below means things that exist."""
    unknown = {
        f"{name_of(service, route)}: {variable.name}"
        for service, route in world.routes()
        for variable in variables(route)
        if world.value(service, variable, "alice") is None
    }
    check(sorted(unknown))


def test_targets_tell_what_they_say_they_tell(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator's rule is checked against `fields`: one that is missing there would be refused."""
    asked, told = set(), set()
    require = shell._Responder._require

    def watch(self: Any, route: Route, caller: Any, path: Any, target: Any) -> None:
        if route.target is not None and target:
            asked.add(route.path)
            told.update(f for f in target if f not in route.target.fields)  # type: ignore[attr-defined]
        require(self, route, caller, path, target)

    monkeypatch.setattr(shell._Responder, "_require", watch)
    for service, route, _ in guarded(world):
        if route.target is not None:
            assert route.target.fields, route.path  # type: ignore[attr-defined]
            sent = {"body": body_for(world, service, route)} if route.body is not None else {}
            world.ask(service, route, "mallory", world.url(service, route, "mallory"), **sent)
    assert not told
    assert len(asked) > 20


# --- tokens --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "forged", "gAAAAABforged"])
def test_without_a_good_token_it_is_401(world: World, token: str | None) -> None:
    failures, before = [], world.fingerprint()
    for service, route, name in guarded(world):
        answer = world.ask(service, route, token, world.url(service, route, "admin"), data=b"{}")
        if answer.status_code != 401 or "x-openstack-request-id" not in answer.headers:
            failures.append(f"{name}: {answer.status_code}")
    check(failures)
    assert world.fingerprint() == before


def test_a_token_without_roles_gets_nothing(world: World) -> None:
    failures, needless, before = [], set(NEEDS_NO_ROLE), world.fingerprint()
    for service, route, name in guarded(world):
        url = world.url(service, route, "mallory")
        answer = world.ask(service, route, "mallory", url, data=b"{}")
        if name in NEEDS_NO_ROLE:
            needless -= {name} if answer.status_code not in (403, 404) else set()
        elif answer.status_code not in (403, 404):
            failures.append(f"{name}: {answer.status_code}")
        if world.fingerprint() != before:
            failures.append(f"{name}: changed something")
            before = world.fingerprint()
    check(failures)
    assert not needless, "no exception any more"


# --- things of others, and things that never were ----------------------------------------------------------


def test_things_of_other_projects_do_not_exist(world: World) -> None:
    failures, needless, before = [], set(SHARED), world.fingerprint()
    for service, route, name in guarded(world):
        if not thing_variables(service, route):
            continue
        sent = {"body": body_for(world, service, route)} if route.body is not None else {}
        answer = world.ask(service, route, "bob", world.url(service, route, "bob"), **sent)
        if name in SHARED:
            needless -= {name} if answer.status_code not in (403, 404) else set()
        elif answer.status_code not in (403, 404):
            failures.append(f"{name}: {answer.status_code} {answer.text[:120]}")
        if world.fingerprint() != before:
            failures.append(f"{name}: changed something")
            before = world.fingerprint()
    check(failures)
    assert not needless, "no exception any more"


def test_unknown_ids_are_not_found(world: World) -> None:
    failures, needless, before = [], set(UNKNOWN_IS), world.fingerprint()
    for service, route, name in guarded(world):
        for variable in thing_variables(service, route):
            sent = {"body": body_for(world, service, route)} if route.body is not None else {}
            url = world.url(service, route, "admin", **{variable.name: UNKNOWN})
            answer = world.ask(service, route, "admin", url, **sent)
            expected = UNKNOWN_IS.get(name, (404, ""))[0]
            needless -= {name} if answer.status_code == expected else set()
            if answer.status_code not in (expected, 404):
                failures.append(f"{name} {variable.name}: {answer.status_code} {answer.text[:120]}")
            if answer.status_code >= 400 and world.fingerprint() != before:
                failures.append(f"{name}: changed something")
            before = world.fingerprint()
    check(failures)
    assert not needless, "no exception any more"


@pytest.mark.parametrize(
    "hostile", ["%00", "%2e%2e%2f", "x" * 4000, "%F0%9F%98%80", "%ff%fe", "'%20or%201=1--", "*"]
)
def test_hostile_ids_are_refused(world: World, hostile: str) -> None:
    failures, before = [], world.fingerprint()
    for service, route, name in guarded(world):
        for variable in thing_variables(service, route):
            url = world.url(service, route, "admin", **{variable.name: hostile})
            sent = {"body": body_for(world, service, route)} if route.body is not None else {}
            answer = world.ask(service, route, "admin", url, **sent)
            allowed = 200 <= answer.status_code < 500 if name in UNKNOWN_IS else False
            if not allowed and not 400 <= answer.status_code < 500:
                failures.append(f"{name} {variable.name}: {answer.status_code}")
            if answer.status_code >= 400 and world.fingerprint() != before:
                failures.append(f"{name}: changed something")
            before = world.fingerprint()
    check(failures)


def thing_variables(service: Service, route: Route) -> list[Variable]:
    """The variables that name a thing which must be there already."""
    return [
        v
        for v in variables(route)
        if not is_own_project(service, v)
        if not (route.method in ("PUT", "POST") and v.collection in MADE_BY_NAME)
    ]


MADE_BY_NAME = (
    "regions",
    "tags", "metadata", "extra_specs", "os-extra_specs", "identity_providers", "protocols",
    "mappings", "service_providers",
)  # fmt: skip
"""Things that a PUT makes under the name in the path."""


def body_for(world: World, service: Service, route: Route) -> Any:
    good = good_body(world, service, route)
    return good if good is not None else next(iter(guesses(service, route)), {})


# --- bodies --------------------------------------------------------------------------------------------

NO_JSON = {
    "cut off": b'{"a": ',
    "no text": b"\xff\xfe\x00",
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "not JSON": b"volume=1&size=2",
    "too many": b"1 2",
}
NO_OBJECT = {"null": b"null", "list": b"[]", "text": b'"x"', "number": b"1", "false": b"false"}


@pytest.mark.parametrize("kind", [*NO_JSON, *NO_OBJECT, "empty"])
def test_what_is_no_json_object_is_refused(world: World, kind: str) -> None:
    data = {**NO_JSON, **NO_OBJECT, "empty": b""}[kind]
    failures, needless, before = [], set(NO_BODY_NEEDED), world.fingerprint()
    for service, route, name in with_body(world):
        if kind == "list" and name in TAKES_LISTS:
            continue
        answer = world.ask(service, route, "admin", world.url(service, route, "admin"), data=data)
        if kind == "empty" and name in NO_BODY_NEEDED:
            needless.discard(name)
            before = world.fingerprint()
        elif not 400 <= answer.status_code < 500:
            failures.append(f"{name}: {answer.status_code} {answer.text[:80]}")
        if world.fingerprint() != before:
            failures.append(f"{name}: changed something")
            before = world.fingerprint()
    check(failures)
    assert kind != "empty" or not needless, "no exception any more"


def test_other_content_types_are_refused(world: World) -> None:
    failures = []
    for service, route, name in with_body(world):
        url = world.url(service, route, "admin")
        answer = world.api.call(
            route.method, url, b"<a/>", who="admin", content_type="application/xml"
        )
        if not 400 <= answer.status_code < 500:
            failures.append(f"{name}: {answer.status_code}")
    check(failures)


HOSTILE: Mapping[str, Any] = {
    "300 characters": "x" * 300,
    "100,000 characters": "x" * 100_000,
    "object": {"a": {"b": {}}},
    "list": [[], {}],
    "empty list": [],
    "negative": -1,
    "huge": 10**30,
    "fraction": 0.5,
    "null": None,
    "boolean": True,
    "no characters": "",
    "zero byte": "a\0b",
    "newlines": "a\r\nX-Evil: 1",
    "emoji": "\U0001f600",
}


@pytest.mark.parametrize("kind", list(HOSTILE))
def test_spoilt_fields_never_break_the_server(world: World, kind: str) -> None:
    """One field at a time: 2xx where it is allowed after all, 4xx with nothing changed where not."""
    failures = []
    for service, route, name in with_body(world):
        good = good_body(world, service, route)
        for base in [good] if good is not None else guesses(service, route):
            for body in spoilt(base, HOSTILE[kind]):
                before = world.fingerprint()
                url = world.url(service, route, "admin")
                answer = world.ask(service, route, "admin", url, body=body)
                if answer.status_code >= 500:
                    failures.append(f"{name}: {answer.status_code} for {str(body)[:120]}")
                if answer.status_code >= 400 and world.fingerprint() != before:
                    failures.append(f"{name}: refused, yet changed something: {str(body)[:120]}")
    check(failures)


def test_names_of_300_characters_are_refused_by_name(world: World) -> None:
    failures, tried = [], 0
    for service, route, name in with_body(world):
        good = good_body(world, service, route)
        for body in named(good, "x" * 300) if good is not None else ():
            tried += 1
            url = world.url(service, route, "admin")
            answer = world.ask(service, route, "admin", url, body=body)
            if answer.status_code != 400 or "name" not in answer.text:
                failures.append(f"{name}: {answer.status_code} {answer.text[:120]}")
    check(failures)
    assert tried > 15


def named(body: Any, name: str) -> Iterator[Any]:
    """The body with its "name", at the top or one below, replaced."""
    if isinstance(body, dict):
        if "name" in body:
            yield {**body, "name": name}
        for key, value in body.items():
            if isinstance(value, dict) and "name" in value and key != "method":
                yield {key: {**value, "name": name}}


def with_body(world: World) -> Iterator[tuple[Service, Route, str]]:
    for service, route, name in guarded(world):
        if route.body is not None:
            yield service, route, name


@pytest.mark.parametrize("hostile", ["%00", "x" * 300])
def test_postgresql_refuses_no_id_with_a_500(on_postgresql: World, hostile: str) -> None:
    """It is stricter than SQLite: no zero bytes, no text longer than its column."""
    failures = []
    for service, route, name in guarded(on_postgresql):
        for variable in variables(route):
            if service.name == "cinder" and "{project_id}" in route.path:
                continue  # the same handler as without the project
            url = on_postgresql.url(service, route, "admin", **{variable.name: hostile})
            body = body_for(on_postgresql, service, route) if route.body is not None else None
            answer = on_postgresql.ask(service, route, "admin", url, body=body)
            if answer.status_code >= 500:
                failures.append(f"{name} {variable.name}: {answer.status_code}")
    check(failures)


@pytest.mark.parametrize("kind", ["zero byte", "huge"])
def test_postgresql_refuses_no_field_with_a_500(on_postgresql: World, kind: str) -> None:
    failures = []
    for service, route, name in with_body(on_postgresql):
        good = good_body(on_postgresql, service, route)
        if good is None or (service.name == "cinder" and "{project_id}" in route.path):
            continue
        for body in spoilt(good, HOSTILE[kind]):
            url = on_postgresql.url(service, route, "admin")
            answer = on_postgresql.ask(service, route, "admin", url, body=body)
            if answer.status_code >= 500:
                failures.append(f"{name}: {answer.status_code} for {str(body)[:120]}")
    check(failures)
