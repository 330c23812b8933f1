"""keystoneauth and openstacksdk, unmodified, against identity behind a real server on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openstack
import pytest
from keystoneauth1 import exceptions, session
from keystoneauth1.identity import v3

from tests.identity.conftest import ADMIN_PASSWORD
from tests.identity.live import served


@pytest.fixture
def auth_url(tmp_path: Path) -> Iterator[str]:
    with served(tmp_path) as (_, url):
        yield f"{url}/identity"


def connect(auth_url: str, **options: Any) -> Any:
    given: dict[str, Any] = {
        "auth_url": auth_url, "username": "admin", "password": ADMIN_PASSWORD,
        "user_domain_id": "default", "project_domain_id": "default", "region_name": "RegionOne",
    }  # fmt: skip
    if not ({"system_scope", "project_name"} & options.keys()):
        given["project_name"] = "admin"
    return openstack.connection.Connection(**{**given, **options})


def test_keystoneauth_discovers_signs_in_and_finds_the_catalog(auth_url: str) -> None:
    plugin = v3.Password(
        auth_url=auth_url, username="admin", password=ADMIN_PASSWORD, user_domain_id="default",
        project_name="admin", project_domain_id="default",
    )  # fmt: skip
    keystone = session.Session(auth=plugin)
    access = plugin.get_access(keystone)
    assert access.role_names == ["admin", "manager", "member", "reader"]
    assert keystone.get_endpoint(service_type="identity", version=(3,)) == f"{auth_url}/v3/"
    token = keystone.get_token()
    assert token is not None
    again = session.Session(auth=v3.Token(auth_url=auth_url, token=token, unscoped=True))
    assert again.get(
        "/auth/projects", endpoint_filter=None, endpoint_override=f"{auth_url}/v3"
    ).json()
    keystone.invalidate()
    wrong = v3.Password(auth_url=auth_url, username="admin", password="x", user_domain_id="default")
    with pytest.raises(exceptions.Unauthorized):
        session.Session(auth=wrong).get_token()


@pytest.mark.parametrize("scope", [{"project_name": "admin"}, {"system_scope": "all"}])
def test_openstacksdk_manages_people_and_places(auth_url: str, scope: dict[str, str]) -> None:
    identity = connect(auth_url, **scope).identity
    project = identity.create_project(name="p", domain_id="default", tags=["x"])
    user = identity.create_user(name="ann", password="secret", default_project_id=project.id)
    group = identity.create_group(name="g")
    member = identity.find_role("member")
    identity.assign_project_role_to_user(project, user, member)
    assert identity.validate_user_has_project_role(project, user, member)
    identity.add_user_to_group(user, group)
    assert [u.name for u in identity.users(name="ann")] == ["ann"]
    assert {p.name for p in identity.projects()} == {"admin", "p"}
    assert identity.find_project("p").tags == ["x"]
    assert len(list(identity.role_assignments(user_id=user.id))) == 1
    assert {s.type for s in identity.services()} == {"identity"}
    assert len(list(identity.endpoints())) == 3
    assert [r.id for r in identity.regions()] == ["RegionOne"]
    assert [d.name for d in identity.domains()] == ["Default"]

    theirs = connect(auth_url, username="ann", password="secret", project_name="p")
    assert theirs.current_project.name == "p"
    assert theirs.identity.get_user(user.id).name == "ann"
    with pytest.raises(openstack.exceptions.ForbiddenException):
        list(theirs.identity.users())
    with pytest.raises(openstack.exceptions.ForbiddenException):
        theirs.identity.create_project(name="mine")

    identity.update_user(user, description="changed")
    identity.unassign_project_role_from_user(project, user, member)
    identity.remove_user_from_group(user, group)
    for delete, thing in ((identity.delete_user, user), (identity.delete_group, group),
                          (identity.delete_project, project)):  # fmt: skip
        delete(thing, ignore_missing=False)
    assert identity.find_user("ann") is None
    with pytest.raises(openstack.exceptions.NotFoundException):
        identity.get_project(project.id)


def test_openstacksdk_follows_pages(auth_url: str) -> None:
    identity = connect(auth_url).identity
    for number in range(5):
        identity.create_project(name=f"p{number}")
    assert len(list(identity.projects(limit=2))) == 6
