"""Trusts, over HTTP with real tokens."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from cairn.core.clock import FakeClock
from tests.identity.conftest import Cloud, scope_of, sign_in_body, token_body

PASSWORD = "a password"
TRUSTS = "/OS-TRUST/trusts"


class People:
    """Ann has two roles in a project; Bob and Cay have none of it."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.operator = cloud.make("role", name="operator")
        self.project = cloud.make("project", name="p")
        self.ids = {}
        for name in ("ann", "bob", "cay"):
            self.ids[name] = cloud.make("user", name=name, password=PASSWORD)["id"]
        self.grants = {
            role: cloud.grant(self.ids["ann"], self.project["id"], role)
            for role in ("member", "operator")
        }
        self.ann = cloud.token("ann", PASSWORD, scope=scope_of("p"))
        self.bob = cloud.token("bob", PASSWORD)
        self.cay = cloud.token("cay", PASSWORD)

    def wish(self, **changes: Any) -> dict[str, Any]:
        wish = {
            "trustor_user_id": self.ids["ann"],
            "trustee_user_id": self.ids["bob"],
            "project_id": self.project["id"],
            "impersonation": False,
            "roles": [{"name": "operator"}],
            **changes,
        }
        return {name: value for name, value in wish.items() if value is not ...}

    def ask(self, token: str | None = None, **changes: Any) -> Any:
        body = {"trust": self.wish(**changes)}
        return self.cloud.call("POST", TRUSTS, body, token=token or self.ann)

    def make(self, token: str | None = None, **changes: Any) -> Any:
        answer = self.ask(token, **changes)
        assert answer.status_code == 201, answer.text
        return answer.json["trust"]

    def sign_in(self, trust_id: str, who: str = "bob") -> Any:
        return self.cloud.sign_in(who, PASSWORD, scope=by_trust(trust_id))

    def token_of(self, trust_id: str, who: str = "bob") -> str:
        answer = self.sign_in(trust_id, who)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["x-subject-token"])


def by_trust(trust_id: str) -> dict[str, Any]:
    return {"OS-TRUST:trust": {"id": trust_id}}


@pytest.fixture
def people(cloud: Cloud) -> People:
    return People(cloud)


def test_one_is_made_shown_listed_and_deleted(cloud_on_both: Cloud) -> None:
    people = People(cloud_on_both)
    cloud = people.cloud
    made = people.make(expires_at="2999-01-01T00:00:00Z", remaining_uses=3, note="mine")
    assert made["expires_at"] == "2999-01-01T00:00:00.000000Z"
    assert made["note"] == "mine" and made["remaining_uses"] == 3
    assert made["redelegation_count"] == 0 and made["deleted_at"] is None
    assert [r["name"] for r in made["roles"]] == ["operator"]
    assert made["roles"][0]["links"]["self"].endswith(f"/v3/roles/{people.operator['id']}")
    one = f"{TRUSTS}/{made['id']}"
    assert made["roles_links"]["self"].endswith(f"{one}/roles")

    for token in (people.ann, people.bob, cloud.admin_token):
        assert cloud.call("GET", one, token=token).json["trust"] == made
        assert cloud.call("HEAD", one, token=token).status_code == 200
        roles = cloud.call("GET", f"{one}/roles", token=token).json["roles"]
        assert roles == made["roles"]
        role = f"{one}/roles/{people.operator['id']}"
        assert cloud.call("GET", role, token=token).json == {"role": made["roles"][0]}
        assert cloud.call("HEAD", role, token=token).status_code == 200
        other = f"{one}/roles/{cloud.role_id('member')}"
        assert cloud.call("GET", other, token=token).status_code == 404
    for path in (one, f"{one}/roles", role):
        assert cloud.call("GET", path, token=people.cay).status_code == 403
    brief = {k: v for k, v in made.items() if k not in ("roles", "roles_links")}
    for token, query in ((people.ann, f"trustor_user_id={people.ids['ann']}"),
                         (people.bob, f"trustee_user_id={people.ids['bob']}"),
                         (cloud.admin_token, f"trustee_user_id={people.ids['bob']}"),
                         (cloud.admin_token, "")):  # fmt: skip
        assert cloud.call("GET", f"{TRUSTS}?{query}", token=token).json["trusts"] == [brief]
    slashed = cloud.call("GET", f"{TRUSTS}/?trustor_user_id={people.ids['ann']}", token=people.ann)
    assert slashed.json["trusts"] == [brief], "as Tempest asks"
    nobodys = f"{TRUSTS}?trustor_user_id={people.ids['cay']}"
    assert cloud.call("GET", nobodys).json["trusts"] == []
    for query in ("", f"trustor_user_id={people.ids['ann']}"):
        assert cloud.call("GET", f"{TRUSTS}?{query}", token=people.bob).status_code == 403

    assert cloud.call("DELETE", one, token=people.bob).status_code == 403
    assert cloud.call("DELETE", one, token=people.ann).status_code == 204
    assert cloud.call("GET", one, token=people.ann).status_code == 404
    assert cloud.call("DELETE", one, token=people.ann).status_code == 404
    second = people.make()
    assert cloud.call("DELETE", f"{TRUSTS}/{second['id']}").status_code == 204, "an administrator"


@pytest.mark.parametrize("impersonation", [False, True])
def test_the_trustee_signs_in_with_the_roles(cloud_on_both: Cloud, impersonation: bool) -> None:
    people = People(cloud_on_both)
    cloud = people.cloud
    made = people.make(impersonation=impersonation)
    answer = people.sign_in(made["id"])
    assert answer.status_code == 201, answer.text
    token = answer.json["token"]
    assert token["OS-TRUST:trust"] == {
        "id": made["id"],
        "impersonation": impersonation,
        "trustor_user": {"id": people.ids["ann"]},
        "trustee_user": {"id": people.ids["bob"]},
    }
    assert token["user"]["name"] == ("ann" if impersonation else "bob")
    assert token["project"]["id"] == people.project["id"]
    assert [r["name"] for r in token["roles"]] == ["operator"]
    assert "catalog" in token and "is_domain" not in token
    subject = answer.headers["x-subject-token"]
    checked = cloud.call("GET", "/auth/tokens", headers={"X-Subject-Token": subject}).json["token"]
    assert checked["OS-TRUST:trust"] == token["OS-TRUST:trust"]
    assert checked["user"] == token["user"]
    # From a token, too; but never from the trust's own.
    wish = token_body(people.bob, by_trust(made["id"]))
    assert cloud.call("POST", "/auth/tokens", wish, token=None).status_code == 201
    for scope in (by_trust(made["id"]), scope_of("p"), None):
        again = cloud.call("POST", "/auth/tokens", token_body(subject, scope), token=None)
        assert again.status_code == 403


def test_what_roles_imply_comes_along(people: People) -> None:
    made = people.make(roles=[{"id": people.cloud.role_id("member")}])
    token = people.sign_in(made["id"]).json["token"]
    assert [r["name"] for r in token["roles"]] == ["member", "reader"]


def test_nobody_else_signs_in_with_it(people: People) -> None:
    made = people.make()
    for who in ("ann", "cay"):
        assert people.sign_in(made["id"], who).status_code == 403
    assert people.sign_in("f" * 32).status_code == 401
    scope: Any
    for scope in ({"OS-TRUST:trust": {}}, {"OS-TRUST:trust": {"id": 7}}, {"OS-TRUST:trust": "x"},
                  {**by_trust(made["id"]), **scope_of("p")}):  # fmt: skip
        assert people.cloud.sign_in("bob", PASSWORD, scope=scope).status_code == 400


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"trustor_user_id": ...}, 403, "create_trust"),
        ({"trustee_user_id": ...}, 400, "trustee_user_id"),
        ({"impersonation": ...}, 400, "impersonation"),
        ({"impersonation": "yes"}, 400, "impersonation"),
        ({"trustee_user_id": "f" * 32}, 404, "user"),
        ({"trustee_user_id": 7}, 400, "trustee_user_id"),
        ({"project_id": "f" * 32}, 404, "project"),
        ({"project_id": {}}, 400, "project_id"),
        ({"roles": []}, 403, "role"),
        ({"roles": [{"name": "admin"}]}, 404, "role"),
        ({"roles": [{"name": "never was"}]}, 404, "never was"),
        ({"roles": [{"id": "f" * 32}]}, 404, "role"),
        ({"roles": [{}]}, 400, "roles"),
        ({"roles": [{"id": "a", "name": "b"}]}, 400, "roles"),
        ({"roles": "operator"}, 400, "roles"),
        ({"expires_at": "bad.123Z"}, 400, "expires_at"),
        ({"expires_at": 5}, 400, "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, 400, "expires_at"),
        ({"remaining_uses": 0}, 400, "remaining_uses"),
        ({"remaining_uses": -1}, 400, "remaining_uses"),
        ({"remaining_uses": 10**30}, 400, "remaining_uses"),
        ({"remaining_uses": "1"}, 400, "remaining_uses"),
        ({"redelegation_count": -1}, 400, "redelegation_count"),
        ({"allow_redelegation": True, "redelegation_count": 4}, 403, "depth"),
        ({"allow_redelegation": True, "remaining_uses": 1}, 400, "remaining_uses"),
        ({"redelegated_trust_id": "f" * 32}, 403, "trust"),
    ],
)
def test_bad_wishes_are_refused_by_name(
    people: People, changes: dict[str, Any], status: int, says: str
) -> None:
    answer = people.ask(**changes)
    assert answer.status_code == status and says in answer.text
    assert people.cloud.call("GET", TRUSTS).json["trusts"] == []


def test_nobody_trusts_for_somebody_else(people: People) -> None:
    assert people.ask(people.bob).status_code == 403
    assert people.ask(people.cloud.admin_token).status_code == 403


def test_one_without_a_project_opens_nothing(people: People) -> None:
    made = people.make(project_id=None, roles=[])
    assert people.sign_in(made["id"]).status_code == 401
    assert people.ask(project_id=None).status_code == 404, "no role without a project"


def test_one_for_a_disabled_project_waits_until_it_is_enabled(people: People) -> None:
    cloud, path = people.cloud, f"/projects/{people.project['id']}"
    cloud.call("PATCH", path, {"project": {"enabled": False}})
    unscoped = cloud.token("ann", PASSWORD)
    made = people.make(unscoped)
    assert people.sign_in(made["id"]).status_code == 401
    cloud.call("PATCH", path, {"project": {"enabled": True}})
    assert people.sign_in(made["id"]).status_code == 201


def test_roles_of_a_domain_lend_what_they_imply(people: People) -> None:
    cloud = people.cloud
    role = cloud.make("role", name="operator", domain_id="default")
    cloud.call("PUT", f"/roles/{role['id']}/implies/{cloud.role_id('reader')}")
    where = f"/projects/{people.project['id']}/users/{people.ids['ann']}/roles/{role['id']}"
    assert cloud.call("PUT", where).status_code == 204
    assert people.ask().status_code == 409, "two roles have the name"
    made = people.make(roles=[{"id": role["id"]}])
    token = people.sign_in(made["id"]).json["token"]
    assert [r["name"] for r in token["roles"]] == ["reader"]
    cloud.call("DELETE", where)
    assert people.sign_in(made["id"]).status_code == 403


def test_a_role_through_a_group_or_a_domain_can_be_lent(people: People) -> None:
    cloud = people.cloud
    group = cloud.make("group", name="g")["id"]
    cloud.call("PUT", f"/groups/{group}/users/{people.ids['cay']}")
    inherited = f"/OS-INHERIT/domains/default/groups/{group}/roles/{people.operator['id']}"
    assert cloud.call("PUT", f"{inherited}/inherited_to_projects").status_code == 204
    made = people.make(people.cay, trustor_user_id=people.ids["cay"])
    token = people.token_of(made["id"])
    assert cloud.call("DELETE", f"{inherited}/inherited_to_projects").status_code == 204
    assert not cloud.is_good(token)
    assert people.sign_in(made["id"]).status_code == 403


def test_the_same_twice_with_the_same_end_is_a_conflict(people: People) -> None:
    people.make(expires_at="2999-01-01T00:00:00Z")
    assert people.ask(expires_at="2999-01-01T00:00:00Z").status_code == 409
    people.make(expires_at="2999-01-01T00:00:01Z")
    people.make(), people.make()


def test_it_ends_in_time(people: People, clock: FakeClock) -> None:
    end = clock.now() + timedelta(minutes=10)
    made = people.make(expires_at=end.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    answer = people.sign_in(made["id"])
    assert answer.json["token"]["expires_at"] == made["expires_at"]
    clock.advance(601)
    one = f"{TRUSTS}/{made['id']}"
    ann = people.cloud.token("ann", PASSWORD, scope=scope_of("p"))
    for path in (one, f"{one}/roles"):
        assert people.cloud.call("GET", path, token=ann).status_code == 404
    assert people.cloud.call("DELETE", one, token=ann).status_code == 404
    assert people.sign_in(made["id"]).status_code == 401
    assert not people.cloud.is_good(answer.headers["x-subject-token"])


@pytest.mark.parametrize("impersonation", [False, True])
@pytest.mark.parametrize("how", [
    "deleted", "role taken", "role deleted", "trustor disabled", "trustor deleted",
    "trustee disabled", "trustee deleted", "project disabled", "project deleted",
    "trustor's domain disabled", "trustee's domain disabled",
])  # fmt: skip
def test_what_voids_it(cloud: Cloud, how: str, impersonation: bool) -> None:
    people = People(cloud)
    domains = {name: cloud.make("domain", name=name)["id"] for name in ("ann's", "bob's")}
    ann = cloud.make("user", name="a", password=PASSWORD, domain_id=domains["ann's"])["id"]
    bob = cloud.make("user", name="b", password=PASSWORD, domain_id=domains["bob's"])["id"]
    role = cloud.grant(ann, people.project["id"], "operator")

    def password(name: str, domain: str, scope: Any) -> Any:
        body = sign_in_body(name, PASSWORD, scope)
        body["auth"]["identity"]["password"]["user"]["domain"] = {"name": domain}
        return cloud.call("POST", "/auth/tokens", body, token=None)

    anns = password("a", "ann's", scope_of("p")).headers["x-subject-token"]
    made = people.make(anns, trustor_user_id=ann, trustee_user_id=bob, impersonation=impersonation)
    answer = password("b", "bob's", by_trust(made["id"]))
    assert answer.status_code == 201, answer.text
    token = answer.headers["x-subject-token"]
    assert cloud.is_good(token)
    off: dict[str, Any] = {"enabled": False}
    match how:
        case "deleted":
            done = cloud.call("DELETE", f"{TRUSTS}/{made['id']}")
        case "role taken":
            done = cloud.call("DELETE", role)
        case "role deleted":
            done = cloud.call("DELETE", f"/roles/{people.operator['id']}")
        case "trustor disabled":
            done = cloud.call("PATCH", f"/users/{ann}", {"user": off})
        case "trustor deleted":
            done = cloud.call("DELETE", f"/users/{ann}")
        case "trustee disabled":
            done = cloud.call("PATCH", f"/users/{bob}", {"user": off})
        case "trustee deleted":
            done = cloud.call("DELETE", f"/users/{bob}")
        case "project disabled":
            done = cloud.call("PATCH", f"/projects/{people.project['id']}", {"project": off})
        case "project deleted":
            done = cloud.call("DELETE", f"/projects/{people.project['id']}")
        case "trustor's domain disabled":
            done = cloud.call(
                "PATCH", f"/domains/{domains['ann' + chr(39) + 's']}", {"domain": off}
            )
        case _:
            done = cloud.call(
                "PATCH", f"/domains/{domains['bob' + chr(39) + 's']}", {"domain": off}
            )
    assert done.status_code in (200, 204), done.text
    assert not cloud.is_good(token)
    again = password("b", "bob's", by_trust(made["id"]))
    assert again.status_code in (401, 403)
    kept = cloud.call("GET", TRUSTS).json["trusts"]
    assert bool(kept) == ("deleted" not in how or how == "role deleted")


def test_all_of_its_roles_or_none(people: People) -> None:
    """As Keystone does: a trust that lacks a role that it was made with is void until it is back."""
    made = people.make(roles=[{"name": "operator"}, {"name": "member"}])
    assert people.sign_in(made["id"]).status_code == 201
    people.cloud.call("DELETE", people.grants["operator"])
    refused = people.sign_in(made["id"])
    assert refused.status_code == 403 and "roles" in refused.text
    people.cloud.grant(people.ids["ann"], people.project["id"], "operator")
    assert people.sign_in(made["id"]).status_code == 201


# Uses


def test_uses_are_counted_down(cloud_on_both: Cloud) -> None:
    people = People(cloud_on_both)
    made = people.make(remaining_uses=2)
    one = f"{TRUSTS}/{made['id']}"
    assert people.sign_in(made["id"], "cay").status_code == 403
    tokens = [people.token_of(made["id"])]
    assert people.cloud.call("GET", one, token=people.ann).json["trust"]["remaining_uses"] == 1
    tokens.append(people.token_of(made["id"]))
    assert people.sign_in(made["id"]).status_code == 401
    assert people.cloud.call("GET", one, token=people.ann).status_code == 404
    assert all(people.cloud.is_good(token) for token in tokens), "they were had in time"


def test_uses_are_exact_under_twenty_parallel_sign_ins(cloud_on_both: Cloud) -> None:
    people = People(cloud_on_both)
    made = people.make(remaining_uses=5)
    used_up = people.make(remaining_uses=1)
    people.token_of(used_up["id"])
    statuses = asyncio.run(_at_once(people, made["id"], 20))
    assert sorted(statuses) == [201] * 5 + [401] * 15
    assert asyncio.run(_at_once(people, used_up["id"], 20)) == [401] * 20


async def _at_once(people: People, trust_id: str, count: int) -> list[int]:
    """Sign-ins from a token: without the hashing, they are as close together as can be."""
    body = msgspec.json.encode(token_body(people.bob, by_trust(trust_id)))
    app = people.cloud.shell.app

    async def one() -> int:
        status: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(event: dict[str, Any]) -> None:
            if event["type"] == "http.response.start":
                status.append(event["status"])

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
            "path": "/identity/v3/auth/tokens", "raw_path": b"/identity/v3/auth/tokens",
            "query_string": b"", "headers": [(b"content-type", b"application/json"),
                                             (b"content-length", str(len(body)).encode()),
                                             (b"host", b"cloud")],
            "scheme": "http", "server": ("cloud", 80), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await app(scope, receive, send)
        return status[0]

    return list(await asyncio.gather(*(one() for _ in range(count))))


# Handing it on


@pytest.mark.parametrize("impersonation", [False, True])
def test_it_is_handed_on(cloud_on_both: Cloud, impersonation: bool) -> None:
    people = People(cloud_on_both)
    cloud = people.cloud
    first = people.make(
        allow_redelegation=True, redelegation_count=2, impersonation=impersonation,
        roles=[{"name": "operator"}, {"name": "member"}], expires_at="2999-01-01T00:00:00Z",
    )  # fmt: skip
    assert first["redelegation_count"] == 2
    bobs = people.token_of(first["id"])
    trustor = people.ids["ann" if impersonation else "bob"]
    second = people.make(
        bobs, trustor_user_id=trustor, trustee_user_id=people.ids["cay"],
        impersonation=impersonation, allow_redelegation=True,
    )  # fmt: skip
    assert second["redelegated_trust_id"] == first["id"]
    assert second["redelegation_count"] == 1
    assert second["expires_at"] == first["expires_at"]
    answer = people.sign_in(second["id"], "cay")
    token = answer.json["token"]
    assert [r["name"] for r in token["roles"]] == ["operator"]
    assert token["user"]["name"] == ("ann" if impersonation else "cay")
    assert token["OS-TRUST:trust"]["trustor_user"] == {"id": trustor}
    cays = answer.headers["x-subject-token"]

    # The chain breaks where it is cut: by the first trustor, by the one in between, from below.
    cloud.call("PATCH", f"/users/{people.ids['bob']}", {"user": {"enabled": False}})
    assert not cloud.is_good(cays)
    assert people.sign_in(second["id"], "cay").status_code == 403
    cloud.call("PATCH", f"/users/{people.ids['bob']}", {"user": {"enabled": True}})
    cays = people.token_of(second["id"], "cay")
    cloud.call("DELETE", people.grants["operator"])
    assert not cloud.is_good(cays)
    assert people.sign_in(second["id"], "cay").status_code == 403
    cloud.grant(people.ids["ann"], people.project["id"], "operator")
    cays = people.token_of(second["id"], "cay")
    assert cloud.call("DELETE", f"{TRUSTS}/{first['id']}", token=people.ann).status_code in (
        204,
        401,
    )
    cloud.call("DELETE", f"{TRUSTS}/{first['id']}")
    assert not cloud.is_good(cays)
    assert cloud.call("GET", TRUSTS).json["trusts"] == []


def test_what_is_handed_on_is_never_more(people: People) -> None:
    first = people.make(allow_redelegation=True, expires_at="2999-01-01T00:00:00Z")
    assert first["redelegation_count"] == 3
    bobs = people.token_of(first["id"])
    mine = {"trustor_user_id": people.ids["bob"], "trustee_user_id": people.ids["cay"]}
    refused: list[dict[str, Any]] = [
        {"impersonation": True},
        {"roles": [{"name": "member"}]},
        {"expires_at": "2999-01-01T00:00:01Z"},
        {"remaining_uses": 1},
        {"allow_redelegation": True, "redelegation_count": 3},
        {"redelegated_trust_id": "f" * 32},
        {"trustor_user_id": people.ids["ann"]},
    ]
    for changes in refused:
        answer = people.ask(bobs, **{**mine, **changes})
        assert answer.status_code in (403, 404), (changes, answer.text)
    second = people.make(bobs, **mine)
    assert second["redelegation_count"] == 0
    cays = people.token_of(second["id"], "cay")
    end = people.ask(cays, trustor_user_id=people.ids["cay"], trustee_user_id=people.ids["ann"])
    assert end.status_code == 403, "the chain ends here"


def test_one_that_may_not_be_handed_on(people: People) -> None:
    first = people.make()
    bobs = people.token_of(first["id"])
    mine = {"trustor_user_id": people.ids["bob"], "trustee_user_id": people.ids["cay"]}
    assert people.ask(bobs, **mine).status_code == 403


def test_its_tokens_make_no_application_credentials(people: People) -> None:
    token = people.token_of(people.make(impersonation=True)["id"])
    mine = f"/users/{people.ids['ann']}"
    body = {"application_credential": {"name": "n"}}
    for method, path, sent in (("POST", "application_credentials", body),
                               ("GET", "application_credentials", None),
                               ("GET", "access_rules", None)):  # fmt: skip
        answer = people.cloud.call(method, f"{mine}/{path}", sent, token=token)
        assert answer.status_code == 403
