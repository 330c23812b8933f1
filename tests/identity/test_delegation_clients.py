"""Acting for others with the real clients, unmodified: the openstack command, openstacksdk, keystoneauth."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openstack
import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.extras.oauth1 import v3 as oauth1
from keystoneauth1.identity import v3
from openstackclient import shell

from tests.identity.conftest import ADMIN_PASSWORD
from tests.identity.test_clients import auth_url, connect

__all__ = ["auth_url"]
Ask = Callable[..., Any]


@pytest.fixture
def ask(
    auth_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Ask]:
    """`ask("trust", "list")`: the openstack command as an administrator; what it prints, read."""
    signs_in = {
        "OS_AUTH_URL": f"{auth_url}/v3", "OS_USERNAME": "admin", "OS_PASSWORD": ADMIN_PASSWORD,
        "OS_PROJECT_NAME": "admin", "OS_USER_DOMAIN_ID": "default",
        "OS_PROJECT_DOMAIN_ID": "default", "OS_IDENTITY_API_VERSION": "3",
        "OS_REGION_NAME": "RegionOne",
    }  # fmt: skip

    def run(*words: str, prints: bool = True, fails: bool = False, **instead: str) -> Any:
        with monkeypatch.context() as patch:
            for name, value in (instead or signs_in).items():
                patch.setenv(name, value)
            capsys.readouterr()
            form = ["-f", "json"] if prints else []
            status = shell.OpenStackShell().run([*words, *form])
        out, errors = capsys.readouterr()
        assert bool(status) == fails, errors
        return errors if fails else json.loads(out) if prints else out

    yield run


def test_application_credentials_by_the_command(ask: Ask, auth_url: str) -> None:
    rules = [{"service": "identity", "method": "GET", "path": "/v3/users/*"}]
    made = ask("application", "credential", "create", "backup", "--role", "reader",
               "--expiration", "2999-01-01T00:00:00", "--access-rules", json.dumps(rules))  # fmt: skip
    assert made["Secret"] and made["Expires At"] == "2999-01-01T00:00:00.000000"
    (listed,) = ask("application", "credential", "list")
    assert listed["Name"] == "backup"
    assert ask("application", "credential", "show", "backup")["ID"] == made["ID"]
    (rule,) = ask("access", "rule", "list")
    assert ask("access", "rule", "show", rule["ID"])["Path"] == "/v3/users/*"
    assert "in use" in ask("access", "rule", "delete", rule["ID"], prints=False, fails=True)

    by_id = {
        "OS_AUTH_TYPE": "v3applicationcredential", "OS_AUTH_URL": f"{auth_url}/v3",
        "OS_APPLICATION_CREDENTIAL_ID": made["ID"], "OS_REGION_NAME": "RegionOne",
        "OS_APPLICATION_CREDENTIAL_SECRET": made["Secret"], "OS_IDENTITY_API_VERSION": "3",
    }  # fmt: skip
    token = ask("token", "issue", **by_id)
    assert token["project_id"] == made["Project ID"]
    assert ask("user", "show", token["user_id"], **by_id)["name"] == "admin"
    assert "401" in ask("project", "list", prints=False, fails=True, **by_id)

    ask("application", "credential", "delete", "backup", prints=False)
    assert "401" in ask("token", "issue", prints=False, fails=True, **by_id)
    ask("access", "rule", "delete", rule["ID"], prints=False)
    assert ask("access", "rule", "list") == []


def test_application_credentials_by_keystoneauth_and_the_sdk(auth_url: str) -> None:
    mine = connect(auth_url)
    user_id = mine.current_user_id
    made = mine.identity.create_application_credential(
        user_id, "robot", description="d", roles=[{"name": "reader"}], unrestricted=False
    )
    assert [r["name"] for r in made.roles] == ["reader"]
    assert mine.identity.find_application_credential(user_id, "robot").id == made.id
    for named in (
        {"application_credential_id": made.id},
        {"application_credential_name": "robot", "username": "admin", "user_domain_id": "default"},
    ):
        plugin = v3.ApplicationCredential(
            auth_url, application_credential_secret=made.secret, **named
        )
        access: Any = plugin.get_access(session.Session(auth=plugin))
        assert access.application_credential_id == made.id
        assert access.role_names == ["reader"]
        assert access.project_id == mine.current_project_id
    wrong = v3.ApplicationCredential(
        auth_url, application_credential_secret="wrong", application_credential_id=made.id
    )
    with pytest.raises(exceptions.Unauthorized):
        session.Session(auth=wrong).get_token()
    mine.identity.delete_application_credential(user_id, made)
    assert list(mine.identity.application_credentials(user_id)) == []


def test_trusts_by_the_command(ask: Ask, auth_url: str) -> None:
    bob = ask("user", "create", "bob", "--password", "secret")["id"]
    made = ask("trust", "create", "--project", "admin", "--role", "member", "--impersonate",
               "--expiration", "2999-01-01T00:00:00", "admin", "bob")  # fmt: skip
    for words in ((), ("--trustee", "bob"), ("--trustor", "admin")):
        (listed,) = ask("trust", "list", *words)
        assert listed["ID"] == made["id"]
    assert ask("trust", "show", made["id"])["trustee_user_id"] == bob

    plugin = v3.Password(
        auth_url, username="bob", password="secret", user_domain_id="default", trust_id=made["id"]
    )
    access = plugin.get_access(session.Session(auth=plugin))
    assert access.trust_scoped and access.trust_id == made["id"]
    assert access.trustee_user_id == bob
    assert access.user_id == access.trustor_user_id != bob
    assert access.role_names == ["member", "reader"]
    lent = openstack.connection.Connection(session=session.Session(auth=plugin))
    with pytest.raises(openstack.exceptions.ForbiddenException):
        list(lent.identity.users())

    ask("trust", "delete", made["id"], prints=False)
    assert ask("trust", "list") == []
    plugin.invalidate()
    with pytest.raises(exceptions.Unauthorized):
        session.Session(auth=plugin).get_token()


def test_oauth_by_the_command_and_keystoneauth(ask: Ask, auth_url: str) -> None:
    consumer = ask("consumer", "create", "--description", "a program")
    assert ask("consumer", "list") == [{"ID": consumer["id"], "Description": "a program"}]
    ask("consumer", "set", consumer["id"], "--description", "another", prints=False)
    assert ask("consumer", "show", consumer["id"])["description"] == "another"
    own = ("--consumer-key", consumer["id"], "--consumer-secret", consumer["secret"])
    asked = ask("request", "token", "create", *own, "--project", "admin")
    agreed = ask("request", "token", "authorize", "--request-key", asked["key"], "--role", "member")
    given = ask("access", "token", "create", *own, "--request-key", asked["key"],
                "--request-secret", asked["secret"], "--verifier", agreed["oauth_verifier"])  # fmt: skip

    plugin = oauth1.OAuth1(
        f"{auth_url}/v3", consumer_key=consumer["id"], consumer_secret=consumer["secret"],
        access_key=given["key"], access_secret=given["secret"],
    )  # fmt: skip
    access = plugin.get_access(session.Session(auth=plugin))
    assert access.oauth_access_token_id == given["key"]
    assert access.oauth_consumer_id == consumer["id"]
    assert access.role_names == ["member", "reader"] and access.username == "admin"
    ask("consumer", "delete", consumer["id"], prints=False)
    plugin.invalidate()
    with pytest.raises(exceptions.Unauthorized):
        session.Session(auth=plugin).get_token()
