"""openstacksdk, unmodified: a domain's manager at work, and roles that are inherited."""

from typing import Any

import openstack
import pytest
from keystoneauth1 import exceptions

from tests.identity.test_clients import auth_url, connect

__all__ = ["auth_url"]


@pytest.fixture
def acme(auth_url: str) -> dict[str, Any]:
    """A domain with its manager boss, ann, and projects top over leaf."""
    identity = connect(auth_url).identity
    domain = identity.create_domain(name="acme")
    top = identity.create_project(name="top", domain_id=domain.id)
    leaf = identity.create_project(name="leaf", domain_id=domain.id, parent_id=top.id)
    boss, ann = (
        identity.create_user(name=name, password=name, domain_id=domain.id)
        for name in ("boss", "ann")
    )
    manager = identity.find_role("manager")
    identity.assign_domain_role_to_user(domain, boss, manager)
    theirs = openstack.connection.Connection(
        auth_url=auth_url, username="boss", password="boss", user_domain_id=domain.id,
        domain_id=domain.id, region_name="RegionOne",
    )  # fmt: skip
    return {
        "url": auth_url, "admin": identity, "boss": theirs.identity, "domain": domain,
        "top": top, "leaf": leaf, "ann": ann,
    }  # fmt: skip


def test_a_manager_runs_the_own_domain_with_the_sdk(acme: dict[str, Any]) -> None:
    boss, domain = acme["boss"], acme["domain"]
    assert {u.name for u in boss.users()} == {"boss", "ann"}
    assert {p.name for p in boss.projects()} == {"top", "leaf"}
    assert [d.name for d in boss.domains()] == ["acme"]
    project = boss.create_project(name="new", domain_id=domain.id, parent_id=acme["top"].id)
    user = boss.create_user(name="cy", password="cy", domain_id=domain.id)
    group = boss.create_group(name="crew", domain_id=domain.id)
    boss.add_user_to_group(user, group)
    member, admin = boss.find_role("member"), acme["admin"].find_role("admin")
    boss.assign_project_role_to_group(project, group, member)
    listed = list(boss.role_assignments(scope_project_id=project.id, effective=True))
    assert {a.user["id"] for a in listed} == {user.id}
    assert all(
        a.links["membership"].endswith(f"/groups/{group.id}/users/{user.id}") for a in listed
    )
    boss.assign_project_role_to_user(project, user, admin)  # The SDK swallows that it is refused.
    assert not acme["admin"].validate_user_has_project_role(project, user, admin)
    with pytest.raises(openstack.exceptions.ForbiddenException):
        boss.create_user(name="x", domain_id="default")
    with pytest.raises(openstack.exceptions.ForbiddenException):
        boss.create_domain(name="x")
    theirs = connect(acme["url"], username="cy", password="cy", user_domain_id=domain.id,
                     project_domain_id=domain.id, project_name="new")  # fmt: skip
    assert theirs.current_project.name == "new"
    boss.delete_user(user, ignore_missing=False)
    with pytest.raises(exceptions.Unauthorized):  # The token is void, and there is no new one.
        theirs.identity.get_project(project.id)


def test_inherited_roles_with_the_sdk(acme: dict[str, Any]) -> None:
    identity, ann = acme["admin"], acme["ann"]
    member = identity.find_role("member")
    identity.assign_project_role_to_user(acme["top"], ann, member, inherited=True)
    assert identity.validate_user_has_project_role(acme["top"], ann, member, inherited=True)
    found = list(identity.role_assignments(user_id=ann.id, effective=True, include_names=True))
    assert {a.scope["project"]["name"] for a in found} == {"leaf"}
    assert {a.role["name"] for a in found} == {"member", "reader"}
    (given,) = identity.role_assignments(user_id=ann.id, inherited_to="projects")
    assert given.scope["OS-INHERIT:inherited_to"] == "projects"
    theirs = connect(acme["url"], username="ann", password="ann", user_domain_id=acme["domain"].id,
                     project_domain_id=acme["domain"].id, project_name="leaf")  # fmt: skip
    assert [p.name for p in theirs.identity.user_projects(ann.id)] == ["leaf"]
    identity.unassign_project_role_from_user(acme["top"], ann, member, inherited=True)
    assert not identity.validate_user_has_project_role(acme["top"], ann, member, inherited=True)
    with pytest.raises(exceptions.Unauthorized):  # The token is void, and there is no new one.
        theirs.identity.get_user(ann.id)
