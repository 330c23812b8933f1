"""Domains, projects, users, groups, roles and assignments over HTTP, on both databases."""

from typing import Any

import pytest

from cairn.core.clock import FakeClock
from cairn.core.ids import ProjectId
from cairn.core.limits import UNLIMITED, Limit, Limits
from cairn.db.engine import Tx
from cairn.identity import service, store
from cairn.identity.accounts.passwords import hash_now
from tests.identity.conftest import ADMIN_PASSWORD, Cloud


@pytest.fixture
def cloud(cloud_on_both: Cloud) -> Cloud:
    return cloud_on_both


MAKE: dict[str, dict[str, Any]] = {
    "domain": {"name": "d1", "description": "first"},
    "project": {"name": "p1", "description": "first", "colour": "red"},
    "user": {"name": "u1", "password": "secret", "email": "u1@example.org", "colour": "red"},
    "group": {"name": "g1", "description": "first"},
    "role": {"name": "r1"},
}


@pytest.mark.parametrize("kind", MAKE)
def test_a_life(cloud: Cloud, kind: str) -> None:
    made = cloud.make(kind, **MAKE[kind])
    path = f"/{kind}s/{made['id']}"
    assert made["links"]["self"].endswith(f"/identity/v3{path}")
    assert "password" not in made
    assert cloud.call("GET", path).json == {kind: made}
    named = cloud.call("GET", f"/{kind}s?name={MAKE[kind]['name']}")
    assert named.json[f"{kind}s"] == [made]
    assert set(named.json["links"]) == {"self", "previous", "next"}
    changed = cloud.call("PATCH", path, {kind: {"name": "other", "size": 3}})
    assert changed.json == {kind: {**made, "name": "other", "size": 3}}
    assert cloud.call("GET", path).json == changed.json
    if kind == "domain":
        assert cloud.call("DELETE", path).status_code == 403
        assert cloud.call("PATCH", path, {kind: {"enabled": False}}).status_code == 200
    gone = cloud.call("DELETE", path)
    assert (gone.status_code, gone.content) == (204, b"")
    for method in ("GET", "PATCH", "DELETE"):
        body: Any = {kind: {}} if method == "PATCH" else None
        assert cloud.call(method, path, body).status_code == 404


WRONG: tuple[dict[str, Any], ...] = (
    {"name": ""},
    {"name": "  "},
    {"name": "x" * 256},
    {"name": "x\x00"},
    {"name": None},
    {"name": 3},
    {},
    {"name": "x", "description": 3},
    {"name": "x", "description": "x" * 5000},
    {"name": "x", "much": "x" * 20000},
)


@pytest.mark.parametrize("kind", MAKE)
def test_bad_bodies(cloud: Cloud, kind: str) -> None:
    for wrong in WRONG:
        answer = cloud.call("POST", f"/{kind}s", {kind: wrong})
        assert answer.status_code == 400, (wrong, answer.text)
        assert answer.json["error"]["message"]
    assert cloud.call("GET", f"/{kind}s?name=x").json[f"{kind}s"] == []


@pytest.mark.parametrize("kind", ["domain", "project", "group"])
def test_names_longer_than_64_are_refused(cloud: Cloud, kind: str) -> None:
    assert cloud.call("POST", f"/{kind}s", {kind: {"name": "x" * 65}}).status_code == 400
    assert cloud.call("POST", f"/{kind}s", {kind: {"name": "x" * 64}}).status_code == 201


def test_bad_users(cloud: Cloud) -> None:
    path = f"/users/{cloud.admin.user_id}"
    wrongs: tuple[dict[str, Any], ...] = (
        {"enabled": "yes"},
        {"password": ""},
        {"password": "x" * 5000},
        {"password": 3},
        {"domain_id": "no such/thing"},
        {"options": []},
    )
    for wrong in wrongs:
        made = cloud.call("POST", "/users", {"user": {"name": "x", **wrong}})
        assert made.status_code == 400, wrong
        assert cloud.call("PATCH", path, {"user": wrong}).status_code == 400, wrong
    assert cloud.call("GET", "/users?name=x").json["users"] == []


@pytest.mark.parametrize("kind", MAKE)
def test_a_name_is_taken_once(cloud: Cloud, kind: str) -> None:
    made = cloud.make(kind, name="same")
    assert cloud.call("POST", f"/{kind}s", {kind: {"name": "same"}}).status_code == 409
    other = cloud.make(kind, name="other")
    renamed = cloud.call("PATCH", f"/{kind}s/{other['id']}", {kind: {"name": "same"}})
    assert renamed.status_code == 409
    again = cloud.call("PATCH", f"/{kind}s/{made['id']}", {kind: {"name": "same"}})
    assert again.status_code == 200
    if kind not in ("domain", "role"):
        domain = cloud.make("domain", name="elsewhere")
        assert cloud.make(kind, name="same", domain_id=domain["id"])["domain_id"] == domain["id"]


def test_pages(cloud: Cloud) -> None:
    for number in range(5):
        cloud.make("project", name=f"page-{number}", tags=["paged"])
    seen, path = [], "/projects?tags=paged&limit=2"
    for _ in range(3):
        answer = cloud.call("GET", path).json
        seen += [p["name"] for p in answer["projects"]]
        path = (answer["links"]["next"] or "").partition("/identity/v3")[2]
    assert path == ""
    assert sorted(seen) == [f"page-{n}" for n in range(5)]
    assert cloud.call("GET", "/projects?marker=unknown").status_code == 400
    assert cloud.call("GET", "/projects?limit=x").status_code == 400
    assert cloud.call("GET", "/projects?enabled=perhaps").status_code == 400


def test_projects_have_domain_parent_and_leaves(cloud: Cloud) -> None:
    parent = cloud.make("project", name="parent")
    assert parent["parent_id"] == parent["domain_id"] == "default"
    assert parent["is_domain"] is False
    child = cloud.make("project", name="child", parent_id=parent["id"])
    assert child["parent_id"] == parent["id"]
    listed = cloud.call("GET", f"/projects?parent_id={parent['id']}").json["projects"]
    assert [p["id"] for p in listed] == [child["id"]]
    assert cloud.call("DELETE", f"/projects/{parent['id']}").status_code == 403
    moved = {"project": {"parent_id": "default"}}
    assert cloud.call("PATCH", f"/projects/{child['id']}", moved).status_code == 403
    for wrong in ({"parent_id": "nothing"}, {"domain_id": "nothing"}):
        body = {"project": {"name": "x", **wrong}}
        assert cloud.call("POST", "/projects", body).status_code == 400


def test_project_tags(cloud: Cloud) -> None:
    red = cloud.make("project", name="red", tags=["warm", "dark"])
    cloud.make("project", name="blue", tags=["dark"])
    path = f"/projects/{red['id']}/tags"
    assert cloud.call("GET", path).json["tags"] == ["dark", "warm"]

    def names(query: str) -> set[str]:
        return {p["name"] for p in cloud.call("GET", f"/projects?{query}").json["projects"]}

    assert names("tags=dark") == {"red", "blue"}
    assert names("tags=dark,warm") == {"red"}
    assert names("tags-any=warm,cold") == {"red"}
    assert names("not-tags=dark,warm") == {"blue", "admin"}
    assert names("not-tags-any=dark,warm") == {"admin"}
    assert cloud.call("PUT", f"{path}/loud").status_code == 201
    assert cloud.call("GET", f"{path}/loud").status_code == 204
    assert cloud.call("DELETE", f"{path}/warm").status_code == 204
    assert cloud.call("DELETE", f"{path}/warm").status_code == 404
    assert cloud.call("PUT", path, {"tags": ["one"]}).json["tags"] == ["one"]
    assert cloud.call("PUT", path, {"tags": ["a,b"]}).status_code == 400
    assert cloud.call("PUT", f"{path}/{'x' * 256}").status_code == 400
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("GET", f"/projects/{red['id']}").json["project"]["tags"] == []


def test_group_members(cloud: Cloud) -> None:
    group, user = cloud.make("group", name="g"), cloud.make("user", name="u")
    member = f"/groups/{group['id']}/users/{user['id']}"
    assert cloud.call("HEAD", member).status_code == 404
    for _ in range(2):
        assert cloud.call("PUT", member).status_code == 204
    assert cloud.call("HEAD", member).status_code == 204
    assert [u["id"] for u in cloud.call("GET", f"/groups/{group['id']}/users").json["users"]] == [
        user["id"]
    ]
    shown = cloud.call("GET", f"/users/{user['id']}/groups").json["groups"]
    assert shown == [{**group, "membership_expires_at": None}]
    assert cloud.call("DELETE", member).status_code == 204
    assert cloud.call("DELETE", member).status_code == 404
    assert cloud.call("PUT", f"/groups/{group['id']}/users/nobody").status_code == 404


@pytest.mark.parametrize("actor", ["user", "group"])
@pytest.mark.parametrize("scope", ["project", "domain", "system"])
def test_a_grant(cloud: Cloud, actor: str, scope: str) -> None:
    who, role = cloud.make(actor, name="who"), cloud.make("role", name="r1")
    where = "/system" if scope == "system" else f"/{scope}s/{cloud.make(scope, name='w')['id']}"
    path = f"{where}/{actor}s/{who['id']}/roles"
    one = f"{path}/{role['id']}"
    assert cloud.call("HEAD", one).status_code == 404
    for _ in range(2):
        assert cloud.call("PUT", one).status_code == 204
    assert cloud.call("HEAD", one).status_code == 204
    assert cloud.call("GET", path).json["roles"] == [role]
    listed = cloud.call("GET", f"/role_assignments?{actor}.id={who['id']}&include_names")
    (assignment,) = listed.json["role_assignments"]
    assert assignment["role"] == {"id": role["id"], "name": "r1"}
    assert assignment[actor]["name"] == "who"
    assert assignment[actor]["domain"] == {"id": "default", "name": "Default"}
    assert set(assignment["scope"]) == {scope}
    assert assignment["links"]["assignment"].endswith(one)
    assert cloud.call("DELETE", one).status_code == 204
    assert cloud.call("DELETE", one).status_code == 404
    assert cloud.call("PUT", f"{path}/nothing").status_code == 404
    assert cloud.call("PUT", f"{where}/{actor}s/nobody/roles/{role['id']}").status_code == 404
    assert cloud.call("GET", f"{where}/{actor}s/nobody/roles").status_code == 404
    if scope != "system":
        lost = f"/{scope}s/nowhere/{actor}s/{who['id']}/roles/{role['id']}"
        assert cloud.call("PUT", lost).status_code == 404


def test_effective_assignments_follow_groups_and_implications(cloud: Cloud) -> None:
    group, user = cloud.make("group", name="g"), cloud.make("user", name="u")
    project = cloud.make("project", name="p")
    cloud.call("PUT", f"/groups/{group['id']}/users/{user['id']}")
    cloud.call(
        "PUT", f"/projects/{project['id']}/groups/{group['id']}/roles/{cloud.role_id('member')}"
    )
    query = f"/role_assignments?scope.project.id={project['id']}&effective&include_names=true"
    found = cloud.call("GET", query).json["role_assignments"]
    assert sorted(a["role"]["name"] for a in found) == ["member", "reader"]
    assert {a["user"]["id"] for a in found} == {user["id"]}
    assert cloud.call("GET", f"{query}&user.id={user['id']}").json["role_assignments"] == found
    only = cloud.call("GET", f"{query}&role.id={cloud.role_id('reader')}").json["role_assignments"]
    assert len(only) == 1
    assert cloud.call("GET", f"{query}&user.id=other").json["role_assignments"] == []
    mine = cloud.call("GET", f"/users/{user['id']}/projects").json["projects"]
    assert [p["name"] for p in mine] == ["p"]


def test_implied_roles(cloud: Cloud) -> None:
    a, b = cloud.make("role", name="a"), cloud.make("role", name="b")
    path = f"/roles/{a['id']}/implies/{b['id']}"
    assert cloud.call("HEAD", path).status_code == 404
    made = cloud.call("PUT", path)
    assert made.status_code == 201
    assert made.json["role_inference"]["implies"]["name"] == "b"
    assert cloud.call("GET", path).json == made.json
    assert cloud.call("HEAD", path).status_code == 204
    circle = cloud.call("PUT", f"/roles/{b['id']}/implies/{a['id']}")
    assert circle.status_code == 400
    raised = cloud.call("PUT", f"/roles/{a['id']}/implies/{cloud.role_id('admin')}")
    assert raised.status_code == 403
    listed = cloud.call("GET", f"/roles/{a['id']}/implies").json["role_inference"]
    assert [r["name"] for r in listed["implies"]] == ["b"]
    rules = cloud.call("GET", "/role_inferences").json["role_inferences"]
    assert {"admin", "manager", "member", "a"} == {r["prior_role"]["name"] for r in rules}
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("DELETE", path).status_code == 404


def test_a_domains_role_named_admin_is_no_admin(cloud: Cloud) -> None:
    domain = cloud.make("domain", name="d")
    role = cloud.make("role", name="admin", domain_id=domain["id"])
    user = cloud.make("user", name="eve", password="eve's")
    project = cloud.make("project", name="p", domain_id=domain["id"])
    path = f"/projects/{project['id']}/users/{user['id']}/roles"
    assert cloud.call("PUT", f"{path}/{role['id']}").status_code == 204
    reader = cloud.role_id("reader")
    assert cloud.call("PUT", f"/roles/{role['id']}/implies/{reader}").status_code == 201
    assert cloud.call("PUT", f"/roles/{reader}/implies/{role['id']}").status_code == 403
    elsewhere = f"/projects/{cloud.admin.project_id}/users/{user['id']}/roles/{role['id']}"
    assert cloud.call("PUT", elsewhere).status_code == 403
    effective = cloud.call("GET", f"/role_assignments?user.id={user['id']}&effective")
    assert [a["role"]["id"] for a in effective.json["role_assignments"]] == [reader]
    token = cloud.token("eve", "eve's", scope={"project": {"id": project["id"]}})
    who = cloud.issuer.authenticate(token)
    assert who.roles == {"reader"} and not who.is_admin
    # Its name is in no token, and still taking it away ends the token.
    assert cloud.call("DELETE", f"/roles/{role['id']}").status_code == 204
    assert not cloud.is_good(token)
    assert cloud.is_good(cloud.admin_token)


def test_deleting_a_domain_takes_all_that_is_in_it(cloud: Cloud) -> None:
    domain = cloud.make("domain", name="d")
    things = [
        (kind, cloud.make(kind, name="in it", domain_id=domain["id"]))
        for kind in ("project", "user", "group", "role")
    ]
    path = f"/domains/{domain['id']}"
    cloud.call("PATCH", path, {"domain": {"enabled": False}})
    assert cloud.call("DELETE", path).status_code == 204
    for kind, thing in things:
        assert cloud.call("GET", f"/{kind}s/{thing['id']}").status_code == 404


def test_the_last_admin_stays(cloud: Cloud) -> None:
    admin = cloud.admin
    refused = [
        ("DELETE", f"/users/{admin.user_id}", None),
        ("PATCH", f"/users/{admin.user_id}", {"user": {"enabled": False}}),
        ("PATCH", "/domains/default", {"domain": {"enabled": False}}),
    ]
    for method, path, body in refused:
        assert cloud.call(method, path, body).status_code == 403
        assert cloud.is_good(cloud.admin_token)
    second = cloud.make("user", name="second")
    cloud.grant(second["id"], admin.project_id, "admin")
    assert cloud.call("DELETE", f"/users/{admin.user_id}").status_code == 204


def test_the_roles_that_everything_rests_on_stay(cloud: Cloud) -> None:
    for name in ("admin", "manager", "member", "reader", "service"):
        path = f"/roles/{cloud.role_id(name)}"
        assert cloud.call("DELETE", path).status_code == 403
        assert cloud.call("PATCH", path, {"role": {"name": "x"}}).status_code == 403


def test_immutable_things_change_only_when_released(cloud: Cloud) -> None:
    project = cloud.make("project", name="p", options={"immutable": True})
    path = f"/projects/{project['id']}"
    assert project["options"] == {"immutable": True}
    assert cloud.call("PATCH", path, {"project": {"name": "q"}}).status_code == 403
    assert cloud.call("DELETE", path).status_code == 403
    free = cloud.call("PATCH", path, {"project": {"options": {"immutable": False}}})
    assert free.json["project"]["options"] == {}
    assert cloud.call("DELETE", path).status_code == 204


def test_deleting_a_project_forgets_it_as_a_default_and_its_limits(cloud: Cloud) -> None:
    project = cloud.make("project", name="p")
    user = cloud.make("user", name="u", default_project_id=project["id"])
    db = cloud.database
    db.write_now(lambda tx: service.set_limit(tx, project["id"], "cores", 3))
    assert cloud.call("DELETE", f"/projects/{project['id']}").status_code == 204
    assert "default_project_id" not in cloud.call("GET", f"/users/{user['id']}").json["user"]
    declared = {"cores": 20}
    assert db.read_now(lambda tx: service.limits_in(tx, project["id"], declared)) == declared


def test_bootstrap_is_repeatable_and_is_the_way_back_in(cloud: Cloud) -> None:
    db, token = cloud.database, cloud.admin_token
    again = db.write_now(lambda tx: service.bootstrap(tx, hash_now("other")))
    assert (again.user_id, again.project_id) == (cloud.admin.user_id, cloud.admin.project_id)
    assert cloud.admin.is_new and not again.is_new
    assert cloud.is_good(token)
    assert cloud.sign_in("admin", "other").status_code == 401
    db.write_now(lambda tx: service.bootstrap(tx, hash_now("other"), reset_password=True))
    assert not cloud.is_good(token)
    assert cloud.sign_in("admin", ADMIN_PASSWORD).status_code == 401
    assert cloud.sign_in("admin", "other").status_code == 201


def test_bcrypt_hashes_are_verified_and_replaced(cloud: Cloud) -> None:
    import bcrypt

    user = cloud.make("user", name="old")
    old = bcrypt.hashpw(b"old's", bcrypt.gensalt(4)).decode()
    db = cloud.database
    db.write_now(lambda tx: store.set_password_hash(tx, user["id"], old))
    assert cloud.sign_in("old", "wrong").status_code == 401
    assert cloud.sign_in("old", "old's").status_code == 201
    new = db.read_now(lambda tx: store.password_hash(tx, user["id"])) or ""
    assert new.startswith("$argon2id$")
    assert cloud.sign_in("old", "old's").status_code == 201


def test_a_user_without_password_cannot_sign_in(cloud: Cloud) -> None:
    cloud.make("user", name="mute")
    assert cloud.sign_in("mute", "").status_code == 401
    assert cloud.sign_in("mute", "x").status_code == 401


def test_quota_limits(cloud: Cloud) -> None:
    p, q = ProjectId("p"), ProjectId("q")
    table = Limits(
        service="compute", limits=(Limit(name="cores", default=20), Limit(name="ram", default=50))
    )

    def verbs(tx: Tx) -> None:
        assert service.limit(tx, p, table, "cores") == 20
        service.set_limit(tx, p, "cores", 5)
        service.set_limit(tx, p, "cores", UNLIMITED)
        service.set_limit(tx, p, "ram", 7)
        assert service.limit(tx, p, table, "cores") == -1
        assert service.limit(tx, q, table, "cores") == 20
        assert service.limits_of(tx, p, table) == {"cores": -1, "ram": 7}
        service.set_default(tx, "cores", 30)
        service.set_default(tx, "ram", 9)
        assert service.limits_of(tx, p, table) == {"cores": -1, "ram": 7}
        assert service.limits_of(tx, q, table) == {"cores": 30, "ram": 9}
        service.reset_limits(tx, p, ("ram",))
        assert service.limits_of(tx, p, table) == {"cores": -1, "ram": 9}
        service.reset_limits(tx, p)
        assert service.limits_of(tx, p, table) == service.defaults_of(tx, table)
        assert service.project_exists(tx, cloud.admin.project_id)
        assert not service.project_exists(tx, p)

    cloud.database.write_now(verbs)


async def test_revocations_are_forgotten_when_no_token_can_need_them(
    cloud: Cloud, clock: FakeClock
) -> None:
    from cairn.identity.control import RevocationKeeper
    from cairn.identity.revocation import of_token, revoke

    db = cloud.database
    keeper = RevocationKeeper(db, cloud.revocations, lifetime_s=3600)
    db.write_now(lambda tx: revoke(tx, of_token("a")))
    assert (await keeper.run_once()).found == 1
    clock.advance(3700)
    db.write_now(lambda tx: revoke(tx, of_token("b")))
    assert (await keeper.run_once()).found == 2
    assert [e.subject for e in db.read_now(lambda tx: store.revocations_after(tx, 0))] == [
        "token:b"
    ]
    assert db.read_now(store.revocations_made) == 2
    assert cloud.revocations.voids(["token:b"], issued_at_number=1)
    assert not cloud.revocations.voids(["token:a"], issued_at_number=0)


def test_lists_cost_the_same_few_statements_however_long(cloud: Cloud) -> None:
    def cost(path: str) -> int:
        before = cloud.database.statements_total
        assert cloud.call("GET", path).status_code == 200
        return cloud.database.statements_total - before

    paths = ("/projects", "/users", "/role_assignments?include_names&effective", "/roles")
    assert cloud.is_good(cloud.admin_token)
    few = [cost(path) for path in paths]
    for number in range(4):
        user = cloud.make("user", name=f"u{number}")
        project = cloud.make("project", name=f"p{number}", tags=["t"])
        cloud.grant(user["id"], project["id"], "member")
    assert [cost(path) for path in paths] == few
    assert max(few) <= 8
