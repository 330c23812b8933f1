"""Who may do what in identity: every persona that Keystone knows, in every scope, against its own defaults.

The table says for each request whom Keystone's current policies let through (keystone/common/policies and
the scopes beside each rule); everybody else hears 403. Below it: what a domain's manager must not get by.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from cairn.core.clock import FakeClock
from cairn.core.ids import DomainId, ProjectId, RoleId, UserId
from cairn.db.engine import Database, Tx
from cairn.identity import grants, people, places, signin, store
from cairn.identity.methods.method import DomainName, Named, Proof, ScopeWish
from cairn.identity.records import (
    DEFAULT_DOMAIN,
    SYSTEM,
    Actor,
    ActorKind,
    Assignment,
    Domain,
    Group,
    GroupId,
    Project,
    Role,
    Scope,
    ScopeKind,
    User,
)
from tests.identity.conftest import Cloud

A, B, PA, PB = "a" * 32, "b" * 32, "c" * 32, "d" * 32
ROLES = ("admin", "manager", "member", "reader")
SYSTEM_ONES = {f"system {role}" for role in ROLES}
DOMAIN_ONES = {f"domain {role}" for role in ROLES}
PROJECT_ONES = {f"project {role}" for role in ROLES}
PERSONAS = SYSTEM_ONES | DOMAIN_ONES | PROJECT_ONES | {"service", "nobody"}
"""By scope and role: of the system, of domain A, of project PA in it, the service's too. `nobody` is
signed in, without a scope."""

OPERATORS = {"system admin", "project admin"}
ADMINS = OPERATORS | {
    "domain admin"
}  # Keystone's admin is one anywhere, where the scope is let through
MANAGERS = ADMINS | {"domain manager"}
PROJECT_USERS = PROJECT_ONES | {"service"}
READERS = SYSTEM_ONES | {"project admin"}
READERS_ANYWHERE = READERS | {"domain admin"}
READERS_OF_A = READERS | DOMAIN_ONES


class Row(Struct, frozen=True):
    method: str
    path: str  # {fresh_user} and the like are made anew for each persona
    allowed: set[str]
    body: Any = None


USER = {"user": {"name": "new"}}
IN_A, IN_B = {"domain_id": A}, {"domain_id": B}
_INHERIT = "/OS-INHERIT{place}/users/{user_a}/roles/{role}/inherited_to_projects"

TABLE = (
    # Users
    Row("GET", "/users", READERS_OF_A),
    Row("GET", "/users/{user_a}", READERS_OF_A),
    Row("GET", "/users/{user_b}", READERS_ANYWHERE),
    Row("GET", "/users/unknown", READERS_ANYWHERE),
    Row("GET", "/users/{user_a}/projects", READERS_OF_A),
    Row("GET", "/users/{user_b}/projects", READERS_ANYWHERE),
    Row("GET", "/users/{user_a}/groups", READERS_OF_A),
    Row("GET", "/users/{user_b}/groups", READERS_ANYWHERE),
    Row("POST", "/users", MANAGERS, {"user": {"name": "{fresh}", **IN_A}}),
    Row("POST", "/users", ADMINS, {"user": {"name": "{fresh}", **IN_B}}),
    Row("PATCH", "/users/{user_a}", MANAGERS, {"user": {"description": "x"}}),
    Row("PATCH", "/users/{user_b}", ADMINS, {"user": {"description": "x"}}),
    Row("DELETE", "/users/{fresh_user_a}", MANAGERS),
    Row("DELETE", "/users/{fresh_user_b}", ADMINS),
    # Groups
    Row("GET", "/groups", READERS_OF_A),
    Row("GET", "/groups/{group_a}", READERS_OF_A),
    Row("GET", "/groups/{group_b}", READERS_ANYWHERE),
    Row("GET", "/groups/{group_a}/users", READERS_OF_A),
    Row("GET", "/groups/{group_b}/users", READERS_ANYWHERE),
    Row("POST", "/groups", MANAGERS, {"group": {"name": "{fresh}", **IN_A}}),
    Row("POST", "/groups", ADMINS, {"group": {"name": "{fresh}", **IN_B}}),
    Row("PATCH", "/groups/{group_a}", MANAGERS, {"group": {"description": "x"}}),
    Row("PATCH", "/groups/{group_b}", ADMINS, {"group": {"description": "x"}}),
    Row("DELETE", "/groups/{fresh_group_a}", MANAGERS),
    Row("DELETE", "/groups/{fresh_group_b}", ADMINS),
    Row("PUT", "/groups/{group_a}/users/{user_a}", MANAGERS),
    Row("PUT", "/groups/{group_a}/users/{user_b}", ADMINS),
    Row("PUT", "/groups/{group_b}/users/{user_a}", ADMINS),
    Row("HEAD", "/groups/{group_a}/users/{member_a}", READERS_OF_A),
    Row("HEAD", "/groups/{group_b}/users/{member_a}", READERS_ANYWHERE),
    Row("DELETE", "/groups/{group_a}/users/{fresh_member}", MANAGERS),
    Row("DELETE", "/groups/{group_b}/users/{user_a}", ADMINS),
    # Projects
    Row("GET", "/projects", READERS_OF_A),
    Row("GET", f"/projects/{PA}", READERS_OF_A | PROJECT_USERS),
    Row("GET", f"/projects/{PB}", READERS_ANYWHERE),
    Row("GET", f"/projects/{A}", READERS_ANYWHERE),
    Row("GET", "/projects/unknown", READERS_ANYWHERE),
    Row("GET", f"/projects/{PA}/tags", READERS_OF_A | PROJECT_USERS),
    Row("HEAD", f"/projects/{PA}/tags/t", READERS_OF_A | PROJECT_USERS),
    Row("GET", f"/projects/{PB}/tags", READERS_ANYWHERE),
    Row("POST", "/projects", MANAGERS, {"project": {"name": "{fresh}", **IN_A}}),
    Row("POST", "/projects", MANAGERS, {"project": {"name": "{fresh}", "parent_id": PA}}),
    Row("POST", "/projects", ADMINS, {"project": {"name": "{fresh}", **IN_B}}),
    Row("POST", "/projects", ADMINS, {"project": {"name": "{fresh}", "parent_id": PB}}),
    Row("POST", "/projects", ADMINS, {"project": {"name": "{fresh}", "is_domain": True}}),
    Row("PATCH", f"/projects/{PA}", MANAGERS, {"project": {"description": "x"}}),
    Row("PATCH", f"/projects/{PB}", ADMINS, {"project": {"description": "x"}}),
    Row("PATCH", f"/projects/{A}", ADMINS, {"project": {"description": "x"}}),
    Row("PUT", f"/projects/{PA}/tags", MANAGERS, {"tags": ["t"]}),
    Row("PUT", f"/projects/{PB}/tags", ADMINS, {"tags": ["t"]}),
    Row("PUT", f"/projects/{PA}/tags/u", MANAGERS),
    Row("PUT", f"/projects/{PB}/tags/u", ADMINS),
    Row("DELETE", "/projects/{fresh_project_a}/tags/t", MANAGERS),
    Row("DELETE", "/projects/{fresh_project_a}/tags", MANAGERS),
    Row("DELETE", "/projects/{fresh_project_a}", MANAGERS),
    Row("DELETE", "/projects/{fresh_project_b}", ADMINS),
    # Domains
    Row("GET", "/domains", READERS_OF_A),
    Row("GET", f"/domains/{A}", READERS_OF_A | PROJECT_USERS),
    Row("GET", f"/domains/{B}", READERS_ANYWHERE),
    Row("POST", "/domains", OPERATORS, {"domain": {"name": "{fresh}"}}),
    Row("PATCH", f"/domains/{A}", OPERATORS, {"domain": {"description": "x"}}),
    Row("DELETE", "/domains/{fresh_domain}", OPERATORS),
    # Roles
    Row("GET", "/roles", READERS_ANYWHERE | {"domain manager"}),
    Row("GET", "/roles/{member}", READERS_ANYWHERE | {"domain manager", "project manager"}),
    Row("GET", "/roles/{admin}", READERS_ANYWHERE),
    Row("GET", "/roles/{crew_a}", READERS),
    Row("GET", f"/roles?domain_id={A}", READERS),
    Row("POST", "/roles", OPERATORS, {"role": {"name": "{fresh}"}}),
    Row("POST", "/roles", OPERATORS, {"role": {"name": "{fresh}", **IN_A}}),
    Row("PATCH", "/roles/{custom}", OPERATORS, {"role": {"description": "x"}}),
    Row("PATCH", "/roles/{crew_a}", OPERATORS, {"role": {"description": "x"}}),
    Row("DELETE", "/roles/{fresh_role}", OPERATORS),
    Row("GET", "/role_inferences", READERS),
    Row("GET", "/roles/{admin}/implies", READERS),
    Row("HEAD", "/roles/{member}/implies/{reader}", READERS),
    Row("PUT", "/roles/{fresh_role}/implies/{reader}", OPERATORS),
    Row("DELETE", "/roles/{fresh_prior}/implies/{reader}", OPERATORS),
    # Grants
    Row("GET", "/role_assignments", READERS_OF_A),
    Row("GET", f"/role_assignments?include_subtree&scope.project.id={PA}", READERS_OF_A),
    Row("GET", f"/role_assignments?include_subtree&scope.project.id={PB}", READERS_ANYWHERE),
    *(
        row
        for on, of, readers, managers in (
            (f"/projects/{PA}", "users/{user_a}", READERS_OF_A, MANAGERS),
            (f"/domains/{A}", "users/{user_a}", READERS_OF_A, MANAGERS),
            (f"/projects/{PA}", "groups/{group_a}", READERS_OF_A, MANAGERS),
            (f"/domains/{A}", "groups/{group_a}", READERS_OF_A, MANAGERS),
            (f"/projects/{PB}", "users/{user_a}", READERS_ANYWHERE, ADMINS),
            (f"/domains/{B}", "users/{user_a}", READERS_ANYWHERE, ADMINS),
            (f"/projects/{PA}", "users/{user_b}", READERS_ANYWHERE, ADMINS),
            (f"/domains/{A}", "groups/{group_b}", READERS_ANYWHERE, ADMINS),
        )
        for row in (
            Row("GET", f"{on}/{of}/roles", readers),
            Row("PUT", f"{on}/{of}/roles/{{member}}", managers),
            Row("HEAD", f"{on}/{of}/roles/{{member}}", readers),
            Row("DELETE", f"{on}/{of}/roles/{{member}}", managers),
            Row("PUT", f"/OS-INHERIT{on}/{of}/roles/{{reader}}/inherited_to_projects", managers),
            Row("HEAD", f"/OS-INHERIT{on}/{of}/roles/{{reader}}/inherited_to_projects", readers),
            Row("DELETE", f"/OS-INHERIT{on}/{of}/roles/{{reader}}/inherited_to_projects", managers),
        )
    ),
    *(
        Row("PUT", f"/projects/{PA}/users/{{user_a}}/roles/{{{role}}}", ADMINS)
        for role in ("admin", "service", "custom", "crew_a")
    ),
    Row("DELETE", f"/projects/{PA}/users/{{user_a}}/roles/{{custom}}", ADMINS),
    Row("GET", "/system/users/{user_a}/roles", READERS),
    Row("PUT", "/system/users/{user_a}/roles/{reader}", OPERATORS),
    Row("HEAD", "/system/users/{user_a}/roles/{reader}", READERS),
    Row("DELETE", "/system/users/{user_a}/roles/{reader}", OPERATORS),
    Row("PUT", "/system/groups/{group_a}/roles/{reader}", OPERATORS),
    Row("DELETE", "/system/groups/{group_a}/roles/{reader}", OPERATORS),
    # The rest
    Row("GET", "/OS-REVOKE/events", OPERATORS | {"service"}),
    Row("GET", "/services", READERS),
    Row("GET", "/endpoints", READERS),
    *(
        Row("GET", f"/auth/{what}", PERSONAS)
        for what in ("catalog", "projects", "domains", "system")
    ),
)


class World:
    """Two domains with a project, a user and a group each, and the personas' tokens."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.made = 0
        self.ids: dict[str, str] = {}
        cloud.database.write_now(self._furnish)
        self.tokens = {name: self._token(name) for name in sorted(PERSONAS)}

    def _furnish(self, tx: Tx) -> None:
        for role in store.ROLES.page(tx, limit=100):
            self.ids[role.name] = role.id
        for domain_id, project_id, ending in ((A, PA, "a"), (B, PB, "b")):
            places.create_domain(tx, Domain(id=DomainId(domain_id), name=f"domain {ending}"))
            self._project(tx, project_id, domain_id)
            self.ids[f"user_{ending}"] = self.user(tx, f"user {ending}", domain_id)
            self.ids[f"group_{ending}"] = self.group(tx, f"group {ending}", domain_id)
        self.ids["member_a"] = self.user(tx, "member a", A)
        for group in ("group_a", "group_b"):
            people.add_to_group(tx, self.ids[group], self.ids["member_a"])
        for name, domain_id in (("custom", ""), ("crew_a", A)):
            self.ids[name] = self.role(tx, name, domain_id)
        for name in sorted(PERSONAS):
            user_id = self.user(tx, name, A, id_=name.replace(" ", "-"))
            scope, _, role = name.partition(" ")
            if name == "service":
                scope, role = "project", "service"
            where = {
                "system": SYSTEM,
                "domain": Scope(kind=ScopeKind.DOMAIN, id=A),
                "project": Scope(kind=ScopeKind.PROJECT, id=PA),
            }.get(scope)
            if where is not None:
                self.give(tx, user_id, role, where)

    def _token(self, name: str) -> str:
        wish = {
            "system": ScopeWish(is_system=True),
            "domain": ScopeWish(domain=DomainName(id=A)),
            "project": ScopeWish(project=Named(id=PA)),
            "service": ScopeWish(project=Named(id=PA)),
        }.get(name.partition(" ")[0], ScopeWish())
        return self.token(name.replace(" ", "-"), wish)

    def token(self, user_id: str, wish: ScopeWish) -> str:
        """As a sign-in would give it, without the dear password."""
        session = self.cloud.database.read_now(
            lambda tx: signin.open_session(
                tx, [Proof(user_id=UserId(user_id))], wish, methods=("password",), lifetime_s=3600
            )
        )
        return self.cloud.issuer.issue(session.payload)

    def user(self, tx: Tx, name: str, domain_id: str, id_: str = "") -> str:
        user = User(id=UserId(id_ or tx.new_hex_id()), name=name, domain_id=DomainId(domain_id))
        return people.create_user(tx, user, None).id

    def group(self, tx: Tx, name: str, domain_id: str) -> str:
        group = Group(id=GroupId(tx.new_hex_id()), name=name, domain_id=DomainId(domain_id))
        return people.create_group(tx, group).id

    def role(self, tx: Tx, name: str, domain_id: str = "") -> str:
        role = Role(id=RoleId(tx.new_hex_id()), name=name, domain_id=domain_id)
        return grants.create_role(tx, role).id

    def _project(self, tx: Tx, id_: str, domain_id: str) -> str:
        project = Project(
            id=ProjectId(id_), name=id_, domain_id=DomainId(domain_id), parent_id=domain_id
        )
        return places.create_project(tx, project, ["t"]).id

    def give(
        self, tx: Tx, actor_id: str, role: str, where: Scope, *, kind: ActorKind = ActorKind.USER,
        is_inherited: bool = False,
    ) -> None:  # fmt: skip
        role_id = RoleId(self.ids[role])
        actor = Actor(kind=kind, id=actor_id)
        grants.grant(
            tx, Assignment(actor=actor, scope=where, role_id=role_id, is_inherited=is_inherited)
        )

    def fresh(self, row: Row) -> dict[str, str]:
        """What a row needs that is used up by the first who may."""
        self.made += 1
        name = f"fresh {self.made}"
        make: dict[str, Callable[[Tx], str]] = {
            "fresh_user_a": lambda tx: self.user(tx, name, A),
            "fresh_user_b": lambda tx: self.user(tx, name, B),
            "fresh_group_a": lambda tx: self.group(tx, name, A),
            "fresh_group_b": lambda tx: self.group(tx, name, B),
            "fresh_project_a": lambda tx: self._project(tx, tx.new_hex_id(), A),
            "fresh_project_b": lambda tx: self._project(tx, tx.new_hex_id(), B),
            "fresh_role": lambda tx: self.role(tx, name),
            "fresh_domain": lambda tx: (
                places.create_domain(
                    tx, Domain(id=DomainId(tx.new_hex_id()), name=name, enabled=False)
                ).id
            ),
            "fresh_member": self._member,
            "fresh_prior": lambda tx: self._prior(tx, name),
        }
        return {
            key: self.cloud.database.write_now(do)
            for key, do in make.items()
            if f"{{{key}}}" in row.path
        }

    def _member(self, tx: Tx) -> str:
        user_id = self.user(tx, f"member {self.made}", A)
        people.add_to_group(tx, self.ids["group_a"], user_id)
        return user_id

    def _prior(self, tx: Tx, name: str) -> str:
        prior = self.role(tx, name)
        grants.imply(tx, prior, self.ids["reader"])
        return prior

    def ask(self, row: Row, persona: str) -> Any:
        path = row.path.format(**self.ids, **self.fresh(row))
        return self.cloud.call(
            row.method, path, _named(row.body, f"new {self.made}"), token=self.tokens[persona]
        )

    def call(self, persona: str, method: str, path: str, body: Any = None) -> Any:
        return self.cloud.call(method, path.format(**self.ids), body, token=self.tokens[persona])


def _named(body: Any, name: str) -> Any:
    if isinstance(body, dict):
        return {k: _named(v, name) for k, v in body.items()}
    return name if body == "{fresh}" else body


@pytest.fixture
def world(cloud: Cloud) -> World:
    return World(cloud)


def test_every_persona_may_what_keystone_lets_it(world: World) -> None:
    wrong = []
    for row in TABLE:
        for persona in sorted(PERSONAS):
            status = world.ask(row, persona).status_code
            if (status != 403) != (persona in row.allowed) or status in (400, 401, 409, 500):
                wrong.append(f"{row.method} {row.path} {row.body or ''} as {persona}: {status}")
    assert not wrong, f"{len(wrong)}:\n" + "\n".join(wrong)


def test_everybody_reads_and_nobody_else_changes_what_is_their_own(world: World) -> None:
    for persona in sorted(PERSONAS):
        me = persona.replace(" ", "-")
        for path in (f"/users/{me}", f"/users/{me}/projects", f"/users/{me}/groups"):
            assert world.call(persona, "GET", path).status_code == 200, (persona, path)
        status = world.call(persona, "PATCH", f"/users/{me}", {"user": {"name": me}}).status_code
        assert status == (200 if persona in MANAGERS else 403), persona


@pytest.mark.parametrize("persona", sorted(DOMAIN_ONES))
def test_lists_with_a_token_for_a_domain_show_that_domain(world: World, persona: str) -> None:
    for kind in ("user", "group", "project"):
        for query in ("", f"?domain_id={B}", "?limit=3"):
            answer = world.call(persona, "GET", f"/{kind}s{query}").json
            assert {t["domain_id"] for t in answer[f"{kind}s"]} <= {A}
            if query == "":
                assert answer[f"{kind}s"]
    assert [d["id"] for d in world.call(persona, "GET", "/domains").json["domains"]] == [A]
    assert world.call(persona, "GET", "/projects?is_domain=1").json["projects"] == []
    for query in (
        "",
        "?effective",
        "?scope.system=all",
        f"?scope.project.id={PB}",
        "?include_names",
    ):
        found = world.call(persona, "GET", f"/role_assignments{query}").json["role_assignments"]
        for one in found:
            scope = one["scope"]
            assert scope.get("domain", scope.get("project", {})).get("id") in (A, PA), scope


def test_nothing_is_told_of_what_is_elsewhere(world: World) -> None:
    """What is there and what is not get one answer."""
    for persona in ("domain manager", "project manager", "project reader"):
        for path in ("/users/{x}", "/groups/{x}", "/projects/{x}", "/domains/{x}",
                     f"/projects/{{x}}/users/{world.ids['user_a']}/roles"):  # fmt: skip
            kind = path.split("/")[1]
            there = {"users": "user_b", "groups": "group_b"}.get(kind)
            known = world.ids[there] if there else (PB if kind == "projects" else B)
            answers = [
                world.call(persona, "GET", path.replace("{x}", x)) for x in (known, "f" * 32)
            ]
            assert [a.status_code for a in answers] == [403, 403], (persona, path)
            assert answers[0].json == answers[1].json


# How a domain's manager might get beyond it


@pytest.fixture
def strong(world: World) -> Iterator[dict[str, str]]:
    """Users and groups of domain A who rule the whole cloud, each in another way."""
    domain_a = Scope(kind=ScopeKind.DOMAIN, id=A)

    def furnish(tx: Tx) -> dict[str, str]:
        by_system = world.user(tx, "by system", A)
        world.give(tx, by_system, "admin", SYSTEM)
        below = world.user(tx, "below", A)
        world.give(tx, below, "admin", domain_a, is_inherited=True)
        server = world.user(tx, "server", A)
        world.give(tx, server, "service", Scope(kind=ScopeKind.PROJECT, id=PA))
        group = world.group(tx, "strong", A)
        world.give(tx, group, "admin", SYSTEM, kind=ActorKind.GROUP)
        in_group = world.user(tx, "in group", A)
        people.add_to_group(tx, group, in_group)
        users = {"by_system": by_system, "below": below, "server": server, "in_group": in_group}
        return {**users, "group": group}

    yield world.cloud.database.write_now(furnish)


def test_a_manager_does_not_take_over_who_rules_the_cloud(
    world: World, strong: dict[str, str]
) -> None:
    for who in ("by_system", "below", "server", "in_group"):
        path = f"/users/{strong[who]}"
        for method, body in (("PATCH", {"user": {"password": "mine"}}), ("DELETE", None)):
            assert world.call("domain manager", method, path, body).status_code == 403, who
            assert world.call("domain manager", "GET", path).status_code == 200
    group = f"/groups/{strong['group']}"
    assert world.call("domain manager", "PUT", f"{group}/users/domain-manager").status_code == 403
    assert world.call("domain manager", "PUT", f"{group}/users/{{user_a}}").status_code == 403
    for method, path, body in (
        ("DELETE", f"{group}/users/{strong['in_group']}", None),
        ("PATCH", group, {"group": {"name": "x"}}),
        ("DELETE", group, None),
    ):
        assert world.call("domain manager", method, path, body).status_code == 403
    # An administrator of that domain is one of the cloud, to Keystone as here.
    assert world.call("domain admin", "PUT", f"{group}/users/{{user_a}}").status_code == 204


def test_a_manager_gives_no_role_beyond_the_managed_ones(
    world: World, strong: dict[str, str]
) -> None:
    manager = "domain manager"

    def roles_of_b(tx: Tx) -> tuple[str, str, str]:
        """Named as those that a manager may give: they are others all the same."""
        return world.role(tx, "member", B), world.role(tx, "manager", B), world.role(tx, "Admin", A)

    for role in world.cloud.database.write_now(roles_of_b):
        for place in (f"/projects/{PA}", f"/domains/{A}"):
            path = f"{place}/users/{{user_a}}/roles/{role}"
            assert world.call(manager, "PUT", path).status_code == 403
            inherit = f"/OS-INHERIT{path}/inherited_to_projects"
            assert world.call(manager, "PUT", inherit).status_code == 403
    # Nor does a manager take what could not be given.
    path = f"/OS-INHERIT/domains/{A}/users/{strong['below']}/roles/{{admin}}/inherited_to_projects"
    assert world.call(manager, "DELETE", path).status_code == 403
    assert world.call(manager, "HEAD", path).status_code == 204
    # Nor to themselves, nor on the system, nor by what a role implies.
    for path in (
        f"/domains/{A}/users/domain-manager/roles/{{admin}}",
        "/system/users/domain-manager/roles/{reader}",
        "/system/users/domain-manager/roles/{member}",
        "/roles/{member}/implies/{custom}",
        "/roles/{crew_a}/implies/{admin}",
    ):
        assert world.call(manager, "PUT", path).status_code == 403, path


def test_a_manager_moves_nothing_out_or_in(world: World) -> None:
    manager = "domain manager"
    for kind, here, there in (
        ("user", "/users/{user_a}", "/users/{user_b}"),
        ("group", "/groups/{group_a}", "/groups/{group_b}"),
        ("project", f"/projects/{PA}", f"/projects/{PB}"),
    ):
        out = world.call(manager, "PATCH", here, {kind: {"domain_id": B}})
        assert out.status_code == 400, kind
        into = world.call(manager, "PATCH", there, {kind: {"domain_id": A}})
        assert into.status_code == 403, kind
    parent = {"project": {"name": "x", "domain_id": A, "parent_id": PB}}
    assert world.call(manager, "POST", "/projects", parent).status_code == 400
    sideways = {"project": {"parent_id": PB}}
    assert world.call(manager, "PATCH", f"/projects/{PA}", sideways).status_code == 403
    assert world.cloud.call("GET", f"/projects/{PA}").json["project"]["parent_id"] == A


def test_what_a_manager_makes_is_of_the_managers_domain(world: World) -> None:
    for kind in ("user", "group", "project"):
        made = world.call("domain manager", "POST", f"/{kind}s", {kind: {"name": "mine"}})
        assert made.status_code == 201
        assert made.json[kind]["domain_id"] == A
        for wrong in (3, [], {"id": A}, ""):
            body = {kind: {"name": "x", "domain_id": wrong}}
            assert world.call("domain manager", "POST", f"/{kind}s", body).status_code in (400, 403)
    assert (
        world.call("system admin", "POST", "/users", USER).json["user"]["domain_id"]
        == DEFAULT_DOMAIN
    )


def test_a_manager_of_a_project_manages_nothing_here(world: World) -> None:
    for method, path in (
        ("PUT", f"/projects/{PA}/users/{{user_a}}/roles/{{member}}"),
        (
            "PUT",
            f"/OS-INHERIT/projects/{PA}/users/{{user_a}}/roles/{{member}}/inherited_to_projects",
        ),
        ("DELETE", f"/projects/{PA}/users/project-reader/roles/{{reader}}"),
        ("DELETE", f"/projects/{PA}"),
    ):
        assert world.call("project manager", method, path).status_code == 403


def test_tokens_are_shown_to_services_readers_of_the_system_and_their_owners(world: World) -> None:
    subject = world.tokens["project reader"]
    for persona in sorted(PERSONAS):
        headers = {"X-Subject-Token": subject}
        answer = world.cloud.call(
            "GET", "/auth/tokens", token=world.tokens[persona], headers=headers
        )
        may = persona in SYSTEM_ONES | ADMINS | {"service", "project reader"}
        assert answer.status_code == (200 if may else 403), persona
        mine = {"X-Subject-Token": world.tokens[persona]}
        own = world.cloud.call("HEAD", "/auth/tokens", token=world.tokens[persona], headers=mine)
        assert own.status_code == 200
    for persona in sorted(PERSONAS - ADMINS - {"project reader"}):
        answer = world.cloud.call(
            "DELETE",
            "/auth/tokens",
            token=world.tokens[persona],
            headers={"X-Subject-Token": subject},
        )
        assert answer.status_code == 403, persona
    assert world.cloud.is_good(subject)


@pytest.fixture
def on_both(database: Database, clock: FakeClock, tmp_path: Path) -> Iterator[World]:
    made = Cloud(database, clock, tmp_path)
    yield World(made)
    made.passwords.close()


def test_a_domains_lists_are_the_same_on_both_databases(on_both: World) -> None:
    found = on_both.call("domain manager", "GET", "/role_assignments?effective").json
    assert {a["user"]["id"] for a in found["role_assignments"]} >= {"domain-manager", "service"}
    assert on_both.call("domain manager", "GET", "/groups").json["groups"]
