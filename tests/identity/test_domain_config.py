"""What domains set for themselves: Keystone's answers, and that a password is never seen again."""

from typing import Any

import pytest
from sqlalchemy import select

from cairn.db import secrets
from cairn.db.engine import Tx
from tests.identity.conftest import Cloud, scope_of

LDAP = {"url": "ldap://h.example", "user_tree_dn": "ou=Users,dc=example"}
CONFIG = {"identity": {"driver": "ldap"}, "ldap": LDAP}


@pytest.fixture
def path(cloud: Cloud) -> str:
    return f"/domains/{cloud.make('domain', name='d')['id']}/config"


def put(cloud: Cloud, path: str, config: Any) -> Any:
    return cloud.call("PUT", path, {"config": config})


def test_a_config_is_made_shown_changed_and_deleted(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    path = f"/domains/{cloud.make('domain', name='d')['id']}/config"
    made = put(cloud, path, CONFIG)
    assert (made.status_code, made.json) == (201, {"config": CONFIG})
    assert put(cloud, path, CONFIG).status_code == 200
    assert cloud.call("HEAD", path).status_code == 200
    assert cloud.call("GET", f"{path}/ldap").json == {"config": {"ldap": LDAP}}
    assert cloud.call("GET", f"{path}/ldap/url").json == {"config": {"url": LDAP["url"]}}
    changed = cloud.call("PATCH", path, {"config": {"ldap": {"page_size": 5}}}).json["config"]
    assert changed == {"identity": {"driver": "ldap"}, "ldap": {**LDAP, "page_size": 5}}
    changed = cloud.call("PATCH", f"{path}/ldap/url", {"config": {"url": "ldap://i"}}).json[
        "config"
    ]
    assert changed["ldap"]["url"] == "ldap://i"
    changed = cloud.call("PATCH", f"{path}/identity", {"config": {"identity": {"list_limit": 7}}})
    assert changed.json["config"]["identity"] == {"driver": "ldap", "list_limit": 7}
    assert cloud.call("DELETE", f"{path}/identity/driver").status_code == 204
    assert cloud.call("GET", f"{path}/identity/driver").status_code == 404
    assert cloud.call("DELETE", f"{path}/ldap").status_code == 204
    assert cloud.call("GET", f"{path}/ldap").status_code == 404
    assert cloud.call("DELETE", path).status_code == 204
    assert cloud.call("GET", path).status_code == 404


def test_put_takes_the_place_of_all_options(cloud: Cloud, path: str) -> None:
    put(cloud, path, {**CONFIG, "ldap": {**LDAP, "password": "p"}})
    put(cloud, path, {"identity": {"driver": "sql"}})
    assert cloud.call("GET", path).json == {"config": {"identity": {"driver": "sql"}}}
    body = {"config": {"password": "q"}}
    assert cloud.call("PATCH", f"{path}/ldap/password", body).status_code == 404


def test_a_password_is_sealed_and_never_shown(cloud: Cloud, path: str) -> None:
    made = put(cloud, path, {**CONFIG, "ldap": {**LDAP, "password": "hush-hush"}})
    assert made.json == {"config": CONFIG}
    for answer in (
        made,
        cloud.call("GET", path),
        cloud.call("GET", f"{path}/ldap"),
        cloud.call("PATCH", path, {"config": {"ldap": {"password": "hush-hush"}}}),
        cloud.call("PATCH", f"{path}/ldap/password", {"config": {"password": "hush-hush"}}),
    ):
        assert answer.status_code in (200, 201)
        assert "hush" not in answer.text
        assert '"password"' not in answer.text
    assert cloud.call("GET", f"{path}/ldap/password").status_code == 404
    assert cloud.call("GET", "/domains/config/ldap/password/default").status_code == 403
    assert b"hush" not in b"".join(cloud.database.read_now(sealed))
    assert cloud.database.read_now(sealed)
    assert cloud.call("DELETE", f"{path}/ldap/password").status_code == 204
    assert cloud.call("DELETE", f"{path}/ldap/password").status_code == 404
    assert not cloud.database.read_now(sealed)


def sealed(tx: Tx) -> list[bytes]:
    names = secrets.secrets.c.name.startswith("identity.domain.")
    return list(tx.execute(select(secrets.secrets.c.sealed).where(names)).scalars())


def test_a_config_ends_with_its_domain(cloud: Cloud, path: str) -> None:
    put(cloud, path, {**CONFIG, "ldap": {**LDAP, "password": "p"}})
    domain = path.removesuffix("/config")
    cloud.call("PATCH", domain, {"domain": {"enabled": False}})
    assert cloud.call("DELETE", domain).status_code == 204
    assert not cloud.database.read_now(sealed)
    assert cloud.call("GET", path).status_code == 404


@pytest.mark.parametrize(
    ("config", "status", "says"),
    [
        ({}, 403, "No options"),
        ({"ldap": {}}, 403, "dictionary"),
        ({"ldap": "x"}, 403, "dictionary"),
        ({"nova": {"x": 1}}, 403, "nova"),
        ({"ldap": {"evil": 1}}, 403, "evil"),
        ({"ldap": {"group_ad_nesting": True}}, 403, "group_ad_nesting"),
        ({"ldap": {"use_tls": "maybe"}}, 400, "config.ldap.use_tls"),
        ({"ldap": {"page_size": "many"}}, 400, "config.ldap.page_size"),
        ({"ldap": {"page_size": -1}}, 400, "config.ldap.page_size"),
        ({"ldap": {"query_scope": "all"}}, 400, "config.ldap.query_scope"),
        ({"ldap": {"url": {"a": 1}}}, 400, "config.ldap.url"),
        ({"ldap": {"url": "x" * 5000}}, 400, "config.ldap.url"),
        ("x", 400, "config"),
        (None, 400, "config"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(
    cloud: Cloud, path: str, config: Any, status: int, says: str
) -> None:
    answer = put(cloud, path, config)
    assert answer.status_code == status, answer.text
    assert says in answer.json["error"]["message"]
    assert cloud.call("GET", path).status_code == 404


def test_an_update_of_a_part_names_only_that_part(cloud: Cloud, path: str) -> None:
    put(cloud, path, CONFIG)
    for part, config, status in (
        ("ldap", {"identity": {"driver": "x"}}, 403),
        ("ldap", {**CONFIG}, 403),
        ("ldap/url", {"url": "x", "user": "y"}, 403),
        ("ldap/url", {"user": "y"}, 403),
        ("ldap/user", {"user": "y"}, 404),
        ("ldap/evil", {"evil": "y"}, 403),
        ("evil", {"evil": {"a": 1}}, 403),
    ):
        answer = cloud.call("PATCH", f"{path}/{part}", {"config": config})
        assert answer.status_code == status, (part, answer.text)
    assert cloud.call("GET", path).json == {"config": CONFIG}
    assert cloud.call("GET", f"{path}/evil").status_code == 403
    assert cloud.call("DELETE", f"{path}/ldap/user").status_code == 404


def test_defaults_are_keystones(cloud: Cloud) -> None:
    whole = cloud.call("GET", "/domains/config/default").json["config"]
    assert whole["identity"] == {"driver": "sql", "list_limit": None}
    assert whole["ldap"]["user_objectclass"] == "inetOrgPerson"
    assert "password" not in whole["ldap"]
    assert cloud.call("GET", "/domains/config/ldap/default").json == {
        "config": {"ldap": whole["ldap"]}
    }
    for name, value in whole["ldap"].items():
        answer = cloud.call("GET", f"/domains/config/ldap/{name}/default")
        assert answer.json == {"config": {name: value}}
    assert cloud.call("GET", "/domains/config/evil/default").status_code == 403


def test_what_is_asked_of_passwords_can_be_read_by_all(cloud: Cloud) -> None:
    user = cloud.make("user", name="ann", password="long enough")
    token = cloud.token("ann", "long enough")
    path = "/domains/default/config/security_compliance"
    shown = cloud.call("GET", path, token=token)
    assert set(shown.json["config"]["security_compliance"]) == {
        "password_regex",
        "password_regex_description",
    }
    assert (
        "password_regex" in cloud.call("GET", f"{path}/password_regex", token=token).json["config"]
    )
    assert cloud.call("GET", f"{path}/lockout_duration", token=token).status_code == 403
    other = cloud.make("domain", name="d")["id"]
    assert cloud.call("GET", f"/domains/{other}/config/security_compliance").status_code == 403
    assert user["id"]


def test_only_an_admin_configures(cloud: Cloud, path: str) -> None:
    put(cloud, path, CONFIG)
    user = cloud.make("user", name="ann", password="long enough")
    project = cloud.make("project", name="p")
    cloud.grant(user["id"], project["id"], "member")
    token = cloud.token("ann", "long enough", scope=scope_of("p"))
    body = {"config": CONFIG}
    for method, at, sent in (
        ("PUT", path, body),
        ("PATCH", path, body),
        ("GET", path, None),
        ("GET", f"{path}/ldap/url", None),
        ("DELETE", path, None),
        ("GET", "/domains/config/default", None),
    ):
        assert cloud.call(method, at, sent, token=token).status_code == 403
    assert cloud.call("GET", path).json == {"config": CONFIG}
    unknown = "/domains/00000000000000000000000000000bad/config"
    assert put(cloud, unknown, CONFIG).status_code == 404
    assert cloud.call("GET", unknown).status_code == 404
