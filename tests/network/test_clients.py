"""openstacksdk, unmodified, against the network's API behind a real server on loopback."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import openstack
import pytest
import uvicorn
from keystoneauth1 import session, token_endpoint
from openstack import exceptions

from cairn.db.engine import Database
from cairn.network.api import SERVICE
from tests.callers import Api
from tests.network import cloud


@pytest.fixture
def base() -> Iterator[str]:
    database = Database("sqlite://", inline=True)
    database.create_all()
    database.write_now(lambda tx: cloud.host(tx))
    app = Api(database, SERVICE).shell.app
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    listener = socket.create_server(("127.0.0.1", 0))  # It queues whoever comes before the server.
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/network"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        database.close()


def connect(base: str, who: str) -> Any:
    auth = token_endpoint.Token(base, who)
    given: dict[str, Any] = {"network_endpoint_override": base, "network_api_version": "2"}
    return openstack.connection.Connection(session=session.Session(auth=auth), **given).network


def test_openstacksdk_builds_a_network_and_takes_it_down(base: str) -> None:
    admin, alice = connect(base, "admin"), connect(base, "alice")
    public = admin.create_network(
        name="public", is_router_external=True, provider_network_type="flat",
        provider_physical_network="public",
    )  # fmt: skip
    admin.create_subnet(
        network_id=public.id, ip_version=4, cidr="203.0.113.0/24", is_dhcp_enabled=False
    )
    net = alice.create_network(name="inside", is_admin_state_up=True)
    sub = alice.create_subnet(
        network_id=net.id, ip_version=4, cidr="10.1.0.0/24", dns_nameservers=["9.9.9.9"]
    )
    router = alice.create_router(name="r", external_gateway_info={"network_id": public.id})
    alice.add_interface_to_router(router, subnet_id=sub.id)
    group = alice.create_security_group(name="web")
    rule = alice.create_security_group_rule(
        security_group_id=group.id, direction="ingress", protocol="tcp",
        port_range_min=22, port_range_max=22, ether_type="IPv4",
    )  # fmt: skip
    port = alice.create_port(
        network_id=net.id, security_group_ids=[group.id],
        fixed_ips=[{"subnet_id": sub.id, "ip_address": "10.1.0.20"}],
    )  # fmt: skip
    floating = alice.create_ip(floating_network_id=public.id, port_id=port.id)
    assert floating.fixed_ip_address == "10.1.0.20" and floating.status == "ACTIVE"
    assert alice.find_network("inside").id == net.id
    assert alice.find_available_ip() is None
    assert [p.id for p in alice.ports(device_id=router.id)]
    assert [n.name for n in alice.networks(limit=1)] == [n.name for n in alice.networks(limit=1000)]
    assert alice.find_extension("router") is not None
    assert {z.name for z in alice.availability_zones()} == {"nova"}
    assert admin.get_quota("1" * 32, details=True).networks["used"] == 1
    assert len(list(admin.agents())) == 1
    assert admin.get_network_ip_availability(net.id).used_ips >= 3
    alice.set_tags(net, ["a", "b"])
    assert [n.id for n in alice.networks(tags="a,b")] == [net.id]
    assert alice.update_network(alice.get_network(net.id), name="renamed").name == "renamed"
    stale = alice.get_network(net.id)
    alice.update_network(net.id, description="d")
    with pytest.raises(exceptions.HttpException) as refused:
        alice.update_network(stale, if_revision=stale.revision_number, name="late")
    assert refused.value.status_code == 412
    with pytest.raises(exceptions.ConflictException, match="still in use"):
        alice.delete_network(net)
    alice.update_ip(floating, port_id=None)
    alice.delete_ip(floating)
    alice.delete_port(port)
    alice.remove_interface_from_router(router, subnet_id=sub.id)
    alice.delete_router(router)
    alice.delete_security_group_rule(rule)
    alice.delete_security_group(group)
    alice.delete_subnet(sub)
    alice.delete_network(net)
    assert [n.id for n in alice.networks()] == [public.id]
    admin.delete_network(public)
    assert list(admin.ports()) == []
