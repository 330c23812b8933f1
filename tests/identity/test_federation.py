"""Providers, protocols and mappings: made, changed, taken away; who their users are, what goes with them."""

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openstack
import pytest
from keystoneauth1 import session
from keystoneauth1.identity import v3
from keystoneclient.v3 import client as keystoneclient
from sqlalchemy import select

from cairn.core.clock import FakeClock
from cairn.core.errors import Unauthenticated
from cairn.db.engine import Tx
from cairn.db.secrets import Sealer, secrets
from cairn.identity.federation import admission, service
from cairn.identity.federation.memberships import MembershipKeeper
from cairn.identity.methods.method import Proof
from tests.identity.conftest import ADMIN_PASSWORD, SEALING_KEY, Cloud, scope_of
from tests.identity.live import served

IDP = "/OS-FEDERATION/identity_providers/acme"
PROTOCOL = f"{IDP}/protocols/openid"
CLIENT = f"{PROTOCOL}/oidc_client"
MAPPING = "/OS-FEDERATION/mappings/m"
ISSUER = "https://issuer.example"
RULES: list[Any] = [
    {
        "local": [{"user": {"id": "{0}", "name": "{1}"}}],
        "remote": [{"type": "sub"}, {"type": "name"}],
    }
]
WISH = {"issuer": ISSUER, "client_id": "cloud", "client_secret": "hush"}


def ask(cloud: Cloud, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
    answer = cloud.call(method, path, body)
    assert answer.status_code == status, f"{answer.status_code}: {answer.text}"
    return answer.json if answer.text else None


def set_up(cloud: Cloud, rules: Any = RULES, **provider: Any) -> Any:
    """A mapping, a provider, a protocol and its client; the provider."""
    version = {"schema_version": "2.0"} if "domain" in str(rules) else {}
    ask(cloud, "PUT", MAPPING, {"mapping": {"rules": rules, **version}}, status=201)
    wish = {"enabled": True, **provider}
    made = ask(cloud, "PUT", IDP, {"identity_provider": wish}, status=201)
    ask(cloud, "PUT", PROTOCOL, {"protocol": {"mapping_id": "m"}}, status=201)
    ask(cloud, "PUT", CLIENT, {"oidc_client": WISH})
    return made["identity_provider"]


def admit(cloud: Cloud, idp: str = "acme", protocol: str = "openid", **claims: Any) -> Proof:
    """What a sign-in does once the provider's word was checked."""

    def admitted(tx: Tx) -> Proof:
        asked = service.asked(tx, Sealer(SEALING_KEY), idp, protocol)
        return admission.admit(tx, asked, {"iss": ISSUER, **claims})

    return cloud.database.write_now(admitted)


def user_of(cloud: Cloud, proof: Proof) -> Any:
    return ask(cloud, "GET", f"/users/{proof.user_id}")["user"]


# Resources


def test_a_provider_lives(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    body = {"description": "d", "remote_ids": ["https://b", "https://a"], "authorization_ttl": 5}
    made = ask(cloud, "PUT", IDP, {"identity_provider": body}, status=201)["identity_provider"]
    domain_id = made.pop("domain_id")
    links = made.pop("links")
    assert links["self"].endswith("/identity/v3" + IDP)
    assert links["protocols"].endswith(f"/identity/v3{IDP}/protocols")
    assert made == {"id": "acme", "enabled": False, **body}
    domain = ask(cloud, "GET", f"/domains/{domain_id}")["domain"]
    assert domain["enabled"] and domain["name"] == domain_id
    assert ask(cloud, "GET", IDP)["identity_provider"]["authorization_ttl"] == 5
    change = {"enabled": True, "description": None, "remote_ids": None}
    new = ask(cloud, "PATCH", IDP, {"identity_provider": change})["identity_provider"]
    assert (new["enabled"], new["description"], new["remote_ids"]) == (True, None, [])
    for query, count in (("", 1), ("?enabled=true", 1), ("?enabled=false", 0), ("?id=x", 0)):
        listed = ask(cloud, "GET", f"/OS-FEDERATION/identity_providers{query}")
        assert len(listed["identity_providers"]) == count
    ask(cloud, "DELETE", IDP, status=204)
    ask(cloud, "GET", IDP, status=404)
    ask(cloud, "GET", f"/domains/{domain_id}")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"enabled": "yes"}, 400),
        ({"remote_ids": "x"}, 400),
        ({"remote_ids": ["a", "a"]}, 400),
        ({"remote_ids": ["x" * 300]}, 400),
        ({"remote_ids": [5]}, 400),
        ({"authorization_ttl": -1}, 400),
        ({"authorization_ttl": 2**40}, 400),
        ({"alien": 1}, 400),
        ({"id": "other"}, 400),
        ({"domain_id": 5}, 400),
        ({"domain_id": "not-there"}, 404),
    ],
)
def test_a_provider_that_cannot_be(cloud: Cloud, body: Any, status: int) -> None:
    ask(cloud, "PUT", IDP, {"identity_provider": body}, status=status)
    ask(cloud, "GET", IDP, status=404)
    assert len(ask(cloud, "GET", "/domains")["domains"]) == 1, "no domain is left behind"


def test_ids_and_issuers_are_somebodys(cloud: Cloud) -> None:
    ask(cloud, "PUT", IDP, {"identity_provider": {"remote_ids": [ISSUER]}}, status=201)
    ask(cloud, "PUT", IDP, {"identity_provider": {}}, status=409)
    other = IDP.replace("acme", "other")
    ask(cloud, "PUT", other, {"identity_provider": {"remote_ids": [ISSUER]}}, status=409)
    ask(cloud, "PUT", other, {"identity_provider": {}}, status=201)
    ask(cloud, "PATCH", other, {"identity_provider": {"remote_ids": [ISSUER]}}, status=409)
    ask(cloud, "PATCH", other, {"identity_provider": {}}, status=400)
    ask(cloud, "PATCH", other, {"identity_provider": {"domain_id": "default"}}, status=400)
    ask(cloud, "DELETE", IDP, status=204)
    ask(cloud, "PATCH", other, {"identity_provider": {"remote_ids": [ISSUER]}})


@pytest.mark.parametrize(
    "path",
    ["/OS-FEDERATION/identity_providers/{}", "/OS-FEDERATION/mappings/{}",
     "/OS-FEDERATION/service_providers/{}", IDP + "/protocols/{}"],
)  # fmt: skip
def test_ids_that_are_too_long(cloud: Cloud, path: str) -> None:
    set_up(cloud)
    body = {
        "identity_providers": {"identity_provider": {}},
        "mappings": {"mapping": {"rules": RULES}},
        "protocols": {"protocol": {"mapping_id": "m"}},
        "service_providers": {"service_provider": {"auth_url": "https://c", "sp_url": "https://c"}},
    }[path.split("/")[-2]]
    ask(cloud, "PUT", path.format("x" * 65), body, status=400)
    ask(cloud, "PUT", path.format("ü" * 64), body, status=201)
    ask(cloud, "DELETE", path.format("ü" * 64), status=204)


def test_a_protocol_lives(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    ask(cloud, "PUT", PROTOCOL, {"protocol": {"mapping_id": "m"}}, status=404)
    ask(cloud, "PUT", IDP, {"identity_provider": {}}, status=201)
    ask(cloud, "PUT", PROTOCOL, {"protocol": {"mapping_id": "m"}}, status=400)
    ask(cloud, "PUT", MAPPING, {"mapping": {"rules": RULES}}, status=201)
    ask(cloud, "PUT", PROTOCOL, {"protocol": {}}, status=400)
    made = ask(cloud, "PUT", PROTOCOL, {"protocol": {"mapping_id": "m"}}, status=201)["protocol"]
    assert (made["id"], made["mapping_id"]) == ("openid", "m")
    assert made["links"]["identity_provider"].endswith(IDP)
    ask(cloud, "PUT", PROTOCOL, {"protocol": {"mapping_id": "m"}}, status=409)
    change = {"protocol": {"mapping_id": "m", "remote_id_attribute": "HTTP_OIDC_ISS"}}
    assert ask(cloud, "PATCH", PROTOCOL, change)["protocol"]["remote_id_attribute"]
    ask(cloud, "PATCH", PROTOCOL, {"protocol": {"mapping_id": "other"}}, status=400)
    (listed,) = ask(cloud, "GET", f"{IDP}/protocols")["protocols"]
    assert (listed["idp_id"], listed["remote_id_attribute"]) == ("acme", "HTTP_OIDC_ISS")
    ask(cloud, "GET", f"{IDP}/protocols/other", status=404)
    ask(cloud, "DELETE", PROTOCOL, status=204)
    ask(cloud, "GET", PROTOCOL, status=404)


def test_a_mapping_lives(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    made = ask(cloud, "PUT", MAPPING, {"mapping": {"rules": RULES}}, status=201)["mapping"]
    assert (made["id"], made["rules"], made["schema_version"]) == ("m", RULES, "1.0")
    ask(cloud, "PUT", MAPPING, {"mapping": {"rules": RULES}}, status=409)
    change = {"mapping": {"rules": RULES * 2, "schema_version": "2.0"}}
    assert ask(cloud, "PATCH", MAPPING, change)["mapping"]["schema_version"] == "2.0"
    (listed,) = ask(cloud, "GET", "/OS-FEDERATION/mappings")["mappings"]
    assert listed["rules"] == RULES * 2
    for bad in ({}, {"rules": []}, {"rules": [{}]}, {"rules": RULES, "schema_version": "7"}):
        ask(cloud, "PATCH", MAPPING, {"mapping": bad}, status=400)
        ask(cloud, "PUT", f"{MAPPING}2", {"mapping": bad}, status=400)
    ask(cloud, "DELETE", MAPPING, status=204)
    ask(cloud, "GET", MAPPING, status=404)


def test_a_service_provider_lives(cloud_on_both: Cloud) -> None:
    cloud, path = cloud_on_both, "/OS-FEDERATION/service_providers/beta"
    body: dict[str, Any] = {"auth_url": "https://beta/v3/auth", "sp_url": "https://beta/ecp"}
    made = ask(cloud, "PUT", path, {"service_provider": body}, status=201)["service_provider"]
    assert (made["enabled"], made["relay_state_prefix"]) == (False, "ss:mem:")
    ask(cloud, "PUT", path, {"service_provider": body}, status=409)
    ask(cloud, "PUT", f"{path}2", {"service_provider": {"sp_url": "https://x"}}, status=400)
    ask(cloud, "PATCH", path, {"service_provider": {"auth_url": "no address"}}, status=400)
    new = ask(cloud, "PATCH", path, {"service_provider": {"enabled": True}})["service_provider"]
    assert new["enabled"] and new["sp_url"] == body["sp_url"]
    listed = ask(cloud, "GET", "/OS-FEDERATION/service_providers?enabled=true")
    assert [one["id"] for one in listed["service_providers"]] == ["beta"]
    ask(cloud, "DELETE", path, status=204)
    ask(cloud, "GET", path, status=404)


def test_only_admins_change_and_only_readers_of_the_system_see(cloud: Cloud) -> None:
    set_up(cloud)
    project = cloud.make("project", name="p")
    user = cloud.make("user", name="ann", password="ann's")
    cloud.grant(user["id"], project["id"], "manager")
    token = cloud.token("ann", "ann's", scope=scope_of("p"))
    for method, path, body in (
        ("GET", IDP, None),
        ("GET", "/OS-FEDERATION/mappings", None),
        ("GET", CLIENT, None),
        ("PUT", CLIENT, {"oidc_client": WISH}),
        ("PATCH", MAPPING, {"mapping": {"rules": RULES}}),
        ("DELETE", IDP, None),
    ):
        assert cloud.call(method, path, body, token=token).status_code == 403
    role = cloud.role_id("reader")
    ask(cloud, "PUT", f"/system/users/{user['id']}/roles/{role}", status=204)
    reader = cloud.token("ann", "ann's", scope={"system": {"all": True}})
    assert cloud.call("GET", IDP, token=reader).status_code == 200
    assert cloud.call("DELETE", IDP, token=reader).status_code == 403


# How we are known to a provider


def test_the_secret_goes_in_sealed_and_never_comes_out(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    set_up(cloud)
    shown = ask(cloud, "GET", CLIENT)["oidc_client"]
    assert shown["has_client_secret"] and "hush" not in str(shown)
    assert shown["scopes"] == ["openid", "profile", "email"]
    sealed = cloud.database.read_now(
        lambda tx: list(tx.execute(select(secrets).where(secrets.c.name.contains("acme"))))
    )
    assert len(sealed) == 1 and b"hush" not in sealed[0].sealed
    kept = {"issuer": ISSUER, "client_id": "cloud", "audiences": ["cli"]}
    assert ask(cloud, "PUT", CLIENT, {"oidc_client": kept})["oidc_client"]["has_client_secret"]
    gone = {**kept, "client_secret": None}
    assert not ask(cloud, "PUT", CLIENT, {"oidc_client": gone})["oidc_client"]["has_client_secret"]
    ask(cloud, "PUT", CLIENT, {"oidc_client": WISH})
    ask(cloud, "DELETE", IDP, status=204)
    left = cloud.database.read_now(
        lambda tx: list(tx.execute(select(secrets).where(secrets.c.name.contains("acme"))))
    )
    assert not left


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://mine.example"},
        {"discovery_url": "https://mine.example/discovery"},
        {"client_id": "mine"},
    ],
)
def test_a_secret_is_not_sent_to_another_address(cloud: Cloud, change: dict[str, str]) -> None:
    set_up(cloud)
    wish = {"issuer": ISSUER, "client_id": "cloud", **change}
    new = ask(cloud, "PUT", CLIENT, {"oidc_client": wish})["oidc_client"]
    assert not new["has_client_secret"]


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "http://issuer.example"},
        {"issuer": "ftp://issuer.example"},
        {"issuer": "https://"},
        {"issuer": "https://[::1"},
        {"issuer": "https://a:b@issuer.example"},
        {"issuer": "https://issuer.example?x"},
        {"issuer": "https://issuer.example#x"},
        {"issuer": 5},
        {"client_id": ""},
        {"client_secret": 5},
        {"discovery_url": "http://issuer.example"},
        {"discovery_url": "http://127.0.0.1/"},
        {"scopes": ["profile"]},
        {"scopes": ["openid", "two words"]},
        {"scopes": ["openid", 'a"b']},
        {"audiences": [""]},
        {"ca_certificates": "no certificate"},
        {"ca_certificates": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"},
        {"alien": 1},
    ],
)
def test_a_client_that_cannot_be(cloud: Cloud, change: dict[str, Any]) -> None:
    set_up(cloud)
    answer = cloud.call("PUT", CLIENT, {"oidc_client": {**WISH, **change}})
    assert answer.status_code == 400, answer.text
    assert next(iter(change)) in answer.json["error"]["message"]


# Who somebody is


def test_a_user_is_made_once_and_follows_its_name(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    home = set_up(cloud)["domain_id"]
    proof = admit(cloud, sub="s1", name="ann")
    user = user_of(cloud, proof)
    assert (user["name"], user["domain_id"], user["enabled"]) == ("ann", home, True)
    links = [{"idp_id": "acme", "protocols": [{"protocol_id": "openid", "unique_id": "s1"}]}]
    assert user["federated"] == links
    renamed = admit(cloud, sub="s1", name="ann smith")
    assert renamed.user_id == proof.user_id
    assert user_of(cloud, renamed)["name"] == "ann smith"
    query = "idp_id=acme&protocol_id=openid&unique_id=s1"
    (found,) = ask(cloud, "GET", f"/users?{query}")["users"]
    assert found["id"] == proof.user_id
    assert ask(cloud, "GET", "/users?idp_id=other")["users"] == []


def test_first_sign_ins_at_once_make_one_user(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    set_up(cloud)
    sealer = Sealer(SEALING_KEY)
    asked = cloud.database.read_now(lambda tx: service.asked(tx, sealer, "acme", "openid"))
    claims = {"sub": "s1", "name": "ann"}

    async def all_at_once() -> list[Proof]:
        write = cloud.database.write
        return await asyncio.gather(
            *(write(lambda tx: admission.admit(tx, asked, claims)) for _ in range(8))
        )

    assert len({proof.user_id for proof in asyncio.run(all_at_once())}) == 1


def test_a_name_never_makes_two_people_one(cloud: Cloud) -> None:
    """Neither two users of the provider, nor one of the provider and one of ours."""
    set_up(cloud, domain_id="default")
    first, second = (admit(cloud, sub=sub, name="admin") for sub in ("s1", "s2"))
    (ours,) = ask(cloud, "GET", "/users?name=admin")["users"]
    assert len({first.user_id, second.user_id, ours["id"]}) == 3
    names = [user_of(cloud, proof)["name"] for proof in (first, second)]
    assert all(name.startswith("admin-") for name in names) and len(set(names)) == 2
    again = admit(cloud, sub="s2", name="admin")
    assert again.user_id == second.user_id
    assert user_of(cloud, again)["name"] == names[1]


def test_a_federated_user_has_no_password(cloud: Cloud) -> None:
    home = set_up(cloud)["domain_id"]
    admit(cloud, sub="s1", name="ann")
    who = {"name": "ann", "domain": {"id": home}, "password": ""}
    for password in ("", "x"):
        identity = {"methods": ["password"], "password": {"user": {**who, "password": password}}}
        answer = cloud.call("POST", "/auth/tokens", {"auth": {"identity": identity}}, token=None)
        assert answer.status_code in (400, 401)


def test_groups_by_name_and_id(cloud: Cloud) -> None:
    one, two = cloud.make("group", name="one"), cloud.make("group", name="two")
    local = [
        {"user": {"name": "{0}"}},
        {"groups": "{1}", "domain": {"name": "Default"}},
        {"group": {"id": two["id"]}},
    ]
    remote = [{"type": "sub"}, {"type": "groups"}]
    set_up(cloud, [{"local": local, "remote": remote}])
    proof = admit(cloud, sub="ann", groups=["one", "nowhere"])
    assert proof.federation is not None
    assert set(proof.federation.group_ids) == {one["id"], two["id"]}
    ask(cloud, "DELETE", f"/groups/{two['id']}", status=204)
    with pytest.raises(Unauthenticated):
        admit(cloud, sub="ann", groups=["one"])


def test_more_groups_than_fit_into_a_token_are_refused(cloud: Cloud) -> None:
    local = [{"user": {"name": "{0}"}}, {"groups": "{1}", "domain": {"id": "default"}}]
    set_up(cloud, [{"local": local, "remote": [{"type": "sub"}, {"type": "groups"}]}])
    names = [f"g{number}" for number in range(admission.GROUPS_MAX + 1)]
    for name in names:
        cloud.make("group", name=name)
    assert admit(cloud, sub="ann", groups=names[1:]).federation is not None
    with pytest.raises(Unauthenticated) as refusal:
        admit(cloud, sub="ann", groups=names)
    assert "fit into a token" in str(refusal.value.because)


def test_a_local_user_is_one_of_ours(cloud: Cloud) -> None:
    local = {"user": {"name": "{0}", "domain": {"id": "default"}, "type": "local"}}
    set_up(cloud, [{"local": [local], "remote": [{"type": "sub"}]}])
    ann = cloud.make("user", name="ann")
    proof = admit(cloud, sub="ann")
    assert proof.user_id == ann["id"]
    assert proof.federation is not None and proof.federation.is_local
    assert "federated" not in user_of(cloud, proof)
    with pytest.raises(Unauthenticated):
        admit(cloud, sub="nobody")


def test_projects_are_made_with_their_roles(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    roles = [{"name": "member"}]
    projects = [{"name": "of {0}", "roles": roles}, {"name": "shared", "roles": roles}]
    local = [{"user": {"name": "{0}"}}, {"projects": projects}]
    home = set_up(cloud, [{"local": local, "remote": [{"type": "sub"}]}])["domain_id"]
    shared = cloud.make("project", name="shared", domain_id=home)
    for _ in range(2):
        proof = admit(cloud, sub="ann")
    found = ask(cloud, "GET", f"/users/{proof.user_id}/projects")["projects"]
    assert {p["name"]: p["domain_id"] for p in found} == {"of ann": home, "shared": home}
    assert shared["id"] in {p["id"] for p in found}


def test_projects_of_version_3_are_all_that_a_user_has(cloud_on_both: Cloud) -> None:
    cloud = cloud_on_both
    local = [{"user": {"name": "{0}"}}, {"projects_json": "{1}", "domain": {"id": "default"}}]
    rules = [{"local": local, "remote": [{"type": "sub"}, {"type": "projects"}]}]
    mapping = {"rules": rules, "schema_version": "3.0"}
    set_up(cloud)
    ask(cloud, "PATCH", MAPPING, {"mapping": mapping})

    def sign_in(*roles_by_project: tuple[str, str]) -> dict[str, set[str]]:
        projects = [{"name": p, "roles": [{"name": r}]} for p, r in roles_by_project]
        ann = admit(cloud, sub="ann", projects=projects).user_id
        query = f"/role_assignments?user.id={ann}&include_names=true"
        found: dict[str, set[str]] = {}
        for one in ask(cloud, "GET", query)["role_assignments"]:
            found.setdefault(one["scope"]["project"]["name"], set()).add(one["role"]["name"])
        return found

    first = (("web", "member"), ("web", "reader"), ("db", "member"))
    assert sign_in(*first) == {"web": {"member", "reader"}, "db": {"member"}}
    assert sign_in(("web", "reader"), ("new", "member")) == {"web": {"reader"}, "new": {"member"}}


def test_a_role_that_is_not_there_makes_nothing(cloud: Cloud) -> None:
    projects = [{"name": "p", "roles": [{"name": "lord"}]}]
    local = [{"user": {"name": "{0}"}}, {"projects": projects}]
    set_up(cloud, [{"local": local, "remote": [{"type": "sub"}]}])
    with pytest.raises(Unauthenticated):
        admit(cloud, sub="ann")
    assert ask(cloud, "GET", "/users?name=ann")["users"] == []


@pytest.mark.parametrize(
    ("remote_ids", "attribute", "claims", "is_good"),
    [
        ([ISSUER], None, {}, True),
        ([ISSUER], "HTTP_OIDC_ISS", {}, True),
        (["https://other"], None, {}, False),
        (["tenant-1"], "tid", {"tid": "tenant-1"}, True),
        (["tenant-1"], "tid", {"tid": "tenant-2"}, False),
        (["tenant-1"], "tid", {}, False),
        ([], "tid", {}, True),
    ],
)
def test_remote_ids(
    cloud: Cloud, remote_ids: list[str], attribute: str | None, claims: Any, is_good: bool
) -> None:
    set_up(cloud, remote_ids=remote_ids)
    change = {"mapping_id": "m", "remote_id_attribute": attribute}
    ask(cloud, "PATCH", PROTOCOL, {"protocol": change})
    if is_good:
        admit(cloud, sub="s1", name="ann", **claims)
    else:
        with pytest.raises(Unauthenticated):
            admit(cloud, sub="s1", name="ann", **claims)


def test_users_may_be_linked_before_they_come(cloud: Cloud) -> None:
    set_up(cloud)
    links = [{"idp_id": "acme", "protocols": [{"protocol_id": "openid", "unique_id": "s1"}]}]
    made = cloud.make("user", name="ann", federated=links)
    assert made["federated"] == links
    assert admit(cloud, sub="s1", name="ann").user_id == made["id"]
    other = {"user": {"name": "bob", "federated": links}}
    ask(cloud, "POST", "/users", other, status=409)
    for bad in (
        "x",
        [{"idp_id": "acme"}],
        [{"idp_id": "none", "protocols": links[0]["protocols"]}],
    ):
        ask(cloud, "POST", "/users", {"user": {"name": "bob", "federated": bad}}, status=400)
    path = f"/users/{made['id']}"
    assert "federated" not in ask(cloud, "PATCH", path, {"user": {"federated": []}})["user"]
    assert admit(cloud, sub="s1", name="ann").user_id != made["id"]


# Groups that outlast a sign-in

GROUPS = [
    {
        "local": [{"user": {"name": "{0}"}}, {"groups": "{1}", "domain": {"id": "default"}}],
        "remote": [{"type": "sub"}, {"type": "groups"}],
    }
]


def groups_of(cloud: Cloud, user_id: str) -> set[str]:
    return {g["name"] for g in ask(cloud, "GET", f"/users/{user_id}/groups")["groups"]}


def test_groups_outlast_a_sign_in_for_their_time(cloud_on_both: Cloud, clock: FakeClock) -> None:
    cloud = cloud_on_both
    keeper = MembershipKeeper(cloud.database)
    for name in ("a", "b", "c"):
        cloud.make("group", name=name)
    set_up(cloud, GROUPS, authorization_ttl=10)
    ann = admit(cloud, sub="ann", groups=["a", "b"]).user_id
    assert groups_of(cloud, ann) == {"a", "b"}
    shown = ask(cloud, "GET", f"/users/{ann}/groups")["groups"]
    assert {g["membership_expires_at"] for g in shown} == {"2026-01-01T00:10:00.000000Z"}
    clock.advance(5 * 60)
    admit(cloud, sub="ann", groups=["b", "c"])
    assert groups_of(cloud, ann) == {"b", "c"}, "each sign-in says anew which they are"
    assert asyncio.run(keeper.run_once()).again_s == 600
    clock.advance(6 * 60)
    asyncio.run(keeper.run_once())
    assert groups_of(cloud, ann) == {"b", "c"}, "the second sign-in counts"
    clock.advance(5 * 60)
    assert asyncio.run(keeper.run_once()).done == 2
    assert groups_of(cloud, ann) == set()
    assert asyncio.run(keeper.run_once()).again_s is None


def test_a_membership_that_was_given_here_stays(cloud: Cloud, clock: FakeClock) -> None:
    ids = {name: cloud.make("group", name=name)["id"] for name in ("before", "after", "lent")}
    set_up(cloud, GROUPS, authorization_ttl=1)
    ann = admit(cloud, sub="ann", groups=["after"]).user_id
    for name in ("before", "after"):
        ask(cloud, "PUT", f"/groups/{ids[name]}/users/{ann}", status=204)
    admit(cloud, sub="ann", groups=["before", "after", "lent"])
    clock.advance(61)
    asyncio.run(MembershipKeeper(cloud.database).run_once())
    assert groups_of(cloud, ann) == {"before", "after"}
    shown = ask(cloud, "GET", f"/users/{ann}/groups")["groups"]
    assert {g["membership_expires_at"] for g in shown} == {None}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: ask(c, "PATCH", IDP, {"identity_provider": {"enabled": False}}),
        lambda c: ask(c, "DELETE", IDP, status=204),
    ],
)
def test_groups_end_with_their_provider(cloud: Cloud, change: Any) -> None:
    group = cloud.make("group", name="a")
    set_up(cloud, GROUPS, authorization_ttl=10)
    ann = admit(cloud, sub="ann", groups=["a"]).user_id
    ask(cloud, "PATCH", f"/users/{ann}", {"user": {"password": "a password of ours"}})
    change(cloud)
    assert groups_of(cloud, ann) == set()
    assert ask(cloud, "GET", f"/groups/{group['id']}/users")["users"] == []


def test_without_a_ttl_groups_are_the_tokens_only(cloud: Cloud) -> None:
    cloud.make("group", name="a")
    set_up(cloud, GROUPS, authorization_ttl=10)
    admit(cloud, sub="ann", groups=["a"])
    ask(cloud, "PATCH", IDP, {"identity_provider": {"authorization_ttl": None}})
    proof = admit(cloud, sub="ann", groups=["a"])
    assert proof.federation is not None and len(proof.federation.group_ids) == 1
    assert groups_of(cloud, proof.user_id) == set()


# What goes with what


def delete_provider(cloud: Cloud) -> None:
    ask(cloud, "DELETE", IDP, status=204)


def delete_protocol(cloud: Cloud) -> None:
    ask(cloud, "DELETE", PROTOCOL, status=204)


@pytest.mark.parametrize("delete", [delete_provider, delete_protocol])
def test_users_whom_nobody_could_sign_in_any_more_go(
    cloud_on_both: Cloud, delete: Callable[[Cloud], None]
) -> None:
    cloud = cloud_on_both
    set_up(cloud)
    lost, kept, linked = (admit(cloud, sub=sub, name=sub).user_id for sub in ("s1", "s2", "s3"))
    ask(cloud, "PATCH", f"/users/{kept}", {"user": {"password": "a password of ours"}})
    ask(cloud, "PUT", IDP.replace("acme", "other"), {"identity_provider": {}}, status=201)
    other = PROTOCOL.replace("acme", "other")
    ask(cloud, "PUT", other, {"protocol": {"mapping_id": "m"}}, status=201)
    before = ask(cloud, "GET", f"/users/{linked}")["user"]["federated"]
    both = [*before, {**before[0], "idp_id": "other"}]
    ask(cloud, "PATCH", f"/users/{linked}", {"user": {"federated": both}})
    delete(cloud)
    ask(cloud, "GET", f"/users/{lost}", status=404)
    assert "federated" not in ask(cloud, "GET", f"/users/{kept}")["user"]
    assert ask(cloud, "GET", f"/users/{linked}")["user"]["federated"] == both[1:]


def test_a_provider_goes_with_its_domain(cloud: Cloud) -> None:
    home = set_up(cloud)["domain_id"]
    admit(cloud, sub="s1", name="ann")
    ask(cloud, "PATCH", f"/domains/{home}", {"domain": {"enabled": False}})
    ask(cloud, "DELETE", f"/domains/{home}", status=204)
    ask(cloud, "GET", IDP, status=404)
    ask(cloud, "GET", CLIENT, status=404)


def test_a_deleted_user_may_come_again_as_a_new_one(cloud: Cloud) -> None:
    set_up(cloud)
    first = admit(cloud, sub="s1", name="ann").user_id
    ask(cloud, "DELETE", f"/users/{first}", status=204)
    assert admit(cloud, sub="s1", name="ann").user_id != first


def test_a_change_during_the_sign_in_refuses_it(cloud: Cloud) -> None:
    set_up(cloud)
    read = cloud.database.read_now
    asked = read(lambda tx: service.asked(tx, Sealer(SEALING_KEY), "acme", "openid"))
    ask(cloud, "PUT", CLIENT, {"oidc_client": {**WISH, "client_id": "another"}})
    with pytest.raises(Unauthenticated):
        cloud.database.write_now(lambda tx: admission.admit(tx, asked, {"sub": "s", "name": "n"}))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda c: ask(c, "PATCH", IDP, {"identity_provider": {"enabled": False}}), 403),
        (lambda c: ask(c, "DELETE", CLIENT, status=204), 401),
        (lambda c: ask(c, "DELETE", PROTOCOL, status=204), 404),
        (lambda c: ask(c, "DELETE", IDP, status=204), 404),
    ],
)
def test_nobody_signs_in_with_what_is_off(cloud: Cloud, change: Any, status: int) -> None:
    set_up(cloud)
    change(cloud)
    headers = {"Authorization": "Bearer x"}
    answer = cloud.call("POST", f"{PROTOCOL}/auth", token=None, headers=headers)
    assert answer.status_code == status


# The clients


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as (_, address):
        yield f"{address}/identity/v3"


def test_openstacksdk_and_keystoneclient_manage_federation(url: str) -> None:
    auth = {"auth_url": url, "username": "admin", "password": ADMIN_PASSWORD,
            "user_domain_id": "default", "project_name": "admin", "project_domain_id": "default"}  # fmt: skip
    sdk = openstack.connection.Connection(**auth, region_name="RegionOne").identity
    mapping = sdk.create_mapping(id=uuid.uuid4().hex, rules=RULES)
    assert sdk.get_mapping(mapping.id).rules == RULES
    provider = sdk.create_identity_provider(id="acme", is_enabled=True, remote_ids=[ISSUER])
    assert sdk.find_identity_provider("acme").remote_ids == [ISSUER]
    sdk.update_identity_provider(provider, description="changed")
    protocol = sdk.create_federation_protocol(provider, id="openid", mapping_id=mapping.id)
    assert [one.id for one in sdk.federation_protocols(provider)] == ["openid"]
    sdk.create_service_provider(id="beta", auth_url="https://b/auth", sp_url="https://b/sp")

    keystone = keystoneclient.Client(session=session.Session(auth=v3.Password(**auth)))
    federation = keystone.federation
    assert federation.identity_providers.get("acme").description == "changed"
    assert federation.protocols.get("acme", "openid").mapping_id == mapping.id
    federation.mappings.create("other", rules=RULES)
    federation.protocols.update("acme", "openid", "other")
    assert {one.id for one in federation.mappings.list()} == {mapping.id, "other"}
    assert [one.name for one in federation.projects.list()] == ["admin"]
    federation.identity_providers.update("acme", enabled=False)

    sdk.delete_federation_protocol(provider, protocol, ignore_missing=False)
    sdk.delete_identity_provider(provider, ignore_missing=False)
    sdk.delete_mapping(mapping, ignore_missing=False)
    sdk.delete_service_provider("beta", ignore_missing=False)
    assert list(sdk.identity_providers()) == []
