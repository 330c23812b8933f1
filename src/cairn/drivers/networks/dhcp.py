"""What OVN's own DHCP servers and router advertisements tell guests: pure, from subnets to options.

Names and value forms are OVN's (ovn-nb(5), "DHCP_Options" and "Logical_Router_Port", ipv6_ra_configs).
"""

import hashlib
import re
from ipaddress import ip_address, ip_network

from cairn.wire.spec import SubnetSpec, SwitchSpec

LEASE_S = 86_400
METADATA_CIDR = "169.254.169.254/32"

# A user's extra option, by the name that dnsmasq and OpenStack use or by its number (RFC 2132), and
# what OVN calls it. Options that OVN's server cannot send are left out: the API shows them all the same.
_NAMES_V4 = {
    "netmask": "netmask", "1": "netmask", "router": "router", "3": "router",
    "dns-server": "dns_server", "6": "dns_server", "log-server": "log_server", "7": "log_server",
    "lpr-server": "lpr_server", "9": "lpr_server", "hostname": "hostname", "12": "hostname",
    "domain-name": "domain_name", "15": "domain_name", "swap-server": "swap_server",
    "16": "swap_server", "ip-forward-enable": "ip_forward_enable", "19": "ip_forward_enable",
    "policy-filter": "policy_filter", "21": "policy_filter", "default-ttl": "default_ttl",
    "23": "default_ttl", "mtu": "mtu", "26": "mtu", "broadcast": "broadcast_address",
    "28": "broadcast_address", "router-discovery": "router_discovery", "31": "router_discovery",
    "router-solicitation": "router_solicitation", "32": "router_solicitation",
    "arp-timeout": "arp_cache_timeout", "35": "arp_cache_timeout",
    "ethernet-encap": "ethernet_encap", "36": "ethernet_encap", "tcp-ttl": "tcp_ttl",
    "37": "tcp_ttl", "tcp-keepalive": "tcp_keepalive_interval", "38": "tcp_keepalive_interval",
    "nis-server": "nis_server", "41": "nis_server", "ntp-server": "ntp_server",
    "42": "ntp_server", "netbios-ns": "netbios_name_server", "44": "netbios_name_server",
    "netbios-nodetype": "netbios_node_type", "46": "netbios_node_type",
    "lease-time": "lease_time", "51": "lease_time", "server-id": "server_id", "54": "server_id",
    "t1": "T1", "58": "T1", "t2": "T2", "59": "T2", "tftp-server": "tftp_server",
    "66": "tftp_server", "bootfile-name": "bootfile_name", "67": "bootfile_name",
    "domain-search": "domain_search_list", "119": "domain_search_list",
    "classless-static-route": "classless_static_route", "121": "classless_static_route",
    "tftp-server-address": "tftp_server_address", "150": "tftp_server_address",
    "path-prefix": "path_prefix", "210": "path_prefix",
    "ms-classless-static-route": "ms_classless_static_route", "249": "ms_classless_static_route",
    "wpad": "wpad", "252": "wpad", "server-ip-address": "next_server", "255": "next_server",
}  # fmt: skip
_NAMES_V6 = {
    "dns-server": "dns_server", "23": "dns_server",
    "domain-search": "domain_search", "24": "domain_search",
}  # fmt: skip
_TEXTS = {
    "hostname", "domain_name", "bootfile_name", "domain_search_list", "domain_search",
    "tftp_server_address", "path_prefix", "wpad", "broadcast_address",
}  # fmt: skip
_LISTS = {"dns_server", "ntp_server", "log_server", "lpr_server", "swap_server", "nis_server",
          "netbios_name_server", "classless_static_route", "ms_classless_static_route"}  # fmt: skip

_PLAIN = re.compile(r"[0-9A-Fa-f.:/]+|\{[0-9A-Fa-f.:/, ]+\}")


def server_mac(subnet: SubnetSpec) -> str:
    """The address of the subnet's DHCP server: made of the subnet's id, the same for ever."""
    digest = hashlib.sha256(subnet.id.encode()).digest()
    return ":".join(["fa", "16", "3f", *(f"{byte:02x}" for byte in digest[:3])])


def options_v4(
    subnet: SubnetSpec, mtu: int, extra: tuple[tuple[str, str], ...] = ()
) -> dict[str, str]:
    """What guests of an IPv4 subnet are told, with one port's extra options over the subnet's."""
    options = {
        "server_id": subnet.gateway_ip or subnet.metadata_ip or _first_host(subnet),
        "server_mac": server_mac(subnet),
        "lease_time": str(LEASE_S),
        "mtu": str(mtu),
    }
    if subnet.gateway_ip is not None:
        options["router"] = subnet.gateway_ip
    if subnet.dns:
        options["dns_server"] = _list(subnet.dns)
    if routes := _routes(subnet):
        options["classless_static_route"] = routes
    return options | _translated(extra, _NAMES_V4, ip_version=4)


def options_v6(subnet: SubnetSpec, extra: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """What guests of an IPv6 subnet are told by DHCPv6 (routers and MTU travel in advertisements)."""
    options = {"server_id": server_mac(subnet)}
    if subnet.dns:
        options["dns_server"] = _list(subnet.dns)
    if subnet.ipv6_mode == "dhcpv6-stateless":
        options["dhcpv6_stateless"] = "true"
    return options | _translated(extra, _NAMES_V6, ip_version=6)


def answers_dhcp(subnet: SubnetSpec) -> bool:
    """Whether OVN answers DHCP in the subnet at all."""
    if subnet.ip_version == 4:
        return subnet.dhcp
    return subnet.dhcp and subnet.ipv6_mode in ("dhcpv6-stateful", "dhcpv6-stateless")


def advertisement(switch: SwitchSpec, addresses: tuple[str, ...]) -> dict[str, str]:
    """What a router's leg with these addresses advertises; {} when none of them asks for it."""
    for address in addresses:
        for subnet in switch.subnets:
            if subnet.ipv6_mode and _is_in(address, subnet):
                return _advertisement_of(subnet, switch.mtu)
    return {}


def _advertisement_of(subnet: SubnetSpec, mtu: int) -> dict[str, str]:
    assert subnet.ipv6_mode is not None
    config = {
        "address_mode": subnet.ipv6_mode.replace("-", "_"),
        "send_periodic": "true",
        "mtu": str(mtu),
    }
    if subnet.dns:
        config["rdnss"] = subnet.dns[0]  # OVN sends one
    return config


def _is_in(address: str, subnet: SubnetSpec) -> bool:
    return ip_address(address.split("/")[0]) in ip_network(subnet.cidr, strict=False)


def _first_host(subnet: SubnetSpec) -> str:
    return str(ip_network(subnet.cidr, strict=False)[1])


def _routes(subnet: SubnetSpec) -> str:
    routes = [f"{cidr},{next_hop}" for cidr, next_hop in subnet.routes]
    if subnet.metadata_ip is not None:
        routes.insert(0, f"{METADATA_CIDR},{subnet.metadata_ip}")
    if routes and subnet.gateway_ip is not None:
        # A client that gets option 121 ignores option 3 (RFC 3442), so the default route is in both.
        routes.append(f"0.0.0.0/0,{subnet.gateway_ip}")
    return "{" + ", ".join(routes) + "}" if routes else ""


def _translated(
    extra: tuple[tuple[str, str], ...], names: dict[str, str], ip_version: int
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in extra:
        if (ours := names.get(name.lower())) is None:
            continue
        is_text = ours in _TEXTS or (ours == "tftp_server" and not _is_address(value, ip_version))
        form = _text(value) if is_text else _plain(value, is_list=ours in _LISTS)
        if form is not None:
            found[ours] = form
    return found


def _text(value: str) -> str | None:
    """The value between quotes. These words end up inside OVN's actions, so nothing may close them."""
    bare = value.strip('"')
    if not bare.isprintable() or '"' in bare or "\\" in bare:
        return None
    return f'"{bare}"'


def _plain(value: str, *, is_list: bool) -> str | None:
    if is_list:
        value = _list(tuple(part.strip() for part in value.strip("{}").split(",")))
    return value if _PLAIN.fullmatch(value) else None


def _list(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else "{" + ", ".join(values) + "}"


def _is_address(value: str, ip_version: int) -> bool:
    try:
        return ip_address(value).version == ip_version
    except ValueError:
        return False
