"""Domains whose users and groups are in a directory, against a real slapd.

As OpenLDAP has them and as Active Directory has them; what happens when somebody is disabled, renamed or
deleted there; and that a directory which is down, slow or lying is its own domain's trouble only.
"""

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from keystoneauth1.exceptions import NotFound
from keystoneclient.v3 import client as keystone_client
from structlog.testing import capture_logs

from cairn.core.clock import FakeClock
from cairn.core.ids import DomainId
from cairn.identity.directory import pool
from cairn.identity.directory.keeper import DirectoryKeeper
from cairn.identity.directory.tree import same_dn
from cairn.identity.methods.method import DomainName, Named
from cairn.life.reconcile import Round
from tests.identity.conftest import ADMIN_PASSWORD, Cloud, scope_of
from tests.identity.slapd import CORP, PLAIN, ROOT, ROOT_PASSWORD, Slapd
from tests.identity.test_clients import auth_url, connect  # noqa: F401 - a fixture

USERS, GROUPS = f"ou=Users,{PLAIN}", f"ou=Groups,{PLAIN}"


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    server = Slapd(tmp_path_factory.mktemp("slapd"))
    try:
        for unit in ("Users", "Groups"):
            server.add(f"ou={unit},{PLAIN}", ["organizationalUnit"], ou=unit)
        for dn in (f"ou=Berlin,{CORP}", f"ou=Staff,ou=Berlin,{CORP}"):
            server.add(dn, ["organizationalUnit"], ou=dn.split(",")[0][3:])
        ann = server.add_user("ann", mail="ann@example.org", description="first")
        bob = server.add_user("bob")
        server.add_group("ops", ann, bob)
        server.add_group("dev", ann)
        yield server
    finally:
        server.stop()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Tracebacks of what is down take longer to print than to happen."""
    with capture_logs():
        yield


@pytest.fixture
def directories(cloud: Cloud) -> Iterator[Cloud]:
    yield cloud
    cloud.directories.close()


class Domain:
    """A domain of a cloud with a directory."""

    def __init__(self, cloud: Cloud, name: str, **ldap: Any) -> None:
        self.cloud, self.name = cloud, name
        self.id = str(cloud.make("domain", name=name)["id"])
        self.configure(**ldap)

    def configure(self, **ldap: Any) -> None:
        config = {"identity": {"driver": "ldap"}, "ldap": ldap}
        answer = self.cloud.call("PUT", f"/domains/{self.id}/config", {"config": config})
        assert answer.status_code in (200, 201), answer.text

    def sign_in(self, name: str, password: str, scope: Any = None) -> Any:
        who = {"name": name, "domain": {"id": self.id}, "password": password}
        auth: dict[str, Any] = {"identity": {"methods": ["password"], "password": {"user": who}}}
        if scope:
            auth["scope"] = scope
        return self.cloud.call("POST", "/auth/tokens", {"auth": auth}, token=None)

    def token(self, name: str, scope: Any = None) -> str:
        answer = self.sign_in(name, f"{name}'s password", scope)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["x-subject-token"])

    def users(self, **query: str) -> list[Any]:
        return self._list("users", **query)

    def groups(self, **query: str) -> list[Any]:
        return self._list("groups", **query)

    def _list(self, kind: str, **query: str) -> list[Any]:
        more = "".join(f"&{name}={value}" for name, value in query.items())
        answer = self.cloud.call("GET", f"/{kind}?domain_id={self.id}{more}")
        assert answer.status_code == 200, answer.text
        found = answer.json[kind]
        assert isinstance(found, list)
        return found

    def user(self, name: str) -> Any:
        (found,) = self.users(name=name)
        return found

    def group(self, name: str) -> Any:
        (found,) = self.groups(name=name)
        return found


def openldap(slapd: Slapd, **more: Any) -> dict[str, Any]:
    return {
        "url": slapd.url,
        "user": ROOT.format(suffix=PLAIN),
        "password": ROOT_PASSWORD,
        "suffix": PLAIN,
        "user_tree_dn": USERS,
        "group_tree_dn": GROUPS,
        "user_id_attribute": "uid",
        "user_name_attribute": "uid",
        "group_name_attribute": "cn",
        **more,
    }


def active_directory(slapd: Slapd, **more: Any) -> dict[str, Any]:
    return {
        "url": slapd.url,
        "user": ROOT.format(suffix=CORP),
        "password": ROOT_PASSWORD,
        "suffix": CORP,
        "query_scope": "sub",
        "user_tree_dn": CORP,
        "user_objectclass": "user",
        "user_id_attribute": "sAMAccountName",
        "user_name_attribute": "sAMAccountName",
        "user_enabled_attribute": "userAccountControl",
        "user_enabled_mask": 2,
        "user_enabled_default": "512",
        "group_tree_dn": CORP,
        "group_objectclass": "group",
        "group_id_attribute": "sAMAccountName",
        "group_name_attribute": "sAMAccountName",
        "page_size": 2,
        **more,
    }


@pytest.fixture
def domain(directories: Cloud, slapd: Slapd) -> Domain:
    return Domain(directories, "corp", **openldap(slapd))


@pytest.fixture
def temporary(slapd: Slapd) -> Iterator[Callable[[str], str]]:
    """Adds users that are deleted at the end."""
    made: list[str] = []

    def add(uid: str, **more: Any) -> str:
        made.append(slapd.add_user(uid, **more))
        return made[-1]

    yield add
    for dn in made:
        with slapd._root(dn) as root:
            root.delete(dn)


def look(cloud: Cloud) -> Round:
    return asyncio.run(DirectoryKeeper(cloud.database, cloud.directories).run_once())


def roles_in(answer: Any) -> set[str]:
    assert answer.status_code == 201, answer.text
    return {role["name"] for role in answer.json["token"]["roles"]}


# --- signing in --------------------------------------------------------------------------------------


def test_a_user_of_the_directory_signs_in_and_has_keystones_id(
    cloud_on_both: Cloud, slapd: Slapd
) -> None:
    domain = Domain(cloud_on_both, "corp", **openldap(slapd))
    answer = domain.sign_in("ann", "ann's password")
    user = answer.json["token"]["user"]
    assert user["name"] == "ann"
    assert user["domain"] == {"id": domain.id, "name": "corp"}
    assert user["id"] == hashlib.sha256(f"{domain.id}userann".encode()).hexdigest()
    assert domain.sign_in("ann", "ann's password").json["token"]["user"]["id"] == user["id"]
    by_id = {"id": user["id"], "password": "ann's password"}
    auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": by_id}}}}
    assert cloud_on_both.call("POST", "/auth/tokens", auth, token=None).status_code == 201
    cloud_on_both.directories.close()


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("ann", "wrong"),
        ("ann", ""),
        ("ann", "bob's password"),
        ("nobody", "x"),
        ("*", "ann's password"),
        ("a*", "ann's password"),
        ("ann)(uid=*", "ann's password"),
        ("ann)(|(uid=*", "ann's password"),
        ("ann\\2a", "ann's password"),
        ("", "ann's password"),
        ("ann", "x" * 5000),
        ("änn\U0001f600", "ann's password"),
    ],
)
def test_everything_else_gets_the_same_answer(domain: Domain, name: str, password: str) -> None:
    answer = domain.sign_in(name, password)
    assert answer.status_code == 401
    assert answer.json["error"]["message"] == ("The request you have made requires authentication.")


def test_roles_of_users_and_groups_of_the_directory_count(domain: Domain) -> None:
    cloud = domain.cloud
    project = cloud.make("project", name="p")
    ann, ops, dev = domain.user("ann"), domain.group("ops"), domain.group("dev")
    assert domain.sign_in("ann", "ann's password", scope_of("p")).status_code == 401
    cloud.grant(ann["id"], project["id"], "reader")
    path = f"/projects/{project['id']}/groups/{{}}/roles/{cloud.role_id('member')}"
    assert cloud.call("PUT", path.format(ops["id"])).status_code == 204
    assert roles_in(domain.sign_in("ann", "ann's password", scope_of("p"))) == {"reader", "member"}
    assert roles_in(domain.sign_in("bob", "bob's password", scope_of("p"))) == {"reader", "member"}
    listed = cloud.call("GET", "/auth/projects", token=domain.token("bob")).json["projects"]
    assert [p["name"] for p in listed] == ["p"]
    assert cloud.call("DELETE", path.format(ops["id"])).status_code == 204
    assert domain.sign_in("bob", "bob's password", scope_of("p")).status_code == 401
    admin = f"/domains/{domain.id}/groups/{dev['id']}/roles/{cloud.role_id('admin')}"
    assert cloud.call("PUT", admin).status_code == 204
    scope = {"domain": {"id": domain.id}}
    assert "admin" in roles_in(domain.sign_in("ann", "ann's password", scope))


def test_a_disabled_domain_lets_nobody_in(domain: Domain) -> None:
    path = f"/domains/{domain.id}"
    domain.cloud.call("PATCH", path, {"domain": {"enabled": False}})
    assert domain.sign_in("ann", "ann's password").status_code == 401


# --- lists -------------------------------------------------------------------------------------------


def test_users_and_groups_are_listed_shown_and_filtered(domain: Domain) -> None:
    cloud = domain.cloud
    assert {u["name"] for u in domain.users()} == {"ann", "bob"}
    ann = domain.user("ann")
    assert (ann["email"], ann["description"], ann["enabled"]) == ("ann@example.org", "first", True)
    assert cloud.call("GET", f"/users/{ann['id']}").json["user"] == ann
    assert not domain.users(name="a*")
    assert not domain.users(name=")(uid=ann")
    assert {g["name"] for g in domain.groups()} == {"ops", "dev"}
    ops = domain.group("ops")
    assert cloud.call("GET", f"/groups/{ops['id']}").json["group"] == ops
    members = cloud.call("GET", f"/groups/{ops['id']}/users").json["users"]
    assert {u["name"] for u in members} == {"ann", "bob"}
    mine = cloud.call("GET", f"/users/{ann['id']}/groups").json["groups"]
    assert {g["name"] for g in mine} == {"ops", "dev"}
    bob, dev = domain.user("bob"), domain.group("dev")
    assert cloud.call("HEAD", f"/groups/{dev['id']}/users/{ann['id']}").status_code == 204
    assert cloud.call("HEAD", f"/groups/{dev['id']}/users/{bob['id']}").status_code == 404
    everybody = cloud.call("GET", "/users").json["users"]
    assert {"admin", "ann", "bob"} <= {u["name"] for u in everybody}


def test_many_users_are_listed_over_many_pages(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str]
) -> None:
    for number in range(30):
        temporary(f"u{number:02}")
    domain.configure(**openldap(slapd, page_size=7))
    assert len(domain.users()) == 32
    first = domain.cloud.call("GET", f"/users?domain_id={domain.id}&limit=20").json
    assert len(first["users"]) == 20
    rest = first["links"]["next"].split("/v3")[1]
    assert len(domain.cloud.call("GET", rest).json["users"]) == 12


def test_a_filter_of_the_configuration_decides_who_exists(domain: Domain, slapd: Slapd) -> None:
    domain.configure(**openldap(slapd, user_filter="(mail=*)", group_filter="(cn=d*)"))
    assert [u["name"] for u in domain.users()] == ["ann"]
    assert [g["name"] for g in domain.groups()] == ["dev"]
    assert domain.sign_in("bob", "bob's password").status_code == 401


def test_other_attributes_are_shown_where_they_are_mapped(domain: Domain, slapd: Slapd) -> None:
    more = {"user_additional_attribute_mapping": ["sn:family"], "user_attribute_ignore": "email"}
    domain.configure(**openldap(slapd, **more))
    ann = domain.user("ann")
    assert ann["family"] == "ann"
    assert "email" not in ann


# --- read-only ---------------------------------------------------------------------------------------


def test_the_directory_is_read_only(domain: Domain) -> None:
    cloud = domain.cloud
    ann, ops = domain.user("ann"), domain.group("ops")
    local = cloud.make("user", name="local", password="local's password")
    group = cloud.make("group", name="local")
    new = {"name": "n", "domain_id": domain.id}
    change = {"password": "another one", "original_password": "ann's password"}
    for method, path, body in (
        ("POST", "/users", {"user": new}),
        ("POST", "/groups", {"group": new}),
        ("PATCH", f"/users/{ann['id']}", {"user": {"name": "x"}}),
        ("PATCH", f"/users/{ann['id']}", {"user": {"enabled": False}}),
        ("DELETE", f"/users/{ann['id']}", None),
        ("POST", f"/users/{ann['id']}/password", {"user": change}),
        ("PATCH", f"/groups/{ops['id']}", {"group": {"name": "x"}}),
        ("DELETE", f"/groups/{ops['id']}", None),
        ("PUT", f"/groups/{ops['id']}/users/{local['id']}", None),
        ("PUT", f"/groups/{group['id']}/users/{ann['id']}", None),
        ("DELETE", f"/groups/{ops['id']}/users/{ann['id']}", None),
    ):
        answer = cloud.call(method, path, body)
        assert answer.status_code == 403, (method, path, answer.text)
        assert "read-only" in answer.json["error"]["message"]
    assert domain.user("ann") == ann
    assert domain.sign_in("ann", "ann's password").status_code == 201


def test_users_from_before_the_directory_stay_what_they_are(
    directories: Cloud, slapd: Slapd
) -> None:
    """Or else whoever gives the domain of the administrator a directory is locked out."""
    domain = Domain(directories, "corp", **openldap(slapd))
    directories.call("DELETE", f"/domains/{domain.id}/config")
    made = directories.make("user", name="ann", password="local password", domain_id=domain.id)
    domain.configure(**openldap(slapd))
    assert domain.sign_in("ann", "ann's password").status_code == 401
    answer = domain.sign_in("ann", "local password")
    assert answer.json["token"]["user"]["id"] == made["id"]
    assert {u["name"] for u in domain.users()} == {"ann", "bob"}
    assert directories.call("DELETE", f"/users/{made['id']}").status_code == 204
    assert domain.sign_in("ann", "ann's password").status_code == 201


# --- what changes there ------------------------------------------------------------------------------


def test_who_is_deleted_there_has_no_token_any_more(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str]
) -> None:
    dn = temporary("carl")
    token, carl = domain.token("carl"), domain.user("carl")
    assert domain.cloud.is_good(token)
    slapd.delete(dn)
    done = look(domain.cloud)
    assert done.failed == ()
    assert not domain.cloud.is_good(token)
    assert domain.sign_in("carl", "carl's password").status_code == 401
    assert domain.cloud.call("GET", f"/users/{carl['id']}").status_code == 404
    assert {u["name"] for u in domain.users()} == {"ann", "bob"}


@pytest.mark.parametrize("how", ["show", "list", "by name", "sign in by id"])
def test_a_request_notices_who_was_deleted(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str], how: str
) -> None:
    dn = temporary("dora")
    token, dora = domain.token("dora"), domain.user("dora")
    slapd.delete(dn)
    if how == "show":
        assert domain.cloud.call("GET", f"/users/{dora['id']}").status_code == 404
    elif how == "list":
        domain.users()
    elif how == "by name":
        assert not domain.users(name="dora")
    else:
        by_id = {"id": dora["id"], "password": "dora's password"}
        auth = {"auth": {"identity": {"methods": ["password"], "password": {"user": by_id}}}}
        assert domain.cloud.call("POST", "/auth/tokens", auth, token=None).status_code == 401
    assert not domain.cloud.is_good(token)


def test_who_comes_back_soon_has_the_roles_and_who_comes_late_has_not(
    domain: Domain, slapd: Slapd, clock: FakeClock, temporary: Callable[[str], str]
) -> None:
    cloud = domain.cloud
    project = cloud.make("project", name="p")
    dn = temporary("eve")
    eve = domain.user("eve")
    cloud.grant(eve["id"], project["id"], "reader")
    slapd.delete(dn)
    look(cloud)
    slapd.add_user("eve")
    assert domain.token("eve", scope_of("p"))
    slapd.delete(dn)
    look(cloud)
    clock.advance(timedelta(days=31).total_seconds())
    cloud._admin_token = None
    look(cloud)
    slapd.add_user("eve")
    assert domain.user("eve")["id"] == eve["id"]
    assert domain.sign_in("eve", "eve's password", scope_of("p")).status_code == 401


def test_who_is_renamed_stays_the_same_user(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str]
) -> None:
    domain.configure(**openldap(slapd, user_name_attribute="cn"))
    fay, gus = temporary("fay"), temporary("gus")
    before = {u["name"]: u["id"] for u in domain.users()}
    slapd.change(fay, cn=["gus"])
    slapd.change(gus, cn=["fay"])
    # Seen one at a time, each still has the name that the other one gets.
    answer = domain.sign_in("gus", "fay's password")
    assert answer.json["token"]["user"]["id"] == before["fay"]
    after = {u["name"]: u["id"] for u in domain.users()}
    assert (after["fay"], after["gus"]) == (before["gus"], before["fay"])


def test_of_two_users_with_one_name_nobody_signs_in_by_it(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str]
) -> None:
    domain.configure(**openldap(slapd, user_name_attribute="sn"))
    temporary("hal", sn="ann")
    assert domain.sign_in("ann", "ann's password").status_code == 401
    assert domain.sign_in("ann", "hal's password").status_code == 401
    assert {u["name"] for u in domain.users()} == {"ann", "bob"}


def test_who_leaves_a_group_loses_its_roles_and_the_token(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str]
) -> None:
    cloud = domain.cloud
    ivy = temporary("ivy")
    group = slapd.add_group("qa", ivy)
    project = cloud.make("project", name="p")
    qa = domain.group("qa")
    path = f"/projects/{project['id']}/groups/{qa['id']}/roles/{cloud.role_id('member')}"
    cloud.call("PUT", path)
    token = domain.token("ivy", scope_of("p"))
    look(cloud)
    assert cloud.is_good(token)
    slapd.change(group, member=[f"cn=nobody,{PLAIN}"])
    look(cloud)
    assert not cloud.is_good(token)
    assert domain.sign_in("ivy", "ivy's password", scope_of("p")).status_code == 401
    slapd.delete(group)
    assert cloud.call("GET", f"/groups/{qa['id']}").status_code == 404


def test_a_domain_without_a_directory_any_more_lets_its_users_go(domain: Domain) -> None:
    token = domain.token("ann")
    domain.cloud.call("DELETE", f"/domains/{domain.id}/config")
    look(domain.cloud)
    assert not domain.cloud.is_good(token)
    assert not domain.users()
    assert domain.sign_in("ann", "ann's password").status_code == 401


# --- who is enabled ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "value", "is_enabled"),
    [
        ({}, None, True),
        ({"user_enabled_attribute": "employeeType"}, "TRUE", True),
        ({"user_enabled_attribute": "employeeType"}, "FALSE", False),
        ({"user_enabled_attribute": "employeeType", "user_enabled_invert": True}, "TRUE", False),
        ({"user_enabled_attribute": "employeeType", "user_enabled_invert": "true"}, "FALSE", True),
        ({"user_enabled_attribute": "employeeType", "user_enabled_default": "False"}, None, False),
        ({"user_enabled_attribute": "employeeType", "user_enabled_mask": 2}, "514", False),
        ({"user_enabled_attribute": "employeeType", "user_enabled_mask": "2"}, "512", True),
        ({"user_enabled_attribute": "employeeType", "user_enabled_mask": 2}, "nonsense", False),
    ],
)
def test_the_directory_says_who_is_enabled(
    domain: Domain,
    slapd: Slapd,
    temporary: Callable[..., str],
    options: dict[str, Any],
    value: str | None,
    is_enabled: bool,
) -> None:
    temporary("jim", employeeType=value)
    domain.configure(**openldap(slapd, **options))
    assert domain.user("jim")["enabled"] is is_enabled
    assert domain.sign_in("jim", "jim's password").status_code == (201 if is_enabled else 401)


def test_a_group_of_the_directory_may_say_who_is_enabled(domain: Domain, slapd: Slapd) -> None:
    more = {"user_enabled_emulation": True, "user_enabled_emulation_dn": f"cn=dev,{GROUPS}"}
    domain.configure(**openldap(slapd, **more))
    assert domain.sign_in("ann", "ann's password").status_code == 201
    assert domain.sign_in("bob", "bob's password").status_code == 401
    assert {u["name"]: u["enabled"] for u in domain.users()} == {"ann": True, "bob": False}


def test_groups_may_name_their_members_by_id(
    domain: Domain, slapd: Slapd, temporary: Callable[[str], str]
) -> None:
    temporary("kim")
    dn = slapd.add(
        f"cn=posix,{GROUPS}", ["posixGroup"], cn="posix", gidNumber="7", memberUid=["kim", "ann"]
    )
    more = {"group_objectclass": "posixGroup", "group_member_attribute": "memberUid"}
    domain.configure(**openldap(slapd, group_members_are_ids=True, **more))
    posix = domain.group("posix")
    members = domain.cloud.call("GET", f"/groups/{posix['id']}/users").json["users"]
    assert {u["name"] for u in members} == {"kim", "ann"}
    kim = domain.user("kim")
    mine = domain.cloud.call("GET", f"/users/{kim['id']}/groups").json["groups"]
    assert [g["name"] for g in mine] == ["posix"]
    slapd.delete(dn)


# --- Active Directory --------------------------------------------------------------------------------


def test_active_directory(directories: Cloud, slapd: Slapd) -> None:
    lee = slapd.add_corp_user("Lee, Dr. Ann", "lee", mail="lee@corp.example")
    mia = slapd.add_corp_user("Mia Müller", "mia")
    off = slapd.add_corp_user("Off", "off", control=514)
    group = slapd.add_corp_group("admins", lee, mia, off)
    try:
        domain = Domain(directories, "ad", **active_directory(slapd))
        token = domain.token("lee")
        assert domain.sign_in("off", "off's password").status_code == 401
        assert (
            domain.sign_in("LEE", "lee's password").status_code == 201
        )  # names have no case there
        listed = {u["name"]: u["enabled"] for u in domain.users()}
        assert listed == {"lee": True, "mia": True, "off": False}
        admins = domain.group("admins")
        members = directories.call("GET", f"/groups/{admins['id']}/users").json["users"]
        assert {u["name"] for u in members} == {"lee", "mia", "off"}
        by_member_of = active_directory(slapd, user_filter=f"(memberOf={group})")
        domain.configure(**by_member_of)
        assert len(domain.users()) == 3
        slapd.change(lee, userAccountControl=["514"])
        look(directories)
        assert not directories.is_good(token)
        assert domain.sign_in("lee", "lee's password").status_code == 401
        assert domain.user("lee")["enabled"] is False
    finally:
        for dn in (group, lee, mia, off):
            slapd.delete(dn)


def test_one_dn_may_be_written_in_many_ways() -> None:
    spellings = (
        "cn=Lee\\, Dr. Ann,ou=Staff,dc=corp",
        "CN=lee\\2C dr.  ann, OU=Staff, DC=Corp",
        "cn=Lee\\2c Dr. Ann , ou=staff,dc=corp",
    )
    assert len({same_dn(dn) for dn in spellings}) == 1
    assert same_dn("cn=a\\,b,dc=c") != same_dn("cn=a,b=x,dc=c")
    assert same_dn("cn=M\\c3\\bcller,dc=c") == same_dn("cn=Müller,dc=c")


# --- the way there -----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["ldaps", "starttls"])
def test_the_way_is_encrypted_and_the_server_is_who_it_says(
    domain: Domain, slapd: Slapd, way: str
) -> None:
    url = slapd.tls_url if way == "ldaps" else slapd.url
    tls = {"url": url, "use_tls": way == "starttls"}
    domain.configure(**openldap(slapd, **tls, tls_cacertfile=str(slapd.ca_file)))
    assert domain.sign_in("ann", "ann's password").status_code == 201
    domain.configure(**openldap(slapd, **tls, tls_cacertfile=str(slapd.folder / "other.crt")))
    assert domain.sign_in("ann", "ann's password").status_code == 503
    assert "certificate" in domain.cloud.directories.troubles()["corp"].lower()
    domain.configure(**openldap(slapd, **tls))  # The machine's own CAs did not sign it.
    assert domain.sign_in("ann", "ann's password").status_code == 503
    tls["url"] = url.replace("127.0.0.1", "localhost")  # Not the name in the certificate.
    domain.configure(**openldap(slapd, **tls, tls_cacertfile=str(slapd.ca_file)))
    assert domain.sign_in("ann", "ann's password").status_code == 503
    domain.configure(**openldap(slapd, **tls, tls_req_cert="never"))
    assert domain.sign_in("ann", "ann's password").status_code == 201


def test_the_next_server_is_asked_when_one_is_away(domain: Domain, slapd: Slapd) -> None:
    domain.configure(**openldap(slapd, url=f"ldap://127.0.0.1:1,{slapd.url}"))
    assert domain.sign_in("ann", "ann's password").status_code == 201
    assert {u["name"] for u in domain.users()} == {"ann", "bob"}


# --- trouble -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"url": "ldap://127.0.0.1:1"}, "127.0.0.1:1"),
        ({"url": "http://example.org"}, "ldap.url"),
        ({"url": ""}, "ldap.url"),
        ({"password": "wrong"}, "invalidCredentials"),
        ({"user_tree_dn": f"ou=Gone,{PLAIN}"}, "ou=Gone"),
        ({"user_tree_dn": "no dn at all"}, "no dn at all"),
        ({"user_filter": "(((mail=*)"}, "ldap.user_filter"),
        ({"user_filter": "(mail)"}, "user_filter"),
        ({"user_id_attribute": "uid)(x"}, "ldap.user_id_attribute"),
        ({"user_additional_attribute_mapping": ["x"]}, "attribute_mapping"),
        ({"tls_cacertfile": "/nowhere", "use_tls": True}, ""),
    ],
)
def test_what_is_wrong_is_told_to_that_domain_and_to_operators_only(
    domain: Domain, slapd: Slapd, wrong: dict[str, Any], says: str
) -> None:
    cloud = domain.cloud
    ann = domain.user("ann")
    token = domain.token("ann")
    domain.configure(**openldap(slapd, **wrong))
    answer = domain.sign_in("ann", "ann's password")
    assert answer.status_code == 503, answer.text
    assert answer.headers["retry-after"]
    assert says == "" or says not in answer.text
    assert cloud.call("GET", f"/users?domain_id={domain.id}").status_code == 503
    assert cloud.call("GET", f"/users/{ann['id']}").status_code == 503
    assert says in cloud.directories.troubles()["corp"]
    # Nobody else is hindered, and nobody is taken for deleted.
    cloud.make("user", name="local", password="local's password")
    assert cloud.sign_in("local", "local's password").status_code == 201
    assert cloud.sign_in("admin", ADMIN_PASSWORD).status_code == 201
    listed = {u["name"] for u in cloud.call("GET", "/users").json["users"]}
    assert {"admin", "local", "ann"} <= listed
    assert len(look(cloud).failed) == 1
    assert cloud.is_good(token)
    domain.configure(**openldap(slapd))
    assert domain.sign_in("ann", "ann's password").status_code == 201
    assert cloud.directories.troubles() == {}


def test_a_directory_that_comes_back_is_asked_again(domain: Domain, slapd: Slapd) -> None:
    assert domain.sign_in("ann", "ann's password").status_code == 201
    slapd.stop()
    try:
        assert domain.sign_in("ann", "ann's password").status_code == 503
    finally:
        slapd.start()
    assert domain.sign_in("ann", "ann's password").status_code == 201
    slapd.stop()
    slapd.start()  # What it had of connections is cut.
    assert domain.sign_in("ann", "ann's password").status_code == 201


class Liar:
    """A server that says the same bytes to everything, or nothing."""

    def __init__(self, says: bytes) -> None:
        self._says = says
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"ldap://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        held = []
        while True:
            try:
                peer, _ = self._socket.accept()
                held.append(peer)
                if self._says:
                    peer.recv(1000)
                    peer.sendall(self._says)
            except OSError:
                return

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"\x30\x84\x7f\xff\xff\xff",
        b"\x30\x0c\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04",
        b"\x30\x05\x02\x01\x63\x61\x00",
        b"\x00" * 100,
        b"\xff" * 100,
    ],
)
def test_a_server_that_is_slow_or_speaks_nonsense_is_given_up(
    domain: Domain, slapd: Slapd, monkeypatch: pytest.MonkeyPatch, says: bytes
) -> None:
    monkeypatch.setattr(pool, "QUESTION_S_MAX", 0.3)
    monkeypatch.setattr(pool.Pool.ask, "__kwdefaults__", {"within_s": 0.3})
    liar = Liar(says)
    try:
        domain.configure(**openldap(slapd, url=liar.url))
        assert domain.sign_in("ann", "ann's password").status_code == 503
        assert domain.cloud.sign_in("admin", ADMIN_PASSWORD).status_code == 201
        assert domain.cloud.directories.troubles()["corp"]
    finally:
        liar.close()


async def test_who_asks_while_it_is_down_is_told_at_once(slapd: Slapd) -> None:
    from cairn.core.errors import Unavailable
    from cairn.identity.directory import config

    options = {"ldap": openldap(slapd, url="ldap://127.0.0.1:1")}
    down = pool.Pool("d", config.read(options), down_s=60)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await down.ask(lambda client: client)
    assert down._threads._work_queue.qsize() == 0
    asked = []
    with pytest.raises(Unavailable):
        await down.ask(lambda client: asked.append(client))
    assert not asked
    down.close()


# --- side by side, and with real clients ---------------------------------------------------------------


def test_first_sign_ins_at_once_make_one_user(cloud_on_both: Cloud, slapd: Slapd) -> None:
    domain = Domain(cloud_on_both, "corp", **openldap(slapd))
    directories, database = cloud_on_both.directories, cloud_on_both.database
    named = Named(name="ann", domain=DomainName(id=DomainId(domain.id)))

    async def at_once() -> set[str]:
        looks = [directories.look_at_users(database, domain.id, None) for _ in range(4)]
        signs = [directories.prove(database, named, "ann's password") for _ in range(8)]
        _, proofs = await asyncio.gather(asyncio.gather(*looks), asyncio.gather(*signs))
        return {proof.user_id for proof in proofs if proof is not None}

    assert len(asyncio.run(at_once())) == 1
    assert len(domain.users()) == 2
    directories.close()


def test_unmodified_clients_configure_a_domain_and_sign_in(
    auth_url: str,  # noqa: F811
    slapd: Slapd,
) -> None:
    admin = connect(auth_url)
    domain = admin.identity.create_domain(name="corp")
    client = keystone_client.Client(session=admin.session, endpoint_override=f"{auth_url}/v3")
    config = {"identity": {"driver": "ldap"}, "ldap": openldap(slapd)}
    client.domain_configs.create(domain.id, config)
    shown = client.domain_configs.get(domain.id)
    assert shown.identity == {"driver": "ldap"}
    assert "password" not in shown.ldap
    client.domain_configs.update(domain.id, {"ldap": {"page_size": 5}})
    project = admin.identity.create_project(name="p", domain_id=domain.id)
    group = admin.identity.find_group("ops", domain_id=domain.id)
    member = admin.identity.find_role("member")
    admin.identity.assign_project_role_to_group(project, group, member)
    mine = connect(
        auth_url, username="bob", password="bob's password", user_domain_id=domain.id,
        project_name="p", project_domain_id=domain.id,
    )  # fmt: skip
    assert mine.current_project_id == project.id
    assert [p.name for p in mine.identity.user_projects(mine.current_user_id)] == ["p"]
    names = {user.name for user in admin.identity.users(domain_id=domain.id)}
    assert names == {"ann", "bob"}
    assert {u.name for u in admin.identity.group_users(group)} == {"ann", "bob"}
    client.domain_configs.delete(domain.id)
    with pytest.raises(NotFound):
        client.domain_configs.get(domain.id)
