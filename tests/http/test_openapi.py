"""The document of the API is valid, whole, and true: held against what the routes really answer."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from cairn.http import openapi
from cairn.http.routes import Route, Service
from tests.http.everything import World, good_body, name_of

ROOTS = ("", "/identity", "/compute", "/network", "/volume", "/image")
# Answers that lie elsewhere on purpose.
NO_JSON = {"cairn GET /metrics", "glance GET /v2/images/{image_id}/file"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World("sqlite://", tmp_path_factory.mktemp("control"))
    yield made
    made.database.close()


@pytest.fixture(scope="module")
def whole(world: World) -> Any:
    return msgspec.json.decode(world.api.get("/openapi.json", who=None).content)


@pytest.mark.parametrize("root", ROOTS)
def test_document_is_served_and_valid(world: World, root: str) -> None:
    answer = world.api.get(f"{root}/openapi.json", who=None)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    told = answer.json
    assert told["openapi"] == "3.1.0"
    assert told["servers"][0]["url"].startswith("http")
    validate(told)
    if root:
        assert all(path.startswith(root) for path in told["paths"])


def test_every_route_is_in_it_and_nothing_else(world: World, whole: Any) -> None:
    told = {(m.upper(), p) for p, item in whole["paths"].items() for m in item}
    assert told == {(r.method, s.root + r.path) for s, r in world.routes()}
    ids = [o["operationId"] for item in whole["paths"].values() for o in item.values()]
    assert len(ids) == len(set(ids))


def test_security_is_what_the_routes_ask_for(world: World, whole: Any) -> None:
    for service, route in world.routes():
        told = operation(whole, service, route)
        assert bool(told["security"]) == (route.rule is not None), name_of(service, route)


def test_bodies_are_the_structs(whole: Any) -> None:
    told = whole["paths"]["/identity/v3/projects"]["post"]["requestBody"]["content"]
    (content,) = told.values()
    assert content["schema"]["$ref"].startswith("#/components/schemas/")


def operation(whole: Any, service: Service, route: Route) -> Any:
    return whole["paths"][service.root + route.path][route.method.lower()]


def response(whole: Any, told: Any, status: int) -> Any:
    found = told["responses"].get(str(status))
    if found is None:
        return None
    if "$ref" in found:
        return whole["components"]["responses"][found["$ref"].rpartition("/")[2]]
    return found


def judge(whole: Any, told: Any, answer: Any) -> str | None:
    """What is wrong with an answer; None when it is as the document says."""
    said = response(whole, told, answer.status_code)
    if said is None:
        return f"status {answer.status_code} is not in the document: {answer.text[:100]}"
    if answer.status_code == 204 or not answer.content:
        return None
    kind = answer.headers.get("content-type", "").partition(";")[0]
    content = said.get("content", {})
    if kind not in content and "*/*" not in content:
        return f"{answer.status_code} has the type '{kind}', not one of {list(content)}"
    schema = content.get(kind, {}).get("schema")
    if not schema or kind != "application/json":
        return None
    rooted = {**schema, "components": whole["components"]}  # what its references lead to
    errors = Draft202012Validator(rooted).iter_errors(answer.json)
    return next((f"{e.json_path}: {e.message[:200]}" for e in errors), None)


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("who", ["admin", "alice", None])
def test_what_is_read_is_as_told(world: World, whole: Any, who: str | None, newest: bool) -> None:
    failures, held = [], 0
    for service, route in world.routes():
        if route.method != "GET" or name_of(service, route) in NO_JSON:
            continue
        url = world.url(service, route, who or "admin")
        headers = {}
        if service.versions is not None and newest:
            headers["OpenStack-API-Version"] = (
                f"{service.versions.service} {service.versions.maximum}"
            )
        answer = world.api.get(url, who=who, headers=headers)
        told = operation(whole, service, route)
        if wrong := judge(whole, told, answer):
            failures.append(f"{name_of(service, route)}: {wrong}")
        held += answer.status_code == 200 and route.reply is not None
    assert not failures, "\n".join(failures)
    assert held > 20 or who is None


def test_what_is_refused_and_made_is_as_told(world: World, whole: Any) -> None:
    failures = []
    for service, route in world.routes():
        if route.method in ("GET", "DELETE") or route.streams:
            continue
        url = world.url(service, route, "admin")
        told = operation(whole, service, route)
        asked = [world.ask(service, route, "admin", url, data=b"{")]
        body = good_body(world, service, route)
        if body is not None and "password" not in url:
            asked.append(world.ask(service, route, "admin", url, body=body))
        for answer in asked:
            # An action may be refused for the state that the thing is in, in the service's own words.
            if wrong := judge(whole, told, answer):
                failures.append(f"{name_of(service, route)}: {wrong}")
    assert not failures, "\n".join(failures)


def test_declared_replies_are_for_routes_that_are(world: World) -> None:
    """What the table of replies says is said of something."""
    from cairn import replies

    for service in world.services:
        known = {(r.method, r.path) for r in service.routes if r.reply is not None}
        for shown in replies.TABLES.get(service.name, ()):
            assert ("GET", shown.path) in known, f"{service.name} {shown.path}"


def test_faults_are_described_by_example(world: World) -> None:
    for service in world.services:
        schema = openapi.fault_schema(service)
        body, kind = service.shape_fault(409, "It is in use.")
        if kind.startswith("application/json"):
            Draft202012Validator(schema).validate(msgspec.json.decode(body))
