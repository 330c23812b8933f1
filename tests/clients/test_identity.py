"""Projects, users, roles: made by the administrator, believed by every other service."""

from collections.abc import Callable
from typing import Any

import pytest
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from openstack import exceptions

from tests.clients.rooms import Room

pytestmark = pytest.mark.clients


def test_a_new_user_works_in_their_project_and_nowhere_else(
    admin: Any, connect: Callable[..., Any]
) -> None:
    identity = admin.identity
    project = identity.create_project(name="lab", domain_id="default")
    user = identity.create_user(name="mia", domain_id="default", password="once-and-for-all")
    member = identity.find_role("member", ignore_missing=False)
    try:
        who = {"username": "mia", "password": "once-and-for-all", "project_name": "lab"}
        with pytest.raises(exceptions.SDKException, match="401"):
            connect(auth=_auth(admin, who)).authorize()

        identity.assign_project_role_to_user(project, user, member)
        assert [a.role["id"] for a in identity.role_assignments(user_id=user.id)] == [member.id]
        mia = connect(auth=_auth(admin, who))
        assert mia.current_project_id == project.id
        assert mia.current_user_id == user.id
        assert list(mia.compute.servers()) == []  # the demonstration's server is not hers
        with pytest.raises(exceptions.ForbiddenException):
            mia.identity.create_project(name="more", domain_id="default")
        for other in ({"password": "wrong"}, {"project_name": "demo"}):
            with pytest.raises(exceptions.SDKException, match="401"):
                connect(auth=_auth(admin, who | other)).authorize()

        identity.unassign_project_role_from_user(project, user, member)
        with pytest.raises(exceptions.SDKException, match="401"):
            connect(auth=_auth(admin, who)).authorize()
    finally:
        identity.delete_user(user)
        identity.delete_project(project)
    assert identity.find_user("mia") is None
    assert identity.find_project("lab") is None


def test_a_token_signs_in_and_the_catalog_names_every_service(room: Room, demo: Any) -> None:
    auth = v3.Token(
        demo.config.auth["auth_url"], token=demo.auth_token, project_id=demo.current_project_id
    )
    again = Session(auth=auth, verify=str(room.settings.certs_dir / "ca.crt"))
    assert again.get_project_id() == demo.current_project_id
    types = {service["type"] for service in demo.service_catalog}
    assert types >= {"identity", "image", "network", "compute", "block-storage"}


def test_the_command_line_shows_users_and_catalog(cli: Callable[..., Any]) -> None:
    assert "admin" in [user["Name"] for user in cli("user", "list")]
    assert {"identity", "compute"} <= {entry["Type"] for entry in cli("catalog", "list")}


def _auth(admin: Any, who: dict[str, str]) -> dict[str, str]:
    domains = {"user_domain_id": "default", "project_domain_id": "default"}
    return {"auth_url": admin.config.auth["auth_url"], **domains, **who}


def test_no_log_holds_a_password_or_a_token(room: Room, demo: Any) -> None:
    password = (room.settings.credentials_dir / "admin-password").read_text().strip()
    secrets = {"password": password, "token": demo.auth_token}
    logs = list(room.state.rglob("*.log"))
    assert len(logs) > 5
    for file in logs:
        said = file.read_text(errors="replace")
        assert [what for what, secret in secrets.items() if secret in said] == [], file
