"""Application credentials and access rules, over HTTP with real tokens."""

from datetime import timedelta
from typing import Any

import falcon.testing
import msgspec
import pytest
from sqlalchemy import select

from cairn.core.caller import AccessRule, Caller, Delegation
from cairn.core.clock import FakeClock
from cairn.core.errors import Unauthenticated
from cairn.core.ids import UserId
from cairn.db.engine import Database
from cairn.http import access, faults
from cairn.http.routes import Route, Service
from cairn.http.shell import Shell
from cairn.identity.delegation.application_credentials import KIND
from cairn.identity.delegation.application_credentials_store import application_credentials
from tests.identity.conftest import Cloud, scope_of, token_body

PASSWORD = "ann's password"


class Ann:
    """A user with the role member in a project, and what she does with it."""

    def __init__(self, cloud: Cloud, name: str = "ann", role: str = "member") -> None:
        self.cloud = cloud
        self.project = cloud.make("project", name=f"{name}-project")
        self.user = cloud.make("user", name=name, password=PASSWORD)
        self.grant = cloud.grant(self.user["id"], self.project["id"], role)
        self.token = cloud.token(name, PASSWORD, scope=scope_of(self.project["name"]))
        self.path = f"/users/{self.user['id']}/application_credentials"
        self.rules = f"/users/{self.user['id']}/access_rules"

    def ask(self, body: dict[str, Any], *, token: str | None = None) -> Any:
        wish = {"application_credential": body}
        return self.cloud.call("POST", self.path, wish, token=token or self.token)

    def make(self, **body: Any) -> Any:
        answer = self.ask({"name": "c", **body})
        assert answer.status_code == 201, answer.text
        return answer.json["application_credential"]

    def sign_in(self, part: dict[str, Any], scope: Any = None) -> Any:
        return self.cloud.call("POST", "/auth/tokens", by_credential(part, scope), token=None)

    def token_of(self, made: dict[str, Any]) -> str:
        answer = self.sign_in({"id": made["id"], "secret": made["secret"]})
        assert answer.status_code == 201, answer.text
        return str(answer.headers["x-subject-token"])


def by_credential(part: dict[str, Any], scope: Any = None) -> dict[str, Any]:
    auth: dict[str, Any] = {"identity": {"methods": [KIND], KIND: part}}
    if scope is not None:
        auth["scope"] = scope
    return {"auth": auth}


def test_one_is_made_shown_listed_and_deleted(cloud_on_both: Cloud) -> None:
    ann = Ann(cloud_on_both)
    made = ann.make(name="backup", description="nightly")
    assert len(made["secret"]) == 86
    assert made["project_id"] == ann.project["id"]
    assert {r["name"] for r in made["roles"]} == {"member", "reader"}
    assert made["unrestricted"] is False and made["expires_at"] is None
    assert made["links"]["self"].endswith(f"{ann.path}/{made['id']}")

    shown = ann.cloud.call("GET", f"{ann.path}/{made['id']}", token=ann.token)
    without_secret = {k: v for k, v in made.items() if k != "secret"}
    assert shown.json["application_credential"] == without_secret
    ann.make(name="other")
    named = ann.cloud.call("GET", f"{ann.path}?name=backup", token=ann.token).json
    assert named["application_credentials"] == [without_secret]
    assert ann.cloud.call("DELETE", f"{ann.path}/{made['id']}", token=ann.token).status_code == 204
    assert ann.cloud.call("GET", f"{ann.path}/{made['id']}", token=ann.token).status_code == 404
    again = ann.cloud.call("DELETE", f"{ann.path}/{made['id']}", token=ann.token)
    assert again.status_code == 404 and made["id"] in again.json["error"]["message"]


def test_the_database_holds_a_hash_only(cloud: Cloud) -> None:
    made = Ann(cloud).make(secret="a secret of my own")
    assert made["secret"] == "a secret of my own"
    row = cloud.database.read_now(lambda tx: tx.execute(select(application_credentials)).one())
    assert "a secret of my own" not in str(row)
    assert row.secret_hash.startswith("$argon2id$")


def test_it_signs_in_for_its_project_and_says_so(cloud_on_both: Cloud) -> None:
    ann = Ann(cloud_on_both)
    made = ann.make(roles=[{"name": "reader"}])
    answer = ann.sign_in({"id": made["id"], "secret": made["secret"]})
    token = answer.json["token"]
    assert token["methods"] == [KIND]
    assert token["user"]["id"] == ann.user["id"]
    assert token["project"]["id"] == ann.project["id"]
    assert [r["name"] for r in token["roles"]] == ["reader"]
    described = {"id": made["id"], "name": "c", "restricted": True}
    assert token["application_credential"] == described
    subject = {"X-Subject-Token": answer.headers["x-subject-token"]}
    checked = ann.cloud.call("GET", "/auth/tokens", headers=subject)
    assert checked.json["token"]["application_credential"] == described

    owner = {"name": "ann", "domain": {"id": "default"}}
    for user in (owner, {"id": ann.user["id"]}):
        part = {"name": "c", "user": user, "secret": made["secret"]}
        assert ann.sign_in(part).status_code == 201


def test_whatever_is_wrong_gets_the_same_answer(cloud: Cloud) -> None:
    ann, bob = Ann(cloud), Ann(cloud, "bob")
    made, his = ann.make(), bob.make()
    secret = made["secret"]
    wrong = [
        {"id": made["id"], "secret": his["secret"]},
        {"id": made["id"], "secret": ""},
        {"id": made["id"], "secret": "x" * 5000},
        {"id": "f" * 32, "secret": secret},
        {"name": "none", "user": {"id": ann.user["id"]}, "secret": secret},
        {"name": "c", "user": {"id": bob.user["id"]}, "secret": secret},
        {"name": "c", "user": {"id": "f" * 32}, "secret": secret},
        {"name": "c", "user": {"name": "ann", "domain": {"name": "nowhere"}}, "secret": secret},
    ]
    answers = [ann.sign_in(part) for part in wrong]
    assert {a.status_code for a in answers} == {401}
    assert len({a.json["error"]["message"] for a in answers}) == 1
    for part in ({"secret": secret}, {"name": "c", "secret": secret}, {"id": made["id"]}, {},
                 {"id": 7, "secret": secret}, {"id": made["id"], "secret": None},
                 {"name": "c", "user": {}, "secret": secret}):  # fmt: skip
        assert ann.sign_in(part).status_code == 400, part
    scoped = ann.sign_in({"id": made["id"], "secret": secret}, scope_of("ann-project"))
    assert scoped.status_code == 401 and "scope" in scoped.json["error"]["message"]


def test_another_user_of_the_request_is_not_heeded(cloud: Cloud) -> None:
    """The credential's owner signs in, whoever the request names beside its id."""
    ann = Ann(cloud)
    made = ann.make()
    part = {"id": made["id"], "secret": made["secret"], "user": {"name": "admin"}}
    assert ann.sign_in(part).json["token"]["user"]["id"] == ann.user["id"]


def test_an_expired_one_is_void_and_its_tokens_end_with_it(cloud: Cloud, clock: FakeClock) -> None:
    ann = Ann(cloud)
    end = clock.now() + timedelta(minutes=10)
    made = ann.make(expires_at=end.strftime("%Y-%m-%dT%H:%M:%S.%f"))
    assert made["expires_at"] == end.strftime("%Y-%m-%dT%H:%M:%S.%f")
    answer = ann.sign_in({"id": made["id"], "secret": made["secret"]})
    assert answer.json["token"]["expires_at"] == end.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    clock.advance(601)
    assert not cloud.is_good(answer.headers["x-subject-token"])
    assert ann.sign_in({"id": made["id"], "secret": made["secret"]}).status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"name": 7}, 400, "name"),
        ({"name": "x" * 256}, 400, "name"),
        ({"name": "n", "surprise": 1}, 400, "surprise"),
        ({"name": "n", "secret": 7}, 400, "secret"),
        ({"name": "n", "unrestricted": "yes"}, 400, "unrestricted"),
        ({"name": "n", "expires_at": "soon"}, 400, "expires_at"),
        ({"name": "n", "expires_at": "2001-01-01T00:00:00"}, 400, "expires_at"),
        ({"name": "n", "roles": [{}]}, 400, "roles"),
        ({"name": "n", "roles": [{"id": "a", "name": "b"}]}, 400, "roles"),
        ({"name": "n", "roles": [{"name": "admin"}]}, 400, "unassigned role"),
        ({"name": "n", "roles": [{"id": "f" * 32}]}, 400, "unassigned role"),
        ({"name": "n", "roles": [{"name": "nothing"}]}, 404, "nothing"),
        ({"name": "n", "access_rules": [{"id": "f" * 32}]}, 404, "Access Rule"),
        ({"name": "n", "access_rules": [{}]}, 400, "access_rules"),
        ({"name": "n", "access_rules": [{"service": "compute", "method": "GET"}]}, 400, "path"),
        ({"name": "n", "access_rules": [{"service": "compute", "method": "get", "path": "/"}]},
         400, "method"),
        ({"name": "n", "access_rules": [{"service": "compute", "method": "GET", "path": "v2"}]},
         400, "path"),
        ({"name": "n", "access_rules": [{"service": "a b", "method": "GET", "path": "/"}]},
         400, "service"),
        ({"name": "n", "access_rules": {"id": "x"}}, 400, "access_rules"),
    ],
)  # fmt: skip
def test_bad_wishes_are_refused_by_name(
    cloud: Cloud, body: dict[str, Any], status: int, says: str
) -> None:
    ann = Ann(cloud)
    answer = ann.ask(body)
    assert answer.status_code == status and says in answer.text
    assert ann.cloud.call("GET", ann.path, token=ann.token).json["application_credentials"] == []
    assert ann.cloud.call("GET", ann.rules, token=ann.token).json["access_rules"] == []


def test_names_are_unique_for_a_user(cloud_on_both: Cloud) -> None:
    ann, bob = Ann(cloud_on_both), Ann(cloud_on_both, "bob")
    ann.make(name="n")
    assert ann.ask({"name": "n"}).status_code == 409
    bob.make(name="n")


def test_only_the_owner_makes_one_and_needs_a_project(cloud: Cloud) -> None:
    ann, bob = Ann(cloud), Ann(cloud, "bob")
    made = ann.make()
    assert ann.ask({"name": "n"}, token=bob.token).status_code == 403
    assert ann.ask({"name": "n"}, token=cloud.admin_token).status_code == 403
    one = f"{ann.path}/{made['id']}"
    disguised = f"{bob.path}/{made['id']}"
    for path in (one, disguised):
        assert cloud.call("GET", path, token=bob.token).status_code == 403
        assert cloud.call("DELETE", path, token=bob.token).status_code == 403
    assert cloud.call("GET", ann.path, token=bob.token).status_code == 403
    assert cloud.call("GET", one).status_code == 200
    assert cloud.call("DELETE", one).status_code == 204
    unscoped = cloud.token("ann", PASSWORD, scope="unscoped")
    assert ann.ask({"name": "n"}, token=unscoped).status_code == 403
    system = cloud.token("admin", "admin's password", scope={"system": {"all": True}})
    mine = f"/users/{cloud.call('GET', '/users?name=admin').json['users'][0]['id']}"
    wish = {"application_credential": {"name": "n"}}
    answer = cloud.call("POST", f"{mine}/application_credentials", wish, token=system)
    assert answer.status_code == 403


# What voids one


@pytest.mark.parametrize("how", ["role taken", "role deleted", "user disabled", "user deleted",
                                 "project disabled", "project deleted", "deleted", "password"])  # fmt: skip
def test_what_voids_it(cloud_on_both: Cloud, how: str) -> None:
    cloud = cloud_on_both
    role = cloud.make("role", name="operator")
    ann = Ann(cloud, role="operator")
    made = ann.make()
    token = ann.token_of(made)
    assert cloud.is_good(token)
    user, project = f"/users/{ann.user['id']}", f"/projects/{ann.project['id']}"
    match how:
        case "role taken":
            cloud.call("DELETE", ann.grant)
        case "role deleted":
            assert cloud.call("DELETE", f"/roles/{role['id']}").status_code == 204
        case "user disabled":
            cloud.call("PATCH", user, {"user": {"enabled": False}})
        case "user deleted":
            assert cloud.call("DELETE", user).status_code == 204
        case "project disabled":
            cloud.call("PATCH", project, {"project": {"enabled": False}})
        case "project deleted":
            assert cloud.call("DELETE", project).status_code == 204
        case "deleted":
            cloud.call("DELETE", f"{ann.path}/{made['id']}", token=token)
            cloud.call("DELETE", f"{ann.path}/{made['id']}", token=ann.token)
        case "password":
            cloud.call("PATCH", user, {"user": {"password": "another password"}})
    assert not cloud.is_good(token)
    status = ann.sign_in({"id": made["id"], "secret": made["secret"]}).status_code
    # A new password ends the sessions; a program's secret is another one, and signs in anew.
    assert status == (201 if how == "password" else 401)
    found = cloud.database.read_now(lambda tx: tx.execute(select(application_credentials)).all())
    kept = how in ("role taken", "project disabled", "password")
    assert len(found) == (1 if kept else 0)


def test_disabling_the_user_ends_it_for_good(cloud: Cloud) -> None:
    ann = Ann(cloud)
    made = ann.make(access_rules=[{"service": "compute", "method": "GET", "path": "/v2.1/servers"}])
    for enabled in (False, True):
        cloud.call("PATCH", f"/users/{ann.user['id']}", {"user": {"enabled": enabled}})
    assert ann.sign_in({"id": made["id"], "secret": made["secret"]}).status_code == 401


def test_a_role_that_is_lost_is_missing_and_comes_back(cloud: Cloud) -> None:
    """As in Keystone: taking a role from the user narrows, and only without any role it is void."""
    cloud.make("role", name="operator")
    ann = Ann(cloud)
    second = cloud.grant(ann.user["id"], ann.project["id"], "operator")
    ann.token = cloud.token("ann", PASSWORD, scope=scope_of("ann-project"))
    made = ann.make(roles=[{"name": "operator"}, {"name": "reader"}])
    token = ann.token_of(made)
    assert cloud.call("DELETE", second).status_code == 204
    assert not cloud.is_good(token)
    answer = ann.sign_in({"id": made["id"], "secret": made["secret"]})
    assert [r["name"] for r in answer.json["token"]["roles"]] == ["reader"]
    cloud.grant(ann.user["id"], ann.project["id"], "operator")
    answer = ann.sign_in({"id": made["id"], "secret": made["secret"]})
    assert [r["name"] for r in answer.json["token"]["roles"]] == ["operator", "reader"]


def test_roles_that_came_after_the_token_can_be_lent(cloud: Cloud) -> None:
    """As in Keystone, whose tokens show what their user has at the moment."""
    operator = cloud.make("role", name="operator")
    ann = Ann(cloud)
    cloud.grant(ann.user["id"], ann.project["id"], "operator")
    made = ann.make(roles=[{"id": operator["id"]}])
    answer = ann.sign_in({"id": made["id"], "secret": made["secret"]})
    assert [r["name"] for r in answer.json["token"]["roles"]] == ["operator"]


def test_it_never_gets_roles_that_came_later(cloud: Cloud) -> None:
    cloud.make("role", name="operator")
    ann = Ann(cloud)
    made = ann.make()
    cloud.grant(ann.user["id"], ann.project["id"], "operator")
    answer = ann.sign_in({"id": made["id"], "secret": made["secret"]})
    assert [r["name"] for r in answer.json["token"]["roles"]] == ["member", "reader"]


# What its tokens may not do


def test_a_restricted_one_makes_no_others(cloud: Cloud) -> None:
    ann = Ann(cloud)
    made, free = ann.make(), ann.make(name="free", unrestricted=True)
    restricted, unrestricted = ann.token_of(made), ann.token_of(free)
    one = f"{ann.path}/{made['id']}"
    assert ann.ask({"name": "n"}, token=restricted).status_code == 403
    assert cloud.call("DELETE", one, token=restricted).status_code == 403
    assert cloud.call("GET", one, token=restricted).status_code == 200
    assert cloud.call("GET", ann.path, token=restricted).status_code == 200
    assert ann.ask({"name": "n"}, token=unrestricted).status_code == 201
    assert cloud.call("DELETE", one, token=unrestricted).status_code == 204


def test_one_made_with_a_narrow_one_is_no_wider(cloud: Cloud) -> None:
    ann = Ann(cloud)
    narrow = ann.token_of(ann.make(unrestricted=True, roles=[{"name": "reader"}]))
    wide = {"name": "n", "roles": [{"name": "member"}]}
    assert ann.ask(wide, token=narrow).status_code == 400
    made = ann.ask({"name": "n"}, token=narrow).json["application_credential"]
    assert [r["name"] for r in made["roles"]] == ["reader"]


@pytest.mark.parametrize("unrestricted", [True, False])
def test_none_manages_trusts(cloud: Cloud, unrestricted: bool) -> None:
    ann, bob = Ann(cloud), Ann(cloud, "bob")
    token = ann.token_of(ann.make(unrestricted=unrestricted))
    trust = {"trustor_user_id": ann.user["id"], "trustee_user_id": bob.user["id"],
             "project_id": ann.project["id"], "impersonation": False,
             "roles": [{"name": "reader"}]}  # fmt: skip
    body = {"trust": trust}
    assert cloud.call("POST", "/OS-TRUST/trusts", body, token=token).status_code == 403
    made = cloud.call("POST", "/OS-TRUST/trusts", body, token=ann.token).json["trust"]
    one = f"/OS-TRUST/trusts/{made['id']}"
    mine = f"/OS-TRUST/trusts?trustor_user_id={ann.user['id']}"
    for method, path in (("GET", one), ("DELETE", one), ("GET", f"{one}/roles"), ("GET", mine)):
        assert cloud.call(method, path, token=token).status_code == 403, path


def test_a_token_is_traded_for_one_as_narrow_or_not_at_all(cloud: Cloud) -> None:
    ann = Ann(cloud)
    made = ann.make(roles=[{"name": "reader"}])
    token = ann.token_of(made)
    wider = cloud.call(
        "POST", "/auth/tokens", token_body(token, scope_of("ann-project")), token=None
    )
    assert wider.status_code == 403
    answer = cloud.call("POST", "/auth/tokens", token_body(token), token=None)
    assert answer.status_code == 201
    new = answer.json["token"]
    assert [r["name"] for r in new["roles"]] == ["reader"]
    assert new["application_credential"]["id"] == made["id"]
    assert set(new["methods"]) == {"token", KIND}
    again = answer.headers["x-subject-token"]
    assert ann.ask({"name": "n"}, token=again).status_code == 403
    cloud.call("DELETE", f"{ann.path}/{made['id']}", token=ann.token)
    assert not cloud.is_good(again)


# Access rules


RULE = {"service": "identity", "method": "GET", "path": "/v3/auth/projects"}


def test_rules_are_kept_shared_and_deleted(cloud_on_both: Cloud) -> None:
    ann, bob = Ann(cloud_on_both), Ann(cloud_on_both, "bob")
    cloud = ann.cloud
    (rule,) = ann.make(access_rules=[RULE])["access_rules"]
    assert {k: v for k, v in rule.items() if k != "id"} == RULE
    (same,) = ann.make(name="same", access_rules=[RULE])["access_rules"]
    (by_id,) = ann.make(name="by id", access_rules=[{"id": rule["id"]}])["access_rules"]
    assert same == by_id == rule
    (listed,) = cloud.call("GET", ann.rules, token=ann.token).json["access_rules"]
    assert {**rule, "links": listed["links"]} == listed
    assert cloud.call("GET", f"{ann.rules}?method=PUT", token=ann.token).json["access_rules"] == []
    one = f"{ann.rules}/{rule['id']}"
    assert cloud.call("GET", one, token=ann.token).json["access_rule"] == listed
    for path in (one, f"{bob.rules}/{rule['id']}"):
        assert cloud.call("GET", path, token=bob.token).status_code in (403, 404)
        assert cloud.call("DELETE", path, token=bob.token).status_code in (403, 404)
    assert bob.ask({"name": "n", "access_rules": [{"id": rule["id"]}]}).status_code == 404
    used = cloud.call("DELETE", one, token=ann.token)
    assert used.status_code == 403 and "in use" in used.text
    for made in cloud.call("GET", ann.path, token=ann.token).json["application_credentials"]:
        cloud.call("DELETE", f"{ann.path}/{made['id']}", token=ann.token)
    assert cloud.call("GET", one, token=ann.token).status_code == 200
    assert cloud.call("DELETE", one, token=ann.token).status_code == 204
    assert cloud.call("GET", one, token=ann.token).status_code == 404


def test_rules_narrow_what_a_token_may_ask(cloud: Cloud) -> None:
    ann = Ann(cloud)
    made = ann.make(access_rules=[RULE])
    token = ann.token_of(made)
    assert cloud.call("GET", "/auth/projects", token=token).status_code == 200
    for method, path in (("GET", "/auth/domains"), ("HEAD", "/auth/projects"), ("GET", ann.path),
                         ("DELETE", "/auth/tokens"), ("GET", "/regions")):  # fmt: skip
        answer = cloud.call(method, path, token=token)
        assert answer.status_code == 401, (method, path)
        assert "keystone" in answer.headers["www-authenticate"].lower()


def test_a_service_that_knows_no_rules_gets_no_such_token_validated(cloud: Cloud) -> None:
    """As Keystone does with a middleware that does not say that it enforces them."""
    ann = Ann(cloud)
    made = ann.make(access_rules=[RULE])
    token = ann.token_of(made)
    subject = {"X-Subject-Token": token}
    assert cloud.call("GET", "/auth/tokens", headers=subject).status_code == 404
    for version, status in (("1.0", 200), ("2", 200), ("0.5", 404), ("nan", 404), ("x", 404)):
        headers = {**subject, "OpenStack-Identity-Access-Rules": version}
        assert cloud.call("GET", "/auth/tokens", headers=headers).status_code == status, version
    headers = {**subject, "OpenStack-Identity-Access-Rules": "1.0"}
    own = cloud.call("GET", "/auth/tokens", headers=headers, token=token)
    assert own.json["token"]["application_credential"]["access_rules"] == made["access_rules"]


def test_rules_must_fit_into_a_token(cloud: Cloud) -> None:
    ann = Ann(cloud)
    many = [{**RULE, "path": f"/v3/{n:02}/{'x' * 200}"} for n in range(12)]
    refused = ann.ask({"name": "n", "access_rules": many})
    assert refused.status_code == 400 and "access_rules" in refused.text
    assert cloud.call("GET", ann.rules, token=ann.token).json["access_rules"] == []
    made = ann.make(access_rules=many[:8])
    assert len(ann.token_of(made)) < 4096
    too_many = ann.ask(
        {"name": "n", "access_rules": [{**RULE, "path": f"/{n}"} for n in range(101)]}
    )
    assert too_many.status_code == 400


CASES = [
    ("GET /servers", "/compute/v2.1/servers", "GET", True),
    ("GET /servers", "/compute/v2.1/servers", "POST", False),
    ("GET /servers", "/compute/v2.1/servers/1", "GET", False),
    ("GET /servers", "/compute/v2.1/servers/", "GET", False),
    ("GET /servers/{id}", "/compute/v2.1/servers/1", "GET", True),
    ("GET /servers/{server_id}/ips", "/compute/v2.1/servers/1/ips", "GET", True),
    ("GET /servers/{id}", "/compute/v2.1/servers/1/ips", "GET", False),
    ("GET /servers/{id}", "/compute/v2.1/servers/", "GET", False),
    ("GET /servers/*", "/compute/v2.1/servers/1", "GET", True),
    ("GET /servers/*", "/compute/v2.1/servers/1/ips", "GET", False),
    ("GET /servers/*/ips", "/compute/v2.1/servers/1/ips", "GET", True),
    ("GET /servers/**", "/compute/v2.1/servers/1/ips/2", "GET", True),
    ("GET /servers/**", "/compute/v2.1/servers/", "GET", True),
    ("GET /servers/**", "/compute/v2.1/servers", "GET", False),
    ("GET /**", "/compute/v2.1/anything/at/all", "GET", True),
    ("GET /servers.x", "/compute/v2.1/serversox", "GET", False),
    ("GET /serv(er|s)+", "/compute/v2.1/servers", "GET", False),
    ("GET /a{b", "/compute/v2.1/a{b", "GET", True),
    ("POST /servers/{id}/action", "/compute/v2.1/servers/1/action", "POST", True),
    ("POST /servers/{id}/action", "/compute/v2.1/servers/1/action", "GET", False),
]


@pytest.mark.parametrize(("rule", "path", "method", "allowed"), CASES)
def test_the_language_of_paths(rule: str, path: str, method: str, allowed: bool) -> None:
    wanted, _, pattern = rule.partition(" ")
    who = _narrowed([AccessRule(service="compute", method=wanted, path=f"/v2.1{pattern}")])
    if allowed:
        access.require(who, _compute("GET", "/"), method, path)
    else:
        with pytest.raises(Unauthenticated):
            access.require(who, _compute("GET", "/"), method, path)


def test_a_rule_is_about_one_service() -> None:
    path, everything = "/compute/v2.1/servers", "/**"
    other = [AccessRule(service="image", method="GET", path=everything)]
    assert _ask(other, "GET", path) == 401
    assert (
        _ask([*other, AccessRule(service="compute", method="GET", path=everything)], "GET", path)
        == 200
    )
    assert _ask([], "GET", path) == 401
    assert _ask(None, "GET", path) == 200
    whole = [AccessRule(service="compute", method="GET", path=path)]
    assert _ask(whole, "GET", path) == 200, "the path as the client sends it"


def test_other_names_of_a_service_are_the_service(cloud: Cloud) -> None:
    """The catalog shows block storage twice."""
    ann = Ann(cloud)
    made = ann.make(access_rules=[{"service": "volumev3", "method": "GET", "path": "/v3/**"}])
    lent = cloud.issuer.authenticate(ann.token_of(made)).delegation
    assert lent is not None and lent.access_rules is not None
    assert [rule.service for rule in lent.access_rules] == ["block-storage"]


def _narrowed(rules: list[AccessRule] | None) -> Caller:
    lent = Delegation(
        kind=KIND, id="c", owner_id=UserId("u"), access_rules=None if rules is None else tuple(rules)
    )  # fmt: skip
    return Caller(user_id=UserId("u"), roles=frozenset({"member"}), delegation=lent)


def _compute(method: str, path: str) -> Service:
    route = Route(method=method, path=path, rule="anyone", do=lambda tx, call: {}, reads=True)
    return Service(
        name="nova", kind="compute", root="/compute", catalog_path="/v2.1", policy={},
        shape_fault=faults.nova, routes=(route,),
    )  # fmt: skip


def _ask(rules: list[AccessRule] | None, method: str, path: str) -> int:
    """Through the shell of another service."""
    database = Database("sqlite://", inline=True)
    compute = _compute(method, path.removeprefix("/compute"))
    shell = Shell(
        services=[compute], database=database, authenticate=lambda token: _narrowed(rules)
    )
    answer = falcon.testing.TestClient(shell.app).simulate_request(
        method, path, headers={"X-Auth-Token": "t"}
    )
    database.close()
    return int(answer.status_code)


def test_a_token_with_rules_survives_being_packed() -> None:
    lent = Delegation(kind=KIND, id="c", owner_id=UserId("u"),
                      access_rules=(AccessRule(service="a", method="GET", path="/"),))  # fmt: skip
    packed = msgspec.msgpack.encode(lent)
    assert msgspec.msgpack.decode(packed, type=Delegation) == lent
