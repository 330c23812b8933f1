"""Roles that are inherited, and lists of who has which role where, on both databases."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cairn.core.errors import NotFound
from cairn.core.ids import RoleId, UserId
from cairn.db.columns import metadata
from cairn.db.engine import Database, Tx, open_sqlite
from cairn.identity import grants, people, service, store, store_grants
from cairn.identity.records import (
    DEFAULT_DOMAIN,
    Actor,
    ActorKind,
    Assignment,
    Scope,
    ScopeKind,
    User,
)
from tests.identity.conftest import Cloud, scope_of


@pytest.fixture
def cloud(cloud_on_both: Cloud) -> Cloud:
    return cloud_on_both


@pytest.fixture
def tree(cloud: Cloud) -> dict[str, str]:
    """top over mid over leaf, and aside; ann, who has no role yet, is in the group g."""
    ids = {"top": cloud.make("project", name="top")["id"]}
    ids["mid"] = cloud.make("project", name="mid", parent_id=ids["top"])["id"]
    ids["leaf"] = cloud.make("project", name="leaf", parent_id=ids["mid"])["id"]
    ids["aside"] = cloud.make("project", name="aside")["id"]
    ids["ann"] = cloud.make("user", name="ann", password="ann")["id"]
    ids["g"] = cloud.make("group", name="g")["id"]
    assert cloud.call("PUT", f"/groups/{ids['g']}/users/{ids['ann']}").status_code == 204
    return ids


def inherited(cloud: Cloud, place: str, actor: str, role: str) -> str:
    role_id = cloud.role_id(role)
    return f"/OS-INHERIT/{place}/{actor}/roles/{role_id}/inherited_to_projects"


def projects_with_a_token(cloud: Cloud, user: str) -> set[str]:
    names = ("top", "mid", "leaf", "aside")
    return {n for n in names if cloud.sign_in(user, user, scope=scope_of(n)).status_code == 201}


def listed(cloud: Cloud, query: str, **options: Any) -> list[dict[str, Any]]:
    answer = cloud.call("GET", f"/role_assignments?{query}", **options)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json["role_assignments"]
    return found


@pytest.mark.parametrize("actor", ["users", "groups"])
@pytest.mark.parametrize("place", ["projects", "domains"])
def test_a_life(cloud: Cloud, tree: dict[str, str], place: str, actor: str) -> None:
    where = f"projects/{tree['top']}" if place == "projects" else "domains/default"
    who = f"{actor}/{tree['ann' if actor == 'users' else 'g']}"
    path = inherited(cloud, where, who, "member")
    assert cloud.call("HEAD", path).status_code == 404
    for _ in range(2):
        assert cloud.call("PUT", path).status_code == 204
    assert cloud.call("HEAD", path).status_code == 204
    assert cloud.call("GET", path).status_code == 204
    plain = f"/{where}/{who}/roles"
    assert cloud.call("GET", plain).json["roles"] == []
    assert cloud.call("HEAD", f"{plain}/{cloud.role_id('member')}").status_code == 404
    below = f"/OS-INHERIT/{where}/{who}/roles/inherited_to_projects"
    if place == "domains":
        assert [r["name"] for r in cloud.call("GET", below).json["roles"]] == ["member"]
    else:
        assert cloud.call("GET", below).status_code in (404, 405)
    # In the projects below, and not in the place itself.
    reached = {"mid", "leaf"} if place == "projects" else {"top", "mid", "leaf", "aside"}
    assert projects_with_a_token(cloud, "ann") == reached
    assert cloud.sign_in("ann", "ann", scope={"domain": {"id": "default"}}).status_code == 401
    token = cloud.token("ann", "ann", scope=scope_of("leaf"))
    assert cloud.issuer.authenticate(token).roles == {"member", "reader"}
    mine = cloud.call("GET", "/auth/projects", token=token).json["projects"]
    assert {p["name"] for p in mine} - {"admin"} == reached
    theirs = cloud.call("GET", f"/users/{tree['ann']}/projects").json["projects"]
    assert {p["name"] for p in theirs} - {"admin"} == reached
    assert cloud.call("GET", "/auth/domains", token=token).json["domains"] == []
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("DELETE", path).status_code == 404
    assert projects_with_a_token(cloud, "ann") == set()
    assert not cloud.is_good(token)


def test_unknown_parts_are_not_found(cloud: Cloud, tree: dict[str, str]) -> None:
    role, ann = cloud.role_id("member"), tree["ann"]
    for path in (
        f"/OS-INHERIT/projects/nothing/users/{ann}/roles/{role}/inherited_to_projects",
        f"/OS-INHERIT/domains/nothing/users/{ann}/roles/{role}/inherited_to_projects",
        f"/OS-INHERIT/domains/default/users/nobody/roles/{role}/inherited_to_projects",
        f"/OS-INHERIT/domains/default/groups/nobody/roles/{role}/inherited_to_projects",
        f"/OS-INHERIT/domains/default/users/{ann}/roles/nothing/inherited_to_projects",
    ):
        for method in ("PUT", "GET", "HEAD", "DELETE"):
            assert cloud.call(method, path).status_code == 404, (method, path)


def test_a_default_project_may_be_one_that_is_reached_by_inheritance(
    cloud: Cloud, tree: dict[str, str]
) -> None:
    user = {"default_project_id": tree["leaf"]}
    cloud.call("PATCH", f"/users/{tree['ann']}", {"user": user})
    cloud.call("PUT", inherited(cloud, f"projects/{tree['top']}", f"users/{tree['ann']}", "reader"))
    assert cloud.issuer.authenticate(cloud.token("ann", "ann")).project_id == tree["leaf"]


def test_projects_that_are_made_later_inherit_too(cloud: Cloud, tree: dict[str, str]) -> None:
    cloud.call("PUT", inherited(cloud, f"projects/{tree['top']}", f"groups/{tree['g']}", "reader"))
    cloud.make("project", name="late", parent_id=tree["leaf"])
    assert cloud.sign_in("ann", "ann", scope=scope_of("late")).status_code == 201


def test_what_ends_takes_its_grants_along(cloud: Cloud, tree: dict[str, str]) -> None:
    role = cloud.make("role", name="r")["id"]
    for place, who in (
        ("domains/default", f"users/{tree['ann']}"),
        (f"projects/{tree['aside']}", f"groups/{tree['g']}"),
        (f"projects/{tree['aside']}", f"users/{cloud.admin.user_id}"),
        (f"projects/{tree['top']}", f"users/{cloud.admin.user_id}"),
    ):
        cloud.call("PUT", f"/OS-INHERIT/{place}/{who}/roles/{role}/inherited_to_projects")

    def left() -> int:
        return len(listed(cloud, "scope.OS-INHERIT:inherited_to=projects"))

    assert left() == 4
    for path, count in (
        (f"/users/{tree['ann']}", 3),
        (f"/groups/{tree['g']}", 2),
        (f"/projects/{tree['aside']}", 1),
        (f"/roles/{role}", 0),
    ):
        assert cloud.call("DELETE", path).status_code == 204
        assert left() == count


# Lists


def test_a_list_as_given_tells_inherited_ones_apart(cloud: Cloud, tree: dict[str, str]) -> None:
    ann, top = tree["ann"], tree["top"]
    cloud.grant(ann, top, "reader")
    cloud.call("PUT", inherited(cloud, f"projects/{top}", f"users/{ann}", "member"))
    both = listed(cloud, f"user.id={ann}")
    assert len(both) == 2
    (below,) = listed(cloud, f"user.id={ann}&scope.OS-INHERIT:inherited_to=projects")
    assert below["scope"] == {"project": {"id": top}, "OS-INHERIT:inherited_to": "projects"}
    role = cloud.role_id("member")
    path = f"/OS-INHERIT/projects/{top}/users/{ann}/roles/{role}/inherited_to_projects"
    assert below["links"]["assignment"].endswith(f"/identity/v3{path}")
    (own,) = listed(cloud, f"user.id={ann}&scope.OS-INHERIT:inherited_to=no")
    assert own["scope"] == {"project": {"id": top}}
    assert below in both and own in both
    assert listed(cloud, f"scope.project.id={top}&role.id={role}") == [below]


def test_an_effective_list_says_where_each_comes_from(cloud: Cloud, tree: dict[str, str]) -> None:
    ann, top, leaf, g = tree["ann"], tree["top"], tree["leaf"], tree["g"]
    cloud.call("PUT", inherited(cloud, f"projects/{top}", f"groups/{g}", "member"))
    found = listed(cloud, f"effective&user.id={ann}&scope.project.id={leaf}&include_names")
    assert [a["role"]["name"] for a in found] == ["member", "reader"]
    member, reader = cloud.role_id("member"), cloud.role_id("reader")
    for shown in found:
        assert shown["user"]["name"] == "ann"
        assert shown["scope"]["project"] == {
            "id": leaf, "name": "leaf", "domain": {"id": "default", "name": "Default"},
        }  # fmt: skip
        assert shown["scope"]["OS-INHERIT:inherited_to"] == "projects"
        links = shown["links"]
        source = f"/OS-INHERIT/projects/{top}/groups/{g}/roles/{member}/inherited_to_projects"
        assert links["assignment"].endswith(source)
        assert links["membership"].endswith(f"/groups/{g}/users/{ann}")
    assert found[1]["links"]["prior_role"].endswith(f"/prior_role/{member}/implies/{reader}")
    everywhere = listed(cloud, f"effective&user.id={ann}")
    assert {a["scope"]["project"]["id"] for a in everywhere} == {tree["mid"], leaf}
    assert listed(cloud, f"effective&scope.project.id={top}&user.id={ann}") == []
    only = listed(cloud, f"effective&role.id={reader}&scope.project.id={leaf}&user.id={ann}")
    assert [a["role"]["id"] for a in only] == [reader]


def test_an_effective_list_may_leave_out_what_is_inherited(
    cloud: Cloud, tree: dict[str, str]
) -> None:
    ann, leaf = tree["ann"], tree["leaf"]
    cloud.grant(ann, leaf, "reader")
    cloud.call("PUT", inherited(cloud, "domains/default", f"users/{ann}", "member"))
    query = f"effective&user.id={ann}&scope.project.id={leaf}"
    assert len(listed(cloud, query)) == 3
    assert len(listed(cloud, f"{query}&scope.OS-INHERIT:inherited_to=projects")) == 2
    assert len(listed(cloud, f"{query}&scope.OS-INHERIT:inherited_to=none")) == 1
    assert listed(cloud, f"effective&user.id={ann}&scope.domain.id=default") == []


def test_a_list_of_a_subtree(cloud: Cloud, tree: dict[str, str]) -> None:
    ann, mid = tree["ann"], tree["mid"]
    for project in ("top", "leaf", "aside"):
        cloud.grant(ann, tree[project], "reader")
    cloud.call("PUT", inherited(cloud, f"projects/{mid}", f"users/{ann}", "member"))
    cloud.call("PUT", inherited(cloud, f"projects/{tree['aside']}", f"users/{ann}", "member"))
    given = listed(cloud, f"include_subtree&scope.project.id={mid}&user.id={ann}")
    assert sorted(a["scope"]["project"]["id"] for a in given) == sorted([tree["leaf"], mid])
    come_to = listed(cloud, f"effective&include_subtree&scope.project.id={mid}&user.id={ann}")
    assert {a["scope"]["project"]["id"] for a in come_to} == {tree["leaf"]}
    assert len(come_to) == 3
    assert cloud.call("GET", "/role_assignments?include_subtree").status_code == 400
    unknown = "/role_assignments?include_subtree&scope.project.id=nothing"
    assert cloud.call("GET", unknown).status_code == 404


@pytest.mark.parametrize(
    "query",
    [
        "scope.domain.id=default&scope.project.id=x",
        "scope.domain.id=default&scope.system=all",
        "scope.project.id=x&scope.system=all",
        "user.id=x&group.id=y",
        "effective&group.id=y",
        "effective&scope.domain.id=default&scope.OS-INHERIT:inherited_to=projects",
    ],
)
def test_filters_that_make_no_sense_are_refused(cloud: Cloud, query: str) -> None:
    answer = cloud.call("GET", f"/role_assignments?{query}")
    assert answer.status_code == 400
    assert answer.json["error"]["message"]


def test_system_assignments_are_listed(cloud: Cloud, tree: dict[str, str]) -> None:
    path = f"/system/users/{tree['ann']}/roles/{cloud.role_id('reader')}"
    cloud.call("PUT", path)
    (given,) = listed(cloud, f"scope.system=all&user.id={tree['ann']}")
    assert given["scope"] == {"system": {"all": True}}
    assert given["links"]["assignment"].endswith(path)


# Roles of a domain


def test_a_role_of_a_domain_gives_what_it_implies(cloud: Cloud, tree: dict[str, str]) -> None:
    own = cloud.make("role", name="crew", domain_id="default")["id"]
    assert cloud.call("PUT", f"/roles/{own}/implies/{cloud.role_id('member')}").status_code == 201
    path = f"/projects/{tree['leaf']}/users/{tree['ann']}/roles/{own}"
    assert cloud.call("PUT", path).status_code == 204
    token = cloud.token("ann", "ann", scope=scope_of("leaf"))
    assert cloud.issuer.authenticate(token).roles == {"member", "reader"}
    found = listed(cloud, f"effective&user.id={tree['ann']}&include_names")
    assert [a["role"]["name"] for a in found] == ["member", "reader"]
    (given,) = listed(cloud, f"user.id={tree['ann']}&include_names")
    assert given["role"] == {
        "id": own, "name": "crew", "domain": {"id": "default", "name": "Default"},
    }  # fmt: skip
    assert cloud.call("PUT", f"/system/users/{tree['ann']}/roles/{own}").status_code == 400
    other = cloud.make("domain", name="other")["id"]
    foreign = cloud.make("project", name="p", domain_id=other)["id"]
    for place in (f"projects/{foreign}", f"domains/{other}"):
        assert cloud.call("PUT", f"/{place}/users/{tree['ann']}/roles/{own}").status_code == 403
        path = f"/OS-INHERIT/{place}/users/{tree['ann']}/roles/{own}/inherited_to_projects"
        assert cloud.call("PUT", path).status_code == 403
    assert (
        cloud.call("POST", "/roles", {"role": {"name": "x", "domain_id": "no"}}).status_code == 404
    )
    assert [r["id"] for r in cloud.call("GET", "/roles?domain_id=default").json["roles"]] == [own]
    twice = cloud.call("PUT", f"/roles/{own}/implies/{cloud.role_id('member')}")
    assert twice.status_code == 409


# Many


def test_a_long_list_costs_the_same_few_statements(cloud: Cloud, tree: dict[str, str]) -> None:
    def cost(query: str) -> int:
        before = cloud.database.statements_total
        listed(cloud, query)
        return cloud.database.statements_total - before

    cloud.call("PUT", inherited(cloud, "domains/default", f"groups/{tree['g']}", "member"))
    cloud.call("PUT", inherited(cloud, f"projects/{tree['top']}", f"users/{tree['ann']}", "reader"))
    queries = ("effective&include_names", f"effective&user.id={tree['ann']}", "include_names")
    few = [cost(query) for query in queries]
    for number in range(5):
        user = cloud.make("user", name=f"u{number}")["id"]
        cloud.call("PUT", f"/groups/{tree['g']}/users/{user}")
        project = cloud.make("project", name=f"p{number}")["id"]
        cloud.call("PUT", inherited(cloud, f"projects/{project}", f"users/{user}", "reader"))
    assert [cost(query) for query in queries] == few
    assert max(few) <= 11


def test_a_list_that_is_too_long_says_so(
    cloud: Cloud, tree: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn.identity.api_assignments.ENTRIES_MAX", 3)
    cloud.call("PUT", inherited(cloud, "domains/default", f"users/{tree['ann']}", "member"))
    answer = cloud.call("GET", "/role_assignments?effective").json
    assert len(answer["role_assignments"]) == 3
    assert answer["truncated"] is True
    whole = cloud.call("GET", f"/role_assignments?user.id={tree['ann']}").json
    assert "truncated" not in whole


# Two administrators at once


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
@pytest.mark.parametrize("is_inherited", [False, True])
async def test_two_administrators_change_one_grant_at_once(
    engine: str, is_inherited: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if engine == "sqlite":
        database = open_sqlite(tmp_path / "db")
    else:
        database = Database(request.getfixturevalue("postgres_url"))
        metadata.drop_all(database.engine)
    database.create_all()

    def first_rows(tx: Tx) -> Assignment:
        service.bootstrap(tx, "no hash")
        people.create_user(tx, User(id=UserId("ann"), name="ann", domain_id=DEFAULT_DOMAIN), None)
        role = store.ROLES.find(tx, store.roles.c.name == "member")
        assert role is not None
        return Assignment(
            actor=Actor(kind=ActorKind.USER, id="ann"),
            scope=Scope(kind=ScopeKind.DOMAIN, id="default"),
            role_id=RoleId(role.id),
            is_inherited=is_inherited,
        )

    assignment = await database.write(first_rows)

    async def give() -> str:
        await database.write(lambda tx: grants.grant(tx, assignment))
        return "given"

    async def take() -> str:
        try:
            await database.write(lambda tx: grants.withdraw(tx, assignment))
        except NotFound:
            return "was not there"
        return "taken"

    there = False
    for _ in range(10):
        did = await asyncio.gather(give(), take(), give(), take(), take())
        # However they came to stand in line, each saw what the one before had left.
        now = await database.read(
            lambda tx: store_grants.assignments_where(tx, actor=assignment.actor)
        )
        assert now in ([], [assignment])
        assert did.count("taken") <= 2 + there
        assert now or "taken" in did
        there = bool(now)
    database.close()
