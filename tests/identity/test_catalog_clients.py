"""openstacksdk and keystoneauth, unmodified, with what operators add to the catalog, and with limits."""

import openstack.exceptions
import pytest
from keystoneauth1 import session
from keystoneauth1.identity import v3

from tests.identity.conftest import ADMIN_PASSWORD
from tests.identity.test_clients import auth_url, connect

__all__ = ["auth_url"]


def test_clients_find_what_an_operator_added(auth_url: str) -> None:
    identity = connect(auth_url).identity
    identity.create_region(id="north", description="cold")
    service = identity.create_service(type="object-store", name="swift", is_enabled=True)
    for interface in ("public", "internal"):
        identity.create_endpoint(
            service_id=service.id,
            interface=interface,
            region_id="north",
            url=f"http://{interface}.example/v1/AUTH_%(project_id)s",
        )
    plugin = v3.Password(
        auth_url=auth_url, username="admin", password=ADMIN_PASSWORD, user_domain_id="default",
        project_name="admin", project_domain_id="default",
    )  # fmt: skip
    keystone = session.Session(auth=plugin)
    project_id = keystone.get_project_id()
    find = plugin.get_access(keystone).service_catalog.url_for
    swift = "object-store"
    assert find(service_type=swift, interface="public", region_name="north") == (
        f"http://public.example/v1/AUTH_{project_id}"
    )
    assert str(find(service_type=swift, interface="internal")).startswith("http://internal.ex")
    (public,) = identity.endpoints(service_id=service.id, interface="public")
    identity.update_endpoint(public, is_enabled=False)
    identity.update_service(service, name="objects")
    assert identity.find_service("objects").id == service.id
    with pytest.raises(openstack.exceptions.ForbiddenException):
        identity.delete_region("north", ignore_missing=False)
    identity.delete_service(service, ignore_missing=False)
    assert list(identity.endpoints(service_id=service.id)) == []
    identity.delete_region("north", ignore_missing=False)
    assert [region.id for region in identity.regions()] == ["RegionOne"]


def test_openstacksdk_manages_limits(auth_url: str) -> None:
    identity = connect(auth_url).identity
    service = identity.create_service(type="t", name="s")
    project = identity.create_project(name="p", domain_id="default")
    registered = identity.create_registered_limit(
        service_id=service.id, resource_name="widgets", default_limit=5, description="d"
    )
    limit = identity.create_limit(
        service_id=service.id, resource_name="widgets", resource_limit=7, project_id=project.id
    )
    assert [one.resource_limit for one in identity.limits(project_id=project.id)] == [7]
    identity.update_limit(limit, resource_limit=8)
    assert identity.get_limit(limit.id).resource_limit == 8
    with pytest.raises(openstack.exceptions.ForbiddenException):
        identity.delete_registered_limit(registered, ignore_missing=False)
    identity.delete_limit(limit, ignore_missing=False)
    identity.update_registered_limit(registered, default_limit=6)
    assert identity.get_registered_limit(registered.id).default_limit == 6
    identity.delete_registered_limit(registered, ignore_missing=False)
    assert list(identity.registered_limits()) == []
