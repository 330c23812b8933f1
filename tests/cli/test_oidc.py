"""`cairn oidc` against a running identity service."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tests.identity.conftest import ADMIN_PASSWORD, Cloud
from tests.identity.live import served

from cairn.cli.main import cairn

PROTOCOL = "/OS-FEDERATION/identity_providers/acme/protocols/openid"
RULES = [{"local": [{"user": {"name": "{0}"}}], "remote": [{"type": "sub"}]}]
Oidc = Callable[..., Result]


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Cloud, Oidc]]:
    with served(tmp_path) as (cloud, url):
        auth = {
            "auth_url": f"{url}/identity/v3", "username": "admin", "password": ADMIN_PASSWORD,
            "user_domain_name": "Default", "project_name": "admin",
            "project_domain_name": "Default",
        }  # fmt: skip
        for folder in ("credentials", "run"):
            (tmp_path / folder).mkdir()
        clouds = {"clouds": {"cairn-admin": {"auth": auth}}}
        (tmp_path / "credentials" / "clouds.yaml").write_text(yaml.safe_dump(clouds))
        cloud.call("PUT", "/OS-FEDERATION/mappings/m", {"mapping": {"rules": RULES}})
        cloud.call("PUT", PROTOCOL.rpartition("/protocols")[0], {"identity_provider": {}})
        cloud.call("PUT", PROTOCOL, {"protocol": {"mapping_id": "m"}})

        def oidc(*words: str, given: str = "") -> Result:
            told = ["oidc", *words, "--state", str(tmp_path)]
            return CliRunner().invoke(cairn, told, input=given)

        yield cloud, oidc


def test_a_client_is_set_changed_and_removed(running: tuple[Cloud, Oidc]) -> None:
    cloud, oidc = running
    me = ("acme", "openid", "--issuer", "https://issuer.example", "--client-id", "cloud")
    done = oidc("set", *me, "--secret-file", "-", "--audience", "cli", given="hush\n")
    assert done.exit_code == 0, done.output
    assert "hush" not in done.output
    assert f"/identity/v3/auth{PROTOCOL}/websso/callback" in done.output
    again = oidc("set", *me, "--scope", "openid", "--scope", "groups")
    assert again.exit_code == 0, again.output
    shown = cloud.call("GET", f"{PROTOCOL}/oidc_client").json["oidc_client"]
    assert shown["has_client_secret"]
    assert (shown["audiences"], shown["scopes"]) == (["cli"], ["openid", "groups"])
    assert "openid groups" in oidc("show", "acme", "openid").output
    assert oidc("set", *me, "--no-secret").exit_code == 0
    shown = cloud.call("GET", f"{PROTOCOL}/oidc_client").json["oidc_client"]
    assert not shown["has_client_secret"]
    assert oidc("remove", "acme", "openid").exit_code == 0
    assert cloud.call("GET", f"{PROTOCOL}/oidc_client").status_code == 404


ME = ("--issuer", "https://issuer.example", "--client-id", "c")


@pytest.mark.parametrize(
    ("words", "because"),
    [
        (("set", "acme", "none", *ME), "Could not find federated protocol none"),
        (("set", "none", "openid", *ME), "Could not find Identity Provider: none"),
        (("set", "acme", "openid", *ME, "--scope", "email"), "'scopes' must have 'openid'"),
        (("set", "acme", "openid", *ME, "--discovery-url", "http://d"), "'discovery_url'"),
        (("show", "acme/protocols", "openid"), "404"),
        (("remove", "acme", "openid"), "has no OpenID client"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    running: tuple[Cloud, Oidc], words: tuple[str, ...], because: str
) -> None:
    done = running[1](*words)
    assert done.exit_code != 0
    assert because in str(done.exception)
