"""The Neutron API in process: shapes, refusals, isolation, lists."""

from typing import Any

import pytest

from cairn.db.engine import Database
from cairn.network.api import SERVICE
from tests.callers import P1, P2, Api
from tests.network import cloud

V2 = "/network/v2.0"


@pytest.fixture
def api(database: Database) -> Api:
    database.write_now(lambda tx: cloud.host(tx))
    return Api(database, SERVICE)


def made(api: Api, kind: str, who: str = "alice", **wish: Any) -> Any:
    path = kind.replace("_", "-")
    answer = api.post(f"{V2}/{path}s", {kind: wish}, who=who)
    assert answer.status_code == 201, answer.text
    return answer.json[kind]


def fault(answer: Any) -> tuple[int, str, str]:
    error = answer.json["NeutronError"]
    assert error["detail"] == ""
    return answer.status_code, error["type"], error["message"]


def external(api: Api) -> Any:
    wish = {"router:external": True, "provider:network_type": "flat",
            "provider:physical_network": "public", "name": "public"}  # fmt: skip
    net = made(api, "network", "admin", **wish)
    made(api, "subnet", "admin", network_id=net["id"], cidr="203.0.113.0/24", ip_version=4)
    return net


@pytest.mark.parametrize("route", SERVICE.routes, ids=lambda r: f"{r.method} {r.path}")
def test_every_route_refuses_strangers(sqlite: Database, route: Any) -> None:
    api = Api(sqlite, SERVICE)
    path = "/network" + route.path.replace("{resource_id}", "x").replace("{tag}", "t")
    for name in ("agent_id", "project_id", "network_id", "alias"):
        path = path.replace(f"{{{name}}}", "x")
    body: Any = {} if route.body is not None else None
    if route.rule is None:
        assert api.call(route.method, path, body, who=None).status_code == 200
        return
    assert api.call(route.method, path, body, who=None).status_code == 401
    assert api.call(route.method, path, body, who="mallory").status_code == 403
    if "{resource_id}" in route.path:
        answer = api.call(route.method, path, body, who="alice")
        assert answer.status_code == (404 if body is None or "interface" in path else 400)
    if route.body is not None:
        assert api.call(route.method, path, b"[1", who="admin").status_code == 400


def test_network_looks_as_neutron_shows_it(api: Api) -> None:
    net = made(api, "network", name="n", description="d")
    assert net["project_id"] == net["tenant_id"] == P1
    assert (net["status"], net["admin_state_up"], net["shared"], net["mtu"]) == (
        "ACTIVE", True, False, 1442,
    )  # fmt: skip
    assert net["router:external"] is False and net["revision_number"] == 0
    assert "provider:network_type" not in net
    as_admin = api.get(f"{V2}/networks/{net['id']}", who="admin").json["network"]
    assert as_admin["provider:network_type"] == "geneve"
    assert 1 <= as_admin["provider:segmentation_id"] < 2**24


def test_provider_network_takes_the_mtu_of_the_underlay(api: Api) -> None:
    net = external(api)
    assert net["mtu"] == 1500
    again = api.post(
        f"{V2}/networks",
        {"network": {"provider:network_type": "flat", "provider:physical_network": "public"}},
        who="admin",
    )
    assert fault(again)[:2] == (409, "FlatNetworkInUse")
    unknown = {"network": {"provider:network_type": "vlan", "provider:physical_network": "x"}}
    assert "the hosts have public" in fault(api.post(f"{V2}/networks", unknown, who="admin"))[2]
    assert api.post(f"{V2}/networks", unknown, who="alice").status_code == 403


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("networks", {}, 400, "Unable to find 'network'"),
        ("networks", {"network": {"nam": "x"}}, 400, "'nam'"),
        ("networks", {"network": {"name": "x" * 256}}, 400, "name"),
        ("networks", {"network": {"admin_state_up": "perhaps"}}, 400, "admin_state_up"),
        ("networks", {"network": {"mtu": 9000}}, 400, "maximum is 1442"),
        ("networks", {"network": {"shared": True}}, 403, "create_network:shared"),
        ("networks", {"network": {"shared": False}}, 201, ""),
        ("networks", {"network": {"project_id": P2}}, 403, "another project"),
        ("networks", {"networks": []}, 400, "1 to 500"),
        ("subnets", {"subnet": {"cidr": "10.0.0.0/24", "ip_version": 4}}, 400, "network_id"),
        ("subnets", {"subnet": {"network_id": "x", "cidr": "10.0.0.0/24"}}, 404, "x"),
        ("ports", {"port": {"network_id": "x"}}, 404, "Network x"),
        ("routers", {"router": {"external_gateway_info": {}}}, 201, ""),
        ("routers", {"router": {"external_gateway_info": {"enable_snat": True}}}, 400,
         "network_id"),
        ("floatingips", {"floatingip": {}}, 400, "floating_network_id"),
        ("security-groups", {"security_group": {"name": "default"}}, 409, "already exists"),
        ("security-group-rules", {"security_group_rule": {"direction": "ingress"}}, 400,
         "security_group_id"),
    ],
)  # fmt: skip
def test_bad_wishes_name_what_is_wrong(
    api: Api, path: str, body: Any, status: int, said: str
) -> None:
    answer = api.post(f"{V2}/{path}", body)
    assert answer.status_code == status, answer.text
    if said:
        assert said in fault(answer)[2]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"cidr": "10.1.0.128/25", "ip_version": 4}, "overlaps with another subnet"),
        ({"cidr": "10.0.0.0/8", "ip_version": 4}, "overlaps with another subnet"),
        ({"cidr": "10.2.0.1/24", "ip_version": 4}, "'10.2.0.0/24' is recommended"),
        ({"cidr": "10.2.0.0/24", "ip_version": 6}, "does not match the ip_version"),
        ({"cidr": "10.2.0.0/24"}, "'ip_version' not specified"),
        ({"cidr": "x", "ip_version": 4}, "cidr"),
        ({"cidr": "0.0.0.0/0", "ip_version": 4}, "0.0.0.0/0"),
        ({"cidr": "10.2.0.0/24", "ip_version": 4, "gateway_ip": "10.3.0.1"}, "10.3.0.1"),
        ({"cidr": "10.2.0.0/24", "ip_version": 4, "gateway_ip": "10.2.0.255"}, "10.2.0.255"),
        ({"cidr": "10.2.0.0/24", "ip_version": 4, "dns_nameservers": ["x"]}, "dns_nameservers"),
        ({"cidr": "10.2.0.0/24", "ip_version": 4,
          "allocation_pools": [{"start": "10.2.0.9", "end": "10.2.1.9"}]}, "spans beyond"),
        ({"cidr": "10.2.0.0/24", "ip_version": 4, "ipv6_ra_mode": "slaac"}, "ip_version 6"),
        ({"cidr": "fd00::/48", "ip_version": 6, "ipv6_ra_mode": "slaac"}, "requires the prefix to be /64"),
        ({"cidr": "fd00::/64", "ip_version": 6, "ipv6_ra_mode": "slaac",
          "ipv6_address_mode": "dhcpv6-stateful"}, "same value"),
        ({"cidr": "fd00::/64", "ip_version": 6, "ipv6_ra_mode": "slaac",
          "enable_dhcp": False}, "enable_dhcp"),
    ],
)  # fmt: skip
def test_bad_subnets_are_refused(api: Api, wish: Any, said: str) -> None:
    net = made(api, "network")
    made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/24", ip_version=4)
    answer = api.post(f"{V2}/subnets", {"subnet": {"network_id": net["id"], **wish}})
    assert answer.status_code == 400, answer.text
    assert said in fault(answer)[2]


def test_foreign_things_do_not_exist(api: Api) -> None:
    net = made(api, "network")
    sub = made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/24", ip_version=4)
    things = {
        "networks": net,
        "subnets": sub,
        "ports": made(api, "port", network_id=net["id"]),
        "routers": made(api, "router"),
        "security-groups": (group := made(api, "security_group", name="g")),
        "security-group-rules": group["security_group_rules"][0],
        "subnetpools": made(api, "subnetpool", name="p", prefixes=["10.9.0.0/16"]),
    }
    for path, thing in things.items():
        one = f"{V2}/{path}/{thing['id']}"
        assert api.get(one).status_code == 200, path
        assert api.get(one, who="bob").status_code == 404, path
        assert api.delete(one, who="bob").status_code == 404, path
        assert (
            api.get(f"{V2}/{path}?id={thing['id']}", who="bob").json[path.replace("-", "_")] == []
        )
        assert api.delete(one, who="rita").status_code == 403, path


def test_shared_network_is_seen_but_not_changed(api: Api) -> None:
    net = made(api, "network", "admin", shared=True)
    one = f"{V2}/networks/{net['id']}"
    assert api.get(one).status_code == 200
    assert api.put(one, {"network": {"name": "mine"}}).status_code == 403
    assert api.delete(one).status_code == 403
    made(api, "subnet", "admin", network_id=net["id"], cidr="10.7.0.0/24", ip_version=4)
    port = made(api, "port", network_id=net["id"])
    assert port["fixed_ips"]
    taking = {"port": {"network_id": net["id"], "fixed_ips": [{"ip_address": "10.7.0.77"}]}}
    assert api.post(f"{V2}/ports", taking).status_code == 403
    answer = api.put(one, {"network": {"shared": False}}, who="admin")
    assert fault(answer)[:2] == (409, "InvalidSharedSetting")


def test_filters_fields_and_sorting(api: Api) -> None:
    for name in ("c", "a", "b"):
        made(api, "network", name=name)

    def names(query: str) -> list[str]:
        answer = api.get(f"{V2}/networks?{query}")
        assert answer.status_code == 200, answer.text
        return [n["name"] for n in answer.json["networks"]]

    assert names("sort_key=name&sort_dir=desc") == ["c", "b", "a"]
    assert names("name=a&name=c&sort_key=name") == ["a", "c"]
    assert names("name=a&shared=True") == []
    assert names("admin_state_up=true&sort_key=name") == ["a", "b", "c"]
    assert names(f"tenant_id={P2}") == []
    only = api.get(f"{V2}/networks?fields=id&fields=name").json["networks"]
    assert all(set(n) == {"id", "name"} for n in only)
    for query in ("nonsense=1", "sort_key=nonsense", "provider:network_type=geneve", "limit=-1"):
        assert api.get(f"{V2}/networks?{query}").status_code == 400, query
    assert api.get(f"{V2}/networks?provider:network_type=geneve", who="admin").status_code == 200
    assert api.get(f"{V2}/networks?marker=x&limit=1").status_code == 404


def test_pages_lead_forth_and_back(api: Api) -> None:
    for number in range(5):
        made(api, "network", name=f"n{number}")
    path, seen = f"{V2}/networks?limit=2&sort_key=name&sort_dir=asc", []
    pages = 0
    while path:
        answer = api.get(path)
        links = {x["rel"]: x["href"] for x in answer.json.get("networks_links", ())}
        seen += [n["name"] for n in answer.json["networks"]]
        path = links.get("next", "").partition("http://falconframework.org")[2]
        pages += 1
    assert seen == ["n0", "n1", "n2", "n3", "n4"] and pages == 3
    back = links["previous"].partition("http://falconframework.org")[2]
    assert [n["name"] for n in api.get(back).json["networks"]] == ["n2", "n3"]


def test_revision_guards_changes(api: Api) -> None:
    net = made(api, "network", name="a")
    one = f"{V2}/networks/{net['id']}"
    stale = {"If-Match": "revision_number=0"}
    assert api.put(one, {"network": {"name": "b"}}, headers=stale).json["network"]["name"] == "b"
    answer = api.put(one, {"network": {"name": "c"}}, headers=stale)
    assert fault(answer)[:2] == (412, "RevisionNumberConstraintFailed")
    assert api.delete(one, headers=stale).status_code == 412
    assert api.delete(one, headers={"If-Match": "revision_number=1"}).status_code == 204
    assert api.get(one).status_code == 404


def test_tags(api: Api) -> None:
    net = made(api, "network")
    tags = f"{V2}/networks/{net['id']}/tags"
    assert api.put(tags, {"tags": ["red", "blue"]}).json == {"tags": ["blue", "red"]}
    assert api.put(f"{tags}/green").status_code == 201
    assert api.get(tags).json["tags"] == ["blue", "green", "red"]
    assert api.get(f"{tags}/red").status_code == 204
    assert api.delete(f"{tags}/red").status_code == 204
    assert api.get(f"{tags}/red").status_code == 404
    assert api.delete(f"{tags}/red").status_code == 404
    for query, count in (
        ("tags=blue,green", 1), ("tags=blue,red", 0), ("tags-any=blue,red", 1),
        ("not-tags=blue,red", 1), ("not-tags-any=blue", 0),
    ):  # fmt: skip
        assert len(api.get(f"{V2}/networks?{query}").json["networks"]) == count, query
    assert api.put(tags, {"tags": ["x" * 256]}).status_code == 400
    assert api.put(f"{tags}/t", who="rita").status_code == 403
    assert api.delete(tags).status_code == 204


def test_bulk_is_all_or_nothing(api: Api) -> None:
    body = {"networks": [{"name": "a"}, {"name": "b"}]}
    answer = api.post(f"{V2}/networks", body)
    assert [n["name"] for n in answer.json["networks"]] == ["a", "b"]
    assert api.post(f"{V2}/networks", {"networks": [{"name": "c"}, {"mtu": 1}]}).status_code == 400
    assert len(api.get(f"{V2}/networks").json["networks"]) == 2


def test_ports_have_addresses_filters_and_a_mac(api: Api) -> None:
    net = made(api, "network")
    sub = made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/28", ip_version=4)
    port = made(api, "port", network_id=net["id"], name="p")
    assert port["fixed_ips"][0]["subnet_id"] == sub["id"]
    assert port["status"] == "DOWN" and port["mac_address"].startswith("fa:16:3e:")
    assert len(port["security_groups"]) == 1 and "binding:host_id" not in port
    taken = port["fixed_ips"][0]["ip_address"]
    again = {"port": {"network_id": net["id"], "fixed_ips": [{"ip_address": taken}]}}
    assert fault(api.post(f"{V2}/ports", again))[:2] == (409, "IpAddressAlreadyAllocated")
    same_mac = {"port": {"network_id": net["id"], "mac_address": port["mac_address"]}}
    assert fault(api.post(f"{V2}/ports", same_mac))[:2] == (409, "MacAddressInUse")
    for ip, kind in (("10.9.0.1", "InvalidIpForNetwork"), ("10.1.0.15", "InvalidIpForNetwork")):
        bad = {"port": {"network_id": net["id"], "fixed_ips": [{"ip_address": ip}]}}
        assert fault(api.post(f"{V2}/ports", bad))[:2] == (400, kind)

    def found(query: str) -> list[str]:
        return [p["id"] for p in api.get(f"{V2}/ports?{query}").json["ports"]]

    assert found(f"fixed_ips=ip_address={taken}") == [port["id"]]
    assert found(f"fixed_ips=subnet_id={sub['id']}&name=p") == [port["id"]]
    assert found("fixed_ips=ip_address_substr=10.1.&name=p") == [port["id"]]
    assert found(f"mac_address={port['mac_address'].upper()}") == [port["id"]]
    assert found("device_owner=network:distributed") != []
    assert found("status=DOWN&name=p") == [port["id"]]
    group = port["security_groups"][0]
    assert found(f"security_groups={group}") == [port["id"]]
    assert fault(api.delete(f"{V2}/subnets/{sub['id']}"))[:2] == (409, "SubnetInUse")
    answer = api.delete(f"{V2}/networks/{net['id']}")
    assert fault(answer)[:2] == (409, "NetworkInUse") and port["id"] in fault(answer)[2]
    assert (
        fault(api.delete(f"{V2}/security-groups/{group}", who="admin"))[1] == "SecurityGroupInUse"
    )
    assert api.delete(f"{V2}/ports/{port['id']}").status_code == 204
    assert api.delete(f"{V2}/networks/{net['id']}").status_code == 204
    assert api.get(f"{V2}/ports", who="admin").json["ports"] == []


def test_port_changes(api: Api) -> None:
    net = made(api, "network")
    made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/24", ip_version=4)
    port = made(api, "port", network_id=net["id"], extra_dhcp_opts=[
        {"opt_name": "bootfile-name", "opt_value": "x"}])  # fmt: skip
    one = f"{V2}/ports/{port['id']}"

    def change(**wish: Any) -> Any:
        answer = api.put(one, {"port": wish})
        assert answer.status_code == 200, answer.text
        return answer.json["port"]

    assert (
        change(fixed_ips=[{"ip_address": "10.1.0.50"}])["fixed_ips"][0]["ip_address"] == "10.1.0.50"
    )
    assert (
        change(extra_dhcp_opts=[{"opt_name": "bootfile-name", "opt_value": None}])[
            "extra_dhcp_opts"
        ]
        == []
    )
    pairs = change(allowed_address_pairs=[{"ip_address": "10.1.0.99"}])["allowed_address_pairs"]
    assert pairs == [{"ip_address": "10.1.0.99", "mac_address": port["mac_address"]}]
    off = api.put(one, {"port": {"port_security_enabled": False}})
    assert fault(off)[:2] == (409, "AddressPairAndPortSecurityRequired")
    freed = change(port_security_enabled=False, security_groups=[], allowed_address_pairs=[])
    assert freed["port_security_enabled"] is False and freed["security_groups"] == []
    bad = api.put(one, {"port": {"security_groups": port["security_groups"]}})
    assert bad.status_code == 400
    assert api.put(one, {"port": {"network_id": "x"}}).status_code == 400
    assert change(admin_state_up=False, name="q", device_id="d")["device_id"] == "d"


def test_router_interfaces(api: Api) -> None:
    net = made(api, "network")
    one = made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/24", ip_version=4)
    other = made(api, "network")
    same = made(api, "subnet", network_id=other["id"], cidr="10.1.0.0/25", ip_version=4)
    router = made(api, "router", name="r", external_gateway_info=None)
    base = f"{V2}/routers/{router['id']}"
    joined = api.put(f"{base}/add_router_interface", {"subnet_id": one["id"]})
    assert joined.status_code == 200 and joined.json["subnet_id"] == one["id"]
    assert joined.json["id"] == router["id"]
    port = api.get(f"{V2}/ports/{joined.json['port_id']}").json["port"]
    assert (port["device_owner"], port["status"]) == ("network:router_interface", "ACTIVE")
    assert port["fixed_ips"][0]["ip_address"] == "10.1.0.1"
    moved = api.put(
        f"{V2}/ports/{port['id']}",
        {"port": {"fixed_ips": [{"subnet_id": one["id"], "ip_address": "10.1.0.2"}]}},
    )
    assert fault(moved)[1] == "IpAddressAlreadyAllocated"  # the metadata port's
    kept = {"port": {"fixed_ips": [{"subnet_id": one["id"]}]}}
    assert api.put(f"{V2}/ports/{port['id']}", kept).json["port"]["fixed_ips"] == port["fixed_ips"]
    wishes: list[dict[str, Any]] = [{"fixed_ips": []}, {"device_id": "x"}]
    for bad in wishes:
        assert api.put(f"{V2}/ports/{port['id']}", {"port": bad}).status_code == 409
    again = api.put(f"{base}/add_router_interface", {"subnet_id": one["id"]})
    assert again.status_code == 400 and "already has a port" in fault(again)[2]
    overlap = api.put(f"{base}/add_router_interface", {"subnet_id": same["id"]})
    assert overlap.status_code == 400 and "overlaps" in fault(overlap)[2]
    assert api.put(f"{base}/add_router_interface", {}).status_code == 400
    assert fault(api.delete(base))[:2] == (409, "RouterInUse")
    routes = [{"destination": "10.5.0.0/16", "nexthop": "10.1.0.9"}]
    assert api.put(base, {"router": {"routes": routes}}).json["router"]["routes"] == routes
    leave = {"subnet_id": one["id"]}
    assert (
        fault(api.put(f"{base}/remove_router_interface", leave))[1] == "RouterInterfaceInUseByRoute"
    )
    far = [{"destination": "10.5.0.0/16", "nexthop": "10.77.0.9"}]
    assert fault(api.put(base, {"router": {"routes": far}}))[:2] == (400, "InvalidRoutes")
    more = {"router": {"routes": [{"destination": "10.6.0.0/16", "nexthop": "10.1.0.8"}]}}
    assert len(api.put(f"{base}/add_extraroutes", more).json["router"]["routes"]) == 2
    assert len(api.put(f"{base}/remove_extraroutes", more).json["router"]["routes"]) == 1
    assert api.put(base, {"router": {"routes": None}}).json["router"]["routes"] == []
    assert api.put(f"{base}/remove_router_interface", leave).status_code == 200
    assert api.put(f"{base}/remove_router_interface", leave).status_code == 404
    spare = made(api, "port", network_id=net["id"])
    assert api.put(f"{base}/add_router_interface", {"port_id": spare["id"]}).status_code == 200
    busy = api.put(f"{base}/add_router_interface", {"port_id": spare["id"]})
    assert fault(busy)[:2] == (409, "PortInUse")
    assert fault(api.delete(f"{V2}/ports/{spare['id']}"))[0] == 409
    assert api.put(f"{base}/remove_router_interface", {"port_id": spare["id"]}).status_code == 200
    assert api.delete(base).status_code == 204


def test_gateway_and_floating_ips(api: Api) -> None:
    public = external(api)
    inside = made(api, "network")
    sub = made(api, "subnet", network_id=inside["id"], cidr="10.1.0.0/24", ip_version=4)
    router = made(api, "router", external_gateway_info={"network_id": public["id"]})
    gateway = router["external_gateway_info"]
    assert gateway["enable_snat"] is True and gateway["external_fixed_ips"][0]["ip_address"]
    base = f"{V2}/routers/{router['id']}"
    port = made(api, "port", network_id=inside["id"])
    unreachable = {"floatingip": {"floating_network_id": public["id"], "port_id": port["id"]}}
    assert fault(api.post(f"{V2}/floatingips", unreachable))[:2] == (
        404, "ExternalGatewayForFloatingIPNotFound",
    )  # fmt: skip
    api.put(f"{base}/add_router_interface", {"subnet_id": sub["id"]})
    floating = made(api, "floatingip", floating_network_id=public["id"], port_id=port["id"])
    assert (floating["status"], floating["router_id"]) == ("ACTIVE", router["id"])
    assert floating["port_details"]["mac_address"] == port["mac_address"]
    second = made(api, "floatingip", floating_network_id=public["id"])
    assert (second["status"], second["port_id"]) == ("DOWN", None)
    answer = api.put(f"{V2}/floatingips/{second['id']}", {"floatingip": {"port_id": port["id"]}})
    assert fault(answer)[:2] == (409, "FloatingIPPortAlreadyAssociated")
    cleared = api.put(base, {"router": {"external_gateway_info": None}})
    assert fault(cleared)[1] == "RouterExternalGatewayInUseByFloatingIp"
    moved = api.put(f"{V2}/floatingips/{floating['id']}", {"floatingip": {"port_id": None}})
    assert moved.json["floatingip"]["status"] == "DOWN"
    assert moved.json["floatingip"]["router_id"] is None
    assert fault(api.delete(f"{V2}/networks/{public['id']}", who="admin"))[1] == "NetworkInUse"
    without = {
        "router": {"external_gateway_info": {"network_id": public["id"], "enable_snat": False}}
    }
    assert api.put(base, without).json["router"]["external_gateway_info"]["enable_snat"] is False
    cleared = api.put(base, {"router": {"external_gateway_info": {}}})
    assert cleared.json["router"]["external_gateway_info"] is None
    found = api.get(f"{V2}/floatingips?status=DOWN&floating_network_id={public['id']}")
    assert len(found.json["floatingips"]) == 2
    assert api.get(f"{V2}/floatingips", who="bob").json["floatingips"] == []
    assert api.delete(f"{V2}/floatingips/{second['id']}").status_code == 204
    # A network that leads outside takes the addresses that nobody uses with it.
    assert api.delete(f"{V2}/networks/{public['id']}", who="admin").status_code == 204
    assert api.get(f"{V2}/floatingips/{floating['id']}").status_code == 404


@pytest.mark.parametrize(
    ("wish", "status", "kind"),
    [
        ({"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}, 201, ""),
        ({"protocol": "6", "port_range_min": 80, "port_range_max": 81}, 201, ""),
        ({"protocol": 17}, 201, ""),
        ({"protocol": "vrrp"}, 201, ""),
        ({"protocol": None, "remote_ip_prefix": "10.0.0.0/8"}, 201, ""),
        ({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0}, 201, ""),
        ({"protocol": "ipv6-icmp", "ethertype": "IPv6"}, 201, ""),
        ({"protocol": "icmp", "port_range_max": 0}, 400, "SecurityGroupMissingIcmpType"),
        ({"protocol": "icmp", "port_range_min": 256}, 400, "SecurityGroupInvalidIcmpValue"),
        ({"protocol": "icmp", "port_range_min": 1, "port_range_max": 256}, 400,
         "SecurityGroupInvalidIcmpValue"),
        ({"protocol": "tcp", "port_range_max": 6}, 400, "SecurityGroupInvalidPortRange"),
        ({"protocol": "bad"}, 400, "SecurityGroupRuleInvalidProtocol"),
        ({"protocol": "256"}, 400, "SecurityGroupRuleInvalidProtocol"),
        ({"port_range_min": 1, "port_range_max": 2}, 400, "SecurityGroupProtocolRequiredWithPorts"),
        ({"protocol": "tcp", "port_range_min": 9, "port_range_max": 2}, 400,
         "SecurityGroupInvalidPortRange"),
        ({"protocol": "tcp", "port_range_min": 80, "port_range_max": 65536}, 400,
         "SecurityGroupInvalidPortValue"),
        ({"ethertype": "bad"}, 400, "SecurityGroupRuleInvalidEtherType"),
        ({"direction": "up"}, 400, "InvalidInput"),
        ({"remote_ip_prefix": "x"}, 400, "InvalidInput"),
        ({"remote_ip_prefix": "fd00::/8"}, 400, "SecurityGroupRuleParameterConflict"),
        ({"remote_group_id": "x"}, 404, "SecurityGroupNotFound"),
        ({"direction": "egress"}, 409, "SecurityGroupRuleExists"),
        ({"direction": "egress", "remote_ip_prefix": "0.0.0.0/0"}, 409, "SecurityGroupRuleExists"),
    ],
)  # fmt: skip
def test_security_group_rules(api: Api, wish: Any, status: int, kind: str) -> None:
    group = made(api, "security_group", name="g")
    body = {"security_group_id": group["id"], "direction": "ingress", **wish}
    answer = api.post(f"{V2}/security-group-rules", {"security_group_rule": body})
    assert answer.status_code == status, answer.text
    if kind:
        assert fault(answer)[1] == kind
    else:
        again = api.post(f"{V2}/security-group-rules", {"security_group_rule": body})
        assert fault(again)[:2] == (409, "SecurityGroupRuleExists")


def test_default_group_comes_with_the_first_look_and_is_kept(api: Api) -> None:
    (group,) = api.get(f"{V2}/security-groups").json["security_groups"]
    assert group["name"] == "default" and group["stateful"] is True
    rules = [(r["direction"], r["ethertype"], r["remote_group_id"]) for r in
             group["security_group_rules"]]  # fmt: skip
    assert sorted(rules, key=str) == sorted(
        [("egress", "IPv4", None), ("egress", "IPv6", None),
         ("ingress", "IPv4", group["id"]), ("ingress", "IPv6", group["id"])], key=str,
    )  # fmt: skip
    one = f"{V2}/security-groups/{group['id']}"
    assert fault(api.delete(one))[1] == "SecurityGroupCannotRemoveDefault"
    assert fault(api.put(one, {"security_group": {"name": "x"}}))[0] == 409
    assert api.delete(one, who="admin").status_code == 204
    assert (
        api.get(f"{V2}/security-groups", who="bob").json["security_groups"][0]["project_id"] == P2
    )


def test_quotas(api: Api) -> None:
    one = f"{V2}/quotas/{P1}"
    assert api.get(one).json["quota"]["network"] == 100
    assert api.get(one, who="bob").status_code == 403
    assert api.put(one, {"quota": {"network": 1}}).status_code == 403
    assert api.put(one, {"quota": {"network": 1}}, who="admin").json["quota"]["network"] == 1
    for bad in ({"network": -2}, {"network": "x"}, {"nothing": 1}):
        assert api.put(one, {"quota": bad}, who="admin").status_code == 400
    made(api, "network")
    assert fault(api.post(f"{V2}/networks", {"network": {}}))[:2] == (409, "OverQuota")
    assert api.get(f"{one}/details").json["quota"]["network"] == {
        "limit": 1, "used": 1, "reserved": 0,
    }  # fmt: skip
    assert api.get(f"{one}/default").json["quota"]["network"] == 100
    assert [q["project_id"] for q in api.get(f"{V2}/quotas", who="admin").json["quotas"]] == [P1]
    assert api.delete(one, who="admin").status_code == 204
    made(api, "network")


def test_discovery_needs_no_token_and_names_what_is_served(api: Api) -> None:
    (version,) = api.get("/network/", who=None).json["versions"]
    assert version["id"] == "v2.0" and version["links"][0]["href"].endswith("/network/v2.0/")
    names = {r["name"] for r in api.get("/network/v2.0", who=None).json["resources"]}
    assert {"network", "subnet", "port"} <= names
    aliases = [e["alias"] for e in api.get(f"{V2}/extensions").json["extensions"]]
    assert aliases == sorted(aliases) and "qos" not in aliases
    assert api.get(f"{V2}/extensions/router").json["extension"]["alias"] == "router"
    assert api.get(f"{V2}/extensions/qos").status_code == 404


def test_hosts_as_agents_zones_and_use(api: Api) -> None:
    (agent,) = api.get(f"{V2}/agents", who="admin").json["agents"]
    assert (agent["host"], agent["binary"]) == ("n1", "ovn-controller")
    assert api.get(f"{V2}/agents").json["agents"] == []
    assert api.get(f"{V2}/agents/{agent['id']}").status_code == 403
    body = {"agent": {"description": "old", "admin_state_up": False}}
    changed = api.put(f"{V2}/agents/{agent['id']}", body, who="admin").json["agent"]
    assert (changed["description"], changed["admin_state_up"]) == ("old", False)
    assert api.get(f"{V2}/agents/x", who="admin").status_code == 404
    zones = api.get(f"{V2}/availability_zones").json["availability_zones"]
    assert {"name": "nova", "resource": "router", "state": "available"} in zones
    net = made(api, "network")
    made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/24", ip_version=4)
    made(api, "subnet", network_id=net["id"], cidr="fd00::/64", ip_version=6)
    made(api, "port", network_id=net["id"])
    path = f"{V2}/network-ip-availabilities/{net['id']}"
    use = api.get(path, who="admin").json["network_ip_availability"]
    assert use["used_ips"] == 3  # the port's two and the metadata port's one
    assert [s["total_ips"] for s in use["subnet_ip_availability"]] == [253, 2**64 - 2]
    assert api.get(path).status_code == 403
    assert api.get(f"{V2}/service-providers").json == {"service_providers": []}


def test_subnets_from_a_pool(api: Api) -> None:
    pool = made(api, "subnetpool", name="p", prefixes=["10.8.0.0/23"], default_prefixlen=24)
    net = made(api, "network")
    one = made(api, "subnet", network_id=net["id"], subnetpool_id=pool["id"], ip_version=4)
    assert (one["cidr"], one["subnetpool_id"]) == ("10.8.0.0/24", pool["id"])
    two = made(api, "subnet", network_id=net["id"], subnetpool_id=pool["id"], prefixlen=25)
    assert two["cidr"] == "10.8.1.0/25"
    body = {"subnet": {"network_id": net["id"], "subnetpool_id": pool["id"], "ip_version": 4}}
    assert fault(api.post(f"{V2}/subnets", body))[1] == "SubnetAllocationError"
    assert fault(api.delete(f"{V2}/subnetpools/{pool['id']}"))[1] == "SubnetPoolDeleteError"
    shrunk = api.put(
        f"{V2}/subnetpools/{pool['id']}", {"subnetpool": {"prefixes": ["10.8.0.0/24"]}}
    )
    assert fault(shrunk)[1] == "IllegalSubnetPoolPrefixUpdate"


def test_subnet_changes(api: Api) -> None:
    net = made(api, "network")
    sub = made(api, "subnet", network_id=net["id"], cidr="10.1.0.0/24", ip_version=4)
    assert sub["gateway_ip"] == "10.1.0.1"
    assert sub["allocation_pools"] == [{"start": "10.1.0.2", "end": "10.1.0.254"}]
    one = f"{V2}/subnets/{sub['id']}"

    def change(**wish: Any) -> Any:
        answer = api.put(one, {"subnet": wish})
        assert answer.status_code == 200, answer.text
        return answer.json["subnet"]

    moved = change(gateway_ip="10.1.0.254", dns_nameservers=["1.1.1.1"])
    assert moved["allocation_pools"] == [{"start": "10.1.0.1", "end": "10.1.0.253"}]
    assert moved["dns_nameservers"] == ["1.1.1.1"]
    assert change(gateway_ip=None)["gateway_ip"] is None
    routes = [{"destination": "10.9.0.0/16", "nexthop": "10.1.0.9"}]
    assert change(host_routes=routes)["host_routes"] == routes
    assert api.put(one, {"subnet": {"cidr": "10.2.0.0/24"}}).status_code == 400
    assert change(enable_dhcp=False)["enable_dhcp"] is False
    ports = api.get(f"{V2}/ports?device_owner=network:distributed").json["ports"]
    assert ports == []


def test_ipv6_addresses_follow_from_the_mac(api: Api) -> None:
    net = made(api, "network")
    early = made(api, "port", network_id=net["id"])
    assert early["fixed_ips"] == []
    sub = made(api, "subnet", network_id=net["id"], cidr="fd00::/64", ip_version=6,
               ipv6_ra_mode="slaac", ipv6_address_mode="slaac")  # fmt: skip
    port = made(api, "port", network_id=net["id"], mac_address="fa:16:3e:12:34:56")
    assert port["fixed_ips"] == [
        {"subnet_id": sub["id"], "ip_address": "fd00::f816:3eff:fe12:3456"}
    ]
    late = api.get(f"{V2}/ports/{early['id']}").json["port"]
    assert late["fixed_ips"][0]["subnet_id"] == sub["id"]
    chosen = {"port": {"network_id": net["id"], "fixed_ips": [{"ip_address": "fd00::5"}]}}
    assert fault(api.post(f"{V2}/ports", chosen))[1] == "AllocationOnAutoAddressSubnet"
    assert api.delete(f"{V2}/subnets/{sub['id']}").status_code == 204
